package grant

import "time"

// Bucket is what a limit counts in. Requests that share a bucket share its limit.
type Bucket struct {
	Name  string // what is limited: "grant", "peer"; from a closed set, and told to the caller
	ID    string // which one
	Limit Limit
}

// Key is unique among all buckets.
func (b Bucket) Key() string { return b.Name + ":" + b.ID }

// Standing is where a bucket stands after a request. The zero Standing is that of a request no limit has looked at.
type Standing struct {
	Name      string
	Limit     Limit
	Remaining int           // how many more may come at this instant
	Reset     time.Duration // until the whole burst is there again, if nothing else comes
	Wait      time.Duration // zero: the request may happen; else how long until one may
}

// Refused tells whether the request may not happen now.
func (s Standing) Refused() bool { return s.Wait > 0 }

// Tighter is the standing that says more about what its caller can do: a refusal, the longer one first, and then
// the one with less left.
func (s Standing) Tighter(o Standing) Standing {
	if o.Wait > s.Wait || o.Wait == s.Wait && o.Remaining < s.Remaining || s.Name == "" {
		return o
	}
	return s
}

// Interval is the time that one request costs: a minute over the rate, in whole microseconds rounded up, because a
// limit never gives more than was asked for.
func (l Limit) Interval() time.Duration {
	n := time.Duration(l.PerMinute) * time.Microsecond
	return (time.Minute + n - 1) / n * time.Microsecond
}

// Tolerance is how far ahead of its time a bucket may be: the burst's cost.
func (l Limit) Tolerance() time.Duration { return time.Duration(l.Burst) * l.Interval() }

// Standing tells where a bucket of this limit stands whose theoretical arrival time is reset away.
func (b Bucket) Standing(reset, wait time.Duration) Standing {
	left := max(b.Limit.Tolerance()-reset, 0)
	return Standing{Name: b.Name, Limit: b.Limit, Remaining: int(left / b.Limit.Interval()), Reset: reset, Wait: wait}
}
