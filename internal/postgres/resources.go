package postgres

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/page"
	"github.com/mosaicstack/gateway/internal/resource"
	"github.com/mosaicstack/gateway/internal/scope"
	"github.com/mosaicstack/gateway/internal/serving"
)

// Faults of the resources store.
var (
	ErrRowNotFound = &fault.Fault{
		Kind: fault.NotFound, Code: "not_found", Detail: "there is no such row, or it is not yours to see",
		Hint: "list the rows that you can see first",
	}
	ErrNotTeamMember = &fault.Fault{
		Kind: fault.Forbidden, Code: "not_team_member", Detail: "only a member of a team can give it rows",
		Hint: "an admin can add the user: mosaic team add TEAM USER",
	}
)

// Sealer seals a secret for the row and column it is stored in.
type Sealer interface {
	Seal(plaintext []byte, table, column, rowID string) ([]byte, error)
}

// Resources stores the rows this gateway's own users work with.
type Resources struct {
	*DB
	Seal    Sealer
	Written func() // told when rows were written that want an embedding; may be nil
}

// written tells that rows of a resource were.
func (s *Resources) written(r scope.Resource) {
	if s.Written != nil && resource.Embedded(r) {
		s.Written()
	}
}

// columns lists what a row of r is stored as, beside id, owner, team and times.
func columns(r scope.Resource) []string {
	var names []string
	for _, f := range resource.Shown(r) {
		names = append(names, f.Name)
	}
	switch r {
	case scope.Credentials:
		names = append(names, "secret_sealed")
	case scope.APIKeys:
		names = append(names, "secret_hash")
	}
	return names
}

// values are a row's values in the order of columns. A field that the row does not have is its zero value.
func (s *Resources) values(row resource.Row, id uuid.UUID) ([]any, error) {
	var out []any
	for _, f := range resource.Shown(row.Resource) {
		switch {
		case f.Kind == resource.JSON && row.Has(f.Name):
			out = append(out, row.JSON(f.Name))
		case f.Kind == resource.JSON:
			out = append(out, []byte("{}"))
		default:
			out = append(out, row.Text(f.Name))
		}
	}
	secret, _ := row.Secret()
	switch row.Resource {
	case scope.Credentials:
		var sealed []byte
		if !secret.IsZero() {
			var err error
			if sealed, err = s.Seal.Seal([]byte(secret.Reveal()), "credentials", "secret_sealed", id.String()); err != nil {
				return nil, fmt.Errorf("seal secret: %w", err)
			}
		}
		out = append(out, sealed)
	case scope.APIKeys:
		var hash []byte
		if !secret.IsZero() {
			sum := sha256.Sum256([]byte(secret.Reveal()))
			hash = sum[:]
		}
		out = append(out, hash)
	}
	return out, nil
}

// Create stores one row of owner's. A row for a team needs the owner to be in it.
func (s *Resources) Create(ctx context.Context, row resource.Row, owner uuid.UUID, team string) ([]byte, error) {
	var doc []byte
	err := s.inTx(ctx, "create row", func(tx pgx.Tx) error {
		teamID, err := memberTeam(ctx, tx, team, owner)
		if err != nil {
			return err
		}
		id := uuid.New()
		vals, err := s.values(row, id)
		if err != nil {
			return err
		}
		cols := columns(row.Resource)
		args := append([]any{id, owner, teamID}, vals...)
		sql := fmt.Sprintf(`INSERT INTO %s (id, owner_id, team_id, %s) VALUES (%s) RETURNING doc`,
			row.Resource, strings.Join(cols, ", "), placeholders(1, len(args)))
		return tx.QueryRow(ctx, sql, args...).Scan(&doc)
	})
	if err == nil {
		s.written(row.Resource)
	}
	return doc, err
}

