// Package metatest holds what the tests of all engines share.
package metatest

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
)

const (
	version1Digest = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
	version1Blob   = "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
)

// Version1 fills a database whose schema is the first one, in a dialect that all engines share.
var Version1 = []string{
	`INSERT INTO installation (id, log_origin, cluster_uid, synced, created_at) VALUES (1, 'tidelock/one', 'cluster', TRUE, 1000000)`,
	`INSERT INTO organizations (id, name, owner_namespace, owner_uid, created_at) VALUES (1, 'team-a', 'team-a', 'uid', 1000000)`,
	`INSERT INTO repositories (id, organization_id, path, name, description, visibility, created_at) VALUES (1, 1, 'app', 'team-a/app', 'an app', 'private', 1000000)`,
	`INSERT INTO blobs (digest, size, storage_key, created_at) VALUES ('` + version1Blob + `', 3, 'key', 1000000)`,
	`INSERT INTO repository_blobs (repository_id, digest, created_at) VALUES (1, '` + version1Blob + `', 1000000)`,
	`INSERT INTO manifests (id, repository_id, digest, media_type, artifact_type, subject, annotations, size, created_at, content) VALUES (1, 1, '` + version1Digest + `', 'type', '', '', '', 4, 1000000, 'test')`,
	`INSERT INTO manifest_blobs (repository_id, digest, manifest_id) VALUES (1, '` + version1Blob + `', 1)`,
	`INSERT INTO tags (id, repository_id, name, manifest_id, updated_at) VALUES (1, 1, 'v1', 1, 1000000)`,
	`INSERT INTO past_tags (repository_id, name, digest, from_time, until_time) VALUES (1, 'v1', '` + version1Blob + `', 500000, 1000000)`,
	`INSERT INTO policies (id, uuid, organization_id, organization, repository, revision, created_at) VALUES (1, 'uuid', 1, 'team-a', '', 1, 1000000)`,
	`INSERT INTO policy_revisions (policy_id, revision, organization_id, repository, state, tag_pattern, tag_pattern_matches, enforcement_mode, reclaim_policy, created_at) VALUES (1, 1, 1, '', 'current', 'v.*', TRUE, 'Enforce', 'Retain', 1000000)`,
	`INSERT INTO retired_managers (uid, retired_at) VALUES ('old', 1000000)`,
	`INSERT INTO holds (tag_id, policy_id, placed_at) VALUES (1, 1, 1000000)`,
	`INSERT INTO sweeps (policy_id, revision, kind, state, created_at) VALUES (1, 1, 'apply', 'done', 1000000)`,
	`INSERT INTO audit_entries (idx, time, kind, organization, repository, tag, policy, performer, leaf, personal) VALUES (0, 1000000, 'create_tag', 'team-a', 'app', 'v1', '', 'alice', 'leaf', 'personal')`,
	`INSERT INTO log_cursors (name, position) VALUES ('events', 1)`,
}

// ExpectVersion1 checks that a store, however new its schema, still has what Version1 put there.
func ExpectVersion1(store meta.Store) {
	GinkgoHelper()
	at := time.Unix(1, 0).UTC()
	Expect(store.Read(context.Background(), func(r *meta.Reader) error {
		installation, err := r.Installation()
		Expect(err).NotTo(HaveOccurred())
		Expect(installation.LogOrigin).To(Equal("tidelock/one"))
		Expect(installation.ClusterUID).To(Equal("cluster"))
		Expect(installation.Synced).To(BeTrue())

		organization, err := r.Organization("team-a")
		Expect(err).NotTo(HaveOccurred())
		Expect(organization.Owner).To(Equal(domain.Owner{Namespace: "team-a", UID: "uid"}))
		name := domain.RepositoryName{Organization: "team-a", Path: "app"}
		repository, err := r.Repository(name)
		Expect(err).NotTo(HaveOccurred())
		Expect(repository.Description).To(Equal("an app"))
		Expect(repository.Visibility).To(Equal(domain.Private))

		blob, err := r.Blob(repository.ID, version1Blob)
		Expect(err).NotTo(HaveOccurred())
		Expect(blob).To(Equal(domain.Blob{Digest: version1Blob, Size: 3, Key: "key"}))
		manifest, err := r.Manifest(repository.ID, version1Digest)
		Expect(err).NotTo(HaveOccurred())
		Expect(manifest.CreatedAt).To(Equal(at))
		Expect(r.ManifestContent(manifest.ID)).To(BeEquivalentTo("test"))
		Expect(r.NodesOfBlob(repository.ID, version1Blob, 10)).To(ConsistOf(HaveField("ID", manifest.ID)))

		tag, err := r.Tag(repository.ID, "v1")
		Expect(err).NotTo(HaveOccurred())
		Expect(tag.Digest).To(BeEquivalentTo(version1Digest))
		Expect(tag.UpdatedAt).To(Equal(at))
		past, err := r.PastTags(repository.ID, "v1", 10)
		Expect(err).NotTo(HaveOccurred())
		Expect(past).To(HaveLen(1))

		policy, err := r.Policy("uuid")
		Expect(err).NotTo(HaveOccurred())
		Expect(policy.PolicySpec).To(Equal(domain.PolicySpec{TagPattern: "v.*", TagPatternMatches: true, EnforcementMode: domain.Enforce, ReclaimPolicy: domain.Retain}))
		Expect(r.Holds([]domain.Tag{tag})).To(ConsistOf(meta.Hold{TagID: tag.ID, PolicyID: policy.ID}))
		Expect(r.ManagerRetired("old")).To(BeTrue())
		sweeps, err := r.SweepsOfPolicy(policy.ID, 10)
		Expect(err).NotTo(HaveOccurred())
		Expect(sweeps).To(HaveLen(1))

		entries, err := r.Log(audit.Query{After: -1, Limit: 10})
		Expect(err).NotTo(HaveOccurred())
		Expect(entries).To(HaveLen(1))
		Expect(string(entries[0].Leaf)).To(Equal("leaf"))
		Expect(r.LogCursor("events")).To(Equal(int64(1)))
		return nil
	})).To(Succeed())
}
