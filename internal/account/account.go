// Package account is who may ask a gateway: users, the teams they are in, their tokens, and what each role may do.
// It is pure: no clock, no database.
package account

import (
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/fault"
)

// User is a person with an account on this gateway.
type User struct {
	ID          uuid.UUID
	Email       string // as ParseEmail gives it; unique
	DisplayName string
	Role        Role
	DisabledAt  *time.Time // nil while the account is in use
	CreatedAt   time.Time
	UpdatedAt   time.Time
}

// Disabled tells whether the account has been switched off.
func (u User) Disabled() bool { return u.DisabledAt != nil }

// Team is a group of users who share rows.
type Team struct {
	ID        uuid.UUID
	Name      string // as ParseTeamName takes it; unique
	CreatedAt time.Time
}

// The faults of a user's and a team's names.
var (
	ErrEmailInvalid = &fault.Fault{
		Kind:   fault.Invalid,
		Code:   "email_invalid",
		Detail: "this is not an email address that can be used here",
		Hint:   "write it like alice@example.com, in ASCII and without a display name",
	}
	ErrDisplayNameInvalid = &fault.Fault{
		Kind:   fault.Invalid,
		Code:   "display_name_invalid",
		Detail: "a display name is at most 200 characters of plain text",
		Hint:   "leave out control characters and line breaks",
	}
	ErrTeamNameInvalid = &fault.Fault{
		Kind:   fault.Invalid,
		Code:   "team_name_invalid",
		Detail: "a team's name is 1 to 63 characters of a-z, 0-9 and -, with - neither first nor last",
		Hint:   "choose a short name such as design or on-call",
	}
	ErrLastAdmin = &fault.Fault{
		Kind:   fault.Conflict,
		Code:   "last_admin",
		Detail: "this is the last admin who can sign in",
		Hint:   "make somebody else an admin first: mosaic user create EMAIL --role admin",
	}
)

// ParseEmail trims and lower-cases an address, so that one person has one account, and checks that it is one:
// ASCII, at most 254 characters (RFC 5321 section 4.5.3.1 less the brackets), an unquoted local part and a domain
// of one label or more. International domains are written in punycode; look-alike letters are thereby visible.
func ParseEmail(s string) (string, error) {
	s = strings.TrimSpace(s)
	if strings.ContainsFunc(s, func(r rune) bool { return r >= utf8.RuneSelf }) {
		return "", ErrEmailInvalid // before ToLower, which turns some letters into ASCII ones
	}
	s = strings.ToLower(s)
	local, domain, ok := strings.Cut(s, "@")
	if !ok || len(s) > 254 || len(local) > 64 || !dotted(local, localByte) || !dotted(domain, domainByte) {
		return "", ErrEmailInvalid
	}
	for label := range strings.SplitSeq(domain, ".") {
		if len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return "", ErrEmailInvalid
		}
	}
	return s, nil
}

// dotted tells whether s is non-empty runs of allowed bytes with single dots between them.
func dotted(s string, allowed func(byte) bool) bool {
	for label := range strings.SplitSeq(s, ".") {
		if label == "" {
			return false
		}
		for _, c := range []byte(label) {
			if !allowed(c) {
				return false
			}
		}
	}
	return true
}

// localByte is atext of RFC 5322 section 3.2.3, lower-cased.
func localByte(c byte) bool {
	return domainByte(c) || strings.IndexByte("!#$%&'*+/=?^_`{|}~", c) >= 0
}

func domainByte(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' }

// ParseDisplayName trims a display name, which may be empty.
func ParseDisplayName(s string) (string, error) {
	s = strings.TrimSpace(s)
	if !utf8.ValidString(s) || utf8.RuneCountInString(s) > 200 || strings.ContainsFunc(s, unicode.IsControl) {
		return "", ErrDisplayNameInvalid
	}
	return s, nil
}

// ParseTeamName checks a team's name and mends nothing. A name that reads as a UUID is refused, because commands
// take a name or an id in the same place.
func ParseTeamName(s string) (string, error) {
	if len(s) < 1 || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return "", ErrTeamNameInvalid
	}
	for _, c := range []byte(s) {
		if !domainByte(c) {
			return "", ErrTeamNameInvalid
		}
	}
	if uuid.Validate(s) == nil {
		return "", ErrTeamNameInvalid.With("a team's name must not read as an id")
	}
	return s, nil
}

// RequireAdminRemains refuses a change that would leave nobody who can administer the gateway by token. before and
// after are the user as stored and as changed; deleting is a change to the zero User. otherAdmins counts the other
// admins who are not disabled, in the transaction of the change.
func RequireAdminRemains(before, after User, otherAdmins int) error {
	if before.activeAdmin() && !after.activeAdmin() && otherAdmins < 1 {
		return ErrLastAdmin
	}
	return nil
}

func (u User) activeAdmin() bool { return u.Role == Admin && !u.Disabled() }
