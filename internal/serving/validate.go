package serving

import (
	"crypto/sha256"
	"encoding/base64"
	"strings"

	"github.com/mosaicstack/gateway/internal/resource"
)

// unchanged is the status of an answer that the caller holds already (RFC 9110, section 15.4.5).
const unchanged = 304

// Validator is what a caller that keeps answers is told of one. It is zero for any other caller: a tag costs a hash
// over the whole answer, so only those pay for it who have a use for it.
type Validator struct {
	ETag         string // a strong entity tag, quoted (RFC 9110, section 8.8.3); empty: the answer must not be kept
	CacheSeconds int    // how long the grant lets the answer be shown while this gateway cannot be asked
	Unchanged    bool   // the caller holds this answer: there is no body
}

// validate gives the answer a tag, and takes its body away when the caller has named that tag. It comes after the
// statement: whoever may not ask is refused, whatever they hold. What does not leave is no row of the answer, so it
// spends nothing of the grant's budget of rows.
//
// The tag covers the answer without the sealed text of its cursor. Of two answers with one tag, each cursor goes on
// where the other does. It is keyed, for each grant: a bare hash of rows would let
// its holder try out what could stand in them.
func (r *run) validate(a *answer) {
	if r.caller.IfNoneMatch == "" || r.plan.CacheSeconds == 0 || !resource.Verb(r.verb).ReadsRows() {
		return
	}
	covered := a.body
	if a.stable > 0 {
		covered = covered[:a.stable]
	}
	sum := sha256.Sum256(covered)
	mac := r.s.Tag(append(sum[:], r.plan.GrantID[:]...))
	a.validator = Validator{ETag: `"` + base64.RawURLEncoding.EncodeToString(mac) + `"`, CacheSeconds: r.plan.CacheSeconds}
	if !matches(r.caller.IfNoneMatch, a.validator.ETag) {
		return
	}
	a.lent.back()
	a.body, a.lent, a.rows, a.stable, a.validator.Unchanged = nil, nil, 0, 0, true
}

// matches compares weakly, as If-None-Match does (RFC 9110, section 13.1.2). "*" is no tag, and names no answer: it would be
// told the tag of an answer that is not sent, and so spends none of the budget of rows.
func matches(list, tag string) bool {
	for one := range strings.SplitSeq(list, ",") {
		if strings.TrimPrefix(strings.TrimSpace(one), "W/") == tag {
			return true
		}
	}
	return false
}
