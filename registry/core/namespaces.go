package core

import (
	"context"
	"errors"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
)

// organization finds an organization for a client.
func organization(r *meta.Reader, name string) (domain.Organization, error) {
	o, err := r.Organization(name)
	if errors.Is(err, meta.ErrNotFound) {
		err = domain.Errorf(domain.CodeNotFound, "organization %s does not exist", name)
	}
	return o, err
}

// repository finds a repository for a client.
func repository(r *meta.Reader, name domain.RepositoryName) (domain.Repository, error) {
	repo, err := r.Repository(name)
	if errors.Is(err, meta.ErrNotFound) {
		err = repositoryUnknown(name)
	}
	return repo, err
}

// repositoryToFill finds a repository for a client, and the mirror of its organization, nil if it has none.
func repositoryToFill(r *meta.Reader, name domain.RepositoryName) (domain.Repository, *meta.MirrorRef, error) {
	repo, mirror, err := r.RepositoryToFill(name)
	if errors.Is(err, meta.ErrNotFound) {
		err = repositoryUnknown(name)
	}
	return repo, mirror, err
}

func repositoryUnknown(name domain.RepositoryName) error {
	return domain.Errorf(domain.CodeNameUnknown, "repository %s does not exist", name)
}

// CreateOrganization makes an organization, whose admin is the user who makes it; CONFLICT if there is one of this name.
func (c *Core) CreateOrganization(ctx context.Context, caller domain.Caller, name string) (created domain.Organization, err error) {
	if err := domain.ValidateOrganization(name); err != nil {
		return created, err
	}
	err = c.write(ctx, caller, meta.Scope{Organization: name, OrganizationExclusive: true}, func(ch *change) error {
		switch _, err := ch.Organization(name); {
		case err == nil:
			return domain.Errorf(domain.CodeConflict, "organization %s exists already", name)
		case !errors.Is(err, meta.ErrNotFound):
			return err
		}
		created, err = ch.createOrganization(name, domain.Owner{})
		if err != nil || ch.caller.Kind != domain.CallerUser || ch.caller.Account == 0 {
			return err
		}
		ch.identities = true
		ch.log(audit.KindAddMember, subject{organization: name}, audit.Metadata{"username": ch.caller.Name, "role": string(domain.OrganizationAdmin)})
		return ch.Tx.SetMember(created.ID, ch.caller.Account, domain.OrganizationAdmin, ch.now)
	})
	return created, err
}

func (ch *change) createOrganization(name string, owner domain.Owner) (domain.Organization, error) {
	id, err := ch.InsertOrganization(name, owner, ch.now)
	ch.log(audit.KindOrgCreate, subject{organization: name}, ownerMetadata(owner))
	return domain.Organization{ID: id, Name: name, Owner: owner, CreatedAt: ch.now}, err
}

func ownerMetadata(owner domain.Owner) audit.Metadata {
	if owner.Namespace == "" {
		return nil
	}
	return audit.Metadata{"owner_namespace": owner.Namespace, "owner_uid": owner.UID}
}

// DeleteOrganization removes an organization with all that is in it. Locked tags, and policies and a mirror that Kubernetes
// objects manage, forbid it: CONFLICT. So does a policy that is locked: POLICY_LOCKED.
func (c *Core) DeleteOrganization(ctx context.Context, caller domain.Caller, name string) error {
	return c.write(ctx, caller, meta.Scope{Organization: name, OrganizationExclusive: true}, func(ch *change) error {
		o, err := organization(&ch.Reader, name)
		if err != nil {
			return err
		}
		set, err := inForce(&ch.Reader, o.ID, "")
		if err != nil {
			return err
		}
		lock, err := lockInside(&ch.Reader, set, o.ID, "")
		if err != nil {
			return err
		}
		if lock != nil {
			return refuseDeletion(audit.KindDeleteOrgFailed, "organization "+name, subject{organization: name}, lock)
		}
		policies, err := ch.PoliciesOfOrganization(o.ID)
		if err != nil {
			return err
		}
		for _, p := range policies {
			if p.Manager != nil && !p.Orphaned {
				return managedError(p)
			}
			if p.Locked(ch.now) {
				answer := policyLocked(p, "organization "+name+" cannot be deleted before that time")
				return refusePolicyChange(audit.KindDeleteOrgFailed, "delete", p, answer)
			}
			if err := ch.deletePolicy(p, nil); err != nil {
				return err
			}
		}
		switch m, err := ch.Mirror(name); {
		case errors.Is(err, meta.ErrNotFound):
		case err != nil:
			return err
		case m.Manager != nil && !m.Orphaned && !m.Lost:
			return managedMirrorError(m)
		default:
			if err := ch.deleteMirror(m, nil); err != nil {
				return err
			}
		}
		if err := ch.deleteRepositories(o); err != nil {
			return err
		}
		ch.log(audit.KindOrgDelete, subject{organization: name}, nil)
		// Members and robots go with the organization.
		ch.identities = true
		if err := ch.EndEpochsOfOrganization(o.ID); err != nil {
			return err
		}
		return ch.Tx.DeleteOrganization(o.ID)
	})
}

