-- +goose Up
-- Which replica does what only one may do at a time: the holder makes the beat grow as long as it lives.
CREATE TABLE leases (
    name   TEXT COLLATE "C" PRIMARY KEY,
    holder TEXT             NOT NULL, -- empty: given back
    beat   BIGINT           NOT NULL
);

-- Requests to erase a person from the log. The name and the caller go when it is done.
CREATE TABLE erasures (
    uuid           TEXT COLLATE "C" PRIMARY KEY,
    person         TEXT COLLATE "C" NOT NULL,
    caller_kind    TEXT             NOT NULL,
    caller_name    TEXT             NOT NULL,
    caller_address TEXT             NOT NULL,
    caller_token   TEXT             NOT NULL,
    next_index     BIGINT           NOT NULL, -- of the entry that is looked at next
    end_index      BIGINT           NOT NULL, -- the size of the log when it was asked for
    entries        BIGINT           NOT NULL, -- how many were erased
    created_at     BIGINT           NOT NULL,
    finished_at    BIGINT           NOT NULL  -- 0: it goes on
);
CREATE INDEX erasures_open ON erasures (created_at) WHERE finished_at = 0;

-- One row: the entries below this index are in archives and no more here. Their hashes stay in the tree.
CREATE TABLE pruning (
    id            INTEGER PRIMARY KEY CHECK (id = 1),
    pruned_before BIGINT  NOT NULL
);
INSERT INTO pruning (id, pruned_before) VALUES (1, 0);

-- Files of entries. A file is planned, written, and only then its entries are pruned.
CREATE TABLE archives (
    first_index BIGINT PRIMARY KEY,
    end_index   BIGINT NOT NULL, -- of the first entry behind it
    name        TEXT   NOT NULL,
    sha256      TEXT   NOT NULL, -- of the file, in hexadecimal; empty until it is written
    size        BIGINT NOT NULL, -- in bytes
    planned_at  BIGINT NOT NULL,
    written_at  BIGINT NOT NULL  -- 0: not yet
);

-- +goose Down
SELECT 'what was pruned or erased does not come back';
