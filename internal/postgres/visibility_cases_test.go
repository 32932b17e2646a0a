package postgres_test

import (
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
)

// TestNewerRowsNeitherHideNorRepeatOlderOnes pages while another session writes rows that are newer than all.
func TestNewerRowsNeitherHideNorRepeatOlderOnes(t *testing.T) {
	t.Parallel()
	for limit := range 4 {
		tw, g := one(t, 40)
		var want []string
		for _, r := range tw.visible(g.user, g.scope, "notes") {
			want = append(want, r.id.String())
		}
		newer := make([]oracleRow, 40)
		for i := range newer {
			newer[i] = tw.rows["notes"][i]
			newer[i].id, newer[i].updated = tw.id(), epoch.Add(time.Duration(i+1)*time.Second)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			for _, r := range newer {
				tw.addRows("notes", r) // the oracle is not asked meanwhile
			}
		})
		seen := map[string]bool{}
		var got []string
		for a, n := (asking{grant: g, resource: "notes", limit: limitText(limit + 1)}), 0; n < allPages; n++ {
			page, cursor := tw.ask(a)
			for _, row := range page.Data {
				id := row["id"].(string)
				if seen[id] {
					t.Errorf("%s is on two pages", id)
				}
				seen[id] = true
				if !slices.ContainsFunc(newer, func(r oracleRow) bool { return r.id.String() == id }) {
					got = append(got, id)
				}
			}
			if a.cursor = cursor; cursor == "" {
				break
			}
		}
		wg.Wait()
		if !slices.Equal(want, got) {
			t.Fatalf("the rows from before gave\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

// one is a user with a team, rows of each by turns, some of one time, and a grant over all of them.
func one(t *testing.T, n int) (*twin, twinGrant) {
	t.Helper()
	tw := newServed(t).empty(t, nil)
	tw.addUsers(2)
	tw.addTeams(1)
	tw.setMember(tw.teams[0], tw.users[0], true)
	var rows []oracleRow
	for i := range n {
		r := oracleRow{id: tw.id(), owner: tw.users[0], created: epoch, fields: map[string]any{"title": "t", "body": ""}}
		r.updated = epoch.Add(-time.Duration(i/3) * time.Minute)
		if i%2 == 0 {
			r.team, r.owner = tw.teams[0], tw.users[1]
		}
		rows = append(rows, r)
	}
	tw.addRows("notes", rows...)
	return tw, tw.addGrant(tw.users[0], scopeDocument{Resources: []string{"notes"}, MaxRows: 100, Filters: map[string]scopeFilters{"notes": {Teams: tw.teams}}})
}

func TestACursorFromBeforeLeavingATeamShowsNoRowsOfIt(t *testing.T) {
	t.Parallel()
	tw, g := one(t, 6)
	first, cursor := tw.ask(asking{grant: g, resource: "notes", limit: "2"})
	want, last := tw.list(g.user, g.scope, "notes", 2, nil, nil)
	tw.want("the first page", want, first)

	tw.setMember(tw.teams[0], g.user, false)
	left, _ := tw.ask(asking{grant: g, resource: "notes", cursor: cursor})
	want, _ = tw.list(g.user, g.scope, "notes", 0, nil, last)
	tw.want("the page after leaving", want, left)
	if len(left.Data) != 2 {
		t.Errorf("%d rows after leaving, want the two personal ones that are left", len(left.Data))
	}

	tw.setMember(tw.teams[0], g.user, true)
	back, _ := tw.ask(asking{grant: g, resource: "notes", cursor: cursor})
	if len(back.Data) != 4 {
		t.Errorf("%d rows after joining again, want four", len(back.Data))
	}
}

// TestAnAnswerStaysBelowItsBound has two rows whose documents alone are the bound.
func TestAnAnswerStaysBelowItsBound(t *testing.T) {
	t.Parallel()
	const bound = 8 << 20
	tw := newServed(t).empty(t, nil)
	tw.addUsers(1)
	g := tw.addGrant(tw.users[0], scopeDocument{Resources: []string{"notes"}, MaxRows: 100})
	for range 2 {
		tw.addRows("notes", oracleRow{id: tw.id(), owner: tw.users[0], created: epoch, updated: epoch, fields: map[string]any{"title": "t", "body": ""}})
	}
	tw.exec(`UPDATE notes SET updated_at = updated_at + interval '1 second', body = repeat('x', $1 / 2 - length(doc))`, bound)
	var docs int
	if err := tw.pool.QueryRow(tw.ctx(), `SELECT sum(octet_length(doc)) FROM notes`).Scan(&docs); err != nil || docs != bound {
		t.Fatalf("documents of %d bytes: %v", docs, err)
	}
	var seen []string
	a := asking{grant: g, resource: "notes"}
	for want := range 2 {
		page, cursor := tw.ask(a)
		if page.Status != http.StatusOK || len(page.Data) != 1 || page.Page.Capped != (want == 0) || page.Page.More != (want == 0) {
			t.Fatalf("page %d: %d with %d rows, %+v", want, page.Status, len(page.Data), page.Page)
		}
		if size := tw.recorded.last().BytesOut; size > bound {
			t.Errorf("an answer of %d bytes, want at most %d", size, bound)
		}
		seen = append(seen, page.Data[0]["id"].(string))
		a.cursor = cursor
	}
	if seen[0] == seen[1] {
		t.Errorf("both pages show %s", seen[0])
	}
}

// TestRowsOfATeamAreNotPersonalToTheirOwner is the mistake that is easiest to make.
func TestRowsOfATeamAreNotPersonalToTheirOwner(t *testing.T) {
	t.Parallel()
	tw := newServed(t).empty(t, nil)
	tw.addUsers(1)
	tw.addTeams(2)
	ada := tw.users[0]
	tw.setMember(tw.teams[0], ada, true)
	for _, team := range []uuid.UUID{uuid.Nil, tw.teams[0], tw.teams[1]} {
		tw.addRows("tasks", oracleRow{id: tw.id(), owner: ada, team: team, created: epoch, updated: epoch, fields: map[string]any{"title": "t", "body": "", "status": "open"}})
	}
	no := false
	for _, tt := range []struct {
		name   string
		filter scopeFilters
		want   []int // of her rows: personal, her team's, the team's she left
	}{
		{"nothing said", scopeFilters{}, []int{0}},
		{"both teams", scopeFilters{Teams: tw.teams}, []int{1, 0}},
		{"teams only", scopeFilters{Teams: tw.teams, Personal: &no}, []int{1}},
		{"the team she left", scopeFilters{Teams: tw.teams[1:], Personal: &no}, nil},
	} {
		g := tw.addGrant(ada, scopeDocument{Resources: []string{"tasks"}, MaxRows: 10, Filters: map[string]scopeFilters{"tasks": tt.filter}})
		var want []string
		for _, i := range tt.want {
			want = append(want, tw.known["tasks"][i].String())
		}
		var got []string
		page, _ := tw.ask(asking{grant: g, resource: "tasks"})
		for _, row := range page.Data {
			got = append(got, row["id"].(string))
		}
		if !slices.Equal(want, got) {
			t.Errorf("%s: %v, want %v", tt.name, got, want)
		}
		for i, id := range tw.known["tasks"] {
			status := http.StatusNotFound
			if slices.Contains(tt.want, i) {
				status = http.StatusOK
			}
			if got := tw.fetch(g, "tasks", id.String()); got.Status != status {
				t.Errorf("%s: get of row %d is %d, want %d", tt.name, i, got.Status, status)
			}
		}
	}
}
