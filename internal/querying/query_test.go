package querying_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/page"
	"github.com/mosaicstack/gateway/internal/peer"
	"github.com/mosaicstack/gateway/internal/querying"
	"github.com/mosaicstack/gateway/internal/resource"
)

const aPage = `{"data":[{"id":"1","title":"remote-secret"},{"id":"2","source":"local"}],"page":{"limit":50,"capped":false,"next_cursor":"next"}}`

func answer(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
}

// connected is a world whose user may ask the other gateway.
func connected(t *testing.T, answers http.HandlerFunc) (*world, *other, querying.Added) {
	t.Helper()
	w, b := newWorld(t), newOther(t)
	b.answers = answers
	return w, b, w.mustAdd(b.url("t"))
}

func (w *world) caller() querying.Caller {
	return querying.Caller{UserID: w.user.ID, RequestID: "req-1", Actor: w.user.Email}
}

func (w *world) list(c querying.Caller) (querying.Page, error) {
	return w.service.List(w.t.Context(), c, "work", "tasks", querying.ListParams{})
}

func TestListAsksThePeerAndMarksItsRows(t *testing.T) {
	t.Parallel()
	got := make(chan *http.Request, 1)
	w, b, added := connected(t, func(w http.ResponseWriter, r *http.Request) {
		got <- r
		answer(200, aPage)(w, r)
	})
	caller := w.caller()
	caller.Traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	params := querying.ListParams{Limit: strings.Repeat("0", 15<<10) + "7", Cursor: "a/b+c=", UpdatedSince: "2026-01-01t00:00:00.500000000000+01:00"}
	out, err := w.service.List(t.Context(), caller, added.Peer.ID.String(), "tasks", params)
	noError(t, err)
	body, err := json.Marshal(out)
	noError(t, err)
	const want = `{"data":[{"id":"1","title":"remote-secret","source":"work"},{"id":"2","source":"work"}],` +
		`"sources":[{"name":"work","status":"ok","rows":2}],"page":{"limit":50,"capped":false,"next_cursor":"next"}}`
	if string(body) != want {
		t.Errorf("%s", body)
	}
	r := <-got
	q := r.URL.Query()
	if r.Method != http.MethodGet || r.URL.Path != "/federation/v1/resources/tasks" || len(q) != 3 || q.Get("limit") != "7" ||
		q.Get("cursor") != params.Cursor || q.Get("updated_since") != "2025-12-31T23:00:00.5Z" ||
		r.Header.Get("X-Request-Id") != "req-1" || r.Header.Get("Traceparent") != caller.Traceparent {
		t.Errorf("%s %s %v", r.Method, r.URL, r.Header)
	}
	if len(b.identities) != 1 || b.identities[0].GrantID != b.grant || b.identities[0].UserID != b.user {
		t.Errorf("asked as %+v", b.identities)
	}
}

func TestAQueryIsOnRecord(t *testing.T) {
	t.Parallel()
	w, b, added := connected(t, answer(200, aPage))
	_, err := w.list(w.caller())
	noError(t, err)
	events := w.events("list")
	if len(events) != 1 {
		t.Fatalf("%d events", len(events))
	}
	e := events[0]
	if e.Direction != audit.Outbound || e.PeerID != added.Peer.ID || e.PeerName != "work" || e.GrantID != b.grant || e.SubjectUserID != w.user.ID ||
		e.RequestID != "req-1" || e.Actor != w.user.Email || e.Resource != "tasks" || e.StatusCode != 200 || e.Outcome != audit.OK ||
		e.RowsOut != 2 || e.BytesOut != int64(len(aPage)) || !bytes.Equal(e.QueryHash, w.keys.MAC("query", []byte("tasks\x00\x00"))) {
		t.Errorf("%+v", e)
	}
	var chain string
	noError(t, w.pool.QueryRow(t.Context(), `SELECT certificate_chain_pem FROM federation_credentials`).Scan(&chain))
	block, _ := pem.Decode([]byte(chain))
	if sum := sha256.Sum256(block.Bytes); !bytes.Equal(e.Fingerprint, sum[:]) {
		t.Errorf("fingerprint %x", e.Fingerprint)
	}
	// Nothing of a remote row stays.
	for _, table := range []string{"federation_audit_log", "federation_credentials", "federation_peers"} {
		if n := w.count(`SELECT count(*) FROM ` + table + ` x WHERE x::text LIKE '%remote-secret%'`); n != 0 {
			t.Errorf("a remote row is in %s", table)
		}
	}
}

