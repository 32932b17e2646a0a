package devstack

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mosaicstack/gateway/internal/fault"
)

// machine describes where servers are installed on a machine that does not exist.
func machine(t *testing.T) (finder, string) {
	t.Helper()
	root := t.TempDir()
	return finder{
		globs:    []string{filepath.Join(root, "lib/*/bin")},
		shareDir: filepath.Join(root, "share/%d"),
		lookPath: func(name string) (string, error) {
			path := filepath.Join(root, "path", name)
			if !exists(path) {
				return "", errors.New("not in PATH")
			}
			return path, nil
		},
	}, root
}

// fakeServer puts programs into bin that say which version they are, and pgvector where pg_config points.
func fakeServer(t *testing.T, bin, version string, vector bool) {
	t.Helper()
	share := filepath.Join(bin, "../elsewhere")
	if err := os.MkdirAll(filepath.Join(share, "extension"), 0o755); err != nil {
		t.Fatal(err)
	}
	if vector {
		write(t, filepath.Join(share, "extension/vector.control"), "", 0o644)
	}
	write(t, filepath.Join(bin, "postgres"), fmt.Sprintf("#!/bin/sh\necho 'postgres (PostgreSQL) %s (made up)'\n", version), 0o755)
	write(t, filepath.Join(bin, "initdb"), "#!/bin/sh\n", 0o755)
	write(t, filepath.Join(bin, "pg_config"), fmt.Sprintf("#!/bin/sh\n[ $1 = --sharedir ] && echo '%s' || echo '%s'\n", share, bin), 0o755)
}

func write(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), mode)); err != nil {
		t.Fatal(err)
	}
}

