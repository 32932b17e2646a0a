package postgres

import (
	"context"
	"encoding/binary"
	"errors"

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
// that others are writing are left for the next run, and values that cannot be opened stay as they are and are the
// error. The row's own times do not move.
func (s *Sealed) Reseal(ctx context.Context, primary uint32, limit int, reseal func(old []byte, table, column, id string) ([]byte, error)) (int, error) {
	done := 0
	for _, c := range sealedColumns {
		n, err := s.resealColumn(ctx, c.table, c.column, primary, limit-done, reseal)
		if done += n; err != nil || done >= limit {
			return done, err
		}
	}
	return done, nil
}

func (s *Sealed) resealColumn(ctx context.Context, table, column string, primary uint32, limit int, reseal func([]byte, string, string, string) ([]byte, error)) (int, error) {
	n := 0
	var unreadable error
	err := s.inTx(ctx, "re-seal "+table, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SET LOCAL mosaic.resealing = 'on'`); err != nil {
			return err
		}
		type value struct {
			ID     uuid.UUID
			Sealed []byte
		}
		rows, err := tx.Query(ctx, `SELECT id, `+column+` FROM `+table+` WHERE octet_length(`+column+`) > 5 AND substring(`+column+` from 2 for 4) <> $1
			LIMIT $2 FOR UPDATE SKIP LOCKED`, binary.BigEndian.AppendUint32(nil, primary), limit)
		if err != nil {
			return err
		}
		values, err := pgx.CollectRows(rows, pgx.RowToStructByPos[value])
		if err != nil {
			return err
		}
		for _, v := range values {
			sealed, err := reseal(v.Sealed, table, column, v.ID.String())
			if err != nil {
				unreadable = errors.Join(unreadable, err) // the others must not wait for it
				continue
			}
			if _, err := tx.Exec(ctx, `UPDATE `+table+` SET `+column+` = $2 WHERE id = $1`, v.ID, sealed); err != nil {
				return err
			}
			n++
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return n, unreadable
}
