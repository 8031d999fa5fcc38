package mgmtapi_test

import (
	"bufio"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/openapi"
)

// watchedLog is a core whose pages of the log are watched.
type watchedLog struct {
	*core.Core
	// entries, if not 0, is all that a page may look at.
	entries int
	// failAt is the number of the page that fails, 0 for none.
	failAt  int64
	pages   atomic.Int64
	reading atomic.Int64
}

func (w *watchedLog) LogPage(ctx context.Context, q audit.Query, budget audit.Budget) (audit.Page, error) {
	w.reading.Add(1)
	defer w.reading.Add(-1)
	if w.pages.Add(1) == w.failAt {
		return audit.Page{}, domain.Unavailable(errors.New("the disk is gone"))
	}
	if w.entries > 0 {
		budget.Entries = w.entries
	}
	return w.Core.LogPage(ctx, q, budget)
}

var _ = Describe("The log", func() {
	var r *registry
	var watched *watchedLog
	var server *httptest.Server

	BeforeEach(func() {
		r = newRegistry(coreOptions)
		watched = &watchedLog{Core: r.core}
		server = serve(watched, r.clock.Now)
		DeferCleanup(server.Close)
	})

	call := func(path string) response {
		GinkgoHelper()
		return send(server, admin, "GET", path, "")
	}
	logs := func(path string) openapi.LogPage {
		GinkgoHelper()
		return into[openapi.LogPage](call(path))
	}
	tags := func(page openapi.LogPage) []string {
		found := []string{}
		for _, entry := range page.Logs {
			tag, _ := entry.Metadata["tag"].(string)
			found = append(found, tag)
		}
		return found
	}
	push := func(n int) {
		for i := range n {
			r.push("team-a/app", fmt.Sprintf("v%02d", i), "one")
		}
	}

	Describe("is searched for a text", func() {
		It("in all that an entry says, whatever the case, together with every filter", func() {
			d := r.push("team-a/backend", "v1", "one")
			r.push("team-b/web", "edge", "two")
			for text, want := range map[string]int{
				"BACKEND": 2, "create_REPO": 2, "edge": 1, strings.ToUpper(d.Encoded()[:16]): 1, "192.0.2.1": 6, "nowhere": 0,
			} {
				Expect(logs("/api/v1/superuser/logs?search="+text).Logs).To(HaveLen(want), text)
			}
			Expect(logs("/api/v1/organization/team-a/logs?search=192.0.2.1").Logs).To(HaveLen(3))
			Expect(tags(logs("/api/v1/organization/team-a/logs?search=192.0.2.1&kind=create_tag"))).To(Equal([]string{"v1"}))
			Expect(logs("/api/v1/superuser/logs?search=edge&endtime=2026-03-14T15:09:26Z").Logs).To(BeEmpty())
		})

		It("as far as one page may look, and says where to go on", func() {
			r.push("team-a/app", "wanted", "one")
			push(30)
			watched.entries = 8
			found, answers := []string{}, 0
			for next := "/api/v1/superuser/logs?search=wanted"; next != ""; answers++ {
				page := logs(next)
				found = append(found, tags(page)...)
				next = ""
				if page.NextPage != "" {
					Expect(page.Incomplete).To(BeTrue())
					next = "/api/v1/superuser/logs?search=wanted&next_page=" + page.NextPage
				} else {
					Expect(page.Incomplete).To(BeFalse())
				}
				r.push("team-a/app", fmt.Sprintf("later-%d", answers), "one")
			}
			Expect(found).To(Equal([]string{"wanted"}))
			Expect(answers).To(Equal(5), "33 entries, 8 in each answer")
		})

		It("and does not find what a person's erasure took", func() {
			leaf, err := audit.Encode("tidelock/test", audit.Entry{Kind: audit.KindLoginFailure, Caller: domain.Caller{Name: "mallory", Address: "192.0.2.66"}, Metadata: audit.Metadata{"username": "mallory", "reason": "wrong"}})
			Expect(err).NotTo(HaveOccurred())
			whole, err := audit.Decode(audit.Indexed{Record: leaf})
			Expect(err).NotTo(HaveOccurred())
			leaf.Personal = nil
			erased, err := audit.Decode(audit.Indexed{Record: leaf})
			Expect(err).NotTo(HaveOccurred())
			for _, text := range []string{"mallory", "192.0.2.66"} {
				Expect(whole.Says(text)).To(BeTrue())
				Expect(erased.Says(text)).To(BeFalse())
			}
			Expect(erased.Says("WRONG")).To(BeTrue())
		})
	})

	It("gives as many entries in a page as are asked for, up to 100", func() {
		push(30)
		Expect(logs("/api/v1/superuser/logs").Logs).To(HaveLen(20))
		page := logs("/api/v1/superuser/logs?limit=3")
		Expect(tags(page)).To(Equal([]string{"v29", "v28", "v27"}))
		Expect(page.NextPage).NotTo(BeEmpty())
		Expect(tags(logs("/api/v1/superuser/logs?limit=2&next_page=" + page.NextPage))).To(Equal([]string{"v26", "v25"}))
		Expect(logs("/api/v1/superuser/logs?limit=100").NextPage).To(BeEmpty())
	})

	DescribeTable("refuses a parameter with what is allowed", func(query, want string) {
		push(2)
		for _, path := range []string{"/api/v1/superuser/logs", "/api/v1/organization/team-a/logs", "/api/v1/repository/team-a/app/logs", "/api/v1/superuser/logs/follow", "/api/v1/superuser/aggregatelogs", "/api/v1/superuser/logs/export"} {
			if strings.HasPrefix(query, "next_page") && !strings.HasSuffix(path, "/logs") || strings.HasPrefix(query, "search") && strings.HasSuffix(path, "aggregatelogs") {
				continue
			}
			if strings.HasSuffix(path, "export") {
				path += "?format=csv&" + query
			} else {
				path += "?" + query
			}
			answer := call(path)
			Expect(answer.status).To(Equal(http.StatusBadRequest), path)
			Expect(answer.problem().Detail).To(ContainSubstring(want), path)
		}
	},
		Entry("a date of another form", "starttime=2026-03-14", `starttime: "2026-03-14" is neither a date (MM/DD/YYYY) nor a time (RFC 3339`),
		Entry("a day that there is not", "endtime=02/30/2026", `endtime: "02/30/2026" is neither a date`),
		Entry("a month first is a month", "starttime=14/03/2026", `starttime: "14/03/2026" is neither`),
		Entry("an end before the beginning", "starttime=03/15/2026&endtime=03/13/2026", `endtime: 03/13/2026 is before starttime`),
		Entry("a time that ends before it begins", "starttime=2026-03-14T12:00:00Z&endtime=2026-03-14T11:59:59Z", "endtime: "),
		Entry("a kind that there is not", "kind=create_tag&kind=push_failed", `kind: "push_failed" is no kind of entry; there are add_repo_permission, `),
		Entry("a cursor that is no number", "next_page=gAAAAABl", `next_page: "gAAAAABl" is not the next_page of a page of this log`),
		Entry("a cursor of another log", "next_page=4711", `next_page: "4711" is not the next_page of a page of this log`),
		Entry("a cursor below all", "next_page=0", `next_page: "0" is not the next_page`),
		Entry("a text that is too long", "search="+strings.Repeat("a", 257), "search: the text is longer than 256 bytes"),
		Entry("NUL", "tag=v1%00", "tag: the value is not UTF-8 without NUL"),
		Entry("what is no UTF-8", "performer=%ff%fe", "performer: the value is not UTF-8 without NUL"),
		Entry("NUL in a name", "ta%00g=v1", "the name of a parameter is not UTF-8 without NUL"),
		Entry("a date of NUL", "starttime=%00", "starttime: the value is not UTF-8 without NUL"),
		Entry("a filter twice", "tag=v1&tag=v2", "tag: the parameter stands more than once"),
		Entry("an empty filter", "policy=", "policy: the parameter must not be empty"),
	)

	It("refuses a page that is too long", func() {
		Expect(call("/api/v1/superuser/logs?limit=101").problem().Detail).To(Equal(`limit: "101" is not a whole number from 1 to 100`))
	})

	Describe("is downloaded", func() {
		read := func(path string) (*http.Response, string, error) {
			GinkgoHelper()
			request, err := http.NewRequest(http.MethodGet, server.URL+path, nil)
			Expect(err).NotTo(HaveOccurred())
			admin(request)
			answer, err := server.Client().Do(request)
			Expect(err).NotTo(HaveOccurred())
			defer func() { _ = answer.Body.Close() }()
			body, err := io.ReadAll(answer.Body)
			return answer, string(body), err
		}

		It("as JSON Lines, oldest first, in pages, with the same filters", func() {
			push(30)
			watched.entries = 4
			answer, body, err := read("/api/v1/repository/team-a/app/logs/export?format=jsonl&kind=create_tag&search=V")
			Expect(err).NotTo(HaveOccurred())
			Expect(answer.StatusCode).To(Equal(http.StatusOK))
			Expect(answer.Header.Get("Content-Type")).To(Equal("application/jsonl"))
			Expect(answer.Header.Get("Cache-Control")).To(Equal("no-store"))
			lines := bufio.NewScanner(strings.NewReader(body))
			found := 0
			for ; lines.Scan(); found++ {
				var entry openapi.LogEntry
				Expect(json.Unmarshal(lines.Bytes(), &entry)).To(Succeed())
				Expect(entry.Tag).To(Equal(fmt.Sprintf("v%02d", found)))
				Expect(entry.Address).To(Equal("192.0.2.1"))
				Expect(entry.Performer.Name).To(Equal("admin"))
				Expect(entry.Hash).To(HaveLen(64))
			}
			Expect(found).To(Equal(30))
			Expect(watched.pages.Load()).To(BeNumerically(">", 5))
		})

		It("as CSV with a header, lines that end in CRLF, and nothing that a spreadsheet would calculate", func() {
			d := r.push("team-a/app", "v1", "one")
			evil := user
			evil.Name, evil.Address = `=HYPERLINK("http://evil.example","x")`, "@SUM(1)"
			evil.TokenID = "-2+3"
			_, err := r.core.CreateOrganization(context.Background(), evil, "team-b")
			Expect(err).NotTo(HaveOccurred())
			answer, body, err := read("/api/v1/superuser/logs/export?format=csv&kind=create_tag&kind=org_create")
			Expect(err).NotTo(HaveOccurred())
			Expect(answer.Header.Get("Content-Type")).To(Equal("text/csv; charset=utf-8; header=present"))
			Expect(strings.Count(body, "\r\n")).To(Equal(4))
			Expect(strings.Count(body, "\n")).To(Equal(4))
			rows, err := csv.NewReader(strings.NewReader(body)).ReadAll()
			Expect(err).NotTo(HaveOccurred())
			Expect(rows[0]).To(Equal([]string{"index", "time", "kind", "organization", "repository", "tag", "policy", "performer_kind", "performer", "address", "token", "metadata", "hash"}))
			Expect(rows[2][:11]).To(Equal([]string{"2", "2026-03-14T15:09:26.000000Z", "create_tag", "team-a", "app", "v1", "", "user", "admin", "192.0.2.1", ""}))
			Expect(rows[2][11]).To(MatchJSON(fmt.Sprintf(`{"namespace": "team-a", "repo": "app", "tag": "v1", "manifest_digest": %q}`, d)))
			Expect(rows[3][8:11]).To(Equal([]string{`'=HYPERLINK("http://evil.example","x")`, "'@SUM(1)", "'-2+3"}))
		})

		It("with an end, while entries come in", func() {
			push(5)
			first := make(chan struct{})
			request := httptest.NewRequest(http.MethodGet, "/api/v1/superuser/logs/export?format=jsonl", nil)
			admin(request)
			watched.entries = 2
			w := &stallingWriter{ResponseRecorder: httptest.NewRecorder(), written: func() {
				select {
				case <-first:
				default:
					close(first)
					push(50)
				}
			}}
			server.Config.Handler.ServeHTTP(w, request)
			Expect(strings.Count(w.Body.String(), "\n")).To(Equal(7), "what was there when it began")
		})

		It("without holding the database while the client does not read", func() {
			push(5)
			watched.entries = 2
			request := httptest.NewRequest(http.MethodGet, "/api/v1/superuser/logs/export?format=jsonl", nil)
			admin(request)
			writes := 0
			w := &stallingWriter{ResponseRecorder: httptest.NewRecorder(), written: func() {
				writes++
				Expect(watched.reading.Load()).To(BeZero())
			}}
			server.Config.Handler.ServeHTTP(w, request)
			Expect(writes).To(BeNumerically(">=", 7))
		})

		It("whole, or visibly not: a failure in the middle cuts the connection", func() {
			push(30)
			watched.entries, watched.failAt = 10, 3
			for _, format := range []string{"jsonl", "csv"} {
				watched.pages.Store(0)
				answer, body, err := read("/api/v1/superuser/logs/export?format=" + format)
				Expect(answer.StatusCode).To(Equal(http.StatusOK))
				Expect(err).To(MatchError(io.ErrUnexpectedEOF))
				Expect(strings.Count(body, "create_tag")).To(BeNumerically("<", 30))
			}
			watched.pages.Store(2)
			answer := call("/api/v1/superuser/logs/export?format=csv")
			Expect(answer.status).To(Equal(http.StatusServiceUnavailable), "at its beginning it is an answer like any other")
		})

		It("not of what never was, and in no other format", func() {
			push(1)
			Expect(call("/api/v1/organization/nobody/logs/export?format=csv").status).To(Equal(http.StatusNotFound))
			for _, query := range []string{"", "?format=xml"} {
				answer := call("/api/v1/superuser/logs/export" + query)
				Expect(answer.status).To(Equal(http.StatusBadRequest))
				Expect(answer.problem().Detail).To(HaveSuffix("is neither jsonl nor csv"))
			}
		})
	})

	Describe("is followed", func() {
		follow := func(query string) openapi.LogTail {
			GinkgoHelper()
			return into[openapi.LogTail](call("/api/v1/superuser/logs/follow?" + query))
		}
		seen := func(tail openapi.LogTail) []string {
			found := []string{}
			for _, entry := range tail.Entries {
				found = append(found, entry.Tag)
			}
			return found
		}

		It("from its newest entries on, waiting for more", func() {
			Expect(follow("").Next).To(Equal(int64(-1)), "an empty log")
			push(5)
			tail := follow("limit=2")
			Expect(seen(tail)).To(Equal([]string{"v03", "v04"}))
			Expect(tail.Next).To(Equal(int64(6)))
			Expect(tail.Origin).To(HavePrefix("tidelock/"))
			Expect(follow("limit=0")).To(And(HaveField("Next", int64(6)), HaveField("Entries", BeEmpty())))
			Expect(follow("after=6")).To(And(HaveField("Next", int64(6)), HaveField("Entries", BeEmpty())))
			got := make(chan openapi.LogTail, 1)
			go func() {
				defer GinkgoRecover()
				got <- follow("after=6&wait=30")
			}()
			Consistently(got).WithTimeout(50 * time.Millisecond).ShouldNot(Receive())
			r.push("team-a/app", "new", "one")
			var next openapi.LogTail
			Eventually(got).WithTimeout(soon).Should(Receive(&next))
			Expect(seen(next)).To(Equal([]string{"new"}))
			Expect(next.Next).To(Equal(int64(7)))
		})

		It("through filters, without looking twice at what they pass over", func() {
			push(5)
			Expect(seen(follow("limit=1&tag=v02"))).To(Equal([]string{"v02"}))
			tail := follow("after=4&tag=nothing")
			Expect(tail).To(And(HaveField("Next", int64(6)), HaveField("Entries", BeEmpty())))
			got := make(chan openapi.LogTail, 1)
			go func() {
				defer GinkgoRecover()
				got <- follow("after=6&wait=30&search=WANTED")
			}()
			r.push("team-a/app", "other", "one")
			r.push("team-a/app", "wanted", "one")
			var next openapi.LogTail
			Eventually(got).WithTimeout(soon).Should(Receive(&next))
			Expect(seen(next)).To(Equal([]string{"wanted"}))
		})

		It("in parts that no answer has to look further than", func() {
			push(30)
			watched.entries = 10
			after, answers, found := int64(-1), 0, []string{}
			for more := true; more; answers++ {
				tail := follow(url.Values{"after": {fmt.Sprint(after)}, "search": {"v2"}, "wait": {"0"}}.Encode())
				found = append(found, seen(tail)...)
				after, more = tail.Next, tail.Incomplete
			}
			Expect(found).To(HaveLen(10))
			Expect(answers).To(BeNumerically(">=", 4))
			Expect(after).To(Equal(int64(31)))
		})

		It("not beyond its end, which another log may have", func() {
			push(2)
			answer := call("/api/v1/superuser/logs/follow?after=4")
			Expect(answer.status).To(Equal(http.StatusConflict))
			Expect(answer.problem().ErrorType).To(Equal(openapi.ErrorTypeStale))
			for _, query := range []string{"after=-2", "after=1&limit=0", "limit=501", "wait=31", "after=x"} {
				Expect(call("/api/v1/superuser/logs/follow?"+query).status).To(Equal(http.StatusBadRequest), query)
			}
		})
	})
})

// stallingWriter tells of each write before it takes it.
type stallingWriter struct {
	*httptest.ResponseRecorder
	written func()
}

func (w *stallingWriter) Write(p []byte) (int, error) {
	w.written()
	return w.ResponseRecorder.Write(p)
}
