package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/pressly/goose/v3"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"

	"github.com/mosaicstack/gateway/internal/doctor"
	"github.com/mosaicstack/gateway/migrations"
)

// The SQLSTATE codes of a connection that is refused for a reason that somebody has to mend.
const (
	invalidPassword      = "28P01"
	invalidAuthorization = "28000"
	noSuchDatabase       = "3D000"
	tooManyConnections   = "53300"
)

// Examination looks at the server and at what is stored, and changes nothing. It implements doctor.Schema and
// doctor.Rows.
type Examination struct {
	*DB
	Config *pgxpool.Config // as PoolConfig made it
}

// Server implements doctor.Schema on a connection of its own.
func (x *Examination) Server(ctx context.Context) (s doctor.Server, err error) {
	conn, err := pgx.ConnectConfig(ctx, x.Config.ConnConfig.Copy())
	if err != nil {
		return s, unconnected(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	s.Settings = map[string]string{}
	var fsync, pages string
	err = conn.QueryRow(ctx, `SELECT current_setting('server_version'), current_setting('server_version_num')::int, pg_is_in_recovery(),
		current_setting('fsync'), current_setting('full_page_writes'),
		(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
		current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int,
		coalesce((SELECT extversion FROM pg_extension WHERE extname = 'vector'), ''),
		coalesce((SELECT default_version FROM pg_available_extensions WHERE name = 'vector'), '')`).
		Scan(&s.Version, &s.VersionNumber, &s.Standby, &fsync, &pages, &s.Used, &s.Most, &s.Extension, &s.Available)
	if err != nil {
		return s, fail(err, "look at the server")
	}
	s.Settings["fsync"], s.Settings["full_page_writes"] = fsync, pages
	s.Used-- // this one
	// Last, and in a simple query of one round trip: the clock is worth as much as the way is short.
	s.Asked = time.Now()
	err = conn.QueryRow(ctx, `SELECT clock_timestamp()`, pgx.QueryExecModeSimpleProtocol).Scan(&s.Clock)
	s.Answered = time.Now()
	return s, fail(err, "read the server's clock")
}

// unconnected says what is in the way of a connection. The driver's text, which goes with it, names user, database and
// address, and no password.
func unconnected(err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		switch pg.Code {
		case invalidPassword, invalidAuthorization:
			return ErrUnavailable.With("the database server refuses the user or the password of DATABASE_URL").
				Advise("compare DATABASE_URL with the role on the server, and the server's pg_hba.conf with this machine's address").Because(err)
		case noSuchDatabase:
			return ErrUnavailable.With("the database that DATABASE_URL names is not on the server").
				Advise("create it, or mend the name: createdb NAME").Because(err)
		case tooManyConnections:
			return ErrUnavailable.With("the database server has no connection left").
				Advise("raise max_connections, or end clients that hold connections").Because(err)
		}
	}
	return ErrUnavailable.With("the database server cannot be reached").
		Advise("start it, and check the host, port and sslmode in DATABASE_URL").Because(err)
}

// Migrations implements doctor.Schema. It reads the tables of goose and River and does not make them, as those do when
// they are asked.
func (x *Examination) Migrations(ctx context.Context) (m doctor.Migrations, err error) {
	names, err := fs.Glob(migrations.FS, "*.sql")
	if err != nil {
		return m, fmt.Errorf("list migrations: %w", err)
	}
	applied, err := x.applied(ctx)
	if err != nil {
		return m, err
	}
	known := map[int64]bool{0: true} // goose's own mark
	for _, name := range names {
		version, err := goose.NumericComponent(name)
		if err != nil {
			return m, fmt.Errorf("read migration %s: %w", name, err)
		}
		known[version] = true
		if !applied[version] {
			m.Pending = append(m.Pending, name)
		}
	}
	for version := range applied {
		if !known[version] {
			m.Ahead = append(m.Ahead, version)
		}
	}
	slices.Sort(m.Ahead)
	river, err := rivermigrate.New(riverpgxv5.New(x.pool), &rivermigrate.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return m, fmt.Errorf("load job queue migrations: %w", err)
	}
	jobs, err := river.Validate(ctx, nil)
	if err != nil {
		return m, fail(err, "read job queue migrations")
	}
	m.Jobs = !jobs.OK
	return m, nil
}

// applied are the versions that goose has noted; the last note of a version counts.
func (x *Examination) applied(ctx context.Context) (map[int64]bool, error) {
	out := map[int64]bool{}
	var there bool
	if err := x.pool.QueryRow(ctx, `SELECT to_regclass('goose_db_version') IS NOT NULL`).Scan(&there); err != nil || !there {
		return out, fail(err, "look for migrations")
	}
	rows, err := x.pool.Query(ctx, `SELECT DISTINCT ON (version_id) version_id, is_applied FROM goose_db_version ORDER BY version_id, id DESC`)
	if err != nil {
		return nil, fail(err, "read migrations")
	}
	var version int64
	var is bool
	_, err = pgx.ForEachRow(rows, []any{&version, &is}, func() error {
		if is {
			out[version] = true
		}
		return nil
	})
	return out, fail(err, "read migrations")
}

// Vector implements doctor.Schema.
func (x *Examination) Vector(ctx context.Context) error {
	const sent = "[1,2.5,-3]"
	var back string
	var apart float64
	err := x.pool.QueryRow(ctx, `SELECT ($1::text::vector(3))::text, $1::text::vector(3) <-> $1::text::vector(3)`, sent).Scan(&back, &apart)
	if err != nil {
		return fail(err, "use vector(3)")
	}
	if back != sent || apart != 0 {
		return fmt.Errorf("sent %s, and got %s at a distance of %s", sent, back, strconv.FormatFloat(apart, 'g', -1, 64))
	}
	return nil
}

const sealedPage = 500

// Sealed implements doctor.Rows, page by page: a table may hold a million of them.
func (x *Examination) Sealed(ctx context.Context, look func(doctor.Sealed) error) error {
	type value struct {
		ID     uuid.UUID
		Sealed []byte
	}
	for _, c := range sealedColumns {
		after := uuid.Nil
		for {
			page, err := collect(ctx, x.pool, "read sealed rows of "+c.table, pgx.RowToStructByPos[value], `SELECT id, `+c.column+` FROM `+c.table+`
				WHERE id > $1 AND octet_length(`+c.column+`) > 0 ORDER BY id LIMIT $2`, after, sealedPage)
			if err != nil {
				return err
			}
			for _, v := range page {
				if err := look(doctor.Sealed{Table: c.table, Column: c.column, RowID: v.ID.String(), Value: v.Sealed}); err != nil {
					return err
				}
				after = v.ID
			}
			if len(page) < sealedPage {
				break
			}
		}
	}
	return nil
}

// Credentials implements doctor.Rows. One that has ended counts for as long as nothing has taken its place at the peer.
func (x *Examination) Credentials(ctx context.Context) ([]doctor.Credential, error) {
	return collect(ctx, x.pool, "read credentials", func(row pgx.CollectableRow) (c doctor.Credential, err error) {
		return c, row.Scan(&c.ID, &c.Peer, &c.NotBefore, &c.NotAfter, &c.Attempts, &c.Error)
	}, `SELECT c.id::text, p.name, c.not_before, c.not_after, c.renewal_attempts, coalesce(c.renewal_error, '')
		FROM federation_credentials c JOIN federation_peers p ON p.id = c.peer_id
		WHERE c.state = 'active' AND p.state = 'active' AND c.not_before IS NOT NULL AND c.not_after IS NOT NULL
		AND NOT EXISTS (SELECT FROM federation_credentials n WHERE n.peer_id = c.peer_id AND n.state = 'active' AND n.id <> c.id
			AND n.created_at > c.created_at AND n.not_after > c.not_after)
		ORDER BY c.not_after, c.id`)
}

// backlogCount bounds what is counted: how many more there are changes nothing.
const backlogCount = 10_000

// AuditState implements doctor.Rows.
func (x *Examination) AuditState(ctx context.Context, now time.Time) (s doctor.AuditState, err error) {
	var oldest *time.Time
	err = x.pool.QueryRow(ctx, `SELECT count(*), min(created_at) FROM
		(SELECT created_at FROM federation_audit_log WHERE leaf_index IS NULL ORDER BY created_at, id LIMIT $1) waiting`, backlogCount).
		Scan(&s.Waiting, &oldest)
	if err != nil {
		return s, fail(err, "count audit rows")
	}
	if oldest != nil {
		s.Oldest = *oldest
	}
	first := time.Date(now.UTC().Year(), now.UTC().Month(), 1, 0, 0, 0, 0, time.UTC)
	for _, month := range []time.Time{first, first.AddDate(0, 1, 0)} {
		var there bool
		if err := x.pool.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL`, "federation_audit_log_"+month.Format("200601")).Scan(&there); err != nil {
			return s, fail(err, "look for audit partitions")
		}
		if !there {
			s.Partitions = append(s.Partitions, month.Format("2006-01"))
		}
	}
	err = x.pool.QueryRow(ctx, `SELECT count(*) FROM (SELECT FROM federation_audit_log_default LIMIT 1000) astray`).Scan(&s.Astray)
	return s, fail(err, "count audit rows")
}

var (
	_ doctor.Schema = (*Examination)(nil)
	_ doctor.Rows   = (*Examination)(nil)
)
