package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

type userDoc struct {
	ID          string     `json:"id"`
	Email       string     `json:"email"`
	DisplayName string     `json:"display_name"`
	Role        string     `json:"role"`
	DisabledAt  *time.Time `json:"disabled_at"`
	CreatedAt   time.Time  `json:"created_at"`
}

type teamDoc struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	CreatedAt time.Time `json:"created_at"`
	Members   []string  `json:"members"`
}

type tokenDoc struct {
	ID         string     `json:"id"`
	Token      string     `json:"token"`
	UserID     string     `json:"user_id"`
	Name       string     `json:"name"`
	CreatedAt  time.Time  `json:"created_at"`
	ExpiresAt  *time.Time `json:"expires_at"`
	LastUsedAt *time.Time `json:"last_used_at"`
	RevokedAt  *time.Time `json:"revoked_at"`
}

// ask connects and asks one thing.
func (a *app) ask(cmd *cobra.Command, r request) (*client, json.RawMessage, error) {
	c, err := a.connect(cmd)
	if err != nil {
		return nil, nil, err
	}
	doc, err := c.do(cmd.Context(), r)
	return c, doc, err
}

// names asks for what people call the users or teams behind ids. It is a courtesy: whoever may not ask, or asks a
// gateway that fails, sees the ids.
func (c *client) names(ctx context.Context, of string) func(id string) string {
	names := map[string]string{}
	if doc, err := c.do(ctx, get("api", of)); err == nil {
		var l struct {
			Data []struct{ ID, Email, Name string }
		}
		if json.Unmarshal(doc, &l) == nil {
			for _, d := range l.Data {
				names[d.ID] = d.Email + d.Name // one of the two
			}
		}
	}
	return func(id string) string {
		if name := names[id]; name != "" {
			return name
		}
		return id
	}
}

func (a *app) users() *cobra.Command {
	return a.group("user", "People with an account on this gateway", a.userCreate(), a.userList(),
		a.userSwitch("disable", "Keep a user out, and everybody who asks on their behalf, until they are enabled", true),
		a.userSwitch("enable", "Let a disabled user in again", false))
}

// userSwitch disables a user, or enables one.
func (a *app) userSwitch(name, short string, disabled bool) *cobra.Command {
	return a.leaf(name, []string{"USER"}, short, func(cmd *cobra.Command, args []string) error {
		r := post(map[string]bool{"disabled": disabled}, "api", "users", args[0])
		r.method = http.MethodPatch
		_, doc, err := a.ask(cmd, r)
		if err != nil {
			return err
		}
		return show(a, doc, func(u userDoc) {
			state := "active"
			if u.DisabledAt != nil {
				state = "disabled " + a.shortTime(u.DisabledAt)
			}
			a.record(field{"id", u.ID}, field{"email", u.Email}, field{"state", state})
		})
	})
}

func (a *app) userCreate() *cobra.Command {
	var body struct {
		Email string `json:"email"`
		Name  string `json:"display_name,omitempty"`
		Role  string `json:"role,omitempty"`
	}
	cmd := a.leaf("create", []string{"EMAIL"}, "Create a user", func(cmd *cobra.Command, args []string) error {
		body.Email = args[0]
		_, doc, err := a.ask(cmd, post(body, "api", "users"))
		if err != nil {
			return err
		}
		return show(a, doc, func(u userDoc) {
			a.record(field{"id", u.ID}, field{"email", u.Email}, field{"name", u.DisplayName}, field{"role", u.Role})
		})
	})
	cmd.Flags().StringVar(&body.Name, "name", "", "display name")
	cmd.Flags().StringVar(&body.Role, "role", "", "admin, member or auditor (default member)")
	return cmd
}

func (a *app) userList() *cobra.Command {
	return a.leaf("list", nil, "List the users", func(cmd *cobra.Command, _ []string) error {
		_, doc, err := a.ask(cmd, get("api", "users"))
		if err != nil {
			return err
		}
		return showList(a, doc, listing[userDoc]{
			none:   "no users yet: mosaic user create EMAIL",
			header: []string{"ID", "EMAIL", "NAME", "ROLE", "STATE", "CREATED"},
			columns: func() func(userDoc) []string {
				return func(u userDoc) []string {
					state := "active"
					if u.DisabledAt != nil {
						state = "disabled " + a.shortTime(u.DisabledAt)
					}
					return []string{u.ID, u.Email, u.DisplayName, u.Role, state, a.shortTime(&u.CreatedAt)}
				}
			},
		})
	})
}

func (a *app) teams() *cobra.Command {
	return a.group("team", "Groups of users who share rows", a.teamCreate(), a.teamAdd(), a.teamRemove(), a.teamList())
}

