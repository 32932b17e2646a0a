// Package embedded is a Step-CA authority in this process, for the tier that starts everything itself.
//
// It is not an imitation: signing, templates, one-time tokens, revocation and the CRL are Step-CA's own code, asked
// with the same tokens as a remote CA. Its directory is laid out as step-ca lays out its own, so that an
// installation which outgrows one process hands it to a stock step-ca as it is:
//
//	step-ca --password-file DIR/password DIR/config/ca.json
//
// The directory is made whole or not at all, belongs to one process at a time, and is never repaired by guessing:
// what is damaged is named, and left alone.
package embedded

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/smallstep/certificates/authority"
	"github.com/smallstep/certificates/authority/provisioner"
	_ "github.com/smallstep/certificates/cas/softcas" // registers the signer that keeps its key in a file
	"github.com/smallstep/certificates/db"
	"go.step.sm/crypto/x509util"

	"github.com/mosaicstack/gateway/internal/ca"
	"github.com/mosaicstack/gateway/internal/ca/token"
	"github.com/mosaicstack/gateway/internal/identity"
)

// Config says where the authority lives and what it signs.
type Config struct {
	Dir  string       // made on first use, mode 0700
	Name string       // in the names of root and intermediate; only read when they are made
	Arc  identity.Arc // of the claims; a changed arc takes effect at the next Open
	// Now is the clock for tokens and new CA certificates. Step-CA itself reads the machine's clock, and refuses
	// tokens that are more than a minute away from it.
	Now func() time.Time
}

// Authority is an open directory. It implements ca.Authority.
type Authority struct {
	cfg        Config
	now        func() time.Time
	federation token.Minter
	server     token.Minter
	store      db.AuthDB

	changing sync.Mutex // one rollover at a time

	mu     sync.RWMutex // held for reading by every call, so that Close waits for them
	auth   *authority.Authority
	roots  []*x509.Certificate // in trust, the one that is signed under first
	issuer *x509.Certificate
	lock   *os.File
}

var _ ca.Authority = (*Authority)(nil)

// Open opens the authority in cfg.Dir, making it first when there is none. It fails at once when another process
// has it open (ErrLocked), and with ErrDamaged or ErrPassword, naming the file, when what is there cannot be used.
// The caller must Close it.
func Open(ctx context.Context, cfg Config) (*Authority, error) {
	if err := ctx.Err(); err != nil {
		return nil, ca.ErrUnavailable.Because(err)
	}
	if cfg.Dir == "" || cfg.Name == "" || cfg.Arc == "" {
		return nil, errors.New("embedded CA: Dir, Name and Arc are needed")
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, err
	}
	cfg.Dir = dir
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	lock, err := acquire(layout{cfg.Dir}.lock())
	if err != nil {
		return nil, err
	}
	a, err := open(cfg)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	a.lock = lock
	return a, nil
}

// open runs under the directory's lock.
func open(cfg Config) (*Authority, error) {
	dir := layout{cfg.Dir}
	if err := ensure(dir, cfg); err != nil {
		return nil, err
	}
	password, err := dir.readPassword()
	if err != nil {
		return nil, err
	}
	if err := completeRollover(dir); err != nil {
		return nil, err
	}
	roots, issuer, err := loadCertificates(dir, password)
	if err != nil {
		return nil, err
	}
	conf, err := loadConfig(dir, cfg.Arc)
	if err != nil {
		return nil, err
	}
	a := &Authority{cfg: cfg, now: cfg.Now, roots: roots, issuer: issuer}
	if a.federation, err = minter(conf, ca.FederationProvisioner, password, cfg.Now); err != nil {
		return nil, err
	}
	if a.server, err = minter(conf, ca.ServerProvisioner, password, cfg.Now); err != nil {
		return nil, err
	}
	text, err := conf.marshal() // before Step-CA fills in what it derives
	if err != nil {
		return nil, err
	}
	if a.store, a.auth, err = start(conf, password); err != nil {
		return nil, err
	}
	// Last, when all of the directory is known to be good: a start that fails changes nothing.
	if err := save(dir, text); err != nil {
		return nil, errors.Join(err, a.auth.Shutdown())
	}
	return a, nil
}

