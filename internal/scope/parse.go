package scope

import (
	"slices"
	"strconv"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/scope/strictjson"
)

// The bounds of a scope document.
const (
	MaxDocumentBytes = 64 << 10
	MaxTeams         = 64    // per filter: each is one index range of the list query
	MaxRows          = 10000 // upper bound of max_rows_per_query
)

// limits are those of the document's own shape with room for misplaced values, which deserve a better answer than
// "too deep".
func limits() strictjson.Limits {
	return strictjson.Limits{Bytes: MaxDocumentBytes, Depth: 16, Nodes: MaxDocumentBytes}
}

// ErrInvalid is a scope document that is refused. Its problems name every place that is wrong.
var ErrInvalid = &fault.Fault{
	Kind:   fault.Invalid,
	Code:   "scope_invalid",
	Detail: "the scope document is refused",
	Hint:   `the smallest one is {"resources":["tasks"],"max_rows_per_query":500}`,
}

// Parse reads a scope document. It refuses unknown keys, wrong types, null anywhere, repeated keys, trailing data,
// broken UTF-8 and documents over 64 KiB. The error is a fault scope_invalid that lists all problems in document
// order, each with its JSON path; a missing key comes where its object ends.
func Parse(doc []byte) (Scope, error) {
	p := parser{report: &strictjson.Report{}}
	var s Scope
	if root, ok := strictjson.Parse(doc, limits(), p.report); ok {
		s = p.document(root)
	}
	problems := p.report.Problems()
	switch len(problems) {
	case 0:
		return s, nil
	case 1:
		return Scope{}, ErrInvalid.With("the scope document is refused: %s %s", problems[0].Path, problems[0].Detail).Listing(problems)
	default:
		return Scope{}, ErrInvalid.With("the scope document has %d problems", len(problems)).Listing(problems)
	}
}

type parser struct {
	report *strictjson.Report
}

func (p parser) document(root strictjson.Value) Scope {
	var s Scope
	if root.Kind != strictjson.Object {
		p.report.Wrong(root, strictjson.Object)
		return s
	}
	// The resources come first whatever their place in the document: the other keys are checked against them.
	granted, readable := root.Get("resources")
	if readable {
		s.Resources, readable = p.resources(granted)
		if readable && len(granted.Items) == 0 {
			p.report.Add(granted.Start, granted.Path, "must name at least one resource")
		}
	} else {
		p.report.Add(root.End, "resources", "is required")
	}
	for _, m := range root.Members {
		switch m.Name {
		case "resources":
		case "excluded_resources":
			s.ExcludedResources = p.excluded(m.Value, s.Resources)
		case "filters":
			s.Filters = p.filters(m.Value, s.Resources, readable)
		case "max_rows_per_query":
			s.MaxRowsPerQuery = p.maxRows(m.Value)
		default:
			p.report.Add(m.Start, m.Value.Path, "is not a key of a scope document")
		}
	}
	if _, ok := root.Get("max_rows_per_query"); !ok {
		p.report.Add(root.End, "max_rows_per_query", "is required: an integer from 1 to %d", MaxRows)
	}
	return s
}

// resources reads a list of distinct known resources; ok is false when v is no list at all.
func (p parser) resources(v strictjson.Value) (list []Resource, ok bool) {
	if v.Kind != strictjson.Array {
		p.report.Wrong(v, strictjson.Array)
		return nil, false
	}
	for _, item := range v.Items {
		r := Resource(item.Text)
		switch {
		case item.Kind != strictjson.String:
			p.report.Wrong(item, strictjson.String)
		case !Known(item.Text):
			p.report.Add(item.Start, item.Path, "%s is not a resource: tasks, notes, memory, credentials or api_keys", strictjson.Quote(item.Text))
		case slices.Contains(list, r):
			p.report.Add(item.Start, item.Path, "repeats %q", r)
		default:
			list = append(list, r)
		}
	}
	return list, true
}

