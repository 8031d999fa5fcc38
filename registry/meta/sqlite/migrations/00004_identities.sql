-- +goose Up
-- One row. The version grows with each change of an identity, so that replicas notice by one small read.
CREATE TABLE identity_state (
    id      INTEGER PRIMARY KEY CHECK (id = 1),
    version INTEGER NOT NULL
);
INSERT INTO identity_state (id, version) VALUES (1, 1);

-- Users and robots. The superuser admin is not here: a file holds its password.
CREATE TABLE accounts (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    kind            TEXT    NOT NULL, -- user or robot
    name            TEXT    NOT NULL,
    organization_id INTEGER REFERENCES organizations (id) ON DELETE CASCADE, -- of robots
    email           TEXT    NOT NULL,
    description     TEXT    NOT NULL,
    metadata        TEXT    NOT NULL, -- a JSON object, empty if there is none
    password_hash   TEXT    NOT NULL, -- argon2id, PHC string format; empty: no password
    disabled        BOOLEAN NOT NULL DEFAULT FALSE,
    epoch           INTEGER NOT NULL DEFAULT 1, -- grows when a credential or a right is lost
    created_at      INTEGER NOT NULL
);
CREATE UNIQUE INDEX accounts_name ON accounts (kind, name);
CREATE INDEX accounts_organization ON accounts (organization_id, name) WHERE organization_id IS NOT NULL;

-- Tokens of accounts: the SHA-256 of 256 random bits.
CREATE TABLE account_tokens (
    id           TEXT    PRIMARY KEY,
    account_id   INTEGER NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    title        TEXT    NOT NULL,
    hash         BLOB    NOT NULL UNIQUE,
    created_at   INTEGER NOT NULL,
    last_used_at INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX account_tokens_account ON account_tokens (account_id, created_at);

CREATE TABLE organization_members (
    organization_id INTEGER NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
    account_id      INTEGER NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    role            TEXT    NOT NULL,
    created_at      INTEGER NOT NULL,
    PRIMARY KEY (organization_id, account_id)
) WITHOUT ROWID;
CREATE INDEX organization_members_account ON organization_members (account_id);

CREATE TABLE repository_permissions (
    repository_id INTEGER NOT NULL REFERENCES repositories (id) ON DELETE CASCADE,
    account_id    INTEGER NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    role          TEXT    NOT NULL,
    created_at    INTEGER NOT NULL,
    PRIMARY KEY (repository_id, account_id)
) WITHOUT ROWID;
CREATE INDEX repository_permissions_account ON repository_permissions (account_id);

CREATE INDEX repositories_public ON repositories (name) WHERE visibility = 'public';

-- The keys that sign tokens for clients, in PKCS #8. The newest signs, the others still verify.
CREATE TABLE token_keys (
    id          TEXT    PRIMARY KEY,
    private_key BLOB    NOT NULL,
    created_at  INTEGER NOT NULL
) WITHOUT ROWID;

-- +goose Down
DROP TABLE token_keys;
DROP INDEX repositories_public;
DROP TABLE repository_permissions;
DROP TABLE organization_members;
DROP TABLE account_tokens;
DROP TABLE accounts;
DROP TABLE identity_state;
