package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/mosaicstack/gateway/internal/grant"
	"github.com/mosaicstack/gateway/internal/scope"
)

type grantDoc struct {
	ID             string          `json:"id"`
	Peer           string          `json:"peer"`
	SubjectUserID  string          `json:"subject_user_id"`
	Status         string          `json:"status"`
	Scope          json.RawMessage `json:"scope"`
	RatePerMinute  *int            `json:"rate_per_minute"`
	Burst          *int            `json:"burst"`
	RowsPerDay     *int64          `json:"rows_per_day"`
	CacheSeconds   *int            `json:"cache_seconds"`
	ExpiresAt      *time.Time      `json:"expires_at"`
	CreatedAt      time.Time       `json:"created_at"`
	ActivatedAt    *time.Time      `json:"activated_at"`
	ApprovedAt     *time.Time      `json:"approved_at"`
	ApprovalReason string          `json:"approval_reason"`
	RevokedAt      *time.Time      `json:"revoked_at"`
	RevokedReason  string          `json:"revoked_reason"`
}

// needsApproval tells whether the grant waits for an admin. A scope that this program does not know yet is not
// judged by it.
func (g grantDoc) needsApproval() bool {
	s, err := scope.Parse(g.Scope)
	return err == nil && s.Sensitive() && g.ApprovedAt == nil && g.Status == "pending"
}

func (g grantDoc) status() string {
	if g.needsApproval() {
		return g.Status + ", needs approval"
	}
	return g.Status
}

// enrollmentDoc is an enrollment token; the gateway shows it once.
type enrollmentDoc struct {
	URL       string    `json:"url"`
	ExpiresAt time.Time `json:"expires_at"`
}

// issued is a grant with a token that was just made for it; without one when it needs approval first.
type issued struct {
	Grant      grantDoc       `json:"grant"`
	Enrollment *enrollmentDoc `json:"enrollment"`
	Warnings   []struct {
		Path   string `json:"path"`
		Detail string `json:"detail"`
	} `json:"warnings"`
}

func (a *app) grants() *cobra.Command {
	return a.group("grant", "What other gateways may read here",
		a.grantCreate(), a.grantList(), a.grantShow(), a.grantToken(), a.grantApprove(), a.grantRevoke())
}

func (a *app) grantCreate() *cobra.Command {
	var body struct {
		Peer     string          `json:"peer"`
		User     string          `json:"user"`
		Scope    json.RawMessage `json:"scope"`
		Expires  string          `json:"expires,omitempty"`
		TokenTTL string          `json:"token_ttl,omitempty"`
		Rate     string          `json:"rate,omitempty"`
		Burst    *int            `json:"burst,omitempty"`
		RowsADay *int64          `json:"rows_per_day,omitempty"`
		Cache    *int            `json:"cache_seconds,omitempty"`
	}
	var file string
	var burst, cache int
	var rows int64
	cmd := a.leaf("create", nil, "Let a peer read a scope on behalf of a user", func(cmd *cobra.Command, _ []string) error {
		c, err := a.connect(cmd)
		if err != nil {
			return err
		}
		if body.Scope, err = a.scope(cmd, file); err != nil {
			return err
		}
		if cmd.Flags().Changed("burst") {
			body.Burst = &burst
		}
		if cmd.Flags().Changed("rows-per-day") {
			body.RowsADay = &rows
		}
		if cmd.Flags().Changed("cache-seconds") {
			body.Cache = &cache
		}
		doc, err := c.do(cmd.Context(), post(body, "api", "federation", "grants"))
		if err != nil {
			return err
		}
		if made, err := decode[issued](doc); err == nil {
			for _, w := range made.Warnings {
				a.warn("warning: %s: %s", w.Path, w.Detail)
			}
		}
		return show(a, doc, func(made issued) { a.showIssued(cmd, c, made) })
	})
	flags := cmd.Flags()
	flags.StringVar(&body.Peer, "peer", "", "the other gateway, by name; a new name makes a pending peer")
	flags.StringVar(&body.User, "user", "", "the user it speaks for here, by id or email")
	flags.StringVar(&file, "scope", "", "FILE of the scope document, - for stdin")
	flags.StringVar(&body.Expires, "expires", "", "how long the grant lives, such as 30d (default 90d)")
	flags.StringVar(&body.TokenTTL, "token-ttl", "", "how long the enrollment URL lives, 1m to 24h (default 15m)")
	flags.StringVar(&body.Rate, "rate", "", "how many requests, such as 120/min (default 120/min)")
	flags.IntVar(&burst, "burst", 0, "how many requests at once (default 60)")
	flags.Int64Var(&rows, "rows-per-day", 0, "the most rows on a day of UTC (default as many as rate and scope allow)")
	flags.IntVar(&cache, "cache-seconds", 0, "how long the peer may show rows while this gateway is away, 0 to 300; 0: it may keep none (default 300)")
	return require(cmd, "peer", "user", "scope")
}

