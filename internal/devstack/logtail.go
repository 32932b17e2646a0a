package devstack

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"strings"
	"sync"
)

const (
	tailLines = 40
	tailWidth = 500 // bytes kept of one line
)

// logTail passes on what a server says and remembers the last lines, for the moment it fails.
type logTail struct {
	log  *slog.Logger
	mu   sync.Mutex
	ring []string
}

// read takes lines until r ends. The server blocks when nobody reads, so it never stops early.
func (t *logTail) read(r io.Reader) {
	br := bufio.NewReaderSize(r, 8<<10)
	for {
		line, err := br.ReadSlice('\n')
		// A longer line arrives in pieces: each counts as a line, and none is kept whole in memory.
		if s := strings.TrimRight(string(line), "\r\n"); s != "" {
			t.add(s)
		}
		if err != nil && err != bufio.ErrBufferFull { //nolint:errorlint // bufio returns it bare
			return
		}
	}
}

func (t *logTail) add(line string) {
	t.log.LogAttrs(context.Background(), slog.LevelDebug, "postgres says", slog.String("line", line))
	if len(line) > tailWidth {
		line = strings.ToValidUTF8(line[:tailWidth], "") + "…"
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.ring) == tailLines {
		copy(t.ring, t.ring[1:])
		t.ring = t.ring[:tailLines-1]
	}
	t.ring = append(t.ring, line)
}

// last returns up to n lines, oldest first.
func (t *logTail) last(n int) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]string(nil), t.ring[max(0, len(t.ring)-n):]...)
}

// reset forgets the lines of a server that has ended.
func (t *logTail) reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ring = t.ring[:0]
}
