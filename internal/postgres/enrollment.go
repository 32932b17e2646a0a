package postgres

import (
	"context"
	"crypto/subtle"
	"errors"
	"math/big"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/enroll"
	"github.com/mosaicstack/gateway/internal/grant"
	"github.com/mosaicstack/gateway/internal/peer"
)

// Enrollment stores tokens and the certificate registry. It is the enroll.Store of the gateway.
type Enrollment struct{ *DB }

// A claim made in time can be retried until two minutes after its lease of enroll.Lease, even when the token's life
// ends meanwhile: whoever came in time must not lose the token to a slow CA.
const claimGrace = "2 minutes 30 seconds"

// tokenAlive is the one definition of a token that can still be claimed. claimed_at is when it was last claimed in
// time: retries after the token's life do not move it, so that they cannot keep the token alive.
const tokenAlive = `t.spent_at IS NULL AND (t.expires_at > now() OR t.claimed_at IS NOT NULL AND t.claimed_at < t.expires_at AND t.claimed_at + interval '` + claimGrace + `' > now())`

// tokenState is a token with everything that decides whether it can be redeemed.
type tokenState struct {
	id, grantID     uuid.UUID
	generation      int64
	expiresAt       time.Time
	alive, leased   bool
	spent           bool
	idempotencyHash []byte
	requestHash     []byte
	answer          []byte
	peerState       peer.State
	userDisabled    bool
	now             time.Time
}

func readToken(ctx context.Context, q querier, hash [32]byte) (tokenState, error) {
	var s tokenState
	err := q.QueryRow(ctx, `SELECT t.id, t.grant_id, t.claim_generation, t.expires_at, `+tokenAlive+`, coalesce(t.claim_lease_until > now(), false),
			t.spent_at IS NOT NULL, t.idempotency_hash, t.request_hash, CASE WHEN t.expires_at > now() THEN t.answer END, p.state, u.disabled_at IS NOT NULL, now()
		FROM federation_enrollment_tokens t
		JOIN federation_grants g ON g.id = t.grant_id JOIN federation_peers p ON p.id = g.peer_id JOIN users u ON u.id = g.subject_user_id
		WHERE t.token_hash = $1`, hash[:]).
		Scan(&s.id, &s.grantID, &s.generation, &s.expiresAt, &s.alive, &s.leased,
			&s.spent, &s.idempotencyHash, &s.requestHash, &s.answer, &s.peerState, &s.userDisabled, &s.now)
	if notFound(err) {
		return s, enroll.ErrTokenUnknown
	}
	return s, fail(err, "read enrollment token")
}

// refusal says why a token that could not be claimed could not be; nil when it can.
func (s tokenState) refusal(g grant.Grant) error {
	switch {
	case s.spent:
		return enroll.ErrTokenUsed
	case !s.alive:
		return enroll.ErrTokenExpired
	}
	if err := closed(g, s.peerState, s.userDisabled, s.now); err != nil {
		return err
	}
	if s.leased {
		return enroll.ErrInProgress
	}
	return nil
}

// closed says whether a grant, or whom it stands on, is not open for enrollment.
func closed(g grant.Grant, p peer.State, userDisabled bool, now time.Time) error {
	switch g.EffectiveStatus(now) {
	case grant.Revoked:
		return enroll.ErrGrantRevoked
	case grant.Expired:
		return enroll.ErrGrantExpired
	}
	switch {
	case p == peer.Revoked:
		return enroll.ErrGrantClosed
	case p == peer.Suspended:
		return enroll.ErrPeerSuspended
	case userDisabled:
		return enroll.ErrSubjectDisabled
	}
	if g.Scope.Sensitive() && g.ApprovedAt == nil {
		return enroll.ErrApprovalMissing
	}
	return nil
}

// View implements enroll.Store.
func (e *Enrollment) View(ctx context.Context, hash [32]byte) (enroll.View, error) {
	s, err := readToken(ctx, e.pool, hash)
	if err != nil {
		return enroll.View{}, err
	}
	g, err := findGrant(ctx, e.pool, s.grantID, "")
	if errors.Is(err, ErrGrantNotFound) {
		return enroll.View{}, enroll.ErrTokenUnknown // deleted between the two reads
	} else if err != nil {
		return enroll.View{}, err
	}
	return enroll.View{ExpiresAt: s.expiresAt, Err: s.refusal(g)}, nil
}

