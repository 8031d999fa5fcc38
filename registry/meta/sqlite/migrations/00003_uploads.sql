-- +goose Up
-- Open uploads. A row goes with the transaction that links the upload's blob, or when the upload is cancelled or expires.
CREATE TABLE uploads (
    id          TEXT    PRIMARY KEY,
    repository  TEXT    NOT NULL, -- organization and path; need not exist yet
    caller_kind TEXT    NOT NULL,
    caller_name TEXT    NOT NULL,
    epoch       INTEGER NOT NULL, -- grows with each request that takes the upload for itself
    busy_until  INTEGER NOT NULL, -- till when one request has it for itself; 0: none has
    used_at     INTEGER NOT NULL,
    size        INTEGER NOT NULL,
    state       BLOB    NOT NULL  -- the blob store's own
);
CREATE INDEX uploads_caller ON uploads (caller_kind, caller_name);

-- +goose Down
DROP TABLE uploads;
