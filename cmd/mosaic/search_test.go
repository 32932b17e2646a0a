package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// meaning is an embeddings endpoint that knows two words for each thing.
type meaning struct {
	*httptest.Server
	away   atomic.Bool
	mu     sync.Mutex
	models []string // that were asked for
	keys   []string // that it was asked with
}

func newMeaning(t *testing.T) *meaning {
	t.Helper()
	m := &meaning{}
	m.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if m.away.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		var req struct {
			Model string
			Input []string
		}
		_ = json.NewDecoder(r.Body).Decode(&req)
		m.mu.Lock()
		m.models = append(m.models, req.Model)
		m.keys = append(m.keys, r.Header.Get("Authorization"))
		m.mu.Unlock()
		var data []map[string]any
		for i, text := range req.Input {
			v := []float64{0.01, 0.01, 0.01}
			for j, words := range [][]string{{"car", "vehicle"}, {"physician", "doctor"}, {"milk"}} {
				for _, word := range words {
					if strings.Contains(strings.ToLower(text), word) {
						v[j]++
					}
				}
			}
			data = append(data, map[string]any{"index": i, "embedding": v})
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"data": data})
	}))
	t.Cleanup(m.Close)
	return m
}

func (m *meaning) env(model string) []string {
	return []string{"EMBEDDINGS_URL=" + m.URL + "/v1", "EMBEDDINGS_MODEL=" + model, "EMBEDDINGS_API_KEY=sk-canary-0123456789"}
}

type found struct {
	Data []struct {
		Title, Snippet, Source string
		Score                  float64
	}
	Search struct {
		Mode, Model, Degraded string
		Pending               *int
	}
}

// TestMeaningCrossesTheBoundary: rows are embedded soon after they were written, a peer's search finds them by what
// they mean, and does with their words when the endpoint is away. Another model takes over by itself.
func TestMeaningCrossesTheBoundary(t *testing.T) {
	t.Parallel()
	root, m := t.TempDir(), newMeaning(t)
	work, home := startGatewayWith(t, m.env("first"), filepath.Join(root, "work")), startGateway(t, filepath.Join(root, "home"), "--name", "home")
	work.user("ada@example.org", "Wash the vehicle", "See the doctor", "Buy milk")
	_, e := work.grantFor("home", "ada@example.org", tasksOnly)
	home.mosaic("federation", "peer", "add", e.URL, "--name", "work")
	query := func(text string) (found, error) {
		t.Helper()
		out, err := home.try("federation", "query", "work", "tasks", "--search", text, "--json", "--limit", "1")
		var f found
		if err == nil {
			err = json.Unmarshal([]byte(out), &f)
		}
		return f, err
	}
	// until asks again and again, because embeddings come soon after a write and not with it.
	until := func(what string, good func(found) bool) {
		t.Helper()
		var f found
		var err error
		for began := time.Now(); time.Since(began) < 30*time.Second; {
			if f, err = query("carwash canaryquestion OR car"); err == nil && good(f) {
				return
			}
		}
		t.Fatalf("%s: last %+v, %v\n%s", what, f, err, work.logs)
	}
	embedded := func(model string) func(found) bool {
		return func(f found) bool {
			return f.Search.Model == model && *f.Search.Pending == 0 && len(f.Data) == 1 && f.Data[0].Title == "Wash the vehicle" && f.Data[0].Source == "work"
		}
	}
	until("the rows are not embedded", embedded("first"))
	m.away.Store(true)
	f, err := query("doctor")
	if err != nil || f.Search.Mode != "lexical" || f.Search.Degraded != "embeddings_unavailable" || len(f.Data) != 1 || f.Data[0].Snippet != "See the «doctor»" {
		t.Errorf("while the endpoint is away: %+v, %v", f, err)
	}
	m.away.Store(false)
	if err := work.stop(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	logs := work.logs.String()
	work = startGatewayWith(t, m.env("second"), filepath.Join(root, "work"), "--listen", strings.TrimPrefix(work.URL, "http://"), "--federation-listen", strings.TrimPrefix(work.FederationURL, "https://"))
	until("the rows are not embedded by the second model", embedded("second"))
	m.mu.Lock()
	defer m.mu.Unlock()
	if !slices.Contains(m.models, "first") || m.models[len(m.models)-1] != "second" || slices.ContainsFunc(m.keys, func(k string) bool { return k != "Bearer sk-canary-0123456789" }) {
		t.Errorf("asked for %v", m.models)
	}
	for _, log := range []string{logs, work.logs.String(), home.logs.String()} {
		if strings.Contains(log, "canaryquestion") || strings.Contains(log, "sk-canary") || strings.Contains(log, "vehicle") {
			t.Errorf("a log has a query, a row or the key:\n%s", log)
		}
	}
}
