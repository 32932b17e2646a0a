package stepca_test

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/smallstep/certificates/authority/config"
	"github.com/smallstep/certificates/authority/policy"
	"github.com/smallstep/certificates/authority/provisioner"
	"go.step.sm/crypto/jose"

	"github.com/mosaicstack/gateway/internal/ca"
	"github.com/mosaicstack/gateway/internal/ca/catest"
	"github.com/mosaicstack/gateway/internal/ca/stepca"
	"github.com/mosaicstack/gateway/internal/ca/stepca/stepcatest"
	"github.com/mosaicstack/gateway/internal/fault"
)

// wantFault fails the test unless err is a fault of the code of want; a refusal must be ErrRefused too.
func wantFault(t *testing.T, err error, want *fault.Fault) {
	t.Helper()
	if err == nil || fault.From(err).Code != want.Code {
		t.Fatalf("got %v, want %s", err, want.Code)
	}
	if f := fault.From(err); f.Detail == "" || f.Hint == "" {
		t.Errorf("fault %s has no detail or no remedy", f.Code)
	}
	if configured := want.Kind == fault.Internal; configured && !errors.Is(err, ca.ErrRefused) {
		t.Errorf("%v is not a refusal", err)
	}
	if errors.Is(err, ca.ErrRefused) == errors.Is(err, ca.ErrUnavailable) && !errors.Is(err, ca.ErrLifetime) {
		t.Errorf("%v is both a refusal and an outage, or neither", err)
	}
}

func newClient(t *testing.T, cfg stepca.Config) *stepca.Client {
	t.Helper()
	cfg.Backoff = time.Millisecond
	c, err := stepca.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func newJWK(t *testing.T) *jose.JSONWebKey {
	t.Helper()
	jwk, err := jose.GenerateJWK("EC", "P-256", jose.ES256, "sig", "", 0)
	if err != nil {
		t.Fatal(err)
	}
	if jwk.KeyID, err = jose.Thumbprint(jwk); err != nil {
		t.Fatal(err)
	}
	return jwk
}

func marshal(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Each wrong setting against a real CA, which answers most of them with one and the same 401.
func TestWrongSettingsAreNamed(t *testing.T) {
	t.Parallel()
	server := stepcatest.Start(t)
	stranger := marshal(t, newJWK(t))
	own := []byte(server.Provisioner(t, ca.FederationProvisioner).EncryptedKey)
	renamed := *newJWK(t)
	renamed.KeyID = server.Provisioner(t, ca.FederationProvisioner).Key.KeyID
	tests := map[string]struct {
		change func(*stepca.Config)
		want   *fault.Fault
	}{
		"unknown provisioner, key fetched":    {func(c *stepca.Config) { c.Federation.Name = "mosaic" }, ca.ErrProvisioner},
		"unknown provisioner, key configured": {func(c *stepca.Config) { c.Federation.Name, c.Federation.KeyJSON = "mosaic", own }, ca.ErrProvisioner},
		"another key":                         {func(c *stepca.Config) { c.Federation.KeyJSON = stranger }, ca.ErrKey},
		"another key of the same id":          {func(c *stepca.Config) { c.Federation.KeyJSON = marshal(t, renamed) }, ca.ErrKey},
		"wrong password":                      {func(c *stepca.Config) { c.Federation.Password = []byte("wrong") }, ca.ErrPassword},
		"no password":                         {func(c *stepca.Config) { c.Federation.Password = nil }, ca.ErrPassword},
		"a clock that is ahead":               {func(c *stepca.Config) { c.Now = skewed(10 * time.Minute) }, ca.ErrClock},
		"a clock that is behind":              {func(c *stepca.Config) { c.Now = skewed(-10 * time.Minute) }, ca.ErrClock},
		"another root":                        {func(c *stepca.Config) { c.Roots = []*x509.Certificate{strangerRoot(t)} }, ca.ErrTrust},
		"a wrong path":                        {func(c *stepca.Config) { c.URL += "/nowhere" }, ca.ErrAnswer},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := server.Config()
			test.change(&cfg)
			client := newClient(t, cfg)
			_, err := client.IssueLeaf(catest.Context(t), catest.NewRequest(t))
			wantFault(t, err, test.want)
			wantFault(t, client.Ready(catest.Context(t)), test.want)
			wantFault(t, client.Revoke(catest.Context(t), catest.NewRequest(t).Serial, ""), test.want)
		})
	}
}

func skewed(by time.Duration) func() time.Time { return func() time.Time { return time.Now().Add(by) } }

func strangerRoot(t *testing.T) *x509.Certificate {
	t.Helper()
	srv := httptest.NewTLSServer(nil)
	t.Cleanup(srv.Close)
	return srv.Certificate()
}

// Every way of giving the key.
func TestKeyMayBeConfigured(t *testing.T) {
	t.Parallel()
	server := stepcatest.Start(t)
	sealed := []byte(server.Provisioner(t, ca.FederationProvisioner).EncryptedKey)
	jwe, err := jose.ParseEncrypted(string(sealed))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := jwe.Decrypt(server.Password)
	if err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string]stepca.Provisioner{
		"JWK":         {KeyJSON: plain},
		"compact JWE": {KeyJSON: sealed, Password: server.Password},
		"JSON JWE":    {KeyJSON: []byte(jwe.FullSerialize()), Password: server.Password},
		"fetched":     {Password: server.Password},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := server.Config()
			p.Name = ca.FederationProvisioner
			cfg.Federation = p
			client := newClient(t, cfg)
			req := catest.NewRequest(t)
			chain, err := client.IssueLeaf(catest.Context(t), req)
			if err != nil {
				t.Fatal(err)
			}
			catest.CheckLeaf(t, client, req, chain)
		})
	}
}

// A provisioner may be of any kind of key, and tokens are signed by the algorithm of that kind.
func TestProvisionerKeysOfEveryKind(t *testing.T) {
	t.Parallel()
	keys := map[string]*jose.JSONWebKey{}
	for name, kind := range map[string][3]string{
		"P-384": {"EC", "P-384", "ES384"}, "P-521": {"EC", "P-521", "ES512"},
		"Ed25519": {"OKP", "Ed25519", "EdDSA"}, "RSA": {"RSA", "", "RS256"}, "RSA-PSS": {"RSA", "", "PS256"},
	} {
		jwk, err := jose.GenerateJWK(kind[0], kind[1], kind[2], "sig", "", 2048)
		if err != nil {
			t.Fatal(err)
		}
		jwk.KeyID = "key-" + name
		keys[name] = jwk
	}
	server := stepcatest.Start(t, func(conf *config.Config) {
		template := stepcatest.Find(conf, ca.FederationProvisioner)
		for name, jwk := range keys {
			public := jwk.Public()
			conf.AuthorityConfig.Provisioners = append(conf.AuthorityConfig.Provisioners, &provisioner.JWK{
				Type: "JWK", Name: name, Key: &public, Claims: template.Claims, Options: template.Options,
			})
		}
	})
	for name, jwk := range keys {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := server.Config()
			cfg.Federation = stepca.Provisioner{Name: name, KeyJSON: marshal(t, jwk)}
			client := newClient(t, cfg)
			req := catest.NewRequest(t)
			chain, err := client.IssueLeaf(catest.Context(t), req)
			if err != nil {
				t.Fatal(err)
			}
			catest.CheckLeaf(t, client, req, chain)
			if err := client.Ready(catest.Context(t)); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("kept by nobody", func(t *testing.T) {
		t.Parallel()
		cfg := server.Config()
		cfg.Federation = stepca.Provisioner{Name: "RSA", Password: server.Password}
		wantFault(t, newClient(t, cfg).Ready(catest.Context(t)), ca.ErrKeyUnusable)
	})
}

func TestLimitsOfTheCA(t *testing.T) {
	t.Parallel()
	server := stepcatest.Start(t, func(conf *config.Config) { stepcatest.Find(conf, ca.FederationProvisioner).Claims = nil })
	client := newClient(t, server.Config())
	for range 2 { // asked, then remembered
		shortest, longest, err := client.LifetimeLimits(catest.Context(t))
		if err != nil || shortest != 5*time.Minute || longest != 24*time.Hour {
			t.Fatalf("limits %v to %v, %v; want Step-CA's defaults", shortest, longest, err)
		}
	}
	req := catest.NewRequest(t)
	req.NotAfter = time.Now().Add(48 * time.Hour)
	_, err := client.IssueLeaf(catest.Context(t), req)
	wantFault(t, err, ca.ErrLifetime)
	if detail := fault.From(err).Detail; !strings.Contains(detail, "24h") {
		t.Errorf("%q does not say what is allowed", detail)
	}
}

func TestWhatTheCAForbids(t *testing.T) {
	t.Parallel()
	t.Run("policy", func(t *testing.T) {
		t.Parallel()
		server := stepcatest.Start(t, func(conf *config.Config) {
			conf.AuthorityConfig.Policy = &policy.Options{X509: &policy.X509PolicyOptions{
				AllowedNames: &policy.X509NameOptions{DNSDomains: []string{"*.example"}, IPRanges: []string{"127.0.0.1/32"}},
			}}
		})
		_, err := newClient(t, server.Config()).IssueLeaf(catest.Context(t), catest.NewRequest(t))
		wantFault(t, err, ca.ErrPolicy)
	})
	t.Run("template", func(t *testing.T) {
		t.Parallel()
		server := stepcatest.Start(t, func(conf *config.Config) {
			stepcatest.Find(conf, ca.FederationProvisioner).Options.X509.Template = `{{ fail "no" }}`
		})
		_, err := newClient(t, server.Config()).IssueLeaf(catest.Context(t), catest.NewRequest(t))
		wantFault(t, err, ca.ErrPolicy)
	})
	t.Run("a template that is no JSON", func(t *testing.T) {
		t.Parallel()
		server := stepcatest.Start(t, func(conf *config.Config) {
			stepcatest.Find(conf, ca.FederationProvisioner).Options.X509.Template = `nonsense`
		})
		_, err := newClient(t, server.Config()).IssueLeaf(catest.Context(t), catest.NewRequest(t))
		wantFault(t, err, ca.ErrUnavailable) // Step-CA calls it an internal error
	})
}

func TestCAWithoutDatabase(t *testing.T) {
	t.Parallel()
	server := stepcatest.Start(t, func(conf *config.Config) { conf.DB, conf.CRL = nil, nil })
	client := newClient(t, server.Config())
	req := catest.NewRequest(t)
	if _, err := client.IssueLeaf(catest.Context(t), req); err != nil {
		t.Fatal(err)
	}
	wantFault(t, client.Revoke(catest.Context(t), req.Serial, ""), ca.ErrNoDatabase)
	_, err := client.CRL(catest.Context(t))
	if fault.From(err).Code != ca.ErrNoCRL.Code {
		t.Errorf("got %v, want %s", err, ca.ErrNoCRL.Code)
	}
}
