package resource

import (
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/page"
	"github.com/mosaicstack/gateway/internal/scope"
	"github.com/mosaicstack/gateway/internal/scope/strictjson"
)

// Mode is how a search compares a query with rows.
type Mode string

// The modes.
const (
	Lexical  Mode = "lexical"  // by the words they share
	Semantic Mode = "semantic" // by the distance of their embeddings
	Hybrid   Mode = "hybrid"   // both rankings fused
)

// The bounds of a search.
const (
	MaxSearchBytes = 64 << 10 // of a request's body
	MaxQueryRunes  = 1000
)

// What a search is refused with.
var (
	ErrSearchInvalid = &fault.Fault{
		Kind: fault.Invalid, Code: "search_invalid",
		Detail: "the search is refused",
		Hint:   `send {"query": TEXT} and, as you like, "mode": lexical, semantic or hybrid, and "limit": 1 to 10000`,
	}
	ErrModeUnsupported = &fault.Fault{
		Kind: fault.Invalid, Code: "search_mode_unsupported",
		Detail: "this resource is searched by its words only",
		Hint:   "leave mode out, or ask for lexical",
	}
)

// Modes lists how rows of r can be searched. Credentials and API keys are found by what they are called: an
// embedding of them would take their metadata to wherever embeddings are computed.
func Modes(r scope.Resource) []Mode {
	if Embedded(r) {
		return []Mode{Lexical, Semantic, Hybrid}
	}
	return []Mode{Lexical}
}

// Embedded tells whether rows of r have an embedding.
func Embedded(r scope.Resource) bool {
	return slices.Contains(EmbeddedResources(), r)
}

// EmbeddedResources lists the resources whose rows have an embedding.
func EmbeddedResources() []scope.Resource {
	return []scope.Resource{scope.Tasks, scope.Notes, scope.Memory}
}

// SearchRequest is a search as it was asked for.
type SearchRequest struct {
	Query string
	Mode  Mode // empty: the best one the resource has
	Limit int
}

// ParseSearch reads the body of a search. Unknown and repeated keys, wrong types, nulls, broken UTF-8 and NUL
// characters are refused: the error is ErrSearchInvalid with all problems in the order of the document.
func ParseSearch(doc []byte) (SearchRequest, error) {
	var report strictjson.Report
	req := SearchRequest{Limit: page.DefaultLimit}
	if root, ok := strictjson.Parse(doc, strictjson.Limits{Bytes: MaxSearchBytes, Depth: 4, Nodes: 100}, &report); ok {
		req.read(root, &report)
	}
	switch problems := report.Problems(); len(problems) {
	case 0:
		return req, nil
	case 1:
		return SearchRequest{}, ErrSearchInvalid.With("the search is refused: %s %s", problems[0].Path, problems[0].Detail).Listing(problems)
	default:
		return SearchRequest{}, ErrSearchInvalid.With("the search has %d problems", len(problems)).Listing(problems)
	}
}

func (q *SearchRequest) read(root strictjson.Value, report *strictjson.Report) {
	if root.Kind != strictjson.Object {
		report.Wrong(root, strictjson.Object)
		return
	}
	if _, ok := root.Get("query"); !ok {
		report.Add(root.End, "query", "is missing")
	}
	for _, m := range root.Members {
		v := m.Value
		switch m.Name {
		case "query":
			q.readQuery(v, report)
		case "mode":
			q.Mode = Mode(v.Text)
			if v.Kind != strictjson.String {
				report.Wrong(v, strictjson.String)
			} else if q.Mode != Lexical && q.Mode != Semantic && q.Mode != Hybrid {
				report.Add(v.Start, v.Path, "must be lexical, semantic or hybrid, not %s", strictjson.Quote(v.Text))
			}
		case "limit":
			q.readLimit(v, report)
		default:
			report.Add(m.Start, v.Path, "is not a key of a search")
		}
	}
}

// readQuery never repeats the query: problems may be logged.
func (q *SearchRequest) readQuery(v strictjson.Value, report *strictjson.Report) {
	switch n := utf8.RuneCountInString(v.Text); {
	case v.Kind != strictjson.String:
		report.Wrong(v, strictjson.String)
	case n > MaxQueryRunes:
		report.Add(v.Start, v.Path, "has %d characters; at most %d are read", n, MaxQueryRunes)
	case strings.TrimSpace(v.Text) == "":
		report.Add(v.Start, v.Path, "must say what to look for")
	case strings.ContainsRune(v.Text, 0):
		report.Add(v.Start, v.Path, "holds a NUL character")
	default:
		q.Query = v.Text
	}
}

func (q *SearchRequest) readLimit(v strictjson.Value, report *strictjson.Report) {
	if v.Kind != strictjson.Number {
		report.Wrong(v, strictjson.Number)
		return
	}
	n, err := strconv.Atoi(v.Text) // takes no fraction and no exponent
	if err != nil || n < 1 || n > page.MaxLimit {
		report.Add(v.Start, v.Path, "must be an integer from 1 to %d", page.MaxLimit)
		return
	}
	q.Limit = n
}

// ModeFor is the mode in which rows of r are searched.
func (q SearchRequest) ModeFor(r scope.Resource) (Mode, error) {
	modes := Modes(r)
	if q.Mode == "" {
		return modes[len(modes)-1], nil
	}
	if !slices.Contains(modes, q.Mode) {
		return "", ErrModeUnsupported.With("%s are searched by their words only", r)
	}
	return q.Mode, nil
}
