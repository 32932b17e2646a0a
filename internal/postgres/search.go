package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/pgvector/pgvector-go"

	"github.com/mosaicstack/gateway/internal/resource"
	"github.com/mosaicstack/gateway/internal/scope"
	"github.com/mosaicstack/gateway/internal/serving"
)

// A search is one statement like every other read: its first part decides, the others read rows only if it says yes.
//
//	a  why the caller is refused, or nothing
//	q  the query, as the words and stems of its text
//	v  every visible row that matches, with its rank by words and its similarity: one index range for the personal
//	   rows and one for each team, as in a list. Nothing but the row itself goes into either number.
//	s  one score out of both
//
// Then the best rows, with what their snippets are made of. No index but those of a list is used. An index over the
// words or vectors of all rows would make the cost of a search, and with an approximate index even its answer,
// depend on rows that the caller may not see.

// rrfK is the constant of reciprocal rank fusion: the larger, the less the first places count.
const rrfK = 60

// searchable is what a resource is searched by: the words of its rows if the stored ones are missing, what snippets
// are made of, and what its embeddings are made of.
type searchable struct{ words, said, embedded string }

// The lengths to which a row's text is read, in characters: for snippets, as far as words are indexed.
const snippetFrom = 50_000

func searchableOf(r scope.Resource) searchable {
	switch r {
	case scope.Tasks, scope.Notes:
		return searchable{`search_vector(t.title, t.body, '', '{}')`, `t.title || E'\n' || t.body`, `t.title || E'\n' || t.body`}
	case scope.Memory:
		return searchable{`search_vector('', t.content, '', t.metadata)`, `t.content`, `t.content`}
	case scope.Credentials:
		return searchable{`search_vector(t.name, t.kind, t.url || ' ' || t.username, '{}')`, `concat_ws(E'\n', t.name, t.kind, t.url, t.username)`, ""}
	default:
		return searchable{`search_vector(t.name, t.service, t.key_prefix, '{}')`, `concat_ws(E'\n', t.name, t.service, t.key_prefix)`, ""}
	}
}

// searchSQL writes the statement. It has its arguments beside it, because a lexical search has fewer.
type searchSQL struct {
	serving.Lookup
	args []any
}

func (s *searchSQL) arg(v any, kind string) string {
	s.args = append(s.args, v)
	return "$" + strconv.Itoa(len(s.args)) + "::" + kind
}

// columns are what v holds of a row.
func (s *searchSQL) columns() (columns, where string) {
	words := `coalesce(t.search, ` + searchableOf(s.Resource).words + `)`
	// The decimal form of a rank, so that rows are in the order of the numbers that are shown.
	rank := `ts_rank(` + words + `, (SELECT query FROM q), 1)::numeric::float8`
	matches := words + ` @@ (SELECT query FROM q)`
	if s.Mode == resource.Lexical {
		return `t.id, t.updated_at, ` + rank + ` AS lex, NULL::float8 AS sem, false AS pending`, ` AND ` + matches
	}
	model := s.arg(s.Model, "text")
	sem, pending := `NULL::float8`, `t.embedding_model IS DISTINCT FROM `+model
	if s.Vector != nil {
		// A comparison of vectors of two lengths is an error: CASE keeps the order.
		sem = `CASE WHEN t.embedding_model = ` + model + ` AND vector_dims(t.embedding) = ` + s.arg(len(s.Vector), "integer") +
			` THEN round((1 - (t.embedding <=> ` + s.arg(pgvector.NewVector(s.Vector), "vector") + `))::numeric, 6)::float8 END`
		pending += ` OR t.embedding IS NOT NULL` // one that is, and was not compared, has another length
	}
	lex := `NULL::float8`
	if s.Mode == resource.Hybrid {
		lex = `CASE WHEN ` + matches + ` THEN ` + rank + ` END`
	}
	return `t.id, t.updated_at, ` + lex + ` AS lex, ` + sem + ` AS sem, ` + pending + ` AS pending`, ``
}

