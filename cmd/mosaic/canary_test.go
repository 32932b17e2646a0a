package main

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/mosaicstack/gateway/internal/resource"
	"github.com/mosaicstack/gateway/internal/scope"
)

// canaries are texts that nobody could guess, one for each field of each resource, and what to look for.
type canaries struct {
	lines   map[scope.Resource]string // a row to import, with a canary in each of its fields
	answers map[string]string         // by the field: those that answers carry
	all     []secret
}

func newCanaries(t *testing.T) *canaries {
	t.Helper()
	c := &canaries{lines: map[scope.Resource]string{}, answers: map[string]string{}}
	for _, r := range scope.All() {
		row := map[string]any{}
		for _, f := range resource.Fields(r) {
			name := string(r) + "." + f.Name
			text := c.text(t, name)
			switch {
			case f.Name == resource.KeyPrefixField:
				continue // too short for one
			case f.WriteOnly:
				row[f.Name] = text
				continue
			case f.Kind == resource.JSON:
				row[f.Name] = map[string]any{"note": text, c.text(t, name+" key"): []string{text}}
			default:
				row[f.Name] = "quarterly \"" + text + "\" <é>"
			}
			c.answers[name] = text
		}
		line, err := json.Marshal(row)
		if err != nil {
			t.Fatal(err)
		}
		c.lines[r] = string(line)
	}
	return c
}

// text makes a canary of 256 bits. It is looked for as it is written, in all shapes, and as its bits in all shapes.
func (c *canaries) text(t *testing.T, name string) string {
	t.Helper()
	bits := make([]byte, 32)
	if _, err := rand.Read(bits); err != nil {
		t.Fatal(err)
	}
	text := hex.EncodeToString(bits)
	c.all = append(c.all, secret{name, []byte(text), nil}, secret{name + "'s bits", bits, nil})
	return text
}

// found names the canaries in a haystack, and in what is compressed in it.
func (c *canaries) found(f *finder, haystack []byte) map[string]bool {
	found := f.in(haystack)
	var u unpacker
	for _, magic := range []string{"\x1f\x8b\x08", "\x78\x01", "\x78\x5e", "\x78\x9c", "\x78\xda"} {
		for at := 0; ; at++ {
			next := bytes.Index(haystack[at:], []byte(magic))
			if next < 0 {
				break
			}
			at += next
			for name := range f.in(u.inflated(haystack[at:])) {
				found[name+", compressed"] = true
			}
		}
	}
	return found
}

// unpacker reads compressed streams, one after the other: most of what looks like one is none.
type unpacker struct {
	gzip gzip.Reader
	zlib io.ReadCloser
	out  bytes.Buffer
}

// inflated is what a compressed stream begins with; nothing when there is none.
func (u *unpacker) inflated(b []byte) []byte {
	var r io.Reader = &u.gzip
	err := error(nil)
	switch from := bytes.NewReader(b); {
	case b[0] == 0x1f:
		err = u.gzip.Reset(from)
	case u.zlib == nil:
		u.zlib, err = zlib.NewReader(from)
		r = u.zlib
	default:
		err = u.zlib.(zlib.Resetter).Reset(from, nil)
		r = u.zlib
	}
	if err != nil {
		return nil
	}
	u.out.Reset()
	_, _ = io.Copy(&u.out, io.LimitReader(r, 1<<20)) // as far as it goes
	return u.out.Bytes()
}

