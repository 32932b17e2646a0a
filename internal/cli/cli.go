// Package cli is the command line of Mosaic: a thin client of the gateway's HTTP API.
//
// A command reads its arguments, asks the gateway one thing, and shows the answer. No rule lives here: what is
// allowed, and what a duration or a scope may be, is the gateway's to say. The contract with scripts is small. Data
// goes to stdout and prose to stderr; with --json stdout holds exactly one JSON document; the exit code is 0 when
// the gateway did it, 1 when it was refused or could not be asked, 2 when the command line cannot be read, and 70
// when this program is at fault.
//
// The commands under "stack" keep the same contract, and ask a Portainer instead of a gateway.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"time"

	"github.com/mosaicstack/gateway/internal/doctor"
)

// The exit codes. Scripts rely on them.
const (
	exitOK      = 0
	exitRefused = 1
	exitUsage   = 2
	exitBug     = 70 // EX_SOFTWARE of sysexits(3)
)

// Env is everything a command needs from outside, so that any command runs in-process in a test.
type Env struct {
	Args    []string // without the program's name
	Getenv  func(string) string
	Environ func() []string // as os.Environ; for the commands that are a gateway themselves
	Stdin   io.Reader
	Stdout  io.Writer
	Stderr  io.Writer
	Now     func() time.Time
	Version string // without spaces: it is part of the User-Agent
	Gateway Gateway
}

// Gateway runs the long-lived commands, which are the only ones that do not speak HTTP. A command whose function
// is nil does not exist.
type Gateway struct {
	// Dev runs a whole gateway until ctx ends, and returns nil when it was stopped in good order.
	Dev func(ctx context.Context, o DevOptions) error
	// Serve runs one replica until ctx ends.
	Serve func(ctx context.Context, o Streams) error
	// Config lists the settings in force, and returns what is wrong with them.
	Config func(o Streams) error
	// Doctor looks at everything the gateway stands on. An error means that it could not look.
	Doctor func(ctx context.Context, o DoctorOptions) (doctor.Report, error)
	// Migrate applies the migrations that are pending, or tells which are.
	Migrate func(ctx context.Context, status bool, o Streams) error
	// AcceptRestore makes a restored database the gateway's.
	AcceptRestore func(ctx context.Context, r Restore, o Streams) error
	// MigrateTier copies a local tier into the database of a federated one.
	MigrateTier func(ctx context.Context, m MigrateTier, o Streams) error
}

// Restore says of a database that is a copy what is known of it.
type Restore struct {
	Moved      bool // it is the same one, and has lost nothing
	WithoutCRL bool // there is no revocation list to take over
}

// MigrateTier are the flags of "gateway migrate-tier".
type MigrateTier struct {
	Dir           string
	To            string // the target's connection string, a secret
	Apply, Finish bool
	CADir         string // where the CA goes; empty: nowhere
	KeepCA        bool   // it stays where it is
	CAHome        string // its path on the machine that runs step-ca
	CAAddress     string
	CANames       []string
}

// Streams is where a command that does not speak HTTP writes, and in which form.
type Streams struct {
	JSON           bool
	Stdout, Stderr io.Writer
}

// DoctorOptions are the flags of "gateway doctor".
type DoctorOptions struct {
	Dir   string // of the local tier
	Local bool   // the person named it: the local tier is meant, whatever the environment says
}

// DevOptions are the flags of "gateway dev".
type DevOptions struct {
	Dir              string // created when it is not there
	Listen           string // host:port of the HTTP API; port 0 picks a free one
	FederationListen string // host:port of the mTLS listener
	Name             string // what the gateway calls itself; empty leaves the choice to it
	DemoData         bool
	JSON             bool // stdout gets the ready document, once it serves, and nothing else
	Stdout, Stderr   io.Writer
}

// Main runs the command that env.Args names and returns the exit code of the process. It returns when the command
// is done or ctx ends, and it never panics.
func Main(ctx context.Context, env Env) (exitCode int) {
	a := &app{env: env}
	defer func() {
		if p := recover(); p != nil {
			a.reportBug(p, debug.Stack())
			exitCode = exitBug
		}
	}()
	cmd, err := a.root().ExecuteContextC(ctx)
	if err != nil && !a.started && !errors.Is(err, errUsage) {
		err = misuse(cmd, "%s", err) // what cobra itself refuses
	}
	// What a command has to say goes out in one piece, and not at all when it failed: half a JSON document would
	// be worse than none.
	if err == nil {
		err = a.flush()
	}
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errUsage):
		a.report(err)
		return exitUsage
	default:
		a.report(err)
		return exitRefused
	}
}

func (a *app) flush() error {
	if a.out.Len() == 0 {
		return nil
	}
	if _, err := a.env.Stdout.Write(a.out.Bytes()); err != nil {
		return errOutput.Because(fmt.Errorf("write to stdout: %w", err))
	}
	return nil
}
