package mirror

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/manifest"
	"github.com/tidelock/tidelock/registry/policy"
)

// repository is the copy of one repository in one sync.
type repository struct {
	*run
	// path is the name below the upstream's namespace, name the repository here.
	path   string
	name   domain.RepositoryName
	logger *slog.Logger

	// standing are the tags that are here, by name.
	standing map[string]core.TagView
	// signatures are the upstream's signature tags, by the beginning of their subject's digest.
	signatures map[string][]tag

	mu sync.Mutex
	// known are blobs that are in the repository.
	known map[digest.Digest]bool
	// done are the signature tags that were dealt with.
	done      map[string]bool
	progress  domain.MirrorProgress
	failures  []domain.MirrorFailure
	conflicts []domain.MirrorConflict
}

func (r *repository) isKnown(d digest.Digest) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.known[d]
}

func (r *repository) know(d digest.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.known[d] = true
}

// count changes the progress of the repository, and of the sync.
func (r *repository) count(change func(*domain.MirrorProgress)) {
	r.mu.Lock()
	change(&r.progress)
	r.mu.Unlock()
	r.run.count(change)
}

func (r *repository) saved(bytes int64) {
	r.count(func(p *domain.MirrorProgress) { p.BytesSaved += bytes })
	r.engine.metrics.saved.Add(float64(bytes))
}

// slow counts bytes that were fetched, and waits as the bandwidth limit says.
func (r *repository) slow(ctx context.Context, n int) error {
	r.count(func(p *domain.MirrorProgress) { p.BytesCopied += int64(n) })
	r.engine.metrics.copied.Add(float64(n))
	if r.bandwidth == nil {
		return nil
	}
	for n > 0 {
		part := min(n, r.bandwidth.Burst())
		if err := r.bandwidth.WaitN(ctx, part); err != nil {
			return cmp.Or(context.Cause(ctx), context.DeadlineExceeded) // it would be
		}
		n -= part
	}
	return nil
}

// fail notes that a tag, or with an empty one the repository, could not be copied.
func (r *repository) fail(tag string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.failures) < domain.MaxMirrorFailures {
		r.failures = append(r.failures, domain.MirrorFailure{Repository: r.path, Tag: tag, Reason: reason(err)})
	}
	r.logger.Warn("a mirror could not copy", "tag", tag, "reason", reason(err))
}

// sync copies the repository. Its error is one that ends the whole sync; everything else is in the result.
func (r *repository) sync(ctx context.Context) (result domain.MirrorRepository, err error) {
	result = domain.MirrorRepository{Name: r.path, State: domain.SyncSucceeded}
	err = r.syncTags(ctx)
	if ctx.Err() != nil {
		return result, ctx.Err()
	}
	switch {
	case isKind(err, kindMissing):
		result.State, result.Message = domain.SyncSkipped, "the upstream does not have it any more"
	case err != nil:
		r.fail("", err)
		result.State, result.Message = domain.SyncFailed, reason(err)
	case r.progress.Tags.Failed > 0:
		result.State = domain.SyncFailed
		result.Message = fmt.Sprintf("%d of %d tags could not be copied, first %s: %s", r.progress.Tags.Failed, r.progress.Tags.Discovered, r.failures[0].Tag, r.failures[0].Reason)
	case r.progress.Tags.Conflicts > 0:
		result.Message = fmt.Sprintf("%d locked tags differ from the upstream's, first %s", r.progress.Tags.Conflicts, r.conflicts[0].Tag)
		if r.claim.Mirror.OnConflict == domain.ConflictFail {
			result.State = domain.SyncFailed
		}
	}
	result.MirrorProgress = r.progress
	if errors.Is(err, core.ErrSyncOver) {
		return result, err
	}
	return result, nil
}

