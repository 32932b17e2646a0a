package httpapi

import (
	"context"
	"encoding/hex"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/account"
	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/page"
	"github.com/mosaicstack/gateway/internal/postgres"
)

// entryBody is an audit row on the wire. Ids that do not apply are null.
type entryBody struct {
	ID             uuid.UUID       `json:"id"`
	RequestID      string          `json:"request_id"`
	Direction      audit.Direction `json:"direction"`
	Actor          string          `json:"actor"`
	PeerID         *uuid.UUID      `json:"peer_id" doc:"null when the peer is gone; peer_ref and peer_name stay"`
	PeerRef        *uuid.UUID      `json:"peer_ref"`
	PeerName       string          `json:"peer_name"`
	GrantID        *uuid.UUID      `json:"grant_id"`
	SubjectUserID  *uuid.UUID      `json:"subject_user_id"`
	Fingerprint    string          `json:"certificate_fingerprint"`
	RemoteAddress  string          `json:"remote_address"`
	Verb           string          `json:"verb"`
	Resource       string          `json:"resource"`
	StatusCode     int             `json:"status_code"`
	Outcome        audit.Outcome   `json:"outcome"`
	DeniedReason   string          `json:"denied_reason"`
	Detail         string          `json:"detail"`
	QueryHash      string          `json:"query_hash"`
	RowsOut        int             `json:"rows_out"`
	BytesOut       int64           `json:"bytes_out"`
	DurationMicros int64           `json:"duration_us"`
	Occurrences    int             `json:"occurrences"`
	CreatedAt      time.Time       `json:"created_at"`
}

func toEntry(e audit.Entry) entryBody {
	return entryBody{
		ID: e.ID, RequestID: e.RequestID, Direction: e.Direction, Actor: e.Actor, PeerID: orNull(e.PeerID), PeerRef: orNull(e.PeerRef),
		PeerName: e.PeerName, GrantID: orNull(e.GrantID), SubjectUserID: orNull(e.SubjectUserID), Fingerprint: hex.EncodeToString(e.Fingerprint),
		RemoteAddress: e.RemoteAddress, Verb: e.Verb, Resource: e.Resource, StatusCode: e.StatusCode, Outcome: e.Outcome, DeniedReason: e.DeniedReason,
		Detail: e.Detail, QueryHash: hex.EncodeToString(e.QueryHash), RowsOut: e.RowsOut, BytesOut: e.BytesOut,
		DurationMicros: e.Duration.Microseconds(), Occurrences: e.Occurrences, CreatedAt: e.CreatedAt,
	}
}

func orNull(id uuid.UUID) *uuid.UUID {
	if id == uuid.Nil {
		return nil
	}
	return &id
}

func (a *api) audit() {
	type auditQuery struct {
		Limit  string `query:"limit"`
		Cursor string `query:"cursor"`
		Peer   string `query:"peer" doc:"id or name"`
		User   string `query:"user" doc:"id or email of the subject"`
	}
	type auditPage struct {
		Data []entryBody `json:"data"`
		Page pageBody    `json:"page"`
	}
	register(a, operation(http.MethodGet, "/api/federation/audit", "audit-list", "List the audit log, newest first", "audit", account.AuditRead),
		func(ctx context.Context, q *auditQuery) (*body[auditPage], error) {
			limit, _, after, binding, err := a.parsePage("audit\x00"+q.Peer+"\x00"+q.User, PageQuery{Limit: q.Limit, Cursor: q.Cursor})
			if err != nil {
				return nil, err
			}
			f := postgres.AuditFilter{Before: after, Limit: limit + 1}
			if q.Peer != "" {
				p, err := a.Peers.Peer(ctx, q.Peer)
				if err != nil {
					return nil, err
				}
				f.PeerID = p.ID
			}
			if q.User != "" {
				u, err := a.Accounts.User(ctx, q.User)
				if err != nil {
					return nil, err
				}
				f.SubjectUserID = u.ID
			}
			entries, err := a.Audit.List(ctx, f)
			if err != nil {
				return nil, err
			}
			o := auditPage{Data: []entryBody{}, Page: pageBody{Limit: limit}}
			if len(entries) > limit {
				entries = entries[:limit]
				last := entries[limit-1]
				cursor, err := a.Cursors.Seal(page.Key{UpdatedAt: last.CreatedAt, ID: last.ID}, binding)
				if err != nil {
					return nil, err
				}
				o.Page.NextCursor = &cursor
			}
			for _, e := range entries {
				o.Data = append(o.Data, toEntry(e))
			}
			return answer(o, nil)
		})
}
