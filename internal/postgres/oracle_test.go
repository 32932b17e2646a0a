package postgres_test

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// The oracle: what a gateway holds, kept beside the database, and what it has to answer, read out of the
// specification's sections 5 and 8. It loops over everything and decides row by row. It uses none of the product's
// types and rules, so that it shares none of their mistakes.

// oracle is the content of a gateway.
type oracle struct {
	disabled map[uuid.UUID]bool // every user that there is
	members  map[membership]bool
	rows     map[string][]oracleRow // by resource
}

type membership struct{ team, user uuid.UUID }

type oracleRow struct {
	id, owner        uuid.UUID
	team             uuid.UUID // Nil: a personal row
	created, updated time.Time
	fields           map[string]any // what the row says, without secrets
	embedding        embedding
}

// scopeDocument is a scope as an admin writes it, with what may be left out left out.
type scopeDocument struct {
	Resources []string                `json:"resources"`
	Excluded  []string                `json:"excluded_resources,omitempty"`
	Filters   map[string]scopeFilters `json:"filters,omitempty"`
	MaxRows   int                     `json:"max_rows_per_query"`
}

type scopeFilters struct {
	Teams    []uuid.UUID `json:"include_teams,omitempty"`
	Personal *bool       `json:"include_personal,omitempty"`
}

// place is a position in a list: after the row of this time and id.
type place struct {
	updated time.Time
	id      uuid.UUID
}

// reply is an answer, or what the oracle wants one to be.
type reply struct {
	Status int
	Code   string // of a refusal
	Data   []map[string]any
	Page   *pageReply
}

type pageReply struct {
	Limit  int
	Capped bool
	More   bool // there is a next_cursor
}

func refusedWith(status int, code string) reply { return reply{Status: status, Code: code} }

// sees reports whether a row of a resource is in the scope of a grant that speaks for a user, now.
func (o *oracle) sees(user uuid.UUID, scope scopeDocument, resource string, r oracleRow) bool {
	if !slices.Contains(scope.Resources, resource) || slices.Contains(scope.Excluded, resource) {
		return false
	}
	personal, teams := true, []uuid.UUID(nil)
	if f, ok := scope.Filters[resource]; ok {
		teams = f.Teams
		if f.Personal != nil {
			personal = *f.Personal
		}
	}
	if r.team == uuid.Nil {
		return personal && r.owner == user
	}
	return slices.Contains(teams, r.team) && o.members[membership{r.team, user}]
}

// visible lists what a grant shows of a resource, newest first; of two rows of one time the larger id is first.
func (o *oracle) visible(user uuid.UUID, scope scopeDocument, resource string) []oracleRow {
	var out []oracleRow
	for _, r := range o.rows[resource] {
		if o.sees(user, scope, resource, r) {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b oracleRow) int { return b.place().compare(a.place()) })
	return out
}

func (r oracleRow) place() place { return place{r.updated, r.id} }

// compare is negative when p is older.
func (p place) compare(q place) int {
	if c := p.updated.Compare(q.updated); c != 0 {
		return c
	}
	return strings.Compare(p.id.String(), q.id.String())
}

// asked is what comes before any verb: may they ask at all, and is there such a thing for them.
func (o *oracle) asked(user uuid.UUID, scope scopeDocument, resource string) (reply, bool) {
	disabled, there := o.disabled[user]
	switch {
	case !there:
		return refusedWith(http.StatusUnauthorized, "certificate_unknown"), false // the grant went with the user
	case disabled:
		return refusedWith(http.StatusForbidden, "subject_disabled"), false
	case !slices.Contains(scope.Resources, resource) || slices.Contains(scope.Excluded, resource):
		return refusedWith(http.StatusNotFound, "not_found"), false
	}
	return reply{}, true
}

// list is one page. limit zero is none given; after nil is the first page; last is where the next page starts.
func (o *oracle) list(user uuid.UUID, scope scopeDocument, resource string, limit int, since *time.Time, after *place) (want reply, last *place) {
	if refused, ok := o.asked(user, scope, resource); !ok {
		return refused, nil
	}
	if limit == 0 {
		limit = 50
	}
	size := min(limit, scope.MaxRows)
	want = reply{Status: http.StatusOK, Page: &pageReply{Limit: size, Capped: limit > scope.MaxRows}}
	for _, r := range o.visible(user, scope, resource) {
		switch {
		case since != nil && r.updated.Before(*since):
		case after != nil && r.place().compare(*after) >= 0:
		case len(want.Data) == size:
			want.Page.More = true
		default:
			want.Data = append(want.Data, r.wire())
			p := r.place()
			last = &p
		}
	}
	if !want.Page.More {
		last = nil
	}
	return want, last
}

// get is one row.
func (o *oracle) get(user uuid.UUID, scope scopeDocument, resource string, id uuid.UUID) reply {
	if refused, ok := o.asked(user, scope, resource); !ok {
		return refused
	}
	for _, r := range o.visible(user, scope, resource) {
		if r.id == id {
			return reply{Status: http.StatusOK, Data: []map[string]any{r.wire()}}
		}
	}
	return refusedWith(http.StatusNotFound, "not_found")
}

// wire is a row as it stands in an answer: flat, and without its secret.
func (r oracleRow) wire() map[string]any {
	const micro = "2006-01-02T15:04:05.000000Z"
	w := map[string]any{
		"id": r.id.String(), "owner_id": r.owner.String(), "team_id": nil,
		"created_at": r.created.UTC().Format(micro), "updated_at": r.updated.UTC().Format(micro),
	}
	if r.team != uuid.Nil {
		w["team_id"] = r.team.String()
	}
	for name, v := range r.fields {
		w[name] = v
	}
	return w
}

// find is where a row is kept.
func (o *oracle) find(resource string, id uuid.UUID) int {
	return slices.IndexFunc(o.rows[resource], func(r oracleRow) bool { return r.id == id })
}

// deleteUser takes what is a user's along, wherever it is shared.
func (o *oracle) deleteUser(user uuid.UUID) {
	delete(o.disabled, user)
	for m := range o.members {
		if m.user == user {
			delete(o.members, m)
		}
	}
	for name, rows := range o.rows {
		o.rows[name] = slices.DeleteFunc(rows, func(r oracleRow) bool { return r.owner == user })
	}
}
