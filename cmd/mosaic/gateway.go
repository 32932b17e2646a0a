package main

import (
	"context"
	"os"

	"github.com/mosaicstack/gateway/internal/ca/embedded"
	"github.com/mosaicstack/gateway/internal/cli"
	"github.com/mosaicstack/gateway/internal/daemon"
	"github.com/mosaicstack/gateway/internal/doctor"
	"github.com/mosaicstack/gateway/internal/seal"
)

// gateway gives the command line the commands that are a gateway themselves.
func gateway(env cli.Env) cli.Gateway {
	return cli.Gateway{
		Dev: func(ctx context.Context, o cli.DevOptions) error {
			return daemon.Dev(ctx, daemon.DevOptions{
				Program: os.Args[0],
				Dir:     o.Dir, Listen: o.Listen, FederationListen: o.FederationListen, Name: o.Name, DemoData: o.DemoData, JSON: o.JSON,
				Version: env.Version, Environ: env.Environ(), Stdout: o.Stdout, Stderr: o.Stderr, Now: env.Now,
			})
		},
		Serve:  func(ctx context.Context, o cli.Streams) error { return daemon.Serve(ctx, serveOptions(env, o)) },
		Config: func(o cli.Streams) error { return daemon.ShowConfig(serveOptions(env, o)) },
		Doctor: func(ctx context.Context, o cli.DoctorOptions) (doctor.Report, error) {
			return daemon.Doctor(ctx, daemon.DoctorOptions{Environ: env.Environ(), Dir: o.Dir, Local: o.Local, Now: env.Now})
		},
		Migrate: func(ctx context.Context, status bool, o cli.Streams) error {
			if status {
				return daemon.MigrationStatus(ctx, serveOptions(env, o))
			}
			return daemon.Migrate(ctx, serveOptions(env, o))
		},
		MigrateTier: func(ctx context.Context, m cli.MigrateTier, o cli.Streams) error {
			return daemon.MigrateTier(ctx, daemon.MigrateTierOptions{
				ServeOptions: serveOptions(env, o), Dir: m.Dir, To: seal.NewSecret(m.To), Apply: m.Apply, Finish: m.Finish,
				CA: embedded.Export{Dir: m.CADir, Home: m.CAHome, Address: m.CAAddress, DNSNames: m.CANames},
			})
		},
		AcceptRestore: func(ctx context.Context, r cli.Restore, o cli.Streams) error {
			return daemon.AcceptRestore(ctx, daemon.RestoreOptions{ServeOptions: serveOptions(env, o), Moved: r.Moved, WithoutCRL: r.WithoutCRL})
		},
	}
}

func serveOptions(env cli.Env, o cli.Streams) daemon.ServeOptions {
	return daemon.ServeOptions{Environ: env.Environ(), JSON: o.JSON, Version: env.Version, Stdout: o.Stdout, Stderr: o.Stderr, Now: env.Now}
}
