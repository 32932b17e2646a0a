package audit

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/mod/sumdb/note"

	"github.com/transparency-dev/merkle/rfc6962"
)

// Head is how far one log has come.
type Head struct {
	LogID uuid.UUID
	Size  int64
	Root  Root
}

func (h Head) line() string {
	return h.LogID.String() + " " + strconv.FormatInt(h.Size, 10) + " " + base64.StdEncoding.EncodeToString(h.Root[:])
}

// Checkpoint says how far all logs of a gateway had come. It is signed as a note (C2SP signed-note), whose text has
// the lines of a C2SP checkpoint: the origin, the number of leaves of all logs, and a root; then the time, and one line
// for each log, by id. The root is that of the RFC 6962 tree whose leaves are these lines, without their line feeds.
type Checkpoint struct {
	Origin string // the name of the signing key
	Time   time.Time
	Heads  []Head // by id
}

// Size is the number of leaves in all logs.
func (c Checkpoint) Size() (n int64) {
	for _, h := range c.Heads {
		n += h.Size
	}
	return n
}

func (c Checkpoint) text() string {
	tree := ranges.NewEmptyRange(0)
	var lines strings.Builder
	for _, h := range c.Heads {
		l := h.line()
		if err := tree.Append(rfc6962.DefaultHasher.HashLeaf([]byte(l)), nil); err != nil {
			panic(err) // a range that grows from zero takes every leaf
		}
		lines.WriteString(l + "\n")
	}
	root := rootOf(tree)
	return c.Origin + "\n" + strconv.FormatInt(c.Size(), 10) + "\n" + base64.StdEncoding.EncodeToString(root[:]) + "\n" +
		"time " + c.Time.UTC().Format(time.RFC3339) + "\n" + lines.String()
}

// Sign makes the signed note.
func (c Checkpoint) Sign(key note.Signer) (string, error) {
	signed, err := note.Sign(&note.Note{Text: c.text()}, key)
	if err != nil {
		return "", fmt.Errorf("sign checkpoint: %w", err)
	}
	return string(signed), nil
}

var errCheckpoint = errors.New("not a checkpoint of an audit log")

// OpenCheckpoint reads a note that key has signed.
func OpenCheckpoint(signed string, key note.Verifier) (Checkpoint, error) {
	n, err := note.Open([]byte(signed), note.VerifierList(key))
	if err != nil {
		return Checkpoint{}, fmt.Errorf("open checkpoint: %w", err)
	}
	lines := strings.Split(strings.TrimSuffix(n.Text, "\n"), "\n")
	if len(lines) < 4 {
		return Checkpoint{}, errCheckpoint
	}
	c := Checkpoint{Origin: lines[0]}
	if c.Time, err = time.Parse("time "+time.RFC3339, lines[3]); err != nil {
		return Checkpoint{}, fmt.Errorf("%w: %w", errCheckpoint, err)
	}
	for _, l := range lines[4:] {
		h, err := parseHead(l)
		if err != nil {
			return Checkpoint{}, err
		}
		c.Heads = append(c.Heads, h)
	}
	// Whatever is written in another way than we write it is not ours: an order, a size or a root that is not so.
	if c.text() != n.Text || c.Origin != key.Name() {
		return Checkpoint{}, errCheckpoint
	}
	for i := 1; i < len(c.Heads); i++ {
		if strings.Compare(c.Heads[i-1].LogID.String(), c.Heads[i].LogID.String()) >= 0 {
			return Checkpoint{}, errCheckpoint
		}
	}
	return c, nil
}

func parseHead(l string) (h Head, err error) {
	parts := strings.Split(l, " ")
	if len(parts) != 3 {
		return h, errCheckpoint
	}
	if h.LogID, err = uuid.Parse(parts[0]); err != nil {
		return h, fmt.Errorf("%w: %w", errCheckpoint, err)
	}
	if h.Size, err = strconv.ParseInt(parts[1], 10, 64); err != nil || h.Size < 1 {
		return h, errCheckpoint
	}
	root, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil || len(root) != len(h.Root) {
		return h, errCheckpoint
	}
	copy(h.Root[:], root)
	return h, nil
}

// follows tells what in c is not a continuation of an earlier checkpoint, as far as sizes and equal sizes tell.
func (c Checkpoint) follows(earlier Checkpoint) error {
	now := make(map[uuid.UUID]Head, len(c.Heads))
	for _, h := range c.Heads {
		now[h.LogID] = h
	}
	for _, was := range earlier.Heads {
		is, ok := now[was.LogID]
		switch {
		case !ok:
			return fmt.Errorf("log %s of %d leaves is gone", was.LogID, was.Size)
		case is.Size < was.Size:
			return fmt.Errorf("log %s had %d leaves and has %d", was.LogID, was.Size, is.Size)
		case is.Size == was.Size && is.Root != was.Root:
			return fmt.Errorf("log %s has another root at %d leaves", was.LogID, was.Size)
		}
	}
	return nil
}
