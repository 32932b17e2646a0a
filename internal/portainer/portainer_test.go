package portainer_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/portainer"
	"github.com/mosaicstack/gateway/internal/portainer/portainertest"
	"github.com/mosaicstack/gateway/internal/seal"
)

func start(t *testing.T, secure bool) *portainertest.Server {
	t.Helper()
	s := portainertest.Start(secure)
	t.Cleanup(s.Close)
	return s
}

func client(t *testing.T, url string, change ...func(*portainer.Config)) *portainer.Client {
	t.Helper()
	c := portainer.Config{URL: url, Key: seal.NewSecret(portainertest.Key), Agent: "mosaic/test", Pause: time.Millisecond}
	for _, f := range change {
		f(&c)
	}
	p, err := portainer.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func stack(t *testing.T, p *portainer.Client) portainer.Stack {
	t.Helper()
	s, err := p.Stack(t.Context(), "mosaic", "")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// secret fails when something that is shown has a secret in it.
func secret(t *testing.T, shown ...any) {
	t.Helper()
	for _, v := range shown {
		text := fmt.Sprintf("%v %+v %#v %s", v, v, v, v)
		if err, ok := v.(error); ok {
			f := fault.From(err)
			text += fmt.Sprint(f.Detail, f.Hint, f.Cause)
		}
		for _, s := range []string{portainertest.Key, portainertest.Password} {
			if strings.Contains(text, s) {
				t.Errorf("%q is in %s", s, text)
			}
		}
	}
}

func TestAStackIsCreatedWithTheSwarmsID(t *testing.T) {
	t.Parallel()
	s := start(t, false)
	p := client(t, s.URL+"/api/") // as people copy it
	e, err := p.Endpoint(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	made, err := p.Create(t.Context(), portainer.NewStack{
		Name: "second", Endpoint: e, File: "services: {}\n", Env: []portainer.Variable{{Name: "A", Value: seal.NewSecret("x y")}},
	})
	if err != nil || made.Name != "second" || made.Status != portainer.StatusActive {
		t.Fatalf("%+v, %v", made, err)
	}
	ch := s.Changes()
	if len(ch) != 1 || ch[0].Method != "POST" || ch[0].URI != "/api/stacks/create/swarm/string?endpointId=1" || ch[0].Key != portainertest.Key ||
		ch[0].Body != `{"name":"second","swarmID":"jpofkc0i9uo9wtx1zesuk649w","stackFileContent":"services: {}\n","env":[{"name":"A","value":"x y"}]}` {
		t.Errorf("asked %+v", ch)
	}
	_, err = p.Create(t.Context(), portainer.NewStack{Name: "mosaic", Endpoint: e, File: "x"})
	if !errors.Is(err, portainer.ErrStackExists) {
		t.Errorf("one that is there: %v", err)
	}
}

func TestARedeploymentKeepsWhatIsNotNamed(t *testing.T) {
	t.Parallel()
	s := start(t, false)
	p := client(t, s.URL)
	if _, err := p.Redeploy(t.Context(), stack(t, p), portainer.Redeployment{
		Env: []portainer.Variable{{Name: "HOST_FQDN", Value: seal.NewSecret("new.example.org")}, {Name: "EXTRA", Value: seal.NewSecret("1")}}, Pull: true,
	}); err != nil {
		t.Fatal(err)
	}
	ch := s.Changes()
	var body struct {
		StackFileContent                         string
		Env                                      []portainertest.Pair
		Prune, PullImage, RepullImageAndRedeploy bool
	}
	if len(ch) != 1 || ch[0].Method != "PUT" || ch[0].URI != "/api/stacks/7?endpointId=1" || json.Unmarshal([]byte(ch[0].Body), &body) != nil {
		t.Fatalf("asked %+v", ch)
	}
	if fmt.Sprint(body.Env) != "[{HOST_FQDN new.example.org} {POSTGRES_PASSWORD "+portainertest.Password+"} {EXTRA 1}]" ||
		body.StackFileContent != "services:\n  gateway:\n    image: mosaic:1.2.3\n" || !body.PullImage || !body.RepullImageAndRedeploy || body.Prune {
		t.Errorf("sent %+v", body)
	}
}

func TestAStackThatWouldBeHarmedIsNotRedeployed(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change func(*portainertest.Stack)
		want   error
	}{
		"from Git":   {func(s *portainertest.Stack) { s.GitConfig = &portainertest.Git{URL: "https://x"} }, portainer.ErrStackGit},
		"of Compose": {func(s *portainertest.Stack) { s.Type = 2 }, portainer.ErrStackKind},
		// Portainer has lost the file: an empty one must not take its place.
		"without a file": {func(s *portainertest.Stack) { s.File = "" }, portainer.ErrAnswer},
	} {
		s := start(t, false)
		tt.change(s.Stacks[0])
		p := client(t, s.URL)
		if _, err := p.Redeploy(t.Context(), stack(t, p), portainer.Redeployment{}); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v", name, err)
		}
		if ch := s.Changes(); len(ch) != 0 {
			t.Errorf("%s: asked %+v", name, ch)
		}
	}
}

func TestStartAndStopGoToTheStacksEnvironment(t *testing.T) {
	t.Parallel()
	s := start(t, false)
	p := client(t, s.URL)
	if _, err := p.Start(t.Context(), stack(t, p)); !errors.Is(err, portainer.ErrStackState) {
		t.Errorf("an active one is started: %v", err)
	}
	if got, err := p.Stop(t.Context(), stack(t, p)); err != nil || got.Status != portainer.StatusInactive {
		t.Errorf("stop: %+v, %v", got, err)
	}
	if _, err := p.Stop(t.Context(), stack(t, p)); !errors.Is(err, portainer.ErrStackState) {
		t.Errorf("a stopped one is stopped: %v", err)
	}
	if got, err := p.Start(t.Context(), stack(t, p)); err != nil || got.Status != portainer.StatusActive {
		t.Errorf("start: %+v, %v", got, err)
	}
	var asked []string
	for _, r := range s.Changes() {
		asked = append(asked, r.Method+" "+r.URI)
	}
	if fmt.Sprint(asked) != "[POST /api/stacks/7/stop?endpointId=1 POST /api/stacks/7/start?endpointId=1]" {
		t.Errorf("asked %v", asked)
	}
}

func TestAStackAndAnEnvironmentAreFound(t *testing.T) {
	t.Parallel()
	s := start(t, false)
	s.Endpoints = `[{"Id":1,"Name":"primary","Type":2,"Status":1,"URL":"tcp://op:hunter22@agent:9001"},{"Id":2,"Name":"1","Type":99,"Status":2}]`
	other := *s.Stacks[0]
	other.ID, other.EndpointID = 12, 2
	s.Stacks = append(s.Stacks, &other)
	p := client(t, s.URL)
	for _, tt := range []struct {
		name, endpoint string
		id             int
		want           error
	}{
		{"mosaic", "primary", 7, nil},
		{"mosaic", "2", 12, nil},
		{"mosaic", "1", 12, nil}, // a name before an id
		{"12", "", 12, nil},
		{"mosaic", "", 0, portainer.ErrStackAmbiguous},
		{"Mosaic", "", 0, portainer.ErrStackUnknown},
		{"12", "primary", 0, portainer.ErrStackUnknown},
		{"mosaic", "third", 0, portainer.ErrEndpointUnknown},
	} {
		if got, err := p.Stack(t.Context(), tt.name, tt.endpoint); !errors.Is(err, tt.want) || got.ID != tt.id {
			t.Errorf("%q on %q is %d, %v", tt.name, tt.endpoint, got.ID, err)
		}
	}
	if _, err := p.Endpoint(t.Context(), ""); !errors.Is(err, portainer.ErrEndpointAmbiguous) || !strings.Contains(err.Error(), "1, primary") {
		t.Errorf("one of two: %v", err)
	}
	all, err := p.Endpoints(t.Context())
	if err != nil || fmt.Sprint(all) != "[{2 1 unknown (99) down } {1 primary docker-agent up tcp://agent:9001}]" {
		t.Errorf("%v, %v", all, err)
	}
}

func TestOnlyAManagerGetsAStack(t *testing.T) {
	t.Parallel()
	for info, want := range map[string]string{
		`{"Swarm":{"LocalNodeState":"inactive"}}`: "is in no Swarm",
		`{"Swarm":{"LocalNodeState":"active"}}`:   "is a worker",
	} {
		s := start(t, false)
		s.Info = info
		_, err := client(t, s.URL).Create(t.Context(), portainer.NewStack{Name: "x", Endpoint: portainer.Endpoint{ID: 1, Name: "primary"}, File: "x"})
		if !errors.Is(err, portainer.ErrNotSwarm) || !strings.Contains(err.Error(), want) || len(s.Changes()) != 0 {
			t.Errorf("%s: %v, %v", info, err, s.Changes())
		}
	}
}

func TestWhatIsRefusedIsToldWithoutSecrets(t *testing.T) {
	t.Parallel()
	leak := "key " + portainertest.Key + " and password " + portainertest.Password
	say := func(status int, message string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) { portainertest.Say(w, status, message) }
	}
	refuse := func(status int) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) { portainertest.Refuse(w, status, "No", leak) }
	}
	page := func(status int) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, "<html><body>"+leak)
		}
	}
	for name, tt := range map[string]struct {
		answer func(http.ResponseWriter)
		want   *fault.Fault
		detail string // of what is said
	}{
		"400":             {refuse(400), portainer.ErrRefused, "Portainer answered 400 Bad Request: No: key [sealed] and password ${POSTGRES_PASSWORD}"},
		"401":             {refuse(401), portainer.ErrKey, "401 Unauthorized: No"},
		"403":             {refuse(403), portainer.ErrForbidden, "403 Forbidden: No"},
		"404":             {refuse(404), portainer.ErrNotFound, "404 Not Found: No"},
		"409":             {refuse(409), portainer.ErrConflict, "409 Conflict: No"},
		"500":             {refuse(500), portainer.ErrFailed, "500 Internal Server Error: No"},
		"Docker's 400":    {say(400, leak), portainer.ErrDockerRefused, "Docker answered 400 Bad Request: key [sealed] and password ${POSTGRES_PASSWORD}"},
		"Docker's 404":    {say(404, "no such service"), portainer.ErrNotFound, "Docker answered 404"},
		"Docker's 503":    {say(503, "This node is not a swarm manager."), portainer.ErrDockerFailed, "not a swarm manager"},
		"page of a proxy": {page(502), portainer.ErrAnswer, "502 Bad Gateway, but not as Portainer does"},
		"page, 401":       {page(401), portainer.ErrAnswer, "401 Unauthorized, but not as Portainer does"},
		"page, 200":       {page(200), portainer.ErrAnswer, "answered 200, but not as Portainer does"},
		"a long text":     {say(400, strings.Repeat("é", 5000)), portainer.ErrDockerRefused, "é …"},
		"a huge body":     {say(400, strings.Repeat("x", 1<<20)), portainer.ErrAnswer, "400 Bad Request, but not as"},
		"an endless answer": {func(w http.ResponseWriter) {
			_, _ = io.WriteString(w, `[{"ID":"`)
			for range 17 << 4 {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		}, portainer.ErrTooLarge, ""},
		"half an answer": {func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "[")
		}, portainer.ErrConnectionLost, ""},
		"a redirect": {func(w http.ResponseWriter) {
			w.Header().Set("Location", "https://elsewhere.example.org/?k="+portainertest.Key)
			w.WriteHeader(302)
		}, portainer.ErrRedirect, "elsewhere.example.org/?k=[sealed]"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, false)
			p := client(t, s.URL)
			st := stack(t, p)
			s.Override = func(w http.ResponseWriter, _ *http.Request) bool { tt.answer(w); return true }
			before := len(s.Asked())
			_, err := p.Status(t.Context(), st)
			if !errors.Is(err, tt.want) || !strings.Contains(fault.From(err).Detail, tt.detail) || fault.From(err).Hint == "" {
				t.Errorf("%v, want %v with %q and a hint", err, tt.want, tt.detail)
			}
			if n := len(err.Error()); n > 5000 {
				t.Errorf("%d bytes are said", n)
			}
			if n := len(s.Asked()) - before; n != 1 {
				t.Errorf("asked %d times", n)
			}
			secret(t, err, st, p)
		})
	}
}

