// Package unixsock opens and dials unix sockets under paths of any length.
//
// The kernel takes at most 107 bytes of socket path, and a project directory is easily deeper than that. So the
// directory is opened first and the socket is named through it, as /proc/self/fd/N/name: only the last element
// has to be short.
package unixsock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mosaicstack/gateway/internal/fault"
)

var (
	// ErrInUse means that somebody answers on the socket, so that it must not be taken away.
	ErrInUse = &fault.Fault{
		Kind: fault.Conflict, Code: "socket_in_use",
		Detail: "another process serves this socket",
		Hint:   "stop the gateway that uses this directory, or choose another directory",
	}
	// ErrNotASocket means that the socket's name is taken by something else, which is left alone.
	ErrNotASocket = &fault.Fault{
		Kind: fault.Conflict, Code: "socket_path_taken",
		Detail: "the socket's path is taken by something that is not a socket",
		Hint:   "move it away, or choose another directory",
	}
)

// probeTimeout bounds the question whether a socket that is already there has an owner. A local connect either
// succeeds or fails at once; only a full accept queue makes it wait, and a full queue has an owner.
const probeTimeout = 2 * time.Second

// Dial connects to the socket at path. Errors are *net.OpError: errors.Is(err, fs.ErrNotExist) when there is no
// socket, and syscall.ECONNREFUSED when nobody serves it.
func Dial(ctx context.Context, path string) (net.Conn, error) {
	dir, err := openDir(filepath.Dir(path), unix.O_PATH)
	if err != nil {
		return nil, dialError(path, err)
	}
	defer dir.Close()
	conn, err := dialAt(ctx, dir, filepath.Base(path))
	if err != nil {
		return nil, dialError(path, err)
	}
	return conn, nil
}

func dialAt(ctx context.Context, dir *os.File, name string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "unix", through(dir, name))
}

// dialError names the path that was asked for instead of the detour through /proc.
func dialError(path string, err error) error {
	if op := (*net.OpError)(nil); errors.As(err, &op) {
		err = op.Err
	}
	if pe := (*fs.PathError)(nil); errors.As(err, &pe) {
		err = pe.Err
	}
	return &net.OpError{Op: "dial", Net: "unix", Addr: &net.UnixAddr{Name: path, Net: "unix"}, Err: err}
}

// Listen serves a socket called name in the directory dir. The socket has its mode from the moment it exists,
// whatever the umask is. A socket left behind by a process that was killed is replaced; one that still has an
// owner is ErrInUse. Closing the listener removes the socket.
func Listen(dir, name string, mode fs.FileMode) (net.Listener, error) {
	d, err := openDir(dir, unix.O_RDONLY)
	if err != nil {
		return nil, fmt.Errorf("unixsock: open directory: %w", err)
	}
	l, err := listenAt(d, name, mode)
	if err != nil {
		d.Close()
		return nil, err
	}
	l.addr = &net.UnixAddr{Name: filepath.Join(dir, name), Net: "unix"}
	return l, nil
}

func listenAt(dir *os.File, name string, mode fs.FileMode) (*listener, error) {
	// Probe, remove and bind are three steps. Without the lock, of two processes that both found a stale socket
	// the slower one would remove the socket that the faster one had just bound.
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		return nil, fmt.Errorf("unixsock: lock directory: %w", err)
	}
	defer func() { _ = unix.Flock(int(dir.Fd()), unix.LOCK_UN) }()

	if err := removeStale(dir, name); err != nil {
		return nil, err
	}
	// bind(2) takes the new inode's mode from the socket, so setting it before leaves no moment with a wider one.
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if cerr := c.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), uint32(mode.Perm())) }); cerr != nil {
			return cerr
		}
		return err
	}}
	inner, err := lc.Listen(context.Background(), "unix", through(dir, name))
	if err != nil {
		return nil, fmt.Errorf("unixsock: listen on %s: %w", name, err)
	}
	ul := inner.(*net.UnixListener)
	// The path that net would unlink goes through a descriptor number, which may mean another directory by then.
	ul.SetUnlinkOnClose(false)
	l := &listener{UnixListener: ul, dir: dir, name: name}
	if err := unix.Fchmodat(int(dir.Fd()), name, uint32(mode.Perm()), 0); err != nil { // the umask narrowed it
		return nil, errors.Join(fmt.Errorf("unixsock: chmod %s: %w", name, err), ul.Close())
	}
	if err := unix.Fstatat(int(dir.Fd()), name, &l.inode, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, errors.Join(fmt.Errorf("unixsock: stat %s: %w", name, err), ul.Close())
	}
	return l, nil
}

// removeStale removes a socket that nobody answers on.
func removeStale(dir *os.File, name string) error {
	var st unix.Stat_t
	err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil
	case err != nil:
		return fmt.Errorf("unixsock: stat %s: %w", name, err)
	case st.Mode&unix.S_IFMT != unix.S_IFSOCK:
		return ErrNotASocket
	}
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	conn, err := dialAt(ctx, dir, name)
	if err == nil {
		conn.Close()
		return ErrInUse
	}
	// Only a refusal proves that the owner is gone: a full queue or a permission does not.
	if !errors.Is(err, unix.ECONNREFUSED) {
		return ErrInUse.Because(err)
	}
	if err := unix.Unlinkat(int(dir.Fd()), name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unixsock: remove stale %s: %w", name, err)
	}
	return nil
}

// listener keeps its directory open for as long as it lives, because the name is only good inside it.
type listener struct {
	*net.UnixListener
	dir   *os.File
	name  string
	addr  net.Addr
	inode unix.Stat_t
	once  sync.Once
}

// Addr is the socket's path as it was asked for.
func (l *listener) Addr() net.Addr { return l.addr }

// Close removes the socket, unless somebody put another one in its place, and stops serving. In this order: a
// socket that still answers is not replaced by anybody, so the one that is removed is ours.
func (l *listener) Close() error {
	err := net.ErrClosed
	l.once.Do(func() {
		err = nil
		var st unix.Stat_t
		serr := unix.Fstatat(int(l.dir.Fd()), l.name, &st, unix.AT_SYMLINK_NOFOLLOW)
		if serr == nil && st.Dev == l.inode.Dev && st.Ino == l.inode.Ino {
			err = unix.Unlinkat(int(l.dir.Fd()), l.name, 0)
		}
		err = errors.Join(err, l.UnixListener.Close(), l.dir.Close())
	})
	return err
}

func openDir(path string, how int) (*os.File, error) {
	fd, err := unix.Open(path, how|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

func through(dir *os.File, name string) string {
	return "/proc/self/fd/" + strconv.Itoa(int(dir.Fd())) + "/" + name
}
