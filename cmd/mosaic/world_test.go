package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// What one peer gets in these tests, and what an answer may take beyond it.
const (
	faultDeadline = 2 * time.Second
	faultSlack    = 1500 * time.Millisecond // the machine is busy
	probeWithin   = 15 * time.Second        // spec 9: a peer that was away is tried again
)

// faultWorld is three gateways: home asks, work and lab answer. Between home and work is a link of each test's own;
// the way to lab is always good.
type faultWorld struct {
	home, work, lab *gatewayProcess
	asker           asker
}

// asker is ada of home, who asks over the HTTP API.
type asker struct {
	base, token string
	client      *http.Client
}

func newFaultWorld(t *testing.T) *faultWorld {
	t.Helper()
	w := &faultWorld{}
	root := t.TempDir()
	startAll(t, []gatewayAt{
		// Nothing is kept: what is away is seen to be away. What stands in for it otherwise has tests of its own.
		{&w.home, filepath.Join(root, "home"), "127.0.0.1", []string{"MOSAIC_CACHE_TTL=0", "MOSAIC_PEER_DEADLINE=" + faultDeadline.String()}},
		{&w.work, filepath.Join(root, "work"), "127.0.0.2", nil},
		{&w.lab, filepath.Join(root, "lab"), "127.0.0.3", nil},
	})
	w.home.user("ada@home.example", "home-1", "home-2")
	for name, g := range map[string]*gatewayProcess{"work": w.work, "lab": w.lab} {
		g.user("ada@example.org", rows(name)...)
	}
	_, e := w.lab.grantFor("home", "ada@example.org", tasksOnly, asOftenAsAsked...)
	w.home.mosaic("federation", "peer", "add", e.URL, "--name", "lab", "--user", "ada@home.example")
	w.asker = w.home.asker(t, "ada@home.example")
	return w
}

// asOftenAsAsked is a grant that is asked as often as these tests do, and whose answers nobody keeps: what is shown is
// what came over the network.
var asOftenAsAsked = []string{"--rate", "1000000/min", "--burst", "1000000", "--cache-seconds", "0"}

// rows are the titles that work and lab have, the oldest first: long enough that an answer is more than a few packets.
func rows(name string) []string {
	var titles []string
	for i := range 40 {
		titles = append(titles, fmt.Sprintf("%s-%02d %s", name, i, strings.Repeat(name, 100)))
	}
	return titles
}

// in is the same gateway for another test.
func (g *gatewayProcess) in(t *testing.T) *gatewayProcess {
	other := *g
	other.t = t
	return &other
}

// host is the address that the gateway listens on.
func (g *gatewayProcess) host() string {
	u, err := url.Parse(g.URL)
	if err != nil {
		g.t.Fatal(err)
	}
	return u.Hostname()
}

// gatewayAt is a gateway to start on an address of its own.
type gatewayAt struct {
	into    **gatewayProcess
	dir     string
	address string
	env     []string
}

// startAll starts gateways at once and waits for all.
func startAll(t *testing.T, list []gatewayAt) {
	t.Helper()
	var wg sync.WaitGroup
	errs := make([]error, len(list))
	for i, a := range list {
		wg.Go(func() {
			*a.into, errs[i] = launchWith(a.env, a.dir, "--listen", a.address+":0", "--federation-listen", a.address+":0")
		})
	}
	wg.Wait()
	for i, a := range list {
		if errs[i] != nil {
			t.Error(errs[i])
			continue
		}
		(*a.into).t = t
		t.Cleanup(func() { _ = (*a.into).stop(syscall.SIGTERM) })
	}
	t.Cleanup(func() { // all at once: each takes its leave for a while
		for _, a := range list {
			if *a.into != nil {
				_ = (*a.into).cmd.Process.Signal(syscall.SIGTERM)
			}
		}
	})
	if t.Failed() {
		t.FailNow()
	}
}

func (g *gatewayProcess) asker(t *testing.T, user string) asker {
	t.Helper()
	var made struct{ Token string }
	g.decode(&made, "token", "create", "--user", user)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return asker{g.URL, made.Token, &http.Client{Transport: transport}}
}

// manyDoc is an answer of many sources.
type manyDoc struct {
	listDoc
	Sources []sourceDoc
	took    time.Duration
}

