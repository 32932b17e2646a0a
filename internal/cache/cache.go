// Package cache keeps answers of peers for a moment, so that nobody but this gateway can read them and nothing of them
// stays.
//
// What is stored is ciphertext under names that say nothing. The key is derived from the keyset and a random salt; the
// salt is in the store's memory alone, and another one takes its place every hour:
//
//	salt ---------.
//	keyset --- HKDF ---> key of values        keyset --- HMAC ---> names: of an answer, and of a grant's mark
//
// So a copy of the store opens nothing without the keyset, the keyset opens nothing without the salt, and both open
// nothing from before the present hour. A value is bound to its name: who can write to the store cannot put one
// answer in the place of another.
//
// A grant has a random mark from its first question on. An answer is good as long as the mark is the one under which the
// question was asked. To forget all answers of a grant is to write another mark. A mark that is gone counts as another
// one: whoever can only delete in the store forgets answers, and brings none back.
package cache

import (
	"bytes"
	"context"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"sync/atomic"
	"time"

	"github.com/mosaicstack/gateway/internal/querying"
)

// MaxTTL is how long an answer is kept at most, whatever is set.
const MaxTTL = querying.MaxStale

const (
	// budget is what a question waits for the store at most, each time it asks it.
	budget = 50 * time.Millisecond
	// saltLife is how long one salt is used. What was sealed under it lives on for a TTL, unreadable.
	saltLife = time.Hour
	// markLife is how long one mark is used. What was kept under it is not found after that.
	markLife = time.Hour
	saltSize = 32
	markSize = 16
	// maxBody is the longest answer that is kept: longer ones are rare, and would take the room of many.
	maxBody = 1 << 20

	saltName = "cache:salt"
	purpose  = "cache"
)

// Store holds values by name for a time. Its memory is all that it has: it writes nothing to disk.
type Store interface {
	// Read gives what is under each name; nil for nothing.
	Read(ctx context.Context, names ...string) ([][]byte, error)
	// Write puts a value under a name, for as long as it may live.
	Write(ctx context.Context, name string, value []byte, life time.Duration) error
	// Settle puts a value under a name where there is none, and gives what is there then: the same to everybody.
	Settle(ctx context.Context, name string, value []byte, life time.Duration) ([]byte, error)
	// Remove takes a name away.
	Remove(ctx context.Context, name string) error
}

// Keys derives the names and the keys of values; seal.Ring does.
type Keys interface {
	MAC(purpose string, data []byte) []byte
	Salted(purpose string, salt []byte) (cipher.AEAD, error)
}

// Config is what a Cache needs.
type Config struct {
	Store  Store
	Keys   Keys
	TTL    time.Duration // above zero, at most MaxTTL
	Random io.Reader     // nil: crypto/rand
	// Up tells whether the store is there, without asking it; nil: it always is. One that is not is not waited for.
	Up func() bool
}

// Cache is a querying.Cache over a Store. It is safe for concurrent use.
type Cache struct {
	Config
	budget time.Duration
	failed atomic.Uint64
}

// New returns a Cache.
func New(c Config) *Cache {
	c.TTL = min(c.TTL, MaxTTL)
	if c.Random == nil {
		c.Random = rand.Reader
	}
	return &Cache{Config: c, budget: budget}
}

// Failures tells how often the store was asked in vain.
func (c *Cache) Failures() uint64 { return c.failed.Load() }

// entry is what a value holds beside the answer.
type entry struct {
	ETag string        `json:"t"`
	At   time.Time     `json:"a"`
	Life time.Duration `json:"l"`
	Mark []byte        `json:"m"`
}

var errDamaged = errors.New("a value is not what was sealed")

// Look implements querying.Cache. Salt, answer and mark are read in one round trip, and so at one time. Where there is no
// mark one is made, under which the answer to the question can be kept.
func (c *Cache) Look(ctx context.Context, q querying.Question) (*querying.Kept, querying.Mark) {
	name := c.answerName(q)
	var read [][]byte
	if !c.ask(ctx, func(ctx context.Context) (err error) {
		read, err = c.Store.Read(ctx, saltName, name, c.markName(q))
		return err
	}) {
		return nil, nil
	}
	salt, sealed, mark := read[0], read[1], querying.Mark(read[2])
	if mark == nil {
		return nil, c.mark(ctx, q)
	}
	if salt == nil || sealed == nil {
		return nil, mark
	}
	e, body, err := c.open(salt, name, sealed)
	if err != nil || !bytes.Equal(e.Mark, mark) { // of another salt, or from before a refusal
		return nil, mark
	}
	return &querying.Kept{Body: body, ETag: e.ETag, At: e.At, Life: e.Life}, mark
}

