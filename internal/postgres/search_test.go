package postgres_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/account"
	"github.com/mosaicstack/gateway/internal/embed"
	"github.com/mosaicstack/gateway/internal/postgres"
	"github.com/mosaicstack/gateway/internal/resource"
	"github.com/mosaicstack/gateway/internal/scope"
	"github.com/mosaicstack/gateway/internal/serving"
	"github.com/mosaicstack/gateway/internal/upkeep"
)

// put stores rows of a resource, one JSON object each.
func (w *world) put(res scope.Resource, owner account.User, team string, docs ...string) {
	w.t.Helper()
	i := 0
	_, err := w.resources.Import(w.ctx, res, owner.Email, team, func() (resource.Row, error) {
		if i == len(docs) {
			return resource.Row{}, io.EOF
		}
		i++
		return resource.ParseRow(res, []byte(docs[i-1]))
	}, act)
	if err != nil {
		w.t.Fatalf("import: %v", err)
	}
}

// embedAll runs the background task with an embedder until nothing waits.
func (w *world) embedAll(e upkeep.Embedder) {
	w.t.Helper()
	task := upkeep.NewEmbeddings(upkeep.EmbeddingsConfig{
		Store: &postgres.Embeddings{DB: w.db}, Embedder: e, Refuses: func(error) bool { return false }, Log: slog.New(slog.DiscardHandler),
	})
	if err := task.Adopt(w.ctx); err != nil {
		w.t.Fatal(err)
	}
	if err := task.Run(w.ctx); err != nil {
		w.t.Fatal(err)
	}
}

// hit is a row of a search's answer.
type hit struct {
	ID                   uuid.UUID
	Title, Content, Name string
	Score                float64
	Snippet              string
}

func hits(t *testing.T, f serving.Found) []hit {
	t.Helper()
	var rows []hit
	if err := json.Unmarshal(fmt.Appendf(nil, "[%s]", f.Docs), &rows); err != nil {
		t.Fatalf("%s is no JSON: %v", f.Docs, err)
	}
	if len(rows) != f.Count {
		t.Errorf("%d rows, and Count is %d", len(rows), f.Count)
	}
	return rows
}

func names(rows []hit) string {
	var out []string
	for _, r := range rows {
		out = append(out, r.Title+r.Content+r.Name)
	}
	return strings.Join(out, ",")
}

// lookup is a search with the built-in embedder.
func lookup(t *testing.T, res scope.Resource, mode resource.Mode, text string) serving.Lookup {
	t.Helper()
	l := serving.Lookup{Resource: res, Mode: mode, Text: text, Rows: 50, MaxBytes: 8 << 20}
	if mode != resource.Lexical {
		var err error
		if l.Vector, err = (embed.Hash{}).Query(t.Context(), text); err != nil {
			t.Fatal(err)
		}
		l.Model, l.Floor = embed.HashModel, (embed.Hash{}).Floor()
	}
	return l
}

func (w *world) search(h held, l serving.Lookup) serving.Found {
	w.t.Helper()
	f, err := w.serving.Search(w.ctx, serving.SearchQuery{Check: h.check, Filter: h.grant.Scope.Filter(l.Resource), Lookup: l})
	if err != nil {
		w.t.Fatalf("search: %v", err)
	}
	return f
}

const everything = `{"resources":["tasks","notes","memory"],"max_rows_per_query":100}`

func TestWordsAreFoundByWhereTheyStand(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ada := w.user("ada@example.org", account.Member)
	w.put(scope.Tasks, ada, "",
		`{"title":"in the body","body":"renew the passport"}`, `{"title":"the passport"}`, `{"title":"nothing of the kind"}`,
		`{"title":"stem","body":"old passports are kept"}`, `{"title":"Pässe","body":"Die Rechnungen sind bezahlt"}`)
	h := w.enrolled(ada, everything)
	for _, tt := range []struct{ query, want string }{
		{"passport", "the passport,in the body,stem"}, // a title counts for more than a body, a word for more than its stem
		{`"the passport"`, "the passport,in the body"},
		{"passport -renew", "the passport,stem"},
		{"passport OR rechnungen", "the passport,in the body,Pässe,stem"},
		{`"passports"`, "stem"},
		{"die rechnungen", "Pässe"}, // "die" is a word, and would be no stop word in German either
		{"PÄSSE", "Pässe"},
		{"unheard of", ""},
		{"!!! & | ( <->", ""},
		{"'; DROP TABLE tasks; --", ""},
	} {
		if got := names(hits(t, w.search(h, lookup(t, scope.Tasks, resource.Lexical, tt.query)))); got != tt.want {
			t.Errorf("%q found %q, want %q", tt.query, got, tt.want)
		}
	}
}

