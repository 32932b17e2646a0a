package fedapi

import (
	"io"
	"mime"
	"net/http"
	"strings"

	"github.com/go-chi/chi/v5"

	"github.com/mosaicstack/gateway/internal/enroll"
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
	q.Body, q.Mistake = readBody(r, resource.MaxSearchBytes)
	return q
}

// renewRequest reads the body of a renewal.
func renewRequest(r *http.Request) serving.RenewRequest {
	if r.URL.RawQuery != "" {
		return serving.RenewRequest{Mistake: errQuery.Advise("a renewal takes no parameters")}
	}
	body, mistake := readBody(r, enroll.MaxRenewalBytes)
	return serving.RenewRequest{Body: body, Mistake: mistake}
}

// readBody reads a JSON body of at most so many bytes.
func readBody(r *http.Request, most int) ([]byte, error) {
	media, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if charset, given := params["charset"]; err != nil || media != "application/json" || given && !strings.EqualFold(charset, "utf-8") {
		return nil, errContentType
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, int64(most)+1))
	switch {
	case err != nil:
		return nil, errBody.Because(err)
	case len(body) > most:
		return nil, errBodyTooLarge
	}
	return body, nil
}
