package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// torture makes the storms long: make torture sets it.
func torture(few, many int) int {
	if os.Getenv("MOSAIC_TORTURE") != "" {
		return many
	}
	return few
}

// arena is a few replicas on one database, an admin at each of them, and a way past them to the database.
type arena struct {
	*cluster
	replicas []*gatewayProcess
	admins   []*http.Client // over the admin sockets
	db       *pgxpool.Pool
	began    time.Time // what instants count from, on the monotonic clock
	values   atomic.Int64
}

func newArena(t *testing.T, replicas int) *arena {
	t.Helper()
	a := &arena{cluster: newCluster(t), began: time.Now()}
	a.replicas = a.cluster.replicas(replicas)
	for _, g := range a.replicas {
		transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", g.Socket)
		}}
		t.Cleanup(transport.CloseIdleConnections)
		a.admins = append(a.admins, &http.Client{Transport: transport, Timeout: 30 * time.Second})
	}
	a.db = a.cluster.database(t)
	return a
}

// database is a pool on the cluster's database, for what is looked at or changed behind the product's back.
func (c *cluster) database(t *testing.T) *pgxpool.Pool {
	t.Helper()
	conf, err := pgxpool.ParseConfig(c.pg.DSN())
	if err != nil {
		t.Fatal(err)
	}
	conf.ConnConfig.DialFunc = c.pg.DialFunc
	db, err := pgxpool.NewWithConfig(t.Context(), conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return db
}

func (a *arena) now() int64 { return int64(time.Since(a.began)) }

// admin does something at one replica. It returns the code of a refusal, or nothing; what is no answer is an error.
func (a *arena) admin(ctx context.Context, replica int, method, path string, body, into any, header ...string) (code string, err error) {
	doc, err := json.Marshal(body)
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://gateway/api"+path, bytes.NewReader(doc))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := a.admins[replica].Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return "", err
	case resp.StatusCode < 300 && into == nil:
		return "", nil
	case resp.StatusCode < 300:
		return "", json.Unmarshal(said, into)
	}
	var p problem
	if err := json.Unmarshal(said, &p); err != nil || resp.StatusCode >= 500 {
		return "", fmt.Errorf("%s %s at replica %d: %d %s", method, path, replica, resp.StatusCode, said)
	}
	return p.Code, nil
}

// must is an act that sets something up.
func (a *arena) must(ctx context.Context, method, path string, body, into any, header ...string) error {
	code, err := a.admin(ctx, rand.IntN(len(a.replicas)), method, path, body, into, header...)
	if err == nil && code != "" {
		err = fmt.Errorf("%s %s: %s", method, path, code)
	}
	return err
}

// holder is one grant with everything about it: its subject, the one row the subject has, and the peer's clients.
type holder struct {
	peer, peerID string
	id           string
	user, row    string
	cert         tls.Certificate
	roots        *x509.CertPool
	clients      []*client
	expires      time.Time // when it or its certificate ends, whichever is first
	brief        bool      // it ends soon, and so does its certificate
}

const unlimited = 1_000_000 // requests a minute, and at once: the limits are not what is looked at here

// hold makes a user with one row and a grant over it, and enrols the peer, which has some clients for each replica:
// every second resumes, and the others keep connections of both HTTP versions.
func (a *arena) hold(ctx context.Context, peer, user, life string, each int) (*holder, error) {
	h := &holder{peer: peer}
	var made struct{ ID string }
	if err := a.must(ctx, http.MethodPost, "/users", map[string]string{"email": user}, &made); err != nil {
		return nil, err
	}
	h.user = made.ID
	if err := a.must(ctx, http.MethodPost, "/resources/tasks", map[string]string{"title": "0"}, &made, "Mosaic-Act-For", user); err != nil {
		return nil, err
	}
	h.row = made.ID
	var granted struct {
		Grant struct {
			ID        string
			PeerID    string    `json:"peer_id"`
			ExpiresAt time.Time `json:"expires_at"`
		}
		Enrollment enrollmentDoc
	}
	if err := a.must(ctx, http.MethodPost, "/federation/grants", map[string]any{
		"peer": peer, "user": user, "scope": json.RawMessage(tasksOnly), "expires": life, "rate": fmt.Sprintf("%d/min", unlimited), "burst": unlimited,
	}, &granted); err != nil {
		return nil, err
	}
	h.id, h.peerID, h.expires = granted.Grant.ID, granted.Grant.PeerID, granted.Grant.ExpiresAt
	var err error
	if h.cert, h.roots, err = a.redeem(ctx, granted.Enrollment); err != nil {
		return nil, err
	}
	if cert := h.cert; cert.Leaf.NotAfter.Before(h.expires) {
		h.expires = cert.Leaf.NotAfter
	}
	for i := range each * len(a.replicas) {
		c := newClient(a.replicas[i/each].FederationURL, h.row, h.cert, h.roots)
		c.resumes = i%2 == 1
		c.transport.DisableKeepAlives, c.transport.ForceAttemptHTTP2 = c.resumes, i%4 == 0
		h.clients = append(h.clients, c)
	}
	for _, c := range h.clients { // the next request is on this one's connection, or with its ticket
		if r, err := c.ask(ctx, "list"); err != nil || r.code != "" {
			return nil, errors.Join(fmt.Errorf("first request: %+v", r), err)
		}
	}
	return h, nil
}

