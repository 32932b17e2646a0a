package audit_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/mod/sumdb/note"
	"pgregory.net/rapid"

	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/page"
)

// book is an audit log in memory: rows, batches, and a key to sign with.
type book struct {
	rows    []audit.Entry
	batches []audit.StoredBatch
	heads   []audit.Head
	dropped audit.Retention
	signer  note.Signer
	private string
	key     string
}

func newBook(t interface{ Fatal(...any) }) *book {
	private, public, err := note.GenerateKey(rand.Reader, "mosaic-audit/test")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := note.NewSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	return &book{signer: signer, private: private, key: public, dropped: audit.Retention{Entry: audit.Entry{LeafIndex: -1}}}
}

var start = time.Date(2026, 1, 30, 0, 0, 0, 0, time.UTC)

// write appends events to a log in batches of so many.
func (b *book) write(log *audit.Log, size int, events ...audit.Event) {
	for part := range slices.Chunk(events, size) {
		batch := log.Next(part)
		log.Stored(batch)
		for i, e := range batch.Events {
			entry := audit.Entry{Event: e, PeerRef: e.PeerID, LogID: batch.LogID, LeafIndex: batch.First + int64(i)}
			entry.PeerID = uuid.Nil
			b.rows = append(b.rows, entry)
		}
		b.batches = append(b.batches, audit.StoredBatch{LogID: batch.LogID, First: batch.First, Leaves: batch.Leaves, Root: batch.Root})
		head := audit.Head{LogID: batch.LogID, Size: batch.First + int64(len(batch.Events)), Root: batch.Root}
		b.heads = append(slices.DeleteFunc(b.heads, func(h audit.Head) bool { return h.LogID == head.LogID }), head)
	}
	slices.SortFunc(b.rows, func(x, y audit.Entry) int {
		return cmp.Or(x.CreatedAt.Compare(y.CreatedAt), bytes.Compare(x.ID[:], y.ID[:]))
	})
	slices.SortFunc(b.batches, func(x, y audit.StoredBatch) int {
		return cmp.Or(bytes.Compare(x.LogID[:], y.LogID[:]), cmp.Compare(x.First, y.First))
	})
	slices.SortFunc(b.heads, func(x, y audit.Head) int { return bytes.Compare(x.LogID[:], y.LogID[:]) })
}

