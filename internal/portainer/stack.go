package portainer

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mosaicstack/gateway/internal/seal"
)

// Variable is one variable of a stack's environment. Values are passwords as often as not.
type Variable struct {
	Name  string
	Value seal.Secret
}

// Stack is what Portainer keeps of one.
type Stack struct {
	ID         int
	Name       string
	EndpointID int
	Type       string // swarm, compose or kubernetes
	Status     string
	Env        []Variable
	FromGit    bool
	Created    time.Time
	Updated    time.Time // zero when it was never deployed anew
	UpdatedBy  string
}

// pair is a variable on the wire.
type pair struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

func pairs(env []Variable) []pair {
	out := make([]pair, 0, len(env)) // never null: older versions take that for an error
	for _, v := range env {
		out = append(out, pair{v.Name, v.Value.Reveal()})
	}
	return out
}

// wireStack is a stack on the wire.
type wireStack struct {
	ID                       int `json:"Id"`
	Name                     string
	Type, Status             int
	EndpointID               int `json:"EndpointId"`
	Env                      []pair
	CreationDate, UpdateDate int64
	CreatedBy, UpdatedBy     string
	GitConfig                json.RawMessage
	IsDetachedFromGit        bool
}

func (w wireStack) stack() Stack {
	s := Stack{
		ID: w.ID, Name: w.Name, EndpointID: w.EndpointID, Type: named(stackTypes, w.Type), Status: named(stackStatus, w.Status),
		FromGit: len(w.GitConfig) > 0 && string(w.GitConfig) != "null" && !w.IsDetachedFromGit,
		Created: moment(w.CreationDate), Updated: moment(w.UpdateDate), UpdatedBy: cmp.Or(w.UpdatedBy, w.CreatedBy),
	}
	for _, p := range w.Env {
		s.Env = append(s.Env, Variable{p.Name, seal.NewSecret(p.Value)})
	}
	return s
}

func moment(unix int64) time.Time {
	if unix <= 0 {
		return time.Time{}
	}
	return time.Unix(unix, 0).UTC()
}

// Stacks lists the stacks that the key's user may see, of every environment.
//
// Portainer could filter them, but takes an environment's id for stacks of Compose only, and asks for the Swarm's id
// otherwise, which a Docker that is away does not tell.
func (c *Client) Stacks(ctx context.Context) ([]Stack, error) {
	var wire []wireStack
	if err := c.do(ctx, call{method: http.MethodGet, path: "/stacks"}, &wire); err != nil {
		return nil, err
	}
	all := make([]Stack, 0, len(wire))
	for _, w := range wire {
		all = append(all, w.stack())
	}
	slices.SortFunc(all, func(a, b Stack) int { return cmp.Or(strings.Compare(a.Name, b.Name), a.ID-b.ID) })
	return all, nil
}

// Stack finds a stack by name or id, in one environment when that is named.
func (c *Client) Stack(ctx context.Context, which, endpoint string) (Stack, error) {
	where := 0
	if endpoint != "" {
		e, err := c.Endpoint(ctx, endpoint)
		if err != nil {
			return Stack{}, err
		}
		where = e.ID
	}
	all, err := c.Stacks(ctx)
	if err != nil {
		return Stack{}, err
	}
	var named, numbered []Stack
	for _, s := range all {
		switch {
		case where != 0 && s.EndpointID != where:
		case s.Name == which:
			named = append(named, s)
		case strconv.Itoa(s.ID) == which:
			numbered = append(numbered, s)
		}
	}
	found := named
	if len(found) == 0 {
		found = numbered
	}
	switch len(found) {
	case 0:
		return Stack{}, ErrStackUnknown.With("Portainer has no stack %q", which)
	case 1:
		return found[0], nil
	default:
		return Stack{}, ErrStackAmbiguous.With("%d stacks are called %q", len(found), which)
	}
}

// NewStack is what a stack is created from.
type NewStack struct {
	Name     string
	Endpoint Endpoint
	File     string // the text of a Compose file
	Env      []Variable
}

// Create makes a Swarm stack and deploys it.
func (c *Client) Create(ctx context.Context, n NewStack) (Stack, error) {
	swarm, err := c.swarmID(ctx, n.Endpoint)
	if err != nil {
		return Stack{}, err
	}
	body := struct {
		Name             string `json:"name"`
		SwarmID          string `json:"swarmID"`
		StackFileContent string `json:"stackFileContent"`
		Env              []pair `json:"env"`
	}{n.Name, swarm, n.File, pairs(n.Env)}
	s, err := c.change(ctx, call{method: http.MethodPost, path: "/stacks/create/swarm/string", query: at(n.Endpoint.ID), body: body, hide: n.Env}, n.Name)
	if errors.Is(err, ErrConflict) {
		err = ErrStackExists.With("a stack %q is there already", n.Name).Advise("change it with: mosaic stack redeploy %s --file STACK.yml", n.Name).Because(err)
	}
	return s, err
}

