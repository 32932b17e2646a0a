package postgres_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"github.com/mosaicstack/gateway/internal/account"
	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/identity"
	"github.com/mosaicstack/gateway/internal/limit"
	"github.com/mosaicstack/gateway/internal/page"
	"github.com/mosaicstack/gateway/internal/postgres"
	"github.com/mosaicstack/gateway/internal/seal"
	"github.com/mosaicstack/gateway/internal/serving"
)

// served is the use case on a database that the cases of one test share. Each case has users, teams and rows of its
// own, and those of the cases before are there too: more of what must not be seen.
type served struct {
	pool     *pgxpool.Pool
	accounts *postgres.Accounts
	service  *serving.Service
	cursors  *openedAEAD
	recorded *lastEvent
	cases    atomic.Uint32
	looks    atomic.Int64
}

func newServed(t *testing.T) *served {
	t.Helper()
	keys, err := seal.Derive([]byte("a secret of the tests, long enough to derive from"))
	if err != nil {
		t.Fatal(err)
	}
	limiter, err := limit.NewMemory()
	if err != nil {
		t.Fatal(err)
	}
	db := postgres.New(pg.Pool(t))
	s := &served{
		pool: db.Pool(), accounts: &postgres.Accounts{DB: db},
		cursors: &openedAEAD{AEAD: keys.AEAD("cursor"), says: map[string]string{}}, recorded: &lastEvent{},
	}
	// The last admin can be neither disabled nor deleted; this one is nobody's subject.
	if _, err := s.accounts.CreateUser(t.Context(), account.User{Email: "admin@example.org", Role: account.Admin}, act); err != nil {
		t.Fatal(err)
	}
	s.service = serving.New(serving.Config{
		Searcher: serving.NewSearcher(oracleEmbedder{}),
		Store:    &postgres.Serving{DB: db}, Audit: s.recorded, Limiter: limiter, Cursors: page.New(s.cursors),
		Hash: func(b []byte) []byte { return keys.MAC("query", b) }, Tag: func(b []byte) []byte { return keys.MAC("tag", b) }, Now: time.Now, Log: slog.New(slog.DiscardHandler),
		Refused: serving.NewRefusedLately(s.hours), // a case may ask for a deleted user more often than a minute allows
	})
	return s
}

// hours is a clock that goes an hour ahead whenever somebody looks.
func (s *served) hours() time.Time {
	return epoch.Add(time.Duration(s.looks.Add(1)) * time.Hour)
}

// lastEvent keeps the audit event of the last request.
type lastEvent struct {
	mu sync.Mutex
	e  audit.Event
}

func (l *lastEvent) Record(_ context.Context, e audit.Event) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.e = e
	return nil
}

func (l *lastEvent) last() audit.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.e
}

// openedAEAD is the real one, and remembers what each cursor says: two cursors for one place differ in every byte.
type openedAEAD struct {
	page.AEAD
	mu   sync.Mutex
	says map[string]string
}

func (a *openedAEAD) Encrypt(plain, associated []byte) ([]byte, error) {
	sealed, err := a.AEAD.Encrypt(plain, associated)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.says[base64.RawURLEncoding.EncodeToString(sealed)] = fmt.Sprintf("%x for %q", plain, associated)
	return sealed, err
}

func (a *openedAEAD) opened(cursor string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.says[cursor]
}

