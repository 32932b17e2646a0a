package postgres

import (
	"context"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/mosaicstack/gateway/internal/account"
	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/fault"
)

// Faults of the accounts store.
var (
	ErrUserNotFound = &fault.Fault{
		Kind: fault.NotFound, Code: "user_not_found", Detail: "there is no such user",
		Hint: "list the users with: mosaic user list",
	}
	ErrUserExists = &fault.Fault{
		Kind: fault.Conflict, Code: "user_exists", Detail: "a user with this email exists",
		Hint: "list the users with: mosaic user list",
	}
	ErrTeamNotFound = &fault.Fault{
		Kind: fault.NotFound, Code: "team_not_found", Detail: "there is no such team",
		Hint: "list the teams with: mosaic team list",
	}
	ErrTeamExists = &fault.Fault{
		Kind: fault.Conflict, Code: "team_exists", Detail: "a team with this name exists",
		Hint: "list the teams with: mosaic team list",
	}
	ErrTeamHasRows = &fault.Fault{
		Kind: fault.Conflict, Code: "team_has_rows", Detail: "the team still owns rows, which would lose their visibility with it",
		Hint: "move or delete the team's rows first",
	}
	ErrTokenNotFound = &fault.Fault{
		Kind: fault.NotFound, Code: "token_not_found", Detail: "there is no such token",
		Hint: "list the tokens with: mosaic token list",
	}
)

// Accounts stores users, teams and API tokens.
type Accounts struct{ *DB }

const userColumns = `id, email, display_name, role, disabled_at, created_at, updated_at`

func scanUser(row pgx.CollectableRow) (account.User, error) {
	var u account.User
	err := row.Scan(&u.ID, &u.Email, &u.DisplayName, &u.Role, &u.DisabledAt, &u.CreatedAt, &u.UpdatedAt)
	return u, err
}

// CreateUser stores u, which has email, display name and role.
func (s *Accounts) CreateUser(ctx context.Context, u account.User, act audit.Act) (account.User, error) {
	var out account.User
	err := s.inTx(ctx, "create user", func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `INSERT INTO users (email, display_name, role) VALUES ($1, $2, $3) RETURNING `+userColumns,
			u.Email, u.DisplayName, u.Role)
		if err != nil {
			return err
		}
		if out, err = pgx.CollectExactlyOneRow(rows, scanUser); violates(err, uniqueViolation, "") {
			return ErrUserExists.With("a user with the email %s exists", u.Email)
		} else if err != nil {
			return err
		}
		e := act.Created("user.create")
		e.SubjectUserID, e.Detail = out.ID, string(out.Role)
		return record(ctx, tx, e)
	})
	return out, err
}

// User finds a user by id or email.
func (s *Accounts) User(ctx context.Context, ref string) (account.User, error) {
	return findUser(ctx, s.pool, ref)
}

func findUser(ctx context.Context, q querier, ref string) (account.User, error) {
	u, err := find(ctx, q, ref, scanUser, `SELECT `+userColumns+` FROM users WHERE id = $1`, `SELECT `+userColumns+` FROM users WHERE email = lower($1)`)
	if notFound(err) {
		return u, ErrUserNotFound.With("there is no user %q", ref)
	}
	return u, fail(err, "find user")
}

// Users lists all users by email.
func (s *Accounts) Users(ctx context.Context) ([]account.User, error) {
	return collect(ctx, s.pool, "list users", scanUser, `SELECT `+userColumns+` FROM users ORDER BY email`)
}

// UserChange is what UpdateUser may change. Nil fields stay.
type UserChange struct {
	DisplayName *string
	Role        *account.Role
	Disabled    *bool
}

// standing tells whether the change is one of what a user may do here, and not only of how they are called.
func (c UserChange) standing() bool { return c.Role != nil || c.Disabled != nil }

