package postgres_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/account"
	"github.com/mosaicstack/gateway/internal/embed"
	"github.com/mosaicstack/gateway/internal/postgres"
	"github.com/mosaicstack/gateway/internal/resource"
	"github.com/mosaicstack/gateway/internal/scope"
	"github.com/mosaicstack/gateway/internal/serving"
	"github.com/mosaicstack/gateway/internal/upkeep"
)

// model is an embeddings endpoint: every text becomes its number of letters e, t and s, as dims numbers.
type model struct {
	*httptest.Server
	dims    atomic.Int64
	status  atomic.Int64 // other than 0: what is answered
	refuses atomic.Value // texts that hold this string are refused with 400
	texts   atomic.Int64
}

func newModel(t *testing.T, dims int64) *model {
	t.Helper()
	m := &model{}
	m.dims.Store(dims)
	m.refuses.Store("\x00")
	m.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var req struct{ Input []string }
		_ = json.NewDecoder(r.Body).Decode(&req)
		m.texts.Add(int64(len(req.Input)))
		refused, _ := m.refuses.Load().(string)
		if strings.Contains(strings.Join(req.Input, " "), refused) {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		if s := m.status.Load(); s != 0 {
			w.WriteHeader(int(s))
			return
		}
		var data []map[string]any
		for i, text := range req.Input {
			v := make([]float64, m.dims.Load())
			v[0] = 0.1
			for j, letter := range []string{"e", "t", "s"} {
				v[j%len(v)] += float64(strings.Count(text, letter))
			}
			data = append(data, map[string]any{"index": i, "embedding": v})
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"data": data})
	}))
	t.Cleanup(m.Close)
	return m
}

func (m *model) embedder(t *testing.T, name string) embed.Embedder {
	t.Helper()
	e, err := embed.New(embed.Config{URL: m.URL, Model: name, Pause: func(ctx context.Context, _ time.Duration) error { return ctx.Err() }})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func (w *world) embeddings(e embed.Embedder) *upkeep.Embeddings {
	w.t.Helper()
	task := upkeep.NewEmbeddings(upkeep.EmbeddingsConfig{
		Store: &postgres.Embeddings{DB: w.db}, Embedder: e, Log: slog.New(slog.DiscardHandler),
		Refuses: func(err error) bool { return errors.Is(err, embed.ErrInput) },
	})
	if err := task.Adopt(w.ctx); err != nil {
		w.t.Fatal(err)
	}
	return task
}

func (w *world) run(task *upkeep.Embeddings) {
	w.t.Helper()
	if err := task.Run(w.ctx); err != nil {
		w.t.Fatal(err)
	}
}

// models lists what the rows of a resource are embedded with, and how long their vectors are.
func (w *world) models(res scope.Resource) string {
	w.t.Helper()
	var s string
	w.scalar(&s, `SELECT coalesce(string_agg(m, ' ' ORDER BY m), '') FROM (SELECT coalesce(embedding_model, '-') || coalesce('/' || vector_dims(embedding), '') || ' x' || count(*) AS m
		FROM `+string(res)+` GROUP BY embedding_model, vector_dims(embedding)) g`)
	return s
}

func (w *world) wantModels(when, want string) {
	w.t.Helper()
	if got := w.models(scope.Tasks); got != want {
		w.t.Errorf("%s: tasks have %q, want %q", when, got, want)
	}
}

func TestAnEmbeddingChangesNothingThatAnybodySees(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ada := w.user("ada@example.org", account.Member)
	w.importTasks(ada, "", "one", "two")
	var before, after string
	const seen = `SELECT string_agg(id || doc || updated_at || search::text, ' ' ORDER BY id) FROM tasks`
	w.scalar(&before, seen)
	w.run(w.embeddings(embed.Hash{}))
	w.scalar(&after, seen)
	if before != after {
		t.Errorf("rows changed from\n%s\nto\n%s", before, after)
	}
	w.wantModels("after a run", "builtin-hash-v1/512 x2")
	var queued int
	if w.scalar(&queued, `SELECT count(*) FROM embedding_queue`); queued != 0 {
		t.Errorf("%d rows are queued still", queued)
	}
}

func TestARowThatSaysSomethingElseIsEmbeddedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ada := w.user("ada@example.org", account.Member)
	w.importTasks(ada, "", "one", "two")
	task := w.embeddings(embed.Hash{})
	w.run(task)
	w.exec(`UPDATE tasks SET status = 'done' WHERE title = 'one'`)
	w.wantModels("after another status", "builtin-hash-v1/512 x2")
	w.exec(`UPDATE tasks SET title = 'three' WHERE title = 'one'`)
	w.wantModels("after another title", "- x1 builtin-hash-v1/512 x1")
	w.run(task)
	w.wantModels("after the next run", "builtin-hash-v1/512 x2")
	var same bool
	v, _ := embed.Hash{}.Query(w.ctx, "three\n")
	if w.scalar(&same, `SELECT embedding <=> $1::vector < 1e-6 FROM tasks WHERE title = 'three'`, fmt.Sprint(strings.ReplaceAll(fmt.Sprint(v), " ", ","))); !same {
		t.Error("the embedding is not that of the new text")
	}
}

