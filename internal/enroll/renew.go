package enroll

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"math/big"
	"time"

	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/ca"
	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/grant"
	"github.com/mosaicstack/gateway/internal/identity"
	"github.com/mosaicstack/gateway/internal/scope/strictjson"
)

// MaxRenewalBytes bounds the body of a renewal.
const MaxRenewalBytes = 64 << 10

// What a renewal can be refused with, beside csr_invalid, certificate_mismatch and ca_unavailable.
var (
	ErrRenewalInvalid = &fault.Fault{
		Kind: fault.Invalid, Code: "renewal_invalid",
		Detail: "the renewal is refused",
		Hint:   `send {"csr": PEM} and nothing else`,
	}
	// The grant is good until its end: this must not look like grant_expired, which is for good.
	ErrGrantEnding = &fault.Fault{
		Kind: fault.Conflict, Code: "grant_ending",
		Detail: "the grant ends before another certificate could",
		Hint:   "ask the serving gateway's admin for a new grant; the certificate in use is good until its own end",
	}
)

// RenewalRequest asks for the right to sign the certificate that follows another one.
type RenewalRequest struct {
	By     identity.Identity // the certificate in use
	Hash   [32]byte          // of the certificate request
	Serial *big.Int
	Lease  time.Duration
}

// Renewal is that right, until its lease ends.
type Renewal struct {
	Grant    grant.Grant
	Now      time.Time // of the store
	Lifetime time.Duration
	Again    []byte // the answer that the same request got before
}

// Renewed is everything that is recorded of a new certificate.
type Renewed struct {
	By       identity.Identity
	Hash     [32]byte
	Identity identity.Identity // of the new certificate
	Root     [sha256.Size]byte // fingerprint of the root that it leads to
	Lifetime time.Duration     // as asked for
	Answer   []byte
	Act      audit.Act
}

// RenewalStore keeps what renewals need. Who may renew at all is decided in RecordRenewal, as at every request: its
// refusals are those of the federation listener.
type RenewalStore interface {
	// BeginRenewal records the serial before the CA is asked, or finds the answer of the same request. csr_invalid when
	// the request was answered and the answer is gone.
	BeginRenewal(ctx context.Context, r RenewalRequest) (Renewal, error)
	// DropRenewal settles an attempt that came to nothing. The serials that the CA may have signed are queued to be
	// revoked there.
	DropRenewal(ctx context.Context, serial *big.Int, signed ...*big.Int) error
	// RecordRenewal checks certificate, grant, peer and user again, records the certificate and revokes every other of
	// the grant but the one that asked. The answer is another's when the same request was recorded meanwhile.
	RecordRenewal(ctx context.Context, r Renewed) (answer []byte, err error)
}

// Renew exchanges a request made with the certificate by for the next certificate of its grant. Both are good then,
// until the new one is used. The same request gets the same answer again.
//
// Errors: csr_invalid, ErrRenewalInvalid, ErrGrantEnding, ErrMisissued, ca_unavailable, and the refusals of the
// federation listener. After every one of them the certificate in use is as good as before.
func (s *Service) Renew(ctx context.Context, by identity.Identity, body []byte, act audit.Act) ([]byte, error) {
	pem, err := parseRenewal(body)
	if err != nil {
		return nil, err
	}
	csr, err := identity.ParseCSRPEM(pem)
	if err != nil {
		return nil, err
	}
	key, err := identity.KeyHash(csr.PublicKey)
	if err != nil {
		return nil, err
	}
	if key == by.Key {
		return nil, identity.ErrCSR.With("the certificate request has the key of the certificate in use; each certificate has a key of its own")
	}
	serial, err := ca.NewSerial(s.Random)
	if err != nil {
		return nil, err
	}
	// As for an enrollment: whoever hangs up must not leave a certificate behind that nobody recorded.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), Lease)
	defer cancel()
	hash := sha256.Sum256(csr.Raw)
	r, err := s.Renewals.BeginRenewal(ctx, RenewalRequest{By: by, Hash: hash, Serial: serial, Lease: Lease})
	if err != nil || r.Again != nil {
		return r.Again, err
	}
	s.step("claimed")
	issued, id, signed, err := s.sign(ctx, Claim{Serial: serial, Grant: r.Grant, Now: r.Now}, csr, r.Lifetime)
	if errors.Is(err, ErrGrantExpired) {
		err = ErrGrantEnding.Because(err)
	}
	var answer []byte
	if err == nil {
		s.step("verified")
		answer, err = json.Marshal(issued)
	}
	if err != nil {
		if dropped := s.Renewals.DropRenewal(ctx, serial, signed...); dropped != nil {
			s.Log.Warn("renewal not settled", "grant_id", by.GrantID, "error", dropped) // the sweep finds it
		}
		return nil, err
	}
	answer, err = s.Renewals.RecordRenewal(ctx, Renewed{By: by, Hash: hash, Identity: id, Root: issued.root, Lifetime: r.Lifetime, Answer: answer, Act: act})
	if err == nil {
		s.step("activated")
	}
	return answer, err
}

// parseRenewal reads {"csr": PEM}, strictly.
func parseRenewal(body []byte) ([]byte, error) {
	var report strictjson.Report
	var pem []byte
	if root, ok := strictjson.Parse(body, strictjson.Limits{Bytes: MaxRenewalBytes, Depth: 2, Nodes: 20}, &report); ok {
		pem = readRenewal(root, &report)
	}
	if problems := report.Problems(); len(problems) > 0 {
		return nil, ErrRenewalInvalid.With("the renewal is refused: %s %s", problems[0].Path, problems[0].Detail).Listing(problems)
	}
	return pem, nil
}

func readRenewal(root strictjson.Value, report *strictjson.Report) (pem []byte) {
	if root.Kind != strictjson.Object {
		report.Wrong(root, strictjson.Object)
		return nil
	}
	if _, ok := root.Get("csr"); !ok {
		report.Add(root.End, "csr", "is missing")
	}
	for _, m := range root.Members {
		switch {
		case m.Name != "csr":
			report.Add(m.Start, m.Value.Path, "is not a key of a renewal")
		case m.Value.Kind != strictjson.String:
			report.Wrong(m.Value, strictjson.String)
		default:
			pem = []byte(m.Value.Text)
		}
	}
	return pem
}
