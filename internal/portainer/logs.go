package portainer

import (
	"cmp"
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/mosaicstack/gateway/internal/fault"
)

// Line is one line of a service's log.
type Line struct {
	Time    time.Time `json:"time"`
	Service string    `json:"service"`
	Task    string    `json:"task"`
	Stream  string    `json:"stream"` // stdout or stderr
	Text    string    `json:"text"`
	Cut     int64     `json:"cut_bytes,omitempty"` // that were too many for one line
}

// LogOptions says which lines are wanted.
type LogOptions struct {
	Service string // by name or id; empty for all of the stack
	Tail    int    // lines of each service; zero for all there are
	Follow  bool   // goes on until ctx ends
	// Notice is told, in a sentence, what somebody who reads a log has to know of its gaps. It may be called by
	// several goroutines.
	Notice func(string)
}

// Logs gives out the lines of a stack's services, ordered by time unless they are followed. It returns the error of
// emit as it is, and nil when ctx ends while it follows.
func (c *Client) Logs(ctx context.Context, s Stack, o LogOptions, emit func(Line) error) error {
	services, err := c.logged(ctx, s, o.Service)
	if err != nil {
		return err
	}
	tasks, err := c.tasks(ctx, s)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	tails := make([]*tail, len(services))
	for i, w := range services {
		tails[i] = newTail(c, s, c.service(s, w, tasks), o, tasks)
	}
	if !o.Follow {
		return merged(ctx, tails, emit)
	}
	var one sync.Mutex
	var group sync.WaitGroup
	errs := make([]error, len(tails))
	for i, t := range tails {
		group.Go(func() {
			errs[i] = t.follow(ctx, func(l Line) error {
				one.Lock()
				defer one.Unlock()
				return emit(l)
			})
			if errs[i] != nil {
				cancel() // half of what was asked for would look like all of it
			}
		})
	}
	group.Wait()
	return cmp.Or(errs...)
}

// logged finds the services whose logs are wanted.
func (c *Client) logged(ctx context.Context, s Stack, which string) ([]wireService, error) {
	all, err := c.services(ctx, s)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, ErrServiceUnknown.With("the stack %q runs no services: it is %s", s.Name, s.Status).Advise("see: mosaic stack status %s", s.Name)
	}
	slices.SortFunc(all, func(a, b wireService) int { return strings.Compare(a.Spec.Name, b.Spec.Name) })
	if which == "" {
		return all, nil
	}
	names := make([]string, len(all))
	for i, w := range all {
		names[i] = strings.TrimPrefix(w.Spec.Name, s.Name+"_")
		if which == names[i] || which == w.Spec.Name || which == w.ID {
			return all[i : i+1], nil
		}
	}
	return nil, ErrServiceUnknown.With("the stack %q has no service %q: it has %s", s.Name, which, cut(strings.Join(names, ", ")))
}

