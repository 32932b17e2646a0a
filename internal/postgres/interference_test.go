package postgres_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/serving"
)

// TestWhatIsOutsideTheScopeChangesNoByte asks everything a grant can ask, changes what is outside its scope, and
// asks again: bodies, counts, cursors, ranks, scores, snippets and audit events are the same.
func TestWhatIsOutsideTheScopeChangesNoByte(t *testing.T) {
	t.Parallel()
	s := newServed(t)
	check(t, func(t *rapid.T) {
		tw := s.newTwin(t)
		g := tw.grants[0]
		script := tw.drawScript(g)
		before := tw.play(g, script)
		for range rapid.IntRange(1, 8).Draw(t, "changes") {
			tw.changeOutside(g)
		}
		for i, now := range tw.play(g, script) {
			if now != before[i] {
				t.Fatalf("%s (-before +after):\n%s", script[i], cmp.Diff(strings.Split(before[i], "\n"), strings.Split(now, "\n")))
			}
		}
	})
}

// line is one request of a script. A list is followed to its last page.
type line struct {
	list   asking
	get    string // an id
	search string // a body
}

func (l line) String() string {
	if l.get != "" {
		return "get " + l.list.resource + " " + l.get
	}
	if l.search != "" {
		return "search " + l.list.resource + " " + l.search
	}
	return fmt.Sprintf("list %s limit %q since %q", l.list.resource, l.list.limit, l.list.since)
}

func (tw *twin) drawScript(g twinGrant) []line {
	var script []line
	for _, name := range allResources {
		_, since := tw.drawSince(name)
		script = append(script, line{list: asking{grant: g, resource: name, limit: limitText(tw.drawLimit(g)), since: since}})
		script = append(script, line{list: asking{grant: g, resource: name}, search: tw.drawSearch(g).body()})
		for _, r := range tw.rows[name] {
			if rapid.IntRange(0, 3).Draw(tw.T, "ask for a row") == 0 {
				script = append(script, line{list: asking{grant: g, resource: name}, get: r.id.String()})
			}
		}
	}
	return script
}

// play asks and writes down all there is to see. A cursor is written as what it says.
func (tw *twin) play(g twinGrant, script []line) []string {
	tw.Helper()
	out := make([]string, len(script))
	for i, l := range script {
		if l.get != "" {
			answer, err := tw.service.Get(tw.ctx(), g.caller, l.list.resource, l.get)
			out[i] = tw.seen(answer, err, "")
			continue
		}
		if l.search != "" {
			answer, err := tw.service.Search(tw.ctx(), g.caller, serving.SearchRequest{Resource: l.list.resource, Body: []byte(l.search)})
			out[i] = tw.seen(answer, err, "")
			continue
		}
		for a, n := l.list, 0; n < allPages; n++ {
			answer, err := tw.service.List(tw.ctx(), g.caller, serving.ListRequest{Resource: a.resource, Limit: a.limit, Cursor: a.cursor, Since: a.since})
			a.cursor = ""
			if err == nil {
				_, a.cursor = tw.decode("list", answer.Body)
			}
			out[i] += tw.seen(answer, err, a.cursor)
			if a.cursor == "" {
				break
			}
		}
	}
	return out
}

func (tw *twin) seen(a serving.Answer, err error, cursor string) string {
	body := string(a.Body)
	if cursor != "" {
		body = strings.Replace(body, cursor, fmt.Sprintf("cursor of %d to %s", len(cursor), tw.cursors.opened(cursor)), 1)
	}
	if err != nil {
		f := fault.From(err)
		body = fmt.Sprint(f.Kind, f.Code, f.Detail, f.Hint, f.RetryAfter, f.Problems)
	}
	e := tw.recorded.last()
	return fmt.Sprintf("%s\nrecorded: %s %s %d %s %s %d rows %d bytes\n", body, e.Verb, e.Resource, e.StatusCode, e.Outcome, e.DeniedReason, e.RowsOut, e.BytesOut)
}