func TestGetAsksForOneRow(t *testing.T) {
	t.Parallel()
	id := uuid.New()
	w, b, _ := connected(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/federation/v1/resources/notes/"+id.String() || r.URL.RawQuery != "" {
			t.Errorf("asked for %s", r.URL)
		}
		answer(200, `{"data":{"id":"1","source":"local"}}`)(w, r)
	})
	row, err := w.service.Get(t.Context(), w.caller(), "work", "notes", id.String())
	noError(t, err)
	if string(row.Data) != `{"id":"1","source":"work"}` {
		t.Errorf("%s", row.Data)
	}
	if e := w.events("get"); len(e) != 1 || e[0].RowsOut != 1 || e[0].Resource != "notes" {
		t.Errorf("%+v", e)
	}
	for _, id := range []string{"x", "", "../../capabilities", "urn:uuid:" + id.String(), "{" + id.String() + "}"} {
		_, err := w.service.Get(t.Context(), w.caller(), "work", "notes", id)
		wantError(t, err, querying.ErrNotFound)
	}
	if len(b.identities) != 1 {
		t.Errorf("asked %d times", len(b.identities))
	}
}

// To a user, a peer without a credential for them and no peer at all are the same.
func TestPeersAreShownToThoseWhoMayAskThem(t *testing.T) {
	t.Parallel()
	w, _, added := connected(t, answer(200, aPage))
	bob := w.person("bob@example.org")
	stranger := querying.Caller{UserID: bob.ID, Actor: bob.Email}
	operator := querying.Caller{Actor: "socket:uid=0"}
	var same []fault.Fault
	for _, ref := range []string{"work", added.Peer.ID.String(), "nowhere", uuid.NewString()} {
		_, err := w.service.List(t.Context(), stranger, ref, "tasks", querying.ListParams{Limit: "nonsense"})
		wantError(t, err, querying.ErrNotAvailable)
		f := *fault.From(err)
		f.Cause = nil
		same = append(same, f)
	}
	for _, f := range same[1:] {
		if f.Detail != same[0].Detail || f.Hint != same[0].Hint || f.Kind != fault.Forbidden {
			t.Errorf("%+v is not %+v", f, same[0])
		}
	}
	if e := w.events("list"); len(e) != 4 || e[3].Outcome != audit.Denied || e[3].DeniedReason != "peer_not_available" || e[3].SubjectUserID != bob.ID {
		t.Errorf("%+v", e)
	}

	_, err := w.service.List(t.Context(), operator, "nowhere", "tasks", querying.ListParams{})
	wantError(t, err, querying.ErrPeerNotFound)
	_, err = w.list(operator)
	noError(t, err)
	_, err = w.accounts.CreateTeam(t.Context(), "ops", act)
	noError(t, err)
	_, err = w.pool.Exec(t.Context(), `INSERT INTO federation_credential_teams SELECT $1, id FROM teams`, added.Credential.ID)
	noError(t, err)
	_, err = w.list(stranger)
	wantError(t, err, querying.ErrNotAvailable)
	noError(t, w.accounts.AddMember(t.Context(), "ops", bob.Email, act))
	_, err = w.list(stranger)
	noError(t, err)
	noError(t, w.accounts.RemoveMember(t.Context(), "ops", bob.Email, act))
	_, err = w.list(stranger)
	wantError(t, err, querying.ErrNotAvailable)

	_, err = w.pool.Exec(t.Context(), `DELETE FROM federation_credentials`)
	noError(t, err)
	_, err = w.list(operator)
	wantError(t, err, querying.ErrNoCredential)
}

func TestAPeerThatIsNotActiveIsNotAsked(t *testing.T) {
	t.Parallel()
	w, b, _ := connected(t, answer(200, aPage))
	w.change("peer.suspend", peer.State.Suspend)
	_, err := w.list(w.caller())
	wantError(t, err, peer.ErrSuspended)
	w.change("peer.revoke", peer.State.Revoke)
	_, err = w.list(w.caller())
	wantError(t, err, peer.ErrRevoked)
	_, err = w.list(querying.Caller{UserID: uuid.New()})
	wantError(t, err, querying.ErrNotAvailable)
	if len(b.identities) != 0 {
		t.Errorf("asked %d times", len(b.identities))
	}
	if e := w.events("list"); len(e) != 3 || e[2].DeniedReason != "peer_suspended" || e[2].StatusCode != 403 {
		t.Errorf("%+v", e)
	}
}

