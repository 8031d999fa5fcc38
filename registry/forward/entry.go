package forward

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/tidelock/tidelock/registry/audit"
)

// Entry is an entry of the audit log as receivers get it.
type Entry struct {
	// Origin and Index name the entry for ever.
	Origin string `json:"origin"`
	Index  int64  `json:"index"`
	// Hash is that of the entry's leaf in the Merkle tree, in base64.
	Hash      tlog.Hash  `json:"hash"`
	Time      time.Time  `json:"time"`
	Kind      audit.Kind `json:"kind"`
	Performer *Performer `json:"performer,omitempty"`
	IP        string     `json:"ip,omitempty"`
	// Metadata has the organization as "namespace", the path in it as "repo", "tag" and so on.
	Metadata map[string]any `json:"metadata"`

	subject string
}

// Performer is who did it. The name is missing where there is none, or where it was erased.
type Performer struct {
	Kind string `json:"kind"`
	Name string `json:"name,omitempty"`
}

func newEntry(origin string, view audit.View) Entry {
	e := Entry{
		Origin: origin, Index: view.Index, Hash: view.Hash, Time: view.Time, Kind: view.Kind, IP: view.Address, Metadata: view.Metadata,
		subject: subject(view),
	}
	if view.PerformerKind != "" {
		e.Performer = &Performer{Kind: string(view.PerformerKind), Name: view.Performer}
	}
	return e
}

// subject is what an entry is about: "organization/path:tag", or as much of that as there is.
func subject(view audit.View) string {
	text := view.Organization
	if view.Repository != "" {
		text += "/" + view.Repository
	}
	if view.Tag != "" {
		text += ":" + view.Tag
	}
	return text
}

// line is the entry as a line of JSON, with its end.
func (e Entry) line() ([]byte, error) {
	line, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("audit entry %d: %w", e.Index, err)
	}
	return append(line, '\n'), nil
}

// event is an entry as a CloudEvent of version 1.0, in JSON.
type event struct {
	SpecVersion     string    `json:"specversion"`
	ID              string    `json:"id"`
	Source          string    `json:"source"`
	Type            string    `json:"type"`
	Subject         string    `json:"subject,omitempty"`
	Time            time.Time `json:"time"`
	DataContentType string    `json:"datacontenttype"`
	Data            Entry     `json:"data"`
}

// eventType stands before the kind of an entry in the type of its event.
const eventType = "dev.tidelock.registry.audit."

// event returns the entry's CloudEvent. Source and id name it for ever, so receivers know one that comes again.
func (e Entry) event() event {
	return event{
		SpecVersion: "1.0", ID: strconv.FormatInt(e.Index, 10), Source: e.Origin, Type: eventType + string(e.Kind), Subject: e.subject, Time: e.Time,
		DataContentType: "application/json", Data: e,
	}
}

// batchID names the entries of a batch: a batch that is sent again has the same.
func batchID(batch []Entry) string {
	first, last := batch[0], batch[len(batch)-1]
	return fmt.Sprintf("%s_%d_%d", strings.ReplaceAll(first.Origin, "/", "_"), first.Index, last.Index)
}
