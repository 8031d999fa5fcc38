package domain

import (
	"time"

	"github.com/opencontainers/go-digest"
)

// MaxManifest is the largest manifest that the registry takes, in bytes.
const MaxManifest = 4 << 20

// Organization is a top-level namespace of repositories.
type Organization struct {
	ID   int64
	Name string
	// Owner is the Kubernetes namespace that owns the organization; both fields are empty if none does.
	Owner     Owner
	CreatedAt time.Time
}

// Repository holds tags, manifests and links to blobs.
type Repository struct {
	ID             int64
	OrganizationID int64
	Name           RepositoryName
	Description    string
	Visibility     Visibility
	CreatedAt      time.Time
}

// Blob is a stored blob. Key is where its bytes are; a key is never used twice.
type Blob struct {
	Digest digest.Digest
	Size   int64
	Key    string
}

// Manifest is a stored manifest.
type Manifest struct {
	ID        int64
	Digest    digest.Digest
	MediaType string
	// ArtifactType is the manifest's own, else its config's media type; empty for an index without one.
	ArtifactType string
	// Subject is the digest of the manifest that this one refers to, or empty.
	Subject     digest.Digest
	Annotations map[string]string
	// Index is true for an index, Children are its manifests, Blobs the config and layers of an image. They are set for
	// a push, not by reading.
	Index    bool
	Children []digest.Digest
	Blobs    []digest.Digest
	// Sparse is true for a push that comes before all of Children and Blobs are there.
	Sparse bool
	Size   int64
	// Content is the exact bytes; nil where only the descriptor was asked for.
	Content   []byte
	CreatedAt time.Time
}

// Tag is a live tag.
type Tag struct {
	// ID grows with each creation: a tag that is deleted and created again has another one.
	ID           int64
	RepositoryID int64
	Name         string
	ManifestID   int64
	Digest       digest.Digest
	MediaType    string
	// Size is the manifest's size in bytes.
	Size int64
	// UpdatedAt is when the tag came to point to Digest.
	UpdatedAt time.Time
	// ExpiresAt is when the tag is to be deleted, zero if never. Until the registry deletes it, it is live.
	ExpiresAt time.Time
	// MirrorID is the id of the mirror that made the tag or moved it last, 0 if none did.
	MirrorID int64
}

// PastTag is a digest that a tag had once.
type PastTag struct {
	Name   string
	Digest digest.Digest
	// From and Until are when the tag pointed to the digest.
	From, Until time.Time
}
