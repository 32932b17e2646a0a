package doctor

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/mosaicstack/gateway/internal/ca"
	"github.com/mosaicstack/gateway/internal/identity"
)

// The end of a root is planned for months before, that of an intermediate for weeks.
const (
	rootSoon         = 90 * 24 * time.Hour
	intermediateSoon = 30 * 24 * time.Hour
)

type authorityFacts struct {
	roots  []*x509.Certificate
	asks   Authority
	survey ca.Survey
	err    error // of asking: told by the check it belongs to

	once sync.Once
	made throwaway
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

// rootExpiry fails when no root is good any more. While a root is rolled over there are two, and the old one may end first.
func (e *examination) rootExpiry(context.Context) Finding {
	var first, last *x509.Certificate // to end
	for _, root := range e.authority.roots {
		if first == nil || root.NotAfter.Before(first.NotAfter) {
			first = root
		}
		if last == nil || root.NotAfter.After(last.NotAfter) {
			last = root
		}
	}
	const remedy = "roll it over before it ends, see docs/root-rollover.md"
	if f := e.ends(last, "the pinned root", rootSoon); f.Status != OK || first == last {
		return f.or(remedy)
	}
	f := e.ends(first, "one of the pinned roots", rootSoon)
	if f.Status == Fail {
		f.Status = Warn // the other one is in force
	}
	return f.or("%s; one that is over can be taken out of the file", remedy)
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
