package portainer

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mosaicstack/gateway/internal/fault"
)

// namespace is the label by which Docker knows what belongs to a stack.
const namespace = "com.docker.stack.namespace"

func dockerPath(endpoint int, path string) string {
	return "/endpoints/" + strconv.Itoa(endpoint) + "/docker" + path
}

// ask asks Docker for what belongs to a stack.
func (s Stack) ask(path string, more url.Values) call {
	filters, _ := json.Marshal(map[string][]string{"label": {namespace + "=" + s.Name}}) // of strings: it cannot fail
	q := url.Values{"filters": {string(filters)}}
	for name, values := range more {
		q[name] = values
	}
	return call{method: http.MethodGet, path: dockerPath(s.EndpointID, path), query: q, docker: true, hide: s.Env}
}

// swarmID is the id of the Swarm that an environment manages.
func (c *Client) swarmID(ctx context.Context, e Endpoint) (string, error) {
	var info struct {
		Swarm struct {
			LocalNodeState   string
			ControlAvailable bool
			Cluster          struct{ ID string }
		}
	}
	if err := c.do(ctx, call{method: http.MethodGet, path: dockerPath(e.ID, "/info"), docker: true}, &info); err != nil {
		return "", err
	}
	switch {
	case info.Swarm.Cluster.ID != "":
		return info.Swarm.Cluster.ID, nil
	case info.Swarm.LocalNodeState == "active":
		return "", ErrNotSwarm.With("the Docker of %q is a worker of its Swarm, not a manager", e.Name)
	}
	return "", ErrNotSwarm.With("the Docker of %q is in no Swarm", e.Name)
}

// Service is one service of a stack, and how it runs.
type Service struct {
	ID        string     `json:"id"`
	Name      string     `json:"name"` // without the stack's
	Mode      string     `json:"mode"` // replicated, global, replicated-job or global-job
	Image     string     `json:"image"`
	Desired   int        `json:"desired"`
	Running   int        `json:"running"`
	Completed *int       `json:"completed,omitempty"` // of a job
	Update    string     `json:"update,omitempty"`    // state of the last update, in Docker's words
	LastError *TaskError `json:"last_error"`

	tty bool
}

// Steady tells whether as much runs as should, or a job is done, and no update is stuck.
func (s Service) Steady() bool {
	switch s.Update {
	case "", "completed", "rollback_completed":
	default:
		return false
	}
	if s.Completed != nil && *s.Completed >= s.Desired {
		return true
	}
	return s.Running >= s.Desired
}

// TaskError is why a task failed. It stays known for a while after another task has taken its place.
type TaskError struct {
	Task    string    `json:"task"`
	State   string    `json:"state"`
	Message string    `json:"message"`
	At      time.Time `json:"at"`
}

type wireService struct {
	ID   string
	Spec struct {
		Name string
		Mode struct {
			Replicated    *struct{ Replicas int }
			Global        *struct{}
			ReplicatedJob *struct{ MaxConcurrent, TotalCompletions int }
			GlobalJob     *struct{}
		}
		TaskTemplate struct {
			ContainerSpec struct {
				Image string
				TTY   bool
			}
		}
	}
	ServiceStatus *struct{ RunningTasks, DesiredTasks, CompletedTasks int } // from API 1.41 on
	UpdateStatus  struct{ State string }
}

type wireTask struct {
	ID, ServiceID, NodeID, DesiredState string
	Slot                                int
	Status                              struct {
		Timestamp  time.Time
		State, Err string
	}
}

// Status lists the services of a stack, by name.
func (c *Client) Status(ctx context.Context, s Stack) ([]Service, error) {
	services, err := c.services(ctx, s)
	if err != nil {
		return nil, err
	}
	tasks, err := c.tasks(ctx, s)
	if err != nil {
		return nil, err
	}
	out := make([]Service, 0, len(services))
	for _, w := range services {
		out = append(out, c.service(s, w, tasks))
	}
	slices.SortFunc(out, func(a, b Service) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

func (c *Client) services(ctx context.Context, s Stack) ([]wireService, error) {
	if s.Type != typeSwarm {
		return nil, ErrStackKind.With("the stack %q is one of %s", s.Name, s.Type)
	}
	var all []wireService
	err := c.do(ctx, s.ask("/services", url.Values{"status": {"true"}}), &all)
	return all, onManager(err)
}

func (c *Client) tasks(ctx context.Context, s Stack) ([]wireTask, error) {
	var all []wireTask
	err := c.do(ctx, s.ask("/tasks", nil), &all)
	return all, onManager(err)
}

// onManager says where to look when Docker does not speak of services: only a manager of a Swarm does.
func onManager(err error) error {
	var f *fault.Fault
	if errors.Is(err, ErrDockerFailed) && errors.As(err, &f) {
		return f.Advise("is the environment up, and the manager of a Swarm? mosaic stack endpoints")
	}
	return err
}

func (c *Client) service(s Stack, w wireService, tasks []wireTask) Service {
	out := Service{
		ID: w.ID, Name: strings.TrimPrefix(w.Spec.Name, s.Name+"_"), Image: w.Spec.TaskTemplate.ContainerSpec.Image,
		Update: w.UpdateStatus.State, tty: w.Spec.TaskTemplate.ContainerSpec.TTY,
	}
	desired, running, completed := 0, 0, 0
	for _, t := range tasks {
		if t.ServiceID != w.ID {
			continue
		}
		if t.DesiredState == "running" || t.DesiredState == "complete" {
			desired++
		}
		if t.Status.State == "running" && t.DesiredState != "shutdown" {
			running++
		}
		if t.Status.State == "complete" {
			completed++
		}
		if t.Status.Err != "" && (out.LastError == nil || t.Status.Timestamp.After(out.LastError.At)) {
			out.LastError = &TaskError{taskName(out.Name, t), t.Status.State, c.words(t.Status.Err, s.Env), t.Status.Timestamp}
		}
	}
	mode := w.Spec.Mode
	switch {
	case mode.Replicated != nil:
		out.Mode, out.Desired = "replicated", mode.Replicated.Replicas
	case mode.ReplicatedJob != nil:
		out.Mode, out.Desired = "replicated-job", mode.ReplicatedJob.TotalCompletions
	case mode.GlobalJob != nil:
		out.Mode, out.Desired = "global-job", desired
	default:
		out.Mode, out.Desired = "global", desired
	}
	out.Running = running
	if st := w.ServiceStatus; st != nil { // Docker's own count knows of nodes that are down
		out.Running, completed = st.RunningTasks, st.CompletedTasks
		if mode.Replicated == nil && mode.ReplicatedJob == nil {
			out.Desired = st.DesiredTasks
		}
	}
	if mode.ReplicatedJob != nil || mode.GlobalJob != nil {
		out.Completed = &completed
	}
	return out
}

// taskName is what people call a task: gateway.2, or gateway and the node's id for a service that runs on every node.
func taskName(service string, t wireTask) string {
	if t.Slot > 0 {
		return fmt.Sprintf("%s.%d", service, t.Slot)
	}
	return service + "." + short(cmp.Or(t.NodeID, t.ID))
}

func short(id string) string { return id[:min(len(id), 12)] }
