package account

import "fmt"

// How a caller proved who they are.
const (
	ViaToken  = "token"  // an API token of User
	ViaSocket = "socket" // the admin unix socket; the caller's uid is known, a user is not
)

// Principal is who is asking.
type Principal struct {
	User      *User  // nil for the admin socket
	Role      Role   // the role that counts: the user's, or admin for the socket
	Via       string // ViaToken or ViaSocket
	SocketUID int    // the socket caller's uid (SO_PEERCRED); only for ViaSocket
	ActingFor *User  // the user whose rows are asked for, when it is another one
}

// TokenPrincipal is a user who signed in with a token.
func TokenPrincipal(u User) Principal { return Principal{User: &u, Role: u.Role, Via: ViaToken} }

// SocketPrincipal is the caller of the admin socket, who acts as admin.
func SocketPrincipal(uid int) Principal {
	return Principal{Role: Admin, Via: ViaSocket, SocketUID: uid}
}

// For gives the principal acting for u. The caller checks ActForUser first.
func (p Principal) For(u User) Principal {
	p.ActingFor = &u
	return p
}

// May tells whether the principal has a permission. A disabled user has none, and neither has whoever acts for
// one. Acting for somebody does not change the role.
func (p Principal) May(perm Permission) bool {
	if p.User != nil && p.User.Disabled() {
		return false
	}
	if p.ActingFor != nil && (p.ActingFor.Disabled() || !p.Role.May(ActForUser)) {
		return false
	}
	return p.Role.May(perm)
}

// Subject is the user whose rows are meant: the one acted for, else the caller; nil for the bare socket.
func (p Principal) Subject() *User {
	if p.ActingFor != nil {
		return p.ActingFor
	}
	return p.User
}

// Name is what the audit log calls the caller: both parties when one acts for another.
func (p Principal) Name() string {
	name := "nobody"
	switch {
	case p.User != nil:
		name = p.User.Email
	case p.Via == ViaSocket:
		name = fmt.Sprintf("socket:uid=%d", p.SocketUID)
	}
	if p.ActingFor != nil {
		name += " for " + p.ActingFor.Email
	}
	return name
}
