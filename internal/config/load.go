package config

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"reflect"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"

	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/identity"
	"github.com/mosaicstack/gateway/internal/seal"
)

// minSecret is how many bytes a secret needs that keys are derived from.
const minSecret = 32

// Setting describes one variable.
type Setting struct {
	Name    string // of the variable
	Default string
	Doc     string
	Tiers   []Tier // in which it is read; empty: all
	Secret  bool   // so it may come from NAME_FILE
}

// Settings lists every variable, in the order of the struct.
func Settings() []Setting { return settings(reflect.TypeFor[Config](), "", nil) }

func settings(t reflect.Type, prefix string, tiers []Tier) (out []Setting) {
	for i := range t.NumField() {
		f := t.Field(i)
		of := tiers
		for tier := range strings.SplitSeq(f.Tag.Get("tiers"), ",") {
			if tier != "" {
				of = append(slices.Clip(of), Tier(tier))
			}
		}
		if under := f.Tag.Get("envPrefix"); under != "" {
			out = append(out, settings(f.Type, prefix+under, of)...)
			continue
		}
		out = append(out, Setting{
			Name: prefix + f.Tag.Get("env"), Default: f.Tag.Get("envDefault"), Doc: f.Tag.Get("doc"), Tiers: of,
			Secret: f.Type == reflect.TypeFor[seal.Secret](),
		})
	}
	return out
}

// Load reads the settings of a tier from environ, which is of the form of os.Environ. Pass Local for gateway dev;
// an empty tier takes MOSAIC_TIER's. The error is ErrInvalid with every problem found.
func Load(environ []string, tier Tier) (Config, error) {
	l := newLoader(environ)
	l.unknown()
	l.alias("BETTER_AUTH_URL", "MOSAIC_PUBLIC_URL")
	l.files()
	var c Config
	err := env.ParseWithOptions(&c, env.Options{Environment: l.given, FuncMap: parsers})
	var all env.AggregateError
	switch {
	case errors.As(err, &all):
		for _, e := range all.Errors {
			l.parse(e)
		}
	case err != nil:
		return c, fmt.Errorf("read settings: %w", err)
	}
	l.tier(&c, tier)
	l.contradictions(&c)
	return c, l.err()
}

// DatabaseURL reads that setting alone, for commands that need no other.
func DatabaseURL(environ []string) (seal.Secret, error) {
	l := newLoader(environ)
	l.files()
	l.need("DATABASE_URL", l.given["DATABASE_URL"], "postgres://USER:PASSWORD@HOST:5432/DATABASE")
	l.problems = slices.DeleteFunc(l.problems, func(p fault.Problem) bool { return !strings.HasPrefix(p.Path, "DATABASE_URL") })
	return seal.NewSecret(l.given["DATABASE_URL"]), l.err()
}

type loader struct {
	given    map[string]string
	problems []fault.Problem
}

func newLoader(environ []string) *loader {
	l := &loader{given: map[string]string{}}
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		l.given[name] = value // the last one counts, as for every process
		if value == "" {
			delete(l.given, name)
		}
	}
	return l
}

// err is nil, or ErrInvalid with every problem, in the order of the names.
func (l *loader) err() error {
	if len(l.problems) == 0 {
		return nil
	}
	sort.SliceStable(l.problems, func(i, j int) bool { return l.problems[i].Path < l.problems[j].Path })
	return ErrInvalid.Listing(l.problems)
}

func (l *loader) wrong(name, format string, args ...any) {
	l.problems = append(l.problems, fault.Problem{Path: name, Detail: fmt.Sprintf(format, args...)})
}

// unknown reports names that look like ours and are not, with the one that was probably meant.
func (l *loader) unknown() {
	known := slices.Clone(elsewhere)
	for _, s := range Settings() {
		known = append(known, s.Name)
		if s.Secret {
			known = append(known, s.Name+"_FILE")
		}
	}
	for name := range l.given {
		if !strings.HasPrefix(name, "MOSAIC_") || slices.Contains(known, name) ||
			strings.HasPrefix(name, elsewhereShape.prefix) || strings.HasSuffix(name, elsewhereShape.suffix) {
			continue
		}
		if near := nearest(name, known); near != "" {
			l.wrong(name, "there is no such setting: %s is meant, perhaps", near)
		} else {
			l.wrong(name, "there is no such setting: remove it")
		}
	}
}

func (l *loader) alias(other, name string) {
	a, b := l.given[other], l.given[name]
	switch {
	case a == "":
	case b == "":
		l.given[name] = a
	case strings.TrimRight(a, "/") != strings.TrimRight(b, "/"):
		l.wrong(name, "it says something else than %s, which is another name of it: set one of them", other)
	}
}

