package valkey

import (
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"
)

// Read gives what is under each name, all at one time; nil for nothing. Errors, of the next ones too: this package's
// faults.
func (c *Client) Read(ctx context.Context, names ...string) ([][]byte, error) {
	keys := make([]string, len(names))
	for i, name := range names {
		keys[i] = prefix + name
	}
	reply, err := c.rdb.MGet(ctx, keys...).Result()
	if err != nil {
		return nil, failed(err)
	}
	out := make([][]byte, len(names))
	for i, value := range reply {
		if s, ok := value.(string); ok && i < len(out) {
			out[i] = []byte(s)
		}
	}
	return out, nil
}

// Write puts a value under a name, for as long as it may live.
func (c *Client) Write(ctx context.Context, name string, value []byte, life time.Duration) error {
	return failed(c.rdb.Set(ctx, prefix+name, value, life).Err())
}

// Settle puts a value under a name where there is none, and gives what is there then: the same to every replica.
func (c *Client) Settle(ctx context.Context, name string, value []byte, life time.Duration) ([]byte, error) {
	there, err := c.rdb.SetArgs(ctx, prefix+name, value, redis.SetArgs{Mode: "NX", TTL: life, Get: true}).Bytes()
	if errors.Is(err, redis.Nil) {
		return value, nil
	}
	return there, failed(err)
}

// Remove takes a name away.
func (c *Client) Remove(ctx context.Context, name string) error {
	return failed(c.rdb.Del(ctx, prefix+name).Err())
}
