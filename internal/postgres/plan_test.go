package postgres_test

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mosaicstack/gateway/internal/account"
	"github.com/mosaicstack/gateway/internal/page"
	"github.com/mosaicstack/gateway/internal/postgres"
	"github.com/mosaicstack/gateway/internal/scope"
	"github.com/mosaicstack/gateway/internal/serving"
)

// pageRows is how many rows the lists of these tests ask for.
const pageRows = 50

// node is a part of a plan, as EXPLAIN (FORMAT JSON) writes it.
type node struct {
	Type     string  `json:"Node Type"`
	Relation string  `json:"Relation Name"`
	Index    string  `json:"Index Name"`
	Cond     string  `json:"Index Cond"`
	Rows     float64 `json:"Actual Rows"`
	Loops    float64 `json:"Actual Loops"`
	Removed  float64 `json:"Rows Removed by Filter"`
	Hit      int     `json:"Shared Hit Blocks"`
	Read     int     `json:"Shared Read Blocks"`
	Plans    []node  `json:"Plans"`
}

// each visits a plan, parents first.
func (n node) each(parents []node, visit func(n node, parents []node)) {
	visit(n, parents)
	for _, p := range n.Plans {
		p.each(append(parents, n), visit)
	}
}

// carriedOut is how the server carries out a statement that a store has just asked: its plan, and the plan as text.
func carriedOut(t *testing.T, conn *pgx.Conn, a lastStatement, mode string) (n node, text string) {
	t.Helper()
	ctx := t.Context()
	literals := make([]string, len(a.args))
	for i, arg := range a.args {
		literals[i] = literal(t, arg)
	}
	for _, sql := range []string{"SET plan_cache_mode = force_" + mode + "_plan", "PREPARE read AS " + a.sql} {
		if _, err := conn.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	defer func() { _, _ = conn.Exec(ctx, "DEALLOCATE read") }()
	execute := "EXECUTE read"
	if len(literals) > 0 {
		execute += " (" + strings.Join(literals, ", ") + ")"
	}
	for range 2 { // so that what is counted is the statement and not the first look at a table's definition
		rows, err := conn.Query(ctx, "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) "+execute, pgx.QueryExecModeSimpleProtocol)
		if err != nil {
			t.Fatal(err)
		}
		if text, err = pgx.CollectExactlyOneRow(rows, pgx.RowTo[string]); err != nil {
			t.Fatalf("%s: %v", execute, err)
		}
	}
	var doc []struct{ Plan node }
	if err := json.Unmarshal([]byte(text), &doc); err != nil {
		t.Fatal(err)
	}
	return doc[0].Plan, text
}

func literal(t *testing.T, arg any) string {
	t.Helper()
	switch v := arg.(type) {
	case nil:
		return "NULL"
	case uuid.UUID:
		return "'" + v.String() + "'"
	case time.Time:
		return "'" + v.Format(time.RFC3339Nano) + "'"
	case pgtype.UUID:
		return fmt.Sprintf("'%s'", uuid.UUID(v.Bytes))
	case []pgtype.UUID:
		var list []string
		for _, id := range v {
			list = append(list, uuid.UUID(id.Bytes).String())
		}
		return "'{" + strings.Join(list, ",") + "}'"
	case pgtype.Timestamptz:
		return "'" + map[pgtype.InfinityModifier]string{pgtype.Finite: v.Time.Format(time.RFC3339Nano), pgtype.Infinity: "infinity", pgtype.NegativeInfinity: "-infinity"}[v.InfinityModifier] + "'"
	case []byte:
		return `'\x` + hex.EncodeToString(v) + `'`
	case int, int64, bool:
		return fmt.Sprint(v)
	}
	t.Fatalf("a statement has an argument of type %T", arg)
	return ""
}

// fillTasks brings the table to so many rows, as many for the user as for each team, and one in fifty for each.
func (w *world) fillTasks(rows int, owner uuid.UUID, teams []uuid.UUID) {
	w.t.Helper()
	err := pgx.BeginFunc(w.ctx, w.pool, func(tx pgx.Tx) error {
		for _, sql := range []string{
			`INSERT INTO users (email) SELECT 'filler' || n || '@example.org' FROM generate_series(1, 40) n ON CONFLICT DO NOTHING`,
			`INSERT INTO teams (name) SELECT 'filler' || n FROM generate_series(1, 40) n ON CONFLICT DO NOTHING`,
			`SET LOCAL session_replication_role = replica`, // doc is written here, not by the trigger, and nothing is checked
		} {
			if _, err := tx.Exec(w.ctx, sql); err != nil {
				return err
			}
		}
		_, err := tx.Exec(w.ctx, `
			WITH had AS MATERIALIZED (SELECT count(*) AS rows FROM tasks),
			people AS MATERIALIZED (SELECT array_agg(id) AS ids FROM users WHERE email LIKE 'filler%'),
			groups AS MATERIALIZED (SELECT array_agg(id) AS ids FROM teams WHERE name LIKE 'filler%')
			INSERT INTO tasks (owner_id, team_id, title, created_at, updated_at, doc)
			SELECT CASE WHEN n % 50 = 0 THEN $2::uuid ELSE people.ids[1 + n % 40] END,
				CASE WHEN n % 50 = 0 THEN NULL WHEN n % 50 <= cardinality($3::uuid[]) THEN ($3::uuid[])[n % 50] WHEN n % 2 = 0 THEN groups.ids[1 + n / 2 % 40] END,
				'Task ' || n, at, at, '{"title":"Task ' || n || '","text":"' || repeat(md5(n::text), 8) || '"}'
			FROM had, people, groups, generate_series(had.rows + 1, $1::bigint) n, LATERAL (SELECT timestamptz '2026-01-01' + n * interval '1 second' AS at) a`,
			rows, owner, teams)
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.pool.Exec(w.ctx, "VACUUM (ANALYZE) tasks"); err != nil {
		w.t.Fatal(err)
	}
}

// TestReadsCostWhatTheyShow: a list walks one index range for the personal rows and one for each team, each no
// further than the page, and a get looks one row up; a table that is ten times as large is read no more of; and whoever
// may not ask costs a few pages and reaches no row. It holds for plans that know the parameters and for those that do not.
func TestReadsCostWhatTheyShow(t *testing.T) {
	t.Parallel()
	sizes := []int{20_000, 80_000}
	if os.Getenv("MOSAIC_TORTURE") != "" {
		sizes = []int{10_000, 100_000, 1_000_000}
	}
	w := newWorld(t)
	ada := w.user("ada@example.org", account.Member)
	teams := []uuid.UUID{w.team("one", ada), w.team("two", ada), w.team("three", ada)}
	h := w.enrolled(ada, fmt.Sprintf(`{"resources":["tasks"],"filters":{"tasks":{"include_teams":[%q,%q,%q]}},"max_rows_per_query":100}`, teams[0], teams[1], teams[2]))

	c := w.pool.Config()
	last := &lastStatement{}
	c.ConnConfig.Tracer = last
	c.MaxConns = 1
	pool, err := pgxpool.NewWithConfig(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	s := &postgres.Serving{DB: postgres.New(pool)}

	var row uuid.UUID
	list := func(personal bool, teams int, after page.Key) func() error {
		return func() error {
			_, err := s.List(t.Context(), serving.ListQuery{
				Check: h.check, Resource: scope.Tasks, Filter: scope.Filter{IncludePersonal: personal, IncludeTeams: h.grant.Scope.Filter(scope.Tasks).IncludeTeams[:teams]},
				Rows: pageRows, MaxBytes: 8 << 20, After: after,
			})
			return err
		}
	}
	reads := []expected{
		{name: "personal rows", read: list(true, 0, page.Key{}), personal: 1},
		{name: "one team", read: list(false, 1, page.Key{}), teams: 1},
		{name: "personal rows and two teams", read: list(true, 2, page.Key{}), personal: 1, teams: 2},
		{name: "personal rows and three teams", read: list(true, 3, page.Key{}), personal: 1, teams: 4},
		{name: "one row", byID: true, read: func() error {
			_, err := s.Get(t.Context(), serving.GetQuery{Check: h.check, Resource: scope.Tasks, Filter: h.grant.Scope.Filter(scope.Tasks), ID: row})
			return err
		}},
	}
	touched := map[string]int{}
	for _, size := range sizes {
		w.fillTasks(size, ada.ID, teams)
		w.scalar(&row, `SELECT id FROM tasks WHERE owner_id = $1 AND team_id IS NULL ORDER BY updated_at LIMIT 1 OFFSET 20`, ada.ID)
		for _, r := range reads {
			if err := r.read(); err != nil {
				t.Fatalf("%s: %v", r.name, err)
			}
			statement := *last
			for _, mode := range []string{"custom", "generic"} {
				name := r.name + ", " + mode + " plan"
				n, text := carriedOut(t, w.conn(pool), statement, mode)
				if problem := r.problem(n); problem != "" {
					t.Errorf("%s, %d rows in the table: %s\n%s", name, size, problem, text)
				}
				before, buffers := touched[name], n.Hit+n.Read
				// A tenfold table makes an index a level deeper: a page for each range.
				if more := 1 + r.personal + r.teams; before > 0 && buffers > before+more {
					t.Errorf("%s: %d pages with %d rows in the table, %d before: more than %d on top\n%s", name, buffers, size, before, more, text)
				}
				touched[name] = buffers
			}
		}
	}
	if _, err := w.pool.Exec(t.Context(), `UPDATE users SET disabled_at = now() WHERE id = $1`, ada.ID); err != nil {
		t.Fatal(err)
	}
	for _, r := range reads {
		if err := r.read(); !errors.Is(err, serving.ErrSubjectDisabled) {
			t.Fatalf("%s of a disabled user: %v", r.name, err)
		}
		statement := *last
		for _, mode := range []string{"custom", "generic"} {
			n, text := carriedOut(t, w.conn(pool), statement, mode)
			n.each(nil, func(n node, _ []node) {
				if (n.Relation == "tasks" || n.Relation == "team_members" && !r.byID) && n.Loops > 0 {
					t.Errorf("%s, %s plan: a refusal reaches %s\n%s", r.name, mode, n.Relation, text)
				}
			})
			if n.Hit+n.Read > 16 {
				t.Errorf("%s, %s plan: a refusal reads %d pages\n%s", r.name, mode, n.Hit+n.Read, text)
			}
		}
	}
}

// expected is a read and how it has to be carried out.
type expected struct {
	name            string
	read            func() error
	personal, teams int  // index ranges of a list
	byID            bool // a get
}

// problem tells what is wrong with a plan.
func (e expected) problem(plan node) (problem string) {
	found := map[string]int{}
	plan.each(nil, func(n node, parents []node) {
		switch {
		case n.Type == "Sort" || n.Type == "Incremental Sort":
			problem = "it sorts"
		case n.Relation != "tasks":
			if n.Type == "Seq Scan" && n.Rows*n.Loops > 50 {
				problem = "it reads the whole of " + n.Relation
			}
		case !strings.HasPrefix(n.Type, "Index"):
			problem = "it reads the table by " + n.Type
		case n.Removed > 0:
			problem = "rows are read and thrown away"
		case n.Rows*n.Loops > pageRows+1:
			problem = fmt.Sprintf("%v rows are read of %s", n.Rows*n.Loops, n.Index)
		case !e.byID && !strings.Contains(n.Cond, "ROW(updated_at, id) <"):
			problem = "the position does not bound the range of " + n.Index
		case !e.byID && !slices.ContainsFunc(parents, func(p node) bool { return p.Type == "Limit" }):
			problem = n.Index + " is read without a limit"
		case e.personal+e.teams > 1 && !slices.ContainsFunc(parents, func(p node) bool { return p.Type == "Merge Append" }):
			problem = "the ranges are not merged"
		default:
			found[n.Index]++
		}
	})
	want := map[string]int{}
	if e.byID {
		want["tasks_pkey"] = 1
	}
	if e.personal > 0 {
		want["tasks_personal"] = e.personal
	}
	if e.teams > 0 {
		want["tasks_team"] = e.teams
	}
	if problem == "" && !maps.Equal(found, want) {
		problem = fmt.Sprintf("it walks %v, want %v", found, want)
	}
	return problem
}

func (w *world) conn(pool *pgxpool.Pool) *pgx.Conn {
	c, err := pool.Acquire(w.ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	defer c.Release() // the pool has one, and nobody else asks for it
	return c.Conn()
}

// TestAListIsNotPlannedAnewEachTime: where one user owns most of a table, a plan that fits all parameters has to look as
// cheap to the planner as one that is made for them, or every list pays for planning.
func TestAListIsNotPlannedAnewEachTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ada := w.user("ada@example.org", account.Member)
	h := w.enrolled(ada, tasksOnly)
	err := pgx.BeginFunc(w.ctx, w.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(w.ctx, `SET LOCAL session_replication_role = replica`); err != nil {
			return err
		}
		_, err := tx.Exec(w.ctx, `INSERT INTO tasks (owner_id, title, updated_at, doc)
			SELECT $1, '', timestamptz '2026-01-01' + n * interval '1 second', '{"text":"' || repeat('x', 200) || '"}' FROM generate_series(1, 150000) n`, ada.ID)
		return err
	})
	if err == nil {
		_, err = w.pool.Exec(w.ctx, `VACUUM (ANALYZE) tasks`)
	}
	if err != nil {
		t.Fatal(err)
	}
	c := w.pool.Config()
	c.MaxConns = 1
	pool, err := pgxpool.NewWithConfig(w.ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	s := &postgres.Serving{DB: postgres.New(pool)}
	for _, rows := range []int{50, 500} {
		for range 20 {
			if _, err := s.List(w.ctx, serving.ListQuery{Check: h.check, Resource: scope.Tasks, Filter: h.grant.Scope.Filter(scope.Tasks), Rows: rows, MaxBytes: 8 << 20}); err != nil {
				t.Fatal(err)
			}
		}
	}
	var most int // the server tries five before it settles
	if err := pool.QueryRow(w.ctx, `SELECT max(custom_plans) FROM pg_prepared_statements WHERE statement LIKE '%LATERAL%'`).Scan(&most); err != nil {
		t.Fatal(err)
	}
	if most > 5 {
		t.Errorf("%d of 20 lists were planned anew", most)
	}
}
