// Package portainertest is a Portainer for tests: a real HTTP or HTTPS server with the routes, the bodies and the
// errors of Portainer CE 2.x, and a Swarm behind it.
package portainertest

import (
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Key is the API key that is taken.
const Key = "ptr_y8Kk2vFZqRnX4tLw7cJmHsBd"

// Password is the value of a variable of the stack that is there from the beginning.
const Password = "correct-horse-battery"

// Request is what the server was asked.
type Request struct {
	Method, URI, Key, Body string
}

// Stack is a stack as Portainer stores it.
type Stack struct {
	ID         int `json:"Id"`
	Name       string
	Type       int
	EndpointID int `json:"EndpointId"`
	SwarmID    string
	EntryPoint string
	Env        []Pair
	Status     int
	GitConfig  *Git

	CreationDate, UpdateDate int64
	CreatedBy, UpdatedBy     string

	File string `json:"-"`
}

// Pair is one variable.
type Pair struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Git is where a stack comes from.
type Git struct{ URL, ReferenceName string }

// Server is the Portainer. Change what it holds before it is asked.
type Server struct {
	URL       string
	CAPEM     []byte // of an https server: its own certificate, which nobody signed
	Endpoints string // the document of GET /api/endpoints
	Stacks    []*Stack
	Services  string // the documents of Docker
	Tasks     string
	Info      string

	// Override, when it answers true, has answered in place of everything else.
	Override func(w http.ResponseWriter, r *http.Request) bool
	// Logs answers for the log of a service.
	Logs func(w http.ResponseWriter, r *http.Request, service string)

	http *httptest.Server
	mu   sync.Mutex
	seen []Request
}

// Start starts a server; Close it. With secure it speaks https, with a certificate that nobody trusts.
func Start(secure bool) *Server {
	s := &Server{
		Endpoints: `[{"Id":1,"Name":"primary","Type":1,"URL":"unix:///var/run/docker.sock","Status":1,"GroupId":1}]`,
		Stacks: []*Stack{{
			ID: 7, Name: "mosaic", Type: 1, EndpointID: 1, SwarmID: "jpofkc0i9uo9wtx1zesuk649w", EntryPoint: "docker-compose.yml", Status: 1,
			Env:          []Pair{{"HOST_FQDN", "gateway.example.org"}, {"POSTGRES_PASSWORD", Password}},
			CreationDate: 1767225600, CreatedBy: "admin", File: "services:\n  gateway:\n    image: mosaic:1.2.3\n",
		}},
		Services: Services, Tasks: Tasks,
		Info: `{"ID":"X","ServerVersion":"27.3.1","Swarm":{"NodeID":"n1","LocalNodeState":"active","ControlAvailable":true,"Cluster":{"ID":"jpofkc0i9uo9wtx1zesuk649w"}}}`,
	}
	s.Logs = func(w http.ResponseWriter, _ *http.Request, service string) {
		w.Header().Set("Content-Type", "application/vnd.docker.multiplexed-stream")
		_, _ = w.Write(Frame(1, Message("2026-03-01T12:00:00.000000001Z", "task-"+service, "hello from "+service)))
	}
	s.http = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	s.http.Config.ErrorLog = log.New(io.Discard, "", 0) // refused handshakes are what is tested
	if secure {
		s.http.StartTLS()
		s.CAPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.http.Certificate().Raw})
	} else {
		s.http.Start()
	}
	s.URL = s.http.URL
	return s
}

// Close stops the server, and whoever follows a log.
func (s *Server) Close() {
	s.http.CloseClientConnections()
	s.http.Close()
}

// Asked returns the requests so far.
func (s *Server) Asked() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.seen)
}

