package audit

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

// chunkRows is how many rows one goroutine compares at a time.
const chunkRows = 512

// chunk is some lines of rows, and what was found in them.
type chunk struct {
	first    int64 // the number of the first line
	text     []byte
	ends     []int
	problems []Problem
	rows     int64
	from, to position // of the first and of the last row
	done     chan struct{}
}

// position is where a row stands in an export.
type position struct {
	at time.Time
	id uuid.UUID
}

func (p position) before(q position) bool {
	return p.at.Before(q.at) || p.at.Equal(q.at) && bytes.Compare(p.id[:], q.id[:]) < 0
}

// body reads the rows and the end, and looks for rows that should be there.
func (v *verifier) body() error {
	for _, l := range v.logs {
		l.seen = make([]uint32, (l.size()+31)/32)
	}
	v.dropped = v.retention()
	rows, err := v.rows()
	if err != nil {
		return err
	}
	if rows != v.report.Rows {
		v.problem(Problem{Kind: removed, Line: v.line, Detail: fmt.Sprintf("the export was of %d rows and has %d", rows, v.report.Rows)})
	}
	if _, err := v.in.Peek(1); err == nil {
		v.problem(Problem{Kind: inserted, Line: v.line + 1, Detail: "something follows the end of the export"})
	}
	v.missing(v.dropped)
	return nil
}

// retention believes the row that tells of dropped rows, if it is in the log and the gateway has signed what it says:
// anybody with the database can bring a row into the log.
func (v *verifier) retention() (before time.Time) {
	if v.head.Retention == nil {
		return before
	}
	wrong := func(detail string) time.Time {
		v.problem(Problem{Kind: changed, Line: 1, RequestID: v.head.Retention.RequestID, ID: &v.head.Retention.ID, Detail: detail})
		return time.Time{}
	}
	text, err := v.head.Retention.line()
	if err != nil {
		return wrong(err.Error())
	}
	_, e, err := parseRow(bytes.TrimSuffix(text, []byte("\n")))
	if err == nil {
		err = v.compare(e, false)
	}
	if err != nil {
		return wrong("the row that tells of dropped rows is not the one that was recorded")
	}
	if before, err = removal(e, v.key); err != nil {
		return wrong(err.Error())
	}
	v.report.DroppedTo = &before
	if most := v.o.DroppedBefore; !most.IsZero() && before.After(most) {
		v.problem(Problem{Kind: removed, Line: 1, RequestID: e.RequestID, ID: &e.ID, Detail: "the gateway says that it dropped the rows from before " +
			before.Format(time.RFC3339) + ", and none from after " + most.Format(time.RFC3339) + " were to be"})
		return most
	}
	return before
}

// rows has the lines compared on all processors, and reads on until the end line. It gives the number that is in it.
func (v *verifier) rows() (int64, error) {
	work := make(chan *chunk)
	order := make(chan *chunk, 4*runtime.GOMAXPROCS(0))
	var workers, collector sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for c := range work {
				v.compareChunk(c)
				close(c.done)
			}
		})
	}
	// One goroutine gathers in the order of the file; the reader does not touch the report meanwhile.
	collector.Go(func() { v.gather(order) })
	end, err := v.split(func(c *chunk) { order <- c; work <- c })
	close(work)
	close(order)
	workers.Wait()
	collector.Wait()
	return end, v.ended(err)
}

// split cuts the lines into chunks, up to the end line.
func (v *verifier) split(send func(*chunk)) (int64, error) {
	c := &chunk{first: v.line + 1, done: make(chan struct{})}
	flush := func() {
		if len(c.ends) > 0 {
			send(c)
		}
		c = &chunk{first: v.line + 1, done: make(chan struct{})}
	}
	for {
		text, err := v.read()
		if err != nil {
			flush()
			return 0, err
		}
		if IsProofLine(text) {
			flush()
			var end endLine
			if err := strictly(text, &end); err != nil || end.Proof != "end" {
				return 0, errNoEnd
			}
			return end.Rows, nil
		}
		c.text = append(c.text, text...)
		c.ends = append(c.ends, len(c.text))
		if len(c.ends) == chunkRows {
			flush()
		}
	}
}

