package postgres_test

import (
	"context"
	"encoding/json"
	"slices"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mosaicstack/gateway/internal/postgres"
	"github.com/mosaicstack/gateway/internal/scope"
	"github.com/mosaicstack/gateway/internal/serving"
)

// lastStatement is a pgx.QueryTracer that keeps what was sent last. One goroutine uses it.
type lastStatement struct {
	sql  string
	args []any
}

// TraceQueryStart implements pgx.QueryTracer.
func (l *lastStatement) TraceQueryStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryStartData) context.Context {
	l.sql, l.args = d.SQL, d.Args
	return ctx
}

// TraceQueryEnd implements pgx.QueryTracer.
func (*lastStatement) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// touched is what one node of a plan read.
type touched struct {
	Node, Relation string
	Pages          int
}

// TestAHiddenRowCostsAtMostItsOwnPageMore compares the work of the statement for a row that is out of scope with its
// work for one that does not exist. No test can show that times are equal; this one bounds what they can tell. Both
// have one plan, and a hidden row takes one page more of its table: the one it is on.
func TestAHiddenRowCostsAtMostItsOwnPageMore(t *testing.T) {
	t.Parallel()
	tw := newServed(t).empty(t, nil)
	tw.addUsers(2)
	tw.addTeams(2)
	ada, bo := tw.users[0], tw.users[1]
	// Enough for every table to be read through an index.
	tw.exec(`INSERT INTO tasks (owner_id, title) SELECT $1, 'many' FROM generate_series(1, 4000)`, bo)
	tw.exec(`WITH u AS (INSERT INTO users (email) SELECT 'many' || i || '@example.org' FROM generate_series(1, 2000) i RETURNING id)
		INSERT INTO team_members (team_id, user_id) SELECT $1, id FROM u`, tw.teams[0])
	row := func(owner, team uuid.UUID) uuid.UUID {
		r := oracleRow{id: uuid.New(), owner: owner, team: team, created: epoch, updated: epoch, fields: map[string]any{"title": "t", "body": "", "status": ""}}
		tw.addRows("tasks", r)
		return r.id
	}
	no := false
	hidden := []struct {
		name   string
		id     uuid.UUID
		filter scopeFilters
	}{
		{"another user's", row(bo, uuid.Nil), scopeFilters{Teams: tw.teams[:1]}},
		{"of a team that the scope leaves out", row(ada, tw.teams[1]), scopeFilters{Teams: tw.teams[:1]}},
		{"of a team that she left", row(ada, tw.teams[0]), scopeFilters{Teams: tw.teams[:1]}},
		{"her own, and the scope is for teams only", row(ada, uuid.Nil), scopeFilters{Teams: tw.teams[:1], Personal: &no}},
	}
	tw.exec(`VACUUM ANALYZE`)
	c := tw.pool.Config().Copy()
	last := &lastStatement{}
	c.ConnConfig.Tracer = last
	pool, err := pgxpool.NewWithConfig(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	store := &postgres.Serving{DB: postgres.New(pool)}
	for _, tt := range hidden {
		g := tw.addGrant(ada, scopeDocument{Resources: []string{"tasks"}, MaxRows: 10, Filters: map[string]scopeFilters{"tasks": tt.filter}})
		plan, err := store.Plan(t.Context(), g.caller.Identity.Fingerprint)
		if err != nil {
			t.Fatal(err)
		}
		work := func(id uuid.UUID) []touched {
			t.Helper()
			doc, err := store.Get(t.Context(), serving.GetQuery{
				Check:    serving.Check{Fingerprint: g.caller.Identity.Fingerprint, GrantID: g.id, UserID: ada, Version: plan.Version},
				Resource: scope.Tasks, Filter: plan.Scope.Filter(scope.Tasks), ID: id,
			})
			if err != nil || doc != nil {
				t.Fatalf("get: %q, %v; want nothing", doc, err)
			}
			return explained(t, pool, last.sql, last.args)
		}
		shown, none := work(tt.id), work(uuid.New())
		if len(shown) != len(none) || !slices.ContainsFunc(none, func(n touched) bool { return n.Relation == "tasks" && n.Node == "Index Scan" }) {
			t.Fatalf("%s has the plan\n%v\nand no row has\n%v", tt.name, shown, none)
		}
		for i, was := range none {
			got, more, bound := shown[i], shown[i].Pages-was.Pages, 0
			if was.Relation == "tasks" {
				bound = 1
			}
			if got.Node != was.Node || got.Relation != was.Relation || more < 0 || more > bound {
				t.Errorf("%s: %v where no row has %v, want at most %d pages more", tt.name, got, was, bound)
			}
		}
	}
}

// explained runs a statement, with everything in memory, and lists what each node of its plan read by itself.
func explained(t *testing.T, pool *pgxpool.Pool, sql string, args []any) []touched {
	t.Helper()
	type node struct {
		Type     string `json:"Node Type"`
		Relation string `json:"Relation Name"`
		Hit      int    `json:"Shared Hit Blocks"`
		Read     int    `json:"Shared Read Blocks"`
		Plans    []node
	}
	var doc []byte
	for range 2 {
		if err := pool.QueryRow(t.Context(), "EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, COSTS OFF, FORMAT JSON) "+sql, args...).Scan(&doc); err != nil {
			t.Fatal(err)
		}
	}
	var top []struct{ Plan node }
	if err := json.Unmarshal(doc, &top); err != nil || len(top) != 1 {
		t.Fatalf("%s: %v", doc, err)
	}
	var list []touched
	var walk func(n node)
	walk = func(n node) {
		own := n.Hit + n.Read
		for _, child := range n.Plans {
			own -= child.Hit + child.Read
		}
		list = append(list, touched{n.Type, n.Relation, own})
		for _, child := range n.Plans {
			walk(child)
		}
	}
	walk(top[0].Plan)
	return list
}
