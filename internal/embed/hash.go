package embed

import (
	"context"
	"hash/fnv"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// HashModel is the name of the built-in embedder. The name is stored with each embedding: a change of what is below
// needs a new name.
const HashModel = "builtin-hash-v1"

// The built-in embedder. Sizes and weights were measured: see docs/search.md.
const (
	hashDims   = 512
	hashFloor  = 0.30 // unrelated texts stay below it
	pieceShare = 2.5  // of what the word itself weighs, for its pieces
	pieceRunes = 3
	maxPieces  = 64 // of one word
)

// Hash is the built-in embedder: words and pieces of words, hashed into a vector of 512 numbers. It is no language
// model. It knows nothing of meaning; it finds other spellings and inflections of the same words, in any language
// that has words. It is deterministic, and nothing leaves the process.
type Hash struct{}

// Model is the name that is stored with the embeddings.
func (Hash) Model() string { return HashModel }

// Remote is false: an embedding costs nothing and tells nobody.
func (Hash) Remote() bool { return false }

// Floor is the similarity below which two texts have nothing to do with each other.
func (Hash) Floor() float64 { return hashFloor }

// Query embeds what somebody looks for. It is nil for a text without words.
func (Hash) Query(_ context.Context, text string) ([]float32, error) { return hashVector(text), nil }

// Documents embeds rows, in the order given. A text without words has no vector: nil.
func (Hash) Documents(_ context.Context, texts []string) ([][]float32, error) {
	out := make([][]float32, len(texts))
	for i, t := range texts {
		out[i] = hashVector(t)
	}
	return out, nil
}

// hashVector has length 1, or is nil. Features are added in one order, so that equal texts get equal bits.
func hashVector(text string) []float32 {
	counts := map[string]int{}
	for _, w := range strings.FieldsFunc(strings.ToLower(text), func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !unicode.IsMark(r)
	}) {
		counts[w]++
	}
	var sum [hashDims]float64
	for _, w := range slices.Sorted(maps.Keys(counts)) {
		weight := wordWeight(w) * (1 + math.Log(float64(counts[w])))
		parts := pieces(w)
		add(&sum, "w", w, weight)
		for _, p := range parts {
			add(&sum, "p", p, weight*pieceShare/math.Sqrt(float64(len(parts))))
		}
	}
	return unit(sum[:])
}

// wordWeight stands in for how rare a word is, which one row cannot know: short words are mostly grammar.
func wordWeight(w string) float64 {
	switch n := utf8.RuneCountInString(w); {
	case n <= 2 && w[0] < utf8.RuneSelf:
		return 0.15
	case n == 3 && w[0] < utf8.RuneSelf:
		return 0.35
	case n == 4 && w[0] < utf8.RuneSelf:
		return 0.7
	}
	return 1
}

// pieces are the overlapping parts of a word, its ends marked.
func pieces(w string) []string {
	runes := []rune("^" + w + "$")
	var out []string
	for i := 0; i+pieceRunes <= len(runes) && len(out) < maxPieces; i++ {
		out = append(out, string(runes[i:i+pieceRunes]))
	}
	return out
}

func add(sum *[hashDims]float64, kind, feature string, weight float64) {
	h := fnv.New64a()
	_, _ = io.WriteString(h, kind+feature) // a hash takes every write
	n := mix(h.Sum64())
	if n>>63 == 1 {
		weight = -weight
	}
	sum[n%hashDims] += weight
}

// mix spreads FNV's bits: its low ones alone follow the last letter.
func mix(n uint64) uint64 {
	n ^= n >> 33
	n *= 0xff51afd7ed558ccd
	n ^= n >> 33
	n *= 0xc4ceb9fe1a85ec53
	return n ^ n>>33
}

// unit scales a sum to length 1; nil when there is nothing to scale.
func unit(sum []float64) []float32 {
	var square float64
	for _, x := range sum {
		square += x * x
	}
	if square == 0 {
		return nil
	}
	out := make([]float32, len(sum))
	for i, x := range sum {
		out[i] = float32(x / math.Sqrt(square))
	}
	return out
}
