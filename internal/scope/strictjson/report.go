package strictjson

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"

	"github.com/mosaicstack/gateway/internal/fault"
)

// Root is the path of the document itself.
const Root = "$"

// maxProblems bounds an answer about a document that is wrong all over: 64 KiB of nulls would otherwise come
// back as megabytes. The last line then says how many were left out.
const maxProblems = 100

// maxQuoted is how many bytes of the author's own text a path or a detail repeats.
const maxQuoted = 64

// Report collects problems and gives them back in document order. The zero Report is ready to use.
type Report struct {
	found []located
}

type located struct {
	offset  int
	problem fault.Problem
}

// Add notes one problem at a byte offset. A missing key is noted at the end of the object that lacks it.
func (r *Report) Add(offset int, path, format string, args ...any) {
	r.found = append(r.found, located{offset, fault.Problem{Path: path, Detail: fmt.Sprintf(format, args...)}})
}

// Wrong notes that v is not of the kind that belongs there.
func (r *Report) Wrong(v Value, want Kind) {
	r.Add(v.Start, v.Path, "must be %s, not %s", want, v.Kind)
}

// Problems gives everything found, in document order; nil when the document is right. Past a hundred it ends with
// a count of the rest.
func (r *Report) Problems() []fault.Problem {
	if len(r.found) == 0 {
		return nil
	}
	sorted := slices.Clone(r.found)
	slices.SortStableFunc(sorted, func(a, b located) int { return cmp.Compare(a.offset, b.offset) })
	out := make([]fault.Problem, 0, min(len(sorted), maxProblems+1))
	for i, l := range sorted {
		if i == maxProblems {
			out = append(out, fault.Problem{Path: Root, Detail: fmt.Sprintf("has %d more problems", len(sorted)-i)})
			break
		}
		out = append(out, l.problem)
	}
	return out
}

// Key is the path of a member. Names that are not plain words are quoted, so that a hostile key cannot pass for
// another path or carry control characters into a log.
func Key(path, name string) string {
	if !plain(name) {
		return path + "[" + Quote(name) + "]"
	}
	if path == Root {
		return name
	}
	return path + "." + name
}

// Index is the path of an array's element.
func Index(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

// Quote repeats a little of the author's own text, in ASCII.
func Quote(s string) string {
	if len(s) > maxQuoted {
		return strconv.QuoteToASCII(s[:maxQuoted]) + "…"
	}
	return strconv.QuoteToASCII(s)
}

func plain(name string) bool {
	if name == "" || len(name) > maxQuoted {
		return false
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '-' {
			return false
		}
	}
	return true
}
