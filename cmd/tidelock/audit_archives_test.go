package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta/metatest"
	"github.com/tidelock/tidelock/registry/retention"
)

// prunedLog makes a log of which a part is in archives, and returns the files of an export of the rest, of the public key,
// and of the archives.
func prunedLog(t *testing.T) (export, key string, archives []string) {
	g, dir, ctx := NewWithT(t), t.TempDir(), t.Context()
	keys := audit.KeyFile(filepath.Join(dir, "audit.key"))
	g.Expect(audit.EnsureKeyFile(string(keys))).To(Succeed())
	store, err := metatest.OpenSQLite(dir, slog.New(slog.DiscardHandler))
	g.Expect(err).NotTo(HaveOccurred())
	var years atomic.Int64
	now := func() time.Time { return time.Date(2025+int(years.Load()), 1, 1, 10, 0, 0, 0, time.UTC) }
	c := core.New(store, core.Options{Logger: slog.New(slog.DiscardHandler), AuditKeys: keys, Now: now})
	running, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- c.Run(running) }()
	t.Cleanup(func() {
		cancel()
		g.Eventually(done).WithTimeout(time.Minute).Should(Receive(BeNil()))
		g.Expect(store.Close()).To(Succeed())
	})
	organizations := 0
	create := func(n int) {
		for range n {
			organizations++
			_, err := c.CreateOrganization(ctx, domain.Caller{Name: "admin", Kind: domain.CallerUser}, fmt.Sprintf("team-%d", organizations))
			g.Expect(err).NotTo(HaveOccurred())
		}
		_, err := c.Checkpoint(ctx) // all is indexed
		g.Expect(err).NotTo(HaveOccurred())
	}
	folder := filepath.Join(dir, "archives")
	g.Expect(os.Mkdir(folder, 0o700)).To(Succeed())
	to, err := retention.OpenStore(folder)
	g.Expect(err).NotTo(HaveOccurred())
	for range 2 {
		create(10)
		years.Add(2)
		create(1)
		g.Expect(retention.New(retention.Options{Core: c, Store: to, Period: 400 * 24 * time.Hour, Now: now, Logger: slog.New(slog.DiscardHandler)}).Prune(ctx)).To(Succeed())
	}
	write, err := c.ExportLog(ctx, 0, 0)
	g.Expect(err).NotTo(HaveOccurred())
	var content bytes.Buffer
	g.Expect(write(&content)).To(Succeed())
	export, key = filepath.Join(dir, "export.jsonl"), filepath.Join(dir, "key.pub")
	g.Expect(os.WriteFile(export, content.Bytes(), 0o600)).To(Succeed())
	public, err := c.AuditPublicKeys()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(os.WriteFile(key, []byte(strings.Join(public, "\n")), 0o600)).To(Succeed())
	archives, err = filepath.Glob(filepath.Join(folder, "*.jsonl.gz"))
	g.Expect(err).NotTo(HaveOccurred())
	return export, key, archives
}

func TestVerifyHoldsArchivesAgainstTheExport(t *testing.T) {
	g := NewWithT(t)
	export, key, archives := prunedLog(t)
	g.Expect(archives).To(HaveLen(2))
	verify := func(files ...string) (string, error) {
		cmd, out := newAuditVerifyCommand(), &bytes.Buffer{}
		cmd.SetOut(out)
		cmd.SetErr(out)
		cmd.SilenceUsage = true
		cmd.SetArgs(append([]string{"--public-key", key}, files...))
		err := cmd.Execute()
		return out.String(), err
	}
	out, err := verify(append([]string{export}, archives...)...)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(out).To(ContainSubstring("22 of them were pruned, their hashes are there; 22 of those are in the archives"))
	out, err = verify(export)
	g.Expect(err).NotTo(HaveOccurred(), "the hashes alone verify")
	g.Expect(out).To(ContainSubstring("; 0 of those"))

	_, err = verify(export, archives[0])
	g.Expect(err).To(MatchError(ContainSubstring("it was pruned, and is in none of the archives")))
	_, err = verify(export, archives[1])
	g.Expect(err).To(MatchError(ContainSubstring("entry 0: it was pruned, and is in none of the archives")))

	content, err := os.ReadFile(archives[0])
	g.Expect(err).NotTo(HaveOccurred())
	content[len(content)/2] ^= 1
	g.Expect(os.WriteFile(archives[0], content, 0o600)).To(Succeed())
	_, err = verify(append([]string{export}, archives...)...)
	g.Expect(err).To(MatchError(ContainSubstring(archives[0])))

	elsewhere, _, foreign := prunedLog(t)
	g.Expect(elsewhere).NotTo(Equal(export))
	_, err = verify(export, foreign[0])
	g.Expect(err).To(MatchError(ContainSubstring("not signed with a key that was given")))
}
