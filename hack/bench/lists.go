package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
)

const (
	// listPage is how many names are asked for at once.
	listPage = 1000
	// listBatch is how many names are stored in one transaction.
	listBatch = 20_000
	// listReads is how often each page is read in a round.
	listReads = 20
)

// lists measures one page of a long list of tags, and one of a long catalog, at the beginning, in the middle and at the
// end. The names are stored beforehand, straight in the database.
func lists(ctx context.Context, o options, t *table) error {
	for _, e := range o.engines {
		start := time.Now()
		s, err := startTidelock(ctx, o, e, "lists-"+e.name, func(ctx context.Context, store meta.Store) error { return fillLists(ctx, store, o.names) })
		if err != nil {
			return err
		}
		t.add(fmt.Sprintf("%d tags and as many repositories stored first, %s", o.names, e.name), figure(time.Since(start).Seconds(), " s"))
		err = readLists(ctx, o, e, newClient(s, 1), t)
		s.stop()
		if err != nil {
			return err
		}
	}
	return nil
}

// listedName is the name with a number, of a tag or of a repository's last segment: in the order of the numbers.
func listedName(number int) string { return fmt.Sprintf("v%09d", number) }

// fillLists makes a repository with many tags on one manifest, and many empty repositories. The core would write an
// entry for each, which lists do not read.
func fillLists(ctx context.Context, store meta.Store, names int) error {
	now := time.Now()
	organization, repository := int64(0), int64(0)
	insert := func(path string, tx *meta.Tx) (int64, error) {
		return tx.InsertRepository(domain.Repository{
			OrganizationID: organization, Name: domain.RepositoryName{Organization: benchOrganization, Path: path}, Visibility: domain.Private, CreatedAt: now,
		})
	}
	var manifest int64
	err := store.Write(ctx, meta.Scope{}, func(tx *meta.Tx) (err error) {
		if organization, err = tx.InsertOrganization(benchOrganization, domain.Owner{}, now); err != nil {
			return err
		}
		if repository, err = insert("app", tx); err != nil {
			return err
		}
		content := []byte(`{"schemaVersion":2,"mediaType":"` + indexType + `","manifests":[]}`)
		manifest, err = tx.InsertManifest(repository, domain.Manifest{
			Digest: digest.FromBytes(content), MediaType: indexType, Size: int64(len(content)), Content: content, CreatedAt: now,
		})
		return err
	})
	for first := 0; first < names && err == nil; first += listBatch {
		err = store.Write(ctx, meta.Scope{}, func(tx *meta.Tx) error {
			for number := first; number < min(first+listBatch, names); number++ {
				if _, err := tx.InsertTag(repository, listedName(number), manifest, 0, now); err != nil {
					return err
				}
				if _, err := insert("many/"+listedName(number), tx); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return err
}

func readLists(ctx context.Context, o options, e engine, c *client, t *table) error {
	places := []struct {
		name string
		last int // -1: the first page
	}{{"beginning", -1}, {"middle", o.names / 2}, {"end", o.names - listPage - 1}}
	for _, list := range []struct{ name, path, before string }{
		{"tags", "/v2/" + benchOrganization + "/app/tags/list", ""},
		{"catalog", "/v2/_catalog", benchOrganization + "/many/"},
	} {
		times := make([]samples, len(places))
		for round := range o.rounds + 1 {
			for i, place := range places {
				query := url.Values{"n": {fmt.Sprint(listPage)}}
				if place.last >= 0 {
					query.Set("last", list.before+listedName(place.last))
				}
				for range listReads {
					took, err := c.page(ctx, list.path+"?"+query.Encode())
					if err != nil {
						return err
					}
					if round > 0 {
						times[i] = append(times[i], took)
					}
				}
			}
		}
		for i, place := range places {
			t.limit(fmt.Sprintf("%s, %d of %d names, %s, %s (p95 %s): p50", list.name, listPage, o.names, place.name, e.name, shortest(times[i].quantile(0.95))),
				float64(times[i].quantile(0.5).Microseconds())/1000, 10, " ms")
		}
	}
	return nil
}

// page reads a page and checks that it is full. The time ends with the last byte; reading it as JSON is the client's.
func (c *client) page(ctx context.Context, target string) (time.Duration, error) {
	start := time.Now()
	a, err := c.do(ctx, http.MethodGet, target, "", nil, http.StatusOK)
	took := time.Since(start)
	if err != nil {
		return 0, err
	}
	var list struct{ Repositories, Tags []string }
	if err := json.Unmarshal(a.content, &list); err != nil {
		return 0, err
	}
	if got := len(list.Repositories) + len(list.Tags); got != listPage {
		return 0, fmt.Errorf("%s has %d names, not %d", target, got, listPage)
	}
	return took, nil
}
