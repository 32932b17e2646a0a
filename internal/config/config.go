// Package config is every setting of a gateway: one documented struct, read once from the environment.
//
// A secret is also read from the file that NAME_FILE names. Everything that is wrong is reported together, each
// problem under the name of its variable. A name that begins with MOSAIC_ and is none of ours stops the start: a
// setting that was misspelt is a setting that is not in force.
package config

import (
	"log/slog"
	"net/netip"
	"time"

	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/identity"
	"github.com/mosaicstack/gateway/internal/seal"
)

// ErrInvalid lists every setting that is missing, malformed, unknown or contradicts another.
var ErrInvalid = &fault.Fault{
	Kind: fault.Invalid, Code: "config_invalid", Detail: "the settings of the gateway cannot be used",
	Hint: "mend what is listed and start again; docs/configuration.md describes each setting",
}

// Tier says what a gateway stands on.
type Tier string

// The tiers. A local gateway starts its parts itself, the others are given theirs.
const (
	Local      Tier = "local"
	Standalone Tier = "standalone"
	Federated  Tier = "federated"
)

// Config is what the environment says. Its env tags are the names; doc is what docs/configuration.md says of each;
// tiers names those in which a setting is read, all when it is absent.
type Config struct {
	Tier Tier `env:"MOSAIC_TIER" doc:"what the gateway stands on: standalone or federated; gateway dev is local"`

	Name           string         `env:"MOSAIC_NAME" envDefault:"mosaic" tiers:"standalone,federated" doc:"what the gateway calls itself; 1 to 63 of a-z, 0-9 and -"`
	Port           uint16         `env:"GATEWAY_PORT" envDefault:"3000" tiers:"standalone,federated" doc:"port of the HTTP API, on every address; 0 picks a free one"`
	PublicURL      string         `env:"MOSAIC_PUBLIC_URL" tiers:"standalone,federated" doc:"where people reach the HTTP API; enrollment URLs begin with it. BETTER_AUTH_URL is another name of it"`
	CORSOrigin     string         `env:"GATEWAY_CORS_ORIGIN" tiers:"standalone,federated" doc:"the one origin whose pages may call the HTTP API; none without it"`
	TrustedProxies []netip.Prefix `env:"MOSAIC_TRUSTED_PROXIES" tiers:"standalone,federated" doc:"addresses or CIDR ranges of the proxies in front, separated by commas: X-Forwarded-For and the PROXY protocol count only from them"`
	Dir            string         `env:"MOSAIC_DIR" tiers:"standalone,federated" doc:"directory of the admin socket; /run/mosaic for serve, .mosaic for dev and for commands"`
	MetricsListen  string         `env:"MOSAIC_METRICS_LISTEN" doc:"HOST:PORT of the listener for Prometheus, which is for the inside only; off is none. Without it gateway dev has none, and gateway serve 127.0.0.1:9464 if that is free"`
	LogLevel       slog.Level     `env:"MOSAIC_LOG_LEVEL" envDefault:"info" doc:"one of debug, info, warn and error"`
	OIDArc         []identity.Arc `env:"MOSAIC_OID_ARC" doc:"the arc of the two certificate extensions; after a comma, old arcs that are still accepted"`

	DatabaseURL  seal.Secret   `env:"DATABASE_URL" tiers:"standalone,federated" doc:"the PostgreSQL primary, 15 or newer with pgvector"`
	AutoMigrate  bool          `env:"MOSAIC_AUTO_MIGRATE" envDefault:"false" tiers:"standalone,federated" doc:"with true, a replica brings the schema up to date before it serves"`
	Keyset       seal.Secret   `env:"MOSAIC_SEAL_KEYSET" doc:"the sealing keys: a Tink keyset in JSON, as gateway dev keeps one in seal-keyset.json"`
	AuthSecret   seal.Secret   `env:"BETTER_AUTH_SECRET" doc:"derives the sealing key when there is no keyset; 32 bytes or more"`
	PeerDeadline time.Duration `env:"MOSAIC_PEER_DEADLINE" envDefault:"5s" doc:"what one peer gets to answer one query: 100ms to 30s"`
	CacheTTL     time.Duration `env:"MOSAIC_CACHE_TTL" envDefault:"30s" doc:"how long a peer's answer is kept, sealed, to be shown while the peer is away: up to 5m, and never longer than the peer's grant allows; 0 keeps nothing"`
	AuditMonths  uint16        `env:"MOSAIC_AUDIT_RETENTION_MONTHS" envDefault:"0" doc:"whole months of audit rows that are kept beside the present one; older ones are dropped, and 0 keeps all"`

	ValkeyURL      seal.Secret `env:"VALKEY_URL" tiers:"federated" doc:"limits and cache that all replicas share: redis://[user:password@]host:port/db, rediss:// or unix://"`
	FederationPort uint16      `env:"MOSAIC_FEDERATION_PORT" envDefault:"3443" tiers:"federated" doc:"port of the mTLS listener, on every address; 0 picks a free one"`
	FederationURL  string      `env:"MOSAIC_FEDERATION_URL" tiers:"federated" doc:"where other gateways reach the mTLS listener: https://HOST:PORT"`
	FederationCert string      `env:"MOSAIC_FEDERATION_TLS_CERT_FILE" tiers:"federated" doc:"certificate chain of the mTLS listener; without it the CA signs one, which renews itself"`
	FederationKey  string      `env:"MOSAIC_FEDERATION_TLS_KEY_FILE" tiers:"federated" doc:"private key of that certificate"`

	StepCA     StepCA     `envPrefix:"STEP_CA_" tiers:"federated"`
	Embeddings Embeddings `envPrefix:"EMBEDDINGS_"`
	Telemetry  Telemetry  `envPrefix:"OTEL_"`
}

