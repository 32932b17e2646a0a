package postgres_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/mosaicstack/gateway/internal/account"
	"github.com/mosaicstack/gateway/internal/postgres"
)

// Values are sealed here as 0x01, the id of the key in four bytes, and a word.
const (
	underOld   = `'\x0100000001'::bytea || 'good'`
	unreadable = `'\x0100000001'::bytea || 'bad'`
	primary    = 2
)

func TestUnreadableValuesKeepNobodyElseWaiting(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ada := w.user("ada@example.org", account.Member)
	// The bad ones come first, and are more than a run rewrites.
	w.exec(`INSERT INTO credentials (id, owner_id, name, secret_sealed)
		SELECT ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid, $1, 'bad', `+unreadable+` FROM generate_series(1, 25) n`, ada.ID)
	w.exec(`INSERT INTO credentials (id, owner_id, name, secret_sealed)
		SELECT ('10000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid, $1, 'good', `+underOld+` FROM generate_series(1, 15) n`, ada.ID)
	w.exec(`WITH p AS (INSERT INTO federation_peers (name) VALUES ('home') RETURNING id)
		INSERT INTO federation_credentials (peer_id, client_key_pem) SELECT id, ` + underOld + ` FROM p, generate_series(1, 3)`)
	bad := errors.New("cannot be opened")
	sealed := &postgres.Sealed{DB: w.db}
	run := func() (int, error) {
		return sealed.Reseal(w.ctx, primary, 10, func(old []byte, _, _, id string) ([]byte, error) {
			if string(old[5:]) == "bad" {
				return nil, errors.Join(bad, errors.New(id))
			}
			return append([]byte{1, 0, 0, 0, primary}, old[5:]...), nil
		})
	}
	for i, want := range []int{10, 8, 0} { // the other five of the first column, and the second column's
		n, err := run()
		if n != want || !errors.Is(err, bad) {
			t.Fatalf("run %d: %d and %v, want %d and the bad ones", i+1, n, err, want)
		}
		if text := err.Error(); strings.Count(text, "cannot be opened") != 5 || !strings.Contains(text, "and 20 more of credentials.secret_sealed") {
			t.Errorf("run %d names too many or too few: %s", i+1, text)
		}
	}
	rows, err := sealed.SealedRows(w.ctx)
	if err != nil || rows[1] != 25 || rows[primary] != 18 {
		t.Errorf("rows under each key: %v, %v", rows, err)
	}
}
