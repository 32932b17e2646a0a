package grant_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/grant"
	"github.com/mosaicstack/gateway/internal/scope"
)

// noon is when the grants of these tests expire.
func noon() time.Time { return time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC) }

func code(err error) string {
	if err == nil {
		return ""
	}
	return fault.From(err).Code
}

// stored makes a grant as a store would give it.
func stored(status grant.Status, resources ...scope.Resource) grant.Grant {
	expiry, created := noon(), noon().Add(-24*time.Hour)
	if len(resources) == 0 {
		resources = []scope.Resource{scope.Tasks}
	}
	g := grant.Grant{
		ID: uuid.UUID{1}, PeerID: uuid.UUID{2}, Peer: "work", SubjectUserID: uuid.UUID{3},
		Scope:  scope.Scope{Resources: resources, MaxRowsPerQuery: 5},
		Status: status, ExpiresAt: &expiry, CreatedAt: created, UpdatedAt: created, Version: 4,
	}
	switch status {
	case grant.Active:
		g.ActivatedAt = &created
	case grant.Revoked:
		g.RevokedAt, g.RevokedReason = &created, "first"
	case grant.Pending, grant.Expired:
	}
	return g
}

func TestEveryTransition(t *testing.T) {
	t.Parallel()
	const unknown grant.Status = "gone"
	type want struct {
		status grant.Status
		code   string
	}
	transitions := map[string]func(grant.Grant, time.Time) (grant.Grant, error){
		"activate": grant.Grant.Activate,
		"revoke":   func(g grant.Grant, now time.Time) (grant.Grant, error) { return g.Revoke(now, "second") },
		"expire":   grant.Grant.Expire,
		"approve": func(g grant.Grant, now time.Time) (grant.Grant, error) {
			g.Scope.Resources = []scope.Resource{scope.Credentials}
			return g.Approve(now, &uuid.UUID{9}, "audit season")
		},
	}
	before := map[grant.Status]map[string]want{ // an instant before the expiry
		grant.Pending: {
			"activate": {grant.Active, ""}, "revoke": {grant.Revoked, ""},
			"expire": {grant.Pending, "grant_state_conflict"}, "approve": {grant.Pending, ""},
		},
		grant.Active: {
			"activate": {grant.Active, ""}, "revoke": {grant.Revoked, ""},
			"expire": {grant.Active, "grant_state_conflict"}, "approve": {grant.Active, ""},
		},
		grant.Revoked: {
			"activate": {grant.Revoked, "grant_revoked"}, "revoke": {grant.Revoked, ""},
			"expire": {grant.Revoked, "grant_revoked"}, "approve": {grant.Revoked, "grant_revoked"},
		},
		grant.Expired: {
			"activate": {grant.Expired, "grant_expired"}, "revoke": {grant.Revoked, ""},
			"expire": {grant.Expired, ""}, "approve": {grant.Expired, "grant_expired"},
		},
		unknown: {
			"activate": {unknown, "grant_state_conflict"}, "revoke": {unknown, "grant_state_conflict"},
			"expire": {unknown, "grant_state_conflict"}, "approve": {unknown, "grant_state_conflict"},
		},
	}
	after := map[grant.Status]map[string]want{ // at the expiry
		grant.Pending: {
			"activate": {grant.Pending, "grant_expired"}, "revoke": {grant.Revoked, ""},
			"expire": {grant.Expired, ""}, "approve": {grant.Pending, "grant_expired"},
		},
		grant.Active: {
			"activate": {grant.Active, "grant_expired"}, "revoke": {grant.Revoked, ""},
			"expire": {grant.Expired, ""}, "approve": {grant.Active, "grant_expired"},
		},
		grant.Revoked: before[grant.Revoked], grant.Expired: before[grant.Expired], unknown: before[unknown],
	}
	for _, moment := range []struct {
		name  string
		now   time.Time
		table map[grant.Status]map[string]want
	}{{"before expiry", noon().Add(-1), before}, {"at expiry", noon(), after}, {"after expiry", noon().Add(time.Hour), after}} {
		for _, from := range append(grant.Statuses(), unknown) {
			for name, transition := range transitions {
				w, listed := moment.table[from][name]
				if !listed {
					t.Errorf("%s of %s is not in the table", name, from)
					continue
				}
				g := stored(from)
				got, err := transition(g, moment.now)
				if got.Status != w.status || code(err) != w.code {
					t.Errorf("%s: %s of %s = %s, %v; want %s, %q", moment.name, name, from, got.Status, err, w.status, w.code)
				}
				if diff := cmp.Diff(stored(from), g); diff != "" {
					t.Errorf("%s of %s wrote to its receiver:\n%s", name, from, diff)
				}
				if err == nil {
					changed := got.Status != from || name == "approve"
					if changed != (got.Version == g.Version+1) || changed != got.UpdatedAt.Equal(moment.now) {
						t.Errorf("%s: %s of %s: version %d, updated %v", moment.name, name, from, got.Version, got.UpdatedAt)
					}
				}
			}
		}
	}
}

