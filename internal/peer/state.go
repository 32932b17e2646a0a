package peer

import "github.com/mosaicstack/gateway/internal/fault"

// State is where a peer stands; the values are those of the database enum peer_state.
type State string

// The states.
const (
	Pending   State = "pending"
	Active    State = "active"
	Suspended State = "suspended"
	Revoked   State = "revoked"
)

// States lists every state.
func States() []State { return []State{Pending, Active, Suspended, Revoked} }

// The faults of a peer's state. The federation listener answers with the first two as well.
var (
	ErrRevoked = &fault.Fault{
		Kind:   fault.Forbidden,
		Code:   "peer_revoked",
		Detail: "this peer has been revoked",
		Hint:   "revoking is final: remove the peer (mosaic federation peer remove NAME) and begin anew: mosaic federation grant create --peer NAME",
	}
	ErrSuspended = &fault.Fault{
		Kind:   fault.Forbidden,
		Code:   "peer_suspended",
		Detail: "this peer is suspended",
		Hint:   "the serving gateway's admin can lift it: mosaic federation peer resume PEER",
	}
	ErrStateConflict = &fault.Fault{
		Kind:   fault.Conflict,
		Code:   "peer_state_conflict",
		Detail: "the peer's state does not allow this",
		Hint:   "see where it stands: mosaic federation peer show PEER",
	}
)

// Activate is what a successful enrollment does. A suspended peer stays suspended until an admin resumes it.
func (s State) Activate() (State, error) {
	switch s {
	case Pending, Active:
		return Active, nil
	case Suspended:
		return s, ErrSuspended
	case Revoked:
		return s, ErrRevoked
	}
	return s, s.conflict("activated")
}

// Suspend stops answering the peer until Resume. A pending peer has nothing to suspend: its grants are revoked
// instead.
func (s State) Suspend() (State, error) {
	switch s {
	case Active, Suspended:
		return Suspended, nil
	case Pending:
		return s, s.conflict("suspended").Advise("nothing is enrolled yet: revoke its grants, or the peer: mosaic federation peer revoke PEER")
	case Revoked:
		return s, ErrRevoked
	}
	return s, s.conflict("suspended")
}

// Resume undoes Suspend.
func (s State) Resume() (State, error) {
	switch s {
	case Active, Suspended:
		return Active, nil
	case Pending:
		return s, s.conflict("resumed").Advise("it becomes active when it redeems its enrollment token")
	case Revoked:
		return s, ErrRevoked
	}
	return s, s.conflict("resumed")
}

// Revoke ends the peer for good, from wherever it stands.
func (s State) Revoke() (State, error) {
	switch s {
	case Pending, Active, Suspended, Revoked:
		return Revoked, nil
	}
	return s, s.conflict("revoked")
}

func (s State) conflict(verb string) *fault.Fault {
	return ErrStateConflict.With("a peer that is %s cannot be %s", s, verb)
}
