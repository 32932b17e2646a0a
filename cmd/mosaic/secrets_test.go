package main

import (
	"bufio"
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"go.step.sm/crypto/jose"
	"go.step.sm/crypto/pemutil"

	"github.com/mosaicstack/gateway/internal/seal"
)

// startWith is startGateway with settings in the gateway's environment.
func startWith(t *testing.T, dir string, env []string, flags ...string) *gatewayProcess {
	t.Helper()
	args := append([]string{"gateway", "dev", "--json", "--dir", dir, "--listen", "127.0.0.1:0", "--federation-listen", "127.0.0.1:0"}, flags...)
	g := &gatewayProcess{t: t, dir: dir, cmd: exec.Command("mosaic", args...), logs: &logs{}, exited: make(chan struct{})}
	g.cmd.Stderr, g.cmd.Env = g.logs, append(os.Environ(), env...)
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	stdout, err := g.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := startTied(g.cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.stop(syscall.SIGTERM); errors.Is(err, errStuck) {
			t.Error(err)
		}
	})
	out := bufio.NewReader(stdout)
	line, readErr := out.ReadBytes('\n')
	go func() {
		_, _ = io.Copy(g.logs, out) // stdout is searched too
		g.err = g.cmd.Wait()
		close(g.exited)
	}()
	if readErr != nil {
		t.Fatalf("gateway did not start: %v\n%s", readErr, g.logs)
	}
	if err := json.Unmarshal(line, g); err != nil {
		t.Fatal(err)
	}
	return g
}

// secret is something that may be written down nowhere but in the files that are named with their reason.
type secret struct {
	name    string
	value   []byte
	allowed map[string]string // file, as "work/ca/password": why it may be there
}

// shapes are the ways in which the bytes of a secret may have been written down.
func (s secret) shapes() [][]byte {
	text, quoted := hex.EncodeToString(s.value), strconv.Quote(string(s.value))
	out := [][]byte{
		s.value, []byte(text), []byte(strings.ToUpper(text)), []byte(url.QueryEscape(string(s.value))),
		[]byte(quoted[1 : len(quoted)-1]),               // as slog prints text
		[]byte(strings.Trim(fmt.Sprint(s.value), "[]")), // as fmt prints bytes: 1 2 3
	}
	for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for before := range 3 { // what stands before the secret decides how its bits fall
			b := enc.EncodeToString(append(make([]byte, before), s.value...))
			from, to := (before*8+5)/6, (before+len(s.value))*8/6
			out = append(out, []byte(b[from:to]))
		}
	}
	return out
}

// finder looks for many secrets in one pass: what is searched is some hundred megabytes.
type finder struct {
	secrets []secret
	begins  [1 << 16]bool
	shapes  map[[4]byte][]shape
}

type shape struct {
	of   int // in secrets
	text []byte
}

func newFinder(secrets []secret) *finder {
	f := &finder{secrets: secrets, shapes: map[[4]byte][]shape{}}
	for i, s := range secrets {
		for _, text := range s.shapes() {
			f.begins[int(text[0])<<8|int(text[1])] = true
			f.shapes[[4]byte(text)] = append(f.shapes[[4]byte(text)], shape{i, text})
		}
	}
	return f
}

// in lists which secrets a haystack holds.
func (f *finder) in(haystack []byte) map[string]bool {
	found := map[string]bool{}
	for i := 0; i+4 <= len(haystack); i++ {
		if !f.begins[int(haystack[i])<<8|int(haystack[i+1])] {
			continue
		}
		for _, s := range f.shapes[[4]byte(haystack[i:])] {
			if bytes.HasPrefix(haystack[i:], s.text) {
				found[f.secrets[s.of].name] = true
			}
		}
	}
	return found
}

func (g *gatewayProcess) file(elem ...string) []byte {
	g.t.Helper()
	b, err := os.ReadFile(filepath.Join(append([]string{g.dir}, elem...)...))
	if err != nil {
		g.t.Fatal(err)
	}
	return b
}

