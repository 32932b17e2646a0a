package embedded

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"go.step.sm/crypto/pemutil"

	"github.com/mosaicstack/gateway/internal/ca"
	"github.com/mosaicstack/gateway/internal/fault"
)

// The faults of a rollover.
var (
	// ErrRolling: two roots are in trust already.
	ErrRolling = &fault.Fault{
		Kind: fault.Conflict, Code: "ca_rollover_under_way", Detail: "a rollover of the CA's root is under way",
		Hint: "see where it stands with mosaic gateway ca show, and end it with mosaic gateway ca finish",
	}
	// ErrNotRolling: there is nothing to finish.
	ErrNotRolling = &fault.Fault{
		Kind: fault.Conflict, Code: "ca_rollover_none", Detail: "no rollover of the CA's root is under way",
		Hint: "begin one with mosaic gateway ca rotate",
	}
	// ErrRootKey: the root's key was taken offline.
	ErrRootKey = &fault.Fault{
		Kind: fault.Conflict, Code: "ca_root_key_missing", Detail: "the key of the CA's root is not there",
		Hint: "put secrets/root_ca_key back into the CA's directory: the root in trust has to vouch for the new issuer",
	}
)

// rollover is the directory with the files of a new root that are not all in their places yet. It appears whole, by a
// rename; whoever opens the directory after a crash goes on where the moves ended.
func (l layout) rollover() string { return l.path("rollover") }

// moved are the files of a rollover, by their places.
func (l layout) moved() []string {
	return []string{l.rootCert(), l.intermediateCert(), l.intermediateKey(), l.rootKey()}
}

// Rotate makes a new root and a new issuer below it, and signs with that from now on. The old root stays in trust, and
// has signed the issuer too: whoever knows only the old one trusts every new certificate. Its key is destroyed. Calls
// that run meanwhile are not disturbed.
//
// Errors: ErrRolling, ErrRootKey, ca.ErrUnavailable.
func (a *Authority) Rotate(ctx context.Context) error {
	a.changing.Lock()
	defer a.changing.Unlock()
	roots, err := a.Roots(ctx)
	if err != nil {
		return err
	}
	if len(roots) > 1 {
		return ErrRolling
	}
	dir := layout{a.cfg.Dir}
	password, err := dir.readPassword()
	if err != nil {
		return err
	}
	if err := draftRollover(dir, password, roots[0], a.cfg); err != nil {
		return err
	}
	return a.reopen(dir, password)
}

// Finish takes every root but the newest out of trust.
//
// Errors: ErrNotRolling, ca.ErrUnavailable.
func (a *Authority) Finish(ctx context.Context) error {
	a.changing.Lock()
	defer a.changing.Unlock()
	roots, err := a.Roots(ctx)
	if err != nil {
		return err
	}
	if len(roots) < 2 {
		return ErrNotRolling
	}
	dir := layout{a.cfg.Dir}
	password, err := dir.readPassword()
	if err != nil {
		return err
	}
	issuers, err := readCertificates(dir.intermediateCert())
	if err != nil {
		return err
	}
	// In this order: killed in between, two roots are in trust, and the rollover can be finished again.
	if err := replaceFile(dir.intermediateCert(), encodeCertificates(issuers[0])); err != nil {
		return err
	}
	if err := replaceFile(dir.rootCert(), encodeCertificates(roots[0])); err != nil {
		return err
	}
	return a.reopen(dir, password)
}

// reopen signs with what is in the directory now. A second authority is started on the same database, as Step-CA itself
// does to reload, so nobody waits for it.
func (a *Authority) reopen(dir layout, password []byte) error {
	if err := completeRollover(dir); err != nil {
		return err
	}
	roots, issuer, err := loadCertificates(dir, password)
	if err != nil {
		return err
	}
	conf, err := loadConfig(dir, a.cfg.Arc)
	if err != nil {
		return err
	}
	next, err := startOn(a.store, conf, password)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.auth == nil {
		next.CloseForReload()
		return ca.ErrUnavailable.With("the certificate authority is closed")
	}
	a.auth.CloseForReload()
	a.auth, a.roots, a.issuer = next, roots, issuer
	// The list that is there is good, but of the old issuer. When this fails the next revoke makes one, or Step-CA itself.
	_ = next.GenerateCertificateRevocationList()
	return nil
}

// draftRollover writes the files of a new root beside those in use.
func draftRollover(dir layout, password []byte, old *x509.Certificate, cfg Config) error {
	oldKey, err := readKey(dir.rootKey(), password)
	if errors.Is(err, fs.ErrNotExist) {
		return ErrRootKey
	} else if err != nil {
		return err
	}
	if !ownsCertificate(oldKey, old) {
		return ErrDamaged.With("%s is not the key of %s", dir.rootKey(), dir.rootCert())
	}
	var mark [4]byte // tells the roots apart by their names
	if _, err := rand.Read(mark[:]); err != nil {
		return err
	}
	name := hex.EncodeToString(mark[:])
	root, rootKey, err := newCA(cfg.Name+" Root CA "+name, 1, nil, nil, cfg.Now())
	if err != nil {
		return err
	}
	issuer, issuerKey, err := newCA(cfg.Name+" Intermediate CA "+name, 0, root, rootKey, cfg.Now())
	if err != nil {
		return err
	}
	// The same issuer once more, for those who trust the old root only. The root itself could not be signed by the old
	// one: that allows one CA below it and no two (RFC 5280, section 4.2.1.9).
	bridge, err := signCA(issuer, issuerKey.Public(), old, oldKey)
	if err != nil {
		return err
	}
	draft := dir.rollover() + ".new"
	if err := os.RemoveAll(draft); err != nil {
		return err
	}
	if err := os.Mkdir(draft, 0o700); err != nil {
		return err
	}
	at := func(path string) string { return filepath.Join(draft, filepath.Base(path)) }
	if err := errors.Join(
		writeFile(at(dir.rootCert()), encodeCertificates(root, old)),
		writeFile(at(dir.intermediateCert()), encodeCertificates(issuer, bridge)),
		writeKey(at(dir.rootKey()), rootKey, password),
		writeKey(at(dir.intermediateKey()), issuerKey, password),
		syncDir(draft),
	); err != nil {
		return errors.Join(err, os.RemoveAll(draft))
	}
	if err := os.Rename(draft, dir.rollover()); err != nil {
		return err
	}
	return syncDir(dir.root)
}

// completeRollover moves what a rollover made into its place, or what is left of it after a crash.
func completeRollover(dir layout) error {
	if _, err := os.Stat(dir.rollover()); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	for _, place := range dir.moved() {
		err := os.Rename(filepath.Join(dir.rollover(), filepath.Base(place)), place)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := syncDir(filepath.Dir(place)); err != nil {
			return err
		}
	}
	if err := os.Remove(dir.rollover()); err != nil {
		return err
	}
	return syncDir(dir.root)
}

func encodeCertificates(list ...*x509.Certificate) []byte {
	var out []byte
	for _, c := range list {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

// readKey reads a private key that the password opens.
func readKey(path string, password []byte) (crypto.Signer, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	key, err := pemutil.Parse(data, pemutil.WithPassword(password))
	if err != nil {
		return nil, ErrPassword.With("the password does not open %s", path).Because(err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, ErrDamaged.With("%s is not a private key", path)
	}
	return signer, nil
}

func writeKey(path string, key crypto.Signer, password []byte) error {
	block, err := pemutil.Serialize(key, pemutil.WithPassword(password))
	if err != nil {
		return err
	}
	return writeFile(path, pem.EncodeToMemory(block))
}
