// Package doctor looks at everything a gateway stands on and says what is wrong with it, and what to do.
//
// There is one check for each thing that can be wrong, under a name that never changes (names.go). A check that
// stands on another one waits for it: a database that is away is one finding, and what cannot be told without it is
// skipped with the reason. Checks run at the same time, each within a deadline of its own, so a part that hangs costs
// its own answer only.
//
// Two checks leave a trace: the CA signs a certificate that no registry holds, which is revoked at once, and the
// federation listener sees handshakes that end early, which it counts as failed ones. Nothing else is written.
package doctor

import (
	"context"
	"crypto/x509"
	"fmt"
	"math/big"
	"sync"
	"time"

	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/ca"
	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/identity"
	"github.com/mosaicstack/gateway/internal/seal"
)

// Status is how a check ended.
type Status string

// The three ways. Only Fail is a reason not to serve.
const (
	OK   Status = "ok"
	Warn Status = "warn" // works, and somebody should look; or not looked at, because of a failure elsewhere
	Fail Status = "fail"
)

// Finding is what one check found.
type Finding struct {
	Name   string `json:"name"`
	Status Status `json:"status"`
	Detail string `json:"detail"` // the evidence
	Remedy string `json:"remedy"` // empty when nothing has to be done

	// Because names the check whose failure kept this one from looking; empty for a check that did look.
	Because string `json:"-"`
}

// Report is every finding, in the order of the names.
type Report struct {
	Checks []Finding `json:"checks"`
}

// Failed counts the findings of status Fail.
func (r Report) Failed() int {
	n := 0
	for _, f := range r.Checks {
		if f.Status == Fail {
			n++
		}
	}
	return n
}

// Server is what a PostgreSQL server says of itself.
type Server struct {
	Version         string // as the server writes it
	VersionNumber   int    // 150004 is 15.4
	Standby         bool
	Settings        map[string]string // fsync, full_page_writes
	Clock           time.Time         // of the server, when it answered
	Asked, Answered time.Time         // by the monotonic clock of this process
	Used, Most      int               // connections of all clients
	Extension       string            // version of pgvector in this database; empty when it is not created
	Available       string            // version of pgvector that could be created; empty when it is not installed
}

// Migrations is how the schema differs from what this binary has.
type Migrations struct {
	Pending []string // ours that the database has not
	Ahead   []int64  // the database's that we do not know
	Jobs    bool     // the job queue's tables are older than its code
}

// Schema looks at a database server and what is set up on it.
type Schema interface {
	// Server connects anew. Its error is a fault that says what is in the way.
	Server(ctx context.Context) (Server, error)
	Migrations(ctx context.Context) (Migrations, error)
	// Vector writes a vector of three numbers and reads it back. Nothing of it stays.
	Vector(ctx context.Context) error
}

// Home tells whether a database may be served from. Each error is a fault.
type Home interface {
	CheckHome(ctx context.Context) error          // one that was restored has to be accepted first
	CheckTierMigration(ctx context.Context) error // a copy of another tier has to be finished first
}

// Sealed is one sealed value at its place.
type Sealed struct {
	Table, Column, RowID string
	Value                []byte
}

// Credential is one that this gateway holds at another.
type Credential struct {
	ID, Peer            string
	NotBefore, NotAfter time.Time
	Attempts            int // at renewing it that failed, one after the other
	Error               string
}

// AuditState is what tells whether the audit log keeps up.
type AuditState struct {
	Waiting    int64     // rows that are in no log yet
	Oldest     time.Time // of them
	Partitions []string  // months from this one on that have none, as 2026-11
	Astray     int64     // rows in the default partition, counted to a bound
}

// Rows reads what the gateway has stored.
type Rows interface {
	// Sealed gives every sealed value to look, until look returns an error.
	Sealed(ctx context.Context, look func(Sealed) error) error
	Credentials(ctx context.Context) ([]Credential, error)
	AuditState(ctx context.Context, now time.Time) (AuditState, error)
}

// Valkey is what a Valkey says of itself.
type Valkey struct {
	Version  string
	Role     string
	Save     string // the setting; empty is none
	AOF      bool
	Policy   string // maxmemory-policy
	Told     bool   // whether CONFIG GET was allowed: without it Save is not known
	Guarded  bool   // a password, or a socket
	Loopback bool
}

// Cache looks at a Valkey.
type Cache interface {
	// Examine fails with a fault.
	Examine(ctx context.Context) (Valkey, error)
	// Spend runs the script of the limits, on a bucket that nobody uses.
	Spend(ctx context.Context) error
}

// Authority is a CA that doctor may ask more than a use case does.
type Authority interface {
	// Survey asks the CA for its provisioners.
	Survey(ctx context.Context) (ca.Survey, error)
	IssueLeaf(ctx context.Context, req ca.LeafRequest) (ca.Chain, error)
	// IssueLeafWithout asks with a token that lacks a claim, which no CA of ours must sign.
	IssueLeafWithout(ctx context.Context, req ca.LeafRequest, claim string) (ca.Chain, error)
	IssueServer(ctx context.Context, req ca.ServerRequest) (ca.Chain, error)
	Revoke(ctx context.Context, serial *big.Int, reason string) error
	CRL(ctx context.Context) ([]byte, error)
}

// Embedder turns a text into a vector.
type Embedder interface {
	Model() string
	Query(ctx context.Context, text string) ([]float32, error)
}

