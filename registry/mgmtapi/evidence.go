package mgmtapi

import (
	"math"
	"net/http"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/tidelock/tidelock/registry/openapi"
)

// plainText is the type of what people and note's tools read as it is.
const plainText = "text/plain; charset=utf-8"

func (a *API) getCheckpoint(c *call) (answer, error) {
	signed, err := a.core.SignedCheckpoint(c.Context())
	return answer{status: http.StatusOK, raw: signed, contentType: plainText}, err
}

func (a *API) listAuditKeys(*call) (answer, error) {
	keys, err := a.core.AuditPublicKeys()
	return answer{status: http.StatusOK, raw: []byte(strings.Join(keys, "\n") + "\n"), contentType: plainText}, err
}

func (a *API) getEvidence(c *call) (answer, error) {
	text := c.parameters["index"]
	index, err := strconv.ParseInt(text, 10, 64)
	if err != nil || index < 0 {
		return answer{}, badField("index", "%q is not the index of an entry", text)
	}
	entry, err := a.core.LogEntry(c.Context(), index)
	if err != nil {
		return answer{}, err
	}
	view := openapi.Evidence{Index: entry.Index, Hash: entry.Hash.String(), Leaf: string(entry.Leaf), Personal: entry.Personal}
	if len(entry.Leaf) == 0 {
		archive, err := a.core.LogArchive(c.Context(), index)
		if err != nil {
			return answer{}, err
		}
		view.Archive = archive.Name
	}
	return ok(view), nil
}

// needNumber reads a whole number from 0 that must be given.
func (q query) needNumber(name string) (int64, error) {
	if q.text(name) == "" {
		return 0, badField(name, "the parameter is required")
	}
	return q.number(name, 0, 0, math.MaxInt64)
}

func (a *API) proveInclusion(c *call) (answer, error) {
	index, err := c.query.needNumber("index")
	if err != nil {
		return answer{}, err
	}
	size, err := c.query.number("size", 0, 1, math.MaxInt64)
	if err != nil {
		return answer{}, err
	}
	proof, err := a.core.InclusionProof(c.Context(), index, size)
	if err != nil {
		return answer{}, err
	}
	return ok(openapi.InclusionProof{
		Index: proof.Index, Size: proof.Size, Hash: proof.Hash.String(), Root: proof.Root.String(), Proof: hashTexts(proof.Proof),
	}), nil
}

func (a *API) proveConsistency(c *call) (answer, error) {
	from, err := c.query.needNumber("from")
	if err != nil {
		return answer{}, err
	}
	to, err := c.query.number("to", 0, 1, math.MaxInt64)
	if err != nil {
		return answer{}, err
	}
	proof, err := a.core.ConsistencyProof(c.Context(), from, to)
	if err != nil {
		return answer{}, err
	}
	return ok(openapi.ConsistencyProof{From: proof.From, To: proof.To, Proof: hashTexts(proof.Proof)}), nil
}

func (a *API) exportEvidence(c *call) (answer, error) {
	from, err := c.query.number("from", 0, 0, math.MaxInt64)
	if err != nil {
		return answer{}, err
	}
	to, err := c.query.number("to", 0, 1, math.MaxInt64)
	if err != nil {
		return answer{}, err
	}
	stream, err := a.core.ExportLog(c.Context(), from, to)
	return answer{status: http.StatusOK, contentType: "application/jsonl", stream: stream}, err
}

// hashTexts writes hashes in base64.
func hashTexts(hashes []tlog.Hash) []string {
	texts := make([]string, len(hashes))
	for i, hash := range hashes {
		texts[i] = hash.String()
	}
	return texts
}
