// Package querying is the half of a gateway that asks: it redeems enrollment URLs of other gateways, keeps the
// credentials they give, and asks with them on behalf of this gateway's users.
//
// Redeeming survives a crash at any point, because everything that a second try needs is stored before the first
// byte is sent:
//
//	Begin (tx 1)                       POST at the peer, verify          Activate (tx 2)
//	key sealed, CSR and ──────────────▶ the same token, CSR and ────────▶ credential active,
//	idempotency key stored              key give the same answer          peer active, audited
//	     │                                   │
//	     │ killed, answer lost,              │ refused for good
//	     ▼ peer away: run it again           ▼
//	stays pending, is reused             Discard: nothing is left
//
// Asking has an order too:
//
//	a credential this user may use -> the peer, within the deadline -> its answer read strictly, every row
//	marked with where it is from -> audit record durable -> answer
//
// Nothing of a remote row is ever stored or logged here: rows pass through as bytes, and only their number and
// size are recorded. What a peer says in words is shown without its control characters, and is never trusted.
package querying