// Close ends the authority once running calls are done, and gives the directory free. Calls after it find
// ca.ErrUnavailable.
func (a *Authority) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.auth == nil {
		return nil
	}
	err := a.auth.Shutdown()
	a.auth = nil
	return errors.Join(err, a.lock.Close())
}

// use runs do with the open authority, unless ctx or the authority has ended.
func (a *Authority) use(ctx context.Context, do func(*authority.Authority) error) error {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if err := ctx.Err(); err != nil {
		return ca.ErrUnavailable.Because(err)
	}
	if a.auth == nil {
		return ca.ErrUnavailable.With("the certificate authority is closed")
	}
	return do(a.auth)
}

// IssueLeaf implements ca.Authority.
func (a *Authority) IssueLeaf(ctx context.Context, req ca.LeafRequest) (ca.Chain, error) {
	if err := req.Check(); err != nil {
		return ca.Chain{}, ca.Unsigned(err)
	}
	if err := ca.CheckLimits(req.NotBefore, req.NotAfter, ca.MinLifetime, ca.MaxLifetime, a.now()); err != nil {
		return ca.Chain{}, ca.Unsigned(err)
	}
	ott, err := a.federation.Leaf(req)
	if err != nil {
		return ca.Chain{}, ca.Unsigned(err)
	}
	return a.sign(ctx, req.CSR, ott, req.NotBefore, req.NotAfter)
}

// IssueServer implements ca.Authority.
func (a *Authority) IssueServer(ctx context.Context, req ca.ServerRequest) (ca.Chain, error) {
	if err := req.Check(); err != nil {
		return ca.Chain{}, ca.Unsigned(err)
	}
	if err := ca.CheckLimits(time.Time{}, req.NotAfter, ca.MinLifetime, ca.MaxLifetime, a.now()); err != nil {
		return ca.Chain{}, ca.Unsigned(err)
	}
	ott, err := a.server.Server(req)
	if err != nil {
		return ca.Chain{}, ca.Unsigned(err)
	}
	return a.sign(ctx, req.CSR, ott, time.Time{}, req.NotAfter)
}

// sign spends one token on one certificate.
func (a *Authority) sign(ctx context.Context, csr *x509.CertificateRequest, ott string, notBefore, notAfter time.Time) (ca.Chain, error) {
	var chain ca.Chain
	signing := false
	begin, end := ca.SigningTimes(notBefore, notAfter)
	err := a.use(ctx, func(auth *authority.Authority) error {
		ctx := provisioner.NewContextWithMethod(ctx, provisioner.SignMethod)
		options, err := auth.Authorize(ctx, ott)
		if err != nil {
			return refusal(err)
		}
		signing = true
		certs, err := auth.SignWithContext(ctx, csr, provisioner.SignOptions{
			NotBefore: provisioner.NewTimeDuration(begin),
			NotAfter:  provisioner.NewTimeDuration(end),
		}, options...)
		if err != nil {
			return refusal(err)
		}
		chain = ca.Chain{Leaf: certs[0], Intermediates: certs[1:]}
		return nil
	})
	// What it refuses it refuses before it signs; a failing disk may be found when the certificate is stored.
	if err != nil && (!signing || errors.Is(err, ca.ErrRefused)) {
		err = ca.Unsigned(err)
	}
	return chain, err
}

