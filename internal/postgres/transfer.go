package postgres

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/mosaicstack/gateway/internal/fault"
)

// The faults of a copy from one database to another.
var (
	// ErrTargetNotEmpty: the target has rows that are not of this copy.
	ErrTargetNotEmpty = &fault.Fault{
		Kind: fault.Conflict, Code: "target_not_empty", Detail: "the target database holds rows already",
		Hint: "make an empty database, run mosaic gateway migrate on it, and start no gateway on it before the copy is finished",
	}
	// ErrTargetDiffers: what arrived is not what is in the source now.
	ErrTargetDiffers = &fault.Fault{
		Kind: fault.Conflict, Code: "target_differs", Detail: "the target does not hold what the source holds",
		Hint: "the source has served since the copy: make the target database anew and copy again",
	}
	// ErrNothingCopied: there is nothing in the target to finish.
	ErrNothingCopied = &fault.Fault{
		Kind: fault.Conflict, Code: "nothing_copied", Detail: "nothing was copied into the target database yet",
		Hint: "copy first: --apply",
	}
	// ErrTargetKeys: the target's sealed values are under other keys.
	ErrTargetKeys = &fault.Fault{
		Kind: fault.Conflict, Code: "target_keys_differ", Detail: "what is sealed in the target does not open with the keys that were given",
		Hint: "set MOSAIC_SEAL_KEYSET or BETTER_AUTH_SECRET to what it was when the copy was made, or make the target anew",
	}
	// ErrTierMigration: the copy into this database is not finished.
	ErrTierMigration = &fault.Fault{
		Kind: fault.Conflict, Code: "tier_migration_unfinished", Detail: "a local tier is being copied into this database",
		Hint: "finish it with mosaic gateway migrate-tier --finish, which also keeps the old gateway from serving",
	}
)

// transferred are the tables a copy takes, in an order in which every row finds what it refers to. River's tables, the
// queue of embeddings and the state of its sweep are not among them: they are made anew.
var transferred = []string{
	"users", "teams", "team_members", "api_tokens", "tasks", "notes", "memory", "credentials", "api_keys",
	"federation_peers", "federation_grants", "federation_enrollment_tokens", "federation_sign_attempts", "federation_certificates",
	"federation_ca_revocations", "federation_credentials", "federation_credential_users", "federation_credential_teams",
	"federation_row_budgets", "federation_audit_keys", "federation_audit_checkpoints", "federation_audit_retention",
	"federation_audit_batches", "federation_audit_log",
}

// Transfer copies everything a gateway has from one database to another of the same schema. The source is only read.
type Transfer struct {
	From, To *DB
	// Rekey seals anew what is stored sealed, for the same place in the target.
	Rekey func(old []byte, table, column, id string) ([]byte, error)
	// Opens tells whether a value of the target opens with the target's keys.
	Opens func(sealed []byte, table, column, id string) error
	// Progress is told how many of a table's rows have been sent; it may be nil.
	Progress func(table string, sent, of int64)
}

// TableCopy is what is known of one table.
type TableCopy struct {
	Table  string `json:"table"`
	Rows   int64  `json:"rows"`
	Copied bool   `json:"copied"`
	sum    string
}

