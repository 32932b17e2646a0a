package valkey

import (
	"context"
	"crypto/tls"
	_ "embed"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/mosaicstack/gateway/internal/grant"
)

// The bounds of a connection. A caller's deadline is shorter; these hold for what has none, such as the opening of
// a connection in the background.
const (
	dialTimeout  = time.Second
	replyTimeout = 2 * time.Second
	bufferBytes  = 4 << 10
)

// prefix is in front of every key, so that an access list can name what is ours.
const prefix = "mosaic:"

//go:embed gcra.lua
var gcra string

// Client speaks to one Valkey.
type Client struct {
	rdb     *redis.Client
	network string
	guarded bool // a password, or a socket whose mode says who may open it
	take    *redis.Script
}

// Open reads the address; the first call connects. Errors: ErrURLInvalid, which repeats nothing of the address,
// because there is a password in it.
func Open(address string) (*Client, error) {
	o, err := parse(address)
	if err != nil {
		return nil, err
	}
	o.DialTimeout, o.ReadTimeout, o.WriteTimeout = dialTimeout, replyTimeout, replyTimeout
	o.ContextTimeoutEnabled = true
	o.MaxRetries, o.DialerRetries = -1, 1 // whoever calls has something better to do than to try again
	o.ReadBufferSize, o.WriteBufferSize, o.PipelinePoolSize = bufferBytes, bufferBytes, -1
	o.DisableIdentity = true
	redis.SetLogger(silent{}) // the driver's own, which is one for the process: what matters is in the errors
	return &Client{
		rdb: redis.NewClient(o), network: o.Network, guarded: o.Password != "" || o.Network == "unix",
		take: redis.NewScript(gcra),
	}, nil
}

type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}

// parse reads redis://, rediss:// and unix://, and valkey:// and valkeys:// as the first two. Of the options in a
// query only db is taken: the driver's others are not for operators.
func parse(address string) (*redis.Options, error) {
	u, err := url.Parse(strings.TrimSpace(address))
	if err != nil {
		return nil, ErrURLInvalid // err repeats the address
	}
	for name := range u.Query() {
		if name != "db" {
			return nil, ErrURLInvalid.With("VALKEY_URL has an option that is not known; only db is")
		}
	}
	switch u.Scheme {
	case "valkey":
		u.Scheme = "redis"
	case "valkeys":
		u.Scheme = "rediss"
	case "redis", "rediss", "unix":
	default:
		return nil, ErrURLInvalid.With("VALKEY_URL does not begin with redis://, rediss://, valkey://, valkeys:// or unix://")
	}
	socket := u.Scheme == "unix"
	if u.Fragment != "" || u.Opaque != "" || socket && (u.Host != "" || u.Path == "") || !socket && u.Hostname() == "" {
		return nil, ErrURLInvalid
	}
	if port := u.Port(); port != "" && (atoi(port) < 1 || atoi(port) > 65535) {
		return nil, ErrURLInvalid
	}
	o, err := redis.ParseURL(u.String())
	if err != nil || o.DB < 0 {
		return nil, ErrURLInvalid
	}
	if o.TLSConfig != nil {
		o.TLSConfig = &tls.Config{ServerName: u.Hostname(), MinVersion: tls.VersionTLS12}
	}
	return o, nil
}

// Address is where the server is, for logs: host and port, or the path of a socket.
func (c *Client) Address() string { return c.rdb.Options().Addr }

// Close ends the connections.
func (c *Client) Close() error { return c.rdb.Close() }

// Take spends one from every bucket, or nothing when one of them is empty, in one round trip, and tells where each
// stands. owed is for each bucket what the caller knows to have been spent: what is more than the server knows of
// counts. Errors: this package's faults.
func (c *Client) Take(ctx context.Context, buckets []grant.Bucket, owed []time.Duration) ([]grant.Standing, error) {
	_, out, err := c.takeAt(ctx, buckets, owed)
	return out, err
}

// takeAt is Take, and tells the server's time too.
func (c *Client) takeAt(ctx context.Context, buckets []grant.Bucket, owed []time.Duration) (time.Time, []grant.Standing, error) {
	keys := make([]string, len(buckets))
	args := make([]any, 0, 3*len(buckets))
	for i, b := range buckets {
		keys[i] = prefix + "limit:" + b.Key()
		args = append(args, b.Limit.Interval().Microseconds(), b.Limit.Tolerance().Microseconds(), max(owed[i], 0).Microseconds())
	}
	reply, err := c.take.Run(ctx, c.rdb, keys, args...).Int64Slice()
	if err != nil {
		return time.Time{}, nil, failed(err)
	}
	if len(reply) != 1+2*len(buckets) {
		return time.Time{}, nil, ErrUnavailable.Because(fmt.Errorf("%d numbers for %d buckets", len(reply), len(buckets)))
	}
	out := make([]grant.Standing, len(buckets))
	for i, b := range buckets {
		wait, reset := reply[2*i+1], reply[2*i+2]
		// What the script cannot have said is nobody's standing: a wait without end would shut a grant out.
		if wait < 0 || wait > b.Limit.Interval().Microseconds() || reset < 0 || reset > b.Limit.Tolerance().Microseconds() {
			return time.Time{}, nil, ErrUnavailable.Because(fmt.Errorf("bucket %s waits %d µs and is full in %d µs", b.Name, wait, reset))
		}
		out[i] = b.Standing(time.Duration(reset)*time.Microsecond, time.Duration(wait)*time.Microsecond)
	}
	return time.UnixMicro(reply[0]), out, nil
}

// loopback tells whether the server can only be reached from this machine.
func (c *Client) loopback() bool {
	if c.network == "unix" {
		return true
	}
	host, _, err := net.SplitHostPort(c.Address())
	ip := net.ParseIP(host)
	return err == nil && (host == "localhost" || ip != nil && ip.IsLoopback())
}

func atoi(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0
	}
	return n
}
