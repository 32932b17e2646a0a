package cli

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/mosaicstack/gateway/internal/fault"
)

// refusal is what a gateway answered instead of doing it. It is no fault.Fault itself, so that a remote code is
// never taken for one of ours.
type refusal struct {
	says      fault.Fault
	status    int
	requestID string
}

func (r *refusal) Error() string { return r.says.Error() }

// report writes an error for the person at the terminal: what happened, every problem, what to do next.
func (a *app) report(err error) {
	var f *fault.Fault
	var r *refusal
	remote := errors.As(err, &r)
	switch {
	case remote:
		f = &r.says
	case !errors.As(err, &f):
		f = &fault.Fault{Code: fault.ErrInternal.Code, Detail: err.Error()}
	}
	w := a.env.Stderr
	fmt.Fprintf(w, "mosaic: %s (%s)\n", plain(f.Detail), plain(f.Code))
	for _, p := range f.Problems {
		fmt.Fprintf(w, "  %s: %s\n", plain(p.Path), plain(p.Detail))
	}
	if f.Hint != "" {
		fmt.Fprintf(w, "hint: %s\n", plain(f.Hint))
	}
	if f.RetryAfter > 0 {
		fmt.Fprintf(w, "retry after: %s\n", f.RetryAfter)
	}
	switch {
	case remote && r.status >= http.StatusInternalServerError && r.requestID != "":
		fmt.Fprintf(w, "request id: %s\n", plain(r.requestID))
	case !remote && f.Cause != nil:
		// The one who reads this runs the program: there is no log elsewhere that would have the cause.
		fmt.Fprintf(w, "cause: %s\n", strings.Join(plainLines(f.Cause.Error()), "\n  "))
	}
}

// reportBug is for a panic. The stack is shown: whoever reports the bug needs it.
func (a *app) reportBug(p any, stack []byte) {
	fmt.Fprintf(a.env.Stderr, "mosaic: this is a bug in mosaic %s: %s (%s)\nhint: please report it with the lines below\n%s",
		a.env.Version, plain(fmt.Sprint(p)), fault.ErrInternal.Code, stack)
}
