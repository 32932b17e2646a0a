package postgres_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"pgregory.net/rapid"

	"github.com/mosaicstack/gateway/internal/serving"
)

// embedding is what a row's text was turned into, by some model. The zero one is none.
type embedding struct {
	vector []float64 // nil: the text has nothing to compare
	model  string
}

// The oracle's model, and the similarity below which it finds nothing.
const (
	oracleModel = "oracle"
	oracleFloor = 0.3
)

func embeds(resource string) bool {
	return resource == "tasks" || resource == "notes" || resource == "memory"
}

// column is how the database is told of it.
func (e embedding) column() *string {
	if e.vector == nil {
		return nil
	}
	text := strings.ReplaceAll(fmt.Sprint(e.vector), " ", ",")
	return &text
}

func (tw *twin) drawEmbedding(resource string) embedding {
	if !embeds(resource) {
		return embedding{}
	}
	return rapid.SampledFrom([]embedding{
		{},
		{nil, oracleModel},
		{[]float64{1, 0, 0}, "another"},
		{[]float64{1, 0}, oracleModel},
		{[]float64{0, 0, 0}, oracleModel},
		{[]float64{1, 0, 0}, oracleModel},
		{[]float64{2, 0, 0}, oracleModel},
		{[]float64{0, 1, 0}, oracleModel},
		{[]float64{0, 0, 1}, oracleModel},
		{[]float64{1, 1, 0}, oracleModel},
		{[]float64{-1, 0, 0}, oracleModel},
		{[]float64{1, 2, 1}, oracleModel},
	}).Draw(tw.T, "embedding")
}

// searchQuery is a text to look for, and what it means.
type searchQuery struct {
	text           string
	all, some, not []string
	vector         []float64
}

var searchQueries = []searchQuery{
	{text: "zebra", all: []string{"zebra"}, vector: []float64{1, 0, 0}},
	{text: "QUARTZ zebra", all: []string{"quartz", "zebra"}, vector: []float64{1, 1, 0}},
	{text: "quartz or violin", some: []string{"quartz", "violin"}, vector: []float64{0, 1, 1}},
	{text: "violin -zebra", all: []string{"violin"}, not: []string{"zebra"}, vector: []float64{-1, 1, 0}},
	{text: "unwritten", all: []string{"unwritten"}, vector: []float64{0, 0, 1}},
	{text: "!!!", some: []string{}},
}

// oracleEmbedder knows the queries above.
type oracleEmbedder struct{}

func (oracleEmbedder) Model() string  { return oracleModel }
func (oracleEmbedder) Remote() bool   { return false }
func (oracleEmbedder) Floor() float64 { return oracleFloor }

func (oracleEmbedder) Query(_ context.Context, text string) ([]float32, error) {
	var out []float32
	for _, q := range searchQueries {
		if q.text == text {
			for _, x := range q.vector {
				out = append(out, float32(x))
			}
		}
	}
	return out, nil
}

// matches reports whether a row has the words of the query.
func (q searchQuery) matches(resource string, r oracleRow) bool {
	words := saidWords(resource, r)
	said := func(w string) bool { return words[w] }
	missing := func(w string) bool { return !words[w] }
	return !slices.ContainsFunc(q.all, missing) && !slices.ContainsFunc(q.not, said) && (q.some == nil || slices.ContainsFunc(q.some, said))
}

var word = regexp.MustCompile(`[a-z]+`)

// saidWords are the words a row is found by: of all it says, without a task's status and without the metadata of what
// has a secret.
func saidWords(resource string, r oracleRow) map[string]bool {
	words := map[string]bool{}
	var collect func(v any)
	collect = func(v any) {
		switch v := v.(type) {
		case string:
			for _, w := range word.FindAllString(strings.ToLower(v), -1) {
				words[w] = true
			}
		case []any:
			for _, item := range v {
				collect(item)
			}
		case map[string]any:
			for item := range maps.Values(v) {
				collect(item)
			}
		}
	}
	for name, v := range r.fields {
		if name != "status" && (name != "metadata" || resource == "memory") {
			collect(v)
		}
	}
	return words
}

