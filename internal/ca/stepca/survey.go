package stepca

import (
	"context"
	"fmt"
	"time"

	"github.com/smallstep/certificates/authority/config"
	"github.com/smallstep/certificates/authority/provisioner"

	"github.com/mosaicstack/gateway/internal/ca"
)

// Survey asks the CA for its provisioners, and holds ours against them.
func (c *Client) Survey(ctx context.Context) (ca.Survey, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	list, date, err := c.provisioners(ctx)
	if err != nil {
		return ca.Survey{}, err
	}
	return ca.Survey{
		Clock: date, Seen: c.now(),
		Federation: c.federation.survey(ctx, list), Server: c.server.survey(ctx, list),
	}, nil
}

func (s *source) survey(ctx context.Context, list provisioner.List) ca.SurveyedProvisioner {
	out := ca.SurveyedProvisioner{Name: s.Name}
	jwk := find(list, s.Name)
	if jwk == nil {
		out.Missing = ca.Refuse(ca.ErrProvisioner, fmt.Errorf("no JWK provisioner %q among %d", s.Name, len(list)))
		return out
	}
	out.Key = s.match(ctx, list)
	claimer, err := provisioner.NewClaimer(jwk.Claims, config.GlobalProvisionerClaims)
	if err != nil {
		out.Missing = ca.Refuse(ca.ErrAnswer, err)
		return out
	}
	out.Shortest, out.Longest, out.Renews = claimer.MinTLSCertDuration(), claimer.MaxTLSCertDuration(), !claimer.IsDisableRenewal()
	return out
}

// IssueLeafWithout asks for a federation certificate with a token that lacks one of its claims. A CA with our template
// refuses it, with ca.ErrPolicy; what it signs has to be revoked.
func (c *Client) IssueLeafWithout(ctx context.Context, req ca.LeafRequest, claim string) (ca.Chain, error) {
	if err := req.Check(); err != nil {
		return ca.Chain{}, ca.Unsigned(err)
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	return c.sign(ctx, c.federation, req.CSR, time.Time{}, req.NotAfter, func(m minter) (string, error) { return m.LeafWithout(req, claim) })
}