// Claim implements enroll.Store. Check, claim and the attempt's record are one statement: with SELECT-then-UPDATE two
// holders of a leaked URL could both find it unclaimed.
func (e *Enrollment) Claim(ctx context.Context, r enroll.ClaimRequest) (enroll.Claim, error) {
	c := enroll.Claim{Serial: r.Serial}
	st := standing{grant: &c.Grant}
	err := e.pool.QueryRow(ctx, takeToken, r.TokenHash[:], r.Lease, r.RequestHash[:], r.RequestID, r.Serial.String()).
		Scan(append([]any{&c.TokenID, &c.Generation}, st.fields()...)...)
	if notFound(err) {
		return e.whyNotTaken(ctx, r)
	} else if err != nil {
		return enroll.Claim{}, fail(err, "claim enrollment token")
	}
	c.Now, c.FirstOfPeer = st.now, st.peer == peer.Pending
	return c, nil
}

const takeToken = `WITH taken AS (
		UPDATE federation_enrollment_tokens t
		SET claim_generation = claim_generation + 1, claimed_at = CASE WHEN t.expires_at > now() THEN now() ELSE t.claimed_at END, claim_lease_until = now() + $2::interval,
			claim_csr_hash = $3, claim_request_id = $4
		WHERE token_hash = $1 AND ` + tokenAlive + ` AND (claim_lease_until IS NULL OR claim_lease_until <= now()) AND ` + standingOpen + `
		RETURNING id, claim_generation, grant_id),
	attempt AS (
		INSERT INTO federation_sign_attempts (serial, token_id, grant_id, generation, purpose, lease_until)
		SELECT $5, id, grant_id, claim_generation, 'enroll', now() + $2::interval FROM taken)
	SELECT taken.id, taken.claim_generation, ` + standingColumns + ` FROM taken JOIN federation_grants g ON g.id = taken.grant_id` + standingJoins

// standingColumns and standingJoins read a standing beside a grant g. standingOpen says of a token t that its standing
// is open, by the rule of closed, to which TestOpenIsNotClosed holds it; a scalar subquery, which the planner always
// answers by primary keys.
const (
	standingColumns = grantColumns + `, p.state, u.disabled_at IS NOT NULL, now()`
	standingJoins   = ` JOIN federation_peers p ON p.id = g.peer_id JOIN users u ON u.id = g.subject_user_id `
	standingOpen    = `(SELECT g.status IN ('pending', 'active') AND (g.expires_at IS NULL OR g.expires_at > now()) AND p.state IN ('pending', 'active')
			AND u.disabled_at IS NULL AND (g.approved_at IS NOT NULL OR NOT g.scope->'resources' ?| ARRAY['credentials', 'api_keys'])
		FROM federation_grants g` + standingJoins + `WHERE g.id = t.grant_id)`
)

// standing is what an enrollment stands on: the grant, its peer and its user, and the time.
type standing struct {
	grant        *grant.Grant
	peer         peer.State
	userDisabled bool
	now          time.Time
}

func (s *standing) fields() []any {
	return append(grantFields(s.grant), &s.peer, &s.userDisabled, &s.now)
}

// whyNotTaken explains a claim that hit no row, or finds the answer the same request got before.
func (e *Enrollment) whyNotTaken(ctx context.Context, r enroll.ClaimRequest) (enroll.Claim, error) {
	s, err := readToken(ctx, e.pool, r.TokenHash)
	if err != nil {
		return enroll.Claim{}, err
	}
	g, err := findGrant(ctx, e.pool, s.grantID, "")
	if errors.Is(err, ErrGrantNotFound) {
		return enroll.Claim{}, enroll.ErrTokenUnknown // deleted between the two reads
	} else if err != nil {
		return enroll.Claim{}, err
	}
	if s.spent && r.IdempotencyHash != nil && subtle.ConstantTimeCompare(s.idempotencyHash, r.IdempotencyHash) == 1 {
		if subtle.ConstantTimeCompare(s.requestHash, r.RequestHash[:]) != 1 {
			return enroll.Claim{}, enroll.ErrKeyReused
		}
		if err := closed(g, s.peerState, s.userDisabled, s.now); err != nil {
			return enroll.Claim{}, err // the certificate opens nothing any more
		}
		if s.answer != nil {
			return enroll.Claim{Again: s.answer}, nil
		}
	}
	if err := s.refusal(g); err != nil {
		return enroll.Claim{}, err
	}
	return enroll.Claim{}, enroll.ErrInProgress // released between the two statements: the next try gets it
}

