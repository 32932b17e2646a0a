package main

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// gatewayProcess is a gateway in a process of its own, as `mosaic gateway dev` starts it.
type gatewayProcess struct {
	t   *testing.T
	dir string
	cmd *exec.Cmd

	URL           string `json:"url"`
	FederationURL string `json:"federation_url"`
	Socket        string `json:"socket"`
	CARootFile    string `json:"ca_root_file"`
	CAFingerprint string `json:"ca_fingerprint"`
	PID           int    `json:"pid"`
	MetricsURL    string `json:"metrics_url"`

	logs   *logs
	ready  <-chan []byte // of a replica that was launched: its ready document
	exited chan struct{}
	err    error
}

// logs gathers what a gateway writes, for the message of a test that fails.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// parent is the one OS thread that starts the processes which must not outlive the tests. The kernel takes the end of
// the thread for the death of the parent (Pdeathsig, prctl(2)), and threads do end: devstack lets go of those whose
// identity it changed. One that had started another test's replica would take it along.
var parent = sync.OnceValue(func() chan<- func() {
	starts := make(chan func())
	go func() {
		runtime.LockOSThread() // it ends with the process
		for start := range starts {
			start()
		}
	}()
	return starts
})

// startTied starts a process that ends with this one.
func startTied(cmd *exec.Cmd) error {
	started := make(chan error, 1)
	parent() <- func() { started <- cmd.Start() }
	return <-started
}

// startGateway runs a gateway on dir and free ports until it serves. It ends with the test.
func startGateway(t *testing.T, dir string, flags ...string) *gatewayProcess {
	t.Helper()
	return startGatewayWith(t, nil, dir, flags...)
}

// startGatewayWith runs one with more in its environment.
func startGatewayWith(t *testing.T, env []string, dir string, flags ...string) *gatewayProcess {
	t.Helper()
	g, err := launchWith(env, dir, flags...)
	if err != nil {
		t.Fatal(err)
	}
	g.t = t
	t.Cleanup(func() {
		if err := g.stop(syscall.SIGTERM); errors.Is(err, errStuck) {
			t.Error(err)
		}
	})
	return g
}

var errStuck = errors.New("the gateway has not stopped 30 s after a signal")

// launch starts a gateway and returns when it serves.
func launch(dir string, flags ...string) (*gatewayProcess, error) {
	return launchWith(nil, dir, flags...)
}

func launchWith(env []string, dir string, flags ...string) (*gatewayProcess, error) {
	args := append([]string{"gateway", "dev", "--json", "--dir", dir}, flags...)
	if !strings.Contains(strings.Join(flags, " "), "--listen") {
		args = append(args, "--listen", "127.0.0.1:0", "--federation-listen", "127.0.0.1:0")
	}
	g := &gatewayProcess{dir: dir, cmd: exec.Command("mosaic", args...), logs: &logs{}, exited: make(chan struct{})}
	g.cmd.Stderr = g.logs
	if env != nil {
		g.cmd.Env = append(os.Environ(), env...)
	}
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	stdout, err := g.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := startTied(g.cmd); err != nil {
		return nil, err
	}
	// The document on stdout is the gateway's own word that it serves.
	line, readErr := bufio.NewReader(stdout).ReadBytes('\n')
	go func() {
		_, _ = io.Copy(io.Discard, stdout)
		g.err = g.cmd.Wait()
		close(g.exited)
	}()
	if readErr != nil {
		<-g.exited
		return nil, fmt.Errorf("gateway did not start: %w\n%s", g.err, g.logs)
	}
	if err := json.Unmarshal(line, g); err != nil {
		return nil, errors.Join(fmt.Errorf("ready document %q: %w", line, err), g.stop(syscall.SIGTERM))
	}
	return g, nil
}

// stop ends the gateway by a signal, and returns how it ended.
func (g *gatewayProcess) stop(sig syscall.Signal) error {
	_ = g.cmd.Process.Signal(sig)
	select {
	case <-g.exited:
	case <-time.After(30 * time.Second):
		_ = g.cmd.Process.Kill()
		<-g.exited
		return fmt.Errorf("%w %s\n%s", errStuck, sig, g.logs)
	}
	return g.err
}

