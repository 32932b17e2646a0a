package grant

import (
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/fault"
)

// MaxReasonRunes is the longest reason for an approval or a revocation.
const MaxReasonRunes = 1000

// The faults of a grant's life. ErrRevoked and ErrExpired are 410, as enrollment answers them; the federation
// listener answers the same codes with 403 (spec 8), because there it is the certificate that is not accepted.
var (
	ErrRevoked = &fault.Fault{
		Kind:   fault.Gone,
		Code:   "grant_revoked",
		Detail: "this grant has been revoked",
		Hint:   "ask the serving gateway's admin for a new grant: mosaic federation grant create",
	}
	ErrExpired = &fault.Fault{
		Kind:   fault.Gone,
		Code:   "grant_expired",
		Detail: "this grant has expired",
		Hint:   "ask the serving gateway's admin for a new grant: mosaic federation grant create",
	}
	ErrApprovalRequired = &fault.Fault{
		Kind:   fault.Forbidden,
		Code:   "grant_approval_required",
		Detail: "this grant covers sensitive resources and has not been approved",
		Hint:   "approve it with a reason: mosaic federation grant approve ID --reason REASON",
	}
	ErrSubjectDisabled = &fault.Fault{
		Kind:   fault.Forbidden,
		Code:   "subject_disabled",
		Detail: "the user this grant speaks for is disabled, and its enrollment token could not be redeemed",
		Hint:   `enable the user first: PATCH /api/users/USER with {"disabled":false}`,
	}
	ErrAlreadyApproved = &fault.Fault{
		Kind:   fault.Conflict,
		Code:   "grant_already_approved",
		Detail: "this grant has been approved already",
		Hint:   "issue its enrollment token: mosaic federation grant token ID",
	}
	ErrApprovalNotNeeded = &fault.Fault{
		Kind:   fault.Conflict,
		Code:   "grant_approval_not_needed",
		Detail: "this grant covers nothing sensitive and needs no approval",
		Hint:   "issue its enrollment token: mosaic federation grant token ID",
	}
	ErrStateConflict = &fault.Fault{
		Kind:   fault.Conflict,
		Code:   "grant_state_conflict",
		Detail: "the grant's status does not allow this",
		Hint:   "see where it stands: mosaic federation grant show ID",
	}
	ErrReasonInvalid = &fault.Fault{
		Kind:   fault.Invalid,
		Code:   "reason_invalid",
		Detail: "a reason is 1 to 1000 characters of plain text",
		Hint:   "say in a sentence why, for whoever reads the audit log: --reason REASON",
	}
)

// Activate is what a successful enrollment does. A later enrollment of an active grant changes nothing here.
func (g Grant) Activate(now time.Time) (Grant, error) {
	if err := g.MayIssueToken(now); err != nil {
		return g, err
	}
	if g.Status == Active {
		return g, nil
	}
	g.Status, g.ActivatedAt = Active, &now
	return g.changed(now), nil
}

// Revoke ends the grant for good, from wherever it stands. The reason may be empty. The first revocation stays.
func (g Grant) Revoke(now time.Time, reason string) (Grant, error) {
	reason, err := ParseReason(reason)
	if err != nil {
		return g, err
	}
	switch g.Status {
	case Revoked:
		return g, nil
	case Pending, Active, Expired:
		g.Status, g.RevokedAt, g.RevokedReason = Revoked, &now, reason
		return g.changed(now), nil
	}
	return g, g.conflict("revoked")
}

// Expire writes down that the grant's time is over. Before that it is refused.
func (g Grant) Expire(now time.Time) (Grant, error) {
	switch g.Status {
	case Expired:
		return g, nil
	case Revoked:
		return g, ErrRevoked
	case Pending, Active:
		if !g.due(now) {
			return g, ErrStateConflict.With("this grant has not reached its expiry")
		}
		g.Status = Expired
		return g.changed(now), nil
	}
	return g, g.conflict("expired")
}

// Approve records that an admin answers for a sensitive grant, and why. by is nil for the admin socket, which acts
// for no user. One approval stands: a second is refused, so that nobody believes their reason was recorded.
func (g Grant) Approve(now time.Time, by *uuid.UUID, reason string) (Grant, error) {
	reason, err := ParseReason(reason)
	if err != nil {
		return g, err
	}
	if reason == "" {
		return g, ErrReasonInvalid
	}
	if err := g.open(now); err != nil {
		return g, err
	}
	if !g.Scope.Sensitive() {
		return g, ErrApprovalNotNeeded
	}
	if g.Approved() {
		return g, ErrAlreadyApproved
	}
	g.ApprovedBy, g.ApprovedAt, g.ApprovalReason = by, &now, reason
	return g.changed(now), nil
}

// MayIssueToken tells whether an enrollment token may be made for the grant now. It is asked again when the token
// is redeemed.
func (g Grant) MayIssueToken(now time.Time) error {
	if err := g.open(now); err != nil {
		return err
	}
	if g.NeedsApproval() {
		return ErrApprovalRequired
	}
	return nil
}

// open tells why a grant that is over is over.
func (g Grant) open(now time.Time) error {
	switch g.EffectiveStatus(now) {
	case Pending, Active:
		return nil
	case Revoked:
		return ErrRevoked
	case Expired:
		return ErrExpired
	}
	return g.conflict("used")
}

func (g Grant) changed(now time.Time) Grant {
	g.UpdatedAt = now
	g.Version++
	return g
}

func (g Grant) conflict(verb string) *fault.Fault {
	return ErrStateConflict.With("a grant that is %q cannot be %s", g.Status, verb)
}

// ParseReason trims a reason. Control characters are refused: reasons are shown in terminals and logs.
func ParseReason(s string) (string, error) {
	s = strings.TrimSpace(s)
	if !utf8.ValidString(s) || utf8.RuneCountInString(s) > MaxReasonRunes || strings.ContainsFunc(s, unicode.IsControl) {
		return "", ErrReasonInvalid
	}
	return s, nil
}