// StepCA says where the certificate authority is, and how it is asked.
type StepCA struct {
	URL               string      `env:"URL" doc:"the Step-CA, https, with the path it is served under"`
	RootCert          string      `env:"ROOT_CERT_PATH" doc:"PEM file of its root, or of both while it is rolled over: what is trusted, and what a CA trusted by it names"`
	Provisioner       string      `env:"PROVISIONER" envDefault:"mosaic-fed" doc:"the JWK provisioner that signs federation certificates"`
	Password          seal.Secret `env:"PROVISIONER_PASSWORD" doc:"opens its key"`
	KeyJSON           seal.Secret `env:"PROVISIONER_KEY_JSON" doc:"its private JWK, or the JWE of it; fetched from the CA without it"`
	ServerProvisioner string      `env:"SERVER_PROVISIONER" envDefault:"mosaic-gateway" doc:"the JWK provisioner that signs the listener's own certificate"`
	ServerPassword    seal.Secret `env:"SERVER_PROVISIONER_PASSWORD" doc:"opens its key; the other provisioner's password without it"`
}

// Embeddings says who turns text into vectors.
type Embeddings struct {
	URL    string      `env:"URL" doc:"an OpenAI-compatible endpoint; without one a built-in hash stands in, which knows no meaning"`
	Model  string      `env:"MODEL" doc:"the model to ask for"`
	APIKey seal.Secret `env:"API_KEY" doc:"sent as a bearer token"`
}

// Telemetry says where spans go.
type Telemetry struct {
	ServiceName string `env:"SERVICE_NAME" envDefault:"mosaic-gateway" doc:"the name that spans and metrics carry"`
	Endpoint    string `env:"EXPORTER_OTLP_ENDPOINT" doc:"the OTLP collector that spans go to, http or https; nothing is exported without it"`
	Protocol    string `env:"EXPORTER_OTLP_PROTOCOL" envDefault:"http/protobuf" doc:"how it is spoken to: http/protobuf, at ENDPOINT/v1/traces, or grpc"`

	Headers    seal.Secret `env:"EXPORTER_OTLP_HEADERS" doc:"sent with every export: name=value, and more after commas; values are percent-encoded"`
	Sampler    string      `env:"TRACES_SAMPLER" envDefault:"always_on" doc:"which traces are recorded: always_on, always_off or traceidratio; what a client says of its own recording is not heard, so the parentbased_ forms are the same"`
	SamplerArg string      `env:"TRACES_SAMPLER_ARG" doc:"the share of them with traceidratio: 0 to 1"`
}

// elsewhere are MOSAIC_ names that other parts read: the command line, compose, and this repository's own tests.
var elsewhere = []string{"MOSAIC_URL", "MOSAIC_TOKEN", "MOSAIC_TOKEN_FILE", "MOSAIC_TORTURE"}

// elsewhereShape are the same by how they begin or end.
var elsewhereShape = struct{ prefix, suffix string }{"MOSAIC_TEST_", "_HOST_PORT"}