func (a *app) teamCreate() *cobra.Command {
	return a.leaf("create", []string{"NAME"}, "Create a team", func(cmd *cobra.Command, args []string) error {
		_, doc, err := a.ask(cmd, post(map[string]string{"name": args[0]}, "api", "teams"))
		if err != nil {
			return err
		}
		return show(a, doc, func(t teamDoc) { a.record(field{"id", t.ID}, field{"name", t.Name}) })
	})
}

func (a *app) teamAdd() *cobra.Command {
	return a.leaf("add", []string{"TEAM", "USER"}, "Put a user in a team", func(cmd *cobra.Command, args []string) error {
		r := request{method: http.MethodPut, path: memberPath(args)}
		if _, _, err := a.ask(cmd, r); err != nil {
			return err
		}
		return a.done("%s is in team %s", args[1], args[0])
	})
}

func (a *app) teamRemove() *cobra.Command {
	return a.leaf("remove", []string{"TEAM", "USER"}, "Take a user out of a team", func(cmd *cobra.Command, args []string) error {
		if _, _, err := a.ask(cmd, remove(memberPath(args)...)); err != nil {
			return err
		}
		return a.done("%s is no longer in team %s", args[1], args[0])
	})
}

func memberPath(args []string) []string { return []string{"api", "teams", args[0], "members", args[1]} }

func (a *app) teamList() *cobra.Command {
	return a.leaf("list", nil, "List the teams and who is in them", func(cmd *cobra.Command, _ []string) error {
		c, doc, err := a.ask(cmd, get("api", "teams"))
		if err != nil {
			return err
		}
		return showList(a, doc, listing[teamDoc]{
			none:   "no teams yet: mosaic team create NAME",
			header: []string{"ID", "NAME", "MEMBERS", "CREATED"},
			columns: func() func(teamDoc) []string {
				user := c.names(cmd.Context(), "users")
				return func(t teamDoc) []string {
					members := make([]string, len(t.Members))
					for i, id := range t.Members {
						members[i] = user(id)
					}
					return []string{t.ID, t.Name, strings.Join(members, ", "), a.shortTime(&t.CreatedAt)}
				}
			},
		})
	})
}

func (a *app) tokens() *cobra.Command {
	return a.group("token", "Tokens for the HTTP API", a.tokenCreate(), a.tokenList(), a.tokenRevoke())
}

// tokenCreate prints the bare token for a person, so that it can go straight into a file or a variable.
func (a *app) tokenCreate() *cobra.Command {
	var body struct {
		User string `json:"user"`
		TTL  string `json:"ttl,omitempty"`
	}
	cmd := a.leaf("create", nil, "Make a token, which is shown once", func(cmd *cobra.Command, _ []string) error {
		_, doc, err := a.ask(cmd, post(body, "api", "tokens"))
		if err != nil {
			return err
		}
		return show(a, doc, func(t tokenDoc) {
			fmt.Fprintln(&a.out, plain(t.Token))
			a.say("token %s, expires %s; it is not shown again", t.ID, orDash(a.fullTime(t.ExpiresAt)))
		})
	})
	cmd.Flags().StringVar(&body.User, "user", "", "whose token, by id or email")
	cmd.Flags().StringVar(&body.TTL, "ttl", "", "how long it lives, such as 24h or 90d (default 24h)")
	return require(cmd, "user")
}

func (a *app) tokenList() *cobra.Command {
	return a.leaf("list", nil, "List the tokens", func(cmd *cobra.Command, _ []string) error {
		c, doc, err := a.ask(cmd, get("api", "tokens"))
		if err != nil {
			return err
		}
		return showList(a, doc, listing[tokenDoc]{
			none:   "no tokens yet: mosaic token create --user USER",
			header: []string{"ID", "USER", "STATE", "EXPIRES", "LAST USED", "CREATED"},
			columns: func() func(tokenDoc) []string {
				user := c.names(cmd.Context(), "users")
				return func(t tokenDoc) []string {
					return []string{t.ID, user(t.UserID), a.tokenState(t), a.shortTime(t.ExpiresAt), a.shortTime(t.LastUsedAt), a.shortTime(&t.CreatedAt)}
				}
			},
		})
	})
}

func (a *app) tokenState(t tokenDoc) string {
	switch {
	case t.RevokedAt != nil:
		return "revoked"
	case t.ExpiresAt != nil && !a.env.Now().Before(*t.ExpiresAt):
		return "expired"
	}
	return "live"
}

func (a *app) tokenRevoke() *cobra.Command {
	return a.leaf("revoke", []string{"ID"}, "Revoke a token", func(cmd *cobra.Command, args []string) error {
		if _, _, err := a.ask(cmd, remove("api", "tokens", args[0])); err != nil {
			return err
		}
		return a.done("token %s is revoked", args[0])
	})
}
