package devstack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sys/unix"
)

const (
	pollEvery = 5 * time.Millisecond

	sqlstateNoDatabase   = "3D000" // invalid_catalog_name
	sqlstateCannotYet    = "57P03" // cannot_connect_now
	sqlstateShuttingDown = "57P01" // admin_shutdown
)

// awaitReady returns when the server runs a query on our database, which it makes when it is not there yet.
func (p *Postgres) awaitReady(ctx context.Context, c *child) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	// pgx reads our environment, however complete the connection string is.
	if _, err := pgconn.ParseConfig(p.DSN()); err != nil {
		return ErrPostgresStartFailed.With("the PG* variables of the environment cannot be used").
			Advise("unset PGSERVICE and the other PG* variables, and start again").Because(err)
	}
	var last error
	for {
		if p.reportsReady(c.pid()) {
			if last = p.query(ctx, database, "SELECT 1"); last == nil {
				return nil
			}
			if err := p.afterRefusal(ctx, last); err != nil {
				return err
			}
		}
		select {
		case <-c.exited:
			return p.failed("", c.err)
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return p.failed("it was not ready in time", last)
			}
			return fmt.Errorf("devstack: start postgres: %w", context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// afterRefusal returns nil when trying again makes sense.
func (p *Postgres) afterRefusal(ctx context.Context, err error) error {
	var pe *pgconn.PgError
	if !errors.As(err, &pe) {
		return nil
	}
	switch pe.Code {
	case sqlstateCannotYet, sqlstateShuttingDown:
		return nil
	case sqlstateNoDatabase:
		// initdb has just made an empty database, called postgres, that nobody else uses here. Another one would
		// be another 300 files.
		if err = p.query(ctx, "template1", "ALTER DATABASE postgres RENAME TO "+database); err == nil {
			return nil
		}
		return p.failed("its database could not be made", err)
	}
	return p.failed("it runs, but refuses to serve: "+pe.Message, err)
}

// reportsReady reads the status that the server keeps in its pid file, as pg_ctl does. Knocking before that would
// only fill the log with refusals.
func (p *Postgres) reportsReady(pid int) bool {
	raw, err := os.ReadFile(filepath.Join(p.cfg.DataDir, pidName))
	if err != nil {
		return false
	}
	lines := strings.Split(string(raw), "\n")
	return len(lines) >= 8 && lines[0] == strconv.Itoa(pid) && strings.TrimSpace(lines[7]) == "ready"
}

// query runs one statement on a connection of its own.
func (p *Postgres) query(ctx context.Context, db, sql string) error {
	cfg, err := pgconn.ParseConfig(p.dsn(db))
	if err != nil {
		return fmt.Errorf("devstack: %w", err)
	}
	cfg.DialFunc = p.DialFunc
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return fmt.Errorf("devstack: %w", err)
	}
	_, err = conn.Exec(ctx, sql).ReadAll()
	if cerr := conn.Close(ctx); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("devstack: %w", err)
	}
	return nil
}

// failed makes the fault of a start that did not work out, with the line of the server's log that says most in its
// detail and the last lines in its cause.
func (p *Postgres) failed(what string, err error) error {
	lines := p.tail.last(15)
	if told := telling(lines); told != "" {
		what = strings.TrimPrefix(what+": "+told, ": ")
	}
	if what == "" {
		what = "it ended without a word"
	}
	f := ErrPostgresStartFailed.With("PostgreSQL did not start: %s", what)
	if free, ok := freeMiB(filepath.Dir(p.cfg.DataDir)); ok && free < 64 {
		f = f.Advise("free some space: the file system of %s has %d MiB left", p.cfg.DataDir, free)
	}
	if len(lines) > 0 {
		err = errors.Join(err, errors.New("its last lines:\n"+strings.Join(lines, "\n")))
	}
	return f.Because(err)
}

// telling picks the last line that reports a failure, and what explains it. It only chooses words for a person.
func telling(lines []string) string {
	for i, line := range slices.Backward(lines) {
		if message, ok := failureIn(line); ok {
			return explained(message, lines[i+1:])
		}
	}
	if len(lines) == 0 {
		return ""
	}
	return explained(lines[len(lines)-1], nil)
}

// failureIn cuts the time and the process in front of a message; initdb and the server write them differently.
func failureIn(line string) (string, bool) {
	for _, severity := range []string{"FATAL:", "PANIC:", "error:"} {
		if _, message, ok := strings.Cut(line, severity); ok {
			return message, true
		}
	}
	return "", false
}

// explained adds the lines that belong to a message.
func explained(message string, next []string) string {
	for _, line := range next {
		if !strings.HasPrefix(line, "DETAIL:") && !strings.HasPrefix(line, "HINT:") {
			break
		}
		message += " " + line
	}
	return strings.Join(strings.Fields(message), " ")
}

// freeMiB is the space that ordinary users may still use.
func freeMiB(path string) (uint64, bool) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, false
	}
	return st.Bavail * uint64(st.Bsize) >> 20, true
}
