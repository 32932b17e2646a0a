package identity_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"math/big"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/identity"
)

func TestVerifyIssued(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	old := identity.Arc("1.3.6.1.4.1.55555")
	strangerKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := *ca.root // the same name, another key
	template.PublicKey, template.SubjectKeyId, template.AuthorityKeyId = nil, nil, nil
	stranger, err := sign(&template, &template, strangerKey.Public(), strangerKey)
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		leaf  func(*forgery)
		want  func(*identity.Want)
		roots []*x509.Certificate
		now   time.Duration
		ok    bool
	}{
		"as asked":                {ok: true},
		"a serial of the CA":      {want: func(w *identity.Want) { w.Serial = nil }, ok: true},
		"no beginning asked for":  {want: func(w *identity.Want) { w.NotBefore = time.Time{} }, ok: true},
		"backdated by a minute":   {want: func(w *identity.Want) { w.NotBefore = ca.now }, ok: true},
		"ends a minute later":     {leaf: func(f *forgery) { f.NotAfter = f.NotAfter.Add(time.Minute) }, ok: true},
		"ends sooner":             {leaf: func(f *forgery) { f.NotAfter = f.NotAfter.Add(-time.Hour) }, ok: true},
		"ends two minutes later":  {leaf: func(f *forgery) { f.NotAfter = f.NotAfter.Add(2 * time.Minute) }},
		"begins long before":      {leaf: func(f *forgery) { f.NotBefore = f.NotBefore.Add(-10 * time.Minute) }},
		"begins later":            {leaf: func(f *forgery) { f.NotBefore = f.NotBefore.Add(10 * time.Minute) }, now: time.Hour},
		"has ended":               {now: 25 * time.Hour},
		"another key":             {want: func(w *identity.Want) { w.PublicKey = strangerKey.Public() }},
		"no key":                  {want: func(w *identity.Want) { w.PublicKey = nil }},
		"another grant":           {want: func(w *identity.Want) { w.GrantID = uuid.New() }},
		"another user":            {want: func(w *identity.Want) { w.UserID = uuid.New() }},
		"another serial":          {want: func(w *identity.Want) { w.Serial = big.NewInt(9) }},
		"another host":            {want: func(w *identity.Want) { w.Profile.Host = "elsewhere.example" }},
		"an arc that is only old": {leaf: func(f *forgery) { f.ExtraExtensions[0].Id, f.ExtraExtensions[1].Id = old.Grant(), old.User() }},
		"not the profile":         {leaf: func(f *forgery) { f.ExtKeyUsage = nil }},
		"no root":                 {roots: []*x509.Certificate{}},
		"another root":            {roots: []*x509.Certificate{stranger}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := ca.good()
			want := identity.Want{
				Profile:   identity.Profile{Arcs: []identity.Arc{identity.DefaultArc, old}, Host: host},
				PublicKey: f.public, GrantID: grantID, UserID: userID,
				Serial: f.SerialNumber, NotBefore: f.NotBefore, NotAfter: f.NotAfter,
			}
			if test.leaf != nil {
				test.leaf(f)
			}
			if test.want != nil {
				test.want(&want)
			}
			leaf, err := sign(&f.Certificate, ca.issuer, f.public, ca.issuerKey)
			if err != nil {
				t.Fatal(err)
			}
			roots := test.roots
			if roots == nil {
				roots = []*x509.Certificate{ca.root}
			}
			_, _, err = identity.VerifyIssued(leaf, []*x509.Certificate{ca.issuer}, roots, want, ca.now.Add(test.now))
			switch {
			case test.ok && err != nil:
				t.Error(err)
			case !test.ok && !errors.Is(err, identity.ErrNotAsAsked):
				t.Errorf("got %v, want %s", err, identity.ErrNotAsAsked.Code)
			case !test.ok && fault.From(err).Code != identity.ErrNotAsAsked.Code:
				t.Errorf("the outermost fault is %s", fault.From(err).Code)
			}
		})
	}
}

func TestVerifyIssuedWithoutArc(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	_, _, err := identity.VerifyIssued(nil, nil, nil, identity.Want{}, ca.now)
	if !errors.Is(err, identity.ErrNotAsAsked) {
		t.Errorf("got %v", err)
	}
}