// scope reads a scope document. The gateway judges it; only what could not even travel inside of a request is
// refused here, by the same rules and in the same words.
func (a *app) scope(cmd *cobra.Command, file string) (json.RawMessage, error) {
	doc, err := a.read(cmd, "--scope", file, scope.MaxDocumentBytes)
	if err != nil {
		return nil, err
	}
	object := bytes.HasPrefix(bytes.TrimSpace(doc), []byte("{"))
	if len(doc) > scope.MaxDocumentBytes || !object || !json.Valid(doc) || !utf8.Valid(doc) {
		_, err := scope.Parse(doc)
		return doc, err
	}
	return doc, nil
}

func (a *app) showIssued(cmd *cobra.Command, c *client, made issued) {
	fields := a.grantFields(cmd.Context(), c, made.Grant)
	if e := made.Enrollment; e != nil {
		fields = append(fields, field{"enrollment", e.URL}, field{"valid", "once, until " + a.fullTime(&e.ExpiresAt)})
	}
	a.record(fields...)
	a.adviseNext(cmd, made)
}

// adviseNext says what has to happen before the other side can ask.
func (a *app) adviseNext(cmd *cobra.Command, made issued) {
	switch {
	case made.Enrollment != nil:
		a.say("hint: on the other gateway: mosaic federation peer add %s --name NAME", quoted(made.Enrollment.URL))
	case made.Grant.needsApproval():
		a.say("The scope holds credentials or API keys: an admin has to approve the grant before it can be enrolled.")
		a.say("hint: mosaic federation grant approve %s --reason REASON%s, then mosaic federation grant token %s%s", made.Grant.ID, here(cmd), made.Grant.ID, here(cmd))
	}
}

// grantFields shows a grant. The user and the teams are shown by the names they have here.
func (a *app) grantFields(ctx context.Context, c *client, g grantDoc) []field {
	fields := []field{
		{"grant", g.ID},
		{"peer", g.Peer},
		{"user", c.names(ctx, "users")(g.SubjectUserID)},
		{"status", g.status()},
		{"opens", strings.Join(explain(ctx, c, g.Scope), "\n")},
		{"rate", rateOf(g)},
		{"created", a.fullTime(&g.CreatedAt)},
		{"expires", "when revoked"},
	}
	if g.ExpiresAt != nil {
		fields[len(fields)-1].value = a.fullTime(g.ExpiresAt)
	}
	if g.CacheSeconds != nil {
		fields = slices.Insert(fields, len(fields)-2, field{"kept", keptFor(*g.CacheSeconds)})
	}
	for _, event := range []struct {
		name, reason string
		at           *time.Time
	}{{"approved", g.ApprovalReason, g.ApprovedAt}, {"activated", "", g.ActivatedAt}, {"revoked", g.RevokedReason, g.RevokedAt}} {
		if event.at != nil {
			fields = append(fields, field{event.name, strings.TrimSuffix(a.fullTime(event.at)+": "+event.reason, ": ")})
		}
	}
	return fields
}

// explain says what a scope opens. One that this program cannot read, of a newer gateway, is shown as it is.
func explain(ctx context.Context, c *client, doc json.RawMessage) []string {
	s, err := scope.Parse(doc)
	if err != nil {
		return []string{string(doc)}
	}
	team := func(id string) string { return id }
	for _, f := range s.Filters {
		if len(f.IncludeTeams) > 0 {
			team = c.names(ctx, "teams")
			break
		}
	}
	return s.Explain(func(id uuid.UUID) string { return team(id.String()) })
}