// Redeployment says what is to be different. Its zero value changes nothing.
type Redeployment struct {
	File  string     // empty for the file it has
	Env   []Variable // in place of those of the same name, or beside them
	Pull  bool       // fetch the images again, even those whose tags are the same
	Prune bool       // remove the services that File no longer has
}

// Redeploy deploys a Swarm stack anew. Portainer replaces the whole environment with what it is given, so the
// variables that are not named are sent as they are.
func (c *Client) Redeploy(ctx context.Context, s Stack, r Redeployment) (Stack, error) {
	if s.Type != typeSwarm {
		return Stack{}, ErrStackKind.With("the stack %q is one of %s", s.Name, s.Type)
	}
	if s.FromGit {
		return Stack{}, ErrStackGit
	}
	if r.File == "" {
		var file struct{ StackFileContent string }
		if err := c.do(ctx, call{method: http.MethodGet, path: "/stacks/" + strconv.Itoa(s.ID) + "/file", hide: s.Env}, &file); err != nil {
			return Stack{}, err
		}
		if file.StackFileContent == "" {
			return Stack{}, ErrAnswer.With("Portainer has no file of the stack %q", s.Name).Advise("give it one: --file STACK.yml")
		}
		r.File = file.StackFileContent
	}
	env := merge(s.Env, r.Env)
	body := struct {
		StackFileContent       string `json:"stackFileContent"`
		Env                    []pair `json:"env"`
		Prune                  bool   `json:"prune"`
		PullImage              bool   `json:"pullImage"`
		RepullImageAndRedeploy bool   `json:"repullImageAndRedeploy"` // what 2.36 and later call it; each version passes over the other's
	}{r.File, pairs(env), r.Prune, r.Pull, r.Pull}
	hide := append(slices.Clip(s.Env), r.Env...) // the old values too: an error may be about what runs still
	return c.change(ctx, call{method: http.MethodPut, path: "/stacks/" + strconv.Itoa(s.ID), query: at(s.EndpointID), body: body, hide: hide}, s.Name)
}

// merge puts named variables in the place of those of the same name, and the others behind.
func merge(have, want []Variable) []Variable {
	out := slices.Clone(have)
	for _, v := range want {
		if i := slices.IndexFunc(out, func(o Variable) bool { return o.Name == v.Name }); i >= 0 {
			out[i] = v
			continue
		}
		out = append(out, v)
	}
	return out
}

// Start deploys a stack that was stopped.
func (c *Client) Start(ctx context.Context, s Stack) (Stack, error) {
	if s.Status == StatusActive {
		return Stack{}, ErrStackState.With("the stack %q is active already", s.Name).Advise("deploy it anew: mosaic stack redeploy %s", s.Name)
	}
	return c.change(ctx, call{method: http.MethodPost, path: "/stacks/" + strconv.Itoa(s.ID) + "/start", query: at(s.EndpointID), hide: s.Env}, s.Name)
}

// Stop removes a stack's services. Portainer keeps its file and its variables, and Docker its volumes.
func (c *Client) Stop(ctx context.Context, s Stack) (Stack, error) {
	if s.Status == StatusInactive {
		return Stack{}, ErrStackState.With("the stack %q is stopped already", s.Name).Advise("start it: mosaic stack start %s", s.Name)
	}
	return c.change(ctx, call{method: http.MethodPost, path: "/stacks/" + strconv.Itoa(s.ID) + "/stop", query: at(s.EndpointID), hide: s.Env}, s.Name)
}

// change is a call that does something to the stack name, and is answered with it.
func (c *Client) change(ctx context.Context, r call, name string) (Stack, error) {
	r.changes, r.timeout = name, c.deploy
	var w wireStack
	if err := c.do(ctx, r, &w); err != nil {
		return Stack{}, err
	}
	if w.ID == 0 || w.Name == "" {
		return Stack{}, ErrAnswer.With("%s answered without the stack", c.name).Advise(look, name)
	}
	return w.stack(), nil
}

// look is the hint of a change whose answer did not come.
const look = "whether it was done is not known: look before you repeat it: mosaic stack status %s"

func at(endpoint int) url.Values { return url.Values{"endpointId": {strconv.Itoa(endpoint)}} }
