package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/grant"
	"github.com/mosaicstack/gateway/internal/peer"
)

// ErrPeerNotFound is returned for a peer that is not there.
var ErrPeerNotFound = &fault.Fault{
	Kind: fault.NotFound, Code: "peer_not_found", Detail: "there is no such peer",
	Hint: "list the peers with: mosaic federation peer list",
}

// Peers stores the gateways we know.
type Peers struct{ *DB }

const peerColumns = `p.id, p.name, p.display_name, p.state, p.endpoint_url, coalesce(encode(p.ca_fingerprint, 'hex'), ''), p.rate_per_minute, p.burst,
	p.created_at, p.updated_at, p.last_seen_at, p.revoked_at`

func peerFields(p *peer.Peer) []any {
	return []any{
		&p.ID, &p.Name, &p.DisplayName, &p.State, &p.EndpointURL, &p.CAFingerprint, &p.RatePerMinute, &p.Burst,
		&p.CreatedAt, &p.UpdatedAt, &p.LastSeenAt, &p.RevokedAt,
	}
}

func scanPeer(row pgx.CollectableRow) (peer.Peer, error) {
	var p peer.Peer
	err := row.Scan(peerFields(&p)...)
	return p, err
}

// Peer finds a peer by id or name.
func (s *Peers) Peer(ctx context.Context, ref string) (peer.Peer, error) {
	return findPeer(ctx, s.pool, ref, "")
}

func findPeer(ctx context.Context, q querier, ref, lock string) (peer.Peer, error) {
	const all = `SELECT ` + peerColumns + ` FROM federation_peers p WHERE `
	p, err := find(ctx, q, ref, scanPeer, all+`p.id = $1 `+lock, all+`p.name = $1 `+lock)
	if notFound(err) {
		return p, ErrPeerNotFound.With("there is no peer %q", ref)
	}
	return p, fail(err, "find peer")
}

// Listing is a peer and how many grants of ours it holds.
type Listing struct {
	peer.Peer
	Grants int // grants of ours it holds, pending or active
}

const selectListing = `SELECT ` + peerColumns + `,
	(SELECT count(*) FROM federation_grants g WHERE g.peer_id = p.id AND g.status IN ('pending', 'active'))
	FROM federation_peers p `

func scanListing(row pgx.CollectableRow) (Listing, error) {
	var l Listing
	err := row.Scan(append(peerFields(&l.Peer), &l.Grants)...)
	return l, err
}

// Peers lists all peers by name.
func (s *Peers) Peers(ctx context.Context) ([]Listing, error) {
	return collect(ctx, s.pool, "list peers", scanListing, selectListing+`ORDER BY p.name`)
}

// Show finds a peer by id or name.
func (s *Peers) Show(ctx context.Context, ref string) (Listing, error) {
	p, err := s.Peer(ctx, ref)
	if err != nil {
		return Listing{}, err
	}
	list, err := collect(ctx, s.pool, "show peer", scanListing, selectListing+`WHERE p.id = $1`, p.ID)
	if err == nil && len(list) == 0 {
		err = ErrPeerNotFound
	}
	if err != nil {
		return Listing{}, err
	}
	return list[0], nil
}

// Transition is one change of a peer's state: a rule from the peer package and the verb it is audited under.
type Transition struct {
	Verb string
	Rule func(peer.State) (peer.State, error)
}

