package doctor

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/ca"
	"github.com/mosaicstack/gateway/internal/identity"
)

// The end of a root is planned for months before, that of an intermediate for weeks.
const (
	rootSoon         = 90 * 24 * time.Hour
	intermediateSoon = 30 * 24 * time.Hour
)

const (
	throwawayLife   = 5 * time.Minute
	throwawayReason = "made by mosaic gateway doctor, and never used"
	serverLife      = 24 * time.Hour // what the gateway asks for its listener
)

type authorityFacts struct {
	roots  []*x509.Certificate
	asks   Authority
	survey ca.Survey
	err    error // of asking: told by the check it belongs to

	once sync.Once
	made throwaway
}

// throwaway is a certificate that was made to be looked at, and what became of it.
type throwaway struct {
	chain                    ca.Chain
	signed, asAsked, revoked error
}

func (e *examination) authorityChecks() []check {
	if e.Roots == nil {
		return nil
	}
	usable := []string{CARoot, CAClock, CAProvisioner, CAKey}
	var when []string
	if e.Local { // it makes the CA
		when = []string{GatewayRunning}
	}
	list := []check{
		{name: RootFile, after: when, settings: []string{"STEP_CA_ROOT_CERT_PATH"}, run: e.rootFile},
		{name: RootExpiry, after: []string{RootFile}, run: e.rootExpiry},
	}
	if e.Issuer != nil {
		list = append(list, check{name: IssuerExpiry, after: []string{RootExpiry}, run: e.issuerExpiry})
	}
	if e.Config.Authority == nil {
		return list
	}
	of := func(name string, run func(context.Context) Finding) check {
		return check{name: name, after: []string{CARoot}, run: run}
	}
	signs := func(name string, run func(context.Context) Finding) check {
		return check{name: name, after: usable, settings: []string{"MOSAIC_FEDERATION_URL", "MOSAIC_OID_ARC"}, run: run}
	}
	list = append(list,
		check{name: CAReachable, after: []string{RootExpiry}, settings: []string{"STEP_CA_"}, run: e.caReachable},
		check{name: CARoot, after: []string{CAReachable}, run: e.caRoot},
		of(CAClock, e.caClock),
		of(CAProvisioner, func(context.Context) Finding { return provisioner(e.authority.survey.Federation) }),
		check{name: CAKey, after: []string{CAProvisioner}, run: func(context.Context) Finding { return provisionerKey(e.authority.survey.Federation) }},
		check{name: CALifetime, after: []string{CAProvisioner}, run: e.caLifetime},
		check{name: CARenewal, after: []string{CAProvisioner}, run: e.caRenewal},
		signs(TemplateEmits, e.templateEmits),
		signs(TemplateRefuses, e.templateRefuses),
		signs(CARevokes, e.caRevokes),
		check{name: CACRL, after: usable, run: e.caCRL},
		check{name: IssuerExpiry, after: []string{TemplateEmits}, run: e.issuerExpiry},
	)
	if e.ListenerFiles == nil { // the CA signs for the listener, too
		list = append(list,
			of(ServerProvisioner, func(context.Context) Finding { return provisioner(e.authority.survey.Server) }),
			check{name: ServerKey, after: []string{ServerProvisioner}, run: func(context.Context) Finding { return provisionerKey(e.authority.survey.Server) }},
			check{name: ServerCertificate, after: []string{CARoot, CAClock, ServerKey}, settings: []string{"MOSAIC_FEDERATION_URL"}, run: e.serverCertificate},
		)
	}
	return list
}

func (e *examination) rootFile(context.Context) Finding {
	var err error
	if e.authority.roots, err = e.Roots(); err != nil {
		return blamed(err)
	}
	return fine("%s pinned, the first is %s", counted(int64(len(e.authority.roots)), "root"), identity.FingerprintHex(e.authority.roots[0].Raw))
}

func (e *examination) rootExpiry(context.Context) Finding {
	var first *x509.Certificate
	for _, root := range e.authority.roots {
		if first == nil || root.NotAfter.Before(first.NotAfter) {
			first = root
		}
	}
	return e.ends(first, "the pinned root", rootSoon).or("roll it over before it ends, see docs/root-rollover.md")
}

// or is the remedy when there is something to mend.
func (f Finding) or(format string, args ...any) Finding {
	if f.Status == OK {
		return f
	}
	return f.remedy(format, args...)
}

// ends judges the validity of a certificate.
func (e *examination) ends(cert *x509.Certificate, what string, soon time.Duration) Finding {
	now := e.Now()
	switch {
	case now.Before(cert.NotBefore):
		return failed("%s begins at %s, in the future", what, cert.NotBefore.UTC().Format(time.RFC3339))
	case !now.Before(cert.NotAfter):
		return failed("%s ended at %s, %s ago", what, cert.NotAfter.UTC().Format(time.RFC3339), span(now.Sub(cert.NotAfter)))
	case cert.NotAfter.Sub(now) < soon:
		return warned("%s ends at %s", what, until(cert.NotAfter, now))
	}
	return fine("%s ends at %s", what, until(cert.NotAfter, now))
}

