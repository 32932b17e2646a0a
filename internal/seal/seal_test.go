package seal_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"pgregory.net/rapid"

	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/seal"
)

const secret = "correct horse battery staple, and then some more of it"

func derived(t testing.TB, from string) *seal.Keyring {
	t.Helper()
	k, err := seal.Derive([]byte(from))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestOnlyTheSamePlaceOpensASealedValue(t *testing.T) {
	t.Parallel()
	k := derived(t, secret)
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`[ab_]{0,3}`)
		place := [3]string{text.Draw(t, "table"), text.Draw(t, "column"), text.Draw(t, "row")}
		other := [3]string{text.Draw(t, "other table"), text.Draw(t, "other column"), text.Draw(t, "other row")}
		plaintext := rapid.SliceOf(rapid.Byte()).Draw(t, "plaintext")
		sealed, err := k.Seal(plaintext, place[0], place[1], place[2])
		if err != nil {
			t.Fatal(err)
		}
		got, err := k.Open(sealed, other[0], other[1], other[2])
		if place == other {
			if err != nil || !bytes.Equal(got, plaintext) {
				t.Fatalf("got %q, %v; want %q", got, err, plaintext)
			}
		} else if !errors.Is(err, seal.ErrUnreadable) {
			// Short parts over a small alphabet: ("a","b_") must not pass for ("ab","_").
			t.Fatalf("sealed for %q, opened for %q: %v", place, other, err)
		}
	})
}

func TestEditedValuesDoNotOpen(t *testing.T) {
	t.Parallel()
	k := derived(t, secret)
	sealed, err := k.Seal([]byte("hunter2"), "credentials", "secret", "1")
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(sealed, []byte("hunter2")) {
		t.Fatal("sealed in plain sight")
	}
	for i := range sealed {
		edited := bytes.Clone(sealed)
		edited[i] ^= 1
		if _, err := k.Open(edited, "credentials", "secret", "1"); !errors.Is(err, seal.ErrUnreadable) {
			t.Fatalf("byte %d: %v", i, err)
		}
	}
	for n := range sealed {
		if _, err := k.Open(sealed[:n], "credentials", "secret", "1"); !errors.Is(err, seal.ErrUnreadable) {
			t.Fatalf("first %d bytes: %v", n, err)
		}
	}
}

func TestTheFaultNamesThePlaceAndTheLogNamesTheKey(t *testing.T) {
	t.Parallel()
	sealed, err := derived(t, secret).Seal(nil, "credentials", "secret", "row-1")
	if err != nil {
		t.Fatal(err)
	}
	other := derived(t, secret+"!")
	_, err = other.Open(sealed, "credentials", "secret", "row-1")
	f := fault.From(err)
	if f.Code != "sealed_value_unreadable" || f.Kind != fault.Internal || f.Detail != "the sealed value in credentials.secret cannot be opened" {
		t.Errorf("fault = %v", f)
	}
}

func TestSealedValuesNameTheirKey(t *testing.T) {
	t.Parallel()
	k := derived(t, secret)
	sealed, err := k.Seal(nil, "t", "c", "r")
	if err != nil {
		t.Fatal(err)
	}
	if seal.KeyID(sealed) != k.Primary() || k.Primary() == 0 {
		t.Errorf("KeyID = %d, Primary = %d", seal.KeyID(sealed), k.Primary())
	}
	for _, b := range [][]byte{nil, {1, 0, 0, 0}, {0, 0, 0, 0, 7}, {2, 0, 0, 0, 7, 9}} {
		if id := seal.KeyID(b); id != 0 {
			t.Errorf("KeyID(%v) = %d", b, id)
		}
	}
}

