package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"golang.org/x/sync/errgroup"
)

// round is a stretch of time in which several clients and admins act. It becomes one history for each holder.
type round struct {
	*arena
	holders []*holder
	rng     *rand.Rand

	mu        sync.Mutex
	histories [][]porcupine.Operation // of each holder
	begin     []inForce
}

func (a *arena) round(rng *rand.Rand, holders []*holder, values []string) *round {
	r := &round{arena: a, holders: holders, rng: rng, histories: make([][]porcupine.Operation, len(holders))}
	for _, v := range values {
		r.begin = append(r.begin, inForce{value: v})
	}
	return r
}

// all is whom an act at the peer concerns.
const all = -1

// note runs an operation and adds it to the history of a holder, or of all.
func (r *round) note(of, client int, d deed, do func() (result, error)) (result, error) {
	op := porcupine.Operation{ClientId: client, Input: d, Call: r.now()}
	out, err := do()
	op.Return, op.Output = r.now(), out
	if err == nil {
		r.add(of, op)
	}
	return out, err
}

func (r *round) add(of int, op porcupine.Operation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.histories {
		if of == all || of == i {
			r.histories[i] = append(r.histories[i], op)
		}
	}
}

// pick is a random number; the clients and admins of a round draw from one source.
func (r *round) pick(n int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rng.IntN(n)
}

// act is what the admin of a holder does, at a random replica.
func (r *round) act(ctx context.Context, i int, verb string) error {
	replica, h, of := r.pick(len(r.replicas)), r.holders[i], all
	switch verb {
	case "revoke grant", "disable", "enable":
		of = i
	}
	_, err := r.note(of, len(h.clients)+i, deed{verb: verb, at: fmt.Sprintf("at %d ", replica)}, func() (result, error) {
		return r.change(ctx, replica, h, verb)
	})
	return err
}

// writes puts a value in the row that was never there.
func (r *round) writes(ctx context.Context, i int) (string, error) {
	value := strconv.FormatInt(r.values.Add(1), 10)
	_, err := r.note(i, len(r.holders[i].clients)+i, deed{verb: "write", value: value}, func() (result, error) {
		return result{}, r.write(ctx, r.holders[i], value)
	})
	return value, err
}

// requests lets every client of the holders ask, each one after the other, until enough says so of what it was told.
func (r *round) requests(ctx context.Context, g *errgroup.Group, enough func(asked, refused int) bool) {
	verbs := []string{"list", "get", "list", "capabilities"}
	for i, h := range r.holders {
		for n, c := range h.clients {
			g.Go(func() error {
				for asked, refused := 0, 0; !enough(asked, refused); asked++ {
					verb := verbs[r.pick(len(verbs))]
					out, err := r.note(i, n, deed{verb: verb}, func() (result, error) { return c.ask(ctx, verb) })
					if err != nil {
						return fmt.Errorf("client %d: %w", n, err)
					}
					if out.code != "" {
						refused++
					}
				}
				return nil
			})
		}
	}
}

// backAndForth is a round of what can be lifted again: each holder's admin suspends and disables, writes, and resumes
// and enables, beside the other's. It ends as it began. It returns what the rows say at its end.
func (r *round) backAndForth(ctx context.Context) ([]string, error) {
	g, gctx := errgroup.WithContext(ctx)
	over := make(chan struct{})
	var acts errgroup.Group
	for i := range r.holders {
		acts.Go(func() error {
			for range 1 + r.pick(2) {
				shut, open := "suspend", "resume"
				if r.pick(2) == 0 {
					shut, open = "disable", "enable"
				}
				if err := r.act(gctx, i, shut); err != nil {
					return err
				}
				if _, err := r.writes(gctx, i); err != nil {
					return err
				}
				if err := r.act(gctx, i, open); err != nil {
					return err
				}
			}
			return nil
		})
	}
	g.Go(func() error { defer close(over); return acts.Wait() })
	r.requests(gctx, g, func(asked, _ int) bool {
		select {
		case <-over:
			return asked > 0
		default:
			return false
		}
	})
	if err := g.Wait(); err != nil {
		return nil, err
	}
	// Two admins crossed: what the last state is, nobody knows before somebody says it once more.
	values := make([]string, len(r.holders))
	for i := range r.holders {
		for _, verb := range []string{"resume", "enable"} {
			if err := r.act(ctx, i, verb); err != nil {
				return nil, err
			}
		}
		var err error
		if values[i], err = r.writes(ctx, i); err != nil {
			return nil, err
		}
	}
	return values, nil
}

// lastRefusals is how often a client asks after it was refused for good. With two clients at each replica that stays
// below what a certificate may be refused in a minute.
const lastRefusals = 3

