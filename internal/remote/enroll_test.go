package remote_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/querying"
	"github.com/mosaicstack/gateway/internal/querying/peertest"
	"github.com/mosaicstack/gateway/internal/remote"
	"github.com/mosaicstack/gateway/internal/seal"
)

const secret = "the-token"

func enrollment(endpoint string) querying.EnrollRequest {
	return querying.EnrollRequest{
		Endpoint: endpoint + "/api/federation/enrollment", Token: seal.NewSecret(secret), CSR: "the CSR", TTL: 30 * 24 * time.Hour,
		IdempotencyKey: "key-1", RequestID: "r-1",
	}
}

// web is the configuration of a public https server, and the pool that trusts it.
func web(t *testing.T, ca *peertest.CA) (*tls.Config, *x509.CertPool) {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(ca.Root)
	return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{ca.Server(t)}}, roots
}

func TestEnrollmentPostsTokenAndRequest(t *testing.T) {
	t.Parallel()
	ca := peertest.NewCA(t)
	config, roots := web(t, ca)
	for name, c := range map[string]*tls.Config{"https": config, "http on this machine": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := peertest.Serve(t, c, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				var body map[string]any
				if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
					t.Error(err)
				}
				if len(body) != 3 || body["token"] != secret || body["csr"] != "the CSR" || body["ttl_seconds"] != 2592000.0 {
					t.Errorf("body %v", body)
				}
				if r.Method != http.MethodPost || r.URL.String() != "/api/federation/enrollment" || r.Header.Get("Idempotency-Key") != "key-1" ||
					r.Header.Get("Content-Type") != "application/json" || r.Header.Get("X-Request-Id") != "r-1" {
					t.Errorf("%s %s %v", r.Method, r.URL, r.Header)
				}
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(http.StatusCreated)
				_, _ = w.Write([]byte(`{"grant_id":"x"}`))
			}))
			a, err := (&remote.Enroller{Roots: roots}).Enroll(t.Context(), enrollment(s.URL))
			if err != nil || a.Status != 201 || string(a.Body) != `{"grant_id":"x"}` {
				t.Errorf("%+v, %v", a, err)
			}
		})
	}
}

// A token is gone to whoever reads it, so it is sent only to a server that this machine trusts, and never on.
func TestTheTokenIsSentToNobodyElse(t *testing.T) {
	t.Parallel()
	ca := peertest.NewCA(t)
	never := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the token was sent") })
	config, _ := web(t, ca)
	untrusted := peertest.Serve(t, config, never)
	elsewhere := peertest.Serve(t, nil, never)
	redirect := peertest.Serve(t, nil, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		http.Redirect(w, r, elsewhere.URL, http.StatusPermanentRedirect)
	}))
	for name, test := range map[string]struct {
		endpoint string
		want     *fault.Fault
	}{
		"an untrusted certificate":   {untrusted.URL, querying.ErrUntrusted},
		"a redirect":                 {redirect.URL, querying.ErrAnswerInvalid},
		"cloud metadata":             {"https://169.254.169.254", querying.ErrAddressRefused},
		"cloud metadata in IPv6":     {"https://[::ffff:a9fe:a9fe]", querying.ErrAddressRefused},
		"AWS metadata in IPv6":       {"https://[fd00:ec2::254]", querying.ErrAddressRefused},
		"link-local":                 {"https://[fe80::1]", querying.ErrAddressRefused},
		"multicast":                  {"https://[ff02::1]", querying.ErrAddressRefused},
		"unspecified":                {"http://0.0.0.0:80", querying.ErrAddressRefused},
		"plain http to another host": {"http://10.255.255.1", querying.ErrAddressRefused},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := (&remote.Enroller{}).Enroll(t.Context(), enrollment(test.endpoint))
			if !errors.Is(err, test.want) {
				t.Fatalf("%v", err)
			}
			if f := fault.From(err); f.Hint == "" || strings.Contains(err.Error(), secret) {
				t.Errorf("hint %q, error %v", f.Hint, err)
			}
		})
	}
}

func TestHostileEnrollmentAnswersAreRefused(t *testing.T) {
	t.Parallel()
	for name, handler := range map[string]http.HandlerFunc{
		"an endless body": func(w http.ResponseWriter, r *http.Request) {
			header(w, "Content-Type", "application/json")
			for chunk := make([]byte, 64<<10); r.Context().Err() == nil; {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		},
		"HTML": func(w http.ResponseWriter, _ *http.Request) {
			header(w, "Content-Type", "text/html")
			_, _ = w.Write([]byte("<p>bad gateway"))
		},
		"a huge header": func(w http.ResponseWriter, _ *http.Request) {
			header(w, "X-Junk", strings.Repeat("a", 256<<10))
			answerJSON(w, "{}")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := peertest.Serve(t, nil, handler)
			if _, err := (&remote.Enroller{}).Enroll(t.Context(), enrollment(s.URL)); !errors.Is(err, querying.ErrAnswerInvalid) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestAnEnrollmentServerThatIsAwayIsUnreachable(t *testing.T) {
	t.Parallel()
	s := peertest.Serve(t, nil, http.NotFoundHandler())
	s.Close()
	if _, err := (&remote.Enroller{}).Enroll(t.Context(), enrollment(s.URL)); !errors.Is(err, querying.ErrUnreachable) {
		t.Errorf("%v", err)
	}
}
