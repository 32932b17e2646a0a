package seal_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/mosaicstack/gateway/internal/seal"
)

const hidden = "hunter2hunter2hunter2hunter2hunter2"

// holder keeps secrets where fmt cannot call methods: in unexported fields.
type holder struct {
	secret seal.Secret
	ring   *seal.Keyring
}

func TestNothingPrintsASecret(t *testing.T) {
	t.Parallel()
	secret := seal.NewSecret(hidden)
	_, doc, err := seal.Generate()
	if err != nil {
		t.Fatal(err)
	}
	ring := parsed(t, doc)
	sealedBytes, err := ring.Seal([]byte("x"), "t", "c", "r")
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]any{
		"secret": secret, "secret pointer": &secret, "keyring": ring, "keyring value": *ring,
		"slice": []seal.Secret{secret}, "map": map[string]any{"k": secret, "r": ring},
		"exported": struct {
			S seal.Secret
			R *seal.Keyring
		}{secret, ring},
		"unexported": holder{secret, ring},
	}
	for name, v := range values {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out strings.Builder
			for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%p", "%08b", "%!"} {
				fmt.Fprintf(&out, verb+"\n", v)
			}
			for _, handler := range []slog.Handler{slog.NewJSONHandler(&out, nil), slog.NewTextHandler(&out, nil)} {
				slog.New(handler).Info("m", "v", v)
			}
			if b, err := json.Marshal(v); err != nil {
				t.Error(err)
			} else {
				out.Write(b)
			}
			for _, leak := range []string{hidden, fmt.Sprintf("%x", hidden), fmt.Sprintf("%X", hidden), strings.Trim(fmt.Sprint([]byte(hidden)), "[]")} {
				if strings.Contains(out.String(), leak) {
					t.Errorf("leaked %q in\n%s", leak, out.String())
				}
			}
			// A keyring that printed its fields would show the Go names of them, or bytes.
			if name != "unexported" && (strings.Contains(out.String(), "aead") || !strings.Contains(out.String(), "[sealed]")) {
				t.Errorf("printed as\n%s", out.String())
			}
		})
	}
	if len(sealedBytes) == 0 {
		t.Error("the keyring does not work")
	}
}

func TestDirectMethodsSaySealed(t *testing.T) {
	t.Parallel()
	s, k := seal.NewSecret(hidden), derived(t, secret)
	text, err := s.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	for _, got := range []string{
		s.String(), s.GoString(), s.LogValue().String(), string(text),
		k.String(), k.GoString(), k.LogValue().String(), fmt.Sprint(k), fmt.Sprintf("%d", *k), fmt.Sprintf("%d", s), fmt.Sprintf("%x", s),
	} {
		if got != "[sealed]" {
			t.Errorf("printed %q", got)
		}
	}
	if b, err := xml.Marshal(struct {
		XMLName xml.Name `xml:"r"`
		S       seal.Secret
	}{S: s}); err != nil || bytes.Contains(b, []byte(hidden)) {
		t.Errorf("%s, %v", b, err)
	}
}

func TestRevealGivesTheSecret(t *testing.T) {
	t.Parallel()
	s := seal.NewSecret(hidden)
	if s.Reveal() != hidden || s.IsZero() {
		t.Error("Reveal does not give the secret")
	}
	if !s.Equal(seal.NewSecret(hidden)) || s.Equal(seal.NewSecret(hidden+"x")) || s.Equal(seal.Secret{}) {
		t.Error("Equal is wrong")
	}
	var zero seal.Secret
	if zero.Reveal() != "" || !zero.IsZero() || !zero.Equal(seal.NewSecret("")) {
		t.Error("the zero Secret is not the empty one")
	}
	var read struct{ S seal.Secret }
	if err := json.Unmarshal([]byte(`{"S":"`+hidden+`"}`), &read); err != nil || read.S.Reveal() != hidden {
		t.Errorf("from JSON: %v", err)
	}
}
