package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mosaicstack/gateway/internal/account"
	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/config"
	"github.com/mosaicstack/gateway/internal/devstack"
	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/postgres"
	"github.com/mosaicstack/gateway/internal/postgres/pgtest"
	"github.com/mosaicstack/gateway/internal/resource"
	"github.com/mosaicstack/gateway/internal/scope"
	"github.com/mosaicstack/gateway/internal/seal"
	"github.com/mosaicstack/gateway/internal/upkeep"
)

var pg = pgtest.New(func(ctx context.Context, c *pgxpool.Config) error {
	return postgres.Migrate(ctx, c, slog.New(slog.DiscardHandler))
}).With("fsync", "on").With("full_page_writes", "on") // doctor looks at them

func TestMain(m *testing.M) { os.Exit(pg.Main(m)) }

// vault is a keyring over a database with sealed rows.
type vault struct {
	t    *testing.T
	k    *keyring
	pool *pgxpool.Pool
	now  time.Time
	verb []string
}

func newVault(t *testing.T, rows int) *vault {
	t.Helper()
	dir, err := devstack.OpenDir(filepath.Join(t.TempDir(), "gw"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dir.Close() })
	v := &vault{t: t, pool: pg.Pool(t), now: time.Now()}
	if v.k, err = openKeyring(dir, config.Config{}, func() time.Time { return v.now }); err != nil {
		t.Fatal(err)
	}
	db := postgres.New(v.pool)
	v.k.sealed = &postgres.Sealed{DB: db}
	v.k.record = func(_ context.Context, e audit.Event) error { v.verb = append(v.verb, e.Verb); return nil }
	act := audit.Act{RequestID: "test", Actor: "test"}
	if _, err := (&postgres.Accounts{DB: db}).CreateUser(t.Context(), account.User{Email: "a@example.org", Role: account.Member}, act); err != nil {
		t.Fatal(err)
	}
	i := 0
	store := &postgres.Resources{DB: db, Seal: v.k.ring}
	if _, err := store.Import(t.Context(), scope.Credentials, "a@example.org", "", func() (resource.Row, error) {
		if i == rows {
			return resource.Row{}, io.EOF
		}
		i++
		doc, err := json.Marshal(map[string]string{"name": "c", "secret": fmt.Sprintf("secret %d", i)})
		if err != nil {
			return resource.Row{}, err
		}
		return resource.ParseRow(scope.Credentials, doc)
	}, act); err != nil {
		t.Fatal(err)
	}
	return v
}

func (v *vault) keeper() *upkeep.Keeper {
	return upkeep.New(upkeep.Config{Sealed: v.k.sealed, Ring: v.k.ring, Log: slog.New(slog.DiscardHandler)})
}

// opened reads every secret through the present ring.
func (v *vault) opened() (secrets map[string]bool, refused int) {
	v.t.Helper()
	rows, err := v.pool.Query(v.t.Context(), `SELECT id::text, secret_sealed FROM credentials`)
	if err != nil {
		v.t.Fatal(err)
	}
	defer rows.Close()
	secrets = map[string]bool{}
	for rows.Next() {
		var id string
		var sealed []byte
		if err := rows.Scan(&id, &sealed); err != nil {
			v.t.Fatal(err)
		}
		plain, err := v.k.ring.Open(sealed, "credentials", "secret_sealed", id)
		if err != nil {
			refused++
			continue
		}
		secrets[string(plain)] = true
	}
	return secrets, refused
}

