package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/querying"
	"github.com/mosaicstack/gateway/internal/seal"
	"github.com/mosaicstack/gateway/internal/valkey"
	"github.com/mosaicstack/gateway/internal/valkey/valkeytest"
)

// stores are what a Cache may stand on: all promises hold on each.
func stores(t *testing.T, test func(t *testing.T, s Store)) {
	t.Helper()
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		test(t, NewMemory(time.Now))
	})
	t.Run("valkey", func(t *testing.T) {
		t.Parallel()
		test(t, client(t, valkeytest.Start(t)))
	})
}

func client(t *testing.T, s *valkeytest.Server) *valkey.Client {
	t.Helper()
	c, err := valkey.Open(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func ring(t *testing.T) *seal.Ring {
	t.Helper()
	k, err := seal.Derive([]byte("a secret of the tests, long enough to derive from"))
	if err != nil {
		t.Fatal(err)
	}
	return seal.NewRing(k)
}

// patient is a Cache that waits for a slow machine.
func patient(t *testing.T, s Store) *Cache {
	t.Helper()
	c := New(Config{Store: s, Keys: ring(t), TTL: MaxTTL})
	c.budget = 20 * time.Second
	return c
}

func question() querying.Question {
	return querying.Question{
		UserID: uuid.New(), PeerID: uuid.New(), CredentialID: uuid.New(), GrantID: uuid.New(), Generation: "1:2",
		Query: []byte("GET tasks?limit=50"),
	}
}

const body = "{\"data\":[{\"title\":\"canary\"}]}\n\x00\nmore"

func keep(t *testing.T, c *Cache, q querying.Question) querying.Kept {
	t.Helper()
	k := querying.Kept{Body: []byte(body), ETag: `"tag"`, At: time.Now().UTC().Truncate(time.Microsecond), Life: time.Minute}
	_, mark := c.Look(t.Context(), q)
	if mark == nil {
		t.Fatal("the cache is away")
	}
	c.Keep(t.Context(), q, mark, k)
	return k
}

func want(t *testing.T, c *Cache, q querying.Question, there bool) {
	t.Helper()
	if got, mark := c.Look(t.Context(), q); mark == nil || (got != nil) != there {
		t.Helper()
		t.Errorf("found %v, want %t", got, there)
	}
}

func TestAnAnswerIsFoundByItsQuestionAlone(t *testing.T) {
	t.Parallel()
	stores(t, func(t *testing.T, s Store) {
		c, q := patient(t, s), question()
		want(t, c, q, false)
		kept := keep(t, c, q)
		got, _ := c.Look(t.Context(), q)
		if got == nil || string(got.Body) != body || got.ETag != kept.ETag || !got.At.Equal(kept.At) || got.Life != kept.Life {
			t.Errorf("%+v, kept %+v", got, kept)
		}
		for name, change := range map[string]func(*querying.Question){
			"user":       func(q *querying.Question) { q.UserID = uuid.New() },
			"operator":   func(q *querying.Question) { q.UserID = uuid.Nil },
			"peer":       func(q *querying.Question) { q.PeerID = uuid.New() },
			"credential": func(q *querying.Question) { q.CredentialID = uuid.New() },
			"grant":      func(q *querying.Question) { q.GrantID = uuid.New() },
			"generation": func(q *querying.Question) { q.Generation = "1:3" },
			"query":      func(q *querying.Question) { q.Query = []byte("GET tasks?limit=51") },
			"boundary":   func(q *querying.Question) { q.Generation, q.Query = "1:2G", []byte("ET tasks?limit=50") },
		} {
			other := q
			change(&other)
			if got, _ := c.Look(t.Context(), other); got != nil {
				t.Errorf("another %s finds it", name)
			}
		}
		c.Drop(t.Context(), q)
		want(t, c, q, false)
	})
}

// A refusal of one question forgets the answers of all of its grant, and also one that was asked for before it and comes
// to be kept after it.
func TestARefusalForgetsAllOfAGrant(t *testing.T) {
	t.Parallel()
	stores(t, func(t *testing.T, s Store) {
		c, q := patient(t, s), question()
		sibling, stranger := q, question()
		sibling.UserID, sibling.Query = uuid.New(), []byte("GET notes")
		for _, q := range []querying.Question{q, sibling, stranger} {
			keep(t, c, q)
		}
		_, before := c.Look(t.Context(), sibling)
		c.DropGrant(t.Context(), q)
		want(t, c, q, false)
		want(t, c, sibling, false)
		want(t, c, stranger, true)
		c.Keep(t.Context(), sibling, before, querying.Kept{Body: []byte(body), ETag: `"late"`, At: time.Now(), Life: time.Minute})
		want(t, c, sibling, false)
		keep(t, c, sibling)
		want(t, c, sibling, true)
		want(t, c, q, false)
	})
}

func TestAnAnswerLivesNoLongerThanItMay(t *testing.T) {
	t.Parallel()
	now := time.Now()
	c := New(Config{Store: NewMemory(func() time.Time { return now }), Keys: ring(t), TTL: 30 * time.Second})
	for life, lives := range map[time.Duration]time.Duration{time.Minute: 30 * time.Second, 10 * time.Second: 10 * time.Second, 0: 0, -time.Second: 0} {
		q := question()
		_, mark := c.Look(t.Context(), q)
		c.Keep(t.Context(), q, mark, querying.Kept{Body: []byte(body), ETag: `"t"`, At: now, Life: life})
		got, _ := c.Look(t.Context(), q)
		if (got != nil) != (lives > 0) || got != nil && got.Life != lives {
			t.Errorf("kept for %s: %+v, want for %s", life, got, lives)
		}
		now = now.Add(max(lives, time.Nanosecond) - time.Nanosecond)
		want(t, c, q, lives > 0)
		now = now.Add(time.Nanosecond)
		want(t, c, q, false)
	}
	if c := New(Config{Store: NewMemory(time.Now), Keys: ring(t), TTL: time.Hour}); c.TTL != MaxTTL {
		t.Errorf("a TTL of %s", c.TTL)
	}
	server := valkeytest.Start(t)
	shared := patient(t, client(t, server))
	q := question()
	keep(t, shared, q)
	for _, key := range keys(server) {
		if left, _ := server.Do("PTTL", key).(int64); left <= 0 || left > saltLife.Milliseconds() || key == "mosaic:"+shared.answerName(q) && left > MaxTTL.Milliseconds() {
			t.Errorf("%s lives for %d ms", key, left)
		}
	}
}

func keys(s *valkeytest.Server) (out []string) {
	list, _ := s.Do("KEYS", "*").([]any)
	for _, k := range list {
		out = append(out, fmt.Sprint(k))
	}
	return out
}

// dump is everything that Valkey holds, keys and values.
func dump(s *valkeytest.Server) []byte {
	var b bytes.Buffer
	for _, k := range keys(s) {
		fmt.Fprintf(&b, "%s %v\n", k, s.Do("GET", k))
	}
	return b.Bytes()
}

func TestValkeyHoldsNothingThatSaysAnything(t *testing.T) {
	t.Parallel()
	server := valkeytest.Start(t)
	c, q := patient(t, client(t, server)), question()
	keep(t, c, q)
	c.DropGrant(t.Context(), q)
	keep(t, c, q)
	all := dump(server)
	if len(keys(server)) != 3 { // salt, answer, mark
		t.Errorf("keys %v", keys(server))
	}
	forbidden := []string{"canary", "title", "data", "tag", "tasks", "limit", string(q.Query), q.Generation}
	for _, id := range []uuid.UUID{q.UserID, q.PeerID, q.CredentialID, q.GrantID} {
		forbidden = append(forbidden, id.String(), strings.ReplaceAll(id.String(), "-", ""), string(id[:]), string(id[:8]))
	}
	for _, f := range forbidden {
		if bytes.Contains(all, []byte(f)) {
			t.Errorf("Valkey holds %q", f)
		}
	}
}

// Replicas find each other's answers and agree on one salt; a gateway with another keyset on the same Valkey finds
// nothing.
func TestReplicasShareAndAgreeOnOneSalt(t *testing.T) {
	t.Parallel()
	server := valkeytest.Start(t)
	var replicas []*Cache
	for range 4 {
		replicas = append(replicas, patient(t, client(t, server)))
	}
	var asked []querying.Question
	var wg sync.WaitGroup
	for range 8 { // the first of all also makes the salt
		for _, c := range replicas {
			q := question()
			asked = append(asked, q)
			wg.Go(func() { keep(t, c, q) })
		}
	}
	wg.Wait()
	for _, q := range asked {
		for _, c := range replicas {
			want(t, c, q, true)
		}
	}
	replicas[0].DropGrant(t.Context(), asked[5])
	want(t, replicas[3], asked[5], false)
	other, err := seal.Derive([]byte("a secret of another gateway, long enough as well"))
	if err != nil {
		t.Fatal(err)
	}
	stranger := New(Config{Store: client(t, server), Keys: seal.NewRing(other), TTL: MaxTTL})
	if got, _ := stranger.Look(t.Context(), asked[0]); got != nil {
		t.Error("another keyset finds an answer")
	}
}

// With the salt the answers of its hour die, whatever is copied of them and whoever has the keyset.
func TestAnswersDieWithTheirSalt(t *testing.T) {
	t.Parallel()
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		now := time.Now()
		m := NewMemory(func() time.Time { return now })
		c := patient(t, m)
		keep(t, c, question())
		old := m.read(saltName)
		now = now.Add(saltLife - time.Minute)
		q := question()
		keep(t, c, q)
		want(t, c, q, true)
		now = now.Add(time.Minute)
		if m.of[c.answerName(q)] == nil {
			t.Error("the value is gone, so this shows nothing")
		}
		want(t, c, q, false)
		keep(t, c, q)
		want(t, c, q, true)
		if bytes.Equal(old, m.read(saltName)) {
			t.Error("the salt is the same after an hour")
		}
	})
	t.Run("valkey", func(t *testing.T) {
		t.Parallel()
		server := valkeytest.Start(t)
		c, q := patient(t, client(t, server)), question()
		keep(t, c, q)
		want(t, c, q, true)
		if left, _ := server.Do("PTTL", "mosaic:"+saltName).(int64); left < saltLife.Milliseconds()-60_000 || left > saltLife.Milliseconds() {
			t.Errorf("the salt lives for %d ms more", left)
		}
		old := server.Do("GET", "mosaic:"+saltName)
		server.Do("DEL", "mosaic:"+saltName) // as its hour ends
		want(t, c, q, false)
		another := question()
		keep(t, c, another)
		want(t, c, another, true)
		want(t, c, q, false)
		if now := server.Do("GET", "mosaic:"+saltName); now == old || len(fmt.Sprint(now)) != saltSize {
			t.Errorf("the salt after it: %q", now)
		}
	})
}