func (v *verifier) compareChunk(c *chunk) {
	start := 0
	var last position
	for i, end := range c.ends {
		text := c.text[start:end]
		start = end
		row, e, err := parseRow(text)
		here := Problem{Kind: changed, Line: c.first + int64(i), RequestID: row.RequestID, ID: &row.ID, LogID: row.LogID, LeafIndex: row.LeafIndex}
		if err != nil {
			here.Kind, here.Detail = malformed, "the line "+err.Error()
			c.problems = append(c.problems, here)
			continue
		}
		at := position{e.CreatedAt, e.ID}
		if c.rows == 0 {
			c.from = at
		} else if !last.before(at) {
			here.Kind, here.Detail = reordered, "the row is not after the one before it"
			c.problems = append(c.problems, here)
		}
		last, c.to = at, at
		c.rows++
		if err := v.compare(e, true); err != nil {
			here.Detail = err.Error()
			if !errors.Is(err, errChanged) {
				here.Kind = inserted
			}
			c.problems = append(c.problems, here)
		} else if e.CreatedAt.Before(v.dropped) {
			here.Kind, here.Detail = inserted, "the row is from before "+v.dropped.Format(time.RFC3339)+", and the gateway has said that it dropped all of those"
			c.problems = append(c.problems, here)
		}
	}
}

// What a row can be found to be.
var (
	errChanged = errors.New("the row is not the one that was recorded")
	errNoLeaf  = errors.New("no log has a leaf for this row")
	errRange   = errors.New("the row is outside of the range of the export")
	errTwice   = errors.New("the row is there twice")
)

// compare holds a row against its leaf. With mark, the row counts as there, and must not have been there before.
func (v *verifier) compare(e Entry, mark bool) error {
	l := v.logs[e.LogID]
	if l == nil || e.LeafIndex < 0 || e.LeafIndex >= l.size() {
		return errNoLeaf
	}
	bit := uint32(1) << (e.LeafIndex % 32)
	if NewLeaf(e.Hashed()) != l.leaf(e.LeafIndex) {
		if mark {
			atomic.OrUint32(&l.seen[e.LeafIndex/32], bit) // said once is enough
		}
		return errChanged
	}
	if !mark {
		return nil
	}
	if t := e.CreatedAt; !v.o.Since.IsZero() && t.Before(v.o.Since) || !v.o.Until.IsZero() && !t.Before(v.o.Until) {
		return errRange
	}
	if atomic.OrUint32(&l.seen[e.LeafIndex/32], bit)&bit != 0 {
		return errTwice
	}
	return nil
}

// gather takes the chunks in the order of the file.
func (v *verifier) gather(order <-chan *chunk) {
	var last position
	for c := range order {
		<-c.done
		if c.rows > 0 {
			if v.report.Rows > 0 && !last.before(c.from) {
				v.problem(Problem{Kind: reordered, Line: c.first, Detail: "the row is not after the one before it"})
			}
			last = c.to
		}
		v.report.Rows += c.rows
		for _, p := range c.problems {
			v.problem(p)
		}
	}
}

// missing looks for leaves whose rows were not there. Their times are in the leaves, so it is known which of them may be
// missing: those outside of the range, and those from before the newest removal of old rows.
func (v *verifier) missing(dropped time.Time) {
	ids := make([]uuid.UUID, 0, len(v.logs))
	for id := range v.logs {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) })
	for _, id := range ids {
		l := v.logs[id]
		for i := range l.size() {
			if l.seen[i/32]&(1<<(i%32)) != 0 {
				continue
			}
			t := l.leaf(i).Time()
			switch {
			case !v.o.Since.IsZero() && t.Before(v.o.Since), !v.o.Until.IsZero() && !t.Before(v.o.Until):
				v.report.Outside++
			case t.Before(dropped):
				v.report.Dropped++
			default:
				v.problem(Problem{Kind: removed, LogID: &id, LeafIndex: &i, Detail: "the row that was recorded at " + t.Format(time.RFC3339Nano) + " is not there as it was"})
			}
		}
	}
}
