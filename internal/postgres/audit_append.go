package postgres

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/mosaicstack/gateway/internal/audit"
)

// AuditLog stores and reads the audit log. It is the audit.Sink of the gateway.
type AuditLog struct {
	*DB
}

// copiedColumns is what a COPY of rows carries, in the order of appendRow.
const copiedColumns = `id, request_id, direction, actor, peer_id, peer_ref, peer_name, grant_id, subject_user_id,
	certificate_fingerprint, remote_address, verb, resource, status_code, outcome, denied_reason, detail, query_hash,
	rows_out, bytes_out, duration, occurrences, created_at, log_id, leaf_index`

const copiedCount = 25

// Append implements audit.Sink. A batch of more than one row is one COPY, and one message to the server: the leaves' row
// and the COPY are one implicit transaction (PostgreSQL documentation, 55.2.2.1), so that it takes one round trip
// however many rows it has.
func (l *AuditLog) Append(ctx context.Context, b *audit.Batch) error {
	conn, err := l.commits.Acquire(ctx)
	if err != nil {
		return fail(err, "append audit events")
	}
	defer conn.Release()
	if len(b.Events) == 1 {
		return appendError(insertOne(ctx, conn.Conn(), b))
	}
	return appendError(copyBatch(ctx, conn.Conn(), b))
}

// Stored implements audit.Sink.
func (l *AuditLog) Stored(ctx context.Context, events []audit.Event) (bool, error) {
	ids, times := make([]uuid.UUID, len(events)), make([]time.Time, len(events))
	for i, e := range events {
		ids[i], times[i] = e.ID, e.CreatedAt
	}
	var n int
	err := l.pool.QueryRow(ctx, `SELECT count(*) FROM federation_audit_log a JOIN unnest($1::uuid[], $2::timestamptz[]) AS e(id, created_at) USING (created_at, id)`,
		ids, times).Scan(&n)
	return n == len(events), fail(err, "look for audit events")
}

// appendError sorts what can become of a batch. The server's ERROR means that its transaction was rolled back; FATAL
// may come after the commit, and so may the loss of the connection.
func appendError(err error) error {
	var pg *pgconn.PgError
	switch {
	case err == nil || errors.Is(err, audit.ErrRefused): // refused before it was sent
		return err
	case errors.As(err, &pg) && pg.SeverityUnlocalized == "ERROR":
		// 22: what a value may be; 23: what a row may be. Only these are about the rows.
		if strings.HasPrefix(pg.Code, "22") || strings.HasPrefix(pg.Code, "23") {
			return fmt.Errorf("%w: %w", audit.ErrRefused, err)
		}
		return fail(err, "append audit events")
	case pgconn.SafeToRetry(err):
		return fail(err, "append audit events")
	}
	return fmt.Errorf("%w: %w", audit.ErrInDoubt, err)
}

const copyRows = `COPY federation_audit_log (` + copiedColumns + `) FROM STDIN (FORMAT binary)`

// insertBatch stores the leaves of a batch. It is prepared, which is half of the server's work for it.
const (
	insertBatchName = "audit_batch"
	insertBatch     = `INSERT INTO federation_audit_batches (log_id, first_leaf, leaf_count, leaves, root) VALUES ($1, $2, $3, $4, $5)`
)

// copyBatch sends a batch as one message: EXECUTE and COPY. The simple protocol takes no parameters, so they are in the
// text. Nothing of it came from outside.
func copyBatch(ctx context.Context, conn *pgx.Conn, b *audit.Batch) error {
	doc, err := copyDocument(b)
	if err != nil {
		return err
	}
	if _, err := conn.Prepare(ctx, insertBatchName, insertBatch); err != nil { // once for each connection
		return err
	}
	sql := fmt.Sprintf(`EXECUTE `+insertBatchName+` ('%s', %d, %d, '\x%x', '\x%x'); `,
		b.LogID, b.First, len(b.Events), b.Leaves, b.Root[:]) + copyRows
	_, err = conn.PgConn().CopyFrom(ctx, bytes.NewReader(doc), sql)
	return err
}

// copyDocument is the rows of a batch in COPY's binary format (PostgreSQL documentation, COPY, "Binary Format").
func copyDocument(b *audit.Batch) ([]byte, error) {
	doc := make([]byte, 0, 32+len(b.Events)*512)
	doc = append(doc, "PGCOPY\n\xff\r\n\x00"...)
	doc = append(doc, 0, 0, 0, 0, 0, 0, 0, 0) // no flags, no header extension
	for i, e := range b.Events {
		var err error
		if doc, err = appendRow(doc, e, b.LogID, b.First+int64(i)); err != nil {
			return nil, err
		}
	}
	return append(doc, 0xff, 0xff), nil
}

// epoch is where PostgreSQL's timestamps begin.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()

func appendRow(doc []byte, e audit.Event, log uuid.UUID, leaf int64) ([]byte, error) {
	for _, n := range []int{e.StatusCode, e.RowsOut, e.Occurrences} {
		if n < math.MinInt32 || n > math.MaxInt32 {
			return nil, fmt.Errorf("%w: %d is out of range", audit.ErrRefused, n)
		}
	}
	short := func(n int) { doc = binary.BigEndian.AppendUint32(doc, uint32(n)) } //nolint:gosec // checked above, or a length
	long := func(n int64) {
		short(8)
		doc = binary.BigEndian.AppendUint64(doc, uint64(n)) //nolint:gosec // two's complement is the encoding
	}
	integer := func(n int) { short(4); short(n) }
	null := func() { short(-1) }
	text := func(s string) {
		short(len(s))
		doc = append(doc, s...)
	}
	raw := func(b []byte) {
		if b == nil {
			null()
			return
		}
		short(len(b))
		doc = append(doc, b...)
	}
	id := func(u uuid.UUID) {
		if u == uuid.Nil {
			null()
			return
		}
		raw(u[:])
	}
	doc = binary.BigEndian.AppendUint16(doc, copiedCount)
	id(e.ID)
	text(e.RequestID)
	text(string(e.Direction))
	text(e.Actor)
	id(e.PeerID)
	id(e.PeerID)
	text(e.PeerName)
	id(e.GrantID)
	id(e.SubjectUserID)
	raw(e.Fingerprint)
	text(e.RemoteAddress)
	text(e.Verb)
	text(e.Resource)
	integer(e.StatusCode)
	text(string(e.Outcome))
	text(e.DeniedReason)
	text(e.Detail)
	raw(e.QueryHash)
	integer(e.RowsOut)
	long(e.BytesOut)
	short(16)                                                                   // an interval: microseconds, days, months
	doc = binary.BigEndian.AppendUint64(doc, uint64(e.Duration.Microseconds())) //nolint:gosec // two's complement
	short(0)
	short(0)
	integer(max(e.Occurrences, 1))
	long(e.CreatedAt.UnixMicro() - epoch)
	raw(log[:])
	long(leaf)
	return doc, nil
}