// mark makes the mark of a grant that has none; nil when it cannot. Replicas that do so at once agree on one.
func (c *Cache) mark(ctx context.Context, q querying.Question) (there querying.Mark) {
	fresh := make([]byte, markSize)
	if _, err := io.ReadFull(c.Random, fresh); err != nil {
		return nil
	}
	c.ask(ctx, func(ctx context.Context) (err error) {
		there, err = c.Store.Settle(ctx, c.markName(q), fresh, markLife)
		return err
	})
	return there
}

// Keep implements querying.Cache. An answer that is not kept leaves nothing of an earlier one behind: the peer has said
// something else since.
func (c *Cache) Keep(ctx context.Context, q querying.Question, m querying.Mark, k querying.Kept) {
	k.Life = min(k.Life, c.TTL)
	if m == nil || k.Life <= 0 || len(k.Body) > maxBody {
		c.Drop(ctx, q)
		return
	}
	fresh := make([]byte, saltSize)
	if _, err := io.ReadFull(c.Random, fresh); err != nil {
		return
	}
	name := c.answerName(q)
	c.ask(ctx, func(ctx context.Context) error {
		salt, err := c.Store.Settle(ctx, saltName, fresh, saltLife)
		if err != nil {
			return err
		}
		sealed, err := c.seal(salt, name, entry{k.ETag, k.At, k.Life, m}, k.Body)
		if err != nil {
			return err
		}
		return c.Store.Write(ctx, name, sealed, k.Life)
	})
}

// Drop implements querying.Cache.
func (c *Cache) Drop(ctx context.Context, q querying.Question) {
	c.ask(ctx, func(ctx context.Context) error { return c.Store.Remove(ctx, c.answerName(q)) })
}

// DropGrant implements querying.Cache.
func (c *Cache) DropGrant(ctx context.Context, q querying.Question) {
	mark := make([]byte, markSize)
	if _, err := io.ReadFull(c.Random, mark); err != nil {
		return
	}
	c.ask(ctx, func(ctx context.Context) error { return c.Store.Write(ctx, c.markName(q), mark, markLife) })
}

// ask asks the store, if it is there, for a moment at most, and tells whether it answered. A client that hangs up is no
// failure of the store.
func (c *Cache) ask(ctx context.Context, what func(context.Context) error) bool {
	if c.Up != nil && !c.Up() {
		return false
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.budget)
	defer cancel()
	if err := what(ctx); err != nil {
		c.failed.Add(1)
		return false
	}
	return true
}

func (c *Cache) answerName(q querying.Question) string { return c.name("answer", q.Bytes()) }
func (c *Cache) markName(q querying.Question) string   { return c.name("mark", q.Grant()) }

func (c *Cache) name(kind string, data []byte) string {
	return "cache:" + base64.RawURLEncoding.EncodeToString(c.Keys.MAC(purpose+" "+kind, data))
}

// seal joins what belongs to an answer, in one line of JSON, with the answer itself.
func (c *Cache) seal(salt []byte, name string, e entry, body []byte) ([]byte, error) {
	aead, err := c.Keys.Salted(purpose, salt)
	if err != nil {
		return nil, err
	}
	head, err := json.Marshal(e)
	if err != nil {
		return nil, err
	}
	plain := append(append(head, '\n'), body...)
	return aead.Seal(make([]byte, 0, len(plain)+aead.Overhead()), nil, plain, []byte(name)), nil
}

func (c *Cache) open(salt []byte, name string, sealed []byte) (e entry, body []byte, err error) {
	aead, err := c.Keys.Salted(purpose, salt)
	if err != nil {
		return e, nil, err
	}
	plain, err := aead.Open(nil, nil, sealed, []byte(name))
	if err != nil {
		return e, nil, err
	}
	head, body, ok := bytes.Cut(plain, []byte{'\n'})
	if !ok {
		return e, nil, errDamaged
	}
	return e, body, json.Unmarshal(head, &e)
}