func TestTransitionsRecordWhenAndWhy(t *testing.T) {
	t.Parallel()
	now := noon().Add(-time.Hour)
	g, err := stored(grant.Pending).Activate(now)
	if err != nil || g.ActivatedAt == nil || !g.ActivatedAt.Equal(now) {
		t.Errorf("activated at %v, %v", g.ActivatedAt, err)
	}
	again, err := g.Activate(now.Add(time.Minute))
	if diff := cmp.Diff(g, again); err != nil || diff != "" {
		t.Errorf("a second enrollment changed the grant: %v\n%s", err, diff)
	}
	g, err = g.Revoke(now.Add(time.Minute), "  laptop lost ")
	if err != nil || g.RevokedReason != "laptop lost" || !g.RevokedAt.Equal(now.Add(time.Minute)) {
		t.Errorf("revoked at %v for %q, %v", g.RevokedAt, g.RevokedReason, err)
	}
	again, err = g.Revoke(now.Add(time.Hour), "other reason")
	if diff := cmp.Diff(g, again); err != nil || diff != "" {
		t.Errorf("a second revocation changed the first: %v\n%s", err, diff)
	}
	if _, err := stored(grant.Active).Revoke(now, ""); err != nil {
		t.Errorf("a revocation must not wait for a reason: %v", err)
	}
}

func TestSensitiveGrantsWaitForApproval(t *testing.T) {
	t.Parallel()
	now := noon().Add(-time.Hour)
	for _, r := range scope.All() {
		g := stored(grant.Pending, scope.Notes, r)
		if !r.Sensitive() {
			if err := g.MayIssueToken(now); err != nil {
				t.Errorf("%s: %v", r, err)
			}
			if _, err := g.Approve(now, nil, "why not"); code(err) != "grant_approval_not_needed" {
				t.Errorf("%s: %v", r, err)
			}
			continue
		}
		err := g.MayIssueToken(now)
		if f := fault.From(err); f.Code != "grant_approval_required" || f.Kind != fault.Forbidden || !g.NeedsApproval() {
			t.Errorf("%s: %v", r, err)
		}
		if _, err := g.Activate(now); code(err) != "grant_approval_required" {
			t.Errorf("%s: activated without approval: %v", r, err)
		}
		by := uuid.UUID{9}
		approved, err := g.Approve(now, &by, " yearly audit ")
		if err != nil || approved.ApprovedBy != &by || !approved.ApprovedAt.Equal(now) || approved.ApprovalReason != "yearly audit" {
			t.Fatalf("%s: %+v, %v", r, approved, err)
		}
		if err := approved.MayIssueToken(now); err != nil || approved.NeedsApproval() {
			t.Errorf("%s: approved, and yet %v", r, err)
		}
		if _, err := approved.Approve(now, &by, "again"); code(err) != "grant_already_approved" {
			t.Errorf("%s: a second approval: %v", r, err)
		}
		bySocket, err := g.Approve(now, nil, "from the console")
		if err != nil || !bySocket.Approved() || bySocket.ApprovedBy != nil {
			t.Errorf("%s: by the socket: %v", r, err)
		}
	}
}

