package cli

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

type peerDoc struct {
	ID            string          `json:"id"`
	Name          string          `json:"name"`
	DisplayName   string          `json:"display_name"`
	State         string          `json:"state"`
	EndpointURL   string          `json:"endpoint_url"`
	CAFingerprint string          `json:"ca_fingerprint"`
	RatePerMinute *int            `json:"rate_per_minute"`
	Burst         *int            `json:"burst"`
	CreatedAt     time.Time       `json:"created_at"`
	LastSeenAt    *time.Time      `json:"last_seen_at"`
	RevokedAt     *time.Time      `json:"revoked_at"`
	Grants        int             `json:"grants"`
	Credentials   []credentialDoc `json:"credentials"`
}

// credentialDoc is what lets this gateway query a peer.
type credentialDoc struct {
	ID                  string     `json:"id"`
	State               string     `json:"state"`
	RemoteGrantID       string     `json:"remote_grant_id"`
	RemoteSubjectUserID string     `json:"remote_subject_user_id"`
	FederationURL       string     `json:"federation_url"`
	NotAfter            *time.Time `json:"not_after"` // none yet while it is being made
	RenewalError        string     `json:"renewal_error"`
	Users               []string   `json:"users"` // who may ask with it, beside the operator
	Teams               []string   `json:"teams"` // whose members may
}

// addedDoc is what redeeming an enrollment URL gave.
type addedDoc struct {
	Peer       peerDoc       `json:"peer"`
	Credential credentialDoc `json:"credential"`
}

func (a *app) federation() *cobra.Command {
	return a.group("federation", "Other gateways: what they may read here, and what we ask there",
		a.grants(), a.peers(), a.query(), a.audit())
}

func (a *app) peers() *cobra.Command {
	return a.group("peer", "The gateways that are known here",
		a.peerList(), a.peerShow(), a.peerAdd(),
		a.peerChange("suspend", "Stop answering a peer, until it is resumed", "suspended"),
		a.peerChange("resume", "Answer a suspended peer again", "active again"),
		a.peerChange("revoke", "Revoke a peer for good, with all of its grants", "revoked"),
		a.peerShare("share", "Let a user, or the members of a team, ask a peer", http.MethodPut, "%s may ask %s"),
		a.peerShare("unshare", "Let a user, or the members of a team, no longer ask a peer", http.MethodDelete, "%s may no longer ask %s"),
		a.peerLimit(), a.peerRemove())
}

func (a *app) peerLimit() *cobra.Command {
	var body struct {
		Rate  string `json:"rate"`
		Burst *int   `json:"burst,omitempty"`
	}
	var burst int
	var none bool
	cmd := a.leaf("limit", []string{"PEER"}, "Limit a peer over all of its grants, or lift that limit", func(cmd *cobra.Command, args []string) error {
		if none == (body.Rate != "") {
			return misuse(cmd, "limit takes --rate or --none, one of them")
		}
		if cmd.Flags().Changed("burst") {
			body.Burst = &burst
		}
		r := request{method: http.MethodPut, path: []string{"api", "federation", "peers", args[0], "limit"}, body: body}
		if none {
			r = remove(r.path...)
		}
		_, doc, err := a.ask(cmd, r)
		if err != nil {
			return err
		}
		return show(a, doc, func(p peerDoc) {
			if text := limitText(p.RatePerMinute, p.Burst); text != "" {
				a.say("peer %s: %s over all of its grants", p.Name, text)
			} else {
				a.say("peer %s is limited by its grants alone", p.Name)
			}
		})
	})
	flags := cmd.Flags()
	flags.StringVar(&body.Rate, "rate", "", "how many requests, such as 600/min")
	flags.IntVar(&burst, "burst", 0, "how many requests at once (default a minute's)")
	flags.BoolVar(&none, "none", false, "lift the limit; that of each grant stays")
	return cmd
}

