package identity

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"strings"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/fault"
)

// maxSerialBits is 20 octets of a positive DER integer (RFC 5280, section 4.1.2.2).
const maxSerialBits = 159

// ErrProfile is the fault of a certificate that is not a federation certificate, whoever signed it.
var ErrProfile = &fault.Fault{
	Kind:   fault.Unauthenticated,
	Code:   "certificate_profile",
	Detail: "the client certificate is not a federation certificate",
	Hint:   "enrol again: the serving gateway's admin gets a new URL with: mosaic federation grant token GRANT",
}

// Profile is what a federation leaf must look like here.
type Profile struct {
	Arcs []Arc  // the first is the one we emit; the rest are accepted while an arc is being changed
	Host string // the federation host in the URI name
}

// Parse reads the identity out of leaf, or says with ErrProfile which rule it breaks. It checks neither the
// chain nor the time: TLS has done the first, and the second belongs to the request.
func (p Profile) Parse(leaf *x509.Certificate) (Identity, error) {
	if leaf == nil || len(leaf.Raw) == 0 {
		return Identity{}, ErrProfile.With("there is no client certificate")
	}
	grant, user, err := p.claims(leaf)
	if err != nil {
		return Identity{}, err
	}
	for _, check := range []func(*x509.Certificate) error{checkExtensions, checkUsage, checkNotCA, checkBody} {
		if err := check(leaf); err != nil {
			return Identity{}, err
		}
	}
	if err := checkName(leaf, p.Host, grant, user); err != nil {
		return Identity{}, err
	}
	key, err := KeyHash(leaf.PublicKey)
	if err != nil {
		return Identity{}, ErrProfile.With("the public key cannot be read").Because(err)
	}
	return Identity{
		GrantID:     grant,
		UserID:      user,
		Fingerprint: Fingerprint(leaf.Raw),
		Key:         key,
		Serial:      leaf.SerialNumber.String(),
		NotBefore:   leaf.NotBefore,
		NotAfter:    leaf.NotAfter,
	}, nil
}

// claims finds the two extensions under exactly one of the accepted arcs. A leaf that carries claims under two
// arcs is refused even when they agree: which of them the CA vouched for is not ours to guess.
func (p Profile) claims(leaf *x509.Certificate) (grant, user uuid.UUID, err error) {
	found := false
	for _, arc := range p.Arcs {
		grants, users := extensions(leaf, arc.Grant()), extensions(leaf, arc.User())
		if len(grants) == 0 && len(users) == 0 {
			continue
		}
		if found {
			return grant, user, ErrProfile.With("the certificate carries claims under two arcs")
		}
		found = true
		if grant, err = claim("grant id", grants); err != nil {
			return grant, user, err
		}
		if user, err = claim("subject user id", users); err != nil {
			return grant, user, err
		}
	}
	if !found {
		return grant, user, ErrProfile.With("the certificate names neither a grant nor a subject user")
	}
	return grant, user, nil
}

func extensions(leaf *x509.Certificate, id asn1.ObjectIdentifier) []pkix.Extension {
	var out []pkix.Extension
	for _, ext := range leaf.Extensions {
		if ext.Id.Equal(id) {
			out = append(out, ext)
		}
	}
	return out
}

// The one encoding of a claim: a UTF8String (ITU-T X.690, tag 12) of 36 bytes in the shortest length form.
const (
	claimTag    = 0x0c
	claimLength = 36
)

// claim reads the one extension that must be there. The bytes are compared, not decoded: a decoder that
// tolerates another tag, a longer length form or trailing bytes would let two leaves mean the same grant.
func claim(what string, found []pkix.Extension) (uuid.UUID, error) {
	switch len(found) {
	case 0:
		return uuid.Nil, ErrProfile.With("the certificate names no %s", what)
	case 1:
	default:
		return uuid.Nil, ErrProfile.With("the certificate names %d times a %s", len(found), what)
	}
	ext := found[0]
	switch value := ext.Value; {
	case ext.Critical:
		return uuid.Nil, ErrProfile.With("the %s is marked critical", what)
	case len(value) == 0 || value[0] != claimTag:
		return uuid.Nil, ErrProfile.With("the %s is not a UTF8String", what)
	case len(value) < 2 || value[1] != claimLength:
		return uuid.Nil, ErrProfile.With("the %s has not the length of a UUID", what)
	case len(value) < 2+claimLength:
		return uuid.Nil, ErrProfile.With("the %s is cut short", what)
	case len(value) > 2+claimLength:
		return uuid.Nil, ErrProfile.With("bytes follow the %s", what)
	}
	text := string(ext.Value[2:])
	id, err := uuid.Parse(text)
	if err != nil {
		return uuid.Nil, ErrProfile.With("the %s is not a UUID", what)
	}
	if id.String() != text {
		return uuid.Nil, ErrProfile.With("the %s is not written in lower case", what)
	}
	return id, nil
}

