package fedapi

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/serving"
)

// What a request with a body is refused with before the body is read as one.
var (
	errContentType = &fault.Fault{
		Kind: fault.Unsupported, Code: "unsupported_media_type", Detail: "this content type is not read here",
		Hint: "send application/json",
	}
	errBodyTooLarge = &fault.Fault{
		Kind: fault.TooLarge, Code: "body_too_large", Detail: "the request body is too large",
		Hint: "send at most 64 KiB here",
	}
	errBodySlow = &fault.Fault{
		Kind: fault.Malformed, Code: "body_too_slow", Detail: "the request body did not come in time",
		Hint: "send the whole body within 5 s of the header",
	}
	errBody = &fault.Fault{
		Kind: fault.Malformed, Code: "bad_request", Detail: "the request cannot be read",
		Hint: "check that the body is one complete JSON document",
	}
)

// body is what came with a request, or why it cannot be used.
type body struct {
	bytes   []byte
	mistake error
}

// searchRequest is a search as it came.
func searchRequest(r *http.Request, b body) serving.SearchRequest {
	q := serving.SearchRequest{Resource: chi.URLParam(r, "resource"), Body: b.bytes, Mistake: b.mistake}
	if r.URL.RawQuery != "" {
		q.Body, q.Mistake = nil, errQuery.Advise("a search takes its parameters in its body")
	}
	return q
}

// renewRequest is a renewal as it came.
func renewRequest(r *http.Request, b body) serving.RenewRequest {
	if r.URL.RawQuery != "" {
		return serving.RenewRequest{Mistake: errQuery.Advise("a renewal takes no parameters")}
	}
	return serving.RenewRequest{Body: b.bytes, Mistake: b.mistake}
}

// readBody reads a JSON body of at most so many bytes, for bodyDeadline at most.
func (h *handler) readBody(w http.ResponseWriter, r *http.Request, most int) body {
	media, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if charset, given := params["charset"]; err != nil || media != "application/json" || given && !strings.EqualFold(charset, "utf-8") {
		return body{mistake: errContentType}
	}
	conn := http.NewResponseController(w)
	_ = conn.SetReadDeadline(time.Now().Add(bodyDeadline))
	read, err := io.ReadAll(io.LimitReader(r.Body, int64(most)+1))
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return body{mistake: errBodySlow.Because(err)}
	case err != nil:
		return body{mistake: errBody.Because(err)}
	case len(read) > most:
		return body{mistake: errBodyTooLarge}
	}
	// The body is whole. Over HTTP/1.1 the server looks for the connection's end from now on, and would take the
	// deadline for it.
	_ = conn.SetReadDeadline(time.Time{})
	return body{bytes: read}
}
