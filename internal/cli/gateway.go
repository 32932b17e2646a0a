package cli

import (
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

const (
	defaultPort        = "3000"
	healthcheckTimeout = 5 * time.Second
)

func (a *app) gateway() *cobra.Command {
	cmd := a.group("gateway", "Run a gateway and look after it", a.healthcheck(), a.keyring(), a.ca())
	if a.env.Gateway.Dev != nil {
		cmd.AddCommand(a.dev())
	}
	if a.env.Gateway.Serve != nil {
		cmd.AddCommand(a.serve())
	}
	if a.env.Gateway.Config != nil {
		cmd.AddCommand(a.leaf("config", nil, "Print the settings that the environment gives, and what is wrong with them", func(*cobra.Command, []string) error {
			return a.env.Gateway.Config(a.streams())
		}))
	}
	if a.env.Gateway.Doctor != nil {
		cmd.AddCommand(a.doctor())
	}
	if a.env.Gateway.Migrate != nil {
		cmd.AddCommand(a.migrate())
	}
	if a.env.Gateway.AcceptRestore != nil {
		cmd.AddCommand(a.acceptRestore())
	}
	if a.env.Gateway.MigrateTier != nil {
		cmd.AddCommand(a.migrateTier())
	}
	return cmd
}

func (a *app) acceptRestore() *cobra.Command {
	var r Restore
	cmd := a.leaf("accept-restore", nil, "Let a database that was restored from a dump serve: void its tokens, take over the CA's revocation list, suspend its peers",
		func(cmd *cobra.Command, _ []string) error {
			if r.Moved && r.WithoutCRL {
				return misuse(cmd, "--moved takes no list over: leave --without-crl out")
			}
			return a.env.Gateway.AcceptRestore(cmd.Context(), r, a.streams())
		})
	cmd.Flags().BoolVar(&r.Moved, "moved", false, "it was moved while no gateway ran, and has lost nothing: change nothing else")
	cmd.Flags().BoolVar(&r.WithoutCRL, "without-crl", false, "the CA has no revocation list: go on without")
	return cmd
}

func (a *app) serve() *cobra.Command {
	return a.leaf("serve", nil, "Run one replica on parts of your own, as the environment says: standalone or federated", func(cmd *cobra.Command, _ []string) error {
		return a.env.Gateway.Serve(cmd.Context(), a.streams())
	})
}

func (a *app) migrate() *cobra.Command {
	cmd := a.leaf("migrate", []string{"[up|status]"}, "Bring the schema of DATABASE_URL up to date, or tell how it is", func(cmd *cobra.Command, args []string) error {
		what := "up"
		if len(args) > 0 {
			what = args[0]
		}
		if what != "up" && what != "status" {
			return misuse(cmd, "migrate takes up or status, not %q", what)
		}
		return a.env.Gateway.Migrate(cmd.Context(), what == "status", a.streams())
	})
	return cmd
}

func (a *app) streams() Streams {
	return Streams{JSON: a.json, Stdout: a.env.Stdout, Stderr: a.env.Stderr}
}

func (a *app) dev() *cobra.Command {
	o := DevOptions{Stdout: a.env.Stdout, Stderr: a.env.Stderr}
	cmd := a.leaf("dev", nil, "Run a whole gateway on this machine: database, CA and all", func(cmd *cobra.Command, _ []string) error {
		for flag, address := range map[string]string{"listen": o.Listen, "federation-listen": o.FederationListen} {
			if !listenable(address) {
				return misuse(cmd, "--%s takes HOST:PORT, not %q", flag, address)
			}
		}
		o.Dir, o.JSON = a.directory(cmd), a.json
		return a.env.Gateway.Dev(cmd.Context(), o)
	})
	flags := cmd.Flags()
	flags.StringVar(&o.Listen, "listen", "127.0.0.1:"+defaultPort, "where to serve the HTTP API; port 0 picks a free one")
	flags.StringVar(&o.FederationListen, "federation-listen", "127.0.0.1:3443", "where to serve other gateways")
	flags.StringVar(&o.Name, "name", "", "what the gateway calls itself")
	flags.BoolVar(&o.DemoData, "demo-data", false, "load a few users, teams and rows to try things with")
	return cmd
}

// listenable tells whether an address is HOST:PORT. Whether it can be listened on is for the gateway to find out.
func listenable(address string) bool {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	_, err = strconv.ParseUint(port, 10, 16)
	return err == nil
}

// healthcheck is the container's HEALTHCHECK. It asks the gateway of its own container, whatever MOSAIC_URL says.
func (a *app) healthcheck() *cobra.Command {
	return a.leaf("healthcheck", nil, "Exit 0 when the gateway on GATEWAY_PORT is alive, 1 when it is not", func(cmd *cobra.Command, _ []string) error {
		port := a.env.Getenv("GATEWAY_PORT")
		if port == "" {
			port = defaultPort
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return errPort.With("GATEWAY_PORT is %q, which is not a port", port)
		}
		c := a.overHTTP("http://" + net.JoinHostPort("127.0.0.1", port))
		c.timeout = healthcheckTimeout
		got, err := c.send(cmd.Context(), get("health", "live"))
		switch {
		case err != nil:
			return err
		case got.status != http.StatusOK:
			return c.refused(got)
		case a.json:
			return a.printJSON(map[string]string{"status": "ok"})
		}
		fmt.Fprintln(&a.out, "ok")
		return nil
	})
}

func (a *app) migrateTier() *cobra.Command {
	var m MigrateTier
	cmd := a.leaf("migrate-tier", nil, "Copy a local tier into the database of a federated one: a dry run, unless --apply or --finish", func(cmd *cobra.Command, _ []string) error {
		if m.To == "" {
			return misuse(cmd, "--to is needed: the target's connection string, a file that holds it, or - for standard input")
		}
		if m.Finish && m.CADir == "" && !m.KeepCA {
			return misuse(cmd, "--finish wants --ca-out: without its CA the gateway cannot renew a certificate; with --keep-ca it stays in the directory")
		}
		if m.CADir == "" && (m.CAHome != "" || m.CAAddress != "" || len(m.CANames) > 0) {
			return misuse(cmd, "--ca-home, --ca-address and --ca-name go with --ca-out")
		}
		to, err := a.secret(cmd, secretSource{
			name: "--to", kind: "a connection string", value: m.To, spaced: true,
			literal: func(v string) bool { return strings.Contains(v, "://") || strings.Contains(v, "=") },
		})
		if err != nil {
			return err
		}
		m.Dir, m.To = a.directory(cmd), to
		return a.env.Gateway.MigrateTier(cmd.Context(), m, a.streams())
	})
	flags := cmd.Flags()
	flags.StringVar(&m.To, "to", "", "the target's connection string (- reads it from stdin, or name a file)")
	flags.BoolVar(&m.Apply, "apply", false, "copy and verify; goes on where an earlier run was stopped")
	flags.BoolVar(&m.Finish, "finish", false, "verify once more, let the target serve, and keep the directory from serving")
	flags.BoolVar(&m.KeepCA, "keep-ca", false, "finish without exporting the CA; a later --finish --ca-out still can")
	flags.StringVar(&m.CADir, "ca-out", "", "export the CA to this directory, for a stock step-ca")
	flags.StringVar(&m.CAHome, "ca-home", "", "where that directory will be on the machine that runs step-ca")
	flags.StringVar(&m.CAAddress, "ca-address", "", "HOST:PORT that step-ca will listen on (default 127.0.0.1:9000)")
	flags.StringSliceVar(&m.CANames, "ca-name", nil, "name or address under which step-ca will be reached; may be repeated")
	return cmd
}