// postgres runs one of PostgreSQL's programs against the gateway's private database.
func (g *gatewayProcess) postgres(program string, args ...string) []byte {
	g.t.Helper()
	dir, err := os.Open(filepath.Join(g.dir, "postgres"))
	if err != nil {
		g.t.Fatal(err)
	}
	defer dir.Close()
	bin := filepath.Join("/usr/lib/postgresql", strings.TrimSpace(string(g.file("postgres", "PG_VERSION"))), "bin", program)
	// The directory goes along as descriptor 3: a socket's path may only be short.
	cmd := exec.Command(bin, append([]string{"--host", "/proc/self/fd/3", "--username", "mosaic", "--dbname", "mosaic", "--no-password"}, args...)...)
	cmd.ExtraFiles = []*os.File{dir}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		g.t.Fatalf("%s: %v\n%s", program, err, &stderr)
	}
	return out
}

// keyring opens what a gateway has sealed, as somebody with its keyset or secret can.
func (g *gatewayProcess) keyring(betterAuthSecret string) *seal.Keyring {
	g.t.Helper()
	if betterAuthSecret != "" {
		k, err := seal.Derive([]byte(betterAuthSecret))
		if err != nil {
			g.t.Fatal(err)
		}
		return k
	}
	k, err := seal.Parse(g.file("seal-keyset.json"))
	if err != nil {
		g.t.Fatal(err)
	}
	return k
}

// opened reads the one sealed value of a column, and opens it: what is searched for below is what was sealed.
func (g *gatewayProcess) opened(k *seal.Keyring, table, column, where string) []byte {
	g.t.Helper()
	row := strings.TrimSpace(string(g.postgres("psql", "--no-psqlrc", "-At", "-c", "SELECT id, encode("+column+", 'hex') FROM "+table+" WHERE "+where)))
	id, sealed, ok := strings.Cut(row, "|")
	b, err := hex.DecodeString(sealed)
	if !ok || err != nil {
		g.t.Fatalf("%s.%s: %q, %v", table, column, row, err)
	}
	plain, err := k.Open(b, table, column, id)
	if err != nil {
		g.t.Fatal(err)
	}
	return plain
}

// keySecrets are the private number of a key and the encoding of it that a program would store.
func keySecrets(t *testing.T, name string, key crypto.PrivateKey) []secret {
	t.Helper()
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		t.Fatalf("%s is a %T", name, key)
	}
	number, err := ec.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	return []secret{{name + "'s private number", number, nil}, {name + " as PKCS #8", der, nil}}
}

// caSecrets are what a gateway's CA must keep to itself: its password, which stands in one file, and the keys that
// are only ever written under it.
func (g *gatewayProcess) caSecrets() []secret {
	g.t.Helper()
	name := filepath.Base(g.dir)
	password := bytes.TrimSpace(g.file("ca", "password"))
	out := []secret{{name + "'s CA password", password, map[string]string{name + "/ca/password": "step-ca itself reads its password from this file"}}}
	for _, key := range []string{"root_ca_key", "intermediate_ca_key"} {
		k, err := pemutil.Parse(g.file("ca", "secrets", key), pemutil.WithPassword(password))
		if err != nil {
			g.t.Fatal(err)
		}
		out = append(out, keySecrets(g.t, name+"'s "+key, k)...)
	}
	var conf struct {
		Authority struct {
			Provisioners []struct{ Name, EncryptedKey string }
		}
	}
	if err := json.Unmarshal(g.file("ca", "config", "ca.json"), &conf); err != nil || len(conf.Authority.Provisioners) != 2 {
		g.t.Fatalf("ca.json: %v, %d provisioners", err, len(conf.Authority.Provisioners))
	}
	for _, p := range conf.Authority.Provisioners {
		jwe, err := jose.ParseEncrypted(p.EncryptedKey)
		if err != nil {
			g.t.Fatal(err)
		}
		plain, err := jwe.Decrypt(password)
		if err != nil {
			g.t.Fatal(err)
		}
		var jwk jose.JSONWebKey
		if err := json.Unmarshal(plain, &jwk); err != nil {
			g.t.Fatal(err)
		}
		out = append(out, keySecrets(g.t, name+"'s provisioner "+p.Name, jwk.Key)...)
	}
	return out
}

