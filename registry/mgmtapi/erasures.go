package mgmtapi

import (
	"net/http"

	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/openapi"
)

// erasePerson takes the name in the body: paths are logged.
func (a *API) erasePerson(c *call) (answer, error) {
	body, err := readBody[openapi.PersonToErase](c)
	if err != nil {
		return answer{}, err
	}
	if err := needed(field{"name", body.Name}); err != nil {
		return answer{}, err
	}
	erasure, err := a.core.ErasePerson(c.Context(), c.identity.Caller, body.Name)
	return answer{status: http.StatusAccepted, body: viewErasure(erasure)}, err
}

func (a *API) getErasure(c *call) (answer, error) {
	erasure, err := a.core.Erasure(c.Context(), c.parameters["uuid"])
	return ok(viewErasure(erasure)), err
}

func viewErasure(e domain.Erasure) openapi.Erasure {
	view := openapi.Erasure{UUID: e.UUID, State: "running", EntriesExamined: e.Next, EntriesTotal: e.End, EntriesErased: e.Entries}
	if !e.FinishedAt.IsZero() {
		view.State = "done"
	}
	return view
}
