package httpapi

import (
	"context"
	"net/http"

	"github.com/mosaicstack/gateway/internal/account"
	"github.com/mosaicstack/gateway/internal/audit"
)

// KeyStatus is one sealing key and how many rows are sealed with it.
type KeyStatus struct {
	ID      uint32 `json:"id"`
	Primary bool   `json:"primary" doc:"seals new values"`
	Enabled bool   `json:"enabled" doc:"opens old ones"`
	Rows    int64  `json:"rows"`
}

// Keyring looks after the sealing keys.
type Keyring interface {
	Show(ctx context.Context) ([]KeyStatus, error)
	Rotate(ctx context.Context, act audit.Act) error
	Retire(ctx context.Context, id uint32, act audit.Act) error
}

func (a *api) keyring() {
	register(a, operation(http.MethodGet, "/api/keyring", "keyring-show", "List the sealing keys", "keyring", account.KeyringRead),
		func(ctx context.Context, _ *struct{}) (*body[list[KeyStatus]], error) {
			keys, err := a.Keyring.Show(ctx)
			return listing(keys, err, func(k KeyStatus) KeyStatus { return k })
		})
	op := operation(http.MethodPost, "/api/keyring/rotate", "keyring-rotate", "Add a fresh sealing key; what is sealed moves to it in the background", "keyring", account.KeyringWrite)
	op.DefaultStatus = http.StatusNoContent
	register(a, op, func(ctx context.Context, _ *struct{}) (*empty, error) { return nil, a.Keyring.Rotate(ctx, actOf(ctx)) })
	type retireRequest struct {
		Body struct {
			ID uint32 `json:"id"`
		}
	}
	op = operation(http.MethodPost, "/api/keyring/retire", "keyring-retire", "Retire a sealing key that no row needs", "keyring", account.KeyringWrite)
	op.DefaultStatus = http.StatusNoContent
	register(a, op, func(ctx context.Context, in *retireRequest) (*empty, error) {
		return nil, a.Keyring.Retire(ctx, in.Body.ID, actOf(ctx))
	})
}
