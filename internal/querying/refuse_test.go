package querying_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/identity"
	"github.com/mosaicstack/gateway/internal/peer"
	"github.com/mosaicstack/gateway/internal/querying"
	"github.com/mosaicstack/gateway/internal/querying/peertest"
)

// The answer is hostile input until every check has passed.
func TestAnAnswerThatIsNotAsAskedIsNotUsed(t *testing.T) {
	t.Parallel()
	w, stranger := newWorld(t), peertest.NewCA(t)
	_, otherKey := peertest.Key(t)
	set := func(field string, value any) func(*other) {
		return func(b *other) { b.falsify = func(a map[string]any, _ redemption) { a[field] = value } }
	}
	reissue := func(ca func(*other) *peertest.CA, l peertest.Leaf, key any) func(*other) {
		return func(b *other) {
			b.falsify = func(a map[string]any, in redemption) {
				if key == nil {
					csr, err := identity.ParseCSRPEM([]byte(in.CSR))
					noError(t, err)
					key = csr.PublicKey
				}
				l.Grant, l.User = b.grant, b.user
				leaf := ca(b).Client(t, key, l)
				a["certificate"], a["certificate_chain"] = peertest.PEM(leaf), ca(b).Chain(leaf)
			}
		}
	}
	own := func(b *other) *peertest.CA { return b.ca }
	for name, test := range map[string]struct {
		prepare func(*other)
		want    *fault.Fault
	}{
		"another root": {set("ca_root", stranger.RootPEM()), querying.ErrCAUnproven},
		"the intermediate as root": {func(b *other) {
			b.falsify = func(a map[string]any, _ redemption) { a["ca_root"] = peertest.PEM(b.ca.Intermediate) }
		}, querying.ErrCAUnproven},
		"two roots": {func(b *other) {
			b.falsify = func(a map[string]any, _ redemption) { a["ca_root"] = b.ca.RootPEM() + stranger.RootPEM() }
		}, querying.ErrAnswerInvalid},
		"a root of another type": {set("ca_root", 7), querying.ErrAnswerInvalid},
		"no root":                {set("ca_root", nil), querying.ErrAnswerInvalid},
		"a key as root":          {set("ca_root", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), querying.ErrAnswerInvalid},
		"words around the root": {func(b *other) {
			b.falsify = func(a map[string]any, _ redemption) { a["ca_root"] = "hello\n" + b.ca.RootPEM() }
		}, querying.ErrAnswerInvalid},
		"a chain without end":       {set("certificate_chain", strings.Repeat(stranger.RootPEM(), 9)), querying.ErrAnswerInvalid},
		"a huge chain":              {set("certificate_chain", strings.Repeat("A", 65<<10)), querying.ErrAnswerInvalid},
		"damaged PEM":               {set("certificate_chain", "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----"), querying.ErrAnswerInvalid},
		"PEM of something else":     {set("certificate_chain", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}))), querying.ErrAnswerInvalid},
		"another certificate":       {set("certificate", stranger.RootPEM()), querying.ErrAnswerInvalid},
		"a chain of another CA":     {reissue(func(*other) *peertest.CA { return stranger }, peertest.Leaf{}, nil), querying.ErrCertificateMismatch},
		"another key":               {reissue(own, peertest.Leaf{}, otherKey), querying.ErrCertificateMismatch},
		"a server's certificate":    {reissue(own, peertest.Leaf{Usage: x509.ExtKeyUsageServerAuth}, nil), querying.ErrCertificateMismatch},
		"an expired certificate":    {reissue(own, peertest.Leaf{NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(-time.Minute)}, nil), querying.ErrCertificateMismatch},
		"a certificate of tomorrow": {reissue(own, peertest.Leaf{NotBefore: time.Now().Add(30 * time.Minute), NotAfter: time.Now().Add(time.Hour)}, nil), querying.ErrCertificateMismatch},
		"another host in it":        {reissue(own, peertest.Leaf{Host: "elsewhere.example.org"}, nil), querying.ErrCertificateMismatch},
		"claims under two arcs": {reissue(own, peertest.Leaf{Extra: []pkix.Extension{
			{Id: identity.Arc("1.3.6.1.4.1.5.5").Grant(), Value: append([]byte{0x0c, 36}, uuid.NewString()...)},
			{Id: identity.Arc("1.3.6.1.4.1.5.5").User(), Value: append([]byte{0x0c, 36}, uuid.NewString()...)},
		}}, nil), querying.ErrCertificateMismatch},
		"another grant":               {set("grant_id", uuid.New()), querying.ErrCertificateMismatch},
		"another user":                {set("subject_user_id", uuid.New()), querying.ErrCertificateMismatch},
		"no grant":                    {set("grant_id", "tasks"), querying.ErrAnswerInvalid},
		"a federation URL over http":  {set("federation_url", "http://127.0.0.1:1"), querying.ErrAnswerInvalid},
		"a federation URL with users": {set("federation_url", "https://a:b@127.0.0.1:1"), querying.ErrAnswerInvalid},
		"no federation URL":           {set("federation_url", ""), querying.ErrAnswerInvalid},
		"no scope":                    {set("scope", nil), querying.ErrAnswerInvalid},
		"a scope that is a list":      {set("scope", []string{"tasks"}), querying.ErrAnswerInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newOther(t)
			test.prepare(b)
			as := uuid.NewString()[:8]
			_, err := w.add(b.url(as), func(r *querying.AddRequest) { r.Name = "p-" + as })
			wantError(t, err, test.want)
			if strings.Contains(fault.From(err).Detail, "-----") {
				t.Errorf("%v repeats the answer", err)
			}
			if n := w.count(`SELECT count(*) FROM federation_credentials c JOIN federation_peers p ON p.id = c.peer_id
				WHERE c.state <> 'pending' AND p.name = $1`, "p-"+as); n != 0 {
				t.Error("it was used")
			}
			if p, err := w.peers.Peer(t.Context(), "p-"+as); err != nil || p.State != peer.Pending || p.EndpointURL != "" {
				t.Errorf("peer %+v, %v", p, err)
			}
		})
	}
}

