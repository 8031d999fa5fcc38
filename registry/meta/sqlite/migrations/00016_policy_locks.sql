-- +goose Up

-- Until when a policy can be neither weakened nor deleted (0: it can), up to when that was broken by hand, and what was
-- refused last of the object that manages the policy, so that the same attempt is one entry of the log.
ALTER TABLE policies ADD COLUMN locked_until INTEGER NOT NULL DEFAULT 0;
ALTER TABLE policies ADD COLUMN unlocked_until INTEGER NOT NULL DEFAULT 0;
ALTER TABLE policies ADD COLUMN refused_change TEXT NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE policies DROP COLUMN refused_change;
ALTER TABLE policies DROP COLUMN unlocked_until;
ALTER TABLE policies DROP COLUMN locked_until;
