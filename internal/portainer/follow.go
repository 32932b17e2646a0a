package portainer

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

const (
	// overlap is how far back a log is read again after its connection was lost: a line of one node may come that
	// much later than the last line of another.
	overlap = time.Minute
	// maxTries in a row that come to nothing end a log that is followed.
	maxTries = 8
	maxPause = 15 * time.Second
)

// follow gives out lines until ctx ends, or the service is gone. A connection that ends is taken up again where it
// ended, which Notice is told; no line is shown twice for that, and none left out that comes within overlap.
func (t *tail) follow(ctx context.Context, emit func(Line) error) error {
	q := t.question()
	pause, tries := t.c.pause, 0
	for {
		lines, began := 0, time.Now()
		err := t.read(ctx, q, func(l Line) error {
			lines++
			return emit(l)
		})
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && lasting(err) && !errors.Is(err, ErrNotFound):
			return err
		}
		gone, errGone := t.gone(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case gone:
			t.o.Notice(fmt.Sprintf("the service %s was removed", t.service.Name))
			return t.rest(emit)
		case err == nil:
			err = errGone
		}
		if tries++; lines > 0 || time.Since(began) > maxPause {
			pause, tries = t.c.pause, 1 // it was a connection: many proxies end one that is silent for a minute
		}
		if err != nil && (lasting(err) || tries >= maxTries) {
			return err
		}
		from := t.seen.rewind()
		if !from.IsZero() { // else nothing was shown yet, and the first question is still the right one
			from = from.Add(-overlap)
			q.Set("tail", "all")
			q.Set("since", fmt.Sprintf("%d.%09d", from.Unix(), from.Nanosecond()))
		}
		t.o.Notice(t.interrupted(err))
		if err := wait(ctx, pause); err != nil {
			return nil
		}
		pause = min(2*pause, maxPause)
	}
}

// interrupted says what happened, and from where the log goes on.
func (t *tail) interrupted(err error) string {
	why := "the connection of the log of " + t.service.Name + " ended"
	if err != nil {
		why = "the log of " + t.service.Name + " was interrupted: " + err.Error()
	}
	if last := t.seen.last(); !last.IsZero() {
		return why + "; reading on after the line of " + last.Format(time.RFC3339Nano)
	}
	return why + "; asking again"
}

// gone tells whether the service is no longer there.
func (t *tail) gone(ctx context.Context) (bool, error) {
	var w wireService
	path := dockerPath(t.stack.EndpointID, "/services/"+url.PathEscape(t.service.ID))
	err := t.c.do(ctx, call{method: http.MethodGet, path: path, docker: true, hide: t.stack.Env}, &w)
	if errors.Is(err, ErrNotFound) {
		return true, nil
	}
	return false, err
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// seen remembers, for each stream of each task, how far it was read. Within one, times never go back; and the parts
// of a long line have the same time, so that they are counted.
type seen map[string]*position

type position struct {
	at    time.Time
	count int  // of messages with exactly this time
	again bool // what was read already is coming again
	skip  int  // of those with this time, how many are still to come
}

// accept tells whether a message is a new one.
func (s seen) accept(key string, at time.Time) bool {
	p := s[key]
	if p == nil {
		s[key] = &position{at: at, count: 1}
		return true
	}
	if p.again {
		switch {
		case at.Before(p.at):
			return false
		case at.Equal(p.at) && p.skip > 0:
			p.skip--
			return false
		}
		p.again = false
	}
	switch {
	case at.After(p.at):
		p.at, p.count = at, 1
	case at.Equal(p.at):
		p.count++
	}
	return true
}

// rewind makes ready for messages that were read already, and returns the time of the newest.
func (s seen) rewind() time.Time {
	for _, p := range s {
		p.again, p.skip = true, p.count
	}
	return s.last()
}

func (s seen) last() time.Time {
	var newest time.Time
	for _, p := range s {
		if p.at.After(newest) {
			newest = p.at
		}
	}
	return newest
}
