package resource

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The marks around what matched. They are not markup anywhere.
const (
	MarkStart = "«"
	MarkEnd   = "»"
)

// The size of a snippet, and of what is looked at to make one.
const (
	snippetRunes = 240
	leadRunes    = 60 // shown before the first match
	maxTermRunes = 64
)

// Terms are what a query's text means to the database: its words as they are written, and their English stems.
type Terms struct{ Words, Stems []string }

// Snippet shows the part of a text where most of the query's words stand closest, each between « and ».
//
// It is one line of plain text that is safe to print on a terminal and safe as the content of an HTML element:
// control and format characters are gone, white space is one space, < and > are ‹ and ›. Guillemets of the text
// itself become “ and ”, so that only matches are marked.
//
// Its cost is linear in the text. PostgreSQL's ts_headline makes such excerpts too, but a phrase of thirty words took
// it 46 seconds on one row: a search must not be the way to stop a database.
func Snippet(text string, terms Terms) string {
	words := wordsOf(text, terms)
	start := best(words)
	from := 0
	if len(words) > 0 && start >= 0 {
		from = lead(text, words[start].from)
	}
	return render(text, from, words)
}

// word is a match in a text: its bytes, and which of the query's terms it is.
type word struct{ from, to, term int }

// wordsOf finds the words that match, in one pass.
func wordsOf(text string, terms Terms) []word {
	if len(terms.Words) == 0 && len(terms.Stems) == 0 {
		return nil
	}
	exact, stems := make(map[string]int, len(terms.Words)), make(map[string]int, len(terms.Stems))
	for i, w := range terms.Words {
		exact[w] = i
	}
	for i, stem := range terms.Stems {
		stems[stem] = len(terms.Words) + i
	}
	var found []word
	for at := 0; at < len(text); {
		r, size := utf8.DecodeRuneInString(text[at:])
		if !inWord(r) {
			at += size
			continue
		}
		end := at
		for end < len(text) {
			r, size := utf8.DecodeRuneInString(text[end:])
			if !inWord(r) {
				break
			}
			end += size
		}
		if end-at <= 4*maxTermRunes {
			w := strings.ToLower(text[at:end])
			if term, ok := exact[w]; ok {
				found = append(found, word{at, end, term})
			} else if term, ok := stemOf(w, stems); ok {
				found = append(found, word{at, end, term})
			}
		}
		at = end
	}
	return found
}

func inWord(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) || unicode.IsMark(r) }

// endings are what English puts behind a stem, as the stemmer of PostgreSQL leaves it.
var endings = [...]string{"", "s", "e", "es", "ed", "er", "ers", "ing", "ings", "ly", "y", "ies", "ied", "al", "ion", "ions", "ment", "ments"}

// stemOf finds the stem that w is a form of. The stemmer cuts "happy" to "happi".
func stemOf(w string, stems map[string]int) (int, bool) {
	for _, ending := range endings {
		rest, ok := strings.CutSuffix(w, ending)
		if !ok {
			continue
		}
		if i, found := stems[rest]; found {
			return i, true
		}
		if i, found := stems[rest+"i"]; found {
			return i, true
		}
	}
	return 0, false
}

// best is the match at which the window with most different terms begins; -1 without a match.
func best(words []word) int {
	at, most := -1, 0
	counts := map[int]int{}
	for from, to := 0, 0; from < len(words); from++ {
		for to < len(words) && words[to].to-words[from].from <= snippetRunes-leadRunes {
			counts[words[to].term]++
			to++
		}
		if to == from { // one word that is longer than a window
			to++
			counts[words[from].term]++
		}
		if len(counts) > most {
			at, most = from, len(counts)
		}
		if counts[words[from].term]--; counts[words[from].term] == 0 {
			delete(counts, words[from].term)
		}
	}
	return at
}

// lead goes back from a match to where a snippet begins: the start of the text, or a word not far before.
func lead(text string, match int) int {
	from := match
	for range leadRunes {
		if from == 0 {
			return 0
		}
		_, size := utf8.DecodeLastRuneInString(text[:from])
		from -= size
	}
	if space := strings.IndexFunc(text[from:match], unicode.IsSpace); space >= 0 {
		return from + space
	}
	return from
}

// render writes a part of a text as one safe line.
func render(text string, from int, words []word) string {
	var b strings.Builder
	if from > 0 {
		b.WriteString("…")
	}
	i, _ := slices.BinarySearchFunc(words, from, func(w word, from int) int { return w.from - from })
	written, gap, open := 0, false, false
	at := from
	for ; at < len(text) && (written < snippetRunes || open); written++ {
		r, size := utf8.DecodeRuneInString(text[at:])
		if i < len(words) && at == words[i].from {
			if gap && b.Len() > 0 {
				b.WriteByte(' ')
				gap = false
			}
			b.WriteString(MarkStart)
			open = true
		}
		switch shown := safe(r, size); {
		case unicode.IsSpace(r):
			gap = true
		case shown >= 0:
			if gap && b.Len() > 0 {
				b.WriteByte(' ')
			}
			gap = false
			b.WriteRune(shown)
		}
		at += size
		if open && at == words[i].to {
			b.WriteString(MarkEnd)
			open = false
			i++
		}
	}
	if strings.TrimSpace(text[at:]) != "" {
		b.WriteString("…")
	}
	return b.String()
}

// maxSnippetRunes bounds a snippet of somebody else's making.
const maxSnippetRunes = 1000

// SafeSnippet makes of a snippet that came from elsewhere one as Snippet makes them.
func SafeSnippet(s string) string {
	var b strings.Builder
	runes := 0
	for i, r := range s {
		if runes++; runes > maxSnippetRunes {
			break
		}
		_, size := utf8.DecodeRuneInString(s[i:])
		shown := safe(r, size)
		switch {
		case string(r) == MarkStart || string(r) == MarkEnd:
			shown = r
		case unicode.IsSpace(r):
			shown = ' '
		}
		if shown >= 0 {
			b.WriteRune(shown)
		}
	}
	return b.String()
}

// safe is what is shown for a character; -1 for nothing.
func safe(r rune, size int) rune {
	switch {
	case r == utf8.RuneError && size <= 1:
		return -1
	case r == '<':
		return '‹'
	case r == '>':
		return '›'
	case r == '«':
		return '“'
	case r == '»':
		return '”'
	case r == '\u200c' || r == '\u200d': // they shape letters in some scripts
	case unicode.Is(unicode.C, r) || unicode.Is(unicode.Zl, r) || unicode.Is(unicode.Zp, r):
		return -1 // controls, directions, private use, what is invisible
	}
	return r
}
