package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
)

// load is peers asking without pause, each on a connection it keeps. They repeat nothing by themselves: what they
// were answered and what they were not is known for every request.
type load struct {
	targets []*target
	clients []*loadClient
	stop    context.CancelFunc
	group   errgroup.Group

	mu        sync.Mutex
	delivered map[string]int // the status of every answer that came whole, by request id
	wrong     []string       // answers and ends of connections that nothing explains
}

// target is a replica as clients see it. Its address changes when it is started again.
type target struct {
	addr atomic.Pointer[string]

	answered    atomic.Int64 // answers that came whole: 200, 403, 404
	unavailable atomic.Int64 // 503 with a code that says so
	refused     atomic.Int64 // connections that could not be made
	cut         atomic.Int64 // requests that were sent and not, or not wholly, answered
	closing     atomic.Int64 // answers that said that their connection ends
}

func (l *target) at(g *gatewayProcess) {
	addr := strings.TrimPrefix(g.FederationURL, "https://")
	l.addr.Store(&addr)
}

// caller is whom a client of a load speaks for, what it asks and what it must be told.
type caller struct {
	cert   tls.Certificate
	roots  *x509.CertPool
	paths  []string
	status []int
}

// newLoad begins a load. Half of the clients of each replica may read; a quarter's peer is suspended.
func (a *arena) newLoad(t *testing.T, clients int) *load {
	t.Helper()
	may, err := a.hold(t.Context(), "reader", "reader@example.org", "90d", 1)
	if err != nil {
		t.Fatal(err)
	}
	not, err := a.hold(t.Context(), "suspended", "suspended@example.org", "90d", 1)
	if err != nil {
		t.Fatal(err)
	}
	may.close()
	not.close()
	if out, err := a.change(t.Context(), 0, not, "suspend"); err != nil || out.code != "" {
		t.Fatal(out, err)
	}
	reader := caller{
		may.cert, may.roots,
		[]string{"/resources/tasks", "/resources/tasks/" + may.row, "/capabilities", "/resources/tasks/" + uuid.NewString()},
		[]int{http.StatusOK, http.StatusOK, http.StatusOK, http.StatusNotFound},
	}
	suspended := caller{not.cert, not.roots, []string{"/resources/tasks"}, []int{http.StatusForbidden}}
	l := &load{delivered: map[string]int{}}
	for _, g := range a.replicas {
		to := &target{}
		to.at(g)
		l.targets = append(l.targets, to)
	}
	for i := range clients {
		c := &loadClient{load: l, number: i, target: l.targets[i%len(l.targets)], caller: reader}
		if i/len(l.targets)%4 == 3 {
			c.caller = suspended
		}
		l.clients = append(l.clients, c)
	}
	return l
}

// start lets all clients ask until end is called.
func (l *load) start(ctx context.Context) {
	ctx, l.stop = context.WithCancel(ctx)
	for _, c := range l.clients {
		l.group.Go(func() error { c.run(ctx); return nil })
	}
}

// end stops the load and waits for it.
func (l *load) end() {
	l.stop()
	_ = l.group.Wait() // it has no errors
}

func (l *load) complain(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wrong = append(l.wrong, fmt.Sprintf(format, args...))
}

// loadClient asks one question after the other.
type loadClient struct {
	*load
	number int
	target *target
	caller caller
	http2  bool
	asked  int
	conn   connection
}

// pauseAfterRefusal keeps clients from spinning while nobody listens.
const pauseAfterRefusal = 5 * time.Millisecond

func (c *loadClient) run(ctx context.Context) {
	defer c.hangUp()
	for ctx.Err() == nil {
		if c.conn == nil {
			var err error
			if c.conn, err = c.dial(ctx); err != nil {
				c.refused(ctx)
				continue
			}
		}
		c.asked++
		n := c.asked % len(c.caller.paths)
		id := fmt.Sprintf("load-%d-%d", c.number, c.asked)
		a := c.conn.ask(c.caller.paths[n], id)
		if errors.Is(a.err, syscall.ECONNREFUSED) { // HTTP/2 connects when it is asked
			c.refused(ctx)
			continue
		}
		c.judge(id, c.caller.status[n], a)
	}
}

func (c *loadClient) refused(ctx context.Context) {
	c.target.refused.Add(1)
	select {
	case <-ctx.Done():
	case <-time.After(pauseAfterRefusal):
	}
}

func (c *loadClient) hangUp() {
	if c.conn != nil {
		c.conn.close()
		c.conn = nil
	}
}

// judge keeps what became of a request.
func (c *loadClient) judge(id string, want int, a reply) {
	if a.err != nil || a.closing {
		c.hangUp()
	}
	if a.closing {
		c.target.closing.Add(1)
	}
	switch {
	case a.err != nil:
		c.target.cut.Add(1)
	case a.id != id:
		c.complain("%s was answered as %s", id, a.id)
	case a.status == want:
		c.mu.Lock()
		c.delivered[id] = a.status
		c.mu.Unlock()
		c.target.answered.Add(1)
	case a.status == http.StatusServiceUnavailable && (a.code == "database_unavailable" || a.code == "audit_unavailable"):
		c.target.unavailable.Add(1)
	default:
		c.complain("%s was answered %d %s, want %d", id, a.status, a.body, want)
	}
}

// connection is how a client asks.
type connection interface {
	ask(path, id string) reply
	close()
}

