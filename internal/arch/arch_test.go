// Package arch holds the direction of imports: cli and daemon, then adapters, then use cases, then the domain,
// then leaves. Each ban has its reason, which a failure prints.
package arch

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/mosaicstack/gateway/"

// layer is a package's height: imports go to lower layers only.
type layer int

const (
	leaf layer = iota + 1
	domain
	useCase
	adapter
	top
)

// packages is every package of the product and its layer. A new package must be given one.
var packages = map[string]layer{
	"internal/fault":                leaf,
	"internal/page":                 leaf,
	"internal/scope":                leaf,
	"internal/scope/strictjson":     leaf,
	"internal/identity":             leaf,
	"internal/audit":                leaf,
	"internal/seal":                 leaf,
	"internal/unixsock":             leaf,
	"internal/config":               leaf,
	"internal/span":                 leaf,
	"internal/ca":                   leaf, // the contract; who keeps it are ca/embedded and ca/stepca
	"internal/peer":                 domain,
	"internal/grant":                domain,
	"internal/account":              domain,
	"internal/resource":             domain,
	"internal/enroll":               useCase,
	"internal/serving":              useCase,
	"internal/querying":             useCase,
	"internal/upkeep":               useCase,
	"internal/doctor":               useCase,
	"internal/edge":                 useCase, // what both HTTP adapters share
	"internal/door":                 useCase, // in front of both
	"migrations":                    leaf,
	"deploy":                        top, // tests only
	"deploy/step-ca":                leaf,
	"internal/ca/token":             useCase, // what both CA adapters share
	"internal/ca/embedded":          adapter,
	"internal/ca/stepca":            adapter,
	"internal/ca/catest":            top, // tests only, and the next three
	"internal/ca/stepca/stepcatest": top,
	"internal/querying/peertest":    top,
	"internal/postgres":             adapter,
	"internal/limit":                adapter,
	"internal/cache":                adapter,
	"internal/valkey":               adapter,
	"internal/valkey/valkeytest":    top, // tests only
	"internal/jobs":                 adapter,
	"internal/embed":                adapter,
	"internal/remote":               adapter,
	"internal/portainer":            adapter,
	"internal/httpapi":              adapter,
	"internal/mcp":                  adapter,
	"internal/fedapi":               adapter,
	"internal/telemetry":            adapter,
	"internal/devstack":             adapter,
	"internal/cli":                  top,
	"internal/daemon":               top,
	"internal/arch":                 top,
	"internal/bench":                top,
	"internal/postgres/pgtest":      top,
	"cmd/mosaic":                    top,

	"internal/portainer/portainertest": top, // tests only
}

// allowed are imports between packages of one layer, or upwards, each with its reason.
var allowed = map[[2]string]string{
	{"internal/httpapi", "internal/postgres"}:         "administration is create, read, update and delete: a use case between would only repeat the store's signatures",
	{"internal/account", "internal/seal"}:             "seal is a leaf",
	{"cmd/mosaic", "internal/cli"}:                    "main wires",
	{"cmd/mosaic", "internal/daemon"}:                 "main wires",
	{"internal/postgres/pgtest", "internal/devstack"}: "tests run on the same private server",
}

