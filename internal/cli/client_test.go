package cli_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mosaicstack/gateway/internal/unixsock"
)

const noUsers = `{"data":[]}`

func TestTheAdminSocketNeedsNoToken(t *testing.T) {
	t.Parallel()
	g := serve(t, map[string]reply{"GET /api/users": doc(200, noUsers)})
	c := call{args: []string{"user", "list", "--json"}, env: map[string]string{"MOSAIC_DIR": g.dir, "MOSAIC_TOKEN": "mos_secret"}}
	c.run(t).want(t, 0, "[]\n", "")
	h := g.only(t).header
	if h.Get("Authorization") != "" || h.Get("User-Agent") != "mosaic/v1.2.3" {
		t.Errorf("headers %v: want no token, and the agent mosaic/v1.2.3", h)
	}
}

func TestATokenComesFromWhereItIsSaidToBe(t *testing.T) {
	t.Parallel()
	file := write(t, "mos_secret\n")
	tests := []struct {
		name string
		args []string
		env  map[string]string
	}{
		{"the value", []string{"--token", "mos_secret"}, nil},
		{"a file", []string{"--token", file}, nil},
		{"a marked file", []string{"--token", "@" + file}, nil},
		{"standard input", []string{"--token", "-"}, nil},
		{"the environment", nil, map[string]string{"MOSAIC_TOKEN": "mos_secret"}},
		{"a file of the environment", nil, map[string]string{"MOSAIC_TOKEN_FILE": file}},
		{"the flag before the environment", []string{"--token", file}, map[string]string{"MOSAIC_TOKEN": "mos_other"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := serve(t, map[string]reply{"GET /api/users": doc(200, noUsers)})
			c := call{args: append([]string{"user", "list", "--url", g.url + "/"}, tt.args...), env: tt.env, stdin: strings.NewReader(" mos_secret\r\n")}
			c.run(t).want(t, 0, "", "no users yet: mosaic user create EMAIL\n")
			seen := g.only(t)
			if got := seen.header.Get("Authorization"); got != "Bearer mos_secret" || seen.uri != "/api/users" {
				t.Errorf("GET %s with %q, want /api/users with Bearer mos_secret", seen.uri, got)
			}
		})
	}
}

func TestATokenThatCannotBeReadIsRefusedAndNotRepeated(t *testing.T) {
	t.Parallel()
	g := serve(t, nil)
	tests := []struct {
		name, token string
		env         map[string]string
		exit        int
		code        string
	}{
		{"neither a token nor a file", "sesame", nil, 1, "file_unreadable"},
		{"a marked file that is not there", "@sesame", nil, 1, "file_unreadable"},
		{"a directory", t.TempDir(), nil, 1, "file_unreadable"},
		{"an empty file", write(t, "\n"), nil, 1, "secret_unreadable"},
		{"a file of two lines", write(t, "mos_sesame\nmos_sesame\n"), nil, 1, "secret_unreadable"},
		{"a file that is too large", write(t, strings.Repeat("sesame", 20000)), nil, 1, "secret_unreadable"},
		{"a header of its own", "mos_sesame\r\nMosaic-Act-For: root", nil, 1, "secret_unreadable"},
		{"empty standard input", "-", nil, 1, "secret_unreadable"},
		{"two in the environment", "", map[string]string{"MOSAIC_TOKEN": "mos_sesame", "MOSAIC_TOKEN_FILE": "f"}, 2, "usage"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := call{args: []string{"user", "list", "--url", g.url}, env: tt.env}
			if tt.token != "" {
				c.args = append(c.args, "--token", tt.token)
			}
			got := c.run(t)
			got.refused(t, tt.exit, tt.code)
			if strings.Contains(got.stderr, "sesame") && !strings.HasPrefix(tt.token, "@") {
				t.Errorf("stderr repeats the token: %q", got.stderr)
			}
		})
	}
	t.Cleanup(func() {
		if seen := g.asked(); len(seen) > 0 {
			t.Errorf("the gateway was asked: %v", seen)
		}
	})
}

func TestATokenTravelsInTheClearOnLoopbackOnly(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"http://gw.example.org", "http://localhost.example.org", "http://10.0.0.1:3000", "http://[2001:db8::1]", "http://127.example.org"} {
		c := call{args: []string{"user", "list"}, env: map[string]string{"MOSAIC_URL": address, "MOSAIC_TOKEN": "mos_x"}}
		c.run(t).refused(t, 1, "insecure_url")
	}
	for _, address := range []string{"http://localhost:1", "http://127.0.0.2:1", "http://[::1]:1", "http://[::ffff:127.0.0.1]:1"} {
		c := call{args: []string{"user", "list"}, env: map[string]string{"MOSAIC_URL": address, "MOSAIC_TOKEN": "mos_x"}}
		c.run(t).refused(t, 1, "gateway_unreachable")
	}
}

