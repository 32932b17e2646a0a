package fedapi

import (
	"net/http"
	"strconv"
	"time"

	"github.com/mosaicstack/gateway/internal/grant"
)

// writeLimit tells a caller where the tightest limit on them stands. There are two ways of saying it and clients
// for both: RateLimit-Limit, -Remaining and -Reset, which the drafts up to draft-ietf-httpapi-ratelimit-headers-06
// name and most clients read, and the structured fields RateLimit and RateLimit-Policy of the later ones.
//
// Limit is the burst, which Remaining counts down from; Reset is when the whole burst is there again. The rate is
// in the policy.
func writeLimit(h http.Header, s grant.Standing) {
	if s.Name == "" {
		return // no limit has looked at this request
	}
	limit, remaining, reset := strconv.Itoa(s.Limit.Burst), strconv.Itoa(s.Remaining), strconv.FormatInt(seconds(s.Reset), 10)
	h.Set("RateLimit-Limit", limit)
	h.Set("RateLimit-Remaining", remaining)
	h.Set("RateLimit-Reset", reset)
	h.Set("RateLimit-Policy", `"`+s.Name+`";q=`+strconv.Itoa(s.Limit.PerMinute)+`;w=60;burst=`+limit)
	h.Set("RateLimit", `"`+s.Name+`";r=`+remaining+`;t=`+reset)
}

// seconds rounds up, so that a caller who waits as long as it was told has waited long enough.
func seconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }
