package core

import (
	"context"
	"errors"

	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
)

func sharedScope(name domain.RepositoryName) meta.Scope {
	return meta.Scope{Organization: name.Organization, Repository: name.Path}
}

func exclusiveScope(name domain.RepositoryName) meta.Scope {
	return meta.Scope{Organization: name.Organization, Repository: name.Path, RepositoryExclusive: true}
}

// LinkBlob records a blob that came without an upload, and whose bytes are durable, in a repository. It reports whether
// the bytes were kept: if the digest was stored before under another key, the caller removes its own.
func (c *Core) LinkBlob(ctx context.Context, caller domain.Caller, name domain.RepositoryName, blob domain.Blob, create Create) (kept bool, err error) {
	err = c.write(ctx, caller, sharedScope(name), func(ch *change) error {
		kept, err = ch.linkBlob(name, blob, create)
		return err
	})
	return kept, err
}

func (ch *change) linkBlob(name domain.RepositoryName, blob domain.Blob, create Create) (kept bool, err error) {
	repo, err := ch.obtainRepository(name, create)
	if err != nil {
		return false, err
	}
	stored, err := ch.StoreBlob(blob, ch.now)
	if err != nil {
		return false, err
	}
	return stored.Key == blob.Key, ch.Tx.LinkBlob(repo.ID, blob.Digest, ch.now)
}

// MountBlob links a blob of another repository that the caller may read. It reports false if the blob is not there: the
// client must upload it then.
func (c *Core) MountBlob(ctx context.Context, caller domain.Caller, name, from domain.RepositoryName, d digest.Digest, create Create) (mounted bool, err error) {
	err = c.write(ctx, caller, sharedScope(name), func(ch *change) error {
		mounted = false
		source, err := ch.Repository(from)
		if err == nil {
			_, err = ch.Blob(source.ID, d)
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
		return ch.Tx.LinkBlob(repo.ID, d, ch.now)
	})
	return mounted, err
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
		ids, err := ch.ManifestsOfBlob(repo.ID, d, 100)
		if err != nil {
			return err
		}
		for _, id := range ids {
			m, err := ch.ManifestByID(id)
			if err != nil {
				return err
			}
			lock, err := lockAbove(&ch.Reader, set, repo, m)
			if err != nil {
				return err
			}
			if lock != nil {
				return refuse(audit.KindDeleteTagFailed, "delete a blob of", name, lock, "")
			}
		}
		if len(ids) > 0 {
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

// Referrers lists the manifests whose subject is the digest, ordered by digest, those behind after, without content.
func (c *Core) Referrers(ctx context.Context, name domain.RepositoryName, of digest.Digest, artifactType string, after digest.Digest, limit int) (list []domain.Manifest, err error) {
	err = c.read(ctx, func(r *meta.Reader) error {
		repo, err := repository(r, name)
		if err != nil {
			return err
		}
		list, err = r.Referrers(repo.ID, of, artifactType, after, limit)
		return err
	})
	return list, err
}

// PutManifest stores a manifest and, if the reference is a tag, points the tag to it. What the manifest refers to must
// be in the repository: MANIFEST_BLOB_UNKNOWN. A locked tag that points elsewhere: TAG_IMMUTABLE. Pushing what is
// there already changes nothing.
func (c *Core) PutManifest(ctx context.Context, caller domain.Caller, name domain.RepositoryName, push Push) (PushResult, error) {
	m := push.Manifest
	err := c.write(ctx, caller, sharedScope(name), func(ch *change) error {
		repo, err := ch.obtainRepository(name, push.Create)
		if err != nil {
			return err
		}
		var tag *domain.Tag
		if push.Reference.Tag != "" {
			if tag, err = ch.findTag(repo, push.Reference.Tag); err != nil {
				return err
			}
			if tag != nil && tag.Digest == m.Digest {
				return nil
			}
		}
		plan, err := ch.planTag(repo, tag, push.Reference.Tag, m.Digest, "overwrite")
		if err != nil {
			return err
		}
		stored, created, err := ch.storeManifest(repo, m)
		if err != nil {
			return err
		}
		if push.Reference.Tag != "" {
			return ch.setTag(plan, stored, audit.KindCreateTag, audit.KindMoveTag)
		}
		if created {
			ch.log(audit.KindPushRepo, aboutTag(name, ""), audit.Metadata{"manifest_digest": m.Digest.String(), "media_type": m.MediaType})
		}
		return nil
	})
	return PushResult{Digest: m.Digest, Subject: m.Subject}, err
}

// storeManifest stores a manifest unless it is there.
func (ch *change) storeManifest(repo domain.Repository, m domain.Manifest) (stored domain.Manifest, created bool, err error) {
	stored, err = ch.Manifest(repo.ID, m.Digest)
	if err == nil || !errors.Is(err, meta.ErrNotFound) {
		return stored, false, err
	}
	missing, err := ch.MissingBlobs(repo.ID, m.Blobs)
	if err != nil {
		return m, false, err
	}
	if len(missing) > 0 {
		return m, false, missingError("blob", repo.Name, missing)
	}
	if missing, err = ch.MissingManifests(repo.ID, m.Children); err != nil {
		return m, false, err
	}
	if len(missing) > 0 {
		return m, false, missingError("manifest", repo.Name, missing)
	}
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
