// Package fault holds the one error a caller of the gateway may read.
//
// A Fault says what went wrong in the caller's words, under a code that never changes, and names the next
// action. Everything else that can go wrong is an ordinary error: it is logged whole and shown as "internal".
// Adapters turn a Fault into RFC 9457 problem+json, or into the two lines the command line prints; nobody else
// maps errors to status codes.
package fault

import (
	"errors"
	"fmt"
	"time"
)

// Kind groups faults by what a caller can do about them. Adapters map a Kind to a status code.
type Kind int

// The kinds, each with the HTTP status it becomes.
const (
	Internal        Kind = iota // 500: not the caller's doing
	Malformed                   // 400: the request could not be read at all
	Unauthenticated             // 401: we do not know who is asking
	Forbidden                   // 403: we know, and the answer is no
	NotFound                    // 404: not there, or not visible to the caller, which look the same
	NotAllowed                  // 405: no such method here
	Conflict                    // 409: true now, may be false after the caller acts
	Gone                        // 410: was valid once and never will be again
	TooLarge                    // 413: more bytes than are read here
	Unsupported                 // 415: a content type or encoding that is not read here
	Invalid                     // 422: readable, and wrong
	RateLimited                 // 429: later
	Unavailable                 // 503: a part of the gateway is away
	BadGateway                  // 502: a peer answered with something that cannot be used
	GatewayTimeout              // 504: a peer did not answer in time
)

// Problem is one thing wrong with an input, at a JSON path such as "filters.tasks.include_teams[0]".
type Problem struct {
	Path   string `json:"path"`
	Detail string `json:"detail"`
}

// Fault is an error that may be shown to a caller. Sentinels are shared between goroutines and are never
// written to: use Because, With and After, which copy.
type Fault struct {
	Kind       Kind
	Code       string        // stable, snake_case, documented in docs/errors.md
	Detail     string        // what happened, in the caller's words
	Hint       string        // the next action
	RetryAfter time.Duration // zero when trying again later changes nothing
	Problems   []Problem     // every problem of a refused document, not only the first
	Cause      error         // logged, never shown
}

// Error is for logs: the detail, the code and what is behind it.
func (f *Fault) Error() string {
	if f.Cause != nil {
		return fmt.Sprintf("%s (%s): %v", f.Detail, f.Code, f.Cause)
	}
	return fmt.Sprintf("%s (%s)", f.Detail, f.Code)
}

// Unwrap gives errors.Is and errors.As what is behind the fault.
func (f *Fault) Unwrap() error { return f.Cause }

// Is makes a fault equal to every other fault of its code, so that a copy made by Because is still the sentinel.
func (f *Fault) Is(target error) bool {
	t, ok := target.(*Fault) //nolint:errorlint // Is compares one link of the chain; errors.Is walks it.
	return ok && t.Code == f.Code
}

// Because returns a copy of f caused by err.
func (f *Fault) Because(err error) *Fault {
	c := *f
	c.Cause = err
	return &c
}

// With returns a copy of f whose detail is made from format and args: the code stays, the words fit the case.
func (f *Fault) With(format string, args ...any) *Fault {
	c := *f
	c.Detail = fmt.Sprintf(format, args...)
	return &c
}

// Advise returns a copy of f with another hint.
func (f *Fault) Advise(format string, args ...any) *Fault {
	c := *f
	c.Hint = fmt.Sprintf(format, args...)
	return &c
}

// After returns a copy of f that asks the caller to wait for d before the next try.
func (f *Fault) After(d time.Duration) *Fault {
	c := *f
	c.RetryAfter = d
	return &c
}

// Listing returns a copy of f that carries every problem found.
func (f *Fault) Listing(problems []Problem) *Fault {
	c := *f
	c.Problems = problems
	return &c
}

// ErrInternal is what callers see of any error that is not a Fault.
var ErrInternal = &Fault{
	Kind:   Internal,
	Code:   "internal",
	Detail: "the gateway failed to answer",
	Hint:   "try again; if it stays, look up the request id in the gateway's log",
}

// From finds the Fault in err's chain. An error without one becomes ErrInternal, caused by err.
func From(err error) *Fault {
	var f *Fault
	if errors.As(err, &f) {
		return f
	}
	return ErrInternal.Because(err)
}

// Status is the HTTP status of a kind (RFC 9110, section 15).
func (k Kind) Status() int {
	switch k {
	case Malformed:
		return 400
	case Unauthenticated:
		return 401
	case Forbidden:
		return 403
	case NotFound:
		return 404
	case NotAllowed:
		return 405
	case Conflict:
		return 409
	case Gone:
		return 410
	case TooLarge:
		return 413
	case Unsupported:
		return 415
	case Invalid:
		return 422
	case RateLimited:
		return 429
	case BadGateway:
		return 502
	case Unavailable:
		return 503
	case GatewayTimeout:
		return 504
	}
	return 500
}
