package querying

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxSaid is how many characters of a peer's own words are repeated.
const maxSaid = 500

// sanitize cuts a peer's words to what may stand in a terminal, a log and an answer: no control characters, no
// line breaks, no invisible characters that reorder or hide text, and at most limit characters.
func sanitize(s string, limit int) string {
	var b strings.Builder
	n := 0
	for _, r := range s {
		if n == limit {
			break
		}
		switch {
		case unicode.IsSpace(r): // line breaks and tabs too: words stay apart
			r = ' '
		case r == utf8.RuneError, unicode.IsControl(r), unicode.In(r, unicode.Cf, unicode.Co):
			continue
		}
		b.WriteRune(r)
		n++
	}
	return strings.TrimSpace(b.String())
}

// codeShaped tells whether a peer's code may be repeated as one.
func codeShaped(s string) bool {
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
			return false
		}
	}
	return s != "" && len(s) <= 64
}
