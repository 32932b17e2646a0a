package remote

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// maxTag bounds an entity tag, in bytes: it is kept, and sent back.
const maxTag = 128

// entityTag reads a strong tag (RFC 9110, section 8.8.3). Whatever else there is counts as none.
func entityTag(h http.Header) string {
	values := h.Values("ETag")
	if len(values) != 1 || len(values[0]) < 3 || len(values[0]) > maxTag || values[0][0] != '"' || values[0][len(values[0])-1] != '"' {
		return ""
	}
	for _, c := range []byte(values[0][1 : len(values[0])-1]) {
		if c <= ' ' || c == '"' || c == ',' || c >= 0x7f {
			return ""
		}
	}
	return values[0]
}

// life reads how long an answer may be shown without the peer (RFC 9111, section 5.2.2): max-age, and nothing when it
// is not for private keeping, must not be stored, or does not say.
func life(h http.Header) time.Duration {
	var private bool
	var seconds uint64
	for directive := range strings.SplitSeq(strings.ToLower(strings.Join(h.Values("Cache-Control"), ",")), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
		switch name {
		case "no-store":
			return 0
		case "private":
			private = true
		case "max-age":
			n, err := strconv.ParseUint(value, 10, 31)
			if err != nil {
				return 0
			}
			seconds = n
		}
	}
	if !private {
		return 0
	}
	return time.Duration(seconds) * time.Second //nolint:gosec // 31 bits
}
