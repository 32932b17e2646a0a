package remote_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/querying"
	"github.com/mosaicstack/gateway/internal/querying/peertest"
	"github.com/mosaicstack/gateway/internal/remote"
)

var (
	_ querying.Client   = (*remote.Client)(nil)
	_ querying.Enroller = (*remote.Enroller)(nil)
)

// target is a good credential of ca at a server.
func target(t *testing.T, ca *peertest.CA, s *httptest.Server) querying.Target {
	t.Helper()
	key, public := peertest.Key(t)
	leaf := ca.Client(t, public, peertest.Leaf{Grant: uuid.New(), User: uuid.New()})
	return querying.Target{
		CredentialID: uuid.New(), Serial: leaf.SerialNumber.String(), URL: s.URL,
		ChainPEM: ca.Chain(leaf), CARootPEM: ca.RootPEM(), Key: func() ([]byte, error) { return append([]byte(nil), key...), nil },
	}
}

func client(t *testing.T) *remote.Client {
	t.Helper()
	c := remote.NewClient()
	t.Cleanup(c.Close)
	return c
}

func get(t *testing.T, c *remote.Client, target querying.Target) (querying.Answer, error) {
	t.Helper()
	return c.Do(t.Context(), target, querying.Call{Method: http.MethodGet, Path: "/federation/v1/resources/tasks", RequestID: "r-1"})
}

func answerJSON(w http.ResponseWriter, body string) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write([]byte(body))
}

func TestAClientAsksOverMutualTLSAndHTTP2(t *testing.T) {
	t.Parallel()
	ca := peertest.NewCA(t)
	got := make(chan *http.Request, 1)
	s := ca.Listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got <- r
		answerJSON(w, `{"data":[]}`)
	}))
	to := target(t, ca, s)
	to.URL += "/prefix"
	a, err := client(t).Do(t.Context(), to, querying.Call{
		Method: http.MethodGet, Path: "/federation/v1/resources/tasks", Query: url.Values{"limit": {"5"}, "cursor": {"a+b/="}},
		RequestID: "r-7", Traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
	})
	if err != nil {
		t.Fatal(err)
	}
	if a.Status != 200 || a.Problem || string(a.Body) != `{"data":[]}` {
		t.Errorf("answer %+v", a)
	}
	r := <-got
	if r.ProtoMajor != 2 || r.TLS.Version != tls.VersionTLS13 || len(r.TLS.PeerCertificates) != 2 {
		t.Errorf("%s, TLS %x, %d certificates", r.Proto, r.TLS.Version, len(r.TLS.PeerCertificates))
	}
	if r.URL.Path != "/prefix/federation/v1/resources/tasks" || r.URL.Query().Get("cursor") != "a+b/=" || r.URL.Query().Get("limit") != "5" {
		t.Errorf("asked for %s", r.URL)
	}
	for name, want := range map[string]string{
		"X-Request-Id": "r-7", "Traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
		"Accept-Encoding": "identity", "Baggage": "", "Cookie": "", "Authorization": "",
	} {
		if r.Header.Get(name) != want {
			t.Errorf("%s: %q", name, r.Header.Get(name))
		}
	}
}

func TestConnectionsArePooledPerCertificate(t *testing.T) {
	t.Parallel()
	ca := peertest.NewCA(t)
	s := ca.Listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "a", Value: "b"})
		if r.Header.Get("Cookie") != "" {
			t.Error("a cookie came back")
		}
		answerJSON(w, `["`+r.RemoteAddr+`","`+r.TLS.PeerCertificates[0].SerialNumber.String()+`"]`)
	}))
	to := target(t, ca, s)
	var opened atomic.Int32
	key := to.Key
	to.Key = func() ([]byte, error) { opened.Add(1); return key() }
	c := client(t)
	ask := func(want string) string {
		t.Helper()
		a, err := get(t, c, to)
		if err != nil {
			t.Fatal(err)
		}
		if want != "" && string(a.Body) != want {
			t.Errorf("from %s, before from %s", a.Body, want)
		}
		return string(a.Body)
	}
	first := ask("")
	ask(first)
	if n := opened.Load(); n != 1 {
		t.Errorf("the key was opened %d times for one pool", n)
	}

	renewed := target(t, ca, s)
	renewed.CredentialID = to.CredentialID
	old := to
	to = renewed
	second := ask("")
	if second == first {
		t.Error("a renewed credential spoke with its old certificate")
	}
	ask(second)
	c.Forget(to.CredentialID)
	if ask("") == second {
		t.Error("a forgotten credential kept its connection")
	}
	c.Forget(uuid.New()) // unknown: nothing happens
	to = old
	ask("")
	if n := opened.Load(); n != 2 {
		t.Errorf("the key was opened %d times", n)
	}
}

