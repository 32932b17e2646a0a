package postgres

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/querying"
)

// ErrCredentialAmbiguous is a peer at which more than one grant is held, so that it has to be said which one is meant.
var ErrCredentialAmbiguous = &fault.Fault{
	Kind: fault.Conflict, Code: "credential_ambiguous", Detail: "more than one credential of this peer is held",
	Hint: "name one: --credential ID; mosaic federation peer show PEER lists them",
}

// Share is who may ask a peer with which credential. Exactly one of User and Team is set.
type Share struct {
	Peer       string // id or name
	Credential uuid.UUID
	User, Team string // id, or email and name
	Revoked    bool   // it is taken back
}

// Share lets a user or the members of a team ask a peer, or no longer. It is in force for the next question.
func (s *Credentials) Share(ctx context.Context, sh Share, act audit.Act) error {
	return s.inTx(ctx, "share credential", func(tx pgx.Tx) error {
		p, err := findPeer(ctx, tx, sh.Peer, "FOR KEY SHARE")
		if err != nil {
			return err
		}
		credential, err := shared(ctx, tx, p.ID, p.Name, sh.Credential)
		if err != nil {
			return err
		}
		table, column := "federation_credential_users", "user_id"
		e := act.Event("peer.share")
		if sh.Revoked {
			e.Verb = "peer.unshare"
		}
		e.PeerID, e.PeerName = p.ID, p.Name
		var who uuid.UUID
		if sh.Team != "" {
			t, err := findTeam(ctx, tx, sh.Team)
			if err != nil {
				return err
			}
			who, table, column = t.ID, "federation_credential_teams", "team_id"
			e.Detail = "team " + t.Name
		} else {
			u, err := findUser(ctx, tx, sh.User)
			if err != nil {
				return err
			}
			who, e.SubjectUserID, e.Detail = u.ID, u.ID, "user "+u.Email
		}
		sql := `INSERT INTO ` + table + ` (credential_id, ` + column + `) VALUES ($1, $2) ON CONFLICT DO NOTHING`
		if sh.Revoked {
			sql = `DELETE FROM ` + table + ` WHERE credential_id = $1 AND ` + column + ` = $2`
		}
		tag, err := tx.Exec(ctx, sql, credential, who)
		if err != nil || tag.RowsAffected() == 0 {
			return err // it was so already
		}
		return record(ctx, tx, e)
	})
}

// shared is the credential that is meant: the named one, or the only one.
func shared(ctx context.Context, tx pgx.Tx, peerID uuid.UUID, name string, named uuid.UUID) (uuid.UUID, error) {
	rows, err := tx.Query(ctx, `SELECT id FROM federation_credentials
		WHERE peer_id = $1 AND state = 'active' AND ($2::uuid IS NULL OR id = $2) ORDER BY created_at, id FOR KEY SHARE`, peerID, nullID(named))
	if err != nil {
		return uuid.Nil, err
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	switch {
	case err != nil:
		return uuid.Nil, err
	case len(ids) == 0:
		return uuid.Nil, querying.ErrNoCredential.With("this gateway holds no such credential of the peer %s", name)
	case len(ids) > 1:
		return uuid.Nil, ErrCredentialAmbiguous.With("%d credentials of the peer %s are held, each for another grant", len(ids), name)
	}
	return ids[0], nil
}
