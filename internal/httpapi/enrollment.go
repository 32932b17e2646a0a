package httpapi

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/edge"
	"github.com/mosaicstack/gateway/internal/enroll"
	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/identity"
	"github.com/mosaicstack/gateway/internal/scope/strictjson"
)

const (
	typePEMChain = "application/pem-certificate-chain" // RFC 8555, section 9.1
	typeJSON     = "application/json"
	typeLines    = "application/x-ndjson"
)

// issuedBody answers a redemption.
type issuedBody struct {
	GrantID          uuid.UUID       `json:"grant_id"`
	PeerID           uuid.UUID       `json:"peer_id"`
	SubjectUserID    uuid.UUID       `json:"subject_user_id"`
	Certificate      string          `json:"certificate"`
	CertificateChain string          `json:"certificate_chain"`
	CARoot           string          `json:"ca_root"`
	CARoots          string          `json:"ca_roots"`
	SerialNumber     string          `json:"serial_number"`
	NotBefore        time.Time       `json:"not_before"`
	NotAfter         time.Time       `json:"not_after"`
	FederationURL    string          `json:"federation_url"`
	Scope            json.RawMessage `json:"scope"`
}

// enrollment adds the endpoints a stranger with a token may use. They are no huma operations: their bodies are
// JSON or PEM, and their answers too.
func (a *api) enrollment(r chi.Router) {
	r.Post("/api/federation/enrollment", a.redeem)
	r.Post("/api/federation/enrollment/{token}", a.redeem)
	r.Get("/api/federation/enrollment/{token}", a.explain)
}

// secretive keeps the token in the URL, and the certificate in the answer, out of caches and Referer headers. It
// is around everything, because a token is also in the address of a request that reaches no route.
func secretive(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Referrer-Policy", "no-referrer")
		next.ServeHTTP(w, r)
	})
}

func (a *api) redeem(w http.ResponseWriter, r *http.Request) {
	req, err := decodeRedemption(w, r)
	if err != nil {
		a.refuseStranger(w, r, err)
		return
	}
	issued, err := a.Enroll.Redeem(r.Context(), req)
	if err != nil {
		a.refuseStranger(w, r, err)
		return
	}
	if accepts(r, typePEMChain) {
		w.Header().Set("Content-Type", typePEMChain)
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, issued.Chain)
		return
	}
	w.Header().Set("Content-Type", typeJSON)
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(issuedBody{
		GrantID: issued.GrantID, PeerID: issued.PeerID, SubjectUserID: issued.SubjectUserID,
		Certificate: issued.Certificate, CertificateChain: issued.Chain, CARoot: issued.CARoot, CARoots: issued.CARoots, SerialNumber: issued.SerialNumber,
		NotBefore: issued.NotBefore, NotAfter: issued.NotAfter, FederationURL: issued.FederationURL, Scope: issued.Scope,
	})
}

// refuseStranger answers whoever has no token, or one that opens nothing, and has it counted for the audit log.
func (a *api) refuseStranger(w http.ResponseWriter, r *http.Request, err error) {
	a.noteRefusal(r.Context(), audit.Inbound, "enrollment.redeem", "", err)
	edge.WriteProblem(w, r, err)
}

// decodeRedemption reads {"csr","ttl_seconds"} or a bare PEM, and the token from the path, or from the body when
// the path has none.
func decodeRedemption(w http.ResponseWriter, r *http.Request) (enroll.Request, error) {
	req := enroll.Request{
		Token: chi.URLParam(r, "token"), IdempotencyKey: r.Header.Get("Idempotency-Key"),
		RequestID: edge.RequestID(r.Context()), RemoteAddress: edge.ClientAddress(r.Context()),
	}
	if _, sent := r.Header["Idempotency-Key"]; sent && req.IdempotencyKey == "" {
		return req, enroll.ErrKeyInvalid
	}
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil && r.Header.Get("Content-Type") != "" {
		return req, errContentType
	}
	// A client that trickles its body holds nothing but its own connection, and not for long.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(15 * time.Second))
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return req, errBodyTooLarge
	case err != nil:
		return req, errBadRequest.Because(err)
	}
	switch media {
	case typeJSON:
		return fromJSON(req, b)
	case "application/x-pem-file", "application/pkcs10":
		if req.Token == "" {
			return req, errContentType.Advise(`send application/json with {"token","csr"} here, or the PEM to /api/federation/enrollment/TOKEN`)
		}
		req.CSR = b
		return req, nil
	}
	return req, errContentType.Advise(`send application/json with {"csr"}, or the PEM itself as application/x-pem-file: curl -H 'Content-Type: application/x-pem-file' --data-binary @request.csr URL`)
}

