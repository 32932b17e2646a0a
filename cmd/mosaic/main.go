// Command mosaic is the federation gateway and its command line, in one binary.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/mosaicstack/gateway/internal/cli"
)

// version is set by the linker (-X main.version=v1.2.3); without that, the build itself is asked.
var version string

func main() { os.Exit(run(context.Background(), process(time.Now))) }

// process is what the operating system gives a command, and a clock.
func process(now func() time.Time) cli.Env {
	return cli.Env{
		Args:    os.Args[1:],
		Getenv:  os.Getenv,
		Environ: os.Environ,
		Stdin:   os.Stdin,
		Stdout:  os.Stdout,
		Stderr:  os.Stderr,
		Now:     now,
		Version: versionOf(version, debug.ReadBuildInfo),
	}
}

// run ends the command's context on the first SIGINT or SIGTERM, so that it can stop in good order; the second
// ends the process.
func run(ctx context.Context, env cli.Env) int {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	env.Gateway = gateway(env)
	return cli.Main(ctx, env)
}

// versionOf names the build: what the linker was told, else the module's version, else "devel".
func versionOf(linked string, info func() (*debug.BuildInfo, bool)) string {
	if linked != "" {
		return linked
	}
	if bi, ok := info(); ok && bi.Main.Version != "" && bi.Main.Version != "(devel)" {
		return bi.Main.Version
	}
	return "devel"
}