func (e *examination) caReachable(ctx context.Context) Finding {
	var err error
	if e.authority.asks, err = e.Config.Authority(e.authority.roots); err != nil {
		return blamed(err)
	}
	e.authority.survey, err = e.authority.asks.Survey(ctx)
	e.authority.err = err
	if err != nil && !errors.Is(err, ca.ErrTrust) {
		return blamed(err)
	}
	return fine("the CA answers")
}

func (e *examination) caRoot(context.Context) Finding {
	if err := e.authority.err; err != nil {
		return blamed(err)
	}
	return fine("who answers at STEP_CA_URL proves to be the pinned CA")
}

func (e *examination) caClock(context.Context) Finding {
	s := e.authority.survey
	if s.Clock.IsZero() {
		return fine("the CA does not tell the time")
	}
	const resolution = time.Second // of a Date header
	return clocks(s.Seen.Sub(s.Clock.Add(resolution/2)), resolution, "the CA's", "it refuses tokens of a clock that is more than a minute off")
}

func provisioner(p ca.SurveyedProvisioner) Finding {
	if p.Missing != nil {
		return blamed(p.Missing)
	}
	return fine("the JWK provisioner %s is there", p.Name)
}

func provisionerKey(p ca.SurveyedProvisioner) Finding {
	if p.Key != nil {
		return blamed(p.Key)
	}
	return fine("the key of %s opens, and is the one that the CA checks tokens with", p.Name)
}

func (e *examination) caLifetime(context.Context) Finding {
	p := e.authority.survey.Federation
	remedy := fmt.Sprintf("step ca provisioner update %s --x509-min-dur 60s --x509-max-dur 8760h, then restart the CA", p.Name)
	switch {
	case p.Shortest > ca.DefaultLifetime || p.Longest < ca.MinLifetime || p.Longest < p.Shortest:
		return failed("the provisioner allows %s to %s: an ordinary certificate of %s cannot be signed", span(p.Shortest), span(p.Longest), span(ca.DefaultLifetime)).remedy("%s", remedy)
	case p.Shortest > ca.MinLifetime || p.Longest < ca.MaxLifetime:
		return warned("the provisioner allows %s to %s: a lifetime outside is cut or refused, and peers may ask for 60 s to 365 days", span(p.Shortest), span(p.Longest)).remedy("%s", remedy)
	}
	return fine("the provisioner allows %s to %s", span(p.Shortest), span(p.Longest))
}

func (e *examination) caRenewal(context.Context) Finding {
	p := e.authority.survey.Federation
	if p.Renews {
		return warned("the CA renews certificates of %s itself: it copies their claims and asks nobody, and the gateway does not accept what it makes", p.Name).
			remedy("step ca provisioner update %s --disable-renewal, then restart the CA", p.Name)
	}
	return fine("the CA renews nothing by itself")
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

func (e *examination) caCRL(ctx context.Context) Finding {
	der, err := e.authority.asks.CRL(ctx)
	if errors.Is(err, ca.ErrNoCRL) {
		f := blamed(err)
		f.Status = Warn // the registry decides who is let in, the list only repeats it
		return f
	} else if err != nil {
		return blamed(err)
	}
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return blamed(ca.Refuse(ca.ErrAnswer, err))
	}
	if !list.NextUpdate.IsZero() && !e.Now().Before(list.NextUpdate) {
		return warned("the list of revoked certificates should have been replaced at %s", list.NextUpdate.UTC().Format(time.RFC3339)).
			remedy(`set "crl": {"enabled": true, "generateOnRevoke": true} in the CA's ca.json, and look at the CA's log`)
	}
	return fine("%s on the CA's list, made at %s", counted(int64(len(list.RevokedCertificateEntries)), "certificate"), list.ThisUpdate.UTC().Format(time.RFC3339))
}

// issuerExpiry looks at what stands between the leaves and the root: those that were signed with the throwaway, or the
// file of the local tier.
func (e *examination) issuerExpiry(ctx context.Context) Finding {
	var between []*x509.Certificate
	if e.Issuer != nil {
		cert, err := e.Issuer()
		if err != nil {
			return blamed(err)
		}
		between = append(between, cert)
	} else {
		between = e.throwaway(ctx).chain.Intermediates
	}
	worst := fine("the root signs itself: there is no intermediate")
	for i, cert := range between {
		f := e.ends(cert, "the intermediate", intermediateSoon).or("make a new intermediate under the same root (step certificate create --profile intermediate-ca) and restart the CA; peers pin the root and notice nothing")
		if i == 0 || rank(f.Status) > rank(worst.Status) {
			worst = f
		}
	}
	return worst
}

func rank(s Status) int { return map[Status]int{OK: 0, Warn: 1, Fail: 2}[s] }

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
