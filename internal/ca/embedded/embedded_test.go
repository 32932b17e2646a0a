package embedded_test

import (
	"bytes"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/smallstep/certificates/authority/config"
	"github.com/smallstep/certificates/authority/provisioner"

	"github.com/mosaicstack/gateway/internal/ca"
	"github.com/mosaicstack/gateway/internal/ca/catest"
	"github.com/mosaicstack/gateway/internal/ca/embedded"
	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/identity"
)

func newConfig(t *testing.T) embedded.Config {
	t.Helper()
	return embedded.Config{Dir: filepath.Join(t.TempDir(), "ca"), Name: "Test", Arc: identity.DefaultArc}
}

func open(t *testing.T, cfg embedded.Config) *embedded.Authority {
	t.Helper()
	a, err := embedded.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shut(t, a) })
	return a
}

func shut(t *testing.T, a *embedded.Authority) {
	t.Helper()
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

func issue(t *testing.T, a *embedded.Authority) (ca.LeafRequest, ca.Chain) {
	t.Helper()
	req := catest.NewRequest(t)
	chain, err := a.IssueLeaf(catest.Context(t), req)
	if err != nil {
		t.Fatal(err)
	}
	return req, chain
}

func wantFault(t *testing.T, err error, want *fault.Fault) {
	t.Helper()
	if err == nil || fault.From(err).Code != want.Code {
		t.Fatalf("got %v, want %s", err, want.Code)
	}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	catest.Run(t, func(t *testing.T) ca.Authority { return open(t, newConfig(t)) })
}

// federation reads the provisioner out of ca.json, as an administrator would.
func federation(t *testing.T, dir string) (*config.Config, *provisioner.JWK, catest.Provisioner) {
	t.Helper()
	conf, err := config.LoadConfiguration(filepath.Join(dir, "config", "ca.json"))
	if err != nil {
		t.Fatal(err)
	}
	password, err := os.ReadFile(filepath.Join(dir, "password"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range conf.AuthorityConfig.Provisioners {
		if jwk, ok := p.(*provisioner.JWK); ok && jwk.Name == ca.FederationProvisioner {
			return conf, jwk, catest.Provisioner{
				Name: jwk.Name, EncryptedKey: jwk.EncryptedKey, Password: bytes.TrimSpace(password),
				Audience: "https://localhost/1.0/sign",
			}
		}
	}
	t.Fatal("ca.json has no federation provisioner")
	return nil, nil, catest.Provisioner{}
}

func TestTemplate(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t)
	a := open(t, cfg)
	_, _, p := federation(t, cfg.Dir)
	catest.RunTemplate(t, p, a.SignToken)
}

func TestTokensAreSpentOnce(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t)
	a := open(t, cfg)
	_, _, p := federation(t, cfg.Dir)
	token := p.Token(t, "x", map[string]any{
		ca.ClaimGrantID: "6f9619ff-8b86-4011-b42d-00cf4fc964ff", ca.ClaimSubjectID: "6f9619ff-8b86-4011-b42d-00cf4fc964ff",
	})
	csr := catest.NewRequest(t).CSR
	if _, err := a.SignToken(t.Context(), csr, token); err != nil {
		t.Fatal(err)
	}
	_, err := a.SignToken(t.Context(), csr, token)
	wantFault(t, err, ca.ErrRefused)
	shut(t, a)
	a = open(t, cfg) // and stays spent
	_, err = a.SignToken(t.Context(), csr, token)
	wantFault(t, err, ca.ErrRefused)
}

func TestStepCADoesNotRenew(t *testing.T) {
	t.Parallel()
	a := open(t, newConfig(t))
	_, chain := issue(t, a)
	if err := a.Renew(chain.Leaf); err == nil {
		t.Error("the CA renewed a federation certificate, which copies its claims and asks nobody")
	}
}

func TestReopenedAuthorityIsTheSame(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t)
	a := open(t, cfg)
	req, chain := issue(t, a)
	if err := a.Revoke(t.Context(), req.Serial, "test"); err != nil {
		t.Fatal(err)
	}
	shut(t, a)
	before := snapshot(t, cfg.Dir)
	b := open(t, cfg)
	catest.CheckLeaf(t, b, req, chain)
	der, err := b.CRL(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(list.RevokedCertificateEntries); n != 1 || list.RevokedCertificateEntries[0].SerialNumber.Cmp(req.Serial) != 0 {
		t.Errorf("the list has %d entries after reopening", n)
	}
	shut(t, b)
	after := snapshot(t, cfg.Dir)
	delete(before, "db/step-ca.db")
	delete(after, "db/step-ca.db")
	wantSame(t, before, after)
}

func TestFilesArePrivate(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t)
	open(t, cfg)
	err := filepath.Walk(cfg.Dir, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		want := os.FileMode(0o600)
		if info.IsDir() {
			want = 0o700
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %o, want %o", path, got, want)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestClosedAuthorityIsUnavailable(t *testing.T) {
	t.Parallel()
	a := open(t, newConfig(t))
	shut(t, a)
	shut(t, a) // twice is fine
	_, err := a.IssueLeaf(t.Context(), catest.NewRequest(t))
	wantFault(t, err, ca.ErrUnavailable)
	wantFault(t, a.Ready(t.Context()), ca.ErrUnavailable)
}

// A changed arc takes effect at the next start, for signing and for a stock step-ca on the same files.
func TestChangedArcSignsUnderTheNewOne(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t)
	shut(t, open(t, cfg))
	cfg.Arc = "1.3.6.1.4.1.55555.3"
	a := open(t, cfg)
	req, chain := issue(t, a)
	profile := identity.Profile{Arcs: []identity.Arc{cfg.Arc}, Host: catest.Host}
	id, err := profile.Parse(chain.Leaf)
	if err != nil {
		t.Fatal(err)
	}
	if id.GrantID != req.GrantID {
		t.Errorf("names grant %v", id.GrantID)
	}
	if _, err := catest.Profile().Parse(chain.Leaf); !errors.Is(err, identity.ErrProfile) {
		t.Errorf("the old arc still reads it: %v", err)
	}
	_, jwk, _ := federation(t, cfg.Dir)
	if template := jwk.Options.X509.Template; bytes.Contains([]byte(template), []byte("99999")) {
		t.Error("ca.json still has the old arc")
	}
}

func TestReadyNoticesTheIssuersEnd(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t)
	cfg.Now = func() time.Time { return time.Now().AddDate(-11, 0, 0) }
	shut(t, open(t, cfg))
	cfg.Now = nil
	a := open(t, cfg)
	wantFault(t, a.Ready(t.Context()), ca.ErrRefused)
}

func TestOpenNeedsItsSettings(t *testing.T) {
	t.Parallel()
	for _, cfg := range []embedded.Config{
		{Name: "x", Arc: identity.DefaultArc}, {Dir: t.TempDir(), Arc: identity.DefaultArc}, {Dir: t.TempDir(), Name: "x"},
	} {
		if a, err := embedded.Open(t.Context(), cfg); err == nil {
			shut(t, a)
			t.Errorf("opened with %+v", cfg)
		}
	}
}
