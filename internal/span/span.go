// Package span is how a request is followed through the gateway and across gateways.
//
// What a span may carry is decided here and nowhere else: Span has a method for each thing that may be said, and none
// takes a text as it comes. So no row, query, token, path or error message can be in a trace: there is no way to put one
// there. The attributes are listed in docs/telemetry.md.
//
// A span is made only under one that is recorded. Without a Tracer there is none, every function here returns at once,
// and nothing is allocated: all methods of a nil *Span do nothing.
package span

import (
	"context"
	"strings"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/mosaicstack/gateway/internal/scope"
)

// Name is what a span is called. Names are constants of this program.
type Name string

// The spans inside a request.
const (
	Query    Name = "query peer"   // one question to one peer: credential, calls, audit record
	FanOut   Name = "query across" // one question to many sources
	Call     Name = "call peer"    // one HTTP request to a peer; a retry is another one
	Limit    Name = "limit"        // the limits of grant and peer
	Audit    Name = "audit commit" // until the record is durable
	database Name = "database"
)

// The attributes there are. What is not in this list is in no span.
const (
	keyMethod    = attribute.Key("http.request.method")
	keyRoute     = attribute.Key("http.route")
	keyStatus    = attribute.Key("http.response.status_code")
	keyErrorType = attribute.Key("error.type")
	keySystem    = attribute.Key("db.system.name")
	keySummary   = attribute.Key("db.query.summary")
	keyDBStatus  = attribute.Key("db.response.status_code")
	keyListener  = attribute.Key("mosaic.listener")
	keyRequest   = attribute.Key("mosaic.request_id")
	keyPeer      = attribute.Key("mosaic.peer_id")
	keyGrant     = attribute.Key("mosaic.grant_id")
	keyVerb      = attribute.Key("mosaic.verb")
	keyResource  = attribute.Key("mosaic.resource")
	keySource    = attribute.Key("mosaic.source_status")
	keySources   = attribute.Key("mosaic.sources")
	keyRows      = attribute.Key("mosaic.rows")
)

// Keys lists every attribute that a span may have.
func Keys() []string {
	keys := make([]string, 0, 16)
	for _, k := range []attribute.Key{
		keyMethod, keyRoute, keyStatus, keyErrorType, keySystem, keySummary, keyDBStatus, keyListener, keyRequest, keyPeer, keyGrant,
		keyVerb, keyResource, keySource, keySources, keyRows,
	} {
		keys = append(keys, string(k))
	}
	return keys
}

// Span is a part of a request's way. A nil Span is one that nobody records.
type Span struct{ otel trace.Span }

// Start begins a span under the one in ctx. Without one that is recorded it returns ctx, and nil.
func Start(ctx context.Context, name Name) (context.Context, *Span) {
	return start(ctx, name, trace.SpanKindInternal)
}

// StartCall begins the span of a request to somebody else.
func StartCall(ctx context.Context) (context.Context, *Span) {
	return start(ctx, Call, trace.SpanKindClient)
}

// Recorded tells whether a span begun under ctx would be recorded.
func Recorded(ctx context.Context) bool { return trace.SpanFromContext(ctx).IsRecording() }

// StartStatement begins the span of a statement. summary is the name of the method that runs it, system the database's.
func StartStatement(ctx context.Context, system, summary string) (context.Context, *Span) {
	ctx, s := start(ctx, database, trace.SpanKindClient)
	if s != nil {
		s.otel.SetName(summary)
		s.otel.SetAttributes(keySystem.String(system), keySummary.String(summary))
	}
	return ctx, s
}

func start(ctx context.Context, name Name, kind trace.SpanKind) (context.Context, *Span) {
	above := trace.SpanFromContext(ctx)
	if !above.IsRecording() {
		return ctx, nil
	}
	ctx, s := above.TracerProvider().Tracer(scopeName).Start(ctx, string(name), trace.WithSpanKind(kind))
	return ctx, &Span{s}
}

// Of is the span in ctx; nil when nobody records it.
func Of(ctx context.Context) *Span {
	if s := trace.SpanFromContext(ctx); s.IsRecording() {
		return &Span{s}
	}
	return nil
}

// Adopt returns ctx with the span of another context, for work that was begun by that one's request.
func Adopt(ctx, from context.Context) context.Context {
	s := trace.SpanFromContext(from)
	if !s.SpanContext().IsValid() {
		return ctx
	}
	return trace.ContextWithSpan(ctx, s)
}

// End ends the span.
func (s *Span) End() {
	if s != nil {
		s.otel.End()
	}
}

// Asks says what is asked for. What is none of this program's words is left out.
func (s *Span) Asks(verb, resource string) {
	if s == nil {
		return
	}
	if word(verb) {
		s.otel.SetAttributes(keyVerb.String(verb))
	}
	if scope.Known(resource) {
		s.otel.SetAttributes(keyResource.String(resource))
	}
}

// Between says which peer and which grant it is about; a zero id is left out.
func (s *Span) Between(peer, grant uuid.UUID) {
	if s == nil {
		return
	}
	if peer != uuid.Nil {
		s.otel.SetAttributes(keyPeer.String(peer.String()))
	}
	if grant != uuid.Nil {
		s.otel.SetAttributes(keyGrant.String(grant.String()))
	}
}

// Answered says with which HTTP status.
func (s *Span) Answered(status int) {
	if s != nil {
		s.otel.SetAttributes(keyStatus.Int(status))
	}
}

// Failed says that it came to nothing, with the code of a fault of this program. The error itself is for the log.
func (s *Span) Failed(code string) {
	if s == nil {
		return
	}
	if !word(code) {
		code = "other"
	}
	s.otel.SetAttributes(keyErrorType.String(code))
	s.otel.SetStatus(codes.Error, code)
}

// Refused says that it was refused, by a rule that held: no failure of anybody here.
func (s *Span) Refused(code string) {
	if s != nil && word(code) {
		s.otel.SetAttributes(keyErrorType.String(code))
	}
}

// FailedStatement says that a statement failed, with its SQLSTATE.
func (s *Span) FailedStatement(sqlstate string) {
	if s == nil {
		return
	}
	if len(sqlstate) == 5 && strings.Trim(sqlstate, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") == "" {
		s.otel.SetAttributes(keyDBStatus.String(sqlstate))
	}
	s.Failed("database")
}

// Source says how a source of an answer did, and how many rows it gave.
func (s *Span) Source(status string, rows int) {
	if s != nil && word(status) {
		s.otel.SetAttributes(keySource.String(status), keyRows.Int(rows))
	}
}

// Sources says how many sources were asked.
func (s *Span) Sources(n int) {
	if s != nil {
		s.otel.SetAttributes(keySources.Int(n))
	}
}

// word tells whether a text may be one of this program's codes and verbs: they are short, and of a-z and _.
func word(s string) bool {
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && c != '_' {
			return false
		}
	}
	return s != "" && len(s) <= 40
}
