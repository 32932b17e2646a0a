package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
)

// say writes prose for a person; scripts that ask for JSON do not need it.
func (a *app) say(format string, args ...any) {
	if !a.json {
		a.warn(format, args...)
	}
}

// warn writes prose that matters to scripts as well.
func (a *app) warn(format string, args ...any) {
	fmt.Fprintln(a.env.Stderr, plain(fmt.Sprintf(format, args...)))
}

// print writes the gateway's document as it is, but for characters that could act on a terminal.
func (a *app) print(doc json.RawMessage) error {
	if len(doc) == 0 {
		return errNotAGateway.With("the gateway answered without a document")
	}
	a.out.Write(bytes.TrimSpace(escapeHidden(doc)))
	a.out.WriteByte('\n')
	return nil
}

func (a *app) printJSON(v any) error {
	doc, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("cli: print: %w", err)
	}
	return a.print(doc)
}

// done ends a command that has nothing to show.
func (a *app) done(format string, args ...any) error {
	if a.json {
		return a.printJSON(map[string]bool{"ok": true})
	}
	a.say(format, args...)
	return nil
}

// decode reads the gateway's document for a person. Keys that are not known here are passed over: the gateway may
// be newer.
func decode[T any](doc json.RawMessage) (T, error) {
	var v T
	if err := json.Unmarshal(doc, &v); err != nil {
		return v, errNotAGateway.Because(err)
	}
	return v, nil
}

// show prints one object: as it is for a script, by human for a person.
func show[T any](a *app, doc json.RawMessage, human func(T)) error {
	if a.json {
		return a.print(doc)
	}
	v, err := decode[T](doc)
	if err != nil {
		return err
	}
	human(v)
	return nil
}

// list is the shape of the gateway's listings.
type list struct {
	Data json.RawMessage `json:"data"`
	Page struct {
		Limit      int    `json:"limit"`
		Capped     bool   `json:"capped"`
		NextCursor string `json:"next_cursor"`
	} `json:"page"`
	Search struct {
		Degraded string `json:"degraded"`
		Pending  int64  `json:"pending"`
	} `json:"search"`
	Sources []struct {
		Name       string `json:"name"`
		Status     string `json:"status"`
		Detail     string `json:"detail"`
		RetryAfter int    `json:"retry_after_seconds"`
	} `json:"sources"`
}

// sayHow tells of every source that is not as it should be. Rows of a stale one are there, and old: the detail says how
// old.
func (a *app) sayHow(l list) {
	for _, s := range l.Sources {
		if s.Status != "ok" {
			a.say("%s: %s: %s", plain(s.Name), plain(s.Status), plain(s.Detail))
		}
	}
}

func (l list) items() json.RawMessage {
	if len(l.Data) == 0 || string(l.Data) == "null" {
		return json.RawMessage("[]")
	}
	return l.Data
}

// listing describes how a list is shown to a person. columns is only called for one, and may ask the gateway more.
type listing[T any] struct {
	none    string // said when the list is empty
	header  []string
	columns func() func(T) []string
}

// showList prints a list: the array itself for a script, a table for a person.
func showList[T any](a *app, doc json.RawMessage, how listing[T]) error {
	l, err := decode[list](doc)
	if err != nil {
		return err
	}
	if a.json {
		return a.print(l.items())
	}
	items, err := decode[[]T](l.items())
	if err != nil {
		return err
	}
	if len(items) == 0 {
		a.say("%s", how.none)
		return nil
	}
	columns := how.columns()
	rows := make([][]string, len(items))
	for i, item := range items {
		rows[i] = columns(item)
	}
	a.table(how.header, rows)
	return nil
}

// table writes rows under a heading. Every cell loses its control characters; an empty one is a dash.
func (a *app) table(header []string, rows [][]string) {
	w := tabwriter.NewWriter(&a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, strings.Join(header, "\t"))
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = orDash(plain(cell))
		}
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	_ = w.Flush() // into memory: it cannot fail
}

// field is one line of a record.
type field struct{ name, value string }

// record writes one thing, a field a line. Values of several lines are indented.
func (a *app) record(fields ...field) {
	width := 0
	for _, f := range fields {
		width = max(width, len(f.name))
	}
	for _, f := range fields {
		lines := plainLines(f.value)
		fmt.Fprintf(&a.out, "%-*s  %s\n", width, plain(f.name), orDash(lines[0]))
		for _, line := range lines[1:] {
			fmt.Fprintln(&a.out, strings.TrimRight(strings.Repeat(" ", width+2)+line, " "))
		}
	}
}

func orDash(s string) string {
	if strings.TrimSpace(s) == "" {
		return "-"
	}
	return s
}
