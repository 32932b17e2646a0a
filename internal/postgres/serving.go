package postgres

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/mosaicstack/gateway/internal/grant"
	"github.com/mosaicstack/gateway/internal/page"
	"github.com/mosaicstack/gateway/internal/scope"
	"github.com/mosaicstack/gateway/internal/serving"
)

// Serving reads for peers. It is the serving.Store of the gateway, and its serving.Budgets.
//
// Every read is one statement on the primary, and so one snapshot. Its first part decides whether the
// certificate, the grant, the peer and the user are good in that snapshot; its other parts read rows only if
// they are. A revoke that has committed before the statement began is in the snapshot, so no row is answered
// after it. The statement calls no volatile function: one that did was seen to return a row that was written
// after its own check had passed.
type Serving struct{ *DB }

// The parameters every read begins with.
const (
	argFingerprint = "$1"
	argGrant       = "$2"
	argUser        = "$3"
	argVersion     = "$4"
)

// aliveCTE is the check. Its one row says why the caller is refused, or nothing; no row means that the registry
// does not know the certificate.
const aliveCTE = `WITH a AS MATERIALIZED (
	SELECT CASE
		WHEN p.state = 'revoked' THEN 'peer_revoked'
		WHEN g.status = 'revoked' THEN 'grant_revoked'
		WHEN g.status = 'expired' OR g.expires_at < now() + interval '1 second' AND c.not_after <= now() OR g.expires_at <= now() THEN 'grant_expired' -- not_after is whole seconds
		WHEN p.state = 'suspended' THEN 'peer_suspended'
		WHEN u.disabled_at IS NOT NULL THEN 'subject_disabled'
		WHEN c.revoked_at IS NOT NULL THEN 'certificate_revoked'
		WHEN c.not_after <= now() THEN 'certificate_expired'
		WHEN g.status <> 'active' OR p.state <> 'active' THEN 'grant_pending'
		WHEN g.version <> ` + argVersion + `::bigint THEN 'stale'
		ELSE '' END AS refusal
	FROM federation_certificates c
	JOIN federation_grants g ON g.id = c.grant_id
	JOIN federation_peers p ON p.id = g.peer_id
	JOIN users u ON u.id = g.subject_user_id
	WHERE c.fingerprint = ` + argFingerprint + `::bytea AND g.id = ` + argGrant + `::uuid AND g.subject_user_id = ` + argUser + `::uuid)
`

// refusals maps what the check says to what the caller is told.
func refusal(code string) error {
	switch code {
	case "":
		return nil
	case "stale":
		return serving.ErrStale()
	case "peer_revoked":
		return serving.ErrPeerRevoked
	case "peer_suspended":
		return serving.ErrPeerSuspended
	case "grant_revoked":
		return serving.ErrGrantRevoked
	case "grant_expired":
		return serving.ErrGrantExpired
	case "grant_pending":
		return serving.ErrGrantPending
	case "subject_disabled":
		return serving.ErrSubjectDisabled
	case "certificate_revoked":
		return serving.ErrCertificateRevoked
	case "certificate_expired":
		return serving.ErrCertificateExpired
	}
	return fmt.Errorf("unknown refusal %q", code)
}

// Plan implements serving.Store.
func (s *Serving) Plan(ctx context.Context, fingerprint [32]byte) (serving.Plan, error) {
	const q = `SELECT g.id, g.subject_user_id, p.id, p.name, g.version, g.scope, g.rate_per_minute, g.burst,
			p.rate_per_minute, p.burst, g.rows_per_day, g.expires_at, g.cache_seconds
		FROM federation_certificates c JOIN federation_grants g ON g.id = c.grant_id JOIN federation_peers p ON p.id = g.peer_id
		WHERE c.fingerprint = $1`
	var p serving.Plan
	var g grant.Grant
	var peerRate, peerBurst *int
	err := s.pool.QueryRow(ctx, q, fingerprint[:]).Scan(&p.GrantID, &p.UserID, &p.PeerID, &p.PeerName, &p.Version, scopeColumn{&p.Scope},
		&g.RatePerMinute, &g.Burst, &peerRate, &peerBurst, &p.RowsPerDay, &p.ExpiresAt, &p.CacheSeconds)
	if notFound(err) {
		return p, serving.ErrCertificateUnknown
	} else if err != nil {
		return p, fail(err, "read grant")
	}
	p.Limit = g.Limit()
	if peerRate != nil {
		p.PeerLimit = &grant.Limit{PerMinute: *peerRate, Burst: *peerRate}
		if peerBurst != nil {
			p.PeerLimit.Burst = *peerBurst
		}
	}
	return p, nil
}

