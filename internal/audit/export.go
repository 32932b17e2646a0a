package audit

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/page"
)

// StoredBatch is a batch as it is read back, without its rows.
type StoredBatch struct {
	LogID  uuid.UUID
	First  int64
	Leaves []byte
	Root   Root
}

func (b StoredBatch) count() int64 { return int64(len(b.Leaves) / LeafSize) }

// Retention is the newest removal of old rows. The entry is the row that says so.
type Retention struct {
	Before time.Time // rows from before this time were dropped; zero for never
	Entry  Entry
}

// Source reads the audit log in portions, oldest first.
type Source interface {
	// Rows gives the rows of [since, until) after a position; zero times do not bound.
	Rows(ctx context.Context, since, until time.Time, after page.Key, limit int) ([]Entry, error)
	// Batches gives the batches after one, by log and leaf.
	Batches(ctx context.Context, log uuid.UUID, first int64, limit int) ([]StoredBatch, error)
	Retention(ctx context.Context) (Retention, error)
}

// What an export can be.
const (
	FormatLines = "jsonl"
	FormatCSV   = "csv"
)

// ExportOptions say what to export.
type ExportOptions struct {
	Format       string
	Since, Until time.Time // [since, until); zero times do not bound
	Checkpoint   string    // with its Key, adds what Verify needs to lines; empty for rows alone
	Key          string
}

// The portions that are in memory at once.
const (
	exportRows    = 1000
	exportBatches = 200
)

// errRetentionMeanwhile ends an export whose rows were dropped while it ran: half of them would look removed.
var errRetentionMeanwhile = errors.New("rows were dropped while they were exported")

// The lines of a proof, told from rows by the key "proof". A header is first, then all batches of all logs by log and
// leaf, then the rows, then an end.
type (
	headerLine struct {
		Proof      string     `json:"proof"` // "export"
		Version    int        `json:"version"`
		Since      *time.Time `json:"since"`
		Until      *time.Time `json:"until"`
		Key        string     `json:"key"`
		Checkpoint string     `json:"checkpoint"`
		Retention  *Row       `json:"retention"` // the row that tells of the newest removal of old rows
	}
	batchLine struct {
		Proof  string    `json:"proof"` // "batch"
		LogID  uuid.UUID `json:"log_id"`
		First  int64     `json:"first_leaf"`
		Count  int64     `json:"leaf_count"`
		Leaves string    `json:"leaves"`
		Root   string    `json:"root"`
	}
	endLine struct {
		Proof string `json:"proof"` // "end"
		Rows  int64  `json:"rows"`
	}
)

const proofVersion = 1

// Export writes the audit log, oldest row first, with bounded memory. after is called with each portion written.
func Export(ctx context.Context, src Source, w io.Writer, o ExportOptions, after func() error) error {
	out := &exporter{src: src, to: w, o: o, after: after}
	if o.Format == FormatCSV {
		return out.rows(ctx, nil, csvRows(w))
	}
	if o.Checkpoint == "" {
		return out.rows(ctx, nil, out.line)
	}
	return out.proven(ctx)
}

type exporter struct {
	src   Source
	to    io.Writer
	o     ExportOptions
	after func() error
	n     int64
}

func (x *exporter) line(e Entry) error {
	l, err := e.Row().line()
	if err == nil {
		_, err = x.to.Write(l)
	}
	return err
}

func (x *exporter) special(v any) error {
	l, err := line(v)
	if err == nil {
		_, err = x.to.Write(l)
	}
	return err
}

func (x *exporter) proven(ctx context.Context) error {
	key, err := noteVerifier(x.o.Key)
	if err != nil {
		return err
	}
	c, err := OpenCheckpoint(x.o.Checkpoint, key)
	if err != nil {
		return err
	}
	sizes := make(map[uuid.UUID]int64, len(c.Heads))
	for _, h := range c.Heads {
		sizes[h.LogID] = h.Size
	}
	dropped, err := x.src.Retention(ctx)
	if err != nil {
		return err
	}
	head := headerLine{Proof: "export", Version: proofVersion, Since: orNever(x.o.Since), Until: orNever(x.o.Until), Key: x.o.Key, Checkpoint: x.o.Checkpoint}
	if dropped.Entry.LeafIndex >= 0 && dropped.Entry.LeafIndex < sizes[dropped.Entry.LogID] {
		r := dropped.Entry.Row()
		head.Retention = &r
	}
	if err := x.special(head); err != nil {
		return err
	}
	if err := x.batches(ctx, sizes); err != nil {
		return err
	}
	if err := x.rows(ctx, sizes, x.line); err != nil {
		return err
	}
	now, err := x.src.Retention(ctx)
	if err != nil {
		return err
	}
	if !now.Before.Equal(dropped.Before) {
		return errRetentionMeanwhile
	}
	if err := x.special(endLine{"end", x.n}); err != nil {
		return err
	}
	return x.after()
}

