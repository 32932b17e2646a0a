package querying

import (
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/peer"
)

const (
	aToken = "pXkq3b7nTfaZ0vWb5-4yE_c1QmJtRk2sUoLxNhDgIiA"
	aCA    = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
)

func TestParseEnrollmentURL(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ url, endpoint, slug string }{
		"https":              {"https://work.example.org/api/federation/enrollment/" + aToken + "?ca=" + aCA, "https://work.example.org/api/federation/enrollment", "work"},
		"a port":             {"https://work.example.org:8443/api/federation/enrollment/" + aToken + "?ca=" + aCA, "https://work.example.org:8443/api/federation/enrollment", "work"},
		"a prefix":           {"https://example.org/mosaic/b/api/federation/enrollment/" + aToken + "?ca=" + aCA, "https://example.org/mosaic/b/api/federation/enrollment", "example"},
		"an escaped prefix":  {"https://example.org/a%2Fb/api/federation/enrollment/" + aToken + "?ca=" + aCA, "https://example.org/a%2Fb/api/federation/enrollment", "example"},
		"loopback over http": {"http://127.0.0.1:3000/api/federation/enrollment/" + aToken + "?ca=" + aCA, "http://127.0.0.1:3000/api/federation/enrollment", "127-0-0-1-3000"},
		"localhost":          {"http://localhost:3000/api/federation/enrollment/" + aToken + "?ca=" + aCA, "http://localhost:3000/api/federation/enrollment", "localhost-3000"},
		"IPv6 loopback":      {"http://[::1]:3000/api/federation/enrollment/" + aToken + "?ca=" + aCA, "http://[::1]:3000/api/federation/enrollment", "1-3000"},
		"a private address":  {"https://10.1.2.3/api/federation/enrollment/" + aToken + "?ca=" + aCA, "https://10.1.2.3/api/federation/enrollment", "10-1-2-3"},
		"upper case":         {"HTTPS://Work.Example.org/api/federation/enrollment/" + aToken + "?ca=" + strings.ToUpper(aCA), "https://Work.Example.org/api/federation/enrollment", "work"},
		"white space around": {" https://work.example.org/api/federation/enrollment/" + aToken + "?ca=" + aCA + "\n", "https://work.example.org/api/federation/enrollment", "work"},
		"further parameters": {"https://work.example.org/api/federation/enrollment/" + aToken + "?x=1&ca=" + aCA, "https://work.example.org/api/federation/enrollment", "work"},
		"a single label":     {"https://gateway/api/federation/enrollment/" + aToken + "?ca=" + aCA, "https://gateway/api/federation/enrollment", "gateway"},
		"underscores":        {"https://_dev_box.lan/api/federation/enrollment/" + aToken + "?ca=" + aCA, "https://_dev_box.lan/api/federation/enrollment", "dev-box"},
		"a long label":       {"https://" + strings.Repeat("a", 70) + ".org/api/federation/enrollment/" + aToken + "?ca=" + aCA, "https://" + strings.Repeat("a", 70) + ".org/api/federation/enrollment", strings.Repeat("a", 63)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u, err := ParseEnrollmentURL(test.url)
			if err != nil {
				t.Fatal(err)
			}
			if u.endpoint != test.endpoint || u.token.Reveal() != aToken || u.caFingerprint[0] != 0x01 || u.caFingerprint[31] != 0xef {
				t.Errorf("%+v", u)
			}
			if u.Slug() != test.slug {
				t.Errorf("slug %q, want %q", u.Slug(), test.slug)
			}
			if strings.Contains(u.endpoint, aToken) {
				t.Error("the token is in the endpoint")
			}
		})
	}
}

