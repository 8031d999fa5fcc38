package controllers

import (
	"sync"
	"time"
)

// meterWindow is over how many seconds a rate is taken.
const meterWindow = 30

// meter tells how often something happened lately.
type meter struct {
	mu sync.Mutex
	// first is the first second that something was counted in; counts has the last meterWindow full seconds and the
	// running one, each at its Unix time modulo the length, and last is the newest of them.
	first, last int64
	counts      [meterWindow + 1]int64
}

// add counts one more.
func (m *meter) add(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	second := now.Unix()
	if m.first == 0 {
		m.first, m.last = second, second
	}
	m.advance(second)
	m.counts[second%int64(len(m.counts))]++
}

// perSecond returns the mean of the full seconds of the window, of those since the first count if they are fewer.
func (m *meter) perSecond(now time.Time) int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	second := now.Unix()
	seconds := min(second-m.first, meterWindow)
	if m.first == 0 || seconds <= 0 {
		return 0
	}
	m.advance(second)
	var sum int64
	for at, n := range m.counts {
		if int64(at) != second%int64(len(m.counts)) {
			sum += n
		}
	}
	return (sum + seconds/2) / seconds
}

// advance forgets what is older than the window. A clock that goes back counts on in the newest second.
func (m *meter) advance(second int64) {
	for from := max(m.last, second-int64(len(m.counts))) + 1; from <= second; from++ {
		m.counts[from%int64(len(m.counts))] = 0
	}
	m.last = max(m.last, second)
}
