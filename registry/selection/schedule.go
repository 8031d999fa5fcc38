package selection

import (
	"strings"
	"time"

	"github.com/robfig/cron/v3"

	"github.com/tidelock/tidelock/registry/domain"
)

// Schedule says when a mirror is to be synced. It knows nothing of jitter, of failures, or of suspension.
type Schedule struct {
	interval time.Duration
	cron     cron.Schedule
	startAt  time.Time
}

// fields are those of a standard expression. Names such as @daily and time zones are left out: everything is UTC.
var fields = cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow)

// NewSchedule reads a schedule. The error is a *domain.Error with code INVALID.
func NewSchedule(spec domain.MirrorSchedule) (s Schedule, err error) {
	s = Schedule{interval: spec.Interval, startAt: spec.StartAt}
	if spec.Cron != "" {
		if s.cron, err = parseCron(spec.Cron); err != nil {
			return s, at("schedule.cron", err)
		}
	}
	return s, nil
}

func parseCron(text string) (cron.Schedule, error) {
	invalid := domain.Errorf(domain.CodeInvalid, "%s is no cron expression; write minute, hour, day of the month, month and day of the week, in UTC, such as \"30 4 * * *\"", domain.Quote(text))
	if len(text) > domain.MaxMirrorFilter || strings.Contains(text, "=") || strings.HasPrefix(text, "@") {
		return nil, invalid
	}
	schedule, err := fields.Parse(text)
	if err != nil {
		return nil, invalid
	}
	if schedule.Next(time.Unix(0, 0).UTC()).IsZero() {
		return nil, domain.Errorf(domain.CodeInvalid, "the cron expression %s never comes", domain.Quote(text))
	}
	return schedule, nil
}

// Next is when the next sync is due, by the start of the last one, which is the zero time if there was none. It may lie
// before now, and is the zero time if nothing is scheduled.
func (s Schedule) Next(last, now time.Time) time.Time {
	switch {
	case s.cron != nil:
		from := last
		if last.IsZero() {
			from = now
		}
		if from.Before(s.startAt) {
			from = s.startAt.Add(-time.Nanosecond) // its own minute counts
		}
		return s.cron.Next(from.UTC())
	case s.interval <= 0:
		return time.Time{}
	case last.IsZero():
		return later(now, s.startAt)
	}
	return later(last.Add(s.interval), s.startAt)
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}
