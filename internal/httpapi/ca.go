package httpapi

import (
	"context"
	"net/http"
	"time"

	"github.com/mosaicstack/gateway/internal/account"
	"github.com/mosaicstack/gateway/internal/audit"
)

// RootStatus is one root of the gateway's CA.
type RootStatus struct {
	Fingerprint  string    `json:"fingerprint" doc:"SHA-256 of its DER, in hex"`
	Subject      string    `json:"subject"`
	NotBefore    time.Time `json:"not_before"`
	NotAfter     time.Time `json:"not_after"`
	Current      bool      `json:"current" doc:"new certificates lead to it"`
	Certificates int64     `json:"certificates" doc:"of peers, in use, that lead to it"`
}

// CA looks after the roots of the certificate authority.
type CA interface {
	Show(ctx context.Context) ([]RootStatus, error)
	Rotate(ctx context.Context, act audit.Act) error
	Finish(ctx context.Context, force bool, act audit.Act) error
}

func (a *api) roots() {
	register(a, operation(http.MethodGet, "/api/federation/ca/roots", "ca-show", "List the roots in trust, and how many certificates lead to each", "ca", account.KeyringRead),
		func(ctx context.Context, _ *struct{}) (*body[list[RootStatus]], error) {
			roots, err := a.CA.Show(ctx)
			return listing(roots, err, func(r RootStatus) RootStatus { return r })
		})
	op := operation(http.MethodPost, "/api/federation/ca/rotate", "ca-rotate", "Make a new root; the old one stays in trust until the rollover is finished", "ca", account.KeyringWrite)
	op.DefaultStatus = http.StatusNoContent
	register(a, op, func(ctx context.Context, _ *struct{}) (*empty, error) { return nil, a.CA.Rotate(ctx, actOf(ctx)) })
	type finishRequest struct {
		Body struct {
			Force bool `json:"force,omitempty" doc:"also when certificates are in use that only the old root vouches for"`
		}
	}
	op = operation(http.MethodPost, "/api/federation/ca/finish", "ca-finish", "Take the old root out of trust", "ca", account.KeyringWrite)
	op.DefaultStatus = http.StatusNoContent
	register(a, op, func(ctx context.Context, in *finishRequest) (*empty, error) {
		return nil, a.CA.Finish(ctx, in.Body.Force, actOf(ctx))
	})
}
