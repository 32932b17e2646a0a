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
	_, err := c.Take(ctx, []grant.Bucket{probed}, []time.Duration{0})
	return err
}

// Check tells what is wrong with the server, and what an operator should be warned of. Errors: ErrUnavailable,
// ErrAuth, ErrPersists, ErrTooOld, ErrReadOnly.
func (c *Client) Check(ctx context.Context) (warnings []*fault.Fault, err error) {
	text, err := c.rdb.Info(ctx).Result()
	if err != nil {
		return nil, failed(err)
	}
	info := lines(text)
	if version, _, _ := strings.Cut(info["redis_version"], "."); atoi(version) < oldest {
		return nil, ErrTooOld.With("the server is version %s, older than Redis %d", short(info["redis_version"]), oldest)
	}
	if info["role"] != "master" {
		return nil, ErrReadOnly
	}
	settings, err := c.settings(ctx, "save", "appendonly", "maxmemory-policy")
	switch {
	case err == nil:
	case redis.HasErrorPrefix(err, "NOPERM"), redis.HasErrorPrefix(err, "unknown command"):
		warnings = append(warnings, WarnUnverified)
	default:
		return nil, failed(err)
	}
	switch {
	case settings["save"] != "":
		return nil, ErrPersists.With("Valkey writes snapshots to disk: save is %q", short(settings["save"]))
	case settings["appendonly"] == "yes", info["aof_enabled"] == "1":
		return nil, ErrPersists.With("Valkey writes a log to disk: appendonly is on")
	}
	if policy := settings["maxmemory-policy"]; policy != "" && policy != "noeviction" {
		warnings = append(warnings, WarnEvicts.With("Valkey's maxmemory-policy is %s: when its memory is full it drops keys, and with them what has been spent of limits", short(policy)))
	}
	if !c.guarded && !c.loopback() {
		warnings = append(warnings, WarnOpen)
	}
	return warnings, nil
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
