package devstack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/mosaicstack/gateway/internal/unixsock"
)

const (
	superuser  = "mosaic"
	database   = "mosaic"
	socketName = ".s.PGSQL.5432"
	pidName    = "postmaster.pid"

	defaultUser         = "postgres"
	defaultStartTimeout = 60 * time.Second
	defaultStopGrace    = 4 * time.Second
)

// Config says where a private server keeps its data and how it runs. Only DataDir and Log are needed.
type Config struct {
	DataDir string       // its parent must exist; made when missing or empty
	Log     *slog.Logger // what the server says is logged at debug, what happens to it at info and above

	BinDir   string            // the server's programs; found when empty
	RunAs    string            // whom the server runs as when we are root and there is no data yet; default postgres
	Settings map[string]string // server settings added to, or put in place of, our own

	StartTimeout time.Duration // until a connection works, crash recovery included; default 60 s
	StopGrace    time.Duration // for a fast shutdown, before the server is made to quit; default 4 s
}

// Postgres is a private server that runs until Stop, or until this process dies.
type Postgres struct {
	cfg    Config
	server installation
	runAs  *syscall.Credential
	dir    *os.File // the data directory, which the server gets as descriptor 3
	guard  *os.File // the same, locked; the server does not get this one
	tail   *logTail

	ctx    context.Context // ends when Stop is called
	cancel context.CancelFunc
	done   chan struct{} // closed when no server runs and none will

	mu      sync.Mutex
	running *child
	serving bool // it was ready once, so it is restarted when it exits
	over    bool
}

// StartPostgres starts the server of a data directory and returns when it answers queries. The first start
// initialises the directory and creates the database. A server that an earlier process left behind is ended first.
// Afterwards the server is restarted whenever it exits. ctx bounds the start and nothing else.
//
// Faults: postgres_missing, pgvector_missing, postgres_version, postgres_user_missing, postgres_data_foreign,
// postgres_in_use, postgres_start_failed, dir_unwritable, dir_not_a_directory.
func StartPostgres(ctx context.Context, cfg Config) (*Postgres, error) {
	return start(ctx, cfg, systemFinder())
}

func start(ctx context.Context, cfg Config, find finder) (*Postgres, error) {
	begun := time.Now()
	abs, err := filepath.Abs(cfg.DataDir)
	if err != nil {
		return nil, fmt.Errorf("devstack: %w", err)
	}
	cfg.DataDir = abs
	if cfg.RunAs == "" {
		cfg.RunAs = defaultUser
	}
	if cfg.StartTimeout <= 0 {
		cfg.StartTimeout = defaultStartTimeout
	}
	if cfg.StopGrace <= 0 {
		cfg.StopGrace = defaultStopGrace
	}
	p := &Postgres{cfg: cfg, tail: &logTail{log: cfg.Log}, done: make(chan struct{})}
	if err := p.prepare(ctx, find); err != nil {
		p.release()
		return nil, err
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	if err := p.run(ctx); err != nil {
		return nil, err
	}
	cfg.Log.LogAttrs(ctx, slog.LevelInfo, "postgres started",
		slog.Int("version", p.server.version), slog.Duration("took", time.Since(begun)))
	return p, nil
}

// prepare does all that comes before the server's own start.
func (p *Postgres) prepare(ctx context.Context, find finder) error {
	version, err := dataVersion(p.cfg.DataDir)
	if err != nil {
		return err
	}
	if p.server, err = find.find(ctx, p.cfg.BinDir, version); err != nil {
		return err
	}
	if p.runAs, err = serverIdentity(p.cfg.DataDir, p.cfg.RunAs, version > 0); err != nil {
		return err
	}
	if version == 0 {
		begun := time.Now()
		if err := p.initialise(ctx); err != nil {
			return err
		}
		p.cfg.Log.LogAttrs(ctx, slog.LevelInfo, "postgres data directory initialised",
			slog.Int("version", p.server.version), slog.Duration("took", time.Since(begun)))
	}
	if p.dir, err = os.Open(p.cfg.DataDir); err != nil {
		return dirFault(p.cfg.DataDir, err)
	}
	// A second description of the directory: a lock on the one the server gets would live as long as the server.
	if p.guard, err = os.Open(p.cfg.DataDir); err != nil {
		return dirFault(p.cfg.DataDir, err)
	}
	if err := lock(p.guard); err != nil {
		return ErrPostgresInUse.With("another process keeps a PostgreSQL server on %s", p.cfg.DataDir).Because(err)
	}
	return p.endStrays(ctx)
}

func (p *Postgres) release() {
	if p.dir != nil {
		_ = p.dir.Close()
	}
	if p.guard != nil {
		_ = unlock(p.guard)
	}
}

// run starts the supervisor and waits until the server answers.
func (p *Postgres) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.StartTimeout)
	defer cancel()
	launched := make(chan attempt, 1)
	go p.supervise(launched)
	first := <-launched
	if first.err != nil {
		p.cancel()
		<-p.done
		return p.failed("its program could not be started", first.err)
	}
	if err := p.awaitReady(ctx, first.child); err != nil {
		return errors.Join(err, p.Stop(context.WithoutCancel(ctx)))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		p.cancel()
		return p.failed("it ended as soon as it was ready", first.child.err)
	}
	p.serving = true
	return nil
}

