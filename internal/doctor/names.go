package doctor

import (
	"strconv"
	"strings"

	"github.com/mosaicstack/gateway/internal/fault"
)

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

// The names of the checks. They never change their meaning: alerts and runbooks hang on them. docs/doctor.md says of
// each what it means and what to do.
const (
	Settings = "config" // of one setting: config.NAME

	DirUsable      = "dir.usable"
	DirComplete    = "dir.complete"
	DiskSpace      = "disk.space"
	FileLimit      = "files.limit"
	GatewayRunning = "gateway.running"

	KeysetUsable = "keyset.usable"
	KeysetOpens  = "keyset.opens"

	DatabaseReachable   = "database.reachable"
	DatabaseVersion     = "database.version"
	DatabasePrimary     = "database.primary"
	DatabaseFsync       = "database.fsync"
	DatabasePageWrites  = "database.full_page_writes"
	DatabaseConnections = "database.connections"
	DatabaseClock       = "database.clock"
	DatabaseMigrations  = "database.migrations"
	DatabaseVector      = "database.vector"
	DatabaseRestored    = "database.restored"
	DatabaseTransfer    = "database.tier_migration"

	ValkeyReachable = "valkey.reachable"
	ValkeyAuth      = "valkey.auth"
	ValkeyVersion   = "valkey.version"
	ValkeyPrimary   = "valkey.primary"
	ValkeyRDB       = "valkey.rdb"
	ValkeyAOF       = "valkey.aof"
	ValkeyEviction  = "valkey.eviction"
	ValkeyPassword  = "valkey.password"
	ValkeyLimits    = "valkey.limits"

	RootFile          = "ca.root_file"
	RootExpiry        = "ca.root_expiry"
	CAReachable       = "ca.reachable"
	CARoot            = "ca.root"
	CAClock           = "ca.clock"
	CAProvisioner     = "ca.provisioner"
	CAKey             = "ca.provisioner_key"
	CALifetime        = "ca.lifetime"
	CARenewal         = "ca.renewal"
	ServerProvisioner = "ca.server_provisioner"
	ServerKey         = "ca.server_provisioner_key"
	TemplateEmits     = "ca.template_emits"
	TemplateRefuses   = "ca.template_refuses"
	CARevokes         = "ca.revokes"
	CACRL             = "ca.crl"
	IssuerExpiry      = "ca.intermediate_expiry"
	ServerCertificate = "ca.server_certificate"

	ListenerFiles         = "listener.files"
	FederationReachable   = "federation.reachable"
	FederationPassthrough = "federation.passthrough"
	FederationCertificate = "federation.certificate"

	PublicHTTPS     = "public.https"
	PublicReachable = "public.reachable"
	PublicGateway   = "public.gateway"
	PublicHealth    = "public.health"

	CredentialsExpiry  = "credentials.expiry"
	CredentialsRenewal = "credentials.renewal"

	AuditKey        = "audit.key"
	AuditCheckpoint = "audit.checkpoint"
	AuditBacklog    = "audit.backlog"
	AuditPartitions = "audit.partitions"

	EmbeddingsEndpoint = "embeddings.endpoint"
)

// Names lists them all, in the order of a report.
func Names() []string {
	return []string{
		Settings, DirUsable, DirComplete, DiskSpace, FileLimit, GatewayRunning, KeysetUsable, KeysetOpens,
		DatabaseReachable, DatabaseVersion, DatabasePrimary, DatabaseFsync, DatabasePageWrites, DatabaseConnections, DatabaseClock, DatabaseMigrations, DatabaseVector, DatabaseRestored, DatabaseTransfer,
		ValkeyReachable, ValkeyAuth, ValkeyVersion, ValkeyPrimary, ValkeyRDB, ValkeyAOF, ValkeyEviction, ValkeyPassword, ValkeyLimits,
		RootFile, RootExpiry, CAReachable, CARoot, CAClock, CAProvisioner, CAKey, CALifetime, CARenewal, ServerProvisioner, ServerKey,
		TemplateEmits, TemplateRefuses, CARevokes, CACRL, IssuerExpiry, ServerCertificate,
		ListenerFiles, FederationReachable, FederationPassthrough, FederationCertificate, PublicHTTPS, PublicReachable, PublicGateway, PublicHealth,
		CredentialsExpiry, CredentialsRenewal, AuditKey, AuditCheckpoint, AuditBacklog, AuditPartitions, EmbeddingsEndpoint,
	}
}

// examination is one run of all checks. What a check learns and others need is written before the first one is done,
// and read after: the order of the checks is what guards it.
type examination struct {
	Config
	keyset    keysetFacts
	server    Server
	valkey    valkeyFacts
	authority authorityFacts
	listener  listenerFacts
	public    publicFacts
	running   Running
}

// checks are those that this gateway has something for.
func (e *examination) checks() []check {
	all := e.machineChecks()
	all = append(all, e.keysetChecks()...)
	all = append(all, e.databaseChecks()...)
	all = append(all, e.valkeyChecks()...)
	all = append(all, e.authorityChecks()...)
	all = append(all, e.federationChecks()...)
	all = append(all, e.publicChecks()...)
	all = append(all, e.credentialChecks()...)
	all = append(all, e.auditChecks()...)
	return append(all, check{name: EmbeddingsEndpoint, settings: []string{"EMBEDDINGS_"}, run: e.embeddings})
}

// settings are the findings of the configuration: one, or one for each problem.
func (e *examination) settings() []Finding {
	if len(e.Problems) == 0 {
		f := fine("every setting can be used, and none contradicts another")
		f.Name = Settings
		return []Finding{f}
	}
	out := make([]Finding, 0, len(e.Problems))
	for _, p := range e.Problems {
		f := failed("%s", p.Detail).remedy("mend %s; docs/configuration.md says what it takes", p.Path)
		f.Name = settingName(p)
		out = append(out, f)
	}
	return out
}

func settingName(p fault.Problem) string { return Settings + "." + p.Path }

// setting finds a problem with one of the settings that begin so.
func (e *examination) setting(prefixes []string) (fault.Problem, bool) {
	for _, prefix := range prefixes {
		for _, p := range e.Problems {
			if strings.HasPrefix(p.Path, prefix) {
				return p, true
			}
		}
	}
	return fault.Problem{}, false
}
