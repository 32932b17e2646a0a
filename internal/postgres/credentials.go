package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/peer"
	"github.com/mosaicstack/gateway/internal/querying"
)

// Credentials stores what we hold at other gateways. It is the querying.Store and querying.Finder of the gateway.
//
// Locks are taken in the order peer, credential, so that of a removal of the peer and a redemption one waits for
// the other, and neither for both.
type Credentials struct{ *DB }

// A pending credential older than this can not be completed any more: a token lives for a day at most, and so does
// the answer that a second try could be given. Each new redemption clears such keys away.
const pendingLife = "2 days"

// Begin implements querying.Store.
func (s *Credentials) Begin(ctx context.Context, d querying.Draft) (querying.Pending, error) {
	var out querying.Pending
	err := s.inTx(ctx, "begin enrollment at peer", func(tx pgx.Tx) error {
		var user uuid.UUID
		if d.User != "" {
			u, err := findUser(ctx, tx, d.User)
			if err != nil {
				return err
			}
			user = u.ID
		}
		p, err := (&Grants{s.DB}).peerForGrant(ctx, tx, d.PeerName, d.Act)
		if err != nil {
			return notRevoked(err, d.PeerName)
		}
		if !d.ReplaceCA {
			if err := sameCA(ctx, tx, p, d.CAFingerprint); err != nil {
				out.PeerID = p.ID
				return err
			}
		}
		if _, err := tx.Exec(ctx, `DELETE FROM federation_credentials
			WHERE state = 'pending' AND created_at < now() - interval '`+pendingLife+`'`); err != nil {
			return err
		}
		if out, err = takeDraft(ctx, tx, p, d); err != nil {
			return err
		}
		out.UserID = user
		return nil
	})
	return out, err
}

// takeDraft stores the draft, or finds the one that an earlier try with the same token left.
func takeDraft(ctx context.Context, tx pgx.Tx, p peer.Peer, d querying.Draft) (querying.Pending, error) {
	if _, err := tx.Exec(ctx, `INSERT INTO federation_credentials (id, peer_id, enrollment_hash, idempotency_key, csr_pem, client_key_pem)
		VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (enrollment_hash) DO NOTHING`,
		d.ID, p.ID, d.EnrollmentHash[:], d.IdempotencyKey, d.CSR, d.SealedKey); err != nil {
		return querying.Pending{}, err
	}
	out := querying.Pending{PeerID: p.ID}
	var state string
	var before uuid.UUID
	err := tx.QueryRow(ctx, `SELECT id, peer_id, state, client_key_pem, csr_pem, coalesce(idempotency_key, '')
		FROM federation_credentials WHERE enrollment_hash = $1 FOR UPDATE`, d.EnrollmentHash[:]).
		Scan(&out.ID, &before, &state, &out.SealedKey, &out.CSR, &out.IdempotencyKey)
	switch {
	case notFound(err): // refused for good a moment ago, in another try
		return out, querying.ErrTokenUsed.With("another try with this enrollment URL has just been refused")
	case err != nil:
		return out, err
	case state != "pending":
		known, err := findPeer(ctx, tx, before.String(), "")
		if err != nil {
			return out, err
		}
		return out, querying.ErrTokenUsed.With("this enrollment URL has already been redeemed by this gateway, for the peer %s", known.Name)
	}
	if before == p.ID {
		return out, nil
	}
	// The earlier try gave the peer another name.
	if _, err := tx.Exec(ctx, `UPDATE federation_credentials SET peer_id = $2, updated_at = now() WHERE id = $1`, out.ID, p.ID); err != nil {
		return out, err
	}
	return out, dropEmptyPeer(ctx, tx, before, d.Act)
}

// notRevoked puts the refusal of a revoked peer in the words of this side.
func notRevoked(err error, name string) error {
	if !errors.Is(err, peer.ErrRevoked) {
		return err
	}
	return peer.ErrRevoked.With("this gateway has revoked the peer %s", name).
		Advise("revoking is final: remove the peer first (mosaic federation peer remove %s), or choose another --name", name)
}

// sameCA refuses a CA that is none of those the peer is known with: two while it rolls its root over.
func sameCA(ctx context.Context, tx pgx.Tx, p peer.Peer, want [32]byte) error {
	if p.CAFingerprint == "" || p.CAFingerprint == hex.EncodeToString(want[:]) {
		return nil
	}
	var roots []byte
	if err := tx.QueryRow(ctx, `SELECT ca_root_pem FROM federation_peers WHERE id = $1`, p.ID).Scan(&roots); err != nil {
		return err
	}
	for {
		var block *pem.Block
		if block, roots = pem.Decode(roots); block == nil {
			return querying.ErrCAMismatch.With("the peer %s is known here with another CA than this enrollment URL names", p.Name)
		}
		if sha256.Sum256(block.Bytes) == want {
			return nil
		}
	}
}

