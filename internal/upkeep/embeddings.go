package upkeep

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/scope"
)

// EmbeddingsTask is the name of the task that computes embeddings, so that whoever writes rows can ask for it.
const EmbeddingsTask = "embed"

// The bounds of a run of the task. What is left over is due again at once.
const (
	embedEvery    = 5 * time.Second // for rows that were written past the gateway
	embedFor      = 40 * time.Second
	embedBatch    = 32 // texts in one call
	embedParallel = 4  // calls at once
	embedLease    = 2 * time.Minute
	sweepBatch    = 1000
	firstRetry    = 5 * time.Second
	lastRetry     = time.Hour
)

// Unembedded is a row that waits for its embedding.
type Unembedded struct {
	Resource scope.Resource
	ID       uuid.UUID
	Text     string
	Attempts int // before this one
}

// Embedded is a row's text and what became of it.
type Embedded struct {
	Unembedded
	Vector []float32 // nil: the text has nothing that could be compared
}

// EmbeddingStore knows which rows wait for an embedding.
type EmbeddingStore interface {
	// Adopt makes a model the cluster's. Rows with embeddings of another are found by the sweep.
	Adopt(ctx context.Context, model string) error
	// Sweep looks at up to limit rows and queues those whose embedding is not of the model. It does nothing while
	// many are queued. more is false at its end, and when the cluster has another model.
	Sweep(ctx context.Context, model string, limit int) (more bool, err error)
	// Take gives rows that are due and keeps them from others for a while; none when the cluster has another model.
	Take(ctx context.Context, model string, limit int, keep time.Duration) ([]Unembedded, error)
	// Settle stores embeddings of rows that still say what was embedded. The others stay due.
	Settle(ctx context.Context, model string, rows []Embedded) error
	// Postpone makes rows due again later.
	Postpone(ctx context.Context, rows []Unembedded, in time.Duration) error
}

// Embedder turns rows into vectors.
type Embedder interface {
	Model() string
	// Documents embeds texts in their order. An error that refuses means that these texts will never be taken.
	Documents(ctx context.Context, texts []string) ([][]float32, error)
}

// EmbeddingsConfig is what computing embeddings needs.
type EmbeddingsConfig struct {
	Store    EmbeddingStore
	Embedder Embedder
	Refuses  func(error) bool // whether an error of the Embedder is about the texts
	Log      *slog.Logger
}

// Embeddings keeps the rows' embeddings.
type Embeddings struct {
	EmbeddingsConfig
	away atomic.Bool // what was last in the log
}

// NewEmbeddings returns Embeddings.
func NewEmbeddings(c EmbeddingsConfig) *Embeddings { return &Embeddings{EmbeddingsConfig: c} }

// Adopt makes the model the cluster's: the gateway that started last says which.
func (e *Embeddings) Adopt(ctx context.Context) error { return e.Store.Adopt(ctx, e.Embedder.Model()) }

// Task is the one kind of upkeep that Embeddings does.
func (e *Embeddings) Task() Task { return Task{EmbeddingsTask, embedEvery, e.Run} }

// Run embeds what is due. An endpoint that is away is no failure of the task: the rows stay due, and lexical search
// finds them meanwhile.
func (e *Embeddings) Run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, embedFor)
	defer cancel()
	for ctx.Err() == nil {
		rows, err := e.Store.Take(ctx, e.Embedder.Model(), embedBatch*embedParallel, embedLease)
		if err != nil {
			return err
		}
		if len(rows) == 0 {
			more, err := e.Store.Sweep(ctx, e.Embedder.Model(), sweepBatch)
			if err != nil || !more {
				return err
			}
			continue
		}
		away, err := e.batches(ctx, rows)
		if ctx.Err() != nil {
			return nil // the run is over, whatever was under way
		}
		if away != e.away.Swap(away) {
			if away {
				e.Log.Warn("rows are not embedded: the endpoint is away", "error", err)
			} else {
				e.Log.Info("rows are embedded again")
			}
		}
		if away {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// batches embeds rows, a few calls at once.
func (e *Embeddings) batches(ctx context.Context, rows []Unembedded) (away bool, err error) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for len(rows) > 0 {
		n := min(embedBatch, len(rows))
		part := rows[:n]
		rows = rows[n:]
		wg.Go(func() {
			gone, failed := e.batch(ctx, part)
			mu.Lock()
			defer mu.Unlock()
			away, err = away || gone, errors.Join(err, failed)
		})
	}
	wg.Wait()
	return away, err
}

func (e *Embeddings) batch(ctx context.Context, rows []Unembedded) (away bool, err error) {
	texts := make([]string, len(rows))
	for i, r := range rows {
		texts[i] = r.Text
	}
	vectors, err := e.Embedder.Documents(ctx, texts)
	switch {
	case err == nil:
		done := make([]Embedded, len(rows))
		for i, r := range rows {
			done[i] = Embedded{r, vectors[i]}
		}
		return false, e.Store.Settle(ctx, e.Embedder.Model(), done)
	case e.Refuses(err) && len(rows) > 1:
		// One text that is refused must not keep the others from having their embedding.
		half := len(rows) / 2
		away, err = e.batch(ctx, rows[:half])
		if away {
			return away, errors.Join(err, e.later(ctx, rows[half:], firstRetry))
		}
		gone, failed := e.batch(ctx, rows[half:])
		return gone, errors.Join(err, failed)
	case e.Refuses(err):
		e.Log.Warn("a row is refused by the embeddings endpoint", "resource", rows[0].Resource, "id", rows[0].ID, "error", err)
		return false, e.later(ctx, rows, min(firstRetry<<min(rows[0].Attempts, 12), lastRetry))
	}
	wait := max(firstRetry, fault.From(err).RetryAfter)
	return true, errors.Join(err, e.later(ctx, rows, min(wait, lastRetry)))
}

// later gives rows back, spread a little, also when the run is being ended.
func (e *Embeddings) later(ctx context.Context, rows []Unembedded, in time.Duration) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	return e.Store.Postpone(ctx, rows, in+rand.N(in/4)) //nolint:gosec // spreads tries, hides nothing
}