// UpdateUser changes what c names, and nothing else: a rename that was decided before somebody else's disabling must
// not undo it.
func (s *Accounts) UpdateUser(ctx context.Context, ref string, c UserChange, act audit.Act) (account.User, error) {
	var out account.User
	err := s.inTx(ctx, "update user", func(tx pgx.Tx) error {
		u, err := findUser(ctx, tx, ref)
		if err != nil {
			return err
		}
		if c.standing() {
			err := guardLastAdmin(ctx, tx, u.ID, c.of)
			if err != nil {
				return err
			}
		}
		rows, err := tx.Query(ctx, `UPDATE users SET display_name = coalesce($2, display_name), role = coalesce($3, role),
			disabled_at = CASE WHEN $4::boolean IS NULL THEN disabled_at WHEN $4 THEN coalesce(disabled_at, now()) END, updated_at = now()
			WHERE id = $1 RETURNING `+userColumns, u.ID, c.DisplayName, c.Role, c.Disabled)
		if err != nil {
			return err
		}
		if out, err = pgx.CollectExactlyOneRow(rows, scanUser); notFound(err) {
			return ErrUserNotFound.With("there is no user %q", ref) // deleted since it was found
		} else if err != nil {
			return err
		}
		e := act.Event("user.update")
		e.SubjectUserID, e.Detail = out.ID, string(out.Role)
		if out.Disabled() {
			e.Detail = "disabled"
		}
		return record(ctx, tx, e)
	})
	return out, err
}

// of is u after the change, as far as the rule of the last admin looks at it.
func (c UserChange) of(u account.User) account.User {
	if c.Role != nil {
		u.Role = *c.Role
	}
	switch {
	case c.Disabled == nil:
	case !*c.Disabled:
		u.DisabledAt = nil
	case u.DisabledAt == nil:
		u.DisabledAt = &time.Time{}
	}
	return u
}

// DeleteUser removes a user, their rows, tokens and grants.
func (s *Accounts) DeleteUser(ctx context.Context, ref string, act audit.Act) error {
	return s.inTx(ctx, "delete user", func(tx pgx.Tx) error {
		u, err := findUser(ctx, tx, ref)
		if err != nil {
			return err
		}
		if err := guardLastAdmin(ctx, tx, u.ID, func(account.User) account.User { return account.User{} }); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `DELETE FROM users WHERE id = $1`, u.ID); err != nil {
			return err
		}
		e := act.Event("user.delete")
		e.SubjectUserID = u.ID
		return record(ctx, tx, e)
	})
}

// guardLastAdmin refuses a change that would let the last enabled admin go. It locks the user and all enabled admins,
// in the order of their ids, and judges the user as the lock found it: of two admins who demote each other at once
// one waits, and then sees what the other has done.
func guardLastAdmin(ctx context.Context, tx pgx.Tx, id uuid.UUID, change func(account.User) account.User) error {
	locked, err := collect(ctx, tx, "lock admins", scanUser, `SELECT `+userColumns+` FROM users
		WHERE id = $1 OR role = 'admin' AND disabled_at IS NULL ORDER BY id FOR NO KEY UPDATE`, id)
	if err != nil {
		return err
	}
	self := slices.IndexFunc(locked, func(u account.User) bool { return u.ID == id })
	if self < 0 {
		return ErrUserNotFound // deleted since it was found
	}
	return account.RequireAdminRemains(locked[self], change(locked[self]), len(locked)-1)
}

const teamColumns = `id, name, created_at`

func scanTeam(row pgx.CollectableRow) (account.Team, error) {
	var t account.Team
	err := row.Scan(&t.ID, &t.Name, &t.CreatedAt)
	return t, err
}

// CreateTeam stores a team.
func (s *Accounts) CreateTeam(ctx context.Context, name string, act audit.Act) (account.Team, error) {
	var out account.Team
	err := s.inTx(ctx, "create team", func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `INSERT INTO teams (name) VALUES ($1) RETURNING `+teamColumns, name)
		if err != nil {
			return err
		}
		if out, err = pgx.CollectExactlyOneRow(rows, scanTeam); violates(err, uniqueViolation, "") {
			return ErrTeamExists.With("a team named %s exists", name)
		} else if err != nil {
			return err
		}
		e := act.Created("team.create")
		e.Detail = "team " + out.ID.String()
		return record(ctx, tx, e)
	})
	return out, err
}

