// Package stepcatest runs a real step-ca for tests: the stock binary, on a free loopback port, on a directory of its
// own with the federation's two provisioners.
package stepcatest

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/smallstep/certificates/authority/config"
	"github.com/smallstep/certificates/authority/provisioner"

	"github.com/mosaicstack/gateway/internal/ca"
	"github.com/mosaicstack/gateway/internal/ca/embedded"
	"github.com/mosaicstack/gateway/internal/ca/stepca"
	"github.com/mosaicstack/gateway/internal/identity"
)

// These name the binaries to run; without them those that deploy/dev/setup.sh installs are taken.
const (
	serverEnv  = "MOSAIC_TEST_STEP_CA"
	commandEnv = "MOSAIC_TEST_STEP"
)

const version = "0.30.2" // of both

// Server is a running step-ca.
type Server struct {
	URL      string // https://127.0.0.1:PORT
	Addr     string // 127.0.0.1:PORT
	Dir      string
	Roots    []*x509.Certificate
	Password []byte // of both provisioners

	stop func()
}

// Start runs a step-ca until the test ends. Each edit changes its configuration before it starts.
func Start(t testing.TB, edits ...func(*config.Config)) *Server {
	t.Helper()
	s := &Server{Dir: filepath.Join(t.TempDir(), "step-ca")}
	s.create(t)
	s.serve(t, edits)
	return s
}

// Serve runs a step-ca on a directory that somebody else made, with the password of its keys in the file password in it.
func Serve(t testing.TB, dir string, roots []*x509.Certificate, edits ...func(*config.Config)) *Server {
	t.Helper()
	s := &Server{Dir: dir, Roots: roots}
	s.readPassword(t)
	s.serve(t, edits)
	return s
}

// Restart stops the server and starts it on the same directory, changed by edits, at another port.
func (s *Server) Restart(t testing.TB, edits ...func(*config.Config)) *Server {
	t.Helper()
	s.stop()
	again := &Server{Dir: s.Dir, Roots: s.Roots, Password: s.Password}
	again.serve(t, edits)
	return again
}

// RestartInPlace stops the server, has its directory changed, and starts it at the same address: what an operator does.
func (s *Server) RestartInPlace(t testing.TB, change func()) {
	t.Helper()
	s.stop()
	change()
	s.serve(t, nil)
}

// Authority opens the server's directory as the gateway of one machine does. The server must be stopped.
func (s *Server) Authority(t testing.TB) *embedded.Authority {
	t.Helper()
	a, err := embedded.Open(t.Context(), embedded.Config{Dir: s.Dir, Name: "Test", Arc: identity.DefaultArc})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// Stop kills the server, as a crash would.
func (s *Server) Stop() { s.stop() }

func (s *Server) serve(t testing.TB, edits []func(*config.Config)) {
	t.Helper()
	binary := Binary(t)
	const tries = 3 // a port that was free a moment ago may not be any more
	kept := s.Addr != ""
	var err error
	for range tries {
		if err = s.run(t, binary, edits); err == nil {
			return
		}
		if !kept {
			s.Addr = ""
		}
	}
	t.Fatal(err)
}

// Binary finds step-ca, or fails the test: a CA that is not tested against the real one is not tested.
func Binary(t testing.TB) string {
	t.Helper()
	return find(t, "step-ca", serverEnv)
}

// Command finds step, its command line.
func Command(t testing.TB) string {
	t.Helper()
	return find(t, "step", commandEnv)
}

func find(t testing.TB, name, variable string) string {
	t.Helper()
	path := os.Getenv(variable)
	if path == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			t.Fatal(err)
		}
		path = filepath.Join(home, ".cache", "mosaic", "tools", name+"-"+version)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("no %s to test against: %v; run deploy/dev/setup.sh test, or set %s", name, err, variable)
	}
	return path
}

// create makes the directory with the authority that lives in process, which is laid out as step-ca's own: that a
// stock step-ca serves it is part of what the tests show.
func (s *Server) create(t testing.TB) {
	t.Helper()
	a := s.Authority(t)
	var err error
	if s.Roots, err = a.Roots(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	s.readPassword(t)
}

func (s *Server) readPassword(t testing.TB) {
	t.Helper()
	password, err := os.ReadFile(filepath.Join(s.Dir, "password"))
	if err != nil {
		t.Fatal(err)
	}
	s.Password = bytes.TrimSpace(password)
}

// run starts the process and waits until it serves.
func (s *Server) run(t testing.TB, binary string, edits []func(*config.Config)) error {
	t.Helper()
	file := filepath.Join(s.Dir, "config", "ca.json")
	conf, err := config.LoadConfiguration(file)
	if err != nil {
		t.Fatal(err)
	}
	if s.Addr == "" {
		s.Addr = freeAddr(t)
	}
	conf.Address, s.URL = s.Addr, "https://"+s.Addr
	for _, edit := range edits {
		edit(conf)
	}
	if err := conf.Save(file); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "--password-file", filepath.Join(s.Dir, "password"), file)
	cmd.Env = []string{"HOME=" + s.Dir, "STEPPATH=" + s.Dir, "PATH=" + os.Getenv("PATH")}
	out := &output{serving: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		return fmt.Errorf("step-ca ended: %w\n%s", err, out)
	case <-out.serving:
	}
	s.stop = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		<-ended
	})
	t.Cleanup(func() {
		s.stop()
		if t.Failed() {
			t.Logf("step-ca said:\n%s", out)
		}
	})
	return nil
}

func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// output keeps what a process says, and notices when it serves.
type output struct {
	mu      sync.Mutex
	text    bytes.Buffer
	serves  bool
	serving chan struct{} // closed once it does
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text.Write(p)
	if !o.serves && bytes.Contains(o.text.Bytes(), []byte("Serving HTTPS on")) {
		o.serves = true
		close(o.serving)
	}
	return len(p), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// Config is the configuration of a client that may do everything.
func (s *Server) Config() stepca.Config {
	return stepca.Config{
		URL:        s.URL,
		Roots:      s.Roots,
		Federation: stepca.Provisioner{Name: ca.FederationProvisioner, Password: s.Password},
		Server:     stepca.Provisioner{Name: ca.ServerProvisioner, Password: s.Password},
	}
}

// Client makes a client of the server.
func (s *Server) Client(t testing.TB) *stepca.Client {
	t.Helper()
	c, err := stepca.New(s.Config())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// Provisioner reads one of the server's provisioners from its configuration.
func (s *Server) Provisioner(t testing.TB, name string) *provisioner.JWK {
	t.Helper()
	conf, err := config.LoadConfiguration(filepath.Join(s.Dir, "config", "ca.json"))
	if err != nil {
		t.Fatal(err)
	}
	return Find(conf, name)
}

// Find gives the JWK provisioner of a name in a configuration, or nil.
func Find(conf *config.Config, name string) *provisioner.JWK {
	for _, p := range conf.AuthorityConfig.Provisioners {
		if jwk, ok := p.(*provisioner.JWK); ok && jwk.Name == name {
			return jwk
		}
	}
	return nil
}
