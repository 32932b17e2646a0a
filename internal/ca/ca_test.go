package ca_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/mosaicstack/gateway/internal/ca"
	"github.com/mosaicstack/gateway/internal/ca/catest"
	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/identity"
)

func TestNewSerial(t *testing.T) {
	t.Parallel()
	var all []string
	for range 1000 {
		serial, err := ca.NewSerial(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if serial.Sign() <= 0 || serial.BitLen() > 128 || serial.BitLen() <= 64 {
			t.Fatalf("serial %v", serial)
		}
		all = append(all, serial.String())
	}
	slices.Sort(all)
	if len(slices.Compact(all)) != 1000 {
		t.Error("a serial number came twice")
	}
	// Sixteen zero bytes are no serial number; the next sixteen are drawn.
	serial, err := ca.NewSerial(bytes.NewReader(append(make([]byte, 16), bytes.Repeat([]byte{1}, 16)...)))
	if err != nil || serial.Sign() <= 0 {
		t.Errorf("got %v, %v", serial, err)
	}
	if _, err := ca.NewSerial(iotest.ErrReader(errors.New("dry"))); err == nil {
		t.Error("a serial number out of nothing")
	}
}

func TestCheckLimits(t *testing.T) {
	t.Parallel()
	now := time.Date(2030, 1, 1, 12, 0, 0, 5e8, time.UTC)
	at := func(d time.Duration) time.Time { return now.Add(d) }
	tests := map[string]struct {
		begin, end time.Time
		ok         bool
	}{
		"a day":                      {time.Time{}, at(24 * time.Hour), true},
		"the shortest":               {at(0), at(time.Minute), true},
		"the longest":                {at(0), at(time.Hour * 48), true},
		"the longest, backdated":     {time.Time{}, at(time.Hour * 48), true},
		"a second under":             {at(0), at(59 * time.Second), false},
		"over by the backdate":       {at(0), at(48*time.Hour + time.Minute), true},
		"over by more":               {at(0), at(48*time.Hour + time.Minute + time.Second), false},
		"in the past":                {at(-time.Hour), at(-time.Second), false},
		"now, after an hour":         {at(-time.Hour), at(0), true},
		"backdated into the allowed": {time.Time{}, at(time.Second), true},
	}
	for name, test := range tests {
		err := ca.CheckLimits(test.begin, test.end, time.Minute, 48*time.Hour, now)
		if test.ok != (err == nil) || err != nil && !errors.Is(err, ca.ErrLifetime) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestSigningTimes(t *testing.T) {
	t.Parallel()
	now := time.Date(2030, 1, 1, 12, 0, 0, 5e8, time.UTC)
	whole := now.Truncate(time.Second)
	if begin, end := ca.SigningTimes(time.Time{}, now); !begin.IsZero() || !end.Equal(whole) {
		t.Errorf("got %v to %v", begin, end)
	}
	if begin, end := ca.SigningTimes(now, now.Add(time.Hour)); !begin.Equal(whole) || !end.Equal(whole.Add(time.Hour)) {
		t.Errorf("got %v to %v", begin, end)
	}
	// Step-CA takes a lifetime of exactly its backdate for none.
	if begin, end := ca.SigningTimes(now, now.Add(time.Minute)); end.Sub(begin) != time.Minute+time.Second {
		t.Errorf("got %v to %v", begin, end)
	}
}

func TestServerRequestNames(t *testing.T) {
	t.Parallel()
	req := ca.ServerRequest{CSR: catest.NewRequest(t).CSR, NotAfter: time.Now().Add(time.Hour)}
	for _, name := range []string{"a", "fed.example", "FED.example", "127.0.0.1", "::1", "xn--bcher-kva.example", "my_host.example"} {
		req.Names = []string{name}
		if err := req.Check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{
		"", "a b", "a/b", "a@b", "https://a", "[::1]", "a:443", "-a", "a-", "a..b", ".a", "a.", "*.a", "bücher.example", "a\n",
		strings.Repeat("a", 64), strings.Repeat("abcdefg.", 31) + "abcdef",
	} {
		req.Names = []string{"good.example", name}
		if err := req.Check(); !errors.Is(err, ca.ErrRequest) {
			t.Errorf("%q: got %v", name, err)
		}
	}
	req.Names, req.NotAfter = []string{"a"}, time.Time{}
	if err := req.Check(); !errors.Is(err, ca.ErrLifetime) {
		t.Errorf("got %v", err)
	}
	if err := (ca.ServerRequest{}).Check(); !errors.Is(err, identity.ErrCSR) {
		t.Errorf("got %v", err)
	}
}

func TestEmptyChainHasNoPEM(t *testing.T) {
	t.Parallel()
	if got := (ca.Chain{}).PEM(); got != "" {
		t.Errorf("got %q", got)
	}
}

// A refusal is two things: the exact fault, for whoever has to correct it, and ErrRefused, for whoever only has to
// know that asking again is useless.
func TestRefuse(t *testing.T) {
	t.Parallel()
	cause := errors.New("cause")
	err := ca.Refuse(ca.ErrKey, cause)
	if fault.From(err).Code != ca.ErrKey.Code || !errors.Is(err, ca.ErrRefused) || !errors.Is(err, cause) || errors.Is(err, ca.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	if ca.ErrKey.Cause != nil || ca.ErrRefused.Cause != nil {
		t.Error("a sentinel was written to")
	}
}
