package querying_test

import (
	"testing"

	"github.com/mosaicstack/gateway/internal/identity"
	"github.com/mosaicstack/gateway/internal/querying"
	"github.com/mosaicstack/gateway/internal/querying/peertest"
)

// The public endpoint proves nothing of a CA: who stands in between and passes everything on could add a root.
func TestAnEnrollmentTeachesNoRootButTheURLs(t *testing.T) {
	t.Parallel()
	w, b := newWorld(t), newOther(t)
	between := peertest.NewCA(t)
	b.falsify = func(answer map[string]any, _ redemption) {
		answer["ca_roots"] = peertest.PEM(between.Root, b.ca.Root)
	}
	w.mustAdd(b.url("t"))
	if n := w.count(`SELECT count(*) FROM federation_credentials c JOIN federation_peers p ON p.id = c.peer_id
		WHERE c.ca_root_pem = $1 AND p.ca_root_pem = $1`, b.ca.RootPEM()); n != 1 {
		t.Error("another root than the URL's is trusted")
	}
}

// Whoever owns another CA can show the peer's root beside their own: it is public. They cannot sign under it.
func TestTheURLsRootMustVouchForTheCertificate(t *testing.T) {
	t.Parallel()
	w, b := newWorld(t), newOther(t)
	between := peertest.NewCA(t)
	b.falsify = func(answer map[string]any, in redemption) {
		csr, err := identity.ParseCSRPEM([]byte(in.CSR))
		noError(t, err)
		leaf := between.Client(t, csr.PublicKey, peertest.Leaf{Grant: b.grant, User: b.user})
		answer["certificate"], answer["certificate_chain"] = peertest.PEM(leaf), between.Chain(leaf)
		answer["ca_root"], answer["ca_roots"] = between.RootPEM(), peertest.PEM(between.Root, b.ca.Root)
	}
	_, err := w.add(b.url("t"))
	wantError(t, err, querying.ErrCertificateMismatch)
	if n := w.count(`SELECT count(*) FROM federation_credentials WHERE state = 'active'`); n != 0 {
		t.Error("a certificate of another CA is used")
	}
}

// During a rollover a URL may name the root that the certificate's own answer no longer leads to first.
func TestAURLOfTheOldRootIsRedeemedDuringARollover(t *testing.T) {
	t.Parallel()
	w, b := newWorld(t), newOther(t)
	coming := peertest.NewCA(t)
	b.falsify = func(answer map[string]any, _ redemption) {
		answer["ca_root"], answer["ca_roots"] = coming.RootPEM(), peertest.PEM(coming.Root, b.ca.Root)
	}
	added := w.mustAdd(b.url("t"))
	if added.Peer.CAFingerprint != b.ca.Fingerprint() {
		t.Errorf("the peer is known with %s", added.Peer.CAFingerprint)
	}
	b.falsify = func(answer map[string]any, _ redemption) {
		answer["ca_roots"] = b.ca.RootPEM() + answer["certificate"].(string)
	}
	_, err := w.add(b.url("u"))
	wantError(t, err, querying.ErrAnswerInvalid)
}
