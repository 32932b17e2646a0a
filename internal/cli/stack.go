package cli

import (
	"cmp"
	"context"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mosaicstack/gateway/internal/portainer"
	"github.com/mosaicstack/gateway/internal/seal"
)

// stacks are the commands that speak to Portainer, not to a gateway.
func (a *app) stacks() *cobra.Command {
	cmd := a.group("stack", "The Swarm stacks that a Portainer looks after, a gateway's among them",
		a.stackEndpoints(), a.stackList(), a.stackCreate(), a.stackStatus(), a.stackRedeploy(),
		a.stackSwitch("start", "Start a stopped stack", (*portainer.Client).Start),
		a.stackSwitch("stop", "Stop a stack: its services are removed; its file, its variables and its volumes stay", (*portainer.Client).Stop),
		a.stackLogs())
	cmd.Long = cmd.Short + ".\n\nPORTAINER_URL is Portainer's address, PORTAINER_API_KEY or PORTAINER_API_KEY_FILE an access token of one of its\n" +
		"users. A certificate of a CA of your own is trusted with SSL_CERT_FILE=ca.pem; PORTAINER_INSECURE=1 trusts any."
	return cmd
}

// stackLeaf is a command that asks Portainer.
func (a *app) stackLeaf(name string, params []string, short string, run func(cmd *cobra.Command, p *portainer.Client, args []string) error) *cobra.Command {
	return a.leaf(name, params, short, func(cmd *cobra.Command, args []string) error {
		for _, of := range []string{"url", "token", "dir"} {
			if cmd.Flags().Changed(of) {
				return misuse(cmd, "--%s is about a gateway; Portainer is named by PORTAINER_URL and PORTAINER_API_KEY_FILE", of)
			}
		}
		p, err := a.portainer(cmd)
		if err != nil {
			return err
		}
		err = run(cmd, p, args)
		if err != nil && cmd.Context().Err() != nil {
			return errInterrupted
		}
		return err
	})
}

// portainer reads where Portainer is. The API key comes from the environment or a file, never from the command line,
// which other users of the machine can read.
func (a *app) portainer(cmd *cobra.Command) (*portainer.Client, error) {
	address := a.env.Getenv("PORTAINER_URL")
	if address == "" {
		return nil, errUsage.With("PORTAINER_URL is not set").Advise("set it to Portainer's address, such as https://portainer.example.org:9443")
	}
	u, err := url.Parse(address)
	if err != nil {
		return nil, portainer.ErrURL
	}
	var insecure bool
	switch v := a.env.Getenv("PORTAINER_INSECURE"); v {
	case "", "0", "false":
	case "1", "true":
		insecure = true
	default:
		return nil, misuse(cmd, "PORTAINER_INSECURE is 1 or 0, not %q", v)
	}
	if u.Scheme == "http" && !loopback(u.Hostname()) && !insecure {
		return nil, errInsecureURL.With("an API key is not sent over plain http to %s", u.Host)
	}
	key, err := a.portainerKey(cmd)
	if err != nil {
		return nil, err
	}
	p, err := portainer.New(portainer.Config{URL: address, Key: key, Insecure: insecure, Agent: a.agent(), Proxy: a.proxy()})
	if err != nil {
		return nil, err
	}
	if insecure {
		a.warn("warning: PORTAINER_INSECURE is set: nothing shows that %s is Portainer, and whoever answers gets the API key", u.Host)
	}
	return p, nil
}

func (a *app) portainerKey(cmd *cobra.Command) (seal.Secret, error) {
	s := secretSource{name: "PORTAINER_API_KEY", kind: "an API key", literal: func(string) bool { return true }}
	inline, file := a.env.Getenv("PORTAINER_API_KEY"), a.env.Getenv("PORTAINER_API_KEY_FILE")
	switch {
	case inline != "" && file != "":
		return seal.Secret{}, misuse(cmd, "PORTAINER_API_KEY and PORTAINER_API_KEY_FILE are both set")
	case file != "":
		s.name, s.value = "PORTAINER_API_KEY_FILE", "@"+file
	case inline != "":
		key, err := s.check(s.name, []byte(inline))
		return seal.NewSecret(key), err
	default:
		return seal.Secret{}, errUsage.With("neither PORTAINER_API_KEY_FILE nor PORTAINER_API_KEY is set").
			Advise("make an access token in Portainer, under My account, and set PORTAINER_API_KEY_FILE to a file that holds it, or PORTAINER_API_KEY")
	}
	key, err := a.secret(cmd, s)
	return seal.NewSecret(key), err
}

