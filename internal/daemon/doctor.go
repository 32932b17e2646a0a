package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mosaicstack/gateway/internal/ca/stepca"
	"github.com/mosaicstack/gateway/internal/ca/token"
	"github.com/mosaicstack/gateway/internal/config"
	"github.com/mosaicstack/gateway/internal/devstack"
	"github.com/mosaicstack/gateway/internal/doctor"
	"github.com/mosaicstack/gateway/internal/embed"
	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/identity"
	"github.com/mosaicstack/gateway/internal/peer"
	"github.com/mosaicstack/gateway/internal/postgres"
	"github.com/mosaicstack/gateway/internal/seal"
	"github.com/mosaicstack/gateway/internal/unixsock"
	"github.com/mosaicstack/gateway/internal/valkey"
)

// DoctorOptions is what `gateway doctor` was asked for.
type DoctorOptions struct {
	Environ []string // as os.Environ gives it
	Dir     string   // of the local tier
	Local   bool     // the directory was named: it is the local tier that is meant
	Now     func() time.Time
}

// Doctor looks at everything that the gateway of this environment stands on. An error means that it could not look.
func Doctor(ctx context.Context, o DoctorOptions) (doctor.Report, error) {
	var stack closers
	defer func() { _ = stack.close(slog.New(slog.DiscardHandler)) }() // read-only: there is nothing to lose
	c, err := o.config(ctx, &stack)
	if err != nil {
		return doctor.Report{}, err
	}
	return doctor.Run(ctx, c), nil
}

// config is what there is to look at.
func (o DoctorOptions) config(ctx context.Context, stack *closers) (doctor.Config, error) {
	tier := config.Tier("")
	if o.local() {
		tier = config.Local
	}
	settings, err := config.Load(o.Environ, tier)
	if err != nil && !errors.Is(err, config.ErrInvalid) {
		return doctor.Config{}, err
	}
	x := &doctorWiring{DoctorOptions: o, settings: settings, stack: stack, c: doctor.Config{
		Local: o.local(), Now: o.Now, Profile: identity.Profile{Arcs: settings.OIDArc},
	}}
	if err != nil {
		x.c.Problems = slices.Clone(fault.From(err).Problems)
	}
	x.embeddings()
	if o.local() {
		err = x.dev(ctx)
	} else {
		err = x.serve(ctx)
	}
	if host, bad := hostOf(x.c.FederationURL); bad == nil {
		x.c.Profile.Host = host
	}
	return x.c, err
}

// local tells which tier is meant: without a word about another one, the directory's.
func (o DoctorOptions) local() bool {
	return o.Local || !slices.ContainsFunc(o.Environ, func(s string) bool {
		name, value, _ := strings.Cut(s, "=")
		return value != "" && (name == "MOSAIC_TIER" || name == "DATABASE_URL" || name == "DATABASE_URL_FILE")
	})
}

// doctorWiring makes of the settings what doctor looks at.
type doctorWiring struct {
	DoctorOptions
	settings config.Config
	stack    *closers
	c        doctor.Config
}

// problem is a setting that could be read and cannot be used.
func (x *doctorWiring) problem(name string, err error) {
	if slices.ContainsFunc(x.c.Problems, func(p fault.Problem) bool { return strings.TrimSuffix(p.Path, "_FILE") == name }) {
		return
	}
	f := fault.From(err)
	x.c.Problems = append(x.c.Problems, fault.Problem{Path: name, Detail: f.Detail + "; " + f.Hint})
}

func (x *doctorWiring) embeddings() {
	s := x.settings.Embeddings
	embedder, err := embed.New(embed.Config{URL: s.URL, Model: s.Model, APIKey: s.APIKey})
	switch {
	case err != nil:
		x.problem("EMBEDDINGS_URL", err)
	case embedder.Remote():
		x.c.Embedder = embedder
	}
}

// doctorConns are few: the gateway next to it needs its own.
const doctorConns = 4

func (x *doctorWiring) database(ctx context.Context, dsn postgres.Config) error {
	dsn.MaxConns = doctorConns
	pool, err := postgres.PoolConfig(dsn)
	if err != nil {
		x.problem("DATABASE_URL", err)
		x.c.Schema = &postgres.Examination{} // is not asked: the setting is wrong
		x.c.Home, x.c.Rows, x.c.Ledger = &postgres.DB{}, &postgres.Examination{}, &postgres.AuditLog{}
		return nil
	}
	db, err := postgres.Open(ctx, dsn)
	if err != nil {
		return err
	}
	x.stack.add("pool", func() error { db.Close(); return nil })
	look := &postgres.Examination{DB: db, Config: pool}
	x.c.Schema, x.c.Home, x.c.Rows, x.c.Ledger = look, db, look, &postgres.AuditLog{DB: db}
	return nil
}

