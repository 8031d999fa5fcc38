package auth

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/tidelock/tidelock/registry/domain"
)

// standing is who is a superuser or a readonly superuser by the configuration.
type standing struct {
	superusers, readonly map[string]bool
	fullAccess           bool
}

func newStanding(options Options) standing {
	s := standing{superusers: map[string]bool{}, readonly: map[string]bool{}, fullAccess: options.SuperusersFullAccess}
	for _, name := range options.Superusers {
		s.superusers[name] = true
	}
	for _, name := range options.ReadonlySuperusers {
		s.readonly[name] = true
	}
	return s
}

// grants are the grants of readonly superusers at one version of identities.
type grants struct {
	version  int64
	epoch    int64
	subjects map[domain.Subject]*domain.ReadonlySuperuser
	ids      map[int64]*domain.ReadonlySuperuser
}

func indexGrants(list domain.Grants) *grants {
	g := &grants{
		version: list.Version, epoch: list.Epoch,
		subjects: make(map[domain.Subject]*domain.ReadonlySuperuser, len(list.List)), ids: make(map[int64]*domain.ReadonlySuperuser, len(list.List)),
	}
	for i := range list.List {
		grant := &list.List[i]
		g.subjects[grant.Subject], g.ids[grant.ID] = grant, grant
	}
	return g
}

// of is the grant that counts for a subject with groups, nil if none does: its own before those of groups, and of those
// the one that lets it read least.
func (g *grants) of(subject domain.Subject, groups []string, now time.Time) (found *domain.ReadonlySuperuser) {
	if own := g.subjects[subject]; own != nil && own.InForce(now) {
		return own
	}
	for _, group := range groups {
		grant := g.subjects[domain.Subject{Kind: domain.SubjectGroup, Name: group}]
		if grant != nil && grant.InForce(now) && (found == nil || grant.Access == domain.ReadonlyMetadataOnly) {
			found = grant
		}
	}
	return found
}

// grantsNow returns the grants, not older than the version of identities that is current, and not older than the one given.
func (d *directory) grantsNow(ctx context.Context, atLeast int64) (*grants, error) {
	version, err := d.current(ctx)
	if err != nil {
		return nil, err
	}
	if found := d.knownGrants(max(version, atLeast)); found != nil {
		return found, nil
	}
	d.granting.Lock()
	defer d.granting.Unlock()
	if found := d.knownGrants(max(version, atLeast)); found != nil {
		return found, nil
	}
	list, err := d.source.Grants(ctx)
	if err != nil {
		return nil, err
	}
	found := indexGrants(list)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.grants = found
	return found, nil
}

func (d *directory) knownGrants(version int64) *grants {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.grants == nil || d.grants.version < version {
		return nil
	}
	return d.grants
}

// checkGrant refuses an account, or the token that it was found by, that was made for a grant which is over.
func (a *Authenticator) checkGrant(ctx context.Context, p versioned) error {
	if p.Grant == 0 {
		return nil
	}
	all, err := a.directory.grantsNow(ctx, p.version)
	if err != nil {
		return err
	}
	if grant := all.ids[p.Grant]; grant == nil || !grant.InForce(a.now()) {
		return wrongCredentials()
	}
	return nil
}

// subject is who a grant has to be for to count for the caller; false if none can.
func (id Identity) subject() (domain.Subject, bool) {
	switch id.Kind {
	case domain.CallerUser:
		return domain.Subject{Kind: domain.SubjectRegistryUser, Name: id.Name}, id.Account != 0
	case domain.CallerServiceAccount:
		namespace, name, _ := strings.Cut(id.Name, "/")
		return domain.Subject{Kind: domain.SubjectServiceAccount, Namespace: namespace, Name: name}, true
	case domain.CallerKubernetesUser, domain.CallerOIDC:
		return domain.Subject{Kind: domain.SubjectUser, Name: id.Name}, true
	case domain.CallerAnonymous, domain.CallerRobot, domain.CallerOperator, domain.CallerSystem, domain.CallerMirror:
	}
	return domain.Subject{}, false
}

// rank says whether a caller that is known is a superuser or a readonly superuser. Who is both is a readonly superuser.
// UNAVAILABLE means that it cannot be determined.
func (a *Authenticator) rank(ctx context.Context, id Identity) (Identity, error) {
	subject, possible := id.subject()
	if !possible {
		return id, nil
	}
	if a.directory != nil {
		all, err := a.directory.grantsNow(ctx, id.version)
		if err != nil {
			return Identity{}, err
		}
		if id.Account == 0 {
			id.Epoch = all.epoch
		}
		if grant := all.of(subject, id.Groups, a.now()); grant != nil {
			id.Readonly = grant.Access
			a.uses.see(grant.UUID)
		}
	}
	if subject.Kind != domain.SubjectRegistryUser {
		return id, nil
	}
	switch {
	case id.Readonly != "":
	case a.standing.readonly[id.Name]:
		id.Readonly = domain.ReadonlyFull
	case a.standing.superusers[id.Name] && a.standing.fullAccess:
		id.Role = RoleSuperuser
	case a.standing.superusers[id.Name]:
		id.Role = RoleLimitedSuperuser
	}
	return id, nil
}

// EffectiveSuperusers are those of the superusers that are not readonly superusers too.
func EffectiveSuperusers(superusers, readonly []string) []string {
	return slices.DeleteFunc(slices.Clone(superusers), func(name string) bool { return slices.Contains(readonly, name) })
}
