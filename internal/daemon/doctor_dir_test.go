package daemon

import (
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/mosaicstack/gateway/internal/doctor"
)

// TestDoctorLooksAtADirectoryThatIsNotServed is the local tier before its gateway runs, or when it cannot start.
func TestDoctorLooksAtADirectoryThatIsNotServed(t *testing.T) {
	t.Parallel()
	write := func(name, text string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			t.Helper()
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	ours := write("mosaic.json", `{"format":1}`)
	for _, tt := range []struct {
		name    string
		steps   []func(*testing.T, string)
		environ []string
		want    found
		because []string
	}{
		{name: "an empty one"},
		{"somebody else's", []func(*testing.T, string){write("thesis.tex", "x")}, nil, found{doctor.DirUsable: fail}, []string{doctor.DirUsable}},
		{"one that lost its database", []func(*testing.T, string){ours, write(completeFile, "postgres/PG_VERSION\n")}, nil, found{doctor.DirComplete: fail}, nil},
		{"one that was sealed with other keys", []func(*testing.T, string){ours, write(sourceFile, fromDirectory+"\n")}, []string{"BETTER_AUTH_SECRET=" + doctorSecret}, found{doctor.KeysetUsable: fail}, nil},
		{"one whose keyset is damaged", []func(*testing.T, string){ours, write(keysetFile, "{")}, nil, found{doctor.KeysetUsable: fail}, nil},
		{"under a wrong setting", nil, []string{"MOSAIC_LOG_LEVEL=loud"}, found{"config.MOSAIC_LOG_LEVEL": fail}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := shortDir(t)
			for _, step := range tt.steps {
				step(t, dir)
			}
			var stack closers
			defer func() { _ = stack.close(slog.New(slog.DiscardHandler)) }()
			c, err := DoctorOptions{Environ: tt.environ, Dir: dir, Now: time.Now}.config(t.Context(), &stack)
			if err != nil {
				t.Fatal(err)
			}
			c.Embedder = quietEmbedder{}
			c.Machine.Free = func(string) (uint64, error) { return 1 << 40, nil }
			c.Machine.OpenFiles = func() (uint64, error) { return 1 << 20, nil }
			got, because := found{}, map[string]bool{}
			for _, f := range doctor.Run(t.Context(), c).Checks {
				if f.Because != "" {
					because[f.Because] = true
				} else if f.Status != doctor.OK {
					got[f.Name] = f.Status
				}
			}
			want := found{doctor.GatewayRunning: fail} // as nobody serves it
			maps.Copy(want, tt.want)
			if !maps.Equal(got, want) {
				t.Errorf("named %v, want %v", got, want)
			}
			for _, name := range tt.because {
				if !because[name] {
					t.Errorf("nothing was skipped for %s: %v", name, because)
				}
			}
		})
	}
}
