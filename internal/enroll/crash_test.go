package enroll_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mosaicstack/gateway/internal/ca/embedded"
	"github.com/mosaicstack/gateway/internal/enroll"
	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/identity"
	"github.com/mosaicstack/gateway/internal/postgres"
	"github.com/mosaicstack/gateway/internal/upkeep"
)

// childVariable makes the test binary a gateway that redeems one token and may be killed on the way.
const childVariable = "MOSAIC_TEST_ENROLL_CHILD"

// tortureVariable makes the storms long: make torture sets it.
const tortureVariable = "MOSAIC_TORTURE"

func rounds(few, many int) int {
	if os.Getenv(tortureVariable) != "" {
		return many
	}
	return few
}

// order is what a child is told on stdin, outcome what it says on stdout.
type order struct {
	DSN, CADir, Token, Key string
	CSR                    []byte
	KillAt                 string // the step at which it ends itself; empty: never
}

type outcome struct {
	Serial, Code string
}

// childName is what the server knows a child by.
const childName = "child"

// child redeems one token as a gateway would, in a process that ends itself at the ordered step.
func child() int {
	var o order
	if err := json.NewDecoder(os.Stdin).Decode(&o); err != nil {
		return 3
	}
	ctx := context.Background()
	conf, err := pgxpool.ParseConfig(o.DSN)
	if err != nil {
		return 4
	}
	conf.ConnConfig.RuntimeParams["application_name"] = childName
	pool, err := pgxpool.NewWithConfig(ctx, conf)
	if err != nil {
		return 5
	}
	authority, err := embedded.Open(ctx, embedded.Config{Dir: o.CADir, Name: "test", Arc: identity.DefaultArc, Now: time.Now})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 6
	}
	fmt.Println("ready")
	issued, err := service(postgres.New(pool), authority, func(step string) {
		if step == o.KillAt {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // the signal arrives on its own time
		}
	}).Redeem(ctx, enroll.Request{Token: o.Token, CSR: o.CSR, IdempotencyKey: o.Key, RequestID: "child"})
	out := outcome{Serial: issued.SerialNumber}
	if err != nil {
		out.Code = fault.From(err).Code
	}
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		return 7
	}
	return 0
}

// redeemIn runs a child. killAfter, when it is not zero, kills it from outside that long after it is ready.
func (w *world) redeemIn(o order, killAfter time.Duration) (outcome, bool) {
	w.t.Helper()
	o.DSN, o.CADir = w.conf.ConnString(), w.caDir
	doc, err := json.Marshal(o)
	if err != nil {
		w.t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"=1")
	cmd.Stdin = bytes.NewReader(doc)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	var ready string
	if _, err := fmt.Fscanln(stdout, &ready); err != nil || ready != "ready" {
		_ = cmd.Wait()
		w.t.Fatalf("child did not get ready: %v %s", err, stderr.String())
	}
	if killAfter > 0 {
		timer := time.AfterFunc(killAfter, func() { _ = cmd.Process.Kill() })
		defer timer.Stop()
	}
	var out outcome
	decoded := json.NewDecoder(stdout).Decode(&out)
	err = cmd.Wait()
	if killed := cmd.ProcessState.Sys().(syscall.WaitStatus).Signaled(); killed {
		return outcome{}, true
	}
	if err != nil || decoded != nil {
		w.t.Fatalf("child: %v, %v %s", err, decoded, stderr.String())
	}
	return out, false
}

// letTimePass ends every lease, as half a minute would. The server is done by then with what a killed child has sent.
func (w *world) letTimePass() {
	w.t.Helper()
	for len(w.texts(`SELECT pid::text FROM pg_stat_activity WHERE datname = current_database() AND application_name = '`+childName+`'`)) > 0 {
		runtime.Gosched()
	}
	for _, sql := range []string{
		`UPDATE federation_enrollment_tokens SET claim_lease_until = now() WHERE claim_lease_until > now()`,
		`UPDATE federation_sign_attempts SET lease_until = now() WHERE lease_until > now()`,
	} {
		if _, err := w.pool.Exec(w.t.Context(), sql); err != nil {
			w.t.Fatal(err)
		}
	}
}