func checkExtensions(leaf *x509.Certificate) error {
	if len(leaf.UnhandledCriticalExtensions) > 0 {
		return ErrProfile.With("the certificate has the critical extension %s, which is unknown here (RFC 5280, section 4.2)",
			leaf.UnhandledCriticalExtensions[0])
	}
	return nil
}

// checkUsage wants the key for signing TLS handshakes as a client, and for nothing else (RFC 5280, sections
// 4.2.1.3 and 4.2.1.12). A leaf with serverAuth would let a peer pose as this gateway.
func checkUsage(leaf *x509.Certificate) error {
	switch {
	case len(leaf.ExtKeyUsage) == 0 && len(leaf.UnknownExtKeyUsage) == 0:
		return ErrProfile.With("the certificate has no extended key usage")
	case len(leaf.UnknownExtKeyUsage) > 0:
		return ErrProfile.With("the certificate has the unknown extended key usage %s", leaf.UnknownExtKeyUsage[0])
	case len(leaf.ExtKeyUsage) > 1:
		return ErrProfile.With("the certificate has %d extended key usages, only clientAuth is accepted", len(leaf.ExtKeyUsage))
	case leaf.ExtKeyUsage[0] == x509.ExtKeyUsageAny:
		return ErrProfile.With("the certificate allows any extended key usage")
	case leaf.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth:
		return ErrProfile.With("the certificate's extended key usage is not clientAuth")
	case leaf.KeyUsage == 0:
		return ErrProfile.With("the certificate has no key usage")
	case leaf.KeyUsage != x509.KeyUsageDigitalSignature:
		return ErrProfile.With("the certificate's key usage is more or other than digitalSignature")
	}
	return nil
}

func checkNotCA(leaf *x509.Certificate) error {
	switch {
	case leaf.IsCA:
		return ErrProfile.With("the certificate is a CA")
	case len(extensions(leaf, asn1.ObjectIdentifier{2, 5, 29, 19})) > 0 && !leaf.BasicConstraintsValid:
		return ErrProfile.With("the certificate's basic constraints are not valid")
	case leaf.MaxPathLen > 0 || leaf.MaxPathLenZero:
		return ErrProfile.With("the certificate has a path length and is no CA (RFC 5280, section 4.2.1.9)")
	}
	return nil
}

// checkBody looks at the fields that are not extensions.
func checkBody(leaf *x509.Certificate) error {
	switch {
	case leaf.Version != 3:
		return ErrProfile.With("the certificate is of version %d, not 3", leaf.Version)
	case leaf.SerialNumber == nil || leaf.SerialNumber.Sign() <= 0:
		return ErrProfile.With("the certificate's serial number is not positive")
	case leaf.SerialNumber.BitLen() > maxSerialBits:
		return ErrProfile.With("the certificate's serial number has more than 20 octets (RFC 5280, section 4.1.2.2)")
	case !leaf.NotAfter.After(leaf.NotBefore):
		return ErrProfile.With("the certificate ends before it begins")
	}
	if problem := keyProblem(leaf.PublicKey); problem != "" {
		return ErrProfile.With("%s", problem)
	}
	return nil
}

// checkName wants the subject alternative name (RFC 5280, section 4.2.1.6) to be one URI, and that one to say
// the same as the claims. The extension is walked as DER: the standard library leaves out the kinds of name it
// has no field for, and an otherName beside the URI would go unseen.
func checkName(leaf *x509.Certificate, host string, grant, user uuid.UUID) error {
	found := extensions(leaf, asn1.ObjectIdentifier{2, 5, 29, 17})
	if len(found) != 1 {
		return ErrProfile.With("the certificate has no subject alternative name")
	}
	var names []asn1.RawValue
	if rest, err := asn1.Unmarshal(found[0].Value, &names); err != nil || len(rest) > 0 {
		return ErrProfile.With("the certificate's subject alternative name is not readable")
	}
	for _, name := range names {
		if name.Class != asn1.ClassContextSpecific || name.Tag != uriName || name.IsCompound {
			return ErrProfile.With("the certificate has a subject alternative name that is not a URI")
		}
	}
	if len(names) != 1 {
		return ErrProfile.With("the certificate has %d URI names, exactly one is expected", len(names))
	}
	want := SPIFFE(host, grant, user)
	if bytes.Equal(names[0].Bytes, []byte(want.String())) {
		return nil
	}
	if !strings.HasPrefix(string(names[0].Bytes), "spiffe://"+want.Host+"/") {
		return ErrProfile.With("the certificate is for another federation host")
	}
	return ErrProfile.With("the certificate's URI name and its extensions name different grants or users")
}

// uriName is the tag of uniformResourceIdentifier in a GeneralName.
const uriName = 6
