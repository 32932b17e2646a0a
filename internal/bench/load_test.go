package bench

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"
)

// loadConfig is whom the load speaks as.
type loadConfig struct{ CertPEM, KeyPEM string }

// turn is one stretch of load: so many keep-alive connections, each asking again as soon as it has its answer.
type turn struct {
	Address, Path string
	Conns         int
	For           time.Duration
	Once          bool // one request on one connection, and its body comes back
}

// result is what came of it.
type result struct {
	Count    int
	Took     time.Duration
	P50, P99 time.Duration
	Bytes    int // of one body
	Body     []byte
	Error    string
}

func (r result) perSecond() float64 { return float64(r.Count) / r.Took.Seconds() }

// loadRole makes turns as they are asked for. It does as little as a client can: it shares two processors with what
// it measures.
func loadRole(_ context.Context, config []byte) error {
	var c loadConfig
	if err := json.Unmarshal(config, &c); err != nil {
		return err
	}
	cert, err := tls.X509KeyPair([]byte(c.CertPEM), []byte(c.KeyPEM))
	if err != nil {
		return err
	}
	conf := &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"},
		InsecureSkipVerify: true, //nolint:gosec // whom we load is not in question
	}
	open := map[string][]*conn{} // by address and number, from turn to turn: a handshake is not what is measured
	for in := json.NewDecoder(os.Stdin); ; {
		var t turn
		if err := in.Decode(&t); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		r, err := t.make(conf, open)
		if err != nil {
			r.Error = err.Error()
		}
		if err := say(r); err != nil {
			return err
		}
	}
}

func (t turn) make(conf *tls.Config, open map[string][]*conn) (result, error) {
	key := fmt.Sprint(t.Address, t.Path, t.Conns)
	conns := open[key]
	for len(conns) < t.Conns {
		c, err := dial(t.Address, t.Path, conf)
		if err != nil {
			return result{}, err
		}
		conns = append(conns, c)
	}
	open[key] = conns
	body, err := conns[0].do(true)
	if err != nil || t.Once {
		return result{Count: 1, Bytes: len(body), Body: body}, err
	}
	var all []time.Duration
	var failed error
	var mu sync.Mutex
	var wg sync.WaitGroup
	begin := make(chan struct{})
	var began time.Time
	for _, c := range conns {
		wg.Go(func() {
			_, err := c.do(false) // the connection's first, not counted
			<-begin
			took := make([]time.Duration, 0, 1<<14)
			last := began
			for err == nil && last.Sub(began) < t.For {
				_, err = c.do(false)
				now := time.Now()
				took = append(took, now.Sub(last))
				last = now
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, took...)
			failed = errors.Join(failed, err)
		})
	}
	time.Sleep(50 * time.Millisecond) // the first answers are there
	began = time.Now()
	close(begin)
	wg.Wait()
	r := result{Count: len(all), Took: time.Since(began), Bytes: len(body)}
	if failed == nil {
		slices.Sort(all)
		r.P50, r.P99 = all[len(all)/2], all[len(all)*99/100]
	}
	return r, failed
}

// conn is an HTTP/1.1 client that reads an answer completely and keeps nothing of it.
type conn struct {
	*tls.Conn
	r       *bufio.Reader
	request []byte
}

func dial(address, path string, conf *tls.Config) (*conn, error) {
	c, err := tls.Dial("tcp", address, conf)
	if err != nil {
		return nil, err
	}
	return &conn{
		Conn: c, r: bufio.NewReaderSize(c, 64<<10),
		request: []byte("GET " + path + " HTTP/1.1\r\nHost: " + address + "\r\nAccept: application/json\r\n\r\n"),
	}, nil
}

func (c *conn) do(keep bool) (body []byte, err error) {
	if _, err := c.Write(c.request); err != nil {
		return nil, err
	}
	line, err := c.r.ReadSlice('\n')
	if err != nil {
		return nil, err
	}
	status := string(bytes.TrimSpace(line))
	length, chunked := -1, false
	for {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return nil, err
		}
		name, value, ok := bytes.Cut(bytes.TrimSpace(line), []byte(": "))
		if !ok {
			break
		}
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			if length, err = strconv.Atoi(string(value)); err != nil {
				return nil, err
			}
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			chunked = true
		}
	}
	var kept bytes.Buffer
	take := func(n int) error {
		if !keep {
			_, err := c.r.Discard(n)
			return err
		}
		_, err := io.CopyN(&kept, c.r, int64(n))
		return err
	}
	switch {
	case chunked:
		for n := uint64(1); n > 0; {
			size, err := c.r.ReadSlice('\n')
			if err != nil {
				return nil, err
			}
			if n, err = strconv.ParseUint(string(bytes.TrimSpace(size)), 16, 31); err != nil {
				return nil, err
			}
			if err := take(int(n)); err != nil { //nolint:gosec // 31 bits
				return nil, err
			}
			if _, err := c.r.Discard(2); err != nil {
				return nil, err
			}
		}
	case length >= 0:
		err = take(length)
	default:
		err = errors.New("an answer without an end")
	}
	if err == nil && status != "HTTP/1.1 200 OK" {
		err = fmt.Errorf("%w: %s %s", errBench, status, kept.Bytes())
	}
	return kept.Bytes(), err
}
