package scope

import (
	"fmt"
	"strings"

	"github.com/google/uuid"
)

// Explain says in a few plain sentences what the scope opens, for the person about to grant it. teamName turns a
// team's id into its name; nil, or an empty answer, shows the id.
func (s Scope) Explain(teamName func(uuid.UUID) string) []string {
	var lines []string
	for _, r := range s.Resources {
		line := fmt.Sprintf("%s: %s", r, s.Filter(r).explain(teamName))
		if r.Sensitive() {
			line += "; metadata only, and an admin must approve it"
		}
		lines = append(lines, line+".")
	}
	if len(s.ExcludedResources) > 0 {
		names := make([]string, len(s.ExcludedResources))
		for i, r := range s.ExcludedResources {
			names[i] = string(r)
		}
		lines = append(lines, "Never: "+enumerate(names)+".")
	}
	if s.MaxRowsPerQuery == 1 {
		return append(lines, "At most 1 row per query.")
	}
	return append(lines, fmt.Sprintf("At most %d rows per query.", s.MaxRowsPerQuery))
}

func (f Filter) explain(teamName func(uuid.UUID) string) string {
	names := make([]string, 0, len(f.IncludeTeams))
	for _, id := range f.IncludeTeams {
		name := ""
		if teamName != nil {
			name = teamName(id)
		}
		if name == "" {
			name = id.String()
		}
		names = append(names, name)
	}
	teams := "rows of team " + enumerate(names)
	if len(names) > 1 {
		teams = "rows of teams " + enumerate(names)
	}
	switch {
	case len(names) == 0 && f.IncludePersonal:
		return "the user's personal rows"
	case len(names) == 0:
		return "nothing"
	case f.IncludePersonal:
		return "the user's personal rows and " + teams
	default:
		return teams + ", no personal rows"
	}
}

func enumerate(names []string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1]
}