// Change moves a peer to another state. A revoked peer's grants and certificates are revoked with it, in the
// same transaction.
func (s *Peers) Change(ctx context.Context, ref string, t Transition, reason string, act audit.Act) (peer.Peer, error) {
	var out peer.Peer
	err := s.inTx(ctx, t.Verb, func(tx pgx.Tx) error {
		p, err := findPeer(ctx, tx, ref, "FOR NO KEY UPDATE")
		if err != nil {
			return err
		}
		next, err := t.Rule(p.State)
		if err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `UPDATE federation_peers p SET state = $2, updated_at = now(), version = version + 1,
			revoked_at = CASE WHEN $2 = 'revoked'::peer_state THEN coalesce(revoked_at, now()) END
			WHERE id = $1 RETURNING `+peerColumns, p.ID, next)
		if err != nil {
			return err
		}
		if out, err = pgx.CollectExactlyOneRow(rows, scanPeer); err != nil {
			return err
		}
		if next == peer.Revoked {
			if err := revokeGrantsOf(ctx, tx, p.ID, "peer revoked"); err != nil {
				return err
			}
		}
		e := act.Event(t.Verb)
		e.PeerID, e.PeerName, e.Detail = out.ID, out.Name, reason
		return record(ctx, tx, e)
	})
	return out, err
}

// SetLimit sets the limit over all grants of a peer; nil lifts it. The grants get a new version with it, so no replica
// answers on a copy that has the limit from before.
func (s *Peers) SetLimit(ctx context.Context, ref string, l *grant.Limit, act audit.Act) error {
	return s.inTx(ctx, "limit peer", func(tx pgx.Tx) error {
		p, err := findPeer(ctx, tx, ref, "FOR NO KEY UPDATE")
		if err != nil {
			return err
		}
		e := act.Event("peer.limit")
		e.PeerID, e.PeerName, e.Detail = p.ID, p.Name, "no limit"
		var rate, burst *int
		if l != nil {
			rate, burst, e.Detail = &l.PerMinute, &l.Burst, l.String()
		}
		if _, err := tx.Exec(ctx, `UPDATE federation_peers SET rate_per_minute = $2, burst = $3, updated_at = now(), version = version + 1 WHERE id = $1`,
			p.ID, rate, burst); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `UPDATE federation_grants SET version = version + 1 WHERE id IN (
				SELECT id FROM federation_grants WHERE peer_id = $1 AND status IN ('pending', 'active') ORDER BY id FOR NO KEY UPDATE)`, p.ID); err != nil {
			return err
		}
		return record(ctx, tx, e)
	})
}

// unlinkWithin is how long the removal of a peer may take, with all of its audit rows.
const unlinkWithin = 10 * time.Minute

// Remove deletes a peer, its grants and our credentials at it. Its audit rows stay, and lose only the reference.
//
// A DELETE alone would change every audit row of the peer in one transaction, and whoever records an answer to the peer
// would wait for it. So the peer is revoked first, then its audit rows forget it in portions, and the DELETE finds
// few left. It goes on when the caller has gone; when it is interrupted, the peer is revoked, and Remove goes on where
// it was.
func (s *Peers) Remove(ctx context.Context, ref string, act audit.Act) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), unlinkWithin)
	defer cancel()
	var p peer.Peer
	err := s.inTx(ctx, "remove peer", func(tx pgx.Tx) (err error) {
		if p, err = findPeer(ctx, tx, ref, "FOR NO KEY UPDATE"); err != nil || p.State == peer.Revoked {
			return err
		}
		if _, err := tx.Exec(ctx, `UPDATE federation_peers SET state = 'revoked', revoked_at = coalesce(revoked_at, now()), updated_at = now(), version = version + 1
			WHERE id = $1`, p.ID); err != nil {
			return err
		}
		return revokeGrantsOf(ctx, tx, p.ID, "peer removed")
	})
	if err != nil {
		return err
	}
	if _, err := s.unlinkRows(ctx, p.ID); err != nil {
		return err
	}
	return s.inTx(ctx, "remove peer", func(tx pgx.Tx) error {
		p, err := findPeer(ctx, tx, p.ID.String(), "FOR UPDATE")
		if err != nil {
			return err
		}
		e := act.Event("peer.remove")
		e.PeerID, e.PeerName = p.ID, p.Name
		if err := record(ctx, tx, e); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `DELETE FROM federation_peers WHERE id = $1`, p.ID)
		return err
	})
}
