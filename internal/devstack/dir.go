package devstack

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mosaicstack/gateway/internal/fault"
)

const (
	markerName   = "mosaic.json"
	lockName     = "lock"
	postgresName = "postgres"
	dirFormat    = 1
	dirMode      = 0o700
)

// marker is what mosaic.json holds. Its presence makes a directory ours.
type marker struct {
	Format    int       `json:"format"`
	CreatedAt time.Time `json:"created_at"`
}

// Dir is a directory that this process alone uses, from OpenDir until Close or its death.
type Dir struct {
	path      string
	createdAt time.Time
	lock      *os.File
	foundOpen fs.FileMode
}

// OpenDir takes the directory at path for this process. A missing or empty one is initialised with mode 0700; one
// that holds anything else than our data is refused untouched. One of ours that others could enter is closed to them
// again: see FoundOpen. The lock is the kernel's (flock), so it ends with
// the process and never has to be cleaned up.
//
// Faults: dir_foreign, dir_unwritable, dir_not_a_directory, dir_format, dir_in_use.
func OpenDir(path string) (*Dir, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, ErrDirUnwritable.With("the path %q cannot be made absolute", path).Because(err)
	}
	if err := makeDir(abs); err != nil {
		return nil, err
	}
	// Before the lock file is made: a foreign directory is left exactly as it was found.
	if _, err := inspect(abs); err != nil {
		return nil, err
	}
	lock, err := lockDir(abs)
	if err != nil {
		return nil, err
	}
	d := &Dir{path: abs, lock: lock}
	if err := d.settle(); err != nil {
		return nil, errors.Join(err, unlock(lock))
	}
	return d, nil
}

// Path is the directory's absolute path.
func (d *Dir) Path() string { return d.path }

// Join is the absolute path of something inside the directory.
func (d *Dir) Join(elem ...string) string {
	return filepath.Join(append([]string{d.path}, elem...)...)
}

// PostgresDir is where the private server's data is.
func (d *Dir) PostgresDir() string { return d.Join(postgresName) }

// CreatedAt is when the directory was initialised.
func (d *Dir) CreatedAt() time.Time { return d.createdAt }

// FoundOpen is the mode of a directory that held our data and could be entered by others until it was opened; 0
// otherwise. What is in it has modes of its own, so they could see names and not secrets.
func (d *Dir) FoundOpen() fs.FileMode { return d.foundOpen }

// Close gives the directory up. Everything inside stays.
func (d *Dir) Close() error { return unlock(d.lock) }

// makeDir creates the directory when it is missing, and tells apart why it cannot be used.
func makeDir(path string) error {
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.Mkdir(path, dirMode)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return dirFault(path, err)
	}
	fi, err := os.Stat(path)
	if err != nil {
		return dirFault(path, err)
	}
	if !fi.IsDir() {
		return ErrDirNotADirectory.With("%s is not a directory", path)
	}
	return nil
}

// inspect decides whether the directory may be used: it has our marker, or nothing but what we leave before the
// marker is written. The marker is nil in the second case.
func inspect(path string) (*marker, error) {
	raw, err := os.ReadFile(filepath.Join(path, markerName))
	switch {
	case err == nil:
		return parseMarker(path, raw)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, dirFault(path, err)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, dirFault(path, err)
	}
	// The first start of another gateway may have come between the two reads.
	if slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == markerName }) {
		return inspect(path)
	}
	for _, e := range entries {
		if e.Type().IsRegular() && (e.Name() == lockName || isTemp(e.Name())) {
			continue
		}
		return nil, ErrDirForeign.With("%s is not empty (it holds %q) and was not made by mosaic", path, e.Name())
	}
	return nil, nil
}

func parseMarker(path string, raw []byte) (*marker, error) {
	var m marker
	if err := json.Unmarshal(raw, &m); err != nil || m.Format < 1 {
		return nil, ErrDirFormat.With("%s cannot be read", filepath.Join(path, markerName)).
			Advise("restore it from a backup, or choose another directory with --dir").Because(err)
	}
	if m.Format > dirFormat {
		return nil, ErrDirFormat.With("%s has format %d; this version of mosaic reads up to %d", path, m.Format, dirFormat)
	}
	return &m, nil
}

// lockDir takes the lock and writes our pid into it, for the one who comes second.
func lockDir(path string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(path, lockName), os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, dirFault(path, err)
	}
	if err := lock(f); err != nil {
		defer f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, inUse(path, f)
		}
		return nil, fmt.Errorf("devstack: lock %s: %w", path, err)
	}
	if err = f.Truncate(0); err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		return nil, errors.Join(dirFault(path, err), unlock(f))
	}
	return f, nil
}

func inUse(path string, lock *os.File) error {
	buf := make([]byte, 32)
	n, _ := lock.ReadAt(buf, 0)
	pid, err := strconv.Atoi(strings.TrimSpace(string(buf[:n])))
	if err != nil { // it took the lock a moment ago and has not written yet
		return ErrDirInUse.With("another gateway uses %s", path)
	}
	return ErrDirInUse.With("another gateway (pid %d) uses %s", pid, path)
}

// settle brings a directory that is ours, and locked, to its proper shape.
func (d *Dir) settle() error {
	m, err := inspect(d.path)
	if err != nil {
		return err
	}
	fi, err := os.Stat(d.path)
	if err != nil {
		return dirFault(d.path, err)
	}
	if was := fi.Mode().Perm(); was != dirMode {
		if m != nil && was&0o077 != 0 {
			d.foundOpen = was
		}
		if err := os.Chmod(d.path, dirMode); err != nil {
			return dirFault(d.path, err)
		}
	}
	if err := d.sweep(); err != nil {
		return err
	}
	if m == nil {
		m = &marker{Format: dirFormat, CreatedAt: time.Now().UTC().Truncate(time.Second)}
		raw, err := json.Marshal(m)
		if err != nil {
			return fmt.Errorf("devstack: marker: %w", err)
		}
		if err := WriteFileAtomic(d.Join(markerName), append(raw, '\n'), 0o600); err != nil {
			return dirFault(d.path, err)
		}
	}
	d.createdAt = m.CreatedAt
	return nil
}

// sweep removes files that a killed process had not finished writing.
func (d *Dir) sweep() error {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return dirFault(d.path, err)
	}
	for _, e := range entries {
		if isTemp(e.Name()) {
			_ = os.Remove(d.Join(e.Name()))
		}
	}
	return nil
}

// dirFault says what an error of the file system means to the person who chose the directory.
func dirFault(path string, err error) error {
	var f *fault.Fault
	switch {
	case errors.As(err, &f):
		return err
	case errors.Is(err, syscall.ENOTDIR):
		return ErrDirNotADirectory.With("a parent of %s is not a directory", path).Because(err)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return ErrDirUnwritable.With("the file system of %s is full", path).
			Advise("free some space, or choose another directory with --dir").Because(err)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return ErrDirUnwritable.With("%s cannot be used by this user", path).Because(err)
	}
	return ErrDirUnwritable.With("%s cannot be used", path).Because(err)
}
