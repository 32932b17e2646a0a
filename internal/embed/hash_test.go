package embed

import (
	"context"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func cosine(a, b []float32) float64 {
	var sum float64
	for i := range a {
		sum += float64(a[i]) * float64(b[i])
	}
	return sum
}

func TestTheHashIsTheSameEveryTime(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.String().Draw(t, "text")
		a, b := hashVector(text), hashVector(strings.Clone(text))
		if !slices.Equal(a, b) {
			t.Fatal("two vectors of one text")
		}
		if a == nil {
			return
		}
		if n := cosine(a, a); len(a) != hashDims || math.IsNaN(n) || math.Abs(n-1) > 1e-5 {
			t.Fatalf("%d numbers of length %v", len(a), n)
		}
	})
}

// These numbers are stored with rows: whoever changes them has to change the model's name.
func TestTheHashHasNotChanged(t *testing.T) {
	t.Parallel()
	got := map[int]float64{}
	for i, x := range hashVector("Rotate the staging database password") {
		if math.Abs(float64(x)) > 0.28 {
			got[i] = math.Round(float64(x)*1000) / 1000
		}
	}
	if want := (map[int]float64{100: 0.309, 322: 0.31, 323: 0.335, 480: -0.3}); !maps.Equal(got, want) {
		t.Errorf("the largest numbers are %v, want %v", got, want)
	}
}

func TestTheFloorIsBetweenWhatBelongsTogetherAndWhatDoesNot(t *testing.T) {
	t.Parallel()
	notes := []string{
		"Renew the passport. Photos are in the top drawer.", "Book the train to Ghent", "Rotate the staging database password",
		"Prune the apple trees before the first frost", "The intermediate expired; nobody owned the alarm", "Lentils, lemons, coffee",
		"Die Rechnungen des Zahnarztes sind bezahlt", "Позвонить стоматологу",
	}
	for query, of := range map[string]int{"passports": 0, "trains to Gent": 1, "database passwords": 2, "databse pasword": 2, "pruning apple tree": 3, "expired intermediates": 4, "Rechnung Zahnarzt": 6, "стоматолог": 7} {
		q := hashVector(query)
		for i, n := range notes {
			if near := cosine(q, hashVector(n)) >= hashFloor; near != (i == of) {
				t.Errorf("%q and %q: %.2f, on the wrong side of %.2f", query, n, cosine(q, hashVector(n)), hashFloor)
			}
		}
	}
}

func TestTheHashEmbedsBatches(t *testing.T) {
	t.Parallel()
	got, err := Hash{}.Documents(context.Background(), []string{"one", "!?", "two"})
	if err != nil || len(got) != 3 || got[0] == nil || got[1] != nil || got[2] == nil {
		t.Errorf("%v, %v: want a vector for each text that has words", got, err)
	}
}