func TestEqualScoresAreInTheOrderOfAList(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ada := w.user("ada@example.org", account.Member)
	team := w.team("crew", ada)
	for i := range 12 {
		w.put(scope.Notes, ada, []string{"", "crew"}[i%2], `{"title":"same"}`)
	}
	if _, err := w.pool.Exec(w.ctx, `UPDATE notes SET updated_at = '2026-01-01'`); err != nil {
		t.Fatal(err)
	}
	w.embedAll(embed.Hash{})
	h := w.enrolled(ada, fmt.Sprintf(`{"resources":["notes"],"filters":{"notes":{"include_teams":["%s"]}},"max_rows_per_query":100}`, team))
	for _, mode := range resource.Modes(scope.Notes) {
		rows := hits(t, w.search(h, lookup(t, scope.Notes, mode, "same")))
		if len(rows) != 12 || !slices.IsSortedFunc(rows, func(a, b hit) int { return strings.Compare(b.ID.String(), a.ID.String()) }) {
			t.Errorf("%s: %d rows, not by falling id: %v", mode, len(rows), rows)
		}
	}
}

func TestMeaningIsFoundWithoutTheWord(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ada := w.user("ada@example.org", account.Member)
	w.put(scope.Memory, ada, "", `{"content":"The database password is rotated"}`, `{"content":"Lentils, lemons, coffee"}`, `{"content":"!!!"}`)
	h := w.enrolled(ada, everything)
	if f := w.search(h, lookup(t, scope.Memory, resource.Semantic, "databases passwort")); f.Count != 0 || f.Pending != 3 {
		t.Errorf("%d rows, %d pending before anything was embedded, want 0 and 3", f.Count, f.Pending)
	}
	w.embedAll(embed.Hash{})
	f := w.search(h, lookup(t, scope.Memory, resource.Semantic, "databases passwort"))
	rows := hits(t, f)
	if f.Pending != 0 || names(rows) != "The database password is rotated" || rows[0].Score < 0.3 || rows[0].Score > 1 {
		t.Errorf("%+v, %d pending", rows, f.Pending)
	}
	if f := w.search(h, lookup(t, scope.Memory, resource.Semantic, "?!")); f.Count != 0 {
		t.Errorf("%d rows are near to nothing", f.Count)
	}
}

func TestHybridIsTheSumOfBothRanks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ada := w.user("ada@example.org", account.Member)
	w.put(scope.Tasks, ada, "", `{"title":"passport renewal","body":"at the town hall"}`, `{"title":"pasport renewals"}`, `{"title":"buy milk"}`, `{"title":"renewal passport"}`)
	w.embedAll(embed.Hash{})
	h := w.enrolled(ada, everything)
	place := map[string]float64{}
	for _, mode := range []resource.Mode{resource.Lexical, resource.Semantic} {
		for i, r := range hits(t, w.search(h, lookup(t, scope.Tasks, mode, "passport renewal"))) {
			place[r.Title] += 1 / float64(60+i+1)
		}
	}
	rows := hits(t, w.search(h, lookup(t, scope.Tasks, resource.Hybrid, "passport renewal")))
	if len(rows) != 3 || len(place) != 3 {
		t.Fatalf("found %v, and the two legs %v; want three rows", rows, place)
	}
	for i, r := range rows {
		if r.Score != place[r.Title] || i > 0 && r.Score > rows[i-1].Score {
			t.Errorf("row %d, %q: score %v, want %v and falling", i, r.Title, r.Score, place[r.Title])
		}
	}
}

