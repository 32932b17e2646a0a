package httpapi

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"reflect"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"
	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/account"
	"github.com/mosaicstack/gateway/internal/edge"
	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/page"
	"github.com/mosaicstack/gateway/internal/resource"
	"github.com/mosaicstack/gateway/internal/scope"
)

const (
	maxPageBytes   = 8 << 20
	maxImportBytes = 4 << 30
	importPatience = 30 * time.Second // for the next bytes of an import
)

// rawBody is an answer whose JSON exists already.
type rawBody struct {
	ContentType string `header:"Content-Type"`
	Body        []byte
}

// described gives an operation whose bodies pass through unread their description.
func described(op huma.Operation, takesBody bool) huma.Operation {
	object := map[string]*huma.MediaType{typeJSON: {Schema: &huma.Schema{Type: huma.TypeObject, AdditionalProperties: true}}}
	op.Responses = map[string]*huma.Response{strconv.Itoa(op.DefaultStatus): {Description: http.StatusText(op.DefaultStatus), Content: object}}
	if takesBody {
		op.MaxBodyBytes, op.SkipValidateBody = resource.MaxLineBytes, true
		op.RequestBody = &huma.RequestBody{Required: true, Content: object}
	}
	return op
}

func rawJSON(b []byte, err error) (*rawBody, error) {
	if err != nil {
		return nil, err
	}
	return &rawBody{ContentType: "application/json", Body: b}, nil
}

// ResourceRef names a resource in a path.
type ResourceRef struct {
	Resource string `path:"resource" doc:"tasks, notes, memory, credentials or api_keys"`
}

// RowRef names a row in a path.
type RowRef struct {
	ResourceRef
	ID uuid.UUID `path:"id"`
}

// PageQuery names a page in a query.
type PageQuery struct {
	Limit  string `query:"limit" doc:"1..10000, 50 when left out"`
	Cursor string `query:"cursor" doc:"next_cursor of the page before"`
	Since  string `query:"updated_since" doc:"RFC 3339 time"`
}

func (a *api) resources() {
	type listRows struct {
		ResourceRef
		PageQuery
	}
	register(a, described(operation(http.MethodGet, "/api/resources/{resource}", "resource-list", "List the rows you can see, newest first", "resources", account.ResourcesRead), false),
		func(ctx context.Context, in *listRows) (*rawBody, error) {
			return rawJSON(a.listRows(ctx, in.Resource, in.PageQuery))
		})
	register(a, described(operation(http.MethodGet, "/api/resources/{resource}/{id}", "resource-show", "Show a row", "resources", account.ResourcesRead), false),
		func(ctx context.Context, in *RowRef) (*rawBody, error) {
			res, user, err := a.rowsOf(ctx, in.Resource)
			if err != nil {
				return nil, err
			}
			return rawJSON(a.Resources.Get(ctx, res, user, in.ID))
		})
	type create struct {
		ResourceRef
		Team    string `query:"team" doc:"id or name of the team it belongs to"`
		RawBody []byte `contentType:"application/json"`
	}
	op := described(created(operation(http.MethodPost, "/api/resources/{resource}", "resource-create", "Create a row of your own", "resources", account.ResourcesWrite)), true)
	register(a, op, func(ctx context.Context, in *create) (*rawBody, error) {
		res, user, err := a.rowsOf(ctx, in.Resource)
		if err != nil {
			return nil, err
		}
		row, err := resource.ParseRow(res, in.RawBody)
		if err != nil {
			return nil, err
		}
		return rawJSON(a.Resources.Create(ctx, row, user, in.Team))
	})
	type patch struct {
		RowRef
		RawBody []byte `contentType:"application/json"`
	}
	op = described(operation(http.MethodPatch, "/api/resources/{resource}/{id}", "resource-update", "Change fields of a row of your own", "resources", account.ResourcesWrite), true)
	register(a, op, func(ctx context.Context, in *patch) (*rawBody, error) {
		res, user, err := a.rowsOf(ctx, in.Resource)
		if err != nil {
			return nil, err
		}
		row, err := resource.ParsePatch(res, in.RawBody)
		if err != nil {
			return nil, err
		}
		return rawJSON(a.Resources.Update(ctx, row, user, in.ID))
	})
	register(a, operation(http.MethodDelete, "/api/resources/{resource}/{id}", "resource-delete", "Delete a row of your own", "resources", account.ResourcesWrite),
		func(ctx context.Context, in *RowRef) (*empty, error) {
			res, user, err := a.rowsOf(ctx, in.Resource)
			if err != nil {
				return nil, err
			}
			return nil, a.Resources.Delete(ctx, res, user, in.ID)
		})
	a.searching()
	a.importing()
}

