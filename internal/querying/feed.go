package querying

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/scope"
)

// The statuses of a source.
const (
	StatusOK          = "ok"
	StatusStale       = "stale"        // the peer is away, and these are rows it gave a while ago
	StatusUnreachable = "unreachable"  // it did not answer, or with nothing that can be used
	StatusDenied      = "denied"       // it does not answer this user, or does not have this resource for them
	StatusRateLimited = "rate_limited" // it answers again after retry_after_seconds
)

// Source says how one source of an answer did.
type Source struct {
	Name       string `json:"name"`
	Status     string `json:"status"`
	Code       string `json:"code,omitempty"`                // why it is not ok
	Detail     string `json:"detail,omitempty"`              // the same in words
	Hint       string `json:"hint,omitempty"`                // what to do
	RetryAfter int    `json:"retry_after_seconds,omitempty"` // zero: trying again changes nothing, or can be done at once
	Age        *int   `json:"age_seconds,omitempty"`         // of stale rows: since the peer was asked for them, or to confirm them
	Rows       int    `json:"rows"`                          // of this page

	Search *SearchInfo `json:"search,omitempty"` // how it found its rows
}

// StatusOf puts an error into the few words that a status has.
func StatusOf(err error) string {
	switch k := fault.From(err).Kind; {
	case err == nil:
		return StatusOK
	case k == fault.RateLimited:
		return StatusRateLimited
	case k == fault.Forbidden, k == fault.NotFound, k == fault.Unauthenticated, k == fault.Invalid, k == fault.Gone, k == fault.Conflict:
		return StatusDenied
	}
	return StatusUnreachable
}

// sortKey is a row's place in the order of an answer.
type sortKey struct {
	at time.Time
	id uuid.UUID
}

// before tells whether k comes first: newest updated_at, then the greater id.
func (k sortKey) before(o sortKey) bool {
	if c := k.at.Compare(o.at); c != 0 {
		return c > 0
	}
	return bytes.Compare(k.id[:], o.id[:]) > 0
}

// fetched is one page of a source.
type fetched struct {
	name string  // what the source is called; empty leaves it
	old  *Source // set when the page is stale: what the source said of itself
	rows []json.RawMessage
	next *string // nil: there are no more
}

type fetchFunc func(ctx context.Context, at position, rows int) (fetched, error)

// keyedRow is a row with its place, and the page of the source it came with.
type keyedRow struct {
	sortKey
	row  json.RawMessage
	page string
}

// feed is one source while an answer is put together. What is in the buffer was fetched and not taken yet.
type feed struct {
	position
	fetch   fetchFunc
	rows    int
	timeout time.Duration
	now     func() time.Time

	name     string
	old      *Source // the oldest of what was fetched, when some of it is stale
	buffer   []keyedRow
	cursor   string // of the page to fetch next
	done     bool   // the source has no page after what was fetched
	late     bool   // it has, and there is no time left to fetch it, or there were enough pages for one answer
	begun    bool
	last     sortKey // of the newest fetched row, so far the lowest
	seen     sortKey // the same of all rows, also of those that an earlier answer took: a source must give its rows in order
	took     int
	err      error
	deadline time.Time
	pages    int
	empty    int // pages without a row, in a row
}

// The bounds of what one answer asks a source for. Twenty full pages are the longest answer, and the first and the
// last of them may have been begun by the answers beside it.
const (
	maxPages = 22
	maxEmpty = 2 // pages in a row without a row, before the source is found to say nothing
)

var (
	errDisorder = errors.New("the rows are not in the order of updated_at and id")
	errNoPlace  = errors.New("a row has no id or no updated_at")
	errPages    = errors.New("the source has given enough pages for one answer")
)

// fill fetches pages until the buffer holds something, or the source is at its end or fails. All pages of one
// answer share one deadline. A source that has given rows when it is over is not said to be away: others may have
// taken the time. So the answer ends at its last row, and the next one goes on there.
func (f *feed) fill(ctx context.Context) {
	if !f.begun {
		f.begun, f.cursor, f.last, f.done, f.deadline = true, f.Cursor, f.After, f.Done, f.now().Add(f.timeout)
	}
	for len(f.buffer) == 0 && !f.done && f.err == nil && !f.late {
		if err := f.page(ctx); f.took > 0 && (errors.Is(err, ErrTimeout) || errors.Is(err, errPages)) {
			f.late = true
		} else {
			f.err = err
		}
	}
}

