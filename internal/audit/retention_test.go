package audit_test

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/audit"
)

// strongbox has a book's key at hand, as it is stored.
type strongbox struct {
	audit.Ledger
	audit.Ring
	b *book
}

func (s strongbox) Key(context.Context) (audit.StoredKey, error) {
	return audit.StoredKey{ID: uuid.New(), Verifier: s.b.key, Sealed: []byte(s.b.private)}, nil
}

func (s strongbox) Open(sealed []byte, _, _, _ string) ([]byte, error) {
	return bytes.Clone(sealed), nil
}

// notary is the gateway that signs with the book's key.
func (b *book) notary(now time.Time) *audit.Notary {
	s := strongbox{b: b}
	return audit.NewNotary(audit.NotaryConfig{Ledger: s, Ring: s, Now: func() time.Time { return now }, Log: slog.New(slog.DiscardHandler)})
}

// february is a month's beginning; lastRow is in it.
var (
	february = time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC)
	lastRow  = february.Add(1000 * time.Minute)
)

// aroundFebruary is a book of 200 rows, of which 50 are from before february.
func aroundFebruary(t *testing.T) *book {
	b := newBook(t)
	list := events(200)
	for i := range list {
		list[i].CreatedAt = february.Add(time.Duration(i-50) * time.Minute)
	}
	b.write(audit.NewLog(), 7, list...)
	return b
}

// retain drops the rows from before a time, as a row with this detail says.
func (b *book) retain(before time.Time, row audit.Event) {
	b.write(audit.NewLog(), 1, row)
	b.dropped = audit.Retention{Before: before, Entry: b.rows[len(b.rows)-1]}
	b.rows = slices.DeleteFunc(b.rows, func(e audit.Entry) bool { return e.CreatedAt.Before(before) })
}

// said is the row that the gateway writes when it drops rows.
func (b *book) said(t *testing.T, before time.Time) audit.Event {
	e := audit.Event{ID: uuid.New(), Direction: audit.Admin, Verb: audit.RetentionVerb, RequestID: "upkeep", CreatedAt: lastRow}
	var err error
	if e.Detail, err = b.notary(lastRow).Removal(t.Context(), before, e.ID); err != nil {
		t.Fatal(err)
	}
	return e
}

// TestDroppedRowsAreExplained: retention leaves time and hash, and a row that says what was dropped. Nothing else may
// be missing.
func TestDroppedRowsAreExplained(t *testing.T) {
	t.Parallel()
	b := aroundFebruary(t)
	all := slices.Clone(b.rows)
	b.retain(february, b.said(t, february))
	doc := b.export(t, audit.ExportOptions{})
	r := verify(t, doc, audit.VerifyOptions{Key: b.key, DroppedBefore: february})
	if !r.OK || r.Dropped != 50 || r.Rows != 151 || r.DroppedTo == nil || !r.DroppedTo.Equal(february) {
		t.Errorf("%+v", r)
	}
	if r := verify(t, doc, audit.VerifyOptions{Key: b.key, DroppedBefore: february.AddDate(0, -1, 0)}); r.OK {
		t.Error("more was dropped than was to be, and that passes")
	}
	later := strings.Replace(string(doc), february.Format(time.RFC3339), february.AddDate(0, 1, 0).Format(time.RFC3339), 1)
	if r := verify(t, []byte(later), audit.VerifyOptions{Key: b.key}); r.OK {
		t.Error("a removal that claims more than it did was believed")
	}
	kept := b.rows
	b.rows = append([]audit.Entry{all[49]}, kept...)
	if r := verify(t, b.export(t, audit.ExportOptions{}), audit.VerifyOptions{Key: b.key}); r.OK || r.Problems[0].Kind != "inserted" {
		t.Errorf("a row of the dropped time is there: %+v", r)
	}
	b.rows = kept[1:] // one that was not to be dropped
	if r := verify(t, b.export(t, audit.ExportOptions{}), audit.VerifyOptions{Key: b.key}); r.OK || r.Problems[0].Kind != "removed" {
		t.Errorf("a row of the kept time is gone: %+v", r)
	}
}

// TestARemovalThatTheGatewayDidNotSignExplainsNothing has rows in the log, sequenced and signed like any other, that
// only somebody with the database can have written.
func TestARemovalThatTheGatewayDidNotSignExplainsNothing(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		forge func(t *testing.T, b *book) audit.Event
	}{
		{"it is not signed", func(t *testing.T, b *book) audit.Event {
			e := b.said(t, february)
			e.Detail = february.Format(time.RFC3339)
			return e
		}},
		{"the signature is of another row", func(t *testing.T, b *book) audit.Event {
			e := b.said(t, february)
			e.ID = uuid.New()
			return e
		}},
		{"the signature is of another time", func(t *testing.T, b *book) audit.Event {
			e := b.said(t, february.AddDate(0, -1, 0))
			e.Detail = strings.Replace(e.Detail, "2026-01-01", "2026-02-01", 1)
			return e
		}},
		{"the signature is of another key", func(t *testing.T, _ *book) audit.Event { return newBook(t).said(t, february) }},
		{"the row is of another verb", func(t *testing.T, b *book) audit.Event {
			e := b.said(t, february)
			e.Verb = "user.create"
			return e
		}},
		{"the row is from before the month", func(t *testing.T, b *book) audit.Event {
			e := b.said(t, february)
			e.CreatedAt = february.Add(-time.Second)
			b.rows = slices.DeleteFunc(b.rows, func(e audit.Entry) bool { return !e.CreatedAt.Before(february) })
			return e
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := aroundFebruary(t)
			b.retain(february, tt.forge(t, b))
			r := verify(t, b.export(t, audit.ExportOptions{}), audit.VerifyOptions{Key: b.key})
			if r.OK || r.Dropped != 0 || r.DroppedTo != nil || !strings.Contains(r.Problems[0].Detail, "dropped rows") {
				t.Errorf("%+v", r)
			}
		})
	}
}

func TestOnlyWholeMonthsThatHaveEndedAreSaidToBeDropped(t *testing.T) {
	t.Parallel()
	b := newBook(t)
	for _, before := range []time.Time{lastRow.Add(-time.Minute), february.AddDate(0, 1, 0), february.Add(time.Nanosecond)} {
		if detail, err := b.notary(lastRow).Removal(t.Context(), before, uuid.New()); err == nil {
			t.Errorf("%s is signed: %s", before, detail)
		}
	}
}
