-- +goose Up

-- The source revision that the object which manages a policy claims, and what queued a sweep.
ALTER TABLE policies ADD COLUMN manager_revision_claimed TEXT NOT NULL DEFAULT '';
ALTER TABLE sweeps ADD COLUMN cause TEXT NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE sweeps DROP COLUMN cause;
ALTER TABLE policies DROP COLUMN manager_revision_claimed;
