package deploy_test

import (
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/template"
	"github.com/compose-spec/compose-go/v2/types"
	"go.yaml.in/yaml/v3"

	"github.com/mosaicstack/gateway/internal/config"
	"github.com/mosaicstack/gateway/internal/fault"
)

const composeFile = "docker-compose.federated.yml"

var stacks = []string{"deploy/portainer/federated.stack.yml", "deploy/portainer/federated-test.stack.yml"}

// stackVariables are what an admin has to say; each stack must do with these alone.
func stackVariables() map[string]string {
	return map[string]string{"STACK_NAME": "blue", "HOST_FQDN": "gateway.example.org", "POSTGRES_PASSWORD": "postgrespassword"}
}

// render reads a file as docker compose config does.
func render(t *testing.T, file string, env map[string]string, profiles ...string) *types.Project {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(repository, file))
	if err != nil {
		t.Fatal(err)
	}
	if env == nil {
		env = map[string]string{}
	}
	project, err := loader.LoadWithContext(t.Context(), types.ConfigDetails{
		WorkingDir: filepath.Dir(path), ConfigFiles: []types.ConfigFile{{Filename: path}}, Environment: maps.Clone(env), // the loader writes to it
	}, func(o *loader.Options) {
		o.SetProjectName("mosaic-test", true)
		o.Profiles = profiles
	})
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return project
}