func (a *app) peerShare(verb, short, method, done string) *cobra.Command {
	var user, team, credential string
	cmd := a.leaf(verb, []string{"PEER"}, short, func(cmd *cobra.Command, args []string) error {
		kind, who := "users", user
		switch {
		case (user == "") == (team == ""):
			return misuse(cmd, "%s takes --user or --team, one of them", verb)
		case team != "":
			kind, who = "teams", team
		}
		r := request{method: method, path: []string{"api", "federation", "peers", args[0], kind, who}}
		if credential != "" {
			r.query = url.Values{"credential": {credential}}
		}
		if _, _, err := a.ask(cmd, r); err != nil {
			return err
		}
		return a.done(done, who, args[0])
	})
	cmd.Flags().StringVar(&user, "user", "", "who, by id or email")
	cmd.Flags().StringVar(&team, "team", "", "whose members, by id or name")
	cmd.Flags().StringVar(&credential, "credential", "", "which one, when the peer has given more than one grant")
	return cmd
}

func (a *app) peerList() *cobra.Command {
	return a.leaf("list", nil, "List the peers", func(cmd *cobra.Command, _ []string) error {
		_, doc, err := a.ask(cmd, get("api", "federation", "peers"))
		if err != nil {
			return err
		}
		return showList(a, doc, listing[peerDoc]{
			none:   "no peers yet: mosaic federation grant create lets one read here, mosaic federation peer add lets us read there",
			header: []string{"ID", "NAME", "STATE", "GRANTS", "CREDENTIALS", "ENDPOINT", "LAST SEEN"},
			columns: func() func(peerDoc) []string {
				return func(p peerDoc) []string {
					return []string{p.ID, p.Name, p.State, fmt.Sprint(p.Grants), a.credentialsOf(p), p.EndpointURL, a.shortTime(p.LastSeenAt)}
				}
			},
		})
	})
}