// Running is what is known of a gateway on this machine.
type Running struct {
	Up    bool
	Where string // the socket that was asked
}

// Machine is what doctor asks the operating system.
type Machine struct {
	Dir        string                            // what the gateway writes to
	MinFree    uint64                            // bytes below which the gateway cannot work
	LowFree    uint64                            // bytes below which somebody should look
	Free       func(dir string) (uint64, error)  // bytes that are left for us
	Writable   func(dir string) error            // nil when we may write there, or make it
	OpenFiles  func() (uint64, error)            // how many files a process of ours may have open
	Running    func(ctx context.Context) Running // whether a gateway runs here
	Incomplete func() error                      // of the local tier: what its directory has lost; nil without one
}

// Config is what there is to look at. What is nil does not belong to this gateway and has no findings.
type Config struct {
	Problems []fault.Problem // with the settings, by name
	Local    bool            // the tier that starts its parts itself
	Now      func() time.Time

	Keys   func() (*seal.Keyring, error)
	Schema Schema
	Home   Home
	Rows   Rows
	Ledger audit.Ledger
	Valkey Cache

	Roots     func() ([]*x509.Certificate, error) // the pinned ones
	Issuer    func() (*x509.Certificate, error)   // of the local tier: what signs; else the CA is asked
	Authority func(roots []*x509.Certificate) (Authority, error)
	Profile   identity.Profile

	PublicURL     string
	PublicRoots   *x509.CertPool // trusted for PublicURL; nil: the machine's
	FederationURL string
	OwnListener   string // HOST:PORT of the federation listener on this machine, when one runs
	// ListenerFiles gives the certificate of the federation listener when the settings name files; nil otherwise.
	ListenerFiles func() ([]*x509.Certificate, error)

	Embedder Embedder // nil: there is none
	Machine  Machine

	Within time.Duration // for a check; zero: 10 s. The walk over all sealed rows has six times as long
}

const defaultWithin = 10 * time.Second

// Run makes every check that c has something for.
func Run(ctx context.Context, c Config) Report {
	if c.Within <= 0 {
		c.Within = defaultWithin
	}
	e := &examination{Config: c}
	checks := e.checks()
	results := make([]Finding, len(checks))
	done := make(map[string]chan struct{}, len(checks))
	place := make(map[string]int, len(checks))
	for i, k := range checks {
		done[k.name], place[k.name] = make(chan struct{}), i
	}
	var wg sync.WaitGroup
	for i, k := range checks {
		wg.Go(func() {
			defer close(done[k.name])
			for _, name := range k.after {
				if done[name] == nil {
					continue // belongs to another tier
				}
				<-done[name]
				if on := results[place[name]]; on.Status == Fail || on.Because != "" {
					results[i] = skipped(k.name, on)
					return
				}
			}
			for _, name := range k.unless {
				if done[name] == nil {
					continue
				}
				<-done[name]
				if on := results[place[name]]; on.Status == Fail {
					results[i] = skipped(k.name, on)
					return
				}
			}
			if p, wrong := e.setting(k.settings); wrong {
				results[i] = skipped(k.name, Finding{Name: settingName(p)})
				return
			}
			results[i] = k.look(ctx, c.Within)
		})
	}
	wg.Wait()
	return Report{Checks: append(e.settings(), results...)}
}

// check is one thing to look at.
type check struct {
	name     string
	after    []string // checks that must have been looked at, and not have failed
	unless   []string // checks that must not have failed themselves: their failure would be told again here
	settings []string // settings that must not be wrong
	patience int      // how many times the usual deadline; zero is one
	run      func(ctx context.Context) Finding
}

// look runs the check within its deadline. One that does not heed it is left behind.
func (k check) look(ctx context.Context, within time.Duration) Finding {
	within *= time.Duration(max(k.patience, 1))
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	out := make(chan Finding, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil { // one broken check must not hide what the others found
				out <- failed("the check itself broke: %s", line(fmt.Sprint(p))).remedy("this is a bug in mosaic: please report it with the version")
			}
		}()
		out <- k.run(ctx)
	}()
	var f Finding
	select {
	case f = <-out:
	case <-ctx.Done():
		select {
		case f = <-out: // it has heeded the deadline, and knows more
		case <-time.After(within / 10):
			f = failed("no answer within %v", within).remedy("look at the part itself: it takes questions and answers none")
		}
	}
	f.Name = k.name
	return f
}

// skipped is the finding of a check that another one's failure kept from looking.
func skipped(name string, on Finding) Finding {
	root := on.Name
	if on.Because != "" {
		root = on.Because
	}
	return Finding{Name: name, Status: Warn, Because: root, Detail: "skipped because " + root + " is not ok", Remedy: "mend " + root + " first"}
}

func fine(format string, args ...any) Finding {
	return Finding{Status: OK, Detail: fmt.Sprintf(format, args...)}
}

func warned(format string, args ...any) Finding {
	return Finding{Status: Warn, Detail: fmt.Sprintf(format, args...)}
}

func failed(format string, args ...any) Finding {
	return Finding{Status: Fail, Detail: fmt.Sprintf(format, args...)}
}

// remedy adds what to do.
func (f Finding) remedy(format string, args ...any) Finding {
	f.Remedy = fmt.Sprintf(format, args...)
	return f
}
