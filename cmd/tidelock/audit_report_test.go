package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/history"
	"github.com/tidelock/tidelock/registry/meta/postgres/postgrestest"
)

// reported is a registry that serves, for reports about it.
type reported struct {
	dir, url, password string
	process            interface{ Kill() error }
}

func serveReported(more ...string) *reported {
	GinkgoHelper()
	r := &reported{dir: GinkgoT().TempDir()}
	r.password = filepath.Join(r.dir, "password")
	Expect(os.WriteFile(r.password, []byte("secret"), 0o600)).To(Succeed())
	cmd := command(append([]string{"registry", "--data-dir", filepath.Join(r.dir, "data"), "--admin-password-file", r.password, "--listen", "127.0.0.1:0"}, more...)...)
	log, err := cmd.StderrPipe()
	Expect(err).NotTo(HaveOccurred())
	Expect(cmd.Start()).To(Succeed())
	DeferCleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for lines := bufio.NewScanner(log); lines.Scan(); {
		var record struct{ Msg, URL string }
		Expect(json.Unmarshal(lines.Bytes(), &record)).To(Succeed(), lines.Text())
		if record.Msg == "serving" {
			r.url, r.process = record.URL, cmd.Process
			go func() { _, _ = io.Copy(io.Discard, log) }() // a full pipe would stop the process
			return r
		}
	}
	Fail("the registry ended before it served")
	return nil
}

// call sends a request as admin and returns status and body.
func (r *reported) call(method, path, contentType, body string) (int, string) {
	GinkgoHelper()
	request, err := http.NewRequest(method, r.url+path, strings.NewReader(body))
	Expect(err).NotTo(HaveOccurred())
	request.SetBasicAuth("admin", "secret")
	request.Header.Set("Content-Type", contentType)
	answer, err := http.DefaultClient.Do(request)
	Expect(err).NotTo(HaveOccurred())
	defer func() { _ = answer.Body.Close() }()
	content, err := io.ReadAll(answer.Body)
	Expect(err).NotTo(HaveOccurred())
	return answer.StatusCode, string(content)
}

func (r *reported) must(method, path, body string) string {
	GinkgoHelper()
	status, answer := r.call(method, path, "application/json", body)
	Expect(status/100).To(Equal(2), answer)
	return answer
}

// image is an image manifest, told from others by an annotation. Its config and layer are the empty descriptor.
func image(title string) string {
	return fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2},"layers":[],"annotations":{"title":%q}}`, digest.FromString("{}"), title)
}

// push points tags to an image, and returns its digest and the status.
func (r *reported) push(title string, tags ...string) (d digest.Digest, status int) {
	GinkgoHelper()
	for _, tag := range tags {
		status, _ = r.call("PUT", "/v2/team-a/app/manifests/"+tag, "application/vnd.oci.image.manifest.v1+json", image(title))
	}
	return digest.FromString(image(title)), status
}

// audit runs a command of `tidelock audit` and returns its output, and its errors on failure.
func (r *reported) audit(arguments ...string) (string, error) {
	GinkgoHelper()
	cmd := command(append([]string{"audit"}, arguments...)...)
	var out, failed bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &failed
	if err := cmd.Run(); err != nil {
		return failed.String(), err
	}
	return out.String(), nil
}

func (r *reported) report(arguments ...string) (string, error) {
	GinkgoHelper()
	return r.audit(append([]string{"report", "--registry", r.url, "--password-file", r.password}, arguments...)...)
}

func (r *reported) mustReport(arguments ...string) string {
	GinkgoHelper()
	out, err := r.report(arguments...)
	Expect(err).NotTo(HaveOccurred(), out)
	return out
}

var (
	aTime   = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`)
	aUUID   = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	anEntry = regexp.MustCompile(`(?m)^(  \d+ TIME) [A-Za-z0-9+/]{43}= `)
)

// golden is a report without what is another each time.
func golden(report string) string {
	report = aUUID.ReplaceAllString(aTime.ReplaceAllString(report, "TIME"), "UUID")
	report = anEntry.ReplaceAllString(report, "$1 HASH ")
	report = regexp.MustCompile(`entry \d+, where`).ReplaceAllString(report, "entry END, where")
	report = regexp.MustCompile(`\(entry \d+\) overwrite`).ReplaceAllString(report, "(entry N) overwrite") // it meets the sweep
	before, _, _ := strings.Cut(report, "\nThe log's checkpoint\n")
	return before
}