// serve is for the tiers whose parts are started by others.
func (x *doctorWiring) serve(ctx context.Context) error {
	s := x.settings
	if s.Dir == "" {
		s.Dir = defaultServeDir
	}
	x.c.Machine = doctor.Machine{
		Dir: s.Dir, MinFree: 64 << 10, LowFree: 256 << 10, // a socket and ready.json
		Free: freeSpace, Writable: func(dir string) error { return errors.Join(writable(dir), closable(dir)) },
		OpenFiles: func() (uint64, error) { return openFiles(s.Dir) },
		Running:   func(ctx context.Context) doctor.Running { return runs(ctx, s.Dir) },
	}
	if _, err := peer.ParseName(s.Name); err != nil {
		x.problem("MOSAIC_NAME", err)
	}
	x.c.Keys = func() (*seal.Keyring, error) {
		_, ring, err := givenKeys(s)
		return ring, err
	}
	x.c.PublicURL = s.PublicURL
	if err := x.database(ctx, postgres.Config{DSN: s.DatabaseURL.Reveal()}); err != nil {
		return err
	}
	if s.Tier != config.Federated {
		return nil
	}
	client, err := valkey.Open(s.ValkeyURL.Reveal())
	if err != nil {
		x.problem("VALKEY_URL", err)
		x.c.Valkey = valkeyLook{}
	} else {
		x.stack.add("valkey", client.Close)
		x.c.Valkey = valkeyLook{client}
	}
	if key := s.StepCA.KeyJSON; !key.IsZero() {
		if _, err := token.ParseKey([]byte(key.Reveal()), []byte(s.StepCA.Password.Reveal())); err != nil {
			x.problem("STEP_CA_PROVISIONER_KEY_JSON", err)
		}
	}
	x.c.Roots = func() ([]*x509.Certificate, error) { return readRoots(s.StepCA.RootCert) }
	x.c.Authority = func(roots []*x509.Certificate) (doctor.Authority, error) {
		client, err := stepca.New(stepca.Config{
			URL: s.StepCA.URL, Roots: roots, Now: x.Now, Timeout: doctorCAWithin,
			Federation: stepca.Provisioner{Name: s.StepCA.Provisioner, Password: []byte(s.StepCA.Password.Reveal()), KeyJSON: []byte(s.StepCA.KeyJSON.Reveal())},
			Server:     stepca.Provisioner{Name: s.StepCA.ServerProvisioner, Password: []byte(s.StepCA.ServerPassword.Reveal())},
		})
		if err != nil {
			return nil, err
		}
		return client, nil
	}
	x.c.FederationURL = s.FederationURL
	x.c.OwnListener = ownListener(s.Dir)
	if s.FederationCert != "" {
		x.c.ListenerFiles = func() ([]*x509.Certificate, error) { return listenerFiles(s.FederationCert, s.FederationKey) }
	}
	return nil
}

// doctorCAWithin is less than a check may take, so that the CA's client says itself what it waits for.
const doctorCAWithin = 8 * time.Second

// valkeyLook is the client as doctor sees it.
type valkeyLook struct{ *valkey.Client }

// Examine implements doctor.Cache.
func (v valkeyLook) Examine(ctx context.Context) (doctor.Valkey, error) {
	s, err := v.Client.Examine(ctx)
	return doctor.Valkey(s), err
}

// listenerFiles reads the certificate of the federation listener and proves that the key is its own.
func listenerFiles(certFile, keyFile string) ([]*x509.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, errCertificateFiles.Because(err)
	}
	var chain []*x509.Certificate
	for _, der := range pair.Certificate {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, errCertificateFiles.Because(err)
		}
		chain = append(chain, cert)
	}
	return chain, nil
}

