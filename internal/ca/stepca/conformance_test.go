package stepca_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/smallstep/certificates/api"

	"github.com/mosaicstack/gateway/internal/ca"
	"github.com/mosaicstack/gateway/internal/ca/catest"
	"github.com/mosaicstack/gateway/internal/ca/stepca/stepcatest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	server := stepcatest.Start(t)
	catest.Run(t, func(t *testing.T) ca.Authority { return server.Client(t) })
}

// trusting is a plain HTTP client that trusts the server's root, for what our client would never send.
func trusting(t *testing.T, roots []*x509.Certificate, certs ...tls.Certificate) *http.Client {
	t.Helper()
	pool := x509.NewCertPool()
	for _, root := range roots {
		pool.AddCert(root)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: certs, MinVersion: tls.VersionTLS12}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// TestTemplate runs the template in a stock step-ca. What the CA says is mapped to the faults that the suite
// expects, since the client never mints such tokens.
func TestTemplate(t *testing.T) {
	t.Parallel()
	server := stepcatest.Start(t)
	plain := trusting(t, server.Roots)
	p := catest.Provisioner{
		Name:         ca.FederationProvisioner,
		EncryptedKey: server.Provisioner(t, ca.FederationProvisioner).EncryptedKey,
		Password:     server.Password,
		Audience:     server.URL + "/1.0/sign",
	}
	catest.RunTemplate(t, p, func(ctx context.Context, csr *x509.CertificateRequest, token string) (ca.Chain, error) {
		body, err := json.Marshal(api.SignRequest{
			CsrPEM: api.NewCertificateRequest(csr), OTT: token, NotAfter: api.NewTimeDuration(time.Now().Add(time.Hour)),
		})
		if err != nil {
			return ca.Chain{}, err
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, server.URL+"/1.0/sign", bytes.NewReader(body))
		if err != nil {
			return ca.Chain{}, err
		}
		resp, err := plain.Do(req)
		if err != nil {
			return ca.Chain{}, err
		}
		defer resp.Body.Close()
		said, err := io.ReadAll(resp.Body)
		if err != nil {
			return ca.Chain{}, err
		}
		switch resp.StatusCode {
		case http.StatusCreated:
			var answer api.SignResponse
			err := json.Unmarshal(said, &answer)
			return ca.Chain{Leaf: answer.ServerPEM.Certificate}, err
		case http.StatusBadRequest: // what Step-CA makes of the template's fail
			if !bytes.Contains(said, []byte("mosaic-fed: ")) {
				return ca.Chain{}, fmt.Errorf("the template's own words are missing: %s", said)
			}
			return ca.Chain{}, ca.ErrPolicy
		default:
			return ca.Chain{}, fmt.Errorf("status %d: %s", resp.StatusCode, said)
		}
	})
}

func TestStepCADoesNotRenew(t *testing.T) {
	t.Parallel()
	server := stepcatest.Start(t)
	client := server.Client(t)
	key := catest.NewKey(t)
	req := catest.NewRequest(t)
	req.CSR = catest.NewCSR(t, key, x509.CertificateRequest{})
	chain, err := client.IssueLeaf(catest.Context(t), req)
	if err != nil {
		t.Fatal(err)
	}
	cert := tls.Certificate{Certificate: [][]byte{chain.Leaf.Raw}, PrivateKey: key}
	for _, c := range chain.Intermediates {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	renewer := trusting(t, server.Roots, cert)
	post, err := http.NewRequestWithContext(catest.Context(t), http.MethodPost, server.URL+"/1.0/renew", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := renewer.Do(post)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("renewal at the CA was answered %d: it copies the claims and asks nobody", resp.StatusCode)
	}
}
