-- +goose Up

-- Who asked the cluster to delete the object that manages a policy, and when the registry was told.
ALTER TABLE policies ADD COLUMN deletion_user TEXT NOT NULL DEFAULT '';
ALTER TABLE policies ADD COLUMN deletion_user_uid TEXT NOT NULL DEFAULT '';
ALTER TABLE policies ADD COLUMN deletion_told_at BIGINT NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE policies DROP COLUMN deletion_told_at;
ALTER TABLE policies DROP COLUMN deletion_user_uid;
ALTER TABLE policies DROP COLUMN deletion_user;
