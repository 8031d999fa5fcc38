package mgmtapi

import (
	"context"
	"io"

	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
)

// Core is what the API needs of the one writer. Errors that clients may see are *domain.Error.
type Core interface {
	organizations
	repositories
	tags
	retention
	policies
	mirrors
	logs
	evidence
	identities
	operatorProtocol
	viewRecords
}

// viewRecords records what readonly superusers look at.
type viewRecords interface {
	// Viewed returns once it is recorded that the caller looks at something of an organization or a repository; both are
	// empty for what is of the whole registry.
	Viewed(ctx context.Context, caller domain.Caller, kind audit.Kind, organization, repository string) error
	ReadonlySuperusers(ctx context.Context) ([]core.ReadonlySuperuserStatus, error)
}

type organizations interface {
	CreateOrganization(ctx context.Context, caller domain.Caller, name string) (domain.Organization, error)
	DeleteOrganization(ctx context.Context, caller domain.Caller, name string) error
	Organization(ctx context.Context, name string) (domain.Organization, error)
	Organizations(ctx context.Context) ([]domain.Organization, error)
}

type repositories interface {
	CreateRepository(ctx context.Context, caller domain.Caller, name domain.RepositoryName, repository core.NewRepository) error
	UpdateRepository(ctx context.Context, caller domain.Caller, name domain.RepositoryName, change core.RepositoryChange) error
	DeleteRepository(ctx context.Context, caller domain.Caller, name domain.RepositoryName) error
	Repository(ctx context.Context, name domain.RepositoryName) (domain.Repository, error)
	Repositories(ctx context.Context, to domain.Audience, organization, afterPath string, limit int) ([]domain.Repository, error)
}

type tags interface {
	ListTags(ctx context.Context, name domain.RepositoryName, query core.TagQuery) ([]core.TagView, error)
	TagHistory(ctx context.Context, name domain.RepositoryName, tag string, limit int) ([]domain.PastTag, error)
	ChangeTag(ctx context.Context, caller domain.Caller, name domain.RepositoryName, tag string, to core.TagChange) error
	RestoreTag(ctx context.Context, caller domain.Caller, name domain.RepositoryName, tag string, d digest.Digest) error
	DeleteTag(ctx context.Context, caller domain.Caller, name domain.RepositoryName, tag string) error
}

type policies interface {
	CreatePolicy(ctx context.Context, caller domain.Caller, scope core.Scope, spec domain.PolicySpec) (domain.Policy, error)
	UpdatePolicy(ctx context.Context, caller domain.Caller, scope core.Scope, uuid string, spec domain.PolicySpec) (domain.Policy, error)
	DeletePolicy(ctx context.Context, caller domain.Caller, scope core.Scope, uuid string) error
	ReleasePolicy(ctx context.Context, caller domain.Caller, scope core.Scope, uuid string) (int, error)
	AdoptPolicy(ctx context.Context, caller domain.Caller, scope core.Scope, uuid string) error
	Policies(ctx context.Context, scope core.Scope) ([]domain.Policy, error)
	Policy(ctx context.Context, scope core.Scope, uuid string) (domain.Policy, error)
	PolicyManagers(ctx context.Context, uuids []string) (map[string]*domain.ManagedBy, error)
}

type mirrors interface {
	CreateMirror(ctx context.Context, caller domain.Caller, organization string, spec domain.MirrorSpec, secrets domain.MirrorSecrets) (domain.Mirror, error)
	// ChangeMirror changes a mirror by apply, which begins with what is stored: the specification, the user name, and
	// domain.Redacted for each secret, which stays so.
	ChangeMirror(ctx context.Context, caller domain.Caller, organization string, apply func(*domain.MirrorSpec, *domain.MirrorSecrets) error) (domain.Mirror, error)
	DeleteMirror(ctx context.Context, caller domain.Caller, organization string) error
	AdoptMirror(ctx context.Context, caller domain.Caller, organization string) error
	Mirror(ctx context.Context, organization string) (domain.Mirror, error)
	// MirrorSecrets are secrets with what is stored in place of domain.Redacted, for a source to which they may be sent.
	MirrorSecrets(ctx context.Context, organization string, to domain.MirrorSource, secrets domain.MirrorSecrets) (domain.MirrorSecrets, error)
	RequestMirrorSync(ctx context.Context, caller domain.Caller, organization string) error
	CancelMirrorSync(ctx context.Context, caller domain.Caller, organization string) error
	MirrorRepositories(ctx context.Context, organization string, query core.MirrorRepositoriesQuery) ([]domain.MirrorRepository, int64, error)
	// MirrorRepositoryCounts counts a mirror's repositories by state.
	MirrorRepositoryCounts(ctx context.Context, organization string) (map[domain.SyncState]int64, error)
}

type logs interface {
	Log(ctx context.Context, query audit.Query) ([]audit.View, error)
	LogPage(ctx context.Context, query audit.Query, budget audit.Budget) (audit.Page, error)
	LogCounts(ctx context.Context, query audit.Query) ([]audit.Count, error)
	History(ctx context.Context, name domain.RepositoryName, tag string, query core.HistoryQuery) (core.HistoryPage, error)
	PolicyCoverage(ctx context.Context, uuid string, query core.CoverageQuery) (core.CoveragePage, error)
	LogSize(ctx context.Context) (int64, error)
	LogOrigin(ctx context.Context) (string, error)
	// WaitLog returns nil once an entry with an index above after can be read.
	WaitLog(ctx context.Context, after int64) error
}