func (f *feed) page(ctx context.Context) error {
	left := f.deadline.Sub(f.now())
	if left <= 0 {
		return ErrTimeout.With("%s did not answer in time", f.Source)
	}
	// Each page is a request and an audit row, so a source does not choose how many there are. One that has given
	// nothing by now fails, because an answer that is empty and goes on would never end.
	if f.pages++; f.pages > maxPages {
		return invalid(f.Source, errPages)
	}
	ctx, cancel := context.WithTimeout(ctx, left)
	defer cancel()
	at := position{Source: f.Source, Cursor: f.cursor, After: f.last}
	got, err := f.fetch(ctx, at, f.rows)
	if err != nil {
		return err
	}
	if got.name != "" {
		f.name = got.name
	}
	if got.old != nil && (f.old == nil || *got.old.Age > *f.old.Age) {
		f.old = got.old
	}
	if f.empty++; len(got.rows) > 0 {
		f.empty = 0
	}
	if got.next != nil && f.empty > maxEmpty {
		return invalid(f.Source, errors.New("the pages are empty and go on"))
	}
	kept := len(f.buffer)
	for _, row := range got.rows {
		key, err := keyOf(row)
		if err != nil {
			return invalid(f.Source, err)
		}
		if !f.seen.at.IsZero() && !f.seen.before(key) {
			f.buffer = f.buffer[:kept]
			return invalid(f.Source, errDisorder)
		}
		f.seen = key
		if !f.After.at.IsZero() && !f.After.before(key) {
			continue // taken by an earlier answer, which ended in the middle of this page
		}
		f.last = key
		f.buffer = append(f.buffer, keyedRow{sortKey: key, row: row, page: f.cursor})
	}
	if got.next == nil {
		f.done = true
		return nil
	}
	f.cursor = *got.next
	return nil
}

// head is the next row of the feed, fetched when it is not there yet.
func (f *feed) head(ctx context.Context) (keyedRow, bool) {
	f.fill(ctx)
	if len(f.buffer) == 0 {
		return keyedRow{}, false
	}
	return f.buffer[0], true
}

// take gives the head away.
func (f *feed) take() json.RawMessage {
	row := f.buffer[0]
	f.buffer = f.buffer[1:]
	f.After, f.took = row.sortKey, f.took+1
	return row.row
}

func (f *feed) exhausted() bool { return f.done && len(f.buffer) == 0 }

// resume is where the next answer takes the source up: at the page of the first row that was not taken, after the
// last one that was.
func (f *feed) resume() position {
	at := f.position
	switch {
	case len(f.buffer) > 0:
		at.Cursor = f.buffer[0].page
	case f.exhausted():
		at.Cursor, at.Done = "", true
	default:
		at.Cursor = f.cursor
	}
	return at
}

// restart fails a source whose cursor cannot be kept. The next answer begins at its first page, and takes what comes
// after the last row that was taken: nothing comes twice, and nothing is lost.
func (f *feed) restart(why error) {
	f.buffer, f.done, f.cursor, f.Cursor, f.Done = nil, false, "", "", false
	if f.err == nil {
		f.err = invalid(f.Source, why)
	}
}

func (f *feed) source() Source {
	s := sourceOf(f.Source, f.err)
	if f.old != nil { // with an error too: what there is of the source is stale
		s = *f.old
	}
	s.Rows = f.took
	if f.name != "" {
		s.Name = f.name
	}
	return s
}

// sourceOf says how a source did.
func sourceOf(name string, err error) Source {
	s := Source{Name: name, Status: StatusOf(err)}
	if err != nil {
		why := fault.From(err)
		s.Code, s.Detail, s.Hint, s.RetryAfter = why.Code, why.Detail, why.Hint, int((why.RetryAfter+time.Second-1)/time.Second)
	}
	return s
}

// keyOf reads a row's place out of it.
func keyOf(row json.RawMessage) (sortKey, error) {
	members, err := membersOf(row)
	if err != nil {
		return sortKey{}, err
	}
	var k sortKey
	for _, m := range members {
		switch m.key {
		case "id":
			id, err := text(m.value)
			if err != nil || k.id.UnmarshalText([]byte(id)) != nil {
				return sortKey{}, errNoPlace
			}
		case "updated_at":
			if k.at.UnmarshalJSON(m.value) != nil {
				return sortKey{}, errNoPlace
			}
		}
	}
	if k.at.IsZero() || k.id == uuid.Nil {
		return sortKey{}, errNoPlace
	}
	// A time in a year that RFC 3339 cannot write would come back out of no cursor, also when it is only in UTC that
	// the year is one.
	if k.at = k.at.UTC(); k.at.Year() < 1 || k.at.Year() > 9999 {
		return sortKey{}, errNoPlace
	}
	return k, nil
}

// fanoutBinding ties a cursor to the user and to the question.
func fanoutBinding(c Caller, kind scope.Resource, since string) string {
	return "across\x00" + c.UserID.String() + "\x00" + string(kind) + "\x00" + since
}
