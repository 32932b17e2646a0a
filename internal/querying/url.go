package querying

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"net/url"
	"strings"

	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/peer"
	"github.com/mosaicstack/gateway/internal/seal"
)

const (
	enrollmentPath = "/api/federation/enrollment"
	maxURLBytes    = 4096
	maxTokenBytes  = 256
)

// EnrollmentURL is what an enrollment URL says.
type EnrollmentURL struct {
	Host          string // with the port when the URL has one
	endpoint      string
	token         seal.Secret
	caFingerprint [sha256.Size]byte
}

// ParseEnrollmentURL reads https://host[:port][/prefix]/api/federation/enrollment/TOKEN?ca=FINGERPRINT. Plain
// http is for loopback hosts only: elsewhere the token would cross a network readable. The errors are
// ErrURLInvalid and ErrCAMissing, and repeat nothing of the URL but its scheme.
func ParseEnrollmentURL(s string) (EnrollmentURL, error) {
	u, err := parseHTTPURL(s, ErrURLInvalid, "the enrollment URL")
	if err != nil {
		return EnrollmentURL{}, err
	}
	path := u.EscapedPath()
	at := strings.LastIndex(path, enrollmentPath+"/")
	if at < 0 {
		return EnrollmentURL{}, ErrURLInvalid.With("the enrollment URL has no %s/TOKEN in its path", enrollmentPath)
	}
	token := path[at+len(enrollmentPath)+1:]
	if !tokenShaped(token) {
		return EnrollmentURL{}, ErrURLInvalid.With("the enrollment URL does not end with a token")
	}
	ca, err := caParameter(u.RawQuery)
	if err != nil {
		return EnrollmentURL{}, err
	}
	return EnrollmentURL{
		Host: u.Host, token: seal.NewSecret(token), caFingerprint: ca,
		endpoint: u.Scheme + "://" + u.Host + path[:at] + enrollmentPath,
	}, nil
}

// parseHTTPURL reads the URLs we are given to connect to.
func parseHTTPURL(s string, invalid *fault.Fault, what string) (*url.URL, error) {
	s = strings.TrimSpace(s)
	if len(s) > maxURLBytes {
		return nil, invalid.With("%s has over %d characters", what, maxURLBytes)
	}
	u, err := url.Parse(s) // its error repeats the URL, and with it the token
	switch {
	case err != nil || u.Opaque != "":
		return nil, invalid.With("%s cannot be read as a URL", what)
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, invalid.With("%s must begin with https://", what)
	case u.Hostname() == "":
		return nil, invalid.With("%s names no host", what)
	case !hostShaped(u.Hostname()):
		return nil, invalid.With("%s names a host with characters that are not used here; write international names in punycode", what)
	case u.User != nil:
		return nil, invalid.With("%s must not carry a user name or password", what)
	case u.Fragment != "" || strings.Contains(s, "#"):
		return nil, invalid.With("%s must not have a fragment", what)
	case u.Scheme == "http" && !loopbackHost(u.Hostname()):
		return nil, invalid.With("%s must begin with https://: http is accepted for this machine itself only", what)
	}
	return u, nil
}

// hostShaped takes addresses without a zone, and names in ASCII: what looks alike must be alike.
func hostShaped(host string) bool {
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.Zone() == ""
	}
	for _, c := range []byte(host) {
		ok := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_'
		if !ok {
			return false
		}
	}
	return len(host) <= 253
}

// loopbackHost tells whether a host of a URL means this machine. What localhost resolves to is checked again when
// it is dialled.
func loopbackHost(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

// tokenShaped checks the alphabet (base64url), not the length: what a token is, is the peer's to say.
func tokenShaped(s string) bool {
	for _, c := range []byte(s) {
		ok := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_'
		if !ok {
			return false
		}
	}
	return s != "" && len(s) <= maxTokenBytes
}

func caParameter(rawQuery string) (sum [sha256.Size]byte, err error) {
	query, err := url.ParseQuery(rawQuery)
	if err != nil {
		return sum, ErrURLInvalid.With("the part of the enrollment URL behind ? cannot be read")
	}
	values := query["ca"]
	if len(values) == 0 || len(values) == 1 && values[0] == "" {
		return sum, ErrCAMissing
	}
	if len(values) > 1 {
		return sum, ErrURLInvalid.With("the enrollment URL has ca= more than once")
	}
	decoded, err := hex.DecodeString(values[0])
	if err != nil || len(decoded) != len(sum) {
		return sum, ErrURLInvalid.With("ca= in the enrollment URL is not %d hexadecimal digits", 2*len(sum))
	}
	return [sha256.Size]byte(decoded), nil
}

// hash is what a redemption is remembered by: the token itself is never stored.
func (u EnrollmentURL) hash() [sha256.Size]byte { return sha256.Sum256([]byte(u.token.Reveal())) }

// Slug makes a peer's name of a URL's host: the first label of a domain name, or the whole of an address or a
// single label with its port. The result may still be no valid name, "local" for one.
func (u EnrollmentURL) Slug() string {
	host := strings.ToLower(u.Host)
	parsed := url.URL{Host: host}
	name := parsed.Hostname()
	if _, err := netip.ParseAddr(name); err != nil {
		if label, rest, _ := strings.Cut(name, "."); rest != "" {
			host = label
		}
	}
	var b strings.Builder
	for _, c := range []byte(host) {
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
			b.WriteByte(c)
		} else if s := b.String(); s != "" && !strings.HasSuffix(s, "-") {
			b.WriteByte('-')
		}
	}
	slug := b.String()
	return strings.Trim(slug[:min(len(slug), 63)], "-")
}

// name is the peer's name: the one given, or one made of the host.
func (u EnrollmentURL) name(given string) (string, error) {
	if given != "" {
		return peer.ParseName(given)
	}
	name, err := peer.ParseName(u.Slug())
	if err != nil {
		f := fault.From(err)
		return "", f.With("%s gives no name for the peer: %s", u.Host, f.Detail).Advise("choose one: --name NAME")
	}
	return name, nil
}

// parseFederationURL reads where a peer says that it answers. It is https always: the peer proves itself with a
// certificate of the CA that was pinned, and we with ours.
func parseFederationURL(s string) (*url.URL, error) {
	u, err := parseHTTPURL(s, ErrAnswerInvalid, "the federation_url of the peer's answer")
	if err != nil {
		return nil, err
	}
	switch {
	case u.Scheme != "https":
		return nil, ErrAnswerInvalid.With("the federation_url of the peer's answer is not https")
	case u.RawQuery != "" || u.ForceQuery:
		return nil, ErrAnswerInvalid.With("the federation_url of the peer's answer has a query")
	}
	u.Path, u.RawPath = strings.TrimRight(u.Path, "/"), strings.TrimRight(u.RawPath, "/")
	return u, nil
}
