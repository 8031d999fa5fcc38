-- +goose Up
-- Who reads everything and writes nothing, by Kubernetes objects.
CREATE TABLE readonly_superusers (
    id                       INTEGER PRIMARY KEY AUTOINCREMENT,
    uuid                     TEXT    NOT NULL UNIQUE,
    subject_kind             TEXT    NOT NULL, -- RegistryUser, ServiceAccount, User or Group
    subject_namespace        TEXT    NOT NULL, -- of a ServiceAccount
    subject_name             TEXT    NOT NULL,
    access                   TEXT    NOT NULL, -- Full or MetadataOnly
    expires_at               INTEGER NOT NULL, -- 0: never
    ended                    BOOLEAN NOT NULL DEFAULT FALSE, -- the end of the expired grant is in the log
    credentials              BOOLEAN NOT NULL,
    token_id                 TEXT    NOT NULL DEFAULT '', -- the token that the manager said last that it has
    manager_kind             TEXT    NOT NULL,
    manager_name             TEXT    NOT NULL,
    manager_uid              TEXT    NOT NULL,
    manager_generation       INTEGER NOT NULL,
    manager_revision_claimed TEXT    NOT NULL,
    deletion_user            TEXT    NOT NULL DEFAULT '',
    deletion_user_uid        TEXT    NOT NULL DEFAULT '',
    deletion_told_at         INTEGER NOT NULL DEFAULT 0,
    created_at               INTEGER NOT NULL,
    last_seen                INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX readonly_superusers_subject ON readonly_superusers (subject_kind, subject_namespace, subject_name);
CREATE UNIQUE INDEX readonly_superusers_manager ON readonly_superusers (manager_kind, manager_name);

-- The grant that made an account or a token, which goes with it; 0: none did.
ALTER TABLE accounts ADD COLUMN grant_id INTEGER NOT NULL DEFAULT 0;
ALTER TABLE account_tokens ADD COLUMN grant_id INTEGER NOT NULL DEFAULT 0;
CREATE INDEX accounts_grant ON accounts (grant_id) WHERE grant_id <> 0;
CREATE INDEX account_tokens_grant ON account_tokens (grant_id) WHERE grant_id <> 0;

-- It grows with each change of a grant, and is the epoch of all who have no account.
ALTER TABLE identity_state ADD COLUMN grant_epoch INTEGER NOT NULL DEFAULT 1;

-- +goose Down
ALTER TABLE identity_state DROP COLUMN grant_epoch;
DROP INDEX account_tokens_grant;
DROP INDEX accounts_grant;
ALTER TABLE account_tokens DROP COLUMN grant_id;
ALTER TABLE accounts DROP COLUMN grant_id;
DROP TABLE readonly_superusers;
