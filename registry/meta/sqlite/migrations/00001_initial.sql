-- +goose Up
-- Times are microseconds since 1970 in UTC. AUTOINCREMENT stands where an id must never be used twice.

-- One row: what this installation is.
CREATE TABLE installation (
    id          INTEGER PRIMARY KEY CHECK (id = 1),
    log_origin  TEXT    NOT NULL,
    cluster_uid TEXT    NOT NULL DEFAULT '',
    synced      BOOLEAN NOT NULL DEFAULT FALSE, -- an operator has put all of its objects
    adopting    BOOLEAN NOT NULL DEFAULT FALSE, -- between adopt-cluster and the first sync
    created_at  INTEGER NOT NULL
);

CREATE TABLE organizations (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    name            TEXT    NOT NULL UNIQUE,
    owner_namespace TEXT    NOT NULL DEFAULT '',
    owner_uid       TEXT    NOT NULL DEFAULT '',
    created_at      INTEGER NOT NULL
);

CREATE TABLE repositories (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    organization_id INTEGER NOT NULL REFERENCES organizations (id),
    path            TEXT    NOT NULL,
    name            TEXT    NOT NULL UNIQUE, -- organization and path, for the catalog
    description     TEXT    NOT NULL DEFAULT '',
    visibility      TEXT    NOT NULL,
    created_at      INTEGER NOT NULL
);
CREATE UNIQUE INDEX repositories_path ON repositories (organization_id, path);