// sameText reports whether two versions of a row have the same embedding.
func sameText(resource string, a, b oracleRow) bool {
	for _, name := range []string{"title", "body", "content"} {
		if !reflect.DeepEqual(a.fields[name], b.fields[name]) {
			return false
		}
	}
	return true
}

// near is the similarity of a row to a query; ok is false when they have nothing to do with each other.
func (q searchQuery) near(e embedding) (similarity float64, ok bool) {
	if e.model != oracleModel || len(e.vector) != len(q.vector) || len(q.vector) == 0 {
		return 0, false
	}
	var dot, a, b float64
	for i := range q.vector {
		dot += q.vector[i] * e.vector[i]
		a += q.vector[i] * q.vector[i]
		b += e.vector[i] * e.vector[i]
	}
	if a == 0 || b == 0 {
		return 0, false
	}
	similarity = math.Round(dot/math.Sqrt(a*b)*1e6) / 1e6
	return similarity, similarity >= oracleFloor
}

// scored is a row and how good it is.
type scored struct {
	row   oracleRow
	score float64
}

func bestFirst(list []scored) []scored {
	slices.SortFunc(list, func(a, b scored) int {
		return cmp.Or(cmp.Compare(b.score, a.score), b.row.place().compare(a.row.place()))
	})
	return list
}

// semantic ranks rows by their embeddings.
func (q searchQuery) semantic(rows []oracleRow) []scored {
	var out []scored
	for _, r := range rows {
		if s, ok := q.near(r.embedding); ok {
			out = append(out, scored{r, s})
		}
	}
	return bestFirst(out)
}

// fused ranks by reciprocal rank fusion.
func fused(rankings ...[]scored) []scored {
	sum := map[string]scored{}
	for _, ranking := range rankings {
		for i, s := range ranking {
			id := s.row.id.String()
			sum[id] = scored{s.row, sum[id].score + 1/float64(60+i+1)}
		}
	}
	return bestFirst(slices.Collect(maps.Values(sum)))
}

// searching is a search request.
type searching struct {
	query searchQuery
	mode  string // empty: none is given
	limit int    // zero: none is given
}

func (s searching) body() string {
	doc := map[string]any{"query": s.query.text}
	if s.mode != "" {
		doc["mode"] = s.mode
	}
	if s.limit != 0 {
		doc["limit"] = s.limit
	}
	body, _ := json.Marshal(doc)
	return string(body)
}

func (tw *twin) drawSearch(g twinGrant) searching {
	return searching{
		query: rapid.SampledFrom(searchQueries).Draw(tw.T, "query"),
		mode:  rapid.SampledFrom([]string{"", "lexical", "semantic", "hybrid"}).Draw(tw.T, "mode"),
		limit: tw.drawLimit(g),
	}
}

// found is the answer to a search, or what it should be.
type found struct {
	reply
	IDs     []string
	Scores  []float64
	Mode    string
	Model   *string
	Pending *int
}

// seek sends a search and reads the answer.
func (tw *twin) seek(g twinGrant, resource string, s searching) found {
	tw.Helper()
	answer, err := tw.service.Search(tw.ctx(), g.caller, serving.SearchRequest{Resource: resource, Body: []byte(s.body())})
	var out found
	if err == nil {
		var doc map[string]json.RawMessage
		var how struct {
			Mode    string
			Model   *string
			Pending *int
		}
		tw.strict(answer.Body, &doc)
		tw.strict(doc["search"], &how)
		out.Mode, out.Model, out.Pending = how.Mode, how.Model, how.Pending
		delete(doc, "search")
		list, err := json.Marshal(doc)
		tw.done(err)
		size := len(answer.Body)
		out.reply, _ = tw.decode("list", list)
		tw.recordedAs("search", out.reply, size)
	} else {
		out.reply, _ = tw.read("search", resource, answer, err)
	}
	for _, row := range out.Data {
		id, _ := row["id"].(string)
		score, ok := row["score"].(float64)
		if _, text := row["snippet"].(string); !text || !ok {
			tw.Fatalf("no score or snippet in %v", row)
		}
		delete(row, "score")
		delete(row, "snippet")
		out.IDs, out.Scores = append(out.IDs, id), append(out.Scores, score)
	}
	return out
}