func (a *app) grantList() *cobra.Command {
	return a.leaf("list", nil, "List the grants, newest first", func(cmd *cobra.Command, _ []string) error {
		c, doc, err := a.ask(cmd, get("api", "federation", "grants"))
		if err != nil {
			return err
		}
		return showList(a, doc, listing[grantDoc]{
			none:   "no grants yet: mosaic federation grant create --peer NAME --user USER --scope FILE",
			header: []string{"ID", "PEER", "USER", "STATUS", "RESOURCES", "EXPIRES", "CREATED"},
			columns: func() func(grantDoc) []string {
				user := c.names(cmd.Context(), "users")
				return func(g grantDoc) []string {
					return []string{g.ID, g.Peer, user(g.SubjectUserID), g.status(), resourcesOf(g.Scope), a.shortTime(g.ExpiresAt), a.shortTime(&g.CreatedAt)}
				}
			},
		})
	})
}

func resourcesOf(doc json.RawMessage) string {
	s, err := decode[struct{ Resources []string }](doc)
	if err != nil {
		return ""
	}
	return strings.Join(s.Resources, ",")
}

func (a *app) grantShow() *cobra.Command {
	return a.leaf("show", []string{"ID"}, "Show a grant and what it opens", func(cmd *cobra.Command, args []string) error {
		c, doc, err := a.ask(cmd, get("api", "federation", "grants", args[0]))
		if err != nil {
			return err
		}
		return show(a, doc, func(g grantDoc) {
			a.record(a.grantFields(cmd.Context(), c, g)...)
			a.adviseNext(cmd, issued{Grant: g})
		})
	})
}

// grantToken prints the bare URL for a person, so that it can go straight into a file.
func (a *app) grantToken() *cobra.Command {
	var body struct {
		TTL string `json:"ttl,omitempty"`
	}
	cmd := a.leaf("token", []string{"ID"}, "Make a further enrollment URL of a grant", func(cmd *cobra.Command, args []string) error {
		_, doc, err := a.ask(cmd, post(body, "api", "federation", "grants", args[0], "token"))
		if err != nil {
			return err
		}
		parts, err := decode[struct{ Enrollment json.RawMessage }](doc)
		if err != nil {
			return err
		}
		return show(a, parts.Enrollment, func(e enrollmentDoc) {
			fmt.Fprintln(&a.out, plain(e.URL))
			a.say("valid once, until %s", a.fullTime(&e.ExpiresAt))
			a.adviseNext(cmd, issued{Enrollment: &e})
		})
	})
	cmd.Flags().StringVar(&body.TTL, "token-ttl", "", "how long the enrollment URL lives, 1m to 24h (default 15m)")
	return cmd
}

func (a *app) grantApprove() *cobra.Command {
	cmd := a.grantChange("approve", "Approve a grant over credentials or API keys", func(cmd *cobra.Command, g grantDoc) {
		a.say("grant %s is approved", g.ID)
		a.say("hint: mosaic federation grant token %s%s", g.ID, here(cmd))
	})
	return require(cmd, "reason")
}

func (a *app) grantRevoke() *cobra.Command {
	return a.grantChange("revoke", "Revoke a grant: in force when this returns, and for good", func(_ *cobra.Command, g grantDoc) {
		a.say("grant %s of peer %s is revoked", g.ID, g.Peer)
	})
}

// grantChange is a command that changes a grant for a reason.
func (a *app) grantChange(verb, short string, human func(*cobra.Command, grantDoc)) *cobra.Command {
	var body struct {
		Reason string `json:"reason,omitempty"`
	}
	cmd := a.leaf(verb, []string{"ID"}, short, func(cmd *cobra.Command, args []string) error {
		_, doc, err := a.ask(cmd, post(body, "api", "federation", "grants", args[0], verb))
		if err != nil {
			return err
		}
		return show(a, doc, func(g grantDoc) { human(cmd, g) })
	})
	cmd.Flags().StringVar(&body.Reason, "reason", "", "why; it is kept with the grant and in the audit log")
	return cmd
}

func rateOf(g grantDoc) string {
	rate := limitText(g.RatePerMinute, g.Burst)
	if rate != "" && g.RowsPerDay != nil {
		rate += fmt.Sprintf(", %d rows a day", *g.RowsPerDay)
	}
	return rate
}

// keptFor says what the peer may keep.
func keptFor(seconds int) string {
	if seconds == 0 {
		return "nothing"
	}
	return fmt.Sprintf("for %d s, shown only while this gateway is away", seconds)
}

// limitText is empty when there is no limit.
func limitText(perMinute, burst *int) string {
	if perMinute == nil || burst == nil {
		return ""
	}
	return grant.Limit{PerMinute: *perMinute, Burst: *burst}.String()
}
