package querying

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/identity"
	"github.com/mosaicstack/gateway/internal/scope"
)

// The bounds of what an answer's PEM fields may hold.
const (
	maxPEMBytes = 64 << 10
	maxChain    = 8
)

// issued is the answer of a redemption as it stands on the wire. What is not listed is not used: dates and serial
// number are read from the certificate.
type issued struct {
	GrantID       uuid.UUID       `json:"grant_id"`
	SubjectUserID uuid.UUID       `json:"subject_user_id"`
	Certificate   string          `json:"certificate"`
	Chain         string          `json:"certificate_chain"`
	CARoot        string          `json:"ca_root"`
	CARoots       string          `json:"ca_roots"` // absent from peers that know of no rollover
	FederationURL string          `json:"federation_url"`
	Scope         json.RawMessage `json:"scope"`
}

// Certified is what a redemption gave, after every check.
type Certified struct {
	GrantID       uuid.UUID // the peer's, like SubjectUserID
	SubjectUserID uuid.UUID
	Scope         scope.Scope
	ChainPEM      string            // leaf first, then intermediates; nothing but certificates
	CARootPEM     string            // the roots that the peer is believed by: two while it rolls its CA over
	CAFingerprint [sha256.Size]byte // of the root that the certificate leads to
	FederationURL string            // without a slash at its end
	Serial        string            // decimal
	NotBefore     time.Time
	NotAfter      time.Time
	RenewAfter    time.Time // about half of its life; set by whoever received it
}

// verify reads the answer of an enrollment and believes none of it: a root in it must be the one the enrollment URL
// names, the chain must lead to that, and the certificate must be for our key and say what the answer says. The URL came
// from a person over another channel, so its fingerprint is what all trust in the peer starts from. Other roots in the
// answer count for nothing: who only stands in between could have put them there.
func verify(body []byte, wantCA [sha256.Size]byte, key crypto.PublicKey, now time.Time) (Certified, error) {
	a, err := readIssued(body)
	if err != nil {
		return Certified{}, err
	}
	for _, root := range append([]*x509.Certificate{a.root}, a.roots...) {
		fingerprint := identity.Fingerprint(root.Raw)
		if subtle.ConstantTimeCompare(fingerprint[:], wantCA[:]) == 1 {
			return a.certify(root, []*x509.Certificate{root}, key, now)
		}
	}
	return Certified{}, ErrCAUnproven
}

// answered is an answer whose PEM has been read.
type answered struct {
	issued
	root  *x509.Certificate
	roots []*x509.Certificate // all that the peer trusts now; empty when it did not say
}

func readIssued(body []byte) (answered, error) {
	var a answered
	if err := json.Unmarshal(body, &a.issued); err != nil {
		return a, ErrAnswerInvalid.With("the peer's enrollment answer is not the JSON document it should be").Because(err)
	}
	one, err := certificates(a.CARoot, "ca_root")
	if err != nil {
		return a, err
	}
	if len(one) != 1 {
		return a, ErrAnswerInvalid.With("ca_root in the peer's answer holds %d certificates instead of one", len(one))
	}
	a.root = one[0]
	if a.CARoots != "" {
		a.roots, err = readRoots(a.CARoots)
	}
	return a, err
}

// certify checks everything else against one root. trusted are the roots that the peer is believed by from now on.
func (a answered) certify(root *x509.Certificate, trusted []*x509.Certificate, key crypto.PublicKey, now time.Time) (Certified, error) {
	chain, err := certificates(a.Chain, "certificate_chain")
	if err != nil {
		return Certified{}, err
	}
	federation, err := parseFederationURL(a.FederationURL)
	if err != nil {
		return Certified{}, err
	}
	leaf := chain[0]
	if err := checkLeaf(leaf, a.issued, federation, key); err != nil {
		return Certified{}, err
	}
	if err := checkChain(leaf, chain[1:], root, now); err != nil {
		return Certified{}, err
	}
	granted, err := scope.Parse(a.Scope)
	if err != nil {
		return Certified{}, ErrAnswerInvalid.With("the scope in the peer's answer cannot be read here")
	}
	return Certified{
		GrantID: a.GrantID, SubjectUserID: a.SubjectUserID, Scope: granted,
		ChainPEM: encode(chain), CARootPEM: encode(trusted), CAFingerprint: identity.Fingerprint(root.Raw),
		FederationURL: federation.String(), Serial: leaf.SerialNumber.String(),
		NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter,
	}, nil
}