// openToAll lets other users reach path.
func openToAll(t *testing.T, path string) {
	t.Helper()
	for dir := path; dir != "/dev/shm" && dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTheServerIsFound(t *testing.T) {
	t.Parallel()
	type server struct {
		dir, version string
		vector       bool
	}
	tests := []struct {
		name    string
		servers []server
		binDir  string
		want    int // version of existing data
		found   string
		fault   *fault.Fault
		says    string
	}{
		{name: "newest", servers: []server{{"lib/9/bin", "9.6", true}, {"lib/15/bin", "15.3", true}, {"lib/17/bin", "17.1", true}}, found: "lib/17/bin"},
		{name: "newest with pgvector", servers: []server{{"lib/15/bin", "15.3", true}, {"lib/17/bin", "17.1", false}}, found: "lib/15/bin"},
		{name: "the one of the data", servers: []server{{"lib/15/bin", "15.3", true}, {"lib/17/bin", "17.1", true}}, want: 15, found: "lib/15/bin"},
		{name: "in PATH", servers: []server{{"path", "18beta1", true}}, found: "path"},
		{name: "the given one", servers: []server{{"lib/17/bin", "17.1", true}, {"opt/bin", "16.0", true}}, binDir: "opt/bin", found: "opt/bin"},
		{name: "none", fault: ErrPostgresMissing, says: "not installed"},
		{name: "none in the given place", servers: []server{{"lib/17/bin", "17.1", true}}, binDir: "opt/bin", fault: ErrPostgresMissing, says: "opt/bin"},
		{name: "too old", servers: []server{{"lib/13/bin", "13.1", true}}, fault: ErrPostgresMissing, says: "13 is installed, and 15 or newer"},
		{name: "none for the data", servers: []server{{"lib/17/bin", "17.1", true}}, want: 15, fault: ErrPostgresVersion, says: "PostgreSQL 15, and only 17"},
		{name: "another one given than the data's", servers: []server{{"opt/bin", "16.0", true}}, binDir: "opt/bin", want: 15, fault: ErrPostgresVersion, says: "PostgreSQL 15, and only 16"},
		{name: "without pgvector", servers: []server{{"lib/16/bin", "16.0", false}}, fault: ErrPgvectorMissing, says: "PostgreSQL 16"},
		{name: "the data's without pgvector", servers: []server{{"lib/15/bin", "15.0", false}, {"lib/17/bin", "17.1", true}}, want: 15, fault: ErrPgvectorMissing, says: "PostgreSQL 15"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f, root := machine(t)
			for _, s := range tt.servers {
				fakeServer(t, filepath.Join(root, s.dir), s.version, s.vector)
			}
			if tt.binDir != "" {
				tt.binDir = filepath.Join(root, tt.binDir)
			}
			got, err := f.find(t.Context(), tt.binDir, tt.want)
			if tt.fault != nil {
				if f := wantFault(t, err, tt.fault); !strings.Contains(f.Detail, tt.says) {
					t.Errorf("%q does not say %q", f.Detail, tt.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if want := filepath.Join(root, tt.found); got.binDir != want {
				t.Errorf("found %s, want %s", got.binDir, want)
			}
		})
	}
}

func TestPgvectorIsFoundInTheSharedDirectoryOfTheDistribution(t *testing.T) {
	t.Parallel()
	f, root := machine(t)
	fakeServer(t, filepath.Join(root, "lib/15/bin"), "15.1", false)
	write(t, filepath.Join(root, "share/15/extension/vector.control"), "", 0o644)
	if _, err := f.find(t.Context(), "", 0); err != nil {
		t.Error(err)
	}
	// A server of another prefix has extensions of its own.
	fakeServer(t, filepath.Join(root, "opt/bin"), "15.1", false)
	_, err := f.find(t.Context(), filepath.Join(root, "opt/bin"), 0)
	wantFault(t, err, ErrPgvectorMissing)
}

func TestStartNamesTheMissingPart(t *testing.T) {
	t.Parallel()
	cfg, _ := newConfig(t)
	find, _ := machine(t)
	_, err := start(t.Context(), cfg, find)
	wantFault(t, err, ErrPostgresMissing)
	cfg.BinDir = t.TempDir()
	_, err = start(t.Context(), cfg, find)
	wantFault(t, err, ErrPostgresMissing)
	fakeServer(t, cfg.BinDir, "15.1", false)
	_, err = start(t.Context(), cfg, find)
	wantFault(t, err, ErrPgvectorMissing)
	if got := names(t, filepath.Dir(cfg.DataDir)); got != "" {
		t.Errorf("it left %s", got)
	}
}

func TestRootNeedsAUserForTheServer(t *testing.T) {
	t.Parallel()
	cfg, _ := newConfig(t)
	cfg.RunAs = "no-such-user-here"
	p, err := StartPostgres(t.Context(), cfg)
	if os.Geteuid() != 0 {
		if err != nil {
			t.Fatalf("an ordinary user was asked for another one: %v", err)
		}
		mustStop(t, p)
		return
	}
	if f := wantFault(t, err, ErrPostgresUserMissing); !strings.Contains(f.Detail, "no-such-user-here") {
		t.Errorf("%q does not name the user", f.Detail)
	}
}

func TestTheVersionOfTheDataIsRead(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, file, content string
		want                int
		fault               *fault.Fault
	}{
		{name: "missing", want: 0},
		{name: "there", file: "postgres/PG_VERSION", content: "15\n", want: 15},
		{name: "old", file: "postgres/PG_VERSION", content: "9.6\n", want: 9},
		{name: "broken", file: "postgres/PG_VERSION", content: "\n", fault: ErrPostgresDataForeign},
		{name: "something else", file: "postgres/notes.txt", content: "x", fault: ErrPostgresDataForeign},
		{name: "a file", file: "postgres", content: "x", fault: ErrDirNotADirectory},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if tt.file != "" {
				write(t, filepath.Join(dir, tt.file), tt.content, 0o600)
			}
			got, err := dataVersion(filepath.Join(dir, "postgres"))
			if tt.fault != nil {
				wantFault(t, err, tt.fault)
				return
			}
			if err != nil || got != tt.want {
				t.Errorf("version = %d, %v, want %d", got, err, tt.want)
			}
		})
	}
}
