package postgres_test

import (
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"
)

// torture asks for many cases, and long ones.
var torture = os.Getenv("MOSAIC_TORTURE") != ""

// check runs a property's cases: rapid's hundred, or two thousand.
func check(t *testing.T, property func(t *rapid.T)) {
	t.Helper()
	rounds := 1
	if torture {
		rounds = 20
	}
	for range rounds {
		rapid.Check(t, property) // ends the test when a case fails
	}
}

// steps is how long a case is.
func steps(t *rapid.T) int {
	if torture {
		return rapid.IntRange(1, 120).Draw(t, "steps")
	}
	return rapid.IntRange(1, 20).Draw(t, "steps")
}

// openPage is a list whose next page is still to be asked for.
type openPage struct {
	asking
	since *time.Time
	after place
}

// TestAnswersAreTheOraclesAnswers asks for lists, their pages, searches and single rows while rows, memberships and users
// change, and compares every answer with the oracle's.
func TestAnswersAreTheOraclesAnswers(t *testing.T) {
	t.Parallel()
	s := newServed(t)
	check(t, func(t *rapid.T) {
		tw := s.newTwin(t)
		var open []openPage
		for range steps(t) {
			switch rapid.SampledFrom([]string{"list", "list", "list", "page", "page", "page", "search", "search", "get", "get", "misuse", "misuse", "mistake", "change", "change", "change"}).Draw(t, "step") {
			case "list":
				open = tw.stepList(open)
			case "page":
				open = tw.stepPage(open)
			case "get":
				tw.stepGet()
			case "search":
				tw.stepSearch()
			case "misuse":
				tw.stepMisuse(open)
			case "mistake":
				tw.stepMistake()
			case "change":
				tw.change()
			}
		}
	})
}

func (tw *twin) stepList(open []openPage) []openPage {
	g := tw.drawGrant()
	name := tw.drawResource(g)
	since, text := tw.drawSince(name)
	return tw.askPage(open, openPage{asking: asking{grant: g, resource: name, since: text}, since: since}, nil)
}

// stepPage follows a cursor, which may be older than many changes.
func (tw *twin) stepPage(open []openPage) []openPage {
	if len(open) == 0 {
		return tw.stepList(open)
	}
	i := rapid.IntRange(0, len(open)-1).Draw(tw.T, "cursor")
	p := open[i]
	return tw.askPage(open, p, &p.after)
}

func (tw *twin) askPage(open []openPage, p openPage, after *place) []openPage {
	tw.Helper()
	n := tw.drawLimit(p.grant)
	p.limit = limitText(n)
	want, last := tw.list(p.grant.user, p.grant.scope, p.resource, n, p.since, after)
	got, cursor := tw.ask(p.asking)
	tw.want("list of "+p.resource, want, got)
	if last == nil {
		return open
	}
	p.cursor, p.after = cursor, *last
	return append(open, p)
}

func (tw *twin) stepGet() {
	g := tw.drawGrant()
	name := tw.drawResource(g)
	ids := tw.known[name]
	if len(ids) == 0 || rapid.IntRange(0, 9).Draw(tw.T, "foreign id") == 0 {
		ids = []uuid.UUID{tw.id(), uuid.Nil, uuid.Max, g.id, g.user}
		for _, known := range tw.known {
			ids = append(ids, known...)
		}
	}
	var id uuid.UUID
	for range 4 {
		id = rapid.SampledFrom(ids).Draw(tw.T, "id")
		tw.want("get of "+name, tw.get(g.user, g.scope, name, id), tw.fetch(g, name, id.String()))
	}
	tw.want("get in upper case of "+name, tw.get(g.user, g.scope, name, id), tw.fetch(g, name, strings.ToUpper(id.String())))
	for _, text := range []string{"{" + id.String() + "}", "urn:uuid:" + id.String(), strings.ReplaceAll(id.String(), "-", ""), id.String() + " ", "x"} {
		refused, ok := tw.asked(g.user, g.scope, name)
		if ok {
			refused = refusedWith(http.StatusNotFound, "not_found")
		}
		tw.want("get of "+text, refused, tw.fetch(g, name, text))
	}
}

// stepMisuse brings a cursor to other queries than its own.
func (tw *twin) stepMisuse(open []openPage) {
	if len(open) == 0 {
		return
	}
	p := rapid.SampledFrom(open).Draw(tw.T, "cursor to misuse")
	misuse := func(change func(a *asking)) {
		a := p.asking
		if change(&a); a.grant.id == p.grant.id && a.resource == p.resource && a.since == p.asking.since && a.cursor == p.cursor {
			return
		}
		want, ok := tw.asked(a.grant.user, a.grant.scope, a.resource)
		if ok {
			want = refusedWith(http.StatusUnprocessableEntity, "cursor_invalid")
		}
		got, _ := tw.ask(a)
		tw.want("a cursor of another query", want, got)
	}
	for _, g := range tw.grants {
		misuse(func(a *asking) { a.grant = g })
	}
	for _, name := range p.grant.scope.Resources {
		misuse(func(a *asking) { a.resource = name })
	}
	misuse(func(a *asking) { _, a.since = tw.drawSince(a.resource) })
	misuse(func(a *asking) { a.cursor = a.cursor[1:] })
}