func (a *app) stackEndpoints() *cobra.Command {
	return a.stackLeaf("endpoints", nil, "List the environments that Portainer looks after", func(cmd *cobra.Command, p *portainer.Client, _ []string) error {
		all, err := p.Endpoints(cmd.Context())
		if err != nil {
			return err
		}
		return showRows(a, all, "no environments that the API key's user may see", []string{"NAME", "ID", "TYPE", "STATUS", "URL"}, func(e portainer.Endpoint) []string {
			return []string{e.Name, strconv.Itoa(e.ID), e.Type, e.Status, e.URL}
		})
	})
}

// showRows prints what did not come as one document of a gateway.
func showRows[T any](a *app, all []T, none string, header []string, columns func(T) []string) error {
	if a.json {
		if all == nil {
			all = []T{}
		}
		return a.printJSON(all)
	}
	if len(all) == 0 {
		a.say("%s", none)
		return nil
	}
	rows := make([][]string, len(all))
	for i, item := range all {
		rows[i] = columns(item)
	}
	a.table(header, rows)
	return nil
}

// stackView is a stack as it is shown. Of its variables the names are, and the values are not.
type stackView struct {
	ID         int        `json:"id"`
	Name       string     `json:"name"`
	EndpointID int        `json:"endpoint_id"`
	Type       string     `json:"type"`
	Status     string     `json:"status"`
	FromGit    bool       `json:"from_git"`
	Env        []string   `json:"env"`
	CreatedAt  *time.Time `json:"created_at"`
	UpdatedAt  *time.Time `json:"updated_at"`
	UpdatedBy  string     `json:"updated_by"`
}

func viewOf(s portainer.Stack) stackView {
	v := stackView{
		ID: s.ID, Name: s.Name, EndpointID: s.EndpointID, Type: s.Type, Status: s.Status, FromGit: s.FromGit, Env: []string{},
		CreatedAt: unlessZero(s.Created), UpdatedAt: unlessZero(s.Updated), UpdatedBy: s.UpdatedBy,
	}
	for _, e := range s.Env {
		v.Env = append(v.Env, e.Name)
	}
	return v
}

