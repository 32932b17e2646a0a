package postgres

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/mosaicstack/gateway/internal/grant"
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
type Serving struct {
	*DB

	texts sync.Map // of a statement for each shape of it: there are few, and the driver knows what it prepared by its text
}

// text gives the text of a statement, written once for each shape.
func (s *Serving) text(shape interface{ write() string }) string {
	if sql, ok := s.texts.Load(shape); ok {
		return sql.(string)
	}
	sql := shape.write()
	s.texts.Store(shape, sql)
	return sql
}

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
		WHEN c.revoked_at IS NOT NULL OR c.retire_at <= now() THEN 'certificate_revoked'
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
			p.rate_per_minute, p.burst, g.rows_per_day, g.expires_at, g.cache_seconds, c.first_used_at IS NULL
		FROM federation_certificates c JOIN federation_grants g ON g.id = c.grant_id JOIN federation_peers p ON p.id = g.peer_id
		WHERE c.fingerprint = $1`
	var p serving.Plan
	var g grant.Grant
	var peerRate, peerBurst *int
	err := s.pool.QueryRow(ctx, q, fingerprint[:]).Scan(&p.GrantID, &p.UserID, &p.PeerID, &p.PeerName, &p.Version, scopeColumn{&p.Scope},
		&g.RatePerMinute, &g.Burst, &peerRate, &peerBurst, &p.RowsPerDay, &p.ExpiresAt, &p.CacheSeconds, &p.Unused)
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
	err := s.pool.QueryRow(ctx, aliveCTE+`SELECT refusal FROM a`, c.Fingerprint[:], wireID(c.GrantID), wireID(c.UserID), c.Version).Scan(&code)
	if notFound(err) {
		return serving.ErrCertificateUnknown
	} else if err != nil {
		return fail(err, "authorize")
	}
	return refusal(code)
}

// getShape is what the text of a get's statement depends on.
type getShape struct{ resource scope.Resource }

func (s getShape) write() string {
	return strings.TrimSpace(aliveCTE) + `, v AS MATERIALIZED (
		SELECT ARRAY(SELECT m.team_id FROM team_members m WHERE m.team_id = ANY($7::uuid[]) AND m.user_id = ` + argUser + `) AS teams)
	SELECT refusal, (SELECT t.doc FROM ` + string(s.resource) + ` t WHERE t.id = $5 AND a.refusal = ''
			AND (t.team_id IS NULL AND t.owner_id = ` + argUser + ` AND $6::boolean OR t.team_id = ANY(v.teams)))
		FROM a CROSS JOIN v`
}

// Get implements serving.Store.
//
// The teams are looked up first, whether there is such a row or not: the work for a row that is hidden and for none
// differs by the one page that the row is on.
func (s *Serving) Get(ctx context.Context, q serving.GetQuery) ([]byte, error) {
	teams := make([]pgtype.UUID, len(q.Filter.IncludeTeams))
	for i, id := range q.Filter.IncludeTeams {
		teams[i] = wireID(id)
	}
	var code string
	var doc []byte
	err := s.pool.QueryRow(ctx, s.text(getShape{q.Resource}), q.Fingerprint[:], wireID(q.GrantID), wireID(q.UserID), q.Version, wireID(q.ID), q.Filter.IncludePersonal, teams).Scan(&code, &doc)
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