// Who can write to the store cannot put one answer in the place of another, or damage one so that it is shown.
func TestAnAnswerOpensInItsPlaceOnly(t *testing.T) {
	t.Parallel()
	m := NewMemory(time.Now)
	c, mine, theirs := patient(t, m), question(), question()
	keep(t, c, mine)
	keep(t, c, theirs)
	stolen := m.read(c.answerName(theirs))
	for name, value := range map[string][]byte{"moved": stolen, "damaged": append(bytes.Clone(stolen[:len(stolen)-1]), 0), "empty": {}, "short": stolen[:5]} {
		m.write(c.answerName(mine), value, time.Minute)
		if got, _ := c.Look(t.Context(), mine); got != nil {
			t.Errorf("%s: %q", name, got.Body)
		}
	}
	want(t, c, theirs, true)
}

func TestWhatIsLargeIsNotKept(t *testing.T) {
	t.Parallel()
	m := NewMemory(time.Now)
	m.max = 10_000
	c := patient(t, m)
	var asked []querying.Question
	for range 100 {
		q := question()
		asked = append(asked, q)
		keep(t, c, q)
		if m.size > m.max || m.size <= 0 || m.order.Len() != len(m.of) {
			t.Fatalf("%d bytes in %d values", m.size, len(m.of))
		}
	}
	want(t, c, asked[99], true)
	want(t, c, asked[0], false)
	large := question()
	_, mark := c.Look(t.Context(), large)
	m.max = maxMemory
	c.Keep(t.Context(), large, mark, querying.Kept{Body: make([]byte, maxBody+1), ETag: `"t"`, At: time.Now(), Life: time.Minute})
	want(t, c, large, false)
	c.Keep(t.Context(), large, mark, querying.Kept{Body: make([]byte, maxBody), ETag: `"t"`, At: time.Now(), Life: time.Minute})
	want(t, c, large, true)
}