// Plan counts what there is to copy, and refuses a target that has rows of its own. A copy that was interrupted goes on.
func (t *Transfer) Plan(ctx context.Context) ([]TableCopy, error) {
	source, err := t.source(ctx)
	if err != nil {
		return nil, err
	}
	done, begun, err := t.state(ctx, source)
	if err != nil {
		return nil, err
	}
	list := make([]TableCopy, 0, len(transferred))
	for _, table := range transferred {
		of, err := t.look(ctx, t.From, table)
		if err != nil {
			return nil, err
		}
		_, of.Copied = done[table]
		if !of.Copied || !begun {
			var filled bool
			if err := t.To.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM `+table+`)`).Scan(&filled); err != nil {
				return nil, fail(err, "look at "+table)
			}
			if filled {
				return nil, ErrTargetNotEmpty.With("the target database has rows in %s", table)
			}
		}
		list = append(list, of)
	}
	return list, nil
}

// Copy brings over every table that is not there yet, each in one transaction: killed at any time, it goes on with
// the table it was in.
func (t *Transfer) Copy(ctx context.Context) error {
	plan, err := t.Plan(ctx)
	if err != nil {
		return err
	}
	source, err := t.source(ctx)
	if err != nil {
		return err
	}
	if _, err := t.To.pool.Exec(ctx, `INSERT INTO tier_migration (source) VALUES ($1) ON CONFLICT DO NOTHING`, source); err != nil {
		return fail(err, "begin the copy")
	}
	for _, table := range plan {
		if table.Copied {
			continue
		}
		if err := t.copyTable(ctx, table); err != nil {
			return fail(err, "copy "+table.Table)
		}
	}
	return t.Verify(ctx)
}

// Finished tells whether the target serves already. It is ErrNothingCopied when no copy has begun.
func (t *Transfer) Finished(ctx context.Context) (bool, error) {
	source, err := t.source(ctx)
	if err != nil {
		return false, err
	}
	if _, begun, err := t.state(ctx, source); err != nil {
		return false, err
	} else if !begun {
		return false, ErrNothingCopied
	}
	var finished bool
	err = t.To.pool.QueryRow(ctx, `SELECT finished_at IS NOT NULL FROM tier_migration`).Scan(&finished)
	return finished, fail(err, "read the state of the copy")
}

// Target names the target's database, as its own row does.
func (t *Transfer) Target(ctx context.Context) (string, error) { return home(ctx, t.To) }

// Verify compares every table by count and checksum, and opens what is sealed: ErrTargetDiffers names the tables that
// differ, ErrTargetKeys the first value that does not open.
func (t *Transfer) Verify(ctx context.Context) error {
	if err := t.openAll(ctx); err != nil {
		return err
	}
	var differ []fault.Problem
	for _, table := range transferred {
		here, err := t.look(ctx, t.From, table)
		if err != nil {
			return err
		}
		there, err := t.look(ctx, t.To, table)
		if err != nil {
			return err
		}
		switch {
		case here.Rows != there.Rows:
			differ = append(differ, fault.Problem{Path: table, Detail: fmt.Sprintf("%d rows in the source, %d in the target", here.Rows, there.Rows)})
		case here.sum != there.sum:
			differ = append(differ, fault.Problem{Path: table, Detail: "as many rows, but not the same"})
		}
	}
	if len(differ) > 0 {
		return ErrTargetDiffers.Listing(differ)
	}
	return nil
}

// Finish lets the target serve.
func (t *Transfer) Finish(ctx context.Context) error {
	tag, err := t.To.pool.Exec(ctx, `UPDATE tier_migration SET finished_at = coalesce(finished_at, now())`)
	if err == nil && tag.RowsAffected() != 1 {
		return ErrNothingCopied
	}
	return fail(err, "finish the copy")
}

// CheckTierMigration refuses a database that a copy has not been finished into.
func (db *DB) CheckTierMigration(ctx context.Context) error {
	var open bool
	if err := db.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM tier_migration WHERE finished_at IS NULL)`).Scan(&open); err != nil {
		return fail(err, "check tier migration")
	}
	if open {
		return ErrTierMigration
	}
	return nil
}

// source names the source's database, as its own row does.
func (t *Transfer) source(ctx context.Context) (string, error) { return home(ctx, t.From) }

func home(ctx context.Context, db *DB) (string, error) {
	var name string
	err := db.pool.QueryRow(ctx, `SELECT format('%s/%s/%s', system_identifier, database_oid, table_oid) FROM gateway_home`).Scan(&name)
	return name, fail(err, "read where a database lives")
}

// openAll opens every sealed value of the target.
func (t *Transfer) openAll(ctx context.Context) error {
	for _, c := range sealedColumns {
		rows, err := t.To.pool.Query(ctx, `SELECT id, `+c.column+` FROM `+c.table+` WHERE `+c.column+` IS NOT NULL`)
		if err != nil {
			return fail(err, "read sealed values")
		}
		var id uuid.UUID
		var sealed []byte
		if _, err := pgx.ForEachRow(rows, []any{&id, &sealed}, func() error {
			if err := t.Opens(sealed, c.table, c.column, id.String()); err != nil {
				return ErrTargetKeys.With("%s.%s of row %s does not open with the keys that were given", c.table, c.column, id).Because(err)
			}
			return nil
		}); err != nil {
			return fail(err, "open sealed values")
		}
	}
	return nil
}

// state is how far a copy has come; begun is false when there was none.
func (t *Transfer) state(ctx context.Context, source string) (done map[string]int64, begun bool, err error) {
	var of string
	var finished bool
	err = t.To.pool.QueryRow(ctx, `SELECT source, tables, finished_at IS NOT NULL FROM tier_migration`).Scan(&of, &done, &finished)
	switch {
	case notFound(err):
		return nil, false, nil
	case err != nil:
		return nil, false, fail(err, "read the state of the copy")
	case of != source:
		return nil, false, ErrTargetNotEmpty.With("another gateway was copied into the target database")
	}
	return done, true, nil
}

// look counts the rows of a table and sums them up, whatever their order. What is sealed differs from one keyset to the
// other, and is left out.
func (t *Transfer) look(ctx context.Context, db *DB, table string) (TableCopy, error) {
	out := TableCopy{Table: table}
	var sealed []string
	for _, c := range sealedColumns {
		if c.table == table {
			sealed = append(sealed, c.column)
		}
	}
	err := unhurried(ctx, db, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, `SELECT count(*), coalesce(sum(('x' || left(md5((to_jsonb(t) - $1::text[])::text), 15))::bit(60)::bigint), 0)::text FROM `+table+` t`,
			slices.Clip(append([]string{}, sealed...))).Scan(&out.Rows, &out.sum)
	})
	return out, fail(err, "sum up "+table)
}

