-- +goose Up
-- Which replica does what only one may do at a time: the holder makes the beat grow as long as it lives.
CREATE TABLE leases (
    name   TEXT    PRIMARY KEY,
    holder TEXT    NOT NULL, -- empty: given back
    beat   INTEGER NOT NULL
) WITHOUT ROWID;

-- +goose Down
DROP TABLE leases;
