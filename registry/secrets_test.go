package registry

import (
	"context"
	"os"
	"path/filepath"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/blob/s3/s3test"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta/postgres/postgrestest"
	"github.com/tidelock/tidelock/registry/seal"
)

var _ = Describe("credentials of mirrors", func() {
	ctx := context.Background()
	spec := domain.MirrorSpec{Source: domain.MirrorSource{Type: domain.UpstreamOCI, URL: "https://upstream.example.com"}, Schedule: domain.MirrorSchedule{Interval: time.Hour}}
	secrets := domain.MirrorSecrets{Username: "puller", Password: "a password nobody sees"}
	open := func(cfg Config) *Registry {
		GinkgoHelper()
		r, err := New(cfg)
		Expect(err).NotTo(HaveOccurred())
		return r
	}
	mirror := func(r *Registry) {
		GinkgoHelper()
		_, err := r.core.CreateOrganization(ctx, domain.System, "team-a")
		Expect(err).NotTo(HaveOccurred())
		_, err = r.core.CreateMirror(ctx, domain.System, "team-a", spec, secrets)
		Expect(err).NotTo(HaveOccurred())
	}

	It("are sealed with a key of the data directory, and again with the first one at the start", func() {
		cfg := settings()
		r := open(cfg)
		file := filepath.Join(cfg.DataDir, "secret.key")
		info, err := os.Stat(file)
		Expect(err).NotTo(HaveOccurred())
		Expect(info.Mode().Perm()).To(BeEquivalentTo(0o600))
		mirror(r)
		Expect(r.Close()).To(Succeed())

		before, err := os.ReadFile(file)
		Expect(err).NotTo(HaveOccurred())
		first, err := seal.GenerateKey()
		Expect(err).NotTo(HaveOccurred())
		cfg.SecretKeyFile = write(filepath.Dir(cfg.DataDir), "keys", first+"\n"+string(before))
		Expect(open(cfg).Close()).To(Succeed())
		Expect(os.WriteFile(cfg.SecretKeyFile, []byte(first), 0o600)).To(Succeed())
		r = open(cfg)
		claim, _, err := r.core.ClaimMirrorSync(ctx, "replica")
		Expect(err).NotTo(HaveOccurred())
		Expect(claim.Secrets).To(Equal(secrets))
		Expect(r.Close()).To(Succeed())

		cfg.SecretKeyFile = write(filepath.Dir(cfg.DataDir), "no-keys", "not a key\n")
		_, err = New(cfg)
		Expect(err).To(MatchError(And(ContainSubstring("no-keys: line 1: this is not a key"), Not(ContainSubstring("not a key\n")))))
		cfg.SecretKeyFile = filepath.Join(cfg.DataDir, "gone")
		_, err = New(cfg)
		Expect(err).To(MatchError(os.ErrNotExist))
	})

	It("need a file of keys where there is no data directory", func() {
		objects := s3test.New(GinkgoT())
		GinkgoT().Setenv("AWS_ACCESS_KEY_ID", s3test.AccessKey)
		GinkgoT().Setenv("AWS_SECRET_ACCESS_KEY", s3test.SecretKey)
		dsn, err := postgrestest.Database("secrets")
		Expect(err).NotTo(HaveOccurred())
		cfg := settings()
		dir := filepath.Dir(cfg.DataDir)
		r := open(cfg)
		Expect(r.Close()).To(Succeed())
		cfg.AuditKeyFile = filepath.Join(cfg.DataDir, auditKeyFile)
		cfg.DataDir, cfg.Database, cfg.BlobStore = "", dsn, "s3://"+objects.Bucket()+"?endpoint=http://"+objects.Address
		Expect(open(cfg).Close()).To(Succeed())
		cfg.SecretKeyFile = filepath.Join(dir, "secret.key")
		Expect(seal.EnsureKeyFile(cfg.SecretKeyFile)).To(Succeed())
		r = open(cfg)
		mirror(r)
		Expect(r.Close()).To(Succeed())
		cfg.SecretKeyFile = ""
		_, err = New(cfg)
		Expect(err).To(MatchError(ContainSubstring("start it with --secret-key-file")))
	})
})