// Authorize implements serving.Store.
func (s *Serving) Authorize(ctx context.Context, c serving.Check) error {
	var code string
	err := s.pool.QueryRow(ctx, aliveCTE+`SELECT refusal FROM a`, c.Fingerprint[:], c.GrantID, c.UserID, c.Version).Scan(&code)
	if notFound(err) {
		return serving.ErrCertificateUnknown
	} else if err != nil {
		return fail(err, "authorize")
	}
	return refusal(code)
}

// The keyset position before the first row.
var firstID = uuid.Max

// List implements serving.Store.
//
// Each branch walks one index range, newest first, for at most one row more than the page: the personal rows of
// the user, and the rows of each team in scope that the user is in now. The work is bounded by the page and the
// number of teams, whatever the table holds.
func (s *Serving) List(ctx context.Context, q serving.ListQuery) (serving.Rows, error) {
	branches := padded(len(q.Filter.IncludeTeams))
	args := make([]any, 0, 8+branches)
	after, since := "infinity", "-infinity"
	args = append(args, q.Fingerprint[:], q.GrantID, q.UserID, q.Version)
	if !q.Since.IsZero() {
		since = notBefore(q.Since)
	}
	id := firstID
	if !q.After.UpdatedAt.IsZero() {
		after, id = q.After.UpdatedAt.UTC().Format(time.RFC3339Nano), q.After.ID
	}
	args = append(args, after, id, since, q.Rows+1)
	for i := range branches {
		team := uuid.Nil // padding: no team has this id
		if i < len(q.Filter.IncludeTeams) {
			team = q.Filter.IncludeTeams[i]
		}
		args = append(args, team)
	}
	rows, err := s.pool.Query(ctx, listSQL(q.Resource, q.Filter.IncludePersonal, branches), args...)
	if err != nil {
		return serving.Rows{}, fail(err, "list "+string(q.Resource))
	}
	defer rows.Close()
	page, err := joinDocs(rows, q.Rows, q.MaxBytes)
	return page, fail(err, "list "+string(q.Resource))
}

// notBefore writes a lower bound. PostgreSQL would round it to the nearest of its microseconds, and let a row of just
// before it in.
func notBefore(t time.Time) string {
	micros := t.UTC().Truncate(time.Microsecond)
	if micros.Before(t) {
		micros = micros.Add(time.Microsecond)
	}
	return micros.Format(time.RFC3339Nano)
}

// padded rounds the number of teams up to a power of two, so that few shapes of the statement are prepared.
func padded(teams int) int {
	n := 0
	for n < teams {
		n = max(1, n*2)
	}
	return n
}

// listSQL writes the statement for a resource and a number of team branches.
func listSQL(res scope.Resource, personal bool, teams int) string {
	const row = `t.doc, t.updated_at, t.id`
	position := `(t.updated_at, t.id) < ($5::timestamptz, $6::uuid) AND t.updated_at >= $7::timestamptz ORDER BY t.updated_at DESC, t.id DESC LIMIT $8`
	table := string(res)
	var branches []string
	if personal {
		branches = append(branches, `(SELECT `+row+` FROM `+table+` t WHERE EXISTS (SELECT FROM a WHERE refusal = '') AND t.owner_id = `+argUser+` AND t.team_id IS NULL AND `+position+`)`)
	}
	for i := range teams {
		team := fmt.Sprintf("$%d::uuid", 9+i)
		branches = append(branches, `(SELECT `+row+` FROM `+table+` t WHERE EXISTS (SELECT FROM a, team_members m WHERE refusal = '' AND m.team_id = `+team+` AND m.user_id = `+argUser+
			`) AND t.team_id = `+team+` AND `+position+`)`)
	}
	return aliveCTE + `SELECT refusal, NULL::timestamptz, NULL::uuid FROM a UNION ALL (SELECT * FROM (` +
		strings.Join(branches, " UNION ALL ") + `) r ORDER BY updated_at DESC, id DESC LIMIT $8)`
}

