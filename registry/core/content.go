package core

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
	"github.com/tidelock/tidelock/registry/policy"
)

func sharedScope(name domain.RepositoryName) meta.Scope {
	return meta.Scope{Organization: name.Organization, Repository: name.Path}
}

// tagScope is for changing tags. What a signature tag loses hangs on the locks of other tags, and none of them may come to
// be between the decision and its commit: so such a change has the repository to itself.
func tagScope(name domain.RepositoryName, tags ...string) meta.Scope {
	scope := sharedScope(name)
	scope.RepositoryExclusive = slices.ContainsFunc(tags, func(tag string) bool {
		_, ok := policy.ParseSignatureTag(tag)
		return ok
	})
	return scope
}

// exclusiveScope is for removing content. How much hangs on it is not known before, so nobody shares the transaction.
func exclusiveScope(name domain.RepositoryName) meta.Scope {
	return meta.Scope{Organization: name.Organization, Repository: name.Path, RepositoryExclusive: true, Background: true}
}

// LinkBlob records a blob that came without an upload, and whose bytes are durable, in a repository. It reports whether
// the bytes were kept: if the digest was stored before under another key, the caller removes its own.
func (c *Core) LinkBlob(ctx context.Context, caller domain.Caller, name domain.RepositoryName, blob domain.Blob, create Create) (kept bool, err error) {
	if err := c.room(); err != nil {
		return false, err
	}
	err = c.write(ctx, caller, sharedScope(name), func(ch *change) error {
		kept, err = c.linkBlob(ch, name, blob, create)
		return err
	})
	return kept, err
}

func (c *Core) linkBlob(ch *change, name domain.RepositoryName, blob domain.Blob, create Create) (kept bool, err error) {
	repo, err := ch.obtainRepository(name, create)
	if err != nil {
		return false, err
	}
	stored, err := ch.StoreBlob(blob, ch.now, c.stale(ch.now))
	if err != nil {
		return false, err
	}
	return stored.Key == blob.Key, ch.Tx.LinkBlob(repo.ID, blob.Digest, ch.now, c.stale(ch.now))
}

