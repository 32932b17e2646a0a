package embedded

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"go.step.sm/crypto/pemutil"

	"github.com/mosaicstack/gateway/internal/fault"
)

// The faults of a directory. They are for the person who starts the gateway, and name files.
var (
	// ErrLocked: another process has the authority open.
	ErrLocked = &fault.Fault{
		Kind: fault.Unavailable, Code: "ca_directory_locked",
		Detail: "another process has the certificate authority's directory open",
		Hint:   "stop the other gateway or step-ca, or start this one with another --dir",
	}
	// ErrDamaged: files are missing or unreadable.
	ErrDamaged = &fault.Fault{
		Kind: fault.Internal, Code: "ca_directory_damaged",
		Detail: "the certificate authority's directory is damaged",
		Hint: "restore it from a backup; nothing was changed. Moving it away starts a new CA, " +
			"and every certificate issued so far stops working",
	}
	// ErrPassword: the password file is missing or does not open the keys.
	ErrPassword = &fault.Fault{
		Kind: fault.Internal, Code: "ca_directory_password",
		Detail: "the certificate authority's password file does not open its keys",
		Hint:   "put back the file password that was made together with the directory; nothing was changed",
	}
)

// layout names the files of a Step-CA directory.
type layout struct{ root string }

func (l layout) path(parts ...string) string {
	return filepath.Join(append([]string{l.root}, parts...)...)
}

func (l layout) rootCert() string         { return l.path("certs", "root_ca.crt") }
func (l layout) intermediateCert() string { return l.path("certs", "intermediate_ca.crt") }
func (l layout) rootKey() string          { return l.path("secrets", "root_ca_key") }
func (l layout) intermediateKey() string  { return l.path("secrets", "intermediate_ca_key") }
func (l layout) config() string           { return l.path("config", "ca.json") }
func (l layout) database() string         { return l.path("db", "step-ca.db") }
func (l layout) password() string         { return l.path("password") }

// lock is beside the directory, because it guards the directory's making as well.
func (l layout) lock() string { return l.root + ".lock" }

// draft is the pattern of the directories in which an authority is made.
func (l layout) draft() string { return filepath.Base(l.root) + ".new-*" }

// files are those without which an authority cannot be opened. The root's key is not among them: it is made to be
// taken offline. The database is: a lost one forgets what was revoked.
func (l layout) files() []string {
	return []string{l.rootCert(), l.intermediateCert(), l.intermediateKey(), l.config(), l.database()}
}

// acquire takes the lock file at path, or fails at once. The kernel gives it back when the process ends, however
// it ends; the file itself stays, since removing it would let two processes hold two locks of one name.
func acquire(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errors.Join(ErrLocked.Because(err), f.Close())
		}
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// exists reports whether an authority is there: false for no directory or an empty one. A directory that holds
// something else, or only part of an authority, is ErrDamaged: it is not ours to fill.
func (l layout) exists() (bool, error) {
	entries, err := os.ReadDir(l.root)
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && len(entries) == 0:
		return false, nil
	case err != nil:
		return false, ErrDamaged.With("the directory %s cannot be read", l.root).Because(err)
	}
	if _, err := os.Stat(l.password()); errors.Is(err, fs.ErrNotExist) {
		return false, ErrPassword.With("the file %s is missing", l.password()).Because(err)
	}
	var missing []string
	for _, file := range l.files() {
		if _, err := os.Stat(file); err != nil {
			missing = append(missing, file)
		}
	}
	if len(missing) > 0 {
		return false, ErrDamaged.With("missing from the certificate authority: %s", strings.Join(missing, ", "))
	}
	return true, nil
}

func (l layout) readPassword() ([]byte, error) {
	b, err := os.ReadFile(l.password())
	if err != nil {
		return nil, ErrPassword.With("the file %s cannot be read", l.password()).Because(err)
	}
	if b = bytes.TrimRight(b, "\r\n"); len(b) == 0 {
		return nil, ErrPassword.With("the file %s is empty", l.password())
	}
	return b, nil
}

// loadCertificates reads root and issuer and proves that they and the issuer's key belong together: Step-CA would
// start with an intermediate that no root has signed, and every certificate would be refused by every peer.
func loadCertificates(l layout, password []byte) (roots []*x509.Certificate, issuer *x509.Certificate, err error) {
	if roots, err = readCertificates(l.rootCert()); err != nil {
		return nil, nil, err
	}
	chain, err := readCertificates(l.intermediateCert())
	if err != nil {
		return nil, nil, err
	}
	issuer = chain[0]
	var signed bool
	for _, root := range roots {
		signed = signed || issuer.CheckSignatureFrom(root) == nil
	}
	if !signed {
		return nil, nil, ErrDamaged.With("%s was not signed by %s", l.intermediateCert(), l.rootCert())
	}
	data, err := os.ReadFile(l.intermediateKey())
	if err != nil {
		return nil, nil, ErrDamaged.With("%s cannot be read", l.intermediateKey()).Because(err)
	}
	if block, _ := pem.Decode(data); block == nil {
		return nil, nil, ErrDamaged.With("%s is not PEM", l.intermediateKey())
	}
	key, err := pemutil.Parse(data, pemutil.WithPassword(password))
	if err != nil {
		return nil, nil, ErrPassword.With("the password does not open %s", l.intermediateKey()).Because(err)
	}
	if !ownsCertificate(key, issuer) {
		return nil, nil, ErrDamaged.With("%s is not the key of %s", l.intermediateKey(), l.intermediateCert())
	}
	return roots, issuer, nil
}

func readCertificates(path string) ([]*x509.Certificate, error) {
	certs, err := pemutil.ReadCertificateBundle(path)
	if err != nil {
		return nil, ErrDamaged.With("%s holds no certificate", path).Because(err)
	}
	return certs, nil
}
