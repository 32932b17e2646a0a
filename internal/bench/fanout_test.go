package bench

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"
)

const (
	fanoutPeers  = 8
	fanoutRounds = 600 // of each side; the first tenth warms up and is not counted
)

// BenchmarkFanout compares a question to 8 peers with asking the same 8 at the same moment without a gateway, and
// taking the slowest. Target: at the median it adds under 2 ms.
//
// The peers are 8 grants of one gateway in a process of its own, each with connections of its own. What a question adds
// is a second gateway: a user's token, 8 credentials, 8 answers read strictly, merged, recorded, and one written.
//
// Far away, the peers are where peers are: their answers take 10 to 24 ms on the way, on both sides alike, and what is
// added is added when the last has come. Near, all 8 lists, both gateways and both databases want the same two
// processors at once, so that all of the question's own work is added, and a part of it eight times.
func BenchmarkFanout(b *testing.B) {
	asked := newWorldOf(b, "asked")
	asked.fill(20_000)
	home := newWorld(b)
	const scope = `{"resources":["tasks"],"max_rows_per_query":100}`
	var far, near askerConfig
	for i := range fanoutPeers {
		name := "peer" + strconv.Itoa(i)
		home.mosaic(nil, "federation", "peer", "add", asked.grant("through-"+name, scope).URL, "--name", name, "--user", "ada@example.org")
		cert, key := asked.enrol("alone-"+name, scope)
		near.Alone = append(near.Alone, loadConfig{CertPEM: cert, KeyPEM: key})
		near.Addresses = append(near.Addresses, asked.federation())
		far.Addresses = append(far.Addresses, distant(b, asked.federation(), time.Duration(5+i)*time.Millisecond))
	}
	var made struct{ Token string }
	home.mosaic(&made, "token", "create", "--user", "ada@example.org")
	near.Home, near.Token = home.ready.URL, made.Token
	far.Alone, far.Home, far.Token = near.Alone, near.Home, near.Token
	b.Run("far", func(b *testing.B) { home.fanout(b, asked, far) })
	b.Run("near", func(b *testing.B) { home.fanout(b, asked, near) })
}

func (w *world) fanout(b *testing.B, asked *world, conf askerConfig) {
	for i, address := range conf.Addresses {
		if _, err := w.pool.Exec(b.Context(), `UPDATE federation_credentials c SET federation_url = 'https://' || $1::text, serial = serial || '0'
			FROM federation_peers p WHERE p.id = c.peer_id AND p.name = $2`, address, "peer"+strconv.Itoa(i)); err != nil {
			b.Fatal(err)
		}
	}
	asker := start(b, "asker", conf)
	asked.settle()
	w.settle()
	before := [2]time.Duration{spent(w.gateway.pid), spent(asked.gateway.pid)}
	var r askerResult
	asker.ask(b, askerTurn{Rounds: fanoutRounds}, &r)
	if r.Error != "" {
		b.Fatal(r.Error)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(r.Through), "fanout-p50-ms")
	b.ReportMetric(median(r.Slowest), "slowest-p50-ms")
	b.ReportMetric(median(r.Through)-median(r.Slowest), "added-p50-ms")
	b.ReportMetric(1000*ms(spent(w.gateway.pid)-before[0])/fanoutRounds, "home-cpu-us")
	b.ReportMetric(1000*ms(spent(asked.gateway.pid)-before[1])/(2*fanoutRounds), "asked-cpu-us")
}

// distant is an address at which a server answers later: each way takes so long.
func distant(b *testing.B, to string, by time.Duration) (address string) {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			here, err := l.Accept()
			if err != nil {
				return
			}
			there, err := net.Dial("tcp", to)
			if err != nil {
				_ = here.Close()
				continue
			}
			go carry(there, here, by)
			go carry(here, there, by)
		}
	}()
	return l.Addr().String()
}

// carry passes on what one end says, each piece so much later.
func carry(to, from net.Conn, by time.Duration) {
	type piece struct {
		at   time.Time
		data []byte
	}
	under := make(chan piece, 4096)
	go func() {
		defer close(under)
		for {
			buf := make([]byte, 32<<10)
			n, err := from.Read(buf)
			if err != nil {
				return
			}
			under <- piece{time.Now().Add(by), buf[:n]}
		}
	}()
	for p := range under {
		time.Sleep(time.Until(p.at))
		if _, err := to.Write(p.data); err != nil {
			break
		}
	}
	_, _ = to.Close(), from.Close()
}

// askerConfig is whom the asker asks: the peers alone, each with a certificate of its own, and all through home.
type askerConfig struct {
	Addresses []string
	Alone     []loadConfig
	Home      string
	Token     string
}

type askerTurn struct{ Rounds int }

type askerResult struct {
	Through, Slowest []float64 // milliseconds, of each round
	Error            string
}

// askerRole asks in turn: once through home, once all peers itself.
func askerRole(ctx context.Context, config []byte) error {
	var c askerConfig
	if err := json.Unmarshal(config, &c); err != nil {
		return err
	}
	var alone []*conn
	for i, who := range c.Alone {
		cert, err := tls.X509KeyPair([]byte(who.CertPEM), []byte(who.KeyPEM))
		if err != nil {
			return err
		}
		one, err := dial(c.Addresses[i], "/federation/v1/resources/tasks?limit=50", &tls.Config{
			MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"},
			InsecureSkipVerify: true, //nolint:gosec // whom we ask is not in question
		})
		if err != nil {
			return err
		}
		alone = append(alone, one)
	}
	for in := json.NewDecoder(os.Stdin); ; {
		var t askerTurn
		if err := in.Decode(&t); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		r, err := c.rounds(ctx, alone, t.Rounds)
		if err != nil {
			r = askerResult{Error: err.Error()}
		}
		if err := say(r); err != nil {
			return err
		}
	}
}

func (c askerConfig) rounds(ctx context.Context, alone []*conn, rounds int) (askerResult, error) {
	var r askerResult
	for n := range rounds {
		begun := time.Now()
		if err := c.through(ctx, n == 0); err != nil {
			return r, err
		}
		through := time.Since(begun)
		begun = time.Now()
		if err := slowest(alone); err != nil {
			return r, err
		}
		if n >= rounds/10 {
			r.Through, r.Slowest = append(r.Through, ms(through)), append(r.Slowest, ms(time.Since(begun)))
		}
	}
	return r, nil
}

// slowest asks all at once, and returns when the last has answered.
func slowest(alone []*conn) error {
	errs := make([]error, len(alone))
	var wg sync.WaitGroup
	for i, c := range alone {
		wg.Go(func() { _, errs[i] = c.do(false) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// through asks home for a page of all peers, and reads it; with check it looks whether all of them are in it.
func (c askerConfig) through(ctx context.Context, check bool) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.Home+"/api/federation/resources/tasks?peers=all&limit=50", nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+c.Token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || !check {
		return err
	}
	var page struct {
		Data    []task
		Sources []struct{ Status string }
	}
	if err := json.Unmarshal(body, &page); err != nil {
		return err
	}
	ok := 0
	for _, s := range page.Sources {
		if s.Status == "ok" {
			ok++
		}
	}
	if len(page.Data) != 50 || ok != fanoutPeers {
		return fmt.Errorf("%w: %d rows of %d sources: %s", errBench, len(page.Data), ok, body)
	}
	return nil
}