// dropEmptyPeer removes a peer that only a failed redemption has left a trace of. It is locked first: a grant
// that is being made for it holds the lock, and the DELETE then sees the grant.
func dropEmptyPeer(ctx context.Context, tx pgx.Tx, id uuid.UUID, act audit.Act) error {
	p, err := findPeer(ctx, tx, id.String(), "FOR UPDATE")
	if errors.Is(err, ErrPeerNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	const empty = `p.state = 'pending' AND p.endpoint_url = '' AND p.display_name = '' AND p.rate_per_minute IS NULL AND p.last_seen_at IS NULL
		AND NOT EXISTS (SELECT FROM federation_grants g WHERE g.peer_id = p.id)
		AND NOT EXISTS (SELECT FROM federation_credentials c WHERE c.peer_id = p.id)`
	tag, err := tx.Exec(ctx, `DELETE FROM federation_peers p WHERE p.id = $1 AND `+empty, p.ID)
	if err != nil || tag.RowsAffected() == 0 {
		return err
	}
	e := act.Event("peer.remove")
	e.PeerID, e.PeerName, e.Detail = p.ID, p.Name, "never enrolled"
	return record(ctx, tx, e)
}

// Activate implements querying.Store.
func (s *Credentials) Activate(ctx context.Context, a querying.Activation) (querying.Added, error) {
	var out querying.Added
	err := s.inTx(ctx, "activate credential", func(tx pgx.Tx) error {
		p, err := findPeer(ctx, tx, a.Pending.PeerID.String(), "FOR UPDATE")
		if errors.Is(err, ErrPeerNotFound) {
			return querying.ErrInterrupted
		} else if err != nil {
			return err
		}
		again, err := completed(ctx, tx, a, p)
		if err != nil {
			return err
		}
		if !again {
			if a.ReplaceCA {
				if out.Retrusted, err = replaceCA(ctx, tx, a, p); err != nil {
					return err
				}
			}
			if p, err = adoptPeer(ctx, tx, a, p); err != nil {
				return err
			}
			if out.Retired, err = replace(ctx, tx, a, p); err != nil {
				return err
			}
			e := a.Act.Event("peer.add")
			e.PeerID, e.PeerName, e.GrantID, e.SubjectUserID, e.StatusCode = p.ID, p.Name, a.Certified.GrantID, a.Pending.UserID, 201
			e.Detail = "credential " + a.Pending.ID.String()
			if err := record(ctx, tx, e); err != nil {
				return err
			}
		}
		out.Peer = p
		out.Credential, err = heldOne(ctx, tx, a.Pending.ID)
		return err
	})
	if err != nil {
		return querying.Added{}, err
	}
	return out, nil
}

// completed locks the credential, and tells whether another try with the same token has made the same of it.
func completed(ctx context.Context, tx pgx.Tx, a querying.Activation, p peer.Peer) (bool, error) {
	var state, serial string
	err := tx.QueryRow(ctx, `SELECT state, coalesce(serial, '') FROM federation_credentials WHERE id = $1 AND peer_id = $2 FOR UPDATE`,
		a.Pending.ID, p.ID).Scan(&state, &serial)
	switch {
	case notFound(err):
		return false, querying.ErrInterrupted
	case err != nil:
		return false, err
	case state == "pending":
		return false, nil
	case state == "active" && serial == a.Certified.Serial:
		return true, nil
	}
	return false, querying.ErrTokenUsed
}

// adoptPeer records where the peer answers and under which CA. A pending peer becomes active; a suspended one
// stays suspended.
func adoptPeer(ctx context.Context, tx pgx.Tx, a querying.Activation, p peer.Peer) (peer.Peer, error) {
	if p.State == peer.Revoked {
		return p, notRevoked(peer.ErrRevoked, p.Name)
	}
	if !a.ReplaceCA {
		if err := sameCA(ctx, tx, p, a.Certified.CAFingerprint); err != nil {
			return p, err
		}
	}
	c := a.Certified
	rows, err := tx.Query(ctx, `UPDATE federation_peers p SET endpoint_url = $2, ca_fingerprint = $4,
			ca_root_pem = CASE WHEN position($3 IN ca_root_pem) > 0 THEN ca_root_pem ELSE $3 END,
			state = CASE state WHEN 'pending' THEN 'active' ELSE state END, updated_at = now(), version = version + 1
		WHERE id = $1 RETURNING `+peerColumns, p.ID, c.FederationURL, c.CARootPEM, c.CAFingerprint[:])
	if err != nil {
		return p, err
	}
	return pgx.CollectExactlyOneRow(rows, scanPeer)
}

// replace makes the credential active in place of the earlier ones of its grant, whose keys are destroyed and
// whose users and teams it takes over.
func replace(ctx context.Context, tx pgx.Tx, a querying.Activation, p peer.Peer) (retired []uuid.UUID, err error) {
	c := a.Certified
	granted, err := json.Marshal(c.Scope)
	if err != nil {
		return nil, err
	}
	rows, err := tx.Query(ctx, `UPDATE federation_credentials SET state = 'retired', client_key_pem = ''::bytea, renewal_key_pem = NULL, renewal_csr_pem = NULL,
			renew_after = NULL, renewal_next_at = NULL, renewal_started_at = NULL, updated_at = now()
		WHERE peer_id = $1 AND remote_grant_id = $2 AND state = 'active' RETURNING id`, p.ID, c.GrantID)
	if err != nil {
		return nil, err
	}
	if retired, err = pgx.CollectRows(rows, pgx.RowTo[uuid.UUID]); err != nil {
		return nil, err
	}
	if _, err := tx.Exec(ctx, `UPDATE federation_credentials SET state = 'active', remote_grant_id = $2, remote_subject_user_id = $3,
			remote_scope = $4, certificate_chain_pem = $5, ca_root_pem = $6, federation_url = $7, serial = $8,
			not_before = $9, not_after = $10, renew_after = $11, updated_at = now() WHERE id = $1`,
		a.Pending.ID, c.GrantID, c.SubjectUserID, granted, c.ChainPEM, c.CARootPEM, c.FederationURL, c.Serial,
		c.NotBefore, c.NotAfter, c.RenewAfter); err != nil {
		return nil, err
	}
	const heirs = `INSERT INTO federation_credential_users (credential_id, user_id)
		SELECT $1::uuid, user_id FROM federation_credential_users WHERE credential_id = ANY($2)
		UNION SELECT $1::uuid, $3::uuid WHERE $3::uuid IS NOT NULL ON CONFLICT DO NOTHING`
	if _, err := tx.Exec(ctx, heirs, a.Pending.ID, retired, nullID(a.Pending.UserID)); violates(err, foreignKeyViolation, "") {
		return nil, ErrUserNotFound.With("the user was deleted while the enrollment was running")
	} else if err != nil {
		return nil, err
	}
	_, err = tx.Exec(ctx, `INSERT INTO federation_credential_teams (credential_id, team_id)
		SELECT DISTINCT $1::uuid, team_id FROM federation_credential_teams WHERE credential_id = ANY($2) ON CONFLICT DO NOTHING`, a.Pending.ID, retired)
	return retired, err
}

// Discard implements querying.Store.
func (s *Credentials) Discard(ctx context.Context, id uuid.UUID, reason string, status int, act audit.Act) error {
	return s.inTx(ctx, "discard credential", func(tx pgx.Tx) error {
		var peerID uuid.UUID
		err := tx.QueryRow(ctx, `SELECT peer_id FROM federation_credentials WHERE id = $1 AND state = 'pending'`, id).Scan(&peerID)
		if notFound(err) {
			return nil // another try has finished it, or it is gone with its peer
		} else if err != nil {
			return err
		}
		p, err := findPeer(ctx, tx, peerID.String(), "FOR UPDATE")
		if errors.Is(err, ErrPeerNotFound) {
			return nil
		} else if err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `DELETE FROM federation_credentials WHERE id = $1 AND state = 'pending'`, id)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		e := act.Event("peer.add")
		e.PeerID, e.PeerName, e.StatusCode, e.Outcome, e.DeniedReason = p.ID, p.Name, status, audit.Denied, reason
		if err := record(ctx, tx, e); err != nil {
			return err
		}
		return dropEmptyPeer(ctx, tx, p.ID, act)
	})
}