func TestAnExpiredCredentialIsNotUsed(t *testing.T) {
	t.Parallel()
	w, b, added := connected(t, answer(200, aPage))
	w.service.Now = func() time.Time { return added.Credential.NotAfter.Add(time.Second) }
	_, err := w.list(w.caller())
	wantError(t, err, querying.ErrCredentialExpired)
	if len(b.identities) != 0 {
		t.Error("it was used")
	}
}

// A page with wrong parameters is not asked for, but only who may ask is told so.
func TestParametersAreReadHereToo(t *testing.T) {
	t.Parallel()
	w, b, _ := connected(t, answer(200, aPage))
	for _, test := range []struct {
		params querying.ListParams
		want   error
	}{
		{querying.ListParams{Limit: "0"}, page.ErrLimitInvalid},
		{querying.ListParams{Limit: "10001"}, page.ErrLimitInvalid},
		{querying.ListParams{UpdatedSince: "yesterday"}, page.ErrUpdatedSinceInvalid},
		{querying.ListParams{Cursor: "a b"}, page.ErrCursorInvalid},
		{querying.ListParams{Cursor: strings.Repeat("a", 5000)}, page.ErrCursorInvalid},
	} {
		_, err := w.service.List(t.Context(), w.caller(), "work", "tasks", test.params)
		wantError(t, err, test.want)
	}
	_, err := w.service.List(t.Context(), w.caller(), "work", "users", querying.ListParams{})
	wantError(t, err, resource.ErrUnknown)
	if len(b.identities) != 0 {
		t.Errorf("asked %d times", len(b.identities))
	}
}

func TestWhatThePeerSaysInsteadOfRows(t *testing.T) {
	t.Parallel()
	says := func(status int, code string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "7")
			problem(w, status, code, "remote-words")
		}
	}
	w, b, _ := connected(t, nil)
	for name, test := range map[string]struct {
		answers http.HandlerFunc
		want    *fault.Fault
		status  int
		detail  string
		wait    time.Duration
		outcome audit.Outcome
	}{
		"revoked":             {says(403, "grant_revoked"), querying.ErrDenied, 403, "grant_revoked", 0, audit.Denied},
		"unknown":             {says(401, "certificate_unknown"), querying.ErrDenied, 403, "certificate_unknown", 0, audit.Denied},
		"a code that is none": {says(403, "<b>no</b>"), querying.ErrDenied, 403, "status 403", 0, audit.Denied},
		"not there":           {says(404, "not_found"), querying.ErrNotFound, 404, "work", 0, audit.Denied},
		"too many":            {says(429, "rate_limited"), querying.ErrRateLimited, 429, "work", 7 * time.Second, audit.Denied},
		"a wrong cursor":      {says(422, "cursor_invalid"), page.ErrCursorInvalid, 422, "", 0, audit.Denied},
		"a wrong limit":       {says(422, "limit_invalid"), page.ErrLimitInvalid, 422, "", 0, audit.Denied},
		"a wrong time":        {says(422, "updated_since_invalid"), page.ErrUpdatedSinceInvalid, 422, "", 0, audit.Denied},
		"another 422":         {says(422, "mode_invalid"), querying.ErrAnswerInvalid, 502, "status 422", 0, audit.Failed},
		"audit is away":       {says(503, "audit_unavailable"), querying.ErrUnreachable, 503, "audit_unavailable", 7 * time.Second, audit.Failed},
		"a bug":               {says(500, "internal"), querying.ErrUnreachable, 503, "internal", 7 * time.Second, audit.Failed},
		"a teapot":            {says(418, "teapot"), querying.ErrAnswerInvalid, 502, "status 418", 0, audit.Failed},
		"a problem with 200":  {says(200, "x"), querying.ErrAnswerInvalid, 502, "", 0, audit.Failed},
		"created":             {answer(201, aPage), querying.ErrAnswerInvalid, 502, "status 201", 0, audit.Failed},
		"garbage":             {answer(200, `{"data":"remote-words"}`), querying.ErrAnswerInvalid, 502, "work", 0, audit.Failed},
		"cut off":             {answer(200, aPage[:40]), querying.ErrAnswerInvalid, 502, "work", 0, audit.Failed},
	} {
		t.Run(name, func(t *testing.T) { // one after the other: the audit rows are counted
			b.set(func() { b.answers = test.answers })
			before := len(w.events("list"))
			out, err := w.list(w.caller())
			wantError(t, err, test.want)
			f := fault.From(err)
			if f.Kind.Status() != test.status || !strings.Contains(f.Detail, test.detail) || f.Hint == "" || f.RetryAfter != test.wait || out.Data != nil {
				t.Errorf("%+v, %+v", f, out)
			}
			if strings.Contains(f.Detail+err.Error(), "remote-words") {
				t.Errorf("%v repeats the peer", err)
			}
			events := w.events("list")
			if len(events) != before+1 || events[0].Outcome != test.outcome || events[0].DeniedReason != test.want.Code || events[0].StatusCode != test.status {
				t.Errorf("%d events, %+v", len(events)-before, events[0])
			}
		})
	}
}

