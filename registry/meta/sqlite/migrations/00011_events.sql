-- +goose Up

-- What becomes a Kubernetes Event of a policy: each tag, or one summary of each sweep. A sweep keeps to what stood when it
-- was queued.
ALTER TABLE policies ADD COLUMN events TEXT NOT NULL DEFAULT 'PerTag';
ALTER TABLE sweeps ADD COLUMN events TEXT NOT NULL DEFAULT 'PerTag';

-- +goose Down
ALTER TABLE sweeps DROP COLUMN events;
ALTER TABLE policies DROP COLUMN events;