// A change that is not answered may have been done: it is never sent twice, and the fault says so.
func TestAChangeIsSentOnce(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		answer func(w http.ResponseWriter, r *http.Request)
		want   error
	}{
		"the connection breaks": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, portainer.ErrConnectionLost},
		"nothing comes":         {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, portainer.ErrTimeout},
		"a proxy gives up":      {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(504) }, portainer.ErrAnswer},
		"it is no stack":        {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{}`) }, portainer.ErrAnswer},
		"deployment fails": {func(w http.ResponseWriter, _ *http.Request) {
			portainertest.Refuse(w, 500, "failed to deploy a stack: "+portainertest.Password, "x")
		}, portainer.ErrFailed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, false)
			p := client(t, s.URL, func(c *portainer.Config) { c.DeployTimeout = 50 * time.Millisecond })
			if tt.want != portainer.ErrTimeout {
				p = client(t, s.URL)
			}
			st := stack(t, p)
			s.Override = func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodGet {
					return false
				}
				tt.answer(w, r)
				return true
			}
			_, err := p.Stop(t.Context(), st)
			if !errors.Is(err, tt.want) || !strings.HasSuffix(fault.From(err).Hint, "mosaic stack status mosaic") {
				t.Errorf("%v (hint: %s), want %v", err, fault.From(err).Hint, tt.want)
			}
			if ch := s.Changes(); len(ch) != 1 {
				t.Errorf("sent %d times", len(ch))
			}
			secret(t, err)
		})
	}
}

// Programs quote what they complain of, each in its own way.
func TestAValueIsNotShownInAnyQuotes(t *testing.T) {
	t.Parallel()
	const value = `p"a\s<s&w/o r@d` + "\n" + `end`
	asJSON, _ := json.Marshal(value)
	for _, text := range []string{value, strconv.Quote(value), string(asJSON), url.QueryEscape(value), "postgres://" + url.UserPassword("mosaic", value).String() + "@db"} {
		s := start(t, false)
		s.Stacks[0].Env = []portainertest.Pair{{Name: "SHORT", Value: "p"}, {Name: "PW", Value: value}, {Name: "LONGER", Value: value + "more"}}
		p := client(t, s.URL)
		st := stack(t, p)
		s.Override = func(w http.ResponseWriter, _ *http.Request) bool {
			portainertest.Refuse(w, 500, "in "+text+" it", "-")
			return true
		}
		_, err := p.Stop(t.Context(), st)
		if err == nil || !strings.Contains(err.Error(), "${PW}") || strings.Contains(err.Error(), "end") {
			t.Errorf("%s became %v", text, err)
		}
	}
}

