package fedapi_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	h2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/mosaicstack/gateway/internal/door"
	"github.com/mosaicstack/gateway/internal/fedapi"
)

// TestAStormOfResetsCostsTheStormer is CVE-2023-44487: requests that are reset as soon as they are made, so that
// no limit on streams is ever met. It runs alone, because it measures the process.
func TestAStormOfResetsCostsTheStormer(t *testing.T) { //nolint:paralleltest // measures the process
	g := newGateway(t)
	cert, _ := g.enrol("ada@example.org")
	other := g.bystander()
	before := measure()
	const bound = 32 << 20 // the sockets take some of it when nobody reads any more
	other.watch(func() {
		for range torture(20, 1) {
			f := g.framer(cert)
			drained := make(chan struct{})
			go func() { f.drain(); close(drained) }()
			stream := uint32(1)
			ended := f.flood(bound, func() error {
				err := errors.Join(f.tryGet(stream, fedapi.Base+"/resources/tasks"), f.WriteRSTStream(stream, h2.ErrCodeCancel))
				stream += 2
				return err
			})
			if !ended {
				t.Errorf("%d requests were reset in %d bytes and the connection is open", stream/2, f.sent.n)
			}
			_ = f.conn.NetConn().Close()
			<-drained
		}
	})
	before.wantWithin(t, "after the storm", 32, 300)
}

// TestARequestThatIsResetCostsNoDatabaseConnection resets requests while their statements run: a statement that is
// cut off would take its connection with it, and everybody would wait for the pool to dial.
func TestARequestThatIsResetCostsNoDatabaseConnection(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	cert, _ := g.enrol("ada@example.org")
	f := g.framer(cert)
	f.get(1, list)
	f.status(1) // the plan is known
	for round := range uint32(3) {
		tx, err := g.pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = tx.Rollback(context.Background()) }()
		if _, err := tx.Exec(t.Context(), `LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE`); err != nil {
			t.Fatal(err)
		}
		const asked = 3
		for i := range uint32(asked) {
			f.get(3+2*(asked*round+i), list)
		}
		eventually(t, "the statements wait for the table", func() bool { return g.pool.Stat().AcquiredConns() == asked+1 })
		for i := range uint32(asked) {
			if err := f.WriteRSTStream(3+2*(asked*round+i), h2.ErrCodeCancel); err != nil {
				t.Fatal(err)
			}
		}
		var pong bool
		if err := f.WritePing(false, [8]byte{byte(round)}); err != nil {
			t.Fatal(err)
		}
		for !pong { // the resets are read once the ping behind them is answered
			frame, err := f.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			_, pong = frame.(*h2.PingFrame)
		}
		_ = tx.Rollback(t.Context())
		eventually(t, "the statements have ended", func() bool { return g.pool.Stat().AcquiredConns() == 0 })
	}
	stat := g.pool.Stat()
	if lost := stat.NewConnsCount() - int64(stat.TotalConns()); lost > 0 {
		t.Errorf("%d connections to the database were lost to 9 requests that were reset", lost)
	}
	if n := g.count(`SELECT count(*) FROM federation_audit_log WHERE verb = 'list' AND outcome = 'ok'`); n != 10 {
		t.Errorf("%d of 10 requests are on record", n)
	}
}

