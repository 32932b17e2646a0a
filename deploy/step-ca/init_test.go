package stepca_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/smallstep/certificates/api"
	"github.com/smallstep/certificates/authority/config"
	"go.step.sm/crypto/pemutil"

	"github.com/mosaicstack/gateway/internal/ca"
	"github.com/mosaicstack/gateway/internal/ca/catest"
	"github.com/mosaicstack/gateway/internal/ca/stepca/stepcatest"
)

// shells are those that init.sh must run in: Debian's /bin/sh, and the one of the stock image.
var shells = [][]string{{"dash"}, {"busybox", "sh"}}

// home is a directory for a CA, and what init.sh is run with.
type home struct {
	t     *testing.T
	dir   string
	shell []string
	env   []string
}

func newHome(t *testing.T) *home {
	t.Helper()
	if _, err := os.ReadFile("init.sh"); err != nil { // read here, so that a cached result does not outlive a change
		t.Fatal(err)
	}
	// What the script calls, and nothing else: no jq, no bash.
	bin := t.TempDir()
	link(t, stepcatest.Command(t), filepath.Join(bin, "step"))
	for _, tool := range tools {
		program := tool
		if tool == "sync" {
			program = "true" // the tests kill, and cut no power; the machine's disk is not theirs alone
		}
		path, err := exec.LookPath(program)
		if err != nil {
			t.Fatal(err)
		}
		link(t, path, filepath.Join(bin, tool))
	}
	h := &home{t: t, dir: filepath.Join(t.TempDir(), "ca"), shell: shells[0]}
	if err := os.Mkdir(h.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	password := filepath.Join(h.dir, "password")
	if err := os.WriteFile(password, []byte("correct horse\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.env = []string{"PATH=" + bin, "HOME=" + h.dir, "STEPPATH=" + h.dir, "STEP_CA_PASSWORD_FILE=" + password, "STEP_CA_DNS_NAMES=step-ca,localhost,127.0.0.1"}
	return h
}

// tools is everything outside the shell that init.sh may call, beside step.
var tools = []string{"env", "mkdir", "rmdir", "rm", "mv", "cp", "sed", "grep", "cmp", "chmod", "sync", "flock", "dirname"}

func link(t *testing.T, old, place string) {
	t.Helper()
	if err := os.Symlink(old, place); err != nil {
		t.Fatal(err)
	}
}

// command is a run of init.sh. Later settings count.
func (h *home) command(env []string, args ...string) *exec.Cmd {
	h.t.Helper()
	shell, err := exec.LookPath(h.shell[0])
	if err != nil {
		h.t.Fatalf("%v; run deploy/dev/setup.sh test", err)
	}
	cmd := exec.Command(shell, append(append(append([]string{}, h.shell[1:]...), "./init.sh"), args...)...)
	cmd.Env = append(append([]string{}, h.env...), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	return cmd
}

func (h *home) init(args ...string) string {
	h.t.Helper()
	out, err := h.command(nil, args...).CombinedOutput()
	if err != nil {
		h.t.Fatalf("init.sh: %v\n%s", err, out)
	}
	return string(out)
}

func (h *home) refused(want string, env ...string) {
	h.t.Helper()
	out, err := h.command(env).CombinedOutput()
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		h.t.Fatalf("ended with %v\n%s", err, out)
	}
	if !strings.Contains(string(out), want) || !strings.Contains(string(out), "hint: ") {
		h.t.Errorf("said %q, want %q and a hint", out, want)
	}
}

func (h *home) path(parts ...string) string {
	return filepath.Join(append([]string{h.dir}, parts...)...)
}

func (h *home) read(parts ...string) []byte {
	h.t.Helper()
	b, err := os.ReadFile(h.path(parts...))
	if err != nil {
		h.t.Fatal(err)
	}
	return b
}

func (h *home) root() *x509.Certificate {
	h.t.Helper()
	cert, err := pemutil.ReadCertificate(h.path("certs", "root_ca.crt"))
	if err != nil {
		h.t.Fatal(err)
	}
	return cert
}

func (h *home) config() *config.Config {
	h.t.Helper()
	conf, err := config.LoadConfiguration(h.path("config", "ca.json"))
	if err != nil {
		h.t.Fatal(err)
	}
	return conf
}

// whole checks that the directory holds one CA with everything init.sh promises, and nothing of a draft.
func (h *home) whole() {
	h.t.Helper()
	conf := h.config()
	if err := conf.Validate(); err != nil {
		h.t.Error(err)
	}
	if text := h.read("config", "ca.json"); bytes.Contains(text, []byte(".mosaic-init")) {
		h.t.Error("ca.json names the draft")
	}
	names := map[string]int{}
	for _, p := range conf.AuthorityConfig.Provisioners {
		names[p.GetName()]++
	}
	for _, name := range []string{ca.FederationProvisioner, ca.ServerProvisioner} {
		p := stepcatest.Find(conf, name)
		if p == nil || names[name] != 1 {
			h.t.Fatalf("%s is there %d times", name, names[name])
		}
		c := p.Claims
		if c == nil || c.MinTLSDur.Duration != ca.MinLifetime || c.MaxTLSDur.Duration != ca.MaxLifetime ||
			c.DefaultTLSDur.Duration != ca.DefaultLifetime || !*c.DisableRenewal || *c.EnableSSHCA {
			h.t.Errorf("claims of %s: %+v", name, c)
		}
	}
	template, err := os.ReadFile("templates/mosaic-fed.tpl")
	if err != nil {
		h.t.Fatal(err)
	}
	if got := stepcatest.Find(conf, ca.FederationProvisioner).Options.X509.Template; got != string(template) {
		h.t.Errorf("mosaic-fed signs by another template: %q", got)
	}
	if o := stepcatest.Find(conf, ca.ServerProvisioner).Options; o != nil && o.X509 != nil && o.X509.Template != "" {
		h.t.Error("mosaic-gateway has a template")
	}
	if conf.CRL == nil || !conf.CRL.Enabled || !conf.CRL.GenerateOnRevoke || conf.DB == nil {
		h.t.Errorf("revocation list %+v, database %+v", conf.CRL, conf.DB)
	}
	if _, err := os.Stat(h.path(".mosaic-init")); !errors.Is(err, os.ErrNotExist) {
		h.t.Errorf("the draft is still there: %v", err)
	}
	h.keysMatch(conf)
}

func (h *home) keysMatch(conf *config.Config) {
	h.t.Helper()
	intermediate, err := pemutil.ReadCertificate(conf.IntermediateCert)
	if err != nil {
		h.t.Fatal(err)
	}
	if err := intermediate.CheckSignatureFrom(h.root()); err != nil {
		h.t.Error(err)
	}
	key, err := pemutil.Read(conf.IntermediateKey, pemutil.WithPassword(bytes.TrimSpace(h.read("password"))))
	if err != nil {
		h.t.Fatal(err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok || !signer.Public().(*ecdsa.PublicKey).Equal(intermediate.PublicKey) {
		h.t.Error("the intermediate has the key of another")
	}
}

func TestInitMakesACAOnce(t *testing.T) {
	t.Parallel()
	for _, shell := range shells {
		t.Run(shell[0], func(t *testing.T) {
			t.Parallel()
			h := newHome(t)
			h.shell = shell
			if said := h.init(); !strings.Contains(said, "made a CA") {
				t.Errorf("said %q", said)
			}
			h.whole()
			for path, mode := range map[string]os.FileMode{"certs": 0o755, "certs/root_ca.crt": 0o644, "secrets": 0o700, "secrets/root_ca_key": 0o600, "config/ca.json": 0o600} {
				if info, err := os.Stat(h.path(path)); err != nil || info.Mode().Perm() != mode {
					t.Errorf("%s: %v %v", path, info, err)
				}
			}
			before, root := h.read("config", "ca.json"), h.root()
			if said := h.init(); said != "" {
				t.Errorf("a second run said %q", said)
			}
			if !bytes.Equal(before, h.read("config", "ca.json")) || !root.Equal(h.root()) {
				t.Error("a second run changed something")
			}
		})
	}
}

// A CA that the stock image made for itself gets what is missing and keeps what it has.
func TestInitMendsAStockCA(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	stock := exec.Command(stepcatest.Command(t), "ca", "init", "--deployment-type", "standalone", "--name", "Stock", "--dns", "ca.example",
		"--address", ":9443", "--provisioner", "admin", "--password-file", h.path("password"))
	stock.Env = h.env
	if out, err := stock.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	root, before := h.root(), h.config()
	if said := h.init(); !strings.Contains(said, "brought up to date") {
		t.Errorf("said %q", said)
	}
	h.whole()
	after := h.config()
	if !root.Equal(h.root()) || stepcatest.Find(after, "admin") == nil || after.Address != before.Address || after.DB.Type != before.DB.Type ||
		strings.Join(after.DNSNames, ",") != "ca.example" || stepcatest.Find(after, "admin").EncryptedKey != stepcatest.Find(before, "admin").EncryptedKey {
		t.Error("the CA lost something of its own")
	}
	if said := h.init(); said != "" {
		t.Errorf("a second run said %q", said)
	}
}

func TestInitRefusesWhatItCannotDoRight(t *testing.T) {
	t.Parallel()
	t.Run("no password", func(t *testing.T) {
		t.Parallel()
		newHome(t).refused("password file", "STEP_CA_PASSWORD_FILE=/nowhere")
	})
	t.Run("an empty password", func(t *testing.T) {
		t.Parallel()
		newHome(t).refused("password file", "STEP_CA_PROVISIONER_PASSWORD_FILE=/dev/null")
	})
	t.Run("no step", func(t *testing.T) {
		t.Parallel()
		h := newHome(t)
		if err := os.Remove(filepath.Join(strings.TrimPrefix(h.env[0], "PATH="), "step")); err != nil {
			t.Fatal(err)
		}
		h.refused("no step command")
	})
	t.Run("an arc that is none", func(t *testing.T) {
		t.Parallel()
		newHome(t).refused("no arc", "MOSAIC_OID_ARC=1.2/e")
	})
	t.Run("keys of somebody else", func(t *testing.T) {
		t.Parallel()
		h := newHome(t)
		if err := os.MkdirAll(h.path("secrets"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(h.path("secrets", "root_ca_key"), []byte("a key"), 0o600); err != nil {
			t.Fatal(err)
		}
		h.refused("holds files")
		if got := h.read("secrets", "root_ca_key"); string(got) != "a key" {
			t.Errorf("the key is %q now", got)
		}
	})
	t.Run("provisioners in a database", func(t *testing.T) {
		t.Parallel()
		h := newHome(t)
		h.init()
		text := bytes.Replace(h.read("config", "ca.json"), []byte(`"authority": {`), []byte(`"authority": {"enableAdmin": true,`), 1)
		if err := os.WriteFile(h.path("config", "ca.json"), text, 0o600); err != nil {
			t.Fatal(err)
		}
		h.refused("enableAdmin")
	})
}

func TestInitTakesAnotherArcAndBecomesTheCommandItIsGiven(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	h.env = append(h.env, "MOSAIC_OID_ARC=1.3.6.1.4.1.4711,1.3.6.1.4.1.99999")
	said := h.init("/bin/sh", "-c", `[ ! -e /proc/self/fd/9 ] && printf %s "$*"`, "x", "two words", "$HOME")
	if !strings.HasSuffix(said, "two words $HOME") {
		t.Errorf("said %q", said)
	}
	template := stepcatest.Find(h.config(), ca.FederationProvisioner).Options.X509.Template
	if strings.Contains(template, "99999") || !strings.Contains(template, `"1.3.6.1.4.1.4711.1"`) {
		t.Error("the template is of another arc")
	}
}

// A stock step-ca on what init.sh made is all that the gateway's client asks of a CA.
func TestAGatewayEnrolsAtTheCAOfInit(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	h.init()
	server := stepcatest.Serve(t, h.dir, []*x509.Certificate{h.root()})
	catest.Run(t, func(t *testing.T) ca.Authority { return server.Client(t) })

	grant, user := uuid.NewString(), uuid.NewString()
	for name, claims := range map[string]map[string]any{
		"":             {ca.ClaimGrantID: grant, ca.ClaimSubjectID: user},
		"no grant":     {ca.ClaimSubjectID: user},
		"no user":      {ca.ClaimGrantID: grant},
		"neither":      {},
		"a user of it": {ca.ClaimGrantID: grant, ca.ClaimSubjectID: "ada"},
	} {
		t.Run("claims "+name, func(t *testing.T) {
			t.Parallel()
			p := catest.Provisioner{
				Name: ca.FederationProvisioner, EncryptedKey: stepcatest.Find(h.config(), ca.FederationProvisioner).EncryptedKey,
				Password: server.Password, Audience: server.URL + "/1.0/sign",
			}
			status, said := h.sign(server.URL, api.SignRequest{
				CsrPEM: api.NewCertificateRequest(catest.NewCSR(t, catest.NewKey(t), x509.CertificateRequest{})),
				OTT:    p.Token(t, "anything", claims), NotAfter: api.NewTimeDuration(time.Now().Add(time.Hour)),
			})
			if name == "" && status != http.StatusCreated {
				t.Errorf("both claims: %d %s", status, said)
			}
			if name != "" && (status != http.StatusBadRequest || !strings.Contains(said, "mosaic-fed: ")) {
				t.Errorf("%d %s", status, said)
			}
		})
	}
}

// sign asks the CA itself: our client would not send such tokens.
func (h *home) sign(url string, req api.SignRequest) (int, string) {
	h.t.Helper()
	body, err := json.Marshal(req)
	if err != nil {
		h.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(h.root())
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
	defer transport.CloseIdleConnections()
	post, err := http.NewRequestWithContext(h.t.Context(), http.MethodPost, url+"/1.0/sign", bytes.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: transport}).Do(post)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return resp.StatusCode, string(said)
}
