package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"os/exec"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2/toxics"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/rs/zerolog"

	"github.com/mosaicstack/gateway/internal/cli"
	"github.com/mosaicstack/gateway/internal/portainer/portainertest"
)

func TestMain(m *testing.M) {
	toxics.Register("swallow", new(swallow))
	toxics.Register("lose", new(lose))
	zerolog.SetGlobalLevel(zerolog.Disabled) // toxiproxy's
	// These tests wait for processes far more than they work: two at a time, one for each processor, would take three
	// times as long. Who asks for another number gets it.
	if err := flag.Set("test.parallel", "6"); err != nil {
		panic(err)
	}
	testscript.Main(m, map[string]func(){"mosaic": onAnyClock})
}

// clockName is by how much the clock of a program that a test starts is wrong. Only the tests' program reads it.
const clockName = "MOSAIC_TEST_CLOCK"

// onAnyClock is main for tests.
func onAnyClock() {
	wrong, err := time.ParseDuration(cmp.Or(os.Getenv(clockName), "0s"))
	if err != nil {
		panic(err)
	}
	os.Exit(run(context.Background(), process(func() time.Time { return time.Now().Add(wrong) })))
}

// The scripts are the contract of the command line: what goes to stdout, what to stderr, and the exit code.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "serve": serve, "extract": extract, "portainer": portainer},
	})
}

// exits runs a program and checks its exit code: exits CODE PROGRAM [ARGS]...
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM [ARGS]...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	err = ts.Exec(args[1], args[2:]...)
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		got, err = exit.ExitCode(), nil
	}
	ts.Check(err)
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// serve runs a gateway until the script ends, and makes its directory the script's: serve DIR [FLAGS]...
func serve(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: serve DIR [FLAGS]...")
	}
	g, err := launch(ts.MkAbs(args[0]), args[1:]...)
	ts.Check(err)
	ts.Defer(func() { ts.Check(g.stop(syscall.SIGTERM)) })
	ts.Setenv("MOSAIC_DIR", g.dir)
	ts.Setenv("URL", g.URL)
	ts.Setenv("LISTEN", strings.TrimPrefix(g.URL, "http://"))
}

// portainer runs a Portainer until the script ends, and says where it is: portainer [http|https]. Its API key is in
// the file key, and the certificate of an https one in ca.pem.
func portainer(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 || args[0] != "http" && args[0] != "https" {
		ts.Fatalf("usage: portainer http|https")
	}
	p := portainertest.Start(args[0] == "https")
	ts.Defer(p.Close)
	ts.Check(os.WriteFile(ts.MkAbs("key"), []byte(portainertest.Key+"\n"), 0o600))
	ts.Check(os.WriteFile(ts.MkAbs("ca.pem"), p.CAPEM, 0o600))
	ts.Setenv("PORTAINER_URL", p.URL)
}

// extract puts a member of the JSON document on stdout into a variable: extract NAME KEY...
func extract(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: extract NAME KEY...")
	}
	var doc any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &doc))
	for _, key := range args[1:] {
		object, ok := doc.(map[string]any)
		if !ok {
			ts.Fatalf("no object at %s", key)
		}
		doc = object[key]
	}
	text, ok := doc.(string)
	if !ok {
		ts.Fatalf("%v is no string", args[1:])
	}
	ts.Setenv(args[0], text)
}

// signalled sends this process a signal when it is read, and then has nothing to say.
type signalled struct{ t *testing.T }

func (s signalled) Read([]byte) (int, error) {
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		s.t.Error(err)
	}
	<-s.t.Context().Done()
	return 0, os.ErrClosed
}

func TestASignalEndsACommandInGoodOrder(t *testing.T) {
	t.Parallel()
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), cli.Env{
		Args:   strings.Fields("user list --url https://gw.example.org --token -"),
		Getenv: func(string) string { return "" }, Stdin: signalled{t}, Stdout: &stdout, Stderr: &stderr, Now: time.Now,
	})
	if code != 1 || stdout.Len() > 0 || stderr.String() != "mosaic: interrupted (interrupted)\n" {
		t.Errorf("exit code %d, stdout %q, stderr %q; want 1 and interrupted", code, stdout.String(), stderr.String())
	}
}

func TestTheVersionIsTheLinkersElseTheModules(t *testing.T) {
	t.Parallel()
	built := func(version string) func() (*debug.BuildInfo, bool) {
		return func() (*debug.BuildInfo, bool) {
			return &debug.BuildInfo{Main: debug.Module{Version: version}}, true
		}
	}
	for _, tt := range []struct {
		linked string
		info   func() (*debug.BuildInfo, bool)
		want   string
	}{
		{"v1.2.3", built("v9.9.9"), "v1.2.3"},
		{"", built("v1.2.3"), "v1.2.3"},
		{"", built("(devel)"), "devel"},
		{"", built(""), "devel"},
		{"", func() (*debug.BuildInfo, bool) { return nil, false }, "devel"},
	} {
		if got := versionOf(tt.linked, tt.info); got != tt.want {
			t.Errorf("versionOf(%q) = %q, want %q", tt.linked, got, tt.want)
		}
	}
}