func unlessZero(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func (a *app) stackList() *cobra.Command {
	var endpoint string
	cmd := a.stackLeaf("list", nil, "List the stacks", func(cmd *cobra.Command, p *portainer.Client, _ []string) error {
		all, err := p.Stacks(cmd.Context())
		if err != nil {
			return err
		}
		if endpoint != "" {
			e, err := p.Endpoint(cmd.Context(), endpoint)
			if err != nil {
				return err
			}
			all = slices.DeleteFunc(all, func(s portainer.Stack) bool { return s.EndpointID != e.ID })
		}
		views := make([]stackView, len(all))
		for i, s := range all {
			views[i] = viewOf(s)
		}
		return showRows(a, views, "no stacks that the API key's user may see", []string{"NAME", "ID", "ENDPOINT", "TYPE", "STATUS", "DEPLOYED", "BY"}, func(v stackView) []string {
			return []string{v.Name, strconv.Itoa(v.ID), strconv.Itoa(v.EndpointID), v.Type, v.Status, a.shortTime(cmp.Or(v.UpdatedAt, v.CreatedAt)), v.UpdatedBy}
		})
	})
	cmd.Flags().StringVar(&endpoint, "endpoint", "", "only those of this environment, by name or id")
	return cmd
}

// showStack prints what has become of a stack.
func (a *app) showStack(s portainer.Stack, format string, args ...any) error {
	if a.json {
		return a.printJSON(viewOf(s))
	}
	a.say(format, args...)
	return nil
}

func (a *app) stackCreate() *cobra.Command {
	var endpoint, file, envFile string
	var env []string
	cmd := a.stackLeaf("create", []string{"NAME"}, "Create a Swarm stack and deploy it", func(cmd *cobra.Command, p *portainer.Client, args []string) error {
		variables, err := a.variables(cmd, env, envFile)
		if err != nil {
			return err
		}
		text, err := a.stackFile(cmd, file)
		if err != nil {
			return err
		}
		e, err := p.Endpoint(cmd.Context(), endpoint)
		if err != nil {
			return err
		}
		s, err := p.Create(cmd.Context(), portainer.NewStack{Name: args[0], Endpoint: e, File: text, Env: variables})
		if err != nil {
			return err
		}
		return a.showStack(s, "created stack %s (id %d) on %s; see how it comes up: mosaic stack status %s", s.Name, s.ID, e.Name, quoted(s.Name))
	})
	cmd.Flags().StringVar(&endpoint, "endpoint", "", "the environment, by name or id; without it the only one there is")
	cmd.Flags().StringVar(&file, "file", "", "the stack's Compose file: a FILE, or - for stdin")
	envFlags(cmd, &env, &envFile, "")
	return require(cmd, "file")
}

func (a *app) stackRedeploy() *cobra.Command {
	var endpoint, file, envFile string
	var env []string
	var pull, prune bool
	cmd := a.stackLeaf("redeploy", []string{"NAME"}, "Deploy a stack anew, with the file and the variables that it has", func(cmd *cobra.Command, p *portainer.Client, args []string) error {
		if prune && file == "" {
			return misuse(cmd, "--prune goes with --file: the file that the stack has, has all its services")
		}
		r := portainer.Redeployment{Pull: pull, Prune: prune}
		var err error
		if r.Env, err = a.variables(cmd, env, envFile); err != nil {
			return err
		}
		if file != "" {
			if r.File, err = a.stackFile(cmd, file); err != nil {
				return err
			}
		}
		s, err := p.Stack(cmd.Context(), args[0], endpoint)
		if err != nil {
			return err
		}
		if s, err = p.Redeploy(cmd.Context(), s, r); err != nil {
			return err
		}
		return a.showStack(s, "redeployed stack %s; see how it comes up: mosaic stack status %s", s.Name, quoted(s.Name))
	})
	whichEndpoint(cmd, &endpoint)
	cmd.Flags().BoolVar(&pull, "pull", false, "fetch the images again, even under the tags they have")
	cmd.Flags().StringVar(&file, "file", "", "another Compose file in place of the one it has: a FILE, or - for stdin")
	cmd.Flags().BoolVar(&prune, "prune", false, "with --file, remove the services that are no longer in it")
	envFlags(cmd, &env, &envFile, "; variables that are not named stay as they are")
	return cmd
}

func whichEndpoint(cmd *cobra.Command, endpoint *string) {
	cmd.Flags().StringVar(endpoint, "endpoint", "", "the stack's environment, by name or id, when another has a stack of this name")
}

func (a *app) stackSwitch(verb, short string, do func(*portainer.Client, context.Context, portainer.Stack) (portainer.Stack, error)) *cobra.Command {
	var endpoint string
	cmd := a.stackLeaf(verb, []string{"NAME"}, short, func(cmd *cobra.Command, p *portainer.Client, args []string) error {
		s, err := p.Stack(cmd.Context(), args[0], endpoint)
		if err != nil {
			return err
		}
		if s, err = do(p, cmd.Context(), s); err != nil {
			return err
		}
		return a.showStack(s, "stack %s is %s", s.Name, s.Status)
	})
	whichEndpoint(cmd, &endpoint)
	return cmd
}

func (a *app) stackStatus() *cobra.Command {
	var endpoint string
	cmd := a.stackLeaf("status", []string{"NAME"}, "Show the services of a stack, and how they run", func(cmd *cobra.Command, p *portainer.Client, args []string) error {
		s, err := p.Stack(cmd.Context(), args[0], endpoint)
		if err != nil {
			return err
		}
		services, err := p.Status(cmd.Context(), s)
		if err != nil {
			return err
		}
		steady := s.Status == portainer.StatusActive && len(services) > 0 &&
			!slices.ContainsFunc(services, func(s portainer.Service) bool { return !s.Steady() })
		if a.json {
			if services == nil {
				services = []portainer.Service{}
			}
			return a.printJSON(struct {
				stackView
				Steady   bool                `json:"steady"`
				Services []portainer.Service `json:"services"`
			}{viewOf(s), steady, services})
		}
		a.say("stack %s is %s%s", s.Name, s.Status, map[bool]string{true: "; all its services run as they should"}[steady])
		return showRows(a, services, "it runs no services", []string{"SERVICE", "MODE", "RUNNING", "UPDATE", "IMAGE", "LAST ERROR"}, func(s portainer.Service) []string {
			image, _, _ := strings.Cut(s.Image, "@sha256:") // a digest is twice as long as all else
			return []string{s.Name, s.Mode, running(s), s.Update, image, a.lastError(s.LastError)}
		})
	})
	whichEndpoint(cmd, &endpoint)
	return cmd
}

func running(s portainer.Service) string {
	if s.Completed != nil {
		return strconv.Itoa(*s.Completed) + "/" + strconv.Itoa(s.Desired) + " done"
	}
	return strconv.Itoa(s.Running) + "/" + strconv.Itoa(s.Desired)
}

func (a *app) lastError(e *portainer.TaskError) string {
	if e == nil {
		return ""
	}
	return shorten(e.Task+" "+a.shortTime(&e.At)+": "+plain(e.Message), 200)
}
