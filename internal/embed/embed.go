// Package embed turns text into vectors: with an OpenAI-compatible endpoint, or with a built-in hash that stands in
// when there is none.
//
// Text goes to that one endpoint and nowhere else: no proxy, no redirect, and never into a log or an error.
package embed

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/seal"
)

// MaxDims is the longest vector that PostgreSQL's vector type holds.
const MaxDims = 16000

// MaxBatch is how many texts one call of Documents takes.
const MaxBatch = 32

// maxModel bounds a model's name, which is stored with every row.
const maxModel = 200

// The faults of this package.
var (
	ErrConfig = &fault.Fault{
		Kind: fault.Invalid, Code: "embeddings_config_invalid",
		Detail: "the embeddings settings do not fit together",
		Hint:   "set EMBEDDINGS_URL to an http or https address and EMBEDDINGS_MODEL to the model's name, or neither",
	}
	ErrUnavailable = &fault.Fault{
		Kind: fault.Unavailable, Code: "embeddings_unavailable",
		Detail:     "the query cannot be embedded now",
		Hint:       "try again shortly, or search with mode lexical",
		RetryAfter: 5 * time.Second,
	}
)

// ErrInput says that the endpoint does not take these texts and will not later. A batch that is refused can be
// tried in parts.
var ErrInput = errors.New("the embeddings endpoint refuses the input")

// Embedder turns text into vectors.
type Embedder interface {
	// Model is the name stored with the embeddings. Vectors of two models are never compared.
	Model() string
	// Remote tells whether a call costs something and takes text out of this process.
	Remote() bool
	// Floor is the cosine similarity below which two texts have nothing to do with each other.
	Floor() float64
	// Query embeds what somebody looks for; nil when there is nothing in it to compare. Its error is ErrUnavailable.
	Query(ctx context.Context, text string) ([]float32, error)
	// Documents embeds at most MaxBatch texts, in their order. A text that has nothing to compare gives nil. Its
	// errors are ErrUnavailable and ErrInput.
	Documents(ctx context.Context, texts []string) ([][]float32, error)
}

// Config says who computes embeddings. The zero Config is the built-in hash.
type Config struct {
	URL    string // of an OpenAI-compatible API, with or without /embeddings at its end
	Model  string
	APIKey seal.Secret

	Pause func(ctx context.Context, d time.Duration) error // between tries; nil: by the clock
}

// New returns the embedder that c asks for. It does not connect.
func New(c Config) (Embedder, error) {
	if c.URL == "" {
		if c.Model != "" || !c.APIKey.IsZero() {
			return nil, ErrConfig.With("EMBEDDINGS_MODEL and EMBEDDINGS_API_KEY go with EMBEDDINGS_URL, which is not set")
		}
		return Hash{}, nil
	}
	u, err := url.Parse(c.URL)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return nil, ErrConfig.With("EMBEDDINGS_URL is not an http or https address")
	case u.User != nil:
		return nil, ErrConfig.With("EMBEDDINGS_URL carries a user or password").Advise("send a key with EMBEDDINGS_API_KEY")
	case c.Model == "":
		return nil, ErrConfig.With("EMBEDDINGS_URL is set and EMBEDDINGS_MODEL is not")
	case c.Model == HashModel:
		return nil, ErrConfig.With("EMBEDDINGS_MODEL is the name of the built-in embedder").Advise("leave EMBEDDINGS_URL empty to use it")
	case len(c.Model) > maxModel || !utf8.ValidString(c.Model) || strings.ContainsFunc(c.Model, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return nil, ErrConfig.With("EMBEDDINGS_MODEL is no model's name: at most %d bytes, without control characters", maxModel)
	}
	u.Fragment, u.RawFragment = "", ""
	if path := strings.TrimRight(u.Path, "/"); !strings.HasSuffix(path, "/embeddings") {
		u.RawPath = ""
		u.Path = path + "/embeddings"
	}
	return newRemote(u.String(), c), nil
}
