package embedded

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/smallstep/certificates/authority"
	"github.com/smallstep/certificates/authority/config"
	"github.com/smallstep/certificates/authority/provisioner"
	"github.com/smallstep/certificates/db"
	bolterrors "go.etcd.io/bbolt/errors"
	"go.step.sm/crypto/jose"

	stepca "github.com/mosaicstack/gateway/deploy/step-ca"
	"github.com/mosaicstack/gateway/internal/ca"
	"github.com/mosaicstack/gateway/internal/identity"
)

const (
	// standAloneAddress is where a stock step-ca started on the directory listens; in process nobody does.
	standAloneAddress = "127.0.0.1:9000"
	// keyIterations of PBKDF2 (RFC 8018) for the provisioners' keys. The password has 256 random bits, which no
	// number of iterations makes stronger; ten thousand is what readers of the file expect to see.
	keyIterations = 10_000
	// crlLifetime is how long a list is good for. A new one is made at every revoke and well before its end.
	crlLifetime = 24 * time.Hour
)

// caConfig is the authority's ca.json.
type caConfig struct{ *config.Config }

// newConfig makes the configuration of a new authority whose files are at home.
func newConfig(home layout, password []byte, arc identity.Arc) (*caConfig, error) {
	federation, err := newProvisioner(ca.FederationProvisioner, password)
	if err != nil {
		return nil, err
	}
	server, err := newProvisioner(ca.ServerProvisioner, password)
	if err != nil {
		return nil, err
	}
	conf := &caConfig{&config.Config{
		Address:  standAloneAddress,
		DNSNames: []string{"localhost", "127.0.0.1"},
		Logger:   json.RawMessage(`{"format":"text"}`),
		CRL: &config.CRLConfig{
			Enabled:          true,
			GenerateOnRevoke: true,
			CacheDuration:    &provisioner.Duration{Duration: crlLifetime},
		},
		AuthorityConfig: &config.AuthConfig{Provisioners: provisioner.List{federation, server}},
	}}
	conf.Init()
	conf.settle(home, arc)
	return conf, nil
}

// newProvisioner makes a JWK provisioner with a key of its own, encrypted with the password.
func newProvisioner(name string, password []byte) (*provisioner.JWK, error) {
	key, err := jose.GenerateJWK("EC", "P-256", jose.ES256, "sig", "", 0)
	if err != nil {
		return nil, err
	}
	if key.KeyID, err = jose.Thumbprint(key); err != nil {
		return nil, err
	}
	plain, err := json.Marshal(key)
	if err != nil {
		return nil, err
	}
	encrypter, err := jose.NewEncrypter(jose.DefaultEncAlgorithm, jose.Recipient{
		Algorithm: jose.PBES2_HS256_A128KW, Key: password, PBES2Count: keyIterations,
	}, new(jose.EncrypterOptions).WithContentType("jwk+json"))
	if err != nil {
		return nil, err
	}
	jwe, err := encrypter.Encrypt(plain)
	if err != nil {
		return nil, err
	}
	sealed, err := jwe.CompactSerialize()
	if err != nil {
		return nil, err
	}
	public := key.Public()
	return &provisioner.JWK{Type: "JWK", Name: name, Key: &public, EncryptedKey: sealed}, nil
}

// settle writes everything that follows from the program and the place rather than from the authority's past: the
// paths, the template of the arc, the lifetimes. An operator's other settings stay as they are.
func (c *caConfig) settle(home layout, arc identity.Arc) {
	c.Root = []string{home.rootCert()}
	c.IntermediateCert = home.intermediateCert()
	c.IntermediateKey = home.intermediateKey()
	c.DB = &db.Config{Type: "bbolt", DataSource: home.database()}
	noRenewal := true
	for _, name := range []string{ca.FederationProvisioner, ca.ServerProvisioner} {
		p := c.provisioner(name)
		p.Claims = &provisioner.Claims{
			MinTLSDur:      &provisioner.Duration{Duration: ca.MinLifetime},
			MaxTLSDur:      &provisioner.Duration{Duration: ca.MaxLifetime},
			DefaultTLSDur:  &provisioner.Duration{Duration: ca.DefaultLifetime},
			DisableRenewal: &noRenewal,
		}
	}
	c.provisioner(ca.FederationProvisioner).Options = &provisioner.Options{
		X509: &provisioner.X509Options{Template: stepca.FederationTemplate(arc)},
	}
}

// provisioner finds a JWK provisioner by its name; nil when there is none.
func (c *caConfig) provisioner(name string) *provisioner.JWK {
	for _, p := range c.AuthorityConfig.Provisioners {
		if jwk, ok := p.(*provisioner.JWK); ok && jwk.Name == name && jwk.Key != nil {
			return jwk
		}
	}
	return nil
}

func (c *caConfig) marshal() ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetIndent("", "\t")
	if err := enc.Encode(c.Config); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// loadConfig reads ca.json and brings what it says up to date with this program, this place and this arc. The file
// itself is left alone until save.
func loadConfig(dir layout, arc identity.Arc) (*caConfig, error) {
	loaded, err := config.LoadConfiguration(dir.config())
	if err != nil {
		return nil, ErrDamaged.With("%s cannot be read", dir.config()).Because(err)
	}
	conf := &caConfig{loaded}
	for _, name := range []string{ca.FederationProvisioner, ca.ServerProvisioner} {
		if conf.provisioner(name) == nil {
			return nil, ErrDamaged.With("%s has no JWK provisioner %s", dir.config(), name)
		}
	}
	conf.settle(dir, arc)
	return conf, nil
}

// save puts text, which marshal made, in the place of ca.json when it says something new, so that a stock step-ca
// started on the directory signs as this process does.
func save(dir layout, text []byte) error {
	have, err := os.ReadFile(dir.config())
	if err != nil || bytes.Equal(have, text) {
		return err
	}
	return replaceFile(dir.config(), text)
}

// start opens the database and brings Step-CA's authority up. A database that is not one makes bbolt panic in places:
// that is damage to report, not a reason to take the process down.
func start(conf *caConfig, password []byte) (store db.AuthDB, auth *authority.Authority, err error) {
	defer func() {
		if r := recover(); r != nil {
			auth, err = nil, ErrDamaged.With("%s cannot be read", conf.DB.DataSource).Because(fmt.Errorf("panic: %v", r))
		}
	}()
	store, err = db.New(conf.DB)
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, nil, ErrLocked.Because(err)
	case err != nil:
		return nil, nil, ErrDamaged.With("%s cannot be opened", conf.DB.DataSource).Because(err)
	}
	if auth, err = startOn(store, conf, password); err != nil {
		return nil, nil, errors.Join(err, store.Shutdown())
	}
	return store, auth, nil
}

// startOn brings an authority up on a database that is open.
func startOn(store db.AuthDB, conf *caConfig, password []byte) (*authority.Authority, error) {
	auth, err := authority.NewEmbedded(authority.WithConfig(conf.Config), authority.WithPassword(password),
		authority.WithDatabase(store), authority.WithQuietInit())
	if err != nil {
		return nil, ErrDamaged.With("the certificate authority cannot start: see the log").Because(err)
	}
	for _, p := range auth.GetConfig().AuthorityConfig.Provisioners {
		// Step-CA starts with a provisioner it could not read, and refuses every token of it later.
		if broken, ok := p.(provisioner.Uninitialized); ok {
			auth.CloseForReload()
			return nil, ErrDamaged.With("the provisioner %s cannot be used", strings.TrimSpace(broken.GetName())).Because(broken.Reason)
		}
	}
	return auth, nil
}