// MountBlob links a blob of another repository that the caller may read. It reports false if the blob is not there: the
// client must upload it then. A mirror gets blobs of its organization and of public repositories only.
func (c *Core) MountBlob(ctx context.Context, caller domain.Caller, name, from domain.RepositoryName, d digest.Digest, create Create) (mounted bool, err error) {
	if err := c.room(); err != nil {
		return false, err
	}
	err = c.write(ctx, caller, sharedScope(name), func(ch *change) error {
		mounted = false
		source, err := ch.Repository(from)
		if err == nil && caller.Kind == domain.CallerMirror && source.Visibility != domain.Public && from.Organization != name.Organization {
			return nil // an upstream that names a digest gets nothing by it
		}
		if err == nil {
			_, err = ch.Blob(source.ID, d)
		}
		if err == nil {
			_, err = ch.UseBlob(d, ch.now, c.stale(ch.now))
		}
		if errors.Is(err, meta.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		repo, err := ch.obtainRepository(name, create)
		if err != nil {
			return err
		}
		mounted = true
		return ch.Tx.LinkBlob(repo.ID, d, ch.now, c.stale(ch.now))
	})
	return mounted, err
}

// maxMountSources bounds the repositories that MountAnyBlob asks about.
const maxMountSources = 100

// MountAnyBlob is MountBlob for a client that does not say where the blob is: it links it from a repository from which
// the caller may pull, as mayPull says. Of the repositories that hold the blob it looks at the first 100 only; who is
// told false uploads the blob, which is no more than a detour.
func (c *Core) MountAnyBlob(ctx context.Context, caller domain.Caller, name domain.RepositoryName, d digest.Digest, mayPull func(domain.Repository) (bool, error), create Create) (bool, error) {
	var sources []domain.Repository
	err := c.read(ctx, func(r *meta.Reader) (err error) {
		sources, err = r.RepositoriesOfBlob(d, maxMountSources)
		return err
	})
	if err != nil {
		return false, err
	}
	for _, source := range sources {
		allowed, err := mayPull(source)
		if err != nil {
			return false, forClient(err)
		}
		if !allowed {
			continue
		}
		// What the first look found may be gone by now.
		if mounted, err := c.MountBlob(ctx, caller, name, source.Name, d, create); mounted || err != nil {
			return mounted, err
		}
	}
	return false, nil
}

// Blob finds a blob of a repository: NAME_UNKNOWN or BLOB_UNKNOWN if it is not there.
func (c *Core) Blob(ctx context.Context, name domain.RepositoryName, d digest.Digest) (blob domain.Blob, err error) {
	err = c.read(ctx, func(r *meta.Reader) error {
		repo, err := repository(r, name)
		if err != nil {
			return err
		}
		blob, err = findBlob(r, repo, d)
		return err
	})
	return blob, err
}

func findBlob(r *meta.Reader, repo domain.Repository, d digest.Digest) (domain.Blob, error) {
	blob, err := r.Blob(repo.ID, d)
	if errors.Is(err, meta.ErrNotFound) {
		err = domain.Errorf(domain.CodeBlobUnknown, "blob %s is not in repository %s", d, repo.Name)
	}
	return blob, err
}

// DeleteBlob removes a repository's link to a blob. While a manifest refers to it, it is refused: TAG_IMMUTABLE if a
// locked tag leads there, else UNSUPPORTED.
func (c *Core) DeleteBlob(ctx context.Context, caller domain.Caller, name domain.RepositoryName, d digest.Digest) error {
	return c.write(ctx, caller, exclusiveScope(name), func(ch *change) error {
		repo, err := repository(&ch.Reader, name)
		if err != nil {
			return err
		}
		if _, err := findBlob(&ch.Reader, repo, d); err != nil {
			return err
		}
		set, err := inForce(&ch.Reader, repo.OrganizationID, name.Path)
		if err != nil {
			return err
		}
		// The first hundred manifests only choose between two refusals.
		users, err := ch.NodesOfBlob(repo.ID, d, 100)
		if err != nil {
			return err
		}
		lock, err := ch.lockAbove(set, repo, users...)
		if err != nil {
			return err
		}
		if lock != nil {
			return refuse(audit.KindDeleteTagFailed, "delete a blob of", name, lock, "")
		}
		if len(users) > 0 {
			return domain.Errorf(domain.CodeUnsupported, "blob %s belongs to a manifest of repository %s; delete the manifest first", d, name)
		}
		ch.log(audit.KindDeleteBlob, aboutTag(name, ""), audit.Metadata{"blob_digest": d.String()})
		return ch.UnlinkBlob(repo.ID, d)
	})
}

// Manifest finds a manifest by tag or digest: NAME_UNKNOWN or MANIFEST_UNKNOWN if it is not there.
func (c *Core) Manifest(ctx context.Context, name domain.RepositoryName, ref domain.Reference, withContent bool) (m domain.Manifest, err error) {
	err = c.read(ctx, func(r *meta.Reader) error {
		repo, err := repository(r, name)
		if err != nil {
			return err
		}
		if m, err = findManifest(r, repo, ref); err != nil || !withContent {
			return err
		}
		m.Content, err = r.ManifestContent(m.ID)
		return err
	})
	return m, err
}

func findManifest(r *meta.Reader, repo domain.Repository, ref domain.Reference) (m domain.Manifest, err error) {
	if ref.Tag != "" {
		var tag domain.Tag
		if tag, err = r.Tag(repo.ID, ref.Tag); err == nil {
			m, err = r.ManifestByID(tag.ManifestID)
		}
	} else {
		m, err = r.Manifest(repo.ID, ref.Digest)
	}
	if errors.Is(err, meta.ErrNotFound) {
		err = domain.Errorf(domain.CodeManifestUnknown, "manifest %s is not in repository %s", ref, repo.Name)
	}
	return m, err
}

// IsSparse reports whether a manifest was stored before all that it refers to.
func (c *Core) IsSparse(ctx context.Context, m domain.Manifest) (is bool, err error) {
	err = c.read(ctx, func(r *meta.Reader) error {
		is, err = r.IsSparse(m.ID)
		return err
	})
	return is, err
}

// Referrers lists the manifests whose subject is the digest, ordered by digest, those behind after, without content. It
// ends after limit manifests, or before their descriptions exceed size bytes, with one at least; more tells that there
// are others behind.
func (c *Core) Referrers(ctx context.Context, name domain.RepositoryName, q ReferrersQuery) (list []domain.Manifest, more bool, err error) {
	err = c.read(ctx, func(r *meta.Reader) error {
		repo, err := repository(r, name)
		if err != nil {
			return err
		}
		list, more, err = r.Referrers(repo.ID, q.Subject, q.ArtifactType, q.After, q.Limit, q.Size)
		return err
	})
	return list, more, err
}

// longManifest is how many blobs and children a manifest may have whose push shares a transaction with others: a
// thousand take about ten milliseconds.
const longManifest = 1000

// PutManifest stores a manifest and points the push's tags to it. What the manifest refers to must be in the
// repository, as far as the options say: MANIFEST_BLOB_UNKNOWN. Locked tags that point elsewhere: TAG_IMMUTABLE, and
// nothing of the push is stored. A precondition that is not met: PRECONDITION_FAILED. Pushing what is there already
// changes nothing.
func (c *Core) PutManifest(ctx context.Context, caller domain.Caller, name domain.RepositoryName, push Push) (PushResult, error) {
	result := PushResult{Digest: push.Manifest.Digest, Subject: push.Manifest.Subject}
	if err := c.room(); err != nil {
		return result, err
	}
	scope := tagScope(name, push.tags()...)
	scope.Background = len(push.Manifest.Children)+len(push.Manifest.Blobs) > longManifest
	err := c.write(ctx, caller, scope, func(ch *change) error {
		repo, err := ch.obtainRepository(name, push.Create)
		if err != nil {
			return err
		}
		result.Digest = push.Manifest.Digest
		if err := ch.checkPrecondition(repo, push); err != nil {
			return err
		}
		if push.Reference.Tag != "" {
			same, err := ch.hasContent(repo, push.Reference.Tag, push.Manifest)
			if err != nil {
				return err
			}
			if same != "" {
				result.Digest = same
				return nil
			}
		}
		plans, err := ch.planTags(repo, push.tags(), push.Manifest)
		if err != nil {
			return err
		}
		sparse := c.options.Sparse
		sparse.Indexes = sparse.Indexes || push.Partial
		stored, created, err := ch.storeManifest(repo, push.Manifest, sparse)
		if err != nil {
			return err
		}
		if created && push.Reference.Digest != "" {
			ch.log(audit.KindPushRepo, aboutTag(name, ""), audit.Metadata{"manifest_digest": stored.Digest.String(), "media_type": stored.MediaType})
		}
		if !created && len(plans) == 0 {
			if err := ch.NoteManifest(repo.ID, stored.Digest, ch.now, c.stale(ch.now)); err != nil {
				return err
			}
		}
		for _, plan := range plans {
			if err := ch.setTag(plan, stored, audit.KindCreateTag, audit.KindMoveTag); err != nil {
				return err
			}
		}
		return nil
	})
	return result, err
}

func (ch *change) checkPrecondition(repo domain.Repository, push Push) error {
	if push.Precondition == nil {
		return nil
	}
	standing, err := findManifest(&ch.Reader, repo, push.Reference)
	if err != nil && domain.CodeOf(err) != domain.CodeManifestUnknown {
		return err
	}
	if !push.Precondition(standing.Digest) {
		return domain.Errorf(domain.CodePreconditionFailed, "%s is not what the request's conditions ask for: %s stands", push.Reference, cmp.Or(standing.Digest.String(), "nothing"))
	}
	return nil
}

// hasContent returns the digest of a tag that points to these very bytes, whatever the algorithm, or empty. A push by tag
// names no algorithm, so that one of bytes that were pushed as sha512 repeats that push.
func (ch *change) hasContent(repo domain.Repository, tag string, m domain.Manifest) (digest.Digest, error) {
	found, err := ch.findTag(repo, tag)
	if err != nil || found == nil {
		return "", err
	}
	same := m.Digest
	if algorithm := found.Digest.Algorithm(); algorithm != m.Digest.Algorithm() {
		same = algorithm.FromBytes(m.Content)
	}
	if found.Digest != same {
		return "", nil
	}
	return same, nil
}

// planTags decides whether tags, in order, may come to point to a manifest. Those that do already need no plan. All that
// are locked are refused together.
func (ch *change) planTags(repo domain.Repository, names []string, to domain.Manifest) (plans []tagPlan, err error) {
	const operation = "overwrite"
	var refused *refusedError
	for _, name := range names {
		tag, err := ch.findTag(repo, name)
		if err != nil {
			return nil, err
		}
		if tag != nil && tag.Digest == to.Digest {
			continue
		}
		plan, err := ch.planTag(repo, tag, name, to, operation)
		var one *refusedError
		switch {
		case errors.As(err, &one):
			refused = refused.with(operation, one)
		case err != nil:
			return nil, err
		default:
			plans = append(plans, plan)
		}
	}
	if refused != nil {
		return nil, refused
	}
	return plans, nil
}

// with joins the refusal of one more tag to the refusals of the same operation on others.
func (e *refusedError) with(operation string, one *refusedError) *refusedError {
	if e == nil || e.answer.Lock == nil || one.answer.Lock == nil {
		return one
	}
	lock, more := *e.answer.Lock, one.answer.Lock
	lock.Tags = slices.Concat(lock.Tags, more.Tags)
	lock.Policies = slices.Concat(lock.Policies, more.Policies)
	lock.Count += more.Count
	return &refusedError{answer: domain.Immutable(operation, &lock), refusals: slices.Concat(e.refusals, one.refusals)}
}

// storeManifest stores a manifest unless it is there.
func (ch *change) storeManifest(repo domain.Repository, m domain.Manifest, sparse Sparse) (stored domain.Manifest, created bool, err error) {
	stored, err = ch.Manifest(repo.ID, m.Digest)
	if err == nil || !errors.Is(err, meta.ErrNotFound) {
		return stored, false, err
	}
	allowed := sparse.Images
	if m.Index {
		allowed = sparse.Indexes
	}
	missing, err := ch.MissingBlobs(repo.ID, m.Blobs)
	if err != nil {
		return m, false, err
	}
	if len(missing) > 0 && !allowed {
		return m, false, missingError("blob", repo.Name, missing)
	}
	m.Sparse = len(missing) > 0
	if missing, err = ch.MissingManifests(repo.ID, m.Children); err != nil {
		return m, false, err
	}
	if len(missing) > 0 && !allowed {
		return m, false, missingError("manifest", repo.Name, missing)
	}
	m.Sparse = m.Sparse || len(missing) > 0
	m.CreatedAt = ch.now
	m.ID, err = ch.InsertManifest(repo.ID, m)
	return m, true, err
}

func missingError(what string, name domain.RepositoryName, missing []digest.Digest) error {
	if len(missing) == 1 {
		return domain.Errorf(domain.CodeManifestBlobUnknown, "%s %s is not in repository %s; push it first", what, missing[0], name)
	}
	return domain.Errorf(domain.CodeManifestBlobUnknown, "%s %s and %d more are not in repository %s; push them first", what, missing[0], len(missing)-1, name)
}
