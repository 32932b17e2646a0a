// Package peer is another gateway we know, and what may become of it. It is pure: no clock, no database.
//
//	            Activate              Suspend
//	pending ───────────────▶ active ───────────▶ suspended
//	   │                       │  ◀───────────        │
//	   │ Revoke                │ Revoke   Resume      │ Revoke
//	   ▼                       ▼                      ▼
//	revoked ◀──────────────────┴──────────────────────┘        final
//
// A peer is made pending with its first grant and becomes active when a certificate is enrolled. Suspending keeps
// everything and answers nothing; revoking is for good: a revoked peer is known again only under a new record.
//
// Asking for the state a peer is already in changes nothing and is no error, so that a command can be repeated.
package peer
