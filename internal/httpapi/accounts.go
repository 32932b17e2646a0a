package httpapi

import (
	"context"
	"crypto/rand"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/account"
	"github.com/mosaicstack/gateway/internal/grant"
	"github.com/mosaicstack/gateway/internal/postgres"
)

// userBody is a user on the wire.
type userBody struct {
	ID          uuid.UUID    `json:"id"`
	Email       string       `json:"email"`
	DisplayName string       `json:"display_name"`
	Role        account.Role `json:"role"`
	DisabledAt  *time.Time   `json:"disabled_at"`
	CreatedAt   time.Time    `json:"created_at"`
	UpdatedAt   time.Time    `json:"updated_at"`
}

func toUser(u account.User) userBody { return userBody(u) }

// UserRef names a user in a path. The types that requests embed are exported because huma passes over others.
type UserRef struct {
	User string `path:"user" doc:"id or email"`
}

func (a *api) users() {
	type newUserRequest struct {
		Body struct {
			Email       string `json:"email"`
			DisplayName string `json:"display_name,omitempty"`
			Role        string `json:"role,omitempty" doc:"admin, member or auditor"`
		}
	}
	register(a, created(operation(http.MethodPost, "/api/users", "user-create", "Create a user", "users", account.UsersWrite)),
		func(ctx context.Context, in *newUserRequest) (*body[userBody], error) {
			u, err := newUser(in.Body.Email, in.Body.DisplayName, in.Body.Role)
			if err != nil {
				return nil, err
			}
			u, err = a.Accounts.CreateUser(ctx, u, actOf(ctx))
			return answer(toUser(u), err)
		})
	register(a, operation(http.MethodGet, "/api/users", "user-list", "List users", "users", account.UsersRead),
		func(ctx context.Context, _ *struct{}) (*body[list[userBody]], error) {
			users, err := a.Accounts.Users(ctx)
			return listing(users, err, toUser)
		})
	register(a, operation(http.MethodGet, "/api/users/{user}", "user-show", "Show a user", "users", account.UsersRead),
		func(ctx context.Context, in *UserRef) (*body[userBody], error) {
			u, err := a.Accounts.User(ctx, in.User)
			return answer(toUser(u), err)
		})
	type userChange struct {
		UserRef
		Body struct {
			DisplayName *string `json:"display_name,omitempty"`
			Role        *string `json:"role,omitempty"`
			Disabled    *bool   `json:"disabled,omitempty"`
		}
	}
	register(a, operation(http.MethodPatch, "/api/users/{user}", "user-update", "Rename, disable or change the role of a user", "users", account.UsersWrite),
		func(ctx context.Context, in *userChange) (*body[userBody], error) {
			change := postgres.UserChange{Disabled: in.Body.Disabled}
			if in.Body.DisplayName != nil {
				name, err := account.ParseDisplayName(*in.Body.DisplayName)
				if err != nil {
					return nil, err
				}
				change.DisplayName = &name
			}
			if in.Body.Role != nil {
				role, err := account.ParseRole(*in.Body.Role)
				if err != nil {
					return nil, err
				}
				change.Role = &role
			}
			u, err := a.Accounts.UpdateUser(ctx, in.User, change, actOf(ctx))
			return answer(toUser(u), err)
		})
	register(a, operation(http.MethodDelete, "/api/users/{user}", "user-delete", "Delete a user with their rows, tokens and grants", "users", account.UsersWrite),
		func(ctx context.Context, in *UserRef) (*empty, error) {
			return nil, a.Accounts.DeleteUser(ctx, in.User, actOf(ctx))
		})
}

func newUser(email, name, role string) (account.User, error) {
	var u account.User
	var err error
	if u.Email, err = account.ParseEmail(email); err != nil {
		return u, err
	}
	if u.DisplayName, err = account.ParseDisplayName(name); err != nil {
		return u, err
	}
	u.Role = account.Member
	if role != "" {
		u.Role, err = account.ParseRole(role)
	}
	return u, err
}

// teamBody is a team on the wire.
type teamBody struct {
	ID        uuid.UUID   `json:"id"`
	Name      string      `json:"name"`
	CreatedAt time.Time   `json:"created_at"`
	Members   []uuid.UUID `json:"members"`
}

func toTeam(t postgres.TeamWithMembers) teamBody {
	if t.Members == nil {
		t.Members = []uuid.UUID{}
	}
	return teamBody{ID: t.ID, Name: t.Name, CreatedAt: t.CreatedAt, Members: t.Members}
}

// TeamRef names a team in a path.
type TeamRef struct {
	Team string `path:"team" doc:"id or name"`
}

