package main

import (
	"context"
	"os"

	"github.com/mosaicstack/gateway/internal/cli"
	"github.com/mosaicstack/gateway/internal/daemon"
)

// gateway gives the command line the commands that are a gateway themselves.
func gateway(env cli.Env) cli.Gateway {
	return cli.Gateway{
		Dev: func(ctx context.Context, o cli.DevOptions) error {
			return daemon.Dev(ctx, daemon.DevOptions{
				Program: os.Args[0],
				Dir:     o.Dir, Listen: o.Listen, FederationListen: o.FederationListen, Name: o.Name, DemoData: o.DemoData, JSON: o.JSON,
				Version: env.Version, Getenv: env.Getenv, Stdout: o.Stdout, Stderr: o.Stderr, Now: env.Now,
			})
		},
	}
}
