package postgres_test

import (
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"
)

// epoch is the time around which the rows of a case are.
var epoch = time.Date(2026, 3, 1, 12, 0, 0, 123456000, time.UTC)

// newTwin draws a gateway: users, teams, who is in which, grants, and rows of a few resources.
func (s *served) newTwin(t *rapid.T) *twin {
	t.Helper()
	tw := s.empty(t, t)
	tw.addUsers(4)
	tw.addTeams(3)
	resources := rapid.Permutation(allResources).Draw(t, "resources")
	used := resources[:rapid.IntRange(1, 2).Draw(t, "resources used")]
	for _, name := range used {
		var rows []oracleRow
		for range rapid.SampledFrom([]int{0, 1, 4, 8, 16, 24}).Draw(t, "rows of "+name) {
			rows = append(rows, tw.drawRow(name))
		}
		tw.addRows(name, rows...)
	}
	for range 2 {
		tw.addGrant(tw.users[rapid.SampledFrom([]int{0, 0, 1}).Draw(t, "subject")], tw.drawScope(used))
	}
	return tw
}

// drawScope draws a scope, over what has rows more often than not.
func (tw *twin) drawScope(used []string) scopeDocument {
	doc := scopeDocument{MaxRows: rapid.SampledFrom([]int{1, 2, 3, 5, 8, 49, 50, 51, 10000}).Draw(tw.T, "cap")}
	for _, name := range allResources {
		likely := slices.Contains(used, name)
		switch n := rapid.IntRange(0, 9).Draw(tw.T, "scope of "+name); {
		case likely && n < 9, n < 2:
			doc.Resources = append(doc.Resources, name)
		case n < 5:
			doc.Excluded = append(doc.Excluded, name)
		}
	}
	if len(doc.Resources) == 0 {
		doc.Resources, doc.Excluded = used[:1], nil
	}
	doc.Filters = map[string]scopeFilters{}
	for _, name := range doc.Resources {
		if rapid.IntRange(0, 4).Draw(tw.T, "filter") == 0 {
			continue // personal rows only
		}
		var f scopeFilters
		for _, team := range tw.teams {
			if rapid.IntRange(0, 3).Draw(tw.T, "team in filter") > 0 {
				f.Teams = append(f.Teams, team)
			}
		}
		for range rapid.SampledFrom([]int{0, 0, 1, 3}).Draw(tw.T, "unknown teams") {
			f.Teams = append(f.Teams, tw.id())
		}
		if personal := rapid.IntRange(0, 2).Draw(tw.T, "include_personal"); personal > 0 {
			include := personal == 1 || len(f.Teams) == 0 // a filter that selects nothing is refused
			f.Personal = &include
		}
		doc.Filters[name] = f
	}
	return doc
}

// Texts that a wire form, a join of documents or a search could get wrong.
var texts = []string{
	"plain", "zebra quartz", "Zebra", "quartz and a violin", "violin, violin: zebra", "Ünïcödé 漢字 👩‍👩‍👧", "line\nbreak\ttab \"quote\" \\ back</script>&\u2028", "\u0001\u001f\u007f\u200b\ufeff",
	`{"updated_at":"2099-01-01T00:00:00.000000Z"},`, `]}`, "NULL", " ",
}

func (tw *twin) drawText(label string, required bool) string {
	if !required && rapid.Bool().Draw(tw.T, label+" empty") {
		return ""
	}
	return rapid.SampledFrom(texts).Draw(tw.T, label)
}

func (tw *twin) drawFields(resource string) map[string]any {
	fields := map[string]any{}
	for _, name := range shownColumns[resource] {
		switch name {
		case "metadata":
			fields[name] = rapid.SampledFrom([]map[string]any{
				{}, {"": nil}, {"b": "x", "a": []any{true, nil, float64(7), map[string]any{"é": ""}}}, {"id": "not the row's", "zebra": []any{"violin"}},
			}).Draw(tw.T, "metadata")
		default:
			fields[name] = tw.drawText(name, name == "title" || name == "content" || name == "name")
		}
	}
	return fields
}

// drawTime draws times that are mostly equal, or a microsecond apart.
func (tw *twin) drawTime(label string) time.Time {
	const day = 24 * time.Hour
	return epoch.Add(rapid.SampledFrom([]time.Duration{0, 0, 0, 0, 0, time.Microsecond, -time.Microsecond, time.Second, -57 * 365 * day, 200 * 365 * day}).Draw(tw.T, label))
}

// drawUser draws the first two, who are the subjects of grants, more often than others.
func (tw *twin) drawUser() uuid.UUID {
	return tw.users[rapid.SampledFrom([]int{0, 0, 0, 1, 1, 2, 3}).Draw(tw.T, "user")%len(tw.users)]
}

func (tw *twin) drawTeam() uuid.UUID { return rapid.SampledFrom(tw.teams).Draw(tw.T, "team") }

// drawTeamOrNone draws whose a row is beside its owner's: it need not be a team of the owner.
func (tw *twin) drawTeamOrNone() uuid.UUID {
	if rapid.Bool().Draw(tw.T, "personal") {
		return uuid.Nil
	}
	return tw.drawTeam()
}

func (tw *twin) drawRow(resource string) oracleRow {
	return oracleRow{
		id: tw.id(), owner: tw.drawUser(), team: tw.drawTeamOrNone(),
		created: tw.drawTime("created"), updated: tw.drawTime("updated"), fields: tw.drawFields(resource), embedding: tw.drawEmbedding(resource),
	}
}

func (tw *twin) drawGrant() twinGrant { return rapid.SampledFrom(tw.grants).Draw(tw.T, "grant") }

// drawResource draws one that the grant covers more often than not.
func (tw *twin) drawResource(g twinGrant) string {
	names := allResources
	if rapid.IntRange(0, 9).Draw(tw.T, "covered") > 0 {
		names = g.scope.Resources
	}
	return rapid.SampledFrom(names).Draw(tw.T, "resource")
}

// drawLimit draws a limit; zero is none.
func (tw *twin) drawLimit(g twinGrant) int {
	c := g.scope.MaxRows
	n := rapid.SampledFrom([]int{0, 1, 1, 2, 2, 3, 5, 50, 10000, c - 1, c, c + 1}).Draw(tw.T, "limit")
	return min(max(n, 0), 10000)
}

func limitText(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

// drawSince draws a bound at a row's time, within a microsecond of it, or far from all, in any time zone.
func (tw *twin) drawSince(resource string) (*time.Time, string) {
	var at time.Time
	switch n := rapid.IntRange(0, 9).Draw(tw.T, "since"); {
	case n < 5:
		return nil, ""
	case n == 5:
		at = rapid.SampledFrom([]time.Time{
			time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(1, 1, 1, 0, 0, 0, 1, time.UTC), time.Date(9999, 12, 31, 23, 59, 59, 999999999, time.UTC),
		}).Draw(tw.T, "far since")
		return &at, at.Format(time.RFC3339Nano)
	}
	at = epoch
	if rows := tw.rows[resource]; len(rows) > 0 {
		at = rapid.SampledFrom(rows).Draw(tw.T, "since row").updated
	}
	at = at.Add(time.Duration(rapid.SampledFrom([]int{0, 0, 1, -1, 400, 600, -400, 1000, -1000}).Draw(tw.T, "since ns")))
	zone := time.FixedZone("", rapid.SampledFrom([]int{0, 2 * 3600, -11*3600 - 1800, 23*3600 + 59*60}).Draw(tw.T, "zone"))
	return &at, at.In(zone).Format(time.RFC3339Nano)
}
