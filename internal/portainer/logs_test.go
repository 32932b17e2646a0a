package portainer_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mosaicstack/gateway/internal/portainer"
	"github.com/mosaicstack/gateway/internal/portainer/portainertest"
)

// collect reads logs and writes each line as "time task stream text".
func collect(t *testing.T, p *portainer.Client, s portainer.Stack, o portainer.LogOptions) ([]string, error) {
	t.Helper()
	var got []string
	err := p.Logs(t.Context(), s, o, func(l portainer.Line) error {
		got = append(got, written(l))
		return nil
	})
	return got, err
}

func written(l portainer.Line) string {
	text := fmt.Sprintf("%s %s %s %s", l.Time.Format("05"), l.Task, l.Stream, l.Text)
	if l.Cut > 0 {
		text += fmt.Sprintf(" +%d", l.Cut)
	}
	return text
}

// second is a time within the minute of all tests.
func second(n int) string { return fmt.Sprintf("2026-03-01T12:00:%02dZ", n) }

func TestLogsOfSeveralServicesAreInOneOrder(t *testing.T) {
	t.Parallel()
	s := start(t, false)
	s.Logs = func(w http.ResponseWriter, r *http.Request, service string) {
		for key, want := range map[string]string{"tail": "5", "stdout": "1", "stderr": "1", "timestamps": "1", "details": "1", "follow": ""} {
			if got := r.URL.Query().Get(key); got != want {
				t.Errorf("%s is %q", key, got)
			}
		}
		switch service {
		case "gateway":
			for n := 1; n < 9; n += 3 {
				_, _ = w.Write(portainertest.Frame(1+byte(n%2), portainertest.Message(second(n), "task-gateway", "g")))
			}
			// A part of a line, then the rest of it.
			_, _ = w.Write(portainertest.Frame(1, portainertest.Part(second(8), "task-gateway-2", "be")))
			_, _ = w.Write(portainertest.Frame(2, portainertest.Message(second(8), "task-gateway-2", "err")))
			_, _ = w.Write(portainertest.Frame(1, portainertest.Message(second(8), "task-gateway-2", "gun")))
		case "postgres": // a terminal: no frames
			_, _ = io.WriteString(w, portainertest.Part(second(2), "task-postgres", "p\r\n")+portainertest.Part(second(5), "unknown-task-of-it", "no end"))
		case "migrate":
			w.WriteHeader(200)
		}
	}
	p := client(t, s.URL)
	got, err := collect(t, p, stack(t, p), portainer.LogOptions{Tail: 5})
	want := []string{
		"01 gateway.1 stderr g", "02 postgres.w1mv5qkzbh0x stdout p", "04 gateway.1 stdout g", "05 postgres.unknown-task stdout no end",
		"07 gateway.1 stderr g", "08 gateway.2 stderr err", "08 gateway.2 stdout begun",
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v\n%s", err, strings.Join(got, "\n"))
	}
}

func TestOneServicesLogIsFoundByNameOrID(t *testing.T) {
	t.Parallel()
	s := start(t, false)
	p := client(t, s.URL)
	st := stack(t, p)
	for _, name := range []string{"gateway", "mosaic_gateway"} {
		if got, err := collect(t, p, st, portainer.LogOptions{Service: name}); err != nil || !slices.Equal(got, []string{"00 gateway.1 stdout hello from gateway"}) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	_, err := collect(t, p, st, portainer.LogOptions{Service: "web"}) // of another stack
	if !errors.Is(err, portainer.ErrServiceUnknown) || !strings.Contains(err.Error(), "gateway, migrate, postgres") {
		t.Errorf("%v", err)
	}
	s.SetServices("[]")
	if _, err := collect(t, p, st, portainer.LogOptions{}); !errors.Is(err, portainer.ErrServiceUnknown) {
		t.Errorf("without services: %v", err)
	}
}

func TestALogThatEndsEarlyIsNotTakenForAWhole(t *testing.T) {
	t.Parallel()
	first := portainertest.Frame(1, portainertest.Message(second(1), "task-gateway", "one"))
	for name, tt := range map[string]struct {
		more func(w http.ResponseWriter, r *http.Request)
		want error
	}{
		"within a frame": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(portainertest.Frame(1, "unfinished")[:12])
		}, portainer.ErrConnectionLost},
		"a broken answer": {func(w http.ResponseWriter, _ *http.Request) { w.(http.Flusher).Flush(); panic(http.ErrAbortHandler) }, portainer.ErrConnectionLost},
		"Docker cannot": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(portainertest.Frame(3, "Error grabbing logs: node n2 is down\n"))
		}, portainer.ErrLogIncomplete},
		"what is no frame": {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "502 Bad Gateway") }, portainer.ErrLogMalformed},
		"nothing any more": {func(w http.ResponseWriter, r *http.Request) { w.(http.Flusher).Flush(); <-r.Context().Done() }, portainer.ErrTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, false)
			s.Logs = func(w http.ResponseWriter, r *http.Request, _ string) {
				_, _ = w.Write(first)
				tt.more(w, r)
			}
			p := client(t, s.URL, func(c *portainer.Config) {
				if tt.want == portainer.ErrTimeout {
					c.Timeout = time.Second
				}
			})
			got, err := collect(t, p, stack(t, p), portainer.LogOptions{Service: "gateway"})
			if !errors.Is(err, tt.want) || !slices.Equal(got, []string{"01 gateway.1 stdout one"}) {
				t.Errorf("%v, %v", got, err)
			}
		})
	}
}

