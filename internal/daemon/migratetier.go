package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/mosaicstack/gateway/internal/ca/embedded"
	"github.com/mosaicstack/gateway/internal/config"
	"github.com/mosaicstack/gateway/internal/devstack"
	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/identity"
	"github.com/mosaicstack/gateway/internal/postgres"
	"github.com/mosaicstack/gateway/internal/seal"
	"github.com/mosaicstack/gateway/internal/telemetry"
)

// movedFile is in a directory whose gateway lives elsewhere now.
const movedFile = "moved"

var (
	errMoved = &fault.Fault{
		Kind: fault.Conflict, Code: "dir_moved", Detail: "this directory's gateway was moved to another tier",
		Hint: "run the gateway there; two that serve the same grants would not know of each other's revokes. To go back after all, remove the file " + movedFile + " from the directory",
	}
	errTargetKeys = &fault.Fault{
		Kind: fault.Invalid, Code: "target_keys_missing", Detail: "nothing says which keys the target seals with",
		Hint: "set MOSAIC_SEAL_KEYSET or BETTER_AUTH_SECRET to what gateway serve will have there",
	}
	errNoSource = &fault.Fault{
		Kind: fault.NotFound, Code: "dir_empty", Detail: "no gateway has served from this directory",
		Hint: "name the directory of mosaic gateway dev with --dir",
	}
)

// MigrateTierOptions is what `gateway migrate-tier` was asked for.
type MigrateTierOptions struct {
	ServeOptions
	Dir    string // of the local tier
	To     seal.Secret
	Apply  bool            // copy; without it nothing is written
	Finish bool            // let the target serve, and never again the directory
	CA     embedded.Export // where the CA goes; Dir is empty when it stays where it is
}

// MigrateTier copies a local tier into the database of a federated one.
func MigrateTier(ctx context.Context, o MigrateTierOptions) (err error) {
	settings, err := config.Load(withoutTier(o.Environ), config.Local)
	if err != nil {
		return err
	}
	log := telemetry.NewLogger(o.Stderr, slog.LevelWarn)
	var stack closers
	defer func() { err = errors.Join(err, stack.close(log)) }()
	if _, err := os.Stat(o.Dir); err != nil {
		return errNoSource.With("there is no directory %s", o.Dir).Because(err)
	}
	dir, err := devstack.OpenDir(o.Dir)
	if err != nil {
		return err
	}
	stack.add("directory", dir.Close)
	tellFoundOpen(dir, log)
	if _, err := os.Stat(dir.Join(completeFile)); err != nil {
		return errNoSource.Because(err)
	}
	if err := checkComplete(dir); err != nil {
		return err
	}
	m := &tierMigration{MigrateTierOptions: o, dir: dir, log: log, stack: &stack}
	if err := m.open(ctx, settings); err != nil {
		return err
	}
	return m.run(ctx, settings.OIDArc[0])
}

// withoutTier lets the settings of the coming tier be there already: they say what the target seals with.
func withoutTier(environ []string) (kept []string) {
	for _, pair := range environ {
		if name, _, _ := strings.Cut(pair, "="); name != "MOSAIC_TIER" {
			kept = append(kept, pair)
		}
	}
	return kept
}

type tierMigration struct {
	MigrateTierOptions
	dir   *devstack.Dir
	log   *slog.Logger
	stack *closers

	transfer *postgres.Transfer
	bar      *progressbar.ProgressBar
	showing  string // the table the bar is about
}

// open starts the source's database, and connects to the target's.
func (m *tierMigration) open(ctx context.Context, c config.Config) error {
	from, to, err := m.keys(c)
	if err != nil {
		return err
	}
	pg, err := devstack.StartPostgres(ctx, devstack.Config{DataDir: m.dir.PostgresDir(), Log: m.log.With("part", "postgres")})
	if err != nil {
		return err
	}
	m.stack.add("postgres", func() error {
		ctx, cancel := context.WithTimeout(context.Background(), databaseWithin)
		defer cancel()
		return pg.Stop(ctx)
	})
	source := postgres.Config{DSN: pg.DSN(), Dial: pg.DialFunc}
	pool, err := postgres.PoolConfig(source)
	if err != nil {
		return err
	}
	// The same schema on both sides; the source is as far as the program that last served it.
	if err := postgres.Migrate(ctx, pool, m.log); err != nil {
		return err
	}
	opens := func(sealed []byte, table, column, id string) error {
		_, err := to.Open(sealed, table, column, id)
		return err
	}
	m.transfer = &postgres.Transfer{Progress: m.progress, Opens: opens, Rekey: func(old []byte, table, column, id string) ([]byte, error) {
		plain, err := from.Open(old, table, column, id)
		if err != nil {
			return nil, err
		}
		return to.Seal(plain, table, column, id)
	}}
	if m.transfer.From, err = postgres.Open(ctx, source); err != nil {
		return err
	}
	m.stack.add("source", func() error { m.transfer.From.Close(); return nil })
	target := postgres.Config{DSN: m.To.Reveal()}
	if pool, err = postgres.PoolConfig(target); err != nil {
		return err
	}
	if m.transfer.To, err = postgres.Open(ctx, target); err != nil {
		return err
	}
	m.stack.add("target", func() error { m.transfer.To.Close(); return nil })
	if err := m.transfer.To.Ping(ctx); err != nil {
		return err
	}
	if err := m.transfer.To.CheckSafe(ctx); err != nil {
		return err
	}
	return postgres.CheckMigrated(ctx, pool)
}