func TestSearchHidesWhatListHides(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ada, bo := w.user("ada@example.org", account.Member), w.user("bo@example.org", account.Member)
	team := w.team("both", ada, bo)
	w.team("hers", ada)
	foreign := w.team("his", bo)
	w.put(scope.Tasks, ada, "", `{"title":"ship mine"}`)
	w.put(scope.Tasks, bo, "", `{"title":"ship his own"}`)
	w.put(scope.Tasks, bo, "both", `{"title":"ship shared"}`)
	w.put(scope.Tasks, ada, "hers", `{"title":"ship outside the filter"}`)
	w.put(scope.Tasks, bo, "his", `{"title":"ship of a team she is not in"}`)
	w.embedAll(embed.Hash{})
	h := w.enrolled(ada, fmt.Sprintf(`{"resources":["tasks"],"filters":{"tasks":{"include_teams":["%s","%s"]}},"max_rows_per_query":100}`, team, foreign))
	see := func(mode resource.Mode, want string) {
		t.Helper()
		got := strings.Split(names(hits(t, w.search(h, lookup(t, scope.Tasks, mode, "ship")))), ",")
		slices.Sort(got)
		if s := strings.Join(got, ","); s != want {
			t.Errorf("%s found %q, want %q", mode, s, want)
		}
	}
	local := func(want string) {
		t.Helper()
		f, err := w.resources.Search(w.ctx, ada.ID, lookup(t, scope.Tasks, resource.Hybrid, "ship"))
		if err != nil {
			t.Fatal(err)
		}
		got := strings.Split(names(hits(t, f)), ",")
		slices.Sort(got)
		if s := strings.Join(got, ","); s != want {
			t.Errorf("her own search found %q, want %q", s, want)
		}
	}
	for _, mode := range resource.Modes(scope.Tasks) {
		see(mode, "ship mine,ship shared")
	}
	local("ship mine,ship outside the filter,ship shared")
	if err := w.accounts.RemoveMember(w.ctx, "both", ada.Email, act); err != nil {
		t.Fatal(err)
	}
	for _, mode := range resource.Modes(scope.Tasks) {
		see(mode, "ship mine")
	}
	local("ship mine,ship outside the filter")
}

func TestRowsOutsideTheScopeChangeNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ada, bo := w.user("ada@example.org", account.Member), w.user("bo@example.org", account.Member)
	team := w.team("both", ada, bo)
	w.team("other", ada, bo)
	texts := []string{"ship the release", "release notes of the ship", "shipping to Ghent", "the shop is shut", "a release of doves"}
	for i, s := range texts {
		w.put(scope.Tasks, ada, "", fmt.Sprintf(`{"title":%q,"body":"row %d"}`, s, i))
		w.put(scope.Tasks, bo, "both", fmt.Sprintf(`{"title":%q,"body":"shared row %d"}`, s, i))
	}
	w.embedAll(embed.Hash{})
	h := w.enrolled(ada, fmt.Sprintf(`{"resources":["tasks"],"filters":{"tasks":{"include_teams":["%s"]}},"max_rows_per_query":100}`, team))
	answers := func() string {
		var b strings.Builder
		for _, mode := range resource.Modes(scope.Tasks) {
			for _, q := range []string{"ship", "release", "ship release", "shiping", "doves -ship"} {
				f := w.search(h, lookup(t, scope.Tasks, mode, q))
				fmt.Fprintf(&b, "%s %s: %d pending, %s\n", mode, q, f.Pending, f.Docs)
			}
		}
		return b.String()
	}
	before := answers()
	for i := range 40 {
		s := texts[i%len(texts)]
		w.put(scope.Tasks, bo, "", fmt.Sprintf(`{"title":%q,"body":"ship release ship release %d"}`, s, i))
		w.put(scope.Tasks, ada, "other", fmt.Sprintf(`{"title":%q}`, s))
		w.put(scope.Notes, ada, "", fmt.Sprintf(`{"title":%q}`, s))
	}
	if after := answers(); after != before {
		t.Errorf("rows outside the scope changed the answers:\n%s\nbecame\n%s", before, after)
	}
	w.embedAll(embed.Hash{})
	if _, err := w.pool.Exec(w.ctx, `ANALYZE; UPDATE tasks SET title = 'ship', embedding = NULL WHERE owner_id = $1 AND team_id IS NULL`, bo.ID); err == nil {
		t.Fatal("two statements in one")
	}
	if _, err := w.pool.Exec(w.ctx, `UPDATE tasks SET title = 'ship' WHERE owner_id = $1 AND team_id IS NULL`, bo.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := w.pool.Exec(w.ctx, `ANALYZE`); err != nil {
		t.Fatal(err)
	}
	if after := answers(); after != before {
		t.Errorf("embedded and rewritten rows outside the scope changed the answers:\n%s\nbecame\n%s", before, after)
	}
}

