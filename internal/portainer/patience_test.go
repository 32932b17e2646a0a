package portainer

import (
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mosaicstack/gateway/internal/portainer/portainertest"
)

// pouring answers every request with a log that is written while it is read. Like a connection it holds nothing back for
// its reader, and ends with the request.
type pouring func(ctx context.Context, w io.Writer)

func (p pouring) RoundTrip(r *http.Request) (*http.Response, error) {
	body, w := io.Pipe()
	context.AfterFunc(r.Context(), func() { _ = w.CloseWithError(r.Context().Err()) })
	go func() { p(r.Context(), w); _ = w.CloseWithError(r.Context().Err()) }()
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: body, Request: r}, nil
}

// poured reads a log of one service by a clock of the test's, and gives a question a second.
func poured(t *testing.T, p pouring, emit func(Line) error) error {
	t.Helper()
	c, err := New(Config{URL: "https://portainer.example", Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	c.http.Transport = p
	s := Service{ID: "gateway-id", Name: "gateway"}
	return merged(t.Context(), []*tail{newTail(c, Stack{}, s, LogOptions{}, []wireTask{{ID: "task-gateway", ServiceID: s.ID, Slot: 1}})}, emit)
}

func aLine(w io.Writer) {
	_, _ = w.Write(portainertest.Frame(1, portainertest.Message("2026-03-01T12:00:00Z", "task-gateway", "x")))
}

// Somebody who reads slowly, in a pager, is not Portainer being slow: at whichever line they stop, with what was read ahead
// and without.
func TestALogMayBeReadSlowly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const many = 300 // more than is read ahead
		lines := 0
		err := poured(t, func(_ context.Context, w io.Writer) {
			for range many {
				aLine(w)
			}
		}, func(Line) error {
			if lines++; lines%50 == 1 {
				time.Sleep(time.Hour)
			}
			return nil
		})
		if err != nil || lines != many {
			t.Errorf("%d lines, %v", lines, err)
		}
	})
}

// Each line has the time of a question to come, and no more.
func TestALogThatFallsSilentIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const many = 5
		begun, lines := time.Now(), 0
		err := poured(t, func(ctx context.Context, w io.Writer) {
			for range many {
				time.Sleep(900 * time.Millisecond)
				aLine(w)
			}
			<-ctx.Done()
		}, func(Line) error { lines++; return nil })
		if took, want := time.Since(begun), many*900*time.Millisecond+time.Second; !errors.Is(err, ErrTimeout) || lines != many || took != want {
			t.Errorf("%d lines and %v after %s, want %d after %s", lines, err, took, many, want)
		}
	})
}