func TestOnlyACertificateThatIsTrustedGetsTheKey(t *testing.T) {
	t.Parallel()
	s := start(t, true)
	if _, err := client(t, s.URL).Endpoints(t.Context()); !errors.Is(err, portainer.ErrUntrusted) {
		t.Errorf("a certificate that nobody signed: %v", err)
	}
	if n := len(s.Asked()); n != 0 {
		t.Errorf("%d requests went out", n)
	}
	if _, err := client(t, s.URL, func(c *portainer.Config) { c.Insecure = true }).Endpoints(t.Context()); err != nil {
		t.Errorf("insecure: %v", err)
	}
	plain := start(t, false)
	if _, err := client(t, "https"+strings.TrimPrefix(plain.URL, "http")).Endpoints(t.Context()); !errors.Is(err, portainer.ErrTLS) {
		t.Errorf("plain http on the port: %v", err)
	}
	// A server that ends the handshake.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 1024))
			_, _ = conn.Write([]byte("\x15\x03\x03\x00\x02\x02\x28")) // alert: handshake failure
			conn.Close()
		}
	}()
	if _, err := client(t, "https://"+l.Addr().String()).Endpoints(t.Context()); !errors.Is(err, portainer.ErrTLS) {
		t.Errorf("a refused handshake: %v", err)
	}
}