// dev is for the tier that starts its parts itself. Its CA is inside of the gateway and answers nobody else: of it the
// files are looked at, and what the running gateway says.
func (x *doctorWiring) dev(ctx context.Context) error {
	dir, err := filepath.Abs(x.Dir)
	if err != nil {
		return err
	}
	ready := readyDoc{URL: "http://127.0.0.1:3000", FederationURL: "https://127.0.0.1:3443"} // asked only while it runs
	if doc, err := os.ReadFile(filepath.Join(dir, readyFile)); err == nil {
		_ = json.Unmarshal(doc, &ready) // a damaged one: the addresses are asked, and say so
	}
	x.c.Machine = doctor.Machine{
		Dir: dir, MinFree: 64 << 20, LowFree: 1 << 30, // the database grows there
		Free:       freeSpace,
		Writable:   ownDirectory,
		OpenFiles:  func() (uint64, error) { return openFiles(dir) },
		Running:    func(ctx context.Context) doctor.Running { return runs(ctx, dir) },
		Incomplete: func() error { return missingPart(dir) },
	}
	x.c.Keys = func() (*seal.Keyring, error) { return heldKeys(dir, x.settings) }
	x.c.PublicURL, x.c.FederationURL, x.c.OwnListener = ready.URL, ready.FederationURL, ownListener(dir)
	certs := func(name string) ([]*x509.Certificate, error) {
		pem, err := os.ReadFile(filepath.Join(dir, "ca", "certs", name))
		if err != nil {
			return nil, err
		}
		return stepca.ParseRoots(pem)
	}
	x.c.Roots = func() ([]*x509.Certificate, error) { return certs("root_ca.crt") }
	x.c.Issuer = func() (*x509.Certificate, error) {
		chain, err := certs("intermediate_ca.crt")
		if err != nil {
			return nil, err
		}
		return chain[0], nil
	}
	dsn, dial := devstack.Reach(filepath.Join(dir, "postgres"))
	return x.database(ctx, postgres.Config{DSN: dsn, Dial: dial})
}

// heldKeys reads the keyring that a directory was started with, and makes none; nil when there is none yet.
func heldKeys(dir string, c config.Config) (*seal.Keyring, error) {
	source, ring, err := givenKeys(c)
	if err != nil {
		return nil, err
	}
	if held, err := os.ReadFile(filepath.Join(dir, sourceFile)); err == nil {
		if was := strings.TrimSpace(string(held)); was != source {
			return nil, errSealSource.With("the sealing keys of this directory come from %s, and a start with this environment would take them from %s", was, source)
		}
	}
	if source != fromDirectory {
		return ring, nil
	}
	doc, err := os.ReadFile(filepath.Join(dir, keysetFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // no keyset, and nothing wrong with that before the first start
	} else if err != nil {
		return nil, err
	}
	return seal.Parse(doc)
}

// runs tells whether somebody serves the admin socket of a directory.
func runs(ctx context.Context, dir string) doctor.Running {
	r := doctor.Running{Where: filepath.Join(dir, "admin.sock")}
	conn, err := unixsock.Dial(ctx, r.Where)
	if err == nil {
		r.Up = true
		_ = conn.Close()
	}
	return r
}

// ownListener is where the gateway that runs in a directory listens for peers; empty when none says so.
func ownListener(dir string) string {
	var ready readyDoc
	if doc, err := os.ReadFile(filepath.Join(dir, readyFile)); err != nil || json.Unmarshal(doc, &ready) != nil {
		return ""
	}
	u, err := url.Parse(ready.FederationURL)
	if err != nil {
		return ""
	}
	return u.Host
}

// openFiles is the limit of the gateway that runs in a directory, else that of this process.
func openFiles(dir string) (uint64, error) {
	var ready readyDoc
	pid := 0
	if doc, err := os.ReadFile(filepath.Join(dir, readyFile)); err == nil && json.Unmarshal(doc, &ready) == nil {
		pid = ready.PID
	}
	var r unix.Rlimit
	if pid > 0 && unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &r) == nil {
		return r.Cur, nil
	}
	err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r)
	return r.Cur, err
}

// freeSpace is what ordinary users may still write below a directory, which need not be there yet.
func freeSpace(dir string) (uint64, error) {
	var st unix.Statfs_t
	err := unix.Statfs(standing(dir), &st)
	return st.Bavail * uint64(st.Bsize), err //nolint:gosec // sizes are not negative
}

// standing is the directory, or the nearest one above it that exists.
func standing(dir string) string {
	for {
		if _, err := os.Stat(dir); err == nil || dir == filepath.Dir(dir) {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}

// writable tells whether this user may write to a directory, or make it.
func writable(dir string) error {
	at := standing(dir)
	if fi, err := os.Stat(at); err == nil && !fi.IsDir() {
		return devstack.ErrDirNotADirectory.With("%s is not a directory", at)
	}
	if err := unix.Access(at, unix.W_OK|unix.X_OK); err != nil {
		return errSocketDir.With("%s cannot be written to", at).Because(err)
	}
	return nil
}

// ownDirectory is writable for a directory that has to be ours, or empty.
func ownDirectory(dir string) error {
	if err := writable(dir); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil
	}
	if err == nil {
		_, err = os.Stat(filepath.Join(dir, "mosaic.json"))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return devstack.ErrDirForeign.With("%s is not empty and was not made by mosaic", dir)
	}
	return err
}
