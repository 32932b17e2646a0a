package account

import (
	"slices"

	"github.com/mosaicstack/gateway/internal/fault"
)

// Role is what a user is to this gateway.
type Role string

// The roles; the values are those of users.role.
const (
	Admin   Role = "admin"   // runs the gateway
	Member  Role = "member"  // has rows and asks peers
	Auditor Role = "auditor" // sees who may do and did what, and no rows
)

// Roles lists every role.
func Roles() []Role { return []Role{Admin, Member, Auditor} }

// ErrRoleInvalid is a role that does not exist.
var ErrRoleInvalid = &fault.Fault{
	Kind:   fault.Invalid,
	Code:   "role_invalid",
	Detail: "a role is admin, member or auditor",
	Hint:   "leave it out for member",
}

// ParseRole reads a role.
func ParseRole(s string) (Role, error) {
	if r := Role(s); slices.Contains(Roles(), r) {
		return r, nil
	}
	return "", ErrRoleInvalid
}

// Permission is one thing a role may or may not do.
type Permission string

// The permissions. Everybody who is signed in may read their own profile; that needs none.
const (
	UsersRead       Permission = "users:read"
	UsersWrite      Permission = "users:write"
	TeamsRead       Permission = "teams:read"
	TeamsWrite      Permission = "teams:write"
	TokensRead      Permission = "tokens:read"
	TokensWrite     Permission = "tokens:write"
	ResourcesRead   Permission = "resources:read"  // rows the caller may see
	ResourcesWrite  Permission = "resources:write" // rows the caller owns
	ResourcesImport Permission = "resources:import"
	GrantsRead      Permission = "grants:read"
	GrantsWrite     Permission = "grants:write"
	PeersRead       Permission = "peers:read"
	PeersWrite      Permission = "peers:write"
	PeersQuery      Permission = "peers:query" // through a credential that names the caller
	AuditRead       Permission = "audit:read"
	ActForUser      Permission = "act-for-user"
	KeyringRead     Permission = "keyring:read"
	KeyringWrite    Permission = "keyring:write"
)

// Permissions lists every permission.
func Permissions() []Permission {
	return []Permission{
		UsersRead, UsersWrite, TeamsRead, TeamsWrite, TokensRead, TokensWrite,
		ResourcesRead, ResourcesWrite, ResourcesImport,
		GrantsRead, GrantsWrite, PeersRead, PeersWrite, PeersQuery, AuditRead, ActForUser, KeyringRead, KeyringWrite,
	}
}

// May tells whether the role has a permission. What is not listed here is denied, unknown roles and permissions
// included.
func (r Role) May(p Permission) bool {
	switch r {
	case Admin:
		return slices.Contains(Permissions(), p)
	case Member:
		switch p {
		case ResourcesRead, ResourcesWrite, PeersQuery:
			return true
		}
	case Auditor:
		switch p {
		case AuditRead, UsersRead, TeamsRead, GrantsRead, PeersRead:
			return true
		}
	}
	return false
}