func TestAFlagPicksTheGatewayBeforeTheEnvironmentDoes(t *testing.T) {
	t.Parallel()
	near := serve(t, map[string]reply{"GET /api/users": doc(200, noUsers)})
	far := serve(t, nil)
	c := call{args: []string{"user", "list", "--dir", near.dir}, env: map[string]string{"MOSAIC_URL": far.url, "MOSAIC_TOKEN": "mos_x"}}
	c.run(t).want(t, 0, "", "no users yet: mosaic user create EMAIL\n")
	c = call{args: []string{"user", "list", "--url", near.url, "--token", "mos_x"}, env: map[string]string{"MOSAIC_URL": far.url, "MOSAIC_DIR": far.dir}}
	c.run(t).want(t, 0, "", "no users yet: mosaic user create EMAIL\n")
	if seen := far.asked(); len(seen) > 0 {
		t.Errorf("the wrong gateway was asked: %v", seen)
	}
}

func TestAGatewayThatDoesNotRunIsSaidToBeSo(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "it's here")
	run := func() result { return call{args: []string{"user", "list", "--dir", dir}}.run(t) }
	hint := "hint: start it: mosaic gateway dev --dir '" + strings.ReplaceAll(dir, "'", `'\''`) + "', or set MOSAIC_URL and MOSAIC_TOKEN\n"

	run().want(t, 1, "", "mosaic: no gateway runs in "+dir+": there is no "+dir+"/admin.sock (gateway_not_running)\n"+hint)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	run().refused(t, 1, "gateway_not_running")

	// What a gateway leaves behind that was killed: its socket, and nobody on it.
	l, err := unixsock.Listen(dir, "other.sock", 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "other.sock"), filepath.Join(dir, "admin.sock")); err != nil {
		t.Fatal(err)
	}
	l.Close()
	run().want(t, 1, "", "mosaic: no gateway runs in "+dir+": nobody answers on "+dir+"/admin.sock (gateway_not_running)\n"+hint)
}

func TestARefusalIsShownInTheGatewaysWords(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		answer reply
		stderr string
	}{
		{
			"every problem, then the hint",
			problem(422, `{"type":"about:blank","title":"Unprocessable Entity","status":422,"detail":"the scope document has 2 problems","code":"scope_invalid","hint":"mend it",
				"request_id":"r1","errors":[{"path":"resources[0]","detail":"must be a string"},{"path":"max_rows_per_query","detail":"is required"}]}`),
			"mosaic: the scope document has 2 problems (scope_invalid)\n  resources[0]: must be a string\n  max_rows_per_query: is required\nhint: mend it\n",
		},
		{
			"when to come back",
			func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Retry-After", "90")
				problem(429, `{"detail":"too many","code":"rate_limited"}`)(w, r)
			},
			"mosaic: too many (rate_limited)\nretry after: 1m30s\n",
		},
		{
			"the request id of a failure",
			problem(500, `{"detail":"the gateway failed to answer","code":"internal","hint":"look it up","request_id":"r7"}`),
			"mosaic: the gateway failed to answer (internal)\nhint: look it up\nrequest id: r7\n",
		},
		{
			"the title when there is no detail",
			problem(403, `{"title":"Forbidden","code":"forbidden"}`), "mosaic: Forbidden (forbidden)\n",
		},
		{
			"without its control characters",
			problem(403, `{"detail":"no\u001b]0;owned\u0007\u009b2J\nmosaic: all is well","code":"for\u202ebidden","hint":"a\u007fb","errors":[{"path":"\u001b[1m","detail":"\r"}]}`),
			"mosaic: no]0;owned2J mosaic: all is well (forbidden)\n  [1m:  \nhint: ab\n",
		},
		{
			"not taken for a bad command line", problem(400, `{"detail":"no","code":"usage"}`), "mosaic: no (usage)\n",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := serve(t, map[string]reply{"GET /api/users": tt.answer})
			g.mosaic(t, "user list").want(t, 1, "", tt.stderr)
			g.mosaic(t, "user list --json").want(t, 1, "", tt.stderr)
		})
	}
}

func TestWhatIsNoGatewayIsNotBelieved(t *testing.T) {
	t.Parallel()
	html := func(status int) reply {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(status)
			fmt.Fprint(w, "<h1>Bad Gateway</h1>")
		}
	}
	tests := []struct {
		name   string
		answer reply
		code   string
	}{
		{"a proxy's error page", html(502), "answer_unexpected"},
		{"a page", html(200), "answer_unexpected"},
		{"an error of another API", doc(404, `{"code":"nope","detail":"x"}`), "answer_unexpected"},
		{"a problem of another API", problem(404, `{"title":"Not Found"}`), "answer_unexpected"},
		{"nothing", doc(204, ""), "answer_unexpected"},
		{"JSON of another shape", doc(200, `[1,2]`), "answer_unexpected"},
		{"a list of other things", doc(200, `{"data":[{"id":{}}]}`), "answer_unexpected"},
		{"half an answer", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, `{"data":[`)
		}, "connection_lost"},
		{"no answer", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "connection_lost"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := serve(t, map[string]reply{"GET /api/users": tt.answer})
			g.mosaic(t, "user list").refused(t, 1, tt.code)
		})
	}
}

