package cli

import (
	"fmt"
	"time"
)

// stamp writes a moment in full.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// relative writes a moment as seen from now, to the precision a person cares for.
func relative(now, t time.Time) string {
	d := t.Sub(now)
	switch {
	case d.Abs() < time.Second:
		return "now"
	case d < 0:
		return span(-d) + " ago"
	}
	return "in " + span(d)
}

func span(d time.Duration) string {
	switch {
	case d < 90*time.Second:
		return fmt.Sprintf("%ds", int(d.Round(time.Second)/time.Second))
	case d < 90*time.Minute:
		return fmt.Sprintf("%dm", int(d.Round(time.Minute)/time.Minute))
	case d < 36*time.Hour:
		return fmt.Sprintf("%dh", int(d.Round(time.Hour)/time.Hour))
	}
	const day = 24 * time.Hour
	return fmt.Sprintf("%dd", int(d.Round(day)/day))
}

// shortTime is for tables; nil is a dash there.
func (a *app) shortTime(t *time.Time) string {
	if t == nil {
		return ""
	}
	return relative(a.env.Now(), *t)
}

// fullTime is for records: the moment, and how far it is.
func (a *app) fullTime(t *time.Time) string {
	if t == nil {
		return ""
	}
	return stamp(*t) + " (" + relative(a.env.Now(), *t) + ")"
}
