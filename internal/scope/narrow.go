package scope

import (
	"slices"

	"github.com/google/uuid"
)

// Narrow gives what both s and other allow. It never widens: each resource, team, personal row and row count of
// the result is in both. What either excludes stays excluded. ok is false when nothing is left.
func (s Scope) Narrow(other Scope) (narrowed Scope, ok bool) {
	n := Scope{MaxRowsPerQuery: min(s.MaxRowsPerQuery, other.MaxRowsPerQuery)}
	for _, r := range s.Resources {
		if !s.Allows(r) || !other.Allows(r) {
			continue
		}
		f := s.Filter(r).narrow(other.Filter(r))
		if f.empty() {
			continue
		}
		n.Resources = append(n.Resources, r)
		if _, explicit := s.Filters[r]; explicit {
			if n.Filters == nil {
				n.Filters = map[Resource]Filter{}
			}
			n.Filters[r] = f
		}
	}
	n.ExcludedResources = slices.Clone(s.ExcludedResources)
	for _, r := range other.ExcludedResources {
		if !slices.Contains(n.ExcludedResources, r) {
			n.ExcludedResources = append(n.ExcludedResources, r)
		}
	}
	if len(n.Resources) == 0 || n.MaxRowsPerQuery < 1 {
		return Scope{}, false
	}
	return n, true
}

func (f Filter) narrow(other Filter) Filter {
	var teams []uuid.UUID
	for _, id := range f.IncludeTeams {
		if slices.Contains(other.IncludeTeams, id) {
			teams = append(teams, id)
		}
	}
	return Filter{IncludeTeams: teams, IncludePersonal: f.IncludePersonal && other.IncludePersonal}
}

func (f Filter) empty() bool { return len(f.IncludeTeams) == 0 && !f.IncludePersonal }