// newestFirst is the order of the index of personal rows. Nobody needs it; without it the planner may as well go by
// owner alone, and so over rows of teams that the scope leaves out.
const newestFirst = ` ORDER BY t.updated_at DESC, t.id DESC`

// build gives the statement around the check a and the branches that reach the visible rows.
func (s *searchSQL) build(a string, branches func(columns, where string) []string) string {
	text := s.arg(s.Text, "text")
	// Each word as it is written, or its stem. Words in quotes are meant as they are written.
	query := `websearch_to_tsquery('pg_catalog.simple', ` + text + `)`
	stems := `'{}'::text[]`
	if !strings.Contains(s.Text, `"`) {
		query += ` || websearch_to_tsquery('pg_catalog.english', ` + text + `)`
		stems = `tsvector_to_array(to_tsvector('pg_catalog.english', ` + text + `))`
	}
	columns, where := s.columns()
	list := branches(columns, where)
	score := map[resource.Mode]string{
		resource.Lexical:  `lex`,
		resource.Semantic: `sem`,
		resource.Hybrid: fmt.Sprintf(`CASE WHEN lex IS NULL THEN 0 ELSE 1 / (%[1]d + row_number() OVER (ORDER BY lex DESC NULLS LAST, updated_at DESC, id DESC))::float8 END
			+ CASE WHEN sem IS NULL THEN 0 ELSE 1 / (%[1]d + row_number() OVER (ORDER BY sem DESC NULLS LAST, updated_at DESC, id DESC))::float8 END`, rrfK),
	}[s.Mode]
	near := `sem`
	if s.Mode != resource.Lexical {
		// NaN, which a vector without direction gives, is above every number.
		near = `CASE WHEN sem >= ` + s.arg(s.Floor, "float8") + ` AND sem <= 1.01 THEN sem END`
	}
	const order = ` ORDER BY score DESC, updated_at DESC, id DESC`
	table, said := string(s.Resource), searchableOf(s.Resource).said
	return a + `, q AS MATERIALIZED (
		SELECT ` + query + ` AS query, tsvector_to_array(to_tsvector('pg_catalog.simple', ` + text + `)) AS words, ` + stems + ` AS stems),
	v AS MATERIALIZED (` + strings.Join(list, " UNION ALL ") + `),
	s AS (SELECT id, updated_at, ` + score + ` AS score FROM (SELECT id, updated_at, lex, ` + near + ` AS sem FROM v) n WHERE lex IS NOT NULL OR sem IS NOT NULL` +
		order + ` LIMIT ` + s.arg(s.Rows, "bigint") + `)
	SELECT refusal, (SELECT words FROM q), (SELECT stems FROM q), (SELECT count(*) FROM v WHERE pending AND sem IS NULL), NULL::float8, NULL::text FROM a
	UNION ALL (SELECT d.doc, NULL::text[], NULL::text[], NULL::bigint, s.score, d.said
		FROM s CROSS JOIN LATERAL (SELECT t.doc, left(` + said + `, ` + strconv.Itoa(snippetFrom) + `) AS said FROM ` + table + ` t WHERE t.id = s.id OFFSET 0) d` + order + `)`
}

// Search implements serving.Store.
func (s *Serving) Search(ctx context.Context, q serving.SearchQuery) (serving.Found, error) {
	sql, args := peerSearch(q)
	return s.search(ctx, q.Lookup, sql, args)
}

