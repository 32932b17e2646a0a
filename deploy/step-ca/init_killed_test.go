package stepca_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// What is killed at any call of another program leaves something that the next run makes whole. A root that was in
// place stays: peers may have pinned it. All runs go on at once, because step ca init sleeps for a second.
func TestInitMayBeKilledAnywhere(t *testing.T) {
	t.Parallel()
	every := 4
	if os.Getenv("MOSAIC_TORTURE") != "" {
		every = 1
	}
	whole := newHome(t).killing(0) // never: it counts
	if err := whole.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, whole.Stdout)
	}
	points := whole.calls()
	if points < 20 {
		t.Fatalf("init.sh calls %d programs: the wrappers do not count", points)
	}
	var homes []*home
	var runs []*run
	for at := 1; at <= points; at += every {
		h := newHome(t)
		h.shell = shells[at/every%len(shells)]
		homes, runs = append(homes, h), append(runs, h.killing(at))
	}
	placed := make([][]byte, len(homes))
	for i, r := range runs {
		if err := r.Wait(); err == nil {
			t.Fatalf("the run that was to be killed was not: %s", r.Stdout)
		}
		placed[i], _ = os.ReadFile(homes[i].path("certs", "root_ca.crt"))
		runs[i] = homes[i].killing(0)
	}
	for i, r := range runs {
		if err := r.Wait(); err != nil {
			t.Fatalf("killed at %d: %v\n%s", 1+i*every, err, r.Stdout)
		}
		t.Run(strconv.Itoa(1+i*every), func(t *testing.T) {
			homes[i].t = t
			homes[i].whole()
			if placed[i] != nil && !bytes.Equal(placed[i], homes[i].read("certs", "root_ca.crt")) {
				t.Error("the root was made anew")
			}
		})
	}
}

// run is an init.sh that has been started.
type run struct {
	*exec.Cmd
	h     *home
	count string
}

// killing starts init.sh with every program behind a wrapper that kills them all, like a power cut, in the place of the
// call with that number.
func (h *home) killing(at int) *run {
	h.t.Helper()
	bin, count := h.t.TempDir(), filepath.Join(h.t.TempDir(), "count")
	if err := os.WriteFile(count, []byte("0\n"), 0o600); err != nil {
		h.t.Fatal(err)
	}
	behind := strings.TrimPrefix(h.env[0], "PATH=")
	for _, name := range append([]string{"step"}, tools...) {
		wrapper := fmt.Sprintf("#!/bin/sh\nread -r n <%[1]s\nn=$((n+1))\necho $n >%[1]s\n[ $n -ne %[2]d ] || kill -9 0\nexec %[3]s/%[4]s \"$@\"\n", count, at, behind, name)
		if err := os.WriteFile(filepath.Join(bin, name), []byte(wrapper), 0o700); err != nil { //nolint:gosec // it is run
			h.t.Fatal(err)
		}
	}
	cmd := h.command([]string{"PATH=" + bin})
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	return &run{cmd, h, count}
}

// calls is how many programs a run has called.
func (r *run) calls() int {
	r.h.t.Helper()
	said, err := os.ReadFile(r.count)
	if err != nil {
		r.h.t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(said)))
	if err != nil {
		r.h.t.Fatal(err)
	}
	return n
}

func TestManyInitsMakeOneCA(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	made := make(chan string)
	for range 4 {
		go func() {
			out, err := h.command(nil).CombinedOutput()
			if err != nil {
				out = fmt.Appendf(out, "%v", err)
			}
			made <- string(out)
		}()
	}
	var said string
	for range 4 {
		said += <-made
	}
	if strings.Count(said, "\n") != 1 || !strings.Contains(said, "made a CA") {
		t.Errorf("they said %q", said)
	}
	h.whole()
}
