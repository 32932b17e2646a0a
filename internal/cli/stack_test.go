package cli_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/mosaicstack/gateway/internal/portainer/portainertest"
)

// portainer is a run of the command line against a Portainer.
func portainer(t *testing.T, s *portainertest.Server, c call) result {
	t.Helper()
	env := map[string]string{"PORTAINER_URL": s.URL, "PORTAINER_API_KEY": portainertest.Key, "PORTAINER_INSECURE": "1"}
	for name, value := range c.env {
		env[name] = value
	}
	c.env = env
	r := c.run(t)
	for _, secret := range []string{portainertest.Key, portainertest.Password, "hunter22"} {
		if strings.Contains(r.stdout+r.stderr, secret) {
			t.Errorf("%q is shown by %q:\n%s%s", secret, c.args, r.stdout, r.stderr)
		}
	}
	return r
}

func startPortainer(t *testing.T) *portainertest.Server {
	t.Helper()
	s := portainertest.Start(true)
	t.Cleanup(s.Close)
	return s
}

// Whatever Portainer answers, with whatever it knows in it, no command shows the key or the value of a variable.
func TestNoStackCommandShowsASecret(t *testing.T) {
	t.Parallel()
	// knows is what whoever answers may repeat: what it was sent, and what it keeps of the stack.
	knows := func(s *portainertest.Server) string {
		asked := s.Asked()
		last := asked[len(asked)-1]
		text := last.Key + " and " + strings.ReplaceAll(last.Body, `"`, "'")
		if strings.Contains(last.URI, "/stacks/7") {
			text += portainertest.Password
		}
		return text
	}
	answers := map[string]func(s *portainertest.Server, w http.ResponseWriter, r *http.Request) bool{
		"as it should": func(*portainertest.Server, http.ResponseWriter, *http.Request) bool { return false },
		"its changes are refused": func(s *portainertest.Server, w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodGet {
				return false
			}
			portainertest.Refuse(w, 500, "failed to deploy a stack: "+knows(s), knows(s))
			return true
		},
		"Docker refuses": func(_ *portainertest.Server, w http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, "/docker/services") {
				return false
			}
			portainertest.Say(w, 400, portainertest.Password)
			return true
		},
		"everything is a page": func(s *portainertest.Server, w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(503)
			_, _ = io.WriteString(w, "<html>"+knows(s)+portainertest.Password)
			return true
		},
		"everything is elsewhere": func(_ *portainertest.Server, w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Location", "/?"+portainertest.Key)
			w.WriteHeader(302)
			return true
		},
		"everything is nonsense": func(s *portainertest.Server, w http.ResponseWriter, _ *http.Request) bool {
			_, _ = io.WriteString(w, `[{"Id":"`+knows(s)+portainertest.Password+`"}]`)
			return true
		},
	}
	for name, answer := range answers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startPortainer(t)
			s.Override = func(w http.ResponseWriter, r *http.Request) bool { return answer(s, w, r) }
			for _, line := range []string{
				"endpoints", "list", "list --endpoint primary", "status mosaic", "logs mosaic --tail 3", "redeploy mosaic --pull",
				"redeploy mosaic --env-file - --file testdata/no.yml", "stop mosaic", "start mosaic", "create x --env-file - --file -",
			} {
				for _, json := range []string{"", " --json"} {
					portainer(t, s, call{args: strings.Fields("stack " + line + json), stdin: strings.NewReader("POSTGRES_PASSWORD=hunter22\n")})
				}
			}
			file := write(t, "services: {}\n")
			portainer(t, s, call{args: []string{"stack", "create", "new", "--file", file, "--env-file", "-"}, stdin: strings.NewReader("POSTGRES_PASSWORD=hunter22\n")})
			portainer(t, s, call{args: []string{"stack", "redeploy", "mosaic", "--file", file, "--prune", "--env-file", "-"}, stdin: strings.NewReader("NEW_PASSWORD=hunter22\n")})
			for _, r := range s.Asked() {
				if r.Key != portainertest.Key || strings.Contains(r.URI, "ptr_") || strings.Contains(r.URI, "hunter22") {
					t.Errorf("asked %+v", r)
				}
			}
		})
	}
}

