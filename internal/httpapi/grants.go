package httpapi

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/account"
	"github.com/mosaicstack/gateway/internal/enroll"
	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/grant"
	"github.com/mosaicstack/gateway/internal/peer"
	"github.com/mosaicstack/gateway/internal/postgres"
	"github.com/mosaicstack/gateway/internal/scope"
	"github.com/mosaicstack/gateway/internal/scope/strictjson"
)

// grantBody is a grant on the wire. Its status is the one in force now.
type grantBody struct {
	ID             uuid.UUID       `json:"id"`
	PeerID         uuid.UUID       `json:"peer_id"`
	Peer           string          `json:"peer"`
	SubjectUserID  uuid.UUID       `json:"subject_user_id"`
	Status         grant.Status    `json:"status"`
	Scope          json.RawMessage `json:"scope"`
	RatePerMinute  int             `json:"rate_per_minute"`
	Burst          int             `json:"burst"`
	RowsPerDay     *int64          `json:"rows_per_day" doc:"the most rows it gives on a day of UTC; null without a budget"`
	CacheSeconds   int             `json:"cache_seconds" doc:"how long the peer may show rows while this gateway cannot be asked; 0: it may keep none"`
	ExpiresAt      *time.Time      `json:"expires_at"`
	ApprovedBy     *uuid.UUID      `json:"approved_by"`
	ApprovedAt     *time.Time      `json:"approved_at"`
	ApprovalReason string          `json:"approval_reason"`
	CreatedAt      time.Time       `json:"created_at"`
	UpdatedAt      time.Time       `json:"updated_at"`
	ActivatedAt    *time.Time      `json:"activated_at"`
	RevokedAt      *time.Time      `json:"revoked_at"`
	RevokedReason  string          `json:"revoked_reason"`
	Version        int64           `json:"version"`
}

func (a *api) toGrant(g grant.Grant) grantBody {
	doc, err := json.Marshal(g.Scope)
	if err != nil {
		doc = []byte("null")
	}
	limit := g.Limit()
	return grantBody{
		ID: g.ID, PeerID: g.PeerID, Peer: g.Peer, SubjectUserID: g.SubjectUserID, Status: g.EffectiveStatus(a.Now()), Scope: doc,
		RatePerMinute: limit.PerMinute, Burst: limit.Burst, RowsPerDay: g.RowsPerDay, CacheSeconds: g.CacheSeconds, ExpiresAt: g.ExpiresAt, ApprovedBy: g.ApprovedBy, ApprovedAt: g.ApprovedAt,
		ApprovalReason: g.ApprovalReason, CreatedAt: g.CreatedAt, UpdatedAt: g.UpdatedAt, ActivatedAt: g.ActivatedAt,
		RevokedAt: g.RevokedAt, RevokedReason: g.RevokedReason, Version: g.Version,
	}
}

// enrollmentBody is an enrollment token on the wire. It is there once, when it is made.
type enrollmentBody struct {
	URL           string    `json:"url"`
	Token         string    `json:"token"`
	ExpiresAt     time.Time `json:"expires_at"`
	CAFingerprint string    `json:"ca_fingerprint" doc:"SHA-256 of the CA root's DER, in hex"`
}

// grantAndEnrollment answers creation and token requests. Enrollment is null for a grant that needs approval.
type grantAndEnrollment struct {
	Grant      grantBody       `json:"grant"`
	Enrollment *enrollmentBody `json:"enrollment"`
	Warnings   []fault.Problem `json:"warnings" doc:"What was accepted and is perhaps not what was meant, with its path in the scope document"`
}

// GrantRef names a grant in a path.
type GrantRef struct {
	Grant string `path:"id" doc:"id of a grant"`
}

func (r GrantRef) id() (uuid.UUID, error) {
	return parseID(r.Grant, postgres.ErrGrantNotFound, "grant")
}

// parseID reads an id in a path. What cannot be one names nothing, and is answered for like an id that nothing has:
// the answer says where the ids are listed.
func parseID(s string, unknown *fault.Fault, of string) (uuid.UUID, error) {
	if id, err := uuid.Parse(s); err == nil && len(s) == 36 {
		return id, nil
	}
	return uuid.Nil, unknown.With("there is no %s %s", of, strictjson.Quote(s))
}

// reasonBody is the optional body of what an admin does for a reason.
type reasonBody struct {
	Reason string `json:"reason,omitempty"`
}

func (b *reasonBody) reason() (string, error) {
	if b == nil {
		return "", nil
	}
	return grant.ParseReason(b.Reason)
}