// Active gives what we hold at a peer and could ask with, however many grants that is.
func (s *Credentials) Active(ctx context.Context, peerID uuid.UUID) ([]querying.Credential, error) {
	var list []querying.Credential
	err := s.inTx(ctx, "list active credentials", func(tx pgx.Tx) error {
		p, err := findPeer(ctx, tx, peerID.String(), "")
		if err != nil {
			return err
		}
		list, err = collect(ctx, tx, "list active credentials", func(row pgx.CollectableRow) (querying.Credential, error) {
			c := querying.Credential{Peer: p}
			err := row.Scan(credentialFields(&c)...)
			return c, err
		}, `SELECT `+credentialColumns+` FROM federation_credentials c WHERE c.peer_id = $1 AND c.state = 'active' ORDER BY c.created_at, c.id`, p.ID)
		return err
	})
	return list, err
}

const credentialColumns = `c.id, c.remote_grant_id, c.federation_url, c.certificate_chain_pem, c.ca_root_pem, c.client_key_pem,
	coalesce(c.serial, ''), c.not_after`

func credentialFields(c *querying.Credential) []any {
	return []any{&c.ID, &c.RemoteGrantID, &c.FederationURL, &c.ChainPEM, &c.CARootPEM, &c.SealedKey, &c.Serial, &c.NotAfter}
}