// forGood is the last round: grants are revoked, one by one or with their peer, and what comes after it cannot bring
// them back.
func (r *round) forGood(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	r.requests(gctx, g, func(asked, refused int) bool { return refused >= lastRefusals || asked > 500 })
	verb := []string{"revoke grant", "revoke grant", "revoke peer"}[r.pick(3)]
	for i := range r.holders {
		g.Go(func() error {
			for _, verb := range []string{verb, "suspend", "enable", "resume", verb} {
				if err := r.act(gctx, i, verb); err != nil {
					return err
				}
				if _, err := r.writes(gctx, i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// clockSlack is how well two readings of the machine's clock agree: PostgreSQL's, in microseconds, and ours.
const clockSlack = 2 * time.Millisecond

// expiry is the last round of grants that end by themselves. Nothing else happens beside it: a statement knows the time
// at which it came and the rows a moment later, so an expiry and a commit have no order within that moment.
func (r *round) expiry(ctx context.Context) error {
	for i, h := range r.holders {
		if !h.brief {
			if err := r.end(ctx, h, 150*time.Millisecond); err != nil {
				return err
			}
		}
		at := r.now() + int64(time.Until(h.expires))
		r.add(i, porcupine.Operation{
			ClientId: len(h.clients) + i, Input: deed{verb: "expire"}, Call: at - int64(clockSlack), Output: result{}, Return: at + int64(clockSlack),
		})
	}
	soon := time.NewTimer(time.Until(r.holders[0].expires) - 150*time.Millisecond)
	defer soon.Stop()
	select {
	case <-soon.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	g, gctx := errgroup.WithContext(ctx)
	r.requests(gctx, g, func(asked, refused int) bool { return refused >= lastRefusals || asked > 5000 })
	return g.Wait()
}

// TestRevocationIsLinearizable: whatever is in force when an act has returned is what every replica answers by, on kept
// connections and on resumed sessions.
func TestRevocationIsLinearizable(t *testing.T) {
	t.Parallel()
	a := newArena(t, 3)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	t.Run("histories", func(t *testing.T) { a.histories(t, seed) })
	t.Run("storm", func(t *testing.T) { a.storm(t, seed) })
}

// historiesWithin is when no further pair of grants is begun, on a machine that is slow.
const historiesWithin = 12 * time.Second

func (a *arena) histories(t *testing.T, seed uint64) {
	sum := &tally{verbs: map[string]int{}, over: map[string]int{}}
	least, most := torture(3, 250), torture(16, 250)
	begun := time.Now()
	const rounds = 10
	var next, pairs atomic.Int64
	g, ctx := errgroup.WithContext(t.Context())
	for range 3 {
		g.Go(func() error {
			for {
				n := int(next.Add(1) - 1)
				if n >= most || n >= least && time.Since(begun) > historiesWithin {
					return nil
				}
				pairs.Add(1)
				if err := a.lifetime(ctx, t, sum, n, rounds, rand.New(rand.NewPCG(seed, uint64(n)))); err != nil {
					return fmt.Errorf("pair %d: %w", n, err)
				}
			}
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	t.Logf("%d histories, %d operations: %v; connections %v; %d admitted, %d refused; %d asked after a revoke or expiry had returned, %d of them admitted",
		sum.histories, sum.operations, sum.verbs, sum.over, sum.admitted, sum.refused, sum.afterEnd, sum.admittedAfterEnd)
	if sum.admittedAfterEnd > 0 {
		t.Errorf("%d requests were admitted after the end of their grant", sum.admittedAfterEnd)
	}
	done := int(pairs.Load())
	if want := done * 2 * (rounds + 1); sum.histories != want || sum.afterEnd < done*12 || sum.admitted < sum.histories || sum.refused < sum.histories {
		t.Errorf("%+v is too little to show anything; want %d histories", sum.verbs, want)
	}
	// A busy machine makes a client give its connection up now and then.
	if asked := sum.admitted + sum.refused; sum.over["kept"] < asked/3 || sum.over["resumed"] < asked/4 {
		t.Errorf("of %d requests %d were on kept connections and %d on resumed sessions", asked, sum.over["kept"], sum.over["resumed"])
	}
}

// lifetime takes a peer with two grants from its enrollment to their end.
func (a *arena) lifetime(ctx context.Context, t *testing.T, sum *tally, n, rounds int, rng *rand.Rand) error {
	expires := n%3 == 2
	brief := expires && n%30 == 2 && torture(0, 1) == 1
	life := "90d"
	if brief {
		life = "75s"
	}
	var holders []*holder
	values := []string{"0", "0"}
	for i := range values {
		h, err := a.hold(ctx, fmt.Sprintf("peer-%d", n), fmt.Sprintf("u%d-%d@example.org", n, i), life, 2)
		if err != nil {
			return err
		}
		defer h.close()
		h.brief = brief
		holders = append(holders, h)
	}
	for range rounds {
		r := a.round(rng, holders, values)
		var err error
		if values, err = r.backAndForth(ctx); err != nil {
			return err
		}
		r.judge(t, sum)
	}
	r := a.round(rng, holders, values)
	last := r.forGood
	if expires {
		last = r.expiry
	}
	if err := last(ctx); err != nil {
		return err
	}
	r.judge(t, sum)
	return nil
}