// TestNothingOfAPeersRowsStaysHere plants a canary in every field of every row of work, has home ask for them in every
// way there is, right and wrong, with everything in the log that can be, and then searches whatever home has written or
// sent: files, databases, logs, spans.
func TestNothingOfAPeersRowsStaysHere(t *testing.T) {
	t.Parallel()
	canary, spans := newCanaries(t), newCollector(t)
	root := t.TempDir()
	work := startGatewayWith(t, []string{"MOSAIC_LOG_LEVEL=debug"}, filepath.Join(root, "work"))
	work.mosaic("user", "create", "ada@example.org")
	for _, r := range scope.All() {
		file := filepath.Join(t.TempDir(), "rows.jsonl")
		if err := os.WriteFile(file, []byte(canary.lines[r]+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		work.mosaic("resource", "import", string(r), file, "--owner", "ada@example.org")
	}

	home := newHome(t, spans.URL)
	home.user("ada@home.example", "quarterly at home")
	const everything = `{"resources":["tasks","notes","memory","credentials","api_keys"],"max_rows_per_query":100}`
	grant, url := work.sensitiveGrant("home", "ada@example.org", everything)
	home.mosaic("federation", "peer", "add", url, "--name", "work", "--user", "ada@home.example")
	_, url = work.sensitiveGrant("home", "ada@example.org", everything)
	home.mosaic("federation", "peer", "add", url, "--name", "job", "--user", "ada@home.example")

	seen := home.askEverything(canary)
	for field, text := range canary.answers {
		if !bytes.Contains(seen, []byte(text)) {
			t.Errorf("no answer holds %s: the test shows nothing about it", field)
		}
	}
	lying := newLiar(t)
	home.mosaic("federation", "peer", "add", lying.enrollmentURL, "--name", "liar", "--user", "ada@home.example")
	home.hearLies(lying, canary.text(t, "what the liar says"))
	work.mosaic("federation", "grant", "revoke", grant.ID)
	home.query(http.MethodGet, "/api/federation/peers/work/resources/tasks", "")
	home.query(http.MethodGet, "/api/federation/resources/tasks?include_local=true", "")
	home.list("job", "ok", canary)
	if err := work.stop(syscall.SIGKILL); errors.Is(err, errStuck) {
		t.Fatal(err)
	}
	home.query(http.MethodGet, "/api/federation/peers/work/resources/tasks", "")
	home.query(http.MethodGet, "/api/federation/resources/notes", "")
	home.list("job", "stale", canary)
	cached := home.dumpValkey()
	if n := bytes.Count(cached, []byte("mosaic:cache:")); n < len(scope.All()) {
		t.Errorf("Valkey holds %d answers while a peer is away", n)
	}
	home.mosaic("federation", "peer", "remove", "work")

	f := newFinder(canary.all)
	places := home.remains()
	places["the cache"] = cached
	places["spans"], _ = spans.all()
	for place, b := range places {
		if len(b) == 0 && place != "what Valkey holds" { // limits are there for seconds
			t.Errorf("%s is empty: the test shows nothing about it", place)
		}
		for name := range canary.found(f, b) {
			t.Errorf("%s is in %s%s", name, place, linesWith(b, canary.all))
		}
	}
	searched := 0
	seenFiles := map[[sha256.Size]byte]bool{}
	everyFile(t, home.parts.dir, func(place string, b []byte) {
		searched++
		// Most files of a cluster are those of its template, once per database.
		sum := sha256.Sum256(b)
		if seenFiles[sum] {
			return
		}
		seenFiles[sum] = true
		for name := range canary.found(f, b) {
			t.Errorf("%s is in %s", name, place)
		}
	})
	// The same search finds each of them at work, where they belong.
	at := map[string]bool{}
	everyFile(t, work.dir, func(_ string, b []byte) {
		if !slices.ContainsFunc(slices.Collect(maps.Values(canary.answers)), func(text string) bool { return bytes.Contains(b, []byte(text)) }) {
			return
		}
		for name := range canary.found(f, b) {
			at[name] = true
		}
	})
	for field := range canary.answers {
		if !at[field] {
			t.Errorf("the search does not find %s at work", field)
		}
	}
	if searched < 500 {
		t.Errorf("%d files were searched, want a database cluster", searched)
	}
}

// TestTheSearchForCanariesSeesThroughEncodings: each way of writing a canary down is found.
func TestTheSearchForCanariesSeesThroughEncodings(t *testing.T) {
	t.Parallel()
	c := &canaries{}
	text := c.text(t, "it")
	f := newFinder(c.all)
	var packed, deflated bytes.Buffer
	for _, w := range []io.WriteCloser{gzip.NewWriter(&packed), zlib.NewWriter(&deflated)} {
		_, _ = io.WriteString(w, "some "+text)
		_ = w.Close()
	}
	quoted, err := json.Marshal("a \"" + text + "\"\n")
	if err != nil {
		t.Fatal(err)
	}
	written := map[string][]byte{"gzip": packed.Bytes(), "zlib": deflated.Bytes(), "JSON": quoted}
	for i, shape := range append(c.all[0].shapes(), c.all[1].shapes()...) {
		written[fmt.Sprint("shape ", i)] = shape
	}
	for how, b := range written {
		if len(c.found(f, append([]byte("before it "), append(b, " and after"...)...))) == 0 {
			t.Errorf("%s is not found", how)
		}
	}
	if n := len(c.found(f, []byte("nothing of "+text[1:]))); n != 0 {
		t.Errorf("%d found where there is none", n)
	}
}

// linesWith gives the lines of a log that hold a secret as it is written, without it.
func linesWith(b []byte, secrets []secret) string {
	var out strings.Builder
	for line := range bytes.Lines(b) {
		for _, s := range secrets {
			if bytes.Contains(line, s.value) && len(line) < 4000 {
				out.WriteString("\n" + strings.ReplaceAll(string(bytes.TrimSpace(line)), string(s.value), "CANARY"))
			}
		}
	}
	return out.String()
}

// everyFile reads what is in a directory.
func everyFile(t *testing.T, root string, read func(place string, b []byte)) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if err == nil {
			read(path, b)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// askEverything uses every way of asking a peer, over HTTP twice, and gives all that was answered.
func (h *homeGateway) askEverything(c *canaries) []byte {
	t := h.t
	t.Helper()
	for again := range 2 {
		for _, r := range scope.All() {
			one := "/api/federation/peers/work/resources/" + string(r)
			a := h.query(http.MethodGet, one, "")
			var l listDoc
			if err := json.Unmarshal(a.Body, &l); err != nil || len(l.Data) != 1 {
				t.Fatalf("%s: %d %s", one, a.Status, a.Body)
			}
			h.query(http.MethodGet, one+"/"+l.Data[0].ID, "")
			h.query(http.MethodGet, one+"?limit=0", "")
			h.query(http.MethodGet, "/api/federation/resources/"+string(r)+"?include_local=true", "")
			for _, mode := range []string{"lexical", "semantic", "hybrid"} {
				body := `{"query":"quarterly","mode":"` + mode + `"}`
				h.query(http.MethodPost, one+"/search", body)
				h.query(http.MethodPost, "/api/federation/resources/"+string(r)+"/search?include_local=true", body)
			}
			h.query(http.MethodPost, one+"/search", `{"query":"`+c.answers[string(r)+"."+resource.Fields(r)[0].Name]+`"}`)
			if again == 0 {
				h.mosaic("federation", "query", "work", string(r), "--user", "ada@home.example", "--json")
			}
		}
		h.query(http.MethodGet, "/api/federation/peers/work/capabilities", "")
		h.query(http.MethodGet, "/api/federation/peers/work/resources/tasks/00000000-0000-0000-0000-000000000000", "")
	}
	h.askAsAnAssistant()
	return h.seen.Bytes()
}

// askAsAnAssistant uses the tools, over both transports.
func (h *homeGateway) askAsAnAssistant() {
	t := h.t
	t.Helper()
	cmd := exec.Command("mosaic", "mcp", "--user", "ada@home.example")
	cmd.Env, cmd.Stderr = append(os.Environ(), "MOSAIC_DIR="+h.dir), h.tools
	for _, transport := range []mcp.Transport{
		&mcp.CommandTransport{Command: cmd},
		&mcp.StreamableClientTransport{Endpoint: h.URL + "/mcp", HTTPClient: &http.Client{Transport: bearer{h.bearer()}}},
	} {
		s := connectMCP(t, transport)
		for _, r := range scope.All() {
			var rows struct{ Rows []struct{ ID, Source string } }
			call(t, s, "list_rows", map[string]any{"resource": r}, &rows)
			for _, row := range rows.Rows {
				var one map[string]any
				call(t, s, "get_row", map[string]any{"source": row.Source, "resource": r, "id": row.ID}, &one)
				_ = json.NewEncoder(&h.seen).Encode(one)
			}
			var found map[string]any
			if r != scope.Credentials && r != scope.APIKeys {
				call(t, s, "search", map[string]any{"resource": r, "query": "quarterly"}, &found)
			}
		}
		_ = s.Close()
	}
}

// hearLies asks a peer that answers wrongly, in every way, alone and beside others.
func (h *homeGateway) hearLies(l *liar, text string) {
	t := h.t
	t.Helper()
	const one = "/api/federation/peers/liar/resources/tasks"
	all := lies(text)
	for _, lie := range all {
		l.tells(lie)
		h.query(http.MethodGet, one, "")
		if !lie.away {
			h.query(http.MethodGet, "/api/federation/resources/tasks?peers=liar,work", "")
			h.query(http.MethodPost, one+"/search", `{"query":"x"}`)
			h.query(http.MethodGet, one+"/00000000-0000-0000-0000-000000000001", "")
			h.query(http.MethodGet, "/api/federation/peers/liar/capabilities", "")
		}
		if l.told.Load() == 0 {
			t.Errorf("%s was not told", lie.name)
		}
		// An answer that is good keeps the circuit closed.
		l.tells(all[0])
		if a := h.query(http.MethodGet, one, ""); a.Status != http.StatusOK || !bytes.Contains(a.Body, []byte(text)) {
			t.Errorf("after %s: %d %s", lie.name, a.Status, a.Body)
		}
	}
}

// list lists every resource of a peer, and wants its rows with a status.
func (h *homeGateway) list(peer, status string, c *canaries) {
	h.t.Helper()
	for _, r := range scope.All() {
		a := h.query(http.MethodGet, "/api/federation/peers/"+peer+"/resources/"+string(r), "")
		var l struct{ Sources []struct{ Status string } }
		err := json.Unmarshal(a.Body, &l)
		if err != nil || len(l.Sources) != 1 || l.Sources[0].Status != status || !bytes.Contains(a.Body, []byte(c.answers[string(r)+"."+resource.Fields(r)[0].Name])) {
			h.t.Errorf("%s of %s is not %s: %d %s", r, peer, status, a.Status, a.Body)
		}
	}
}

// remains stops home, and gives what it and its parts have said and hold, beside their files.
func (h *homeGateway) remains() map[string][]byte {
	t := h.t
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, h.MetricsURL, nil)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{"what Valkey holds": h.dumpValkey(), "metrics": do(t, http.DefaultClient, req).Body}
	if err := h.stop(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	out["dump of the database"] = h.dumpDatabase()
	h.parts.stopPostgres() // what it has in memory is in its files afterwards
	out["log of home"], out["log of its database"] = []byte(h.logs.String()), []byte(h.database.String())
	out["what Valkey was told"] = []byte(h.valkey.String())
	if s := h.tools.String(); s != "" {
		out["log of the assistant's process"] = []byte(s)
	}
	if !bytes.Contains(out["log of its database"], []byte("federation_audit_log")) {
		t.Error("the database's log has no statements: it shows nothing")
	}
	return out
}
