package cli

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
)

func FuzzPlainTextCannotActOnATerminal(f *testing.F) {
	for _, s := range []string{"", "plain", "\x1b[31mred\x1b[0m", "\u009b2J", "a\r\nb\tc", "\u202eevil\u2066", "\xff\xfe", "\u061c\u200e\u200f", "\u2028\u2029\ufeff", "naïve 日本 👩‍💻"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := plain(s)
		if strings.ContainsFunc(got, hidden) || !utf8.ValidString(got) {
			t.Errorf("plain(%q) = %q", s, got)
		}
		if again := plain(got); again != got {
			t.Errorf("plain(%q) = %q, and of that %q", s, got, again)
		}
		if harmless := utf8.ValidString(s) && !strings.ContainsFunc(s, hidden); harmless && got != s {
			t.Errorf("plain(%q) = %q, though there was nothing to remove", s, got)
		}
		if word := quoted(s); strings.ContainsFunc(word, hidden) {
			t.Errorf("quoted(%q) = %q", s, word)
		}
		if n := utf8.RuneCountInString(shorten(got, 10)); n > 10 {
			t.Errorf("shorten(%q, 10) has %d characters", got, n)
		}
	})
}

func FuzzEscapedJSONMeansTheSame(f *testing.F) {
	for _, s := range []string{`{}`, "{\"\u009b\":\"\u202e\x7f\"}", `["\u001b"]`, "\"\ufeff\u2028\"", "\"\xff\"", `{"a":"日本","n":12345678901234567890}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		if !json.Valid(doc) {
			return // only valid documents are printed
		}
		got := escapeHidden(doc)
		for _, r := range string(got) {
			if hidden(r) && r != '\n' && r != '\t' && r != '\r' { // space between the values
				t.Errorf("escapeHidden(%q) = %q", doc, got)
			}
		}
		var before, after any
		if err := json.Unmarshal(doc, &before); err != nil {
			return // numbers beyond a float
		}
		if err := json.Unmarshal(got, &after); err != nil || !reflect.DeepEqual(before, after) {
			t.Errorf("escapeHidden(%q) = %q, which means %v (%v)", doc, got, after, err)
		}
	})
}

func TestAQuotedWordIsOneWordToAShell(t *testing.T) {
	t.Parallel()
	for word, want := range map[string]string{
		"work":                "work",
		"a+b@example.org":     "a+b@example.org",
		"/a/b-c_d.e:f%20,g=h": "/a/b-c_d.e:f%20,g=h",
		"":                    "''",
		"a b":                 "'a b'",
		"https://x/?ca=1&b":   "'https://x/?ca=1&b'",
		"it's; rm -rf $HOME":  `'it'\''s; rm -rf $HOME'`,
		"~":                   "'~'",
		"a\nb\x1b":            "'a b'",
	} {
		if got := quoted(word); got != want {
			t.Errorf("quoted(%q) = %s, want %s", word, got, want)
		}
	}
}
