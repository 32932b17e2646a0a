package doctor

import (
	"context"
	"fmt"
)

// How many files a gateway may have open before somebody should look, and before it cannot do its work: connections to
// the database, the CA and Valkey, and for each listener the smallest number that its door is made for.
const (
	filesLow   = 4096
	filesLeast = 1024
)

func (e *examination) machineChecks() []check {
	m := e.Machine
	var list []check
	if m.Writable != nil {
		list = append(list, check{name: DirUsable, settings: []string{"MOSAIC_DIR"}, run: e.dirUsable})
	}
	if m.Incomplete != nil {
		list = append(list, check{name: DirComplete, after: []string{DirUsable}, run: func(context.Context) Finding {
			if err := m.Incomplete(); err != nil {
				return blamed(err)
			}
			return fine("nothing of %s is missing", m.Dir)
		}})
	}
	if m.Free != nil {
		list = append(list, check{name: DiskSpace, after: []string{DirUsable}, run: e.diskSpace})
	}
	if m.OpenFiles != nil {
		list = append(list, check{name: FileLimit, run: e.fileLimit})
	}
	if m.Running != nil {
		list = append(list, check{name: GatewayRunning, settings: []string{"MOSAIC_DIR"}, run: e.gatewayRunning})
	}
	return list
}

func (e *examination) dirUsable(context.Context) Finding {
	m := e.Machine
	if err := m.Writable(m.Dir); err != nil {
		f := blamed(err)
		f.Detail = m.Dir + ": " + f.Detail
		if f.Remedy == "" {
			f.Remedy = "let MOSAIC_DIR name a directory that this user may write to; in a container, a tmpfs with that user's uid and mode=0700"
		}
		return f
	}
	return fine("%s can be written to", m.Dir)
}

func (e *examination) diskSpace(context.Context) Finding {
	m := e.Machine
	free, err := m.Free(m.Dir)
	switch {
	case err != nil:
		return failed("the file system of %s cannot be asked: %s", m.Dir, line(err.Error()))
	case free < m.MinFree:
		return failed("the file system of %s has %s left", m.Dir, size(free)).remedy("free some space: at least %s are needed", size(m.MinFree))
	case free < m.LowFree:
		return warned("the file system of %s has %s left", m.Dir, size(free)).remedy("free some space, before it is full")
	}
	return fine("the file system of %s has %s left", m.Dir, size(free))
}

func (e *examination) fileLimit(context.Context) Finding {
	n, err := e.Machine.OpenFiles()
	remedy := "raise the limit of open files: LimitNOFILE= in systemd, ulimits.nofile in compose, ulimit -Hn in a shell"
	switch {
	case err != nil:
		return failed("the limit of open files cannot be read: %s", line(err.Error()))
	case n < filesLeast:
		return failed("a process may have %d files open: too few for two listeners and the parts", n).remedy("%s", remedy)
	case n < filesLow:
		return warned("a process may have %d files open: the listeners let in fewer connections than they could", n).remedy("%s", remedy)
	}
	return fine("a process may have %d files open", n)
}

// gatewayRunning is a failure in the local tier only: there nothing else runs without it. Elsewhere its parts can be
// looked at before the first start.
func (e *examination) gatewayRunning(ctx context.Context) Finding {
	e.running = e.Machine.Running(ctx)
	switch {
	case e.running.Up:
		return fine("a gateway answers on %s", e.running.Where)
	case e.Local:
		return failed("no gateway answers on %s, and its database and CA run with it", e.running.Where).remedy("start it: mosaic gateway dev --dir %s", e.Machine.Dir)
	}
	return warned("no gateway answers on %s", e.running.Where).
		remedy("start it with mosaic gateway serve; when it runs elsewhere, run doctor there, where MOSAIC_DIR is its own")
}

// size is a number of bytes for a person.
func size(n uint64) string {
	const kib = 1024
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	i, f := 0, float64(n)
	for f >= kib && i < len(units)-1 {
		f /= kib
		i++
	}
	return fmt.Sprintf("%.3g %s", f, units[i])
}
