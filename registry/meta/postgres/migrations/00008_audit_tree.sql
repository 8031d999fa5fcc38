-- +goose Up
-- The Merkle tree of the audit log, in tiles: hashes of 32 bytes, at most 256 of them, of one level. The sequencer writes
-- them; entries that came before are put into the tree when it starts.
CREATE TABLE audit_tiles (
    level  INTEGER NOT NULL,
    n      BIGINT  NOT NULL, -- counted from 0 within the level
    hashes BYTEA   NOT NULL,
    PRIMARY KEY (level, n)
);
ALTER TABLE audit_tiles ALTER COLUMN hashes SET STORAGE EXTERNAL; -- hashes cannot be compressed

-- +goose Down
DROP TABLE audit_tiles;
