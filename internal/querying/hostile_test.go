package querying

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

func bare(at string) json.RawMessage {
	return json.RawMessage(fmt.Sprintf(`{"id":%q,"updated_at":%q}`, uuid.New(), at))
}

func honestly(n int) *shelf {
	h := &shelf{name: "honest", most: 10}
	for i := range n {
		h.rows = append(h.rows, sortKey{time.Now().UTC().Add(-time.Duration(i) * time.Minute), uuid.New()})
	}
	return h
}

func feedOf(name string, rows int, fetch fetchFunc) *feed {
	return &feed{position: position{Source: name}, fetch: fetch, rows: rows, timeout: time.Minute, now: time.Now}
}

// A time that no cursor can hold is the fault of the source that gave it, and breaks no paging.
func TestAYearThatCannotBeWrittenHarmsItsSourceOnly(t *testing.T) {
	t.Parallel()
	s := fanoutService(t)
	for _, at := range []string{"9999-12-31T23:59:59-01:00", "0001-01-01T00:00:00+01:00", "0000-06-01T00:00:00Z"} {
		lie := func(context.Context, position, int) (fetched, error) {
			return fetched{rows: []json.RawMessage{bare(at)}}, nil
		}
		p, err := s.gather(t.Context(), []*feed{feedOf("liar", 5, lie), feedOf("honest", 5, honestly(20).fetch)}, 5, "b")
		if err != nil || p.Sources[0].Code != ErrAnswerInvalid.Code || p.Sources[1].Rows != 5 || p.Page.NextCursor == nil {
			t.Fatalf("%s: %v %+v", at, err, p)
		}
		if _, err := s.openPositions(*p.Page.NextCursor, "b"); err != nil {
			t.Errorf("%s: the next page: %v", at, err)
		}
	}
}

// However long the cursors of sources are, ours can be read again, and the honest source is read to its end.
func TestNoCursorIsTooLongToBeReadAgain(t *testing.T) {
	t.Parallel()
	s := fanoutService(t)
	fat := strings.Repeat("<", maxCursor)
	for _, n := range []int{1, 4, 9, maxSources - 1} {
		lie := func(context.Context, position, int) (fetched, error) {
			return fetched{rows: []json.RawMessage{bare("2020-01-01T00:00:00Z"), bare("2019-01-01T00:00:00Z")}, next: &fat}, nil
		}
		honest := honestly(20)
		at, got, failed := make(positions, n+1), 0, 0
		for i := range at {
			at[i].Source = fmt.Sprint("liar", i)
		}
		for page := range 4 {
			feeds := make([]*feed, n+1)
			for i := range n {
				feeds[i] = feedOf(at[i].Source, 5, lie)
				feeds[i].position = at[i]
			}
			feeds[n] = feedOf("honest", 5, honest.fetch)
			feeds[n].position = at[n]
			if page == 0 { // as if each had given a page before
				for i := range n {
					feeds[i].Cursor = fat
				}
			}
			p, err := s.gather(t.Context(), feeds, 5, "b")
			if err != nil || p.Sources[n].Status != StatusOK {
				t.Fatalf("%d: %v %+v", n, err, p.Sources)
			}
			got += p.Sources[n].Rows
			for _, source := range p.Sources[:n] {
				if source.Code == ErrAnswerInvalid.Code {
					failed++
				}
			}
			if p.Page.NextCursor == nil {
				t.Fatalf("%d: no next page after %d rows", n, got)
			}
			if at, err = s.openPositions(*p.Page.NextCursor, "b"); err != nil {
				t.Fatalf("%d fat cursors: one of %d characters: %v", n, len(*p.Page.NextCursor), err)
			}
			if got == 20 {
				break
			}
		}
		if got != 20 || (failed > 0) != (n > 8) {
			t.Errorf("%d fat cursors: %d rows, %d failed", n, got, failed)
		}
	}
}

// A source whose cursor is not kept begins anew behind what it gave: nothing comes twice, nothing is lost.
func TestASourceThatBeginsAnewLosesNothing(t *testing.T) {
	t.Parallel()
	s := fanoutService(t)
	h := honestly(30)
	seen, at := map[string]bool{}, position{Source: "h"}
	for len(seen) < 30 {
		f := feedOf("h", 10, h.fetch)
		f.position = at
		p, err := s.gather(t.Context(), []*feed{f}, 7, "b")
		if err != nil || len(p.Data) == 0 {
			t.Fatalf("%v %+v", err, p)
		}
		for _, row := range p.Data {
			if seen[string(row)] {
				t.Fatalf("%s came twice", row)
			}
			seen[string(row)] = true
		}
		f.restart(errLongCursor)
		if at = f.resume(); at.Cursor != "" || at.Done {
			t.Fatalf("%+v", at)
		}
	}
}

// Each page is a request: a source does not choose how many an answer costs.
func TestASourceIsAskedForFewPages(t *testing.T) {
	t.Parallel()
	s := fanoutService(t)
	asked := 0
	again := "again"
	empty := func(context.Context, position, int) (fetched, error) { asked++; return fetched{next: &again}, nil }
	p, err := s.gather(t.Context(), []*feed{feedOf("empty", fetchRows, empty)}, 500, "b")
	if err != nil || p.Sources[0].Code != ErrAnswerInvalid.Code || asked != maxEmpty+1 {
		t.Errorf("empty pages: asked %d times: %v %+v", asked, err, p.Sources)
	}

	one := honestly(2*maxPages + 1) // a row each: the answer is short, and goes on
	one.most = 1
	var got []int
	for at := (position{Source: "one"}); ; {
		one.asked = 0
		f := feedOf("one", fetchRows, one.fetch)
		f.position = at
		p, err := s.gather(t.Context(), []*feed{f}, 500, "b")
		if err != nil || p.Sources[0].Status != StatusOK || one.asked > maxPages {
			t.Fatalf("asked %d times: %v %+v", one.asked, err, p)
		}
		if got = append(got, len(p.Data)); p.Page.NextCursor == nil {
			break
		}
		if !p.Page.Capped {
			t.Error("a short page does not say so")
		}
		next, err := s.openPositions(*p.Page.NextCursor, "b")
		if err != nil {
			t.Fatal(err)
		}
		at = next[0]
	}
	if fmt.Sprint(got) != fmt.Sprint([]int{maxPages, maxPages, 1}) {
		t.Errorf("pages of %v rows", got)
	}

	asked = 0
	known := func(context.Context, position, int) (fetched, error) {
		asked++
		return fetched{rows: []json.RawMessage{bare(fmt.Sprintf("2026-01-01T00:%02d:00Z", 59-asked))}, next: &again}, nil
	}
	f := feedOf("known", fetchRows, known)
	f.After = sortKey{time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), uuid.New()}
	p, err = s.gather(t.Context(), []*feed{f, feedOf("honest", 5, honestly(2).fetch)}, 500, "b")
	if err != nil || p.Sources[0].Code != ErrAnswerInvalid.Code || asked != maxPages || p.Sources[1].Rows != 2 || p.Page.NextCursor != nil {
		t.Errorf("rows that were taken before, on and on: asked %d times: %v %+v", asked, err, p)
	}
}