// merged gives out the lines of several logs, the oldest first. Each is read as far ahead as a channel is long.
func merged(ctx context.Context, tails []*tail, emit func(Line) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type source struct {
		lines chan Line
		err   error // once lines is closed
		head  *Line
	}
	sources := make([]*source, len(tails))
	for i, t := range tails {
		src := &source{lines: make(chan Line, 64)}
		sources[i] = src
		go func() {
			defer close(src.lines)
			src.err = t.once(ctx, func(l Line) error {
				select {
				case src.lines <- l:
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			})
		}()
	}
	var failed error
	for {
		var oldest *source
		for _, src := range sources {
			if src.head == nil {
				l, ok := <-src.lines
				if !ok {
					failed = cmp.Or(failed, src.err)
					continue
				}
				src.head = &l
			}
			if oldest == nil || src.head.Time.Before(oldest.head.Time) {
				oldest = src
			}
		}
		if oldest == nil {
			return failed // after what there is: it may say why
		}
		if err := emit(*oldest.head); err != nil {
			return err
		}
		oldest.head = nil
	}
}

// tail reads the log of one service.
type tail struct {
	c       *Client
	stack   Stack
	service Service
	o       LogOptions
	tasks   map[string]string    // names by id; empty for one that nobody knows
	parts   map[string]*partLine // lines that have begun, by task and stream
	seen    seen
	last    time.Time // of the last line given out; for lines that have no time
}

type partLine struct {
	line Line
	text []byte
}

// maxTasks bounds what is remembered of a service's tasks.
const maxTasks = 4096

func newTail(c *Client, s Stack, service Service, o LogOptions, tasks []wireTask) *tail {
	if o.Notice == nil {
		o.Notice = func(string) {}
	}
	t := &tail{c: c, stack: s, service: service, o: o, tasks: map[string]string{}, parts: map[string]*partLine{}, seen: seen{}}
	for _, w := range tasks {
		if w.ServiceID == service.ID {
			t.tasks[w.ID] = taskName(service.Name, w)
		}
	}
	return t
}

// once reads what there is.
func (t *tail) once(ctx context.Context, emit func(Line) error) error {
	err := t.read(ctx, t.question(), emit)
	if err != nil && !errors.Is(err, ErrLogIncomplete) {
		return err
	}
	return cmp.Or(t.rest(emit), err)
}

func (t *tail) question() url.Values {
	q := url.Values{"stdout": {"1"}, "stderr": {"1"}, "timestamps": {"1"}, "details": {"1"}, "tail": {"all"}}
	if t.o.Tail > 0 {
		q.Set("tail", strconv.Itoa(t.o.Tail))
	}
	if t.o.Follow {
		q.Set("follow", "1")
	}
	return q
}

// read asks once, and gives out lines until the answer ends. That Docker could not read all of it is
// ErrLogIncomplete, at the end.
func (t *tail) read(ctx context.Context, q url.Values, emit func(Line) error) error {
	limited, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// What is followed may be silent for days, and older versions of Docker send not even a header before the first
	// line. Whether somebody is there, TCP's keep-alive finds out.
	waiting := func(bool) {}
	if !t.o.Follow {
		late := time.AfterFunc(t.c.timeout, func() { cancel(context.DeadlineExceeded) })
		defer late.Stop()
		waiting = func(on bool) {
			if late.Stop(); on { // not while somebody reads what was given out
				late.Reset(t.c.timeout)
			}
		}
	}
	r := call{method: http.MethodGet, path: dockerPath(t.stack.EndpointID, "/services/"+url.PathEscape(t.service.ID)+"/logs"), query: q, docker: true, hide: t.stack.Env}
	failed := func(err error) error {
		if cause := context.Cause(limited); ctx.Err() == nil && cause != nil {
			err = cause
		}
		return t.c.failed(ctx, r, err)
	}
	resp, err := t.c.open(ctx, limited, r)
	if err != nil {
		if ctx.Err() == nil && context.Cause(limited) != nil {
			return failed(err)
		}
		return err
	}
	defer resp.Body.Close()
	// From API 1.42 on the answer says which form it has; before, it is that of the container.
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	var log chunks = newFrames(resp.Body)
	switch {
	case kind == "text/html":
		return ErrAnswer.With("%s answered a question for a log with a page", t.c.name)
	case t.service.tty && kind != "application/vnd.docker.multiplexed-stream":
		log = newRawLines(resp.Body)
	}
	var incomplete error
	for {
		waiting(true)
		part, err := log.next()
		waiting(false)
		switch {
		case errors.Is(err, io.EOF) && ctx.Err() == nil:
			return incomplete
		case errors.Is(err, ErrLogMalformed):
			return err
		case err != nil:
			return failed(err)
		}
		if part.stream == streamSystem {
			says := t.c.words(strings.TrimSpace(string(part.text)), t.stack.Env)
			incomplete = ErrLogIncomplete.With("Docker could not give the whole log of %s: %s", t.service.Name, says)
			if t.o.Follow {
				t.o.Notice(incomplete.Error())
			}
			continue
		}
		if err := t.take(ctx, part, emit); err != nil {
			return err
		}
	}
}

// take gives out the line that a chunk ends. A container's longer lines come in several.
func (t *tail) take(ctx context.Context, part chunk, emit func(Line) error) error {
	m := parse(part.text)
	stream := "stdout"
	if part.stream == streamStderr {
		stream = "stderr"
	}
	key := m.task + " " + stream
	if !m.at.IsZero() && !t.seen.accept(key, m.at) {
		return nil
	}
	if len(t.seen) > 2*maxTasks {
		return ErrLogMalformed.Because(errors.New("it names more tasks than a service has"))
	}
	text, ended := bytesCutEnd(m.text)
	p := t.parts[key]
	if p == nil {
		if m.at.IsZero() {
			m.at = t.last
		}
		t.last = m.at
		p = &partLine{line: Line{Time: m.at, Service: t.service.Name, Task: t.task(ctx, m), Stream: stream}}
	}
	room := min(len(text), maxChunk-len(p.text))
	p.text = append(p.text, text[:room]...)
	p.line.Cut += part.cut + int64(len(text)-room)
	if !ended && part.cut == 0 {
		t.parts[key] = p
		return nil
	}
	delete(t.parts, key)
	p.line.Text = string(p.text)
	return emit(p.line)
}

// rest gives out the lines that have begun and will not be ended.
func (t *tail) rest(emit func(Line) error) error {
	for key, p := range t.parts {
		delete(t.parts, key)
		p.line.Text = string(p.text)
		if err := emit(p.line); err != nil {
			return err
		}
	}
	return nil
}

// bytesCutEnd takes off a line's end, of a terminal's as well.
func bytesCutEnd(text []byte) (line []byte, ended bool) {
	n := len(text)
	if n == 0 || text[n-1] != '\n' {
		return text, false
	}
	n--
	for n > 0 && text[n-1] == '\r' {
		n--
	}
	return text[:n], true
}

// task is what people call the task a message is from. One that has begun since is asked for, once.
func (t *tail) task(ctx context.Context, m message) string {
	if m.task == "" {
		return t.service.Name
	}
	name, known := t.tasks[m.task]
	if !known && len(t.tasks) < maxTasks {
		var w wireTask
		path := dockerPath(t.stack.EndpointID, "/tasks/"+url.PathEscape(m.task))
		if err := t.c.do(ctx, call{method: http.MethodGet, path: path, docker: true}, &w); err == nil && w.ServiceID == t.service.ID {
			name = taskName(t.service.Name, w)
		}
		t.tasks[m.task] = name
	}
	return cmp.Or(name, t.service.Name+"."+short(m.task))
}

// lasting tells whether asking again would change nothing.
func lasting(err error) bool {
	var f *fault.Fault
	if !errors.As(err, &f) {
		return true // what emit said, or a bug
	}
	for _, passing := range []error{ErrUnreachable, ErrTimeout, ErrConnectionLost, ErrAnswer, ErrFailed, ErrDockerFailed, ErrLogIncomplete} {
		if errors.Is(err, passing) {
			return false
		}
	}
	return true
}
