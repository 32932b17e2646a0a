package httpapi

import (
	"context"
	"net/http"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/account"
	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/page"
	"github.com/mosaicstack/gateway/internal/postgres"
)

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
		Data []audit.Row `json:"data"`
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
			o := auditPage{Data: []audit.Row{}, Page: pageBody{Limit: limit}}
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
				o.Data = append(o.Data, e.Row())
			}
			return answer(o, nil)
		})
	a.auditProof()
}