// Changes returns those that were to change something.
func (s *Server) Changes() []Request {
	return slices.DeleteFunc(s.Asked(), func(r Request) bool { return r.Method == http.MethodGet })
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	s.seen = append(s.seen, Request{r.Method, r.RequestURI, r.Header.Get("X-API-Key"), string(body)})
	s.mu.Unlock()
	if s.Override != nil && s.Override(w, r) {
		return
	}
	path, ok := strings.CutPrefix(r.URL.Path, "/api")
	switch {
	case !ok: // the interface, which is one page that answers everything
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = io.WriteString(w, "<!doctype html><html ng-app=\"portainer\"></html>")
		return
	case r.Header.Get("X-API-Key") == "":
		Refuse(w, 401, "A valid authorization token is missing", "Unauthorized")
		return
	case r.Header.Get("X-API-Key") != Key:
		Refuse(w, 401, "Invalid API key", "Invalid API key")
		return
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /endpoints", func(w http.ResponseWriter, _ *http.Request) { document(w, s.Endpoints) })
	mux.HandleFunc("GET /stacks", func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		reply(w, s.Stacks)
	})
	mux.HandleFunc("POST /stacks/create/swarm/string", func(w http.ResponseWriter, r *http.Request) { s.create(w, r, body) })
	mux.HandleFunc("GET /stacks/{id}/file", s.stack(func(w http.ResponseWriter, _ *http.Request, st *Stack) {
		reply(w, map[string]string{"StackFileContent": st.File})
	}))
	mux.HandleFunc("PUT /stacks/{id}", s.stack(func(w http.ResponseWriter, _ *http.Request, st *Stack) { s.update(w, st, body) }))
	mux.HandleFunc("POST /stacks/{id}/{do}", s.stack(s.startOrStop))
	mux.HandleFunc("/endpoints/{id}/docker/", s.docker)
	mux.HandleFunc("/", http.NotFound) // as the router that Portainer uses
	inner := r.Clone(r.Context())
	inner.URL.Path = path
	inner.URL.RawPath = ""
	mux.ServeHTTP(w, inner)
}

func (s *Server) stack(do func(http.ResponseWriter, *http.Request, *Stack)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		id, err := strconv.Atoi(r.PathValue("id"))
		if err != nil {
			Refuse(w, 400, "Invalid stack identifier route variable", err.Error())
			return
		}
		i := slices.IndexFunc(s.Stacks, func(st *Stack) bool { return st.ID == id })
		if i < 0 {
			Refuse(w, 404, "Unable to find a stack with the specified identifier inside the database", "Object not found inside the database")
			return
		}
		if r.Method != http.MethodGet && r.URL.Query().Get("endpointId") != strconv.Itoa(s.Stacks[i].EndpointID) {
			Refuse(w, 400, "Invalid query parameter: endpointId", "Missing query parameter")
			return
		}
		do(w, r, s.Stacks[i])
	}
}

func (s *Server) create(w http.ResponseWriter, r *http.Request, body []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var p struct {
		Name, SwarmID, StackFileContent string
		Env                             []Pair
	}
	if err := json.Unmarshal(body, &p); err != nil {
		Refuse(w, 400, "Invalid request payload", err.Error())
		return
	}
	for field, value := range map[string]string{"stack name": p.Name, "Swarm ID": p.SwarmID, "stack file content": p.StackFileContent} {
		if value == "" {
			Refuse(w, 400, "Invalid request payload", "Invalid "+field)
			return
		}
	}
	endpoint, err := strconv.Atoi(r.URL.Query().Get("endpointId"))
	if err != nil {
		Refuse(w, 400, "Invalid query parameter: endpointId", err.Error())
		return
	}
	if slices.ContainsFunc(s.Stacks, func(st *Stack) bool { return strings.EqualFold(st.Name, p.Name) }) {
		Refuse(w, 409, "A stack with the normalized name '"+p.Name+"' already exists", "A stack already exists with this name")
		return
	}
	st := &Stack{
		ID: 8 + len(s.Stacks), Name: p.Name, Type: 1, EndpointID: endpoint, SwarmID: p.SwarmID, EntryPoint: "docker-compose.yml", Env: p.Env, Status: 1,
		CreationDate: 1772366400, CreatedBy: "admin", File: p.StackFileContent,
	}
	s.Stacks = append(s.Stacks, st)
	reply(w, st)
}

