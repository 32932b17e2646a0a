package httpapi

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"

	"github.com/danielgtaylor/huma/v2"

	"github.com/mosaicstack/gateway/internal/edge"
	"github.com/mosaicstack/gateway/internal/fault"
)

// What requests are refused with before a use case sees them.
var (
	errBodyTooLarge = &fault.Fault{
		Kind: fault.TooLarge, Code: "body_too_large", Detail: "the request body is too large",
		Hint: "send at most 64 KiB here",
	}
	errContentType = &fault.Fault{
		Kind: fault.Unsupported, Code: "unsupported_media_type", Detail: "this content type is not read here",
		Hint: "send application/json",
	}
	errBadRequest = &fault.Fault{
		Kind: fault.Malformed, Code: "bad_request", Detail: "the request cannot be read",
		Hint: "check that the body is one complete JSON document",
	}
	errInvalid = &fault.Fault{
		Kind: fault.Invalid, Code: "request_invalid", Detail: "the request does not fit this endpoint",
		Hint: "the fields of every endpoint are in /openapi.json",
	}
	errNoRoute = &fault.Fault{
		Kind: fault.NotFound, Code: "route_not_found", Detail: "there is nothing at this address",
		Hint: "every address is in /openapi.json",
	}
	errMethod = &fault.Fault{
		Kind: fault.NotAllowed, Code: "method_not_allowed", Detail: "this address does not take this method",
		Hint: "every address and its methods are in /openapi.json",
	}
	errUnauthenticated = &fault.Fault{
		Kind: fault.Unauthenticated, Code: "unauthenticated", Detail: "this needs an API token",
		Hint: "send Authorization: Bearer TOKEN; an admin makes one with: mosaic token create --user USER",
	}
	errGuessing = &fault.Fault{
		Kind: fault.RateLimited, Code: "rate_limited", Detail: "too many API tokens that open nothing came from this address",
		Hint: "wait as long as Retry-After says; a token that is accepted is not held up by this",
	}
	errForbidden = &fault.Fault{
		Kind: fault.Forbidden, Code: "forbidden", Detail: "your role does not allow this",
		Hint: "ask an admin",
	}
	errNeedsUser = &fault.Fault{
		Kind: fault.Invalid, Code: "user_required", Detail: "the admin socket is nobody's account: say for which user",
		Hint: "send the header Mosaic-Act-For: USER (mosaic: --user USER)",
	}
)

// humaErrors makes the framework's own refusals look like every other. Its error constructor is a package
// variable by design; it is set once, to one function.
var humaErrors = sync.OnceFunc(func() {
	huma.ValidateStrictCasing = true // and "Email" is not "email"
	huma.NewError = func(status int, msg string, errs ...error) huma.StatusError {
		return frameworkProblem(context.Background(), status, msg, errs)
	}
	huma.NewErrorWithContext = func(ctx huma.Context, status int, msg string, errs ...error) huma.StatusError {
		return frameworkProblem(ctx.Context(), status, msg, errs)
	}
})

func frameworkProblem(ctx context.Context, status int, msg string, errs []error) *edge.Problem {
	var p *edge.Problem
	for _, err := range errs {
		if errors.As(err, &p) {
			return p
		}
		var f *fault.Fault
		if errors.As(err, &f) {
			edge.Note(ctx, f)
			return edge.NewProblem(f, edge.RequestID(ctx))
		}
	}
	f := errInvalid
	switch {
	case status == http.StatusRequestEntityTooLarge:
		f = errBodyTooLarge
	case status == http.StatusUnsupportedMediaType:
		f = errContentType
	case status == http.StatusBadRequest:
		f = errBadRequest
	case status >= http.StatusInternalServerError:
		f = fault.ErrInternal.Because(errors.Join(append(errs, errors.New(msg))...))
	}
	var problems []fault.Problem
	if status < http.StatusInternalServerError {
		for _, err := range errs {
			var d *huma.ErrorDetail
			if errors.As(err, &d) {
				if f := unreadable(status, d); f != nil {
					edge.Note(ctx, f)
					return edge.NewProblem(f, edge.RequestID(ctx))
				}
				problems = append(problems, fault.Problem{Path: pathOf(d.Location), Detail: d.Message})
			}
		}
	}
	if len(problems) == 1 {
		f = f.With("%s: %s", problems[0].Path, problems[0].Detail)
	}
	edge.Note(ctx, f)
	return edge.NewProblem(f.Listing(problems), edge.RequestID(ctx))
}

// unreadable is what jsonFormat had against a body. Of its error huma keeps the words alone, and the body: it is read
// again for the fault itself.
func unreadable(status int, d *huma.ErrorDetail) *fault.Fault {
	body, whole := d.Value.(string)
	if status != http.StatusBadRequest || d.Location != "body" || !whole {
		return nil
	}
	var f *fault.Fault
	if errors.As(strictly([]byte(body)), &f) {
		return f
	}
	return nil
}

// pathOf turns huma's "body.scope.resources[0]" into the JSON path of the document that was sent.
func pathOf(location string) string {
	if location == "body" || location == "" {
		return "$"
	}
	_, path, _ := strings.Cut(location, ".") // body, path, query or header
	return path
}
