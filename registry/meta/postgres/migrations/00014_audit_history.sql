-- +goose Up
-- What the history of a tag needs beside the tag's own entries: the few that concern all tags of a repository or organization.
CREATE INDEX audit_policy_changes ON audit_entries (organization, idx) WHERE idx IS NOT NULL
    AND kind IN ('create_immutability_policy', 'update_immutability_policy', 'delete_immutability_policy');
CREATE INDEX audit_shared ON audit_entries (organization, idx) WHERE idx IS NOT NULL AND tag = ''
    AND kind IN ('delete_repo', 'org_delete', 'push_repo_failed', 'delete_tag_failed', 'delete_repo_failed', 'org_delete_failed');

-- +goose Down
DROP INDEX audit_policy_changes;
DROP INDEX audit_shared;
