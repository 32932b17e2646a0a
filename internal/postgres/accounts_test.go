package postgres_test

import (
	"crypto/sha256"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/account"
	"github.com/mosaicstack/gateway/internal/postgres"
)

func TestAChangeOfAUserWritesOnlyWhatItNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.user("root@example.org", account.Admin)
	name, member, yes, no := "Ada", account.Member, true, false
	for what, tt := range map[string]struct {
		other  string
		change postgres.UserChange
	}{
		"a rename and a disabling":   {`UPDATE users SET disabled_at = now() WHERE id = $1`, postgres.UserChange{DisplayName: &name}},
		"a rename and a demotion":    {`UPDATE users SET role = 'auditor' WHERE id = $1`, postgres.UserChange{DisplayName: &name}},
		"a demotion and a disabling": {`UPDATE users SET disabled_at = now() WHERE id = $1`, postgres.UserChange{Role: &member}},
		"a disabling and a demotion": {`UPDATE users SET role = 'auditor' WHERE id = $1`, postgres.UserChange{Disabled: &yes}},
		"an enabling and a demotion": {`UPDATE users SET role = 'auditor' WHERE id = $1`, postgres.UserChange{Disabled: &no}},
		"two disablings":             {`UPDATE users SET disabled_at = '2020-01-01' WHERE id = $1`, postgres.UserChange{Disabled: &yes}},
	} {
		u := w.user(uuid.NewString()+"@example.org", account.Admin)
		err := w.behind(func() error {
			_, err := w.accounts.UpdateUser(w.ctx, u.Email, tt.change, act)
			return err
		}, tt.other, u.ID)
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
		got, err := w.accounts.User(w.ctx, u.Email)
		if err != nil {
			t.Fatal(err)
		}
		want := u
		switch { // what the other has written stays
		case what == "two disablings":
			if got.DisabledAt == nil || got.DisabledAt.Year() != 2020 {
				t.Errorf("%s: disabled since %v, want since the first", what, got.DisabledAt)
			}
			continue
		case what == "a rename and a disabling" || what == "a demotion and a disabling":
			want.DisabledAt = got.DisabledAt
			if got.DisabledAt == nil {
				t.Errorf("%s: the disabling was undone", what)
			}
		default:
			want.Role = account.Auditor
		}
		if tt.change.DisplayName != nil {
			want.DisplayName = name
		}
		if tt.change.Role != nil {
			want.Role = member
		}
		if tt.change.Disabled == &yes {
			want.DisabledAt = got.DisabledAt
			if got.DisabledAt == nil {
				t.Errorf("%s: not disabled", what)
			}
		}
		want.UpdatedAt = got.UpdatedAt
		if got != want {
			t.Errorf("%s: %+v, want %+v", what, got, want)
		}
	}
}

// lastAdminChanges are the ways to lose an admin.
func (w *world) lastAdminChanges(ref string) map[string]func() error {
	member, yes := account.Member, true
	update := func(c postgres.UserChange) func() error {
		return func() error {
			_, err := w.accounts.UpdateUser(w.ctx, ref, c, act)
			return err
		}
	}
	return map[string]func() error{
		"demoted":  update(postgres.UserChange{Role: &member}),
		"disabled": update(postgres.UserChange{Disabled: &yes}),
		"deleted":  func() error { return w.accounts.DeleteUser(w.ctx, ref, act) },
	}
}

