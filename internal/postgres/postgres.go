// Package postgres keeps everything the gateway stores, and is the only package that speaks to PostgreSQL.
//
// One exported method of a store is one transaction, and the audit row of an administrative act rides in it.
// No method holds a transaction across a call to anything else. Driver errors are read at one seam, in errors.go.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mosaicstack/gateway/internal/fault"
)

// Config says which database to use.
type Config struct {
	DSN      string // a libpq connection string or URL
	Dial     func(ctx context.Context, network, address string) (net.Conn, error)
	MaxConns int32 // zero: 16
	Trace    bool  // make spans of the statements of recorded requests
}

// The statement timeout of every connection, in milliseconds (spec 8): a runaway read must not hold a
// connection for longer than a peer would wait.
const statementTimeout = "5000"

// commitConns is one connection for the audit writer, and one that may be dialled while another is being given up.
const commitConns = 2

// ErrUnavailable is returned for every failure to reach the database.
var ErrUnavailable = &fault.Fault{
	Kind:       fault.Unavailable,
	Code:       "database_unavailable",
	Detail:     "the gateway's database is away",
	Hint:       "try again shortly; /health turns to ok when it is back",
	RetryAfter: 2 * time.Second,
}

// ErrUnsafeServer is returned for a server on which a commit is no promise.
var ErrUnsafeServer = &fault.Fault{
	Kind:   fault.Unavailable,
	Code:   "database_unsafe",
	Detail: "the database server cannot keep the gateway's promises",
	Hint:   "connect to the primary, with fsync=on and full_page_writes=on",
}

// DB is the pool every store shares, and a small one beside it for the audit writer: an answer that has been read must
// not wait for its audit row behind everybody who still wants to read.
type DB struct {
	pool    *pgxpool.Pool
	commits *pgxpool.Pool
}

// Open makes the pool. It does not connect: Ping tells whether the server is there.
func Open(ctx context.Context, c Config) (*DB, error) {
	pc, err := PoolConfig(c)
	if err != nil {
		return nil, err
	}
	pool, err := pgxpool.NewWithConfig(ctx, pc)
	if err != nil {
		return nil, fmt.Errorf("open database pool: %w", err)
	}
	pc = pc.Copy()
	pc.MaxConns = commitConns
	commits, err := pgxpool.NewWithConfig(ctx, pc)
	if err != nil {
		pool.Close()
		return nil, fmt.Errorf("open database pool: %w", err)
	}
	return &DB{pool: pool, commits: commits}, nil
}

// New wraps a pool that exists; tests use it.
func New(pool *pgxpool.Pool) *DB { return &DB{pool: pool, commits: pool} }

// PoolConfig is the configuration of every pool on the gateway's database.
func PoolConfig(c Config) (*pgxpool.Config, error) {
	pc, err := pgxpool.ParseConfig(c.DSN)
	if err != nil {
		// pgx repeats the connection string, password removed, but not every form of it: say only what to look at.
		return nil, (&fault.Fault{
			Kind:   fault.Invalid,
			Code:   "database_url_invalid",
			Detail: "DATABASE_URL cannot be read as a PostgreSQL connection string",
			Hint:   "use postgres://USER:PASSWORD@HOST:5432/DATABASE?sslmode=verify-full",
		}).Because(errors.New("not a connection string"))
	}
	if c.Dial != nil {
		pc.ConnConfig.DialFunc = c.Dial
	}
	pc.ConnConfig.DialFunc = readingAhead(pc.ConnConfig.DialFunc)
	if c.Trace {
		pc.ConnConfig.Tracer = statements{}
	}
	pc.MaxConns = 16
	if c.MaxConns > 0 {
		pc.MaxConns = c.MaxConns
	}
	pc.ConnConfig.ConnectTimeout = 5 * time.Second
	params := pc.ConnConfig.RuntimeParams
	params["application_name"] = "mosaic"
	params["timezone"] = "UTC"
	params["statement_timeout"] = statementTimeout
	params["synchronous_commit"] = "on"
	params["idle_in_transaction_session_timeout"] = "15000"
	return pc, nil
}

// Close waits for the connections in use and closes all.
func (db *DB) Close() {
	db.pool.Close()
	db.commits.Close()
}

// Pool is for libraries that bring their own statements.
func (db *DB) Pool() *pgxpool.Pool { return db.pool }

// Ping fails with ErrUnavailable when the server does not answer.
func (db *DB) Ping(ctx context.Context) error {
	if err := db.pool.Ping(ctx); err != nil {
		return ErrUnavailable.Because(err)
	}
	return nil
}

// CheckSafe refuses a server on which a returned commit, and so a returned revoke, would be no promise: a
// standby, or one that does not flush its log.
func (db *DB) CheckSafe(ctx context.Context) error {
	var standby bool
	var fsync, fullPage string
	const q = `SELECT pg_is_in_recovery(), current_setting('fsync'), current_setting('full_page_writes')`
	if err := db.pool.QueryRow(ctx, q).Scan(&standby, &fsync, &fullPage); err != nil {
		return fail(err, "check server")
	}
	switch {
	case standby:
		return ErrUnsafeServer.With("the database server is a standby: it cannot be written, and what it shows may be old")
	case fsync != "on":
		return ErrUnsafeServer.With("the database server runs with fsync=off: a commit is lost with the machine")
	case fullPage != "on":
		return ErrUnsafeServer.With("the database server runs with full_page_writes=off: a crash can corrupt it")
	}
	return nil
}

// maxTries bounds how often one transaction is run: each deadlock costs the server's deadlock_timeout of a second.
const maxTries = 3

// retried runs a transaction, again when the server gave it up for another's sake: it has changed nothing then, and must
// start from nothing each time.
func retried(transact func() error) error {
	var err error
	for range maxTries {
		if err = transact(); !sacrificed(err) {
			break
		}
	}
	return err
}

// inTx runs f in one transaction and commits it, retried. A fault from f rolls back and is returned as it is.
func (db *DB) inTx(ctx context.Context, what string, f func(pgx.Tx) error) error {
	return retried(func() error { return db.inTxOnce(ctx, what, f) })
}

// inTxOnce is inTx for an f that uses up what it reads, such as a stream, and so cannot be run again.
func (db *DB) inTxOnce(ctx context.Context, what string, f func(pgx.Tx) error) error {
	return fail(pgx.BeginFunc(ctx, db.pool, f), what)
}

// querier is what a pool and a transaction have in common.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// find reads the one row that ref names: by id when ref is a UUID in its canonical form, else by name. What no name
// can be (PostgreSQL refuses it as text) names nothing.
func find[T any](ctx context.Context, q querier, ref string, scan pgx.RowToFunc[T], byID, byName string, before ...any) (T, error) {
	var none T
	if !utf8.ValidString(ref) || strings.ContainsRune(ref, 0) {
		return none, pgx.ErrNoRows
	}
	sql, arg := byName, any(ref)
	if id, err := uuid.Parse(ref); err == nil && len(ref) == 36 {
		sql, arg = byID, id
	}
	rows, err := q.Query(ctx, sql, append(before, arg)...)
	if err != nil {
		return none, err
	}
	return pgx.CollectExactlyOneRow(rows, scan)
}

// collect runs a query and reads every row of it.
func collect[T any](ctx context.Context, q querier, what string, scan pgx.RowToFunc[T], sql string, args ...any) ([]T, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, fail(err, what)
	}
	list, err := pgx.CollectRows(rows, scan)
	return list, fail(err, what)
}
