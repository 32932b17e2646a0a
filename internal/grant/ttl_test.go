package grant_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/grant"
)

const day = 24 * time.Hour

func TestParseTTL(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]time.Duration{
		"1s": time.Second, "90s": 90 * time.Second, "15m": 15 * time.Minute, "24h": day, "90d": 90 * day, "2w": 14 * day,
		"1d12h": 36 * time.Hour, "1w2d3h4m5s": 9*day + 3*time.Hour + 4*time.Minute + 5*time.Second,
		"007m": 7 * time.Minute, "0d1h": time.Hour, "36500d": 36500 * day,
	} {
		if got, err := grant.ParseTTL(in); err != nil || got != want {
			t.Errorf("ParseTTL(%q) = %v, %v; want %v", in, got, err, want)
		}
	}
	for _, in := range []string{
		"", "0", "0s", "0d0h", "15", "m", "-15m", "+15m", "1.5h", "15 m", " 15m", "15m ", "15M", "15min", "15ms", "1y", "1h1h", "1m1h", "1d2",
		"36501d", "36500d1s", "5300w1d", "99999999999999999999d", "9223372036854775807s", "18446744074s", "300000000000h", "١d", "1\x00d",
	} {
		_, err := grant.ParseTTL(in)
		if f := fault.From(err); f.Code != "duration_invalid" || f.Kind != fault.Invalid {
			t.Errorf("ParseTTL(%q): %v", in, err)
		}
	}
}

func TestADurationThatIsTooLongIsNotCalledNone(t *testing.T) {
	t.Parallel()
	for _, in := range []string{"999999999d", "36501d", "36500d1s", "99999999999999999999d", "9223372036854775807s"} {
		if _, err := grant.ParseTTL(in); !strings.Contains(fault.From(err).Detail, "longer than a hundred years") {
			t.Errorf("ParseTTL(%q): %v", in, err)
		}
	}
	for _, in := range []string{"soon", "99999999999999999999x", "1h999999999d", "0d"} {
		if _, err := grant.ParseTTL(in); strings.Contains(fault.From(err).Detail, "longer") {
			t.Errorf("ParseTTL(%q): %v", in, err)
		}
	}
}

func TestAnyPrintedDurationParses(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Range(1, 3650*24*3600).Draw(t, "seconds")) * time.Second
		if got, err := grant.ParseTTL(d.String()); err != nil || got != d {
			t.Fatalf("ParseTTL(%q) = %v, %v", d, got, err)
		}
	})
}

func TestTokenTTLHasBounds(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]time.Duration{"": 15 * time.Minute, "1m": time.Minute, "60s": time.Minute, "24h": day, "1d": day} {
		if got, err := grant.ParseTokenTTL(in); err != nil || got != want {
			t.Errorf("ParseTokenTTL(%q) = %v, %v", in, got, err)
		}
	}
	for in, want := range map[string]*fault.Fault{
		"59s": grant.ErrTokenTTLInvalid, "24h1s": grant.ErrTokenTTLInvalid, "90d": grant.ErrTokenTTLInvalid, "soon": grant.ErrDurationInvalid, "0m": grant.ErrDurationInvalid,
	} {
		if got, err := grant.ParseTokenTTL(in); !errors.Is(err, want) || got != 0 {
			t.Errorf("ParseTokenTTL(%q) = %v, %v; want %s", in, got, err, want.Code)
		}
	}
}

func FuzzParseTTL(f *testing.F) {
	for _, s := range []string{"15m", "90d", "24h", "1d12h", "", "1m1h", "99999999999w"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := grant.ParseTTL(s)
		if err != nil {
			if !errors.Is(err, grant.ErrDurationInvalid) || d != 0 {
				t.Fatalf("%v, %v", d, err)
			}
			return
		}
		if d < time.Second || d > 36500*day || d%time.Second != 0 {
			t.Fatalf("ParseTTL(%q) = %v", s, d)
		}
		if again, err := grant.ParseTTL(d.String()); err != nil || again != d {
			t.Fatalf("%v does not parse: %v", d, err)
		}
	})
}
