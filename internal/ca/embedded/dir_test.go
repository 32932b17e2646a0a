package embedded_test

import (
	"bufio"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mosaicstack/gateway/internal/ca/catest"
	"github.com/mosaicstack/gateway/internal/ca/embedded"
	"github.com/mosaicstack/gateway/internal/fault"
)

// snapshot gives every file under dir with its content's hash.
func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(filepath.Join(dir, path))
		files[path] = fmt.Sprintf("%x", sha256.Sum256(b))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func wantSame(t *testing.T, before, after map[string]string) {
	t.Helper()
	if !maps.Equal(before, after) {
		t.Errorf("files changed: before %v, after %v", slices.Sorted(maps.Keys(before)), slices.Sorted(maps.Keys(after)))
	}
}

func TestDamageIsNamedAndLeftAlone(t *testing.T) {
	t.Parallel()
	source := newConfig(t)
	shut(t, open(t, source))
	other := newConfig(t)
	shut(t, open(t, other))
	remove := func(name string) func(*testing.T, string) {
		return func(t *testing.T, dir string) { t.Helper(); check(t, os.Remove(filepath.Join(dir, name))) }
	}
	write := func(name, content string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			t.Helper()
			check(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
		}
	}
	foreign := func(names ...string) func(*testing.T, string) { // files of another authority
		return func(t *testing.T, dir string) {
			t.Helper()
			for _, name := range names {
				b, err := os.ReadFile(filepath.Join(other.Dir, name))
				check(t, err)
				check(t, os.WriteFile(filepath.Join(dir, name), b, 0o600))
			}
		}
	}
	cut := func(name string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			t.Helper()
			info, err := os.Stat(filepath.Join(dir, name))
			check(t, err)
			check(t, os.Truncate(filepath.Join(dir, name), info.Size()/2))
		}
	}
	const root, inter, key, conf, data = "certs/root_ca.crt", "certs/intermediate_ca.crt", "secrets/intermediate_ca_key", "config/ca.json", "db/step-ca.db"
	tests := map[string]struct {
		damage func(*testing.T, string)
		want   *fault.Fault
		names  string
	}{
		"no password":               {remove("password"), embedded.ErrPassword, "password"},
		"empty password":            {write("password", "\n"), embedded.ErrPassword, "password"},
		"another password":          {write("password", "wrong\n"), embedded.ErrPassword, key},
		"another CA's password":     {foreign("password"), embedded.ErrPassword, key},
		"no root":                   {remove(root), embedded.ErrDamaged, root},
		"empty root":                {write(root, ""), embedded.ErrDamaged, root},
		"another root":              {foreign(root), embedded.ErrDamaged, root},
		"no intermediate":           {remove(inter), embedded.ErrDamaged, inter},
		"another intermediate":      {foreign(inter), embedded.ErrDamaged, inter},
		"root and intermediate":     {foreign(root, inter), embedded.ErrDamaged, key},
		"no key":                    {remove(key), embedded.ErrDamaged, key},
		"garbage for a key":         {write(key, "garbage"), embedded.ErrDamaged, key},
		"half a key":                {cut(key), embedded.ErrDamaged, key},
		"no configuration":          {remove(conf), embedded.ErrDamaged, conf},
		"half a configuration":      {cut(conf), embedded.ErrDamaged, conf},
		"an empty configuration":    {write(conf, "{}"), embedded.ErrDamaged, conf},
		"another configuration":     {foreign(conf), embedded.ErrPassword, "provisioner"},
		"no database":               {remove(data), embedded.ErrDamaged, data},
		"garbage for a database":    {write(data, strings.Repeat("garbage", 9999)), embedded.ErrDamaged, data},
		"a database of a few bytes": {write(data, "x"), embedded.ErrDamaged, data},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := newConfig(t)
			check(t, os.CopyFS(cfg.Dir, os.DirFS(source.Dir)))
			test.damage(t, cfg.Dir)
			before := snapshot(t, cfg.Dir)
			a, err := embedded.Open(t.Context(), cfg)
			if err == nil {
				shut(t, a)
				t.Fatal("opened")
			}
			wantFault(t, err, test.want)
			if f := fault.From(err); !strings.Contains(f.Detail, test.names) || f.Hint == "" {
				t.Errorf("fault %q does not name %s, or has no remedy", f.Detail, test.names)
			}
			wantSame(t, before, snapshot(t, cfg.Dir))
		})
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// The root's key is made to be taken away.
func TestRootKeyMayBeOffline(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t)
	shut(t, open(t, cfg))
	check(t, os.Remove(filepath.Join(cfg.Dir, "secrets", "root_ca_key")))
	issue(t, open(t, cfg))
}

// A directory that moved knows its new place.
func TestDirectoryMayMove(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t)
	shut(t, open(t, cfg))
	moved := cfg
	moved.Dir = filepath.Join(t.TempDir(), "elsewhere")
	check(t, os.Rename(cfg.Dir, moved.Dir))
	issue(t, open(t, moved))
	conf, _, _ := federation(t, moved.Dir)
	for _, path := range []string{conf.Root[0], conf.IntermediateCert, conf.IntermediateKey, conf.DB.DataSource} {
		if !strings.HasPrefix(path, moved.Dir) {
			t.Errorf("ca.json still points to %s", path)
		}
	}
}

