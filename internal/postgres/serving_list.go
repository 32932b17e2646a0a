package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/mosaicstack/gateway/internal/page"
	"github.com/mosaicstack/gateway/internal/scope"
	"github.com/mosaicstack/gateway/internal/serving"
)

// The keyset position before the first row.
var firstID = uuid.Max

// List implements serving.Store.
//
// Each branch walks one index range, newest first, for at most one row more than the page: the personal rows of
// the user, and the rows of each team in scope that the user is in now. The work is bounded by the page and the
// number of teams, whatever the table holds.
func (s *Serving) List(ctx context.Context, q serving.ListQuery) (serving.Rows, error) {
	shape := listShape{q.Resource, q.Filter.IncludePersonal, padded(len(q.Filter.IncludeTeams)), bound(q.Rows + 1)}
	after, id, since := between(q.After, q.Since)
	args := make([]any, 0, 8+shape.teams)
	args = append(args, q.Fingerprint[:], wireID(q.GrantID), wireID(q.UserID), q.Version, after, id, since, q.Rows+1)
	for i := range shape.teams {
		team := uuid.Nil // padding: no team has this id
		if i < len(q.Filter.IncludeTeams) {
			team = q.Filter.IncludeTeams[i]
		}
		args = append(args, wireID(team))
	}
	rows, err := s.pool.Query(ctx, s.text(shape), args...)
	if err != nil {
		return serving.Rows{}, fail(err, "list "+string(q.Resource))
	}
	defer rows.Close()
	page, checked, err := joinDocs(rows, q.Into, q.Rows, q.MaxBytes)
	if err == nil && !checked {
		err = serving.ErrCertificateUnknown
	}
	return page, fail(err, "list "+string(q.Resource))
}

// between is a range of a list that goes from the newest to the oldest: what comes after a position, and not before a
// time.
func between(after page.Key, since time.Time) (at pgtype.Timestamptz, id pgtype.UUID, from pgtype.Timestamptz) {
	at, id = pgtype.Timestamptz{InfinityModifier: pgtype.Infinity, Valid: true}, wireID(firstID)
	if !after.UpdatedAt.IsZero() {
		at, id = wireTime(after.UpdatedAt), wireID(after.ID)
	}
	from = pgtype.Timestamptz{InfinityModifier: pgtype.NegativeInfinity, Valid: true}
	if !since.IsZero() {
		from = wireTime(notBefore(since))
	}
	return at, id, from
}

// wireID and wireTime spare the driver the detour over a text, which it takes for types that are not its own.
func wireID(id uuid.UUID) pgtype.UUID { return pgtype.UUID{Bytes: id, Valid: true} }

func wireTime(t time.Time) pgtype.Timestamptz { return pgtype.Timestamptz{Time: t, Valid: true} }

// notBefore is a lower bound in PostgreSQL's microseconds. A fraction of one that was dropped would let a row of just
// before it in.
func notBefore(t time.Time) time.Time {
	micros := t.UTC().Truncate(time.Microsecond)
	if micros.Before(t) {
		micros = micros.Add(time.Microsecond)
	}
	return micros
}

// padded rounds the number of teams up to a power of two, so that few shapes of the statement are prepared.
func padded(teams int) int {
	n := 0
	for n < teams {
		n = max(1, n*2)
	}
	return n
}

// bound rounds the number of rows up to one of few. It stands in the branches of the statement as a number: without one,
// where few users own a large table, the planner takes a plan that fits all parameters for so dear that it plans each
// execution anew, which is four times the work of reading the page. A branch is read no further than the page needs,
// whatever its own bound.
func bound(rows int) int {
	n := 64
	for n < rows {
		n *= 8
	}
	return n
}

// listShape is what the text of a list's statement depends on.
type listShape struct {
	resource scope.Resource
	personal bool
	teams    int // branches, padded
	bound    int // rows of a branch, at most
}

// write makes the statement. Its parts are constants, the table comes from a closed list, and the rest are numbers.
//
// The check comes first and drives the rest: its one row is joined with each row of the page, or with nothing.
func (s listShape) write() string {
	table := ` FROM ` + string(s.resource) + ` t WHERE a.refusal = '' AND `
	position := ` AND (t.updated_at, t.id) < ($5::timestamptz, $6::uuid) AND t.updated_at >= $7::timestamptz ORDER BY t.updated_at DESC, t.id DESC LIMIT ` + strconv.Itoa(s.bound)
	const row = `(SELECT t.doc, t.updated_at, t.id`
	var branches []string
	if s.personal {
		branches = append(branches, row+table+`t.owner_id = `+argUser+` AND t.team_id IS NULL`+position+`)`)
	}
	for i := range s.teams {
		team := "$" + strconv.Itoa(9+i) + "::uuid"
		branches = append(branches, row+table+`EXISTS (SELECT FROM team_members m WHERE m.team_id = `+team+` AND m.user_id = `+argUser+`) AND t.team_id = `+team+position+`)`)
	}
	if len(branches) == 0 {
		branches = append(branches, row+table+`false`+position+`)`) // a scope that lets nothing through
	}
	return aliveCTE + `SELECT a.refusal, r.doc, r.updated_at, r.id FROM a LEFT JOIN LATERAL (SELECT * FROM (` +
		strings.Join(branches, " UNION ALL ") + `) b ORDER BY updated_at DESC, id DESC LIMIT $8) r ON true`
}

// joinDocs reads rows of a refusal, a document, and its position: the documents are appended to into without being
// decoded. The refusal of the first row is the error. A row without a document says only that there was a check;
// checked is false when there was no row at all.
func joinDocs(rows pgx.Rows, into []byte, limit, maxBytes int) (out serving.Rows, checked bool, err error) {
	out.Docs = into
	for rows.Next() {
		raw := rows.RawValues()
		if !checked {
			if err := refusal(string(raw[0])); err != nil {
				return serving.Rows{}, true, err
			}
			checked = true
		}
		doc := raw[1]
		if doc == nil {
			break
		}
		switch {
		case out.Count == limit:
			out.More = true
		case out.Count > 0 && len(out.Docs)-len(into)+len(",")+len(doc) > maxBytes:
			out.More, out.Cut = true, true
		}
		if out.More {
			break
		}
		at, err := positionOf(rows.FieldDescriptions(), raw)
		if err != nil {
			return serving.Rows{}, true, err
		}
		if out.Count > 0 {
			out.Docs = append(out.Docs, ',')
		}
		out.Docs = append(out.Docs, doc...)
		out.Count++
		out.Last = at
	}
	rows.Close()
	return out, checked, rows.Err()
}

// positionOf reads the third and fourth column, which the driver asks for in binary.
func positionOf(fields []pgconn.FieldDescription, raw [][]byte) (page.Key, error) {
	if fields[2].Format != pgx.BinaryFormatCode || fields[3].Format != pgx.BinaryFormatCode || len(raw[2]) != 8 || len(raw[3]) != 16 {
		return page.Key{}, errors.New("the position of a row is not a time and an id in binary")
	}
	return page.Key{UpdatedAt: timeOf(raw[2]), ID: uuid.UUID(raw[3])}, nil
}

// timeOf reads a timestamptz in binary: microseconds since 2000.
func timeOf(raw []byte) time.Time {
	return time.UnixMicro(epoch + int64(binary.BigEndian.Uint64(raw))).UTC() //nolint:gosec // two's complement is the encoding
}