// searchBody describes a search; it is read by resource.ParseSearch.
type searchBody struct {
	Query string `json:"query" minLength:"1" maxLength:"1000"`
	Mode  string `json:"mode,omitempty" enum:"lexical,semantic,hybrid" doc:"hybrid when left out, lexical for credentials and api_keys"`
	Limit int    `json:"limit,omitempty" minimum:"1" maximum:"10000" default:"50"`
}

// searching describes the body that a search takes, which passes through unread.
func searching(op huma.Operation) huma.Operation {
	op.MaxBodyBytes, op.SkipValidateBody = resource.MaxSearchBytes, true
	op.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
		typeJSON: {Schema: huma.SchemaFromType(huma.NewMapRegistry("#/components/schemas/", schemaName), reflect.TypeFor[searchBody]())},
	}}
	return op
}

func (a *api) searching() {
	type in struct {
		ResourceRef
		RawBody []byte `contentType:"application/json"`
	}
	op := searching(described(operation(http.MethodPost, "/api/resources/{resource}/search", "resource-search",
		"Find the rows you can see that fit a query best", "resources", account.ResourcesRead), false))
	register(a, op, func(ctx context.Context, in *in) (*rawBody, error) {
		return rawJSON(a.searchRows(ctx, in.Resource, in.RawBody))
	})
}

func (a *api) searchRows(ctx context.Context, name string, doc []byte) ([]byte, error) {
	res, user, err := a.rowsOf(ctx, name)
	if err != nil {
		return nil, err
	}
	q, err := resource.ParseSearch(doc)
	if err != nil {
		return nil, err
	}
	return a.Searcher.Own(ctx, user, res, q, a.Resources.Search)
}

// rowsOf is whose rows of what a request is about.
func (a *api) rowsOf(ctx context.Context, name string) (scope.Resource, uuid.UUID, error) {
	res, err := resource.Parse(name)
	if err != nil {
		return "", uuid.Nil, err
	}
	u := principalOf(ctx).Subject()
	if u == nil {
		return "", uuid.Nil, errNeedsUser
	}
	return res, u.ID, nil
}

// pageBody bounds a page.
type pageBody struct {
	Limit      int     `json:"limit"`
	Capped     bool    `json:"capped"`
	NextCursor *string `json:"next_cursor"`
}

func (a *api) listRows(ctx context.Context, name string, q PageQuery) ([]byte, error) {
	res, user, err := a.rowsOf(ctx, name)
	if err != nil {
		return nil, err
	}
	limit, since, after, binding, err := a.parsePage("local\x00"+user.String()+"\x00"+name, q)
	if err != nil {
		return nil, err
	}
	rows, err := a.Resources.List(ctx, res, user, since, after, limit, maxPageBytes)
	if err != nil {
		return nil, err
	}
	out := pageBody{Limit: limit, Capped: rows.Cut}
	if rows.More {
		cursor, err := a.Cursors.Seal(rows.Last, binding)
		if err != nil {
			return nil, err
		}
		out.NextCursor = &cursor
	}
	foot, err := json.Marshal(out)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, `{"data":[%s],"page":%s}`, rows.Docs, foot), nil
}

func (a *api) parsePage(kind string, q PageQuery) (limit int, since time.Time, after page.Key, binding string, err error) {
	if limit, err = page.ParseLimit(q.Limit, page.DefaultLimit, page.MaxLimit); err != nil {
		return
	}
	if since, err = page.ParseSince(q.Since); err != nil {
		return
	}
	binding = kind + "\x00" + q.Since
	if q.Cursor != "" {
		after, err = a.Cursors.Open(q.Cursor, binding)
	}
	return
}

