package unixsock_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/mosaicstack/gateway/internal/unixsock"
)

func TestADirectoryOfAnyDepthHoldsASocket(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for range 3 {
		dir = filepath.Join(dir, strings.Repeat("d", 100))
	}
	mkdir(t, dir)
	l := listen(t, dir)
	path := filepath.Join(dir, "admin.sock")
	if got := l.Addr().String(); got != path {
		t.Errorf("Addr() = %q, want the path that was asked for, %q", got, path)
	}
	if got := exchange(t, l, path); got != "hello" {
		t.Errorf("read %q through the socket, want hello", got)
	}
}

// Not parallel: the umask belongs to the process.
func TestTheSocketHasItsModeWhateverTheUmaskIs(t *testing.T) {
	for _, umask := range []int{0, 0o022, 0o777} {
		dir := t.TempDir()
		old := syscall.Umask(umask)
		l, err := unixsock.Listen(dir, "admin.sock", 0o600)
		syscall.Umask(old)
		if err != nil {
			t.Fatalf("umask %04o: %v", umask, err)
		}
		fi, err := os.Stat(filepath.Join(dir, "admin.sock"))
		if err != nil {
			t.Fatal(err)
		}
		if got, want := fi.Mode(), fs.ModeSocket|0o600; got != want {
			t.Errorf("umask %04o: mode = %v, want %v", umask, got, want)
		}
		l.Close()
	}
}

func TestCloseRemovesTheSocket(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := listen(t, dir)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "admin.sock")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("lstat after Close: %v, want not exist", err)
	}
	if err := l.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("second Close: %v, want net.ErrClosed", err)
	}
	listen(t, dir)
}

func TestCloseLeavesASocketThatReplacedOurs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "admin.sock")
	first := listen(t, dir)
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	second := listen(t, dir)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if got := exchange(t, second, path); got != "hello" {
		t.Errorf("read %q through the second socket, want hello", got)
	}
}

func TestAStaleSocketIsReplaced(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "admin.sock")
	abandon(t, path)
	l := listen(t, dir)
	if got := exchange(t, l, path); got != "hello" {
		t.Errorf("read %q, want hello", got)
	}
}

func TestASocketWithAnOwnerIsLeftAlone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "admin.sock")
	l := listen(t, dir)
	if _, err := unixsock.Listen(dir, "admin.sock", 0o600); !errors.Is(err, unixsock.ErrInUse) {
		t.Fatalf("second Listen: %v, want ErrInUse", err)
	}
	// The probe of the refused listener is the first connection in the queue.
	probe, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	probe.Close()
	if got := exchange(t, l, path); got != "hello" {
		t.Errorf("read %q through the first socket, want hello", got)
	}
}

func TestOfManyThatFindAStaleSocketOneServes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	abandon(t, filepath.Join(dir, "admin.sock"))
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		served []net.Listener
	)
	for range 16 {
		wg.Go(func() {
			l, err := unixsock.Listen(dir, "admin.sock", 0o600)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				served = append(served, l)
			case !errors.Is(err, unixsock.ErrInUse):
				t.Errorf("Listen: %v, want ErrInUse", err)
			}
		})
	}
	wg.Wait()
	for _, l := range served {
		l.Close()
	}
	if len(served) != 1 {
		t.Errorf("%d listeners served, want 1", len(served))
	}
}

func TestSomethingElseUnderTheNameIsLeftAlone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "admin.sock")
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := unixsock.Listen(dir, "admin.sock", 0o600); !errors.Is(err, unixsock.ErrNotASocket) {
		t.Fatalf("Listen: %v, want ErrNotASocket", err)
	}
	if got, _ := os.ReadFile(path); string(got) != "mine" {
		t.Errorf("the file now holds %q", got)
	}
}

func TestDialSaysWhyItFailed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	abandon(t, filepath.Join(dir, "stale.sock"))
	tests := []struct {
		name, path string
		want       error
	}{
		{"no directory", filepath.Join(dir, "no", "a.sock"), fs.ErrNotExist},
		{"no socket", filepath.Join(dir, "a.sock"), fs.ErrNotExist},
		{"nobody serves", filepath.Join(dir, "stale.sock"), syscall.ECONNREFUSED},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := unixsock.Dial(t.Context(), tt.path)
			if !errors.Is(err, tt.want) {
				t.Errorf("Dial: %v, want %v", err, tt.want)
			}
			if err != nil && (!strings.Contains(err.Error(), tt.path) || strings.Contains(err.Error(), "/proc/self")) {
				t.Errorf("error does not name the path that was asked for: %v", err)
			}
		})
	}
}

func listen(t *testing.T, dir string) net.Listener {
	t.Helper()
	l, err := unixsock.Listen(dir, "admin.sock", 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// abandon leaves a socket behind as a killed process does: there, and nobody on it. It binds below the path
// limit and moves the socket, so that it works at any depth.
func abandon(t *testing.T, path string) {
	t.Helper()
	short, err := os.MkdirTemp("", "u")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(short)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(short, "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := os.Rename(filepath.Join(short, "s"), path); err != nil {
		t.Fatal(err)
	}
	l.Close()
}

// exchange sends hello from the listener to a client of path and returns what the client read.
func exchange(t *testing.T, l net.Listener, path string) string {
	t.Helper()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = io.WriteString(c, "hello")
		c.Close()
	}()
	c, err := unixsock.Dial(context.WithoutCancel(t.Context()), path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(got)
}

func mkdir(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
}
