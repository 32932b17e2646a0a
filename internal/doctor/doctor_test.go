package doctor_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mosaicstack/gateway/internal/doctor"
	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/seal"
)

// stuck answers nothing, and heeds no deadline.
type stuck struct{ released chan struct{} }

func (stuck) Model() string { return "stuck" }

func (s stuck) Query(context.Context, string) ([]float32, error) {
	<-s.released
	return nil, nil
}

// stored is a database that is there, with sealed values of its own.
type stored struct {
	doctor.Schema
	sealed func(ctx context.Context, look func(doctor.Sealed) error) error
	away   error
}

func (s stored) Server(context.Context) (doctor.Server, error) {
	now := time.Now()
	return doctor.Server{Version: "15.1", VersionNumber: 150001, Settings: map[string]string{"fsync": "on", "full_page_writes": "on"}, Clock: now, Asked: now, Answered: now, Most: 100, Extension: "1"}, s.away
}

func (stored) Migrations(context.Context) (doctor.Migrations, error) { return doctor.Migrations{}, nil }
func (stored) Vector(context.Context) error                          { return nil }

func (s stored) Sealed(ctx context.Context, look func(doctor.Sealed) error) error {
	return s.sealed(ctx, look)
}
func (stored) Credentials(context.Context) ([]doctor.Credential, error) { return nil, nil }
func (stored) AuditState(context.Context, time.Time) (doctor.AuditState, error) {
	return doctor.AuditState{}, nil
}

func derived(t *testing.T, secret string) *seal.Keyring {
	t.Helper()
	ring, err := seal.Derive([]byte(strings.Repeat(secret, 32)))
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

func finding(t *testing.T, r doctor.Report, name string) doctor.Finding {
	t.Helper()
	for _, f := range r.Checks {
		if f.Name == name {
			return f
		}
	}
	t.Fatalf("no %s in %+v", name, r)
	return doctor.Finding{}
}

func TestAPartThatHangsCostsItsOwnAnswerOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begun, part := time.Now(), stuck{make(chan struct{})}
		defer close(part.released)
		s := stored{sealed: func(context.Context, func(doctor.Sealed) error) error { return nil }}
		r := doctor.Run(t.Context(), doctor.Config{Now: time.Now, Embedder: part, Schema: s, Rows: s})
		if took := time.Since(begun); took > 12*time.Second {
			t.Errorf("it took %v", took)
		}
		if f := finding(t, r, doctor.EmbeddingsEndpoint); f.Status != doctor.Fail || !strings.Contains(f.Detail, "no answer within 10s") {
			t.Errorf("%+v", f)
		}
		if f := finding(t, r, doctor.DatabaseVector); f.Status != doctor.OK || r.Failed() != 1 {
			t.Errorf("%+v", r)
		}
	})
}

// broken is a part that a check does not get along with.
type broken struct{ quick }

func (broken) Query(context.Context, string) ([]float32, error) { panic("broken\n") }

func TestACheckThatBreaksHidesNothing(t *testing.T) {
	t.Parallel()
	s := stored{}
	r := doctor.Run(t.Context(), doctor.Config{Now: time.Now, Embedder: broken{}, Schema: s})
	if f := finding(t, r, doctor.EmbeddingsEndpoint); f.Status != doctor.Fail || f.Detail != "the check itself broke: broken" {
		t.Errorf("%+v", f)
	}
	if f := finding(t, r, doctor.DatabaseVector); f.Status != doctor.OK {
		t.Errorf("%+v", f)
	}
}

// What is skipped names the root of it, not the check in between.
func TestWhatIsSkippedNamesTheRoot(t *testing.T) {
	t.Parallel()
	s := stored{away: &fault.Fault{Kind: fault.Unavailable, Code: "database_unavailable", Detail: "away", Hint: "start it"}}
	ring := derived(t, "a")
	r := doctor.Run(t.Context(), doctor.Config{Now: time.Now, Embedder: quick{}, Schema: s, Rows: s, Keys: func() (*seal.Keyring, error) { return ring, nil }})
	for _, name := range []string{doctor.DatabaseVersion, doctor.DatabaseMigrations, doctor.KeysetOpens, doctor.AuditBacklog} {
		if f := finding(t, r, name); f.Because != doctor.DatabaseReachable || f.Status != doctor.Warn || !strings.HasPrefix(f.Detail, "skipped because database.reachable") {
			t.Errorf("%+v", f)
		}
	}
	if r.Failed() != 1 {
		t.Errorf("%d failures", r.Failed())
	}
}

type quick struct{}

func (quick) Model() string                                    { return "quick" }
func (quick) Query(context.Context, string) ([]float32, error) { return []float32{1}, nil }

// A million values that do not open are one finding, with the first few by name.
func TestManyUnreadableValuesAreNamedByTheFirst(t *testing.T) {
	t.Parallel()
	ours, theirs := derived(t, "a"), derived(t, "b")
	s := stored{sealed: func(_ context.Context, look func(doctor.Sealed) error) error {
		for i := range 1000 {
			row := string(rune('a' + i%26))
			value, err := theirs.Seal([]byte("x"), "credentials", "secret_sealed", row)
			if i == 0 {
				value, err = ours.Seal([]byte("x"), "credentials", "secret_sealed", row)
			}
			if err != nil {
				return err
			}
			if err := look(doctor.Sealed{Table: "credentials", Column: "secret_sealed", RowID: row, Value: value}); err != nil {
				return err
			}
		}
		return nil
	}}
	r := doctor.Run(t.Context(), doctor.Config{Now: time.Now, Embedder: quick{}, Schema: s, Rows: s, Keys: func() (*seal.Keyring, error) { return ours, nil }})
	f := finding(t, r, doctor.KeysetOpens)
	if f.Status != doctor.Fail || !strings.Contains(f.Detail, "999 of 1000 sealed values") || !strings.Contains(f.Detail, "and 996 more") || len(f.Detail) > 500 {
		t.Errorf("%+v", f)
	}
}

// A walk that the deadline ends says how far it came, and does not claim that all is well.
func TestAWalkThatTakesTooLongIsNoAllClear(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ring := derived(t, "a")
		s := stored{sealed: func(ctx context.Context, look func(doctor.Sealed) error) error {
			value, err := ring.Seal([]byte("x"), "t", "c", "r")
			for err == nil {
				if err = look(doctor.Sealed{Table: "t", Column: "c", RowID: "r", Value: value}); err == nil {
					select {
					case <-ctx.Done():
						err = ctx.Err()
					case <-time.After(time.Second):
					}
				}
			}
			return err
		}}
		r := doctor.Run(t.Context(), doctor.Config{Now: time.Now, Embedder: quick{}, Schema: s, Rows: s, Keys: func() (*seal.Keyring, error) { return ring, nil }})
		if f := finding(t, r, doctor.KeysetOpens); f.Status != doctor.Warn || !strings.Contains(f.Detail, "sealed values opened, then the time was up") {
			t.Errorf("%+v", f)
		}
	})
}

// What others say reaches a terminal and a ticket: it is one line, printable and bounded.
func TestForeignTextIsTamed(t *testing.T) {
	t.Parallel()
	s := stored{away: errors.New("no\x1b[31m\nway\r" + strings.Repeat("x", 5000))}
	f := finding(t, doctor.Run(t.Context(), doctor.Config{Now: time.Now, Embedder: quick{}, Schema: s}), doctor.DatabaseReachable)
	if strings.ContainsAny(f.Detail, "\x1b\n\r") || len(f.Detail) > 400 || !strings.HasPrefix(f.Detail, "no [31m way") {
		t.Errorf("%q", f.Detail)
	}
}
