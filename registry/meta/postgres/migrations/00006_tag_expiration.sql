-- +goose Up
-- When a tag is to be deleted; 0: never. A tag is live until it is deleted.
ALTER TABLE tags ADD COLUMN expires_at BIGINT NOT NULL DEFAULT 0;
CREATE INDEX tags_expires ON tags (expires_at, id) WHERE expires_at > 0;

-- By name too: signature tags are found by the beginning of their names.
DROP INDEX tags_manifest;
CREATE INDEX tags_manifest ON tags (manifest_id, name);

-- +goose Down
SELECT 'the first version has nothing to go back to';
