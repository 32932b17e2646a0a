package valkey

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/grant"
	"github.com/mosaicstack/gateway/internal/limit"
	"github.com/mosaicstack/gateway/internal/valkey/valkeytest"
)

func open(t *testing.T, address string) *Client {
	t.Helper()
	c, err := Open(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func bucket(name string, perMinute, burst int) grant.Bucket {
	return grant.Bucket{Name: name, ID: "x", Limit: grant.Limit{PerMinute: perMinute, Burst: burst}}
}

func take(t *testing.T, c *Client, owed time.Duration, b grant.Bucket) grant.Standing {
	t.Helper()
	out, err := c.Take(t.Context(), []grant.Bucket{b}, []time.Duration{owed})
	if err != nil {
		t.Fatal(err)
	}
	return out[0]
}

// The script and the library's algorithm are one: the same requests at the same instants stand alike, whatever the
// limits are and however they change.
func TestTheScriptIsTheLibrarysAlgorithm(t *testing.T) {
	t.Parallel()
	c := open(t, valkeytest.Start(t).URL())
	now, _, err := c.takeAt(t.Context(), []grant.Bucket{bucket("clock", 1, 1)}, []time.Duration{0}) // the server's
	if err != nil {
		t.Fatal(err)
	}
	model, err := limit.NewMemoryOn(func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	rates := []int{1, 7, 120, 6000, 59_999, 333_333, 1_000_000}
	bursts := []int{1, 2, 3, 60, 1_000_000}
	refused := 0
	for i := range 4000 {
		buckets := []grant.Bucket{}
		for _, name := range []string{"grant", "peer"}[:1+r.IntN(2)] {
			b := bucket(name, rates[r.IntN(len(rates))], bursts[r.IntN(len(bursts))])
			b.ID = fmt.Sprint(r.IntN(3))
			buckets = append(buckets, b)
		}
		at, got, err := c.takeAt(t.Context(), buckets, make([]time.Duration, len(buckets)))
		if err != nil {
			t.Fatal(err)
		}
		now = at
		want, err := model.Take(t.Context(), buckets...)
		if err != nil {
			t.Fatal(err)
		}
		var tightest grant.Standing
		for _, s := range got {
			tightest = tightest.Tighter(s)
		}
		if tightest.Refused() {
			refused++
		}
		if tightest != want {
			t.Fatalf("seed %d, request %d of %v: %+v, the library says %+v", seed, i, buckets, tightest, want)
		}
	}
	if refused == 0 || refused == 4000 {
		t.Errorf("%d of 4000 refused: this compares one branch only", refused)
	}
}

func TestWhatACallerKnowsToBeOwedCounts(t *testing.T) {
	t.Parallel()
	server := valkeytest.Start(t)
	c := open(t, server.URL())
	b := bucket("grant", 1, 10) // one a minute: the test's own time is nothing
	if s := take(t, c, 4*time.Minute, b); s.Remaining != 5 {
		t.Errorf("four of ten are owed: %d left after one more, want 5", s.Remaining)
	}
	if s := take(t, c, 2*time.Minute, b); s.Remaining != 4 {
		t.Errorf("less is owed than is known: %d left, want 4", s.Remaining)
	}
	if s := take(t, c, 1000*time.Hour, b); !s.Refused() || s.Wait > time.Minute || s.Reset > 10*time.Minute {
		t.Errorf("more is owed than can be: %+v, want refused for a minute at most", s)
	}
	if s := take(t, c, 0, b); !s.Refused() {
		t.Errorf("what was owed is forgotten: %+v", s)
	}
}

// Whoever can write to the server can put anything in a bucket's place. It never lifts the limit, it shuts nobody out
// for longer than the limit itself could, and it is no failure of the server.
func TestWhatSomebodyPutInABucketsPlaceNeitherLiftsNorLocksTheLimit(t *testing.T) {
	t.Parallel()
	server := valkeytest.Start(t)
	c := open(t, server.URL())
	const key = "mosaic:limit:grant:"
	far := fmt.Sprint(time.Now().AddDate(100, 0, 0).UnixMicro())
	tests := []struct {
		name string
		put  []any
		full bool // it counts as a bucket that is spent; else as none
	}{
		{"NaN", []any{"SET", "nan"}, false},
		{"minus NaN", []any{"SET", "-nan"}, false},
		{"infinity", []any{"SET", "inf"}, true},
		{"minus infinity", []any{"SET", "-inf"}, false},
		{"beyond every number", []any{"SET", "1e999"}, true},
		{"far in the future", []any{"SET", far}, true},
		{"long ago", []any{"SET", "-1e300"}, false},
		{"a word", []any{"SET", "unlimited"}, false},
		{"nothing", []any{"SET", ""}, false},
		{"bytes", []any{"SET", "\x00\xff"}, false},
		{"a list", []any{"RPUSH", far}, false},
		{"a set", []any{"SADD", "nan"}, false},
	}
	for _, tt := range tests {
		b := bucket("grant", 1, 10) // one a minute: the test's own time is nothing
		b.ID = tt.name
		if e, failed := server.Do(append([]any{tt.put[0], key + b.ID}, tt.put[1:]...)...).(error); failed {
			t.Fatalf("%s: %v", tt.name, e)
		}
		want := 10
		if tt.full {
			want = 0
		}
		ok := 0
		for range 30 {
			s := take(t, c, 0, b)
			if !s.Refused() {
				ok++
			} else if s.Wait > time.Minute || s.Reset > 10*time.Minute {
				t.Errorf("%s: %+v, want refused for a minute at most", tt.name, s)
			}
		}
		if ok != want {
			t.Errorf("%s: %d of 30 allowed, want %d", tt.name, ok, want)
		}
		if left, _ := server.Do("PTTL", key+b.ID).(int64); left <= 0 || left > (10*time.Minute).Milliseconds() {
			t.Errorf("%s: the key lives %d ms more, want the burst's ten minutes at most", tt.name, left)
		}
	}
	b := bucket("grant", 1, 10)
	server.Do("SET", key+b.ID, "nan")
	if s := take(t, c, 8*time.Minute, b); s.Remaining != 1 {
		t.Errorf("eight of ten are owed beside a NaN: %d left after one more, want 1", s.Remaining)
	}
}

// A server that answers what the script cannot have said is no store of limits.
func TestAnAnswerThatNoBucketCanHaveIsNone(t *testing.T) {
	t.Parallel()
	c := open(t, valkeytest.Start(t).URL())
	b := bucket("grant", 60, 10)
	for script, good := range map[string]bool{
		"return {1, 0, 10000000}": true, "return {1, 1000000, 10000000}": true,
		"return {1, -1, 0}": false, "return {1, 1000001, 0}": false, "return {1, 0, -1}": false, "return {1, 0, 10000001}": false,
		"return {1, 0}": false, "return {1, 0/0, 0/0}": false, "return {1, 1/0, 1/0}": false,
	} {
		c.take = redis.NewScript(script)
		if _, err := c.Take(t.Context(), []grant.Bucket{b}, []time.Duration{0}); good != (err == nil) || err != nil && !errors.Is(err, ErrUnavailable) {
			t.Errorf("%s: %v", script, err)
		}
	}
}

func TestKeysAreOursAndEnd(t *testing.T) {
	t.Parallel()
	server := valkeytest.Start(t)
	c := open(t, server.URL())
	take(t, c, 0, bucket("grant", 120, 60))
	keys, _ := server.Do("KEYS", "*").([]any)
	if len(keys) != 1 || keys[0] != "mosaic:limit:grant:x" {
		t.Fatalf("keys %v", keys)
	}
	if left, _ := server.Do("PTTL", keys[0]).(int64); left <= 0 || left > 500 {
		t.Errorf("the key of a bucket that is full again in 500 ms lives %d ms", left)
	}
}

func TestManyAtOnceOnOneKeyTakeOneRoundTripEach(t *testing.T) {
	t.Parallel()
	server := valkeytest.Start(t)
	c := open(t, server.URL())
	b := bucket("grant", 1, 50)
	take(t, c, 0, bucket("other", 1, 1)) // loads the script
	before := calls(server)
	var ok atomic.Int64
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			out, err := c.Take(t.Context(), []grant.Bucket{b}, []time.Duration{0})
			if err != nil {
				t.Error(err)
			} else if !out[0].Refused() {
				ok.Add(1)
			}
		})
	}
	wg.Wait()
	if ok.Load() != 50 {
		t.Errorf("%d of 200 allowed, want 50", ok.Load())
	}
	if n := calls(server) - before; n != 200 {
		t.Errorf("%d scripts run for 200 requests", n)
	}
}

