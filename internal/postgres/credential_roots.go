package postgres

import (
	"context"
	"encoding/hex"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/peer"
	"github.com/mosaicstack/gateway/internal/querying"
)

// DueRoots implements querying.RootsStore. Taking is an UPDATE, as for a renewal.
func (s *Credentials) DueRoots(ctx context.Context, now time.Time, limit int, keep time.Duration) ([]querying.Credential, error) {
	return collect(ctx, s.pool, "take credentials to learn roots", func(row pgx.CollectableRow) (querying.Credential, error) {
		var c querying.Credential
		err := row.Scan(&c.ID, &c.RemoteGrantID, &c.FederationURL, &c.ChainPEM, &c.CARootPEM, &c.SealedKey, &c.Serial, &c.NotAfter, &c.Peer.ID, &c.Peer.Name)
		return c, err
	}, `WITH due AS (
			SELECT c.id FROM federation_credentials c JOIN federation_peers p ON p.id = c.peer_id
			WHERE c.state = 'active' AND p.state = 'active' AND c.roots_next_at <= $1 AND c.not_after > $1
			ORDER BY c.roots_next_at LIMIT $2 FOR UPDATE OF c SKIP LOCKED)
		UPDATE federation_credentials c SET roots_next_at = $1::timestamptz + $3::interval
		FROM due, federation_peers p WHERE c.id = due.id AND p.id = c.peer_id
		RETURNING `+credentialColumns+`, p.id, p.name`, now, limit, keep)
}

// KeepRoots implements querying.RootsStore. A renewal that took other roots over meanwhile stays.
func (s *Credentials) KeepRoots(ctx context.Context, k querying.KeptRoots) error {
	var renewBy *time.Time
	if !k.RenewBy.IsZero() {
		renewBy = &k.RenewBy
	}
	return s.inTx(ctx, "keep roots of peer", func(tx pgx.Tx) error {
		p, err := findPeer(ctx, tx, k.Credential.Peer.ID.String(), "FOR NO KEY UPDATE")
		if errors.Is(err, ErrPeerNotFound) || err == nil && p.State == peer.Revoked {
			return nil
		} else if err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `UPDATE federation_credentials SET roots_next_at = $3, ca_root_pem = coalesce(nullif($4, ''), ca_root_pem),
				renew_after = least(renew_after, $5) WHERE id = $1 AND state = 'active' AND ca_root_pem = $2`,
			k.Credential.ID, k.Credential.CARootPEM, k.Next, k.RootsPEM, renewBy)
		if err != nil || tag.RowsAffected() == 0 || k.RootsPEM == "" {
			return err
		}
		if err := adoptRoots(ctx, tx, p.ID, k.RootsPEM, k.Fingerprint); err != nil {
			return err
		}
		e := k.Act.Event("peer.roots")
		e.Direction, e.PeerID, e.PeerName, e.GrantID, e.StatusCode, e.Detail = audit.Outbound, p.ID, p.Name, k.Credential.RemoteGrantID, 200, k.Detail
		return record(ctx, tx, e)
	})
}

// adoptRoots notes with the peer which roots it has. The peer's row is locked.
func adoptRoots(ctx context.Context, tx pgx.Tx, id uuid.UUID, roots string, fingerprint [32]byte) error {
	_, err := tx.Exec(ctx, `UPDATE federation_peers SET ca_root_pem = $2, ca_fingerprint = $3, updated_at = now(), version = version + 1
		WHERE id = $1 AND ca_root_pem <> $2`, id, roots, fingerprint[:])
	return err
}

// LiveByRoot counts the certificates that open something, by the fingerprint of the root they lead to; those from
// before it was noted are under zeros.
func (s *Serving) LiveByRoot(ctx context.Context) (map[[32]byte]int64, error) {
	type count struct {
		root []byte
		n    int64
	}
	list, err := collect(ctx, s.pool, "count certificates by root", func(row pgx.CollectableRow) (count, error) {
		var c count
		err := row.Scan(&c.root, &c.n)
		return c, err
	}, `SELECT c.ca_root, count(*) FROM federation_certificates c JOIN federation_grants g ON g.id = c.grant_id
		WHERE c.revoked_at IS NULL AND c.not_after > now() AND (c.retire_at IS NULL OR c.retire_at > now()) AND g.status = 'active'
		GROUP BY c.ca_root`)
	out := make(map[[32]byte]int64, len(list))
	for _, c := range list {
		var root [32]byte
		copy(root[:], c.root)
		out[root] = c.n
	}
	return out, err
}

// replaceCA gives the peer's other credentials the root that an admin has vouched for, when it is another than the peer is
// known with: whoever has the key of one that was given up could still show them a false gateway.
func replaceCA(ctx context.Context, tx pgx.Tx, a querying.Activation, p peer.Peer) ([]uuid.UUID, error) {
	c := a.Certified
	if err := sameCA(ctx, tx, p, c.CAFingerprint); !errors.Is(err, querying.ErrCAMismatch) {
		return nil, err
	}
	// A renewal under way ends: its answer was judged, and would be kept, with the old roots.
	rows, err := tx.Query(ctx, `UPDATE federation_credentials SET ca_root_pem = $2, renewal_key_pem = NULL, renewal_csr_pem = NULL,
			renewal_next_at = NULL, renewal_started_at = NULL, updated_at = now()
		WHERE peer_id = $1 AND state = 'active' RETURNING id`, p.ID, c.CARootPEM)
	if err != nil {
		return nil, err
	}
	others, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return nil, err
	}
	e := a.Act.Event("peer.roots")
	e.PeerID, e.PeerName, e.StatusCode = p.ID, p.Name, 200
	e.Detail = hex.EncodeToString(c.CAFingerprint[:]) + " in place of " + p.CAFingerprint
	return others, record(ctx, tx, e)
}
