package cli

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// hidden tells whether a character could act on a terminal, or show text in another order than it has: control
// characters (C0, DEL, C1), the bidirectional controls, line separators and the byte order mark.
func hidden(r rune) bool {
	return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == '\u2028' || r == '\u2029' || r == '\ufeff'
}

// plain makes remote text safe to show on one line of a terminal. What separates words becomes a space.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r' || r == '\u2028' || r == '\u2029':
			return ' '
		case hidden(r):
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "\ufffd"))
}

// plainLines is plain for text of several lines.
func plainLines(s string) []string {
	lines := strings.Split(strings.TrimRight(strings.ReplaceAll(s, "\r\n", "\n"), "\n"), "\n")
	for i := range lines {
		lines[i] = plain(lines[i])
	}
	return lines
}

// shorten cuts s to at most n characters.
func shorten(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return strings.TrimRight(string([]rune(s)[:n-1]), " ") + "…"
}

// escapeHidden writes the characters that plain removes as JSON escapes. They stand inside of strings only, so the
// document means the same, and a terminal shows it without harm. C0 is not allowed there in the first place.
func escapeHidden(doc []byte) []byte {
	const hex = "0123456789abcdef"
	out := make([]byte, 0, len(doc)+16)
	for i := 0; i < len(doc); {
		if doc[i] < 0x7f {
			out = append(out, doc[i])
			i++
			continue
		}
		r, size := utf8.DecodeRune(doc[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			out = append(out, `\ufffd`...)
		case hidden(r): // all of them are in the first plane: one escape each
			out = append(out, '\\', 'u', hex[r>>12&15], hex[r>>8&15], hex[r>>4&15], hex[r&15])
		default:
			out = append(out, doc[i:i+size]...)
		}
		i += size
	}
	return out
}

// quoted writes a word so that a shell reads it as it is.
func quoted(s string) string {
	s = plain(s)
	safe := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:@%+=,", r)
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !safe(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
