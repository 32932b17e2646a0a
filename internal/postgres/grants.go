package postgres

import (
	"context"
	"encoding/json"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/mosaicstack/gateway/internal/account"
	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/grant"
	"github.com/mosaicstack/gateway/internal/peer"
	"github.com/mosaicstack/gateway/internal/scope"
)

// ErrGrantNotFound is returned for a grant that is not there.
var ErrGrantNotFound = &fault.Fault{
	Kind: fault.NotFound, Code: "grant_not_found", Detail: "there is no such grant",
	Hint: "list the grants with: mosaic federation grant list",
}

// Grants stores what we promised to peers.
type Grants struct{ *DB }

const grantColumns = `g.id, g.peer_id, p.name, g.subject_user_id, g.scope, g.status, g.rate_per_minute, g.burst, g.rows_per_day, g.cache_seconds, g.expires_at,
	g.approved_by, g.approved_at, coalesce(g.approval_reason, ''), g.created_at, g.updated_at, g.activated_at, g.revoked_at,
	coalesce(g.revoked_reason, ''), g.version`

func grantFields(g *grant.Grant) []any {
	return []any{
		&g.ID, &g.PeerID, &g.Peer, &g.SubjectUserID,
		scopeColumn{&g.Scope},
		&g.Status, &g.RatePerMinute, &g.Burst, &g.RowsPerDay, &g.CacheSeconds, &g.ExpiresAt,
		&g.ApprovedBy, &g.ApprovedAt, &g.ApprovalReason, &g.CreatedAt, &g.UpdatedAt, &g.ActivatedAt, &g.RevokedAt,
		&g.RevokedReason, &g.Version,
	}
}

// scopeColumn reads a scope document from jsonb through the one parser there is.
type scopeColumn struct{ to *scope.Scope }

// Scan implements sql.Scanner.
func (c scopeColumn) Scan(src any) error {
	var doc []byte
	switch v := src.(type) {
	case string:
		doc = []byte(v)
	case []byte:
		doc = v
	}
	s, err := scope.Parse(doc)
	*c.to = s
	return err
}

func scanGrant(row pgx.CollectableRow) (grant.Grant, error) {
	var g grant.Grant
	err := row.Scan(grantFields(&g)...)
	return g, err
}

// NewGrant is what CreateGrant stores.
type NewGrant struct {
	PeerName      string
	SubjectUser   string // id or email
	Scope         scope.Scope
	RatePerMinute *int
	Burst         *int
	RowsPerDay    *int64
	CacheSeconds  *int          // nil: grant.MaxCacheSeconds
	TTL           time.Duration // zero: without an end
}

// NewToken is an enrollment token to store: its hash and its life.
type NewToken struct {
	Hash [32]byte
	TTL  time.Duration
}

// CreateGrant stores a grant, makes its peer when the name is new, and stores the enrollment token unless the
// scope needs an approval first. The returned time is the token's end, nil without a token.
func (s *Grants) CreateGrant(ctx context.Context, n NewGrant, t NewToken, act audit.Act) (grant.Grant, *time.Time, error) {
	var out grant.Grant
	var expires *time.Time
	doc, err := json.Marshal(n.Scope)
	if err != nil {
		return out, nil, err
	}
	err = s.inTx(ctx, "create grant", func(tx pgx.Tx) error {
		subject, err := findUser(ctx, tx, n.SubjectUser)
		if err != nil {
			return err
		}
		p, err := s.peerForGrant(ctx, tx, n.PeerName, act)
		if err != nil {
			return err
		}
		var id uuid.UUID
		var ttl any
		if n.TTL > 0 {
			ttl = n.TTL
		}
		if err := tx.QueryRow(ctx, `INSERT INTO federation_grants (peer_id, subject_user_id, scope, rate_per_minute, burst, rows_per_day, cache_seconds, expires_at, created_by)
			VALUES ($1, $2, $3, $4, $5, $6, coalesce($7::integer, $8::integer), now() + $9::interval, $10) RETURNING id`,
			p.ID, subject.ID, doc, n.RatePerMinute, n.Burst, n.RowsPerDay, n.CacheSeconds, grant.MaxCacheSeconds, ttl, act.Actor).Scan(&id); err != nil {
			return err
		}
		if out, err = findGrant(ctx, tx, id, ""); err != nil {
			return err
		}
		e := act.Created("grant.create")
		e.PeerID, e.PeerName, e.GrantID, e.SubjectUserID = p.ID, p.Name, out.ID, subject.ID
		if out.Scope.Sensitive() {
			e.Detail = "sensitive: needs approval"
		}
		if err := record(ctx, tx, e); err != nil {
			return err
		}
		if out.Scope.Sensitive() {
			return nil
		}
		if err := mayRedeem(p.State, subject); err != nil {
			return err
		}
		at, err := insertToken(ctx, tx, out, t, act)
		expires = &at
		return err
	})
	return out, expires, err
}

