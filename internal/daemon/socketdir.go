package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/mosaicstack/gateway/internal/devstack"
	"github.com/mosaicstack/gateway/internal/fault"
)

var (
	errSocketDir = &fault.Fault{
		Kind: fault.Unavailable, Code: "socket_dir_unusable", Detail: "the directory of the admin socket cannot be used",
		Hint: "let MOSAIC_DIR name a directory that the gateway's user may write to; in a container, a tmpfs with that user's uid and mode=0700",
	}
	errSocketDirOpen = &fault.Fault{
		Kind: fault.Conflict, Code: "socket_dir_open", Detail: "others may enter the directory of the admin socket",
		Hint: "let MOSAIC_DIR name a directory of the gateway's own: one that is missing is made, with mode 0700",
	}
)

const privateDir fs.FileMode = 0o700

// openSocketDir makes the directory of the admin socket, or closes one that is there to everybody else. Whoever may use
// the socket is an admin, and whoever may write beside it can put another in its place.
//
// One that others have a use for is not closed to them: see mayClose. Faults: socket_dir_unusable,
// socket_dir_open.
func openSocketDir(path string, log *slog.Logger) error {
	if err := os.MkdirAll(path, privateDir); err != nil {
		return errSocketDir.With("MOSAIC_DIR %s cannot be made", path).Because(err)
	}
	// Through one descriptor: what is looked at is what is changed.
	d, err := os.Open(path)
	if err != nil {
		return errSocketDir.With("MOSAIC_DIR %s cannot be opened", path).Because(err)
	}
	defer d.Close()
	closes, held, err := mayClose(path, d)
	if err != nil {
		return err
	}
	if !closes {
		if held {
			log.Warn("the directory of the admin socket may be entered by others, and holds directories that are not the gateway's: it is left so", "dir", path)
		}
		return nil
	}
	fi, err := d.Stat()
	if err == nil {
		err = d.Chmod(privateDir)
	}
	if err != nil {
		return errSocketDir.With("MOSAIC_DIR %s cannot be closed to others", path).Because(err)
	}
	if held {
		warnFoundOpen(path, fi.Mode().Perm(), log)
	}
	return nil
}

// tellFoundOpen is for the directory of the local tier, which devstack closes.
func tellFoundOpen(d *devstack.Dir, log *slog.Logger) {
	if mode := d.FoundOpen(); mode != 0 {
		warnFoundOpen(d.Path(), mode, log)
	}
}

// warnFoundOpen tells of a directory that was in use while others could enter it.
func warnFoundOpen(path string, mode fs.FileMode, log *slog.Logger) {
	log.Warn("the directory was open to others; it is closed now", "dir", path, "was", fmt.Sprintf("%#o", mode), "mode", fmt.Sprintf("%#o", privateDir))
}

// mayClose tells whether the directory is one to be closed to others, and whether it holds anything. It fails for one that
// is not closed to them by us and that they could put another socket into: another user's, one where everybody keeps
// their own (/tmp), and one that others write to and have directories in. One with such directories that others cannot
// write to is left as it is (/run): they would be closed as well, and the socket's own mode keeps others out.
func mayClose(path string, d *os.File) (closes, held bool, err error) {
	fi, err := d.Stat()
	if err != nil {
		return false, false, errSocketDir.With("MOSAIC_DIR %s cannot be looked at", path).Because(err)
	}
	if fi.Mode().Perm()&0o077 == 0 {
		return false, false, nil
	}
	refused := func(why string) error {
		return errSocketDirOpen.With("MOSAIC_DIR %s may be entered by others (mode %#o) and %s", path, fi.Mode().Perm(), why).
			Advise("let MOSAIC_DIR name a directory of the gateway's own, such as %s: a missing one is made, with mode 0700", filepath.Join(path, "gateway"))
	}
	switch {
	case !ours(fi):
		return true, false, refused("belongs to another user")
	case fi.Mode()&fs.ModeSticky != 0:
		return true, false, refused("is one where everybody keeps their own")
	}
	entries, err := d.ReadDir(-1)
	if err != nil {
		return true, false, errSocketDir.With("MOSAIC_DIR %s cannot be read", path).Because(err)
	}
	named := func(name string) bool {
		return slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == name })
	}
	if slices.ContainsFunc(entries, fs.DirEntry.IsDir) && !named("mosaic.json") {
		if fi.Mode().Perm()&0o022 == 0 {
			return false, true, nil
		}
		return true, true, refused("holds directories that are not the gateway's")
	}
	return true, len(entries) > 0, nil
}

func ours(fi fs.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && int64(st.Uid) == int64(os.Geteuid())
}

// closable is what doctor asks: whether a directory that is there is one that the gateway would use.
func closable(path string) error {
	d, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return errSocketDir.With("%s cannot be opened", path).Because(err)
	}
	defer d.Close()
	_, _, err = mayClose(path, d)
	return err
}
