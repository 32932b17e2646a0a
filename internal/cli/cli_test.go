package cli_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mosaicstack/gateway/internal/cli"
	"github.com/mosaicstack/gateway/internal/fault"
)

func TestACommandLineThatCannotBeReadExits2AndAsksNobody(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, line, says string }{
		{"nothing at all", "", `mosaic: a command is missing after "mosaic" (usage)`},
		{"a group alone", "federation grant", `mosaic: a command is missing after "mosaic federation grant" (usage)`},
		{"an unknown command", "frobnicate", `mosaic: there is no command "mosaic frobnicate" (usage)`},
		{"an unknown command of a group", "federation grant frobnicate", `mosaic: there is no command "mosaic federation grant frobnicate" (usage)`},
		{"a mistyped command with flags of the right one", "user crate a@b.c --role admin", "hint: did you mean: mosaic user create\n"},
		{"an unknown topic of help", "help user frobnicate", `mosaic: there is no command "mosaic user frobnicate" (usage)`},
		{"an unknown shell", "completion csh", `mosaic: there is no command "mosaic completion csh" (usage)`},
		{"an unknown flag", "user list --frobnicate", "mosaic: unknown flag: --frobnicate (usage)\nhint: see: mosaic user list --help\n"},
		{"an unknown flag of the root", "--frobnicate", "mosaic: unknown flag: --frobnicate (usage)"},
		{"a flag without its value", "user list --dir", "mosaic: flag needs an argument: --dir (usage)"},
		{"a number that is none", "federation query p tasks --limit many", `mosaic: --limit takes a whole number, not "many" (usage)`},
		{"a missing argument", "team add design", "mosaic: USER is missing (usage)\nhint: see: mosaic team add --help\n"},
		{"too many arguments", "team create a b", "mosaic: too many arguments: mosaic team create takes NAME (usage)"},
		{"an argument where none is taken", "user list a", "mosaic: mosaic user list takes no arguments (usage)"},
		{"missing flags", "federation grant create --user u", "mosaic: --peer and --scope must be given (usage)"},
		{"no reason for an approval", "federation grant approve 1", "mosaic: --reason must be given (usage)"},
		{"an argument that would change the path", "federation peer show ..", `mosaic: ".." cannot be PEER (usage)`},
		{"a search for one row", "federation query p tasks 1 --search x", "mosaic: an ID asks for one row"},
		{"a search from a cursor", "federation query p tasks --search x --cursor y", "mosaic: --search gives one page"},
		{"a token without an address", "user list --token mos_x", "mosaic: --token goes with --url"},
		{"an address without a token", "user list --url https://gw.example.org", "mosaic: an API token is needed with an address (usage)"},
		{"an address of another kind", "user list --url ftp://gw.example.org --token mos_x", "mosaic: the gateway's address must be like https://"},
		{"an address with a password", "user list --url https://a:sesame@gw.example.org --token mos_x", "mosaic: the gateway's address must be like https://"},
		{"stdin for two things", "federation grant create --peer p --user u --scope - --url https://gw.example.org --token -", "mosaic: --token and --scope cannot both read standard input (usage)"},
		{"a command that is not built", "gateway dev", `mosaic: there is no command "mosaic gateway dev" (usage)`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := call{args: strings.Fields(tt.line), stdin: strings.NewReader("mos_x")}.run(t)
			if got.code != 2 || got.stdout != "" || !strings.Contains(got.stderr, tt.says) {
				t.Errorf("exit code %d, stdout %q, stderr %q; want 2, nothing, and %q", got.code, got.stdout, got.stderr, tt.says)
			}
			if strings.Contains(got.stderr, "sesame") || strings.Contains(got.stderr, "mos_x") {
				t.Errorf("stderr repeats a secret: %q", got.stderr)
			}
		})
	}
}

// An unset shell variable must not turn a grant with an end into one without.
func TestAFlagOrArgumentThatIsEmptyIsRefused(t *testing.T) {
	t.Parallel()
	g := serve(t, nil)
	scope := write(t, "{}")
	g.mosaic(t, "federation grant create --peer p --user u --scope "+scope, "--expires", "").refused(t, 2, "usage")
	g.mosaic(t, "federation query p tasks", "").refused(t, 2, "usage")
	if seen := g.asked(); len(seen) > 0 {
		t.Errorf("the gateway was asked: %v", seen)
	}
}

func TestHelpAndVersionGoToStdoutAndExit0(t *testing.T) {
	t.Parallel()
	tests := []struct{ line, says string }{
		{"--help", "A federation gateway"},
		{"help federation grant create", "mosaic federation grant create [flags]"},
		{"federation peer add --help", "mosaic federation peer add ENROLLMENT_URL [flags]"},
		{"version", "mosaic v1.2.3\n"},
		{"--version", "mosaic v1.2.3\n"},
		{"version --json", `{"version":"v1.2.3"}` + "\n"},
		{"completion bash", "bash completion"},
	}
	for _, tt := range tests {
		t.Run(tt.line, func(t *testing.T) {
			t.Parallel()
			got := call{args: strings.Fields(tt.line)}.run(t)
			if got.code != 0 || got.stderr != "" || !strings.Contains(got.stdout, tt.says) {
				t.Errorf("exit code %d, stdout %q, stderr %q; want 0 and %q", got.code, got.stdout, got.stderr, tt.says)
			}
		})
	}
}