CREATE TABLE blobs (
    digest      TEXT    PRIMARY KEY,
    size        INTEGER NOT NULL,
    storage_key TEXT    NOT NULL,
    created_at  INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE repository_blobs (
    repository_id INTEGER NOT NULL REFERENCES repositories (id) ON DELETE CASCADE,
    digest        TEXT    NOT NULL REFERENCES blobs (digest),
    created_at    INTEGER NOT NULL,
    PRIMARY KEY (repository_id, digest)
) WITHOUT ROWID;
CREATE INDEX repository_blobs_digest ON repository_blobs (digest);

CREATE TABLE manifests (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    repository_id INTEGER NOT NULL REFERENCES repositories (id) ON DELETE CASCADE,
    digest        TEXT    NOT NULL,
    media_type    TEXT    NOT NULL,
    artifact_type TEXT    NOT NULL,
    subject       TEXT    NOT NULL,
    annotations   TEXT    NOT NULL, -- a JSON object, empty if there are none
    size          INTEGER NOT NULL,
    created_at    INTEGER NOT NULL,
    content       BLOB    NOT NULL
);
CREATE UNIQUE INDEX manifests_digest ON manifests (repository_id, digest);
CREATE INDEX manifests_subject ON manifests (repository_id, subject, digest) WHERE subject <> '';

-- The child manifests of each index, found from the child.
CREATE TABLE manifest_children (
    repository_id INTEGER NOT NULL,
    child_digest  TEXT    NOT NULL,
    manifest_id   INTEGER NOT NULL REFERENCES manifests (id) ON DELETE CASCADE,
    PRIMARY KEY (repository_id, child_digest, manifest_id)
) WITHOUT ROWID;
CREATE INDEX manifest_children_manifest ON manifest_children (manifest_id);

-- The config and layers of each image, found from the blob.
CREATE TABLE manifest_blobs (
    repository_id INTEGER NOT NULL,
    digest        TEXT    NOT NULL,
    manifest_id   INTEGER NOT NULL REFERENCES manifests (id) ON DELETE CASCADE,
    PRIMARY KEY (repository_id, digest, manifest_id)
) WITHOUT ROWID;
CREATE INDEX manifest_blobs_manifest ON manifest_blobs (manifest_id);

-- Live tags. The id says when a tag was created: closing revisions of policies cover the tags up to one.
CREATE TABLE tags (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    repository_id INTEGER NOT NULL REFERENCES repositories (id) ON DELETE CASCADE,
    name          TEXT    NOT NULL,
    manifest_id   INTEGER NOT NULL REFERENCES manifests (id),
    updated_at    INTEGER NOT NULL
);
CREATE UNIQUE INDEX tags_name ON tags (repository_id, name);
CREATE INDEX tags_manifest ON tags (manifest_id);

-- What tags pointed to before.
CREATE TABLE past_tags (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    repository_id INTEGER NOT NULL REFERENCES repositories (id) ON DELETE CASCADE,
    name          TEXT    NOT NULL,
    digest        TEXT    NOT NULL,
    from_time     INTEGER NOT NULL,
    until_time    INTEGER NOT NULL
);
CREATE INDEX past_tags_name ON past_tags (repository_id, name, id);

CREATE TABLE policies (
    id                  INTEGER PRIMARY KEY AUTOINCREMENT,
    uuid                TEXT    NOT NULL UNIQUE,
    organization_id     INTEGER NOT NULL,
    organization        TEXT    NOT NULL, -- outlives the organization, for entries about retained holds
    repository          TEXT    NOT NULL, -- the path; empty for the whole organization
    revision            INTEGER NOT NULL,
    manager_kind        TEXT    NOT NULL DEFAULT '',
    manager_namespace   TEXT    NOT NULL DEFAULT '',
    manager_name        TEXT    NOT NULL DEFAULT '',
    manager_uid         TEXT    NOT NULL DEFAULT '',
    manager_generation  INTEGER NOT NULL DEFAULT 0,
    orphaned            BOOLEAN NOT NULL DEFAULT FALSE, -- the manager went away without deleting the policy
    lost                BOOLEAN NOT NULL DEFAULT FALSE, -- the manager's namespace may not manage the organization any more
    delete_at           INTEGER NOT NULL DEFAULT 0, -- 0: no deletion is requested
    deleted             BOOLEAN NOT NULL DEFAULT FALSE,
    would_refuse        INTEGER NOT NULL DEFAULT 0,
    created_at          INTEGER NOT NULL
);
CREATE INDEX policies_scope ON policies (organization_id, repository);
CREATE INDEX policies_manager ON policies (manager_kind, manager_namespace, manager_name) WHERE manager_kind <> '' AND NOT deleted;
CREATE INDEX policies_delete_at ON policies (delete_at) WHERE delete_at > 0 AND NOT deleted;

CREATE TABLE policy_revisions (
    policy_id           INTEGER NOT NULL REFERENCES policies (id),
    revision            INTEGER NOT NULL,
    organization_id     INTEGER NOT NULL,
    repository          TEXT    NOT NULL,
    state               TEXT    NOT NULL, -- current, closing or past
    tag_bound           INTEGER NOT NULL DEFAULT 0, -- closing: covers the tags with an id up to this one
    tag_pattern         TEXT    NOT NULL,
    tag_pattern_matches BOOLEAN NOT NULL,
    enforcement_mode    TEXT    NOT NULL,
    reclaim_policy      TEXT    NOT NULL,
    created_at          INTEGER NOT NULL,
    PRIMARY KEY (policy_id, revision)
) WITHOUT ROWID;
CREATE INDEX policy_revisions_in_force ON policy_revisions (organization_id, repository) WHERE state <> 'past';

-- UIDs of Kubernetes objects that were replaced or deleted: whoever acts for them acts on an old state.
CREATE TABLE retired_managers (
    uid        TEXT    PRIMARY KEY,
    retired_at INTEGER NOT NULL
) WITHOUT ROWID;

-- A tag is locked while it has a hold. Policy 0 is a hold by hand.
CREATE TABLE holds (
    tag_id    INTEGER NOT NULL REFERENCES tags (id) ON DELETE CASCADE,
    policy_id INTEGER NOT NULL,
    placed_at INTEGER NOT NULL,
    PRIMARY KEY (tag_id, policy_id)
) WITHOUT ROWID;
CREATE INDEX holds_policy ON holds (policy_id, tag_id);

CREATE TABLE sweeps (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    policy_id       INTEGER NOT NULL REFERENCES policies (id),
    revision        INTEGER NOT NULL,
    kind            TEXT    NOT NULL,
    state           TEXT    NOT NULL,
    after_id        INTEGER NOT NULL DEFAULT 0, -- the cursor: a repository and a name in it, or a tag
    after_name      TEXT    NOT NULL DEFAULT '',
    total           INTEGER NOT NULL DEFAULT 0,
    examined        INTEGER NOT NULL DEFAULT 0,
    changed         INTEGER NOT NULL DEFAULT 0,
    first_entry     INTEGER NOT NULL DEFAULT 0, -- audit_entries.id, 0: none yet
    last_entry      INTEGER NOT NULL DEFAULT 0,
    sample          TEXT    NOT NULL DEFAULT '', -- JSON: the first tags changed
    created_at      INTEGER NOT NULL,
    started_at      INTEGER NOT NULL DEFAULT 0,
    finished_at     INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX sweeps_policy ON sweeps (policy_id, id);
CREATE INDEX sweeps_open ON sweeps (id) WHERE state IN ('pending', 'running');

-- The audit log. A push appends a row; the sequencer sets idx later, which alone enters the row into the indexes.
CREATE TABLE audit_entries (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    idx          INTEGER,
    time         INTEGER NOT NULL,
    kind         TEXT    NOT NULL,
    organization TEXT    NOT NULL,
    repository   TEXT    NOT NULL,
    tag          TEXT    NOT NULL,
    policy       TEXT    NOT NULL,
    performer    TEXT    NOT NULL,
    leaf         BLOB    NOT NULL,
    personal     BLOB
);
CREATE UNIQUE INDEX audit_idx ON audit_entries (idx) WHERE idx IS NOT NULL;
CREATE INDEX audit_organization ON audit_entries (organization, idx) WHERE idx IS NOT NULL AND organization <> '';
CREATE INDEX audit_repository ON audit_entries (organization, repository, idx) WHERE idx IS NOT NULL AND repository <> '';
CREATE INDEX audit_tag ON audit_entries (organization, repository, tag, idx) WHERE idx IS NOT NULL AND tag <> '';
CREATE INDEX audit_policy ON audit_entries (policy, idx) WHERE idx IS NOT NULL AND policy <> '';
CREATE INDEX audit_performer ON audit_entries (performer, idx) WHERE idx IS NOT NULL;
CREATE INDEX audit_kind ON audit_entries (kind, idx) WHERE idx IS NOT NULL;

-- Where readers of the log have come to, for instance the operator's Events.
CREATE TABLE log_cursors (
    name     TEXT    PRIMARY KEY,
    position INTEGER NOT NULL
) WITHOUT ROWID;

-- +goose Down
SELECT 'the first version has nothing to go back to';
