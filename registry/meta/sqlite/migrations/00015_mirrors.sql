-- +goose Up
-- The mirrors that fill organizations, one each at most.
CREATE TABLE mirrors (
    id                       INTEGER PRIMARY KEY AUTOINCREMENT, -- never used twice: tags know which mirror made them
    uuid                     TEXT    NOT NULL UNIQUE,
    organization_id          INTEGER NOT NULL UNIQUE REFERENCES organizations (id) ON DELETE CASCADE,
    spec                     TEXT    NOT NULL, -- JSON
    url                      TEXT    NOT NULL, -- this and the next two are the spec's: each push reads them
    robot                    TEXT    NOT NULL,
    visibility               TEXT    NOT NULL,
    username                 TEXT    NOT NULL,
    has_password             BOOLEAN NOT NULL,
    has_proxy_credentials    BOOLEAN NOT NULL,
    secrets                  BLOB, -- sealed; NULL if there are none
    manager_kind             TEXT    NOT NULL DEFAULT '',
    manager_namespace        TEXT    NOT NULL DEFAULT '',
    manager_name             TEXT    NOT NULL DEFAULT '',
    manager_uid              TEXT    NOT NULL DEFAULT '',
    manager_generation       INTEGER NOT NULL DEFAULT 0,
    manager_revision_claimed TEXT    NOT NULL DEFAULT '',
    orphaned                 BOOLEAN NOT NULL DEFAULT FALSE, -- the manager went away without deleting the mirror
    lost                     BOOLEAN NOT NULL DEFAULT FALSE, -- the manager's namespace may not manage the organization any more
    deletion_user            TEXT    NOT NULL DEFAULT '',
    deletion_user_uid        TEXT    NOT NULL DEFAULT '',
    deletion_told_at         INTEGER NOT NULL DEFAULT 0,
    created_at               INTEGER NOT NULL,
    requested                BOOLEAN NOT NULL DEFAULT FALSE, -- a sync was asked for that has not begun
    requested_at             TEXT    NOT NULL DEFAULT '', -- the last value of the manager's annotation that asks for one
    next_sync                INTEGER NOT NULL DEFAULT 0, -- 0: none is scheduled
    failures                 INTEGER NOT NULL DEFAULT 0, -- in a row
    last_success             INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX mirrors_manager ON mirrors (manager_kind, manager_namespace, manager_name) WHERE manager_kind <> '';

-- The last sync of each mirror, or the one that runs.
CREATE TABLE mirror_syncs (
    mirror_id   INTEGER PRIMARY KEY REFERENCES mirrors (id) ON DELETE CASCADE,
    number      INTEGER NOT NULL,
    state       TEXT    NOT NULL, -- running, succeeded, failed or cancelled
    cause       TEXT    NOT NULL, -- schedule or request
    started_at  INTEGER NOT NULL,
    finished_at INTEGER NOT NULL DEFAULT 0,
    epoch       INTEGER NOT NULL, -- grows with each replica that takes the sync, through all syncs of the mirror
    holder      TEXT    NOT NULL, -- the replica that runs it; empty if it was given back
    beat        INTEGER NOT NULL, -- grows while the holder is alive
    discovered  BOOLEAN NOT NULL DEFAULT FALSE, -- the repositories of this sync are known
    progress    TEXT    NOT NULL DEFAULT '{}', -- JSON, as are failures and conflicts
    message     TEXT    NOT NULL DEFAULT '',
    failures    TEXT    NOT NULL DEFAULT '[]',
    conflicts   TEXT    NOT NULL DEFAULT '[]'
);

-- What a mirror's upstream has. The counts are of the last sync that was done with the repository.
CREATE TABLE mirror_repositories (
    mirror_id       INTEGER NOT NULL REFERENCES mirrors (id) ON DELETE CASCADE,
    name            TEXT    NOT NULL,
    state           TEXT    NOT NULL DEFAULT '',
    discovered_at   INTEGER NOT NULL,
    discovered_in   INTEGER NOT NULL, -- the number of the last sync that found it upstream
    synced_at       INTEGER NOT NULL DEFAULT 0,
    synced_in       INTEGER NOT NULL DEFAULT 0, -- the number of the last sync that was done with it
    message         TEXT    NOT NULL DEFAULT '',
    tags_discovered INTEGER NOT NULL DEFAULT 0,
    tags_copied     INTEGER NOT NULL DEFAULT 0,
    tags_unchanged  INTEGER NOT NULL DEFAULT 0,
    tags_skipped    INTEGER NOT NULL DEFAULT 0,
    tags_failed     INTEGER NOT NULL DEFAULT 0,
    tags_conflicts  INTEGER NOT NULL DEFAULT 0,
    tags_pruned     INTEGER NOT NULL DEFAULT 0,
    bytes_copied    INTEGER NOT NULL DEFAULT 0,
    bytes_saved     INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (mirror_id, name)
) WITHOUT ROWID;

-- The mirror that made a tag, or moved it last; 0: none did.
ALTER TABLE tags ADD COLUMN mirror_id INTEGER NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE tags DROP COLUMN mirror_id;
DROP TABLE mirror_repositories;
DROP TABLE mirror_syncs;
DROP TABLE mirrors;
