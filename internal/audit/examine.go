package audit

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/fault"
)

// ErrKeyUnusable is the refusal to go on with a signing key that cannot sign.
var ErrKeyUnusable = &fault.Fault{
	Kind: fault.Internal, Code: "audit_key_unusable", Detail: "the stored key for checkpoints cannot be used",
	Hint: "restore the table federation_audit_keys from a backup, with the keyset that belongs to it; without its key no checkpoint can be made that follows the earlier ones",
}

// Found is what Examine found.
type Found struct {
	HasKey bool
	Signed time.Time // when the newest checkpoint was made; zero: there is none
	Log    error     // ErrLogDamaged when the logs do not continue it
}

// Examine tells whether the next checkpoint could be made. It writes nothing. The error is ErrKeyUnusable, or that of
// the ledger.
func Examine(ctx context.Context, ledger Ledger, ring Ring) (Found, error) {
	var found Found
	k, err := ledger.Key(ctx)
	if err != nil || k.ID == uuid.Nil {
		return found, err
	}
	found.HasKey = true
	signer, verifier, err := openKey(k, ring)
	if err != nil {
		return found, ErrKeyUnusable.Because(err)
	}
	// In this order: what is read later can only be further.
	last, err := ledger.LastCheckpoint(ctx)
	if err != nil || last == "" {
		return found, err
	}
	now := Checkpoint{Origin: signer.Name()}
	if now.Heads, err = ledger.Heads(ctx); err != nil {
		return found, err
	}
	was, err := OpenCheckpoint(last, verifier)
	if err == nil {
		found.Signed, err = was.Time, now.follows(was)
	}
	if err != nil {
		found.Log = ErrLogDamaged.Because(err)
	}
	return found, nil
}
