package page_test

import (
	"encoding/base64"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/page"
	"github.com/mosaicstack/gateway/internal/seal"
)

// ring gives one real keyring to all tests: its key is derived once.
var ring = sync.OnceValues(func() (*seal.Keyring, error) {
	return seal.Derive([]byte("a secret of the tests, long enough to derive from"))
})

func sealer(t testing.TB) *page.Sealer {
	t.Helper()
	k, err := ring()
	if err != nil {
		t.Fatal(err)
	}
	return page.New(k.AEAD("cursor"))
}

func TestACursorGivesBackItsPosition(t *testing.T) {
	t.Parallel()
	s := sealer(t)
	rapid.Check(t, func(t *rapid.T) {
		k := page.Key{
			UpdatedAt: time.UnixMicro(rapid.Int64Range(-1<<50, 1<<52).Draw(t, "µs")).UTC(),
			ID:        uuid.UUID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id")),
		}
		binding := rapid.String().Draw(t, "binding")
		cursor, err := s.Seal(k, binding)
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.Open(cursor, binding)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(k, got); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
		other := rapid.String().Filter(func(s string) bool { return s != binding }).Draw(t, "other binding")
		if _, err := s.Open(cursor, other); !errors.Is(err, page.ErrCursorInvalid) {
			t.Fatalf("opened under another binding: %v", err)
		}
	})
}

func TestPositionsKeepMicrosecondsInUTC(t *testing.T) {
	t.Parallel()
	s := sealer(t)
	at := time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.FixedZone("", 3600))
	cursor, err := s.Seal(page.Key{UpdatedAt: at}, "b")
	if err != nil {
		t.Fatal(err)
	}
	k, err := s.Open(cursor, "b")
	if err != nil {
		t.Fatal(err)
	}
	if want := time.Date(2026, 3, 1, 11, 0, 0, 123456000, time.UTC); k.UpdatedAt != want {
		t.Errorf("UpdatedAt = %v, want %v", k.UpdatedAt, want)
	}
}

func TestEveryEditedByteIsNoticed(t *testing.T) {
	t.Parallel()
	s := sealer(t)
	cursor, err := s.Seal(page.Key{UpdatedAt: time.UnixMicro(1), ID: uuid.UUID{1}}, "b")
	if err != nil {
		t.Fatal(err)
	}
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	for i := range cursor {
		for _, c := range alphabet {
			if byte(c) == cursor[i] {
				continue
			}
			edited := cursor[:i] + string(c) + cursor[i+1:]
			if _, err := s.Open(edited, "b"); !errors.Is(err, page.ErrCursorInvalid) {
				t.Fatalf("%q at %d: %v", c, i, err)
			}
		}
	}
}

func TestCursorsThatAreNoneAreRefused(t *testing.T) {
	t.Parallel()
	k, err := ring()
	if err != nil {
		t.Fatal(err)
	}
	good, err := sealer(t).Seal(page.Key{}, "b")
	if err != nil {
		t.Fatal(err)
	}
	// A position of another length under the right key and binding, as a later version might write it.
	sealed, err := k.AEAD("cursor").Encrypt(make([]byte, 25), []byte("cursor/v1\x00b"))
	if err != nil {
		t.Fatal(err)
	}
	for name, cursor := range map[string]string{
		"empty":                 "",
		"not base64":            "!!!",
		"padded":                good + "==",
		"with a line break":     good[:4] + "\n" + good[4:],
		"with a trailing break": good + "\r\n",
		"standard alphabet":     strings.NewReplacer("-", "+", "_", "/").Replace(good) + "+",
		"cut":                   good[:len(good)-4],
		"doubled":               good + good,
		"too long":              strings.Repeat("A", page.MaxCursorLen+1),
		"long and wrong":        strings.Repeat("A", page.MaxCursorLen),
		"another length":        base64.RawURLEncoding.EncodeToString(sealed),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := sealer(t).Open(cursor, "b")
			f := fault.From(err)
			if f.Code != "cursor_invalid" || f.Kind != fault.Invalid || f.Hint != "start again without cursor" {
				t.Errorf("err = %v", err)
			}
			if got != (page.Key{}) {
				t.Errorf("a refused cursor gave %v", got)
			}
		})
	}
}

func TestCursorsOfAnotherKeyringOrPurposeAreRefused(t *testing.T) {
	t.Parallel()
	k, err := ring()
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := seal.Generate()
	if err != nil {
		t.Fatal(err)
	}
	cursor, err := sealer(t).Seal(page.Key{}, "b")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*page.Sealer{page.New(other.AEAD("cursor")), page.New(k.AEAD("cache"))} {
		if _, err := s.Open(cursor, "b"); !errors.Is(err, page.ErrCursorInvalid) {
			t.Errorf("err = %v", err)
		}
	}
}

type brokenAEAD struct{ out []byte }

func (b brokenAEAD) Encrypt(_, _ []byte) ([]byte, error) {
	if b.out == nil {
		return nil, errors.New("no randomness")
	}
	return b.out, nil
}

func (brokenAEAD) Decrypt(_, _ []byte) ([]byte, error) { return nil, errors.New("no") }

func TestSealingFailuresAreOurFault(t *testing.T) {
	t.Parallel()
	for _, aead := range []brokenAEAD{{nil}, {make([]byte, 1000)}} {
		_, err := page.New(aead).Seal(page.Key{}, "b")
		if fault.From(err).Code != "internal" {
			t.Errorf("err = %v, want an internal one", err)
		}
	}
}

func FuzzOpen(f *testing.F) {
	s := sealer(f)
	// The fuzzer's workers seal their own: nonces are random, so cursors differ and only what they say can be compared.
	key := page.Key{UpdatedAt: time.UnixMicro(1e15).UTC(), ID: uuid.UUID{7}}
	cursor, err := s.Seal(key, "grant/tasks")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(cursor, "grant/tasks")
	f.Add(cursor, "grant/notes")
	f.Add("", "")
	f.Add("AAAA", "x")
	f.Fuzz(func(t *testing.T, c, binding string) {
		got, err := s.Open(c, binding)
		switch {
		case err == nil && (got != key || binding != "grant/tasks"):
			t.Fatalf("a forged cursor opened: %q %q", c, binding)
		case err != nil && !errors.Is(err, page.ErrCursorInvalid):
			t.Fatalf("err = %v", err)
		}
	})
}
