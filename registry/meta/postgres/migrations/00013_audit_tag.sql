-- +goose Up
-- The entries about tags of a name, in whatever repository.
CREATE INDEX audit_tag_name ON audit_entries (tag, idx) WHERE idx IS NOT NULL AND tag <> '';

-- +goose Down
DROP INDEX audit_tag_name;
