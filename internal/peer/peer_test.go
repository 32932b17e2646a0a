package peer_test

import (
	"strings"
	"testing"

	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/peer"
)

func code(err error) string {
	if err == nil {
		return ""
	}
	return fault.From(err).Code
}

func TestEveryTransition(t *testing.T) {
	t.Parallel()
	const unknown peer.State = "gone"
	type want struct {
		state peer.State
		code  string
	}
	transitions := map[string]func(peer.State) (peer.State, error){
		"activate": peer.State.Activate, "suspend": peer.State.Suspend, "resume": peer.State.Resume, "revoke": peer.State.Revoke,
	}
	table := map[peer.State]map[string]want{
		peer.Pending: {
			"activate": {peer.Active, ""},
			"suspend":  {peer.Pending, "peer_state_conflict"},
			"resume":   {peer.Pending, "peer_state_conflict"},
			"revoke":   {peer.Revoked, ""},
		},
		peer.Active: {
			"activate": {peer.Active, ""},
			"suspend":  {peer.Suspended, ""},
			"resume":   {peer.Active, ""},
			"revoke":   {peer.Revoked, ""},
		},
		peer.Suspended: {
			"activate": {peer.Suspended, "peer_suspended"},
			"suspend":  {peer.Suspended, ""},
			"resume":   {peer.Active, ""},
			"revoke":   {peer.Revoked, ""},
		},
		peer.Revoked: {
			"activate": {peer.Revoked, "peer_revoked"},
			"suspend":  {peer.Revoked, "peer_revoked"},
			"resume":   {peer.Revoked, "peer_revoked"},
			"revoke":   {peer.Revoked, ""},
		},
		unknown: {
			"activate": {unknown, "peer_state_conflict"},
			"suspend":  {unknown, "peer_state_conflict"},
			"resume":   {unknown, "peer_state_conflict"},
			"revoke":   {unknown, "peer_state_conflict"},
		},
	}
	for _, from := range append(peer.States(), unknown) {
		for name, transition := range transitions {
			w, listed := table[from][name]
			if !listed {
				t.Errorf("%s of %s is not in the table", name, from)
				continue
			}
			state, err := transition(from)
			if state != w.state || code(err) != w.code {
				t.Errorf("%s of %s = %s, %v; want %s, %q", name, from, state, err, w.state, w.code)
			}
			if err == nil {
				// What worked may be repeated.
				if again, err := transition(state); err != nil || again != state {
					t.Errorf("%s twice from %s = %s, %v", name, from, again, err)
				}
			} else if f := fault.From(err); f.Hint == "" {
				t.Errorf("%s of %s gives no hint", name, from)
			}
		}
	}
}

func TestStateFaultsAreRefusalsOrConflicts(t *testing.T) {
	t.Parallel()
	if peer.ErrRevoked.Kind != fault.Forbidden || peer.ErrSuspended.Kind != fault.Forbidden || peer.ErrStateConflict.Kind != fault.Conflict {
		t.Error("the federation listener answers 403 for a revoked and a suspended peer; admin commands 409 for the rest")
	}
}

func TestParseName(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"a", "0", "work", "home-gateway", "x--y", strings.Repeat("a", 63), "locally", "all-of-us", "0192f0c1"} {
		if got, err := peer.ParseName(name); err != nil || got != name {
			t.Errorf("ParseName(%q) = %q, %v", name, got, err)
		}
	}
	for name, want := range map[string]string{
		"":                                     "peer_name_invalid",
		"-":                                    "peer_name_invalid",
		"-work":                                "peer_name_invalid",
		"work-":                                "peer_name_invalid",
		"Work":                                 "peer_name_invalid",
		"my_work":                              "peer_name_invalid",
		"my work":                              "peer_name_invalid",
		"work\n":                               "peer_name_invalid",
		"work.example":                         "peer_name_invalid",
		"büro":                                 "peer_name_invalid",
		"a,b":                                  "peer_name_invalid",
		strings.Repeat("a", 64):                "peer_name_invalid",
		"0192f0c1-2b3c-7d4e-8f50-61728394a5b6": "peer_name_invalid",
		"0192f0c12b3c7d4e8f5061728394a5b6":     "peer_name_invalid",
		"local":                                "peer_name_reserved",
		"all":                                  "peer_name_reserved",
	} {
		got, err := peer.ParseName(name)
		if code(err) != want || got != "" {
			t.Errorf("ParseName(%q) = %q, %v; want %s", name, got, err, want)
		}
		if f := fault.From(err); f.Kind != fault.Invalid || f.Hint == "" {
			t.Errorf("ParseName(%q): kind %d, hint %q", name, f.Kind, f.Hint)
		}
	}
}

func FuzzParseName(f *testing.F) {
	for _, s := range []string{"work", "local", "-a", "a b", "", "\xff", "0192f0c1-2b3c-7d4e-8f50-61728394a5b6"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := peer.ParseName(s)
		if err != nil {
			if c := code(err); c != "peer_name_invalid" && c != "peer_name_reserved" {
				t.Fatal(err)
			}
			return
		}
		if got != s || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || len(s) > 63 || s == "local" || s == "all" {
			t.Fatalf("ParseName(%q) = %q", s, got)
		}
	})
}

func TestARevokedPeersHintNamesEveryStep(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"mosaic federation peer remove NAME", "mosaic federation grant create --peer NAME"} {
		if !strings.Contains(peer.ErrRevoked.Hint, step) {
			t.Errorf("%q does not name: %s", peer.ErrRevoked.Hint, step)
		}
	}
}