func (b *book) checkpoint(t interface{ Fatal(...any) }) string {
	signed, err := audit.Checkpoint{Origin: b.signer.Name(), Time: start, Heads: b.heads}.Sign(b.signer)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// Rows implements audit.Source.
func (b *book) Rows(_ context.Context, since, until time.Time, after page.Key, limit int) (list []audit.Entry, err error) {
	for _, e := range b.rows {
		if !since.IsZero() && e.CreatedAt.Before(since) || !until.IsZero() && !e.CreatedAt.Before(until) {
			continue
		}
		if !after.UpdatedAt.IsZero() && cmp.Or(e.CreatedAt.Compare(after.UpdatedAt), bytes.Compare(e.ID[:], after.ID[:])) <= 0 {
			continue
		}
		if list = append(list, e); len(list) == limit {
			break
		}
	}
	return list, nil
}

// Batches implements audit.Source.
func (b *book) Batches(_ context.Context, log uuid.UUID, first int64, limit int) (list []audit.StoredBatch, err error) {
	for _, s := range b.batches {
		if cmp.Or(bytes.Compare(s.LogID[:], log[:]), cmp.Compare(s.First, first)) > 0 && len(list) < limit {
			list = append(list, s)
		}
	}
	return list, nil
}

// Retention implements audit.Source.
func (b *book) Retention(context.Context) (audit.Retention, error) { return b.dropped, nil }

func (b *book) export(t interface{ Fatal(...any) }, o audit.ExportOptions) []byte {
	var out bytes.Buffer
	o.Format, o.Key = audit.FormatLines, b.key
	if o.Checkpoint == "" {
		o.Checkpoint = b.checkpoint(t)
	}
	if err := audit.Export(context.Background(), b, &out, o, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func verify(t interface{ Fatal(...any) }, doc []byte, o audit.VerifyOptions) audit.Report {
	r, err := audit.Verify(bytes.NewReader(doc), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// passes reports whether an export verifies. What is no export any more, or one of another range, does not.
func passes(t interface{ Fatal(...any) }, doc []byte, o audit.VerifyOptions) bool {
	r, err := audit.Verify(bytes.NewReader(doc), o)
	if err != nil && !errors.Is(err, audit.ErrNoProof) && !errors.Is(err, audit.ErrRange) {
		t.Fatal(err)
	}
	return err == nil && r.OK
}

// TestAMistakeIsNoTampering: what was given by mistake is said to be, and no evidence of anything.
func TestAMistakeIsNoTampering(t *testing.T) {
	t.Parallel()
	b := twoLogs(t, 10)
	doc := b.export(t, audit.ExportOptions{})
	rows := doc[bytes.Index(doc, []byte("{\"id\":")):]
	for name, given := range map[string]struct {
		doc  []byte
		o    audit.VerifyOptions
		want error
	}{
		"nothing":                {nil, audit.VerifyOptions{}, audit.ErrNoProof},
		"an export without":      {rows, audit.VerifyOptions{}, audit.ErrNoProof},
		"CSV":                    {[]byte("created_at,id,request_id\r\n"), audit.VerifyOptions{}, audit.ErrNoProof},
		"a checkpoint":           {[]byte(b.checkpoint(t)), audit.VerifyOptions{}, audit.ErrNoProof},
		"something else":         {[]byte("PK"), audit.VerifyOptions{}, audit.ErrNoProof},
		"no key":                 {doc, audit.VerifyOptions{Key: "mosaic-audit/test+00000000+AAAA"}, audit.ErrKey},
		"another range":          {doc, audit.VerifyOptions{Since: start}, audit.ErrRange},
		"another end of a range": {doc, audit.VerifyOptions{Until: start}, audit.ErrRange},
	} {
		if r, err := audit.Verify(bytes.NewReader(given.doc), given.o); !errors.Is(err, given.want) || r.OK || len(r.Problems) != 0 {
			t.Errorf("%s: %v, %+v", name, err, r.Problems)
		}
	}
}

// events makes n of them, a minute apart.
func events(n int) []audit.Event {
	list := make([]audit.Event, n)
	for i := range list {
		list[i] = full()
		list[i].ID = uuid.New()
		list[i].RequestID = fmt.Sprintf("req-%d", i)
		list[i].CreatedAt = start.Add(time.Duration(i) * time.Minute)
	}
	return list
}

// twoLogs is a book of two logs whose rows are mixed in time.
func twoLogs(t interface{ Fatal(...any) }, n int) *book {
	b := newBook(t)
	list := events(n)
	var even, odd []audit.Event
	for i, e := range list {
		if i%2 == 0 {
			even = append(even, e)
		} else {
			odd = append(odd, e)
		}
	}
	b.write(audit.NewLog(), 7, even...)
	b.write(audit.NewLog(), 3, odd...)
	return b
}

func TestAnExportVerifies(t *testing.T) {
	t.Parallel()
	b := twoLogs(t, 3000)
	r := verify(t, b.export(t, audit.ExportOptions{}), audit.VerifyOptions{Key: b.key, Earlier: b.checkpoint(t)})
	if !r.OK || r.Rows != 3000 || r.Logs != 2 || r.Leaves != 3000 || r.Dropped+r.Outside+r.More != 0 || r.OwnKey {
		t.Errorf("%+v", r)
	}
	if empty := verify(t, newBook(t).export(t, audit.ExportOptions{}), audit.VerifyOptions{}); !empty.OK || empty.Rows != 0 || !empty.OwnKey {
		t.Errorf("an empty log: %+v", empty)
	}
	since, until := start.Add(time.Hour), start.Add(2*time.Hour)
	part := b.export(t, audit.ExportOptions{Since: since, Until: until})
	if r := verify(t, part, audit.VerifyOptions{Key: b.key, Since: since, Until: until}); !r.OK || r.Rows != 60 || r.Outside != 2940 {
		t.Errorf("a range: %+v", r)
	}
	if _, err := audit.Verify(bytes.NewReader(part), audit.VerifyOptions{Key: b.key}); !errors.Is(err, audit.ErrRange) {
		t.Errorf("a part passed for the whole: %v", err)
	}
}

// TestEveryMutationOfAnExportIsFound changes an export at random: single bytes, whole lines, and rows with what belongs
// to them. Whatever it is, it is found.
func TestEveryMutationOfAnExportIsFound(t *testing.T) {
	t.Parallel()
	b := twoLogs(t, 24)
	doc := b.export(t, audit.ExportOptions{})
	mutations := map[string]func(t *rapid.T, doc []byte) []byte{
		"a byte": func(t *rapid.T, doc []byte) []byte {
			doc = bytes.Clone(doc)
			doc[rapid.IntRange(0, len(doc)-1).Draw(t, "at")] ^= byte(rapid.IntRange(1, 255).Draw(t, "bits"))
			return doc
		},
		"a byte more": func(t *rapid.T, doc []byte) []byte {
			return slices.Insert(bytes.Clone(doc), rapid.IntRange(0, len(doc)).Draw(t, "at"), rapid.Byte().Draw(t, "byte"))
		},
		"a byte less": func(t *rapid.T, doc []byte) []byte {
			at := rapid.IntRange(0, len(doc)-1).Draw(t, "at")
			return slices.Delete(bytes.Clone(doc), at, at+1)
		},
		"cut off": func(t *rapid.T, doc []byte) []byte { return doc[:rapid.IntRange(0, len(doc)-1).Draw(t, "at")] },
		"a line less": func(t *rapid.T, doc []byte) []byte {
			lines := bytes.SplitAfter(doc, []byte("\n"))
			at := rapid.IntRange(0, len(lines)-2).Draw(t, "at")
			return bytes.Join(slices.Delete(lines, at, at+1), nil)
		},
		"a line twice": func(t *rapid.T, doc []byte) []byte {
			lines := bytes.SplitAfter(doc, []byte("\n"))
			l := lines[rapid.IntRange(0, len(lines)-2).Draw(t, "line")]
			return bytes.Join(slices.Insert(lines, rapid.IntRange(0, len(lines)-1).Draw(t, "at"), l), nil)
		},
		"two lines swapped": func(t *rapid.T, doc []byte) []byte {
			lines := bytes.SplitAfter(doc, []byte("\n"))
			i := rapid.IntRange(0, len(lines)-2).Draw(t, "i")
			j := rapid.IntRange(0, len(lines)-2).Filter(func(j int) bool { return j != i }).Draw(t, "j")
			lines[i], lines[j] = lines[j], lines[i]
			return bytes.Join(lines, nil)
		},
	}
	for name, mutate := range mutations {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(t *rapid.T) {
				bad := mutate(t, doc)
				if bytes.Equal(bad, doc) {
					t.Skip("the same again")
				}
				if passes(t, bad, audit.VerifyOptions{Key: b.key}) {
					t.Fatal("not found")
				}
			})
		})
	}
}

// TestNoTwoLinesOfAnExportCanTradePlaces swaps every line with its neighbour.
func TestNoTwoLinesOfAnExportCanTradePlaces(t *testing.T) {
	t.Parallel()
	b := twoLogs(t, 24)
	doc := b.export(t, audit.ExportOptions{})
	count := bytes.Count(doc, []byte("\n"))
	for i := range count - 1 {
		lines := bytes.SplitAfter(doc, []byte("\n"))
		lines[i], lines[i+1] = lines[i+1], lines[i]
		if passes(t, bytes.Join(lines, nil), audit.VerifyOptions{Key: b.key}) {
			t.Errorf("lines %d and %d", i+1, i+2)
		}
	}
}

// TestWhoeverRewritesTheTablesIsFound does what somebody with the database can do, and lets the gateway export it.
func TestWhoeverRewritesTheTablesIsFound(t *testing.T) {
	t.Parallel()
	earlier := func(b *book, t *testing.T) string { return b.checkpoint(t) }
	tests := []struct {
		name    string
		rewrite func(t *testing.T, b *book)
		kind    string
		resign  bool // also gets the gateway to sign what is there now
	}{
		{"a row is changed", func(_ *testing.T, b *book) { b.rows[17].RowsOut++ }, "changed", false},
		{"a row's peer is another", func(_ *testing.T, b *book) { b.rows[17].PeerRef = uuid.New() }, "changed", false},
		{"a row's time is another", func(_ *testing.T, b *book) { b.rows[17].CreatedAt = b.rows[17].CreatedAt.Add(time.Second) }, "changed", false},
		{"a row is removed", func(_ *testing.T, b *book) { b.rows = slices.Delete(b.rows, 17, 18) }, "removed", false},
		{"the newest rows are removed", func(_ *testing.T, b *book) { b.rows = b.rows[:90] }, "removed", false},
		{"a row is inserted", func(_ *testing.T, b *book) {
			e := b.rows[17]
			e.ID, e.CreatedAt = uuid.New(), e.CreatedAt.Add(time.Microsecond)
			b.rows = slices.Insert(b.rows, 18, e)
		}, "changed", false},
		{"two rows trade places in the log", func(_ *testing.T, b *book) {
			b.rows[10].LeafIndex, b.rows[12].LeafIndex = b.rows[12].LeafIndex, b.rows[10].LeafIndex
		}, "changed", false},
		{"a whole log is gone", func(_ *testing.T, b *book) { drop(b, b.batches[0].LogID) }, "rewritten", true},
		{"a log is cut", func(_ *testing.T, b *book) { cut(b) }, "rewritten", true},
		{"a log is written anew", func(_ *testing.T, b *book) {
			rows := b.rows
			b.rows, b.batches, b.heads = nil, nil, nil
			var list []audit.Event
			for _, e := range rows {
				if e.RequestID != "req-17" {
					list = append(list, e.Hashed())
				}
			}
			log := audit.NewLog()
			log.ID = rows[0].LogID
			b.write(log, 7, list...)
		}, "rewritten", true},
		{"a log is written anew and goes on", func(_ *testing.T, b *book) {
			ids, of := map[uuid.UUID]*audit.Log{}, map[uuid.UUID][]audit.Event{}
			for _, e := range b.rows {
				if e.RequestID == "req-17" {
					e.RowsOut++
				}
				of[e.LogID] = append(of[e.LogID], e.Hashed())
			}
			b.rows, b.batches, b.heads = nil, nil, nil
			for id, list := range of {
				ids[id] = audit.NewLog()
				ids[id].ID = id
				more := full()
				more.ID, more.CreatedAt = uuid.New(), start.Add(1000*time.Hour)
				b.write(ids[id], 7, append(list, more)...)
			}
		}, "rewritten", true},
		{"it is signed by another key", func(t *testing.T, b *book) {
			other := newBook(t)
			b.signer, b.key = other.signer, other.key
		}, "rewritten", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := twoLogs(t, 100)
			key, was := b.key, earlier(b, t)
			tt.rewrite(t, b)
			o := audit.ExportOptions{}
			if !tt.resign {
				o.Checkpoint = was
			}
			doc := b.export(t, o)
			for name, held := range map[string]audit.VerifyOptions{"key": {Key: key}, "checkpoint": {Earlier: was}, "both": {Key: key, Earlier: was}} {
				if tt.resign && name == "key" && b.key == key {
					continue // the gateway itself signed it: only what is kept elsewhere tells
				}
				r := verify(t, doc, held)
				if r.OK || r.Problems[0].Kind != tt.kind {
					t.Errorf("%s: %+v", name, r.Problems)
				}
			}
		})
	}
}

// drop takes a log out of a book.
func drop(b *book, id uuid.UUID) {
	b.rows = slices.DeleteFunc(b.rows, func(e audit.Entry) bool { return e.LogID == id })
	b.batches = slices.DeleteFunc(b.batches, func(s audit.StoredBatch) bool { return s.LogID == id })
	b.heads = slices.DeleteFunc(b.heads, func(h audit.Head) bool { return h.LogID == id })
}

// cut takes the last batch out of the last log.
func cut(b *book) {
	last := b.batches[len(b.batches)-1]
	b.batches = b.batches[:len(b.batches)-1]
	b.rows = slices.DeleteFunc(b.rows, func(e audit.Entry) bool { return e.LogID == last.LogID && e.LeafIndex >= last.First })
	for i := range b.heads {
		if b.heads[i].LogID == last.LogID {
			b.heads[i].Size, b.heads[i].Root = last.First, b.batches[len(b.batches)-1].Root
		}
	}
}

func TestAPlainExportHasRowsOnly(t *testing.T) {
	t.Parallel()
	b := twoLogs(t, 10)
	var out bytes.Buffer
	if err := audit.Export(t.Context(), b, &out, audit.ExportOptions{Format: audit.FormatLines}, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 10 {
		t.Fatalf("%d lines", len(lines))
	}
	for i, l := range lines {
		if !strings.Contains(l, fmt.Sprintf(`"request_id":"req-%d"`, i)) {
			t.Errorf("line %d: %s", i, l)
		}
	}
}

func TestCSVIsNoProgram(t *testing.T) {
	t.Parallel()
	b := newBook(t)
	e := full()
	e.Actor, e.Detail, e.RequestID, e.PeerName = "=cmd|' /C calc'!A0", "a\x1b[31m\r\nb,\"c\"\u202e", " +1", "＝1+1"
	b.write(audit.NewLog(), 1, e)
	var out bytes.Buffer
	if err := audit.Export(t.Context(), b, &out, audit.ExportOptions{Format: audit.FormatCSV}, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	got := out.String()
	if strings.Count(got, "\r\n") != 2 || strings.ContainsAny(strings.ReplaceAll(got, "\r\n", ""), "\x1b\r\n\u202e") {
		t.Errorf("lines or control characters: %q", got)
	}
	for _, want := range []string{",'=cmd", ",' +1,", ",'＝1+1,", `"a [31m  b,""c"" "`} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in %q", want, got)
		}
	}
}

func FuzzVerify(f *testing.F) {
	b := twoLogs(f, 4)
	doc := b.export(f, audit.ExportOptions{})
	f.Add(doc)
	f.Add([]byte("{}\n"))
	f.Fuzz(func(t *testing.T, bad []byte) {
		r, err := audit.Verify(bytes.NewReader(bad), audit.VerifyOptions{Key: b.key})
		if err == nil && r.OK && !bytes.Equal(bad, doc) {
			t.Fatal("another export passes under the same key")
		}
	})
}