func TestRotationLosesNothingAndRetiresOnlyWhatNoRowNeeds(t *testing.T) {
	t.Parallel()
	const rows = 250
	v := newVault(t, rows)
	old := v.k.ring.Primary()
	var before time.Time
	if err := v.pool.QueryRow(t.Context(), `SELECT max(updated_at) FROM credentials`).Scan(&before); err != nil {
		t.Fatal(err)
	}
	if err := v.k.Rotate(t.Context(), audit.Act{}); err != nil {
		t.Fatal(err)
	}
	if v.k.ring.Primary() == old {
		t.Fatal("the primary key is still the old one")
	}
	if got, refused := v.opened(); len(got) != rows || refused > 0 {
		t.Fatalf("after rotation %d of %d secrets open", len(got), rows)
	}
	v.now = v.now.Add(2 * settle)
	if err := v.k.Retire(t.Context(), old, audit.Act{}); !errors.Is(err, seal.ErrKeyInUse) {
		t.Fatalf("retired while rows need it: %v", err)
	}

	// Two replicas at once.
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			if _, err := v.keeper().Reseal(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if _, err := v.keeper().Reseal(t.Context()); err != nil { // what one had locked and the other passed over
		t.Fatal(err)
	}
	if got, refused := v.opened(); len(got) != rows || refused > 0 {
		t.Fatalf("after re-sealing %d of %d secrets open", len(got), rows)
	}
	var after time.Time
	if err := v.pool.QueryRow(t.Context(), `SELECT max(updated_at) FROM credentials`).Scan(&after); err != nil {
		t.Fatal(err)
	}
	if !after.Equal(before) {
		t.Error("re-sealing shows in updated_at")
	}

	if err := v.k.Retire(t.Context(), v.k.ring.Primary(), audit.Act{}); !errors.Is(err, seal.ErrKeyInUse) {
		t.Errorf("the primary was retired: %v", err)
	}
	if err := v.k.Retire(t.Context(), old, audit.Act{}); err != nil {
		t.Fatalf("retire: %v", err)
	}
	keys, err := v.k.Show(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(keys) != 2 || keys[0].Enabled || keys[0].Rows != 0 || !keys[1].Primary || keys[1].Rows != rows {
		t.Errorf("keys %+v", keys)
	}
	// A restart reads the same keyset.
	doc, err := os.ReadFile(v.k.path)
	if err != nil {
		t.Fatal(err)
	}
	again, err := seal.Parse(doc)
	if err != nil {
		t.Fatal(err)
	}
	v.k.ring.Replace(again)
	if got, _ := v.opened(); len(got) != rows {
		t.Errorf("after a restart %d of %d secrets open", len(got), rows)
	}
	if fmt.Sprint(v.verb) != "[keyring.rotate keyring.retire]" {
		t.Errorf("on record: %v", v.verb)
	}
}

func TestAKeyStaysForAMinuteAfterRotation(t *testing.T) {
	t.Parallel()
	v := newVault(t, 0)
	old := v.k.ring.Primary()
	if err := v.k.Rotate(t.Context(), audit.Act{}); err != nil {
		t.Fatal(err)
	}
	if err := v.k.Retire(t.Context(), old, audit.Act{}); !errors.Is(err, seal.ErrKeyInUse) {
		t.Errorf("retired at once: %v", err)
	}
}

func TestOnlyAKeyThatIsThereIsRetired(t *testing.T) {
	t.Parallel()
	v := newVault(t, 0)
	unknown := v.k.ring.Primary() + 1
	refused := func(when string, id uint32, want *fault.Fault) {
		t.Helper()
		if err := v.k.Retire(t.Context(), id, audit.Act{}); fault.From(err).Code != want.Code {
			t.Errorf("%s: %v, want %s", when, err, want.Code)
		}
	}
	refused("a key that is not there", unknown, seal.ErrKeyUnknown)
	refused("the primary", v.k.ring.Primary(), seal.ErrKeyInUse)
	if err := v.k.Rotate(t.Context(), audit.Act{}); err != nil {
		t.Fatal(err)
	}
	refused("a key that is not there, just after a rotation", unknown, seal.ErrKeyUnknown)
	if len(v.verb) != 1 {
		t.Errorf("on record: %v, want the rotation alone", v.verb)
	}
}

// A key that leaves the keyset takes with it what its MACs are made of: whoever keeps the keys elsewhere is told to
// disable it.
func TestKeysOfTheEnvironmentAreToBeDisabledAndNotRemoved(t *testing.T) {
	t.Parallel()
	k := &keyring{ring: newVault(t, 0).k.ring, now: time.Now}
	for _, err := range []error{k.Rotate(t.Context(), audit.Act{}), k.Retire(t.Context(), 1, audit.Act{})} {
		f := fault.From(err)
		if f.Code != errKeyringExternal.Code || !strings.Contains(f.Hint, "DISABLED") || strings.Contains(f.Hint, "remove the old") {
			t.Errorf("%s: %s", f.Code, f.Hint)
		}
	}
}

func TestAMovedOrEditedSecretStopsNobodyElse(t *testing.T) {
	t.Parallel()
	const rows = 250
	v := newVault(t, rows)
	if _, err := v.pool.Exec(t.Context(), `UPDATE credentials SET secret_sealed = (SELECT secret_sealed FROM credentials ORDER BY id DESC LIMIT 1)
		WHERE id = (SELECT id FROM credentials ORDER BY id LIMIT 1)`); err != nil {
		t.Fatal(err)
	}
	if err := v.k.Rotate(t.Context(), audit.Act{}); err != nil {
		t.Fatal(err)
	}
	if n, err := v.keeper().Reseal(t.Context()); n != rows-1 || !errors.Is(err, seal.ErrUnreadable) {
		t.Errorf("%d re-sealed, %v; want the %d good ones and the bad one named", n, err, rows-1)
	}
	if got, refused := v.opened(); len(got) != rows-1 || refused != 1 {
		t.Errorf("%d open, %d refused", len(got), refused)
	}
}

func TestTheSourceOfTheKeysIsHeld(t *testing.T) {
	t.Parallel()
	_, doc, err := seal.Generate()
	if err != nil {
		t.Fatal(err)
	}
	none := config.Config{}
	secret := config.Config{AuthSecret: seal.NewSecret("0123456789abcdef0123456789abcdef")}
	keyset := config.Config{Keyset: seal.NewSecret(string(doc))}
	for name, tt := range map[string]struct {
		first, second config.Config
		want          error
	}{
		"the directory twice":        {none, none, nil},
		"the secret twice":           {secret, secret, nil},
		"the keyset twice":           {keyset, keyset, nil},
		"the directory, then secret": {none, secret, errSealSource},
		"the secret, then nothing":   {secret, none, errSealSource},
		"a short secret":             {none, config.Config{AuthSecret: seal.NewSecret("short")}, seal.ErrSecretTooShort},
		"a broken keyset":            {none, config.Config{Keyset: seal.NewSecret("{}")}, seal.ErrKeysetInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, err := devstack.OpenDir(filepath.Join(t.TempDir(), "gw"))
			if err != nil {
				t.Fatal(err)
			}
			defer dir.Close() //nolint:errcheck // the test is over
			first, err := openKeyring(dir, tt.first, time.Now)
			if err != nil {
				t.Fatal(err)
			}
			sealed, err := first.ring.Seal([]byte("s"), "t", "c", "r")
			if err != nil {
				t.Fatal(err)
			}
			second, err := openKeyring(dir, tt.second, time.Now)
			if tt.want != nil {
				if !errors.Is(err, tt.want) {
					t.Errorf("%v, want %v", err, tt.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := second.ring.Open(sealed, "t", "c", "r"); err != nil {
				t.Errorf("the second start cannot open what the first sealed: %v", err)
			}
		})
	}
}
