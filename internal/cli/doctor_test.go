package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/mosaicstack/gateway/internal/cli"
	"github.com/mosaicstack/gateway/internal/doctor"
)

// diagnosed runs the command over a report.
func diagnosed(t *testing.T, report doctor.Report, args string) (code int, stdout, stderr string, o cli.DoctorOptions) {
	t.Helper()
	var out, errs bytes.Buffer
	code = cli.Main(t.Context(), cli.Env{
		Args: strings.Fields("gateway doctor " + args), Getenv: func(name string) string { return map[string]string{"MOSAIC_DIR": "/from/env"}[name] },
		Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs, Now: time.Now,
		Gateway: cli.Gateway{Doctor: func(_ context.Context, given cli.DoctorOptions) (doctor.Report, error) {
			o = given
			return report, nil
		}},
	})
	return code, out.String(), errs.String(), o
}

var sick = doctor.Report{Checks: []doctor.Finding{
	{Name: "database.reachable", Status: doctor.Fail, Detail: "away\x1b[31m", Remedy: "start it"},
	{Name: "database.version", Status: doctor.Warn, Detail: "skipped because database.reachable is not ok", Remedy: "mend it", Because: "database.reachable"},
	{Name: "database.clock", Status: doctor.Warn, Detail: "skipped because database.reachable is not ok", Remedy: "mend it", Because: "database.reachable"},
	{Name: "ca.reachable", Status: doctor.OK, Detail: "the CA answers"},
}}

func TestDoctorExitsByFailuresOnly(t *testing.T) {
	t.Parallel()
	for _, args := range []string{"", "--json"} {
		if code, _, stderr, _ := diagnosed(t, sick, args); code != 1 || !strings.Contains(stderr, "mosaic: 1 of 4 checks failed (doctor_failed)\nhint: ") {
			t.Errorf("with a failure, %q: exit code %d, stderr %q", args, code, stderr)
		}
		if code, _, stderr, _ := diagnosed(t, doctor.Report{Checks: sick.Checks[1:]}, args); code != 0 || stderr != "" {
			t.Errorf("with warnings, %q: exit code %d, stderr %q", args, code, stderr)
		}
	}
}

func TestDoctorPrintsOneDocumentForScripts(t *testing.T) {
	t.Parallel()
	_, stdout, _, _ := diagnosed(t, sick, "--json")
	var got map[string][]map[string]string
	if err := json.Unmarshal([]byte(stdout), &got); err != nil {
		t.Fatalf("%v: %q", err, stdout)
	}
	if len(got) != 1 || len(got["checks"]) != 4 {
		t.Fatalf("%s", stdout)
	}
	for _, check := range got["checks"] {
		for _, key := range []string{"name", "status", "detail", "remedy"} {
			if _, ok := check[key]; !ok || len(check) != 4 {
				t.Errorf("%v has not the four members", check)
			}
		}
	}
}

func TestDoctorTellsAPersonWhatToDo(t *testing.T) {
	t.Parallel()
	_, stdout, _, _ := diagnosed(t, sick, "")
	want := "fail  database.reachable  away[31m\n" +
		"                          remedy: start it\n" +
		"ok    ca.reachable        the CA answers\n" +
		"skip  database.reachable  is not ok, so these were not looked at: database.version, database.clock\n"
	if stdout != want {
		t.Errorf("got\n%s\nwant\n%s", stdout, want)
	}
}

func TestDoctorLooksAtTheDirectoryThatIsNamed(t *testing.T) {
	t.Parallel()
	if _, _, _, o := diagnosed(t, sick, ""); o != (cli.DoctorOptions{Dir: "/from/env"}) {
		t.Errorf("without a flag: %+v", o)
	}
	if _, _, _, o := diagnosed(t, sick, "--dir /named"); o != (cli.DoctorOptions{Dir: "/named", Local: true}) {
		t.Errorf("with the flag: %+v", o)
	}
}