// Release implements enroll.Store.
func (e *Enrollment) Release(ctx context.Context, c enroll.Claim, signed ...*big.Int) error {
	_, err := e.release(ctx, c, signed)
	return err
}

// release tells whether there was nothing to give back: the claim's certificate is in the registry.
func (e *Enrollment) release(ctx context.Context, c enroll.Claim, signed []*big.Int) (recorded bool, err error) {
	err = e.inTx(ctx, "release enrollment token", func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `UPDATE federation_enrollment_tokens SET claim_lease_until = now()
			WHERE id = $1 AND claim_generation = $2 AND spent_at IS NULL`, c.TokenID, c.Generation); err != nil {
			return err
		}
		recorded, err = settleAttempt(ctx, tx, c.Serial, signed)
		return err
	})
	return recorded, err
}

// settleAttempt ends an attempt that came to nothing, and queues what the CA may have signed. It tells whether the
// attempt was recorded after all.
func settleAttempt(ctx context.Context, tx pgx.Tx, attempt *big.Int, signed []*big.Int) (recorded bool, err error) {
	for _, serial := range signed {
		if serial.Cmp(attempt) == 0 {
			if err := orphan(ctx, tx, serial.String()); err != nil {
				return false, err
			}
		} else if err := stray(ctx, tx, serial); err != nil {
			return false, err
		}
	}
	// Only what was not orphaned is still pending.
	if _, err := tx.Exec(ctx, `UPDATE federation_sign_attempts SET outcome = 'refused', settled_at = now() WHERE serial = $1 AND outcome = 'pending'`,
		attempt.String()); err != nil {
		return false, err
	}
	err = tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM federation_sign_attempts WHERE serial = $1 AND outcome = 'recorded')`, attempt.String()).Scan(&recorded)
	return recorded, err
}

// orphan queues the serial of an attempt that may have been signed and will never be recorded. Both in one statement:
// an attempt that was recorded after all must not be revoked.
func orphan(ctx context.Context, tx pgx.Tx, serial string) error {
	_, err := tx.Exec(ctx, `WITH orphaned AS (
			UPDATE federation_sign_attempts SET outcome = 'orphaned', settled_at = now() WHERE serial = $1 AND outcome = 'pending' RETURNING serial)
		INSERT INTO federation_ca_revocations (serial, reason) SELECT serial, 'never recorded' FROM orphaned ON CONFLICT (serial) DO NOTHING`, serial)
	return err
}

// stray queues a serial that the CA gave unasked. A CA that mixes up its answers may have shown us somebody else's
// certificate, in the registry or about to be: that one is not ours to revoke.
func stray(ctx context.Context, tx pgx.Tx, serial *big.Int) error {
	if serial.Sign() <= 0 {
		return nil // no serial of RFC 5280 (section 4.1.2.2), and none that a CA could list
	}
	_, err := tx.Exec(ctx, `INSERT INTO federation_ca_revocations (serial, reason) SELECT $1, 'not as asked'
		WHERE NOT EXISTS (SELECT FROM federation_sign_attempts WHERE serial = $1 AND outcome IN ('pending', 'recorded'))
		ON CONFLICT (serial) DO NOTHING`, serial.String())
	return err
}

// Activate implements enroll.Store. Locks are taken in the order peer, grant, token, which is the order of
// every revoke too: of a revoke and an activation one waits for the other, and neither for both.
func (e *Enrollment) Activate(ctx context.Context, a enroll.Activation) error {
	err := e.activate(ctx, a)
	if err == nil {
		return nil
	}
	// Either nothing was written, and only the CA knows the certificate; or only the news of its commit was lost, and it
	// is as good as any. If this fails as well, the sweep finds the attempt by its serial, and a retry the answer.
	recorded, released := e.release(ctx, a.Claim, []*big.Int{a.Claim.Serial})
	switch {
	case released != nil:
		return errors.Join(err, released)
	case recorded:
		return nil
	}
	return err
}

func (e *Enrollment) activate(ctx context.Context, a enroll.Activation) error {
	id, g := a.Identity, a.Claim.Grant
	event := a.Act.Event("enrollment.redeem")
	event.Direction = audit.Inbound
	event.PeerID, event.PeerName, event.GrantID, event.SubjectUserID = g.PeerID, g.Peer, g.ID, g.SubjectUserID
	event.Fingerprint, event.StatusCode = id.Fingerprint[:], 201
	// Only the first enrollment of a peer writes its row; of several first ones the others find it written. All later
	// ones share it: enrollments of one peer must not wait for each other's commits. A user is disabled or deleted
	// under its own lock, and looked at again at every request.
	lock := `SHARE`
	if a.Claim.FirstOfPeer {
		lock = `NO KEY UPDATE`
	}
	args := append(eventArgs(event), a.Claim.TokenID, a.Claim.Generation, id.Serial, id.Fingerprint[:], a.IdempotencyHash, a.RequestHash[:],
		a.Answer, id.GrantID, id.UserID, id.NotBefore, id.NotAfter, a.Root[:])
	var written pgconn.CommandTag
	err := retried(func() error {
		var batch pgx.Batch // one round trip, and one transaction
		batch.Queue(`SELECT FROM federation_grants g JOIN federation_peers p ON p.id = g.peer_id WHERE g.id = $1 FOR `+lock+` OF p FOR UPDATE OF g`, g.ID)
		batch.Queue(recordActivation, args...).Exec(func(tag pgconn.CommandTag) error {
			written = tag
			return nil
		})
		return fail(e.pool.SendBatch(ctx, &batch).Close(), "activate enrollment")
	})
	if err != nil || written.RowsAffected() == 1 {
		return err
	}
	return e.whyNotActivated(ctx, g.ID)
}

// recordActivation writes everything, or nothing when the claim, the attempt or what they stand on is not what it was:
// another claim took over, the lease ended and the serial will be revoked, or somebody closed the grant. Its snapshot
// is taken when the peer and the grant are locked already. Single use rests on the token's own lock.
const recordActivation = `WITH open AS (
		SELECT FROM federation_enrollment_tokens t CROSS JOIN federation_sign_attempts a
		WHERE t.id = $23 AND t.grant_id = $30 AND t.claim_generation = $24 AND t.spent_at IS NULL AND a.serial = $25 AND a.outcome = 'pending' AND ` + standingOpen + `
		FOR UPDATE),
	spent AS (
		UPDATE federation_enrollment_tokens
		SET spent_at = now(), spent_fingerprint = $26, idempotency_hash = $27, request_hash = $28, answer = $29, claim_lease_until = NULL
		FROM open WHERE id = $23),
	settled AS (UPDATE federation_sign_attempts SET outcome = 'recorded', settled_at = now() FROM open WHERE serial = $25),
	superseded AS (
		UPDATE federation_certificates SET revoked_at = now(), revoked_reason = 'superseded' FROM open WHERE grant_id = $30 AND revoked_at IS NULL),
	recorded AS (
		INSERT INTO federation_certificates (fingerprint, serial, grant_id, subject_user_id, not_before, not_after, ca_root)
		SELECT $26, $25, $30, $31, $32, $33, $34 FROM open),
	activated AS (
		UPDATE federation_grants SET status = 'active', activated_at = coalesce(activated_at, now()), updated_at = now(), version = version + 1
		FROM open WHERE id = $30),
	first AS (
		UPDATE federation_peers SET state = 'active', updated_at = now(), version = version + 1 FROM open WHERE id = $5 AND state = 'pending')
	INSERT INTO federation_audit_log (` + eventColumns + `) SELECT ` + eventValues + ` FROM open`

// whyNotActivated explains an activation that wrote nothing. What passes is told apart, for the token outlives it.
func (e *Enrollment) whyNotActivated(ctx context.Context, grantID uuid.UUID) error {
	st := standing{grant: new(grant.Grant)}
	err := e.pool.QueryRow(ctx, `SELECT `+standingColumns+` FROM federation_grants g`+standingJoins+`WHERE g.id = $1`, grantID).Scan(st.fields()...)
	if notFound(err) {
		return enroll.ErrGrantClosed // deleted, with its peer or its user
	} else if err != nil {
		return fail(err, "activate enrollment")
	}
	switch err := closed(*st.grant, st.peer, st.userDisabled, st.now); {
	case err == nil:
		return enroll.ErrInProgress
	case errors.Is(err, enroll.ErrPeerSuspended), errors.Is(err, enroll.ErrSubjectDisabled):
		return err
	default:
		return enroll.ErrGrantClosed.Because(err)
	}
}