// checker is what a test and a case of a property have in common.
type checker interface {
	Helper()
	Context() context.Context
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// twin is a gateway and its oracle, which are changed together.
type twin struct {
	checker
	T *rapid.T // draws; nil in a test that draws nothing
	*served
	oracle
	prefix uint32
	ids    uint64
	users  []uuid.UUID
	teams  []uuid.UUID
	grants []twinGrant
	known  map[string][]uuid.UUID // the ids of every row there ever was
}

type twinGrant struct {
	id, user uuid.UUID
	scope    scopeDocument
	caller   serving.Caller
}

// empty is a gateway without users.
func (s *served) empty(t checker, draw *rapid.T) *twin {
	return &twin{
		checker: t, T: draw, served: s, prefix: s.cases.Add(1), known: map[string][]uuid.UUID{},
		oracle: oracle{disabled: map[uuid.UUID]bool{}, members: map[membership]bool{}, rows: map[string][]oracleRow{}},
	}
}

// id is a new one. Their order is drawn, for it decides between rows of one time.
func (tw *twin) id() uuid.UUID {
	tw.ids++
	var id uuid.UUID
	binary.BigEndian.PutUint32(id[:], tw.prefix)
	if tw.T != nil {
		id[4] = rapid.Byte().Draw(tw.T, "order")
	}
	binary.BigEndian.PutUint64(id[8:], tw.ids)
	return id
}

func (tw *twin) ctx() context.Context { return tw.Context() }

func (tw *twin) exec(sql string, args ...any) {
	tw.Helper()
	if _, err := tw.pool.Exec(tw.ctx(), sql, args...); err != nil {
		tw.Fatalf("%s: %v", sql, err)
	}
}

func (tw *twin) done(err error) {
	tw.Helper()
	if err != nil {
		tw.Fatalf("%v", err)
	}
}

// addUsers makes n users; their roles are drawn, and must make no difference.
func (tw *twin) addUsers(n int) {
	tw.Helper()
	batch := &pgx.Batch{}
	for range n {
		id, role := tw.id(), account.Member
		if tw.T != nil {
			role = rapid.SampledFrom([]account.Role{account.Member, account.Admin, account.Auditor}).Draw(tw.T, "role")
		}
		tw.users = append(tw.users, id)
		tw.disabled[id] = false
		batch.Queue(`INSERT INTO users (id, email, role) VALUES ($1, $2, $3)`, id, id.String()+"@example.org", string(role))
	}
	tw.done(tw.pool.SendBatch(tw.ctx(), batch).Close())
}

// addTeams makes n teams, and draws who is in them.
func (tw *twin) addTeams(n int) {
	tw.Helper()
	batch := &pgx.Batch{}
	for range n {
		id := tw.id()
		tw.teams = append(tw.teams, id)
		batch.Queue(`INSERT INTO teams (id, name) VALUES ($1, $2)`, id, "t"+id.String())
		for _, user := range tw.users {
			if tw.T != nil && rapid.Bool().Draw(tw.T, "member") {
				tw.members[membership{id, user}] = true
				batch.Queue(`INSERT INTO team_members (team_id, user_id) VALUES ($1, $2)`, id, user)
			}
		}
	}
	tw.done(tw.pool.SendBatch(tw.ctx(), batch).Close())
}

func (tw *twin) setMember(team, user uuid.UUID, in bool) {
	tw.Helper()
	m := membership{team, user}
	if tw.members[m] == in {
		return
	}
	if in {
		tw.members[m] = true
		tw.done(tw.accounts.AddMember(tw.ctx(), team.String(), user.String(), act))
		return
	}
	delete(tw.members, m)
	tw.done(tw.accounts.RemoveMember(tw.ctx(), team.String(), user.String(), act))
}

func (tw *twin) setDisabled(user uuid.UUID, yes bool) {
	tw.disabled[user] = yes
	_, err := tw.accounts.UpdateUser(tw.ctx(), user.String(), postgres.UserChange{Disabled: &yes}, act)
	tw.done(err)
}

func (tw *twin) removeUser(user uuid.UUID) {
	tw.deleteUser(user)
	tw.users = slices.DeleteFunc(tw.users, func(u uuid.UUID) bool { return u == user })
	tw.done(tw.accounts.DeleteUser(tw.ctx(), user.String(), act))
}

// addGrant makes an active grant of a peer of its own, with a certificate.
func (tw *twin) addGrant(user uuid.UUID, scope scopeDocument) twinGrant {
	tw.Helper()
	doc, err := json.Marshal(scope)
	tw.done(err)
	g := twinGrant{id: tw.id(), user: user, scope: scope}
	peer, fingerprint := tw.id(), sha256.Sum256(g.id[:])
	now := time.Now()
	g.caller = serving.Caller{RequestID: "visibility", Identity: identity.Identity{
		GrantID: g.id, UserID: user, Fingerprint: fingerprint, Serial: g.id.String(), NotBefore: now, NotAfter: now.Add(time.Hour),
	}}
	batch := &pgx.Batch{}
	batch.Queue(`INSERT INTO federation_peers (id, name, state) VALUES ($1, $2, 'active')`, peer, "p"+peer.String())
	batch.Queue(`INSERT INTO federation_grants (id, peer_id, subject_user_id, scope, status, rate_per_minute, burst) VALUES ($1, $2, $3, $4, 'active', 1000000, 1000000)`,
		g.id, peer, user, string(doc))
	batch.Queue(`INSERT INTO federation_certificates (fingerprint, serial, grant_id, subject_user_id, not_before, not_after) VALUES ($1, $2, $3, $4, $5, $6)`,
		fingerprint[:], g.id.String(), g.id, user, now, now.Add(time.Hour))
	tw.done(tw.pool.SendBatch(tw.ctx(), batch).Close())
	tw.grants = append(tw.grants, g)
	return g
}

// The columns of a row that an answer shows, beside the common ones, and those that none ever shows.
var (
	shownColumns = map[string][]string{
		"tasks": {"title", "body", "status"}, "notes": {"title", "body"}, "memory": {"content", "metadata"},
		"credentials": {"name", "kind", "url", "username", "metadata"}, "api_keys": {"name", "service", "key_prefix", "metadata"},
	}
	secretColumns = map[string]string{"credentials": "secret_sealed", "api_keys": "secret_hash"}
	allResources  = []string{"tasks", "notes", "memory", "credentials", "api_keys"}
)

// addRows stores rows of one resource.
func (tw *twin) addRows(resource string, rows ...oracleRow) {
	tw.Helper()
	if len(rows) == 0 {
		return
	}
	columns := append([]string{"id", "owner_id", "team_id", "created_at", "updated_at"}, shownColumns[resource]...)
	if embeds(resource) {
		columns = append(columns, "embedding", "embedding_model")
	}
	if secret, ok := secretColumns[resource]; ok {
		columns = append(columns, secret)
	}
	docs := make([]map[string]any, len(rows))
	for i, r := range rows {
		docs[i] = r.wire()
		docs[i]["secret_sealed"], docs[i]["secret_hash"] = `\x5ec2e7`, `\x5ec2e7`
		docs[i]["embedding"], docs[i]["embedding_model"] = r.embedding.column(), r.embedding.model
		tw.known[resource] = append(tw.known[resource], r.id)
	}
	tw.rows[resource] = append(tw.rows[resource], rows...)
	data, err := json.Marshal(docs)
	tw.done(err)
	list := strings.Join(columns, ", ")
	tw.exec(fmt.Sprintf(`INSERT INTO %s (%s) SELECT %s FROM json_populate_recordset(NULL::%[1]s, $1)`, resource, list, list), string(data))
}

// changeRow updates a row as the gateway's own users do: the database sets the time.
func (tw *twin) changeRow(resource string, r oracleRow) {
	tw.Helper()
	set, args := []string{"owner_id = $2", "team_id = nullif($3, '00000000-0000-0000-0000-000000000000'::uuid)"}, []any{r.id, r.owner, r.team}
	for _, c := range shownColumns[resource] {
		args = append(args, r.fields[c])
		set = append(set, c+" = $"+strconv.Itoa(len(args)))
	}
	sql := `UPDATE ` + resource + ` SET ` + strings.Join(set, ", ") + ` WHERE id = $1 RETURNING updated_at`
	if err := tw.pool.QueryRow(tw.ctx(), sql, args...).Scan(&r.updated); err != nil {
		tw.Fatalf("update %s: %v", resource, err)
	}
	if before := tw.rows[resource][tw.find(resource, r.id)]; !sameText(resource, before, r) {
		r.embedding = embedding{} // of what it no longer says
	}
	tw.rows[resource][tw.find(resource, r.id)] = r
}

// embed gives a row an embedding, which moves none of its times.
func (tw *twin) embed(resource string, id uuid.UUID, e embedding) {
	tw.Helper()
	batch := &pgx.Batch{}
	batch.Queue(`SELECT set_config('mosaic.resealing', 'on', true)`)
	batch.Queue(`UPDATE `+resource+` SET embedding = $2::text::vector, embedding_model = nullif($3, '') WHERE id = $1`, id, e.column(), e.model)
	tw.done(tw.pool.SendBatch(tw.ctx(), batch).Close()) // one implicit transaction
	tw.rows[resource][tw.find(resource, id)].embedding = e
}

func (tw *twin) deleteRow(resource string, id uuid.UUID) {
	tw.rows[resource] = slices.Delete(tw.rows[resource], tw.find(resource, id), tw.find(resource, id)+1)
	tw.exec(`DELETE FROM `+resource+` WHERE id = $1`, id)
}
