package account_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/mosaicstack/gateway/internal/account"
	"github.com/mosaicstack/gateway/internal/fault"
)

func TestParseEmail(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"alice@example.com":               "alice@example.com",
		"  Alice.B+tag@Example.COM\n":     "alice.b+tag@example.com",
		"root@localhost":                  "root@localhost",
		"a@b":                             "a@b",
		"o'brien_1@mail-1.example.co.uk":  "o'brien_1@mail-1.example.co.uk",
		"x@xn--bcher-kva.example":         "x@xn--bcher-kva.example",
		strings.Repeat("a", 64) + "@b.de": strings.Repeat("a", 64) + "@b.de",
	} {
		if got, err := account.ParseEmail(in); err != nil || got != want {
			t.Errorf("ParseEmail(%q) = %q, %v", in, got, err)
		}
	}
	for _, in := range []string{
		"", " ", "@", "alice", "alice@", "@example.com", "a@b@c", "alice@example..com", "alice@.com", "alice@example.com.", ".alice@example.com",
		"alice.@example.com", "a..b@example.com", "al ice@example.com", "alice@exa mple.com", "Alice <alice@example.com>", `"a b"@example.com`,
		"alice@-example.com", "alice@example-.com", "alice@exam_ple.com", "alice@[127.0.0.1]", "älice@example.com", "alice@exämple.com",
		"alice\x00@example.com", "alice\n@example.com", "alice@example.com\x00", "alice,bob@example.com", "\xff@example.com",
		strings.Repeat("a", 65) + "@b.de", "a@" + strings.Repeat("b", 64) + ".de", "a@" + strings.Repeat("b.", 126) + "de",
		"\u212Aalice@example.com", // the Kelvin sign, which Unicode lower-cases to an ASCII k
	} {
		got, err := account.ParseEmail(in)
		if f := fault.From(err); f.Code != "email_invalid" || f.Kind != fault.Invalid || got != "" {
			t.Errorf("ParseEmail(%q) = %q, %v", in, got, err)
		}
	}
}

func TestParseTeamName(t *testing.T) {
	t.Parallel()
	for _, in := range []string{"design", "on-call", "0", strings.Repeat("t", 63), "local", "all"} {
		if got, err := account.ParseTeamName(in); err != nil || got != in {
			t.Errorf("ParseTeamName(%q) = %q, %v", in, got, err)
		}
	}
	for _, in := range []string{
		"", "-a", "a-", "Design", "a b", "a_b", "a.b", "ä", "a\n", strings.Repeat("t", 64), "0192f0c1-2b3c-7d4e-8f50-61728394a5b6", "0192f0c12b3c7d4e8f5061728394a5b6",
	} {
		if _, err := account.ParseTeamName(in); !errors.Is(err, account.ErrTeamNameInvalid) {
			t.Errorf("ParseTeamName(%q): %v", in, err)
		}
	}
}

func TestParseDisplayName(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"": "", " Alice Ångström ": "Alice Ångström", strings.Repeat("ä", 200): strings.Repeat("ä", 200)} {
		if got, err := account.ParseDisplayName(in); err != nil || got != want {
			t.Errorf("ParseDisplayName(%q) = %q, %v", in, got, err)
		}
	}
	for _, in := range []string{"a\x00b", "a\nb", "\x1b[31mred", "\xff", strings.Repeat("ä", 201)} {
		if _, err := account.ParseDisplayName(in); !errors.Is(err, account.ErrDisplayNameInvalid) {
			t.Errorf("ParseDisplayName(%q): %v", in, err)
		}
	}
}

func TestSomeAdminRemains(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	admin, member := account.User{Role: account.Admin}, account.User{Role: account.Member}
	disabled := account.User{Role: account.Admin, DisabledAt: &now}
	for _, tt := range []struct {
		name          string
		before, after account.User
		others        int
		refused       bool
	}{
		{"demoting the last", admin, member, 0, true},
		{"disabling the last", admin, disabled, 0, true},
		{"deleting the last", admin, account.User{}, 0, true},
		{"demoting one of two", admin, member, 1, false},
		{"renaming the last", admin, account.User{Role: account.Admin, DisplayName: "x"}, 0, false},
		{"deleting a member", member, account.User{}, 0, false},
		{"deleting a disabled admin", disabled, account.User{}, 0, false},
		{"enabling an admin", disabled, admin, 0, false},
		{"promoting a member", member, admin, 0, false},
	} {
		err := account.RequireAdminRemains(tt.before, tt.after, tt.others)
		if errors.Is(err, account.ErrLastAdmin) != tt.refused || (err != nil) != tt.refused {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func FuzzParseEmail(f *testing.F) {
	for _, s := range []string{"Alice@Example.com", "a@b", "a@@b", "", "\u212A@x", "İ@x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := account.ParseEmail(s)
		if err != nil {
			if !errors.Is(err, account.ErrEmailInvalid) {
				t.Fatal(err)
			}
			return
		}
		if again, err := account.ParseEmail(got); err != nil || again != got {
			t.Fatalf("%q -> %q -> %q, %v", s, got, again, err)
		}
		for _, c := range []byte(got) {
			if c <= ' ' || c >= 0x7f || c >= 'A' && c <= 'Z' {
				t.Fatalf("%q holds %q", got, c)
			}
		}
		if strings.Count(got, "@") != 1 || len(got) > 254 {
			t.Fatalf("%q", got)
		}
	})
}

func FuzzParseTeamName(f *testing.F) {
	f.Add("design")
	f.Add("-")
	f.Fuzz(func(t *testing.T, s string) {
		got, err := account.ParseTeamName(s)
		if err == nil && (got != s || s == "" || len(s) > 63 || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") != "") {
			t.Fatalf("ParseTeamName(%q) = %q", s, got)
		}
		if err != nil && !errors.Is(err, account.ErrTeamNameInvalid) {
			t.Fatal(err)
		}
	})
}

func FuzzParseDisplayName(f *testing.F) {
	f.Add(" Alice ")
	f.Add("\u0085x\u2028")
	f.Fuzz(func(t *testing.T, s string) {
		got, err := account.ParseDisplayName(s)
		if err != nil {
			if !errors.Is(err, account.ErrDisplayNameInvalid) {
				t.Fatal(err)
			}
			return
		}
		if again, err := account.ParseDisplayName(got); err != nil || again != got || strings.ContainsRune(got, 0) {
			t.Fatalf("%q -> %q -> %q, %v", s, got, again, err)
		}
	})
}