func TestNoRedirectIsFollowed(t *testing.T) {
	t.Parallel()
	var met []*http.Request
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { met = append(met, r) }))
	t.Cleanup(elsewhere.Close)
	s := start(t, false)
	s.Override = func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		return true
	}
	_, err := client(t, s.URL).Endpoints(t.Context())
	if elsewhere.Close(); !errors.Is(err, portainer.ErrRedirect) || len(met) != 0 {
		t.Errorf("%v, and %d requests elsewhere", err, len(met))
	}
}

func TestAServerThatIsAwayOrSilentIsTold(t *testing.T) {
	t.Parallel()
	s := start(t, false)
	s.Override = func(_ http.ResponseWriter, r *http.Request) bool { <-r.Context().Done(); return true }
	_, err := client(t, s.URL, func(c *portainer.Config) { c.Timeout = 50 * time.Millisecond }).Endpoints(t.Context())
	if !errors.Is(err, portainer.ErrTimeout) {
		t.Errorf("silent: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := client(t, s.URL).Endpoints(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	s.Close()
	if _, err := client(t, s.URL).Endpoints(t.Context()); !errors.Is(err, portainer.ErrUnreachable) {
		t.Errorf("away: %v", err)
	}
}

func TestAnAddressIsWholeAndRepeatsNoPassword(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"", "portainer.example.org", "ftp://x", "https://op:hunter22@x", "https://", "https://x?a", "https://x#a", ":"} {
		_, err := portainer.New(portainer.Config{URL: url})
		if !errors.Is(err, portainer.ErrURL) || strings.Contains(err.Error(), "hunter22") {
			t.Errorf("%q: %v", url, err)
		}
	}
}

func TestStatusCountsAndExplains(t *testing.T) {
	t.Parallel()
	s := start(t, false)
	p := client(t, s.URL)
	st := stack(t, p)
	check := func(want string) {
		t.Helper()
		services, err := p.Status(t.Context(), st)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, v := range services {
			line := fmt.Sprintf("%s %s %d/%d steady=%v", v.Name, v.Mode, v.Running, v.Desired, v.Steady())
			if v.LastError != nil {
				line += " " + v.LastError.Task + " " + v.LastError.Message
			}
			got = append(got, line)
		}
		if text := strings.Join(got, "\n"); text != want {
			t.Errorf("got\n%s\nwant\n%s", text, want)
		}
		secret(t, services)
	}
	want := `gateway replicated 1/2 steady=false gateway.2 task: non-zero exit (1): password ${POSTGRES_PASSWORD} refused
migrate replicated-job 0/1 steady=true
postgres global 1/1 steady=true`
	check(want)
	// An older Docker does not count: the tasks say the same.
	var docs []map[string]any
	if err := json.Unmarshal([]byte(s.Services), &docs); err != nil {
		t.Fatal(err)
	}
	for _, d := range docs {
		delete(d, "ServiceStatus")
	}
	text, err := json.Marshal(docs)
	if err != nil {
		t.Fatal(err)
	}
	s.SetServices(string(text))
	check(want)
}
