package identity

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"

	"github.com/mosaicstack/gateway/internal/fault"
)

// maxCSRBytes bounds a certificate request: 8192-bit RSA with a full set of attributes is under 8 KiB.
const maxCSRBytes = 64 << 10

// ErrCSR is the fault of a certificate request that cannot be signed. Asking again with a good one works: a bad
// request spends nothing.
var ErrCSR = &fault.Fault{
	Kind:   fault.Invalid,
	Code:   "csr_invalid",
	Detail: "the certificate request is not usable",
	Hint: "make one with: openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes " +
		`-keyout client.key -out client.csr -subj "/CN=federation"`,
}

// ParseCSRPEM reads one PKCS #10 certificate request (RFC 2986) in PEM (RFC 7468): exactly one block and nothing
// but white space around it, a key that CheckPublicKey accepts, and a signature by that key. What else it says
// (subject, names, extensions) is for nobody. The error is ErrCSR with the reason.
func ParseCSRPEM(b []byte) (*x509.CertificateRequest, error) {
	if len(b) > maxCSRBytes {
		return nil, ErrCSR.With("the certificate request has %d bytes, at most %d are read", len(b), maxCSRBytes)
	}
	b = bytes.TrimSpace(b)
	if len(b) == 0 {
		return nil, ErrCSR.With("the certificate request is empty")
	}
	if !bytes.HasPrefix(b, []byte("-----BEGIN ")) {
		return nil, ErrCSR.With("the certificate request is not PEM: it must start with -----BEGIN CERTIFICATE REQUEST-----")
	}
	// pem.Decode skips a block it cannot read and goes on to the next: one BEGIN line makes that impossible.
	if n := bytes.Count(b, []byte("-----BEGIN ")); n != 1 {
		return nil, ErrCSR.With("the PEM holds %d blocks, exactly one is expected", n)
	}
	block, rest := pem.Decode(b)
	if block == nil {
		return nil, ErrCSR.With("the PEM block is damaged or not closed by its END line")
	}
	if len(bytes.TrimSpace(rest)) != 0 {
		return nil, ErrCSR.With("something follows the PEM block")
	}
	if block.Type != "CERTIFICATE REQUEST" && block.Type != "NEW CERTIFICATE REQUEST" {
		return nil, ErrCSR.With("the PEM block is a %q, a CERTIFICATE REQUEST is expected", printable(block.Type))
	}
	if len(block.Headers) != 0 {
		return nil, ErrCSR.With("the PEM block has headers, a certificate request has none (RFC 7468, section 7)")
	}
	return parseCSR(block.Bytes)
}

// parseCSR reads the DER of a request. The key is judged before the signature: checking a signature under a
// key of absurd size is work somebody else chose for us.
func parseCSR(der []byte) (*x509.CertificateRequest, error) {
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, ErrCSR.With("the PEM block does not hold a PKCS #10 certificate request").Because(err)
	}
	if problem := keyProblem(csr.PublicKey); problem != "" {
		return nil, ErrCSR.With("%s", problem)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, ErrCSR.With("the certificate request is not signed by its own key").Because(err)
	}
	return csr, nil
}

// printable cuts a foreign label to what may stand in an answer.
func printable(s string) string {
	const most = 40
	out := make([]byte, 0, most)
	for i := 0; i < len(s) && len(out) < most; i++ {
		if s[i] >= ' ' && s[i] < 0x7f {
			out = append(out, s[i])
		}
	}
	return string(out)
}