// owners are the only packages that may import a library: the seam at which its errors and types stop.
var owners = []struct {
	library string
	owners  []string
	reason  string
}{
	{"github.com/jackc/pgx/v5", []string{"internal/postgres", "internal/postgres/pgtest", "internal/devstack", "internal/daemon", "internal/jobs"}, "one seam for driver errors; devstack waits for its server, daemon passes the pool's configuration on"},
	{"github.com/riverqueue/river", []string{"internal/jobs", "internal/postgres"}, "jobs have one runner; postgres brings its tables up to date"},
	{"github.com/pressly/goose", []string{"internal/postgres"}, "migrations run in one place, under one lock"},
	{"github.com/smallstep/certificates", caPackages(), "the CA can be replaced"},
	{"go.step.sm/crypto", caPackages(), "the CA can be replaced"},
	{"github.com/danielgtaylor/huma", []string{"internal/httpapi"}, "the framework stays at the edge"},
	{"github.com/caarlos0/env", []string{"internal/config"}, "settings are read in one place"},
	{"github.com/sony/gobreaker", []string{"internal/embed", "internal/remote"}, "circuits belong to the one who calls"},
	{"github.com/modelcontextprotocol/go-sdk", []string{"internal/mcp"}, "the protocol stays at the edge"},
	{"github.com/spf13/cobra", []string{"internal/cli"}, "the framework stays at the edge"},
	{"github.com/pgvector/pgvector-go", []string{"internal/postgres"}, "a vector is a column's type"},
	{"github.com/tink-crypto/tink-go", []string{"internal/seal"}, "sealed values have one format"},
	{"github.com/transparency-dev/merkle", []string{"internal/audit"}, "the tamper-evident log has one construction"},
	{"golang.org/x/mod", []string{"internal/audit"}, "checkpoints have one format"},
	{"github.com/pires/go-proxyproto", []string{"internal/door"}, "an address is taken from a proxy in one place"},
	{"github.com/prometheus/client_golang", []string{"internal/telemetry"}, "use cases are observed through their own small types; what a metric is called is decided in one place"},
	{"go.opentelemetry.io/otel", []string{"internal/span", "internal/telemetry"}, "what a span may carry is decided in one place, and where spans go in another"},
	{"github.com/throttled/throttled", []string{"internal/limit"}, "limits have one algorithm"},
	{"github.com/redis/go-redis", []string{"internal/valkey", "internal/valkey/valkeytest"}, "one seam for driver errors, and no secret of the address past it"},
	{"net/http", []string{"internal/edge", "internal/door", "internal/doctor", "internal/telemetry", "internal/httpapi", "internal/fedapi", "internal/mcp", "internal/remote", "internal/cli", "internal/daemon", "internal/ca/stepca", "internal/ca/embedded", "internal/ca/token", "internal/querying", "internal/querying/peertest", "internal/embed", "internal/portainer", "internal/portainer/portainertest"}, "rules and stores know nothing of HTTP; querying reads the status codes of peers, and doctor asks the public address as a stranger does"},
}

// caPackages may know Step-CA: the two adapters, what they share, and their tests' packages.
func caPackages() []string {
	return []string{"internal/ca/embedded", "internal/ca/stepca", "internal/ca/token", "internal/ca/catest", "internal/ca/stepca/stepcatest"}
}

type listed struct {
	ImportPath string
	Imports    []string
}

func list(t *testing.T) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", "./...")
	cmd.Dir = filepath.Join("..", "..")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []listed
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var l listed
		if err := dec.Decode(&l); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, l)
	}
}

func TestImportsPointDown(t *testing.T) {
	t.Parallel()
	for _, p := range list(t) {
		from := strings.TrimPrefix(p.ImportPath, module)
		height, ok := packages[from]
		if !ok {
			t.Errorf("%s has no layer: give it one in internal/arch", from)
			continue
		}
		for _, imp := range p.Imports {
			to, ours := strings.CutPrefix(imp, module)
			if !ours {
				continue
			}
			if height == leaf && packages[to] == leaf {
				continue // leaves may lean on each other; go vet refuses cycles
			}
			if height == domain && packages[to] == domain {
				continue
			}
			if packages[to] >= height && allowed[[2]string{from, to}] == "" {
				t.Errorf("%s imports %s, which is not below it: imports point down, so that rules do not depend on wiring", from, to)
			}
		}
	}
}

func TestLibrariesStayBehindTheirSeam(t *testing.T) {
	t.Parallel()
	for _, p := range list(t) {
		from := strings.TrimPrefix(p.ImportPath, module)
		for _, imp := range p.Imports {
			for _, o := range owners {
				if (imp == o.library || strings.HasPrefix(imp, o.library+"/")) && !slices.Contains(o.owners, from) {
					t.Errorf("%s imports %s, which is for %v only: %s", from, imp, o.owners, o.reason)
				}
			}
		}
	}
}
