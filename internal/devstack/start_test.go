package devstack

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestAStartThatFailsSaysWhy(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		change func(*Config)
		says   string
	}{
		{"a bad setting", func(c *Config) { c.Settings["shared_buffers"] = "much" }, `invalid value for parameter "shared_buffers"`},
		{"too slow", func(c *Config) { c.StartTimeout = time.Nanosecond }, "not ready in time"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cfg, _ := seededConfig(t)
			tt.change(&cfg)
			_, err := StartPostgres(t.Context(), cfg)
			if f := wantFault(t, err, ErrPostgresStartFailed); !strings.Contains(f.Detail, tt.says) {
				t.Errorf("%q does not say %q", f.Detail, tt.says)
			}
			if left := leftOn(t, cfg); len(left) > 0 {
				t.Errorf("processes %v are left", left)
			}
		})
	}
}

func TestTheTellingLineIsPicked(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		lines []string
		want  string
	}{
		{"nothing was said", nil, ""},
		{"no failure", []string{"LOG:  starting", "LOG:  shut  down"}, "LOG: shut down"},
		{"the last one", []string{"FATAL:  first", "FATAL:  second"}, "second"},
		{"with what explains it", []string{"FATAL:  wrong owner", "DETAIL:  it is x", "HINT:  be x", "LOG:  shut down"}, "wrong owner DETAIL: it is x HINT: be x"},
		{"before the settings apply", []string{"2026-01-01 00:00:00 UTC [7] FATAL:  bad setting", "child exited"}, "bad setting"},
		{"of initdb", []string{"initdb: error: could not write", "initdb: removing contents"}, "could not write"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := telling(tt.lines); got != tt.want {
				t.Errorf("telling = %q, want %q", got, tt.want)
			}
		})
	}
}

func TestAnInitialisationThatFailsLeavesNothing(t *testing.T) {
	t.Parallel()
	cfg, _ := newConfig(t)
	bin := filepath.Join(tempDir(t), "bin")
	real := must(systemFinder().find(t.Context(), "", 0))(t)
	fakeServer(t, bin, strconv.Itoa(real.version), true)
	if err := os.WriteFile(filepath.Join(bin, "initdb"), []byte("#!/bin/sh\necho 'initdb: error: could not write' >&2; echo 'HINT:  the disk is full' >&2; exit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	openToAll(t, bin)
	cfg.BinDir = bin
	_, err := StartPostgres(t.Context(), cfg)
	f := wantFault(t, err, ErrPostgresStartFailed)
	if !strings.Contains(f.Detail, "could not write HINT: the disk is full") {
		t.Errorf("detail = %q", f.Detail)
	}
	if got := names(t, filepath.Dir(cfg.DataDir)); got != "" {
		t.Errorf("it left %s", got)
	}
}

func TestAStartThatIsCancelledLeavesNoServer(t *testing.T) {
	t.Parallel()
	cfg, _ := newConfig(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := StartPostgres(ctx, cfg); !errors.Is(err, context.Canceled) {
		t.Fatalf("during initdb: %v, want context.Canceled", err)
	}
	mustStop(t, mustStart(t, cfg))
	if got := names(t, filepath.Dir(cfg.DataDir)); got != "postgres" {
		t.Errorf("beside the data there is %s", got)
	}
	if _, err := StartPostgres(ctx, cfg); !errors.Is(err, context.Canceled) {
		t.Fatalf("during the start: %v, want context.Canceled", err)
	}
	if left := leftOn(t, cfg); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
}