func TestAGroupDoesNotOfferToBeRun(t *testing.T) {
	t.Parallel()
	got := call{args: []string{"user", "--help"}}.run(t)
	if strings.Contains(got.stdout, "mosaic user [flags]") || !strings.Contains(got.stdout, "mosaic user [command]") {
		t.Errorf("help of a group: %s", got.stdout)
	}
}

func TestDevRunsWithItsFlags(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		args string
		env  map[string]string
		want cli.DevOptions
	}{
		{"defaults", "gateway dev", nil, cli.DevOptions{Dir: ".mosaic", Listen: "127.0.0.1:3000", FederationListen: "127.0.0.1:3443"}},
		{
			"all of them", "gateway dev --dir d --listen :0 --federation-listen [::1]:3443 --name home --demo-data --json",
			map[string]string{"MOSAIC_DIR": "e"},
			cli.DevOptions{Dir: "d", Listen: ":0", FederationListen: "[::1]:3443", Name: "home", DemoData: true, JSON: true},
		},
		{
			"the directory of the environment", "gateway dev",
			map[string]string{"MOSAIC_DIR": "e"},
			cli.DevOptions{Dir: "e", Listen: "127.0.0.1:3000", FederationListen: "127.0.0.1:3443"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var got cli.DevOptions
			dev := func(_ context.Context, o cli.DevOptions) error {
				fmt.Fprint(o.Stdout, "to stdout")
				fmt.Fprint(o.Stderr, "to stderr")
				o.Stdout, o.Stderr = nil, nil
				got = o
				return nil
			}
			c := call{args: strings.Fields(tt.args), env: tt.env, gateway: cli.Gateway{Dev: dev}}
			c.run(t).want(t, 0, "to stdout", "to stderr")
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("options (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDevRefusesAnAddressThatIsNone(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"3000", "localhost", "localhost:http", "localhost:70000", "::1:3000"} {
		c := call{args: []string{"gateway", "dev", "--listen", address}, gateway: cli.Gateway{Dev: func(context.Context, cli.DevOptions) error {
			t.Errorf("dev runs on %q", address)
			return nil
		}}}
		c.run(t).refused(t, 2, "usage")
	}
}

func TestWhatEndsDevIsShownWhole(t *testing.T) {
	t.Parallel()
	busy := &fault.Fault{Kind: fault.Conflict, Code: "port_in_use", Detail: "port 3000 is taken", Hint: "choose another: --listen"}
	tests := []struct {
		name   string
		err    error
		stderr string
	}{
		{"a fault", busy, "mosaic: port 3000 is taken (port_in_use)\nhint: choose another: --listen\n"},
		{
			"a fault with a cause", fmt.Errorf("dev: %w", busy.Because(errors.New("bind:\x1b[31m\nin use"))),
			"mosaic: port 3000 is taken (port_in_use)\nhint: choose another: --listen\ncause: bind:[31m\n  in use\n",
		},
		{"another error", errors.New("disk on fire"), "mosaic: disk on fire (internal)\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := call{args: []string{"gateway", "dev"}, gateway: cli.Gateway{Dev: func(context.Context, cli.DevOptions) error { return tt.err }}}
			c.run(t).want(t, 1, "", tt.stderr)
		})
	}
}

func TestAPanicIsABugAndExits70(t *testing.T) {
	t.Parallel()
	c := call{args: []string{"gateway", "dev"}, gateway: cli.Gateway{Dev: func(context.Context, cli.DevOptions) error { panic("out of cheese") }}}
	got := c.run(t)
	got.refused(t, 70, "internal")
	for _, want := range []string{"bug in mosaic v1.2.3: out of cheese", "hint: please report it", "goroutine "} {
		if !strings.Contains(got.stderr, want) {
			t.Errorf("stderr lacks %q:\n%s", want, got.stderr)
		}
	}
}

// full is a disk without room.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

func TestAnAnswerThatCannotBeWrittenIsNoSuccess(t *testing.T) {
	t.Parallel()
	call{args: []string{"version"}, stdout: full{}}.run(t).refused(t, 1, "output_failed")
}

func TestHealthcheck(t *testing.T) {
	t.Parallel()
	g := serve(t, map[string]reply{"GET /health/live": doc(200, `{"status":"ok"}`)})
	sick := serve(t, map[string]reply{"GET /health/live": problem(503, `{"code":"draining","detail":"going away"}`)})
	elsewhere := map[string]string{"MOSAIC_URL": "https://elsewhere.example.org"}
	check := func(port, more string) result {
		env := map[string]string{"GATEWAY_PORT": port}
		for k, v := range elsewhere {
			env[k] = v
		}
		return call{args: strings.Fields("gateway healthcheck " + more), env: env}.run(t)
	}
	port := func(g *gateway) string { return g.url[strings.LastIndex(g.url, ":")+1:] }

	check(port(g), "").want(t, 0, "ok\n", "")
	check(port(g), "--json").want(t, 0, `{"status":"ok"}`+"\n", "")
	check(port(sick), "").refused(t, 1, "draining")
	check("1", "").refused(t, 1, "gateway_unreachable")
	for _, bad := range []string{"0", "65536", "http", "-1"} {
		check(bad, "").refused(t, 1, "config_invalid")
	}
}
