// Package deploy_test holds what is deployed to what the gateway is: the image, the compose file and the stacks.
package deploy_test

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// repository is the directory that a build's context is.
const repository = ".."

// stage is one FROM of the Dockerfile and what follows it.
type stage struct {
	from, name string
	steps      []step
}

// step is an instruction: its words, flags and arguments apart.
type step struct {
	op    string
	flags map[string]string
	args  string
}

// list is the JSON form of an instruction's arguments.
func (s step) list(t *testing.T) (words []string) {
	t.Helper()
	if err := json.Unmarshal([]byte(s.args), &words); err != nil {
		t.Fatalf("%s %s: %v; a scratch image has no shell", s.op, s.args, err)
	}
	return words
}

// readDockerfile reads the Dockerfile. It knows the instructions that ours uses, and refuses others: a test that
// passed over one would not run the image that is shipped.
func readDockerfile(t *testing.T) []stage {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(repository, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	known := []string{"ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "RUN", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"}
	var stages []stage
	for line := range strings.SplitSeq(strings.ReplaceAll(string(text), "\\\n", " "), "\n") {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		op, rest, _ := strings.Cut(line, " ")
		if !slices.Contains(known, op) {
			t.Fatalf("the instruction %s is not known here", op)
		}
		s := step{op: op, flags: map[string]string{}}
		for rest = strings.TrimSpace(rest); strings.HasPrefix(rest, "--"); rest = strings.TrimSpace(rest) {
			var flag string
			flag, rest, _ = strings.Cut(rest, " ")
			name, value, _ := strings.Cut(strings.TrimPrefix(flag, "--"), "=")
			s.flags[name] = value
		}
		s.args = rest
		if op == "FROM" {
			words := strings.Fields(rest)
			stages = append(stages, stage{from: words[0], name: words[len(words)-1]})
			continue
		}
		if len(stages) == 0 {
			t.Fatalf("%s stands before the first FROM", op)
		}
		last := &stages[len(stages)-1]
		last.steps = append(last.steps, s)
	}
	return stages
}

// of gives the steps of one kind.
func (s stage) of(op string) (list []step) {
	for _, x := range s.steps {
		if x.op == op {
			list = append(list, x)
		}
	}
	return list
}

// the gives the one step of a kind.
func (s stage) the(t *testing.T, op string) step {
	t.Helper()
	list := s.of(op)
	if len(list) != 1 {
		t.Fatalf("the image has %d instructions %s, want one", len(list), op)
	}
	return list[0]
}

// build does what the first stage says, on this machine: it copies the context without what .dockerignore keeps
// back, and runs each RUN. It returns the directory that stands for /out.
func build(t *testing.T, s stage) string {
	t.Helper()
	src, out := t.TempDir(), t.TempDir()
	env := append(os.Environ(), "TARGETOS=", "TARGETARCH=", "GOWORK=off", "GOFLAGS=-mod=readonly")
	for _, x := range s.steps {
		switch x.op {
		case "WORKDIR":
		case "ARG":
			if name, value, ok := strings.Cut(x.args, "="); ok {
				env = append(env, name+"="+value)
			}
		case "COPY":
			if x.args == ". ." {
				copyContext(t, src)
				continue
			}
			words := strings.Fields(x.args)
			for _, name := range words[:len(words)-1] {
				copyFile(t, filepath.Join(repository, name), filepath.Join(src, filepath.Base(name)))
			}
		case "RUN":
			cmd := exec.Command("/bin/sh", "-ec", strings.ReplaceAll(x.args, "/out", out))
			cmd.Dir, cmd.Env = src, env
			if said, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("RUN %s: %v\n%s", x.args, err, said)
			}
		default:
			t.Fatalf("the build stage has %s, which this test does not do", x.op)
		}
	}
	return out
}

// copyContext copies what .dockerignore lets through. Its form is that of ours: all is kept back but the places after
// an exclamation mark, and of these what a pattern below any directory names.
func copyContext(t *testing.T, to string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(repository, ".dockerignore"))
	if err != nil {
		t.Fatal(err)
	}
	var places, never []string
	for line := range strings.SplitSeq(string(text), "\n") {
		switch line = strings.TrimSpace(line); {
		case line == "" || line == "*" || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "!"):
			places = append(places, line[1:])
		case strings.HasPrefix(line, "**/"):
			never = append(never, line[3:])
		default:
			t.Fatalf(".dockerignore has %q, a form that this test does not know", line)
		}
	}
	for _, place := range places {
		if _, err := os.Stat(filepath.Join(repository, place)); err != nil {
			t.Errorf(".dockerignore lets through what is not there: %v", err)
		}
		err := filepath.WalkDir(filepath.Join(repository, place), func(file string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			kept := slices.ContainsFunc(never, func(pattern string) bool {
				ok, _ := path.Match(pattern, d.Name())
				return ok
			})
			switch {
			case kept && d.IsDir():
				return fs.SkipDir
			case kept || d.IsDir():
				return nil
			}
			name, err := filepath.Rel(repository, file)
			if err != nil {
				return err
			}
			copyFile(t, file, filepath.Join(to, name))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil { //nolint:gosec // as a builder makes them
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o644); err != nil { //nolint:gosec // as a builder makes them
		t.Fatal(err)
	}
}

// pinned is an image by a tag that says which build it is, or by digest.
var pinned = regexp.MustCompile(`^[a-z0-9./_-]+(:v?[0-9]+\.[0-9]+\.[0-9]+[a-z0-9.-]*|@sha256:[0-9a-f]{64})$`)

func TestTheDockerfileSaysWhatAnImageMust(t *testing.T) {
	t.Parallel()
	stages := readDockerfile(t)
	if len(stages) != 2 || stages[1].from != "scratch" {
		t.Fatalf("%d stages, the last from %s", len(stages), stages[len(stages)-1].from)
	}
	if !pinned.MatchString(stages[0].from) {
		t.Errorf("%s is not pinned", stages[0].from)
	}
	image := stages[1]
	labels, given := image.the(t, "LABEL").args, map[string]bool{}
	for _, s := range image.of("ARG") {
		name, _, _ := strings.Cut(s.args, "=")
		given[name] = true
	}
	for label, arg := range map[string]string{"version": "VERSION", "revision": "REVISION", "created": "CREATED"} {
		if want := fmt.Sprintf(`org.opencontainers.image.%s="$%s"`, label, arg); !strings.Contains(labels, want) || !given[arg] {
			t.Errorf("no label %s of a build argument", want)
		}
	}
	for _, label := range []string{"title", "description", "source"} {
		if !strings.Contains(labels, "org.opencontainers.image."+label+`="`) {
			t.Errorf("no label %s", label)
		}
	}
	if got := image.the(t, "STOPSIGNAL").args; got != "SIGTERM" {
		t.Errorf("stopped by %s", got)
	}
	if got, want := image.the(t, "EXPOSE").args, defaultOf(t, "GATEWAY_PORT")+" "+defaultOf(t, "MOSAIC_FEDERATION_PORT"); got != want {
		t.Errorf("exposes %s, the gateway listens on %s", got, want)
	}
}
