package httpapi

import (
	"context"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/account"
	"github.com/mosaicstack/gateway/internal/edge"
	"github.com/mosaicstack/gateway/internal/grant"
	"github.com/mosaicstack/gateway/internal/peer"
	"github.com/mosaicstack/gateway/internal/postgres"
	"github.com/mosaicstack/gateway/internal/querying"
)

// peerBody is a peer on the wire.
type peerBody struct {
	ID            uuid.UUID        `json:"id"`
	Name          string           `json:"name"`
	DisplayName   string           `json:"display_name"`
	State         peer.State       `json:"state"`
	EndpointURL   string           `json:"endpoint_url" doc:"its federation listener; empty for a peer that only queries us"`
	CAFingerprint string           `json:"ca_fingerprint"`
	RatePerMinute *int             `json:"rate_per_minute" doc:"limit over all of its grants; null without one"`
	Burst         *int             `json:"burst"`
	CreatedAt     time.Time        `json:"created_at"`
	UpdatedAt     time.Time        `json:"updated_at"`
	LastSeenAt    *time.Time       `json:"last_seen_at"`
	RevokedAt     *time.Time       `json:"revoked_at"`
	Grants        int              `json:"grants" doc:"grants of ours it holds, pending or active"`
	Credentials   []credentialBody `json:"credentials" doc:"what we hold at it"`
}

// credentialBody is a credential on the wire, without its key.
type credentialBody struct {
	ID                  uuid.UUID   `json:"id"`
	State               string      `json:"state"`
	RemoteGrantID       *uuid.UUID  `json:"remote_grant_id"`
	RemoteSubjectUserID *uuid.UUID  `json:"remote_subject_user_id"`
	FederationURL       string      `json:"federation_url"`
	SerialNumber        string      `json:"serial_number"`
	NotBefore           *time.Time  `json:"not_before"`
	NotAfter            *time.Time  `json:"not_after"`
	RenewAfter          *time.Time  `json:"renew_after"`
	RenewalError        string      `json:"renewal_error"`
	CreatedAt           time.Time   `json:"created_at"`
	Users               []uuid.UUID `json:"users" doc:"who may ask with it, beside the admin socket"`
	Teams               []uuid.UUID `json:"teams" doc:"whose members may ask with it"`
}

func toCredential(h querying.Held) credentialBody {
	users := make([]uuid.UUID, 0, len(h.Users))
	for _, u := range h.Users {
		users = append(users, u.ID)
	}
	teams := make([]uuid.UUID, 0, len(h.Teams))
	for _, t := range h.Teams {
		teams = append(teams, t.ID)
	}
	return credentialBody{
		ID: h.ID, State: h.State, RemoteGrantID: orNull(h.RemoteGrantID), RemoteSubjectUserID: orNull(h.RemoteSubjectUserID),
		FederationURL: h.FederationURL, SerialNumber: h.Serial, NotBefore: h.NotBefore, NotAfter: h.NotAfter, RenewAfter: h.RenewAfter,
		RenewalError: h.RenewalError, CreatedAt: h.CreatedAt, Users: users, Teams: teams,
	}
}

func toPeer(l postgres.Listing, held []querying.Held) peerBody {
	p := l.Peer
	out := peerBody{
		ID: p.ID, Name: p.Name, DisplayName: p.DisplayName, State: p.State, EndpointURL: p.EndpointURL, CAFingerprint: p.CAFingerprint,
		RatePerMinute: p.RatePerMinute, Burst: p.Burst,
		CreatedAt: p.CreatedAt, UpdatedAt: p.UpdatedAt, LastSeenAt: p.LastSeenAt, RevokedAt: p.RevokedAt, Grants: l.Grants,
		Credentials: make([]credentialBody, 0, len(held)),
	}
	for _, h := range held {
		out.Credentials = append(out.Credentials, toCredential(h))
	}
	return out
}

// PeerRef names a peer in a path.
type PeerRef struct {
	Peer string `path:"peer" doc:"id or name"`
}