func (p parser) excluded(v strictjson.Value, granted []Resource) []Resource {
	list, _ := p.resources(v)
	for _, item := range v.Items {
		if item.Kind == strictjson.String && slices.Contains(granted, Resource(item.Text)) {
			p.report.Add(item.Start, item.Path, "%q is in resources too", item.Text)
		}
	}
	return list
}

func (p parser) maxRows(v strictjson.Value) int {
	if v.Kind != strictjson.Number {
		p.report.Wrong(v, strictjson.Number)
		return 0
	}
	n, err := strconv.Atoi(v.Text) // 1.5, 1e2 and numbers past 64 bits are no integers here
	if err != nil || n < 1 || n > MaxRows {
		p.report.Add(v.Start, v.Path, "must be an integer from 1 to %d, not %s", MaxRows, strictjson.Quote(v.Text))
		return 0
	}
	return n
}

// filters reads the filters. When the resources could not be read, it does not complain that they lack one.
func (p parser) filters(v strictjson.Value, granted []Resource, readable bool) map[Resource]Filter {
	if v.Kind != strictjson.Object {
		p.report.Wrong(v, strictjson.Object)
		return nil
	}
	var filters map[Resource]Filter
	for _, m := range v.Members {
		r := Resource(m.Name)
		switch {
		case !Known(m.Name):
			p.report.Add(m.Start, m.Value.Path, "is not a resource: tasks, notes, memory, credentials or api_keys")
		case readable && !slices.Contains(granted, r):
			p.report.Add(m.Start, m.Value.Path, "filters a resource that resources does not name")
		}
		f := p.filter(m.Value)
		if filters == nil {
			filters = map[Resource]Filter{}
		}
		filters[r] = f
	}
	return filters
}

func (p parser) filter(v strictjson.Value) Filter {
	f := Filter{IncludePersonal: true}
	if v.Kind != strictjson.Object {
		p.report.Wrong(v, strictjson.Object)
		return f
	}
	noTeams := true // no team was meant, as opposed to none could be read
	for _, m := range v.Members {
		switch m.Name {
		case "include_teams":
			f.IncludeTeams = p.teams(m.Value)
			noTeams = m.Value.Kind == strictjson.Array && len(m.Value.Items) == 0
		case "include_personal":
			if m.Value.Kind != strictjson.Bool {
				p.report.Wrong(m.Value, strictjson.Bool)
				continue
			}
			f.IncludePersonal = m.Value.True
		default:
			p.report.Add(m.Start, m.Value.Path, "is not a key of a filter: include_teams or include_personal")
		}
	}
	if noTeams && !f.IncludePersonal {
		p.report.Add(v.Start, v.Path, "selects nothing: name a team, include personal rows, or leave the resource out")
	}
	return f
}

func (p parser) teams(v strictjson.Value) []uuid.UUID {
	if v.Kind != strictjson.Array {
		p.report.Wrong(v, strictjson.Array)
		return nil
	}
	if len(v.Items) > MaxTeams {
		p.report.Add(v.Start, v.Path, "names %d teams; at most %d are allowed", len(v.Items), MaxTeams)
	}
	var teams []uuid.UUID
	seen := map[uuid.UUID]bool{}
	for _, item := range v.Items {
		if item.Kind != strictjson.String {
			p.report.Wrong(item, strictjson.String)
			continue
		}
		id, ok := parseID(item.Text)
		switch {
		case !ok:
			p.report.Add(item.Start, item.Path, "%s is not a UUID of 36 characters", strictjson.Quote(item.Text))
		case seen[id]:
			p.report.Add(item.Start, item.Path, "repeats team %s", id)
		default:
			seen[id] = true
			teams = append(teams, id)
		}
	}
	return teams
}

// parseID takes only the canonical form of RFC 9562 section 4, in either case; uuid.Parse alone also takes
// braces, a urn: prefix and 32 bare digits.
func parseID(s string) (uuid.UUID, bool) {
	if len(s) != 36 {
		return uuid.Nil, false
	}
	id, err := uuid.Parse(s)
	return id, err == nil
}