func TestParseEnrollmentURLRefuses(t *testing.T) {
	t.Parallel()
	const path = "/api/federation/enrollment/" + aToken
	for name, test := range map[string]struct {
		url  string
		want *fault.Fault
	}{
		"empty":                      {"", ErrURLInvalid},
		"no URL":                     {"://", ErrURLInvalid},
		"opaque":                     {"https:work.example.org" + path + "?ca=" + aCA, ErrURLInvalid},
		"plain http":                 {"http://work.example.org" + path + "?ca=" + aCA, ErrURLInvalid},
		"http and a private address": {"http://10.0.0.1" + path + "?ca=" + aCA, ErrURLInvalid},
		"http and a look-alike":      {"http://127.0.0.1.example.org" + path + "?ca=" + aCA, ErrURLInvalid},
		"another scheme":             {"ftp://work.example.org" + path + "?ca=" + aCA, ErrURLInvalid},
		"no host":                    {"https://" + path + "?ca=" + aCA, ErrURLInvalid},
		"a user":                     {"https://work@example.org" + path + "?ca=" + aCA, ErrURLInvalid},
		"a password":                 {"https://a:b@example.org" + path + "?ca=" + aCA, ErrURLInvalid},
		"a fragment":                 {"https://work.example.org" + path + "?ca=" + aCA + "#x", ErrURLInvalid},
		"an empty fragment":          {"https://work.example.org" + path + "?ca=" + aCA + "#", ErrURLInvalid},
		"an international name":      {"https://wörk.example.org" + path + "?ca=" + aCA, ErrURLInvalid},
		"a zone":                     {"https://[fe80::1%25eth0]" + path + "?ca=" + aCA, ErrURLInvalid},
		"another path":               {"https://work.example.org/enroll/" + aToken + "?ca=" + aCA, ErrURLInvalid},
		"no token":                   {"https://work.example.org/api/federation/enrollment/?ca=" + aCA, ErrURLInvalid},
		"no token and no slash":      {"https://work.example.org/api/federation/enrollment?ca=" + aCA, ErrURLInvalid},
		"a path behind the token":    {"https://work.example.org" + path + "/x?ca=" + aCA, ErrURLInvalid},
		"an escaped token":           {"https://work.example.org" + path + "%2e%2e?ca=" + aCA, ErrURLInvalid},
		"a long token":               {"https://work.example.org/api/federation/enrollment/" + strings.Repeat("a", 257) + "?ca=" + aCA, ErrURLInvalid},
		"too long":                   {"https://work.example.org/" + strings.Repeat("a", 4096) + path + "?ca=" + aCA, ErrURLInvalid},
		"no ca":                      {"https://work.example.org" + path, ErrCAMissing},
		"an empty ca":                {"https://work.example.org" + path + "?ca=", ErrCAMissing},
		"a short ca":                 {"https://work.example.org" + path + "?ca=" + aCA[2:], ErrURLInvalid},
		"a long ca":                  {"https://work.example.org" + path + "?ca=" + aCA + "00", ErrURLInvalid},
		"a ca that is not hex":       {"https://work.example.org" + path + "?ca=" + strings.Repeat("g", 64), ErrURLInvalid},
		"two of ca":                  {"https://work.example.org" + path + "?ca=" + aCA + "&ca=" + aCA, ErrURLInvalid},
		"a damaged query":            {"https://work.example.org" + path + "?ca=%zz", ErrURLInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := ParseEnrollmentURL(test.url)
			if !errors.Is(err, test.want) {
				t.Fatalf("%v", err)
			}
			if f := fault.From(err); f.Hint == "" || strings.Contains(err.Error(), aToken[:8]) {
				t.Errorf("hint %q, error %v", f.Hint, err)
			}
		})
	}
}

func TestNamesOfPeers(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		host, given, want string
		err               error
	}{
		{"work.example.org", "", "work", nil},
		{"work.example.org", "office", "office", nil},
		{"local.example.org", "", "", peer.ErrNameReserved},
		{"local.example.org", "work", "work", nil},
		{"work.example.org", "all", "", peer.ErrNameReserved},
		{"work.example.org", "Not A Name", "", peer.ErrNameInvalid},
		{"_._", "", "", peer.ErrNameInvalid},
	} {
		got, err := EnrollmentURL{Host: test.host}.name(test.given)
		if got != test.want || !errors.Is(err, test.err) {
			t.Errorf("%+v: %q, %v", test, got, err)
		}
		if err != nil && test.given == "" && !strings.Contains(fault.From(err).Hint, "--name") {
			t.Errorf("%+v: hint %q", test, fault.From(err).Hint)
		}
	}
}

func TestFederationURLs(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"https://fed.example.org":         "https://fed.example.org",
		"https://fed.example.org:3443/":   "https://fed.example.org:3443",
		"https://127.0.0.1:3443/a/b//":    "https://127.0.0.1:3443/a/b",
		"https://[::1]:3443":              "https://[::1]:3443",
		"http://127.0.0.1:3443":           "",
		"http://fed.example.org":          "",
		"https://a@fed.example.org":       "",
		"https://fed.example.org/?x":      "",
		"https://fed.example.org?":        "",
		"https://fed.example.org#x":       "",
		"https://":                        "",
		"":                                "",
		"file:///etc/passwd":              "",
		"https://fed.example.org\r\nX: y": "",
	} {
		u, err := parseFederationURL(in)
		if want == "" && !errors.Is(err, ErrAnswerInvalid) || want != "" && (err != nil || u.String() != want) {
			t.Errorf("%q: %v, %v", in, u, err)
		}
	}
}

// Whatever is accepted is posted to the host that a person reads in the URL, over https or to this machine.
func FuzzParseEnrollmentURL(f *testing.F) {
	f.Add("https://work.example.org/api/federation/enrollment/" + aToken + "?ca=" + aCA)
	f.Add("http://[::1]:3000/p/api/federation/enrollment/x?ca=" + aCA)
	f.Add("https://a@b/api/federation/enrollment/x?ca=" + aCA)
	f.Fuzz(func(t *testing.T, s string) {
		u, err := ParseEnrollmentURL(s)
		if err != nil {
			if !errors.Is(err, ErrURLInvalid) && !errors.Is(err, ErrCAMissing) {
				t.Fatal(err)
			}
			return
		}
		given, err := url.Parse(strings.TrimSpace(s))
		if err != nil {
			t.Fatal(err)
		}
		posted, err := url.Parse(u.endpoint)
		if err != nil || posted.Host != given.Host || posted.Scheme != given.Scheme || posted.User != nil || posted.RawQuery != "" {
			t.Fatalf("%q is posted to %q: %v", s, u.endpoint, err)
		}
		if posted.Scheme != "https" && !loopbackHost(posted.Hostname()) {
			t.Fatalf("%q is posted to %q", s, u.endpoint)
		}
		if name, err := u.name(""); err == nil {
			if _, err := peer.ParseName(name); err != nil {
				t.Fatalf("%q: %v", name, err)
			}
		}
	})
}
