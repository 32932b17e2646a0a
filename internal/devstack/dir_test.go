package devstack

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestAMissingOrEmptyDirectoryIsInitialised(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		make func(dir string) error
	}{
		{"missing with its parents", func(string) error { return nil }},
		{"empty and open to all", func(dir string) error {
			return errors.Join(os.MkdirAll(dir, 0o755), os.Chmod(dir, 0o777))
		}},
		{"killed after mkdir", func(dir string) error { return os.MkdirAll(dir, 0o700) }},
		{"killed after the lock was made", func(dir string) error {
			return errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, "lock"), []byte("123\n"), 0o600))
		}},
		{"killed while the marker was written", func(dir string) error {
			return errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, "lock"), nil, 0o600),
				os.WriteFile(filepath.Join(dir, tempMark+"mosaic.json-1"), []byte(`{"for`), 0o600))
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "a", "b", ".mosaic")
			if err := tt.make(dir); err != nil {
				t.Fatal(err)
			}
			d := must(OpenDir(dir))(t)
			if d.Path() != dir || d.Join("x", "y") != filepath.Join(dir, "x/y") || d.PostgresDir() != filepath.Join(dir, "postgres") {
				t.Errorf("paths: %q %q %q", d.Path(), d.Join("x", "y"), d.PostgresDir())
			}
			if fi := must(os.Stat(dir))(t); fi.Mode().Perm() != 0o700 {
				t.Errorf("mode = %v, want 0700", fi.Mode())
			}
			if d.FoundOpen() != 0 {
				t.Errorf("nothing of ours was in it, and it was found open: %v", d.FoundOpen())
			}
			if got := names(t, dir); got != "lock mosaic.json" {
				t.Errorf("it holds %s", got)
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			again := must(OpenDir(dir))(t)
			defer again.Close()
			if !again.CreatedAt().Equal(d.CreatedAt()) || d.CreatedAt().IsZero() {
				t.Errorf("created at %v, and after opening again at %v", d.CreatedAt(), again.CreatedAt())
			}
		})
	}
}

func TestADirectoryOfOursIsClosedToOthersAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := must(OpenDir(dir))(t).Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	d := must(OpenDir(dir))(t)
	if d.FoundOpen() != 0o755 {
		t.Errorf("it was found open: %v, want 0755", d.FoundOpen())
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d = must(OpenDir(dir))(t)
	defer d.Close()
	if d.FoundOpen() != 0 {
		t.Errorf("it was closed, and found open: %v", d.FoundOpen())
	}
	if fi := must(os.Stat(dir))(t); fi.Mode().Perm() != 0o700 {
		t.Errorf("mode = %v, want 0700", fi.Mode())
	}
}

func TestADirectoryThatIsNotOursIsRefusedUntouched(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, file, content string
		want                error
		says                string
	}{
		{"a project", "main.go", "package main", ErrDirForeign, "main.go"},
		{"a directory called lock", "lock/x", "", ErrDirForeign, "lock"},
		{"newer", "mosaic.json", `{"format":2,"created_at":"2030-01-01T00:00:00Z"}`, ErrDirFormat, "format 2"},
		{"broken marker", "mosaic.json", `{"for`, ErrDirFormat, "cannot be read"},
		{"somebody's mosaic.json", "mosaic.json", `{"name":"tiles"}`, ErrDirFormat, "cannot be read"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			file := filepath.Join(dir, tt.file)
			if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(tt.content), 0o644), os.Chmod(dir, 0o755)); err != nil {
				t.Fatal(err)
			}
			before := names(t, dir)
			_, err := OpenDir(dir)
			if !errors.Is(err, tt.want) {
				t.Fatalf("error = %v, want %v", err, tt.want)
			}
			if !strings.Contains(err.Error(), tt.says) || !strings.Contains(err.Error(), dir) {
				t.Errorf("%q does not name %q and %q", err, tt.says, dir)
			}
			if after := names(t, dir); after != before {
				t.Errorf("it held %s and now holds %s", before, after)
			}
			if fi := must(os.Stat(dir))(t); fi.Mode().Perm() != 0o755 {
				t.Errorf("its mode became %v", fi.Mode())
			}
		})
	}
}