func checkLeaf(leaf *x509.Certificate, a issued, federation *url.URL, key crypto.PublicKey) error {
	alone, err := certificates(a.Certificate, "certificate")
	if err != nil {
		return err
	}
	ours, comparable := key.(interface{ Equal(crypto.PublicKey) bool })
	switch {
	case len(alone) != 1 || !bytes.Equal(alone[0].Raw, leaf.Raw):
		return ErrAnswerInvalid.With("certificate and certificate_chain in the peer's answer do not begin with the same certificate")
	case !comparable || !ours.Equal(leaf.PublicKey):
		return ErrCertificateMismatch.With("the peer answered with a certificate for another key than ours")
	}
	profile := identity.Profile{Arcs: arcsOf(leaf), Host: federation.Hostname()}
	id, err := profile.Parse(leaf)
	switch {
	case err != nil:
		return ErrCertificateMismatch.With("the certificate in the peer's answer is no federation certificate: %s", fault.From(err).Detail).Because(err)
	case id.GrantID != a.GrantID:
		return ErrCertificateMismatch.With("the certificate names another grant than the peer's answer")
	case id.UserID != a.SubjectUserID:
		return ErrCertificateMismatch.With("the certificate names another user than the peer's answer")
	}
	return nil
}

// arcsOf finds the OID arc of the peer. It is the peer's own to choose (its MOSAIC_OID_ARC), and nothing here
// depends on which it is; so it is read from the certificate, and must then carry both claims and be the only one.
func arcsOf(leaf *x509.Certificate) []identity.Arc {
	var arcs []identity.Arc
	for _, ext := range leaf.Extensions {
		prefix, ok := strings.CutSuffix(ext.Id.String(), ".1")
		if !ok || len(ext.Value) < 2 || ext.Value[0] != 0x0c || ext.Value[1] != 36 {
			continue
		}
		if arc, err := identity.ParseArc(prefix); err == nil && ext.Id.Equal(arc.Grant()) {
			arcs = append(arcs, arc)
		}
	}
	return arcs
}

func checkChain(leaf *x509.Certificate, intermediates []*x509.Certificate, root *x509.Certificate, now time.Time) error {
	opts := x509.VerifyOptions{
		Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: identity.JudgedAt(leaf, now),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	opts.Roots.AddCert(root)
	for _, c := range intermediates {
		opts.Intermediates.AddCert(c)
	}
	if _, err := leaf.Verify(opts); err != nil {
		return ErrCertificateMismatch.With("the certificate in the peer's answer is not good under the peer's CA now").Because(fmt.Errorf("%T", err)) // its text has the names that are in it
	}
	return nil
}

// certificates reads a PEM field: one certificate or more and nothing else.
func certificates(text, field string) ([]*x509.Certificate, error) {
	if len(text) > maxPEMBytes {
		return nil, ErrAnswerInvalid.With("%s in the peer's answer has over %d characters", field, maxPEMBytes)
	}
	var list []*x509.Certificate
	rest := []byte(strings.TrimSpace(text))
	for len(rest) > 0 && len(list) < maxChain {
		var block *pem.Block
		if !bytes.HasPrefix(rest, []byte("-----BEGIN CERTIFICATE-----")) {
			break
		}
		if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" {
			return nil, ErrAnswerInvalid.With("%s in the peer's answer is damaged PEM", field)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, ErrAnswerInvalid.With("%s in the peer's answer holds something that is not a certificate", field).Because(err)
		}
		list = append(list, c)
		rest = bytes.TrimSpace(rest)
	}
	if len(rest) > 0 || len(list) == 0 {
		return nil, ErrAnswerInvalid.With("%s in the peer's answer is not one to %d certificates in PEM", field, maxChain)
	}
	return list, nil
}

func encode(list []*x509.Certificate) string {
	var b strings.Builder
	for _, c := range list {
		_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}) // a Builder takes every write
	}
	return b.String()
}