// A root that is given up vouches for nobody any more, also not on a connection that it let come about; and each root that
// comes or goes is looked at with a connection under it.
func TestConnectionsAreOfTheRootsThatVouchForThem(t *testing.T) {
	t.Parallel()
	ca, next := peertest.NewCA(t), peertest.NewCA(t)
	s := ca.Listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answerJSON(w, `"`+r.RemoteAddr+`"`) }))
	to, c := target(t, ca, s), client(t)
	seen := map[string]bool{}
	ask := func(roots string) (fresh bool) {
		t.Helper()
		to.CARootPEM = roots
		a, err := get(t, c, to)
		if err != nil {
			t.Fatal(err)
		}
		fresh = !seen[string(a.Body)]
		seen[string(a.Body)] = true
		return fresh
	}
	both := ca.RootPEM() + next.RootPEM()
	for i, tt := range []struct {
		roots string
		fresh bool
	}{{ca.RootPEM(), true}, {ca.RootPEM(), false}, {both, true}, {both, false}, {ca.RootPEM(), true}} {
		if fresh := ask(tt.roots); fresh != tt.fresh {
			t.Errorf("request %d: over a connection of its own %v, want %v", i, fresh, tt.fresh)
		}
	}
	to.CARootPEM = next.RootPEM()
	if a, err := get(t, c, to); !errors.Is(err, querying.ErrUntrusted) {
		t.Errorf("with the other root alone: %s %v", a.Body, err)
	}
}

func TestRequestsAtOnceShareOneConnection(t *testing.T) {
	t.Parallel()
	ca := peertest.NewCA(t)
	s := ca.Listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answerJSON(w, `"`+r.RemoteAddr+`"`) }))
	to, c := target(t, ca, s), client(t)
	first, err := get(t, c, to)
	if err != nil {
		t.Fatal(err)
	}
	bodies := make(chan string)
	for range 32 {
		go func() {
			a, err := c.Do(t.Context(), to, querying.Call{Method: http.MethodGet, Path: "/x"})
			bodies <- string(a.Body)
			if err != nil {
				t.Error(err)
			}
		}()
	}
	for range 32 {
		if b := <-bodies; b != string(first.Body) {
			t.Errorf("%s, not %s", b, first.Body)
		}
	}
}

func TestAServerMustProveToBeThePeer(t *testing.T) {
	t.Parallel()
	ca, other := peertest.NewCA(t), peertest.NewCA(t)
	asked := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		t.Error("the request arrived")
		answerJSON(w, `{}`)
	})
	key, public := peertest.Key(t)
	leaf := ca.Client(t, public, peertest.Leaf{Grant: uuid.New(), User: uuid.New()})
	posing, err := tls.X509KeyPair([]byte(ca.Chain(leaf)), key)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*tls.Config){
		"a certificate of another CA":           func(c *tls.Config) { c.Certificates = []tls.Certificate{other.Server(t)} },
		"a client certificate of the same CA":   func(c *tls.Config) { c.Certificates = []tls.Certificate{posing} },
		"TLS 1.2 and a certificate of the CA":   func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 },
		"a chain that leaves out intermediates": func(c *tls.Config) { c.Certificates[0].Certificate = c.Certificates[0].Certificate[:1] },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := ca.TLS(t)
			change(config)
			_, err := get(t, client(t), target(t, ca, peertest.Serve(t, config, asked)))
			if config.MaxVersion == tls.VersionTLS12 {
				if err == nil {
					t.Error("spoke TLS 1.2")
				}
				return
			}
			if !errors.Is(err, querying.ErrUntrusted) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestTheServersNameIsThatOfTheAddress(t *testing.T) {
	t.Parallel()
	ca := peertest.NewCA(t)
	s := ca.Listen(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the request arrived") }))
	to := target(t, ca, s)
	u, err := url.Parse(to.URL)
	if err != nil {
		t.Fatal(err)
	}
	to.URL = "https://localhost:" + u.Port() // resolves to the same server, whose certificate is for the address
	if _, err := get(t, client(t), to); !errors.Is(err, querying.ErrUntrusted) {
		t.Errorf("%v", err)
	}
}

func TestARefusedCertificateIsADenial(t *testing.T) {
	t.Parallel()
	ca, other := peertest.NewCA(t), peertest.NewCA(t)
	config := ca.TLS(t)
	config.ClientCAs = x509.NewCertPool()
	config.ClientCAs.AddCert(other.Root)
	s := peertest.Serve(t, config, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the request arrived") }))
	if _, err := get(t, client(t), target(t, ca, s)); !errors.Is(err, querying.ErrDenied) {
		t.Errorf("%v", err)
	}
}

func TestACredentialThatDoesNotFitIsNotUsed(t *testing.T) {
	t.Parallel()
	ca := peertest.NewCA(t)
	s := ca.Listen(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the request arrived") }))
	sealed := errors.New("cannot be opened")
	for name, change := range map[string]func(*querying.Target){
		"another key":   func(to *querying.Target) { to.Key = target(t, ca, s).Key },
		"no key":        func(to *querying.Target) { to.Key = func() ([]byte, error) { return nil, sealed } },
		"no root":       func(to *querying.Target) { to.CARootPEM = "" },
		"no chain":      func(to *querying.Target) { to.ChainPEM = "" },
		"plain http":    func(to *querying.Target) { to.URL = "http://127.0.0.1:1" },
		"not a URL":     func(to *querying.Target) { to.URL = "://" },
		"its own metad": func(to *querying.Target) { to.URL = "https://169.254.169.254" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			to := target(t, ca, s)
			change(&to)
			if _, err := get(t, client(t), to); err == nil || context.Cause(t.Context()) != nil {
				t.Errorf("%v", err)
			}
		})
	}
}

// What is too long for a peer to read is not sent, and a peer that names a lower limit is there.
func TestAQuestionThatIsTooLongIsNotAnAbsence(t *testing.T) {
	t.Parallel()
	ca := peertest.NewCA(t)
	s := ca.Listen(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answerJSON(w, `{}`) }))
	to, p := target(t, ca, s), remote.NewPatient(client(t), time.Now)
	long := func(n int) querying.Call {
		return querying.Call{Method: http.MethodGet, Path: "/x", Query: url.Values{"cursor": {strings.Repeat("c", n)}}, Repeatable: true}
	}
	for range 10 {
		if _, err := p.Do(t.Context(), to, long(18000)); !errors.Is(err, querying.ErrQuestionTooLong) || errors.Is(err, querying.ErrUnreachable) {
			t.Fatalf("%v", err)
		}
	}
	if a, err := p.Do(t.Context(), to, long(11<<10)); err != nil || a.Status != 200 || leftAlone(p) {
		t.Errorf("afterwards: %+v %v, circuits %v", a, err, p.Circuits())
	}
	small := httptest.NewUnstartedServer(s.Config.Handler)
	small.EnableHTTP2, small.TLS, small.Config.MaxHeaderBytes = true, ca.TLS(t), 1<<10
	small.StartTLS()
	t.Cleanup(small.Close)
	to = target(t, ca, small)
	c := client(t)
	if _, err := get(t, c, to); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Do(t.Context(), to, long(8<<10)); !errors.Is(err, querying.ErrAnswerInvalid) {
		t.Errorf("over the peer's own limit: %v", err)
	}
}

