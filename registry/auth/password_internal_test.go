package auth

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/domain"
)

var _ = Describe("passwordChecker", func() {
	var (
		now     time.Time
		checker *passwordChecker
		hash    passwordHash
	)

	BeforeEach(func() {
		now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
		checker = newPasswordChecker(func() time.Time { return now })
		var err error
		hash, err = hashPassword([]byte("secret"), randomSalt())
		Expect(err).NotTo(HaveOccurred())
	})

	remembered := func(name, password string) bool { return checker.remembered(checker.identify(name, password, hash)) }

	It("remembers a right password for a minute", func(ctx SpecContext) {
		Expect(checker.check(ctx, "admin", "secret", hash, true)).To(BeTrue())
		now = now.Add(passwordTTL - time.Second)
		Expect(remembered("admin", "secret")).To(BeTrue())
		now = now.Add(time.Second)
		Expect(remembered("admin", "secret")).To(BeFalse())
		Expect(checker.check(ctx, "admin", "secret", hash, true)).To(BeTrue())
		Expect(checker.right).To(HaveLen(1), "what was forgotten is gone")
	})

	It("remembers nothing else", func(ctx SpecContext) {
		Expect(checker.check(ctx, "admin", "wrong", hash, true)).To(BeFalse())
		Expect(checker.check(ctx, "root", "secret", hash, false)).To(BeFalse())
		Expect(checker.right).To(BeEmpty())
	})

	It("does not take a remembered password for another account or hash", func(ctx SpecContext) {
		Expect(checker.check(ctx, "admin", "secret", hash, true)).To(BeTrue())
		Expect(remembered("adminsecret", "")).To(BeFalse())
		Expect(remembered("root", "secret")).To(BeFalse())
		other, err := hashPassword([]byte("another"), randomSalt())
		Expect(err).NotTo(HaveOccurred())
		Expect(checker.check(ctx, "admin", "secret", other, true)).To(BeFalse())
	})

	It("bounds the checks at once, but not what is remembered", func(ctx SpecContext) {
		Expect(checker.check(ctx, "admin", "secret", hash, true)).To(BeTrue())
		for range passwordSlots {
			checker.slots <- struct{}{}
		}
		gone, cancel := context.WithCancel(ctx)
		cancel()
		_, err := checker.check(gone, "admin", "guess", hash, true)
		Expect(domain.CodeOf(err)).To(Equal(domain.CodeTooManyRequests))
		Expect(checker.check(ctx, "admin", "secret", hash, true)).To(BeTrue())
	})
})