// withReason names a grant and says why.
type withReason struct {
	GrantRef
	Body *reasonBody
}

func (w withReason) read() (id uuid.UUID, reason string, err error) {
	if id, err = w.id(); err == nil {
		reason, err = w.Body.reason()
	}
	return id, reason, err
}

func (a *api) grants() {
	a.grantCreation()
	register(a, operation(http.MethodGet, "/api/federation/grants", "grant-list", "List grants, newest first", "grants", account.GrantsRead),
		func(ctx context.Context, _ *struct{}) (*body[list[grantBody]], error) {
			grants, err := a.Grants.Grants(ctx)
			return listing(grants, err, a.toGrant)
		})
	register(a, operation(http.MethodGet, "/api/federation/grants/{id}", "grant-show", "Show a grant", "grants", account.GrantsRead),
		func(ctx context.Context, in *GrantRef) (*body[grantBody], error) {
			id, err := in.id()
			if err != nil {
				return nil, err
			}
			g, err := a.Grants.Grant(ctx, id)
			return answer(a.toGrant(g), err)
		})
	register(a, operation(http.MethodPost, "/api/federation/grants/{id}/approve", "grant-approve", "Approve a grant over sensitive resources", "grants", account.GrantsWrite),
		func(ctx context.Context, in *withReason) (*body[grantBody], error) {
			id, reason, err := in.read()
			if err != nil {
				return nil, err
			}
			g, err := a.Grants.Approve(ctx, id, reason, actOf(ctx))
			if err == nil {
				a.warnSensitive(ctx, "sensitive grant approved", g)
			}
			return answer(a.toGrant(g), err)
		})
	register(a, operation(http.MethodPost, "/api/federation/grants/{id}/revoke", "grant-revoke",
		"Revoke a grant: in force for every request that starts after this has answered", "grants", account.GrantsWrite),
		func(ctx context.Context, in *withReason) (*body[grantBody], error) {
			id, reason, err := in.read()
			if err != nil {
				return nil, err
			}
			g, err := a.Grants.Revoke(ctx, id, reason, actOf(ctx))
			return answer(a.toGrant(g), err)
		})
}

func (a *api) grantCreation() {
	type newGrantRequest struct {
		Body struct {
			Peer     string          `json:"peer" doc:"name of the peer; a new name makes a pending peer"`
			User     string          `json:"user" doc:"id or email of the user it speaks for"`
			Scope    json.RawMessage `json:"scope" doc:"the scope document"`
			Expires  *string         `json:"expires,omitempty" doc:"how long the grant lives, for example 30d; 90d when left out"`
			TokenTTL string          `json:"token_ttl,omitempty" doc:"how long the enrollment URL lives: 1m to 24h, 15m when left out"`
			Rate     string          `json:"rate,omitempty" doc:"requests, for example 120/min"`
			Burst    *int            `json:"burst,omitempty" doc:"how many requests may come at once"`
			RowsADay *int64          `json:"rows_per_day,omitempty" doc:"the most rows it gives on a day of UTC; no such budget when left out"`
			Cache    *int            `json:"cache_seconds,omitempty" doc:"how long the peer may show rows while this gateway cannot be asked: 0 to 300, 300 when left out"`
		}
	}
	op := created(operation(http.MethodPost, "/api/federation/grants", "grant-create", "Grant a peer a scope on behalf of a user", "grants", account.GrantsWrite))
	op.MaxBodyBytes = scope.MaxDocumentBytes + maxBody
	register(a, op, func(ctx context.Context, in *newGrantRequest) (*body[grantAndEnrollment], error) {
		n := postgres.NewGrant{SubjectUser: in.Body.User, Burst: in.Body.Burst, RowsPerDay: in.Body.RowsADay, CacheSeconds: in.Body.Cache}
		var err error
		if n.PeerName, err = peer.ParseName(in.Body.Peer); err != nil {
			return nil, err
		}
		// The document as it was sent: a decoded one has lost its repeated keys and number forms.
		if n.Scope, err = scope.Parse(in.Body.Scope); err != nil {
			return nil, err
		}
		n.TTL = defaultGrantTTL
		if in.Body.Expires != nil {
			if n.TTL, err = grant.ParseTTL(*in.Body.Expires); err != nil {
				return nil, err
			}
		}
		if in.Body.Rate != "" {
			rate, err := grant.ParseRate(in.Body.Rate)
			if err != nil {
				return nil, err
			}
			n.RatePerMinute = &rate
		}
		if n.Burst != nil {
			if err := grant.CheckBurst(*n.Burst); err != nil {
				return nil, err
			}
		}
		if n.RowsPerDay != nil {
			if err := grant.CheckRowsPerDay(*n.RowsPerDay); err != nil {
				return nil, err
			}
		}
		if n.CacheSeconds != nil {
			if err := grant.CheckCacheSeconds(*n.CacheSeconds); err != nil {
				return nil, err
			}
		}
		warnings, err := a.unknownTeams(ctx, n.Scope)
		if err != nil {
			return nil, err
		}
		if n.TTL < grant.Enrollable {
			warnings = append(warnings, fault.Problem{Path: "expires", Detail: "the grant ends before anybody can enrol: no certificate lives for less than a minute"})
		}
		token, stored, err := newEnrollment(in.Body.TokenTTL)
		if err != nil {
			return nil, err
		}
		g, expires, err := a.Grants.CreateGrant(ctx, n, stored, actOf(ctx))
		if err != nil {
			return nil, err
		}
		out := grantAndEnrollment{Grant: a.toGrant(g), Warnings: warnings}
		if expires == nil {
			a.warnSensitive(ctx, "sensitive grant created", g)
			return answer(out, nil)
		}
		out.Enrollment, err = a.enrollmentFor(ctx, token, *expires)
		return answer(out, err)
	})
	type newEnrollmentRequest struct {
		GrantRef
		Body *struct {
			TTL string `json:"ttl,omitempty" doc:"1m to 24h, 15m when left out"`
		}
	}
	register(a, created(operation(http.MethodPost, "/api/federation/grants/{id}/token", "grant-token", "Make a further enrollment URL of a grant", "grants", account.GrantsWrite)),
		func(ctx context.Context, in *newEnrollmentRequest) (*body[grantAndEnrollment], error) {
			id, err := in.id()
			if err != nil {
				return nil, err
			}
			ttl := ""
			if in.Body != nil {
				ttl = in.Body.TTL
			}
			token, stored, err := newEnrollment(ttl)
			if err != nil {
				return nil, err
			}
			g, expires, err := a.Grants.IssueToken(ctx, id, stored, actOf(ctx))
			if err != nil {
				return nil, err
			}
			e, err := a.enrollmentFor(ctx, token, expires)
			return answer(grantAndEnrollment{Grant: a.toGrant(g), Enrollment: e, Warnings: []fault.Problem{}}, err)
		})
}

