package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"

	"github.com/mosaicstack/gateway/internal/account"
	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/edge"
	"github.com/mosaicstack/gateway/internal/fault"
)

// Notary is what the API needs of the tamper-evident log.
type Notary interface {
	Checkpoint(ctx context.Context) (signed string, err error)
	// Evidence is the checkpoint of an export: the last one that was signed when there can be no new one.
	Evidence(ctx context.Context) (signed string, err error)
	Verifier(ctx context.Context) (key string, err error)
}

// Recorder makes an event durable before it returns.
type Recorder interface {
	Record(ctx context.Context, e audit.Event) error
}

// exportPatience is how long a reader of an export may take for one portion of it.
const exportPatience = 30 * time.Second

func (a *api) auditProof() {
	type keyBody struct {
		Key string `json:"key" doc:"a verifier key of C2SP signed notes"`
	}
	type checkpointBody struct {
		Checkpoint string `json:"checkpoint" doc:"a signed note: keep it where this gateway cannot reach it"`
		Key        string `json:"key"`
	}
	type exportQuery struct {
		Format string `query:"format" doc:"jsonl, which is the default, or csv"`
		Since  string `query:"since" doc:"RFC 3339: rows from this time on"`
		Until  string `query:"until" doc:"RFC 3339: rows before this time"`
		Proof  string `query:"proof" doc:"true adds the lines that audit verify needs"`
	}
	register(a, operation(http.MethodGet, "/api/federation/audit/key", "audit-key", "Get the key that checkpoints are signed with", "audit", account.AuditRead),
		func(ctx context.Context, _ *struct{}) (*body[keyBody], error) {
			key, err := a.Notary.Verifier(ctx)
			return answer(keyBody{key}, err)
		})
	register(a, operation(http.MethodGet, "/api/federation/audit/checkpoint", "audit-checkpoint", "Sign how far the audit log has come", "audit", account.AuditRead),
		func(ctx context.Context, _ *struct{}) (*body[checkpointBody], error) {
			signed, err := a.Notary.Checkpoint(ctx)
			if err != nil {
				return nil, err
			}
			key, err := a.Notary.Verifier(ctx)
			return answer(checkpointBody{signed, key}, err)
		})
	op := operation(http.MethodGet, "/api/federation/audit/export", "audit-export", "Export the audit log, oldest first, as a stream", "audit", account.AuditRead)
	op.Responses = map[string]*huma.Response{"200": {Description: "OK", Content: map[string]*huma.MediaType{typeLines: {}, typeCSV: {}}}}
	register(a, op, func(ctx context.Context, q *exportQuery) (*huma.StreamResponse, error) {
		o, err := exportOptions(q.Format, q.Since, q.Until, q.Proof)
		if err != nil {
			return nil, err
		}
		// Whoever takes the whole log out is on record in it, before the first row leaves.
		e := actOf(ctx).Event("audit.export")
		e.Detail = fmt.Sprintf("format %s, since %q, until %q, proof %t", o.Format, q.Since, q.Until, q.Proof == "true")
		if err := a.Record.Record(ctx, e); err != nil {
			return nil, err
		}
		if q.Proof == "true" {
			if o.Checkpoint, err = a.Notary.Evidence(ctx); err != nil {
				return nil, err
			}
			if o.Key, err = a.Notary.Verifier(ctx); err != nil {
				return nil, err
			}
		}
		return &huma.StreamResponse{Body: func(hc huma.Context) { a.stream(ctx, hc, o) }}, nil
	})
}

const typeCSV = "text/csv"

// stream writes an export as fast as its reader takes it. An export that fails on its way breaks the connection:
// there is no other sign that what was read is not all.
func (a *api) stream(ctx context.Context, hc huma.Context, o audit.ExportOptions) {
	media := typeLines
	if o.Format == audit.FormatCSV {
		media = typeCSV + "; charset=utf-8; header=present"
	}
	hc.SetHeader("Content-Type", media)
	hc.SetHeader("Content-Disposition", `attachment; filename="audit.`+o.Format+`"`)
	_, w := humachi.Unwrap(hc)
	control := http.NewResponseController(w)
	patient := func() error {
		if err := control.SetWriteDeadline(time.Now().Add(exportPatience)); err != nil {
			return err
		}
		return control.Flush()
	}
	err := patient()
	if err == nil {
		err = audit.Export(ctx, a.Audit, w, o, patient)
	}
	if err != nil {
		edge.Note(ctx, err)
		panic(http.ErrAbortHandler)
	}
}

func exportOptions(format, since, until, proof string) (o audit.ExportOptions, err error) {
	var problems []fault.Problem
	wrong := func(path, detail string) {
		problems = append(problems, fault.Problem{Path: "query." + path, Detail: detail})
	}
	switch o.Format = format; format {
	case "":
		o.Format = audit.FormatLines
	case audit.FormatLines, audit.FormatCSV:
	default:
		wrong("format", "jsonl or csv")
	}
	when := func(name, value string) (t time.Time) {
		if value == "" {
			return t
		}
		t, err := time.Parse(time.RFC3339Nano, value)
		if err != nil || t.Year() < 1970 {
			wrong(name, "an RFC 3339 time, such as 2026-01-31T00:00:00Z")
		}
		return t.UTC().Truncate(time.Microsecond)
	}
	o.Since, o.Until = when("since", since), when("until", until)
	switch proof {
	case "", "false":
	case "true":
		if o.Format == audit.FormatCSV {
			wrong("proof", "only jsonl can be verified")
		}
	default:
		wrong("proof", "true or false")
	}
	if problems != nil {
		return o, errInvalid.Listing(problems)
	}
	return o, nil
}