// calls is how often the server has run a script.
func calls(s *valkeytest.Server) int {
	text, _ := s.Do("INFO", "commandstats").(string)
	n := 0
	for _, field := range []string{"cmdstat_evalsha", "cmdstat_eval"} {
		_, rest, _ := strings.Cut(lines(text)[field], "calls=")
		count, _, _ := strings.Cut(rest, ",")
		n += atoi(count)
	}
	return n
}

func TestAddressesAreReadAndThePasswordIsShownNowhere(t *testing.T) {
	t.Parallel()
	const secret = "hunter2"
	for address, want := range map[string]string{
		"redis://:hunter2@valkey:6379/3":                         "valkey:6379",
		"redis://mosaic:hunter2@[::1]":                           "[::1]:6379",
		"valkey://valkey":                                        "valkey:6379",
		"rediss://:hunter2@valkey.example:6380?db=2":             "valkey.example:6380",
		"valkeys://:hunter2@valkey.example":                      "valkey.example:6379",
		"unix:///run/valkey.sock?db=1":                           "/run/valkey.sock",
		"  redis://:hunter2@valkey:6379\n":                       "valkey:6379", // as a file ends
		"redis://:" + url.QueryEscape("hunter2/#?@:") + "@v:1/0": "v:1",
		"":                                          "",
		"valkey:6379":                               "",
		"redis://":                                  "",
		"redis://:hunter2/@valkey":                  "",
		"redis://:hunter2%@valkey":                  "",
		"redis://:hunter2#@valkey":                  "",
		"redis://:hunter2@valkey:99999999":          "",
		"redis://:hunter2@valkey/zero":              "",
		"redis://:hunter2@valkey/-1":                "",
		"redis://:hunter2@valkey/1/2":               "",
		"rediss://:hunter2@valkey?skip_verify=true": "",
		"redis://:hunter2@valkey?max_retries=9":     "",
		"unix://run/valkey.sock":                    "",
		"unix://":                                   "",
		"http://:hunter2@valkey":                    "",
		"redis:valkey:6379":                         "",
		"postgres://hunter2@db/x":                   "",
		"redis://:hunter2@valkey:6379/0#fragment":   "",
		string([]byte{0x7f}) + "redis://:hunter2@valkey:6379/0\x00": "",
	} {
		c, err := Open(address)
		if want == "" {
			if !errors.Is(err, ErrURLInvalid) {
				t.Errorf("%q: %v, want valkey_url_invalid", address, err)
			} else if strings.Contains(fmt.Sprintf("%v %+v", err, err), secret) {
				t.Errorf("%q: the password is in the error: %v", address, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", address, err)
			continue
		}
		if c.Address() != want {
			t.Errorf("%q: at %s, want %s", address, c.Address(), want)
		}
		_ = c.Close()
	}
}

func FuzzAddress(f *testing.F) {
	f.Add("redis://:p@ss/w@valkey:6379/0")
	f.Add("unix:///run/valkey.sock?db=1")
	f.Fuzz(func(t *testing.T, address string) {
		if _, err := parse(address); err != nil && !errors.Is(err, ErrURLInvalid) {
			t.Errorf("%q: %v", address, err)
		}
	})
}

func TestAPasswordOfAnyCharactersOpens(t *testing.T) {
	t.Parallel()
	c := open(t, valkeytest.Start(t).URL())
	if err := c.Ready(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestWhatIsWrongHasItsName(t *testing.T) {
	t.Parallel()
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = nobody.Close()
	tests := []struct {
		name  string
		args  []string
		check func(*valkeytest.Server) string // its address, after it was prepared
		want  *fault.Fault
		warns []*fault.Fault
	}{
		{"as it should be", nil, (*valkeytest.Server).URL, nil, nil},
		{"snapshots", []string{"--save", "900 1"}, (*valkeytest.Server).URL, ErrPersists, nil},
		{"a log", []string{"--appendonly", "yes"}, (*valkeytest.Server).URL, ErrPersists, nil},
		{"eviction", []string{"--maxmemory-policy", "allkeys-lru"}, (*valkeytest.Server).URL, nil, []*fault.Fault{WarnEvicts}},
		{"wrong password", nil, func(s *valkeytest.Server) string { return s.URLWith("", "guess") }, ErrAuth, nil},
		{"no password", nil, func(s *valkeytest.Server) string { return "unix://" + s.URLPath() }, ErrAuth, nil},
		{"a user who may not", nil, func(s *valkeytest.Server) string {
			s.Do("ACL", "SETUSER", "low", "on", ">pw", "~mosaic:*", "+ping", "+hello")
			return s.URLWith("low", "pw")
		}, ErrAuth, nil},
		{"a user who may what is needed and no more", nil, func(s *valkeytest.Server) string {
			s.Do("ACL", "SETUSER", "least", "on", ">pw", "~mosaic:*", "+hello", "+eval", "+evalsha", "+time", "+get", "+set", "+info", "+config|get")
			return s.URLWith("least", "pw")
		}, nil, nil},
		{"a user who is not told the settings", nil, func(s *valkeytest.Server) string {
			s.Do("ACL", "SETUSER", "blind", "on", ">pw", "~mosaic:*", "+hello", "+eval", "+evalsha", "+time", "+get", "+set", "+info")
			return s.URLWith("blind", "pw")
		}, nil, []*fault.Fault{WarnUnverified}},
		{"a replica", []string{"--replicaof", "127.0.0.1 1"}, (*valkeytest.Server).URL, ErrReadOnly, nil},
		{"nobody there", nil, func(*valkeytest.Server) string { return "redis://" + nobody.Addr().String() }, ErrUnavailable, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := open(t, tt.check(valkeytest.Start(t, tt.args...)))
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			warnings, err := c.Check(ctx)
			ready := c.Ready(ctx)
			if tt.want == nil {
				if err != nil || ready != nil {
					t.Fatalf("check %v, ready %v", err, ready)
				}
			} else if !errors.Is(err, tt.want) || !errors.Is(ready, tt.want) {
				t.Fatalf("check %v, ready %v, want %s", err, ready, tt.want.Code)
			}
			if err != nil && strings.Contains(err.Error(), valkeytest.Password) {
				t.Error("the password is in the error")
			}
			if len(warnings) != len(tt.warns) {
				t.Fatalf("warnings %v, want %v", warnings, tt.warns)
			}
			for i, w := range tt.warns {
				if !errors.Is(warnings[i], w) {
					t.Errorf("warned of %v, want %s", warnings[i], w.Code)
				}
			}
		})
	}
}

func TestAnOpenServerOnTheNetworkIsWarnedOf(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]bool{
		"redis://valkey:6379": true, "redis://10.0.0.1": true, "redis://:pw@valkey": false, "redis://127.0.0.1": false, "redis://localhost": false, "redis://[::1]:1": false, "unix:///x": false,
	} {
		c := open(t, address)
		if got := !c.guarded && !c.loopback(); got != want {
			t.Errorf("%s: %t, want %t", address, got, want)
		}
	}
}

// older answers as a server of another time does, which is nowhere to be had: it knows INFO and nothing else.
func older(t *testing.T, version string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				for in := bufio.NewScanner(conn); in.Scan(); {
					switch strings.ToUpper(in.Text()) {
					case "INFO":
						text := "redis_version:" + version + "\r\nrole:master\r\n"
						_, _ = fmt.Fprintf(conn, "$%d\r\n%s\r\n", len(text), text)
					case "HELLO", "CLIENT":
						_, _ = fmt.Fprint(conn, "-ERR unknown command\r\n")
					}
				}
			}()
		}
	}()
	return "redis://" + l.Addr().String()
}

func TestAServerOfAnotherTimeIsRefused(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"6.2.14", "2.8.0", "", "x\x1b[31m"} {
		if _, err := open(t, older(t, version)).Check(t.Context()); !errors.Is(err, ErrTooOld) || strings.ContainsRune(err.Error(), '\x1b') {
			t.Errorf("version %q: %v, want valkey_too_old", version, err)
		}
	}
}