func memberTeam(ctx context.Context, tx pgx.Tx, team string, user uuid.UUID) (any, error) {
	if team == "" {
		return nil, nil
	}
	t, err := findTeam(ctx, tx, team)
	if err != nil {
		return nil, err
	}
	var member bool
	err = tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM team_members WHERE team_id = $1 AND user_id = $2)`, t.ID, user).Scan(&member)
	if err == nil && !member {
		err = ErrNotTeamMember
	}
	return t.ID, err
}

func placeholders(from, n int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "$%d", from+i)
	}
	return b.String()
}

// Import stores rows of one owner, and optionally of a team, in one transaction: all of them, or none. next
// returns io.EOF after the last row.
func (s *Resources) Import(ctx context.Context, res scope.Resource, owner, team string, next func() (resource.Row, error), act audit.Act) (int64, error) {
	var count int64
	err := s.inTxOnce(ctx, "import "+string(res), func(tx pgx.Tx) error {
		// As long as the file takes to arrive; the connection is the caller's to end.
		if _, err := tx.Exec(ctx, `SET LOCAL statement_timeout = 0`); err != nil {
			return err
		}
		u, err := findUser(ctx, tx, owner)
		if err != nil {
			return err
		}
		src := &importSource{s: s, next: next, owner: u.ID}
		if team != "" {
			t, err := findTeam(ctx, tx, team)
			if err != nil {
				return err
			}
			src.team = t.ID
		}
		if src.at, err = clock(ctx, tx); err != nil {
			return err
		}
		cols := append([]string{"id", "owner_id", "team_id", "created_at", "updated_at"}, columns(res)...)
		if count, err = tx.CopyFrom(ctx, pgx.Identifier{string(res)}, cols, src); src.err != nil {
			return src.err // what stopped the source, not how COPY put it
		} else if err != nil {
			return err
		}
		e := act.Event("resource.import")
		e.SubjectUserID, e.Resource, e.RowsOut = u.ID, string(res), int(count)
		return record(ctx, tx, e)
	})
	if err == nil {
		s.written(res)
	}
	return count, err
}

// importSource feeds COPY from a stream of rows. Each row is a microsecond younger than the one before, so that
// newest first is the file's last line first.
type importSource struct {
	s     *Resources
	next  func() (resource.Row, error)
	owner uuid.UUID
	team  uuid.UUID
	at    time.Time
	row   []any
	err   error
}

// Next implements pgx.CopyFromSource.
func (i *importSource) Next() bool {
	row, err := i.next()
	if errors.Is(err, io.EOF) {
		return false
	}
	id := uuid.New()
	var vals []any
	if err == nil {
		vals, err = i.s.values(row, id)
	}
	if err != nil {
		i.err = err
		return true // let Values report it: COPY is then rolled back
	}
	i.at = i.at.Add(time.Microsecond)
	i.row = append([]any{id, i.owner, nullID(i.team), i.at, i.at}, vals...)
	return true
}

// Values implements pgx.CopyFromSource.
func (i *importSource) Values() ([]any, error) { return i.row, i.err }

// Err implements pgx.CopyFromSource.
func (i *importSource) Err() error { return i.err }

// visibleTo is the rows of table t that user $1 may see now.
const visibleTo = `(t.team_id IS NULL AND t.owner_id = $1 OR t.team_id IN (SELECT team_id FROM team_members WHERE user_id = $1))`

// List gives a page of the rows a user may see now, newest first: their own, and those of their teams.
func (s *Resources) List(ctx context.Context, res scope.Resource, user uuid.UUID, since time.Time, after page.Key, limit, maxBytes int) (serving.Rows, error) {
	const position = `(t.updated_at, t.id) < ($2::timestamptz, $3::uuid) AND t.updated_at >= $4::timestamptz ORDER BY t.updated_at DESC, t.id DESC LIMIT $5`
	sql := fmt.Sprintf(`SELECT ''::text, r.* FROM (
			(SELECT t.doc, t.updated_at, t.id FROM %[1]s t WHERE t.owner_id = $1 AND t.team_id IS NULL AND %[2]s)
			UNION ALL
			(SELECT t.* FROM team_members m CROSS JOIN LATERAL (SELECT t.doc, t.updated_at, t.id FROM %[1]s t WHERE t.team_id = m.team_id AND %[2]s) t WHERE m.user_id = $1)
		) r ORDER BY updated_at DESC, id DESC LIMIT $5`, res, position)
	start, id, from := between(after, since)
	rows, err := s.pool.Query(ctx, sql, user, start, id, from, limit+1)
	if err != nil {
		return serving.Rows{}, fail(err, "list "+string(res))
	}
	defer rows.Close()
	out, _, err := joinDocs(rows, nil, limit, maxBytes)
	return out, fail(err, "list "+string(res))
}

// Get gives one row a user may see now.
func (s *Resources) Get(ctx context.Context, res scope.Resource, user, id uuid.UUID) ([]byte, error) {
	var doc []byte
	err := s.pool.QueryRow(ctx, `SELECT t.doc FROM `+string(res)+` t WHERE t.id = $2 AND `+visibleTo, user, id).Scan(&doc)
	if notFound(err) {
		return nil, ErrRowNotFound
	}
	return doc, fail(err, "get row")
}

// Update changes the fields a patch names of a row its owner may still see.
func (s *Resources) Update(ctx context.Context, patch resource.Row, user, id uuid.UUID) ([]byte, error) {
	sets, args := []string{}, []any{user, id}
	vals, err := s.values(patch, id)
	if err != nil {
		return nil, err
	}
	_, secret := patch.Secret()
	for i, col := range columns(patch.Resource) {
		if patch.Has(col) || secret && strings.HasPrefix(col, "secret_") {
			args = append(args, vals[i])
			sets = append(sets, fmt.Sprintf("%s = $%d", col, len(args)))
		}
	}
	var doc []byte
	err = s.pool.QueryRow(ctx, `UPDATE `+string(patch.Resource)+` t SET `+strings.Join(sets, ", ")+
		` WHERE t.id = $2 AND t.owner_id = $1 AND `+visibleTo+` RETURNING t.doc`, args...).Scan(&doc)
	if notFound(err) {
		return nil, ErrRowNotFound
	}
	if err == nil {
		s.written(patch.Resource)
	}
	return doc, fail(err, "update row")
}

// Delete removes a row its owner may still see.
func (s *Resources) Delete(ctx context.Context, res scope.Resource, user, id uuid.UUID) error {
	tag, err := s.pool.Exec(ctx, `DELETE FROM `+string(res)+` t WHERE t.id = $2 AND t.owner_id = $1 AND `+visibleTo, user, id)
	if err == nil && tag.RowsAffected() == 0 {
		return ErrRowNotFound
	}
	return fail(err, "delete row")
}