type sourceDoc struct {
	Name, Status, Code string
	Rows               int
	RetryAfter         int `json:"retry_after_seconds"`
}

func (d manyDoc) source(t *testing.T, name string) sourceDoc {
	t.Helper()
	for _, s := range d.Sources {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("nothing is said of %s: %+v", name, d.Sources)
	return sourceDoc{}
}

// of are the titles of the rows of one source, shortened, the newest first.
func (d manyDoc) of(name string) string {
	var titles []string
	for _, row := range d.Data {
		if row.Source == name {
			short, _, _ := strings.Cut(row.Title, " ")
			titles = append(titles, short)
		}
	}
	return strings.Join(titles, ",")
}

// list asks for tasks of the named sources and the own rows.
func (a asker) list(t *testing.T, peers string, more ...string) manyDoc {
	t.Helper()
	q := url.Values{"peers": {peers}, "include_local": {"true"}, "limit": {"200"}}
	for i := 0; i+1 < len(more); i += 2 {
		q.Set(more[i], more[i+1])
	}
	return a.do(t, http.MethodGet, "/api/federation/resources/tasks?"+q.Encode(), "")
}

// search looks for a word at the named sources.
func (a asker) search(t *testing.T, peers, query string) manyDoc {
	t.Helper()
	return a.do(t, http.MethodPost, "/api/federation/resources/tasks/search?peers="+peers, jsonBody(t, map[string]any{"query": query, "limit": 200}))
}

func (a asker) do(t *testing.T, method, path, body string) manyDoc {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, a.base+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+a.token)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	begun := time.Now()
	got := do(t, a.client, req)
	if got.Status != http.StatusOK {
		t.Fatalf("%s: %d %s", path, got.Status, got.Body)
	}
	d := manyDoc{took: time.Since(begun)}
	if err := json.Unmarshal(got.Body, &d); err != nil {
		t.Fatalf("%v in %s", err, got.Body)
	}
	return d
}

// full is what of gives of a gateway whose rows are all there.
func full(name string) string {
	var titles []string
	for i := range 40 {
		titles = append(titles, fmt.Sprintf("%s-%02d", name, 39-i))
	}
	return strings.Join(titles, ",")
}

// whole wants an answer in which every source has given every row once.
func (d manyDoc) whole(t *testing.T, l *link) {
	t.Helper()
	if s := d.source(t, l.name); s.Status != "ok" || s.Rows != 40 || d.of(l.name) != full("work") {
		t.Errorf("work: %+v, rows %s", s, d.of(l.name))
	}
	d.others(t)
}

// others wants lab and home whole, and in time: whatever is wrong with work harms work alone.
func (d manyDoc) others(t *testing.T) {
	t.Helper()
	if s := d.source(t, "lab"); s.Status != "ok" || d.of("lab") != full("lab") {
		t.Errorf("lab: %+v, rows %s", s, d.of("lab"))
	}
	if s := d.source(t, "local"); s.Status != "ok" || d.of("local") != "home-2,home-1" {
		t.Errorf("local: %+v, rows %s", s, d.of("local"))
	}
	if d.took > faultDeadline+faultSlack {
		t.Errorf("the answer took %s", d.took)
	}
}

// away wants work unreachable, for one of the named reasons, without a row of it, and the others whole.
func (d manyDoc) away(t *testing.T, l *link, codes ...string) {
	t.Helper()
	s := d.source(t, l.name)
	if s.Status != "unreachable" || !strings.Contains(strings.Join(codes, " "), s.Code) || s.Code == "" || s.Rows != 0 || d.of(l.name) != "" {
		t.Errorf("work: %+v, want it unreachable (%v)", s, codes)
	}
	d.others(t)
}

// back asks until work is whole again, and wants that within a time.
func (w *faultWorld) back(t *testing.T, l *link, within time.Duration) {
	t.Helper()
	begun := time.Now()
	for tick := time.NewTicker(100 * time.Millisecond); ; <-tick.C {
		d := w.asker.list(t, l.name+",lab")
		if d.source(t, l.name).Status == "ok" {
			d.whole(t, l)
			return
		}
		d.others(t)
		if time.Since(begun) > within {
			t.Fatalf("not back %s after the link was whole again: %+v", within, d.Sources)
		}
	}
}
