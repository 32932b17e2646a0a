package valkey

import (
	"bufio"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/grant"
)

const oldest = 7 // the protocol of Redis 7

// probed is a bucket that no request uses.
var probed = grant.Bucket{Name: "probe", Limit: grant.Limit{PerMinute: grant.MaxRate, Burst: 1}}

// Ready tells whether the server is there, is one that may be used, and takes what Take asks of it. It may be
// another server than a moment ago, so all of it is looked at every time. Errors: those of Check.
func (c *Client) Ready(ctx context.Context) error {
	if _, err := c.Check(ctx); err != nil {
		return err
	}
	return c.Spend(ctx)
}

// Server is what a server says of itself.
type Server struct {
	Version  string // of the protocol of Redis
	Role     string // master, or slave
	Save     string // when snapshots are written; empty is never
	AOF      bool   // whether a log is written
	Policy   string // maxmemory-policy
	Told     bool   // whether the settings could be read: without it Save and Policy are what INFO tells
	Guarded  bool   // there is a password, or a socket whose mode says who may open it
	Loopback bool   // it can only be reached from this machine
}

// Examine asks the server what it is; one that is too old only for its version. Errors: ErrUnavailable, ErrAuth.
func (c *Client) Examine(ctx context.Context) (Server, error) {
	text, err := c.rdb.Info(ctx).Result()
	if err != nil {
		return Server{}, failed(err)
	}
	info := lines(text)
	s := Server{
		Version: info["redis_version"], Role: info["role"], AOF: info["aof_enabled"] == "1", Policy: info["maxmemory_policy"],
		Guarded: c.guarded, Loopback: c.loopback(),
	}
	if atoi(major(s.Version)) < oldest {
		return s, nil // who knows what it makes of the rest
	}
	settings, err := c.settings(ctx, "save", "appendonly", "maxmemory-policy")
	switch {
	case err == nil:
		s.Told, s.Save, s.AOF = true, settings["save"], s.AOF || settings["appendonly"] == "yes"
		if policy := settings["maxmemory-policy"]; policy != "" {
			s.Policy = policy
		}
	case redis.HasErrorPrefix(err, "NOPERM"), redis.HasErrorPrefix(err, "unknown command"):
	default:
		return s, failed(err)
	}
	return s, nil
}

// Spend takes from a bucket that no request uses: whether the server runs what Take asks of it. Errors: those of Take.
func (c *Client) Spend(ctx context.Context) error {
	_, err := c.Take(ctx, []grant.Bucket{probed}, []time.Duration{0})
	return err
}

// Check tells what is wrong with the server, and what an operator should be warned of. Errors: ErrUnavailable,
// ErrAuth, ErrPersists, ErrTooOld, ErrReadOnly.
func (c *Client) Check(ctx context.Context) (warnings []*fault.Fault, err error) {
	s, err := c.Examine(ctx)
	if err != nil {
		return nil, err
	}
	switch {
	case atoi(major(s.Version)) < oldest:
		return nil, ErrTooOld.With("the server is version %s, older than Redis %d", short(s.Version), oldest)
	case s.Role != "master":
		return nil, ErrReadOnly
	case s.Save != "":
		return nil, ErrPersists.With("Valkey writes snapshots to disk: save is %q", short(s.Save))
	case s.AOF:
		return nil, ErrPersists.With("Valkey writes a log to disk: appendonly is on")
	}
	if !s.Told {
		warnings = append(warnings, WarnUnverified)
	}
	if s.Policy != "" && s.Policy != "noeviction" {
		warnings = append(warnings, WarnEvicts.With("Valkey's maxmemory-policy is %s: when its memory is full it drops keys, and with them what has been spent of limits", short(s.Policy)))
	}
	if !s.Guarded && !s.Loopback {
		warnings = append(warnings, WarnOpen)
	}
	return warnings, nil
}

func major(version string) string {
	before, _, _ := strings.Cut(version, ".")
	return before
}

func (c *Client) settings(ctx context.Context, names ...string) (map[string]string, error) {
	out := map[string]string{}
	for _, name := range names {
		got, err := c.rdb.ConfigGet(ctx, name).Result()
		if err != nil {
			return nil, fmt.Errorf("config get %s: %w", name, err)
		}
		out[name] = got[name]
	}
	return out, nil
}

// lines reads what INFO answers: name:value, one a line.
func lines(text string) map[string]string {
	out := map[string]string{}
	for s := bufio.NewScanner(strings.NewReader(text)); s.Scan(); {
		if name, value, ok := strings.Cut(s.Text(), ":"); ok {
			out[name] = value
		}
	}
	return out
}

// short keeps what a server says of itself to a line of ASCII.
func short(s string) string {
	const most = 40
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, s)
	return s[:min(len(s), most)]
}
