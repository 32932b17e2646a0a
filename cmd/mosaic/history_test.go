package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// inForce is what decides a request: the state of the model that histories are checked against.
type inForce struct {
	peer     string // "", suspended, revoked
	grant    string // "", revoked, expired
	disabled bool   // the subject
	value    string // what the one row says
}

// refusal is the code a request is refused with, or nothing. What is for good goes before what can be lifted.
func (s inForce) refusal() string {
	switch {
	case s.peer == "revoked":
		return "peer_revoked"
	case s.grant != "":
		return "grant_" + s.grant
	case s.peer != "":
		return "peer_" + s.peer
	case s.disabled:
		return "subject_disabled"
	}
	return ""
}

// deed is one operation: what a client asks, or what an admin, the clock or somebody at the database does.
type deed struct {
	verb  string
	value string // of a write
	at    string // where: for the reader of a history
}

// revocation is the whole promise as a sequential machine. A request is admitted if and only if the state lets it, with
// the code of the state if not, and its row says what was written last: an answer to a request that was checked before
// a revoke and read after it would show a row that was written after the revoke had returned.
var revocation = porcupine.Model{
	Init: func() any { return inForce{} },
	Step: func(state, input, output any) (bool, any) {
		s, in, out := state.(inForce), input.(deed), output.(result)
		change := func(to inForce) (bool, any) {
			if s.peer == "revoked" && (in.verb == "suspend" || in.verb == "resume") {
				return out.code == "peer_revoked", s
			}
			return out.code == "", to
		}
		next := s
		switch in.verb {
		case "list", "get":
			return out.code == "" && s.refusal() == "" && out.value == s.value || out.code != "" && refusedWith(s, out.code), s
		case "capabilities":
			return out.code == s.refusal() || out.code != "" && refusedWith(s, out.code), s
		case "suspend":
			next.peer = "suspended"
		case "resume":
			next.peer = ""
		case "revoke peer":
			next.peer = "revoked"
		case "revoke grant":
			next.grant = "revoked"
		case "expire":
			next.grant = "expired"
		case "disable", "enable":
			next.disabled = in.verb == "disable"
		case "write":
			next.value = in.value
		default:
			panic(in.verb)
		}
		return change(next)
	},
	DescribeOperation: func(input, output any) string {
		in, out := input.(deed), output.(result)
		return strings.TrimSpace(fmt.Sprintf("%s %s%s → %s", in.verb, in.at, in.value, out.code+out.value))
	},
	DescribeState: func(state any) string { return fmt.Sprintf("%+v", state) },
}

// refusedWith reports whether a refusal is the state's. A certificate ends with its grant: which of the two is noticed
// first, and whether in the handshake already, is not promised.
func refusedWith(s inForce, code string) bool {
	return code == s.refusal() || s.refusal() == "grant_expired" && (code == "certificate_expired" || code == handshake)
}

// tally is what a test has seen, so that a run that saw little does not pass for one that saw much.
type tally struct {
	mu                                       sync.Mutex
	histories, operations, admitted, refused int
	afterEnd, admittedAfterEnd               int // requests begun after a revoke or an expiry had returned
	verbs, over                              map[string]int
}

// judge checks the histories of a round.
func (r *round) judge(t *testing.T, sum *tally) {
	for i, h := range r.histories {
		model := revocation
		model.Init = func() any { return r.begin[i] }
		verdict, info := porcupine.CheckOperationsVerbose(model, h, 30*time.Second)
		if verdict != porcupine.Ok {
			t.Errorf("history is %s from %+v:\n%s\ndrawn in %s", verdict, r.begin[i], listing(h), draw(t, model, info))
		}
		sum.count(h)
	}
}

func (sum *tally) count(history []porcupine.Operation) {
	sum.mu.Lock()
	defer sum.mu.Unlock()
	sum.histories++
	sum.operations += len(history)
	ended := int64(-1)
	for _, op := range history {
		switch verb := op.Input.(deed).verb; verb {
		case "revoke grant", "revoke peer", "expire":
			if ended < 0 || op.Return < ended {
				ended = op.Return
			}
		}
	}
	for _, op := range history {
		in, out := op.Input.(deed), op.Output.(result)
		sum.verbs[in.verb]++
		if !slices.Contains([]string{"list", "get", "capabilities"}, in.verb) {
			continue
		}
		sum.over[out.over]++
		after := 0
		if ended >= 0 && op.Call > ended {
			after = 1
		}
		sum.afterEnd += after
		if out.code == "" {
			sum.admitted++
			sum.admittedAfterEnd += after
		} else {
			sum.refused++
		}
	}
}

// listing is a history to read, in the order of the calls.
func listing(history []porcupine.Operation) string {
	history = slices.Clone(history)
	slices.SortFunc(history, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
	var b strings.Builder
	for _, op := range history {
		fmt.Fprintf(&b, "%12d %12d  client %d  %s\n", op.Call/1000, op.Return/1000, op.ClientId, revocation.DescribeOperation(op.Input, op.Output))
	}
	return b.String()
}

// draw writes a history as a page for a browser. It stays when the test is over.
func draw(t *testing.T, model porcupine.Model, info porcupine.LinearizationInfo) string {
	dir, err := os.MkdirTemp("", "mosaic-history-")
	if err != nil {
		t.Error(err)
		return ""
	}
	path := filepath.Join(dir, "history.html")
	if err := porcupine.VisualizePath(model, info, path); err != nil {
		t.Error(err)
	}
	return path
}