func TestSecretsAreNotSearched(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ada := w.user("ada@example.org", account.Member)
	w.put(scope.Credentials, ada, "", `{"name":"registry","kind":"basic","url":"https://registry.example.org/v2","username":"deployer","secret":"hunter2","metadata":{"hint":"hunter2"}}`)
	w.put(scope.APIKeys, ada, "", `{"name":"weather","service":"meteo","secret":"0123456789abcdef0123456789abcdef"}`)
	for query, want := range map[string]int{"registry": 1, "basic": 1, "deployer": 1, "registry.example.org": 1, "hunter2": 0, "hint": 0} {
		f, err := w.resources.Search(w.ctx, ada.ID, lookup(t, scope.Credentials, resource.Lexical, query))
		if err != nil || f.Count != want || strings.Contains(string(f.Docs), "secret") {
			t.Errorf("credentials by %q: %d rows, want %d: %s, %v", query, f.Count, want, f.Docs, err)
		}
	}
	for query, want := range map[string]int{"weather": 1, "meteo": 1, "0123456789abcdef0123456789abcdef": 0} {
		f, err := w.resources.Search(w.ctx, ada.ID, lookup(t, scope.APIKeys, resource.Lexical, query))
		if err != nil || f.Count != want {
			t.Errorf("API keys by %q: %d rows, want %d, %v", query, f.Count, want, err)
		}
	}
}

func TestRefusedCallersFindNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ada := w.user("ada@example.org", account.Member)
	w.put(scope.Tasks, ada, "", `{"title":"ship"}`)
	h := w.enrolled(ada, everything)
	ask := func() error {
		_, err := w.serving.Search(w.ctx, serving.SearchQuery{Check: h.check, Lookup: lookup(t, scope.Tasks, resource.Hybrid, "ship")})
		return err
	}
	h.check.Version++
	if err := ask(); !isFault(err, serving.ErrStale()) {
		t.Errorf("another version: %v", err)
	}
	h.check.Version--
	if _, err := w.grants.Revoke(w.ctx, h.grant.ID, "", act); err != nil {
		t.Fatal(err)
	}
	if err := ask(); !isFault(err, serving.ErrGrantRevoked) {
		t.Errorf("revoked: %v", err)
	}
	h.check.Fingerprint[0]++
	if err := ask(); !isFault(err, serving.ErrCertificateUnknown) {
		t.Errorf("unknown certificate: %v", err)
	}
}

// TestSearchCallsNoVolatileFunction: one that did could see a row that was written after the check had passed.
func TestSearchCallsNoVolatileFunction(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	calls := map[string]bool{}
	for _, res := range scope.All() {
		for _, mode := range resource.Modes(res) {
			for _, m := range regexp.MustCompile(`\b([a-z_]+)\(`).FindAllStringSubmatch(postgres.SearchSQL(lookup(t, res, mode, "x")), -1) {
				calls[m[1]] = true
			}
		}
	}
	for _, f := range []string{"cosine_distance", "ts_match_vq", "tsvector_concat", "tsquery_or", "search_words", "search_vector"} { // behind operators, and inside
		calls[f] = true
	}
	known := 0
	for name := range calls {
		var n, volatile int
		if err := w.pool.QueryRow(w.ctx, `SELECT count(*), count(*) FILTER (WHERE provolatile = 'v') FROM pg_proc WHERE proname = $1`, name).Scan(&n, &volatile); err != nil {
			t.Fatal(err)
		}
		known += min(n, 1)
		if volatile > 0 {
			t.Errorf("the statement calls %s, which is volatile", name)
		}
	}
	if known < 12 || !calls["ts_rank"] || !calls["websearch_to_tsquery"] || !calls["now"] {
		t.Errorf("looked at %d functions only, of %v", known, calls)
	}
}