// mosaic runs a command against the gateway and wants it to succeed.
func (g *gatewayProcess) mosaic(args ...string) string {
	g.t.Helper()
	out, err := g.try(args...)
	if err != nil {
		g.t.Fatalf("mosaic %s: %v", strings.Join(args, " "), err)
	}
	return out
}

// try runs a command against the gateway.
func (g *gatewayProcess) try(args ...string) (string, error) {
	cmd := exec.Command("mosaic", args...)
	cmd.Env = append(os.Environ(), "MOSAIC_DIR="+g.dir)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return string(out), &commandError{err, stderr.String()}
	}
	return string(out), nil
}

type commandError struct {
	err    error
	stderr string
}

func (e *commandError) Error() string { return e.err.Error() + "\n" + e.stderr }

// decode runs a command with --json and reads its document.
func (g *gatewayProcess) decode(into any, args ...string) {
	g.t.Helper()
	out := g.mosaic(append(args, "--json")...)
	if err := json.Unmarshal([]byte(out), into); err != nil {
		g.t.Fatalf("mosaic %s: %v in %s", strings.Join(args, " "), err, out)
	}
}

// user makes a user and imports titles as their tasks.
func (g *gatewayProcess) user(email string, titles ...string) (id string) {
	g.t.Helper()
	var u struct{ ID string }
	g.decode(&u, "user", "create", email)
	if len(titles) > 0 {
		g.importTasks(email, "", titles...)
	}
	return u.ID
}

func (g *gatewayProcess) importTasks(owner, team string, titles ...string) {
	g.t.Helper()
	var lines bytes.Buffer
	for _, title := range titles {
		if err := json.NewEncoder(&lines).Encode(map[string]string{"title": title}); err != nil {
			g.t.Fatal(err)
		}
	}
	file := filepath.Join(g.t.TempDir(), "rows.jsonl")
	if err := os.WriteFile(file, lines.Bytes(), 0o600); err != nil {
		g.t.Fatal(err)
	}
	args := []string{"resource", "import", "tasks", file, "--owner", owner}
	if team != "" {
		args = append(args, "--team", team)
	}
	g.mosaic(args...)
}

type grantDoc struct {
	ID            string `json:"id"`
	PeerID        string `json:"peer_id"`
	SubjectUserID string `json:"subject_user_id"`
	Status        string `json:"status"`
}

type enrollmentDoc struct {
	URL           string `json:"url"`
	Token         string `json:"token"`
	CAFingerprint string `json:"ca_fingerprint"`
}

// grantFor grants a peer a scope on behalf of a user.
func (g *gatewayProcess) grantFor(peer, user, scope string, flags ...string) (grantDoc, enrollmentDoc) {
	g.t.Helper()
	file := filepath.Join(g.t.TempDir(), "scope.json")
	if err := os.WriteFile(file, []byte(scope), 0o600); err != nil {
		g.t.Fatal(err)
	}
	var out struct {
		Grant      grantDoc
		Enrollment enrollmentDoc
	}
	g.decode(&out, append([]string{"federation", "grant", "create", "--peer", peer, "--user", user, "--scope", file}, flags...)...)
	return out.Grant, out.Enrollment
}

