package devstack

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// tempMark is part of the name of every file that WriteFileAtomic has not finished. OpenDir removes those that a
// killed process left behind.
const tempMark = ".mosaic-tmp-"

// WriteFileAtomic makes path hold data with the given mode, whatever happens: a reader, or the next start after
// kill -9 or a power cut, sees the old content or the new one and nothing between. The directory must exist.
func WriteFileAtomic(path string, data []byte, mode fs.FileMode) (err error) {
	dir, name := filepath.Split(path)
	if dir == "" {
		dir = "."
	}
	f, err := os.CreateTemp(dir, tempMark+name+"-*") // mode 0600
	if err != nil {
		return fmt.Errorf("devstack: write %s: %w", name, err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
			err = fmt.Errorf("devstack: write %s: %w", name, err)
		}
	}()
	if _, err = f.Write(data); err != nil {
		return err
	}
	if err = f.Chmod(mode); err != nil { // not subject to the umask
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

// syncDir makes renames in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}

func isTemp(name string) bool { return strings.HasPrefix(name, tempMark) }
