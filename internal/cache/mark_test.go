package cache

import (
	"testing"
	"time"

	"github.com/mosaicstack/gateway/internal/querying"
	"github.com/mosaicstack/gateway/internal/valkey/valkeytest"
)

// Whoever can delete in the store does not undo a refusal: without its mark a grant has no answers.
func TestDeletingAMarkBringsNothingBack(t *testing.T) {
	t.Parallel()
	server := valkeytest.Start(t)
	c, q := patient(t, client(t, server)), question()
	keep(t, c, q)
	server.Do("DEL", "mosaic:"+c.markName(q)) // before a refusal
	want(t, c, q, false)
	keep(t, c, q)
	want(t, c, q, true)
	_, before := c.Look(t.Context(), q)
	c.DropGrant(t.Context(), q)
	server.Do("DEL", "mosaic:"+c.markName(q)) // after one
	want(t, c, q, false)
	late := querying.Kept{Body: []byte(body), ETag: `"late"`, At: time.Now(), Life: time.Minute}
	c.Keep(t.Context(), q, before, late) // asked before it
	want(t, c, q, false)
}

// A mark lives longer than what is kept under it, also one that a refusal has written.
func TestAnAnswerDoesNotDieWithAYoungMark(t *testing.T) {
	t.Parallel()
	now := time.Now()
	c, q := patient(t, NewMemory(func() time.Time { return now })), question()
	for range 2 {
		_, mark := c.Look(t.Context(), q)
		c.Keep(t.Context(), q, mark, querying.Kept{Body: []byte(body), ETag: `"t"`, At: now, Life: MaxTTL})
		now = now.Add(MaxTTL - time.Second)
		want(t, c, q, true)
		c.DropGrant(t.Context(), q)
		want(t, c, q, false)
	}
}

// The peer has said something else since: what it said before is not shown, whatever keeps the new answer from being kept.
func TestAnAnswerThatIsNotKeptLeavesNoEarlierOne(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*querying.Mark, *querying.Kept){
		"too long":     func(_ *querying.Mark, k *querying.Kept) { k.Body = make([]byte, maxBody+1) },
		"no mark":      func(m *querying.Mark, _ *querying.Kept) { *m = nil },
		"no life left": func(_ *querying.Mark, k *querying.Kept) { k.Life = 0 },
	} {
		c, q := patient(t, NewMemory(time.Now)), question()
		k := keep(t, c, q)
		_, mark := c.Look(t.Context(), q)
		change(&mark, &k)
		c.Keep(t.Context(), q, mark, k)
		if got, _ := c.Look(t.Context(), q); got != nil {
			t.Errorf("%s: the earlier answer is still there", name)
		}
	}
}