func TestAStacksVariablesAreReadAsWritten(t *testing.T) {
	t.Parallel()
	s := startPortainer(t)
	env := "# a comment\n\n A = spaces \nexport_me=\"in quotes\"\r\nQ='it''s'\nEQ=a=b=c\nEMPTY=\nTWICE=1\nTWICE=2\n\"=x"
	file := write(t, "services: {}\n")
	r := portainer(t, s, call{args: []string{"stack", "create", "new", "--file", file, "--env-file", write(t, env)}})
	if r.code != 1 || !strings.Contains(r.stderr, "mosaic: line 10 of --env-file is not NAME=VALUE (file_unreadable)\n") {
		t.Errorf("exit code %d, stderr %q", r.code, r.stderr)
	}
	env = strings.TrimSuffix(env, "\n\"=x")
	if r = portainer(t, s, call{args: []string{"stack", "create", "new", "--file", file, "--env-file", write(t, env), "--env", "EQ= x ", "--env", "Z="}}); r.code != 0 {
		t.Fatal(r.stderr)
	}
	var body struct {
		Env []portainertest.Pair `json:"env"`
	}
	ch := s.Changes()
	if len(ch) != 1 || json.Unmarshal([]byte(ch[0].Body), &body) != nil {
		t.Fatalf("asked %v", ch)
	}
	var got []string
	for _, p := range body.Env {
		got = append(got, fmt.Sprintf("%s[%s]", p.Name, p.Value))
	}
	want := "A[spaces] export_me[in quotes] Q[it''s] EQ[ x ] EMPTY[] TWICE[2] Z[]"
	if strings.Join(got, " ") != want {
		t.Errorf("sent %s, want %s", got, want)
	}
}

func TestALogCannotActOnATerminal(t *testing.T) {
	t.Parallel()
	s := startPortainer(t)
	s.Logs = func(w http.ResponseWriter, _ *http.Request, _ string) {
		for _, text := range []string{"\x1b[1;31mred\x1b[0m \x1b]0;title\x07and\x1b]8;;http://x\x1b\\link\x1bc\ttab", "\u009b2J\u202eevil\x00\xff", "ok\r"} {
			_, _ = w.Write(portainertest.Frame(2, portainertest.Message("2026-03-01T12:00:00Z", "task-gateway", text)))
		}
	}
	r := portainer(t, s, call{args: strings.Fields("stack logs mosaic gateway")})
	want := "gateway.1 | red andlink tab\ngateway.1 | 2Jevil\ufffd\ngateway.1 | ok\n"
	if r.code != 0 || r.stdout != want {
		t.Errorf("exit code %d, stdout %q, want %q; %s", r.code, r.stdout, want, r.stderr)
	}
	r = portainer(t, s, call{args: strings.Fields("stack logs mosaic gateway --json")})
	for i, line := range strings.Split(strings.TrimSpace(r.stdout), "\n") {
		var l struct{ Stream, Text string }
		if err := json.Unmarshal([]byte(line), &l); err != nil || l.Stream != "stderr" || strings.ContainsAny(line, "\x1b\x00\u202e\u009b") {
			t.Errorf("%q: %v", line, err)
		}
		if i == 1 && !strings.HasPrefix(l.Text, "\u009b2J\u202eevil") {
			t.Errorf("it means %q", l.Text)
		}
	}
}

// interrupting presses Ctrl-C when it is written to.
type interrupting struct {
	strings.Builder
	cancel context.CancelFunc
}

func (i *interrupting) Write(p []byte) (int, error) {
	defer i.cancel()
	return i.Builder.Write(p)
}

func TestFollowingEndsWithCtrlC(t *testing.T) {
	t.Parallel()
	s := startPortainer(t)
	s.Logs = func(w http.ResponseWriter, r *http.Request, _ string) {
		_, _ = w.Write(portainertest.Frame(1, portainertest.Message("2026-03-01T12:00:00Z", "task-gateway", "here")))
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}
	ctx, cancel := context.WithCancel(t.Context())
	out := &interrupting{cancel: cancel}
	r := portainer(t, s, call{args: strings.Fields("stack logs -f mosaic gateway"), ctx: ctx, stdout: out})
	if r.code != 0 || out.String() != "gateway.1 | here\n" || strings.Count(r.stderr, "\n") != 1 { // the warning
		t.Errorf("exit code %d, stdout %q, stderr %q", r.code, out.String(), r.stderr)
	}
	// Without --follow it is not the end that was asked for.
	ctx, cancel = context.WithCancel(t.Context())
	r = portainer(t, s, call{args: strings.Fields("stack logs mosaic gateway"), ctx: ctx, stdout: &interrupting{cancel: cancel}})
	if r.code != 1 || !strings.Contains(r.stderr, "(interrupted)") {
		t.Errorf("exit code %d, stderr %q", r.code, r.stderr)
	}
}