// joinDocs reads the check's row and then the documents, which it copies without decoding them.
func joinDocs(rows pgx.Rows, limit, maxBytes int) (serving.Rows, error) {
	if !rows.Next() {
		if err := rows.Err(); err != nil {
			return serving.Rows{}, err
		}
		return serving.Rows{}, serving.ErrCertificateUnknown
	}
	if err := refusal(string(rows.RawValues()[0])); err != nil {
		return serving.Rows{}, err
	}
	var out serving.Rows
	for rows.Next() {
		raw := rows.RawValues()
		switch {
		case out.Count == limit:
			out.More = true
		case out.Count > 0 && len(out.Docs)+len(",")+len(raw[0]) > maxBytes:
			out.More, out.Cut = true, true
		}
		if out.More {
			break
		}
		if out.Count > 0 {
			out.Docs = append(out.Docs, ',')
		}
		out.Docs = append(out.Docs, raw[0]...)
		out.Count++
		last, err := position(rows)
		if err != nil {
			return serving.Rows{}, err
		}
		out.Last = last
	}
	rows.Close()
	return out, rows.Err()
}

func position(rows pgx.Rows) (page.Key, error) {
	var k page.Key
	err := rows.Scan(nil, &k.UpdatedAt, &k.ID)
	return k, err
}

// Get implements serving.Store.
//
// The teams are looked up first, whether there is such a row or not: the work for a row that is hidden and for none
// differs by the one page that the row is on.
func (s *Serving) Get(ctx context.Context, q serving.GetQuery) ([]byte, error) {
	sql := strings.TrimSpace(aliveCTE) + `, v AS MATERIALIZED (
		SELECT ARRAY(SELECT m.team_id FROM team_members m WHERE m.team_id = ANY($7::uuid[]) AND m.user_id = ` + argUser + `) AS teams)
	SELECT refusal, (SELECT t.doc FROM ` + string(q.Resource) + ` t WHERE t.id = $5 AND a.refusal = ''
			AND (t.team_id IS NULL AND t.owner_id = ` + argUser + ` AND $6::boolean OR t.team_id = ANY(v.teams)))
		FROM a CROSS JOIN v`
	teams := q.Filter.IncludeTeams
	if teams == nil {
		teams = []uuid.UUID{}
	}
	var code string
	var doc []byte
	err := s.pool.QueryRow(ctx, sql, q.Fingerprint[:], q.GrantID, q.UserID, q.Version, q.ID, q.Filter.IncludePersonal, teams).Scan(&code, &doc)
	if notFound(err) {
		return nil, serving.ErrCertificateUnknown
	} else if err != nil {
		return nil, fail(err, "get "+string(q.Resource))
	}
	return doc, refusal(code)
}

// Touch notes that a peer was here. It is written at most once a minute, and never waits for a lock: what it
// says matters less than the request it comes with.
func (s *Serving) Touch(ctx context.Context, peerID uuid.UUID) error {
	_, err := s.pool.Exec(ctx, `UPDATE federation_peers SET last_seen_at = now() WHERE id = (
		SELECT id FROM federation_peers WHERE id = $1 AND (last_seen_at IS NULL OR last_seen_at < now() - interval '1 minute')
		FOR NO KEY UPDATE SKIP LOCKED)`, peerID)
	return fail(err, "touch peer")
}
