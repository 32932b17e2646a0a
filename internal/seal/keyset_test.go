package seal_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/daead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/mac"
	tinkpb "github.com/tink-crypto/tink-go/v2/proto/tink_go_proto"
	"github.com/tink-crypto/tink-go/v2/signature"

	"github.com/mosaicstack/gateway/internal/seal"
)

func hexOf(b []byte) string { return hex.EncodeToString(b) }

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// keysetOf prints a keyset of fresh keys, the first of them primary.
func keysetOf(t testing.TB, templates ...*tinkpb.KeyTemplate) []byte {
	t.Helper()
	m := keyset.NewManager()
	for i, template := range templates {
		id, err := m.Add(template)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			if err := m.SetPrimary(id); err != nil {
				t.Fatal(err)
			}
		}
	}
	handle, err := m.Handle()
	if err != nil {
		t.Fatal(err)
	}
	var doc, compact bytes.Buffer
	if err := insecurecleartextkeyset.Write(handle, keyset.NewJSONWriter(&doc)); err != nil {
		t.Fatal(err)
	}
	// protojson puts in white space that depends on the build, so that nobody edits its output as text, as we do.
	if err := json.Compact(&compact, doc.Bytes()); err != nil {
		t.Fatal(err)
	}
	return compact.Bytes()
}

func TestParseTakesAEADKeys(t *testing.T) {
	t.Parallel()
	for name, template := range map[string]*tinkpb.KeyTemplate{
		"AES-128-GCM":        aead.AES128GCMKeyTemplate(),
		"AES-256-GCM":        aead.AES256GCMKeyTemplate(),
		"AES-256-GCM-SIV":    aead.AES256GCMSIVKeyTemplate(),
		"ChaCha20-Poly1305":  aead.ChaCha20Poly1305KeyTemplate(),
		"XChaCha20-Poly1305": aead.XChaCha20Poly1305KeyTemplate(),
		"XAES-256-GCM":       aead.XAES256GCM192BitNonceKeyTemplate(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := parsed(t, keysetOf(t, template, aead.AES256GCMKeyTemplate()))
			sealed, err := k.Seal([]byte("x"), "t", "c", "r")
			if err != nil {
				t.Fatal(err)
			}
			if got, err := k.Open(sealed, "t", "c", "r"); err != nil || string(got) != "x" || seal.KeyID(sealed) != k.Primary() {
				t.Errorf("%q, %v, key %d", got, err, seal.KeyID(sealed))
			}
		})
	}
}

func TestParseRefusesOtherKeysets(t *testing.T) {
	t.Parallel()
	good := string(keysetOf(t, aead.AES256GCMKeyTemplate()))
	for name, doc := range map[string]string{
		"empty":                 "",
		"not JSON":              "keyset",
		"an empty object":       "{}",
		"an unknown key":        strings.Replace(good, `{"primaryKeyId"`, `{"x":1,"primaryKeyId"`, 1),
		"trailing data":         good + "{}",
		"a missing primary":     strings.Replace(good, `"primaryKeyId":`, `"primaryKeyId":1`, 1),
		"a disabled primary":    strings.Replace(good, "ENABLED", "DISABLED", 1),
		"too long":              good + strings.Repeat(" ", 64<<10),
		"no output prefix":      string(keysetOf(t, aead.AES256GCMNoPrefixKeyTemplate())),
		"a second, prefixless":  string(keysetOf(t, aead.AES256GCMKeyTemplate(), aead.AES256GCMNoPrefixKeyTemplate())),
		"two-part AEAD keys":    string(keysetOf(t, aead.AES256CTRHMACSHA256KeyTemplate())),
		"a MAC key":             string(keysetOf(t, mac.HMACSHA256Tag256KeyTemplate())),
		"a second, MAC key":     string(keysetOf(t, aead.AES256GCMKeyTemplate(), mac.HMACSHA256Tag256KeyTemplate())),
		"a deterministic key":   string(keysetOf(t, daead.AESSIVKeyTemplate())),
		"a signing key":         string(keysetOf(t, signature.ECDSAP256KeyTemplate())),
		"key bytes cut off":     cutKey(t, good),
		"an encrypted keyset":   `{"encryptedKeyset":"AAAA","keysetInfo":{"primaryKeyId":1}}`,
		"an unknown type":       strings.Replace(good, "AesGcmKey", "NoSuchKey", 1),
		"an unknown key status": strings.Replace(good, "ENABLED", "MAYBE", 1),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k, err := seal.Parse([]byte(doc))
			if !errors.Is(err, seal.ErrKeysetInvalid) || k != nil {
				t.Errorf("err = %v", err)
			}
		})
	}
}

// cutKey takes some characters out of the key material.
func cutKey(t *testing.T, doc string) string {
	t.Helper()
	const before = `"value":"`
	i := strings.Index(doc, before)
	if i < 0 {
		t.Fatalf("no key value in the printed keyset")
	}
	i += len(before)
	return doc[:i] + doc[i+8:]
}

func FuzzParse(f *testing.F) {
	_, doc, err := seal.Generate()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(doc)
	f.Add(keysetOf(f, aead.XChaCha20Poly1305KeyTemplate(), aead.AES256GCMKeyTemplate()))
	f.Add([]byte(`{"primaryKeyId":1,"key":[{}]}`))
	f.Add([]byte(`{"primaryKeyId":1,"key":[null]}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		k, err := seal.Parse(doc)
		if err != nil {
			if !errors.Is(err, seal.ErrKeysetInvalid) {
				t.Fatal(err)
			}
			return
		}
		sealed, err := k.Seal([]byte("x"), "t", "c", "r")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := k.Open(sealed, "t", "c", "r"); err != nil || string(got) != "x" {
			t.Fatalf("%q, %v", got, err)
		}
	})
}

func FuzzOpen(f *testing.F) {
	k := derived(f, secret)
	sealed, err := k.Seal([]byte("x"), "t", "c", "r")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed)
	f.Add([]byte{1, 2, 3})
	f.Fuzz(func(t *testing.T, b []byte) {
		// The fuzzer's workers seal their own seed under another nonce; nothing but "x" was ever sealed here.
		got, err := k.Open(b, "t", "c", "r")
		if err == nil && string(got) != "x" || err != nil && !errors.Is(err, seal.ErrUnreadable) {
			t.Fatalf("%x: %q, %v", b, got, err)
		}
	})
}