// keysetSecrets are the sealing keys of a gateway that keeps its keyset in its directory.
func (g *gatewayProcess) keysetSecrets() []secret {
	g.t.Helper()
	var keyset struct {
		Key []struct{ KeyData struct{ Value []byte } }
	}
	if err := json.Unmarshal(g.file("seal-keyset.json"), &keyset); err != nil || len(keyset.Key) == 0 {
		g.t.Fatalf("keyset: %v with %d keys", err, len(keyset.Key))
	}
	var out []secret
	for i, k := range keyset.Key {
		name := filepath.Base(g.dir)
		material := k.KeyData.Value[len(k.KeyData.Value)-32:] // the last field of the key's message is the key
		out = append(out, secret{fmt.Sprintf("%s's sealing key %d", name, i), material, map[string]string{name + "/seal-keyset.json": "this file is the keyset; without it nothing sealed can be opened"}})
	}
	return out
}

// tokenSecrets are a token as it was handed out, and the bits it spells.
func tokenSecrets(t *testing.T, name, token string) []secret {
	t.Helper()
	bits, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(token, "mos_"))
	if err != nil || len(bits) != 32 {
		t.Fatalf("%s does not spell 32 bytes: %v", name, err)
	}
	return []secret{{name, []byte(token), nil}, {name + "'s bits", bits, nil}}
}