// Team finds a team by id or name.
func (s *Accounts) Team(ctx context.Context, ref string) (account.Team, error) {
	return findTeam(ctx, s.pool, ref)
}

func findTeam(ctx context.Context, q querier, ref string) (account.Team, error) {
	t, err := find(ctx, q, ref, scanTeam, `SELECT `+teamColumns+` FROM teams WHERE id = $1`, `SELECT `+teamColumns+` FROM teams WHERE name = $1`)
	if notFound(err) {
		return t, ErrTeamNotFound.With("there is no team %q", ref)
	}
	return t, fail(err, "find team")
}

// UnknownTeams gives those of ids that no team has, in their order.
func (s *Accounts) UnknownTeams(ctx context.Context, ids []uuid.UUID) ([]uuid.UUID, error) {
	return collect(ctx, s.pool, "look for teams", pgx.RowTo[uuid.UUID],
		`SELECT id FROM unnest($1::uuid[]) WITH ORDINALITY AS asked(id, n) WHERE NOT EXISTS (SELECT FROM teams WHERE teams.id = asked.id) ORDER BY n`, ids)
}

// TeamWithMembers is a team and who is in it now.
type TeamWithMembers struct {
	account.Team
	Members []uuid.UUID
}

// Teams lists all teams by name.
func (s *Accounts) Teams(ctx context.Context) ([]TeamWithMembers, error) {
	return collect(ctx, s.pool, "list teams", func(row pgx.CollectableRow) (TeamWithMembers, error) {
		var t TeamWithMembers
		err := row.Scan(&t.ID, &t.Name, &t.CreatedAt, &t.Members)
		return t, err
	}, `SELECT t.id, t.name, t.created_at, array(SELECT user_id FROM team_members m WHERE m.team_id = t.id ORDER BY added_at, user_id) FROM teams t ORDER BY t.name`)
}

// DeleteTeam removes a team that owns no rows.
func (s *Accounts) DeleteTeam(ctx context.Context, ref string, act audit.Act) error {
	return s.inTx(ctx, "delete team", func(tx pgx.Tx) error {
		t, err := findTeam(ctx, tx, ref)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `DELETE FROM teams WHERE id = $1`, t.ID); violates(err, foreignKeyViolation, "") {
			return ErrTeamHasRows.Because(err)
		} else if err != nil {
			return err
		}
		e := act.Event("team.delete")
		e.Detail = "team " + t.ID.String()
		return record(ctx, tx, e)
	})
}

// AddMember puts a user in a team; a member stays one.
func (s *Accounts) AddMember(ctx context.Context, team, user string, act audit.Act) error {
	return s.member(ctx, team, user, act, "team.add", `INSERT INTO team_members (team_id, user_id) VALUES ($1, $2) ON CONFLICT DO NOTHING`)
}

// RemoveMember takes a user out of a team. It is in force for every request that starts after it returned.
func (s *Accounts) RemoveMember(ctx context.Context, team, user string, act audit.Act) error {
	return s.member(ctx, team, user, act, "team.remove", `DELETE FROM team_members WHERE team_id = $1 AND user_id = $2`)
}

func (s *Accounts) member(ctx context.Context, team, user string, act audit.Act, verb, q string) error {
	return s.inTx(ctx, verb, func(tx pgx.Tx) error {
		t, err := findTeam(ctx, tx, team)
		if err != nil {
			return err
		}
		u, err := findUser(ctx, tx, user)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, q, t.ID, u.ID); err != nil {
			return err
		}
		e := act.Event(verb)
		e.SubjectUserID, e.Detail = u.ID, "team "+t.ID.String()
		return record(ctx, tx, e)
	})
}

