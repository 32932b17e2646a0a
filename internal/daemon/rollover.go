package daemon

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/ca"
	"github.com/mosaicstack/gateway/internal/ca/embedded"
	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/httpapi"
	"github.com/mosaicstack/gateway/internal/identity"
	"github.com/mosaicstack/gateway/internal/postgres"
)

var (
	errCAExternal = &fault.Fault{
		Kind: fault.Conflict, Code: "ca_external", Detail: "the certificate authority is not this gateway's own, so the gateway cannot roll its root over",
		Hint: "do it at the CA, as docs/root-rollover.md describes; mosaic gateway ca show tells when the old root may go",
	}
	errRootInUse = &fault.Fault{
		Kind: fault.Conflict, Code: "ca_root_in_use", Detail: "certificates are in use that only the old root vouches for",
		Hint: "wait until their peers have renewed (mosaic gateway ca show), or end it at their cost: mosaic gateway ca finish --force",
	}
)

// roller is an authority whose root this gateway can roll over.
type roller interface {
	Rotate(ctx context.Context) error
	Finish(ctx context.Context) error
}

// rollover looks after the roots of the gateway's CA.
type rollover struct {
	trust   *trust
	roller  roller // nil: the CA is somebody else's
	serving *postgres.Serving
	record  func(ctx context.Context, e audit.Event) error
}

// Show implements httpapi.CA.
func (r *rollover) Show(ctx context.Context) ([]httpapi.RootStatus, error) {
	live, err := r.serving.LiveByRoot(ctx)
	if err != nil {
		return nil, err
	}
	r.trust.mu.Lock()
	roots, current := slices.Clone(r.trust.roots), r.trust.root
	r.trust.mu.Unlock()
	out := make([]httpapi.RootStatus, 0, len(roots))
	for _, root := range roots {
		s := httpapi.RootStatus{
			Fingerprint: identity.FingerprintHex(root.Raw), Subject: root.Subject.CommonName, NotBefore: root.NotBefore, NotAfter: root.NotAfter,
			Current: root.Equal(current), Certificates: live[identity.Fingerprint(root.Raw)],
		}
		if len(roots) == 1 || !s.Current {
			s.Certificates += live[[32]byte{}] // from before the root was noted: of an old one, if there are two
		}
		out = append(out, s)
	}
	return out, nil
}

// Rotate implements httpapi.CA.
func (r *rollover) Rotate(ctx context.Context, act audit.Act) error {
	if r.roller == nil {
		return errCAExternal
	}
	if roots, err := r.trust.published(ctx); err == nil && len(roots) > 1 {
		return embedded.ErrRolling
	}
	return r.act(ctx, act.Event("ca.rotate"), r.roller.Rotate)
}

// act does what is on record already. When it fails, that is on record too.
func (r *rollover) act(ctx context.Context, e audit.Event, do func(context.Context) error) error {
	if err := r.record(ctx, e); err != nil {
		return err
	}
	if err := do(ctx); err != nil {
		f := fault.From(err)
		e.Outcome, e.StatusCode, e.DeniedReason = audit.Failed, f.Kind.Status(), f.Code
		return errors.Join(err, r.record(ctx, e))
	}
	r.trust.look(ctx)
	return nil
}

// Finish implements httpapi.CA. A certificate that is issued while it is counted is under the new root.
func (r *rollover) Finish(ctx context.Context, force bool, act audit.Act) error {
	if r.roller == nil {
		return errCAExternal
	}
	r.trust.look(ctx) // should the listener's certificate still be to be renewed
	live, err := r.serving.LiveByRoot(ctx)
	if err != nil {
		return err
	}
	r.trust.mu.Lock()
	roots, shown := slices.Clone(r.trust.roots), r.trust.root
	r.trust.mu.Unlock()
	if !roots[0].Equal(shown) { // it signs; the others go
		return ca.ErrUnavailable.With("the listener's own certificate does not come from the new root yet")
	}
	if len(roots) < 2 {
		return embedded.ErrNotRolling
	}
	e := act.Event("ca.finish")
	for _, root := range roots[1:] {
		fingerprint := identity.FingerprintHex(root.Raw)
		if n := live[identity.Fingerprint(root.Raw)] + live[[32]byte{}]; n > 0 && !force {
			return errRootInUse.With("%s in use that only the root %.16s… vouches for", counted(n), fingerprint)
		}
		e.Detail = "root " + fingerprint
	}
	return r.act(ctx, e, r.roller.Finish)
}

func counted(n int64) string {
	if n == 1 {
		return "1 certificate is"
	}
	return fmt.Sprintf("%d certificates are", n)
}

// rootOf is the root that a chain leads to, the first of several.
func rootOf(leaf *x509.Certificate, between, roots []*x509.Certificate) *x509.Certificate {
	opts := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: leaf.NotBefore, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	for _, c := range roots {
		opts.Roots.AddCert(c)
	}
	for _, c := range between {
		opts.Intermediates.AddCert(c)
	}
	if chains, err := leaf.Verify(opts); err == nil {
		return chains[0][len(chains[0])-1]
	}
	return roots[0]
}
