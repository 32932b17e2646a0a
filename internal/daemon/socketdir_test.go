package daemon

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mosaicstack/gateway/internal/fault"
)

func TestTheSocketsDirectoryIsOursAloneOrRefused(t *testing.T) {
	t.Parallel()
	file := func(name string) func(string) error {
		return func(dir string) error { return os.WriteFile(filepath.Join(dir, name), nil, 0o600) }
	}
	folder := func(name string) func(string) error {
		return func(dir string) error { return os.Mkdir(filepath.Join(dir, name), 0o755) }
	}
	for _, tt := range []struct {
		name  string
		mode  fs.FileMode
		holds []func(string) error
		want  *fault.Fault
		left  bool // as it was
		warns bool
	}{
		{name: "private", mode: 0o700},
		{name: "private, and holds what it likes", mode: 0o700, holds: []func(string) error{folder("x"), file("y")}},
		{name: "empty and readable", mode: 0o755},
		{name: "empty and open to all", mode: 0o777},
		{name: "to be entered and no more", mode: 0o701},
		{name: "left by a gateway", mode: 0o755, holds: []func(string) error{file("admin.sock"), file("ready.json")}, warns: true},
		{name: "of a gateway that was local", mode: 0o750, holds: []func(string) error{file("mosaic.json"), folder("postgres")}, warns: true},
		{name: "everybody's", mode: 0o777 | fs.ModeSticky, want: errSocketDirOpen},
		{name: "the place of others", mode: 0o755, holds: []func(string) error{folder("sshd"), file("utmp")}, left: true, warns: true},
		{name: "where others write", mode: 0o775, holds: []func(string) error{folder("sshd"), file("utmp")}, want: errSocketDirOpen},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for _, put := range tt.holds {
				if err := put(dir); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Chmod(dir, tt.mode); err != nil {
				t.Fatal(err)
			}
			asked := closable(dir)
			var logs strings.Builder
			err := openSocketDir(dir, slog.New(slog.NewTextHandler(&logs, nil)))
			fi, serr := os.Stat(dir)
			if serr != nil {
				t.Fatal(serr)
			}
			if tt.want != nil {
				if !errors.Is(err, tt.want) || !errors.Is(asked, tt.want) || !strings.Contains(fault.From(err).Detail, dir) {
					t.Errorf("%v, and doctor is told %v; want %s", err, asked, tt.want.Code)
				}
				if got := fi.Mode() &^ fs.ModeDir; got != tt.mode {
					t.Errorf("it was refused, and its mode became %v", got)
				}
				return
			}
			if err != nil || asked != nil {
				t.Fatalf("%v, and doctor is told %v", err, asked)
			}
			if want := map[bool]fs.FileMode{false: 0o700, true: tt.mode}[tt.left]; fi.Mode().Perm() != want {
				t.Errorf("mode %v, want %v", fi.Mode(), want)
			}
			if got := strings.Contains(logs.String(), "WARN"); got != tt.warns {
				t.Errorf("warned: %t, want %t: %s", got, tt.warns, logs.String())
			}
		})
	}
}

func TestAMissingDirectoryOfTheSocketIsMadeForUsAlone(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "a", "b")
	if err := closable(dir); err != nil {
		t.Error(err)
	}
	if err := openSocketDir(dir, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("%v %v, want 0700", fi.Mode(), err)
	}
	// Another user's.
	if os.Geteuid() == 0 {
		if err := errors.Join(os.Chmod(dir, 0o755), os.Chown(dir, 65534, 65534)); err != nil {
			t.Fatal(err)
		}
	} else {
		dir = "/usr"
	}
	if err := openSocketDir(dir, slog.New(slog.DiscardHandler)); !errors.Is(err, errSocketDirOpen) {
		t.Errorf("%s: %v", dir, err)
	}
}
