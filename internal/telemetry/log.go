// Package telemetry is how the gateway tells what it does: structured logs.
package telemetry

import (
	"io"
	stdlog "log"
	"log/slog"
	"os"

	"golang.org/x/term"
)

// QuietLibraries ends what libraries write to the standard logger of the process, which is stderr without a form. What we
// run is given loggers; what is left is net/http's report of an unasked-for answer, which quotes whatever the peer sent.
func QuietLibraries() { stdlog.SetOutput(io.Discard) }

// NewLogger writes one line per event: JSON for machines, key=value for a person at a terminal.
func NewLogger(w io.Writer, level slog.Level) *slog.Logger {
	opts := &slog.HandlerOptions{Level: level}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return slog.New(slog.NewTextHandler(w, opts))
	}
	return slog.New(slog.NewJSONHandler(w, opts))
}
