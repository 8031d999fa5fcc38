package seal_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/seal"
)

func TestSeal(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "seal")
}

// line makes a key.
func line() string {
	GinkgoHelper()
	text, err := seal.GenerateKey()
	Expect(err).NotTo(HaveOccurred())
	return text
}

func parse(lines ...string) *seal.Keys {
	GinkgoHelper()
	keys, err := seal.ParseKeys([]byte(strings.Join(lines, "\n")))
	Expect(err).NotTo(HaveOccurred())
	return keys
}

var _ = Describe("Keys", func() {
	secret := []byte("correct horse battery staple")

	It("open what they sealed, where it belongs, and show nothing of it", func() {
		keys := parse(line())
		sealed, err := keys.Seal(secret, "mirror 1")
		Expect(err).NotTo(HaveOccurred())
		Expect(bytes.Contains(sealed, secret)).To(BeFalse())
		Expect(keys.Open(sealed, "mirror 1")).To(Equal(secret))
		Expect(keys.Seal(secret, "mirror 1")).NotTo(Equal(sealed), "twice the same gives nothing to compare")
		Expect(keys.Seal(nil, "mirror 1")).NotTo(BeEmpty())
	})

	It("open nothing that belongs to something else, or was changed in any byte", func() {
		keys := parse(line())
		sealed, err := keys.Seal(secret, "mirror 1")
		Expect(err).NotTo(HaveOccurred())
		_, err = keys.Open(sealed, "mirror 2")
		Expect(err).To(MatchError(ContainSubstring("belongs to something else")))
		for i := range sealed {
			changed := bytes.Clone(sealed)
			changed[i] ^= 1
			_, err := keys.Open(changed, "mirror 1")
			Expect(err).To(HaveOccurred(), "byte %d", i)
		}
		for n := range sealed {
			_, err := keys.Open(sealed[:n], "mirror 1")
			Expect(err).To(HaveOccurred(), "%d bytes", n)
		}
	})

	It("are rotated: the first seals, all open, and one that is gone is named as missing", func() {
		before, after := line(), line()
		sealed, err := parse(before).Seal(secret, "m")
		Expect(err).NotTo(HaveOccurred())
		both := parse("# the new one", after, "", before)
		Expect(both.Open(sealed, "m")).To(Equal(secret))
		Expect(both.Current(sealed)).To(BeFalse())
		again, err := both.Seal(secret, "m")
		Expect(err).NotTo(HaveOccurred())
		Expect(both.Current(again)).To(BeTrue())
		Expect(parse(after).Open(again, "m")).To(Equal(secret))
		_, err = parse(after).Open(sealed, "m")
		Expect(err).To(MatchError(seal.ErrNoKey))
		Expect(both.Current([]byte("nonsense"))).To(BeFalse())
	})

	DescribeTable("refuse what is no key, without showing it", func(content, problem string) {
		_, err := seal.ParseKeys([]byte(content))
		Expect(err).To(MatchError(ContainSubstring(problem)))
		Expect(err).NotTo(MatchError(ContainSubstring("SECRET")))
	},
		Entry("an empty file", "", "there is no key in it"),
		Entry("a comment alone", "# SECRET\n", "there is no key in it"),
		Entry("no base64", "\nSECRET!\n", "line 2: this is not a key of 32 bytes"),
		Entry("a short key", "U0VDUkVU\n", "line 1: this is not a key of 32 bytes"),
		Entry("a long key", strings.Repeat("SECRET", 16), "line 1: this is not a key of 32 bytes"),
	)
})

var _ = Describe("A file of keys", func() {
	It("is made once, for its owner only, and read each time", func() {
		path := filepath.Join(GinkgoT().TempDir(), "secret.key")
		Expect(seal.EnsureKeyFile(path)).To(Succeed())
		info, err := os.Stat(path)
		Expect(err).NotTo(HaveOccurred())
		Expect(info.Mode().Perm()).To(BeEquivalentTo(0o600))
		before, err := os.ReadFile(path)
		Expect(err).NotTo(HaveOccurred())
		Expect(seal.EnsureKeyFile(path)).To(Succeed())
		Expect(os.ReadFile(path)).To(Equal(before))
		entries, err := os.ReadDir(filepath.Dir(path))
		Expect(err).NotTo(HaveOccurred())
		Expect(entries).To(HaveLen(1))

		file := seal.KeyFile(path)
		sealed, err := file.Seal([]byte("secret"), "m")
		Expect(err).NotTo(HaveOccurred())
		Expect(file.Current(sealed)).To(BeTrue())
		Expect(os.WriteFile(path, []byte(line()+"\n"+string(before)), 0o600)).To(Succeed())
		Expect(file.Current(sealed)).To(BeFalse())
		Expect(file.Open(sealed, "m")).To(BeEquivalentTo("secret"))
	})

	It("that is not there says which, and nothing is sealed", func() {
		file := seal.KeyFile(filepath.Join(GinkgoT().TempDir(), "gone.key"))
		_, err := file.Seal([]byte("secret"), "m")
		Expect(err).To(MatchError(ContainSubstring("gone.key")))
		_, err = file.Open([]byte("sealed"), "m")
		Expect(err).To(MatchError(os.ErrNotExist))
		_, err = file.Current([]byte("sealed"))
		Expect(err).To(MatchError(os.ErrNotExist))
	})
})
