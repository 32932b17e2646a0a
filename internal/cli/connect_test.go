package cli

import (
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/mosaicstack/gateway/internal/fault"
)

func testApp(env map[string]string) *app {
	return &app{env: Env{Getenv: func(name string) string { return env[name] }, Now: time.Now, Stderr: io.Discard, Version: "v1.2.3"}}
}

func TestAGatewayThatDoesNotAnswerInTimeIsGivenUp(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	t.Cleanup(func() { close(release); s.Close() })
	c := testApp(nil).overHTTP(s.URL)
	if c.timeout != callTimeout {
		t.Errorf("a call may take %s, want %s", c.timeout, callTimeout)
	}
	c.timeout = time.Millisecond
	if _, err := c.do(t.Context(), get("api", "users")); !errors.Is(err, errTimeout) {
		t.Errorf("do: %v, want %v", err, errTimeout)
	}
}

func TestAnAnswerThatStopsHalfwayIsGivenUp(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"data":`)
		_ = http.NewResponseController(w).Flush()
		<-release
	}))
	t.Cleanup(func() { close(release); s.Close() })
	c := testApp(nil).overHTTP(s.URL)
	c.timeout = 50 * time.Millisecond
	if _, err := c.do(t.Context(), get("api", "users")); !errors.Is(err, errTimeout) {
		t.Errorf("do: %v, want %v", err, errTimeout)
	}
}

func TestACertificateOfAnUnknownCAIsNotTrusted(t *testing.T) {
	t.Parallel()
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.Config.ErrorLog = nil
	s.StartTLS()
	t.Cleanup(s.Close)
	_, err := testApp(nil).overHTTP(s.URL).do(t.Context(), get("api", "users"))
	if !errors.Is(err, errUntrusted) {
		t.Errorf("do: %v, want %v", err, errUntrusted)
	}
}

// Tests may run as root, to whom no socket is forbidden.
func TestASocketThatIsForbiddenIsNotSaidToBeAbsent(t *testing.T) {
	t.Parallel()
	unreachable := testApp(nil).overSocket("d").unreachable
	for _, tt := range []struct{ err, want error }{
		{&net.OpError{Op: "dial", Err: fs.ErrPermission}, errSocketForbidden},
		{&net.OpError{Op: "dial", Err: fs.ErrNotExist}, errNotRunning},
		{errors.New("no buffer space"), errUnreachable},
	} {
		if got := unreachable(tt.err); !errors.Is(got, tt.want) {
			t.Errorf("%v: %v, want %v", tt.err, got, tt.want)
		}
	}
}

func TestAProxyIsThatOfTheCommandsEnvironment(t *testing.T) {
	t.Parallel()
	env := map[string]string{"HTTPS_PROXY": "http://proxy.example.org:8080", "no_proxy": "direct.example.org"}
	for address, want := range map[string]string{
		"https://gw.example.org/api":     "http://proxy.example.org:8080",
		"https://direct.example.org/api": "",
		"https://127.0.0.1/api":          "",
		"http://localhost:3000/api":      "",
	} {
		r := httptest.NewRequest(http.MethodGet, address, nil)
		got, err := testApp(env).proxy()(r)
		if err != nil || (got == nil) != (want == "") || got != nil && got.String() != want {
			t.Errorf("%s goes through %v (%v), want %q", address, got, err, want)
		}
	}
}

func TestEveryFaultSaysWhatToDo(t *testing.T) {
	t.Parallel()
	for _, f := range []*fault.Fault{
		errNotRunning, errSocketForbidden, errUnreachable, errConnectionLost, errTimeout, errUntrusted, errInsecureURL, errRedirect,
		errNotAGateway, errAnswerTooLarge, errFileUnreadable, errSecretUnreadable, errPort, errOutput,
	} {
		if f.Code == "" || f.Detail == "" || f.Hint == "" || strings.HasSuffix(f.Detail, ".") {
			t.Errorf("%+v", f)
		}
	}
}