func TestReasonsArePlainText(t *testing.T) {
	t.Parallel()
	g := stored(grant.Pending, scope.Credentials)
	now := noon().Add(-time.Hour)
	for _, reason := range []string{"", "  ", "a\x1b[2Jb", "two\nlines", "nul\x00", "\xff", strings.Repeat("ä", grant.MaxReasonRunes+1)} {
		if _, err := g.Approve(now, nil, reason); code(err) != "reason_invalid" {
			t.Errorf("Approve(%q): %v", reason, err)
		}
		if strings.TrimSpace(reason) == "" {
			continue
		}
		if _, err := g.Revoke(now, reason); code(err) != "reason_invalid" {
			t.Errorf("Revoke(%q): %v", reason, err)
		}
	}
	if _, err := g.Approve(now, nil, strings.Repeat("ä", grant.MaxReasonRunes)); err != nil {
		t.Errorf("the longest reason: %v", err)
	}
}

func TestMayIssueToken(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		status grant.Status
		now    time.Time
		want   string
		kind   fault.Kind
	}{
		{grant.Pending, noon().Add(-1), "", 0},
		{grant.Active, noon().Add(-1), "", 0},
		{grant.Pending, noon(), "grant_expired", fault.Gone},
		{grant.Active, noon(), "grant_expired", fault.Gone},
		{grant.Expired, noon().Add(-1), "grant_expired", fault.Gone},
		{grant.Revoked, noon().Add(-1), "grant_revoked", fault.Gone},
		{grant.Revoked, noon(), "grant_revoked", fault.Gone},
	} {
		err := stored(tt.status).MayIssueToken(tt.now)
		if code(err) != tt.want || err != nil && fault.From(err).Kind != tt.kind {
			t.Errorf("%s at %v: %v, want %q", tt.status, tt.now, err, tt.want)
		}
	}
	// A revoked sensitive grant is revoked first of all: approving it would not help.
	if err := stored(grant.Revoked, scope.APIKeys).MayIssueToken(noon().Add(-1)); code(err) != "grant_revoked" {
		t.Errorf("err = %v", err)
	}
}

func TestEffectiveStatus(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ stored, before, at grant.Status }{
		{grant.Pending, grant.Pending, grant.Expired},
		{grant.Active, grant.Active, grant.Expired},
		{grant.Revoked, grant.Revoked, grant.Revoked},
		{grant.Expired, grant.Expired, grant.Expired},
	} {
		g := stored(tt.stored)
		if got := g.EffectiveStatus(noon().Add(-1)); got != tt.before {
			t.Errorf("%s before: %s", tt.stored, got)
		}
		if got := g.EffectiveStatus(noon()); got != tt.at {
			t.Errorf("%s at: %s", tt.stored, got)
		}
		g.ExpiresAt = nil
		if got := g.EffectiveStatus(noon().AddDate(100, 0, 0)); got != tt.stored {
			t.Errorf("%s without an expiry: %s", tt.stored, got)
		}
	}
}

func TestNoHistoryLeavesRevoked(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		g := stored(rapid.SampledFrom(grant.Statuses()).Draw(t, "status"), rapid.SampledFrom(scope.All()).Draw(t, "resource"))
		if g.Status == grant.Pending {
			g.ActivatedAt = nil
		}
		revoked := g.Status == grant.Revoked
		now := noon().Add(-3 * time.Hour)
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 120).Draw(t, "minutes")) * time.Minute)
			before := g
			var err error
			step := rapid.SampledFrom([]string{"activate", "revoke", "expire", "approve"}).Draw(t, "step")
			switch step {
			case "activate":
				g, err = g.Activate(now)
			case "revoke":
				g, err = g.Revoke(now, "")
				revoked = true
			case "expire":
				g, err = g.Expire(now)
			case "approve":
				g, err = g.Approve(now, nil, "reason")
			}
			if err != nil {
				if diff := cmp.Diff(before, g); diff != "" {
					t.Fatalf("a refused %s changed the grant:\n%s", step, diff)
				}
			}
			if revoked != (g.Status == grant.Revoked) {
				t.Fatalf("after %s: %s", step, g.Status)
			}
			if g.Version < before.Version || g.Version > before.Version+1 {
				t.Fatalf("version %d -> %d", before.Version, g.Version)
			}
			if g.Status == grant.Active && before.Status != grant.Active && g.NeedsApproval() {
				t.Fatal("a sensitive grant became active unapproved")
			}
			if g.MayIssueToken(now) == nil && (g.EffectiveStatus(now) == grant.Expired || revoked || g.NeedsApproval()) {
				t.Fatalf("a token for a grant that is %s", g.EffectiveStatus(now))
			}
		}
	})
}
