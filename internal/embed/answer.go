package embed

import (
	"encoding/json"
	"math"
)

// readVectors reads {"data":[{"index":0,"embedding":[…]},…]} as hostile input: one vector for each text, in any
// order but each index once, all of one length, every number finite. What else the answer has is passed over.
func readVectors(answer []byte, texts int) ([][]float32, error) {
	var doc struct {
		Data []struct {
			Index     *int       `json:"index"`
			Embedding []*float64 `json:"embedding"` // pointers tell null from 0
		} `json:"data"`
	}
	if err := json.Unmarshal(answer, &doc); err != nil {
		return nil, &failure{what: "answer cannot be read"} // the decoder's words would repeat the answer
	}
	if len(doc.Data) != texts {
		return nil, &failure{what: "answer has not one vector for each text"}
	}
	out := make([][]float32, texts)
	for _, d := range doc.Data {
		switch {
		case d.Index == nil || *d.Index < 0 || *d.Index >= texts || out[*d.Index] != nil:
			return nil, &failure{what: "answer has a vector without a place of its own"}
		case len(d.Embedding) == 0 || len(d.Embedding) > MaxDims:
			return nil, &failure{what: "answer has a vector of a length that cannot be stored"}
		case len(d.Embedding) != len(doc.Data[0].Embedding):
			return nil, &failure{what: "answer has vectors of different lengths"}
		}
		v, ok := finite(d.Embedding)
		if !ok {
			return nil, &failure{what: "answer has a vector that points nowhere"}
		}
		out[*d.Index] = v
	}
	return out, nil
}

// finite narrows a vector. One of zeros has no direction, and one that overflows has no length.
func finite(in []*float64) ([]float32, bool) {
	out := make([]float32, len(in))
	var square float64
	for i, x := range in {
		if x == nil {
			return nil, false
		}
		out[i] = float32(*x)
		y := float64(out[i])
		if math.IsInf(y, 0) || math.IsNaN(y) {
			return nil, false
		}
		square += y * y
	}
	return out, square > 1e-30 && square < math.MaxFloat32
}