// credentialsOf sums up the credentials in one cell: how they stand, and when they end.
func (a *app) credentialsOf(p peerDoc) string {
	var parts []string
	for _, c := range p.Credentials {
		part := c.State
		switch {
		case c.NotAfter == nil:
		case c.NotAfter.Before(a.env.Now()):
			part += ", expired " + a.shortTime(c.NotAfter)
		default:
			part += ", expires " + a.shortTime(c.NotAfter)
		}
		if c.RenewalError != "" {
			part += ", renewal fails"
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, "; ")
}

func (a *app) peerShow() *cobra.Command {
	return a.leaf("show", []string{"PEER"}, "Show a peer", func(cmd *cobra.Command, args []string) error {
		c, doc, err := a.ask(cmd, get("api", "federation", "peers", args[0]))
		if err != nil {
			return err
		}
		return show(a, doc, func(p peerDoc) {
			fields := []field{
				{"id", p.ID},
				{"name", p.Name},
				{"display name", p.DisplayName},
				{"state", p.State},
				{"endpoint", p.EndpointURL},
				{"CA fingerprint", p.CAFingerprint},
				{"grants", fmt.Sprint(p.Grants)},
				{"created", a.fullTime(&p.CreatedAt)},
				{"last seen", a.fullTime(p.LastSeenAt)},
			}
			if rate := limitText(p.RatePerMinute, p.Burst); rate != "" {
				fields = append(fields, field{"rate", rate})
			}
			if p.RevokedAt != nil {
				fields = append(fields, field{"revoked", a.fullTime(p.RevokedAt)})
			}
			for _, held := range p.Credentials {
				fields = append(fields, field{"credential", a.credentialText(cmd.Context(), c, held)})
			}
			a.record(fields...)
		})
	})
}

func (a *app) credentialText(ctx context.Context, c *client, held credentialDoc) string {
	users := []string{"the operator alone"}
	if len(held.Users)+len(held.Teams) > 0 {
		user, team := c.names(ctx, "users"), c.names(ctx, "teams")
		users = users[:0]
		for _, id := range held.Users {
			users = append(users, user(id))
		}
		for _, id := range held.Teams {
			users = append(users, "team "+team(id))
		}
	}
	lines := []string{
		held.ID + " (" + held.State + ")",
		"their grant " + held.RemoteGrantID,
		"their user " + held.RemoteSubjectUserID,
		"asked at " + held.FederationURL,
		"used by " + strings.Join(users, ", "),
		"until " + orDash(a.fullTime(held.NotAfter)),
	}
	if held.RenewalError != "" {
		lines = append(lines, "renewal fails: "+held.RenewalError)
	}
	return strings.Join(lines, "\n")
}

func (a *app) peerAdd() *cobra.Command {
	var body struct {
		URL  string `json:"enrollment_url"`
		Name string `json:"name,omitempty"`
		User string `json:"user,omitempty"`
		Roll bool   `json:"replace_ca,omitempty"`
	}
	cmd := a.leaf("add", []string{"ENROLLMENT_URL"}, "Redeem an enrollment URL (- reads it from stdin, or name a file), so that the peer can be queried",
		func(cmd *cobra.Command, args []string) error {
			c, err := a.connect(cmd)
			if err != nil {
				return err
			}
			body.URL, err = a.secret(cmd, secretSource{
				name: "ENROLLMENT_URL", kind: "an enrollment URL", value: args[0],
				literal: func(v string) bool { return strings.Contains(v, "://") },
			})
			if err != nil {
				return err
			}
			doc, err := c.do(cmd.Context(), post(body, "api", "federation", "peers"))
			if err != nil {
				return err
			}
			return show(a, doc, func(added addedDoc) {
				a.record(
					field{"peer", added.Peer.Name},
					field{"state", added.Peer.State},
					field{"credential", a.credentialText(cmd.Context(), c, added.Credential)},
				)
				a.say("hint: ask it: mosaic federation query %s tasks%s", quoted(added.Peer.Name), given(cmd, "dir", "url", "user"))
			})
		})
	cmd.Flags().StringVar(&body.Name, "name", "", "what the peer is called here (default: what it calls itself)")
	cmd.Flags().StringVar(&body.User, "user", "", "the only user here who may ask it, by id or email")
	cmd.Flags().BoolVar(&body.Roll, "replace-ca", false, "the peer has rolled its root over: believe it by the URL's CA alone from now on (compare the fingerprint with its admin first)")
	return cmd
}

func (a *app) peerChange(verb, short, now string) *cobra.Command {
	var body struct {
		Reason string `json:"reason,omitempty"`
	}
	cmd := a.leaf(verb, []string{"PEER"}, short, func(cmd *cobra.Command, args []string) error {
		_, doc, err := a.ask(cmd, post(body, "api", "federation", "peers", args[0], verb))
		if err != nil {
			return err
		}
		return show(a, doc, func(p peerDoc) { a.say("peer %s is %s", p.Name, now) })
	})
	cmd.Flags().StringVar(&body.Reason, "reason", "", "why; it is kept in the audit log")
	return cmd
}

func (a *app) peerRemove() *cobra.Command {
	return a.leaf("remove", []string{"PEER"}, "Remove a peer with its grants, and give back those it gave us; its audit rows stay", func(cmd *cobra.Command, args []string) error {
		_, doc, err := a.ask(cmd, remove("api", "federation", "peers", args[0]))
		if err != nil {
			return err
		}
		type removed struct {
			HungUp []struct {
				GrantID string `json:"grant_id"`
				Told    bool   `json:"told"`
				Detail  string `json:"detail"`
			} `json:"hung_up"`
		}
		return show(a, doc, func(r removed) {
			a.say("peer %s is removed", args[0])
			for _, h := range r.HungUp {
				if h.Told {
					a.say("its grant %s was given back", plain(h.GrantID))
				} else {
					a.say("its grant %s could not be given back: %s", plain(h.GrantID), plain(h.Detail))
				}
			}
		})
	})
}
