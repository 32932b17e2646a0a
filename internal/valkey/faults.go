package valkey

import (
	"context"
	"errors"

	"github.com/redis/go-redis/v9"

	"github.com/mosaicstack/gateway/internal/fault"
)

// What can be wrong with a Valkey. The kinds tell a start what to do: what is Unavailable may come by waiting, what
// is Invalid will not.
var (
	ErrURLInvalid = &fault.Fault{
		Kind: fault.Invalid, Code: "valkey_url_invalid", Detail: "VALKEY_URL cannot be read",
		Hint: "write redis://:PASSWORD@HOST:PORT/0, rediss:// for TLS, or unix:///PATH?db=0; a password's special characters are percent-encoded, such as %2F for /",
	}
	ErrUnavailable = &fault.Fault{
		Kind: fault.Unavailable, Code: "valkey_unavailable", Detail: "Valkey does not answer",
		Hint: "start it, or mend VALKEY_URL; until then each replica limits on its own, and no answer of a peer is kept",
	}
	ErrAuth = &fault.Fault{
		Kind: fault.Invalid, Code: "valkey_auth", Detail: "Valkey refuses the name or the password of VALKEY_URL, or does not let this user do what is needed",
		Hint: "VALKEY_URL carries the password that Valkey's requirepass or ACL has; the user needs EVALSHA, EVAL, TIME, GET, MGET, SET, DEL, INFO and CONFIG GET on mosaic:*",
	}
	ErrPersists = &fault.Fault{
		Kind: fault.Invalid, Code: "valkey_persists", Detail: "Valkey writes what it holds to disk",
		Hint: `start it with --save "" --appendonly no: what replicas share must not outlive them`,
	}
	ErrTooOld = &fault.Fault{
		Kind: fault.Invalid, Code: "valkey_too_old", Detail: "the server speaks an older protocol than that of Redis 7",
		Hint: "run Valkey 8",
	}
	ErrReadOnly = &fault.Fault{
		Kind: fault.Invalid, Code: "valkey_read_only", Detail: "the server is a replica, which takes no writes",
		Hint: "let VALKEY_URL name the primary",
	}
)

// What a Valkey can be warned about: the gateway works with it all the same.
var (
	WarnEvicts = &fault.Fault{
		Kind: fault.Conflict, Code: "valkey_evicts", Detail: "Valkey drops keys when its memory is full, and with them what has been spent of limits",
		Hint: "start it with --maxmemory-policy noeviction",
	}
	WarnOpen = &fault.Fault{
		Kind: fault.Conflict, Code: "valkey_open", Detail: "Valkey is reached over the network without a password",
		Hint: "give it requirepass, and VALKEY_URL the password",
	}
	WarnUnverified = &fault.Fault{
		Kind: fault.Conflict, Code: "valkey_unverified", Detail: "Valkey does not tell this user whether it writes to disk",
		Hint: "allow the user CONFIG GET, or make sure of --save \"\" --appendonly no yourself",
	}
)

// failed makes a driver's error ours. The driver's text names the address and never the password, which is sent
// and not kept in errors.
func failed(err error) error {
	if err == nil {
		return nil
	}
	for _, code := range []string{"NOAUTH", "WRONGPASS", "NOPERM"} {
		if redis.HasErrorPrefix(err, code) {
			return ErrAuth.Because(err)
		}
	}
	switch {
	case redis.HasErrorPrefix(err, "READONLY"):
		return ErrReadOnly.Because(err)
	case errors.Is(err, context.Canceled):
		return err
	}
	return ErrUnavailable.Because(err)
}
