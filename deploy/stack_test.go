package deploy_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
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
	"github.com/compose-spec/compose-go/v2/types"

	"github.com/mosaicstack/gateway/internal/config"
)

func TestTheStacksAreWhatTheGatewayNeeds(t *testing.T) {
	t.Parallel()
	for _, file := range stacks {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			p := render(t, file, stackVariables())
			if got, want := slices.Sorted(maps.Keys(p.Services)), []string{"gateway", "postgres", "step-ca", "valkey"}; !slices.Equal(got, want) {
				t.Fatalf("services %v", got)
			}
			checkEvery(t, p)
			for _, s := range p.Services {
				checkSwarm(t, s)
			}
			g := service(t, p, "gateway")
			c := gatewayConfig(t, g)
			checkHardened(t, g)
			checkDatabase(t, c, service(t, p, "postgres"), aliases(t, p, "postgres"))
			checkCA(t, c, g, service(t, p, "step-ca"), aliases(t, p, "step-ca"))
			checkRouting(t, g, c)
			checkSecrets(t, p)
			checkNetworks(t, p)
			checkConfigs(t, p)
			if got, want := aliases(t, p, "valkey"), "blue-valkey"; !slices.Contains(got, want) || !strings.Contains(readme(t), "@STACK_NAME-valkey:6379/0") {
				t.Errorf("Valkey is %v, and the README's URL says %s", got, want)
			}
		})
	}
}

// aliases are the names a service has on the internal network. Its plain name does not count: on traefik-public
// another stack may have a service of the same name.
func aliases(t *testing.T, p *types.Project, name string) []string {
	t.Helper()
	network := service(t, p, name).Networks["internal"]
	if network == nil {
		t.Fatalf("%s is not on the internal network", name)
	}
	return network.Aliases
}

// checkSwarm holds what Swarm heeds and what it does not.
func checkSwarm(t *testing.T, s types.ServiceConfig) {
	t.Helper()
	if len(s.DependsOn) > 0 || s.Restart != "" || s.Build != nil || s.ContainerName != "" || len(s.SecurityOpt) > 0 || s.NetworkMode != "" || len(s.Tmpfs) > 0 {
		t.Errorf("%s has what Swarm ignores or refuses", s.Name)
	}
	if len(s.Ports) > 0 {
		t.Errorf("%s publishes ports past the proxy", s.Name)
	}
	if s.StopGracePeriod == nil || time.Duration(*s.StopGracePeriod) != 30*time.Second {
		t.Errorf("%s has %v to stop", s.Name, s.StopGracePeriod)
	}
	d := s.Deploy
	if d == nil || d.Resources.Limits == nil || d.Resources.Limits.MemoryBytes == 0 || d.Resources.Limits.NanoCPUs == 0 || d.Resources.Reservations == nil {
		t.Fatalf("%s has no limits", s.Name)
	}
	if d.RestartPolicy == nil || d.RestartPolicy.Condition != "any" || d.RestartPolicy.MaxAttempts != nil || d.RestartPolicy.Delay == nil {
		t.Errorf("%s is not started again for ever: %+v", s.Name, d.RestartPolicy)
	}
	if d.UpdateConfig == nil || d.UpdateConfig.FailureAction != "rollback" || d.RollbackConfig == nil || d.UpdateConfig.Order != d.RollbackConfig.Order {
		t.Errorf("%s does not roll back", s.Name)
	}
	if len(s.Volumes) > 0 && !slices.Contains(constraints(s), "node.labels.mosaic.state == true") {
		t.Errorf("%s has a volume, and may run where it is not", s.Name)
	}
	if *d.Replicas > 1 && d.UpdateConfig.Order != "start-first" {
		t.Errorf("%s loses a replica while it is updated", s.Name)
	}
}

func constraints(s types.ServiceConfig) []string { return s.Deploy.Placement.Constraints }