func (s *Server) update(w http.ResponseWriter, st *Stack, body []byte) {
	var p struct {
		StackFileContent string
		Env              []Pair
	}
	if err := json.Unmarshal(body, &p); err != nil || p.StackFileContent == "" {
		Refuse(w, 400, "Invalid request payload", "Invalid stack file content")
		return
	}
	st.File, st.Env, st.UpdateDate, st.UpdatedBy = p.StackFileContent, p.Env, 1772366400, "admin"
	reply(w, st)
}

func (s *Server) startOrStop(w http.ResponseWriter, r *http.Request, st *Stack) {
	want := map[string]int{"start": 1, "stop": 2}[r.PathValue("do")]
	switch {
	case want == 0:
		http.NotFound(w, r)
	case st.Status == want:
		word := map[int]string{1: "Stack is already active", 2: "Stack is already inactive"}[want]
		Refuse(w, 400, word, word)
	default:
		st.Status = want
		reply(w, st)
	}
}

// docker is the Docker of an environment, which Portainer passes requests on to.
func (s *Server) docker(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	services, tasks, info := s.Services, s.Tasks, s.Info
	s.mu.Unlock()
	if !strings.Contains(s.Endpoints, `"Id":`+r.PathValue("id")+`,`) {
		Refuse(w, 404, "Unable to find an environment with the specified identifier inside the database", "Object not found inside the database")
		return
	}
	_, path, _ := strings.Cut(r.URL.Path, "/docker/")
	kind, rest, _ := strings.Cut(path, "/")
	id, logs := strings.CutSuffix(rest, "/logs")
	switch {
	case path == "info":
		document(w, info)
	case path == "services":
		ofStack(w, r, services, "Spec")
	case path == "tasks":
		ofStack(w, r, tasks, "")
	case kind == "services" && logs && find(services, id) != nil:
		s.Logs(w, r, id)
	case kind == "services" && find(services, id) != nil:
		reply(w, find(services, id))
	case kind == "tasks" && find(tasks, id) != nil:
		reply(w, find(tasks, id))
	default:
		Say(w, 404, strings.TrimSuffix(kind, "s")+" "+id+" not found")
	}
}

// ofStack filters by label, as Docker does.
func ofStack(w http.ResponseWriter, r *http.Request, doc, labelled string) {
	var filters struct{ Label []string }
	if err := json.Unmarshal([]byte(r.URL.Query().Get("filters")), &filters); err != nil || len(filters.Label) != 1 {
		Say(w, 400, "invalid filter")
		return
	}
	name, value, _ := strings.Cut(filters.Label[0], "=")
	out := []map[string]any{}
	for _, item := range parse(doc) {
		of := item
		if labelled != "" {
			of, _ = item[labelled].(map[string]any)
		}
		if labels, _ := of["Labels"].(map[string]any); labels[name] == value {
			out = append(out, item)
		}
	}
	reply(w, out)
}

func parse(doc string) (all []map[string]any) {
	if err := json.Unmarshal([]byte(doc), &all); err != nil {
		panic(err) // the test's own document
	}
	return all
}

func find(doc, id string) map[string]any {
	for _, item := range parse(doc) {
		if item["ID"] == id {
			return item
		}
	}
	return nil
}

// SetServices changes what Docker says of services while it is asked.
func (s *Server) SetServices(doc string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Services = doc
}

// Refuse answers as Portainer does when it refuses.
func Refuse(w http.ResponseWriter, status int, message, details string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"message": message, "details": details})
}

// Say answers as Docker does when it refuses.
func Say(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"message": message})
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

func document(w http.ResponseWriter, doc string) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, doc)
}

// Frame is one message in Docker's multiplexed form.
func Frame(stream byte, text string) []byte {
	out := binary.BigEndian.AppendUint32([]byte{stream, 0, 0, 0}, uint32(len(text)))
	return append(out, text...)
}

// Message is a line of a task's log as Docker writes it when it is asked for times and details.
func Message(at, task, text string) string { return Part(at, task, text+"\n") }

