package bench

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/page"
)

// book is an audit log in memory, as the export reads it, with a ledger for its checkpoint.
type book struct {
	rows    []audit.Entry
	batches []audit.StoredBatch
	heads   []audit.Head
	key     audit.StoredKey
}

// writeExport writes an export of so many rows in so many logs, and gives the key it is signed with.
func writeExport(b *testing.B, path string, rows, logs int) string {
	b.Helper()
	bk := &book{}
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	peer := uuid.New()
	for l := range logs {
		log := audit.NewLog()
		for first := l; first < rows; first += 100 * logs {
			var events []audit.Event
			for i := first; i < min(first+100*logs, rows); i += logs {
				e := event(peer)
				e.CreatedAt = start.Add(time.Duration(i) * time.Second)
				events = append(events, e)
			}
			batch := log.Next(events)
			log.Stored(batch)
			for i, e := range batch.Events {
				bk.rows = append(bk.rows, audit.Entry{Event: e, PeerRef: peer, LogID: batch.LogID, LeafIndex: batch.First + int64(i)})
			}
			bk.batches = append(bk.batches, audit.StoredBatch{LogID: batch.LogID, First: batch.First, Leaves: batch.Leaves, Root: batch.Root})
		}
		last := bk.batches[len(bk.batches)-1]
		bk.heads = append(bk.heads, audit.Head{LogID: last.LogID, Size: last.First + int64(len(last.Leaves)/audit.LeafSize), Root: last.Root})
	}
	slices.SortFunc(bk.rows, func(x, y audit.Entry) int { return x.CreatedAt.Compare(y.CreatedAt) })
	slices.SortFunc(bk.batches, func(x, y audit.StoredBatch) int {
		return cmp.Or(bytes.Compare(x.LogID[:], y.LogID[:]), cmp.Compare(x.First, y.First))
	})
	slices.SortFunc(bk.heads, func(x, y audit.Head) int { return bytes.Compare(x.LogID[:], y.LogID[:]) })
	n := audit.NewNotary(audit.NotaryConfig{Ledger: bk, Ring: bk, Random: rand.Reader, Now: time.Now})
	signed, err := n.Checkpoint(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	w := bufio.NewWriterSize(f, 1<<20)
	o := audit.ExportOptions{Format: audit.FormatLines, Checkpoint: signed, Key: bk.key.Verifier}
	if err := audit.Export(b.Context(), bk, w, o, func() error { return nil }); err != nil {
		b.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		b.Fatal(err)
	}
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
	return bk.key.Verifier
}

// Rows implements audit.Source. The rows are a second apart.
func (k *book) Rows(_ context.Context, _, _ time.Time, after page.Key, limit int) ([]audit.Entry, error) {
	i := 0
	if !after.UpdatedAt.IsZero() {
		i, _ = slices.BinarySearchFunc(k.rows, after.UpdatedAt, func(e audit.Entry, t time.Time) int { return e.CreatedAt.Compare(t) })
		i++
	}
	return k.rows[i:min(i+limit, len(k.rows))], nil
}

// Batches implements audit.Source.
func (k *book) Batches(_ context.Context, log uuid.UUID, first int64, limit int) ([]audit.StoredBatch, error) {
	i, found := slices.BinarySearchFunc(k.batches, first, func(s audit.StoredBatch, first int64) int {
		return cmp.Or(bytes.Compare(s.LogID[:], log[:]), cmp.Compare(s.First, first))
	})
	if found {
		i++
	}
	return k.batches[i:min(i+limit, len(k.batches))], nil
}

// Retention implements audit.Source.
func (*book) Retention(context.Context) (audit.Retention, error) {
	return audit.Retention{Entry: audit.Entry{LeafIndex: -1}}, nil
}

// The rest implements audit.Ledger and audit.Ring, as far as one checkpoint needs them.

func (*book) Sequence(context.Context, int, func([]audit.Event) *audit.Batch) (int, error) {
	return 0, nil
}
func (k *book) Heads(context.Context) ([]audit.Head, error)       { return k.heads, nil }
func (k *book) Key(context.Context) (audit.StoredKey, error)      { return k.key, nil }
func (*book) LastCheckpoint(context.Context) (string, error)      { return "", nil }
func (*book) KeepCheckpoint(context.Context, int64, string) error { return nil }

func (k *book) KeepKey(_ context.Context, key audit.StoredKey) (audit.StoredKey, error) {
	k.key = key
	return key, nil
}

func (*book) Seal(plain []byte, _, _, _ string) ([]byte, error)  { return bytes.Clone(plain), nil }
func (*book) Open(sealed []byte, _, _, _ string) ([]byte, error) { return bytes.Clone(sealed), nil }
