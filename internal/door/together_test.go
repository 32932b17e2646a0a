package door

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"
)

// wire is a connection that keeps what is written to it, write by write.
type wire struct {
	net.Conn
	writes [][]byte
	fails  error
	closed bool
}

func (w *wire) Write(b []byte) (int, error) {
	if w.fails != nil {
		return 0, w.fails
	}
	w.writes = append(w.writes, bytes.Clone(b))
	return len(b), nil
}

func (w *wire) Close() error { w.closed = true; return nil }

func held(w *wire) *Conn {
	return newConn(Listen(nil, Config{Log: slog.New(slog.DiscardHandler), Now: time.Now}), w, client{})
}

func TestAnAnswerLeavesInOnePiece(t *testing.T) {
	t.Parallel()
	w := &wire{}
	c := held(w)
	for range 2 { // the second has the memory of the first
		w.writes = nil
		c.Together(func() {
			for _, part := range []string{"record one, ", "record two, ", "record three"} {
				if n, err := c.Write([]byte(part)); n != len(part) || err != nil {
					t.Fatalf("%d, %v", n, err)
				}
			}
		})
		if len(w.writes) != 1 || string(w.writes[0]) != "record one, record two, record three" {
			t.Errorf("%q", w.writes)
		}
	}
	w.writes = nil
	_, _ = c.Write([]byte("a"))
	_, _ = c.Write([]byte("b"))
	if len(w.writes) != 2 {
		t.Errorf("afterwards writes are still kept: %q", w.writes)
	}
}

func TestALongAnswerIsNotKept(t *testing.T) {
	t.Parallel()
	w := &wire{}
	c := held(w)
	record := bytes.Repeat([]byte("x"), 16<<10)
	c.Together(func() {
		for range 64 {
			_, _ = c.Write(record)
			if len(c.out.kept) > mostTogether {
				t.Fatalf("%d bytes are kept", len(c.out.kept))
			}
		}
	})
	if got := len(bytes.Join(w.writes, nil)); got != 64*len(record) {
		t.Errorf("%d bytes arrived", got)
	}
}

func TestAnAnswerThatCannotBeSentEndsTheConnection(t *testing.T) {
	t.Parallel()
	w := &wire{fails: errors.New("gone")}
	c := held(w)
	c.Together(func() { _, _ = c.Write([]byte("a")) })
	if !w.closed {
		t.Error("the connection goes on, and its client has a part of an answer")
	}
}

// TestSomebodyElseMayWriteMeanwhile: crypto/tls sends an alert from the goroutine that closes.
func TestSomebodyElseMayWriteMeanwhile(t *testing.T) {
	t.Parallel()
	w := &wire{}
	c := held(w)
	var wg sync.WaitGroup
	wg.Go(func() {
		for range 1000 {
			_, _ = c.Write([]byte("alert"))
		}
	})
	for range 1000 {
		c.Together(func() { _, _ = c.Write([]byte("other")) })
	}
	wg.Wait()
	if got := len(bytes.Join(w.writes, nil)); got != 2000*5 {
		t.Errorf("%d bytes arrived", got)
	}
}
