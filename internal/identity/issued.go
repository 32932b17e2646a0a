package identity

import (
	"crypto"
	"crypto/x509"
	"math/big"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/fault"
)

const (
	// backdate is how far Step-CA moves NotBefore into the past, so that peers whose clocks are behind accept a
	// new certificate at once.
	backdate = time.Minute
	// slack covers the time between asking and signing, and clocks as far apart as Step-CA's own token check
	// allows. A beginning that is off by a minute gives nobody anything; an end is held to backdate alone.
	slack = time.Minute
)

// ErrNotAsAsked is the fault of a CA that signed something else than was asked for. It is never the caller's
// doing: the certificate has to be revoked and nothing of it stored.
var ErrNotAsAsked = &fault.Fault{
	Kind:   fault.Internal,
	Code:   "certificate_not_as_asked",
	Detail: "the certificate authority signed something else than was asked for",
	Hint:   "the CA's provisioner must use deploy/step-ca/templates/mosaic-fed.tpl for this OID arc: run mosaic gateway doctor",
}

// Want is what was asked of the CA.
type Want struct {
	Profile   Profile          // the first arc is the one a new certificate must carry
	PublicKey crypto.PublicKey // the key of the certificate request
	GrantID   uuid.UUID
	UserID    uuid.UUID
	Serial    *big.Int  // nil when the CA chose it
	NotBefore time.Time // zero: the moment of signing
	NotAfter  time.Time
}

// VerifyIssued checks a certificate fresh from the CA before anything relies on it: the strict profile under the
// arc we emit, the key, claims, serial and lifetime that were asked for, and a chain (RFC 5280, section 6) to root, one
// of roots, that is good for TLS clients at now. The error is ErrNotAsAsked with the reason.
func VerifyIssued(leaf *x509.Certificate, intermediates, roots []*x509.Certificate, want Want, now time.Time) (id Identity, root *x509.Certificate, err error) {
	emitted := want.Profile
	emitted.Arcs = emitted.Arcs[:min(1, len(emitted.Arcs))]
	id, err = emitted.Parse(leaf)
	if err != nil {
		return id, nil, ErrNotAsAsked.With("%s", fault.From(err).Detail).Because(err)
	}
	key, comparable := want.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	switch {
	case !comparable || !key.Equal(leaf.PublicKey):
		return id, nil, ErrNotAsAsked.With("the certificate has another public key than its request")
	case id.GrantID != want.GrantID:
		return id, nil, ErrNotAsAsked.With("the certificate names another grant than was asked for")
	case id.UserID != want.UserID:
		return id, nil, ErrNotAsAsked.With("the certificate names another user than was asked for")
	case want.Serial != nil && want.Serial.Cmp(leaf.SerialNumber) != 0:
		return id, nil, ErrNotAsAsked.With("the certificate has another serial number than was recorded for it")
	}
	if err := checkLifetime(leaf, want, now); err != nil {
		return id, nil, err
	}
	root, err = checkChain(leaf, intermediates, roots, now)
	return id, root, err
}

// checkLifetime allows the CA's backdate at the beginning, and as much at the end: a provisioner that counts the
// lifetime from its own clock may end a minute late, never more.
func checkLifetime(leaf *x509.Certificate, want Want, now time.Time) error {
	begin := want.NotBefore
	if begin.IsZero() {
		begin = now
	}
	switch {
	case leaf.NotAfter.After(want.NotAfter.Add(backdate)):
		return ErrNotAsAsked.With("the certificate lives longer than was asked for")
	case leaf.NotBefore.Before(begin.Add(-backdate - slack)):
		return ErrNotAsAsked.With("the certificate begins earlier than was asked for")
	case leaf.NotBefore.After(begin.Add(slack)):
		return ErrNotAsAsked.With("the certificate begins later than was asked for")
	case !leaf.NotAfter.After(now):
		return ErrNotAsAsked.With("the certificate has ended already")
	}
	return nil
}

func checkChain(leaf *x509.Certificate, intermediates, roots []*x509.Certificate, now time.Time) (root *x509.Certificate, err error) {
	if len(roots) == 0 {
		return nil, ErrNotAsAsked.With("there is no root to check the certificate against")
	}
	opts := x509.VerifyOptions{
		Roots:         pool(roots),
		Intermediates: pool(intermediates),
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	chains, err := leaf.Verify(opts)
	if err != nil {
		return nil, ErrNotAsAsked.With("the certificate does not chain to the pinned root").Because(err)
	}
	return chains[0][len(chains[0])-1], nil
}

func pool(certs []*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range certs {
		if c != nil {
			p.AddCert(c)
		}
	}
	return p
}