func TestAPathThroughAFileIsNotADirectory(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, filepath.Join(file, "below"), filepath.Join(file, "far", "below")} {
		_, err := OpenDir(path)
		wantFault(t, err, ErrDirNotADirectory)
	}
}

func TestADirectoryOfAnotherUserIsUnwritable(t *testing.T) {
	t.Parallel()
	cred := nobody()
	if cred == nil {
		_, err := OpenDir("/proc/mosaic")
		wantFault(t, err, ErrDirUnwritable)
		return
	}
	parent := must(os.MkdirTemp("", "mosaic-dir-"))(t)
	t.Cleanup(func() { os.RemoveAll(parent) })
	if err := os.Chmod(parent, 0o755); err != nil {
		t.Fatal(err)
	}
	ours := filepath.Join(parent, "ours")
	if err := must(OpenDir(ours))(t).Close(); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{filepath.Join(parent, "new"), ours, "/proc/mosaic"} {
		p := startHelper(t, "open", dir, cred)
		if got := p.expect("fault"); got != "dir_unwritable" {
			t.Errorf("%s: fault %s, want dir_unwritable", dir, got)
		}
		p.kill()
	}
}

func TestASecondGatewayIsToldWhoHoldsTheDirectory(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "d")
	p := startHelper(t, "open", dir, nil)
	p.expect("opened")
	_, err := OpenDir(dir)
	f := wantFault(t, err, ErrDirInUse)
	if want := fmt.Sprintf("pid %d", p.cmd.Process.Pid); !strings.Contains(f.Detail, want) {
		t.Errorf("%q does not name %s", f.Detail, want)
	}
	p.kill()
	d, err := OpenDir(dir)
	if err != nil {
		t.Fatalf("after kill -9 of the holder: %v", err)
	}
	d.Close()
}

func TestOfManyThatOpenADirectoryAtOnceOneHasIt(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "d")
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		held []*Dir
	)
	for range 16 {
		wg.Go(func() {
			d, err := OpenDir(dir)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				held = append(held, d)
			case !errors.Is(err, ErrDirInUse):
				t.Errorf("OpenDir: %v, want dir_in_use", err)
			}
		})
	}
	wg.Wait()
	if len(held) != 1 {
		t.Errorf("%d hold it", len(held))
	}
	for _, d := range held {
		d.Close()
	}
}

func TestWriteFileAtomicReplacesTheWholeFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ready.json")
	for _, w := range []struct {
		data string
		mode fs.FileMode
	}{{"a longer content", 0o600}, {"short", 0o666}} {
		if err := WriteFileAtomic(path, []byte(w.data), w.mode); err != nil {
			t.Fatal(err)
		}
		if got := string(must(os.ReadFile(path))(t)); got != w.data {
			t.Errorf("content = %q, want %q", got, w.data)
		}
		if fi := must(os.Stat(path))(t); fi.Mode() != w.mode {
			t.Errorf("mode = %v, want %v", fi.Mode(), w.mode)
		}
	}
}

func TestWriteFileAtomicThatFailsLeavesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "taken", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := WriteFileAtomic(filepath.Join(dir, "taken"), []byte("data"), 0o600); err == nil {
		t.Fatal("a directory was replaced by a file")
	}
	if got := names(t, dir); got != "taken" {
		t.Errorf("it left %s", got)
	}
}

func FuzzMarker(f *testing.F) {
	f.Add([]byte(`{"format":1,"created_at":"2026-01-02T03:04:05Z"}`))
	f.Add([]byte(`{"format":2}`))
	f.Add([]byte(`{"format":1e99,"created_at":null}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := parseMarker("/dir", raw)
		switch {
		case err == nil && (m == nil || m.Format != dirFormat):
			t.Errorf("%q was read as %+v", raw, m)
		case err != nil && !errors.Is(err, ErrDirFormat):
			t.Errorf("%q: %v, want dir_format", raw, err)
		}
	})
}

func names(t *testing.T, dir string) string {
	t.Helper()
	var all []string
	for _, e := range must(os.ReadDir(dir))(t) {
		all = append(all, e.Name())
	}
	return strings.Join(all, " ")
}
