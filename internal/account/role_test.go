package account_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/account"
	"github.com/mosaicstack/gateway/internal/fault"
)

func TestEveryPermissionOfEveryRole(t *testing.T) {
	t.Parallel()
	table := map[account.Permission]struct{ admin, member, auditor bool }{
		account.UsersRead:       {true, false, true},
		account.UsersWrite:      {true, false, false},
		account.TeamsRead:       {true, false, true},
		account.TeamsWrite:      {true, false, false},
		account.TokensRead:      {true, false, false},
		account.TokensWrite:     {true, false, false},
		account.ResourcesRead:   {true, true, false},
		account.ResourcesWrite:  {true, true, false},
		account.ResourcesImport: {true, false, false},
		account.GrantsRead:      {true, false, true},
		account.GrantsWrite:     {true, false, false},
		account.PeersRead:       {true, false, true},
		account.PeersWrite:      {true, false, false},
		account.PeersQuery:      {true, true, false},
		account.AuditRead:       {true, false, true},
		account.KeyringRead:     {true, false, false},
		account.KeyringWrite:    {true, false, false},
		account.ActForUser:      {true, false, false},
	}
	if len(table) != len(account.Permissions()) {
		t.Errorf("%d permissions in the table, %d exist", len(table), len(account.Permissions()))
	}
	for _, p := range account.Permissions() {
		want, listed := table[p]
		if !listed {
			t.Errorf("%s is not in the table", p)
		}
		for role, may := range map[account.Role]bool{
			account.Admin: want.admin, account.Member: want.member, account.Auditor: want.auditor, "": false, "root": false,
		} {
			if got := role.May(p); got != may {
				t.Errorf("%s.May(%s) = %v", role, p, got)
			}
		}
	}
	for _, role := range account.Roles() {
		for _, p := range []account.Permission{"", "everything", "users:*", "USERS:READ"} {
			if role.May(p) {
				t.Errorf("%s may %q, which does not exist", role, p)
			}
		}
	}
}

func TestParseRole(t *testing.T) {
	t.Parallel()
	for _, r := range account.Roles() {
		if got, err := account.ParseRole(string(r)); err != nil || got != r {
			t.Errorf("ParseRole(%s) = %s, %v", r, got, err)
		}
	}
	for _, s := range []string{"", "Admin", "admin ", "root", "owner"} {
		if r, err := account.ParseRole(s); fault.From(err).Code != "role_invalid" || slices.Contains(account.Roles(), r) {
			t.Errorf("ParseRole(%q) = %q, %v", s, r, err)
		}
	}
}

func TestPrincipals(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	root := account.User{ID: uuid.UUID{1}, Email: "root@x", Role: account.Admin}
	alice := account.User{ID: uuid.UUID{2}, Email: "alice@x", Role: account.Member}
	gone := account.User{ID: uuid.UUID{3}, Email: "gone@x", Role: account.Admin, DisabledAt: &now}
	for _, tt := range []struct {
		name      string
		principal account.Principal
		wantName  string
		subject   *account.User
		may       []account.Permission
		mayNot    []account.Permission
	}{
		{
			"a member with a token", account.TokenPrincipal(alice), "alice@x", &alice,
			[]account.Permission{account.ResourcesRead, account.PeersQuery},
			[]account.Permission{account.UsersRead, account.ActForUser},
		},
		{
			"the admin socket", account.SocketPrincipal(1000), "socket:uid=1000", nil,
			account.Permissions(), nil,
		},
		{
			"the socket acting for a member", account.SocketPrincipal(0).For(alice), "socket:uid=0 for alice@x", &alice,
			account.Permissions(), nil,
		},
		{
			"an admin acting for a member", account.TokenPrincipal(root).For(alice), "root@x for alice@x", &alice,
			account.Permissions(), nil,
		},
		{
			"a member who claims to act for an admin", account.TokenPrincipal(alice).For(root), "alice@x for root@x", &root,
			nil, account.Permissions(),
		},
		{
			"a disabled admin", account.TokenPrincipal(gone), "gone@x", &gone,
			nil, account.Permissions(),
		},
		{
			"acting for a disabled user", account.SocketPrincipal(0).For(gone), "socket:uid=0 for gone@x", &gone,
			nil, account.Permissions(),
		},
		{
			"nobody",
			account.Principal{},
			"nobody", nil,
			nil, account.Permissions(),
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := tt.principal.Name(); got != tt.wantName {
				t.Errorf("Name() = %q, want %q", got, tt.wantName)
			}
			switch got := tt.principal.Subject(); {
			case (got == nil) != (tt.subject == nil):
				t.Errorf("Subject() = %v", got)
			case got != nil && got.ID != tt.subject.ID:
				t.Errorf("Subject() = %v", got)
			}
			for _, p := range tt.may {
				if !tt.principal.May(p) {
					t.Errorf("may not %s", p)
				}
			}
			for _, p := range tt.mayNot {
				if tt.principal.May(p) {
					t.Errorf("may %s", p)
				}
			}
		})
	}
}
