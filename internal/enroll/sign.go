package enroll

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"math/big"
	"time"

	"github.com/mosaicstack/gateway/internal/ca"
	"github.com/mosaicstack/gateway/internal/grant"
	"github.com/mosaicstack/gateway/internal/identity"
	"github.com/mosaicstack/gateway/internal/scope"
)

// sign has the CA sign and checks what it signed. signed are the serials that there may now be a certificate of: of
// the claim's there is none when the CA was not asked, or said no, and a CA that signs something else than it was
// asked to may have given it another.
func (s *Service) sign(ctx context.Context, c Claim, csr *x509.CertificateRequest, ttl time.Duration) (_ Issued, _ identity.Identity, signed []*big.Int, _ error) {
	ctx, cancel := context.WithTimeout(ctx, signWithin)
	defer cancel()
	roots, err := s.CA.Roots(ctx)
	if err != nil {
		return Issued{}, identity.Identity{}, nil, err
	}
	until, err := s.notAfter(ctx, c, ttl)
	if err != nil {
		return Issued{}, identity.Identity{}, nil, err
	}
	request := ca.LeafRequest{
		CSR: csr, GrantID: c.Grant.ID, SubjectUserID: c.Grant.SubjectUserID, Host: s.Profile.Host,
		Serial: c.Serial, NotBefore: c.Now, NotAfter: until,
	}
	chain, err := s.CA.IssueLeaf(ctx, request)
	if err == nil || ca.MayHaveSigned(err) {
		signed = []*big.Int{c.Serial}
	}
	if errors.Is(err, ca.ErrRefused) {
		// What is wrong between us and our CA is for our log, not for whoever enrols.
		return Issued{}, identity.Identity{}, signed, ca.ErrRefused.Because(err)
	} else if err != nil {
		return Issued{}, identity.Identity{}, signed, err
	}
	s.step("signed")
	if leaf := chain.Leaf.SerialNumber; leaf.Cmp(c.Serial) != 0 {
		signed = append(signed, leaf)
	}
	want := identity.Want{
		Profile: s.Profile, GrantID: request.GrantID, UserID: request.SubjectUserID, PublicKey: csr.PublicKey,
		Serial: request.Serial, NotBefore: request.NotBefore, NotAfter: request.NotAfter,
	}
	id, root, err := identity.VerifyIssued(chain.Leaf, chain.Intermediates, roots, want, c.Now)
	if err != nil {
		return Issued{}, identity.Identity{}, signed, ErrMisissued.Because(err)
	}
	return s.issued(c.Grant, chain, root, roots), id, signed, nil
}

// notAfter is when the certificate ends: as asked, but within what the CA signs and never after the grant.
func (s *Service) notAfter(ctx context.Context, c Claim, ttl time.Duration) (time.Time, error) {
	shortest, longest, err := s.CA.LifetimeLimits(ctx)
	if err != nil {
		return time.Time{}, err
	}
	until := c.Now.Add(min(max(ttl, shortest), longest))
	if end := c.Grant.ExpiresAt; end != nil && end.Before(until) {
		until = *end
	}
	until = until.Truncate(time.Second) // X.509 has no fractions
	if until.Sub(c.Now) < shortest-time.Second {
		return time.Time{}, ErrGrantExpired.With("the grant ends in less than %s, the shortest life of a certificate", shortest)
	}
	return until, nil
}

func (s *Service) issued(g grant.Grant, chain ca.Chain, root *x509.Certificate, roots []*x509.Certificate) Issued {
	return Issued{
		GrantID: g.ID, PeerID: g.PeerID, SubjectUserID: g.SubjectUserID,
		Certificate: ca.Chain{Leaf: chain.Leaf}.PEM(), Chain: chain.PEM(), CARoot: ca.RootsPEM([]*x509.Certificate{root}), CARoots: ca.RootsPEM(roots), root: identity.Fingerprint(root.Raw),
		SerialNumber: chain.Leaf.SerialNumber.String(),
		NotBefore:    chain.Leaf.NotBefore, NotAfter: chain.Leaf.NotAfter,
		FederationURL: s.FederationURL, Scope: document(g.Scope),
	}
}

func document(s scope.Scope) json.RawMessage {
	doc, err := json.Marshal(s)
	if err != nil {
		return json.RawMessage("null")
	}
	return doc
}
