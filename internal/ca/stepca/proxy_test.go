package stepca_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/smallstep/certificates/authority/config"
	"go.step.sm/crypto/jose"

	"github.com/mosaicstack/gateway/internal/ca"
	"github.com/mosaicstack/gateway/internal/ca/catest"
	"github.com/mosaicstack/gateway/internal/ca/stepca/stepcatest"
	"github.com/mosaicstack/gateway/internal/fault"
)

// behind puts a proxy with its own name and certificate of the CA before a server, at a path.
func behind(t *testing.T, server *stepcatest.Server, path string, names ...string) *httptest.Server {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := server.Client(t).IssueServer(catest.Context(t), ca.ServerRequest{
		CSR: catest.NewCSR(t, key, x509.CertificateRequest{}), Names: names, NotAfter: time.Now().Add(time.Hour),
	})
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair([]byte(chain.PEM()), keyPEM(t, key))
	if err != nil {
		t.Fatal(err)
	}
	target, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.Transport = trusting(t, server.Roots).Transport
	front := httptest.NewUnstartedServer(http.StripPrefix(path, proxy))
	front.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	front.StartTLS()
	t.Cleanup(front.Close)
	return front
}

func TestPathOfTheURLIsKept(t *testing.T) {
	t.Parallel()
	server := stepcatest.Start(t)
	front := behind(t, server, "/pki/step", "127.0.0.1")
	for _, slash := range []string{"", "/"} {
		cfg := server.Config()
		cfg.URL = front.URL + "/pki/step" + slash
		client := newClient(t, cfg)
		req := catest.NewRequest(t)
		chain, err := client.IssueLeaf(catest.Context(t), req)
		if err != nil {
			t.Fatal(err)
		}
		catest.CheckLeaf(t, client, req, chain)
		if err := client.Revoke(catest.Context(t), req.Serial, ""); err != nil {
			t.Error(err)
		}
		if err := client.Ready(catest.Context(t)); err != nil {
			t.Error(err)
		}
	}
}

// A proxy may carry a name that the CA does not know itself by.
func TestAudienceIsNamed(t *testing.T) {
	t.Parallel()
	server := stepcatest.Start(t, func(conf *config.Config) { conf.DNSNames = []string{"127.0.0.1"} })
	front := behind(t, server, "", "localhost")
	_, port, err := net.SplitHostPort(front.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	cfg := server.Config()
	cfg.URL = "https://localhost:" + port
	client := newClient(t, cfg)
	_, err = client.IssueLeaf(catest.Context(t), catest.NewRequest(t))
	wantFault(t, err, ca.ErrAudience)
	wantFault(t, client.Revoke(catest.Context(t), catest.NewRequest(t).Serial, ""), ca.ErrAudience)
}

// relay is a TCP relay that can be pointed elsewhere, which drops what it holds.
type relay struct {
	listener net.Listener
	target   atomic.Pointer[string]
	drop     atomic.Pointer[chan struct{}]
}

func newRelay(t *testing.T, target string) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{listener: l}
	r.point(target)
	t.Cleanup(func() { _ = l.Close(); r.point("") })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go r.serve(conn, *r.target.Load(), *r.drop.Load())
		}
	}()
	return r
}

func (r *relay) point(target string) {
	drop := make(chan struct{})
	r.target.Store(&target)
	if old := r.drop.Swap(&drop); old != nil {
		close(*old)
	}
}

func (r *relay) serve(conn net.Conn, target string, drop chan struct{}) {
	defer conn.Close()
	if target == "" {
		return
	}
	up, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer up.Close()
	done := make(chan struct{}, 2)
	for _, pair := range [][2]net.Conn{{conn, up}, {up, conn}} {
		go func() { _, _ = io.Copy(pair[0], pair[1]); done <- struct{}{} }()
	}
	select {
	case <-done:
	case <-drop:
	}
}

// A provisioner whose key was changed at the CA goes on working, when the key comes from there.
func TestChangedProvisionerKeyIsFetchedAgain(t *testing.T) {
	t.Parallel()
	before := stepcatest.Start(t)
	r := newRelay(t, before.Addr)
	cfg := before.Config()
	cfg.URL = "https://" + r.listener.Addr().String()
	client := newClient(t, cfg)
	if _, err := client.IssueLeaf(catest.Context(t), catest.NewRequest(t)); err != nil {
		t.Fatal(err)
	}
	// The same CA after its administrator made the provisioner anew: another key under the same password.
	jwk := newJWK(t)
	after := before.Restart(t, func(conf *config.Config) {
		p := stepcatest.Find(conf, ca.FederationProvisioner)
		public := jwk.Public()
		p.Key, p.EncryptedKey = &public, sealKey(t, jwk, before.Password)
	})
	r.point(after.Addr)
	req := catest.NewRequest(t)
	chain, err := client.IssueLeaf(catest.Context(t), req)
	if err != nil {
		t.Fatal(err)
	}
	catest.CheckLeaf(t, client, req, chain)
}

// sealKey encrypts a key as Step-CA keeps it, with fewer iterations than are good for anything but a test.
func sealKey(t *testing.T, jwk *jose.JSONWebKey, password []byte) string {
	t.Helper()
	encrypter, err := jose.NewEncrypter(jose.DefaultEncAlgorithm, jose.Recipient{
		Algorithm: jose.PBES2_HS256_A128KW, Key: password, PBES2Count: 1000,
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	jwe, err := encrypter.Encrypt(marshal(t, jwk))
	if err != nil {
		t.Fatal(err)
	}
	compact, err := jwe.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return compact
}

func TestCAThatIsAwayComesBack(t *testing.T) {
	t.Parallel()
	server := stepcatest.Start(t)
	r := newRelay(t, server.Addr)
	cfg := server.Config()
	cfg.URL = "https://" + r.listener.Addr().String()
	client := newClient(t, cfg)
	if err := client.Ready(catest.Context(t)); err != nil {
		t.Fatal(err)
	}
	r.point("")
	_, err := client.IssueLeaf(catest.Context(t), catest.NewRequest(t))
	wantFault(t, err, ca.ErrUnavailable)
	if fault.From(err).RetryAfter == 0 {
		t.Error("no time to wait")
	}
	wantFault(t, client.Ready(catest.Context(t)), ca.ErrUnavailable)
	r.point(server.Addr)
	if _, err := client.IssueLeaf(catest.Context(t), catest.NewRequest(t)); err != nil {
		t.Error(err)
	}
}
