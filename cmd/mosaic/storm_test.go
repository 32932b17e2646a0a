package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"golang.org/x/sync/errgroup"
)

// Each storm has clients enough to keep every replica busy.
const (
	stormClients = 8 // of each replica
	stormBefore  = 3 // answers that every client has before the act
	stormAfter   = 2 // requests that every client begins after it
)

// storm counts what spec 14 asks for: requests that began after an act had returned at one replica, and were admitted
// at any.
func (a *arena) storm(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 1<<32))
	var before, after, admitted int64
	storms := torture(4, 200)
	for n := range storms {
		verb := []string{"revoke grant", "revoke peer", "suspend", "disable"}[n%4]
		s := &storm{arena: a, returned: make(chan struct{})}
		if err := s.blow(t.Context(), n, verb, rng.IntN(len(a.replicas))); err != nil {
			t.Fatalf("%s: %v", verb, err)
		}
		before, after, admitted = before+s.before.Load(), after+s.after.Load(), admitted+s.admitted.Load()
		if s.admitted.Load() > 0 {
			t.Errorf("%s: %d requests that began after it had returned were admitted", verb, s.admitted.Load())
		}
	}
	t.Logf("%d storms: %d requests admitted before the act had returned, %d begun after, %d of them admitted", storms, before, after, admitted)
	clients := int64(storms * stormClients * len(a.replicas))
	if before < clients*stormBefore || after != clients*stormAfter {
		t.Error("too few requests to show anything")
	}
}

type storm struct {
	*arena
	returned                chan struct{} // closed when the act has
	before, after, admitted atomic.Int64
}

func (s *storm) blow(ctx context.Context, n int, verb string, replica int) error {
	h, err := s.hold(ctx, fmt.Sprintf("storm-%d", n), fmt.Sprintf("storm%d@example.org", n), "90d", stormClients)
	if err != nil {
		return err
	}
	defer h.close()
	g, ctx := errgroup.WithContext(ctx)
	raging := make(chan struct{}, len(h.clients))
	for _, c := range h.clients {
		g.Go(func() error {
			for told, late := 0, 0; late < stormAfter; told++ {
				if told == stormBefore {
					raging <- struct{}{}
				}
				over := s.over() // before the request begins
				out, err := c.ask(ctx, "list")
				if err != nil {
					return err
				}
				switch {
				case over:
					late++
					s.after.Add(1)
					if out.code == "" {
						s.admitted.Add(1)
					}
				case out.code == "":
					s.before.Add(1)
				case told < stormBefore:
					return fmt.Errorf("%s before anything was done", out.code)
				default: // in force already; but a dead certificate is not told why more than 60 times a minute
					select {
					case <-s.returned:
					case <-ctx.Done():
						return ctx.Err()
					}
				}
			}
			return nil
		})
	}
	for range h.clients {
		select {
		case <-raging:
		case <-ctx.Done():
			return g.Wait()
		}
	}
	if out, err := s.change(ctx, replica, h, verb); err != nil || out.code != "" {
		return errors.Join(fmt.Errorf("%s: %+v", verb, out), err)
	}
	close(s.returned)
	return g.Wait()
}

func (s *storm) over() bool {
	select {
	case <-s.returned:
		return true
	default:
		return false
	}
}
