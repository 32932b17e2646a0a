package main

import (
	"encoding/json"
	"fmt"
	"net"
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
		{&w.home, filepath.Join(root, "home"), "127.0.0.1", []string{"MOSAIC_PEER_DEADLINE=" + faultDeadline.String()}},
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

// asOftenAsAsked is a grant that is asked as often as these tests do.
var asOftenAsAsked = []string{"--rate", "1000000/min", "--burst", "1000000"}

// rows are the titles that work and lab have, the oldest first: long enough that an answer is more than a few packets.
func rows(name string) []string {
	var titles []string
	for i := range 40 {
		titles = append(titles, fmt.Sprintf("%s-%02d %s", name, i, strings.Repeat(name, 100)))
	}
	return titles
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

// TestFaultsBetweenGateways has one subtest for each thing that can go wrong between two gateways. Its name says what
// goes wrong, and its comment what the user sees.
func TestFaultsBetweenGateways(t *testing.T) {
	t.Parallel()
	w := newFaultWorld(t)
	// Not t.Parallel: they wait more than they work, and the processors are no measure of how many can wait.
	var wg sync.WaitGroup
	for name, scenario := range map[string]func(*testing.T, *faultWorld, *link){
		"slow": slowInTime, "jitter": jittery, "late": tooSlow, "lossy": lossy, "mute": mute, "half-open": halfOpen,
		"refused": refusedAndBack, "swallowed": swallowedAndBack, "trickle": trickle, "narrow": narrow, "cut": cutShort, "revoked": revokedMeanwhile,
	} {
		wg.Go(func() {
			t.Run(name, func(t *testing.T) { scenario(t, w, newLink(t, name, w.home, w.work, tasksOnly)) })
		})
	}
	wg.Wait()
	t.Run("killed", func(t *testing.T) { killedAndRestarted(t, w) })
}

// A peer that is slow but answers in time is whole; the answer takes as long as the peer does.
func slowInTime(t *testing.T, w *faultWorld, l *link) {
	l.answers("latency", map[string]any{"latency": 150})
	for range torture(2, 20) {
		d := w.asker.list(t, l.name+",lab")
		d.whole(t, l)
		if d.took < 150*time.Millisecond {
			t.Errorf("the answer took %s over a link with a latency of 150 ms", d.took)
		}
	}
}

// Answers that come at changing speed, in pieces of changing size, are whole and in order.
func jittery(t *testing.T, w *faultWorld, l *link) {
	l.answers("latency", map[string]any{"latency": 40, "jitter": 39})
	l.answers("slicer", map[string]any{"average_size": 3000, "size_variation": 2900, "delay": 200})
	for range torture(5, 100) {
		w.asker.list(t, l.name+",lab").whole(t, l)
	}
}

// A peer that is slower than the deadline is unreachable (peer_timeout); the answer comes at the deadline, with every
// row of the others. Who asks the others alone meanwhile does not notice.
func tooSlow(t *testing.T, w *faultWorld, l *link) {
	l.answers("latency", map[string]any{"latency": 60_000})
	var wg sync.WaitGroup
	wg.Go(func() {
		if d := w.asker.list(t, "lab"); d.took >= faultDeadline || d.of("lab") != full("lab") {
			t.Errorf("lab alone: %s in %s", d.of("lab"), d.took)
		}
	})
	d := w.asker.list(t, l.name+",lab")
	wg.Wait()
	d.away(t, l, "peer_timeout")
	if d.took < faultDeadline {
		t.Errorf("given up after %s", d.took)
	}
	l.heal()
	w.back(t, l, probeWithin)
}

// Over a link that loses connections at random, a list or a search is whole, because it is repeated, or the peer is
// unreachable. No row comes twice, and none is missing from an answer that is ok.
func lossy(t *testing.T, w *faultWorld, l *link) {
	for _, ask := range []func() manyDoc{
		func() manyDoc { return w.asker.list(t, l.name+",lab") },
		func() manyDoc { return w.asker.search(t, l.name, "work") },
	} {
		ask() // a connection is there
		l.toxic("lose", "upstream", 1, map[string]any{"times": 2})
		if s := ask().source(t, l.name); s.Status != "ok" || s.Rows != 40 {
			t.Errorf("work over a link that lost its first two connections: %+v", s)
		}
		l.heal()
	}
	l.toxic("lose", "upstream", 1, map[string]any{"chance": 0.03})
	l.toxic("lose", "downstream", 1, map[string]any{"chance": 0.03})
	oks, asked := 0, torture(20, 400)
	for i := range asked {
		var d manyDoc
		if i%2 == 0 {
			d = w.asker.list(t, l.name+",lab")
		} else {
			d = w.asker.search(t, l.name, "work")
		}
		switch s := d.source(t, l.name); {
		case s.Status == "ok" && s.Rows == 40 && len(strings.Split(d.of(l.name), ",")) == 40:
			oks++
		case s.Status != "unreachable" || s.Code != "peer_unreachable" || d.of(l.name) != "":
			t.Errorf("work: %+v, rows %s", s, d.of(l.name))
		}
	}
	t.Logf("%d of %d answers are whole", oks, asked)
	l.heal()
	w.back(t, l, probeWithin)
}

// A peer that accepts connections and never says a word is unreachable (peer_timeout), and back at once when it does.
func mute(t *testing.T, w *faultWorld, l *link) {
	l.answers("timeout", map[string]any{"timeout": 0})
	w.asker.list(t, l.name+",lab").away(t, l, "peer_timeout")
	l.heal()
	d := w.asker.list(t, l.name+",lab")
	d.whole(t, l)
}

// A connection whose other end has gone without a word costs one answer: the peer is unreachable (peer_timeout) in
// that, and there in the next, although the old connection is never closed.
func halfOpen(t *testing.T, w *faultWorld, l *link) {
	w.asker.list(t, l.name+",lab").whole(t, l)
	whole := l.half()
	w.asker.list(t, l.name+",lab").away(t, l, "peer_timeout")
	whole()
	d := w.asker.list(t, l.name+",lab")
	d.whole(t, l)
	if d.took >= faultDeadline {
		t.Errorf("the next answer took %s", d.took)
	}
}

// A peer whose machine refuses connections is unreachable at once (peer_unreachable). It is left alone after at most
// 10 tries, and there again within 15 s of being back, without a restart of anything.
func refusedAndBack(t *testing.T, w *faultWorld, l *link) {
	w.asker.list(t, l.name+",lab").whole(t, l)
	l.proxy.Stop()
	for range 4 {
		w.asker.list(t, l.name+",lab").away(t, l, "peer_unreachable")
	}
	// Whether it is left alone shows when somebody listens there: no connection comes.
	listener, err := net.Listen("tcp", l.proxy.Listen)
	if err != nil {
		t.Fatal(err)
	}
	tried := make(chan struct{}, 100)
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			tried <- struct{}{}
			_ = c.Close()
		}
	}()
	for range 4 {
		w.asker.list(t, l.name+",lab").away(t, l, "peer_unreachable")
	}
	_ = listener.Close()
	if n := len(tried); n > 0 {
		t.Errorf("%d connections to a peer that is left alone", n)
	}
	l.heal()
	w.back(t, l, probeWithin)
}

