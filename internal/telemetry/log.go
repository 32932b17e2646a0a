// Package telemetry is how the gateway tells what it does: structured logs.
package telemetry

import (
	"io"
	"log/slog"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/mosaicstack/gateway/internal/fault"
)

// ErrLevel is a log level nobody has heard of.
var ErrLevel = &fault.Fault{
	Kind: fault.Invalid, Code: "log_level_invalid", Detail: "MOSAIC_LOG_LEVEL is debug, info, warn or error",
	Hint: "leave it out for info",
}

// NewLogger writes one line per event: JSON for machines, key=value for a person at a terminal.
func NewLogger(w io.Writer, level string) (*slog.Logger, error) {
	var l slog.Level
	if level != "" {
		if err := l.UnmarshalText([]byte(strings.ToUpper(level))); err != nil {
			return nil, ErrLevel.Because(err)
		}
	}
	opts := &slog.HandlerOptions{Level: l}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return slog.New(slog.NewTextHandler(w, opts)), nil
	}
	return slog.New(slog.NewJSONHandler(w, opts)), nil
}
