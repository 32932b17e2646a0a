package config_test

import (
	"errors"
	"flag"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mosaicstack/gateway/internal/config"
	"github.com/mosaicstack/gateway/internal/fault"
)

// whole is a federated gateway's environment with nothing wrong in it.
func whole(edits ...string) []string {
	return append([]string{
		"MOSAIC_TIER=federated", "DATABASE_URL=postgres://m:pw@db/mosaic", "VALKEY_URL=redis://:pw@valkey:6379/0",
		"MOSAIC_PUBLIC_URL=https://work.example.org/", "MOSAIC_FEDERATION_URL=https://fed.example.org:3443",
		"BETTER_AUTH_SECRET=0123456789abcdef0123456789abcdef", "STEP_CA_URL=https://ca:9000", "STEP_CA_ROOT_CERT_PATH=/run/ca.crt",
		"STEP_CA_PROVISIONER_PASSWORD=pw", "PATH=/bin", "HOME=/root",
	}, edits...)
}

func problems(t *testing.T, err error) map[string]string {
	t.Helper()
	if err == nil {
		return nil
	}
	if !errors.Is(err, config.ErrInvalid) {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, p := range fault.From(err).Problems {
		got[p.Path] = p.Detail
	}
	return got
}

func TestAWholeEnvironmentIsRead(t *testing.T) {
	t.Parallel()
	c, err := config.Load(whole("MOSAIC_TRUSTED_PROXIES=10.0.0.7, 10.1.0.0/16,fd00::/8", "MOSAIC_LOG_LEVEL=debug", "GATEWAY_PORT=0", "MOSAIC_AUTO_MIGRATE=true"), "")
	if err != nil {
		t.Fatal(err, fault.From(err).Problems)
	}
	want := []netip.Prefix{netip.MustParsePrefix("10.0.0.7/32"), netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00::/8")}
	if diff := cmp.Diff(want, c.TrustedProxies, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	if c.PublicURL != "https://work.example.org" || c.Port != 0 || c.FederationPort != 3443 || c.LogLevel != slog.LevelDebug || !c.AutoMigrate ||
		c.StepCA.ServerPassword.Reveal() != "pw" || c.StepCA.ServerProvisioner != "mosaic-gateway" || len(c.OIDArc) != 1 {
		t.Errorf("%+v", c)
	}
}

func TestEverythingThatIsWrongIsToldAtOnceAndByName(t *testing.T) {
	t.Parallel()
	_, err := config.Load([]string{
		"MOSAIC_TIER=federated", "MOSAIC_LOG_LEVEL=loud", "GATEWAY_PORT=65536", "MOSAIC_TRUSTED_PROXIES=proxy", "BETTER_AUTH_SECRET=short",
		"MOSAIC_FEDERATION_URL=http://x", "MOSAIC_FEDRATION_PORT=1", "MOSAIC_WHATEVER=1", "MOSAIC_OID_ARC=2.5.29", "EMBEDDINGS_URL=http://e",
	}, "")
	got := problems(t, err)
	for _, name := range []string{
		"MOSAIC_LOG_LEVEL", "GATEWAY_PORT", "MOSAIC_TRUSTED_PROXIES", "BETTER_AUTH_SECRET", "MOSAIC_FEDERATION_URL", "MOSAIC_WHATEVER", "MOSAIC_OID_ARC",
		"EMBEDDINGS_URL", "DATABASE_URL", "VALKEY_URL", "MOSAIC_PUBLIC_URL", "STEP_CA_URL", "STEP_CA_ROOT_CERT_PATH", "STEP_CA_PROVISIONER_PASSWORD",
	} {
		if got[name] == "" {
			t.Errorf("nothing is said of %s: %v", name, got)
		}
	}
	if !strings.Contains(got["MOSAIC_FEDRATION_PORT"], "MOSAIC_FEDERATION_PORT is meant") {
		t.Errorf("of a misspelt name: %q", got["MOSAIC_FEDRATION_PORT"])
	}
}

func TestContradictionsAreRefused(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		env  []string
		tier config.Tier
		want string
	}{
		"dev under another tier":           {[]string{"MOSAIC_TIER=federated"}, config.Local, "MOSAIC_TIER"},
		"serve under the local tier":       {whole("MOSAIC_TIER=local"), "", "MOSAIC_TIER"},
		"no tier":                          {whole("MOSAIC_TIER="), "", "MOSAIC_TIER"},
		"a tier nobody knows":              {whole("MOSAIC_TIER=big"), "", "MOSAIC_TIER"},
		"two names, two values":            {whole("BETTER_AUTH_URL=https://other"), "", "MOSAIC_PUBLIC_URL"},
		"a certificate without its key":    {whole("MOSAIC_FEDERATION_TLS_CERT_FILE=/x"), "", "MOSAIC_FEDERATION_TLS_CERT_FILE"},
		"standalone with a federation":     {whole("MOSAIC_TIER=standalone"), "", "MOSAIC_FEDERATION_URL"},
		"a deadline nobody waits for":      {whole("MOSAIC_PEER_DEADLINE=31s"), "", "MOSAIC_PEER_DEADLINE"},
		"a deadline nobody can meet":       {whole("MOSAIC_PEER_DEADLINE=99ms"), "", "MOSAIC_PEER_DEADLINE"},
		"a deadline without a unit":        {whole("MOSAIC_PEER_DEADLINE=5"), "", "MOSAIC_PEER_DEADLINE"},
		"a cache that stays":               {whole("MOSAIC_CACHE_TTL=301s"), "", "MOSAIC_CACHE_TTL"},
		"a cache of the past":              {whole("MOSAIC_CACHE_TTL=-1s"), "", "MOSAIC_CACHE_TTL"},
		"a cache without a unit":           {whole("MOSAIC_CACHE_TTL=30"), "", "MOSAIC_CACHE_TTL"},
		"every origin":                     {whole("GATEWAY_CORS_ORIGIN=*"), "", "GATEWAY_CORS_ORIGIN"},
		"an origin with a path":            {whole("GATEWAY_CORS_ORIGIN=https://app.example/"), "", "GATEWAY_CORS_ORIGIN"},
		"an origin with a pattern":         {whole("GATEWAY_CORS_ORIGIN=https://*.example"), "", "GATEWAY_CORS_ORIGIN"},
		"no origin":                        {whole("GATEWAY_CORS_ORIGIN=null"), "", "GATEWAY_CORS_ORIGIN"},
		"everybody is a proxy":             {whole("MOSAIC_TRUSTED_PROXIES=10.0.0.1,0.0.0.0/0"), "", "MOSAIC_TRUSTED_PROXIES"},
		"no deadline":                      {whole("MOSAIC_PEER_DEADLINE=0s"), "", "MOSAIC_PEER_DEADLINE"},
		"a secret and its file":            {whole("DATABASE_URL_FILE=/x"), "", "DATABASE_URL"},
		"a file that is not there":         {whole("VALKEY_URL_FILE=/nowhere", "VALKEY_URL="), "", "VALKEY_URL_FILE"},
		"a URL with a password":            {whole("STEP_CA_URL=https://u:p@ca"), "", "STEP_CA_URL"},
		"a federation URL that has a path": {whole("MOSAIC_FEDERATION_URL=https://fed/x"), "", "MOSAIC_FEDERATION_URL"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := config.Load(tt.env, tt.tier)
			if got := problems(t, err); tt.want != "" && got[tt.want] == "" {
				t.Errorf("%v, want a word about %s", got, tt.want)
			}
		})
	}
}

func TestNamesOfOthersAreLeftAlone(t *testing.T) {
	t.Parallel()
	if _, err := config.Load(whole("MOSAIC_URL=x", "MOSAIC_TOKEN_FILE=/x", "PG_FEDERATED_HOST_PORT=1", "MOSAIC_GATEWAY_HOST_PORT=2"), ""); err != nil {
		t.Error(err, fault.From(err).Problems)
	}
}

func TestASecretComesFromAFileAndIsShownNowhere(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "dsn")
	if err := os.WriteFile(file, []byte("postgres://m:hunter2@db/mosaic\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := append(whole()[2:], "MOSAIC_TIER=federated", "DATABASE_URL_FILE="+file)
	c, err := config.Load(env, "")
	if err != nil {
		t.Fatal(err, fault.From(err).Problems)
	}
	if c.DatabaseURL.Reveal() != "postgres://m:hunter2@db/mosaic" {
		t.Errorf("read %q", c.DatabaseURL.Reveal())
	}
	_, err = config.Load(append(env, "GATEWAY_PORT=hunter3", "BETTER_AUTH_SECRET=hunter4"), "")
	for _, p := range fault.From(err).Problems {
		if strings.Contains(p.Detail, "hunter") {
			t.Errorf("%s repeats a value: %s", p.Path, p.Detail)
		}
	}
}

func TestOneSettingAloneIsEnoughToMigrate(t *testing.T) {
	t.Parallel()
	dsn, err := config.DatabaseURL([]string{"DATABASE_URL=postgres://m:pw@db/mosaic", "MOSAIC_ODD=1"})
	if err != nil || dsn.Reveal() != "postgres://m:pw@db/mosaic" {
		t.Errorf("%v %q", err, dsn.Reveal())
	}
	if _, err := config.DatabaseURL(nil); problems(t, err)["DATABASE_URL"] == "" {
		t.Errorf("nothing is said of a missing DATABASE_URL: %v", err)
	}
}

func TestEverySettingIsDescribed(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, s := range config.Settings() {
		if s.Name == "" || s.Doc == "" || seen[s.Name] {
			t.Errorf("setting %+v", s)
		}
		seen[s.Name] = true
	}
}

var update = flag.Bool("update", false, "write docs/configuration.md")

func TestThePageOfSettingsIsWrittenFromTheCode(t *testing.T) {
	t.Parallel()
	page := filepath.Join("..", "..", "docs", "configuration.md")
	if *update {
		if err := os.WriteFile(page, []byte(config.Markdown()), 0o644); err != nil { //nolint:gosec // a page of the repository
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(config.Markdown(), string(got)); diff != "" {
		t.Errorf("docs/configuration.md is not what the code says; run: go test ./internal/config -update\n%s", diff)
	}
}

func TestASettingIsExplainedWithoutItsSecret(t *testing.T) {
	t.Parallel()
	got := map[string]config.Explained{}
	for _, e := range config.Explain(whole("STEP_CA_PROVISIONER_PASSWORD=", "STEP_CA_PROVISIONER_PASSWORD_FILE=/run/pw", "MOSAIC_PUBLIC_URL=", "BETTER_AUTH_URL=https://x"), "") {
		got[e.Name] = e
		if strings.Contains(e.Value, "pw@") || strings.Contains(e.Value, "0123456789") {
			t.Errorf("%s shows a secret: %s", e.Name, e.Value)
		}
	}
	for name, want := range map[string]config.Explained{
		"DATABASE_URL":                 {Name: "DATABASE_URL", Value: "[sealed]", From: "environment"},
		"STEP_CA_PROVISIONER_PASSWORD": {Name: "STEP_CA_PROVISIONER_PASSWORD", Value: "[sealed]", From: "file /run/pw"},
		"GATEWAY_PORT":                 {Name: "GATEWAY_PORT", Value: "3000", From: "default"},
		"MOSAIC_PUBLIC_URL":            {Name: "MOSAIC_PUBLIC_URL", Value: "https://x", From: "BETTER_AUTH_URL"},
		"EMBEDDINGS_URL":               {Name: "EMBEDDINGS_URL"},
	} {
		if got[name] != want {
			t.Errorf("%s: %+v, want %+v", name, got[name], want)
		}
	}
	for _, e := range config.Explain(nil, config.Local) {
		if e.Name == "VALKEY_URL" {
			t.Error("the local tier is said to read VALKEY_URL")
		}
	}
}
