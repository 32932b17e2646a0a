package page

import (
	"strconv"
	"strings"
	"time"

	"github.com/mosaicstack/gateway/internal/fault"
)

// The bounds of the limit parameter.
const (
	DefaultLimit = 50
	MaxLimit     = 10000
)

// The faults of the query parameters.
var (
	ErrLimitInvalid = &fault.Fault{
		Kind:   fault.Invalid,
		Code:   "limit_invalid",
		Detail: "limit must be an integer from 1 to 10000",
		Hint:   "leave limit out for the default",
	}
	ErrUpdatedSinceInvalid = &fault.Fault{
		Kind:   fault.Invalid,
		Code:   "updated_since_invalid",
		Detail: "updated_since must be a time as in RFC 3339",
		Hint:   "write it like 2026-01-31T08:00:00Z; in a URL a plus sign is %2B",
	}
)

// ParseLimit reads the limit parameter: decimal digits, 1..max. Empty means def. A limit above what a scope allows
// is not refused but capped, which is the caller's part: see Cap.
func ParseLimit(s string, def, max int) (int, error) {
	if s == "" {
		return def, nil
	}
	for _, c := range []byte(s) {
		if c < '0' || c > '9' { // Atoi would take a sign
			return 0, ErrLimitInvalid.With("limit must be an integer from 1 to %d", max)
		}
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > max {
		return 0, ErrLimitInvalid.With("limit must be an integer from 1 to %d", max)
	}
	return n, nil
}

// Cap lowers a limit to what a scope allows and says whether it did.
func Cap(limit, ceiling int) (n int, capped bool) {
	if limit > ceiling {
		return ceiling, true
	}
	return limit, false
}

// maxSince is the length of an updated_since in bytes. With nanoseconds and an offset it is 35.
const maxSince = 64

// ParseSince reads the updated_since parameter, an RFC 3339 section 5.6 date-time, into UTC. Empty means the zero
// time: no bound.
func ParseSince(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if len(s) > maxSince { // fractions of a second have no end in RFC 3339, and this goes on to peers
		return time.Time{}, ErrUpdatedSinceInvalid
	}
	s = strings.ToUpper(s) // "t" and "z" may be in lower case: RFC 3339, section 5.6
	t, err := time.Parse(time.RFC3339, s)
	// time.Parse also takes one-digit hours, comma fractions and offsets of 24 hours, which RFC 3339 does not have.
	if err != nil || s[len("2006-01-02T15")] != ':' || strings.Contains(s, ",") ||
		strings.HasSuffix(s[:len(s)-len(":00")], "+24") || strings.HasSuffix(s[:len(s)-len(":00")], "-24") {
		return time.Time{}, ErrUpdatedSinceInvalid
	}
	// PostgreSQL's calendar has no year 0, and RFC 3339 none after 9999: such a time could not be written again.
	if t = t.UTC(); t.Year() < 1 || t.Year() > 9999 {
		return time.Time{}, ErrUpdatedSinceInvalid
	}
	return t, nil
}