// close ends the connections of the peer.
func (h *holder) close() {
	for _, c := range h.clients {
		c.http.CloseIdleConnections()
	}
}

// redeem turns an enrollment token into a certificate, at any replica.
func (a *arena) redeem(ctx context.Context, e enrollmentDoc) (tls.Certificate, *x509.CertPool, error) {
	key, csr := newCSR(a.t, &x509.CertificateRequest{})
	var issued issuedDoc
	if err := a.must(ctx, http.MethodPost, "/federation/enrollment", map[string]string{"token": e.Token, "csr": csr}, &issued); err != nil {
		return tls.Certificate{}, nil, err
	}
	return keyPair(issued, key)
}

// client is a peer asking one replica, one question at a time: on a connection that it keeps, or on a new one each
// time that resumes the TLS session of the one before.
type client struct {
	http      *http.Client
	transport *http.Transport
	base      string
	row       string
	resumes   bool
}

// result is how an operation of a history ended.
type result struct {
	code  string // of the refusal; empty when it was admitted, or done
	value string // what the row said
	over  string // kept or resumed, of a request; empty for a handshake of its own
}

// handshake is the code of a client whose certificate was refused before it could ask.
const handshake = "handshake"

func newClient(at, row string, cert tls.Certificate, roots *x509.CertPool) *client {
	t := &http.Transport{TLSClientConfig: &tls.Config{
		RootCAs: roots, Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13, ClientSessionCache: tls.NewLRUClientSessionCache(1),
	}}
	return &client{base: at + "/federation/v1", row: row, transport: t, http: &http.Client{Timeout: 15 * time.Second, Transport: t}}
}

func (c *client) ask(ctx context.Context, verb string) (result, error) {
	path := map[string]string{"list": "/resources/tasks", "get": "/resources/tasks/" + c.row, "capabilities": "/capabilities"}[verb]
	var reused bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused }})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+path, nil)
	if err != nil {
		return result{}, err
	}
	resp, err := c.http.Do(req)
	if alert := (*net.OpError)(nil); errors.As(err, &alert) && alert.Op == "remote error" { // so crypto/tls wraps the peer's alert
		return result{code: handshake}, nil
	} else if err != nil {
		return result{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return result{}, err
	}
	out, err := read(verb, resp.StatusCode, body)
	switch {
	case reused && !c.resumes:
		out.over = "kept"
	case resp.TLS.DidResume && c.resumes:
		out.over = "resumed"
	}
	return out, err
}

// read takes the row's value or the refusal out of an answer.
func read(verb string, status int, body []byte) (result, error) {
	var title struct{ Title string }
	var data struct{ Data json.RawMessage }
	var p problem
	var err error
	switch {
	case status != http.StatusOK:
		err = json.Unmarshal(body, &p)
		if err == nil && (status != http.StatusForbidden && status != http.StatusUnauthorized) {
			err = fmt.Errorf("%s was answered %d %s", verb, status, body)
		}
		return result{code: p.Code}, err
	case verb == "capabilities":
		return result{}, nil
	}
	if err := json.Unmarshal(body, &data); err != nil {
		return result{}, err
	}
	row := strings.TrimSuffix(strings.TrimPrefix(string(data.Data), "["), "]")
	err = json.Unmarshal([]byte(row), &title)
	return result{value: title.Title}, err
}

// change is what an admin does at one replica about a holder, its peer or its user.
func (a *arena) change(ctx context.Context, replica int, h *holder, verb string) (result, error) {
	method, path, body := http.MethodPost, "/federation/peers/"+h.peerID+"/"+verb, any(struct{}{})
	switch verb {
	case "revoke peer":
		path = "/federation/peers/" + h.peerID + "/revoke"
	case "revoke grant":
		path = "/federation/grants/" + h.id + "/revoke"
	case "disable", "enable":
		method, path, body = http.MethodPatch, "/users/"+h.user, map[string]bool{"disabled": verb == "disable"}
	}
	code, err := a.admin(ctx, replica, method, path, body, nil)
	return result{code: code}, err
}

// write changes the row behind the gateway's back: one commit.
func (a *arena) write(ctx context.Context, h *holder, value string) error {
	_, err := a.db.Exec(ctx, `UPDATE tasks SET title = $2 WHERE id = $1`, h.row, value)
	return err
}

// end brings the end of a grant forward. No certificate lives for less than a minute, so that a grant that ends soon
// would be a minute's wait.
func (a *arena) end(ctx context.Context, h *holder, in time.Duration) error {
	return a.db.QueryRow(ctx, `UPDATE federation_grants SET expires_at = clock_timestamp() + make_interval(secs => $2) WHERE id = $1 RETURNING expires_at`,
		h.id, in.Seconds()).Scan(&h.expires)
}