// sweep does the upkeep that follows, and gives the serials that the CA's list then holds.
func (w *world) sweep() []string {
	w.t.Helper()
	authority := w.authority()
	defer authority.Close() //nolint:errcheck // the next one opens it anew
	keeper := upkeep.New(upkeep.Config{
		Store: &postgres.Upkeep{DB: w.db}, Sealed: &postgres.Sealed{DB: w.db}, Ring: w.ring, CA: authority, Log: slog.New(slog.DiscardHandler),
		Checkpoint: func(context.Context) error { return nil }, // has tests of its own
	})
	for _, task := range keeper.Tasks() {
		if err := task.Run(w.t.Context()); err != nil {
			w.t.Fatalf("%s: %v", task.Name, err)
		}
	}
	der, err := authority.CRL(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	crl, err := x509.ParseRevocationList(der)
	if err != nil {
		w.t.Fatal(err)
	}
	var serials []string
	for _, e := range crl.RevokedCertificateEntries {
		serials = append(serials, e.SerialNumber.String())
	}
	return serials
}

// The promise of a crash (spec 7): afterwards the token is either spent with its certificate in the registry, or
// usable; and a certificate that the registry does not hold opens nothing and ends on the CA's list.
func (w *world) afterCrash(o order, what string) {
	w.t.Helper()
	o.KillAt = ""
	w.letTimePass()
	again, killed := w.redeemIn(o, 0)
	if killed || again.Code != "" {
		w.t.Errorf("%s: the token is lost: %q", what, again.Code)
		return
	}
	registered := w.texts(`SELECT c.serial FROM federation_certificates c JOIN federation_enrollment_tokens t ON t.spent_fingerprint = c.fingerprint`)
	if len(registered) == 0 || !slices.Contains(registered, again.Serial) {
		w.t.Errorf("%s: the answer's certificate %s is not in the registry %v", what, again.Serial, registered)
	}
	w.letTimePass()
	crl := w.sweep()
	for _, serial := range w.texts(`SELECT a.serial FROM federation_sign_attempts a WHERE NOT EXISTS (SELECT FROM federation_certificates c WHERE c.serial = a.serial)`) {
		if !slices.Contains(crl, serial) {
			w.t.Errorf("%s: the orphan %s is not on the CA's list", what, serial)
		}
	}
	for _, serial := range registered {
		if slices.Contains(crl, serial) {
			w.t.Errorf("%s: the good certificate %s was revoked", what, serial)
		}
	}
	if open := w.texts(`SELECT serial FROM federation_sign_attempts WHERE outcome NOT IN ('recorded', 'revoked', 'refused')`); len(open) > 0 {
		w.t.Errorf("%s: attempts without an end: %v", what, open)
	}
}

func TestKilledAtEveryStep(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"claimed", "signed", "verified", "activated"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			for range rounds(2, 25) {
				g, token := w.granted()
				o := order{Token: token, CSR: newCSR(t), Key: "k", KillAt: step}
				if out, killed := w.redeemIn(o, 0); !killed {
					t.Fatalf("the child was to end at %s, and said %+v", step, out)
				}
				if n := len(w.live(g)); n != map[bool]int{true: 1}[step == "activated"] {
					t.Errorf("killed at %s: %d certificates", step, n)
				}
				w.afterCrash(o, "killed at "+step)
				if n := len(w.live(g)); n != 1 {
					t.Errorf("%d certificates for one token", n)
				}
			}
		})
	}
}

func TestKilledAtAnyInstant(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	survived := 0
	for range rounds(8, 75) {
		g, token := w.granted()
		o := order{Token: token, CSR: newCSR(t), Key: "k"}
		after := time.Duration(1 + rand.Int64N(int64(60*time.Millisecond)))
		if _, killed := w.redeemIn(o, after); !killed {
			survived++
		}
		w.afterCrash(o, fmt.Sprintf("killed after %s", after))
		if n := len(w.live(g)); n != 1 {
			t.Errorf("%d certificates for one token", n)
		}
	}
	t.Logf("%d children finished before they were killed", survived)
}
