// Package portainer is a client of Portainer's HTTP API (CE 2.x) for what an operator does with the gateway's Swarm
// stack: find it, create it, deploy it anew, stop and start it, see how it runs, and read its logs.
//
// Portainer keeps stacks, and hands requests below /api/endpoints/ID/docker to the Docker of an environment, which
// the API calls an endpoint. Both answer here. Nothing that changes something is ever sent twice: when an answer does
// not come, the fault says that it may have been done. No redirect is followed, because it would carry the API key
// elsewhere. Every answer is bounded. The key is only ever in the header X-API-Key, and neither it nor the value of a
// stack's variable is in a fault, not even where Portainer repeats it.
package portainer

import (
	"cmp"
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mosaicstack/gateway/internal/seal"
)

// Config says where Portainer is, and as whom to speak to it.
type Config struct {
	URL      string // http or https, with a path if Portainer is below one
	Key      seal.Secret
	Insecure bool // takes any certificate
	Agent    string
	Proxy    func(*http.Request) (*url.URL, error) // nil for none

	Timeout       time.Duration // of a question; zero is 30 s
	DeployTimeout time.Duration // of what Portainer runs Docker's command line for; zero is 5 min
	Pause         time.Duration // before the first reconnection of a log that is followed; zero is 250 ms
}

// Client speaks to one Portainer. It is safe for concurrent use.
type Client struct {
	http                   *http.Client
	base                   string // ends in /api
	name                   string // what faults call it: scheme and host
	key                    seal.Secret
	agent                  string
	timeout, deploy, pause time.Duration
}

// New makes a client, and connects to nobody yet.
func New(c Config) (*Client, error) {
	u, err := url.Parse(c.URL)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, ErrURL // which may hold a password: it is not repeated
	}
	base := strings.TrimSuffix(strings.TrimRight(u.String(), "/"), "/api")
	t := &http.Transport{
		Proxy: c.Proxy,
		// A log that is followed has no deadline, but connecting has. Keep-alive finds out that nobody is there any more.
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout: 10 * time.Second,
		// A connection that is used again may turn out to be closed, and net/http then repeats the request by itself.
		DisableKeepAlives:      true,
		MaxResponseHeaderBytes: 64 << 10,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: c.Insecure}, //nolint:gosec // asked for, and warned of
	}
	return &Client{
		http: &http.Client{
			Transport:     t,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		base: base + "/api", name: u.Scheme + "://" + u.Host, key: c.Key, agent: c.Agent,
		timeout: cmp.Or(c.Timeout, 30*time.Second), deploy: cmp.Or(c.DeployTimeout, 5*time.Minute), pause: cmp.Or(c.Pause, 250*time.Millisecond),
	}, nil
}

// Endpoint is an environment: a Docker, a Swarm or a Kubernetes that Portainer looks after.
type Endpoint struct {
	ID     int    `json:"id"`
	Name   string `json:"name"`
	Type   string `json:"type"`
	Status string `json:"status"`
	URL    string `json:"url"`
}

// Endpoints lists the environments that the key's user may see.
func (c *Client) Endpoints(ctx context.Context) ([]Endpoint, error) {
	var wire []struct {
		ID           int `json:"Id"`
		Name         string
		Type, Status int
		URL          string
	}
	q := url.Values{"excludeSnapshots": {"true"}} // they are large, and say nothing that is asked for here
	if err := c.do(ctx, call{method: http.MethodGet, path: "/endpoints", query: q}, &wire); err != nil {
		return nil, err
	}
	all := make([]Endpoint, 0, len(wire))
	for _, e := range wire {
		all = append(all, Endpoint{e.ID, e.Name, named(endpointTypes, e.Type), named(endpointStatus, e.Status), withoutPassword(e.URL)})
	}
	slices.SortFunc(all, func(a, b Endpoint) int { return cmp.Or(strings.Compare(a.Name, b.Name), a.ID-b.ID) })
	return all, nil
}

// The numbers of Portainer's API, in words.
var (
	endpointTypes  = []string{"", "docker", "docker-agent", "azure", "docker-edge", "kubernetes", "kubernetes-agent", "kubernetes-edge"}
	endpointStatus = []string{"", "up", "down"}
	stackTypes     = []string{"", typeSwarm, "compose", "kubernetes"}
	stackStatus    = []string{"", StatusActive, StatusInactive, "deploying", "error"}
)

const typeSwarm = "swarm"

// What a stack is to Portainer. Newer versions know two more: deploying, and error.
const (
	StatusActive   = "active"
	StatusInactive = "inactive"
)

func named(words []string, n int) string {
	if n > 0 && n < len(words) {
		return words[n]
	}
	return "unknown (" + strconv.Itoa(n) + ")"
}

// withoutPassword takes user and password out of an address.
func withoutPassword(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.User == nil {
		return address
	}
	u.User = nil
	return u.String()
}

// Endpoint finds an environment by name or id. Without either it is the only one there is.
func (c *Client) Endpoint(ctx context.Context, which string) (Endpoint, error) {
	all, err := c.Endpoints(ctx)
	if err != nil {
		return Endpoint{}, err
	}
	if which == "" {
		switch len(all) {
		case 0:
			return Endpoint{}, ErrEndpointUnknown.With("Portainer has no environment that the API key's user may see").Advise("%s", ErrForbidden.Hint)
		case 1:
			return all[0], nil
		}
		names := make([]string, len(all))
		for i, e := range all {
			names[i] = e.Name
		}
		return Endpoint{}, ErrEndpointAmbiguous.With("Portainer has %d environments: %s", len(all), cut(strings.Join(names, ", ")))
	}
	return pick(all, which)
}

func pick(all []Endpoint, which string) (Endpoint, error) {
	byName := func(e Endpoint) bool { return e.Name == which }
	byID := func(e Endpoint) bool { return strconv.Itoa(e.ID) == which }
	for _, is := range []func(Endpoint) bool{byName, byID} {
		if i := slices.IndexFunc(all, is); i >= 0 {
			return all[i], nil
		}
	}
	return Endpoint{}, ErrEndpointUnknown.With("Portainer has no environment %q", which)
}
