package doctor

import (
	"errors"
	"strings"
	"time"

	"github.com/mosaicstack/gateway/internal/fault"
)

// maxLine bounds what is repeated of somebody else's text.
const maxLine = 300

// line makes a foreign text one that can stand in a finding: printable, on one line and short.
func line(s string) string {
	s = strings.Join(strings.Fields(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "\ufffd"))), " ")
	if len(s) > maxLine {
		s = strings.ToValidUTF8(s[:maxLine], "") + "…"
	}
	return s
}

// blamed is the failure that an error stands for, in the words of its fault. What is behind it is told as well: who
// reads a finding runs the gateway, and has no log to look into.
func blamed(err error) Finding {
	f := fault.From(err)
	if f.Code == fault.ErrInternal.Code {
		return failed("%s", line(err.Error()))
	}
	out := failed("%s (%s)", f.Detail, f.Code).remedy("%s", f.Hint)
	if cause := deepest(f); cause != nil {
		out.Detail += ": " + line(cause.Error())
	}
	return out
}

// deepest passes the faults that only say again what the first one said.
func deepest(f *fault.Fault) error {
	for f.Cause != nil {
		var inner *fault.Fault
		if !errors.As(f.Cause, &inner) {
			return f.Cause
		}
		f = inner
	}
	return nil
}

// counted is "1 row", "2 rows".
func counted(n int64, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return itoa(n) + " " + one + "s"
}

// span is a duration for a person: in days when it has many.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < 0:
		return "-" + span(-d)
	case d >= 2*day:
		return itoa(int64(d/day)) + " days"
	case d >= time.Minute:
		return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
	}
	return d.Round(time.Millisecond).String()
}

// until tells an end and how far it is.
func until(end, now time.Time) string {
	return end.UTC().Format(time.RFC3339) + ", in " + span(end.Sub(now))
}
