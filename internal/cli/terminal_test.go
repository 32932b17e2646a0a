package cli_test

import (
	"bytes"
	"context"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/mosaicstack/gateway/internal/cli"
)

// terminal opens a pseudo terminal: what is typed at keyboard arrives at tty.
func terminal(t *testing.T) (keyboard, tty *os.File) {
	t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { keyboard.Close() })
	fd := int(keyboard.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tty.Close() })
	return keyboard, tty
}

// onPrompt runs a function when the program has asked for something.
type onPrompt struct {
	bytes.Buffer
	then func()
}

func (p *onPrompt) Write(b []byte) (int, error) {
	if p.Len() == 0 {
		p.then()
	}
	return p.Buffer.Write(b)
}

func TestATokenIsAskedForOnATerminal(t *testing.T) {
	t.Parallel()
	g := serve(t, map[string]reply{"GET /api/users": doc(200, noUsers)})
	keyboard, tty := terminal(t)
	stderr := &onPrompt{then: func() {
		if _, err := keyboard.WriteString("mos_secret\n"); err != nil {
			t.Error(err)
		}
	}}
	var stdout bytes.Buffer
	code := cli.Main(t.Context(), cli.Env{
		Args: []string{"user", "list", "--json", "--url", g.url, "--token", "-"}, Getenv: func(string) string { return "" },
		Stdin: tty, Stdout: &stdout, Stderr: stderr, Now: time.Now,
	})
	if code != 0 || stdout.String() != "[]\n" || stderr.String() != "--token: \n" {
		t.Errorf("exit code %d, stdout %q, stderr %q; want the list after a prompt", code, stdout.String(), stderr.String())
	}
	if got := g.only(t).header.Get("Authorization"); got != "Bearer mos_secret" {
		t.Errorf("sent %q", got)
	}
}

func TestAnInterruptAtThePromptLeavesTheTerminalAsItWas(t *testing.T) {
	t.Parallel()
	_, tty := terminal(t)
	before, err := term.GetState(int(tty.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	stderr := &onPrompt{then: cancel}
	code := cli.Main(ctx, cli.Env{
		Args: strings.Fields("user list --url https://gw.example.org --token -"), Getenv: func(string) string { return "" },
		Stdin: tty, Stdout: &bytes.Buffer{}, Stderr: stderr, Now: time.Now,
	})
	if code != 1 || !strings.HasSuffix(stderr.String(), "mosaic: interrupted (interrupted)\n") {
		t.Errorf("exit code %d, stderr %q; want 1 and interrupted", code, stderr.String())
	}
	after, err := term.GetState(int(tty.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	if *after != *before {
		t.Error("the terminal's settings were changed")
	}
}