// checkRouting wants Traefik to send the two hosts to the two ports that the gateway listens on, and to leave the
// federation's TLS alone.
func checkRouting(t *testing.T, s types.ServiceConfig, c config.Config) {
	t.Helper()
	host := func(text string) string {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		return u.Host
	}
	const http, tcp = "traefik.http.routers.blue.", "traefik.tcp.routers.blue-federation."
	want := map[string]string{
		"traefik.enable": "true", "traefik.swarm.network": "traefik-public", "traefik.docker.network": "traefik-public",
		http + "rule": fmt.Sprintf("Host(`%s`)", host(c.PublicURL)), http + "entrypoints": "websecure", http + "tls": "true",
		http + "tls.certresolver": "letsencrypt", http + "service": "blue",
		"traefik.http.services.blue.loadbalancer.server.port":          strconv.Itoa(int(c.Port)),
		"traefik.http.services.blue.loadbalancer.healthcheck.path":     "/health/ready",
		"traefik.http.services.blue.loadbalancer.healthcheck.interval": "2s",
		"traefik.http.services.blue.loadbalancer.healthcheck.timeout":  "2s",
		tcp + "rule": fmt.Sprintf("HostSNI(`%s`)", host(c.FederationURL)), tcp + "entrypoints": "websecure", tcp + "tls": "true",
		tcp + "tls.passthrough": "true", tcp + "service": "blue-federation",
		"traefik.tcp.services.blue-federation.loadbalancer.server.port":           strconv.Itoa(int(c.FederationPort)),
		"traefik.tcp.services.blue-federation.loadbalancer.proxyprotocol.version": "2",
	}
	if !maps.Equal(map[string]string(s.Deploy.Labels), want) {
		t.Errorf("labels %v\nwant %v", s.Deploy.Labels, want)
	}
	if len(s.Labels) > 0 {
		t.Error("labels of a container are not read in a swarm")
	}
	if host(c.PublicURL) == host(c.FederationURL) {
		t.Error("one host cannot both end TLS and pass it through")
	}
	// PROXY protocol and X-Forwarded-For count from trusted proxies only; without one every peer would be refused.
	if len(c.TrustedProxies) == 0 {
		t.Error("no proxy is trusted, and one sends a PROXY header")
	}
}

func checkSecrets(t *testing.T, p *types.Project) {
	t.Helper()
	used := map[string]bool{}
	for _, s := range p.Services {
		uid := map[string]string{"gateway": "65532", "valkey": "65532", "step-ca": "1000"}[s.Name]
		for _, x := range s.Secrets {
			used[x.Source] = true
			if x.UID != uid || x.GID != uid || x.Mode == nil || int64(*x.Mode) != 0o400 {
				t.Errorf("%s: the secret %s is of %s, mode %v", s.Name, x.Source, x.UID, x.Mode)
			}
		}
	}
	for key, secret := range p.Secrets {
		if !used[key] {
			t.Errorf("nobody uses the secret %s", key)
		}
		if !bool(secret.External) || secret.Name != "blue_"+key {
			t.Errorf("the secret %s is %q, external %v", key, secret.Name, secret.External)
		}
		if !strings.Contains(readme(t), "| `"+key+"` |") {
			t.Errorf("the README does not name the secret %s", key)
		}
	}
}

func checkNetworks(t *testing.T, p *types.Project) {
	t.Helper()
	for key, n := range p.Networks {
		if bool(n.External) != (key == "traefik-public") {
			t.Errorf("the network %s: external %v", key, n.External)
		}
	}
	if n := p.Networks["traefik-public"]; n.Name != "traefik-public" || !strings.Contains(readme(t), "`traefik-public`") {
		t.Errorf("the proxy's network is %q", n.Name)
	}
	for name, s := range p.Services {
		if _, public := s.Networks["traefik-public"]; public != (name == "gateway") {
			t.Errorf("%s on the proxy's network: %v", name, public)
		}
	}
}

