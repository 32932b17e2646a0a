// Package audit is the record of who asked what and what they were told.
//
// Two promises are kept here. No byte of a federated answer leaves before the event that describes it is
// durable: Writer.Record returns only then. And an administrative act and its event are one transaction: the
// stores write such events themselves, from an Act.
package audit

import (
	"time"

	"github.com/google/uuid"
)

// Direction says which way a request crossed the boundary.
type Direction string

// The directions. Admin events never crossed it: they are acts of this gateway's own people.
const (
	Inbound  Direction = "inbound"
	Outbound Direction = "outbound"
	Admin    Direction = "admin"
)

// Outcome is how a request ended.
type Outcome string

// The outcomes.
const (
	OK     Outcome = "ok"
	Denied Outcome = "denied"
	Failed Outcome = "error"
)

// Act says who does something administrative, and under which request. Stores turn it into an Event inside the
// transaction that does the thing.
type Act struct {
	RequestID     string
	UserID        uuid.UUID // zero for the admin socket, which is nobody's account
	Actor         string    // for example "token:ada@example.org" or "socket:uid=1000"
	RemoteAddress string
}

// Event is one row of the audit log. Its text fields hold identifiers and vocabulary, never row content.
type Event struct {
	ID            uuid.UUID // zero: the store assigns one
	RequestID     string
	Direction     Direction
	Actor         string
	PeerID        uuid.UUID // zero when the act concerns no peer; so are the other ids
	PeerName      string    // copied, so that it outlives the peer
	GrantID       uuid.UUID
	SubjectUserID uuid.UUID
	Fingerprint   []byte // SHA-256 of the client certificate, nil without one
	RemoteAddress string
	Verb          string
	Resource      string
	StatusCode    int
	Outcome       Outcome
	DeniedReason  string // a fault code
	Detail        string // what an administrator gave as the reason, or which object an act concerned
	QueryHash     []byte // keyed HMAC of the query, never the query
	RowsOut       int
	BytesOut      int64
	Duration      time.Duration
	Occurrences   int // over 1 for aggregated events; zero counts as 1
	CreatedAt     time.Time
}

// Entry is an event as it is read back.
type Entry struct {
	Event               // PeerID is zero when the peer is gone
	PeerRef   uuid.UUID // the peer's id at the time, kept when the peer is gone
	LogID     uuid.UUID // zero for a row that is not in a log yet
	LeafIndex int64     // its position there; -1 for such a row
}

// Hashed is the event as its leaf was made of it.
func (e Entry) Hashed() Event {
	e.Event.PeerID = e.PeerRef
	return e.Event
}

// Event makes the event of an administrative act.
func (a Act) Event(verb string) Event {
	return Event{
		RequestID:     a.RequestID,
		Direction:     Admin,
		Actor:         a.Actor,
		RemoteAddress: a.RemoteAddress,
		Verb:          verb,
		StatusCode:    200,
		Outcome:       OK,
	}
}

// Created makes the event of an act that made something: it was answered with 201.
func (a Act) Created(verb string) Event {
	e := a.Event(verb)
	e.StatusCode = 201
	return e
}