// hidden lists the rows of a resource that the grant does not show.
func (tw *twin) hidden(g twinGrant, resource string) []oracleRow {
	return slices.DeleteFunc(slices.Clone(tw.rows[resource]), func(r oracleRow) bool { return tw.sees(g.user, g.scope, resource, r) })
}

// hide changes whose a row is until the grant does not show it.
func (tw *twin) hide(g twinGrant, resource string, r oracleRow) oracleRow {
	if tw.sees(g.user, g.scope, resource, r) {
		others := slices.DeleteFunc(slices.Clone(tw.users), func(u uuid.UUID) bool { return u == g.user })
		r.owner, r.team = rapid.SampledFrom(others).Draw(tw.T, "other owner"), uuid.Nil
	}
	return r
}

// changeOutside draws a change that the grant must not notice.
func (tw *twin) changeOutside(g twinGrant) {
	name := rapid.SampledFrom(allResources).Draw(tw.T, "outside resource")
	hidden := tw.hidden(g, name)
	others := slices.DeleteFunc(slices.Clone(tw.users), func(u uuid.UUID) bool { return u == g.user })
	kind := rapid.SampledFrom([]string{"insert", "insert", "update", "update", "delete", "embed", "member", "member", "new team", "disable", "remove user", "grant", "new user"}).Draw(tw.T, "outside change")
	switch {
	case kind == "insert", len(hidden) == 0 && slices.Contains([]string{"update", "delete", "embed"}, kind):
		var rows []oracleRow
		for range rapid.IntRange(1, 12).Draw(tw.T, "outside rows") {
			rows = append(rows, tw.hide(g, name, tw.drawRow(name)))
		}
		tw.addRows(name, rows...)
	case kind == "update":
		r := rapid.SampledFrom(hidden).Draw(tw.T, "hidden row")
		r.owner, r.team, r.fields = tw.drawUser(), tw.drawTeamOrNone(), tw.drawFields(name)
		tw.changeRow(name, tw.hide(g, name, r))
	case kind == "delete":
		tw.deleteRow(name, rapid.SampledFrom(hidden).Draw(tw.T, "hidden row").id)
	case kind == "embed":
		if embeds(name) {
			tw.embed(name, rapid.SampledFrom(hidden).Draw(tw.T, "hidden row").id, tw.drawEmbedding(name))
		}
	case kind == "member":
		team, user := tw.drawTeam(), tw.drawUser()
		if user == g.user && slices.ContainsFunc(allResources, func(name string) bool { return slices.Contains(g.scope.Filters[name].Teams, team) }) {
			user = others[0]
		}
		tw.setMember(team, user, !tw.members[membership{team, user}])
	case kind == "new team":
		tw.addTeams(1)
		tw.setMember(tw.teams[len(tw.teams)-1], g.user, true) // not one of the scope's
	case kind == "disable":
		user := rapid.SampledFrom(others).Draw(tw.T, "other user")
		tw.setDisabled(user, !tw.disabled[user])
	case kind == "remove user":
		user := rapid.SampledFrom(others).Draw(tw.T, "other user")
		shows := func(name string) bool {
			return slices.ContainsFunc(tw.visible(g.user, g.scope, name), func(r oracleRow) bool { return r.owner == user })
		}
		if len(others) > 1 && !slices.ContainsFunc(allResources, shows) {
			tw.removeUser(user)
		}
	case kind == "grant":
		other := tw.addGrant(tw.drawUser(), tw.drawScope([]string{name}))
		tw.ask(asking{grant: other, resource: name})
		if rapid.Bool().Draw(tw.T, "revoked") {
			tw.exec(`UPDATE federation_grants SET status = 'revoked', revoked_at = now(), version = version + 1 WHERE id = $1`, other.id)
			tw.ask(asking{grant: other, resource: name})
		}
	case kind == "new user":
		tw.addUsers(1)
	}
}