// DSN is for pgx, with DialFunc in the configuration, and for psql when DataDir is short enough for a socket path.
// It needs no password: the socket's directory lets only this user and root in. The empty settings keep PGOPTIONS
// and the like of our own environment out.
func (p *Postgres) DSN() string { return p.dsn(database) }

func (p *Postgres) dsn(db string) string {
	quote := strings.NewReplacer(`\`, `\\`, `'`, `\'`)
	return fmt.Sprintf("host='%s' port=5432 user=%s dbname=%s sslmode=disable target_session_attrs=any options=''",
		quote.Replace(p.cfg.DataDir), superuser, quote.Replace(db))
}

// Reach gives what connects to the server of a data directory, which another process may run.
func Reach(dataDir string) (dsn string, dial func(ctx context.Context, network, address string) (net.Conn, error)) {
	p := &Postgres{cfg: Config{DataDir: dataDir}}
	return p.DSN(), p.DialFunc
}

// DialFunc connects to the server however long its path is. The address is not looked at: there is one server, and
// when pgx cancels a query it asks for the address of the socket's other end, which names a descriptor.
func (p *Postgres) DialFunc(ctx context.Context, _, _ string) (net.Conn, error) {
	return unixsock.Dial(ctx, filepath.Join(p.cfg.DataDir, socketName))
}

// Version is the server's major version.
func (p *Postgres) Version() int { return p.server.version }

// PID is the server's process id; 0 while it is away.
func (p *Postgres) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running == nil {
		return 0
	}
	return p.running.pid()
}

// arguments start the server. Settings are given here rather than in postgresql.conf, so that an older data
// directory gets the ones of this version.
func (p *Postgres) arguments() []string {
	settings := map[string]string{
		"listen_addresses":        "",
		"port":                    "5432",
		"unix_socket_directories": ".", // the server's working directory is its data directory
		"unix_socket_permissions": "0700",
		"cluster_name":            "mosaic",

		// What was acknowledged survives kill -9 and power cuts, here as in production.
		"fsync":              "on",
		"synchronous_commit": "on",
		"full_page_writes":   "on",

		// A small development machine, and crash recovery that is over soon.
		"shared_buffers":  "128MB",
		"max_connections": "50",
		"max_wal_size":    "256MB",
		"jit":             "off",

		"timezone":          "UTC",
		"log_timezone":      "UTC",
		"log_destination":   "stderr",
		"logging_collector": "off",
		"log_line_prefix":   "",
		// LOG, FATAL and PANIC. The client gets its own errors; their details quote rows, which are not for a log.
		"log_min_messages":        "log",
		"log_min_error_statement": "panic",
	}
	maps.Copy(settings, p.cfg.Settings)
	args := []string{"-D", dataPath}
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		args = append(args, "-c", name+"="+settings[name])
	}
	return args
}