func TestAFollowedLogTellsOfItsGaps(t *testing.T) {
	t.Parallel()
	s := startPortainer(t)
	n := 0
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	s.Logs = func(w http.ResponseWriter, r *http.Request, _ string) {
		_, _ = w.Write(portainertest.Frame(1, portainertest.Message("2026-03-01T12:00:00Z", "task-gateway", "here")))
		if n++; n == 1 {
			_, _ = w.Write(portainertest.Frame(3, "Error grabbing logs: node n2 \x1b[31mis down\n"))
			return
		}
		_, _ = w.Write(portainertest.Frame(1, portainertest.Message("2026-03-01T12:00:01Z", "task-gateway", "again")))
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}
	out := &whenComplete{want: "gateway.1 | here\ngateway.1 | again\n", cancel: cancel}
	r := portainer(t, s, call{args: strings.Fields("stack logs mosaic gateway --follow"), ctx: ctx, stdout: out})
	if r.code != 0 || out.String() != out.want {
		t.Errorf("exit code %d, stdout %q", r.code, out.String())
	}
	for _, want := range []string{"could not give the whole log of gateway: Error grabbing logs: node n2 [31mis down", "reading on after the line of 2026-03-01T12:00:00Z"} {
		if !strings.Contains(r.stderr, want) || strings.Contains(r.stderr, "\x1b") {
			t.Errorf("stderr %q has no %q", r.stderr, want)
		}
	}
}

// whenComplete presses Ctrl-C when everything is there.
type whenComplete struct {
	strings.Builder
	want   string
	cancel context.CancelFunc
}

func (w *whenComplete) Write(p []byte) (int, error) {
	n, err := w.Builder.Write(p)
	if len(w.String()) >= len(w.want) {
		w.cancel()
	}
	return n, err
}

func TestALogThatCannotBeWrittenIsRefused(t *testing.T) {
	t.Parallel()
	s := startPortainer(t)
	for _, line := range []string{"stack logs mosaic", "stack logs mosaic -f"} {
		r := portainer(t, s, call{args: strings.Fields(line), stdout: full{}})
		if r.code != 1 || !strings.Contains(r.stderr, "mosaic: the log cannot be written (output_failed)\n") {
			t.Errorf("%s: exit code %d, stderr %q", line, r.code, r.stderr)
		}
	}
}

// What deploy/portainer/README.md says makes a file that needs no other, under names that the configs made there have.
func TestTheGatewaysStackIsCreatedAsItsReadmeSays(t *testing.T) {
	t.Parallel()
	const deploy = "../../deploy"
	readme, err := os.ReadFile(deploy + "/portainer/README.md")
	if err != nil {
		t.Fatal(err)
	}
	script := regexp.MustCompile(`(?m)^sed '(.+)' deploy/portainer/federated\.stack\.yml \|\n  (mosaic stack create \$STACK_NAME --file - --env-file stack\.env)$`).FindSubmatch(readme)
	if script == nil {
		t.Fatal("the README does not say how")
	}
	file, err := exec.Command("sed", string(script[1]), deploy+"/portainer/federated.stack.yml").Output()
	if err != nil {
		t.Fatal(err)
	}
	env := write(t, "STACK_NAME=gw\nHOST_FQDN=gateway.example.org\nPOSTGRES_PASSWORD=hunter22\n")
	line := strings.NewReplacer("mosaic ", "", "$STACK_NAME", "gw", "stack.env", env).Replace(string(script[2]))
	s := startPortainer(t)
	if r := portainer(t, s, call{args: strings.Fields(line), stdin: bytes.NewReader(file)}); r.code != 0 {
		t.Fatal(r.stderr)
	}
	var body struct{ Name, StackFileContent string }
	if ch := s.Changes(); len(ch) != 1 || json.Unmarshal([]byte(ch[0].Body), &body) != nil || body.Name != "gw" || body.StackFileContent != string(file) {
		t.Fatalf("sent %+v", ch)
	}
	if strings.Contains(body.StackFileContent, "file:") {
		t.Error("it reads files, which Portainer does not have")
	}
	made := regexp.MustCompile(`docker config create \$\{STACK_NAME\}(\w+)\$\(sha256sum (\S+) \| cut -c1-8\) (\S+)\n`).FindAllStringSubmatch(string(readme), -1)
	if len(made) != 2 {
		t.Fatalf("the README makes %d configs", len(made))
	}
	for _, m := range made {
		content, err := os.ReadFile("../../" + m[3])
		if err != nil || m[2] != m[3] {
			t.Fatalf("%q: %v", m, err)
		}
		if name := fmt.Sprintf("    name: ${STACK_NAME}%s%.4x\n    external: true\n", m[1], sha256.Sum256(content)); !strings.Contains(body.StackFileContent, name) {
			t.Errorf("no config is\n%s", name)
		}
	}
}
