package grant

import (
	"strconv"
	"strings"

	"github.com/mosaicstack/gateway/internal/fault"
)

// Limit is a rate limit: so many requests a minute, and so many at once after a pause.
type Limit struct {
	PerMinute int // 1..1,000,000
	Burst     int // 1..1,000,000
}

// String is how a limit is shown: "120/min, burst 60".
func (l Limit) String() string {
	return strconv.Itoa(l.PerMinute) + "/min, burst " + strconv.Itoa(l.Burst)
}

// The highest limits that can be set.
const (
	MaxRate         = 1_000_000
	MaxBurst        = 1_000_000
	MaxRowsPerDay   = 1_000_000_000
	MaxCacheSeconds = 300 // also what a grant has that sets none
)

// DefaultLimit is the limit of a grant that sets none.
func DefaultLimit() Limit { return Limit{PerMinute: 120, Burst: 60} }

// The faults of a limit.
var (
	ErrRateInvalid = &fault.Fault{
		Kind:   fault.Invalid,
		Code:   "rate_invalid",
		Detail: "a rate is 1 to 1000000 requests per minute",
		Hint:   "write it like 120/min, 2/s or 600/hour",
	}
	ErrBurstInvalid = &fault.Fault{
		Kind:   fault.Invalid,
		Code:   "burst_invalid",
		Detail: "a burst is 1 to 1000000 requests",
		Hint:   "leave it out for 60",
	}
	ErrRowsPerDayInvalid = &fault.Fault{
		Kind:   fault.Invalid,
		Code:   "rows_per_day_invalid",
		Detail: "a budget of rows is 1 to 1000000000 a day",
		Hint:   "leave it out for no budget; the rate and the rows of a query bound it then",
	}
	ErrCacheSecondsInvalid = &fault.Fault{
		Kind:   fault.Invalid,
		Code:   "cache_seconds_invalid",
		Detail: "a peer may show rows for 0 to 300 seconds while this gateway cannot be asked",
		Hint:   "leave it out for 300; 0 lets the peer keep nothing",
	}
)

// ParseRate reads a rate such as "120/min", "2/s" or "600/hour" as whole requests per minute. Hourly rates are
// rounded down, never up: a limit does not give more than was asked for. Below 1 a minute is refused.
func ParseRate(s string) (perMinute int, err error) {
	count, unit, ok := strings.Cut(s, "/")
	n, convErr := strconv.ParseUint(count, 10, 31)
	if !ok || convErr != nil {
		return 0, badRate(s)
	}
	switch unit {
	case "s", "sec", "second":
		n *= 60
	case "m", "min", "minute":
	case "h", "hour":
		n /= 60
	default:
		return 0, badRate(s)
	}
	if n < 1 || n > MaxRate {
		return 0, badRate(s)
	}
	return int(n), nil
}

// CheckRate holds a rate per minute to 1..1,000,000.
func CheckRate(perMinute int) error {
	if perMinute < 1 || perMinute > MaxRate {
		return ErrRateInvalid
	}
	return nil
}

// CheckBurst holds a burst to 1..1,000,000.
func CheckBurst(burst int) error {
	if burst < 1 || burst > MaxBurst {
		return ErrBurstInvalid
	}
	return nil
}

// CheckRowsPerDay holds a budget of rows to 1..1,000,000,000 a day.
func CheckRowsPerDay(rows int64) error {
	if rows < 1 || rows > MaxRowsPerDay {
		return ErrRowsPerDayInvalid
	}
	return nil
}

// CheckCacheSeconds holds what a peer may keep to 0..300 seconds.
func CheckCacheSeconds(seconds int) error {
	if seconds < 0 || seconds > MaxCacheSeconds {
		return ErrCacheSecondsInvalid
	}
	return nil
}

func badRate(s string) error {
	return ErrRateInvalid.With("%s is not a rate from 1 to 1000000 per minute", quote(s))
}

// quote repeats a little of what was typed, in ASCII.
func quote(s string) string {
	const most = 40
	if len(s) > most {
		return strconv.QuoteToASCII(s[:most]) + "…"
	}
	return strconv.QuoteToASCII(s)
}