// Part is a message that does not end its line.
func Part(at, task, text string) string {
	when, err := time.Parse(time.RFC3339Nano, at)
	if err != nil {
		panic(err) // the test's own time
	}
	return fmt.Sprintf("%s com.docker.swarm.node.id=n1,com.docker.swarm.service.id=s1,com.docker.swarm.task.id=%s %s",
		when.Format("2006-01-02T15:04:05.000000000Z07:00"), url.QueryEscape(task), text)
}

// The Swarm that a server has behind it: a gateway of which one replica of two fails, a database, and the job that
// brought its schema up to date.
const (
	Services = `[
{"ID":"gateway","Spec":{"Name":"mosaic_gateway","Labels":{"com.docker.stack.namespace":"mosaic"},"Mode":{"Replicated":{"Replicas":2}},
 "TaskTemplate":{"ContainerSpec":{"Image":"registry.example.org/mosaic:1.2.3@sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"}}},
 "UpdateStatus":{"State":"paused"},"ServiceStatus":{"RunningTasks":1,"DesiredTasks":2,"CompletedTasks":0}},
{"ID":"postgres","Spec":{"Name":"mosaic_postgres","Labels":{"com.docker.stack.namespace":"mosaic"},"Mode":{"Global":{}},
 "TaskTemplate":{"ContainerSpec":{"Image":"pgvector/pgvector:pg17","TTY":true}}},
 "ServiceStatus":{"RunningTasks":1,"DesiredTasks":1,"CompletedTasks":0}},
{"ID":"migrate","Spec":{"Name":"mosaic_migrate","Labels":{"com.docker.stack.namespace":"mosaic"},"Mode":{"ReplicatedJob":{"MaxConcurrent":1,"TotalCompletions":1}},
 "TaskTemplate":{"ContainerSpec":{"Image":"registry.example.org/mosaic:1.2.3"}}},
 "ServiceStatus":{"RunningTasks":0,"DesiredTasks":0,"CompletedTasks":1}},
{"ID":"web","Spec":{"Name":"other_web","Labels":{"com.docker.stack.namespace":"other"},"Mode":{"Replicated":{"Replicas":1}},
 "TaskTemplate":{"ContainerSpec":{"Image":"nginx:1.27"}}}}]`
	Tasks = `[
{"ID":"task-gateway","Labels":{"com.docker.stack.namespace":"mosaic"},"ServiceID":"gateway","NodeID":"n1","Slot":1,"DesiredState":"running",
 "Status":{"Timestamp":"2026-03-01T11:00:00Z","State":"running"}},
{"ID":"task-gateway-2","Labels":{"com.docker.stack.namespace":"mosaic"},"ServiceID":"gateway","NodeID":"n1","Slot":2,"DesiredState":"shutdown",
 "Status":{"Timestamp":"2026-03-01T11:58:00Z","State":"failed","Err":"task: non-zero exit (1): password ` + Password + ` refused"}},
{"ID":"task-gateway-3","Labels":{"com.docker.stack.namespace":"mosaic"},"ServiceID":"gateway","NodeID":"n1","Slot":2,"DesiredState":"shutdown",
 "Status":{"Timestamp":"2026-03-01T11:40:00Z","State":"rejected","Err":"No such image"}},
{"ID":"task-postgres","Labels":{"com.docker.stack.namespace":"mosaic"},"ServiceID":"postgres","NodeID":"w1mv5qkzbh0x8d4yuqgg","DesiredState":"running",
 "Status":{"Timestamp":"2026-03-01T11:00:00Z","State":"running"}},
{"ID":"task-migrate","Labels":{"com.docker.stack.namespace":"mosaic"},"ServiceID":"migrate","NodeID":"n1","Slot":1,"DesiredState":"complete",
 "Status":{"Timestamp":"2026-03-01T11:00:00Z","State":"complete"}},
{"ID":"task-web","Labels":{"com.docker.stack.namespace":"other"},"ServiceID":"web","NodeID":"n1","Slot":1,"DesiredState":"running",
 "Status":{"Timestamp":"2026-03-01T11:00:00Z","State":"running"}}]`
)