func (x *exporter) batches(ctx context.Context, sizes map[uuid.UUID]int64) error {
	for log, first := (uuid.UUID{}), int64(-1); ; {
		list, err := x.src.Batches(ctx, log, first, exportBatches)
		if err != nil {
			return err
		}
		for _, b := range list {
			log, first = b.LogID, b.First
			if b.First+b.count() > sizes[b.LogID] {
				continue // newer than the checkpoint
			}
			if err := x.special(batchLine{
				"batch", b.LogID, b.First, b.count(), base64.StdEncoding.EncodeToString(b.Leaves), base64.StdEncoding.EncodeToString(b.Root[:]),
			}); err != nil {
				return err
			}
		}
		if err := x.after(); err != nil || len(list) < exportBatches {
			return err
		}
	}
}

// rows writes the rows; with sizes, only those that the checkpoint covers.
func (x *exporter) rows(ctx context.Context, sizes map[uuid.UUID]int64, write func(Entry) error) error {
	for at := (page.Key{}); ; {
		list, err := x.src.Rows(ctx, x.o.Since, x.o.Until, at, exportRows)
		if err != nil {
			return err
		}
		for _, e := range list {
			at = page.Key{UpdatedAt: e.CreatedAt, ID: e.ID}
			if sizes != nil && (e.LeafIndex < 0 || e.LeafIndex >= sizes[e.LogID]) {
				continue
			}
			if err := write(e); err != nil {
				return fmt.Errorf("write export: %w", err)
			}
			x.n++
		}
		if err := x.after(); err != nil || len(list) < exportRows {
			return err
		}
	}
}

func orNever(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

var csvHeader = []string{
	"created_at", "id", "request_id", "direction", "actor", "remote_address", "peer_ref", "peer_name", "grant_id", "subject_user_id",
	"certificate_fingerprint", "verb", "resource", "status_code", "outcome", "denied_reason", "detail", "query_hash", "rows_out", "bytes_out",
	"duration_us", "occurrences", "log_id", "leaf_index",
}

// csvRows writes RFC 4180 with a header line.
func csvRows(w io.Writer) func(Entry) error {
	out := csv.NewWriter(w)
	out.UseCRLF = true
	begun := false
	return func(e Entry) error {
		if !begun {
			begun = true
			if err := out.Write(csvHeader); err != nil {
				return err
			}
		}
		id := func(u *uuid.UUID) string {
			if u == nil {
				return ""
			}
			return u.String()
		}
		r, leaf := e.Row(), ""
		if r.LeafIndex != nil {
			leaf = strconv.FormatInt(*r.LeafIndex, 10)
		}
		if err := out.Write([]string{
			r.CreatedAt.Format(time.RFC3339Nano), r.ID.String(), cell(r.RequestID), cell(string(r.Direction)), cell(r.Actor), cell(r.RemoteAddress),
			id(r.PeerRef), cell(r.PeerName), id(r.GrantID), id(r.SubjectUserID), r.Fingerprint, cell(r.Verb), cell(r.Resource),
			strconv.Itoa(r.StatusCode), cell(string(r.Outcome)), cell(r.DeniedReason), cell(r.Detail), r.QueryHash, strconv.Itoa(r.RowsOut),
			strconv.FormatInt(r.BytesOut, 10), strconv.FormatInt(r.DurationMicros, 10), strconv.Itoa(r.Occurrences), id(r.LogID), leaf,
		}); err != nil {
			return err
		}
		out.Flush()
		return out.Error()
	}
}

// cell makes text that others wrote harmless in a spreadsheet and on a terminal: control characters and the
// characters that turn text around become spaces, and what a spreadsheet would take for a formula gets an apostrophe.
func cell(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == '\u2028' || r == '\u2029' || r == '\ufeff' {
			return ' '
		}
		return r
	}, s)
	if t := strings.TrimLeftFunc(s, unicode.IsSpace); t != "" && strings.ContainsAny(t[:1], "=+-@|%") || strings.HasPrefix(t, "＝") ||
		strings.HasPrefix(t, "＋") || strings.HasPrefix(t, "－") || strings.HasPrefix(t, "＠") {
		return "'" + s
	}
	return s
}

// IsProofLine reports whether a line of an export belongs to its proof and is no row.
func IsProofLine(l []byte) bool { return bytes.HasPrefix(l, []byte(`{"proof":`)) }