func (r *repository) syncTags(ctx context.Context) error {
	if _, err := domain.ParseRepositoryName(r.name.String()); err != nil {
		return err
	}
	listed, err := r.up.tags(ctx, r.path)
	r.reached(err)
	if err != nil {
		return err
	}
	if err := r.readStanding(ctx); err != nil {
		return err
	}
	selected := r.choose(listed)
	r.count(func(p *domain.MirrorProgress) { p.Tags.Discovered += int64(len(selected)) })
	group, working := errgroup.WithContext(ctx)
	for _, t := range selected {
		if !take(working, r.tagSlots) {
			break
		}
		group.Go(func() error {
			defer func() { <-r.tagSlots }()
			return r.syncTag(working, t)
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if err := r.syncSignatures(ctx); err != nil {
		return err
	}
	if r.claim.Mirror.Prune == domain.PruneVanished {
		return r.prune(ctx, listed)
	}
	return nil
}

// take waits for a slot, unless the context ends.
func take(ctx context.Context, slots chan struct{}) bool {
	select {
	case slots <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// standingPage is how many tags are read at once.
const standingPage = 1000

func (r *repository) readStanding(ctx context.Context) error {
	r.standing = map[string]core.TagView{}
	for after := ""; ; {
		page, err := r.core.ListTags(ctx, r.name, core.TagQuery{After: after, Limit: standingPage})
		if domain.CodeOf(err) == domain.CodeNameUnknown {
			return nil // it comes to be with its first content
		}
		if err != nil {
			return err
		}
		for _, t := range page {
			r.standing[t.Name] = t
		}
		if len(page) < standingPage {
			return nil
		}
		after = page[len(page)-1].Name
	}
}

// choose selects of the upstream's tags, and sets signature tags apart, which follow what they belong to.
func (r *repository) choose(listed []tag) (selected []tag) {
	byName := map[string]tag{}
	var names []string
	r.signatures = map[string][]tag{}
	for _, t := range listed {
		if signature, ok := policy.ParseSignatureTag(t.name); ok {
			if r.claim.Mirror.Referrers == domain.ReferrersCopy {
				r.signatures[signature.Subject] = append(r.signatures[signature.Subject], t)
			}
			continue
		}
		if _, twice := byName[t.name]; !twice {
			names = append(names, t.name)
		}
		byName[t.name] = t
	}
	for _, name := range r.tags.Select(names) {
		selected = append(selected, byName[name])
	}
	return selected
}

// signaturesOf are the signature tags of a manifest, which nobody else deals with from now on.
func (r *repository) signaturesOf(subject digest.Digest) (tags []tag) {
	prefix := subject.Algorithm().String() + ":" + subject.Encoded()[:min(64, len(subject.Encoded()))]
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range r.signatures[prefix] {
		if !r.done[t.name] {
			r.done[t.name] = true
			tags = append(tags, t)
		}
	}
	return tags
}

// outcome is what became of a tag.
type outcome int

const (
	unchanged outcome = iota
	copied
	skipped
	conflicting
)

// syncTag copies one tag with all that hangs on it, in its time. Its error is one that ends the repository.
func (r *repository) syncTag(ctx context.Context, t tag) error {
	within, cancel := context.WithTimeout(ctx, r.claim.Mirror.Timeout)
	defer cancel()
	result, err := r.copyTag(within, t, levelImage)
	if domain.CodeOf(err) == domain.CodeManifestBlobUnknown {
		// Something that was found here was collected before the manifest named it.
		r.mu.Lock()
		clear(r.known)
		r.mu.Unlock()
		result, err = r.copyTag(within, t, levelImage)
	}
	return r.settle(ctx, t.name, result, err)
}

// settle counts what became of a tag.
func (r *repository) settle(ctx context.Context, name string, result outcome, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, core.ErrSyncOver) {
		return err
	}
	if isKind(err, kindMissing) {
		result, err = skipped, nil // it vanished since it was listed
	}
	if err != nil {
		r.fail(name, err)
	}
	r.count(func(p *domain.MirrorProgress) {
		switch {
		case err != nil:
			p.Tags.Failed++
		case result == copied:
			p.Tags.Copied++
		case result == skipped:
			p.Tags.Skipped++
		case result == conflicting:
			p.Tags.Conflicts++
		default:
			p.Tags.Unchanged++
		}
	})
	if err != nil {
		r.engine.metrics.failures.Inc()
	}
	r.reached(err)
	return nil
}

// copyTag copies a tag, unless it is here already, with what hangs on it, if that is asked for.
func (r *repository) copyTag(ctx context.Context, t tag, level level) (outcome, error) {
	standing, stands := r.standing[t.name]
	d := t.digest
	var err error
	if d == "" && stands {
		if d, err = r.up.resolve(ctx, r.path, t.name); err != nil {
			return 0, err
		}
	}
	if stands && d == standing.Digest {
		return r.refresh(ctx, standing, level)
	}
	reference := d.String()
	if d == "" || t.doubtful {
		reference = t.name
	}
	m, release, err := r.get(ctx, reference, level)
	if err != nil {
		return 0, err
	}
	defer release()
	if stands && m.Digest == standing.Digest {
		return r.refresh(ctx, standing, level)
	}
	if stands {
		if result, done, err := r.tryLocked(ctx, standing, m); done || err != nil {
			return result, err
		}
	}
	if err := r.copyContent(ctx, m, 0); err != nil {
		return 0, err
	}
	if level == levelImage {
		if err := r.copyAttached(ctx, m); err != nil {
			return 0, err
		}
	}
	return r.put(ctx, t.name, m)
}

// get gets a manifest from the upstream. The caller releases it when it is done with it.
func (r *repository) get(ctx context.Context, reference string, level level) (m manifest.Manifest, release func(), err error) {
	room := &room{slots: r.engine.large[level]}
	if m, err = r.up.manifest(ctx, r.path, reference, room); err != nil {
		room.leave()
		return m, nil, err
	}
	return m, room.leave, nil
}

// put points a tag to a manifest whose content is here.
func (r *repository) put(ctx context.Context, name string, m manifest.Manifest) (outcome, error) {
	_, err := r.core.PutManifest(ctx, r.claim.Caller, r.name, core.Push{
		Reference: domain.Reference{Tag: name}, Manifest: m.Manifest, Create: core.CreateRepository, Partial: r.partial(m),
	})
	if domain.CodeOf(err) == domain.CodeTagImmutable {
		r.conflict(name, m.Digest, err)
		return conflicting, nil
	}
	return copied, err
}

// partial reports whether an index is stored without some of its manifests.
func (r *repository) partial(m manifest.Manifest) bool { return m.Index && !r.platforms.All() }

// tryLocked asks core about a tag that is locked before anything is fetched for it: it is refused, with the entry that
// every refusal has.
func (r *repository) tryLocked(ctx context.Context, standing core.TagView, m manifest.Manifest) (result outcome, done bool, err error) {
	if !standing.Immutable {
		return 0, false, nil
	}
	_, err = r.core.PutManifest(ctx, r.claim.Caller, r.name, core.Push{Reference: domain.Reference{Tag: standing.Name}, Manifest: m.Manifest})
	switch domain.CodeOf(err) {
	case domain.CodeTagImmutable:
		r.conflict(standing.Name, m.Digest, err)
		return conflicting, true, nil
	case domain.CodeManifestBlobUnknown:
		return 0, false, nil // it may be changed after all, by what is not here yet
	}
	return copied, true, err
}

// locked reports whether a tag is, now.
func (r *repository) locked(ctx context.Context, name string) (bool, error) {
	views, err := r.core.ListTags(ctx, r.name, core.TagQuery{Tag: name, Limit: 1})
	if err != nil || len(views) == 0 {
		return false, err
	}
	return views[0].Immutable, nil
}

func (r *repository) conflict(name string, upstream digest.Digest, err error) {
	c := domain.MirrorConflict{Repository: r.path, Tag: name, Upstream: upstream, Reason: err.Error()}
	var known *domain.Error
	if errors.As(err, &known) && known.Lock != nil {
		c.Standing = known.Lock.Digest
		if known.Lock.Signature != nil {
			c.Standing = known.Lock.Signature.Digest
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.conflicts) < domain.MaxMirrorFailures {
		r.conflicts = append(r.conflicts, c)
	}
}

// refresh looks after a tag whose manifest is here: what refers to it may be new, and of a sparse index platforms may
// have been selected since.
func (r *repository) refresh(ctx context.Context, standing core.TagView, level level) (outcome, error) {
	result := unchanged
	sparse, err := r.isSparse(ctx, standing)
	if err != nil {
		return 0, err
	}
	if sparse {
		more, err := r.completeIndex(ctx, standing.Digest)
		if err != nil {
			return 0, err
		}
		if more {
			result = copied
		}
	}
	if level != levelImage {
		return result, nil
	}
	more, err := r.copyReferrers(ctx, standing.Digest, 0)
	if err != nil {
		return 0, err
	}
	if more {
		result = copied
	}
	return result, r.copySignatures(ctx, standing.Digest)
}

// isSparse reports whether a tag's index was stored without some of its manifests.
func (r *repository) isSparse(ctx context.Context, standing core.TagView) (bool, error) {
	if standing.MediaType != ocispec.MediaTypeImageIndex && standing.MediaType != manifest.DockerManifestList {
		return false, nil
	}
	return r.core.IsSparse(ctx, domain.Manifest{ID: standing.ManifestID})
}

// completeIndex copies the manifests of a stored index that are selected and not here.
func (r *repository) completeIndex(ctx context.Context, d digest.Digest) (more bool, err error) {
	stored, err := r.core.Manifest(ctx, r.name, domain.Reference{Digest: d}, true)
	if err != nil {
		return false, err
	}
	m, err := manifest.Parse(stored.MediaType, stored.Content)
	if err != nil {
		return false, err
	}
	m.Digest = d
	for _, child := range r.children(m) {
		here, err := r.hasManifest(ctx, child.Digest)
		if err != nil {
			return more, err
		}
		if !here {
			more = true
			if err := r.copyChild(ctx, child, 0); err != nil {
				return more, err
			}
		}
	}
	return more, nil
}

// maxDepth bounds indexes in indexes, and referrers of referrers.
const maxDepth = 8

// copyContent copies what a manifest refers to.
func (r *repository) copyContent(ctx context.Context, m manifest.Manifest, depth int) error {
	if depth > maxDepth {
		return failed(kindBroken, "manifest %s is nested more than %d deep", m.Digest, maxDepth)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(cap(r.tagSlots))
	for _, b := range distinct(m.Descriptors) {
		if slices.Contains(m.Blobs, b.Digest) {
			group.Go(func() error { return r.copyBlob(ctx, b) })
		}
	}
	for _, child := range r.children(m) {
		group.Go(func() error { return r.copyChild(ctx, child, depth) })
	}
	return group.Wait()
}

// distinct drops descriptors of what occurred before.
func distinct(descriptors []manifest.Descriptor) (list []manifest.Descriptor) {
	seen := map[digest.Digest]bool{}
	for _, d := range descriptors {
		if !seen[d.Digest] {
			seen[d.Digest] = true
			list = append(list, d)
		}
	}
	return list
}

// attestationOf is the annotation by which BuildKit says to which manifest of the index an attestation belongs, which has no
// platform.
const attestationOf = "vnd.docker.reference.digest"

// children are the manifests of an index that are copied.
func (r *repository) children(m manifest.Manifest) (list []manifest.Descriptor) {
	selected := map[string]bool{}
	var attached []manifest.Descriptor
	for _, d := range distinct(m.Descriptors) {
		switch {
		case !m.Index || !slices.Contains(m.Children, d.Digest):
		case d.Annotations[attestationOf] != "":
			attached = append(attached, d)
		case d.Platform == nil || r.platforms.Selects(platformOf(d)):
			selected[d.Digest.String()] = true
			list = append(list, d)
		}
	}
	for _, d := range attached {
		if r.platforms.All() || selected[d.Annotations[attestationOf]] {
			list = append(list, d)
		}
	}
	return list
}

// hasManifest reports whether a manifest is in the repository.
func (r *repository) hasManifest(ctx context.Context, d digest.Digest) (bool, error) {
	_, err := r.core.Manifest(ctx, r.name, domain.Reference{Digest: d}, false)
	switch domain.CodeOf(err) {
	case domain.CodeManifestUnknown, domain.CodeNameUnknown:
		return false, nil
	}
	if err == nil {
		r.core.FoundManifest(r.name, d)
	}
	return err == nil, err
}

// copyChild copies a manifest of an index.
func (r *repository) copyChild(ctx context.Context, child manifest.Descriptor, depth int) error {
	here, err := r.hasManifest(ctx, child.Digest)
	if err != nil || here {
		return err
	}
	m, release, err := r.get(ctx, child.Digest.String(), levelChild+level(depth))
	if err != nil {
		return named("manifest", child, err)
	}
	defer release()
	if m.Size != child.Size {
		return failed(kindBroken, "manifest %s has %d bytes, and its index says %d", child.Digest, m.Size, child.Size)
	}
	return r.store(ctx, m, depth+1)
}

// named says that the upstream does not have what one of its own manifests refers to: that is no tag that vanished.
func named(what string, d manifest.Descriptor, err error) error {
	if isKind(err, kindMissing) {
		return failed(kindBroken, "the upstream does not have %s %s, which it refers to", what, d.Digest)
	}
	return err
}

// store copies a manifest under its digest.
func (r *repository) store(ctx context.Context, m manifest.Manifest, depth int) error {
	if err := r.copyContent(ctx, m, depth); err != nil {
		return err
	}
	_, err := r.core.PutManifest(ctx, r.claim.Caller, r.name, core.Push{
		Reference: domain.Reference{Digest: m.Digest}, Manifest: m.Manifest, Create: core.CreateRepository, Partial: r.partial(m),
	})
	return err
}

// copyAttached copies what refers to a manifest and to what it has of its children: before the tag, so that nobody sees the
// image without its signatures.
func (r *repository) copyAttached(ctx context.Context, m manifest.Manifest) error {
	if r.claim.Mirror.Referrers != domain.ReferrersCopy {
		return nil
	}
	subjects := []digest.Digest{m.Digest}
	for _, child := range r.children(m) {
		subjects = append(subjects, child.Digest)
	}
	for _, subject := range subjects {
		if _, err := r.copyReferrers(ctx, subject, 0); err != nil {
			return err
		}
		if err := r.copySignatures(ctx, subject); err != nil {
			return err
		}
	}
	return nil
}

// copyReferrers copies what refers to a manifest and is not here, with what refers to that.
func (r *repository) copyReferrers(ctx context.Context, subject digest.Digest, depth int) (more bool, err error) {
	if r.claim.Mirror.Referrers != domain.ReferrersCopy || depth > maxDepth {
		return false, nil
	}
	list, err := r.up.referrers(ctx, r.path, subject)
	if err != nil {
		return false, err
	}
	for _, d := range distinct(list) {
		if known(d.Digest) == "" {
			return more, failed(kindBroken, "the upstream lists a referrer of %s without a valid digest", subject)
		}
		here, err := r.hasManifest(ctx, d.Digest)
		if err != nil {
			return more, err
		}
		if here {
			continue
		}
		copied, err := r.copyReferrer(ctx, subject, d.Digest, depth)
		if err != nil {
			return more, err
		}
		more = more || copied
	}
	return more, nil
}

func (r *repository) copyReferrer(ctx context.Context, subject, d digest.Digest, depth int) (bool, error) {
	m, release, err := r.get(ctx, d.String(), levelReferrer+level(depth))
	if isKind(err, kindMissing) {
		return false, nil // it was removed since it was listed
	}
	if err != nil {
		return false, err
	}
	defer release()
	if m.Subject != subject {
		return false, failed(kindBroken, "the upstream lists %s as a referrer of %s, which it is not", d, subject)
	}
	if err := r.store(ctx, m, 0); err != nil {
		return false, err
	}
	_, err = r.copyReferrers(ctx, d, depth+1)
	return true, err
}

// copySignatures copies the signature tags of a manifest. They count as tags of their own, and a failure of one is one of
// the tag that it belongs to too: who asks for the image must find its signatures.
func (r *repository) copySignatures(ctx context.Context, subject digest.Digest) error {
	var failures []error
	for _, t := range r.signaturesOf(subject) {
		r.count(func(p *domain.MirrorProgress) { p.Tags.Discovered++ })
		result, err := r.copySignature(ctx, t)
		if isKind(err, kindMissing) && t.doubtful {
			r.count(func(p *domain.MirrorProgress) { p.Tags.Discovered-- })
			continue
		}
		if err != nil && !isKind(err, kindMissing) {
			failures = append(failures, err)
		}
		if err := r.settle(ctx, t.name, result, err); err != nil {
			return err
		}
	}
	if len(failures) > 0 {
		return failures[0]
	}
	return nil
}

func (r *repository) copySignature(ctx context.Context, t tag) (outcome, error) {
	if _, stands := r.standing[t.name]; t.doubtful && !stands && t.digest != "" {
		// Where it came as a referrer there is no such tag.
		if here, err := r.hasManifest(ctx, t.digest); err != nil {
			return 0, err
		} else if here {
			return 0, failed(kindMissing, "there is no such tag")
		}
	}
	return r.copyTag(ctx, t, levelSignature)
}

// syncSignatures copies the signature tags that are left whose subject is here without a selected tag of its own: manifests
// of indexes that did not change, and signatures themselves.
func (r *repository) syncSignatures(ctx context.Context) error {
	for again := true; again; {
		again = false
		for subject, tags := range r.signatures {
			left := slices.ContainsFunc(tags, func(t tag) bool { return !r.done[t.name] })
			// A sha512 digest that was cut off cannot be looked up; it is found by the tag of its image.
			if !left || !strings.HasPrefix(subject, digest.SHA256.String()) {
				continue
			}
			here, err := r.hasManifest(ctx, digest.Digest(subject))
			if err != nil {
				return err
			}
			if !here {
				continue
			}
			again = true
			if err := r.syncSignaturesOf(ctx, digest.Digest(subject)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *repository) syncSignaturesOf(ctx context.Context, subject digest.Digest) error {
	within, cancel := context.WithTimeout(ctx, r.claim.Mirror.Timeout)
	defer cancel()
	err := r.copySignatures(within, subject)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, core.ErrSyncOver):
		return err
	}
	return nil // it is counted
}

// prune deletes the tags that the mirror made and the upstream has no more. Locked ones stay, and so do signatures of
// images whose tags are locked.
func (r *repository) prune(ctx context.Context, listed []tag) error {
	there := map[string]bool{}
	for _, t := range listed {
		there[t.name] = true
	}
	for _, t := range r.standing {
		if there[t.Name] || t.MirrorID != r.claim.Mirror.ID {
			continue
		}
		if keep, err := r.keeps(ctx, t); err != nil {
			return err
		} else if keep {
			continue
		}
		switch err := r.core.DeleteTag(ctx, r.claim.Caller, r.name, t.Name); domain.CodeOf(err) {
		case "":
			if err != nil {
				return err
			}
			r.count(func(p *domain.MirrorProgress) { p.Tags.Pruned++ })
		case domain.CodeTagImmutable, domain.CodeManifestUnknown: // it was locked, or deleted, a moment ago
		default:
			return err
		}
	}
	return nil
}

// keeps reports whether something locks a tag that vanished.
func (r *repository) keeps(ctx context.Context, t core.TagView) (bool, error) {
	names := []string{t.Name}
	if signature, ok := policy.ParseSignatureTag(t.Name); ok {
		for _, other := range r.standing {
			if strings.HasPrefix(other.Digest.String(), signature.Subject) {
				names = append(names, other.Name)
			}
		}
	}
	for _, name := range names {
		if locked, err := r.locked(ctx, name); err != nil || locked {
			return locked, err
		}
	}
	return false, nil
}