// errImport says which line of an import is wrong. Nothing of the file was stored.
var errImport = &fault.Fault{
	Kind: fault.Invalid, Code: "import_invalid", Detail: "a line of the file is refused; nothing was imported",
	Hint: "mend the line and import the whole file again",
}

func (a *api) importing() {
	type imported struct {
		Imported int64 `json:"imported"`
	}
	type in struct {
		ResourceRef
		Owner string `query:"owner" required:"true" doc:"id or email of the user the rows belong to"`
		Team  string `query:"team" doc:"id or name of the team the rows belong to"`
	}
	op := operation(http.MethodPost, "/api/resources/{resource}/import", "resource-import",
		"Import rows, one JSON object a line: all of them, or none", "resources", account.ResourcesImport)
	op.Middlewares = huma.Middlewares{stream}
	op.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{typeLines: {Schema: &huma.Schema{Type: "string"}}}}
	register(a, op, func(ctx context.Context, q *in) (*body[imported], error) {
		res, err := resource.Parse(q.Resource)
		if err != nil {
			return nil, err
		}
		lines, ok := ctx.Value(streamKey{}).(io.Reader)
		if !ok {
			return nil, errors.New("import without its body")
		}
		n, err := a.Resources.Import(ctx, res, q.Owner, q.Team, rowsFrom(res, lines), actOf(ctx))
		return answer(imported{n}, err)
	})
}

// rowsFrom reads import lines. Empty lines are passed over; a line that is refused is named by its number.
func rowsFrom(res scope.Resource, from io.Reader) func() (resource.Row, error) {
	scan := bufio.NewScanner(from)
	scan.Buffer(make([]byte, 64<<10), resource.MaxLineBytes+1)
	number := 0
	return func() (resource.Row, error) {
		for scan.Scan() {
			number++
			line := scan.Bytes()
			if number == 1 {
				line = bytes.TrimPrefix(line, []byte("\ufeff")) // a byte order mark, as some editors write it
			}
			if len(bytes.TrimSpace(line)) == 0 {
				continue
			}
			row, err := resource.ParseRow(res, line)
			if err != nil {
				return row, atLine(number, err)
			}
			return row, nil
		}
		if err := scan.Err(); errors.Is(err, bufio.ErrTooLong) {
			return resource.Row{}, errImport.With("line %d is longer than %d bytes; nothing was imported", number+1, resource.MaxLineBytes)
		} else if err != nil {
			return resource.Row{}, errBadRequest.Because(err)
		}
		return resource.Row{}, io.EOF
	}
}

func atLine(number int, err error) error {
	f := fault.From(err)
	if f.Kind == fault.Internal {
		return err
	}
	out := errImport.With("line %d: %s; nothing was imported", number, f.Detail)
	if len(f.Problems) > 0 {
		list := make([]fault.Problem, len(f.Problems))
		for i, p := range f.Problems {
			list[i] = fault.Problem{Path: fmt.Sprintf("line %d: %s", number, p.Path), Detail: p.Detail}
		}
		out = out.Listing(list)
	}
	return out
}

type streamKey struct{}

// stream hands an import's body to its handler unread. Its deadline moves with the bytes, so that a large file
// may take its time and a stalled one may not.
func stream(ctx huma.Context, next func(huma.Context)) {
	r, w := humachi.Unwrap(ctx)
	if media, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); media != typeLines {
		edge.WriteProblem(w, r, errContentType.Advise("send the rows as %s, one JSON object a line", typeLines))
		return
	}
	rc := http.NewResponseController(w)
	_ = rc.SetWriteDeadline(time.Time{}) // the server's began with the request; an import outlives it
	body := &patient{from: http.MaxBytesReader(w, r.Body, maxImportBytes), rc: rc}
	next(huma.WithValue(ctx, streamKey{}, io.Reader(body)))
}

type patient struct {
	from io.Reader
	rc   *http.ResponseController
}

// Read implements io.Reader.
func (p *patient) Read(b []byte) (int, error) {
	_ = p.rc.SetReadDeadline(time.Now().Add(importPatience))
	return p.from.Read(b)
}
