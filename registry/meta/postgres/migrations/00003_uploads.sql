-- +goose Up
-- Open uploads. A row goes with the transaction that links the upload's blob, or when the upload is cancelled or expires.
CREATE TABLE uploads (
    id          TEXT   COLLATE "C" PRIMARY KEY,
    repository  TEXT   COLLATE "C" NOT NULL, -- organization and path; need not exist yet
    caller_kind TEXT   COLLATE "C" NOT NULL,
    caller_name TEXT   COLLATE "C" NOT NULL,
    epoch       BIGINT NOT NULL, -- grows with each request that takes the upload for itself
    busy_until  BIGINT NOT NULL, -- till when one request has it for itself; 0: none has
    used_at     BIGINT NOT NULL,
    size        BIGINT NOT NULL,
    state       BYTEA  NOT NULL  -- the blob store's own
);
CREATE INDEX uploads_caller ON uploads (caller_kind, caller_name);

-- +goose Down
DROP TABLE uploads;