func peerSearch(q serving.SearchQuery) (string, []any) {
	sql := searchSQL{Lookup: q.Lookup, args: []any{q.Fingerprint[:], q.GrantID, q.UserID, q.Version}}
	text := sql.build(strings.TrimSpace(aliveCTE), func(columns, where string) []string {
		var list []string
		from := `SELECT ` + columns + ` FROM ` + string(q.Resource) + ` t WHERE `
		if q.Filter.IncludePersonal {
			list = append(list, `(`+from+`EXISTS (SELECT FROM a WHERE refusal = '') AND t.owner_id = `+argUser+` AND t.team_id IS NULL`+where+newestFirst+`)`)
		}
		for i := range padded(len(q.Filter.IncludeTeams)) {
			id := uuid.Nil // padding: no team has this id
			if i < len(q.Filter.IncludeTeams) {
				id = q.Filter.IncludeTeams[i]
			}
			team := sql.arg(id, "uuid")
			list = append(list, `(`+from+`EXISTS (SELECT FROM a, team_members m WHERE refusal = '' AND m.team_id = `+team+` AND m.user_id = `+argUser+
				`) AND t.team_id = `+team+where+`)`)
		}
		if len(list) == 0 {
			list = append(list, `(`+from+`false`+where+`)`) // a scope that lets nothing through
		}
		return list
	})
	return text, sql.args
}

// Search finds rows among those a user of this gateway may see now: their own, and those of their teams.
func (s *Resources) Search(ctx context.Context, user uuid.UUID, q serving.Lookup) (serving.Found, error) {
	sql := searchSQL{Lookup: q, args: []any{user}}
	text := sql.build(`WITH a AS MATERIALIZED (SELECT ''::text AS refusal)`, func(columns, where string) []string {
		table := string(q.Resource)
		return []string{
			`(SELECT ` + columns + ` FROM ` + table + ` t WHERE t.owner_id = $1::uuid AND t.team_id IS NULL` + where + newestFirst + `)`,
			`(SELECT t.* FROM team_members m CROSS JOIN LATERAL (SELECT ` + columns + ` FROM ` + table + ` t WHERE t.team_id = m.team_id` + where + ` OFFSET 0) t WHERE m.user_id = $1::uuid)`,
		}
	})
	return s.search(ctx, q, text, sql.args)
}

func (db *DB) search(ctx context.Context, q serving.Lookup, sql string, args []any) (serving.Found, error) {
	rows, err := db.pool.Query(ctx, sql, args...)
	if err != nil {
		return serving.Found{}, fail(err, "search "+string(q.Resource))
	}
	defer rows.Close()
	found, err := readFound(rows, q.MaxBytes)
	return found, fail(err, "search "+string(q.Resource))
}

// readFound reads the check's row, and then the best rows. Each is its stored document with two more fields.
func readFound(rows pgx.Rows, maxBytes int) (serving.Found, error) {
	var out serving.Found
	if !rows.Next() {
		if err := rows.Err(); err != nil {
			return out, err
		}
		return out, serving.ErrCertificateUnknown
	}
	if err := refusal(string(rows.RawValues()[0])); err != nil {
		return out, err
	}
	var terms resource.Terms
	if err := rows.Scan(nil, &terms.Words, &terms.Stems, &out.Pending, nil, nil); err != nil {
		return out, err
	}
	for rows.Next() {
		var score float64
		var said string
		if err := rows.Scan(nil, nil, nil, nil, &score, &said); err != nil {
			return out, err
		}
		doc, err := foundDoc(rows.RawValues()[0], score, resource.Snippet(said, terms))
		if err != nil {
			return out, err
		}
		if out.Count > 0 {
			if len(out.Docs)+len(doc) > maxBytes {
				out.Cut = true
				break
			}
			out.Docs = append(out.Docs, ',')
		}
		out.Docs = append(out.Docs, doc...)
		out.Count++
	}
	rows.Close()
	return out, rows.Err()
}

// foundDoc puts score and snippet at the end of a stored document.
func foundDoc(doc []byte, score float64, snippet string) ([]byte, error) {
	if len(doc) < 2 || doc[len(doc)-1] != '}' {
		return nil, errors.New("a stored document is no object")
	}
	text, err := json.Marshal(snippet)
	if err != nil {
		return nil, err
	}
	out := make([]byte, 0, len(doc)+len(text)+48)
	out = append(append(out, doc[:len(doc)-1]...), `,"score":`...)
	out = strconv.AppendFloat(out, score, 'f', -1, 64)
	return append(append(append(out, `,"snippet":`...), text...), '}'), nil
}
