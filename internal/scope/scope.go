// Package scope is the scope document of a grant: which resources, whose rows, how many.
//
// A scope is written by an admin, stored with the grant and never changed: a changed scope is a new grant. It is
// read strictly, because what it does not say is denied: see Parse for what is refused. A scope says what a peer
// may ask for; what the subject user may see is decided at the moment of the query, and the answer is the
// intersection of the two.
package scope

import (
	"encoding/json"
	"slices"

	"github.com/google/uuid"
)

// Scope is a parsed scope document. Treat it as a value: its slices and map are never written to after Parse.
type Scope struct {
	Resources         []Resource // never empty, in the order of the document
	ExcludedResources []Resource // says no for good; disjoint from Resources
	Filters           map[Resource]Filter
	MaxRowsPerQuery   int // 1..10000
}

// Filter says whose rows of one resource are in scope. Rows of a team count for as long as the subject user is in
// that team.
type Filter struct {
	IncludeTeams    []uuid.UUID // none by default
	IncludePersonal bool        // true by default
}

// Filter is the filter of r: personal rows only unless the document says otherwise. It does not say whether r is
// in scope at all: that is Allows.
func (s Scope) Filter(r Resource) Filter {
	if f, ok := s.Filters[r]; ok {
		return f
	}
	return Filter{IncludePersonal: true}
}

// Allows tells whether r may be asked for. An exclusion wins, even in a Scope that Parse did not make.
func (s Scope) Allows(r Resource) bool {
	return slices.Contains(s.Resources, r) && !slices.Contains(s.ExcludedResources, r)
}

// Sensitive tells whether the scope holds a sensitive resource, so that a grant over it needs approval.
func (s Scope) Sensitive() bool { return slices.ContainsFunc(s.Resources, Resource.Sensitive) }

// document and filterDocument are the printed form: every key present, in the order of the specification.
type document struct {
	Resources         []Resource `json:"resources"`
	ExcludedResources []Resource `json:"excluded_resources"`
	Filters           filterList `json:"filters"`
	MaxRowsPerQuery   int        `json:"max_rows_per_query"`
}

type filterDocument struct {
	IncludeTeams    []uuid.UUID `json:"include_teams"`
	IncludePersonal bool        `json:"include_personal"`
}

// filterList prints the filters in the order of the resources, where a map would sort them.
type filterList struct{ scope Scope }

// MarshalJSON prints an object.
func (l filterList) MarshalJSON() ([]byte, error) {
	out := []byte{'{'}
	for _, r := range l.scope.Resources {
		f, ok := l.scope.Filters[r]
		if !ok {
			continue
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		value, err := json.Marshal(filterDocument{orEmpty(f.IncludeTeams), f.IncludePersonal})
		if err != nil {
			return nil, err
		}
		out = append(append(append(out, '"'), r...), '"', ':')
		out = append(out, value...)
	}
	return append(out, '}'), nil
}

// MarshalJSON prints the canonical document: every key is there, so that a reader need not know the defaults.
// Parse of what it prints gives an equal scope.
func (s Scope) MarshalJSON() ([]byte, error) {
	return json.Marshal(document{
		Resources:         orEmpty(s.Resources),
		ExcludedResources: orEmpty(s.ExcludedResources),
		Filters:           filterList{s},
		MaxRowsPerQuery:   s.MaxRowsPerQuery,
	})
}

// UnmarshalJSON is Parse, so that a scope inside another document is read as strictly as one alone.
func (s *Scope) UnmarshalJSON(doc []byte) error {
	parsed, err := Parse(doc)
	if err != nil {
		return err
	}
	*s = parsed
	return nil
}

// String is the canonical document.
func (s Scope) String() string {
	doc, err := s.MarshalJSON()
	if err != nil {
		return "[scope]" // not reachable: nothing in a scope fails to print
	}
	return string(doc)
}

func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
