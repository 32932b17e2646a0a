package serving

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/fault"
)

// heeding records as audit.Writer does: not for a context that is over.
type heeding struct{ events []audit.Event }

func (h *heeding) Record(ctx context.Context, e audit.Event) error {
	if ctx.Err() != nil {
		return audit.ErrUnavailable.Because(ctx.Err())
	}
	if _, bounded := ctx.Deadline(); !bounded {
		return errors.New("a record that may take for ever")
	}
	h.events = append(h.events, e)
	return nil
}

// TestARequestWhoseTimeIsOverIsOnRecordAsWhatItWas: the database was slow, and the audit log was not.
func TestARequestWhoseTimeIsOverIsOnRecordAsWhatItWas(t *testing.T) {
	t.Parallel()
	late := &fault.Fault{Kind: fault.Unavailable, Code: "database_timeout"}
	for _, ruled := range []error{late, nil} {
		store := &ruling{err: ruled}
		s, c := refusing(store)
		log := &heeding{}
		s.Audit = log
		ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
		defer cancel()
		_, err := s.Capabilities(ctx, c)
		if !errors.Is(err, ruled) || len(log.events) != 1 {
			t.Errorf("%v, %d on record; want %v", err, len(log.events), ruled)
		}
	}
}

// crowded counts who is under way, and how many there were at a record.
type crowded struct {
	now     int
	records []int
	err     error
}

func (c *crowded) come(n int) { c.now += n }

func (c *crowded) Record(context.Context, audit.Event) error {
	c.records = append(c.records, c.now)
	return c.err
}

// TestARequestIsUnderWayUntilItEnds: the audit log waits for those who are under way, so whoever ends must be told to it,
// however it ends; and whoever records is one of them.
func TestARequestIsUnderWayUntilItEnds(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Service, *ruling, *crowded){
		"answered":     func(*Service, *ruling, *crowded) {},
		"refused":      func(_ *Service, r *ruling, _ *crowded) { r.rule(ErrGrantRevoked) },
		"limited":      func(s *Service, _ *ruling, _ *crowded) { s.Limiter = &refusingLimiter{} },
		"not recorded": func(_ *Service, _ *ruling, c *crowded) { c.err = audit.ErrUnavailable },
	} {
		store, crowd := &ruling{}, &crowded{}
		s, c := refusing(store)
		s.Audit, s.Coming = crowd, crowd.come
		change(s, store, crowd)
		_, _ = s.Capabilities(t.Context(), c)
		if crowd.now != 0 {
			t.Errorf("%s: %d are still under way", name, crowd.now)
		}
		if name != "limited" && (len(crowd.records) != 1 || crowd.records[0] != 1) {
			t.Errorf("%s: under way at the records: %v", name, crowd.records)
		}
	}
	s, store, _, c := granted(t, 0, func(*Plan) {})
	crowd := &crowded{}
	s.Audit, s.Store, s.Coming = crowd, breaking{store}, crowd.come
	defer func() {
		if recover() == nil || crowd.now != 0 {
			t.Errorf("after a panic %d are still under way", crowd.now)
		}
	}()
	_, _ = s.List(t.Context(), c, ListRequest{Resource: "tasks"})
}
