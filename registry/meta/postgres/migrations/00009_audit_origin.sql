-- +goose Up
-- The name that this installation keeps. The log's own name, log_origin, changes with each fork of the log.
ALTER TABLE installation ADD COLUMN name TEXT NOT NULL DEFAULT '';
UPDATE installation SET name = log_origin;

-- The index of the entry that began log_origin: 0, or that of a fork.
ALTER TABLE installation ADD COLUMN origin_index BIGINT NOT NULL DEFAULT 0;
-- The checkpoint that the last fork explains, and the last one that the operator has told of. Empty: none.
ALTER TABLE installation ADD COLUMN forked_from TEXT NOT NULL DEFAULT '';
ALTER TABLE installation ADD COLUMN published_checkpoint TEXT NOT NULL DEFAULT '';
-- Why nothing is written; empty where it is.
ALTER TABLE installation ADD COLUMN read_only TEXT NOT NULL DEFAULT '';

-- +goose Down
SELECT 'the first version has nothing to go back to';