// In a partition that swallows packets the first to ask wait for the deadline, at most 10 of them; after that the peer
// is unreachable at once. Within 15 s of the end of the partition it is there again.
func swallowedAndBack(t *testing.T, w *faultWorld, l *link) {
	w.asker.list(t, l.name+",lab").whole(t, l)
	whole := l.half()
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() { w.asker.list(t, l.name+",lab").away(t, l, "peer_timeout", "peer_unreachable") })
	}
	wg.Wait()
	d := w.asker.list(t, l.name+",lab")
	d.away(t, l, "peer_unreachable")
	if d.took > faultDeadline/2 || d.source(t, l.name).RetryAfter == 0 {
		t.Errorf("a peer that 10 have waited for in vain is waited for again: %s, %+v", d.took, d.Sources)
	}
	whole()
	w.back(t, l, probeWithin)
}

// A peer whose answer drips is unreachable at the deadline (peer_timeout): what came of it is not shown.
func trickle(t *testing.T, w *faultWorld, l *link) {
	w.asker.list(t, l.name+",lab").whole(t, l)
	l.answers("slicer", map[string]any{"average_size": 1, "size_variation": 0, "delay": 1000})
	w.asker.list(t, l.name+",lab").away(t, l, "peer_timeout")
	l.heal()
	w.back(t, l, probeWithin)
}