var _ = Describe("tidelock audit report", func() {
	engines := map[string]func() []string{
		"SQLite": func() []string { return nil },
		"PostgreSQL": func() []string {
			dsn, err := postgrestest.Database(GinkgoT().TempDir())
			Expect(err).NotTo(HaveOccurred())
			return []string{"--database", dsn}
		},
	}
	for engine, settings := range engines {
		Context("on "+engine, func() {
			var r *reported
			BeforeEach(func() {
				r = serveReported(settings()...)
				r.must("POST", "/api/v1/organization/", `{"name":"team-a"}`)
				r.must("POST", "/api/v1/repository", `{"namespace":"team-a","repository":"app","visibility":"private","description":"","repo_kind":"image"}`)
				status, _ := r.call("POST", "/v2/team-a/app/blobs/uploads/?digest="+digest.FromString("{}").String(), "application/octet-stream", "{}")
				Expect(status).To(Equal(201))
			})

			// The scenario of the report that began it all: a policy over 847 tags, then an attempt on one of them.
			It("says when, why and by which policy one of 847 tags was locked, and proves it", func() {
				tags := make([]string, 847)
				for i := range tags {
					tags[i] = fmt.Sprintf("v1.%d.0", i)
				}
				standing, status := r.push("released", tags...)
				Expect(status).To(Equal(201))
				r.must("POST", "/api/v1/organization/team-a/immutabilitypolicy/", `{"tagPattern":"^v.*$"}`)
				attempted, status := r.push("overwritten", "v1.0.0")
				Expect(status).To(Equal(422))
				uuid := aUUID.FindString(r.must("GET", "/api/v1/organization/team-a/immutabilitypolicy/", ""))
				Eventually(func() string {
					return r.must("GET", "/api/v1/superuser/logs?kind=apply_immutability_policy_retroactive", "")
				}).WithTimeout(time.Minute).Should(ContainSubstring(`"tags_affected_count":847`))

				report := r.mustReport("--repository", "team-a/app", "--tag", "v1.0.0")
				size := regexp.MustCompile(`entries 0 to (\d+)`).FindStringSubmatch(report)[1]
				Expect(report).To(ContainSubstring("by policy " + uuid))
				reason := fmt.Sprintf("cannot overwrite immutable tag 'v1.0.0': %s stands, locked by namespace policy UUID (pattern ^v.*$)", standing)
				sections := strings.Split(golden(report), "\nEntries that this rests on")
				Expect(sections[0]).To(Equal(fmt.Sprintf(`Audit report of team-a/app:v1.0.0, entries 0 to %s of the log

team-a/app:v1.0.0 was locked by policy UUID (pattern ^v.*$, scope namespace, revision 1, applied by user admin, entry 849) without interruption from TIME (entry 849) to entry END, where this report ends; 1 attempt was refused.
  All the while it pointed to %s.

It pointed to
  %s from TIME (entry 2) to the end of the report, by user admin (create_tag)

Refused attempts
  TIME (entry N) overwrite by user admin, with %s: %s
`, size, standing, standing, attempted, reason)))
				Expect(report).To(MatchRegexp(`\n  849 \S+ \S{44} create_immutability_policy policy_uuid=` + uuid))
				Expect(report).To(MatchRegexp(`\n  \d+ \S+ \S{44} change_tag_immutability hold=placed policy_uuid=` + uuid + ` trigger=policy`))

				// Offline: the registry is gone.
				keys, file := filepath.Join(r.dir, "keys"), filepath.Join(r.dir, "report.json")
				Expect(os.WriteFile(keys, []byte(r.must("GET", "/api/v1/superuser/audit/keys", "")), 0o600)).To(Succeed())
				content := r.mustReport("--repository", "team-a/app", "--tag", "v1.0.0", "--format", "json")
				policy := r.mustReport("--policy", uuid)
				Expect(r.process.Kill()).To(Succeed())
				Expect(os.WriteFile(file, []byte(content), 0o600)).To(Succeed())
				out, err := r.audit("verify-report", file, "--public-key", keys)
				Expect(err).NotTo(HaveOccurred(), out)
				Expect(out).To(MatchRegexp(`^verified: 4 entries are in the log tidelock/[0-9a-f]{32} of \d+ entries, signed by \S+\nteam-a/app:v1.0.0 was locked by policy ` + uuid))

				Expect(strings.Count(policy, "locked from")).To(Equal(847))
				Expect(policy).To(ContainSubstring("The policy locked 847 tags. There were 0 windows"))
				Expect(golden(policy)).To(ContainSubstring("Revisions\n  1: pattern ^v.*$, Enforce, Retain, by user admin, from TIME (entry 849) to the end of the report\n\nTags\n  team-a/app:v1.0.0\n    locked from TIME (entry 849) to the end of the report\n"))
			})

			It("does not verify once anything in it was changed", func() {
				r.push("one", "v1")
				r.must("POST", "/api/v1/organization/team-a/immutabilitypolicy/", `{"tagPattern":"v.*"}`)
				_, status := r.push("two", "v1")
				Expect(status).To(Equal(422))
				keys, file := filepath.Join(r.dir, "keys"), filepath.Join(r.dir, "report.json")
				Expect(os.WriteFile(keys, []byte(r.must("GET", "/api/v1/superuser/audit/keys", "")), 0o600)).To(Succeed())
				content := r.mustReport("--repository", "team-a/app", "--tag", "v1", "--format", "json")
				for change, complaint := range map[string]func(*history.Report){
					"the statements do not follow": func(t *history.Report) {
						t.Statements[0] = strings.Replace(t.Statements[0], "1 attempt was", "0 attempts were", 1)
					},
					"the history does not follow": func(t *history.Report) { t.Locks[0].Reasons[0].Pattern = "w.*" },
					"is not in the log of the checkpoint": func(t *history.Report) {
						t.Entries[0].Leaf = strings.Replace(t.Entries[0].Leaf, "sha256:", "sha256:0", 1)
					},
					`its performer is not "mallory"`: func(t *history.Report) {
						t.Entries[0].Personal = bytes.ReplaceAll(t.Entries[0].Personal, []byte(`"admin"`), []byte(`"mallory"`))
					},
					"is not in its place":      func(t *history.Report) { t.Entries = append(t.Entries, t.Entries[0]) },
					"the report goes to entry": func(t *history.Report) { t.Period.To++ },
					"checkpoint:":              func(t *history.Report) { t.Checkpoint = strings.Replace(t.Checkpoint, "\n— ", "\n— x", 1) },
					`the format "v2" is not`:   func(t *history.Report) { t.Format = "v2" },
					"do not follow":            func(t *history.Report) { t.Entries = t.Entries[1:] },
				} {
					var tampered history.Report
					Expect(json.Unmarshal([]byte(content), &tampered)).To(Succeed())
					complaint(&tampered)
					changed, err := json.Marshal(tampered)
					Expect(err).NotTo(HaveOccurred())
					Expect(os.WriteFile(file, changed, 0o600)).To(Succeed())
					out, err := r.audit("verify-report", file, "--public-key", keys)
					Expect(err).To(HaveOccurred(), change)
					Expect(out).To(ContainSubstring(change))
				}
			})

			It("reports about a period, and what is gone", func() {
				r.push("one", "v1")
				policy := `{"tagPattern":"v.*","enforcementMode":"DryRun"}`
				r.must("POST", "/api/v1/organization/team-a/immutabilitypolicy/", policy)
				uuid := aUUID.FindString(r.must("GET", "/api/v1/organization/team-a/immutabilitypolicy/", ""))
				r.must("DELETE", "/api/v1/organization/team-a/immutabilitypolicy/"+uuid, "")
				r.must("DELETE", "/api/v1/organization/team-a", "")
				Expect(r.mustReport("--repository", "team-a/app", "--tag", "v1")).To(And(ContainSubstring("team-a/app:v1 was not locked before entry"), ContainSubstring(" delete_repo"), ContainSubstring(" org_delete")))
				lines := strings.Split(strings.TrimSpace(r.mustReport("--policy", uuid, "--format", "json")), "\n")
				Expect(lines).To(HaveLen(2))
				Expect(lines[0]).To(ContainSubstring(`"format":"tidelock-policy-report/v1","policy_uuid":"` + uuid))
				Expect(lines[1]).To(And(ContainSubstring(`"tag":"v1","locked":[],"unprotected":[{"from":{"index":3,`), ContainSubstring(`"cause":"dry_run"`)))
				Expect(r.mustReport("--policy", uuid)).To(MatchRegexp(`NOT PROTECTED from \S+ \(entry 3\) to \S+ \(entry 5\): the policy was on a dry run`))
				Expect(r.mustReport("--repository", "team-a/app", "--tag", "v1", "--until", "2001-01-01")).To(ContainSubstring("a period without entries"))
			})

			It("says what is wrong", func() {
				r.push("one", "v1")
				for complaint, arguments := range map[string][]string{
					"say what to report about":                                      {"--repository", "team-a/app"},
					`--format "pdf" is neither text nor json`:                       {"--repository", "team-a/app", "--tag", "v1", "--format", "pdf"},
					`since: "soon" is neither a date (YYYY-MM-DD) nor a time`:       {"--repository", "team-a/app", "--tag", "v1", "--since", "soon"},
					`until: "2026-13-01" is neither a date (YYYY-MM-DD) nor a time`: {"--policy", "x", "--until", "2026-13-01"},
					"the audit log knows no tag v2 in repository team-a/app":        {"--repository", "team-a/app", "--tag", "v2"},
					"the audit log knows no immutability policy x":                  {"--policy", "x"},
				} {
					out, err := r.report(arguments...)
					Expect(err).To(HaveOccurred())
					Expect(out).To(ContainSubstring(complaint))
				}
			})
		})
	}
})
