package deploy_test

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The command of each file, run as it stands but for the port: Valkey writes nothing, drops nothing, and wants a
// password that is in nobody's list of processes.
func TestValkeyKeepsNothingAndAsksForItsPassword(t *testing.T) {
	t.Parallel()
	const password = "hunter2hunter2"
	for _, file := range append([]string{composeFile}, stacks...) {
		for _, shell := range [][]string{{"busybox", "sh"}, {"/bin/sh"}} { // of Alpine, and of Debian
			t.Run(filepath.Base(file)+" "+shell[0], func(t *testing.T) {
				t.Parallel()
				env, profile := stackVariables(), "federated"
				env["VALKEY_PASSWORD"] = password
				command := service(t, render(t, file, env, profile), "valkey").Command
				if len(command) != 3 || command[0] != "/bin/sh" || command[1] != "-c" {
					t.Fatalf("the command is %q", command)
				}
				dir := t.TempDir()
				secret, socket := filepath.Join(dir, "secret"), filepath.Join(dir, "s")
				if err := os.WriteFile(secret, []byte(password+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
				script := strings.ReplaceAll(command[2], "/run/secrets/valkey_password", secret)
				script = strings.Replace(script, "valkey-server -", "valkey-server - --port 0 --unixsocket "+socket, 1)
				if !strings.Contains(script, socket) {
					t.Fatalf("no server in %q", script)
				}
				pid := startValkey(t, dir, append(append([]string{}, shell...), "-c", script), "VALKEY_PASSWORD="+password)
				argv, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
				if err != nil {
					t.Fatal(err)
				}
				if strings.Contains(string(argv), password) || !strings.Contains(string(argv), "valkey-server") {
					t.Errorf("it runs as %q", argv)
				}
				for _, ask := range []struct{ lines, want string }{
					{"PING", "-NOAUTH"},
					{"AUTH wrong", "-WRONGPASS"},
					{"AUTH " + password + "\r\nCONFIG GET save", "$0\r\n\r\n"},
					{"AUTH " + password + "\r\nCONFIG GET appendonly", "\r\nno\r\n"},
					{"AUTH " + password + "\r\nCONFIG GET maxmemory-policy", "\r\nnoeviction\r\n"},
				} {
					if got := inline(t, socket, ask.lines); !strings.Contains(got, ask.want) {
						t.Errorf("%q: %q", ask.lines, got)
					}
				}
			})
		}
	}
}

func startValkey(t *testing.T, dir string, args []string, env ...string) (pid int) {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v; run deploy/dev/setup.sh test", err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	})
	var said strings.Builder
	for lines := bufio.NewScanner(out); lines.Scan(); {
		said.WriteString(lines.Text() + "\n")
		if strings.Contains(lines.Text(), "eady to accept connections") {
			return cmd.Process.Pid // the shell became the server
		}
	}
	t.Fatalf("it ended:\n%s", said.String())
	return 0
}

// inline sends lines and a QUIT, and gives all that is answered.
func inline(t *testing.T, socket, lines string) string {
	t.Helper()
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(c, "%s\r\nQUIT\r\n", lines); err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	if _, err := bufio.NewReader(c).WriteTo(&all); err != nil {
		t.Fatal(err)
	}
	return all.String()
}