func TestALineLongerThanAnybodyReadsIsCutVisibly(t *testing.T) {
	t.Parallel()
	s := start(t, false)
	s.Logs = func(w http.ResponseWriter, _ *http.Request, _ string) {
		for range 9 { // Docker's own parts
			_, _ = w.Write(portainertest.Frame(1, portainertest.Part(second(1), "task-gateway", strings.Repeat("x", 16<<10))))
		}
		_, _ = w.Write(portainertest.Frame(1, portainertest.Message(second(1), "task-gateway", "end")))
		_, _ = w.Write(portainertest.Frame(1, portainertest.Message(second(2), "task-gateway", strings.Repeat("y", 100<<10))))
		_, _ = w.Write(portainertest.Frame(1, portainertest.Message(second(3), "task-gateway", "next")))
	}
	p := client(t, s.URL)
	got, err := collect(t, p, stack(t, p), portainer.LogOptions{Service: "gateway"})
	if err != nil || len(got) != 3 || !strings.HasSuffix(got[0], fmt.Sprintf("xx +%d", 5*(16<<10)+3)) || !strings.Contains(got[1], "yy +") || got[2] != "03 gateway.1 stdout next" {
		t.Errorf("%d lines, %v", len(got), err)
		for _, l := range got {
			t.Logf("%.40s … %s", l, l[max(0, len(l)-20):])
		}
	}
}

// follower reads a log in the background.
type follower struct {
	lines, notices chan string
	done           chan error
	stop           context.CancelFunc
}

func follow(t *testing.T, p *portainer.Client, s portainer.Stack, service string) *follower {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	f := &follower{make(chan string, 1000), make(chan string, 1000), make(chan error, 1), cancel}
	go func() {
		f.done <- p.Logs(ctx, s, portainer.LogOptions{Service: service, Tail: 2, Follow: true, Notice: func(n string) { f.notices <- n }}, func(l portainer.Line) error {
			f.lines <- written(l)
			return nil
		})
	}()
	t.Cleanup(cancel)
	return f
}

func (f *follower) next(t *testing.T, want ...string) {
	t.Helper()
	for _, w := range want {
		select {
		case got := <-f.lines:
			if got != w {
				t.Fatalf("line %q, want %q", got, w)
			}
		case err := <-f.done:
			t.Fatalf("ended with %v before %q", err, w)
		case <-time.After(10 * time.Second):
			t.Fatalf("%q does not come", w)
		}
	}
}

