package bench

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// A tick of /proc, which is 10 ms on every Linux that Go runs on.
const tick = 10 * time.Millisecond

// spent is the processor time that a process and those of its children that live have used (proc(5), stat).
func spent(pid int) (total time.Duration) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range stats {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:])) // a name may hold spaces
		own := filepath.Base(filepath.Dir(name)) == strconv.Itoa(pid)
		if len(fields) < 13 || !own && fields[1] != strconv.Itoa(pid) {
			continue
		}
		for _, f := range fields[11:13] { // utime, stime
			n, _ := strconv.ParseInt(f, 10, 64)
			total += time.Duration(n) * tick
		}
	}
	return total
}

// postmaster is the first process of the server of a data directory.
func postmaster(dir string) int {
	text, err := os.ReadFile(filepath.Join(dir, "postmaster.pid"))
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(text), "\n")
	pid, _ := strconv.Atoi(first)
	return pid
}