// A peer whose answer did not come in time is asked over another connection: the first may lead nowhere.
func TestAConnectionThatAnsweredNothingIsNotUsedAgain(t *testing.T) {
	t.Parallel()
	ca := peertest.NewCA(t)
	from := make(chan string, 3)
	var asked atomic.Int64
	s := ca.Listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from <- r.RemoteAddr
		if asked.Add(1) == 1 {
			<-r.Context().Done()
			return
		}
		answerJSON(w, `{"data":[]}`)
	}))
	c, to := client(t), target(t, ca, s)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := c.Do(ctx, to, querying.Call{Method: http.MethodGet, Path: "/x"}); !errors.Is(err, querying.ErrTimeout) {
		t.Fatalf("%v, want a timeout", err)
	}
	for range 2 {
		if _, err := get(t, c, to); err != nil {
			t.Fatal(err)
		}
	}
	first, second, third := <-from, <-from, <-from
	if first == second || second != third {
		t.Errorf("asked from %s, then %s, then %s", first, second, third)
	}
}

func TestAPeersCertificateIsJudgedByTheGatewaysClock(t *testing.T) {
	t.Parallel()
	ca := peertest.NewCA(t)
	s := ca.Listen(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answerJSON(w, `{}`) }))
	leaf, err := x509.ParseCertificate(s.TLS.Certificates[0].Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	begins := leaf.NotBefore
	for name, tt := range map[string]struct {
		now  time.Time
		want error
	}{
		"right":                 {begins.Add(time.Minute), nil},
		"ten minutes behind":    {begins.Add(-10 * time.Minute), nil},
		"twenty minutes behind": {begins.Add(-20 * time.Minute), querying.ErrUntrusted},
		"ten years ahead":       {begins.AddDate(10, 0, 0), querying.ErrUntrusted},
	} {
		c := client(t)
		c.Now = func() time.Time { return tt.now }
		to := target(t, ca, s)
		for range 2 {
			if _, err := get(t, c, to); !errors.Is(err, tt.want) {
				t.Errorf("by a clock that is %s: %v", name, err)
			}
		}
		to = target(t, ca, s)
		to.CARootPEM = peertest.NewCA(t).RootPEM()
		if _, err := get(t, c, to); !errors.Is(err, querying.ErrUntrusted) {
			t.Errorf("another CA, by a clock that is %s: %v", name, err)
		}
	}
}
