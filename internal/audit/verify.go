package audit

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/google/uuid"
	"golang.org/x/mod/sumdb/note"

	"github.com/transparency-dev/merkle/compact"
)

// VerifyOptions say what an export is held against.
type VerifyOptions struct {
	Key          string    // the verifier key, kept elsewhere; empty takes the one in the export
	Earlier      string    // a checkpoint that was kept elsewhere; empty for none
	Since, Until time.Time // the range that the export was asked for
	// DroppedBefore is the latest time before which rows may have been dropped; zero leaves it to the gateway's word.
	DroppedBefore time.Time
}

// Problem is one thing that is not as it was signed.
type Problem struct {
	Kind      string     `json:"kind"` // changed, removed, inserted, reordered, rewritten or malformed
	Line      int64      `json:"line,omitempty"`
	RequestID string     `json:"request_id,omitempty"`
	ID        *uuid.UUID `json:"id,omitempty"`
	LogID     *uuid.UUID `json:"log_id,omitempty"`
	LeafIndex *int64     `json:"leaf_index,omitempty"`
	Detail    string     `json:"detail"`
}

// The kinds of problems.
const (
	changed   = "changed"
	removed   = "removed"
	inserted  = "inserted"
	reordered = "reordered"
	rewritten = "rewritten" // a log is not what a checkpoint says
	malformed = "malformed"
)

// Report is what Verify found.
type Report struct {
	OK         bool       `json:"ok"`
	Rows       int64      `json:"rows"`
	Logs       int        `json:"logs"`
	Leaves     int64      `json:"leaves"`
	Dropped    int64      `json:"dropped_rows"`   // known by time and hash only: removed by retention
	DroppedTo  *time.Time `json:"dropped_before"` // by the row of the removal, which is signed
	Outside    int64      `json:"rows_outside_range"`
	Checkpoint *time.Time `json:"checkpoint_time"`
	Earlier    *time.Time `json:"earlier_checkpoint_time"` // the one that was kept elsewhere
	OwnKey     bool       `json:"key_from_export"`         // nobody gave a key: the export was believed about its own
	Key        string     `json:"key"`
	Problems   []Problem  `json:"problems"`
	More       int64      `json:"more_problems"` // that are not listed
}

// maxProblems bounds a report: whoever rewrote a million rows need not fill a terminal.
const maxProblems = 20

const maxLine = 256 << 20

// Verify reads an export with its proof and recomputes everything in it. The error is for what cannot be read at all, and
// ErrNoProof, ErrRange and ErrKey are for what was given by mistake; what was read and is wrong is in the report.
func Verify(r io.Reader, o VerifyOptions) (Report, error) {
	v := &verifier{o: o, in: bufio.NewReaderSize(r, 1<<20), logs: map[uuid.UUID]*verifiedLog{}}
	v.report.Problems = []Problem{}
	err := v.run()
	v.report.OK = err == nil && len(v.report.Problems) == 0
	return v.report, err
}

// verifiedLog is one log as its batches give it.
type verifiedLog struct {
	leaves  []byte
	seen    []uint32 // a bit for each leaf whose row was there
	right   *compact.Range
	earlier *Head // of the checkpoint that was kept elsewhere
}

func (l *verifiedLog) size() int64 { return int64(len(l.leaves) / LeafSize) }

func (l *verifiedLog) leaf(i int64) (leaf Leaf) {
	copy(leaf[:], l.leaves[i*LeafSize:])
	return leaf
}

type verifier struct {
	o      VerifyOptions
	in     *bufio.Reader
	line   int64
	logs   map[uuid.UUID]*verifiedLog
	report Report
	head   headerLine
	key    note.Verifier

	dropped time.Time // rows from before it are dropped, by the gateway's word
	batchOf uuid.UUID // the log of the batch before
}

// errStop ends a verification that cannot go on; the problem is in the report.
var errStop = errors.New("stop")

func (v *verifier) run() error {
	err := v.header()
	if err == nil {
		err = v.body()
	}
	if errors.Is(err, errStop) {
		return nil
	}
	return err
}

