package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Sealed finds and rewrites the values that are stored sealed.
type Sealed struct{ *DB }

// sealedColumns is every column that holds ciphertext of the keyring. A sealed value begins with 0x01 and the id of
// its key, big endian.
var sealedColumns = [...]struct{ table, column string }{
	{"credentials", "secret_sealed"},
	{"federation_credentials", "client_key_pem"},
	{"federation_credentials", "renewal_key_pem"},
	{"federation_audit_keys", "private_key_sealed"},
}

// SealedRows counts the rows that are sealed under each key.
func (s *Sealed) SealedRows(ctx context.Context) (map[uint32]int64, error) {
	counts := map[uint32]int64{}
	for _, c := range sealedColumns {
		rows, err := s.pool.Query(ctx, `SELECT substring(`+c.column+` from 2 for 4), count(*) FROM `+c.table+` WHERE octet_length(`+c.column+`) > 5 GROUP BY 1`)
		if err != nil {
			return nil, fail(err, "count sealed rows")
		}
		var prefix []byte
		var n int64
		if _, err := pgx.ForEachRow(rows, []any{&prefix, &n}, func() error {
			counts[binary.BigEndian.Uint32(prefix)] += n
			return nil
		}); err != nil {
			return nil, fail(err, "count sealed rows")
		}
	}
	return counts, nil
}

// Reseal rewrites up to limit values that are not under the primary key, and says how many it rewrote. Rows
// that others are writing are left for the next run. Values that cannot be opened stay as they are and are the error,
// the first few of a column by name; they keep nobody else waiting. The row's own times do not move.
func (s *Sealed) Reseal(ctx context.Context, primary uint32, limit int, reseal func(old []byte, table, column, id string) ([]byte, error)) (int, error) {
	done := 0
	var failed error
	for _, c := range sealedColumns {
		r := resealing{DB: s.DB, table: c.table, column: c.column, primary: binary.BigEndian.AppendUint32(nil, primary), reseal: reseal}
		for more := true; more && done < limit; {
			var n int
			var err error
			n, more, err = r.page(ctx, limit-done)
			done += n
			if err != nil { // of the database; the next column may fare better
				failed = errors.Join(failed, err)
				break
			}
		}
		failed = errors.Join(failed, r.failed())
	}
	return done, failed
}

// resealing is one column's part of a run.
type resealing struct {
	*DB
	table, column string
	primary       []byte
	reseal        func(old []byte, table, column, id string) ([]byte, error)
	after         *uuid.UUID // the last row that was looked at: what cannot be opened is not looked at again
	unreadable    []error
	others        int // unreadable ones that are only counted
}

// maxUnreadable is how many values of a column an error names: one that lost its key may have a million of them.
const maxUnreadable = 5

func (r *resealing) failed() error {
	err := errors.Join(r.unreadable...)
	if r.others > 0 {
		err = errors.Join(err, fmt.Errorf("and %d more of %s.%s", r.others, r.table, r.column))
	}
	return err
}

// page is one transaction over up to limit rows: how many it rewrote, and whether there may be more behind them.
func (r *resealing) page(ctx context.Context, limit int) (n int, more bool, err error) {
	type value struct {
		ID     uuid.UUID
		Sealed []byte
	}
	var values []value
	var unreadable []error
	err = r.inTx(ctx, "re-seal "+r.table, func(tx pgx.Tx) error {
		n, unreadable = 0, nil
		if _, err := tx.Exec(ctx, `SET LOCAL mosaic.resealing = 'on'`); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `SELECT id, `+r.column+` FROM `+r.table+`
			WHERE octet_length(`+r.column+`) > 5 AND substring(`+r.column+` from 2 for 4) <> $1 AND ($2::uuid IS NULL OR id > $2)
			ORDER BY id LIMIT $3 FOR UPDATE SKIP LOCKED`, r.primary, r.after, limit)
		if err != nil {
			return err
		}
		if values, err = pgx.CollectRows(rows, pgx.RowToStructByPos[value]); err != nil {
			return err
		}
		for _, v := range values {
			sealed, err := r.reseal(v.Sealed, r.table, r.column, v.ID.String())
			if err != nil {
				unreadable = append(unreadable, err)
				continue
			}
			if _, err := tx.Exec(ctx, `UPDATE `+r.table+` SET `+r.column+` = $2 WHERE id = $1`, v.ID, sealed); err != nil {
				return err
			}
			n++
		}
		return nil
	})
	if err != nil {
		return 0, false, err
	}
	named := min(len(unreadable), maxUnreadable-len(r.unreadable))
	r.unreadable = append(r.unreadable, unreadable[:named]...)
	r.others += len(unreadable) - named
	if len(values) > 0 {
		r.after = &values[len(values)-1].ID
	}
	return n, len(values) == limit, nil
}
