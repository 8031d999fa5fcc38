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

-- +goose Down
DROP TABLE erasures;
DROP TABLE leases;
