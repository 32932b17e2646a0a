package resource_test

import (
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/mosaicstack/gateway/internal/resource"
)

func terms(words string, stems ...string) resource.Terms {
	return resource.Terms{Words: strings.Fields(words), Stems: stems}
}

func TestSnippetsMarkWhatMatched(t *testing.T) {
	t.Parallel()
	filler := strings.Repeat("lorem ipsum dolor ", 40)
	for _, tt := range []struct {
		name, text string
		terms      resource.Terms
		want       string
	}{
		{"words", "Renew the passport", terms("passport"), "Renew the «passport»"},
		{"whatever their case", "PÄSSE und pässe", terms("pässe"), "«PÄSSE» und «pässe»"},
		{"stems", "happily renewed Passports, passport, passportless", terms("happy passport", "happi", "passport", "renew"), "«happily» «renewed» «Passports», «passport», passportless"},
		{"cut stems", "happy happier", terms("", "happi"), "«happy» «happier»"},
		{"whole words only", "carbon cart car", terms("car", "car"), "carbon cart «car»"},
		{"nothing", "Buy milk", terms("ship"), "Buy milk"},
		{"no terms", "Buy milk", terms(""), "Buy milk"},
		{"no text", "", terms("ship"), ""},
		{"white space", "  a\n\n\tb \u00a0 c ", terms("b"), "a «b» c"},
		{"far inside", filler + "the ship sails " + filler, terms("ship"), "… lorem ipsum dolor lorem ipsum dolor lorem ipsum dolor the «ship» sails " + strings.Repeat("lorem ipsum dolor ", 9) + "lorem ip…"},
		{"where most stand together", "ship " + filler + "anchor the ship " + filler, terms("ship anchor"), ""},
		{"another script", "Позвонить стоматологу завтра", terms("стоматологу"), "Позвонить «стоматологу» завтра"},
		{"emoji", "ship 🚢 it", terms("ship"), "«ship» 🚢 it"},
	} {
		got := resource.Snippet(tt.text, tt.terms)
		if tt.want == "" && tt.text != "" {
			if !strings.Contains(got, "«anchor» the «ship»") {
				t.Errorf("%s: %q", tt.name, got)
			}
		} else if got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestSnippetsAreSafeToShow(t *testing.T) {
	t.Parallel()
	hostile := "\x1b[2J\x1b]0;owned\a<script>alert('ship')</script>\u202egnp.exe\u200b\u2066 «forged» ship\r\n\x00\u0085\u2028end \xff\ufeff\U000e0041"
	want := "[2J]0;owned‹script›alert('«ship»')‹/script›gnp.exe “forged” «ship» end"
	if got := resource.Snippet(hostile, terms("ship")); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.String(), rapid.StringOfN(rapid.SampledFrom([]rune("a <>«»\x1b\n\u202e\u200d")), 0, 2000, -1)).Draw(t, "text")
		got := resource.Snippet(text, terms("a", "a"))
		if strings.ContainsAny(got, "<>\n\r\x1b") || strings.Count(got, "«") != strings.Count(got, "»") || !utf8.ValidString(got) || utf8.RuneCountInString(got) > 1000 {
			t.Fatalf("%q", got)
		}
		for _, r := range got {
			if unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Co) && r != '\u200c' && r != '\u200d' {
				t.Fatalf("%q holds %U", got, r)
			}
		}
		if again := resource.SafeSnippet(got); again != got {
			t.Fatalf("a snippet of ours is mended: %q, %q", got, again)
		}
	})
}

func TestForeignSnippetsAreMended(t *testing.T) {
	t.Parallel()
	if got := resource.SafeSnippet("\x1b[31m«a» <b>\u202e\n" + strings.Repeat("x", 5000)); !strings.HasPrefix(got, "[31m«a» ‹b› x") || utf8.RuneCountInString(got) > 1000 {
		t.Errorf("%q", got)
	}
}

// TestSnippetsOfHardTextsAreMade: PostgreSQL's own took minutes for such texts and queries, and a good part of a second
// for each of the shorter ones.
func TestSnippetsOfHardTextsAreMade(t *testing.T) {
	t.Parallel()
	var many resource.Terms
	for i := range 170 {
		many.Words = append(many.Words, "w"+strconv.Itoa(i))
		many.Stems = append(many.Stems, "v"+strconv.Itoa(i))
	}
	for _, text := range []string{
		strings.Repeat("w1 w2 w3 w4 w5 w6 w7 w8 w9 w10 ", 1600),
		strings.Repeat("v1s ", 6000) + strings.Repeat("v2s ", 6000),
		strings.Repeat("w1", 25_000), strings.Repeat(" ", 50_000), strings.Repeat("«", 50_000),
	} {
		if got := resource.Snippet(text, many); utf8.RuneCountInString(got) > 600 {
			t.Errorf("%d characters", utf8.RuneCountInString(got))
		}
	}
}

func BenchmarkSnippet(b *testing.B) {
	text := strings.Repeat("w1 w2 w3 w4 w5 w6 w7 w8 w9 w10 ", 1600)
	for b.Loop() {
		resource.Snippet(text, terms("w1 w2 w3 w4 w5", "w6", "w7", "w8"))
	}
}
