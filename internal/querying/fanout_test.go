package querying

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/mosaicstack/gateway/internal/seal"
)

func fanoutService(t testing.TB) *Service {
	t.Helper()
	keys, err := seal.Derive([]byte("a secret of the tests, long enough to derive from"))
	if err != nil {
		t.Fatal(err)
	}
	return New(Config{Now: time.Now, Cursors: keys.AEAD("test")})
}

// shelf is a source with rows of its own, which gives them in pages as a peer does: its cursors are its own business,
// and it may give less than it is asked for.
type shelf struct {
	name  string
	rows  []sortKey // in order
	most  int       // rows of a page
	fails map[int]error
	asked int
}

func (s *shelf) fetch(_ context.Context, at position, rows int) (fetched, error) {
	s.asked++
	if err := s.fails[s.asked]; err != nil {
		return fetched{}, err
	}
	from := 0
	if at.Cursor != "" {
		var err error
		if from, err = strconv.Atoi(at.Cursor); err != nil {
			return fetched{}, err
		}
	}
	to := min(from+min(rows, s.most), len(s.rows))
	var got fetched
	for _, k := range s.rows[from:to] {
		row, err := json.Marshal(map[string]any{"id": k.id, "updated_at": k.at, "source": s.name})
		if err != nil {
			return got, err
		}
		got.rows = append(got.rows, row)
	}
	if to < len(s.rows) {
		next := strconv.Itoa(to)
		got.next = &next
	}
	return got, nil
}

// ask gathers one page from the shelves, from a cursor on.
func ask(t require, s *Service, shelves []*shelf, limit int, cursor *string) Page {
	at := make(positions, 0, len(shelves))
	for _, sh := range shelves {
		at = append(at, position{Source: sh.name})
	}
	if cursor != nil {
		var err error
		if at, err = s.openPositions(*cursor, "b"); err != nil {
			t.Fatalf("open cursor: %v", err)
		}
	}
	var feeds []*feed
	for i, p := range at {
		feeds = append(feeds, &feed{position: p, fetch: shelves[i].fetch, rows: min(limit, fetchRows), timeout: time.Minute, now: time.Now})
	}
	out, err := s.gather(context.Background(), feeds, limit, "b")
	if err != nil {
		t.Fatalf("gather: %v", err)
	}
	return out
}

type require interface{ Fatalf(string, ...any) }

func draw(rt *rapid.T, broken bool) []*shelf {
	var shelves []*shelf
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for i := range rapid.IntRange(0, 5).Draw(rt, "sources") {
		sh := &shelf{name: fmt.Sprint("s", i), most: rapid.IntRange(1, 7).Draw(rt, "page"), fails: map[int]error{}}
		for range rapid.IntRange(0, 25).Draw(rt, "rows") {
			// Few moments, so that rows of one and of many sources share them.
			sh.rows = append(sh.rows, sortKey{start.Add(time.Duration(rapid.IntRange(0, 9).Draw(rt, "at")) * time.Microsecond), uuid.New()})
		}
		slices.SortFunc(sh.rows, func(a, b sortKey) int {
			if a.before(b) {
				return -1
			}
			return 1
		})
		if broken {
			for range rapid.IntRange(0, 4).Draw(rt, "failures") {
				sh.fails[rapid.IntRange(1, 12).Draw(rt, "call")] = ErrUnreachable
			}
		}
		shelves = append(shelves, sh)
	}
	return shelves
}

func TestEveryRowComesExactlyOnceAndInOrder(t *testing.T) {
	t.Parallel()
	s := fanoutService(t)
	rapid.Check(t, func(rt *rapid.T) {
		shelves := draw(rt, false)
		var want, got []sortKey
		for _, sh := range shelves {
			want = append(want, sh.rows...)
		}
		slices.SortFunc(want, func(a, b sortKey) int {
			if a.before(b) {
				return -1
			}
			return 1
		})
		limit := rapid.IntRange(1, 12).Draw(rt, "limit")
		for cursor := (*string)(nil); ; {
			p := ask(rt, s, shelves, limit, cursor)
			for _, row := range p.Data {
				k, err := keyOf(row)
				if err != nil {
					rt.Fatal(err)
				}
				got = append(got, k)
			}
			if len(p.Data) > limit || p.Page.NextCursor != nil && len(p.Data) < limit {
				rt.Fatalf("a page of %d rows under a limit of %d, and there are more", len(p.Data), limit)
			}
			if cursor = p.Page.NextCursor; cursor == nil {
				break
			}
		}
		if !slices.EqualFunc(got, want, func(a, b sortKey) bool { return a.id == b.id }) {
			rt.Fatalf("got %d rows, want %d, or in another order", len(got), len(want))
		}
	})
}

