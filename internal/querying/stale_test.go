package querying

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
)

// What a source gives in more than one page is as old as the oldest of them. One that is away in the middle is stale,
// not away: what there is of it is shown.
func TestASourceIsAsOldAsItsOldestPage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := fanoutService(t)
		for name, tt := range map[string]struct {
			ages      []int // of each page; the next one is not there
			last      error
			wantAge   int
			wantRows  int
			wantState string
		}{
			"older later":      {[]int{7, 9}, nil, 9, 4, StatusStale},
			"older first":      {[]int{9, 7}, nil, 9, 4, StatusStale},
			"away in between":  {[]int{9}, ErrUnreachable, 9, 2, StatusStale},
			"away from first":  {nil, ErrUnreachable, -1, 0, StatusUnreachable},
			"fresh then stale": {[]int{-1, 9}, nil, 9, 4, StatusStale},
			"fresh":            {[]int{-1, -1}, nil, -1, 4, StatusOK},
		} {
			work := &shelf{name: "work", most: 2}
			for i := range 2 * len(tt.ages) {
				work.rows = append(work.rows, sortKey{time.Now().Add(-time.Duration(i) * time.Minute), uuid.New()})
			}
			fetch := func(ctx context.Context, at position, rows int) (fetched, error) {
				if work.asked == len(tt.ages) {
					return fetched{}, tt.last
				}
				got, err := work.fetch(ctx, at, rows)
				if age := tt.ages[work.asked-1]; age >= 0 {
					got.old = &Source{Name: "work", Status: StatusStale, Code: ErrUnreachable.Code, Age: &age}
				}
				if got.next == nil && tt.last != nil {
					got.next = new("more")
				}
				return got, err
			}
			p, err := s.gather(t.Context(), []*feed{{position: position{Source: "work"}, fetch: fetch, rows: 10, timeout: time.Second, now: time.Now}}, 10, "b")
			if err != nil {
				t.Fatal(err)
			}
			source, age := p.Sources[0], -1
			if source.Age != nil {
				age = *source.Age
			}
			if source.Status != tt.wantState || age != tt.wantAge || source.Rows != tt.wantRows || len(p.Data) != tt.wantRows || source.Name != "work" {
				t.Errorf("%s: %+v of %d s, %d rows", name, source, age, len(p.Data))
			}
		}
	})
}