func (a *api) peers() {
	register(a, operation(http.MethodGet, "/api/federation/peers", "peer-list", "List peers", "peers", account.PeersRead),
		func(ctx context.Context, _ *struct{}) (*body[list[peerBody]], error) {
			peers, err := a.Peers.Peers(ctx)
			if err != nil {
				return nil, err
			}
			held, err := a.Credentials.ListingByPeer(ctx)
			return listing(peers, err, func(l postgres.Listing) peerBody { return toPeer(l, held[l.ID]) })
		})
	register(a, operation(http.MethodGet, "/api/federation/peers/{peer}", "peer-show", "Show a peer", "peers", account.PeersRead),
		func(ctx context.Context, in *PeerRef) (*body[peerBody], error) { return a.peer(ctx, in.Peer) })

	a.peerAddition()
	for _, t := range []struct {
		name, summary string
		rule          func(peer.State) (peer.State, error)
	}{
		{"suspend", "Suspend a peer: it keeps its grants and is answered nothing", peer.State.Suspend},
		{"resume", "Resume a suspended peer", peer.State.Resume},
		{"revoke", "Revoke a peer for good, with its grants and certificates", peer.State.Revoke},
	} {
		type in struct {
			PeerRef
			Body *reasonBody
		}
		transition := postgres.Transition{Verb: "peer." + t.name, Rule: t.rule}
		register(a, operation(http.MethodPost, "/api/federation/peers/{peer}/"+t.name, "peer-"+t.name, t.summary, "peers", account.PeersWrite),
			func(ctx context.Context, in *in) (*body[peerBody], error) {
				reason, err := in.Body.reason()
				if err != nil {
					return nil, err
				}
				p, err := a.Peers.Change(ctx, in.Peer, transition, reason, actOf(ctx))
				if err != nil {
					return nil, err
				}
				if p.State == peer.Revoked {
					held, err := a.Credentials.Listing(ctx, p.ID)
					if err != nil {
						return nil, err
					}
					a.hangUp(held)
				}
				return a.peer(ctx, p.ID.String())
			})
	}
	op := operation(http.MethodDelete, "/api/federation/peers/{peer}", "peer-remove",
		"Remove a peer with its grants and our credentials at it, which are given back; its audit rows stay", "peers", account.PeersWrite)
	op.DefaultStatus = http.StatusOK
	register(a, op,
		a.removePeer)
	a.peerLimit()
	a.sharing()
	a.peerQueries()
}

// peerLimit sets and lifts the limit over all grants of a peer.
func (a *api) peerLimit() {
	type newLimit struct {
		PeerRef
		Body struct {
			Rate  string `json:"rate" doc:"requests, for example 600/min"`
			Burst *int   `json:"burst,omitempty" doc:"how many requests may come at once; a minute's when left out"`
		}
	}
	const path = "/api/federation/peers/{peer}/limit"
	op := operation(http.MethodPut, path, "peer-limit", "Limit a peer over all of its grants, beside the limit of each", "peers", account.PeersWrite)
	op.DefaultStatus = http.StatusOK
	register(a, op,
		func(ctx context.Context, in *newLimit) (*body[peerBody], error) {
			rate, err := grant.ParseRate(in.Body.Rate)
			if err != nil {
				return nil, err
			}
			l := grant.Limit{PerMinute: rate, Burst: rate}
			if in.Body.Burst != nil {
				l.Burst = *in.Body.Burst
			}
			if err := grant.CheckBurst(l.Burst); err != nil {
				return nil, err
			}
			if err := a.Peers.SetLimit(ctx, in.Peer, &l, actOf(ctx)); err != nil {
				return nil, err
			}
			return a.peer(ctx, in.Peer)
		})
	op = operation(http.MethodDelete, path, "peer-unlimit", "Lift the limit over all grants of a peer; that of each grant stays", "peers", account.PeersWrite)
	op.DefaultStatus = http.StatusOK
	register(a, op, func(ctx context.Context, in *PeerRef) (*body[peerBody], error) {
		if err := a.Peers.SetLimit(ctx, in.Peer, nil, actOf(ctx)); err != nil {
			return nil, err
		}
		return a.peer(ctx, in.Peer)
	})
}

