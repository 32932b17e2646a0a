package stepca_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/mosaicstack/gateway/internal/ca"
	"github.com/mosaicstack/gateway/internal/ca/catest"
	"github.com/mosaicstack/gateway/internal/ca/stepca"
	"github.com/mosaicstack/gateway/internal/fault"
)

func TestNewRefusesUnusableSettings(t *testing.T) {
	t.Parallel()
	root := strangerRoot(t)
	key := marshal(t, newJWK(t))
	good := func() stepca.Config {
		p := stepca.Provisioner{Name: "x", KeyJSON: key}
		return stepca.Config{URL: "https://ca.example:9000/x", Roots: []*x509.Certificate{root}, Federation: p, Server: p}
	}
	if _, err := stepca.New(good()); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		change func(*stepca.Config)
		want   *fault.Fault
	}{
		"no URL":           {func(c *stepca.Config) { c.URL = "" }, stepca.ErrConfig},
		"http":             {func(c *stepca.Config) { c.URL = "http://ca.example" }, stepca.ErrConfig},
		"no host":          {func(c *stepca.Config) { c.URL = "https:///x" }, stepca.ErrConfig},
		"not a URL":        {func(c *stepca.Config) { c.URL = "https://a b" }, stepca.ErrConfig},
		"a password in it": {func(c *stepca.Config) { c.URL = "https://u:p@ca.example" }, stepca.ErrConfig},
		"a query":          {func(c *stepca.Config) { c.URL = "https://ca.example?x" }, stepca.ErrConfig},
		"no root":          {func(c *stepca.Config) { c.Roots = nil }, stepca.ErrConfig},
		"no name":          {func(c *stepca.Config) { c.Federation.Name = "" }, stepca.ErrConfig},
		"no server name":   {func(c *stepca.Config) { c.Server.Name = "" }, stepca.ErrConfig},
		"garbage key":      {func(c *stepca.Config) { c.Federation.KeyJSON = []byte("x") }, ca.ErrKeyUnusable},
	}
	for name, test := range tests {
		cfg := good()
		test.change(&cfg)
		if _, err := stepca.New(cfg); err == nil || fault.From(err).Code != test.want.Code {
			t.Errorf("%s: got %v, want %s", name, err, test.want.Code)
		}
	}
}

func TestParseRoots(t *testing.T) {
	t.Parallel()
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: strangerRoot(t).Raw})
	for name, n := range map[string]int{"one": 1, "two": 2} {
		roots, err := stepca.ParseRoots(bytes.Repeat(root, n))
		if err != nil || len(roots) != n {
			t.Errorf("%s: got %d, %v", name, len(roots), err)
		}
	}
	key := catest.NewKey(t)
	for name, data := range map[string][]byte{
		"nothing": nil, "text": []byte("hello"), "a key": keyPEM(t, key.(*ecdsa.PrivateKey)),
		"a leaf":       pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: selfSigned(t, false).Raw}),
		"garbage":      pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}),
		"a key behind": append(bytes.Clone(root), keyPEM(t, key.(*ecdsa.PrivateKey))...),
	} {
		if _, err := stepca.ParseRoots(data); !errors.Is(err, stepca.ErrConfig) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestSecretsDoNotPrint(t *testing.T) {
	t.Parallel()
	p := stepca.Provisioner{Name: "x", Password: []byte("hunter2"), KeyJSON: []byte("hunter2")}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		for _, v := range []any{p, &p, stepca.Config{Federation: p}} {
			if got := fmt.Sprintf(verb, v); strings.Contains(got, "hunter2") || strings.Contains(got, "68756e74657232") {
				t.Errorf("%s of %T prints %s", verb, v, got)
			}
		}
	}
}