// TestAnEditMeanwhileIsNotLost edits a row between the moment its text is taken and the moment its vector comes.
func TestAnEditMeanwhileIsNotLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ada := w.user("ada@example.org", account.Member)
	w.importTasks(ada, "", "edited", "deleted", "locked", "left alone")
	store := &postgres.Embeddings{DB: w.db}
	task := w.embeddings(embed.Hash{})
	taken, err := store.Take(w.ctx, embed.HashModel, 10, time.Minute)
	if err != nil || len(taken) != 4 {
		t.Fatalf("took %v, %v", taken, err)
	}
	if again, err := store.Take(w.ctx, embed.HashModel, 10, time.Minute); err != nil || len(again) != 0 {
		t.Errorf("took %d rows that somebody else has, %v", len(again), err)
	}
	w.exec(`UPDATE tasks SET title = 'anew' WHERE title = 'edited'`)
	w.exec(`DELETE FROM tasks WHERE title = 'deleted'`)
	tx, err := w.pool.Begin(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(w.ctx, `UPDATE tasks SET status = 'done' WHERE title = 'locked'`); err != nil {
		t.Fatal(err)
	}
	var done []upkeep.Embedded
	for _, u := range taken {
		v, _ := embed.Hash{}.Query(w.ctx, u.Text)
		done = append(done, upkeep.Embedded{Unembedded: u, Vector: v})
	}
	if err := store.Settle(w.ctx, embed.HashModel, done); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(w.ctx); err != nil {
		t.Fatal(err)
	}
	w.wantModels("after settling", "- x2 builtin-hash-v1/512 x1")
	w.run(task)
	w.wantModels("after the next run", "builtin-hash-v1/512 x3")
	// The deleted row's lease ends some time.
	w.exec(`UPDATE embedding_queue SET next_at = now()`)
	w.run(task)
	var queued int
	if w.scalar(&queued, `SELECT count(*) FROM embedding_queue`); queued != 0 {
		t.Errorf("%d rows are queued still", queued)
	}
}

func TestAnotherModelTakesOverInTheBackground(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ada := w.user("ada@example.org", account.Member)
	w.importTasks(ada, "", "street", "sesame", "hill")
	m := newModel(t, 3)
	old := w.embeddings(m.embedder(t, "old"))
	w.run(old)
	w.wantModels("at first", "old/3 x3")
	h := w.enrolled(ada, everything)
	near := func(name string, v []float32) (int, int64) {
		t.Helper()
		f := w.search(h, serving.Lookup{Resource: scope.Tasks, Mode: resource.Semantic, Text: "x", Model: name, Vector: v, Rows: 10, MaxBytes: 1 << 20})
		return f.Count, f.Pending
	}
	if n, pending := near("old", []float32{1, 1, 1}); n != 3 || pending != 0 {
		t.Errorf("%d rows, %d pending, want 3 and 0", n, pending)
	}

	fresh := w.embeddings(m.embedder(t, "new"))
	w.importTasks(ada, "", "of late")
	asked := m.texts.Load()
	w.run(old) // its replica runs on for a while, and must not embed against the new one
	if m.texts.Load() != asked {
		t.Error("the old model is asked still")
	}
	if n, pending := near("new", []float32{1, 1, 1}); n != 0 || pending != 4 {
		t.Errorf("before the sweep: %d rows, %d pending, want 0 and 4: old vectors are not compared with new ones", n, pending)
	}
	w.run(fresh)
	w.wantModels("after the change", "new/3 x4")
	w.run(old)
	w.wantModels("after a run of the old replica", "new/3 x4")

	// The same name, and another length.
	m.dims.Store(2)
	w.importTasks(ada, "", "one more")
	if n, pending := near("new", []float32{1, 1}); n != 0 || pending != 5 {
		t.Errorf("with a query of another length: %d rows, %d pending, want 0 and 5", n, pending)
	}
	w.run(fresh)
	w.wantModels("after another length", "new/2 x5")
	if n, pending := near("new", []float32{1, 1}); n != 5 || pending != 0 {
		t.Errorf("at the end: %d rows, %d pending", n, pending)
	}
	asked = m.texts.Load()
	w.run(fresh)
	if m.texts.Load() != asked {
		t.Error("what is embedded is embedded again")
	}
}

