package controllers

import (
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("The meter of Events", func() {
	at := func(second int) time.Time { return time.Unix(1_800_000_000+int64(second), 500) }

	It("takes the mean of the last full seconds", func() {
		var m meter
		Expect(m.perSecond(at(0))).To(BeZero())
		count := func(second, n int) {
			for range n {
				m.add(at(second))
			}
		}
		count(0, 500)
		Expect(m.perSecond(at(0))).To(BeZero(), "the first second is not over")
		Expect(m.perSecond(at(1))).To(Equal(int64(500)))
		for second := 1; second < 40; second++ {
			count(second, 500)
		}
		Expect(m.perSecond(at(40))).To(Equal(int64(500)))
		count(40, 9000)
		Expect(m.perSecond(at(40))).To(Equal(int64(500)), "the running second does not count")
		Expect(m.perSecond(at(41))).To(Equal(int64((29*500 + 9000) / 30)))
		Expect(m.perSecond(at(56))).To(Equal(int64((14*500 + 9000 + 15) / 30)))
		Expect(m.perSecond(at(71))).To(BeZero(), "nothing happened for longer than the window")
		count(1000, 30)
		Expect(m.perSecond(at(1001))).To(Equal(int64(1)))
	})
})