// unhurried runs a transaction that may take as long as a large table takes.
func unhurried(ctx context.Context, db *DB, f func(pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, db.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0`); err != nil {
			return err
		}
		return f(tx)
	})
}

func (t *Transfer) copyTable(ctx context.Context, of TableCopy) error {
	columns, err := t.columns(ctx, of.Table)
	if err != nil {
		return err
	}
	return unhurried(ctx, t.To, func(to pgx.Tx) error {
		if of.Table == "federation_audit_log" {
			if err := t.partitions(ctx, to); err != nil {
				return err
			}
		}
		n, err := t.stream(ctx, to, of, columns)
		if err != nil {
			return err
		}
		if n != of.Rows {
			return ErrTargetDiffers.With("%d rows of %s were counted, and %d were copied", of.Rows, of.Table, n)
		}
		if err := t.rekey(ctx, to, of.Table); err != nil {
			return err
		}
		if of.Table == "federation_audit_checkpoints" {
			if _, err := to.Exec(ctx, `SELECT setval(pg_get_serial_sequence('federation_audit_checkpoints', 'id'), max(id)) FROM federation_audit_checkpoints`); err != nil {
				return err
			}
		}
		_, err = to.Exec(ctx, `UPDATE tier_migration SET tables = tables || jsonb_build_object($1::text, $2::bigint)`, of.Table, n)
		return err
	})
}

// columns are those that are stored, in the source's order.
func (t *Transfer) columns(ctx context.Context, table string) (string, error) {
	list, err := collect(ctx, t.From.pool, "read columns", pgx.RowTo[string],
		`SELECT attname FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum`, table)
	for i, name := range list {
		list[i] = pgx.Identifier{name}.Sanitize()
	}
	return strings.Join(list, ", "), err
}

// partitions makes those of the months that the source has rows of.
func (t *Transfer) partitions(ctx context.Context, to pgx.Tx) error {
	var months []string
	err := t.From.pool.QueryRow(ctx, `SELECT coalesce(array_agg(DISTINCT date_trunc('month', created_at)::date::text), '{}') FROM federation_audit_log`).Scan(&months)
	if err != nil {
		return err
	}
	for _, month := range months {
		if _, err := to.Exec(ctx, `SELECT ensure_audit_partitions($1::date, 0)`, month); err != nil {
			return err
		}
	}
	return nil
}

// stream sends a table's rows from one server to the other, in COPY's binary format.
func (t *Transfer) stream(ctx context.Context, to pgx.Tx, of TableCopy, columns string) (int64, error) {
	reader, writer := io.Pipe()
	sent := make(chan error, 1)
	go func() {
		err := unhurried(ctx, t.From, func(from pgx.Tx) error {
			counted := &rowWriter{to: writer, told: func(n int64) {
				if t.Progress != nil {
					t.Progress(of.Table, n, of.Rows)
				}
			}}
			_, err := from.Conn().PgConn().CopyTo(ctx, counted, `COPY (SELECT `+columns+` FROM `+of.Table+`) TO STDOUT (FORMAT binary)`)
			return err
		})
		_ = writer.CloseWithError(err) // an end without an error is the end of the rows
		sent <- err
	}()
	var tag pgconn.CommandTag
	tag, err := to.Conn().PgConn().CopyFrom(ctx, reader, `COPY `+of.Table+` (`+columns+`) FROM STDIN (FORMAT binary)`)
	_ = reader.CloseWithError(err) // whoever still writes is told
	if failed := <-sent; err == nil {
		err = failed
	}
	return tag.RowsAffected(), err
}

// rowWriter tells how many rows have passed: the server sends each in a message of its own.
type rowWriter struct {
	to   io.Writer
	n    int64
	told func(int64)
}

func (w *rowWriter) Write(p []byte) (int, error) {
	w.n++
	w.told(w.n)
	return w.to.Write(p)
}

// rekey seals anew what arrived under the source's keys.
func (t *Transfer) rekey(ctx context.Context, to pgx.Tx, table string) error {
	for _, c := range sealedColumns {
		if c.table != table {
			continue
		}
		type value struct {
			ID     uuid.UUID
			Sealed []byte
		}
		rows, err := to.Query(ctx, `SELECT id, `+c.column+` FROM `+table+` WHERE `+c.column+` IS NOT NULL`)
		if err != nil {
			return err
		}
		values, err := pgx.CollectRows(rows, pgx.RowToStructByPos[value])
		if err != nil {
			return err
		}
		if _, err := to.Exec(ctx, `SET LOCAL mosaic.resealing = 'on'`); err != nil {
			return err
		}
		for _, v := range values {
			sealed, err := t.Rekey(v.Sealed, table, c.column, v.ID.String())
			if err != nil {
				return err
			}
			if _, err := to.Exec(ctx, `UPDATE `+table+` SET `+c.column+` = $2 WHERE id = $1`, v.ID, sealed); err != nil {
				return err
			}
		}
	}
	return nil
}