func TestRowsWrittenPastTheTriggersAreFoundAndEmbedded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ada := w.user("ada@example.org", account.Member)
	task := w.embeddings(embed.Hash{})
	for table, column := range map[string]string{"tasks": "title", "notes": "title", "memory": "content"} {
		w.exec(`ALTER TABLE ` + table + ` DISABLE TRIGGER USER`)
		w.exec(`INSERT INTO `+table+` (owner_id, `+column+`, doc) SELECT $1, 'ship', '{}' FROM generate_series(1, 5)`, ada.ID)
		w.exec(`ALTER TABLE ` + table + ` ENABLE TRIGGER USER`)
	}
	for _, res := range resource.EmbeddedResources() {
		f, err := w.resources.Search(w.ctx, ada.ID, lookup(t, res, resource.Lexical, "ships"))
		if err != nil || f.Count != 5 {
			t.Errorf("%s: found %d rows by their words, %v", res, f.Count, err)
		}
	}
	w.exec(`UPDATE embedding_state SET swept = '', swept_to = NULL`)
	w.run(task)
	for _, res := range resource.EmbeddedResources() {
		var missing int
		if w.scalar(&missing, `SELECT count(*) FROM `+string(res)+` WHERE search IS NULL OR embedding_model IS NULL`); missing != 0 {
			t.Errorf("%d rows of %s were left out", missing, res)
		}
	}
}

func TestOneTextThatIsRefusedKeepsNoOtherBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ada := w.user("ada@example.org", account.Member)
	var titles []string
	for i := range 70 {
		titles = append(titles, fmt.Sprintf("street %d", i))
	}
	titles[33] = "poison"
	w.importTasks(ada, "", titles...)
	m := newModel(t, 3)
	m.refuses.Store("poison")
	w.run(w.embeddings(m.embedder(t, "m")))
	w.wantModels("with one that is refused", "- x1 m/3 x69")
	var due bool
	if w.scalar(&due, `SELECT next_at < now() + interval '1 second' FROM embedding_queue`); due {
		t.Error("the refused row is tried again at once, and so for ever")
	}
	m.refuses.Store("\x00")
	w.exec(`UPDATE embedding_queue SET next_at = now()`)
	w.run(w.embeddings(m.embedder(t, "m")))
	w.wantModels("when it is taken", "m/3 x70")
}

func TestRowsWaitForAnEndpointThatIsAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ada := w.user("ada@example.org", account.Member)
	w.importTasks(ada, "", "street", "hill")
	m := newModel(t, 3)
	m.status.Store(http.StatusServiceUnavailable)
	w.run(w.embeddings(m.embedder(t, "m")))
	w.wantModels("while it is away", "- x2")
	m.status.Store(0)
	w.exec(`UPDATE embedding_queue SET next_at = now()`)
	w.run(w.embeddings(m.embedder(t, "m")))
	w.wantModels("when it is back", "m/3 x2")
}

// TestVectorsOfAnyKindAreNoError: whatever stands in the columns, a search answers.
func TestVectorsOfAnyKindAreNoError(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ada := w.user("ada@example.org", account.Member)
	for range 5 {
		w.put(scope.Memory, ada, "", `{"content":"ship"}`)
	}
	h := w.enrolled(ada, everything)
	w.exec(`UPDATE memory SET embedding_model = 'm'`)
	var ids []uuid.UUID
	rows, err := w.pool.Query(w.ctx, `SELECT id FROM memory ORDER BY id`)
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		var id uuid.UUID
		if err := rows.Scan(&id); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	for i, v := range []string{"[1,1]", "[0,0]", "[1,1,1]", "[3e38,3e38]"} {
		w.exec(`UPDATE memory SET embedding = $1::vector WHERE id = $2`, v, ids[i])
	}
	for _, mode := range []resource.Mode{resource.Semantic, resource.Hybrid} {
		f := w.search(h, serving.Lookup{Resource: scope.Memory, Mode: mode, Text: "ship", Model: "m", Vector: []float32{1, 1}, Rows: 10, MaxBytes: 1 << 20})
		rows := hits(t, f)
		if mode == resource.Semantic && (len(rows) != 1 || rows[0].ID != ids[0]) {
			t.Errorf("%s: %+v, want the one vector that can be compared", mode, rows)
		}
		if mode == resource.Hybrid && (len(rows) != 5 || rows[0].ID != ids[0]) {
			t.Errorf("%s: %+v, want all by their words, and the near one first", mode, rows)
		}
	}
}