// keys are those of the directory, and those of the target, which the environment gives.
func (m *tierMigration) keys(c config.Config) (from, to *seal.Ring, err error) {
	_, given, err := givenKeys(c)
	if err != nil {
		return nil, nil, err
	}
	if given == nil {
		return nil, nil, errTargetKeys
	}
	to = seal.NewRing(given)
	held, err := os.ReadFile(m.dir.Join(sourceFile))
	if err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", sourceFile, err)
	}
	if strings.TrimSpace(string(held)) != fromDirectory {
		k, err := openKeyring(m.dir, c, m.Now) // from the environment as well, and so the same
		if err != nil {
			return nil, nil, err
		}
		return k.ring, to, nil
	}
	doc, err := os.ReadFile(m.dir.Join(keysetFile))
	if err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", keysetFile, err)
	}
	kept, err := seal.Parse(doc)
	if err != nil {
		return nil, nil, err
	}
	return seal.NewRing(kept), to, nil
}

// migrated is what the command prints with --json.
type migrated struct {
	Tables   []postgres.TableCopy `json:"tables"`
	Copied   bool                 `json:"copied"`
	Finished bool                 `json:"finished"`
	CA       string               `json:"ca_directory,omitempty"`
}

func (m *tierMigration) run(ctx context.Context, arc identity.Arc) (err error) {
	var out migrated
	target, err := m.transfer.Target(ctx)
	if err != nil {
		return err
	}
	// A directory moves once: two targets would serve the same grants. Towards the same one it may go on.
	if held, err := os.ReadFile(m.dir.Join(movedFile)); err == nil && !strings.HasSuffix(strings.TrimSpace(string(held)), " "+target) {
		return errMoved
	}
	if out.Tables, err = m.transfer.Plan(ctx); err != nil {
		return err
	}
	if m.Apply {
		if err := m.transfer.Copy(ctx); err != nil {
			return err
		}
		m.progress("", 0, 0)
	}
	if m.Finish {
		served, err := m.transfer.Finished(ctx)
		if err != nil {
			return err
		}
		if !served && !m.Apply { // one that serves is ahead of its source, and only the CA is wanted
			if err := m.transfer.Verify(ctx); err != nil {
				return err
			}
		}
	}
	out.Copied = m.Apply || m.Finish
	if out.Copied && m.CA.Dir != "" {
		if _, err := m.CA.WriteTo(m.dir.Join("ca"), arc); err != nil {
			return err
		}
		out.CA = m.CA.Dir
	}
	if m.Finish {
		// The old place first: between the two nobody serves, and a second run goes on from there.
		note := "moved at " + m.Now().UTC().Format(time.RFC3339) + " to the database " + target + "\n"
		if err := devstack.WriteFileAtomic(m.dir.Join(movedFile), []byte(note), 0o600); err != nil {
			return err
		}
		if err := m.transfer.Finish(ctx); err != nil {
			return err
		}
		out.Finished = true
	}
	if out.Copied {
		for i := range out.Tables {
			out.Tables[i].Copied = true
		}
	}
	return m.report(out)
}

// checkMoved refuses to serve from a directory whose gateway was moved.
func checkMoved(dir *devstack.Dir) error {
	switch _, err := os.Stat(dir.Join(movedFile)); {
	case err == nil:
		return errMoved
	case errors.Is(err, fs.ErrNotExist):
		return nil
	default:
		return err
	}
}

// progress shows a bar where somebody looks, and a line for each table where nobody does.
func (m *tierMigration) progress(table string, sent, of int64) {
	if m.JSON {
		return
	}
	if table != m.showing {
		if m.bar != nil {
			_ = m.bar.Finish()
			_, _ = io.WriteString(m.Stderr, "\n")
			m.bar = nil
		}
		if m.showing = table; table == "" {
			return
		}
		if f, ok := m.Stderr.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
			m.bar = progressbar.NewOptions64(of, progressbar.OptionSetWriter(m.Stderr), progressbar.OptionSetDescription(table),
				progressbar.OptionShowCount(), progressbar.OptionThrottle(100*time.Millisecond))
		} else {
			_, _ = fmt.Fprintf(m.Stderr, "%s: %d rows\n", table, of)
		}
	}
	if m.bar != nil {
		_ = m.bar.Set64(min(sent, of))
	}
}

func (m *tierMigration) report(out migrated) error {
	if m.JSON {
		return json.NewEncoder(m.Stdout).Encode(out)
	}
	w := tabwriter.NewWriter(m.Stdout, 0, 0, 2, ' ', 0)
	for _, t := range out.Tables {
		state := "to copy"
		if t.Copied {
			state = "copied"
		}
		if _, err := fmt.Fprintf(w, "%s\t%d\t%s\n", t.Table, t.Rows, state); err != nil {
			return err
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	next := "\nNothing was written. Copy with --apply.\n"
	switch {
	case out.Finished:
		next = "\nThe gateway lives in the target now, and its directory serves no more.\n"
	case out.Copied:
		next = "\nCopied and verified: counts and checksums of all tables are the same. Nobody serves from the target before --finish.\n"
	}
	if out.CA != "" {
		next += fmt.Sprintf("The CA is in %s: step-ca --password-file %s/password %s/config/ca.json\n", out.CA, out.CA, out.CA)
	}
	_, err := io.WriteString(m.Stdout, next)
	return err
}
