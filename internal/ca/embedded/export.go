package embedded

import (
	"crypto/x509"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/identity"
)

// ErrExportTaken means that there is something else where the authority should go.
var ErrExportTaken = &fault.Fault{
	Kind: fault.Conflict, Code: "ca_export_taken", Detail: "the directory for the exported certificate authority is not empty",
	Hint: "name one that does not exist, or the one of an earlier export of the same authority",
}

// Export says where a stock step-ca will run the authority.
type Export struct {
	Dir      string   // is made; one that holds the same authority is replaced
	Home     string   // the path of Dir on the machine that runs step-ca; empty: the same
	Address  string   // host:port that step-ca listens on; empty: 127.0.0.1:9000
	DNSNames []string // of the CA's own certificate; empty: localhost and 127.0.0.1
}

// WriteTo copies the authority of dir, which nobody may have open, so that a stock step-ca goes on with it: the same
// root, the same keys, the same list of what was revoked. It returns the roots.
func (e Export) WriteTo(dir string, arc identity.Arc) ([]*x509.Certificate, error) {
	from, to, err := e.places(dir)
	if err != nil {
		return nil, err
	}
	lock, err := acquire(from.lock())
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if there, err := from.exists(); err != nil {
		return nil, err
	} else if !there {
		return nil, ErrDamaged.With("there is no certificate authority in %s", from.root)
	}
	roots, err := readCertificates(from.rootCert())
	if err != nil {
		return nil, err
	}
	if err := to.mayTake(roots); err != nil {
		return nil, err
	}
	draft, err := os.MkdirTemp(filepath.Dir(to.root), to.draft()) // mode 0700
	if err != nil {
		return nil, err
	}
	if err := e.fill(from, layout{draft}, arc); err != nil {
		return nil, errors.Join(err, os.RemoveAll(draft))
	}
	if err := os.RemoveAll(to.root); err != nil {
		return nil, errors.Join(err, os.RemoveAll(draft))
	}
	if err := os.Rename(draft, to.root); err != nil {
		return nil, errors.Join(err, os.RemoveAll(draft))
	}
	return roots, syncDir(filepath.Dir(to.root))
}

func (e Export) places(dir string) (from, to layout, err error) {
	if from.root, err = filepath.Abs(dir); err != nil {
		return from, to, err
	}
	if to.root, err = filepath.Abs(e.Dir); err != nil {
		return from, to, err
	}
	if inside, err := filepath.Rel(from.root, to.root); err == nil && filepath.IsLocal(inside) {
		return from, to, ErrExportTaken.With("%s is the certificate authority itself", to.root)
	}
	return from, to, os.MkdirAll(filepath.Dir(to.root), 0o700)
}

// mayTake tells whether nothing is lost when the directory is replaced.
func (l layout) mayTake(roots []*x509.Certificate) error {
	entries, err := os.ReadDir(l.root)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil
	}
	before, err := readCertificates(l.rootCert())
	if err != nil || len(before) == 0 || !before[0].Equal(roots[0]) {
		return ErrExportTaken.With("%s is not empty, and does not hold this certificate authority", l.root)
	}
	return nil
}

// fill copies the files, and writes a ca.json for their new place.
func (e Export) fill(from, at layout, arc identity.Arc) error {
	err := filepath.WalkDir(from.root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from.root, path)
		if err != nil || rel == "." {
			return err
		}
		switch {
		case d.IsDir():
			return os.Mkdir(at.path(rel), 0o700)
		case d.Type().IsRegular():
			return copyFile(at.path(rel), path)
		}
		return nil
	})
	if err != nil {
		return err
	}
	conf, err := loadConfig(at, arc)
	if err != nil {
		return err
	}
	home := layout{e.Home}
	if e.Home == "" {
		if home.root, err = filepath.Abs(e.Dir); err != nil {
			return err
		}
	}
	if conf.settle(home, arc); e.Address != "" {
		conf.Address = e.Address
	}
	if len(e.DNSNames) > 0 {
		conf.DNSNames = e.DNSNames
	}
	text, err := conf.marshal()
	if err != nil {
		return err
	}
	return save(at, text)
}

func copyFile(to, from string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	return out.Sync()
}