// Revoke implements ca.Authority.
func (a *Authority) Revoke(ctx context.Context, serial *big.Int, reason string) error {
	if serial == nil || serial.Sign() <= 0 {
		return ca.ErrRequest.With("a serial number to revoke is positive")
	}
	ott, err := a.federation.Revoke(serial)
	if err != nil {
		return err
	}
	return a.use(ctx, func(auth *authority.Authority) error {
		ctx := provisioner.NewContextWithMethod(ctx, provisioner.RevokeMethod)
		if _, err := auth.Authorize(ctx, ott); err != nil {
			return refusal(err)
		}
		err := auth.Revoke(ctx, &authority.RevokeOptions{
			Serial: serial.String(), Reason: reason, PassiveOnly: true, OTT: ott,
		})
		if err == nil {
			return nil
		}
		// Step-CA calls a second revoke an error, without a type of its own. The list is made again because the
		// first one may have ended between its record and its list.
		if revoked, dbErr := auth.IsRevoked(serial.String()); dbErr == nil && revoked {
			if err = auth.GenerateCertificateRevocationList(); err == nil {
				return nil
			}
		}
		return refusal(err)
	})
}

// Roots implements ca.Authority.
func (a *Authority) Roots(ctx context.Context) ([]*x509.Certificate, error) {
	var roots []*x509.Certificate
	err := a.use(ctx, func(*authority.Authority) error {
		roots = append(roots, a.roots...)
		return nil
	})
	return roots, err
}

// CRL implements ca.Authority.
func (a *Authority) CRL(ctx context.Context) ([]byte, error) {
	var der []byte
	err := a.use(ctx, func(auth *authority.Authority) error {
		list, err := auth.GetCertificateRevocationList()
		if err != nil {
			return refusal(err)
		}
		der = list.Data
		return nil
	})
	return der, err
}

// Ready implements ca.Authority: it reads the database and looks at the issuer's end.
func (a *Authority) Ready(ctx context.Context) error {
	return a.use(ctx, func(auth *authority.Authority) error {
		if _, err := auth.IsRevoked("0"); err != nil {
			return ca.ErrUnavailable.With("the certificate authority's database cannot be read").Because(err)
		}
		if now := a.now(); now.Before(a.issuer.NotBefore) || now.After(a.issuer.NotAfter) {
			return ca.Refuse(ca.ErrRefused.With("the certificate authority's own certificate has ended or not begun").
				Advise("set the clock right, or move the CA's directory away to start with a new CA"), errIssuerTime)
		}
		return nil
	})
}

var errIssuerTime = errors.New("intermediate outside its validity")

// LifetimeLimits implements ca.Authority.
func (a *Authority) LifetimeLimits(ctx context.Context) (shortest, longest time.Duration, err error) {
	err = a.use(ctx, func(*authority.Authority) error { return nil })
	return ca.MinLifetime, ca.MaxLifetime, err
}

// refusal turns an error of Step-CA's library into a fault. With limits, key and names checked before, what
// remains is the template or the policy saying no, a clock, or a failing disk.
func refusal(err error) error {
	var template *x509util.TemplateError
	if errors.As(err, &template) {
		return ca.Refuse(ca.ErrPolicy.With("the certificate authority's template refused the token"), err)
	}
	var coded interface{ StatusCode() int }
	if !errors.As(err, &coded) {
		return ca.ErrUnavailable.Because(err)
	}
	switch status := coded.StatusCode(); {
	case status >= 500:
		return ca.ErrUnavailable.Because(err)
	case status == 401:
		return ca.Refuse(ca.ErrRefused, err)
	default:
		return ca.Refuse(ca.ErrPolicy, err)
	}
}

// minter makes the token maker of one provisioner, with its key out of ca.json.
func minter(conf *caConfig, name string, password []byte, now func() time.Time) (token.Minter, error) {
	jwk := conf.provisioner(name)
	key, err := token.ParseKey([]byte(jwk.EncryptedKey), password)
	if err != nil {
		return token.Minter{}, ErrPassword.With("the password does not open the key of the provisioner %s", name).Because(err)
	}
	if !key.Fits(jwk.Key) {
		return token.Minter{}, ErrDamaged.With("the key of the provisioner %s in config/ca.json is of another provisioner", name)
	}
	return token.Minter{
		Provisioner:    name,
		Key:            key,
		SignAudience:   conf.Audience("/1.0/sign")[:1],
		RevokeAudience: conf.Audience("/1.0/revoke")[:1],
		Now:            now,
		Random:         rand.Reader,
	}, nil
}
