package querying_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/cache"
	"github.com/mosaicstack/gateway/internal/page"
	"github.com/mosaicstack/gateway/internal/querying"
	"github.com/mosaicstack/gateway/internal/seal"
)

// tagging is a peer that gives its answers a tag, and confirms those that are held.
type tagging struct {
	mu      sync.Mutex
	title   string
	seconds int              // that its grant lets an answer be shown; below zero: it forbids to keep any
	refuse  http.HandlerFunc // instead of an answer
	asked   []*http.Request
	codes   []int
}

func (p *tagging) set(change func(*tagging)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(p)
}

// took gives the requests since the last time, and what they were answered with.
func (p *tagging) took() (asked []*http.Request, codes []int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	asked, codes = p.asked, p.codes
	p.asked, p.codes = nil, nil
	return asked, codes
}

func (p *tagging) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	title, seconds, refuse := p.title, p.seconds, p.refuse
	p.asked = append(p.asked, r)
	p.mu.Unlock()
	code := http.StatusOK
	defer func() { p.set(func(p *tagging) { p.codes = append(p.codes, code) }) }()
	if refuse != nil {
		code = 0
		refuse(w, r)
		return
	}
	row := fmt.Sprintf(`{"id":"00000000-0000-0000-0000-000000000001","updated_at":"2026-01-01T00:00:00Z","title":%q,"score":1,"snippet":"x"}`, title)
	body := `{"data":[` + row + `],"page":{"limit":50,"capped":false,"next_cursor":null},"search":{"mode":"lexical","model":null}}`
	if strings.Count(r.URL.Path, "/") == 5 && r.Method == http.MethodGet {
		body = `{"data":` + row + `}`
	}
	tag := `"` + uuid.NewSHA1(uuid.Nil, []byte(body)).String() + `"`
	if seconds < 0 {
		w.Header().Set("Cache-Control", "no-store")
	} else {
		w.Header().Set("Cache-Control", fmt.Sprintf("private, max-age=%d", seconds))
		w.Header().Set("ETag", tag)
		if r.Header.Get("If-None-Match") == tag {
			code = http.StatusNotModified
			w.WriteHeader(code)
			return
		}
	}
	answer(200, body)(w, r)
}

// road is the way to peers, which a test can close.
type road struct {
	querying.Client
	closed atomic.Pointer[error]
}

func (r *road) Do(ctx context.Context, t querying.Target, c querying.Call) (querying.Answer, error) {
	if err := r.closed.Load(); err != nil {
		return querying.Answer{}, *err
	}
	return r.Client.Do(ctx, t, c)
}

func (r *road) close(err error) { r.closed.Store(&err) }
func (r *road) open()           { r.closed.Store(nil) }

// remembering is a world whose gateway keeps answers, with a clock of the test's.
type remembering struct {
	*world
	peer   *tagging
	road   *road
	other  *other
	mu     sync.Mutex
	ahead  time.Duration
	events map[querying.CacheEvent]int
	told   chan querying.CacheEvent
}

func (m *remembering) now() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.Now().Add(m.ahead)
}

func (m *remembering) pass(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ahead += d
}

func (m *remembering) seen(e querying.CacheEvent) {
	m.mu.Lock()
	m.events[e]++
	m.mu.Unlock()
	select {
	case m.told <- e:
	default:
	}
}

func (m *remembering) count(e querying.CacheEvent) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.events[e]
}

func remember(t *testing.T, change ...func(*querying.Config)) *remembering {
	t.Helper()
	p := &tagging{title: "remote-secret", seconds: 300}
	w, b, _ := connected(t, p.ServeHTTP)
	m := &remembering{world: w, peer: p, other: b, road: &road{Client: w.client}, events: map[querying.CacheEvent]int{}, told: make(chan querying.CacheEvent, 1000)}
	c := w.service.Config
	c.Client, c.Now, c.Seen, c.Timeout = m.road, m.now, m.seen, time.Minute
	c.Cursors = page.AEAD(w.keys.AEAD("cursors"))
	c.Cache = cache.New(cache.Config{Store: cache.NewMemory(m.now), Keys: seal.NewRing(w.keys), TTL: cache.MaxTTL})
	for _, f := range change {
		f(&c)
	}
	w.service = querying.New(c)
	return m
}

const rowID = "00000000-0000-0000-0000-000000000001"

// ways are the ways to ask the peer: each gives the source's status and the row, nil when there is none.
func (m *remembering) ways() map[string]func(c querying.Caller) (querying.Source, json.RawMessage, error) {
	ctx, s := m.t.Context(), m.service
	first := func(p querying.Page, err error) (querying.Source, json.RawMessage, error) {
		if err != nil {
			return querying.Source{}, nil, err
		}
		if len(p.Data) == 0 {
			return p.Sources[0], nil, nil
		}
		return p.Sources[0], p.Data[0], nil
	}
	search := []byte(`{"query":"milk"}`)
	work := querying.Sources{Peers: []string{"work"}}
	return map[string]func(querying.Caller) (querying.Source, json.RawMessage, error){
		"list": func(c querying.Caller) (querying.Source, json.RawMessage, error) {
			return first(s.List(ctx, c, "work", "tasks", querying.ListParams{}))
		},
		"search": func(c querying.Caller) (querying.Source, json.RawMessage, error) {
			return first(s.Search(ctx, c, "work", "tasks", search))
		},
		"get": func(c querying.Caller) (querying.Source, json.RawMessage, error) {
			row, err := s.Get(ctx, c, "work", "tasks", rowID)
			if err != nil {
				return querying.Source{}, nil, err
			}
			return row.Sources[0], row.Data, nil
		},
		"list across": func(c querying.Caller) (querying.Source, json.RawMessage, error) {
			return first(s.ListAcross(ctx, c, "tasks", work, querying.ListParams{Limit: "7"}))
		},
		"search across": func(c querying.Caller) (querying.Source, json.RawMessage, error) {
			return first(s.SearchAcross(ctx, c, "notes", work, search))
		},
	}
}

// wantShown asks in every way, and wants the row with this title and status.
func (m *remembering) wantShown(title, status string) {
	m.t.Helper()
	for name, ask := range m.ways() {
		source, row, err := ask(m.caller())
		if err != nil || source.Status != status || source.Name != "work" || source.Rows != 1 || !strings.Contains(string(row), `"`+title+`"`) {
			m.t.Errorf("%s: %v %+v %s, want %s %q", name, err, source, row, status, title)
		}
	}
}

// wantNothing asks in every way, and wants no row and this error.
func (m *remembering) wantNothing(want error) {
	m.t.Helper()
	for name, ask := range m.ways() {
		source, row, err := ask(m.caller())
		if row != nil || !strings.HasSuffix(name, "across") && !errors.Is(err, want) || strings.HasSuffix(name, "across") && source.Status != querying.StatusOf(want) {
			m.t.Errorf("%s: %v %+v %s, want %v", name, err, source, row, want)
		}
	}
}