// hanging is a store that answers when it is told to give up.
type hanging struct{ Store }

func (hanging) Read(ctx context.Context, _ ...string) ([][]byte, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (hanging) Write(ctx context.Context, _ string, _ []byte, _ time.Duration) error {
	<-ctx.Done()
	return ctx.Err()
}

// A store that is away is no reason to wait, or to fail.
func TestAStoreThatIsAwayIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	use := func(c *Cache, q querying.Question) (*querying.Kept, querying.Mark) {
		got, mark := c.Look(t.Context(), q)
		c.Keep(t.Context(), q, mark, querying.Kept{Body: []byte(body), ETag: `"t"`, At: time.Now(), Life: time.Minute})
		c.Drop(t.Context(), q)
		c.DropGrant(t.Context(), q)
		return got, mark
	}
	server := valkeytest.Start(t)
	v := client(t, server)
	q := question()
	keep(t, patient(t, v), q)
	impatient := New(Config{Store: v, Keys: ring(t), TTL: MaxTTL})
	server.Hang()
	begun := time.Now()
	if got, mark := use(impatient, q); got != nil || mark != nil {
		t.Error("a store that hangs gave something")
	}
	if took := time.Since(begun); took > 5*time.Second { // the client alone would wait 2 s each time
		t.Errorf("three questions to a store that hangs took %s", took)
	}
	server.Resume()
	server.Kill()
	if got, mark := use(impatient, q); got != nil || mark != nil {
		t.Error("a store that is gone gave something")
	}
	if n := impatient.Failures(); n != 8 { // nothing is kept without a mark, but what was is dropped
		t.Errorf("%d failures, want 8", n)
	}
	down := New(Config{Store: hanging{}, Keys: ring(t), TTL: MaxTTL, Up: func() bool { return false }})
	down.budget = time.Hour
	if got, mark := use(down, q); got != nil || mark != nil || down.Failures() != 0 {
		t.Error("a store that is known to be away was asked")
	}
	server.Start()
	want(t, patient(t, v), q, false) // a Valkey that was restarted has nothing
}

