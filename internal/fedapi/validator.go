package fedapi

import (
	"net/http"
	"strconv"

	"github.com/mosaicstack/gateway/internal/serving"
)

// writeValidator says how long an answer may be kept, and by which tag it is asked for again. Whoever does not say that
// they keep answers (If-None-Match) is told to keep none. max-age is how long the rows may be shown while this gateway
// cannot be asked; while it can, it is asked each time.
func writeValidator(h http.Header, v serving.Validator) {
	if v.ETag == "" {
		h.Set("Cache-Control", "no-store")
		return
	}
	h.Set("ETag", v.ETag)
	h.Set("Cache-Control", "private, max-age="+strconv.Itoa(v.CacheSeconds))
}