// files puts the contents of NAME_FILE in the place of NAME.
func (l *loader) files() {
	for _, s := range Settings() {
		path := l.given[s.Name+"_FILE"]
		if !s.Secret || path == "" {
			continue
		}
		if l.given[s.Name] != "" {
			l.wrong(s.Name, "it and %s_FILE are both set: set one of them", s.Name)
			continue
		}
		b, err := os.ReadFile(path)
		if err != nil {
			var why *fs.PathError
			if errors.As(err, &why) {
				err = why.Err
			}
			l.wrong(s.Name+"_FILE", "the file cannot be read: %s", err)
			continue
		}
		value := strings.TrimRight(string(b), "\r\n")
		if value == "" {
			l.wrong(s.Name+"_FILE", "the file is empty")
		}
		l.given[s.Name] = value
	}
}

// parse reports a value that has the wrong form. The value itself is not repeated: it may be a secret that was put
// in the wrong place.
func (l *loader) parse(err error) {
	var p env.ParseError
	if !errors.As(err, &p) {
		l.wrong("environment", "%s", err)
		return
	}
	name := p.Name
	if f, ok := reflect.TypeFor[Config]().FieldByName(p.Name); ok {
		name = f.Tag.Get("env")
	}
	var readable *formError
	switch {
	case errors.As(p.Err, &readable):
		l.wrong(name, "%s", readable.want)
	case p.Type == reflect.TypeFor[slog.Level]():
		l.wrong(name, "it is debug, info, warn or error")
	case p.Type == reflect.TypeFor[time.Duration]():
		l.wrong(name, "it is a time such as 500ms or 5s")
	case p.Type.Kind() == reflect.Bool:
		l.wrong(name, "it is true or false")
	case p.Type.Kind() == reflect.Uint16:
		l.wrong(name, "it is a port: 0 to 65535")
	default:
		l.wrong(name, "it cannot be read")
	}
}

func (l *loader) tier(c *Config, started Tier) {
	switch {
	case started == Local && c.Tier != "" && c.Tier != Local:
		l.wrong("MOSAIC_TIER", "it is %s, and gateway dev runs the local tier: unset it, or run mosaic gateway serve", c.Tier)
	case started == Local:
		c.Tier = Local
	case c.Tier == "":
		l.wrong("MOSAIC_TIER", "it is missing: standalone, or federated")
	case c.Tier == Local:
		l.wrong("MOSAIC_TIER", "gateway serve runs standalone or federated: run mosaic gateway dev for local")
	case c.Tier != Standalone && c.Tier != Federated:
		l.wrong("MOSAIC_TIER", "it is standalone or federated")
	}
}

func (l *loader) contradictions(c *Config) {
	if s := c.AuthSecret.Reveal(); s != "" && len(s) < minSecret {
		l.wrong("BETTER_AUTH_SECRET", "it has %d bytes, and keys are derived from no less than %d: make one with openssl rand -base64 32", len(s), minSecret)
	}
	if d := c.PeerDeadline; (d < 100*time.Millisecond || d > 30*time.Second) && !l.told("MOSAIC_PEER_DEADLINE") {
		l.wrong("MOSAIC_PEER_DEADLINE", "it is 100ms to 30s: people wait for it")
	}
	if d := c.CacheTTL; (d < 0 || d > 5*time.Minute) && !l.told("MOSAIC_CACHE_TTL") {
		l.wrong("MOSAIC_CACHE_TTL", "it is 0 to 5m: rows of others must not stay here")
	}
	if (c.Embeddings.URL == "") != (c.Embeddings.Model == "") {
		l.wrong("EMBEDDINGS_URL", "it goes with EMBEDDINGS_MODEL: set both or none")
	}
	if c.Embeddings.URL != "" {
		l.url("EMBEDDINGS_URL", c.Embeddings.URL, "http", "https")
	}
	l.telemetry(c.Telemetry)
	if c.CORSOrigin != "" {
		l.origin("GATEWAY_CORS_ORIGIN", c.CORSOrigin)
	}
	for _, p := range c.TrustedProxies {
		if p.Bits() == 0 {
			l.wrong("MOSAIC_TRUSTED_PROXIES", "%s trusts everybody: name the proxies", p)
		}
	}
	if len(c.OIDArc) == 0 {
		c.OIDArc = []identity.Arc{identity.DefaultArc}
	}
	if c.Tier == Local {
		return
	}
	l.need("DATABASE_URL", c.DatabaseURL.Reveal(), "postgres://USER:PASSWORD@HOST:5432/DATABASE")
	l.need("MOSAIC_PUBLIC_URL", c.PublicURL, "the URL under which people reach the HTTP API")
	if c.PublicURL != "" {
		l.url("MOSAIC_PUBLIC_URL", c.PublicURL, "http", "https")
		c.PublicURL = strings.TrimRight(c.PublicURL, "/")
	}
	if c.Keyset.IsZero() && c.AuthSecret.IsZero() {
		l.wrong("MOSAIC_SEAL_KEYSET", "it is missing, and so is BETTER_AUTH_SECRET: one of them gives the sealing keys")
	}
	if c.Tier == Federated {
		l.federated(c)
		return
	}
	for _, s := range Settings() {
		if l.given[s.Name] != "" && slices.Equal(s.Tiers, []Tier{Federated}) && s.Default == "" {
			l.wrong(s.Name, "the standalone tier does not federate: unset it, or set MOSAIC_TIER=federated")
		}
	}
}