func (v *verifier) problem(p Problem) {
	if len(v.report.Problems) < maxProblems {
		v.report.Problems = append(v.report.Problems, p)
		return
	}
	v.report.More++
}

// stop notes a problem after which nothing can be compared any more.
func (v *verifier) stop(kind, format string, args ...any) error {
	v.problem(Problem{Kind: kind, Line: v.line, Detail: fmt.Sprintf(format, args...)})
	return errStop
}

// The ways in which the lines of an export can end.
var (
	errCutOff = errors.New("the export is cut off: its end is missing")
	errNoEnd  = errors.New("the line is neither a row nor the end of an export")
)

// read gives the next line without its line feed, valid until the next call. A file that ends in the middle of a line
// or without an end line is cut off.
func (v *verifier) read() ([]byte, error) {
	v.line++
	l, err := v.in.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		long := bytes.Clone(l)
		for errors.Is(err, bufio.ErrBufferFull) && len(long) < maxLine {
			l, err = v.in.ReadSlice('\n')
			long = append(long, l...)
		}
		l = long
	}
	switch {
	case errors.Is(err, io.EOF):
		return nil, errCutOff
	case err != nil:
		return nil, fmt.Errorf("read export: %w", err)
	}
	return l[:len(l)-1], nil
}

// next is read for what is not rows.
func (v *verifier) next() ([]byte, error) {
	l, err := v.read()
	return l, v.ended(err)
}

// ended notes a file that does not go on as an export does.
func (v *verifier) ended(err error) error {
	switch {
	case errors.Is(err, errCutOff):
		return v.stop(removed, "%s", err)
	case errors.Is(err, errNoEnd):
		return v.stop(malformed, "%s", err)
	}
	return err
}

// strictly reads a line of the proof, and takes only what an export would write.
func strictly(text []byte, v any) error {
	if err := json.Unmarshal(text, v); err != nil {
		return err
	}
	again, err := line(v)
	if err != nil {
		return err
	}
	if !bytes.Equal(again[:len(again)-1], text) {
		return errors.New("is not written as an export writes it")
	}
	return nil
}

func noteVerifier(key string) (note.Verifier, error) {
	verifier, err := note.NewVerifier(key)
	if err != nil {
		return nil, fmt.Errorf("verifier key: %w", err)
	}
	return verifier, nil
}

// header reads the first line and opens what is signed.
func (v *verifier) header() error {
	if v.o.Key != "" && !IsKey(v.o.Key) {
		return ErrKey
	}
	if err := v.begins(); err != nil {
		return err
	}
	text, err := v.next()
	if err != nil {
		return err
	}
	if err := strictly(text, &v.head); err != nil || v.head.Proof != "export" {
		return v.stop(malformed, "the first line is no header of an export with its proof")
	}
	if v.head.Version != proofVersion {
		return v.stop(malformed, "this is an export of version %d, and version %d is read here", v.head.Version, proofVersion)
	}
	if !sameTime(v.head.Since, v.o.Since) || !sameTime(v.head.Until, v.o.Until) {
		return ErrRange.With("the export says that it is of the rows from %s to %s", bound(v.head.Since, "the beginning"), bound(v.head.Until, "the end"))
	}
	v.report.Key, v.report.OwnKey = v.o.Key, v.o.Key == ""
	if v.report.OwnKey {
		v.report.Key = v.head.Key
	}
	if v.head.Key != v.report.Key {
		return v.stop(rewritten, "the export names another key than the one it is verified with")
	}
	key, err := noteVerifier(v.report.Key)
	if err != nil {
		return v.stop(malformed, "%s", err)
	}
	v.key = key
	c, err := OpenCheckpoint(v.head.Checkpoint, key)
	if err != nil {
		return v.stop(rewritten, "the checkpoint of the export: %s", err)
	}
	v.report.Checkpoint = &c.Time
	if v.o.Earlier != "" {
		if err := v.earlier(key, c); err != nil {
			return err
		}
	}
	return v.batches(c)
}