// sharing says who may ask a peer: the users and teams that an admin names.
func (a *api) sharing() {
	type user struct {
		PeerRef
		UserRef
		Credential uuid.UUID `query:"credential" doc:"which one, when the peer has given more than one grant"`
	}
	type team struct {
		PeerRef
		TeamRef
		Credential uuid.UUID `query:"credential" doc:"which one, when the peer has given more than one grant"`
	}
	for _, how := range []struct {
		method, verb, users, teams string
	}{
		{http.MethodPut, "share", "Let a user ask a peer", "Let the members of a team ask a peer"},
		{http.MethodDelete, "unshare", "Let a user no longer ask a peer", "Let the members of a team no longer ask a peer"},
	} {
		op := operation(how.method, "/api/federation/peers/{peer}/users/{user}", "peer-"+how.verb+"-user", how.users, "peers", account.PeersWrite)
		op.DefaultStatus = http.StatusNoContent
		register(a, op, func(ctx context.Context, in *user) (*empty, error) {
			return nil, a.Credentials.Share(ctx, postgres.Share{
				Peer: in.Peer, Credential: in.Credential, User: in.User, Revoked: how.verb == "unshare",
			}, actOf(ctx))
		})
		op = operation(how.method, "/api/federation/peers/{peer}/teams/{team}", "peer-"+how.verb+"-team", how.teams, "peers", account.PeersWrite)
		op.DefaultStatus = http.StatusNoContent
		register(a, op, func(ctx context.Context, in *team) (*empty, error) {
			return nil, a.Credentials.Share(ctx, postgres.Share{
				Peer: in.Peer, Credential: in.Credential, Team: in.Team, Revoked: how.verb == "unshare",
			}, actOf(ctx))
		})
	}
}

// removedBody says what became of the grants that the peer had given us.
type removedBody struct {
	OK     bool              `json:"ok"`
	HungUp []querying.HungUp `json:"hung_up"`
}

// removePeer gives our grants at the peer back while there is still a key to do it with, and then forgets the peer.
func (a *api) removePeer(ctx context.Context, in *PeerRef) (*body[removedBody], error) {
	p, err := a.Peers.Peer(ctx, in.Peer)
	if err != nil {
		return nil, err
	}
	held, err := a.Credentials.Listing(ctx, p.ID)
	if err != nil {
		return nil, err
	}
	active, err := a.Credentials.Active(ctx, p.ID)
	if err != nil {
		return nil, err
	}
	out := removedBody{OK: true, HungUp: a.Querying.HangUp(ctx, CallerOf(ctx), active)}
	if err := a.Peers.Remove(ctx, p.ID.String(), actOf(ctx)); err != nil {
		return nil, err
	}
	a.hangUp(held)
	return answer(out, nil)
}

// hangUp closes the connections of credentials that are not used any more.
func (a *api) hangUp(held []querying.Held) {
	for _, h := range held {
		a.Querying.Client.Forget(h.ID)
	}
}

func (a *api) peer(ctx context.Context, ref string) (*body[peerBody], error) {
	l, err := a.Peers.Show(ctx, ref)
	if err != nil {
		return nil, err
	}
	held, err := a.Credentials.Listing(ctx, l.ID)
	return answer(toPeer(l, held), err)
}

func (a *api) peerAddition() {
	type peerAddRequest struct {
		Body struct {
			EnrollmentURL string `json:"enrollment_url" doc:"as the other gateway's admin gave it, with its ?ca="`
			Name          string `json:"name,omitempty" doc:"what to call the peer here; made of the URL's host when left out"`
			User          string `json:"user,omitempty" doc:"id or email of the user who may ask with it; the admin socket alone when left out"`
			ReplaceCA     bool   `json:"replace_ca,omitempty" doc:"let the URL's CA take the place of the one that the peer is known with, for all that is held at it; compare the fingerprint with its admin first"`
		}
	}
	type peerAdded struct {
		Peer       peerBody       `json:"peer"`
		Credential credentialBody `json:"credential"`
	}
	register(a, created(operation(http.MethodPost, "/api/federation/peers", "peer-add",
		"Redeem an enrollment URL of another gateway, and hold the credential it gives", "peers", account.PeersWrite)),
		func(ctx context.Context, in *peerAddRequest) (*body[peerAdded], error) {
			added, err := a.Adder.AddPeer(ctx, querying.AddRequest{
				EnrollmentURL: in.Body.EnrollmentURL, Name: in.Body.Name, User: in.Body.User, ReplaceCA: in.Body.ReplaceCA, Act: actOf(ctx),
			})
			if err != nil {
				return nil, err
			}
			p, err := a.peer(ctx, added.Peer.ID.String())
			if err != nil {
				return nil, err
			}
			return answer(peerAdded{Peer: p.Body, Credential: toCredential(added.Credential)}, nil)
		})
}

