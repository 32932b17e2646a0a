package fedapi

import (
	"io"
	"mime"
	"net/http"
	"strings"

	"github.com/go-chi/chi/v5"

	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/resource"
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
	errBody = &fault.Fault{
		Kind: fault.Malformed, Code: "bad_request", Detail: "the request cannot be read",
		Hint: "check that the body is one complete JSON document",
	}
)

// searchRequest reads the body of a search, and as little else as that takes.
func searchRequest(r *http.Request) serving.SearchRequest {
	q := serving.SearchRequest{Resource: chi.URLParam(r, "resource")}
	if r.URL.RawQuery != "" {
		q.Mistake = errQuery.Advise("a search takes its parameters in its body")
		return q
	}
	media, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if charset, given := params["charset"]; err != nil || media != "application/json" || given && !strings.EqualFold(charset, "utf-8") {
		q.Mistake = errContentType
		return q
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, resource.MaxSearchBytes+1))
	switch {
	case err != nil:
		q.Mistake = errBody.Because(err)
	case len(body) > resource.MaxSearchBytes:
		q.Mistake = errBodyTooLarge
	default:
		q.Body = body
	}
	return q
}
