package page_test

import (
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/page"
)

func TestParseLimit(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]int{"": 50, "1": 1, "50": 50, "10000": 10000, "007": 7} {
		if got, err := page.ParseLimit(in, page.DefaultLimit, page.MaxLimit); err != nil || got != want {
			t.Errorf("ParseLimit(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"0", "-1", "+1", "10001", "1.5", "1e2", " 1", "1 ", "ten", "0x10", "1_000", "99999999999999999999", "٣", "\x00"} {
		_, err := page.ParseLimit(in, page.DefaultLimit, page.MaxLimit)
		if f := fault.From(err); f.Code != "limit_invalid" || f.Kind != fault.Invalid {
			t.Errorf("ParseLimit(%q): %v", in, err)
		}
	}
	if _, err := page.ParseLimit("101", 10, 100); fault.From(err).Detail != "limit must be an integer from 1 to 100" {
		t.Errorf("err = %v: the detail names the bound in force", err)
	}
}

func TestCapSaysWhetherItDid(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		limit, ceiling, want int
		capped               bool
	}{{50, 500, 50, false}, {500, 500, 500, false}, {501, 500, 500, true}} {
		if n, capped := page.Cap(tt.limit, tt.ceiling); n != tt.want || capped != tt.capped {
			t.Errorf("Cap(%d, %d) = %d, %v", tt.limit, tt.ceiling, n, capped)
		}
	}
}

func TestParseSince(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]time.Time{
		"":                               {},
		"2026-01-31T08:00:00Z":           time.Date(2026, 1, 31, 8, 0, 0, 0, time.UTC),
		"2026-01-31T08:00:00.123456Z":    time.Date(2026, 1, 31, 8, 0, 0, 123456000, time.UTC),
		"2026-01-31T08:00:00+02:00":      time.Date(2026, 1, 31, 6, 0, 0, 0, time.UTC),
		"2026-01-31T08:00:00.999-11:30":  time.Date(2026, 1, 31, 19, 30, 0, 999000000, time.UTC),
		"2026-01-31T08:00:00.2400Z":      time.Date(2026, 1, 31, 8, 0, 0, 240000000, time.UTC),
		"2026-01-31T08:24:00Z":           time.Date(2026, 1, 31, 8, 24, 0, 0, time.UTC),
		"2026-01-31t08:24:00z":           time.Date(2026, 1, 31, 8, 24, 0, 0, time.UTC),
		"2024-02-29T23:59:59.000000001Z": time.Date(2024, 2, 29, 23, 59, 59, 1, time.UTC),
	} {
		if got, err := page.ParseSince(in); err != nil || got != want {
			t.Errorf("ParseSince(%q) = %v, %v; want %v", in, got, err, want)
		}
	}
	for _, in := range []string{
		"yesterday", "2026-01-31", "2026-01-31T08:00:00", "2026-01-31 08:00:00Z", "2026-01-31T08:00:00 02:00", "2026-02-29T00:00:00Z",
		"2026-01-31T8:00:00Z", "2026-01-31T08:00:00,5Z", "2026-01-31T08:00:00+25:00", "2026-01-31T08:00:00+24:00", "2026-01-31T08:00:00.5-24:30", "2026-01-31T08:00:00." + strings.Repeat("0", 44) + "Z", "9999-12-31T23:59:59-01:00", "1769846400", " 2026-01-31T08:00:00Z", "12026-01-31T08:00:00Z",
	} {
		_, err := page.ParseSince(in)
		if f := fault.From(err); f.Code != "updated_since_invalid" || f.Kind != fault.Invalid {
			t.Errorf("ParseSince(%q): %v", in, err)
		}
	}
}

func FuzzParseLimit(f *testing.F) {
	f.Add("50")
	f.Add("-1")
	f.Add("1e3")
	f.Fuzz(func(t *testing.T, s string) {
		n, err := page.ParseLimit(s, page.DefaultLimit, page.MaxLimit)
		if err != nil {
			if !errors.Is(err, page.ErrLimitInvalid) || n != 0 {
				t.Fatalf("%d, %v", n, err)
			}
			return
		}
		if n < 1 || n > page.MaxLimit {
			t.Fatalf("ParseLimit(%q) = %d", s, n)
		}
		if again, err := page.ParseLimit(strconv.Itoa(n), 1, page.MaxLimit); err != nil || again != n {
			t.Fatalf("%d does not parse: %v", n, err)
		}
	})
}

func FuzzParseSince(f *testing.F) {
	f.Add("2026-01-31T08:00:00.5+02:00")
	f.Add("")
	f.Add("0000-01-01T00:00:00+23:59")
	f.Fuzz(func(t *testing.T, s string) {
		at, err := page.ParseSince(s)
		if err != nil {
			if !errors.Is(err, page.ErrUpdatedSinceInvalid) {
				t.Fatal(err)
			}
			return
		}
		if at.Location() != time.UTC {
			t.Fatalf("%q is not in UTC", s)
		}
		if s == "" {
			return
		}
		if want, err := time.Parse(time.RFC3339Nano, s); err != nil || !want.Equal(at) {
			t.Fatalf("%q: %v, want %v (%v)", s, at, want, err)
		}
	})
}