func TestARedirectIsNotFollowed(t *testing.T) {
	t.Parallel()
	thief := serve(t, map[string]reply{"GET /api/users": doc(200, noUsers)})
	g := serve(t, map[string]reply{"GET /api/users": func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, thief.url+r.URL.Path, http.StatusTemporaryRedirect)
	}})
	call{args: []string{"user", "list", "--url", g.url, "--token", "mos_x"}}.run(t).refused(t, 1, "redirect_refused")
	if seen := thief.asked(); len(seen) > 0 {
		t.Errorf("the redirect was followed: %v", seen)
	}
}

func TestAnAnswerHasABound(t *testing.T) {
	t.Parallel()
	g := serve(t, map[string]reply{"GET /api/users": func(w http.ResponseWriter, _ *http.Request) {
		block := make([]byte, 1<<20)
		for i := range block {
			block[i] = ' '
		}
		for { // without end: only the client's bound ends it
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	}})
	g.mosaic(t, "user list").refused(t, 1, "answer_too_large")
}

func TestAnInterruptEndsACommandThatWaits(t *testing.T) {
	t.Parallel()
	t.Run("for the gateway", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		g := serve(t, map[string]reply{"GET /api/users": func(_ http.ResponseWriter, r *http.Request) {
			cancel()
			<-r.Context().Done()
		}})
		call{args: []string{"user", "list", "--dir", g.dir}, ctx: ctx}.run(t).want(t, 1, "", "mosaic: interrupted (interrupted)\n")
	})
	t.Run("for standard input", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		in, out := io.Pipe()
		t.Cleanup(func() { out.Close() })
		c := call{args: []string{"user", "list", "--url", "https://gw.example.org", "--token", "-"}, ctx: ctx, stdin: readerFunc(func(p []byte) (int, error) {
			cancel()
			return in.Read(p)
		})}
		c.run(t).refused(t, 1, "interrupted")
	})
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// The second line is only written once the first one has arrived: what is not streamed hangs here.
func TestAnImportIsStreamed(t *testing.T) {
	t.Parallel()
	arrived := make(chan string)
	g := serve(t, map[string]reply{"POST /api/resources/tasks/import": func(w http.ResponseWriter, r *http.Request) {
		lines := bufio.NewScanner(r.Body)
		n := 0
		for ; lines.Scan(); n++ {
			arrived <- lines.Text()
		}
		doc(200, fmt.Sprintf(`{"imported":%d}`, n))(w, r)
	}})
	in, out := io.Pipe()
	go func() {
		for _, line := range []string{`{"title":"a"}`, `{"title":"b"}`} {
			fmt.Fprintln(out, line)
			if got := <-arrived; got != line {
				t.Errorf("the gateway got %q, want %q", got, line)
			}
		}
		out.Close()
	}()
	c := call{args: strings.Fields("resource import tasks - --owner a+b@c.de --team design --dir " + g.dir), stdin: in}
	c.run(t).want(t, 0, "", "imported 2 tasks\n")
	seen := g.only(t)
	if want := "/api/resources/tasks/import?owner=a%2Bb%40c.de&team=design"; seen.uri != want || seen.header.Get("Content-Type") != "application/x-ndjson" {
		t.Errorf("asked %s as %s, want %s as JSON lines", seen.uri, seen.header.Get("Content-Type"), want)
	}
}

func TestAnImportThatIsRefusedIsNotSent(t *testing.T) {
	t.Parallel()
	g := serve(t, map[string]reply{"POST /api/resources/pets/import": problem(404, `{"detail":"there is no such resource","code":"resource_unknown"}`)})
	endless := readerFunc(func(p []byte) (int, error) {
		t.Error("the file was read although the gateway had refused it")
		return 0, io.EOF
	})
	c := call{args: strings.Fields("resource import pets - --owner u --dir " + g.dir), stdin: endless}
	c.run(t).want(t, 1, "", "mosaic: there is no such resource (resource_unknown)\n")
}

func TestAnImportOfAFileThatBreaksNamesTheFile(t *testing.T) {
	t.Parallel()
	g := serve(t, map[string]reply{"POST /api/resources/tasks/import": func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		panic(http.ErrAbortHandler)
	}})
	broken := readerFunc(func([]byte) (int, error) { return 0, os.ErrDeadlineExceeded })
	c := call{args: strings.Fields("resource import tasks - --owner u --dir " + g.dir), stdin: broken}
	c.run(t).refused(t, 1, "file_unreadable")
	g.mosaic(t, "resource import tasks /nope --owner u").refused(t, 1, "file_unreadable")
	g.mosaic(t, "resource import tasks --owner u", t.TempDir()).refused(t, 1, "file_unreadable")
}

func TestAnImportPrintsTheGatewaysDocument(t *testing.T) {
	t.Parallel()
	g := serve(t, map[string]reply{"POST /api/resources/tasks/import": func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		doc(200, fmt.Sprintf(`{"imported":%d}`, len(body)))(w, r)
	}})
	file := write(t, "12345")
	g.mosaic(t, "resource import tasks --json --owner u", file).want(t, 0, `{"imported":5}`+"\n", "")
}