const heldColumns = `c.id, c.state, coalesce(c.remote_grant_id, '00000000-0000-0000-0000-000000000000'),
	coalesce(c.remote_subject_user_id, '00000000-0000-0000-0000-000000000000'), c.federation_url, coalesce(c.serial, ''),
	c.not_before, c.not_after, c.renew_after, coalesce(c.renewal_error, ''), c.created_at,
	array(SELECT u.id FROM federation_credential_users cu JOIN users u ON u.id = cu.user_id WHERE cu.credential_id = c.id ORDER BY u.email),
	array(SELECT u.email FROM federation_credential_users cu JOIN users u ON u.id = cu.user_id WHERE cu.credential_id = c.id ORDER BY u.email),
	array(SELECT t.id FROM federation_credential_teams ct JOIN teams t ON t.id = ct.team_id WHERE ct.credential_id = c.id ORDER BY t.name),
	array(SELECT t.name FROM federation_credential_teams ct JOIN teams t ON t.id = ct.team_id WHERE ct.credential_id = c.id ORDER BY t.name)`

func scanHeld(row pgx.CollectableRow) (querying.Held, error) {
	var h querying.Held
	var ids, teams []uuid.UUID
	var emails, names []string
	err := row.Scan(&h.ID, &h.State, &h.RemoteGrantID, &h.RemoteSubjectUserID, &h.FederationURL, &h.Serial,
		&h.NotBefore, &h.NotAfter, &h.RenewAfter, &h.RenewalError, &h.CreatedAt, &ids, &emails, &teams, &names)
	for i := range ids {
		h.Users = append(h.Users, querying.User{ID: ids[i], Email: emails[i]})
	}
	for i := range teams {
		h.Teams = append(h.Teams, querying.Team{ID: teams[i], Name: names[i]})
	}
	return h, err
}

func heldOne(ctx context.Context, q querier, id uuid.UUID) (querying.Held, error) {
	rows, err := q.Query(ctx, `SELECT `+heldColumns+` FROM federation_credentials c WHERE c.id = $1`, id)
	if err != nil {
		return querying.Held{}, err
	}
	return pgx.CollectExactlyOneRow(rows, scanHeld)
}

// Listing lists what we hold of one peer: the active credential first, then the newest. Keys are not in it.
func (s *Credentials) Listing(ctx context.Context, peerID uuid.UUID) ([]querying.Held, error) {
	return collect(ctx, s.pool, "list credentials", scanHeld, `SELECT `+heldColumns+` FROM federation_credentials c
		WHERE c.peer_id = $1 ORDER BY c.state = 'active' DESC, c.created_at DESC, c.id`, peerID)
}

// ListingByPeer lists what we hold of every peer, in the order of Listing.
func (s *Credentials) ListingByPeer(ctx context.Context) (map[uuid.UUID][]querying.Held, error) {
	type owned struct {
		peer uuid.UUID
		held querying.Held
	}
	all, err := collect(ctx, s.pool, "list credentials", func(row pgx.CollectableRow) (owned, error) {
		var o owned
		held, err := scanHeld(prefixed{row, &o.peer})
		o.held = held
		return o, err
	}, `SELECT c.peer_id, `+heldColumns+` FROM federation_credentials c ORDER BY c.state = 'active' DESC, c.created_at DESC, c.id`)
	out := make(map[uuid.UUID][]querying.Held, len(all))
	for _, o := range all {
		out[o.peer] = append(out[o.peer], o.held)
	}
	return out, err
}

// prefixed reads one column before those that the wrapped scan asks for.
type prefixed struct {
	pgx.CollectableRow
	first any
}

// Scan implements pgx.CollectableRow.
func (p prefixed) Scan(dest ...any) error {
	return p.CollectableRow.Scan(append([]any{p.first}, dest...)...)
}