func TestRefusalsOfThePeer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, test := range map[string]struct {
		refuse http.HandlerFunc
		kind   fault.Kind
		code   string
		detail string
		final  bool
	}{
		"a used token": {func(w http.ResponseWriter, _ *http.Request) {
			problem(w, 410, "enrollment_token_used", "it is\x1b[31m used\nup")
		}, fault.Gone, "enrollment_token_used", "refused the enrollment: it is[31m used up", true},
		"an unknown token":  {func(w http.ResponseWriter, _ *http.Request) { problem(w, 404, "enrollment_token_unknown", "no") }, fault.NotFound, "enrollment_token_unknown", "no", true},
		"an unknown reason": {func(w http.ResponseWriter, _ *http.Request) { problem(w, 403, "bad_mood", "not today") }, fault.BadGateway, "peer_refused", "not today (bad_mood)", true},
		"in progress": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "5")
			problem(w, 409, "enrollment_in_progress", "wait")
		}, fault.Conflict, "enrollment_in_progress", "wait", false},
		"too many": {func(w http.ResponseWriter, _ *http.Request) { problem(w, 429, "rate_limited", "wait") }, fault.RateLimited, "rate_limited", "wait", false},
		"no CA":    {func(w http.ResponseWriter, _ *http.Request) { problem(w, 503, "ca_unavailable", "") }, fault.Unavailable, "ca_unavailable", "status 503", false},
		"endless words": {func(w http.ResponseWriter, _ *http.Request) {
			problem(w, 410, "grant_closed", strings.Repeat("x", 9999))
		}, fault.Gone, "grant_closed", strings.Repeat("x", 500), true},
		"a code of its own": {func(w http.ResponseWriter, _ *http.Request) { problem(w, 410, "\x1b[2J", "no") }, fault.BadGateway, "peer_answer_invalid", "status 410 and no reason", false},
		"a proxy's page": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(http.StatusNotFound)
		}, fault.BadGateway, "peer_answer_invalid", "not JSON", false},
		"JSON without a code": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusNotFound)
		}, fault.BadGateway, "peer_answer_invalid", "status 404", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newOther(t)
			b.refuse = test.refuse
			as := "p-" + uuid.NewString()[:8]
			_, err := w.add(b.url(as), func(r *querying.AddRequest) { r.Name = as })
			f := fault.From(err)
			if f.Kind != test.kind || f.Code != test.code || !strings.Contains(f.Detail, test.detail) || !strings.Contains(f.Detail, "127.0.0.1") || f.Hint == "" {
				t.Errorf("%+v", f)
			}
			if len(f.Detail) > 700 || strings.ContainsAny(f.Detail, "\x1b\n") {
				t.Errorf("detail %q", f.Detail)
			}
			if name == "in progress" && f.RetryAfter != 5*time.Second {
				t.Errorf("retry after %s", f.RetryAfter)
			}
			left := w.count(`SELECT count(*) FROM federation_peers p LEFT JOIN federation_credentials c ON c.peer_id = p.id WHERE p.name = $1`, as)
			if test.final != (left == 0) {
				t.Errorf("%d rows are left", left)
			}
			events := slices.DeleteFunc(w.events("peer.add"), func(e audit.Entry) bool { return e.PeerName != as })
			if test.final && (len(events) != 1 || events[0].Outcome != audit.Denied || events[0].DeniedReason != test.code || events[0].StatusCode != test.kind.Status()) {
				t.Errorf("audit %+v", events)
			}
		})
	}
}