// newCSR makes a key and a certificate request for it.
func newCSR(t *testing.T, template *x509.CertificateRequest) (*ecdsa.PrivateKey, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

type issuedDoc struct {
	GrantID          string `json:"grant_id"`
	SubjectUserID    string `json:"subject_user_id"`
	Certificate      string `json:"certificate"`
	CertificateChain string `json:"certificate_chain"`
	CARoot           string `json:"ca_root"`
	SerialNumber     string `json:"serial_number"`
	FederationURL    string `json:"federation_url"`
}

// answer is an HTTP answer, read whole.
type answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// problem is the part of problem+json that tests look at.
type problem struct {
	Code      string `json:"code"`
	Hint      string `json:"hint"`
	RequestID string `json:"request_id"`
	Errors    []struct{ Path string }
}

func (a answer) problem(t *testing.T) problem {
	t.Helper()
	if got := a.Header.Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("content type %q of %d %s", got, a.Status, a.Body)
	}
	var p problem
	if err := json.Unmarshal(a.Body, &p); err != nil {
		t.Fatalf("%v in %s", err, a.Body)
	}
	if p.Hint == "" || p.RequestID == "" || p.RequestID != a.Header.Get("X-Request-Id") {
		t.Errorf("problem without hint or request id: %s", a.Body)
	}
	return p
}

func do(t *testing.T, c *http.Client, req *http.Request) answer {
	t.Helper()
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, body}
}

func post(t *testing.T, url, contentType, body string, header ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return do(t, http.DefaultClient, req)
}

func jsonBody(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// peerClient is a peer with a certificate.
type peerClient struct {
	t      *testing.T
	issued issuedDoc
	http   *http.Client
	base   string
}

// enrol redeems an enrollment URL with a new key.
func (g *gatewayProcess) enrol(e enrollmentDoc) *peerClient {
	g.t.Helper()
	key, csr := newCSR(g.t, &x509.CertificateRequest{})
	a := post(g.t, e.URL, "application/json", jsonBody(g.t, map[string]string{"csr": csr}))
	if a.Status != http.StatusCreated {
		g.t.Fatalf("enrollment: %d %s", a.Status, a.Body)
	}
	var issued issuedDoc
	if err := json.Unmarshal(a.Body, &issued); err != nil {
		g.t.Fatal(err)
	}
	return g.client(issued, key)
}

// client asks with a certificate. It keeps its connection.
func (g *gatewayProcess) client(issued issuedDoc, key *ecdsa.PrivateKey) *peerClient {
	g.t.Helper()
	cert, roots, err := keyPair(issued, key)
	if err != nil {
		g.t.Fatal(err)
	}
	transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{
		RootCAs: roots, Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13,
		ClientSessionCache: tls.NewLRUClientSessionCache(8),
	}}
	g.t.Cleanup(transport.CloseIdleConnections)
	return &peerClient{t: g.t, issued: issued, http: &http.Client{Transport: transport, Timeout: 15 * time.Second}, base: g.FederationURL + "/federation/v1"}
}

// keyPair is what a client needs of an enrollment's answer: its certificate with the chain, and whom to trust.
func keyPair(issued issuedDoc, key *ecdsa.PrivateKey) (tls.Certificate, *x509.CertPool, error) {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(issued.CARoot))
	cert := tls.Certificate{PrivateKey: key}
	for rest := []byte(issued.CertificateChain); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		cert.Certificate = append(cert.Certificate, block.Bytes)
	}
	if len(cert.Certificate) == 0 {
		return cert, nil, errors.New("no certificate in the answer")
	}
	var err error
	cert.Leaf, err = x509.ParseCertificate(cert.Certificate[0])
	return cert, roots, err
}

func (p *peerClient) get(path string) answer {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, p.base+path, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	return do(p.t, p.http, req)
}

// listDoc is a page of rows.
type listDoc struct {
	Data []struct {
		ID      string
		OwnerID string `json:"owner_id"`
		Title   string
		Source  string
	}
	Page struct {
		Limit      int
		Capped     bool
		NextCursor *string `json:"next_cursor"`
	}
}

func (p *peerClient) list(path string) listDoc {
	p.t.Helper()
	a := p.get(path)
	if a.Status != http.StatusOK {
		p.t.Fatalf("%s: %d %s", path, a.Status, a.Body)
	}
	var l listDoc
	if err := json.Unmarshal(a.Body, &l); err != nil {
		p.t.Fatalf("%v in %s", err, a.Body)
	}
	return l
}

func (l listDoc) titles() string {
	var titles []string
	for _, row := range l.Data {
		titles = append(titles, row.Title)
	}
	return strings.Join(titles, ",")
}