// Over a narrow link the answer takes its time and is whole; over one too narrow for it, the peer is unreachable.
func narrow(t *testing.T, w *faultWorld, l *link) {
	w.asker.list(t, l.name+",lab").whole(t, l)
	l.answers("bandwidth", map[string]any{"rate": 60})
	w.asker.list(t, l.name+",lab").whole(t, l)
	l.heal()
	l.answers("bandwidth", map[string]any{"rate": 4})
	w.asker.list(t, l.name+",lab").away(t, l, "peer_timeout")
	l.heal()
	w.back(t, l, probeWithin)
}

// A peer whose connections end in the middle of an answer is unreachable (peer_unreachable): half an answer is none.
func cutShort(t *testing.T, w *faultWorld, l *link) {
	l.answers("limit_data", map[string]any{"bytes": 12_000})
	w.asker.list(t, l.name+",lab").away(t, l, "peer_unreachable")
	l.heal()
	w.asker.list(t, l.name+",lab").whole(t, l)
}

// A grant that was revoked while the two gateways could not reach each other is refused when they can: the peer is
// denied, and no row of it is shown.
func revokedMeanwhile(t *testing.T, w *faultWorld, l *link) {
	w.asker.list(t, l.name+",lab").whole(t, l)
	l.proxy.Stop()
	w.asker.list(t, l.name+",lab").away(t, l, "peer_unreachable")
	w.work.mosaic("federation", "grant", "revoke", l.grant.ID)
	l.heal()
	for range 3 {
		d := w.asker.list(t, l.name+",lab")
		if s := d.source(t, l.name); s.Status != "denied" || s.Code != "peer_denied" || d.of(l.name) != "" {
			t.Errorf("after a revoke: %+v, rows %s", s, d.of(l.name))
		}
		d.others(t)
	}
}

// While a peer is killed and not back, it is unreachable and the others go on. When it is back, the cursor of before
// and that of meanwhile both give every row of it exactly once.
func killedAndRestarted(t *testing.T, w *faultWorld) {
	l := newLink(t, "killed", w.home, w.work, tasksOnly)
	first := w.asker.list(t, l.name+",lab", "limit", "15")
	if first.Page.NextCursor == nil {
		t.Fatal("there is no next page")
	}
	if err := w.work.stop(syscall.SIGKILL); err == nil {
		t.Error("killed, and no error")
	}
	meanwhile := w.asker.list(t, l.name+",lab", "limit", "15", "cursor", *first.Page.NextCursor)
	if s := meanwhile.source(t, l.name); s.Status != "unreachable" || meanwhile.source(t, "lab").Status != "ok" || meanwhile.Page.NextCursor == nil {
		t.Fatalf("while work is killed: %+v", meanwhile.Sources)
	}
	startAll(t, []gatewayAt{{&w.work, w.work.dir, "127.0.0.2", nil}})
	again, err := url.Parse(w.work.FederationURL)
	if err != nil {
		t.Fatal(err)
	}
	l.to(again.Host)
	for name, pages := range map[string][]manyDoc{"before": {first}, "meanwhile": {first, meanwhile}} {
		for last := pages[len(pages)-1]; last.Page.NextCursor != nil && len(pages) < 20; pages = append(pages, last) {
			last = w.asker.list(t, l.name+",lab", "limit", "15", "cursor", *last.Page.NextCursor)
			if s := last.source(t, l.name); s.Status != "ok" {
				t.Fatalf("with the cursor of %s: %+v", name, s)
			}
		}
		seen := map[string]int{}
		for _, p := range pages {
			for _, row := range p.Data {
				seen[row.ID]++
			}
		}
		for id, n := range seen {
			if n != 1 {
				t.Errorf("with the cursor of %s: row %s came %d times", name, id, n)
			}
		}
		if len(seen) != 82 {
			t.Errorf("with the cursor of %s: %d rows of 82", name, len(seen))
		}
	}
}
