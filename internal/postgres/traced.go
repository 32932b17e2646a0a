package postgres

import (
	"context"
	"errors"
	"runtime"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/mosaicstack/gateway/internal/span"
)

// statements makes a span of every statement that a recorded request runs. A span has the name of the store's method,
// and no text of the statement and nothing of its parameters and rows. It is in a pool only when spans are exported.
type statements struct{}

var (
	_ pgx.QueryTracer = statements{}
	_ pgx.BatchTracer = statements{}
)

type statementKey struct{}

// TraceQueryStart implements pgx.QueryTracer.
func (statements) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return begin(ctx)
}

// TraceQueryEnd implements pgx.QueryTracer.
func (statements) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryEndData) {
	end(ctx, d.Err)
}

// TraceBatchStart implements pgx.BatchTracer: a batch is one round trip, and one span.
func (statements) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return begin(ctx)
}

// TraceBatchQuery implements pgx.BatchTracer.
func (statements) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}

// TraceBatchEnd implements pgx.BatchTracer.
func (statements) TraceBatchEnd(ctx context.Context, _ *pgx.Conn, d pgx.TraceBatchEndData) {
	end(ctx, d.Err)
}

func begin(ctx context.Context) context.Context {
	if !span.Recorded(ctx) {
		return ctx
	}
	ctx, s := span.StartStatement(ctx, "postgresql", storeMethod())
	return context.WithValue(ctx, statementKey{}, s)
}

func end(ctx context.Context, err error) {
	s, ok := ctx.Value(statementKey{}).(*span.Span)
	if !ok {
		return
	}
	var pg *pgconn.PgError
	switch {
	case errors.As(err, &pg):
		s.FailedStatement(pg.Code)
	case err != nil:
		s.FailedStatement("")
	}
	s.End()
}

const (
	thisPackage  = "github.com/mosaicstack/gateway/internal/postgres."
	mostFrames   = 40
	unnamedStore = "statement"
)

// storeMethod names the method of a store that is being called, as "Serving.List": the outermost function of this package
// on the stack. Whatever stands between, such as closures of transactions, is left out.
func storeMethod() string {
	var pcs [mostFrames]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs[:])])
	name := unnamedStore
	for {
		f, more := frames.Next()
		if in, ours := strings.CutPrefix(f.Function, thisPackage); ours {
			name = in
		}
		if !more {
			break
		}
	}
	name = strings.TrimPrefix(name, "(*")
	method := strings.SplitN(strings.Replace(name, ")", "", 1), ".", 3) // type, method, closures
	return strings.Join(method[:min(len(method), 2)], ".")
}
