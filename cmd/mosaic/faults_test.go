package main

import (
	"net"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

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
