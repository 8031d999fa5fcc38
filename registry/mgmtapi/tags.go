package mgmtapi

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/auth"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/openapi"
)

const (
	// tagPage is how many tags a page has unless the client says otherwise, maxTagPage the most that it can have.
	tagPage    = 50
	maxTagPage = 100
	// maxTagPages bounds the number of a page.
	maxTagPages = 1_000_000
	// maxExpiration is the end of the year 9999 in Unix seconds: dates have four digits for the year.
	maxExpiration = 253402300799
	// maxTagHistory bounds the past digests of a tag in an answer.
	maxTagHistory = 100
)

// indexTypes are the media types of manifests that list manifests.
var indexTypes = map[string]bool{
	"application/vnd.oci.image.index.v1+json":                   true,
	"application/vnd.docker.distribution.manifest.list.v2+json": true,
}

// tagSelection is what a client wants to see of a repository's tags.
type tagSelection struct {
	core.TagQuery
	page    int64
	history bool
}

func selectTags(q query) (tagSelection, error) {
	var s tagSelection
	var err error
	if s.page, err = q.number("page", 1, 1, maxTagPages); err != nil {
		return s, err
	}
	limit, err := q.number("limit", tagPage, 1, maxTagPage)
	if err != nil {
		return s, err
	}
	s.Limit = int(limit)
	s.Offset = int(s.page-1) * s.Limit
	s.Tag = q.text("specificTag")
	if filter := q.text("filter_tag_name"); filter != "" {
		operator, value, _ := strings.Cut(filter, ":")
		switch {
		case s.Tag != "":
			return s, badField("filter_tag_name", "cannot stand beside specificTag")
		case value != "" && operator == "like":
			s.Contains = value
		case value != "" && operator == "eq":
			s.Tag = value
		default:
			return s, badField("filter_tag_name", "%q is neither like:<text> nor eq:<name>", filter)
		}
	}
	active, err := q.boolean("onlyActiveTags", true)
	if err != nil {
		return s, err
	}
	if !active && q.text("specificTag") == "" {
		return s, badField("onlyActiveTags", "false needs specificTag: the history is kept by tag")
	}
	s.history = !active && s.page == 1
	return s, nil
}

func (a *API) listTags(c *call) (answer, error) {
	name, err := c.repository()
	if err != nil {
		return answer{}, err
	}
	selection, err := selectTags(c.query)
	if err != nil {
		return answer{}, err
	}
	query := selection.TagQuery
	// One more than a page tells whether there is another.
	query.Limit++
	views, err := a.core.ListTags(c.Context(), name, query)
	if err != nil {
		return answer{}, err
	}
	if selection.Tag != "" && selection.page > 1 {
		views = nil
	}
	list := openapi.TagList{Tags: []openapi.Tag{}, Page: selection.page, HasAdditional: len(views) > selection.Limit}
	for _, view := range views[:min(len(views), selection.Limit)] {
		list.Tags = append(list.Tags, viewTag(view))
	}
	if selection.history {
		past, err := a.core.TagHistory(c.Context(), name, selection.Tag, maxTagHistory)
		if err != nil {
			return answer{}, err
		}
		for _, tag := range past {
			end := tag.Until.Unix()
			list.Tags = append(list.Tags, openapi.Tag{
				Name: tag.Name, ManifestDigest: tag.Digest.String(), StartTS: tag.From.Unix(), EndTS: &end, Expiration: rfc2822(tag.Until), LastModified: rfc2822(tag.From),
			})
		}
	}
	return ok(list), nil
}

func viewTag(view core.TagView) openapi.Tag {
	index := indexTypes[view.MediaType]
	tag := openapi.Tag{
		Name: view.Name, ManifestDigest: view.Digest.String(), IsManifestList: &index, Size: &view.Size,
		StartTS: view.UpdatedAt.Unix(), LastModified: rfc2822(view.UpdatedAt), Immutable: view.Immutable,
	}
	if !view.ExpiresAt.IsZero() {
		end := view.ExpiresAt.Unix()
		tag.EndTS, tag.Expiration = &end, rfc2822(view.ExpiresAt)
	}
	for _, lock := range view.Locks {
		item := openapi.Lock{Kind: openapi.LockKindManual, Policy: policyRef(lock.Policy), Retained: lock.Retained}
		if lock.Policy != nil {
			item.Kind = openapi.LockKindPolicy
		}
		tag.Locks = append(tag.Locks, item)
	}
	return tag
}

// tag is the repository and the tag of the path.
func (c *call) tag() (domain.RepositoryName, string, error) {
	name, err := c.repository()
	if err != nil {
		return name, "", err
	}
	tag := c.parameters["tag"]
	return name, tag, domain.ValidateTag(tag)
}

func (a *API) changeTag(c *call) (answer, error) {
	name, tag, err := c.tag()
	if err != nil {
		return answer{}, err
	}
	body, err := readBody[openapi.TagChange](c)
	if err != nil {
		return answer{}, err
	}
	if body.Immutable == nil && body.ManifestDigest == "" && body.Expiration == nil {
		return answer{}, domain.Errorf(domain.CodeInvalid, "nothing to change; give immutable, manifest_digest or expiration")
	}
	to := core.TagChange{Immutable: body.Immutable}
	if body.Expiration != nil {
		if to.Expiration, err = parseExpiration(body.Expiration); err != nil {
			return answer{}, err
		}
	}
	if body.ManifestDigest != "" {
		if to.Digest, err = parseDigest(body.ManifestDigest); err != nil {
			return answer{}, err
		}
	}
	if body.Immutable != nil && !*body.Immutable {
		if err := a.authorize(c, auth.TagManage, auth.Repository(name)); err != nil {
			return answer{}, err
		}
	}
	if err := a.core.ChangeTag(c.Context(), c.identity.Caller, name, tag, to); err != nil {
		return answer{}, err
	}
	return created("Updated"), nil
}

// parseExpiration reads whole Unix seconds, or null for never.
func parseExpiration(value json.RawMessage) (*time.Time, error) {
	if string(value) == "null" {
		return &time.Time{}, nil
	}
	seconds, err := strconv.ParseInt(string(value), 10, 64)
	if err != nil || seconds <= 0 || seconds > maxExpiration {
		return nil, badField("expiration", "a time in whole Unix seconds is needed, or null for never")
	}
	at := time.Unix(seconds, 0)
	return &at, nil
}

func (a *API) deleteTag(c *call) (answer, error) {
	name, tag, err := c.tag()
	if err != nil {
		return answer{}, err
	}
	return noContent, a.core.DeleteTag(c.Context(), c.identity.Caller, name, tag)
}

func (a *API) restoreTag(c *call) (answer, error) {
	name, tag, err := c.tag()
	if err != nil {
		return answer{}, err
	}
	body, err := readBody[openapi.TagRestore](c)
	if err != nil {
		return answer{}, err
	}
	d, err := parseDigest(body.ManifestDigest)
	if err != nil {
		return answer{}, err
	}
	return ok(struct{}{}), a.core.RestoreTag(c.Context(), c.identity.Caller, name, tag, d)
}

func parseDigest(text string) (digest.Digest, error) {
	d, err := domain.ParseDigest(text)
	if err != nil {
		return "", badField("manifest_digest", "%w", err)
	}
	return d, nil
}