func service(t *testing.T, p *types.Project, name string) types.ServiceConfig {
	t.Helper()
	s, err := p.GetService(name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// variables are those that a file names.
func variables(t *testing.T, file string) map[string]template.Variable {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(repository, file))
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := yaml.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	return template.ExtractVariables(doc, template.DefaultPattern)
}

func readme(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("portainer/README.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// mounts is where a service finds its secrets, configs and volumes, with what each is.
func mounts(s types.ServiceConfig) map[string]string {
	m := map[string]string{}
	for _, x := range s.Secrets {
		target := x.Target
		if target == "" {
			target = x.Source
		}
		if !strings.HasPrefix(target, "/") {
			target = "/run/secrets/" + target
		}
		m[target] = "secret " + x.Source
	}
	for _, x := range s.Configs {
		m[x.Target] = "config " + x.Source
	}
	for _, v := range s.Volumes {
		m[v.Target] = "volume " + v.Source
	}
	return m
}

// gatewayConfig loads a gateway's environment as the gateway does. Its files are there when they are mounted.
func gatewayConfig(t *testing.T, s types.ServiceConfig) config.Config {
	t.Helper()
	known := map[string]bool{"BETTER_AUTH_URL": true}
	for _, x := range config.Settings() {
		known[x.Name] = true
		if x.Secret {
			known[x.Name+"_FILE"] = true
		}
	}
	at := mounts(s)
	var env []string
	for _, name := range slices.Sorted(maps.Keys(s.Environment)) {
		if !known[name] {
			t.Errorf("%s: the gateway has no setting %s", s.Name, name)
		}
		value := s.Environment[name]
		if value == nil {
			t.Errorf("%s: %s has no value", s.Name, name)
			continue
		}
		if base, ok := strings.CutSuffix(name, "_FILE"); ok && known[name] {
			if !strings.HasPrefix(at[*value], "secret ") {
				t.Errorf("%s: %s is %s, where no secret is", s.Name, name, *value)
			}
			// As much as any secret must have; the URL of Valkey is checked as one.
			file := filepath.Join(t.TempDir(), "secret")
			text := map[string]string{"VALKEY_URL": "redis://:valkeypassword@valkey:6379/0"}[base]
			if text == "" {
				text = "0123456789abcdef0123456789abcdef"
			}
			if err := os.WriteFile(file, []byte(text+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			value = &file
		}
		env = append(env, name+"="+*value)
	}
	c, err := config.Load(env, "")
	if err != nil {
		t.Fatalf("%s: %v %v", s.Name, err, fault.From(err).Problems)
	}
	found := false
	for target := range at {
		found = found || c.StepCA.RootCert == target || strings.HasPrefix(c.StepCA.RootCert, target+"/")
	}
	if !found {
		t.Errorf("%s: the CA's root %s is mounted nowhere", s.Name, c.StepCA.RootCert)
	}
	if !strings.HasSuffix(c.StepCA.RootCert, "root_ca.crt") {
		t.Errorf("%s: %s is no root that init.sh makes", s.Name, c.StepCA.RootCert)
	}
	return c
}

// checkEvery holds what is so of every service, wherever it runs.
func checkEvery(t *testing.T, p *types.Project) {
	t.Helper()
	for name, s := range p.Services {
		if name != "gateway" && name != "gateway-work" && !pinned.MatchString(s.Image) {
			t.Errorf("%s: the image %s is not pinned", name, s.Image)
		}
		if strings.HasSuffix(s.Image, ":latest") || !strings.Contains(s.Image, ":") {
			t.Errorf("%s: the image %s is whichever was pushed last", name, s.Image)
		}
		if name == "step-ca-init" {
			continue // it ends
		}
		if s.HealthCheck == nil {
			t.Errorf("%s: no health check", name)
			continue
		}
		test := strings.Join(s.HealthCheck.Test, " ")
		if !strings.Contains(test, "127.0.0.1") && !strings.HasSuffix(test, "mosaic gateway healthcheck") || strings.Contains(test, "localhost") {
			t.Errorf("%s: the health check %q does not ask 127.0.0.1", name, test)
		}
	}
	for name, image := range map[string]string{"postgres": `^pgvector/pgvector:.*-pg17$`, "valkey": `^valkey/valkey:8\.`, "step-ca": `^smallstep/step-ca:0\.30\.`} {
		if got := service(t, p, name).Image; !regexp.MustCompile(image).MatchString(got) {
			t.Errorf("%s is %s", name, got)
		}
	}
}

// checkDatabase wants the gateway's database to be one that a service makes.
func checkDatabase(t *testing.T, c config.Config, postgres types.ServiceConfig, hosts []string) {
	t.Helper()
	u, err := url.Parse(c.DatabaseURL.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	password, _ := u.User.Password()
	env := postgres.Environment
	if !slices.Contains(hosts, u.Hostname()) || u.Port() != "5432" || u.User.Username() != *env["POSTGRES_USER"] ||
		password != *env["POSTGRES_PASSWORD"] || strings.TrimPrefix(u.Path, "/") != *env["POSTGRES_DB"] {
		t.Errorf("the gateway asks for %s, which is not what %s makes", u.Redacted(), postgres.Name)
	}
}

// checkCA wants the CA to answer to the name that the gateway calls it by, with passwords the gateway has.
func checkCA(t *testing.T, c config.Config, gateway, ca types.ServiceConfig, hosts []string) {
	t.Helper()
	u, err := url.Parse(c.StepCA.URL)
	if err != nil {
		t.Fatal(err)
	}
	names := strings.Split(*ca.Environment["STEP_CA_DNS_NAMES"], ",")
	if !slices.Contains(hosts, u.Hostname()) || !slices.Contains(names, u.Hostname()) || u.Port() != "9000" {
		t.Errorf("the gateway asks %s; the CA is %v and its certificate is for %v", u, hosts, names)
	}
	at := mounts(ca)
	for name, value := range ca.Environment {
		if strings.HasSuffix(name, "_FILE") && !strings.HasPrefix(at[*value], "secret ") {
			t.Errorf("%s: %s is %s, where no secret is", ca.Name, name, *value)
		}
	}
	password := ca.Environment["STEP_CA_PROVISIONER_PASSWORD_FILE"]
	if password == nil {
		password = ca.Environment["STEP_CA_PASSWORD_FILE"]
	}
	if theirs := mounts(gateway)[*gateway.Environment["STEP_CA_PROVISIONER_PASSWORD_FILE"]]; theirs != at[*password] {
		t.Errorf("the gateway opens the provisioner with %q, and it was made with %q", theirs, at[*password])
	}
	init, err := os.ReadFile("step-ca/init.sh")
	if err != nil {
		t.Fatal(err)
	}
	for name := range ca.Environment {
		if !strings.Contains(string(init), "${"+name) {
			t.Errorf("init.sh does not know %s", name)
		}
	}
	if c.StepCA.Provisioner != "mosaic-fed" || c.StepCA.ServerProvisioner != "mosaic-gateway" {
		t.Errorf("the gateway asks the provisioners %s and %s", c.StepCA.Provisioner, c.StepCA.ServerProvisioner)
	}
}

func TestTheComposeFileIsWhatTheGatewayNeeds(t *testing.T) {
	t.Parallel()
	names := []string{"gateway", "postgres", "step-ca", "step-ca-init", "valkey"}
	if got := slices.Sorted(maps.Keys(render(t, composeFile, nil, "federated").Services)); !slices.Equal(got, names) {
		t.Errorf("the profile federated has %v", got)
	}
	if got := slices.Sorted(maps.Keys(render(t, composeFile, nil).Services)); len(got) != 0 {
		t.Errorf("without a profile there are %v", got)
	}
	p := render(t, composeFile, nil, "two-gateways")
	names = slices.Sorted(slices.Values(append(names, "gateway-work", "postgres-work")))
	if got := slices.Sorted(maps.Keys(p.Services)); !slices.Equal(got, names) {
		t.Errorf("the profile two-gateways has %v", got)
	}
	checkEvery(t, p)
	published := map[string]string{}
	for _, name := range []string{"gateway", "postgres", "valkey", "step-ca"} {
		for _, port := range service(t, p, name).Ports {
			if port.HostIP != "127.0.0.1" {
				t.Errorf("%s listens on %q of this machine", name, port.HostIP)
			}
			published[name+" "+strconv.FormatUint(uint64(port.Target), 10)] = port.Published
		}
	}
	want := map[string]string{
		"postgres 5432": "5433", "valkey 6379": "6380", "step-ca 9000": "9000",
		"gateway 3000": "3000", "gateway 3443": "3443", "gateway 3001": "3001", "gateway 3444": "3444",
	}
	if !maps.Equal(published, want) {
		t.Errorf("published %v, want %v", published, want)
	}
	for gateway, postgres := range map[string]string{"gateway": "postgres", "gateway-work": "postgres-work"} {
		g := service(t, p, gateway)
		c := gatewayConfig(t, g)
		checkDatabase(t, c, service(t, p, postgres), []string{postgres})
		checkCA(t, c, g, service(t, p, "step-ca-init"), []string{"step-ca"})
		checkHardened(t, g)
		valkey, err := url.Parse(c.ValkeyURL.Reveal())
		if err != nil {
			t.Fatal(err)
		}
		if password, _ := valkey.User.Password(); password != *service(t, p, "valkey").Environment["VALKEY_PASSWORD"] || valkey.Host != "valkey:6379" {
			t.Errorf("%s asks for another Valkey: %s", gateway, valkey.Redacted())
		}
		for _, u := range []struct {
			url  string
			port uint16
		}{{c.PublicURL, c.Port}, {c.FederationURL, c.FederationPort}} {
			parsed, err := url.Parse(u.url)
			if err != nil {
				t.Fatal(err)
			}
			if parsed.Hostname() != "127.0.0.1" || published["gateway "+strconv.Itoa(int(u.port))] != parsed.Port() {
				t.Errorf("%s says it is at %s, and listens on %d", gateway, u.url, u.port)
			}
		}
	}
	if a, b := *service(t, p, "gateway").Environment["VALKEY_URL"], *service(t, p, "gateway-work").Environment["VALKEY_URL"]; a == b {
		t.Error("two gateways share one database of Valkey")
	}
	if got := service(t, p, "gateway-work").NetworkMode; got != "service:gateway" {
		t.Errorf("the gateways are not on one loopback, but %q", got)
	}
}

// Each port of this machine can be moved, and the URLs move with it.
func TestTheComposeFilesPortsMove(t *testing.T) {
	t.Parallel()
	env := map[string]string{}
	for i, name := range []string{
		"PG_FEDERATED_HOST_PORT", "VALKEY_FEDERATED_HOST_PORT", "STEP_CA_HOST_PORT", "MOSAIC_GATEWAY_HOST_PORT",
		"MOSAIC_FEDERATION_HOST_PORT", "MOSAIC_WORK_GATEWAY_HOST_PORT", "MOSAIC_WORK_FEDERATION_HOST_PORT",
	} {
		env[name] = strconv.Itoa(7001 + i)
	}
	p := render(t, composeFile, env, "two-gateways")
	var published []string
	for _, s := range p.Services {
		for _, port := range s.Ports {
			published = append(published, port.Published)
		}
	}
	slices.Sort(published)
	if want := slices.Sorted(maps.Values(env)); !slices.Equal(published, want) {
		t.Errorf("published %v, want %v", published, want)
	}
	for name, want := range map[string][2]string{"gateway": {"7004", "7005"}, "gateway-work": {"7006", "7007"}} {
		e := service(t, p, name).Environment
		if !strings.HasSuffix(*e["MOSAIC_PUBLIC_URL"], ":"+want[0]) || !strings.HasSuffix(*e["MOSAIC_FEDERATION_URL"], ":"+want[1]) {
			t.Errorf("%s is at %s and %s", name, *e["MOSAIC_PUBLIC_URL"], *e["MOSAIC_FEDERATION_URL"])
		}
	}
	for name := range variables(t, composeFile) {
		if !strings.Contains(readme(t), "`"+name+"`") {
			t.Errorf("the README does not name %s", name)
		}
	}
}

func checkHardened(t *testing.T, s types.ServiceConfig) {
	t.Helper()
	if !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) || s.Privileged {
		t.Errorf("%s can write to its root or has capabilities", s.Name)
	}
	if s.User != "" {
		t.Errorf("%s is user %s, not the image's", s.Name, s.User)
	}
	if s.StopGracePeriod == nil || time.Duration(*s.StopGracePeriod) != 30*time.Second {
		t.Errorf("%s has %v to stop", s.Name, s.StopGracePeriod)
	}
}