func TestASourceThatComesBackHasLostNothing(t *testing.T) {
	t.Parallel()
	s := fanoutService(t)
	rapid.Check(t, func(rt *rapid.T) {
		shelves := draw(rt, true)
		steady := &shelf{name: "steady", most: 3, fails: map[int]error{}}
		for i := range 60 { // has rows for as long as others fail
			steady.rows = append(steady.rows, sortKey{time.Date(2026, 1, 1, 0, 0, 60-i, 0, time.UTC), uuid.New()})
		}
		shelves = append(shelves, steady)
		seen := map[uuid.UUID]int{}
		var last Page
		for cursor := (*string)(nil); ; {
			last = ask(rt, s, shelves, 4, cursor)
			if len(last.Sources) != len(shelves) {
				rt.Fatalf("%d statuses of %d sources", len(last.Sources), len(shelves))
			}
			for _, row := range last.Data {
				k, err := keyOf(row)
				if err != nil {
					rt.Fatal(err)
				}
				seen[k.id]++
			}
			if cursor = last.Page.NextCursor; cursor == nil {
				break
			}
		}
		for i, sh := range shelves {
			for _, k := range sh.rows {
				if n := seen[k.id]; n > 1 || n == 0 && last.Sources[i].Status == StatusOK {
					rt.Fatalf("row of %s, which is %s, came %d times", sh.name, last.Sources[i].Status, n)
				}
			}
		}
	})
}

func TestASlowSourceDelaysNobodyBeyondItsDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := fanoutService(t)
		slow := func(ctx context.Context, _ position, _ int) (fetched, error) {
			<-ctx.Done()
			return fetched{}, ErrTimeout
		}
		quick := &shelf{name: "quick", most: 10, rows: []sortKey{{time.Now(), uuid.New()}}}
		feeds := []*feed{
			{position: position{Source: "slow"}, fetch: slow, rows: 5, timeout: 5 * time.Second, now: time.Now},
			{position: position{Source: "quick"}, fetch: quick.fetch, rows: 5, timeout: 5 * time.Second, now: time.Now},
		}
		begun := time.Now()
		p, err := s.gather(t.Context(), feeds, 5, "b")
		if err != nil || len(p.Data) != 1 || p.Sources[0].Status != StatusUnreachable || p.Sources[1].Status != StatusOK {
			t.Errorf("%v %+v", err, p)
		}
		if took := time.Since(begun); took != 5*time.Second {
			t.Errorf("took %s", took)
		}
	})
}