func (s *Grants) peerForGrant(ctx context.Context, tx pgx.Tx, name string, act audit.Act) (peer.Peer, error) {
	tag, err := tx.Exec(ctx, `INSERT INTO federation_peers (name) VALUES ($1) ON CONFLICT (name) DO NOTHING`, name)
	if err != nil {
		return peer.Peer{}, err
	}
	p, err := findPeer(ctx, tx, name, "FOR SHARE")
	if err != nil {
		return p, err
	}
	if p.State == peer.Revoked {
		return p, peer.ErrRevoked
	}
	if tag.RowsAffected() == 1 {
		e := act.Created("peer.create")
		e.PeerID, e.PeerName = p.ID, p.Name
		err = record(ctx, tx, e)
	}
	return p, err
}

// mayRedeem refuses a token that nobody could redeem now: what it hands out is a URL that leads nowhere.
func mayRedeem(p peer.State, subject account.User) error {
	switch {
	case p == peer.Suspended:
		return peer.ErrSuspended
	case subject.Disabled():
		return grant.ErrSubjectDisabled
	}
	return nil
}

func insertToken(ctx context.Context, tx pgx.Tx, g grant.Grant, t NewToken, act audit.Act) (time.Time, error) {
	var at time.Time
	if err := tx.QueryRow(ctx, `INSERT INTO federation_enrollment_tokens (grant_id, token_hash, created_by, expires_at)
		VALUES ($1, $2, $3, now() + $4::interval) RETURNING expires_at`, g.ID, t.Hash[:], act.Actor, t.TTL).Scan(&at); err != nil {
		return at, err
	}
	e := act.Created("grant.token")
	e.PeerID, e.PeerName, e.GrantID, e.SubjectUserID = g.PeerID, g.Peer, g.ID, g.SubjectUserID
	return at, record(ctx, tx, e)
}

// IssueToken stores a further enrollment token of a grant and returns its end.
func (s *Grants) IssueToken(ctx context.Context, id uuid.UUID, t NewToken, act audit.Act) (grant.Grant, time.Time, error) {
	var out grant.Grant
	var at time.Time
	err := s.inTx(ctx, "issue token", func(tx pgx.Tx) error {
		var err error
		if out, err = lockGrant(ctx, tx, id); err != nil {
			return err
		}
		now, err := clock(ctx, tx)
		if err != nil {
			return err
		}
		if err := out.MayIssueToken(now); err != nil {
			return err
		}
		p, err := findPeer(ctx, tx, out.PeerID.String(), "")
		if err != nil {
			return err
		}
		subject, err := findUser(ctx, tx, out.SubjectUserID.String())
		if err != nil {
			return err
		}
		if err := mayRedeem(p.State, subject); err != nil {
			return err
		}
		at, err = insertToken(ctx, tx, out, t, act)
		return err
	})
	return out, at, err
}

// clock is the database's time, the one clock all replicas share.
func clock(ctx context.Context, q querier) (time.Time, error) {
	var now time.Time
	err := q.QueryRow(ctx, `SELECT now()`).Scan(&now)
	return now, err
}

// Grant finds a grant by id.
func (s *Grants) Grant(ctx context.Context, id uuid.UUID) (grant.Grant, error) {
	return findGrant(ctx, s.pool, id, "")
}

func findGrant(ctx context.Context, q querier, id uuid.UUID, lock string) (grant.Grant, error) {
	rows, err := q.Query(ctx, `SELECT `+grantColumns+` FROM federation_grants g JOIN federation_peers p ON p.id = g.peer_id WHERE g.id = $1 `+lock, id)
	if err != nil {
		return grant.Grant{}, fail(err, "find grant")
	}
	g, err := pgx.CollectExactlyOneRow(rows, scanGrant)
	if notFound(err) {
		return g, ErrGrantNotFound.With("there is no grant %s", id)
	}
	return g, fail(err, "find grant")
}

