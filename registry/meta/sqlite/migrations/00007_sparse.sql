-- +goose Up
-- The manifests that were admitted before all that they refer to: some of that may be missing still.
CREATE TABLE sparse_manifests (
    manifest_id INTEGER PRIMARY KEY REFERENCES manifests (id) ON DELETE CASCADE
);

-- +goose Down
DROP TABLE sparse_manifests;