// TestSearchReadsTheVisibleRangesOnly: what a search costs must not grow with rows that its caller may not see.
func TestSearchReadsTheVisibleRangesOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ada, bo := w.user("ada@example.org", account.Member), w.user("bo@example.org", account.Member)
	team := w.team("both", ada, bo)
	w.put(scope.Tasks, ada, "", `{"title":"ship"}`)
	w.put(scope.Tasks, bo, "both", `{"title":"ship too"}`)
	if _, err := w.pool.Exec(w.ctx, `INSERT INTO tasks (owner_id, title, body) SELECT $1, 'ship ' || i, 'body' FROM generate_series(1, 3000) i`, bo.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := w.pool.Exec(w.ctx, `ANALYZE`); err != nil {
		t.Fatal(err)
	}
	h := w.enrolled(ada, fmt.Sprintf(`{"resources":["tasks"],"filters":{"tasks":{"include_teams":["%s"]}},"max_rows_per_query":100}`, team))
	explain := func(mode resource.Mode) string {
		t.Helper()
		q := serving.SearchQuery{Check: h.check, Filter: h.grant.Scope.Filter(scope.Tasks), Lookup: lookup(t, scope.Tasks, mode, "ship")}
		sql, args := postgres.ServingSearchSQL(q)
		rows, err := w.pool.Query(w.ctx, "EXPLAIN (ANALYZE, TIMING OFF, COSTS OFF) "+sql, args...)
		if err != nil {
			t.Fatal(err)
		}
		var plan strings.Builder
		for rows.Next() {
			var line string
			if err := rows.Scan(&line); err != nil {
				t.Fatal(err)
			}
			plan.WriteString(line + "\n")
		}
		if rows.Err() != nil {
			t.Fatal(rows.Err())
		}
		return plan.String()
	}
	for _, mode := range resource.Modes(scope.Tasks) {
		text := explain(mode)
		if strings.Contains(text, "Seq Scan on tasks") || !strings.Contains(text, "tasks_personal") || !strings.Contains(text, "tasks_team") || !strings.Contains(text, "tasks_pkey") {
			t.Errorf("%s reads other rows than the visible ranges:\n%s", mode, text)
		}
		if regexp.MustCompile(`tasks t.*rows=[0-9]{2,}`).MatchString(text) {
			t.Errorf("%s touches more rows than there are to see:\n%s", mode, text)
		}
	}
	// Whoever is refused costs no look at any row.
	h.check.Version++
	for _, mode := range resource.Modes(scope.Tasks) {
		if text := explain(mode); strings.Count(text, "never executed") < 3 || regexp.MustCompile(`on tasks t.*actual`).MatchString(text) {
			t.Errorf("%s reads rows for a caller who is refused:\n%s", mode, text)
		}
	}
}

func isFault(err, want error) bool {
	return err != nil && (err == want || strings.Contains(err.Error(), want.Error())) //nolint:errorlint // sentinels of both kinds
}

// TestNoTextIsTooHardToIndex: a row must be stored whatever it says.
func TestNoTextIsTooHardToIndex(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ada := w.user("ada@example.org", account.Member)
	pieces := []func(i int) string{
		func(i int) string {
			return string(rune(66560+i%40)) + string(rune(66560+i/40%40)) + "-" + string(rune(66560+i/1600%40)) + string(rune(66560+i/7%40))
		},
		func(i int) string { return fmt.Sprintf("a%d.example.org/x%d/y?z=%d", i, i, i) },
		func(i int) string { return fmt.Sprintf("u%d@h%d.example.org", i, i) },
		func(i int) string { return fmt.Sprintf("<t%d a='%d'>", i, i) },
		func(i int) string { return fmt.Sprintf("%x-%x-%xs", i, i*7919, i*104729) },
	}
	for n, piece := range pieces {
		var b strings.Builder
		for i := 0; b.Len() < resource.MaxTextBytes-200; i++ {
			b.WriteString(piece(i) + " ")
		}
		doc, _ := json.Marshal(map[string]any{"content": b.String(), "metadata": map[string]string{"k": b.String()[:30_000]}})
		row, err := resource.ParseRow(scope.Memory, doc)
		if err != nil {
			t.Fatalf("%d: %v", n, err)
		}
		if _, err := w.resources.Create(context.WithoutCancel(w.ctx), row, ada.ID, ""); err != nil {
			t.Errorf("text %d is refused: %v", n, err)
		}
	}
}