func (l *loader) federated(c *Config) {
	l.need("VALKEY_URL", c.ValkeyURL.Reveal(), "redis://:PASSWORD@HOST:6379/0")
	l.need("MOSAIC_FEDERATION_URL", c.FederationURL, "https://HOST:PORT, under which other gateways reach the mTLS listener")
	if c.FederationURL != "" {
		l.url("MOSAIC_FEDERATION_URL", c.FederationURL, "https")
		c.FederationURL = strings.TrimRight(c.FederationURL, "/")
	}
	l.need("STEP_CA_URL", c.StepCA.URL, "the https URL of the Step-CA")
	if c.StepCA.URL != "" {
		l.url("STEP_CA_URL", c.StepCA.URL, "https")
	}
	l.need("STEP_CA_ROOT_CERT_PATH", c.StepCA.RootCert, "the PEM file of the CA's root")
	if c.StepCA.KeyJSON.IsZero() {
		l.need("STEP_CA_PROVISIONER_PASSWORD", c.StepCA.Password.Reveal(), "the password of the provisioner's key")
	}
	if c.StepCA.ServerPassword.IsZero() {
		c.StepCA.ServerPassword = c.StepCA.Password
	}
	if (c.FederationCert == "") != (c.FederationKey == "") {
		l.wrong("MOSAIC_FEDERATION_TLS_CERT_FILE", "it goes with MOSAIC_FEDERATION_TLS_KEY_FILE: set both or none")
	}
}

// need reports a setting that is missing, and what it would be.
func (l *loader) need(name, value, what string) {
	if value != "" || l.told(name) {
		return
	}
	l.wrong(name, "it is missing: %s", what)
}

// told is whether something is reported of a setting already.
func (l *loader) told(name string) bool {
	return slices.ContainsFunc(l.problems, func(p fault.Problem) bool { return strings.TrimSuffix(p.Path, "_FILE") == name })
}

func (l *loader) url(name, value string, schemes ...string) {
	u, err := url.Parse(value)
	switch {
	case err != nil || u.Hostname() == "" || !slices.Contains(schemes, u.Scheme):
		l.wrong(name, "it is not an absolute %s URL", strings.Join(schemes, " or "))
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		l.wrong(name, "it has more than a host and a path")
	case name == "MOSAIC_FEDERATION_URL" && strings.Trim(u.Path, "/") != "":
		l.wrong(name, "it has a path: the mTLS listener has its own")
	}
}

// origin holds a value to what a browser sends as one (RFC 6454): a scheme, a host and perhaps a port.
func (l *loader) origin(name, value string) {
	u, err := url.Parse(value)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.ContainsAny(u.Host, "*") || u.Scheme+"://"+u.Host != value {
		l.wrong(name, "it is not one origin: https://HOST, without a path, a slash at its end or a *")
	}
}

// formError says what form a value should have had.
type formError struct{ want string }

func (e *formError) Error() string { return e.want }

var parsers = map[reflect.Type]env.ParserFunc{
	reflect.TypeFor[seal.Secret](): func(v string) (any, error) { return seal.NewSecret(v), nil },
	reflect.TypeFor[[]netip.Prefix](): func(v string) (any, error) {
		var list []netip.Prefix
		for part := range strings.SplitSeq(v, ",") {
			part = strings.TrimSpace(part)
			if a, err := netip.ParseAddr(part); err == nil {
				list = append(list, netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()))
				continue
			}
			p, err := netip.ParsePrefix(part)
			if err != nil {
				return nil, &formError{"it holds addresses and CIDR ranges, separated by commas"}
			}
			list = append(list, p.Masked())
		}
		return list, nil
	},
	reflect.TypeFor[[]identity.Arc](): func(v string) (any, error) {
		var arcs []identity.Arc
		for part := range strings.SplitSeq(v, ",") {
			arc, err := identity.ParseArc(strings.TrimSpace(part))
			if err != nil {
				return nil, &formError{fault.From(err).Detail}
			}
			arcs = append(arcs, arc)
		}
		return arcs, nil
	},
}

// nearest finds the known name that differs least from a misspelt one, or none when all differ much.
func nearest(name string, known []string) string {
	best, within := "", max(2, len(name)/6)
	for _, k := range known {
		if d := distance(name, k); d <= within {
			best, within = k, d-1
		}
	}
	return best
}

// distance is the number of letters to add, drop or change to turn a into b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