// lockGrant locks the grant for a change, its peer first: the audit row of the change refers to the peer, and whoever
// revokes or removes the peer goes on to its grants. In the other order the two would wait for each other.
func lockGrant(ctx context.Context, tx pgx.Tx, id uuid.UUID) (grant.Grant, error) {
	if _, err := tx.Exec(ctx, `SELECT FROM federation_peers p JOIN federation_grants g ON g.peer_id = p.id WHERE g.id = $1 FOR KEY SHARE OF p`, id); err != nil {
		return grant.Grant{}, err
	}
	return findGrant(ctx, tx, id, "FOR UPDATE OF g")
}

// Grants lists all grants, newest first.
func (s *Grants) Grants(ctx context.Context) ([]grant.Grant, error) {
	return collect(ctx, s.pool, "list grants", scanGrant,
		`SELECT `+grantColumns+` FROM federation_grants g JOIN federation_peers p ON p.id = g.peer_id ORDER BY g.created_at DESC, g.id`)
}

// Approve records that an admin has read a sensitive grant and why it is right.
func (s *Grants) Approve(ctx context.Context, id uuid.UUID, reason string, act audit.Act) (grant.Grant, error) {
	var out grant.Grant
	err := s.inTx(ctx, "approve grant", func(tx pgx.Tx) error {
		g, err := lockGrant(ctx, tx, id)
		if err != nil {
			return err
		}
		now, err := clock(ctx, tx)
		if err != nil {
			return err
		}
		var by *uuid.UUID
		if act.UserID != uuid.Nil {
			by = &act.UserID
		}
		approved, err := g.Approve(now, by, reason)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `UPDATE federation_grants SET approved_by = $2, approved_at = now(), approval_reason = $3,
			updated_at = now(), version = version + 1 WHERE id = $1`, id, approved.ApprovedBy, approved.ApprovalReason); err != nil {
			return err
		}
		if out, err = findGrant(ctx, tx, id, ""); err != nil {
			return err
		}
		e := act.Event("grant.approve")
		e.PeerID, e.PeerName, e.GrantID, e.SubjectUserID, e.Detail = out.PeerID, out.Peer, out.ID, out.SubjectUserID, reason
		return record(ctx, tx, e)
	})
	return out, err
}

// Revoke ends a grant and its certificates. When it has returned, every statement that starts later refuses
// them: the check and the rows of a federated read come from one snapshot of these tables.
func (s *Grants) Revoke(ctx context.Context, id uuid.UUID, reason string, act audit.Act) (grant.Grant, error) {
	var out grant.Grant
	err := s.inTx(ctx, "revoke grant", func(tx pgx.Tx) error {
		g, err := lockGrant(ctx, tx, id)
		if err != nil {
			return err
		}
		now, err := clock(ctx, tx)
		if err != nil {
			return err
		}
		if g.Status == grant.Revoked {
			out = g // revoked is revoked: the first reason stands
			return nil
		}
		revoked, err := g.Revoke(now, reason)
		if err != nil {
			return err
		}
		if err := revokeGrants(ctx, tx, []uuid.UUID{id}, revoked.RevokedReason); err != nil {
			return err
		}
		if out, err = findGrant(ctx, tx, id, ""); err != nil {
			return err
		}
		e := act.Event("grant.revoke")
		e.PeerID, e.PeerName, e.GrantID, e.SubjectUserID, e.Detail = out.PeerID, out.Peer, out.ID, out.SubjectUserID, out.RevokedReason
		return record(ctx, tx, e)
	})
	return out, err
}

func revokeGrantsOf(ctx context.Context, tx pgx.Tx, peerID uuid.UUID, reason string) error {
	rows, err := tx.Query(ctx, `SELECT id FROM federation_grants WHERE peer_id = $1 AND status <> 'revoked' ORDER BY id FOR UPDATE`, peerID)
	if err != nil {
		return err
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return err
	}
	return revokeGrants(ctx, tx, ids, reason)
}

func revokeGrants(ctx context.Context, tx pgx.Tx, ids []uuid.UUID, reason string) error {
	if _, err := tx.Exec(ctx, `UPDATE federation_grants SET status = 'revoked', revoked_at = now(), revoked_reason = $2,
		updated_at = now(), version = version + 1 WHERE id = ANY($1) AND status <> 'revoked'`, ids, reason); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `UPDATE federation_certificates SET revoked_at = now(), revoked_reason = $2
		WHERE grant_id = ANY($1) AND revoked_at IS NULL`, ids, reason)
	return err
}