func TestTheLastEnabledAdminStays(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.user("root@example.org", account.Admin)
	w.user("ada@example.org", account.Member)
	off, yes := w.user("off@example.org", account.Admin), true // an admin who cannot sign in is none
	if _, err := w.accounts.UpdateUser(w.ctx, off.Email, postgres.UserChange{Disabled: &yes}, act); err != nil {
		t.Fatal(err)
	}
	for what, change := range w.lastAdminChanges("root@example.org") {
		if err := change(); !errors.Is(err, account.ErrLastAdmin) {
			t.Errorf("%s: %v, want last_admin", what, err)
		}
	}
	name, admin := "Root", account.Admin
	for what, c := range map[string]postgres.UserChange{"renamed": {DisplayName: &name}, "made what they are": {Role: &admin}} {
		if _, err := w.accounts.UpdateUser(w.ctx, "root@example.org", c, act); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, other := range []string{"ada@example.org", "off@example.org"} {
		if err := w.accounts.DeleteUser(w.ctx, other, act); err != nil {
			t.Errorf("%s: %v", other, err)
		}
	}
}

func TestTheLastAdminIsJudgedByWhatOthersHaveJustDone(t *testing.T) {
	t.Parallel()
	for what := range (&world{}).lastAdminChanges("") {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.user("a@example.org", account.Admin)
			w.user("b@example.org", account.Admin)
			w.user("c@example.org", account.Member)
			err := w.behind(w.lastAdminChanges("b@example.org")[what], `UPDATE users SET role = 'member' WHERE email = 'a@example.org'`)
			if !errors.Is(err, account.ErrLastAdmin) {
				t.Errorf("while the other admin was demoted: %v, want last_admin", err)
			}
			// c was found as a member, and is the last admin when its turn comes.
			err = w.behind(w.lastAdminChanges("c@example.org")[what], `UPDATE users SET role = CASE email WHEN 'c@example.org' THEN 'admin' ELSE 'member' END`)
			if !errors.Is(err, account.ErrLastAdmin) {
				t.Errorf("while they were made the only admin: %v, want last_admin", err)
			}
		})
	}
}

func TestAdminsAreLockedInOneOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.user("a@example.org", account.Admin), w.user("b@example.org", account.Admin)
	if a.ID.String() > b.ID.String() {
		a, b = b, a
	}
	// The change of the first admin waits for the first admin, and has not locked the second one meanwhile: whoever
	// holds the first can go on to it.
	tx, err := w.pool.Begin(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(w.ctx, `SELECT FROM users WHERE id = $1 FOR UPDATE`, a.ID); err != nil {
		t.Fatal(err)
	}
	done := w.waiting(w.lastAdminChanges(a.Email)["demoted"])
	if _, err := tx.Exec(w.ctx, `SELECT FROM users WHERE id = $1 FOR UPDATE NOWAIT`, b.ID); err != nil {
		t.Errorf("the second admin was locked before the first: %v", err)
	}
	if err := tx.Rollback(w.ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestTwoAdminsWhoDemoteEachOtherLeaveOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.user("a@example.org", account.Admin)
	w.user("b@example.org", account.Admin)
	for range 20 {
		errs := make([]error, 2)
		var wg sync.WaitGroup
		for i, ref := range []string{"a@example.org", "b@example.org"} {
			wg.Go(func() { errs[i] = w.lastAdminChanges(ref)["demoted"]() })
		}
		wg.Wait()
		if (errs[0] == nil) == (errs[1] == nil) || !errors.Is(errors.Join(errs...), account.ErrLastAdmin) {
			t.Fatalf("%v and %v, want one success and one last_admin", errs[0], errs[1])
		}
		w.exec(`UPDATE users SET role = 'admin'`)
	}
}

func TestTheLastUseOfATokenIsWrittenAtMostOnceAMinute(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.user("ada@example.org", account.Member)
	hash := sha256.Sum256([]byte("token"))
	if _, err := w.accounts.CreateToken(w.ctx, "ada@example.org", "", hash, time.Hour, act); err != nil {
		t.Fatal(err)
	}
	used := func() time.Time {
		t.Helper()
		if _, err := w.accounts.Authenticate(w.ctx, hash); err != nil {
			t.Fatal(err)
		}
		var at time.Time
		w.scalar(&at, `SELECT last_used_at FROM api_tokens`)
		return at
	}
	first := used()
	if again := used(); !again.Equal(first) {
		t.Errorf("written at %v, and again at %v", first, again)
	}
	w.exec(`UPDATE api_tokens SET last_used_at = now() - interval '61 seconds'`)
	if later := used(); !later.After(first) {
		t.Errorf("not written after a minute: %v", later)
	}
}
