package postgres

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/mosaicstack/gateway/internal/querying"
)

// mayUse is whether user $1 may use credential c: it is linked to them, or to a team they are in now. Null stands for
// the operator, who may use any.
const mayUse = `($1::uuid IS NULL
	OR EXISTS (SELECT FROM federation_credential_users cu WHERE cu.credential_id = c.id AND cu.user_id = $1)
	OR EXISTS (SELECT FROM federation_credential_teams ct JOIN team_members m ON m.team_id = ct.team_id
		WHERE ct.credential_id = c.id AND m.user_id = $1))`

// findCredential is one statement, so that a question to many sources costs the database one for each. The peer's row
// comes also without a credential: then the rest is empty.
const findCredential = `SELECT ` + peerColumns + `, coalesce(c.id, '00000000-0000-0000-0000-000000000000'),
		coalesce(c.remote_grant_id, '00000000-0000-0000-0000-000000000000'), coalesce(c.federation_url, ''), coalesce(c.certificate_chain_pem, ''),
		coalesce(c.ca_root_pem, ''), coalesce(c.client_key_pem, ''::bytea), coalesce(c.serial, ''), coalesce(c.not_after, 'epoch'), ` + generation + `
	FROM federation_peers p LEFT JOIN LATERAL (SELECT * FROM federation_credentials c
		WHERE c.peer_id = p.id AND c.state = 'active' AND ` + mayUse + `
		ORDER BY c.not_after > now() DESC, c.not_before DESC, c.created_at DESC, c.id LIMIT 1) c ON true WHERE `

// Find implements querying.Finder.
func (s *Credentials) Find(ctx context.Context, peerRef string, userID uuid.UUID) (querying.Credential, error) {
	out, err := find(ctx, s.pool, peerRef, scanFound, findCredential+`p.id = $2`, findCredential+`p.name = $2`, nullID(userID))
	switch {
	case notFound(err):
		return out, ErrPeerNotFound.With("there is no peer %q", peerRef)
	case err != nil:
		return out, fail(err, "find credential")
	case out.ID == uuid.Nil:
		return out, querying.ErrNoCredential.With("this gateway holds no credential of the peer %s", out.Peer.Name)
	}
	return out, nil
}

func scanFound(row pgx.CollectableRow) (querying.Credential, error) {
	var c querying.Credential
	err := row.Scan(append(append(peerFields(&c.Peer), credentialFields(&c)...), &c.Generation)...)
	return c, err
}

// Usable implements querying.Finder.
func (s *Credentials) Usable(ctx context.Context, userID uuid.UUID) ([]querying.Credential, error) {
	return collect(ctx, s.pool, "find usable credentials", scanFound, findCredential+`c.id IS NOT NULL ORDER BY p.name`, nullID(userID))
}

// Available implements querying.Finder.
func (s *Credentials) Available(ctx context.Context, userID uuid.UUID) ([]string, error) {
	return collect(ctx, s.pool, "list available peers", pgx.RowTo[string], `SELECT p.name FROM federation_peers p
		WHERE EXISTS (SELECT FROM federation_credentials c WHERE c.peer_id = p.id AND c.state = 'active' AND `+mayUse+`)
		ORDER BY p.name`, nullID(userID))
}

// generation changes with everything that decides whether user $1 may use credential c: the peer's state, the user, the
// share with the user or with a team of theirs, and their being in it. A row's xmin is the transaction that wrote it, so
// a share that was taken back and given again is another one.
const generation = `concat_ws(':', (SELECT p.version FROM federation_peers p WHERE p.id = c.peer_id),
	(SELECT u.xmin FROM users u WHERE u.id = $1::uuid),
	(SELECT cu.xmin FROM federation_credential_users cu WHERE cu.credential_id = c.id AND cu.user_id = $1::uuid),
	(SELECT string_agg(concat(ct.team_id, '.', ct.xmin, '.', m.xmin), ',' ORDER BY ct.team_id) FROM federation_credential_teams ct
		JOIN team_members m ON m.team_id = ct.team_id WHERE ct.credential_id = c.id AND m.user_id = $1::uuid))`
