package embedded

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/mosaicstack/gateway/internal/ca"
)

const (
	// passwordBytes of randomness protect every key of the directory. A password of that size needs no slow
	// derivation, so opening is quick.
	passwordBytes = 32
	// caYears is how long root and intermediate live.
	caYears = 10
	// caBackdate lets peers whose clocks are behind accept a new CA at once.
	caBackdate = time.Minute
)

// ensure makes the authority when there is none. It is built in a directory beside and renamed when it is whole:
// a process killed at any point leaves a draft, which the next one removes.
func ensure(dir layout, cfg Config) error {
	if err := removeDrafts(dir); err != nil {
		return err
	}
	there, err := dir.exists()
	if err != nil || there {
		return err
	}
	draft, err := os.MkdirTemp(filepath.Dir(dir.root), dir.draft()) // mode 0700
	if err != nil {
		return err
	}
	if err := create(layout{draft}, dir, cfg); err != nil {
		return errors.Join(err, os.RemoveAll(draft))
	}
	// Rename wants the place free. Only an empty directory is removed here: Remove fails on any other.
	if err := os.Remove(dir.root); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, os.RemoveAll(draft))
	}
	if err := os.Rename(draft, dir.root); err != nil {
		return errors.Join(err, os.RemoveAll(draft))
	}
	return syncDir(filepath.Dir(dir.root))
}

func removeDrafts(dir layout) error {
	drafts, err := filepath.Glob(filepath.Join(filepath.Dir(dir.root), dir.draft()))
	if err != nil {
		return err
	}
	for _, draft := range drafts {
		if err := os.RemoveAll(draft); err != nil {
			return err
		}
	}
	return nil
}

// create fills the directory at, whose files will be found at home.
func create(at, home layout, cfg Config) error {
	for _, sub := range []string{"certs", "secrets", "config", "db"} {
		if err := os.Mkdir(at.path(sub), 0o700); err != nil {
			return err
		}
	}
	password, err := newPassword()
	if err != nil {
		return err
	}
	if err := writeFile(at.password(), append(password, '\n')); err != nil {
		return err
	}
	if err := createCertificates(at, password, cfg); err != nil {
		return err
	}
	conf, err := newConfig(home, password, cfg.Arc)
	if err != nil {
		return err
	}
	text, err := conf.marshal()
	if err != nil {
		return err
	}
	if err := writeFile(at.config(), text); err != nil {
		return err
	}
	return createDatabase(at.database())
}

// createDatabase writes an empty database, so that one that is missing later is known to be lost.
func createDatabase(path string) error {
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		return err
	}
	return db.Close()
}

func newPassword() ([]byte, error) {
	b := make([]byte, passwordBytes)
	if _, err := rand.Read(b); err != nil {
		return nil, err
	}
	return []byte(hex.EncodeToString(b)), nil
}

// createCertificates makes a root and the intermediate that signs. Peers pin the root, so the intermediate can be
// replaced without telling them.
func createCertificates(at layout, password []byte, cfg Config) error {
	root, rootKey, err := newCA(cfg.Name+" Root CA", 1, nil, nil, cfg.Now())
	if err != nil {
		return err
	}
	intermediate, intermediateKey, err := newCA(cfg.Name+" Intermediate CA", 0, root, rootKey, cfg.Now())
	if err != nil {
		return err
	}
	return errors.Join(
		writeFile(at.rootCert(), encodeCertificates(root)), writeFile(at.intermediateCert(), encodeCertificates(intermediate)),
		writeKey(at.rootKey(), rootKey, password), writeKey(at.intermediateKey(), intermediateKey, password),
	)
}

// newCA makes a CA certificate, signed by parent or, without one, by itself.
func newCA(name string, pathLen int, parent *x509.Certificate, parentKey crypto.Signer, now time.Time) (*x509.Certificate, crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := ca.NewSerial(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now.Add(-caBackdate),
		NotAfter:              now.AddDate(caYears, 0, 0),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLen:            pathLen,
		MaxPathLenZero:        pathLen == 0,
	}
	if parent == nil {
		parent, parentKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return cert, key, err
}

// signCA signs what a CA certificate says with another parent. The beginning and the end stay.
func signCA(like *x509.Certificate, public crypto.PublicKey, parent *x509.Certificate, parentKey crypto.Signer) (*x509.Certificate, error) {
	serial, err := ca.NewSerial(rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, Subject: like.Subject, SubjectKeyId: like.SubjectKeyId, NotBefore: like.NotBefore, NotAfter: like.NotAfter,
		KeyUsage: like.KeyUsage, BasicConstraintsValid: true, IsCA: true, MaxPathLen: like.MaxPathLen, MaxPathLenZero: like.MaxPathLenZero,
	}, parent, public, parentKey)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// ownsCertificate reports whether key is the private half of cert's key.
func ownsCertificate(key any, cert *x509.Certificate) bool {
	signer, ok := key.(crypto.Signer)
	if !ok {
		return false
	}
	public, ok := signer.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(cert.PublicKey)
}

// writeFile writes a file that is not there yet and waits for the disk.
func writeFile(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

// replaceFile puts data in the place of path: readers see the old file or the new one.
func replaceFile(path string, data []byte) error {
	draft := path + ".new"
	if err := os.Remove(draft); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := writeFile(draft, data); err != nil {
		return err
	}
	if err := os.Rename(draft, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
