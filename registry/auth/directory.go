package auth

import (
	"context"
	"crypto/sha256"
	"sync"
	"time"

	"github.com/tidelock/tidelock/registry/domain"
)

// Accounts is where accounts are kept: registry/core. Its errors are *domain.Error, NOT_FOUND for an account that is not
// there or disabled.
type Accounts interface {
	// IdentityChanges counts the changes of identities of this process, without a look at the database.
	IdentityChanges() int64
	// IdentityVersion grows with each change of an identity, by whichever process.
	IdentityVersion(ctx context.Context) (int64, error)
	// These find an account with its rights, and the version of identities that they are of.
	PrincipalByName(ctx context.Context, kind domain.CallerKind, name string) (domain.Principal, int64, error)
	PrincipalByID(ctx context.Context, id int64) (domain.Principal, int64, error)
	PrincipalByToken(ctx context.Context, hash []byte) (domain.Principal, int64, error)
	Repository(ctx context.Context, name domain.RepositoryName) (domain.Repository, error)
	// Organization finds an organization; NOT_FOUND if there is none.
	Organization(ctx context.Context, name string) (domain.Organization, error)
	// SigningKeys lists keys, the newest first. AddSigningKey does nothing if there is one made after the time given, and
	// removes those that were replaced before another.
	SigningKeys(ctx context.Context) ([]domain.SigningKey, error)
	AddSigningKey(ctx context.Context, caller domain.Caller, key domain.SigningKey, unlessAfter, replacedBefore time.Time) error
	TouchTokens(ctx context.Context, used map[string]time.Time) error
	// Grants lists the grants of readonly superusers; TouchReadonlySuperusers records when their subjects were seen, by the
	// UUIDs of the grants.
	Grants(ctx context.Context) (domain.Grants, error)
	TouchReadonlySuperusers(ctx context.Context, seen map[string]time.Time) error
	// LoginFailed records wrong credentials. An empty name is not known.
	LoginFailed(ctx context.Context, name, address string) error
}

// How long what was read is good for. A revocation is noticed by reads within refreshEvery and the time of one query.
const (
	// refreshEvery is how often the version of identities is read, and how long a repository's visibility is kept.
	refreshEvery = time.Second
	// refreshTimeout bounds that read.
	refreshTimeout = 500 * time.Millisecond
	// maxUnknown is how long requests are let through by what was known, while the database does not answer.
	maxUnknown = 10 * time.Second
	// maxCached bounds what is kept of each kind.
	maxCached = 10_000
)

// directory keeps what accounts are and may do, so that most requests are authorised without the database. All of it is
// dropped when identities change.
type directory struct {
	source Accounts
	now    func() time.Time

	// refreshing lets one goroutine read the version, and the others wait for it.
	refreshing sync.Mutex

	mu      sync.Mutex
	version int64
	changes int64
	// known is when version was the newest; tried when it was last asked for.
	known, tried time.Time
	principals   map[principalKey]versioned
	repositories map[domain.RepositoryName]repositoryState
	owners       map[string]ownerState
	grants       *grants

	// granting lets one goroutine read the grants, and the others wait for it.
	granting sync.Mutex
}

// principalKey is how an account was looked for: by one of the three.
type principalKey struct {
	kind domain.CallerKind
	name string
	id   int64
	hash [sha256.Size]byte
}

type versioned struct {
	domain.Principal
	version int64
}

// repositoryState is what authorisation has to know of a repository.
type repositoryState struct {
	exists, public bool
	read           time.Time
}

// ownerState is the namespace that an organization belongs to, the zero value for none.
type ownerState struct {
	domain.Owner
	read time.Time
}

func newDirectory(source Accounts, now func() time.Time) *directory {
	return &directory{source: source, now: now, changes: -1, principals: map[principalKey]versioned{}, repositories: map[domain.RepositoryName]repositoryState{}, owners: map[string]ownerState{}}
}

// current returns the version of identities, not older than refreshEvery, or, while the database does not answer, than
// maxUnknown. After that it is UNAVAILABLE: nobody knows who may still do what.
func (d *directory) current(ctx context.Context) (int64, error) {
	if version, ok := d.fresh(); ok {
		return version, nil
	}
	d.refreshing.Lock()
	defer d.refreshing.Unlock()
	if version, ok := d.fresh(); ok {
		return version, nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), refreshTimeout)
	defer cancel()
	begin, changes := d.now(), d.source.IdentityChanges()
	version, err := d.source.IdentityVersion(ctx)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tried = begin
	if err != nil {
		if begin.Sub(d.known) >= maxUnknown || changes != d.changes {
			return 0, domain.Unavailable(err)
		}
		return d.version, nil
	}
	if version != d.version {
		clear(d.principals)
		clear(d.repositories)
	}
	d.version, d.changes, d.known = version, changes, begin
	return version, nil
}

func (d *directory) fresh() (int64, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.now()
	if d.source.IdentityChanges() != d.changes {
		return 0, false
	}
	recent := now.Sub(d.known) < refreshEvery || (now.Sub(d.tried) < refreshEvery && now.Sub(d.known) < maxUnknown)
	return d.version, recent
}

// principal finds an account. NOT_FOUND if there is none.
func (d *directory) principal(ctx context.Context, key principalKey) (versioned, error) {
	version, err := d.current(ctx)
	if err != nil {
		return versioned{}, err
	}
	d.mu.Lock()
	found, ok := d.principals[key]
	d.mu.Unlock()
	if ok && found.version == version {
		return found, nil
	}
	var p domain.Principal
	switch {
	case key.name != "":
		p, version, err = d.source.PrincipalByName(ctx, key.kind, key.name)
	case key.id != 0:
		p, version, err = d.source.PrincipalByID(ctx, key.id)
	default:
		p, version, err = d.source.PrincipalByToken(ctx, key.hash[:])
	}
	found = versioned{Principal: p, version: version}
	if err != nil {
		return found, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.principals) >= maxCached {
		clear(d.principals)
	}
	d.principals[key] = found
	return found, nil
}

// repository finds out whether a repository exists, and whether it is public.
func (d *directory) repository(ctx context.Context, name domain.RepositoryName) (repositoryState, error) {
	now := d.now()
	d.mu.Lock()
	state, ok := d.repositories[name]
	d.mu.Unlock()
	if ok && now.Sub(state.read) < refreshEvery {
		return state, nil
	}
	repository, err := d.source.Repository(ctx, name)
	if err != nil && domain.CodeOf(err) != domain.CodeNameUnknown {
		return repositoryState{}, err
	}
	state = repositoryState{exists: err == nil, public: err == nil && repository.Visibility == domain.Public, read: now}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.repositories) >= maxCached {
		clear(d.repositories)
	}
	d.repositories[name] = state
	return state, nil
}

// owner finds the namespace that an organization belongs to; none for an organization that is not there.
func (d *directory) owner(ctx context.Context, organization string) (domain.Owner, error) {
	now := d.now()
	d.mu.Lock()
	state, ok := d.owners[organization]
	d.mu.Unlock()
	if ok && now.Sub(state.read) < refreshEvery {
		return state.Owner, nil
	}
	found, err := d.source.Organization(ctx, organization)
	if err != nil && domain.CodeOf(err) != domain.CodeNotFound {
		return domain.Owner{}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.owners) >= maxCached {
		clear(d.owners)
	}
	d.owners[organization] = ownerState{Owner: found.Owner, read: now}
	return found.Owner, nil
}