func (a *api) peerQueries() {
	type listRows struct {
		PeerRef
		ResourceRef
		PageQuery
	}
	register(a, operation(http.MethodGet, "/api/federation/peers/{peer}/resources/{resource}", "peer-query-list",
		"Ask a peer for rows", "querying", account.PeersQuery),
		func(ctx context.Context, in *listRows) (*body[querying.Page], error) {
			return answer(a.Querying.List(ctx, CallerOf(ctx), in.Peer, in.Resource,
				querying.ListParams{Limit: in.Limit, Cursor: in.Cursor, UpdatedSince: in.Since}))
		})
	register(a, operation(http.MethodGet, "/api/federation/peers/{peer}/capabilities", "peer-capabilities",
		"Ask a peer what its grant covers; of its answer, the fields that are known here", "querying", account.PeersQuery),
		func(ctx context.Context, in *PeerRef) (*body[querying.Covers], error) {
			return answer(a.Querying.Covers(ctx, CallerOf(ctx), in.Peer))
		})
	type search struct {
		PeerRef
		ResourceRef
		RawBody []byte `contentType:"application/json"`
	}
	register(a, searching(operation(http.MethodPost, "/api/federation/peers/{peer}/resources/{resource}/search", "peer-query-search",
		"Ask a peer for the rows that fit a query best", "querying", account.PeersQuery)),
		func(ctx context.Context, in *search) (*body[querying.Page], error) {
			return answer(a.Querying.Search(ctx, CallerOf(ctx), in.Peer, in.Resource, in.RawBody))
		})
	type get struct {
		PeerRef
		ResourceRef
		ID string `path:"id"`
	}
	register(a, operation(http.MethodGet, "/api/federation/peers/{peer}/resources/{resource}/{id}", "peer-query-get",
		"Ask a peer for one row", "querying", account.PeersQuery),
		func(ctx context.Context, in *get) (*body[querying.Row], error) {
			return answer(a.Querying.Get(ctx, CallerOf(ctx), in.Peer, in.Resource, in.ID))
		})
}

// across asks many sources at once; the own rows are one, and where there is no federation the only one.
func (a *api) across() {
	type across struct {
		ResourceRef
		PageQuery
		Peers string `query:"peers" doc:"names or ids separated by commas, or all, which is also the default"`
		Local string `query:"include_local" doc:"true adds the rows of this gateway that you can see, as the source local"`
	}
	register(a, operation(http.MethodGet, "/api/federation/resources/{resource}", "federated-list",
		"Ask many peers at once for rows, newest first; every source has a status", "querying", account.PeersQuery),
		func(ctx context.Context, in *across) (*body[querying.Page], error) {
			from, err := querying.ParseSources(in.Peers, in.Local)
			if err != nil {
				return nil, err
			}
			return answer(a.Querying.ListAcross(ctx, CallerOf(ctx), in.Resource, from,
				querying.ListParams{Limit: in.Limit, Cursor: in.Cursor, UpdatedSince: in.Since}))
		})
	type searchAcross struct {
		ResourceRef
		Peers   string `query:"peers" doc:"names or ids separated by commas, or all, which is also the default"`
		Local   string `query:"include_local" doc:"true adds the rows of this gateway that you can see, as the source local"`
		RawBody []byte `contentType:"application/json"`
	}
	register(a, searching(operation(http.MethodPost, "/api/federation/resources/{resource}/search", "federated-search",
		"Ask many peers at once for the rows that fit a query best; every source has a status", "querying", account.PeersQuery)),
		func(ctx context.Context, in *searchAcross) (*body[querying.Page], error) {
			from, err := querying.ParseSources(in.Peers, in.Local)
			if err != nil {
				return nil, err
			}
			return answer(a.Querying.SearchAcross(ctx, CallerOf(ctx), in.Resource, from, in.RawBody))
		})
}

// CallerOf is on whose behalf a peer is asked: the user acted for, the user, or the bare admin socket.
func CallerOf(ctx context.Context) querying.Caller {
	p := principalOf(ctx)
	c := querying.Caller{RequestID: edge.RequestID(ctx), Actor: p.Name(), Traceparent: edge.Traceparent(ctx)}
	if u := p.Subject(); u != nil {
		c.UserID = u.ID
	}
	return c
}
