package audit

import (
	"crypto/sha256"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
)

var ranges = &compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}

// Root is the root hash of a log (RFC 6962, section 2.1).
type Root [sha256.Size]byte

// Log is one append-only log that somebody writes alone. It knows what is needed to go on: its size and the roots of
// its full subtrees.
type Log struct {
	ID    uuid.UUID
	right *compact.Range
}

// NewLog begins an empty log under a fresh id.
func NewLog() *Log { return &Log{ID: uuid.New(), right: ranges.NewEmptyRange(0)} }

// Batch is consecutive leaves of one log and the rows behind them. A store writes both in one transaction.
type Batch struct {
	LogID  uuid.UUID
	First  int64   // leaf index of the first event
	Events []Event // each has its id and its time
	Leaves []byte  // LeafSize bytes for each event
	Root   Root    // of the log that ends with this batch

	after *compact.Range
}

// Next makes the batch that would follow, and leaves the log as it is: what is not stored did not happen. Events get
// their id and their time, to the microsecond that is stored, if they have none.
func (l *Log) Next(events []Event) *Batch {
	b := &Batch{
		LogID: l.ID, First: int64(l.right.End()), Events: events, Leaves: make([]byte, 0, len(events)*LeafSize), //nolint:gosec // far below
	}
	b.after = grow(l.right)
	for i := range events {
		settle(&events[i], time.Now)
		leaf := NewLeaf(events[i])
		b.Leaves = append(b.Leaves, leaf[:]...)
		mustAppend(b.after, leaf)
	}
	b.Root = rootOf(b.after)
	return b
}

// Stored moves the log past a batch of its own.
func (l *Log) Stored(b *Batch) { l.right = b.after }

// settle gives an event what its hash needs.
func settle(e *Event, now func() time.Time) {
	if e.ID == uuid.Nil {
		e.ID = uuid.New()
	}
	if e.CreatedAt.IsZero() {
		e.CreatedAt = now()
	}
	e.CreatedAt = e.CreatedAt.UTC().Truncate(time.Microsecond)
}

// grow copies a range: appending to one writes into its slice.
func grow(r *compact.Range) *compact.Range {
	c, err := ranges.NewRange(r.Begin(), r.End(), slices.Clone(r.Hashes()))
	if err != nil {
		panic(err) // the hashes are those of the range itself
	}
	return c
}

func mustAppend(r *compact.Range, leaf Leaf) {
	if err := r.Append(leaf.hash(), nil); err != nil {
		panic(err) // only a range that was put together wrongly refuses a leaf
	}
}

func rootOf(r *compact.Range) (root Root) {
	h, err := r.GetRootHash(nil)
	if err != nil {
		panic(err) // all our ranges begin at zero
	}
	if h == nil {
		h = rfc6962.DefaultHasher.EmptyRoot()
	}
	copy(root[:], h)
	return root
}
