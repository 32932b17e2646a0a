package querying

import (
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/page"
	"github.com/mosaicstack/gateway/internal/resource"
)

// problem is a peer's RFC 9457 answer, as far as it is used here.
type problem struct {
	Code   string `json:"code"`
	Detail string `json:"detail"`
}

func readProblem(a Answer) problem {
	var p problem
	if !a.Problem || json.Unmarshal(a.Body, &p) != nil || !codeShaped(p.Code) {
		return problem{}
	}
	return p
}

// enrollmentKind lists the codes that mean here what they mean at the peer, with their kinds.
func enrollmentKind(code string) (fault.Kind, bool) {
	switch code {
	case "enrollment_token_unknown":
		return fault.NotFound, true
	case "enrollment_token_expired", "enrollment_token_used", "grant_revoked", "grant_expired", "grant_closed":
		return fault.Gone, true
	case "enrollment_in_progress":
		return fault.Conflict, true
	case "grant_approval_required", "peer_suspended", "subject_disabled":
		return fault.Forbidden, true
	case "rate_limited":
		return fault.RateLimited, true
	case "ca_unavailable", "database_unavailable", "audit_unavailable":
		return fault.Unavailable, true
	case "certificate_mismatch":
		return fault.BadGateway, true
	}
	return fault.Internal, false
}

// enrollmentRefusal says what the peer said, and whether it is final: a client error that waiting does not mend.
func enrollmentRefusal(a Answer, host string) (f *fault.Fault, final bool) {
	p := readProblem(a)
	if p.Code == "" {
		return ErrAnswerInvalid.With("%s answered the enrollment with status %d and no reason", host, a.Status), false
	}
	said := sanitize(p.Detail, maxSaid)
	if said == "" {
		said = "status " + fmt.Sprint(a.Status)
	}
	f = ErrRefused.With("%s refused the enrollment: %s (%s)", host, said, p.Code)
	if kind, known := enrollmentKind(p.Code); known {
		f.Kind, f.Code = kind, p.Code
		f.Detail = fmt.Sprintf("%s refused the enrollment: %s", host, said)
		f.Hint = enrollmentHint(kind, p.Code)
	}
	f.RetryAfter = a.RetryAfter
	switch a.Status {
	case 408, 409, 421, 425, 429:
		return f, false
	}
	switch p.Code {
	case "peer_suspended", "subject_disabled", "grant_approval_required":
		return f, false // the other admin can lift it, and the token is good for as long as it lives
	}
	return f, a.Status >= 400 && a.Status < 500
}

func enrollmentHint(k fault.Kind, code string) string {
	switch code {
	case "peer_suspended":
		return "ask the other gateway's admin to resume this gateway as a peer, then run the same command again"
	case "subject_disabled":
		return "ask the other gateway's admin to enable the user, then run the same command again"
	}
	switch k {
	case fault.Conflict, fault.RateLimited, fault.Unavailable:
		return "wait a little and run the same command again: nothing is lost"
	case fault.NotFound:
		return "check that the whole URL was copied, or ask the other gateway's admin for a new one: mosaic federation grant token GRANT"
	case fault.Forbidden:
		return "ask the other gateway's admin to approve the grant: mosaic federation grant approve GRANT --reason REASON"
	}
	return "ask the other gateway's admin for a new URL: mosaic federation grant token GRANT"
}

// knownRefusal tells whether a code is one that a gateway refuses a query with. Another one is not repeated, since what is
// said of a failed renewal is kept: a peer could have its rows written down here as codes.
func knownRefusal(code string) bool {
	switch code {
	case "certificate_unknown", "certificate_revoked", "certificate_expired", "certificate_profile", "certificate_mismatch",
		"grant_pending", "grant_revoked", "grant_expired", "grant_ending", "grant_closed", "row_budget_spent",
		"peer_suspended", "peer_revoked", "subject_disabled", "csr_invalid", "public_key_refused", "renewal_invalid",
		"audit_unavailable", "database_unavailable", "database_timeout", "ca_unavailable", "ca_refused", "embeddings_unavailable",
		"database_busy", "search_busy", "too_many_in_flight", "internal", "not_found", "bad_request", "query_invalid",
		"method_not_allowed", "unsupported_media_type", "body_too_large":
		return true
	}
	return false
}

// OfThisQuestion tells whether a peer that cannot answer means this question, or this kind of it, and no other: there are
// too many searches, or it has nothing to compare meanings with, or what was asked for is too much for one statement. So
// one user's heavy questions take the peer away from nobody. A code that is not known means all of it.
func (a Answer) OfThisQuestion() bool {
	if a.Status != http.StatusServiceUnavailable {
		return false
	}
	switch readProblem(a).Code {
	case "search_busy", "embeddings_unavailable", "database_timeout":
		return true
	}
	return false
}

// queryRefusal turns a peer's answer that is not 200 into a fault of ours. The peer's code is shown when it is one of
// ours, its words are not: they are for the peer's own admins, and every code has ours.
func queryRefusal(a Answer, name string) error {
	p := readProblem(a)
	reason := p.Code
	if !knownRefusal(reason) {
		reason = fmt.Sprintf("status %d", a.Status)
	}
	switch {
	case a.Status == 401 || a.Status == 403:
		return ErrDenied.With("%s does not let this gateway ask: %s", name, reason)
	case a.Status == 404:
		return ErrNotFound.With("%s has no such thing in the scope of its grant", name)
	case a.Status == 422:
		switch p.Code {
		case page.ErrLimitInvalid.Code:
			return page.ErrLimitInvalid
		case page.ErrCursorInvalid.Code:
			return page.ErrCursorInvalid
		case page.ErrUpdatedSinceInvalid.Code:
			return page.ErrUpdatedSinceInvalid
		case resource.ErrSearchInvalid.Code:
			return resource.ErrSearchInvalid
		case resource.ErrModeUnsupported.Code:
			return resource.ErrModeUnsupported
		}
	case a.Status == 429:
		return ErrRateLimited.With("%s answers no more requests of this grant for now", name).After(a.RetryAfter)
	case a.Status >= 500:
		f := ErrUnreachable.With("%s cannot answer now: %s", name, reason)
		if a.RetryAfter > 0 {
			f = f.After(a.RetryAfter)
		}
		return f
	}
	return ErrAnswerInvalid.With("%s answered with %s, which cannot be used", name, reason)
}