func (a *api) teams() {
	type newTeamRequest struct {
		Body struct {
			Name string `json:"name"`
		}
	}
	register(a, created(operation(http.MethodPost, "/api/teams", "team-create", "Create a team", "teams", account.TeamsWrite)),
		func(ctx context.Context, in *newTeamRequest) (*body[teamBody], error) {
			name, err := account.ParseTeamName(in.Body.Name)
			if err != nil {
				return nil, err
			}
			t, err := a.Accounts.CreateTeam(ctx, name, actOf(ctx))
			return answer(toTeam(postgres.TeamWithMembers{Team: t}), err)
		})
	register(a, operation(http.MethodGet, "/api/teams", "team-list", "List teams and their members", "teams", account.TeamsRead),
		func(ctx context.Context, _ *struct{}) (*body[list[teamBody]], error) {
			teams, err := a.Accounts.Teams(ctx)
			return listing(teams, err, toTeam)
		})
	register(a, operation(http.MethodDelete, "/api/teams/{team}", "team-delete", "Delete a team that has no rows", "teams", account.TeamsWrite),
		func(ctx context.Context, in *TeamRef) (*empty, error) {
			return nil, a.Accounts.DeleteTeam(ctx, in.Team, actOf(ctx))
		})
	type member struct {
		TeamRef
		UserRef
	}
	register(a, operation(http.MethodPut, "/api/teams/{team}/members/{user}", "team-add", "Put a user in a team", "teams", account.TeamsWrite),
		func(ctx context.Context, in *member) (*empty, error) {
			return nil, a.Accounts.AddMember(ctx, in.Team, in.User, actOf(ctx))
		})
	register(a, operation(http.MethodDelete, "/api/teams/{team}/members/{user}", "team-remove", "Take a user out of a team", "teams", account.TeamsWrite),
		func(ctx context.Context, in *member) (*empty, error) {
			return nil, a.Accounts.RemoveMember(ctx, in.Team, in.User, actOf(ctx))
		})
}

// tokenBody is a token on the wire. The token itself is there once, when it is made.
type tokenBody struct {
	ID         uuid.UUID  `json:"id"`
	Token      string     `json:"token,omitempty"`
	UserID     uuid.UUID  `json:"user_id"`
	Name       string     `json:"name"`
	CreatedAt  time.Time  `json:"created_at"`
	ExpiresAt  *time.Time `json:"expires_at"`
	LastUsedAt *time.Time `json:"last_used_at"`
	RevokedAt  *time.Time `json:"revoked_at"`
}

func toToken(t account.Token) tokenBody {
	return tokenBody{
		ID: t.ID, UserID: t.UserID, Name: t.Name, CreatedAt: t.CreatedAt,
		ExpiresAt: t.ExpiresAt, LastUsedAt: t.LastUsedAt, RevokedAt: t.RevokedAt,
	}
}

const defaultTokenTTL = 24 * time.Hour

func (a *api) tokens() {
	type newTokenRequest struct {
		Body struct {
			User string `json:"user" doc:"id or email"`
			Name string `json:"name,omitempty" maxLength:"200"`
			TTL  string `json:"ttl,omitempty" doc:"for example 24h or 90d; 24h when left out"`
		}
	}
	register(a, created(operation(http.MethodPost, "/api/tokens", "token-create", "Make an API token", "tokens", account.TokensWrite)),
		func(ctx context.Context, in *newTokenRequest) (*body[tokenBody], error) {
			ttl := defaultTokenTTL
			if in.Body.TTL != "" {
				var err error
				if ttl, err = grant.ParseTTL(in.Body.TTL); err != nil {
					return nil, err
				}
			}
			name, err := account.ParseDisplayName(in.Body.Name)
			if err != nil {
				return nil, err
			}
			secret, hash, err := account.NewToken(rand.Reader)
			if err != nil {
				return nil, err
			}
			t, err := a.Accounts.CreateToken(ctx, in.Body.User, name, hash, ttl, actOf(ctx))
			out := toToken(t)
			out.Token = secret
			return answer(out, err)
		})
	register(a, operation(http.MethodGet, "/api/tokens", "token-list", "List API tokens", "tokens", account.TokensRead),
		func(ctx context.Context, _ *struct{}) (*body[list[tokenBody]], error) {
			tokens, err := a.Accounts.Tokens(ctx, uuid.Nil)
			return listing(tokens, err, toToken)
		})
	type ref struct {
		Token string `path:"id" doc:"id of a token"`
	}
	register(a, operation(http.MethodDelete, "/api/tokens/{id}", "token-revoke", "Revoke an API token", "tokens", account.TokensWrite),
		func(ctx context.Context, in *ref) (*empty, error) {
			id, err := parseID(in.Token, postgres.ErrTokenNotFound, "token")
			if err != nil {
				return nil, err
			}
			return nil, a.Accounts.RevokeToken(ctx, id, uuid.Nil, actOf(ctx))
		})
}