// replyTimeout is longer than the gateway takes for its slowest answer.
const replyTimeout = 20 * time.Second

func (c *loadClient) dial(ctx context.Context) (connection, error) {
	trust := &tls.Config{RootCAs: c.caller.roots, Certificates: []tls.Certificate{c.caller.cert}, MinVersion: tls.VersionTLS13}
	if c.http2 {
		transport := &http.Transport{TLSClientConfig: trust, ForceAttemptHTTP2: true}
		return &multiplexed{http.Client{Transport: transport, Timeout: replyTimeout}, *c.target.addr.Load()}, nil
	}
	trust.NextProtos = []string{"http/1.1"}
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: replyTimeout}, Config: trust}
	conn, err := d.DialContext(ctx, "tcp", *c.target.addr.Load())
	if err != nil {
		return nil, err
	}
	return &wire{conn, bufio.NewReader(conn)}, nil
}

// reply is what came back. Its err is why it is not a whole answer.
type reply struct {
	status  int
	id      string
	code    string
	body    []byte
	closing bool
	err     error
}

func request(path, id string) (*http.Request, error) {
	req, err := http.NewRequest(http.MethodGet, path, nil) //nolint:noctx // the connection has a deadline
	if err == nil {
		req.Header.Set("X-Request-Id", id)
	}
	return req, err
}

func readReply(resp *http.Response) (a reply) {
	defer resp.Body.Close()
	a.status, a.id, a.closing = resp.StatusCode, resp.Header.Get("X-Request-Id"), resp.Close
	if a.body, a.err = io.ReadAll(resp.Body); a.err == nil && a.status != http.StatusOK {
		var p problem
		a.err = json.Unmarshal(a.body, &p)
		a.code = p.Code
	}
	return a
}

// wire is one HTTP/1.1 connection whose every byte is accounted for. The transport of net/http would repeat a request
// whose connection broke, and the two could not be told apart afterwards.
type wire struct {
	net.Conn
	from *bufio.Reader
}

func (w *wire) close() { _ = w.Close() }

func (w *wire) ask(path, id string) reply {
	_ = w.SetDeadline(time.Now().Add(replyTimeout))
	req, err := request("https://127.0.0.1/federation/v1"+path, id)
	if err != nil {
		return reply{err: err}
	}
	if err := req.Write(w); err != nil {
		return reply{err: err}
	}
	resp, err := http.ReadResponse(w.from, req)
	if err != nil {
		return reply{err: err}
	}
	return readReply(resp)
}

// multiplexed is HTTP/2 as every Go program speaks it: a request that a GOAWAY says was not looked at is repeated on
// another connection, which is refused here.
type multiplexed struct {
	http.Client
	addr string
}

func (m *multiplexed) close() { m.CloseIdleConnections() }

var errNotHTTP2 = errors.New("not HTTP/2")

func (m *multiplexed) ask(path, id string) reply {
	req, err := request("https://"+m.addr+"/federation/v1"+path, id)
	if err != nil {
		return reply{err: err}
	}
	resp, err := m.Do(req)
	if err != nil {
		return reply{err: err}
	}
	a := readReply(resp)
	if a.err == nil && resp.ProtoMajor != 2 {
		a.err = errNotHTTP2
	}
	return a
}

// onRecord compares every answer that a client has with the audit log, and returns how many it compared.
func (a *arena) onRecord(t *testing.T, delivered map[string]int) int {
	t.Helper()
	rows, err := a.db.Query(t.Context(), `SELECT request_id, status_code FROM federation_audit_log WHERE direction = 'inbound' AND request_id LIKE 'load-%'`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	missing := maps.Clone(delivered)
	seen := map[string]bool{}
	for rows.Next() {
		var id string
		var status int
		if err := rows.Scan(&id, &status); err != nil {
			t.Fatal(err)
		}
		if want, ok := delivered[id]; ok && status != want {
			t.Errorf("%s was answered %d and is on record with %d", id, want, status)
		}
		if seen[id] {
			t.Errorf("%s is on record twice", id)
		}
		seen[id] = true
		delete(missing, id)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	if len(missing) > 0 {
		some := ""
		for id, status := range missing {
			if some += fmt.Sprintf(" %s(%d)", id, status); len(some) > 300 {
				break
			}
		}
		t.Errorf("%d of %d answers are not on record:%s", len(missing), len(delivered), some)
	}
	return len(delivered)
}

// String is where the load stands.
func (l *load) String() string {
	var b strings.Builder
	for i, to := range l.targets {
		fmt.Fprintf(&b, "replica %d at %s: %d answered, %d told unavailable, %d cut off, %d connections refused\n",
			i, *to.addr.Load(), to.answered.Load(), to.unavailable.Load(), to.cut.Load(), to.refused.Load())
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, complaint := range l.wrong[:min(10, len(l.wrong))] {
		fmt.Fprintln(&b, complaint)
	}
	return b.String()
}

// until waits for a condition of the load.
func (l *load) until(t *testing.T, within time.Duration, what string, holds func() bool) time.Duration {
	t.Helper()
	begun := time.Now()
	for deadline := time.After(within); !holds(); {
		select {
		case <-deadline:
			t.Fatalf("not within %s: %s\n%s", within, what, l)
		case <-time.After(2 * time.Millisecond):
		}
	}
	return time.Since(begun)
}