// unknownTeams warns of teams that this gateway does not have. Their ids are accepted: they open nothing, and a scope
// may be older than the team's removal.
func (a *api) unknownTeams(ctx context.Context, s scope.Scope) ([]fault.Problem, error) {
	warnings := []fault.Problem{}
	for _, r := range s.Resources {
		teams := s.Filter(r).IncludeTeams
		unknown, err := a.Accounts.UnknownTeams(ctx, teams)
		if err != nil {
			return nil, err
		}
		for _, id := range unknown {
			path := strictjson.Index("filters."+string(r)+".include_teams", slices.Index(teams, id))
			warnings = append(warnings, fault.Problem{Path: path, Detail: "there is no team " + id.String() + " here: it opens nothing (mosaic team list)"})
		}
	}
	return warnings, nil
}

// defaultGrantTTL ends a grant that nobody gave an end: a forgotten promise must not last for ever.
const defaultGrantTTL = 90 * 24 * time.Hour

func newEnrollment(ttl string) (string, postgres.NewToken, error) {
	life, err := grant.ParseTokenTTL(ttl)
	if err != nil {
		return "", postgres.NewToken{}, err
	}
	token, hash, err := enroll.NewToken(rand.Reader)
	return token, postgres.NewToken{Hash: hash, TTL: life}, err
}

// enrollmentFor writes the URL that the other side is given. The fingerprint in it is how the other side knows
// that it talks to this gateway's CA.
func (a *api) enrollmentFor(ctx context.Context, token string, expires time.Time) (*enrollmentBody, error) {
	fingerprint, err := a.CAFingerprint(ctx)
	if err != nil {
		return nil, err
	}
	u := strings.TrimSuffix(a.PublicURL, "/") + "/api/federation/enrollment/" + token + "?" + url.Values{"ca": {fingerprint}}.Encode()
	return &enrollmentBody{URL: u, Token: token, ExpiresAt: expires, CAFingerprint: fingerprint}, nil
}

func (a *api) warnSensitive(ctx context.Context, msg string, g grant.Grant) {
	a.Log.WarnContext(ctx, msg, "grant_id", g.ID, "peer", g.Peer, "subject_user_id", g.SubjectUserID, "actor", actOf(ctx).Actor)
}