// Nothing that opens a door is anywhere in what a thief of disks, dumps and logs gets, but in the two files that
// are the gateway's own keys. Two gateways are used the way people use them, and a few ways that fail; then their
// databases are dumped, and every byte they have written is searched.
func TestNoSecretIsInADumpAFileOrALog(t *testing.T) {
	t.Parallel()
	const (
		betterAuth = "better-auth-secret-of-home-5f0c9d1e7b3a4682"
		imported   = "credential-secret-imported-1a2b3c4d5e6f"
		byAPI      = "credential-secret-by-api-6f5e4d3c2b1a"
		refused    = "credential-secret-in-a-refused-row-77aa"
		apiKey     = "sk_live-api-key-secret-0011223344556677"
		idempotent = "idempotency-key-ffeeddccbbaa9988"
		canary     = "canary-that-must-be-found-42"
	)
	root := t.TempDir()
	work := startWith(t, filepath.Join(root, "work"), []string{"MOSAIC_LOG_LEVEL=debug"})
	home := startWith(t, filepath.Join(root, "home"), []string{"MOSAIC_LOG_LEVEL=debug", "BETTER_AUTH_SECRET=" + betterAuth}, "--name", "home")
	secrets := []secret{
		{"BETTER_AUTH_SECRET", []byte(betterAuth), nil},
		{"an imported secret", []byte(imported), nil},
		{"a secret sent by API", []byte(byAPI), nil},
		{"a secret in a refused row", []byte(refused), nil},
		{"an API key of the user's", []byte(apiKey), nil},
		{"an idempotency key", []byte(idempotent), nil},
		{"the beginning of any P-256 key in PKCS #8", []byte("0\x81\x87\x02\x01\x000\x13\x06\x07*\x86H\xce=\x02\x01\x06\x08*\x86H\xce=\x03\x01\x07\x04m0k\x02\x01\x01\x04 "), nil},
		{"the beginning of any Ed25519 key in PKCS #8", []byte("0.\x02\x01\x000\x05\x06\x03+ep\x04\x22\x04 "), nil},
	}

	// Accounts, and tokens that are used, misused and revoked.
	work.user("ada@example.org", canary)
	home.user("ada@home.example")
	var token, revoked struct{ ID, Token string }
	work.decode(&token, "token", "create", "--user", "ada@example.org")
	work.decode(&revoked, "token", "create", "--user", "ada@example.org")
	secrets = append(secrets, tokenSecrets(t, "an API token", token.Token)...)
	secrets = append(secrets, tokenSecrets(t, "a revoked API token", revoked.Token)...)
	api := func(g *gatewayProcess, method, path, bearer, body string, header ...string) answer {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, g.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+bearer)
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("X-Request-Id", canary)
		for i := 0; i+1 < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		return do(t, http.DefaultClient, req)
	}
	work.mosaic("token", "revoke", revoked.ID)
	for _, bearer := range []string{revoked.Token, token.Token + "x", token.Token[4:]} {
		if a := api(work, http.MethodGet, "/api/resources/tasks?token="+token.Token, bearer, ""); a.Status != http.StatusUnauthorized {
			t.Errorf("a token that is none: %d", a.Status)
		}
	}

	// Secrets of the users.
	imports := func(resource, lines string) {
		t.Helper()
		file := filepath.Join(t.TempDir(), "rows.jsonl")
		if err := os.WriteFile(file, []byte(lines), 0o600); err != nil {
			t.Fatal(err)
		}
		work.mosaic("resource", "import", resource, file, "--owner", "ada@example.org")
	}
	imports("credentials", `{"name":"mail","kind":"password","secret":"`+imported+`"}`)
	imports("api_keys", `{"name":"payments","secret":"`+apiKey+`"}`)
	var row struct{ ID string }
	if a := api(work, http.MethodPost, "/api/resources/credentials", token.Token, `{"name":"bank","secret":"`+byAPI+`x"}`); a.Status != http.StatusCreated || json.Unmarshal(a.Body, &row) != nil {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	if a := api(work, http.MethodPatch, "/api/resources/credentials/"+row.ID, token.Token, `{"secret":"`+byAPI+`"}`); a.Status != http.StatusOK {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	for _, body := range []string{`{"name":7,"secret":"` + refused + `"}`, `{"name":"x","secret":["` + refused + `"]}`, `{"secret":"` + refused + `"`, `{"name":"x","` + refused + `":1}`} {
		if a := api(work, http.MethodPost, "/api/resources/credentials", token.Token, body); a.Status < 400 || a.Status > 499 {
			t.Errorf("%d %s", a.Status, a.Body)
		}
	}

	// Enrollment: by curl, by another gateway, not at all, and by people who guess.
	_, byCurl := work.grantFor("laptop", "ada@example.org", tasksOnly)
	_, byHome := work.grantFor("home", "ada@example.org", tasksOnly)
	_, unspent := work.grantFor("later", "ada@example.org", tasksOnly)
	for name, e := range map[string]enrollmentDoc{"a token spent by curl": byCurl, "a token spent by a gateway": byHome, "an unspent token": unspent} {
		secrets = append(secrets, tokenSecrets(t, name, e.Token)...)
	}
	key, csr := newCSR(t, &x509.CertificateRequest{})
	secrets = append(secrets, keySecrets(t, "the key of a client with curl", key)...)
	for range 2 {
		body := jsonBody(t, map[string]string{"token": byCurl.Token, "csr": csr})
		if a := post(t, work.URL+"/api/federation/enrollment", "application/json", body, "Idempotency-Key", idempotent); a.Status != http.StatusCreated {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
	}
	for _, e := range []enrollmentDoc{byCurl, unspent} {
		if a := post(t, e.URL, "application/json", jsonBody(t, map[string]any{e.Token: 1, "csr": e.Token})); a.Status < 400 {
			t.Errorf("%d %s", a.Status, a.Body)
		}
		if a := api(work, http.MethodPut, "/api/federation/enrollment/"+e.Token, e.Token, e.Token); a.Status != http.StatusMethodNotAllowed {
			t.Errorf("%d %s", a.Status, a.Body)
		}
		if a := api(work, http.MethodGet, "/api/federation/enrollment/"+e.Token+"/"+e.Token, e.Token, ""); a.Status != http.StatusNotFound {
			t.Errorf("%d %s", a.Status, a.Body)
		}
	}
	home.mosaic("federation", "peer", "add", byHome.URL, "--name", "work", "--user", "ada@home.example")
	var l listDoc
	if home.decode(&l, "federation", "query", "work", "tasks", "--user", "ada@home.example"); l.titles() != canary {
		t.Errorf("the peer answers %q", l.titles())
	}
	if _, err := home.try("federation", "peer", "add", byHome.URL, "--name", "again"); err == nil {
		t.Error("the same URL was redeemed twice")
	}
	limited := false
	for i := range 40 {
		limited = api(work, http.MethodGet, fmt.Sprintf("/api/federation/enrollment/%043d", i), "", "").Status == http.StatusTooManyRequests || limited
	}
	if !limited {
		t.Error("none of 40 guesses was told to wait")
	}

	// What is sealed is what is searched for.
	for name, check := range map[string]struct {
		got  []byte
		want string
	}{
		"the imported secret": {work.opened(work.keyring(""), "credentials", "secret_sealed", "name = 'mail'"), imported},
		"the secret by API":   {work.opened(work.keyring(""), "credentials", "secret_sealed", "name = 'bank'"), byAPI},
	} {
		if string(check.got) != check.want {
			t.Errorf("%s is not what is sealed", name)
		}
	}
	block, _ := pem.Decode(home.opened(home.keyring(betterAuth), "federation_credentials", "client_key_pem", "state = 'active'"))
	if block == nil {
		t.Fatal("the sealed key is not PEM")
	}
	held, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	secrets = append(secrets, keySecrets(t, "the key home holds at work", held)...)
	for _, g := range []*gatewayProcess{work, home} {
		secrets = append(secrets, g.caSecrets()...)
	}
	secrets = append(secrets, work.keysetSecrets()...)
	secrets = append(secrets, secret{"canary", []byte(canary), nil})

	// Every place: dumps first, then files and logs of gateways that have written everything out.
	places := map[string][]byte{"dump of work": work.postgres("pg_dump"), "dump of home": home.postgres("pg_dump")}
	for _, g := range []*gatewayProcess{work, home} {
		name := filepath.Base(g.dir)
		if err := g.stop(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		places["log of "+name] = []byte(g.logs.String())
	}
	for _, hash := range []string{token.Token, revoked.Token, byCurl.Token, byHome.Token, unspent.Token} {
		sum := sha256.Sum256([]byte(hash))
		if !bytes.Contains(places["dump of work"], []byte(hex.EncodeToString(sum[:]))) {
			t.Error("the dump does not hold the hash of every token: it shows nothing")
		}
	}
	f := newFinder(secrets)
	excused := map[string]bool{}
	search := func(place string, b []byte) {
		for name := range f.in(b) {
			i := slices.IndexFunc(secrets, func(s secret) bool { return s.name == name })
			switch {
			case name == "canary":
				excused["canary in "+strings.SplitN(place, "/", 2)[0]] = true
			case secrets[i].allowed[place] != "":
				excused[name] = true
			default:
				t.Errorf("%s is in %s", name, place)
			}
		}
		if i := bytes.Index(b, []byte("PRIVATE KEY-----")); i >= 0 && !encryptedKey(place, b) {
			t.Errorf("a private key in PEM is in %s", place)
		}
	}
	for place, b := range places {
		search(place, b)
	}
	files, seen := 0, map[[sha256.Size]byte]bool{}
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		place, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		b, err := os.ReadFile(path)
		files++
		// Most files of a cluster are those of its template, once per database.
		if sum := sha256.Sum256(b); !seen[sum] {
			seen[sum] = true
			search(filepath.ToSlash(place), b)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}

	// The search has looked, and every exception is one that is needed, for its owner alone.
	for _, want := range []string{"canary in work", "canary in dump of work", "canary in log of work"} {
		if !excused[want] {
			t.Errorf("no %s: the search finds nothing there", want)
		}
	}
	if files < 1000 {
		t.Errorf("%d files were searched, want two database clusters", files)
	}
	for _, s := range secrets {
		if len(s.allowed) > 0 && !excused[s.name] {
			t.Errorf("%s is not where it may be: take the exception away", s.name)
		}
		for place := range s.allowed {
			wantMode(t, filepath.Join(root, place), 0o600)
		}
	}
	for _, g := range []string{"work", "home"} {
		wantMode(t, filepath.Join(root, g), 0o700)
		wantMode(t, filepath.Join(root, g, "ca"), 0o700)
		wantMode(t, filepath.Join(root, g, "postgres"), 0o700)
		wantMode(t, filepath.Join(root, g, "ca", "secrets", "root_ca_key"), 0o600)
		wantMode(t, filepath.Join(root, g, "ca", "secrets", "intermediate_ca_key"), 0o600)
	}
}

// encryptedKey excuses the two keys of a CA, which are PEM encrypted under its password.
func encryptedKey(place string, b []byte) bool {
	for _, file := range []string{"/ca/secrets/root_ca_key", "/ca/secrets/intermediate_ca_key"} {
		if strings.HasSuffix(place, file) {
			return bytes.Contains(b, []byte("ENCRYPTED")) && bytes.Count(b, []byte("PRIVATE KEY-----")) == 2
		}
	}
	return false
}

func wantMode(t *testing.T, path string, want fs.FileMode) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Error(err)
		return
	}
	if got := info.Mode().Perm(); got != want {
		t.Errorf("%s has mode %o, want %o", path, got, want)
	}
}