// wide is a grant like g, without its cap.
func (tw *twin) wide(g twinGrant) twinGrant {
	tw.Helper()
	scope := g.scope
	scope.MaxRows = 10000
	w := tw.addGrant(g.user, scope)
	tw.grants = tw.grants[:len(tw.grants)-1]
	return w
}

// lexical is the ranking by words. The oracle knows which rows it has, and that equal ones are in the order of a list;
// how good each is it has to believe.
func (tw *twin) lexical(g twinGrant, resource string, q searchQuery) []scored {
	tw.Helper()
	rows := map[string]oracleRow{}
	for _, r := range tw.visible(g.user, g.scope, resource) {
		if q.matches(resource, r) {
			rows[r.id.String()] = r
		}
	}
	all := tw.seek(tw.wide(g), resource, searching{query: q, mode: "lexical", limit: 10000})
	var out []scored
	for i, id := range all.IDs {
		r, ok := rows[id]
		if !ok {
			tw.Fatalf("%q finds %s, which does not match or is not visible: %v", q.text, id, all.Data[i])
		}
		out = append(out, scored{r, all.Scores[i]})
		delete(rows, id)
	}
	for id := range rows {
		tw.Fatalf("%q does not find %s", q.text, id)
	}
	if !slices.EqualFunc(out, bestFirst(slices.Clone(out)), func(a, b scored) bool { return a.row.id == b.row.id }) {
		tw.Fatalf("%q gives %v with scores %v: not the best first", q.text, all.IDs, all.Scores)
	}
	return out
}

// stepSearch compares a search with the oracle's.
func (tw *twin) stepSearch() {
	g := tw.drawGrant()
	name := tw.drawResource(g)
	s := tw.drawSearch(g)
	got := tw.seek(g, name, s)
	what := fmt.Sprintf("search of %s for %s", name, s.body())
	mode := s.mode
	if mode == "" {
		mode = "hybrid"
		if !embeds(name) {
			mode = "lexical"
		}
	}
	if refused, ok := tw.asked(g.user, g.scope, name); !ok {
		tw.want(what, refused, got.reply)
		return
	}
	if mode != "lexical" && !embeds(name) {
		tw.want(what, refusedWith(http.StatusUnprocessableEntity, "search_mode_unsupported"), got.reply)
		return
	}
	visible := tw.visible(g.user, g.scope, name)
	var ranking []scored
	switch mode {
	case "lexical":
		ranking = tw.lexical(g, name, s.query)
	case "semantic":
		ranking = s.query.semantic(visible)
	case "hybrid":
		ranking = fused(tw.lexical(g, name, s.query), s.query.semantic(visible))
	}
	limit := s.limit
	if limit == 0 {
		limit = 50
	}
	size := min(limit, g.scope.MaxRows)
	ranking = ranking[:min(size, len(ranking))]
	want := found{reply: reply{Status: http.StatusOK, Page: &pageReply{Limit: size, Capped: limit > g.scope.MaxRows}}, Mode: mode}
	for i, r := range ranking {
		want.Data, want.IDs = append(want.Data, r.row.wire()), append(want.IDs, r.row.id.String())
		if i < len(got.Scores) && math.Abs(got.Scores[i]-r.score) < 2e-6 {
			r.score = got.Scores[i] // near enough
		}
		want.Scores = append(want.Scores, r.score)
	}
	if mode != "lexical" {
		model, pending := oracleModel, 0
		for _, r := range visible {
			if r.embedding.model != oracleModel || s.query.vector != nil && r.embedding.vector != nil && len(r.embedding.vector) != len(s.query.vector) {
				pending++
			}
		}
		want.Model, want.Pending = &model, &pending
	}
	if !reflect.DeepEqual(want, got) {
		tw.Fatalf("%s (-oracle +gateway):\n%s", what, diff(want, got))
	}
}