const tokenColumns = `id, user_id, name, created_at, expires_at, last_used_at, revoked_at`

func scanToken(row pgx.CollectableRow) (account.Token, error) {
	var t account.Token
	err := row.Scan(&t.ID, &t.UserID, &t.Name, &t.CreatedAt, &t.ExpiresAt, &t.LastUsedAt, &t.RevokedAt)
	return t, err
}

// CreateToken stores the hash of a token that lives for ttl.
func (s *Accounts) CreateToken(ctx context.Context, user, name string, hash [32]byte, ttl time.Duration, act audit.Act) (account.Token, error) {
	var out account.Token
	err := s.inTx(ctx, "create token", func(tx pgx.Tx) error {
		u, err := findUser(ctx, tx, user)
		if err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `INSERT INTO api_tokens (user_id, name, token_hash, expires_at) VALUES ($1, $2, $3, now() + $4::interval) RETURNING `+tokenColumns,
			u.ID, name, hash[:], ttl)
		if err != nil {
			return err
		}
		if out, err = pgx.CollectExactlyOneRow(rows, scanToken); err != nil {
			return err
		}
		e := act.Created("token.create")
		e.SubjectUserID, e.Detail = u.ID, "token "+out.ID.String()
		return record(ctx, tx, e)
	})
	return out, err
}

// Tokens lists the tokens of one user, or of all when userID is zero, newest first.
func (s *Accounts) Tokens(ctx context.Context, userID uuid.UUID) ([]account.Token, error) {
	return collect(ctx, s.pool, "list tokens", scanToken,
		`SELECT `+tokenColumns+` FROM api_tokens WHERE $1::uuid IS NULL OR user_id = $1 ORDER BY created_at DESC, id`, nullID(userID))
}

// RevokeToken ends a token. A userID that is not zero must own it.
func (s *Accounts) RevokeToken(ctx context.Context, id, userID uuid.UUID, act audit.Act) error {
	return s.inTx(ctx, "revoke token", func(tx pgx.Tx) error {
		var owner uuid.UUID
		err := tx.QueryRow(ctx, `UPDATE api_tokens SET revoked_at = coalesce(revoked_at, now())
			WHERE id = $1 AND ($2::uuid IS NULL OR user_id = $2) RETURNING user_id`, id, nullID(userID)).Scan(&owner)
		if notFound(err) {
			return ErrTokenNotFound
		} else if err != nil {
			return err
		}
		e := act.Event("token.revoke")
		e.SubjectUserID, e.Detail = owner, "token "+id.String()
		return record(ctx, tx, e)
	})
}

// Authenticate finds the user behind a token's hash. A token that is unknown, expired or revoked, and one of a
// disabled user, look the same. last_used_at is written at most once a minute.
func (s *Accounts) Authenticate(ctx context.Context, hash [32]byte) (account.User, error) {
	const q = `SELECT u.id, u.email, u.display_name, u.role, u.disabled_at, u.created_at, u.updated_at, t.id,
			t.last_used_at IS NULL OR t.last_used_at < now() - interval '1 minute'
		FROM api_tokens t JOIN users u ON u.id = t.user_id
		WHERE t.token_hash = $1 AND t.revoked_at IS NULL AND t.expires_at > now() AND u.disabled_at IS NULL`
	var u account.User
	var tokenID uuid.UUID
	var touch bool
	err := s.pool.QueryRow(ctx, q, hash[:]).Scan(&u.ID, &u.Email, &u.DisplayName, &u.Role, &u.DisabledAt, &u.CreatedAt, &u.UpdatedAt, &tokenID, &touch)
	if notFound(err) {
		return u, account.ErrTokenInvalid
	} else if err != nil {
		return u, fail(err, "authenticate")
	}
	if touch {
		if _, err := s.pool.Exec(ctx, `UPDATE api_tokens SET last_used_at = now() WHERE id = $1`, tokenID); err != nil {
			return u, fail(err, "authenticate")
		}
	}
	return u, nil
}
