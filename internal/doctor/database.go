package doctor

import (
	"context"
	"strconv"
	"strings"
	"time"
)

const (
	oldestServer = 15_00_00 // PostgreSQL 15

	// Two replicas during an update hold as many connections as one pool and the audit writer, twice.
	spareConnections = 20

	// How far a clock may be off before somebody looks, and before requests are judged by the wrong time.
	clockWarn = 2 * time.Second
	clockFail = time.Minute
)

func (e *examination) databaseChecks() []check {
	if e.Schema == nil {
		return nil
	}
	after := []string{DatabaseReachable}
	of := func(name string, run func(context.Context) Finding) check {
		return check{name: name, after: after, run: run}
	}
	setting := func(name, setting, harm string) check {
		return of(name, func(context.Context) Finding {
			if v := e.server.Settings[setting]; v != "on" {
				return failed("%s is %s: %s", setting, v, harm).remedy("set %s = on in postgresql.conf and reload the server", setting)
			}
			return fine("%s is on", setting)
		})
	}
	reachable := check{name: DatabaseReachable, settings: []string{"DATABASE_URL"}, run: e.databaseReachable}
	if e.Local {
		reachable.after = []string{GatewayRunning} // which runs the server
	}
	served := func(name string, ask func(context.Context) error, well string) check {
		return check{name: name, after: []string{DatabaseMigrations}, run: func(ctx context.Context) Finding {
			if err := ask(ctx); err != nil {
				return blamed(err)
			}
			return fine("%s", well)
		}}
	}
	var home []check
	if e.Home != nil {
		home = []check{
			served(DatabaseRestored, e.Home.CheckHome, "the database is where it was made, and no copy"),
			served(DatabaseTransfer, e.Home.CheckTierMigration, "no copy of another tier is under way"),
		}
	}
	return append([]check{
		reachable,
		of(DatabaseVersion, e.databaseVersion),
		of(DatabasePrimary, e.databasePrimary),
		setting(DatabaseFsync, "fsync", "a commit is lost with the machine, and with it a revoke"),
		setting(DatabasePageWrites, "full_page_writes", "a crash can corrupt the data"),
		of(DatabaseConnections, e.databaseConnections),
		of(DatabaseClock, e.databaseClock),
		{name: DatabaseMigrations, after: []string{DatabaseReachable, DatabaseVersion}, run: e.databaseMigrations},
		{name: DatabaseVector, after: after, run: e.databaseVector},
	}, home...)
}

func (e *examination) databaseReachable(ctx context.Context) Finding {
	begun := time.Now()
	var err error
	if e.server, err = e.Schema.Server(ctx); err != nil {
		return blamed(err)
	}
	return fine("PostgreSQL answers, in %v", time.Since(begun).Round(time.Millisecond))
}

func (e *examination) databaseVersion(context.Context) Finding {
	if e.server.VersionNumber < oldestServer {
		return failed("the server is PostgreSQL %s, older than 15", line(e.server.Version)).remedy("move to PostgreSQL 15 or newer: pg_upgrade, or pg_dump and pg_restore")
	}
	return fine("PostgreSQL %s", line(e.server.Version))
}

func (e *examination) databasePrimary(context.Context) Finding {
	if e.server.Standby {
		return failed("the server is a standby: it cannot be written, and what it shows may be old").
			remedy("let DATABASE_URL name the primary; target_session_attrs=read-write finds it among several hosts")
	}
	return fine("the server is the primary")
}

func (e *examination) databaseConnections(context.Context) Finding {
	used, most := e.server.Used, e.server.Most
	if left := most - used; left < spareConnections {
		return warned("%d of %d connections are in use: a replica needs up to %d", used, most, spareConnections).
			remedy("raise max_connections, put fewer replicas on this server, or end clients that hold connections")
	}
	return fine("%d of %d connections are in use", used, most)
}

// databaseClock compares the clocks. Half of the question's way is allowed for; a way of seconds tells nothing.
func (e *examination) databaseClock(context.Context) Finding {
	way := e.server.Answered.Sub(e.server.Asked)
	ours := e.server.Asked.Add(way / 2).Add(time.Until(e.Now())) // as our clock has it, which a test may move
	ahead := ours.Sub(e.server.Clock)
	return clocks(ahead, way, "PostgreSQL's", "an expiry is judged by either, so a grant ends early or late by as much")
}

func clocks(ahead, way time.Duration, whose, harm string) Finding {
	off := max(ahead.Abs()-way/2, 0)
	direction := "ahead of"
	if ahead < 0 {
		direction = "behind"
	}
	f := fine("the gateway's clock is %v %s %s", ahead.Abs().Round(time.Millisecond), direction, whose)
	switch {
	case off > clockFail:
		f.Status = Fail
	case off > clockWarn:
		f.Status = Warn
	default:
		return f
	}
	f.Detail += ": " + harm
	return f.remedy("set both clocks by NTP")
}

func (e *examination) databaseMigrations(ctx context.Context) Finding {
	m, err := e.Schema.Migrations(ctx)
	switch {
	case err != nil:
		return blamed(err)
	case len(m.Pending) > 0:
		return failed("the schema is older than this binary: %s pending, the first is %s", counted(int64(len(m.Pending)), "migration"), m.Pending[0]).
			remedy("run: mosaic gateway migrate up")
	case m.Jobs:
		return failed("the tables of the job queue are older than this binary").remedy("run: mosaic gateway migrate up")
	case len(m.Ahead) > 0:
		var list []string
		for _, v := range m.Ahead {
			list = append(list, strconv.FormatInt(v, 10))
		}
		return warned("the schema is newer than this binary: it has %s", strings.Join(list, ", ")).
			remedy("during an update this passes; otherwise run the newer binary here too")
	}
	return fine("the schema is the one of this binary")
}

func (e *examination) databaseVector(ctx context.Context) Finding {
	s := e.server
	switch {
	case s.Extension == "" && s.Available == "":
		return failed("the server has no pgvector").remedy("install pgvector for PostgreSQL on the server (package postgresql-NN-pgvector, or the image pgvector/pgvector), then run: mosaic gateway migrate up")
	case s.Extension == "":
		return failed("the extension vector is not created in this database, and %s could be", s.Available).
			remedy("run: mosaic gateway migrate up; a user who may not, needs CREATE EXTENSION vector from a superuser first")
	}
	if err := e.Schema.Vector(ctx); err != nil {
		f := blamed(err)
		f.Detail = "a vector of three numbers does not come back as it was written: " + f.Detail
		return f.remedy("make the extension whole: ALTER EXTENSION vector UPDATE, with the server's package of the same version")
	}
	return fine("pgvector %s gives vector(3) back as it was written", s.Extension)
}
