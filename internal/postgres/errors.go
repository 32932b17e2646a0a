package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/mosaicstack/gateway/internal/fault"
)

// The SQLSTATE codes the stores act on (PostgreSQL documentation, appendix A).
const (
	uniqueViolation     = "23505"
	foreignKeyViolation = "23503"
	queryCanceled       = "57014"
	lockNotAvailable    = "55P03"
	serializationFailed = "40001"
	deadlockDetected    = "40P01"
)

// ErrTimeout is returned for a statement that ran into statement_timeout.
var ErrTimeout = &fault.Fault{
	Kind:   fault.Unavailable,
	Code:   "database_timeout",
	Detail: "the database took longer than 5 seconds and was stopped",
	Hint:   "ask for fewer rows, or for a narrower search",
}

// ErrBusy is returned for a transaction that the server gave up for another's sake again and again.
var ErrBusy = &fault.Fault{
	Kind:       fault.Unavailable,
	Code:       "database_busy",
	Detail:     "others were changing the same at the same time, and nothing was changed",
	Hint:       "try again",
	RetryAfter: time.Second,
}

// fail is the one place where a driver's error becomes the gateway's. A fault passes through; a lost or refused
// connection is ErrUnavailable; the rest is wrapped, and shown to callers as internal.
func fail(err error, what string) error {
	if err == nil {
		return nil
	}
	var f *fault.Fault
	if errors.As(err, &f) {
		return err
	}
	wrapped := fmt.Errorf("%s: %w", what, err)
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		switch {
		case pg.Code == queryCanceled:
			return ErrTimeout.Because(wrapped)
		case sacrificed(err):
			return ErrBusy.Because(wrapped)
		// 08: connection exception, 57P: shutdown and start-up, 53: insufficient resources, 25006: read-only.
		case pg.Code[:2] == "08", pg.Code[:3] == "57P", pg.Code[:2] == "53", pg.Code == "25006":
			return ErrUnavailable.Because(wrapped)
		}
		return wrapped
	}
	if errors.Is(err, pgx.ErrNoRows) || errors.Is(err, context.Canceled) {
		return wrapped
	}
	var netErr net.Error
	var connect *pgconn.ConnectError
	if errors.As(err, &netErr) || errors.As(err, &connect) || errors.Is(err, context.DeadlineExceeded) || pgconn.SafeToRetry(err) ||
		errors.Is(err, net.ErrClosed) || isClosed(err) {
		return ErrUnavailable.Because(wrapped)
	}
	return wrapped
}

// isClosed recognises a connection that went away in the middle of a statement, which pgx reports as a plain
// unexpected EOF.
func isClosed(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// violates reports whether err is a violation of the named constraint.
func violates(err error, code, constraint string) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == code && (constraint == "" || pg.ConstraintName == constraint)
}

// sacrificed reports whether the server ended a transaction so that another could go on. Nothing of it remains, and
// the same transaction may well succeed now.
func sacrificed(err error) bool {
	state := sqlState(err)
	return state == deadlockDetected || state == serializationFailed
}

// sqlState is the server's code of an error, or nothing.
func sqlState(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

// notFound reports a SELECT that hit nothing.
func notFound(err error) bool { return errors.Is(err, pgx.ErrNoRows) }
