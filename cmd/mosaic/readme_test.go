package main

import (
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// transcript finds a marked block of the README, and moves its addresses to those of running gateways: nothing
// else about it is changed.
func transcript(t *testing.T, name string, moved map[string]string) string {
	t.Helper()
	readme, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)<!-- transcript: " + name + " -->\n```sh\n(.*?)```").FindSubmatch(readme)
	if block == nil {
		t.Fatalf("the README has no transcript %q", name)
	}
	script := string(block[1])
	for from, to := range moved {
		script = strings.ReplaceAll(script, from, to)
	}
	return script
}

func pasted(t *testing.T, dir, script string) string {
	t.Helper()
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", script)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

func hostPort(t *testing.T, address string) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return u.Host
}

func wants(t *testing.T, out string, all ...string) {
	t.Helper()
	for _, want := range all {
		if !strings.Contains(out, want) {
			t.Errorf("the transcript does not show %q:\n%s", want, out)
		}
	}
}

func TestReadmeTranscriptsWorkAsWritten(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	work := startGateway(t, filepath.Join(dir, ".mosaic"), "--demo-data")
	startGateway(t, filepath.Join(dir, ".home"), "--name", "home")
	moved := map[string]string{"127.0.0.1:3443": hostPort(t, work.FederationURL)}

	out := pasted(t, dir, transcript(t, "one gateway", moved))
	wants(t, out, "1.3.6.1.4.1.99999.1:", "1.3.6.1.4.1.99999.2:", `"title":"Order the microscope"`, `"title":"Answer the referee"`, `"code":"grant_revoked"`, "grant.revoke")

	out = pasted(t, dir, transcript(t, "two gateways", moved))
	wants(t, out, "Renew the passport", "Rotate the staging database password", "Ideas for the talk", `"source":"work"`)
}