func TestAFollowedLogGoesOnAfterALostConnection(t *testing.T) {
	t.Parallel()
	s := start(t, false)
	var mu sync.Mutex
	var asked []string
	line := func(n int, task, text string) []byte {
		return portainertest.Frame(1, portainertest.Message(second(n), task, text))
	}
	s.Logs = func(w http.ResponseWriter, r *http.Request, _ string) {
		mu.Lock()
		asked = append(asked, r.URL.Query().Get("tail")+" "+r.URL.Query().Get("since")+" "+r.URL.Query().Get("follow"))
		n := len(asked)
		mu.Unlock()
		flush := w.(http.Flusher).Flush
		switch n {
		case 1: // breaks within a message, and within a line of several
			for _, b := range [][]byte{
				line(1, "task-gateway", "one"), line(1, "task-gateway", "one too"), line(3, "task-gateway-2", "three"),
				portainertest.Frame(1, portainertest.Part(second(4), "task-gateway", "be")), line(5, "task-gateway", "five")[:20],
			} {
				_, _ = w.Write(b)
			}
			flush()
			panic(http.ErrAbortHandler)
		case 2: // everything again, and what was missed: a line of one replica that came late as well
			for _, b := range [][]byte{
				line(1, "task-gateway", "one"), line(1, "task-gateway", "one too"), line(2, "task-gateway-3", "late"), line(3, "task-gateway-2", "three"),
				portainertest.Frame(1, portainertest.Part(second(4), "task-gateway", "be")), line(4, "task-gateway", "gun"), line(5, "task-gateway", "five"),
			} {
				_, _ = w.Write(b)
			}
			flush()
			// ends in good order
		case 3: // a proxy has nothing behind it for a moment
			w.WriteHeader(502)
		default:
			_, _ = w.Write(line(5, "task-gateway", "five"))
			_, _ = w.Write(line(6, "task-gateway", "six"))
			flush()
			<-r.Context().Done()
		}
	}
	p := client(t, s.URL)
	f := follow(t, p, stack(t, p), "gateway")
	f.next(t, "01 gateway.1 stdout one", "01 gateway.1 stdout one too", "03 gateway.2 stdout three",
		"02 gateway.2 stdout late", "04 gateway.1 stdout begun", "05 gateway.1 stdout five", "06 gateway.1 stdout six")
	f.stop()
	if err := <-f.done; err != nil {
		t.Errorf("after Ctrl-C: %v", err)
	}
	if len(f.lines) > 0 {
		t.Errorf("and %q", <-f.lines)
	}
	since := func(n int) string { // a minute before
		return fmt.Sprint(time.Date(2026, 3, 1, 11, 59, n, 0, time.UTC).Unix()) + ".000000000"
	}
	want := []string{"2  1", "all " + since(4) + " 1", "all " + since(5) + " 1", "all " + since(5) + " 1"}
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(asked, want) {
		t.Errorf("asked %q, want %q", asked, want)
	}
	for _, w := range []string{"reading on after the line of 2026-03-01T12:00:04Z", "ended; reading on after the line of 2026-03-01T12:00:05Z", "502 Bad Gateway"} {
		if n := <-f.notices; !strings.Contains(n, w) {
			t.Errorf("told %q, want %q", n, w)
		}
	}
}

func TestFollowingEndsWhenThereIsNothingToFollow(t *testing.T) {
	t.Parallel()
	s := start(t, false)
	s.Logs = func(w http.ResponseWriter, _ *http.Request, _ string) {
		_, _ = w.Write(portainertest.Frame(1, portainertest.Message(second(1), "task-gateway", "last words")))
		s.SetServices("[]")
	}
	p := client(t, s.URL)
	f := follow(t, p, stack(t, p), "gateway")
	f.next(t, "01 gateway.1 stdout last words")
	if err := <-f.done; err != nil {
		t.Error(err)
	}
	if n := <-f.notices; n != "the service gateway was removed" {
		t.Errorf("told %q", n)
	}
}

func TestFollowingEndsWhenItCannotGoOn(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		answer func(w http.ResponseWriter)
		want   error
		tries  int
	}{
		"the key is revoked": {func(w http.ResponseWriter) { portainertest.Refuse(w, 401, "Invalid API key", "x") }, portainer.ErrKey, 1},
		"Portainer is away":  {func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, portainer.ErrConnectionLost, 8},
		"Docker cannot": {func(w http.ResponseWriter) {
			_, _ = w.Write(portainertest.Frame(3, "Error grabbing logs: node n2 is down"))
		}, portainer.ErrLogIncomplete, 8},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, false)
			var asked atomic.Int32
			s.Logs = func(w http.ResponseWriter, _ *http.Request, _ string) { asked.Add(1); tt.answer(w) }
			p := client(t, s.URL)
			f := follow(t, p, stack(t, p), "gateway")
			if err, tries := <-f.done, int(asked.Load()); !errors.Is(err, tt.want) || tries != tt.tries {
				t.Errorf("%v after %d tries", err, tries)
			}
			if tt.tries > 1 && len(f.notices) < tt.tries-1 {
				t.Errorf("%d notices", len(f.notices))
			}
		})
	}
}

// The error of one that cannot be followed ends the others: half of what was asked for would look like all of it.
func TestOneServiceThatFailsEndsTheRest(t *testing.T) {
	t.Parallel()
	s := start(t, false)
	s.Logs = func(w http.ResponseWriter, r *http.Request, service string) {
		if service == "postgres" {
			portainertest.Refuse(w, 403, "Access denied to resource", "x")
			return
		}
		<-r.Context().Done()
	}
	p := client(t, s.URL)
	if err := <-follow(t, p, stack(t, p), "").done; !errors.Is(err, portainer.ErrForbidden) {
		t.Error(err)
	}
}

func TestWhoeverCannotWriteEndsTheLog(t *testing.T) {
	t.Parallel()
	full := errors.New("no space left")
	for _, following := range []bool{false, true} {
		s := start(t, false)
		p := client(t, s.URL)
		err := p.Logs(t.Context(), stack(t, p), portainer.LogOptions{Follow: following}, func(portainer.Line) error { return full })
		if !errors.Is(err, full) {
			t.Errorf("follow %v: %v", following, err)
		}
	}
}
