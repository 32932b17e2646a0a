package httpapi

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"golang.org/x/sys/unix"

	"github.com/mosaicstack/gateway/internal/account"
	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/edge"
	"github.com/mosaicstack/gateway/internal/fault"
)

// HeaderActFor names the user an administrator asks as. Both are in the audit log.
const HeaderActFor = "Mosaic-Act-For"

type principalKey struct{}

func principalOf(ctx context.Context) account.Principal {
	p, _ := ctx.Value(principalKey{}).(account.Principal)
	return p
}

type socketUIDKey struct{}

// SocketContext is the ConnContext of the admin socket's server: it notes which uid is at the other end
// (SO_PEERCRED, unix(7)), so that the audit log can say so.
func SocketContext(ctx context.Context, c net.Conn) context.Context {
	uc, ok := c.(*net.UnixConn)
	if !ok {
		return ctx
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return ctx
	}
	var cred *unix.Ucred
	if err := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil || cred == nil {
		return ctx
	}
	return context.WithValue(ctx, socketUIDKey{}, int(cred.Uid))
}

// authenticate finds who is asking: the admin socket's caller, or the user behind a bearer token.
func (a *api) authenticate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, err := a.principal(r)
		if err != nil {
			if fault.From(err).Kind == fault.Unauthenticated {
				w.Header().Set("WWW-Authenticate", `Bearer realm="mosaic"`)
			}
			a.noteRefusal(r.Context(), audit.Admin, "api.authenticate", p.Name(), err)
			edge.WriteProblem(w, r, err)
			return
		}
		ctx := context.WithValue(r.Context(), principalKey{}, p)
		edge.NoteActor(ctx, p.Name())
		w.Header().Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

func (a *api) principal(r *http.Request) (account.Principal, error) {
	ctx := r.Context()
	p, err := a.caller(r)
	if err != nil {
		return p, err
	}
	ref := r.Header.Get(HeaderActFor)
	if ref == "" {
		return p, nil
	}
	if !p.May(account.ActForUser) {
		return p, errForbidden.With("your role does not allow acting for another user")
	}
	u, err := a.Accounts.User(ctx, ref)
	if err != nil {
		return p, err
	}
	if u.Disabled() {
		return p, errForbidden.With("the user %s is disabled", u.Email)
	}
	return p.For(u), nil
}

func (a *api) caller(r *http.Request) (account.Principal, error) {
	if uid, ok := r.Context().Value(socketUIDKey{}).(int); ok {
		return account.SocketPrincipal(uid), nil
	}
	scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		return account.Principal{}, errUnauthenticated
	}
	var u account.User
	hash, err := account.HashToken(strings.TrimSpace(token))
	if err == nil {
		u, err = a.Accounts.Authenticate(r.Context(), hash)
	}
	if errors.Is(err, account.ErrTokenInvalid) {
		err = a.guessed(r.Context(), err)
	}
	if err != nil {
		return account.Principal{}, err
	}
	return account.TokenPrincipal(u), nil
}

// Limiter answers zero and counts the event, or answers how long to wait and counts nothing.
type Limiter interface {
	Allow(ctx context.Context, key string) (time.Duration, error)
}

// guessed counts a token that opens nothing against the client's address. One that does never comes here: neighbours
// behind the same address cannot lock its holder out.
func (a *api) guessed(ctx context.Context, miss error) error {
	wait, err := a.Guesses.Allow(ctx, edge.ClientAddress(ctx))
	if err != nil {
		return err
	}
	if wait > 0 {
		return errGuessing.After(wait)
	}
	return miss
}

// permissionKey is where an operation names what its caller needs to be allowed.
const permissionKey = "permission"

// authorize denies by default: an operation that names no permission answers nobody.
func (a *api) authorize(ctx huma.Context, next func(huma.Context)) {
	needs, _ := ctx.Operation().Metadata[permissionKey].(account.Permission)
	if needs == "" || !principalOf(ctx.Context()).May(needs) {
		err := errForbidden.With("your role does not have the permission %s", needs)
		a.noteRefusal(ctx.Context(), audit.Admin, ctx.Operation().OperationID, principalOf(ctx.Context()).Name(), err)
		a.refuse(ctx, err)
		return
	}
	next(ctx)
}

// noteRefusal has a refusal counted for the audit log. What is away or failed refused nobody.
func (a *api) noteRefusal(ctx context.Context, d audit.Direction, verb, actor string, err error) {
	f := fault.From(err)
	if a.Note == nil || f.Kind == fault.Internal || f.Kind == fault.Unavailable {
		return
	}
	a.Note(audit.Event{
		RequestID: edge.RequestID(ctx), Direction: d, Actor: actor, RemoteAddress: edge.ClientAddress(ctx), Verb: verb,
		StatusCode: f.Kind.Status(), DeniedReason: f.Code,
	})
}

func (a *api) refuse(ctx huma.Context, f *fault.Fault) {
	edge.Note(ctx.Context(), f)
	p := edge.NewProblem(f, edge.RequestID(ctx.Context()))
	_ = huma.WriteErr(a.huma, ctx, p.Status, p.Detail, p)
}

// actOf is who does what this request asks for, as the audit log has it.
func actOf(ctx context.Context) audit.Act {
	p := principalOf(ctx)
	act := audit.Act{RequestID: edge.RequestID(ctx), Actor: p.Name(), RemoteAddress: edge.ClientAddress(ctx)}
	if p.User != nil {
		act.UserID = p.User.ID
	}
	return act
}