// A caller that hangs up does not keep an answer from being kept.
func TestACallerWhoHangsUpIsNoFailure(t *testing.T) {
	t.Parallel()
	stores(t, func(t *testing.T, s Store) {
		c, q := patient(t, s), question()
		_, mark := c.Look(t.Context(), q)
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		c.Keep(gone, q, mark, querying.Kept{Body: []byte(body), ETag: `"t"`, At: time.Now(), Life: time.Minute})
		if got, _ := c.Look(gone, q); got == nil || c.Failures() != 0 {
			t.Error("not kept")
		}
	})
}

// broken gives no random bytes.
type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("no entropy") }

func TestWithoutRandomnessNothingIsKept(t *testing.T) {
	t.Parallel()
	c, q := patient(t, NewMemory(time.Now)), question()
	c.Random = broken{}
	for _, mark := range []querying.Mark{nil, {1}} {
		if got, made := c.Look(t.Context(), q); got != nil || made != nil {
			t.Errorf("%v under %v", got, made)
		}
		c.Keep(t.Context(), q, mark, querying.Kept{Body: []byte(body), ETag: `"t"`, At: time.Now(), Life: time.Minute})
	}
}

// An answer of 50 rows that is looked up and kept again, as each question that the peer confirms does.
func BenchmarkAnAnswer(b *testing.B) {
	keys, err := seal.Derive([]byte("a secret of the tests, long enough to derive from"))
	if err != nil {
		b.Fatal(err)
	}
	v, err := valkey.Open(valkeytest.Start(b).URL())
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = v.Close() }()
	for name, s := range map[string]Store{"memory": NewMemory(time.Now), "valkey": v} {
		b.Run(name, func(b *testing.B) {
			c, q := New(Config{Store: s, Keys: seal.NewRing(keys), TTL: MaxTTL}), question()
			c.budget = time.Minute
			k := querying.Kept{Body: bytes.Repeat([]byte("row "), 3000), ETag: `"t"`, At: time.Now(), Life: time.Minute}
			_, mark := c.Look(b.Context(), q)
			c.Keep(b.Context(), q, mark, k)
			for b.Loop() {
				found, mark := c.Look(b.Context(), q)
				if found == nil {
					b.Fatal("not found")
				}
				c.Keep(b.Context(), q, mark, k)
			}
		})
	}
}
