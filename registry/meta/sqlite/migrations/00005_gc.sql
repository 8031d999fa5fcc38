-- +goose Up
-- When a repository last took a blob: by an upload, a mount, or a HEAD that found it. It is written only where it is out
-- of date by a 24th of the grace of garbage collection.
ALTER TABLE repository_blobs ADD COLUMN used_at INTEGER NOT NULL DEFAULT 0;
UPDATE repository_blobs SET used_at = created_at;
-- When any repository last took it, by an upload or a mount.
ALTER TABLE blobs ADD COLUMN used_at INTEGER NOT NULL DEFAULT 0;
UPDATE blobs SET used_at = created_at;

-- When a manifest was last pushed again, or found by a HEAD. Not a column of manifests, whose rows are large.
CREATE TABLE manifest_uses (
    manifest_id INTEGER PRIMARY KEY REFERENCES manifests (id) ON DELETE CASCADE,
    used_at     INTEGER NOT NULL
);

-- Whether a manifest can come back by restoring a tag.
CREATE INDEX past_tags_digest ON past_tags (repository_id, digest, until_time);

-- Keys of the blob store that no blob has any more, and when their bytes may go.
CREATE TABLE removals (
    storage_key TEXT    PRIMARY KEY,
    digest      TEXT    NOT NULL,
    size        INTEGER NOT NULL,
    due_at      INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX removals_due ON removals (due_at);

-- One row: what garbage collection removed since its last entry in the audit log, when it last went through all keys of
-- the blob store, and when a replica last began a run by its schedule.
CREATE TABLE collection (
    id            INTEGER PRIMARY KEY CHECK (id = 1),
    manifests     INTEGER NOT NULL DEFAULT 0,
    links         INTEGER NOT NULL DEFAULT 0,
    blobs         INTEGER NOT NULL DEFAULT 0,
    blob_bytes    INTEGER NOT NULL DEFAULT 0,
    orphans       INTEGER NOT NULL DEFAULT 0,
    orphan_bytes  INTEGER NOT NULL DEFAULT 0,
    removed       INTEGER NOT NULL DEFAULT 0,
    removed_bytes INTEGER NOT NULL DEFAULT 0,
    scanned_at    INTEGER NOT NULL DEFAULT 0,
    begun_at      INTEGER NOT NULL DEFAULT 0
);
INSERT INTO collection (id) VALUES (1);

-- +goose Down
SELECT 'what was collected does not come back';
