package doctor

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"github.com/mosaicstack/gateway/internal/fault"
)

// What a Valkey's refusals are called. The adapter's codes are its contract.
const codeAuth = "valkey_auth"

type valkeyFacts struct {
	Valkey
	err error // of asking: told by the check it belongs to
}

const oldestValkey = 7 // the protocol of Redis 7

func (e *examination) valkeyChecks() []check {
	if e.Config.Valkey == nil {
		return nil
	}
	of := func(name string, run func(context.Context) Finding) check {
		return check{name: name, after: []string{ValkeyReachable, ValkeyAuth}, run: run}
	}
	told := func(name string, run func(context.Context) Finding) check { // a server that is too old is asked nothing more
		return check{name: name, after: []string{ValkeyReachable, ValkeyAuth, ValkeyVersion}, run: run}
	}
	return []check{
		{name: ValkeyReachable, settings: []string{"VALKEY_URL"}, run: e.valkeyReachable},
		{name: ValkeyAuth, after: []string{ValkeyReachable}, run: e.valkeyAuth},
		of(ValkeyVersion, e.valkeyVersion),
		of(ValkeyPrimary, e.valkeyPrimary),
		told(ValkeyRDB, e.valkeyRDB),
		told(ValkeyAOF, e.valkeyAOF),
		told(ValkeyEviction, e.valkeyEviction),
		of(ValkeyPassword, e.valkeyPassword),
		{name: ValkeyLimits, after: []string{ValkeyReachable, ValkeyAuth, ValkeyVersion, ValkeyPrimary}, run: e.valkeyLimits},
	}
}

func (e *examination) valkeyReachable(ctx context.Context) Finding {
	e.valkey.Valkey, e.valkey.err = e.Config.Valkey.Examine(ctx)
	var f *fault.Fault
	if err := e.valkey.err; err != nil && !(errors.As(err, &f) && f.Code == codeAuth) {
		return blamed(err)
	}
	return fine("Valkey answers")
}

func (e *examination) valkeyAuth(context.Context) Finding {
	if e.valkey.err != nil {
		return blamed(e.valkey.err)
	}
	return fine("Valkey takes the name and the password of VALKEY_URL")
}

func (e *examination) valkeyVersion(context.Context) Finding {
	major, _, _ := strings.Cut(e.valkey.Version, ".")
	if n, err := strconv.Atoi(major); err != nil || n < oldestValkey {
		return failed("the server speaks the protocol of Redis %s, older than %d", line(e.valkey.Version), oldestValkey).remedy("run Valkey 8")
	}
	return fine("the server speaks the protocol of Redis %s", line(e.valkey.Version))
}

func (e *examination) valkeyPrimary(context.Context) Finding {
	if e.valkey.Role != "master" {
		return failed("the server is a replica, which takes no writes").remedy("let VALKEY_URL name the primary")
	}
	return fine("the server is the primary")
}

func (e *examination) valkeyRDB(context.Context) Finding {
	switch {
	case !e.valkey.Told:
		return warned("this user may not ask whether Valkey writes snapshots").
			remedy(`allow the user CONFIG GET, or make sure of --save "" yourself`)
	case e.valkey.Save != "":
		return failed("Valkey writes snapshots to disk: save is %q", line(e.valkey.Save)).
			remedy(`start it with --save "": what replicas share must not outlive them`)
	}
	return fine("no snapshots are written")
}

func (e *examination) valkeyAOF(context.Context) Finding {
	if e.valkey.AOF {
		return failed("Valkey writes a log to disk: appendonly is on").remedy("start it with --appendonly no: what replicas share must not outlive them")
	}
	return fine("no log is written")
}

func (e *examination) valkeyEviction(context.Context) Finding {
	if p := e.valkey.Policy; p != "noeviction" {
		return warned("maxmemory-policy is %s: when the memory is full, keys are dropped, and with them what has been spent of limits", line(p)).
			remedy("start it with --maxmemory-policy noeviction")
	}
	return fine("maxmemory-policy is noeviction")
}

func (e *examination) valkeyPassword(context.Context) Finding {
	if !e.valkey.Guarded && !e.valkey.Loopback {
		return warned("Valkey is reached over the network without a password").remedy("give it requirepass, and VALKEY_URL the password")
	}
	return fine("nobody else is let in without a password, or from outside")
}

func (e *examination) valkeyLimits(ctx context.Context) Finding {
	if err := e.Config.Valkey.Spend(ctx); err != nil {
		return blamed(err)
	}
	return fine("the script of the limits runs")
}
