package cli

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/net/http/httpproxy"

	"github.com/mosaicstack/gateway/internal/account"
	"github.com/mosaicstack/gateway/internal/unixsock"
)

const socketName = "admin.sock"

// directory is the gateway's directory: --dir, MOSAIC_DIR, or the default.
func (a *app) directory(cmd *cobra.Command) string {
	if env := a.env.Getenv("MOSAIC_DIR"); env != "" && !cmd.Flags().Changed("dir") {
		return env
	}
	return a.dir
}

// connect picks the gateway that the command talks to: --url, else an explicit --dir, else MOSAIC_URL, else the
// admin socket. A flag is closer to the person than what a shell profile has set.
func (a *app) connect(cmd *cobra.Command) (*client, error) {
	flags := cmd.Flags()
	address := a.url
	if !flags.Changed("url") && !flags.Changed("dir") {
		address = a.env.Getenv("MOSAIC_URL")
	}
	if address != "" {
		return a.overURL(cmd, address)
	}
	if flags.Changed("token") {
		// Not ignored: the socket would act as admin, where the token's user was meant.
		return nil, misuse(cmd, "--token goes with --url; the admin socket needs none")
	}
	return a.overSocket(a.directory(cmd)), nil
}

func (a *app) agent() string { return "mosaic/" + a.env.Version }

func (a *app) overSocket(dir string) *client {
	path := filepath.Join(dir, socketName)
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) { return unixsock.Dial(ctx, path) }
	return &client{
		http: newHTTPClient(&http.Transport{DialContext: dial}),
		base: "http://mosaic", name: path, agent: a.agent(), timeout: callTimeout,
		unreachable: func(err error) error {
			absent := errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
			switch {
			case errors.Is(err, fs.ErrPermission):
				return errSocketForbidden.With("you may not use %s", path)
			case !absent && !errors.Is(err, syscall.ECONNREFUSED):
				return errUnreachable.With("the gateway on %s does not answer", path).Because(err)
			}
			f := errNotRunning.With("no gateway runs in %s: there is no %s", dir, path)
			if !absent {
				f = errNotRunning.With("no gateway runs in %s: nobody answers on %s", dir, path)
			}
			return f.Advise("start it: mosaic gateway dev --dir %s, or set MOSAIC_URL and MOSAIC_TOKEN", quoted(dir))
		},
	}
}

func (a *app) overURL(cmd *cobra.Command, address string) (*client, error) {
	u, err := url.Parse(address)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, misuse(cmd, "the gateway's address must be like https://gateway.example.org") // it may hold a password: not repeated
	}
	source, err := a.tokenSource(cmd)
	if err != nil {
		return nil, err
	}
	if u.Scheme == "http" && !loopback(u.Hostname()) {
		return nil, errInsecureURL.With("a token is not sent over plain http to %s", u.Host)
	}
	token, err := a.secret(cmd, source)
	if err != nil {
		return nil, err
	}
	c := a.overHTTP(strings.TrimRight(u.String(), "/"))
	c.token = token
	return c, nil
}

func (a *app) overHTTP(base string) *client {
	return &client{
		http: newHTTPClient(&http.Transport{Proxy: a.proxy()}),
		base: base, name: base, agent: a.agent(), timeout: callTimeout,
		unreachable: func(err error) error { return errUnreachable.With("%s does not answer", base).Because(err) },
	}
}

// proxy follows HTTPS_PROXY and its kin, as http.ProxyFromEnvironment does, in the command's own environment.
// Loopback is always reached directly.
func (a *app) proxy() func(*http.Request) (*url.URL, error) {
	env := func(name string) string { return cmp.Or(a.env.Getenv(name), a.env.Getenv(strings.ToLower(name))) }
	pick := (&httpproxy.Config{
		HTTPProxy: env("HTTP_PROXY"), HTTPSProxy: env("HTTPS_PROXY"), NoProxy: env("NO_PROXY"),
		CGI: a.env.Getenv("REQUEST_METHOD") != "",
	}).ProxyFunc()
	return func(r *http.Request) (*url.URL, error) { return pick(r.URL) }
}

// tokenSource finds where the API token is, and reads nothing yet.
func (a *app) tokenSource(cmd *cobra.Command) (secretSource, error) {
	s := secretSource{name: "--token", kind: "an API token", value: a.token, literal: func(v string) bool {
		return strings.HasPrefix(v, account.TokenPrefix)
	}}
	if cmd.Flags().Changed("token") {
		return s, nil
	}
	inline, file := a.env.Getenv("MOSAIC_TOKEN"), a.env.Getenv("MOSAIC_TOKEN_FILE")
	switch {
	case inline != "" && file != "":
		return s, misuse(cmd, "MOSAIC_TOKEN and MOSAIC_TOKEN_FILE are both set")
	case file != "":
		s.name, s.value = "MOSAIC_TOKEN_FILE", "@"+file
	case inline != "":
		s.name, s.value = "MOSAIC_TOKEN", inline
	default:
		return s, errUsage.With("an API token is needed with an address").
			Advise("give --token FILE, or - for standard input, or set MOSAIC_TOKEN; an admin makes one: mosaic token create --user USER")
	}
	return s, nil
}

// loopback tells whether a host is this machine. Names other than localhost are not: who knows what they resolve to.
func loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}
