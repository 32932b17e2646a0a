package grant

import (
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/scope"
)

// Status is where a grant stands; the values are those of the database enum grant_status.
type Status string

// The statuses.
const (
	Pending Status = "pending"
	Active  Status = "active"
	Revoked Status = "revoked"
	Expired Status = "expired"
)

// Statuses lists every status.
func Statuses() []Status { return []Status{Pending, Active, Revoked, Expired} }

// Grant is one promise to one peer about one user.
type Grant struct {
	ID             uuid.UUID
	PeerID         uuid.UUID
	Peer           string // the peer's name
	SubjectUserID  uuid.UUID
	Scope          scope.Scope
	Status         Status // as stored; EffectiveStatus is what holds now
	RatePerMinute  *int   // nil for DefaultLimit's
	Burst          *int   // nil for DefaultLimit's
	RowsPerDay     *int64 // nil: no budget of rows
	CacheSeconds   int    // how long the peer may show rows while this gateway cannot be asked; 0: it may keep none
	ExpiresAt      *time.Time
	ApprovedBy     *uuid.UUID // nil when the admin socket approved it, which has no user
	ApprovedAt     *time.Time // set when approved
	ApprovalReason string
	CreatedAt      time.Time
	UpdatedAt      time.Time
	ActivatedAt    *time.Time // first enrollment
	RevokedAt      *time.Time
	RevokedReason  string
	Version        int64 // goes up by one with every change
}

// EffectiveStatus is the status at now: a pending or active grant that has reached its expiry is expired, even
// before anybody has written that down.
func (g Grant) EffectiveStatus(now time.Time) Status {
	if (g.Status == Pending || g.Status == Active) && g.due(now) {
		return Expired
	}
	return g.Status
}

// Approved tells whether an admin has approved the grant.
func (g Grant) Approved() bool { return g.ApprovedAt != nil }

// NeedsApproval tells whether the grant waits for an admin's approval.
func (g Grant) NeedsApproval() bool { return g.Scope.Sensitive() && !g.Approved() }

// Limit is the rate limit of the grant, with the defaults filled in.
func (g Grant) Limit() Limit {
	l := DefaultLimit()
	if g.RatePerMinute != nil {
		l.PerMinute = *g.RatePerMinute
	}
	if g.Burst != nil {
		l.Burst = *g.Burst
	}
	return l
}

// due tells whether the expiry has been reached; at the very instant it has.
func (g Grant) due(now time.Time) bool { return g.ExpiresAt != nil && !now.Before(*g.ExpiresAt) }
