package grant_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/grant"
)

func TestParseRate(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]int{
		"120/min": 120, "120/m": 120, "120/minute": 120, "2/s": 120, "1/sec": 60, "1/second": 60, "600/hour": 10, "600/h": 10,
		"100/hour": 1, "119/hour": 1, "60/hour": 1, "1/min": 1, "1000000/min": 1_000_000, "16666/s": 999_960, "60000059/h": 1_000_000,
	} {
		if got, err := grant.ParseRate(in); err != nil || got != want {
			t.Errorf("ParseRate(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{
		"", "120", "/min", "120/", "0/min", "59/hour", "-1/min", "+1/min", "1.5/s", "1000001/min", "16667/s", "60000060/h", "120/day", "120/MIN",
		"120 /min", "120/ min", "120/min/s", "1e3/min", "99999999999999999999/hour", "2147483648/hour", "all/min",
	} {
		_, err := grant.ParseRate(in)
		if f := fault.From(err); f.Code != "rate_invalid" || f.Kind != fault.Invalid {
			t.Errorf("ParseRate(%q): %v", in, err)
		}
	}
}

func TestLimitsHaveBounds(t *testing.T) {
	t.Parallel()
	for n, ok := range map[int]bool{-1: false, 0: false, 1: true, 1_000_000: true, 1_000_001: false} {
		if err := grant.CheckRate(n); (err == nil) != ok || err != nil && !errors.Is(err, grant.ErrRateInvalid) {
			t.Errorf("CheckRate(%d): %v", n, err)
		}
		if err := grant.CheckBurst(n); (err == nil) != ok || err != nil && !errors.Is(err, grant.ErrBurstInvalid) {
			t.Errorf("CheckBurst(%d): %v", n, err)
		}
	}
}

func TestLimitFillsInTheDefaults(t *testing.T) {
	t.Parallel()
	rate, burst := 7, 9
	for want, g := range map[grant.Limit]grant.Grant{
		{PerMinute: 120, Burst: 60}: {},
		{PerMinute: 7, Burst: 60}:   {RatePerMinute: &rate},
		{PerMinute: 120, Burst: 9}:  {Burst: &burst},
		{PerMinute: 7, Burst: 9}:    {RatePerMinute: &rate, Burst: &burst},
	} {
		if got := g.Limit(); got != want {
			t.Errorf("Limit() = %v, want %v", got, want)
		}
	}
}

func FuzzParseRate(f *testing.F) {
	for _, s := range []string{"120/min", "2/s", "100/hour", "", "/", "1/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := grant.ParseRate(s)
		if err != nil {
			if !errors.Is(err, grant.ErrRateInvalid) || n != 0 {
				t.Fatalf("%d, %v", n, err)
			}
			return
		}
		if grant.CheckRate(n) != nil {
			t.Fatalf("ParseRate(%q) = %d", s, n)
		}
		if again, err := grant.ParseRate(fmt.Sprintf("%d/min", n)); err != nil || again != n {
			t.Fatalf("%d/min does not parse: %v", n, err)
		}
	})
}