// checkConfigs wants what the CA runs to be the files of this repository, under names that change with them.
func checkConfigs(t *testing.T, p *types.Project) {
	t.Helper()
	targets := map[string]string{"step_ca_init": "/mosaic/init.sh", "step_ca_template": "/mosaic/templates/mosaic-fed.tpl"}
	at := mounts(service(t, p, "step-ca"))
	for key, target := range targets {
		c := p.Configs[key]
		b, err := os.ReadFile(c.File)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(b)
		if want := "blue_" + key + "_" + hex.EncodeToString(sum[:4]); c.Name != want {
			t.Errorf("the config %s is named %s; its file has changed: name it ${STACK_NAME}%s", key, c.Name, strings.TrimPrefix(want, "blue"))
		}
		if at[target] != "config "+key {
			t.Errorf("%s is not at %s", key, target)
		}
	}
	for key, c := range p.Configs {
		if bool(c.External) && !strings.Contains(readme(t), "`STACK_NAME_"+key+"`") {
			t.Errorf("the README does not name the config %s", key)
		}
	}
}

// TestPrometheusReachesTheMetricsOfTheStack: where the README tells Prometheus to ask, the gateway listens, when it is told
// to; without a word it stays in its container.
func TestPrometheusReachesTheMetricsOfTheStack(t *testing.T) {
	t.Parallel()
	for _, file := range stacks {
		if c := gatewayConfig(t, service(t, render(t, file, stackVariables()), "gateway")); c.MetricsListen != "" {
			t.Errorf("%s: metrics are at %q unasked", file, c.MetricsListen)
		}
		const listen = "0.0.0.0:9464"
		vars := stackVariables()
		vars["MOSAIC_METRICS_LISTEN"] = listen
		p := render(t, file, vars)
		if c := gatewayConfig(t, service(t, p, "gateway")); c.MetricsListen != listen {
			t.Errorf("%s: metrics are at %q, want %s", file, c.MetricsListen, listen)
		}
		if p.Networks["internal"].Name != "" && !strings.HasSuffix(p.Networks["internal"].Name, "_internal") {
			t.Errorf("%s: the stack's own network is %q", file, p.Networks["internal"].Name)
		}
	}
	for _, text := range []string{"`MOSAIC_METRICS_LISTEN=0.0.0.0:9464`", "${STACK_NAME}_internal", "port: 9464", "tasks.STACK_NAME_gateway"} {
		if !strings.Contains(readme(t), text) {
			t.Errorf("the README does not speak of %s", text)
		}
	}
}

func TestTheReadmeNamesEveryVariableAndResource(t *testing.T) {
	t.Parallel()
	for _, file := range stacks {
		required := map[string]bool{}
		for name, v := range variables(t, file) {
			row := regexp.MustCompile("(?m)^\\| `" + name + "` \\| (required|optional)").FindStringSubmatch(readme(t))
			if row == nil {
				t.Errorf("the README does not name %s of %s", name, file)
				continue
			}
			// Without a collector, or without a Prometheus, there is nothing to say in its place.
			given := v.DefaultValue != "" || name == "OTEL_EXPORTER_OTLP_ENDPOINT" || name == "MOSAIC_METRICS_LISTEN"
			if _, must := stackVariables()[name]; must != (row[1] == "required") || must == given {
				t.Errorf("%s is %s in the README, with the default %q in %s", name, row[1], v.DefaultValue, file)
			}
			required[name] = true
		}
		for name := range stackVariables() {
			if !required[name] {
				t.Errorf("%s does not read %s", file, name)
			}
			env := stackVariables()
			delete(env, name)
			path := filepath.Join(repository, file)
			_, err := loader.LoadWithContext(t.Context(), types.ConfigDetails{
				WorkingDir: filepath.Dir(path), ConfigFiles: []types.ConfigFile{{Filename: path}}, Environment: env,
			}, func(o *loader.Options) { o.SetProjectName("mosaic-test", true) })
			if err == nil {
				t.Errorf("%s is deployed without %s", file, name)
			}
		}
		if !strings.Contains(readme(t), "`"+filepath.Base(file)+"`") {
			t.Errorf("the README does not name %s", file)
		}
	}
	for _, word := range []string{"`letsencrypt`", "`websecure`", "mosaic.state=true", "`fed.HOST_FQDN`", "docker secret create", "docker config create"} {
		if !strings.Contains(readme(t), word) {
			t.Errorf("the README does not speak of %s", word)
		}
	}
}
