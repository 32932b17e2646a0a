package doctor

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/ca"
	"github.com/mosaicstack/gateway/internal/identity"
)

const (
	throwawayLife   = 5 * time.Minute
	throwawayReason = "made by mosaic gateway doctor, and never used"
	serverLife      = 24 * time.Hour // what the gateway asks for its listener
)

// throwaway is a certificate that was made to be looked at, and what became of it.
type throwaway struct {
	chain                    ca.Chain
	signed, asAsked, revoked error
}

// request asks for a leaf that no registry will ever hold.
func (e *examination) request() (ca.LeafRequest, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return ca.LeafRequest{}, err
	}
	csr, err := requestOf(key, x509.CertificateRequest{})
	if err != nil {
		return ca.LeafRequest{}, err
	}
	serial, err := ca.NewSerial(rand.Reader)
	if err != nil {
		return ca.LeafRequest{}, err
	}
	p := e.authority.survey.Federation
	life := min(max(throwawayLife, p.Shortest), max(p.Longest, time.Minute))
	return ca.LeafRequest{
		CSR: csr, GrantID: uuid.New(), SubjectUserID: uuid.New(), Host: e.Profile.Host, Serial: serial, NotAfter: e.Now().Add(life),
	}, nil
}

func requestOf(key *ecdsa.PrivateKey, template x509.CertificateRequest) (*x509.CertificateRequest, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificateRequest(der)
}

// throwaway has a certificate made, looks at it as an enrollment would, and revokes it, whatever came of it: one that
// was signed and not seen is revoked by the serial that was asked for.
func (e *examination) throwaway(ctx context.Context) throwaway {
	e.authority.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), e.Within)
		defer cancel()
		t := &e.authority.made
		req, err := e.request()
		if err != nil {
			t.signed, t.revoked = err, err
			return
		}
		t.chain, t.signed = e.authority.asks.IssueLeaf(ctx, req)
		if t.signed == nil {
			want := identity.Want{
				Profile: e.Profile, PublicKey: req.CSR.PublicKey, GrantID: req.GrantID, UserID: req.SubjectUserID, Serial: req.Serial, NotAfter: req.NotAfter,
			}
			_, _, t.asAsked = identity.VerifyIssued(t.chain.Leaf, t.chain.Intermediates, e.authority.roots, want, e.Now())
		}
		t.revoked = e.discard(ctx, t.chain, req.Serial)
	})
	return e.authority.made
}

// discard revokes what was signed, and the serial that was asked for.
func (e *examination) discard(ctx context.Context, chain ca.Chain, asked *big.Int) error {
	err := e.authority.asks.Revoke(ctx, asked, throwawayReason)
	if chain.Leaf != nil && chain.Leaf.SerialNumber.Cmp(asked) != 0 {
		err = errors.Join(err, e.authority.asks.Revoke(ctx, chain.Leaf.SerialNumber, throwawayReason))
	}
	return err
}

const templateRemedy = "give the provisioner %s the template deploy/step-ca/templates/mosaic-fed.tpl, with the arc of MOSAIC_OID_ARC, and restart the CA"

func (e *examination) templateEmits(ctx context.Context) Finding {
	name := e.authority.survey.Federation.Name
	switch t := e.throwaway(ctx); {
	case errors.Is(t.signed, ca.ErrPolicy):
		return blamed(t.signed).remedy(templateRemedy, name)
	case t.signed != nil:
		return blamed(t.signed)
	case t.asAsked != nil:
		return blamed(t.asAsked).remedy(templateRemedy, name)
	}
	return fine("a certificate that was signed and thrown away has both identifiers and the strict profile, and leads to the pinned root")
}

func (e *examination) templateRefuses(ctx context.Context) Finding {
	name := e.authority.survey.Federation.Name
	for _, claim := range []string{ca.ClaimGrantID, ca.ClaimSubjectID} {
		req, err := e.request()
		if err != nil {
			return blamed(err)
		}
		chain, err := e.authority.asks.IssueLeafWithout(ctx, req, claim)
		switch {
		case err == nil:
			f := failed("the CA signs a certificate although the token has no %s", claim)
			if err := e.discard(ctx, chain, req.Serial); err != nil {
				f.Detail += "; it could not be revoked, and is in no registry: " + line(err.Error())
			}
			return f.remedy(templateRemedy, name)
		case !errors.Is(err, ca.ErrPolicy):
			if ca.MayHaveSigned(err) {
				_ = e.discard(ctx, chain, req.Serial) // as well as it goes: ca.revokes tells when it does not
			}
			return blamed(err)
		}
	}
	return fine("a token without its grant or its user is refused")
}

func (e *examination) caRevokes(ctx context.Context) Finding {
	if err := e.throwaway(ctx).revoked; err != nil {
		return blamed(err)
	}
	return fine("the certificate that was thrown away is revoked")
}

// serverCertificate has the CA sign what the listener would ask for.
func (e *examination) serverCertificate(ctx context.Context) Finding {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return blamed(err)
	}
	template := x509.CertificateRequest{DNSNames: []string{e.Profile.Host}}
	if ip := net.ParseIP(e.Profile.Host); ip != nil {
		template = x509.CertificateRequest{IPAddresses: []net.IP{ip}}
	}
	csr, err := requestOf(key, template)
	if err != nil {
		return blamed(err)
	}
	chain, err := e.authority.asks.IssueServer(ctx, ca.ServerRequest{CSR: csr, Names: []string{e.Profile.Host}, NotAfter: e.Now().Add(serverLife)})
	if err != nil {
		return blamed(err)
	}
	revoked := e.authority.asks.Revoke(ctx, chain.Leaf.SerialNumber, throwawayReason)
	remedy := "give the provisioner " + e.authority.survey.Server.Name + " the ordinary leaf template, without options of its own, and restart the CA"
	if err := verifyServer(chain.Leaf, chain.Intermediates, e.authority.roots, e.Profile.Host, e.Now()); err != nil {
		return failed("what the CA signs for the listener cannot serve %s: %s", e.Profile.Host, line(err.Error())).remedy("%s", remedy)
	}
	for _, ext := range chain.Leaf.Extensions {
		for _, arc := range e.Profile.Arcs {
			if ext.Id.Equal(arc.Grant()) || ext.Id.Equal(arc.User()) {
				return failed("the listener's provisioner emits %s, which is for certificates of peers alone", ext.Id).remedy("%s", remedy)
			}
		}
	}
	f := fine("a certificate for the listener was signed for %s, and thrown away", e.Profile.Host)
	if revoked != nil { // ca.revokes says what to do about it
		f.Detail += "; it could not be revoked"
	}
	return f
}

// verifyServer checks what a peer checks: the chain to the pinned roots, and the name.
func verifyServer(leaf *x509.Certificate, between, roots []*x509.Certificate, host string, at time.Time) error {
	opts := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: at, DNSName: host}
	for _, c := range roots {
		opts.Roots.AddCert(c)
	}
	for _, c := range between {
		opts.Intermediates.AddCert(c)
	}
	_, err := leaf.Verify(opts)
	return err
}
