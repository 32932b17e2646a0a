package peer

import (
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/fault"
)

// Peer is another gateway: one that holds grants of ours, one whose grants we hold, or both.
type Peer struct {
	ID            uuid.UUID
	Name          string // as ParseName takes it; unique on this gateway
	DisplayName   string
	State         State
	EndpointURL   string // base URL of its federation listener; empty for a peer that only queries us
	CAFingerprint string // lower-case hex SHA-256 of its CA root's DER; empty like EndpointURL
	CreatedAt     time.Time
	UpdatedAt     time.Time
	LastSeenAt    *time.Time // written at most once a minute
	RevokedAt     *time.Time
	RatePerMinute *int // limit over all of its grants; nil for none
	Burst         *int
}

// The faults of a name.
var (
	ErrNameInvalid = &fault.Fault{
		Kind:   fault.Invalid,
		Code:   "peer_name_invalid",
		Detail: "a peer's name is 1 to 63 characters of a-z, 0-9 and -, with - neither first nor last",
		Hint:   "choose a short name such as work or home-gateway",
	}
	ErrNameReserved = &fault.Fault{
		Kind:   fault.Invalid,
		Code:   "peer_name_reserved",
		Detail: "this name means something else in a query",
		Hint:   "choose another name: local is this gateway, all is every peer",
	}
)

// ParseName checks a peer's name. It mends nothing: a name is typed in commands and URLs as it is. A name that
// reads as a UUID is refused, because commands take a name or an id in the same place.
func ParseName(s string) (string, error) {
	if len(s) < 1 || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return "", ErrNameInvalid
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return "", ErrNameInvalid
		}
	}
	if uuid.Validate(s) == nil {
		return "", ErrNameInvalid.With("a peer's name must not read as an id")
	}
	if s == "local" || s == "all" {
		return "", ErrNameReserved.With("%q means something else in a query", s)
	}
	return s, nil
}