// A process killed while it made the authority leaves one of these behind. None of them is an authority, so the
// next start makes one.
func TestInterruptedCreationIsStartedOver(t *testing.T) {
	t.Parallel()
	whole := newConfig(t)
	shut(t, open(t, whole))
	tests := map[string]func(t *testing.T, dir string){
		"an empty draft":     func(t *testing.T, dir string) { t.Helper(); check(t, os.Mkdir(dir+".new-1", 0o700)) },
		"half a draft":       func(t *testing.T, dir string) { t.Helper(); check(t, os.MkdirAll(dir+".new-2/certs", 0o700)) },
		"a whole draft":      func(t *testing.T, dir string) { t.Helper(); check(t, os.CopyFS(dir+".new-3", os.DirFS(whole.Dir))) },
		"an empty directory": func(t *testing.T, dir string) { t.Helper(); check(t, os.Mkdir(dir, 0o700)) },
		"an empty one and a draft": func(t *testing.T, dir string) {
			t.Helper()
			check(t, os.MkdirAll(dir+".new-4/db", 0o700))
			check(t, os.Mkdir(dir, 0o700))
		},
		"only the lock file":         func(t *testing.T, dir string) { t.Helper(); check(t, os.WriteFile(dir+".lock", nil, 0o600)) },
		"a missing parent directory": func(t *testing.T, dir string) { t.Helper(); check(t, os.RemoveAll(filepath.Dir(dir))) },
	}
	for name, leave := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := newConfig(t)
			leave(t, cfg.Dir)
			issue(t, open(t, cfg))
			drafts, err := filepath.Glob(cfg.Dir + ".new-*")
			check(t, err)
			if len(drafts) > 0 {
				t.Errorf("drafts stay: %v", drafts)
			}
		})
	}
}

func TestForeignDirectoryIsNotFilled(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t)
	check(t, os.MkdirAll(cfg.Dir, 0o700))
	check(t, os.WriteFile(filepath.Join(cfg.Dir, "thesis.txt"), []byte("precious"), 0o600))
	before := snapshot(t, cfg.Dir)
	_, err := embedded.Open(t.Context(), cfg)
	wantFault(t, err, embedded.ErrPassword)
	wantSame(t, before, snapshot(t, cfg.Dir))
}

func TestSecondOpenFailsAtOnce(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t)
	a := open(t, cfg)
	start := time.Now()
	_, err := embedded.Open(t.Context(), cfg)
	wantFault(t, err, embedded.ErrLocked)
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("it took %v to say so", took)
	}
	shut(t, a)
	open(t, cfg)
}

func TestOneOfManyFirstStartsWins(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t)
	const n = 8
	opened, errs := make([]*embedded.Authority, n), make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { opened[i], errs[i] = embedded.Open(t.Context(), cfg) })
	}
	wg.Wait()
	winners := 0
	for i := range n {
		if errs[i] == nil {
			winners++
			shut(t, opened[i])
			continue
		}
		wantFault(t, errs[i], embedded.ErrLocked)
	}
	if winners != 1 {
		t.Errorf("%d opened it", winners)
	}
}

// holdEnv makes a run of this test binary hold a directory instead of testing.
const holdEnv = "MOSAIC_TEST_HOLD_CA"

// TestHold is the other process of TestKilledProcessLosesNothing; on its own it does nothing.
func TestHold(t *testing.T) {
	dir := os.Getenv(holdEnv)
	if dir == "" {
		return
	}
	cfg := newConfig(t)
	cfg.Dir = dir
	a, err := embedded.Open(t.Context(), cfg)
	check(t, err)
	req, _ := issue(t, a)
	check(t, a.Revoke(t.Context(), req.Serial, "before the kill"))
	fmt.Printf("revoked %s\n", req.Serial)
	<-t.Context().Done() // until killed
}

func TestKilledProcessLosesNothing(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t)
	child := exec.Command(os.Args[0], "-test.run=^TestHold$", "-test.timeout=1m")
	child.Env = append(os.Environ(), holdEnv+"="+cfg.Dir)
	out, err := child.StdoutPipe()
	check(t, err)
	check(t, child.Start())
	var serial string
	for scan := bufio.NewScanner(out); scan.Scan(); {
		if s, ok := strings.CutPrefix(scan.Text(), "revoked "); ok {
			serial = s
			break
		}
	}
	if serial == "" {
		t.Fatalf("the child died: %v", child.Wait())
	}
	_, err = embedded.Open(t.Context(), cfg)
	wantFault(t, err, embedded.ErrLocked)
	check(t, child.Process.Signal(syscall.SIGKILL))
	var exit *exec.ExitError
	if err := child.Wait(); !errors.As(err, &exit) {
		t.Fatalf("the child ended with %v", err)
	}
	a := open(t, cfg)
	der, err := a.CRL(catest.Context(t))
	check(t, err)
	list, err := x509.ParseRevocationList(der)
	check(t, err)
	if len(list.RevokedCertificateEntries) != 1 || list.RevokedCertificateEntries[0].SerialNumber.String() != serial {
		t.Errorf("%s is not on the list after the kill", serial)
	}
	issue(t, a)
}