type evidence interface {
	SignedCheckpoint(ctx context.Context) ([]byte, error)
	AuditPublicKeys() ([]string, error)
	LogEntry(ctx context.Context, index int64) (audit.Evidence, error)
	InclusionProof(ctx context.Context, index, size int64) (audit.InclusionProof, error)
	ConsistencyProof(ctx context.Context, from, to int64) (audit.ConsistencyProof, error)
	ExportLog(ctx context.Context, from, to int64) (func(io.Writer) error, error)
}

type identities interface {
	CreateUser(ctx context.Context, caller domain.Caller, user core.NewUser) error
	UpdateUser(ctx context.Context, caller domain.Caller, name string, to core.UserChange) error
	DeleteUser(ctx context.Context, caller domain.Caller, name string) error
	User(ctx context.Context, name string) (domain.Account, error)
	Users(ctx context.Context, after string, limit int) ([]domain.Account, error)
	CreateToken(ctx context.Context, caller domain.Caller, user, title string, hash []byte) (domain.AccountToken, error)
	RevokeToken(ctx context.Context, caller domain.Caller, user, id string) error
	Tokens(ctx context.Context, user string) ([]domain.AccountToken, error)

	CreateRobot(ctx context.Context, caller domain.Caller, robot core.NewRobot, hash []byte) (domain.Account, error)
	RegenerateRobot(ctx context.Context, caller domain.Caller, organization, short string, hash []byte) (domain.Account, error)
	DeleteRobot(ctx context.Context, caller domain.Caller, organization, short string) error
	Robot(ctx context.Context, organization, short string) (domain.Account, error)
	Robots(ctx context.Context, organization string) ([]domain.Account, error)

	SetMember(ctx context.Context, caller domain.Caller, organization, name string, role domain.OrganizationRole) (domain.Member, error)
	RemoveMember(ctx context.Context, caller domain.Caller, organization, name string) error
	Member(ctx context.Context, organization, name string) (domain.Member, error)
	Members(ctx context.Context, organization string) ([]domain.Member, error)

	SetPermission(ctx context.Context, caller domain.Caller, name domain.RepositoryName, who string, role domain.RepositoryRole) (domain.Permission, error)
	RemovePermission(ctx context.Context, caller domain.Caller, name domain.RepositoryName, who string) error
	Permission(ctx context.Context, name domain.RepositoryName, who string) (domain.Permission, error)
	Permissions(ctx context.Context, name domain.RepositoryName) ([]domain.Permission, error)

	DeleteSigningKey(ctx context.Context, caller domain.Caller, id string) error
}

type retention interface {
	ErasePerson(ctx context.Context, caller domain.Caller, person string) (domain.Erasure, error)
	Erasure(ctx context.Context, id string) (domain.Erasure, error)
	LogArchive(ctx context.Context, index int64) (domain.Archive, error)
}

type operatorProtocol interface {
	PutManagedPolicy(ctx context.Context, caller domain.Caller, policy core.ManagedPolicy) (core.PolicyStatus, error)
	ManagedPolicyStatus(ctx context.Context, kind, namespace, name string) (core.PolicyStatus, error)
	DeleteManagedPolicy(ctx context.Context, caller domain.Caller, cluster string, manager domain.ManagedBy, namespaceGoes bool) error
	PutManagedMirror(ctx context.Context, caller domain.Caller, mirror core.ManagedMirror) (domain.Mirror, error)
	ManagedMirror(ctx context.Context, kind, namespace, name string) (domain.Mirror, error)
	DeleteManagedMirror(ctx context.Context, caller domain.Caller, cluster string, manager domain.ManagedBy) error
	PutManagedReadonlySuperuser(ctx context.Context, caller domain.Caller, grant core.ManagedReadonlySuperuser) (core.ReadonlySuperuserStatus, error)
	ManagedReadonlySuperuser(ctx context.Context, kind, name string) (core.ReadonlySuperuserStatus, error)
	DeleteManagedReadonlySuperuser(ctx context.Context, caller domain.Caller, cluster string, manager domain.ManagedBy) error
	// CreateGrantToken makes another token for a grant, and returns it with the name of its user.
	CreateGrantToken(ctx context.Context, caller domain.Caller, cluster string, manager domain.ManagedBy, hash []byte) (domain.AccountToken, string, error)
	NoteDeletionIntent(ctx context.Context, caller domain.Caller, manager domain.ManagedBy, user, userUID string) error
	NoteRefusedChange(ctx context.Context, caller domain.Caller, manager domain.ManagedBy, change core.RefusedChange) error
	Preview(ctx context.Context, scope core.Scope, spec domain.PolicySpec) (core.Coverage, error)
	Synced(ctx context.Context, caller domain.Caller, cluster string, present []domain.ManagedBy) error
	Published(ctx context.Context, caller domain.Caller, cluster, note string) (core.LogStatus, error)
	LogCursor(ctx context.Context, name string) (int64, error)
	MoveLogCursor(ctx context.Context, name string, from, to int64) error
}
