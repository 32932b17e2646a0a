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