func fromJSON(req enroll.Request, b []byte) (enroll.Request, error) {
	var in struct {
		Token *string `json:"token"`
		CSR   *string `json:"csr"`
		TTL   *int64  `json:"ttl_seconds"`
	}
	if err := strictly(b); err != nil {
		return req, err
	}
	if err := knownKeys(b, "token", "csr", "ttl_seconds"); err != nil {
		return req, err
	}
	if err := json.Unmarshal(b, &in); err != nil {
		return req, jsonProblem(err)
	}
	switch {
	case req.Token != "" && in.Token != nil:
		return req, errInvalid.With("the token is in the address already").Listing([]fault.Problem{{Path: "token", Detail: "unknown key"}})
	case req.Token == "" && in.Token == nil:
		return req, errInvalid.With("the token is missing").Listing([]fault.Problem{{Path: "token", Detail: "required"}})
	case in.Token != nil:
		req.Token = *in.Token
	}
	if in.CSR == nil {
		return req, identity.ErrCSR.With("the certificate request is missing: send it as the string csr")
	}
	req.CSR, req.TTL = []byte(*in.CSR), in.TTL
	return req, nil
}

// knownKeys refuses keys that an object does not have, whatever their case.
func knownKeys(doc []byte, known ...string) error {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(doc, &object); err != nil {
		return jsonProblem(err)
	}
	var problems []fault.Problem
	for _, key := range slices.Sorted(maps.Keys(object)) {
		if !slices.Contains(known, key) {
			problems = append(problems, fault.Problem{Path: strictjson.Key("", key), Detail: "unknown key"})
		}
	}
	if problems != nil {
		return errInvalid.Listing(problems)
	}
	return nil
}

// jsonProblem says what encoding/json found, with the path it found it at. The error itself goes no further than
// the answer: it repeats what was sent, which may be a token, and the log is no place for it.
func jsonProblem(err error) error {
	var wrongType *json.UnmarshalTypeError
	if errors.As(err, &wrongType) {
		path := wrongType.Field
		if path == "" {
			path = "$"
		}
		kind, _, _ := strings.Cut(wrongType.Value, " ") // a number's digits come behind it
		return errInvalid.Listing([]fault.Problem{{Path: path, Detail: "a " + kind + " cannot be used here"}})
	}
	return errBadRequest.Because(err)
}

func accepts(r *http.Request, media string) bool {
	for _, header := range r.Header.Values("Accept") {
		for part := range strings.SplitSeq(header, ",") {
			if got, params, err := mime.ParseMediaType(strings.TrimSpace(part)); err == nil && got == media {
				q, err := strconv.ParseFloat(cmp.Or(params["q"], "1"), 64)
				return err == nil && q > 0
			}
		}
	}
	return false
}

// explain tells a person who opened an enrollment URL what it is. It never spends the token, and does not repeat
// it.
func (a *api) explain(w http.ResponseWriter, r *http.Request) {
	view, err := a.Enroll.Look(r.Context(), chi.URLParam(r, "token"), edge.ClientAddress(r.Context()))
	if err == nil {
		err = view.Err
	}
	if err != nil {
		a.refuseStranger(w, r, err)
		return
	}
	lines := []string{
		"This is a Mosaic enrollment URL. It can be redeemed once, until " + view.ExpiresAt.UTC().Format(time.RFC3339) + ".",
		"Opening it has not used it up.",
		"",
		"On the gateway that shall query this one, its admin runs, with the whole address of this page:",
		"    mosaic federation peer add 'URL' --name NAME",
		"",
		"Without a gateway, with OpenSSL and curl:",
		"    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj / -keyout client.key -out client.csr",
		"    curl -H 'Content-Type: application/x-pem-file' -H 'Accept: application/pem-certificate-chain' --data-binary @client.csr -o client.crt 'URL'",
	}
	text := strings.Join(lines, "\n") + "\n"
	if accepts(r, "text/html") {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", "default-src 'none'")
		_, _ = fmt.Fprintf(w, "<!doctype html><html lang=\"en\"><title>Mosaic enrollment</title><pre>%s</pre></html>\n", html.EscapeString(text))
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, text)
}

// typeCRL is a revocation list in DER (RFC 5280, section 4.2.1.13).
const typeCRL = "application/pkix-crl"

// crl gives the CA's revocation list to anybody: it names serial numbers and nothing else.
func (a *api) crl(w http.ResponseWriter, r *http.Request) {
	list, err := a.CRL(r.Context())
	if err != nil {
		edge.WriteProblem(w, r, err)
		return
	}
	w.Header().Set("Content-Type", typeCRL)
	_, _ = w.Write(list)
}
