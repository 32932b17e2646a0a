package seal_test

import (
	"bytes"
	"testing"

	"github.com/mosaicstack/gateway/internal/seal"
)

func TestWhatIsSealedUnderASaltOpensUnderItAlone(t *testing.T) {
	t.Parallel()
	ring, doc, err := seal.Generate()
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := seal.Generate()
	if err != nil {
		t.Fatal(err)
	}
	rotated, err := seal.Rotated(doc)
	if err != nil {
		t.Fatal(err)
	}
	later, err := seal.Parse(rotated)
	if err != nil {
		t.Fatal(err)
	}
	salt, salt2 := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	open := func(k *seal.Keyring, purpose string, salt, sealed, data []byte) error {
		a, err := k.Salted(purpose, salt)
		if err != nil {
			t.Fatal(err)
		}
		plain, err := a.Open(nil, nil, sealed, data)
		if err == nil && string(plain) != "a row" {
			t.Errorf("opened as %q", plain)
		}
		return err
	}
	a, err := ring.Salted("p", salt)
	if err != nil {
		t.Fatal(err)
	}
	sealed := a.Seal(nil, nil, []byte("a row"), []byte("name"))
	if again := a.Seal(nil, nil, []byte("a row"), []byte("name")); bytes.Equal(sealed, again) || bytes.Contains(sealed, []byte("a row")) {
		t.Error("one text is sealed alike twice, or not at all")
	}
	if err := open(ring, "p", salt, sealed, []byte("name")); err != nil {
		t.Error(err)
	}
	if err := open(later, "p", salt, sealed, []byte("name")); err != nil {
		t.Errorf("after a key was added: %v", err)
	}
	for name, err := range map[string]error{
		"another salt":    open(ring, "p", salt2, sealed, []byte("name")),
		"another purpose": open(ring, "q", salt, sealed, []byte("name")),
		"another keyset":  open(other, "p", salt, sealed, []byte("name")),
		"another name":    open(ring, "p", salt, sealed, []byte("eman")),
	} {
		if err == nil {
			t.Errorf("%s opens it", name)
		}
	}
	if _, err := ring.Salted("p", salt[:31]); err == nil {
		t.Error("a short salt is taken")
	}
	if _, err := seal.NewRing(ring).Salted("p", salt); err != nil {
		t.Error(err)
	}
}