func (ch *change) deleteRepositories(o domain.Organization) error {
	for from := int64(0); ; {
		repo, err := ch.NextRepository(o.ID, from)
		if errors.Is(err, meta.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := ch.deleteRepository(repo); err != nil {
			return err
		}
		from = repo.ID + 1
	}
}

// refuseDeletion answers CONFLICT with count and sample of the locked tags.
func refuseDeletion(kind audit.Kind, what string, about subject, lock *domain.LockError) error {
	reason := domain.Immutable("delete", lock).Message
	answer := domain.Errorf(domain.CodeConflict, "%s cannot be deleted: it holds %d locked tags; %s", what, lock.Count, reason)
	answer.Lock = lock
	r := newRefusal(kind, "delete", about, lock, "", answer.Message)
	r.metadata["sample_tags"] = lock.Tags
	r.metadata["locked_tags_count"] = lock.Count
	return &refusedError{answer: answer, refusals: []refusal{r}}
}

// CreateRepository makes a repository in an organization that exists; CONFLICT if there is one of this name.
func (c *Core) CreateRepository(ctx context.Context, caller domain.Caller, name domain.RepositoryName, options NewRepository) error {
	if _, err := domain.ParseRepositoryName(name.String()); err != nil {
		return err
	}
	return c.write(ctx, caller, meta.Scope{Organization: name.Organization, OrganizationExclusive: true}, func(ch *change) error {
		o, err := organization(&ch.Reader, name.Organization)
		if err != nil {
			return err
		}
		switch _, err := ch.Repository(name); {
		case err == nil:
			return domain.Errorf(domain.CodeConflict, "repository %s exists already", name)
		case !errors.Is(err, meta.ErrNotFound):
			return err
		}
		_, err = ch.createRepository(o, name, options)
		return err
	})
}

func (ch *change) createRepository(o domain.Organization, name domain.RepositoryName, options NewRepository) (domain.Repository, error) {
	if options.Visibility == "" {
		options.Visibility = domain.Private
	}
	repo := domain.Repository{OrganizationID: o.ID, Name: name, Description: options.Description, Visibility: options.Visibility, CreatedAt: ch.now}
	var err error
	repo.ID, err = ch.InsertRepository(repo)
	if err != nil {
		return repo, err
	}
	ch.log(audit.KindCreateRepo, aboutTag(name, ""), audit.Metadata{"visibility": string(repo.Visibility)})
	return repo, ch.grantToCreator(repo)
}

// obtainRepository finds the repository of a push, or creates it as far as the caller may. Where only a mirror may push:
// DENIED.
func (ch *change) obtainRepository(name domain.RepositoryName, create Create) (domain.Repository, error) {
	repo, mirror, err := ch.RepositoryToFill(name)
	if err == nil {
		err = checkFiller(ch.caller, name.Organization, mirror)
	}
	if err == nil && create == CreateOwnRepository {
		return repo, ch.checkWriter(repo)
	}
	if !errors.Is(err, meta.ErrNotFound) {
		return repo, err
	}
	if create < CreateOwnRepository {
		return repo, repositoryUnknown(name)
	}
	o, mirror, err := ch.OrganizationToFill(name.Organization)
	if errors.Is(err, meta.ErrNotFound) {
		if create < CreateOrganization {
			return repo, domain.Errorf(domain.CodeNameUnknown, "organization %s does not exist", name.Organization)
		}
		o, err = ch.createOrganization(name.Organization, domain.Owner{})
	}
	if err == nil {
		err = checkFiller(ch.caller, name.Organization, mirror)
	}
	if err != nil {
		return repo, err
	}
	if ch.caller.Kind != domain.CallerMirror {
		return ch.createRepository(o, name, NewRepository{})
	}
	if repo, err = ch.createRepository(o, name, NewRepository{Visibility: mirror.Visibility}); err == nil {
		ch.log(audit.KindOrgMirrorRepo, aboutTag(name, ""), audit.Metadata{"visibility": string(repo.Visibility)})
	}
	return repo, err
}

// UpdateRepository changes description and visibility.
func (c *Core) UpdateRepository(ctx context.Context, caller domain.Caller, name domain.RepositoryName, to RepositoryChange) error {
	return c.write(ctx, caller, meta.Scope{Organization: name.Organization, OrganizationExclusive: true}, func(ch *change) error {
		repo, err := repository(&ch.Reader, name)
		if err != nil {
			return err
		}
		if to.Description != nil && *to.Description != repo.Description {
			repo.Description = *to.Description
			ch.log(audit.KindSetRepoDescription, aboutTag(name, ""), audit.Metadata{"description": repo.Description})
		}
		if to.Visibility != nil && *to.Visibility != repo.Visibility {
			repo.Visibility = *to.Visibility
			ch.log(audit.KindChangeRepoVisibility, aboutTag(name, ""), audit.Metadata{"visibility": string(repo.Visibility)})
		}
		return ch.Tx.UpdateRepository(repo)
	})
}

// DeleteRepository removes a repository with its tags and manifests. Locked tags forbid it: CONFLICT. Its policies stay
// in force: whoever deletes a repository and uses its name again finds the same rules.
func (c *Core) DeleteRepository(ctx context.Context, caller domain.Caller, name domain.RepositoryName) error {
	return c.write(ctx, caller, meta.Scope{Organization: name.Organization, OrganizationExclusive: true}, func(ch *change) error {
		repo, err := repository(&ch.Reader, name)
		if err != nil {
			return err
		}
		set, err := inForce(&ch.Reader, repo.OrganizationID, name.Path)
		if err != nil {
			return err
		}
		lock, err := lockInside(&ch.Reader, set, repo.OrganizationID, name.Path)
		if err != nil {
			return err
		}
		if lock != nil {
			return refuseDeletion(audit.KindDeleteRepoFailed, "repository "+name.String(), aboutTag(name, ""), lock)
		}
		return ch.deleteRepository(repo)
	})
}

// deleteRepository removes a repository that holds no locked tag, with an entry for each tag.
func (ch *change) deleteRepository(repo domain.Repository) error {
	err := ch.ScanTags(repo.OrganizationID, repo.Name.Path, meta.ByHand, func(t meta.ScannedTag) error {
		ch.log(audit.KindDeleteTag, aboutTag(repo.Name, t.Name), audit.Metadata{"manifest_digest": t.Digest.String()})
		return nil
	})
	if err != nil {
		return err
	}
	ch.log(audit.KindDeleteRepo, aboutTag(repo.Name, ""), nil)
	ended, err := ch.EndEpochsOfRepository(repo.ID)
	if err != nil {
		return err
	}
	ch.identities = ch.identities || ended > 0
	return ch.Tx.DeleteRepository(repo.ID)
}

// Organization finds an organization; NOT_FOUND if there is none.
func (c *Core) Organization(ctx context.Context, name string) (o domain.Organization, err error) {
	err = c.read(ctx, func(r *meta.Reader) error {
		o, err = organization(r, name)
		return err
	})
	return o, err
}

// Organizations lists all organizations by name.
func (c *Core) Organizations(ctx context.Context) (list []domain.Organization, err error) {
	err = c.read(ctx, func(r *meta.Reader) error {
		list, err = r.Organizations()
		return err
	})
	return list, err
}

// Repository finds a repository; NAME_UNKNOWN if there is none.
func (c *Core) Repository(ctx context.Context, name domain.RepositoryName) (repo domain.Repository, err error) {
	err = c.read(ctx, func(r *meta.Reader) error {
		repo, err = repository(r, name)
		return err
	})
	return repo, err
}

// Repositories lists those of an organization's repositories that somebody may see by path, those behind after. That
// there is no such organization is NOT_FOUND only to whom may see everything.
func (c *Core) Repositories(ctx context.Context, to domain.Audience, name, after string, limit int) (list []domain.Repository, err error) {
	err = c.read(ctx, func(r *meta.Reader) error {
		o, err := organization(r, name)
		switch {
		case domain.CodeOf(err) == domain.CodeNotFound && !to.Everything:
			return nil
		case err != nil:
			return err
		case to.Everything:
			list, err = r.Repositories(o.ID, after, limit)
		default:
			list, err = r.VisibleRepositories(o.ID, to.Account, after, limit)
		}
		return err
	})
	return list, err
}

// Catalog lists the full names of the repositories that somebody may see in lexical order, those behind after.
func (c *Core) Catalog(ctx context.Context, to domain.Audience, after string, limit int) (names []string, err error) {
	err = c.read(ctx, func(r *meta.Reader) error {
		if to.Everything {
			names, err = r.Catalog(after, limit)
		} else {
			names, err = r.VisibleCatalog(to.Account, after, limit)
		}
		return err
	})
	return names, err
}
