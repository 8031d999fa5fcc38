package domain

// Collected counts what garbage collection removed, or would remove.
type Collected struct {
	// Manifests had no root; Links are repositories' links to blobs that none of their manifests referred to.
	Manifests int64 `json:"manifests"`
	Links     int64 `json:"links"`
	// Blobs were linked by no repository any more: they are gone for clients, their bytes wait to be deleted.
	Blobs     int64 `json:"blobs"`
	BlobBytes int64 `json:"blob_bytes"`
	// Orphans are keys of the blob store that no blob had; their bytes wait to be deleted too.
	Orphans     int64 `json:"orphans"`
	OrphanBytes int64 `json:"orphan_bytes"`
	// Removed are the keys whose bytes were deleted.
	Removed      int64 `json:"removed"`
	RemovedBytes int64 `json:"removed_bytes"`
}

// Add returns the sum of two counts.
func (c Collected) Add(more Collected) Collected {
	return Collected{
		Manifests: c.Manifests + more.Manifests, Links: c.Links + more.Links,
		Blobs: c.Blobs + more.Blobs, BlobBytes: c.BlobBytes + more.BlobBytes,
		Orphans: c.Orphans + more.Orphans, OrphanBytes: c.OrphanBytes + more.OrphanBytes,
		Removed: c.Removed + more.Removed, RemovedBytes: c.RemovedBytes + more.RemovedBytes,
	}
}
