package main

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
	"text/tabwriter"
	"time"
)

// table collects figures; a figure that something was promised about says whether it was reached. Beside each stands
// how busy the machine was at its end: the load average of the last minute, of what is measured and of everything else.
type table struct {
	part string
	rows []row
}

type row struct {
	part, what, value, wanted, reached, load string
}

// add adds a figure.
func (t *table) add(what, value string) {
	t.rows = append(t.rows, row{part: t.part, what: what, value: value, load: load()})
}

// limit adds a figure that may be at most most.
func (t *table) limit(what string, value, most float64, unit string) {
	t.judge(what, value, "at most "+figure(most, unit), value <= most, unit)
}

// goal adds a figure that should be at least least.
func (t *table) goal(what string, value, least float64, unit string) {
	t.judge(what, value, "at least "+figure(least, unit), value >= least, unit)
}

func (t *table) judge(what string, value float64, wanted string, reached bool, unit string) {
	answer := "yes"
	if !reached {
		answer = "NO"
	}
	t.rows = append(t.rows, row{part: t.part, what: what, value: figure(value, unit), wanted: wanted, reached: answer, load: load()})
}

// ratio adds a ratio that should be at least least, if that is promised of the engine.
func (t *table) ratio(e engine, what string, value, least float64) {
	if !e.promised {
		t.add(what, figure(value, "×"))
		return
	}
	t.goal(what, value, least, "×")
}

func figure(value float64, unit string) string {
	digits := 0
	if value < 10 && value != float64(int(value)) {
		digits = 2
	} else if value < 100 && value != float64(int(value)) {
		digits = 1
	}
	return fmt.Sprintf("%.*f%s", digits, value, unit)
}

func (t *table) print(w io.Writer) {
	columns := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(columns, "PART\tWHAT\tMEASURED\tWANTED\tREACHED\tLOAD")
	for _, r := range t.rows {
		fmt.Fprintf(columns, "%s\t%s\t%s\t%s\t%s\t%s\n", r.part, r.what, r.value, r.wanted, r.reached, r.load)
	}
	_ = columns.Flush()
}

// samples are the times of single operations.
type samples []time.Duration

// quantile returns the time that the share q of the operations does not exceed; 0 of none.
func (s samples) quantile(q float64) time.Duration {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

func median[T cmp.Ordered](values []T) T {
	return slices.Sorted(slices.Values(values))[len(values)/2]
}

// shortest writes a time with three digits.
func shortest(d time.Duration) string {
	for _, unit := range []struct {
		length time.Duration
		name   string
	}{{time.Second, "s"}, {time.Millisecond, "ms"}, {time.Microsecond, "µs"}} {
		if d >= unit.length {
			value := float64(d) / float64(unit.length)
			return fmt.Sprintf("%.*f %s", max(0, 2-int(math.Log10(value))), value, unit.name)
		}
	}
	return d.String()
}
