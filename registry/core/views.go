package core

import (
	"context"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
)

// operationView is the operation of entries that say who looked at something.
const operationView = "view"

// Viewed records that a caller looks at something of an organization or of a repository in it; both are empty for what is
// of the whole registry. It returns once the entry is committed, or the view is counted as a repeat of one in the last
// minute; an error means that it could not be recorded.
func (c *Core) Viewed(ctx context.Context, caller domain.Caller, kind audit.Kind, organization, repository string) error {
	return c.recordRefusals(ctx, caller, []refusal{{
		kind: kind, operation: operationView, about: subject{organization: organization, repository: repository}, metadata: audit.Metadata{"operation": operationView},
	}})
}