func TestAPeerThatIsAwayOrSilent(t *testing.T) {
	t.Parallel()
	w, b, _ := connected(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	w.service.Timeout = 50 * time.Millisecond // the peer is silent for ever
	_, err := w.list(w.caller())
	wantError(t, err, querying.ErrTimeout)
	b.fed.CloseClientConnections()
	b.fed.Close()
	w.service.Timeout = querying.DefaultTimeout
	_, err = w.list(w.caller())
	wantError(t, err, querying.ErrUnreachable)
	if f := fault.From(err); f.RetryAfter == 0 {
		t.Errorf("%+v", f)
	}
	if e := w.events("list"); len(e) != 2 || e[1].StatusCode != 504 || e[0].StatusCode != 503 {
		t.Errorf("%+v", e)
	}
}

// A caller who hangs up has asked all the same.
func TestAQueryWhoseCallerHasGoneIsOnRecord(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{})
	w, _, _ := connected(t, func(_ http.ResponseWriter, r *http.Request) { close(asked); <-r.Context().Done() })
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-asked; cancel() }()
	_, err := w.service.List(ctx, w.caller(), "work", "tasks", querying.ListParams{})
	wantError(t, err, context.Canceled)
	if e := w.events("list"); len(e) != 1 || e[0].Outcome != audit.Failed {
		t.Errorf("%+v", e)
	}
}

type deaf struct{ err error }

func (d deaf) Record(context.Context, audit.Event) error { return d.err }

func TestWhatIsNotOnRecordIsNotAnswered(t *testing.T) {
	t.Parallel()
	w, b, _ := connected(t, answer(200, aPage))
	w.service.Audit = deaf{audit.ErrUnavailable}
	out, err := w.list(w.caller())
	wantError(t, err, audit.ErrUnavailable)
	if out.Data != nil {
		t.Errorf("%+v", out)
	}
	b.set(func() { b.answers = answer(403, `{}`) })
	_, err = w.list(w.caller())
	if f := fault.From(err); f.Code != audit.ErrUnavailable.Code {
		t.Errorf("%v", err)
	}
}

func TestAReplacedCredentialIsUsedAtOnce(t *testing.T) {
	t.Parallel()
	w, b, _ := connected(t, answer(200, aPage))
	_, err := w.list(w.caller())
	noError(t, err)
	second := w.mustAdd(b.url("t2"))
	_, err = w.list(w.caller())
	noError(t, err)
	if len(b.identities) != 2 || b.identities[0].Serial == b.identities[1].Serial || b.identities[1].Serial != second.Credential.Serial {
		t.Errorf("%+v", b.identities)
	}
}

func TestPeersThatAnswerAreSeen(t *testing.T) {
	t.Parallel()
	w, b, added := connected(t, answer(200, aPage))
	var seen []uuid.UUID
	w.service.Touch = func(id uuid.UUID) { seen = append(seen, id) }
	_, err := w.list(w.caller())
	noError(t, err)
	b.set(func() { b.answers = answer(500, `{}`) })
	if _, err := w.list(w.caller()); !errors.Is(err, querying.ErrUnreachable) {
		t.Errorf("%v", err)
	}
	if len(seen) != 1 || seen[0] != added.Peer.ID {
		t.Errorf("%v", seen)
	}
}
