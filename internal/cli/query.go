package cli

import (
	"encoding/json"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mosaicstack/gateway/internal/resource"
	"github.com/mosaicstack/gateway/internal/scope"
)

// cellWidth keeps a row of a table on one line of most terminals; one row alone is shown whole.
const (
	cellWidth    = 48
	snippetWidth = 80
)

// row is a row of a peer, which may be of any shape.
type row map[string]json.RawMessage

func (a *app) query() *cobra.Command {
	var phrase, cursor, user string
	var limit int
	var local bool
	cmd := a.leaf("query", []string{"PEER", "RESOURCE", "[ID]"}, "Ask a peer now, or many (PEER,PEER or all): their rows, or one of them", func(cmd *cobra.Command, args []string) error {
		flags := cmd.Flags()
		one := len(args) == 3
		if one && (flags.Changed("search") || flags.Changed("limit") || flags.Changed("cursor")) {
			return misuse(cmd, "an ID asks for one row: it goes with none of --search, --limit and --cursor")
		}
		if flags.Changed("search") && flags.Changed("cursor") {
			return misuse(cmd, "--search gives one page: it does not go with --cursor")
		}
		if flags.Changed("search") && strings.TrimSpace(phrase) == "" {
			return misuse(cmd, "--search is empty")
		}
		many := local || args[0] == "all" || args[0] == "local" || strings.Contains(args[0], ",")
		if one && many {
			return misuse(cmd, "an ID asks one peer for one row")
		}
		r := get("api", "federation", "peers", args[0], "resources", args[1])
		r.query = url.Values{}
		if many {
			r.path = []string{"api", "federation", "resources", args[1]}
			r.query.Set("peers", args[0])
			if local {
				r.query.Set("include_local", "true")
			}
		}
		switch {
		case one:
			r.path = append(r.path, args[2])
		case flags.Changed("search"):
			body := map[string]any{"query": phrase}
			if flags.Changed("limit") {
				body["limit"] = limit
			}
			q := r.query
			r = post(body, append(r.path, "search")...)
			r.query = q
		default:
			if flags.Changed("limit") {
				r.query.Set("limit", strconv.Itoa(limit))
			}
			if cursor != "" {
				r.query.Set("cursor", cursor)
			}
		}
		r.actFor = user
		_, doc, err := a.ask(cmd, r)
		switch {
		case err != nil:
			return err
		case a.json:
			return a.print(doc)
		case one:
			return a.oneRow(args[1], doc)
		}
		return a.rowTable(cmd, args, doc)
	})
	flags := cmd.Flags()
	flags.StringVar(&phrase, "search", "", "find rows by what they say")
	flags.BoolVar(&local, "local", false, "add the rows of this gateway")
	flags.IntVar(&limit, "limit", 0, "at most so many rows (default 50)")
	flags.StringVar(&cursor, "cursor", "", "where the page before ended")
	flags.StringVar(&user, "user", "", "ask as this user, by id or email")
	return cmd
}

// fieldsOf lists the fields of a resource in the order of the catalogue; none for one that is not known here.
func fieldsOf(name string) []string {
	var names []string
	for _, f := range resource.Shown(scope.Resource(name)) {
		names = append(names, f.Name)
	}
	return names
}

func (a *app) rowTable(cmd *cobra.Command, args []string, doc json.RawMessage) error {
	l, err := decode[list](doc)
	if err != nil {
		return err
	}
	rows, err := decode[[]row](l.items())
	if err != nil {
		return err
	}
	a.sayHow(l)
	searched := cmd.Flags().Changed("search")
	if searched && l.Search.Degraded != "" {
		a.say("searched by words only: %s", plain(l.Search.Degraded))
	}
	if searched && l.Search.Pending > 0 {
		a.say("%d rows are found by their words only, until they are embedded", l.Search.Pending)
	}
	if len(rows) == 0 && searched {
		a.say("no rows of %s fit that there", args[1])
		return nil
	} else if len(rows) == 0 {
		a.say("no rows of %s are visible there", args[1])
		return nil
	}
	columns := slices.Concat([]string{"id"}, fieldsOf(args[1]), []string{"updated_at", "source"})
	if searched {
		columns = []string{"id", "score", "snippet", "updated_at", "source"}
	}
	header := make([]string, len(columns))
	for i, name := range columns {
		header[i] = strings.ToUpper(strings.TrimSuffix(strings.ReplaceAll(name, "_", " "), " at"))
	}
	cells := make([][]string, len(rows))
	for i, r := range rows {
		for _, name := range columns {
			width := cellWidth
			if name == "snippet" {
				width = snippetWidth
			}
			cells[i] = append(cells[i], shorten(plain(a.cell(name, r[name])), width))
		}
	}
	a.table(header, cells)
	if l.Page.Capped {
		a.say("the peer gives no more than %d at a time", l.Page.Limit)
	}
	if next := l.Page.NextCursor; next != "" {
		a.say("hint: more rows: %s", a.nextPage(cmd, args, next))
	}
	return nil
}

// oneRow shows a row alone.
func (a *app) oneRow(name string, doc json.RawMessage) error {
	l, err := decode[list](doc)
	if err != nil {
		return err
	}
	r, err := decode[row](l.Data)
	if err != nil {
		return err
	}
	a.sayHow(l)
	a.rowRecord(name, r)
	return nil
}

// nextPage is the command that shows the page after this one.
func (a *app) nextPage(cmd *cobra.Command, args []string, cursor string) string {
	line := cmd.CommandPath() + " " + quoted(args[0]) + " " + quoted(args[1]) + given(cmd, "dir", "url", "limit", "user", "local")
	return line + " --cursor " + quoted(cursor)
}

// rowRecord shows one row whole: the fields that are known in the usual order, then whatever else it has.
func (a *app) rowRecord(name string, r row) {
	order := slices.Concat([]string{"id"}, fieldsOf(name), []string{"owner_id", "team_id", "created_at", "updated_at", "source"})
	var rest []string
	for key := range r {
		if !slices.Contains(order, key) {
			rest = append(rest, key)
		}
	}
	slices.Sort(rest)
	var fields []field
	for _, key := range append(order, rest...) {
		if value, ok := r[key]; ok {
			fields = append(fields, field{key, text(value)})
		}
	}
	a.record(fields...)
}

// cell is a value in a table, where moments are shown as seen from now.
func (a *app) cell(name string, value json.RawMessage) string {
	s := text(value)
	if name == "score" {
		if score, err := strconv.ParseFloat(s, 64); err == nil {
			return strconv.FormatFloat(score, 'g', 4, 64)
		}
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil && strings.HasSuffix(name, "_at") {
		return relative(a.env.Now(), t)
	}
	return s
}

// text is a JSON value as a person reads it: strings without quotes, null as nothing.
func text(value json.RawMessage) string {
	var s string
	if json.Unmarshal(value, &s) == nil { // null too leaves it empty
		return s
	}
	return string(value)
}