func TestALyingSourceHarmsItselfOnly(t *testing.T) {
	t.Parallel()
	now := time.Now().UTC()
	row := func(at time.Time) json.RawMessage {
		return json.RawMessage(fmt.Sprintf(`{"id":%q,"updated_at":%q}`, uuid.New(), at.Format(time.RFC3339Nano)))
	}
	again := "again"
	for name, lie := range map[string]fetchFunc{
		"rows out of order": func(context.Context, position, int) (fetched, error) {
			return fetched{rows: []json.RawMessage{row(now), row(now.Add(time.Hour))}}, nil
		},
		"a row without an id": func(context.Context, position, int) (fetched, error) {
			return fetched{rows: []json.RawMessage{json.RawMessage(`{"updated_at":"2026-01-01T00:00:00Z"}`)}}, nil
		},
		"pages without end": func(context.Context, position, int) (fetched, error) { return fetched{next: &again}, nil },
		"the same page for ever": func() fetchFunc {
			same := row(now)
			return func(context.Context, position, int) (fetched, error) {
				return fetched{rows: []json.RawMessage{same}, next: &again}, nil
			}
		}(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := fanoutService(t)
			honest := &shelf{name: "honest", most: 10}
			for i := range 5 {
				honest.rows = append(honest.rows, sortKey{now.Add(-time.Duration(i) * time.Minute), uuid.New()})
			}
			p, err := s.gather(t.Context(), []*feed{
				{position: position{Source: "liar"}, fetch: lie, rows: 10, timeout: time.Minute, now: time.Now},
				{position: position{Source: "honest"}, fetch: honest.fetch, rows: 10, timeout: time.Minute, now: time.Now},
			}, 10, "b")
			if err != nil || p.Sources[1].Rows != 5 || p.Sources[1].Status != StatusOK || p.Sources[0].Code != ErrAnswerInvalid.Code {
				t.Errorf("%v %+v", err, p.Sources)
			}
		})
	}
}

func TestACursorIsBoundToItsQuestion(t *testing.T) {
	t.Parallel()
	s := fanoutService(t)
	cursor, err := s.sealPositions(positions{{Source: "work", Cursor: "c", After: sortKey{time.Now(), uuid.New()}}}, "one")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.openPositions(cursor, "one"); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{cursor + "A", cursor[:len(cursor)-2], "", "%", cmp.Or("A" + cursor[1:])} {
		if _, err := s.openPositions(bad, "one"); err == nil && bad != cursor {
			t.Errorf("%q was opened", bad)
		}
	}
	if _, err := s.openPositions(cursor, "two"); err == nil {
		t.Error("a cursor of another question was opened")
	}
}

func TestSourcesAreReadStrictly(t *testing.T) {
	t.Parallel()
	for in, want := range map[[2]string]string{
		{"", ""}:         "[all] false",
		{"all", "true"}:  "[all] true",
		{"a,b", "false"}: "[a b] false",
		{"a,local", ""}:  "[a] true",
		{"local", ""}:    "[] true",
		{"a,a", ""}:      "error",
		{"a,", ""}:       "error",
		{"all,a", ""}:    "error",
		{"a", "yes"}:     "error",
		{"a", "TRUE"}:    "error",
	} {
		s, err := ParseSources(in[0], in[1])
		got := fmt.Sprint(s.Peers, " ", s.Local)
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

// A source that needs more pages when another has used the time up is not away: the answer is short, and goes on.
func TestASlowSourceTakesNoTimeFromTheOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := fanoutService(t)
		slow := func(ctx context.Context, _ position, _ int) (fetched, error) {
			<-ctx.Done()
			return fetched{}, ErrTimeout
		}
		capped := &shelf{name: "capped", most: 2}
		for i := range 5 {
			capped.rows = append(capped.rows, sortKey{time.Now().Add(-time.Duration(i) * time.Minute), uuid.New()})
		}
		feeds := func(at positions) []*feed {
			return []*feed{
				{position: at[0], fetch: slow, rows: 5, timeout: 5 * time.Second, now: time.Now},
				{position: at[1], fetch: capped.fetch, rows: 5, timeout: 5 * time.Second, now: time.Now},
			}
		}
		at := positions{{Source: "slow"}, {Source: "capped"}}
		var got []int
		for {
			begun := time.Now()
			p, err := s.gather(t.Context(), feeds(at), 5, "b")
			if err != nil || p.Sources[0].Status != StatusUnreachable || p.Sources[1].Status != StatusOK || time.Since(begun) != 5*time.Second {
				t.Fatalf("%v after %s: %+v", err, time.Since(begun), p.Sources)
			}
			got = append(got, len(p.Data))
			if p.Page.NextCursor == nil {
				break
			}
			if !p.Page.Capped {
				t.Error("a short page does not say so")
			}
			if at, err = s.openPositions(*p.Page.NextCursor, "b"); err != nil {
				t.Fatal(err)
			}
		}
		if !slices.Equal(got, []int{2, 2, 1}) {
			t.Errorf("pages of %v rows", got)
		}
	})
}