func TestPurposesAreSeparate(t *testing.T) {
	t.Parallel()
	k := derived(t, secret)
	cursor, cache := k.AEAD("cursor"), k.AEAD("cache")
	sealed, err := cursor.Encrypt([]byte("x"), []byte("ad"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := cursor.Decrypt(sealed, []byte("ad")); err != nil || string(got) != "x" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := cursor.Decrypt(sealed, []byte("da")); err == nil {
		t.Error("opened with other associated data")
	}
	if _, err := cache.Decrypt(sealed, []byte("ad")); err == nil {
		t.Error("opened for another purpose")
	}
	if _, err := k.AEAD("cursora").Decrypt(sealed, []byte("d")); err == nil {
		t.Error("purpose and associated data run together")
	}
	if _, err := k.Open(sealed, "cursor", "ad", ""); err == nil {
		t.Error("opened as a row")
	}
	row, err := k.Seal([]byte("x"), "cursor", "ad", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cursor.Decrypt(row, []byte("ad")); err == nil {
		t.Error("a row opened as a cursor")
	}
}

func TestMACDependsOnKeyPurposeAndData(t *testing.T) {
	t.Parallel()
	k := derived(t, secret)
	base := k.MAC("query", []byte("tasks"))
	if len(base) != 32 {
		t.Fatalf("%d bytes", len(base))
	}
	if !bytes.Equal(base, derived(t, secret).MAC("query", []byte("tasks"))) {
		t.Error("two replicas disagree")
	}
	for name, other := range map[string][]byte{
		"data":    k.MAC("query", []byte("notes")),
		"purpose": k.MAC("cache", []byte("tasks")),
		"border":  k.MAC("queryt", []byte("asks")),
		"key":     derived(t, secret+"!").MAC("query", []byte("tasks")),
	} {
		if bytes.Equal(base, other) {
			t.Errorf("the MAC does not depend on the %s", name)
		}
	}
}

// rotated adds a key to a JSON keyset and makes it primary, as an operator does with tinkey; old is what becomes
// of the keys before it.
func rotated(t *testing.T, doc []byte, old func(*keyset.Manager, uint32) error) []byte {
	t.Helper()
	handle, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(doc)))
	if err != nil {
		t.Fatal(err)
	}
	m := keyset.NewManagerFromHandle(handle)
	id, err := m.Add(aead.AES256GCMKeyTemplate())
	if err != nil {
		t.Fatal(err)
	}
	if err := m.SetPrimary(id); err != nil {
		t.Fatal(err)
	}
	if err := old(m, handle.KeysetInfo().GetPrimaryKeyId()); err != nil {
		t.Fatal(err)
	}
	handle, err = m.Handle()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := insecurecleartextkeyset.Write(handle, keyset.NewJSONWriter(&out)); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func parsed(t *testing.T, doc []byte) *seal.Keyring {
	t.Helper()
	k, err := seal.Parse(doc)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestAddingAKeyKeepsOldValuesAndHashes(t *testing.T) {
	t.Parallel()
	before, doc, err := seal.Generate()
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := before.Seal([]byte("x"), "t", "c", "r")
	if err != nil {
		t.Fatal(err)
	}
	kept := func(*keyset.Manager, uint32) error { return nil }
	after := parsed(t, rotated(t, rotated(t, doc, kept), kept))
	if after.Primary() == before.Primary() {
		t.Error("the new key is not primary")
	}
	if got, err := after.Open(sealed, "t", "c", "r"); err != nil || string(got) != "x" {
		t.Errorf("%q, %v", got, err)
	}
	if seal.KeyID(sealed) == after.Primary() {
		t.Error("KeyID does not tell which values are old")
	}
	if diff := cmp.Diff(before.MAC("q", nil), after.MAC("q", nil)); diff != "" {
		t.Error("adding keys changed the MAC")
	}
	disabled := parsed(t, rotated(t, doc, (*keyset.Manager).Disable))
	if _, err := disabled.Open(sealed, "t", "c", "r"); !errors.Is(err, seal.ErrUnreadable) {
		t.Errorf("a disabled key opened a value: %v", err)
	}
	if diff := cmp.Diff(before.MAC("q", nil), disabled.MAC("q", nil)); diff != "" {
		t.Error("disabling the first key changed the MAC")
	}
	deleted := parsed(t, rotated(t, doc, (*keyset.Manager).Delete))
	if _, err := deleted.Open(sealed, "t", "c", "r"); !errors.Is(err, seal.ErrUnreadable) {
		t.Errorf("a deleted key opened a value: %v", err)
	}
}

func TestDerivedKeysNeverChange(t *testing.T) {
	t.Parallel()
	k := derived(t, secret)
	// Values in people's databases depend on these. A failure here means that they can no longer be opened.
	const wantID = 1898108645
	if k.Primary() != wantID {
		t.Errorf("key id %d, want %d", k.Primary(), wantID)
	}
	if got, want := hexOf(k.MAC("query", []byte("x"))), "1df1fefd2a49762673e433b5512961eb7a3823f3dc9bed28d166ec8836d8be54"; got != want {
		t.Errorf("MAC %s, want %s", got, want)
	}
	got, err := k.Open(unhex(t, "017122d6e53c634dde97a6de74db43d56b81f77412595255bb34995bf581aecc6c0506df95d96104f6fa769749b24c2c5511fc4efc2fe379125baa29"), "credentials", "secret", "1")
	if err != nil || string(got) != "sealed by the first version" {
		sealed, _ := k.Seal([]byte("sealed by the first version"), "credentials", "secret", "1")
		t.Errorf("%q, %v\n%x", got, err, sealed)
	}
}

func TestShortSecretsAreRefused(t *testing.T) {
	t.Parallel()
	if _, err := seal.Derive(bytes.Repeat([]byte("x"), 31)); !errors.Is(err, seal.ErrSecretTooShort) {
		t.Errorf("31 bytes: %v", err)
	}
	if _, err := seal.Derive(bytes.Repeat([]byte("x"), 32)); err != nil {
		t.Errorf("32 bytes: %v", err)
	}
}

func TestGeneratedKeysetsAreTinkJSONAndDiffer(t *testing.T) {
	t.Parallel()
	_, one, err := seal.Generate()
	if err != nil {
		t.Fatal(err)
	}
	_, two, err := seal.Generate()
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(one, two) || !json.Valid(one) {
		t.Errorf("keysets are equal or no JSON")
	}
}