// stepMistake asks wrongly: what is wrong is told only to those who may ask, and never of what is not theirs.
func (tw *twin) stepMistake() {
	a := asking{grant: tw.drawGrant()}
	a.resource = tw.drawResource(a.grant)
	code := ""
	switch rapid.IntRange(0, 2).Draw(tw.T, "mistake") {
	case 0:
		a.limit, code = rapid.SampledFrom([]string{"0", "-1", "10001", "ten", "1.0", "+1"}).Draw(tw.T, "bad limit"), "limit_invalid"
	case 1:
		a.cursor, code = rapid.SampledFrom([]string{"x", "AAAA", strings.Repeat("A", 600)}).Draw(tw.T, "bad cursor"), "cursor_invalid"
	case 2:
		a.since, code = rapid.SampledFrom([]string{"now", "2026-01-01", "2026-13-01T00:00:00Z", "0000-01-01T00:00:00Z"}).Draw(tw.T, "bad since"), "updated_since_invalid"
	}
	want, ok := tw.asked(a.grant.user, a.grant.scope, a.resource)
	if ok {
		want = refusedWith(http.StatusUnprocessableEntity, code)
	}
	got, _ := tw.ask(a)
	tw.want("a mistake", want, got)
}

// change draws one thing that happens on the gateway.
func (tw *twin) change() {
	name := rapid.SampledFrom(tw.usedResources()).Draw(tw.T, "changed resource")
	rows := tw.rows[name]
	kind := rapid.SampledFrom([]string{"insert", "update", "delete", "move", "give", "embed", "member", "member", "member", "disable", "remove user"}).Draw(tw.T, "change")
	if len(rows) == 0 && slices.Contains([]string{"update", "delete", "move", "give", "embed"}, kind) {
		kind = "insert"
	}
	switch kind {
	case "insert":
		tw.addRows(name, tw.drawRow(name))
	case "member":
		team, user := tw.drawTeam(), tw.drawUser()
		tw.setMember(team, user, !tw.members[membership{team, user}])
	case "disable":
		user := tw.drawUser()
		tw.setDisabled(user, !tw.disabled[user])
	case "remove user":
		if len(tw.users) > 1 && rapid.IntRange(0, 3).Draw(tw.T, "really") == 0 {
			tw.removeUser(tw.users[len(tw.users)-1]) // others first
		}
	default:
		r := rapid.SampledFrom(rows).Draw(tw.T, "row")
		switch kind {
		case "delete":
			tw.deleteRow(name, r.id)
			return
		case "embed":
			if embeds(name) {
				tw.embed(name, r.id, tw.drawEmbedding(name))
			}
			return
		case "update":
			r.fields = tw.drawFields(name)
		case "move":
			r.team = tw.drawTeamOrNone()
		case "give":
			r.owner = tw.drawUser()
		}
		tw.changeRow(name, r)
	}
}

func (tw *twin) usedResources() []string {
	var out []string
	for _, name := range allResources {
		if len(tw.known[name]) > 0 {
			out = append(out, name)
		}
	}
	if len(out) == 0 {
		return allResources[:1]
	}
	return out
}

// TestPagesTogetherAreTheWholeList pages with one limit after another while nothing changes.
func TestPagesTogetherAreTheWholeList(t *testing.T) {
	t.Parallel()
	s := newServed(t)
	check(t, func(t *rapid.T) {
		tw := s.newTwin(t)
		for _, g := range tw.grants {
			name := rapid.SampledFrom(g.scope.Resources).Draw(t, "listed")
			since, text := tw.drawSince(name)
			limit := tw.drawLimit(g)
			var got []string
			a := asking{grant: g, resource: name, limit: limitText(limit), since: text}
			for n := 0; ; n++ {
				page, cursor := tw.ask(a)
				if n > allPages {
					t.Fatal("the pages have no end")
				}
				if page.Status != http.StatusOK {
					t.Fatalf("page refused: %d %s", page.Status, page.Code)
				}
				if cursor != "" && len(page.Data) != page.Page.Limit {
					t.Fatalf("%d rows on a page of %d with another after it", len(page.Data), page.Page.Limit)
				}
				for _, row := range page.Data {
					got = append(got, row["id"].(string))
				}
				if a.cursor = cursor; cursor == "" {
					break
				}
			}
			var want []string
			for _, r := range tw.visible(g.user, g.scope, name) {
				if since == nil || !r.updated.Before(*since) {
					want = append(want, r.id.String())
				}
			}
			if !slices.Equal(want, got) {
				t.Fatalf("pages of %q gave\n%s\nwant\n%s", a.limit, strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		}
	})
}
