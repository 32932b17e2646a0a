package devstack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// initMark is part of the name of a data directory that is not finished.
const initMark = ".init-"

// initialise makes the data directory: initdb works in a directory beside it, which gets the name when all of it
// is on disk. So the name stands for a whole database, and what a killed initdb leaves is removed the next time.
func (p *Postgres) initialise(ctx context.Context) (err error) {
	parent, base := filepath.Split(p.cfg.DataDir)
	sweepInit(parent, base)
	tmp, err := os.MkdirTemp(parent, base+initMark+"*") // mode 0700
	if err != nil {
		return dirFault(parent, err)
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(tmp)
		}
	}()
	if p.runAs != nil {
		if err := os.Chown(tmp, int(p.runAs.Uid), int(p.runAs.Gid)); err != nil {
			return dirFault(tmp, err)
		}
	}
	dir, err := os.Open(tmp)
	if err != nil {
		return dirFault(tmp, err)
	}
	defer dir.Close()

	args := []string{
		"-D", dataPath, "--username=" + superuser, "--auth-local=trust", "--auth-host=reject",
		"--encoding=UTF8", "--locale=C", "--lc-ctype=C.UTF-8", "--text-search-config=english",
		"--data-checksums", "--no-instructions",
	}
	if p.cfg.Settings["fsync"] == "off" {
		args = append(args, "--no-sync")
	}
	if err := p.runInitdb(ctx, dir, args); err != nil {
		return err
	}
	if err := os.Rename(tmp, p.cfg.DataDir); err != nil {
		if errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, fs.ErrExist) {
			return ErrPostgresInUse.With("another process initialised %s at the same time", p.cfg.DataDir).Because(err)
		}
		return dirFault(p.cfg.DataDir, err)
	}
	if err := syncDir(parent); err != nil {
		return dirFault(parent, err)
	}
	return nil
}

func (p *Postgres) runInitdb(ctx context.Context, dir *os.File, args []string) error {
	err := onOneThread(func() error {
		c, err := spawn(program{
			path: p.server.command("initdb"), args: args, dir: dir, runAs: p.runAs,
			onOrphan: syscall.SIGKILL, // nothing of it is kept
		}, p.tail)
		if err != nil {
			return err
		}
		defer context.AfterFunc(ctx, func() { _ = c.cmd.Process.Kill() })()
		return c.wait()
	})
	switch {
	case err == nil:
		p.tail.reset()
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("devstack: initdb: %w", context.Cause(ctx))
	}
	return p.failed("the database could not be initialised", err)
}

// sweepInit removes what killed runs of initdb left. A last child of one may still be writing; then the rest goes
// the next time.
func sweepInit(parent, base string) {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return // MkdirTemp says why
	}
	for _, e := range entries {
		if e.IsDir() && strings.HasPrefix(e.Name(), base+initMark) {
			_ = os.RemoveAll(filepath.Join(parent, e.Name()))
		}
	}
}

// serverIdentity is the user that the server runs as: ourselves, or as root the owner of the data, or the user
// called name when there is no data yet.
func serverIdentity(dataDir, name string, initialised bool) (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	if initialised {
		var st unix.Stat_t
		if err := unix.Stat(dataDir, &st); err != nil {
			return nil, dirFault(dataDir, err)
		}
		if st.Uid != 0 {
			return credential(st.Uid, st.Gid), nil
		}
	}
	u, err := user.Lookup(name)
	if err != nil {
		return nil, ErrPostgresUserMissing.With("PostgreSQL does not run as root, and this machine has no user %s to run it as", name).
			Advise("run mosaic as an ordinary user, or create the user: useradd --system %s", name).Because(err)
	}
	uid, uerr := strconv.ParseUint(u.Uid, 10, 32)
	gid, gerr := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(uerr, gerr); err != nil {
		return nil, fmt.Errorf("devstack: user %s: %w", name, err)
	}
	return credential(uint32(uid), uint32(gid)), nil
}

// credential drops root's supplementary groups as well.
func credential(uid, gid uint32) *syscall.Credential {
	return &syscall.Credential{Uid: uid, Gid: gid, Groups: []uint32{gid}}
}
