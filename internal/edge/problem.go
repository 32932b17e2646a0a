package edge

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/mosaicstack/gateway/internal/fault"
)

// Problem is RFC 9457 problem details, with the gateway's members: a stable code, a hint that names the next
// action, and the request id that is in the log and the audit row too.
type Problem struct {
	Type      string          `json:"type" doc:"Always about:blank: the code tells problems apart"`
	Title     string          `json:"title"`
	Status    int             `json:"status"`
	Detail    string          `json:"detail"`
	Code      string          `json:"code" doc:"Stable; documented in docs/errors.md"`
	Hint      string          `json:"hint,omitempty" doc:"What to do next"`
	RequestID string          `json:"request_id"`
	Errors    []fault.Problem `json:"errors,omitempty" doc:"Every problem of a refused document, each with its path"`

	retryAfter time.Duration
}

// Error makes a Problem the error type of huma.
func (p *Problem) Error() string { return p.Detail }

// GetStatus tells huma the status.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType is application/problem+json for every problem (RFC 9457, section 3).
func (p *Problem) ContentType(string) string { return "application/problem+json" }

// GetHeaders gives huma the Retry-After of a problem that goes away by waiting.
func (p *Problem) GetHeaders() http.Header {
	h := http.Header{}
	setRetryAfter(h, p.retryAfter)
	return h
}

func setRetryAfter(h http.Header, d time.Duration) {
	if d > 0 {
		h.Set("Retry-After", strconv.Itoa(int((d+time.Second-1)/time.Second)))
	}
}

// NewProblem makes what a caller sees of an error.
func NewProblem(err error, requestID string) *Problem {
	f := fault.From(err)
	status := f.Kind.Status()
	return &Problem{
		Type: "about:blank", Title: http.StatusText(status), Status: status,
		Detail: f.Detail, Code: f.Code, Hint: f.Hint, RequestID: requestID, Errors: f.Problems, retryAfter: f.RetryAfter,
	}
}

// WriteProblem answers with err, and leaves its cause to the request's log line.
func WriteProblem(w http.ResponseWriter, r *http.Request, err error) {
	Note(r.Context(), err)
	p := NewProblem(err, RequestID(r.Context()))
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	setRetryAfter(h, p.retryAfter)
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // a client that is gone is told nothing
}

// ErrContentEncoding: a compressed request body is never unpacked, so that none can unpack to more than its limit.
var ErrContentEncoding = &fault.Fault{
	Kind: fault.Unsupported, Code: "content_encoding_unsupported", Detail: "compressed request bodies are not read",
	Hint: "send the body without Content-Encoding",
}