func (v *verifier) earlier(key note.Verifier, now Checkpoint) error {
	was, err := OpenCheckpoint(v.o.Earlier, key)
	if err != nil {
		return v.stop(rewritten, "the checkpoint that was kept elsewhere: %s", err)
	}
	v.report.Earlier = &was.Time
	if err := now.follows(was); err != nil {
		v.problem(Problem{Kind: rewritten, Detail: "since the checkpoint that was kept elsewhere, of " + was.Time.Format(time.RFC3339) + ": " + err.Error()})
	}
	for i := range was.Heads {
		v.logOf(was.Heads[i].LogID).earlier = &was.Heads[i]
	}
	return nil
}

func (v *verifier) logOf(id uuid.UUID) *verifiedLog {
	l := v.logs[id]
	if l == nil {
		l = &verifiedLog{right: ranges.NewEmptyRange(0)}
		v.logs[id] = l
	}
	return l
}

// batches reads every batch, grows the logs by them, and compares what they grew to with what is signed.
func (v *verifier) batches(c Checkpoint) error {
	heads := make(map[uuid.UUID]Head, len(c.Heads))
	for _, h := range c.Heads {
		heads[h.LogID] = h
	}
	for done := int64(0); done < c.Size(); {
		text, err := v.next()
		if err != nil {
			return err
		}
		if !IsProofLine(text) || bytes.HasPrefix(text, []byte(`{"proof":"end"`)) {
			for _, h := range c.Heads {
				if n := v.logOf(h.LogID).size(); n < h.Size {
					v.problem(Problem{Kind: removed, LogID: &h.LogID, LeafIndex: &n, Detail: fmt.Sprintf(
						"log %s had %d leaves at %s and has %d: all rows from this leaf on are gone", h.LogID, h.Size, c.Time.Format(time.RFC3339), n)})
				}
			}
			return errStop
		}
		n, err := v.batch(text, heads)
		if err != nil {
			return err
		}
		done += n
	}
	for _, h := range c.Heads {
		if l := v.logOf(h.LogID); l.size() != h.Size || rootOf(l.right) != h.Root {
			return v.stop(rewritten, "log %s is not the one that was signed", h.LogID)
		}
		v.report.Leaves += h.Size
	}
	v.report.Logs = len(c.Heads)
	return nil
}

func (v *verifier) batch(text []byte, heads map[uuid.UUID]Head) (int64, error) {
	var b batchLine
	if err := strictly(text, &b); err != nil || b.Proof != "batch" {
		return 0, v.stop(malformed, "a batch cannot be read")
	}
	leaves, err := base64.StdEncoding.DecodeString(b.Leaves)
	root, rootErr := base64.StdEncoding.DecodeString(b.Root)
	if err != nil || rootErr != nil || b.Count < 1 || int64(len(leaves)) != b.Count*LeafSize {
		return 0, v.stop(malformed, "a batch cannot be read")
	}
	l := v.logOf(b.LogID)
	if bytes.Compare(b.LogID[:], v.batchOf[:]) < 0 {
		return 0, v.stop(reordered, "the batches are not in the order of their logs")
	}
	v.batchOf = b.LogID
	if b.First != l.size() || b.First+b.Count > heads[b.LogID].Size {
		return 0, v.stop(rewritten, "the batch at leaf %d of log %s does not follow the one before it", b.First, b.LogID)
	}
	l.leaves = append(l.leaves, leaves...)
	for i := b.First; i < b.First+b.Count; i++ {
		mustAppend(l.right, l.leaf(i))
		if was := l.earlier; was != nil && i+1 == was.Size && rootOf(l.right) != was.Root {
			v.problem(Problem{Kind: rewritten, LogID: &b.LogID, Detail: fmt.Sprintf("log %s was another one at %d leaves, in the checkpoint that was kept elsewhere", b.LogID, was.Size)})
		}
	}
	if got := rootOf(l.right); !bytes.Equal(got[:], root) {
		return 0, v.stop(rewritten, "the batch at leaf %d of log %s does not lead to the root that is stored with it", b.First, b.LogID)
	}
	return b.Count, nil
}

func sameTime(a *time.Time, b time.Time) bool {
	if a == nil {
		return b.IsZero()
	}
	return a.Equal(b)
}

func bound(t *time.Time, none string) string {
	if t == nil {
		return none
	}
	return t.Format(time.RFC3339Nano)
}
