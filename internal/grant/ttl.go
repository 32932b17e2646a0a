package grant

import (
	"math"
	"strconv"
	"time"

	"github.com/mosaicstack/gateway/internal/fault"
)

// The life of an enrollment token.
const (
	MinTokenTTL     = time.Minute
	MaxTokenTTL     = 24 * time.Hour
	DefaultTokenTTL = 15 * time.Minute
)

// Enrollable is how long a grant has to last for somebody to enrol: a certificate lives for a minute at least, and
// never beyond its grant.
const Enrollable = time.Minute

// maxTTL is a hundred years: past it an expiry is a typing mistake, and far past it timestamps overflow.
const maxTTL = 100 * 365 * 24 * time.Hour

// The faults of a duration.
var (
	ErrDurationInvalid = &fault.Fault{
		Kind:   fault.Invalid,
		Code:   "duration_invalid",
		Detail: "this is not a duration",
		Hint:   "write whole numbers with a unit: 90s, 15m, 24h, 90d or 1d12h",
	}
	ErrTokenTTLInvalid = &fault.Fault{
		Kind:   fault.Invalid,
		Code:   "token_ttl_invalid",
		Detail: "an enrollment token lives from 1 minute to 24 hours",
		Hint:   "leave --token-ttl out for 15m",
	}
)

// ParseTTL reads a duration as a person writes it: whole numbers with a unit of s, m, h, d (24 hours) or w, the
// larger unit first and each at most once, together above zero and at most a hundred years.
func ParseTTL(s string) (time.Duration, error) {
	total := time.Duration(0)
	last := time.Duration(math.MaxInt64)
	for rest := s; rest != ""; {
		digits := 0
		for digits < len(rest) && rest[digits] >= '0' && rest[digits] <= '9' {
			digits++
		}
		if digits == 0 || digits == len(rest) {
			return 0, badDuration(s)
		}
		unit := unitOf(rest[digits])
		if unit == 0 || unit >= last {
			return 0, badDuration(s)
		}
		n, err := strconv.ParseInt(rest[:digits], 10, 64) // of digits alone: it can only be too large
		if err != nil || n > int64(maxTTL/unit) {
			return 0, tooLong(s)
		}
		total += time.Duration(n) * unit // both sides are at most a hundred years; a Duration holds 292
		last, rest = unit, rest[digits+1:]
		if total > maxTTL {
			return 0, tooLong(s)
		}
	}
	if total <= 0 {
		return 0, badDuration(s)
	}
	return total, nil
}

func unitOf(c byte) time.Duration {
	switch c {
	case 's':
		return time.Second
	case 'm':
		return time.Minute
	case 'h':
		return time.Hour
	case 'd':
		return 24 * time.Hour
	case 'w':
		return 7 * 24 * time.Hour
	}
	return 0
}

// ParseTokenTTL reads the life of an enrollment token and holds it to its bounds. Empty means DefaultTokenTTL.
func ParseTokenTTL(s string) (time.Duration, error) {
	if s == "" {
		return DefaultTokenTTL, nil
	}
	d, err := ParseTTL(s)
	if err != nil {
		return 0, err
	}
	if err := CheckTokenTTL(d); err != nil {
		return 0, err
	}
	return d, nil
}

// CheckTokenTTL holds the life of an enrollment token to 1 minute..24 hours.
func CheckTokenTTL(d time.Duration) error {
	if d < MinTokenTTL || d > MaxTokenTTL {
		return ErrTokenTTLInvalid
	}
	return nil
}

func tooLong(s string) error {
	return ErrDurationInvalid.With("%s is longer than a hundred years", quote(s)).Advise("write at most 36500d")
}

func badDuration(s string) error {
	return ErrDurationInvalid.With("%s is not a duration", quote(s))
}
