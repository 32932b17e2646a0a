// Package grant is our promise to a peer: on behalf of one user of ours, this scope, until then. It holds the
// rules of a grant's life and is pure: the caller brings the clock and stores the result.
//
//	           Activate
//	pending ─────────────▶ active
//	   │ │                  │ │
//	   │ └──── Expire ──────┤ └──── Expire ───▶ expired
//	   │                    │                      │
//	   └────── Revoke ──────┴────── Revoke ────────┴──▶ revoked   final
//
// A grant becomes active when its first certificate is enrolled. Its scope never changes: another scope is another
// grant. Time alone expires it: past ExpiresAt a pending or active grant counts as expired, whether or not anybody
// has written that down yet (EffectiveStatus); Expire writes it down. A grant over a sensitive scope issues no
// enrollment token before an admin has approved it with a reason.
//
// Revoking a revoked grant, activating an active one and expiring an expired one change nothing and are no errors,
// so that a command or a sweep can be repeated; the first time and reason stay.
package grant