// TestFloodsOfFramesEnd sends what costs the sender nothing, without an end.
func TestFloodsOfFramesEnd(t *testing.T) {
	t.Parallel()
	g := newGateway(t, func(g *gateway) { g.bounds.BytesPerRequest = 16 << 10 })
	cert, _ := g.enrol("ada@example.org")
	other := g.bystander()
	fragment := []byte(strings.Repeat("\x00\x01a\x7f\x80\x01"+strings.Repeat("v", 255), 40)) // header fields that are kept nowhere
	tests := []struct {
		name  string
		reads bool // whether the client reads what comes back
		begin func(*framer) error
		write func(*framer) error
	}{
		{"pings", true, nil, func(f *framer) error { return f.WritePing(false, [8]byte{}) }},
		{"pings, answers unread", false, nil, func(f *framer) error { return f.WritePing(false, [8]byte{}) }},
		{"settings", true, nil, func(f *framer) error { return f.WriteSettings() }},
		{"settings, answers unread", false, nil, func(f *framer) error { return f.WriteSettings() }},
		{"settings that change the table", true, nil, func(f *framer) error {
			return f.WriteSettings(h2.Setting{ID: h2.SettingHeaderTableSize, Val: 1 << 31}, h2.Setting{ID: h2.SettingInitialWindowSize, Val: 1 << 20})
		}},
		{"windows", true, nil, func(f *framer) error { return f.WriteWindowUpdate(0, 1) }},
		{"priorities", true, nil, func(f *framer) error { return f.WritePriority(1, h2.PriorityParam{StreamDep: 3, Weight: 7}) }},
		{"frames of no known type", true, nil, func(f *framer) error { return f.WriteRawFrame(0xbe, 0, 0, make([]byte, 1<<10)) }},
		{
			"a header without end", true,
			func(f *framer) error {
				return f.WriteHeaders(h2.HeadersFrameParam{StreamID: 1, BlockFragment: f.headers(capabilities), EndStream: true})
			},
			func(f *framer) error { return f.WriteContinuation(1, false, fragment) },
		},
		{
			"a header of empty continuations", true,
			func(f *framer) error {
				return f.WriteHeaders(h2.HeadersFrameParam{StreamID: 1, BlockFragment: f.headers(capabilities), EndStream: true})
			},
			func(f *framer) error { return f.WriteContinuation(1, false, nil) },
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			other.watch(func() {
				f := g.framer(cert)
				drained := make(chan struct{})
				go func() {
					if tt.reads {
						f.drain()
					}
					close(drained)
				}()
				if tt.begin != nil {
					if err := tt.begin(f); err != nil {
						t.Fatal(err)
					}
				}
				// The bound is that of door.Bounds, with room for what the sockets' buffers take.
				if !f.flood(16<<20, func() error { return tt.write(f) }) {
					t.Errorf("%d bytes were taken and the connection is open", f.sent.n)
				}
				_ = f.conn.NetConn().Close()
				<-drained
			})
		})
	}
	if g.refused.of(door.Flood) == 0 {
		t.Error("no connection was ended by the door")
	}
}

// TestAHeaderThatUnpacksToMuchIsRefused sends an entry once and its index thousands of times: little to send, much
// to keep (an HPACK bomb).
func TestAHeaderThatUnpacksToMuchIsRefused(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	cert, _ := g.enrol("ada@example.org")
	f := g.framer(cert)
	bomb := hpack.HeaderField{Name: "x-bomb", Value: strings.Repeat("b", 3<<10)}
	f.get(1, capabilities, bomb)
	if got := f.status(1); got != "200" {
		t.Fatalf("a header of 3 KiB: %s", got)
	}
	many := make([]hpack.HeaderField, 4000) // 12 MiB unpacked, 4 kB packed
	for i := range many {
		many[i] = bomb
	}
	f.get(3, capabilities, many...)
	if got := f.status(3); got != "431" {
		t.Errorf("12 MiB of header in %d bytes: %s, want 431", f.sent.n, got)
	}
}

func TestAStalledWindowEndsWithTheWriteDeadline(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	cert, _ := g.enrol("ada@example.org")
	other := g.bystander()
	g.fill("ada@example.org")
	f := g.framer(cert)
	f.get(1, capabilities)
	f.status(1)
	g.clock.ahead.Store(int64(-9 * time.Second)) // of the 10 s one is left
	other.during(func() {
		f.get(3, list)
		f.wait(func() bool { _, reset := f.resets[3]; return reset })
		if f.statuses[3] != "200" {
			t.Errorf("status %q", f.statuses[3])
		}
	}, other.kept)
	f.get(5, capabilities)
	if got := f.status(5); got != "200" {
		t.Errorf("the next request of the connection: %s", got)
	}
}

func TestAnOldConnectionEndsWithoutLosingARequest(t *testing.T) {
	t.Parallel()
	g := newGateway(t, func(g *gateway) { g.bounds.Lifetime = time.Nanosecond })
	cert, made := g.enrol("ada@example.org")
	for _, version := range []string{http1, http2} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			c := g.client(g.presenting(cert), version)
			for range 20 {
				a := g.get(c, capabilities)
				if got := a.grantID(t); got != made.ID.String() {
					t.Fatalf("speaks for %s", got)
				}
				if a.reused && version == http1 {
					t.Error("the connection was used again after its life")
				}
			}
		})
	}
	f := g.framer(cert)
	f.get(1, capabilities)
	f.wait(func() bool { return f.goAway != nil })
	if *f.goAway != h2.ErrCodeNo {
		t.Errorf("told to go with %s, want a graceful end", *f.goAway)
	}
}
