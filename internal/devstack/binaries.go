package devstack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// minVersion is the oldest PostgreSQL the migrations run on.
const minVersion = 15

// installation is one installed PostgreSQL server.
type installation struct {
	binDir  string
	version int // major
}

func (i installation) command(name string) string { return filepath.Join(i.binDir, name) }

// finder knows where servers are installed. Its fields exist so that tests can describe other machines.
type finder struct {
	globs    []string // of bin directories; the version is the last number in the path
	shareDir string   // format of Debian's share directory, with the version
	lookPath func(string) (string, error)
}

func systemFinder() finder {
	return finder{
		globs:    []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin"},
		shareDir: "/usr/share/postgresql/%d",
		lookPath: exec.LookPath,
	}
}

// find chooses the server to use: the one in binDir when it is given, the one of version want when there is data
// already (want > 0), else the newest that has pgvector.
//
// Faults: postgres_missing, postgres_version, pgvector_missing.
func (f finder) find(ctx context.Context, binDir string, want int) (installation, error) {
	all, err := f.installations(ctx, binDir)
	if err != nil {
		return installation{}, err
	}
	fit := slices.DeleteFunc(slices.Clone(all), func(i installation) bool {
		return i.version < minVersion || want > 0 && i.version != want
	})
	if len(fit) == 0 {
		return installation{}, f.unfit(binDir, all, want)
	}
	for _, i := range fit {
		if f.hasVector(ctx, i) {
			return i, nil
		}
	}
	return installation{}, ErrPgvectorMissing.
		With("PostgreSQL %d in %s is installed without the extension pgvector", fit[0].version, fit[0].binDir).
		Advise("run deploy/dev/setup.sh run, or install the package postgresql-%d-pgvector", fit[0].version)
}

func (f finder) unfit(binDir string, all []installation, want int) error {
	var found []string
	for _, i := range all {
		found = append(found, strconv.Itoa(i.version))
	}
	switch {
	case want > 0 && len(all) > 0:
		return ErrPostgresVersion.With("the data was written by PostgreSQL %d, and only %s is installed",
			want, strings.Join(found, ", ")).
			Advise("install the packages postgresql-%d and postgresql-%d-pgvector, or choose another directory with --dir", want, want)
	case len(all) > 0:
		return ErrPostgresMissing.With("PostgreSQL %s is installed, and %d or newer is needed", strings.Join(found, ", "), minVersion)
	case binDir != "":
		return ErrPostgresMissing.With("there is no PostgreSQL server in %s", binDir)
	}
	return ErrPostgresMissing
}

// installations lists the servers, newest first, each place once.
func (f finder) installations(ctx context.Context, binDir string) ([]installation, error) {
	if binDir != "" {
		return f.only(ctx, binDir)
	}
	var all []installation
	for _, glob := range f.globs {
		dirs, err := filepath.Glob(glob)
		if err != nil {
			return nil, fmt.Errorf("devstack: %w", err)
		}
		for _, dir := range dirs {
			if v := trailingNumber(filepath.Dir(dir)); v > 0 && isServer(dir) {
				all = append(all, installation{dir, v})
			}
		}
	}
	slices.SortFunc(all, func(a, b installation) int { return b.version - a.version })
	if len(all) > 0 {
		return all, nil
	}
	return f.only(ctx, f.fromPath(ctx))
}

// only is the server in dir, asked for its version.
func (f finder) only(ctx context.Context, dir string) ([]installation, error) {
	if dir == "" || !isServer(dir) {
		return nil, nil
	}
	out, err := output(ctx, filepath.Join(dir, "postgres"), "--version")
	if err != nil {
		return nil, ErrPostgresMissing.With("the PostgreSQL server in %s does not run", dir).Because(err)
	}
	// postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1), or 18beta1
	fields := strings.Fields(out)
	if len(fields) < 3 {
		return nil, ErrPostgresMissing.With("the PostgreSQL server in %s does not say its version", dir)
	}
	return []installation{{dir, leadingNumber(fields[2])}}, nil
}

// fromPath asks pg_config, then looks for postgres itself.
func (f finder) fromPath(ctx context.Context) string {
	if pgConfig, err := f.lookPath("pg_config"); err == nil {
		if out, err := output(ctx, pgConfig, "--bindir"); err == nil && isServer(strings.TrimSpace(out)) {
			return strings.TrimSpace(out)
		}
	}
	postgres, err := f.lookPath("postgres")
	if err != nil {
		return ""
	}
	// initdb is beside the real file, and postgres is often a link.
	if real, err := filepath.EvalSymlinks(postgres); err == nil && isServer(filepath.Dir(real)) {
		return filepath.Dir(real)
	}
	return filepath.Dir(postgres)
}

// hasVector looks where the known layouts keep extensions, and asks pg_config only when none of them has it:
// running it costs more than all the rest of the search.
func (f finder) hasVector(ctx context.Context, i installation) bool {
	dirs := []string{
		fmt.Sprintf(f.shareDir, i.version),
		filepath.Join(i.binDir, "../share"),
		filepath.Join(i.binDir, "../share/postgresql"),
	}
	// A link farm such as Debian's layout must not lend its extensions to a server of another prefix.
	if ok, err := filepath.Match(f.globs[0], i.binDir); err != nil || !ok {
		dirs = dirs[1:]
	}
	for _, dir := range dirs {
		if exists(filepath.Join(dir, "extension/vector.control")) {
			return true
		}
	}
	share, err := output(ctx, i.command("pg_config"), "--sharedir")
	return err == nil && exists(filepath.Join(strings.TrimSpace(share), "extension/vector.control"))
}

// dataVersion is the major version that wrote the data directory; 0 when there is no data yet.
func dataVersion(dataDir string) (int, error) {
	raw, err := os.ReadFile(filepath.Join(dataDir, "PG_VERSION"))
	if err == nil {
		if v := leadingNumber(strings.TrimSpace(string(raw))); v > 0 {
			return v, nil
		}
		return 0, ErrPostgresDataForeign.With("%s has no readable PG_VERSION", dataDir)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return 0, dirFault(dataDir, err)
	}
	entries, err := os.ReadDir(dataDir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return 0, nil
	case err != nil:
		return 0, ErrPostgresDataForeign.With("%s cannot be read as a directory", dataDir).Because(err)
	case len(entries) > 0:
		return 0, ErrPostgresDataForeign.With("%s is not empty and is not a PostgreSQL data directory", dataDir)
	}
	return 0, nil
}

// output runs a small program with a clean environment.
func output(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = cleanEnv()
	out, err := cmd.Output()
	return string(out), err
}

func isServer(dir string) bool {
	return exists(filepath.Join(dir, "postgres")) && exists(filepath.Join(dir, "initdb"))
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// leadingNumber reads the number s starts with, 0 when it starts with none.
func leadingNumber(s string) int {
	end := 0
	for end < len(s) && s[end] >= '0' && s[end] <= '9' {
		end++
	}
	n, err := strconv.Atoi(s[:end])
	if err != nil {
		return 0
	}
	return n
}

func trailingNumber(s string) int {
	start := len(s)
	for start > 0 && s[start-1] >= '0' && s[start-1] <= '9' {
		start--
	}
	return leadingNumber(s[start:])
}
