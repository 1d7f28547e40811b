package report

import (
	"fmt"
	"time"

	"usage-sync/job"
	"usage-sync/store"
)

// errPeriod is returned for a period that no statement can be made of.
var errPeriod = job.NewError(job.KindUsage, "period")

// mostDays bounds a period: a year, and a leap year's day.
const mostDays = 366

// Asked is the period that was asked for. The zero Asked is the last complete month of each organisation's calendar.
type Asked struct {
	Month    string    // YYYY-MM, or
	From, To store.Day // both included; an empty To is today
}

// Check returns errPeriod where the period makes no sense in any calendar.
func (a Asked) Check() error {
	switch {
	case a.Month != "" && (a.From != "" || a.To != ""):
		return fmt.Errorf("%w: either a month, or a first and a last day", errPeriod)
	case a.Month != "":
		if _, err := time.Parse("2006-01", a.Month); err != nil {
			return fmt.Errorf("%w: %.40q is not a month of the form YYYY-MM", errPeriod, a.Month)
		}
	case a.From == "" && a.To != "":
		return fmt.Errorf("%w: a last day needs a first one", errPeriod)
	case a.To != "":
		return checkSpan(store.Span{First: a.From, Last: a.To})
	}
	return nil
}

func checkSpan(span store.Span) error {
	if span.Last < span.First {
		return fmt.Errorf("%w: %s is after %s", errPeriod, span.First, span.Last)
	}
	if days := span.Days(); days > mostDays {
		return fmt.Errorf("%w: %d days from %s to %s, at most %d can be stated", errPeriod, days,
			span.First, span.Last, mostDays)
	}
	return nil
}

// span returns the days that are asked for in a calendar where it is today.
func (a Asked) span(today store.Day) (store.Span, error) {
	span := store.Span{First: a.From, Last: a.To}
	switch {
	case a.Month != "":
		span = monthOf(store.Day(a.Month + "-01"))
	case a.From == "":
		span = monthOf(today.FirstOfMonth().Add(-1))
	case a.To == "":
		span.Last = today
	}
	if span.First > today {
		return span, fmt.Errorf("%w: %s has not begun, it is %s", errPeriod, span.First, today)
	}
	return span, checkSpan(span)
}

func monthOf(day store.Day) store.Span {
	first := day.FirstOfMonth()
	return store.Span{First: first, Last: first.Add(31).FirstOfMonth().Add(-1)}
}

// before returns the period that the first days of a span, up to elapsed, are compared with: of a month the
// month before, and while it is running the same days of that, as many as it has; of any other period as many
// days just before it.
func before(span store.Span, elapsed store.Day, running bool) store.Span {
	earlier := store.Span{First: span.First.Add(-store.Span{First: span.First, Last: elapsed}.Days()),
		Last: span.First.Add(-1)}
	if span != monthOf(span.First) {
		return earlier
	}
	month := monthOf(span.First.Add(-1))
	if running {
		days := store.Span{First: span.First, Last: elapsed}.Days()
		month.Last = min(month.Last, month.First.Add(days-1))
	}
	return month
}

// counterpart is the last day of the period before where it stands for the last one that is stated; empty where
// the month before has fewer days.
func counterpart(stated, before store.Span) store.Day {
	if stated.Days() != before.Days() {
		return ""
	}
	return before.Last
}

// sameHours is the time on a day at which the clock showed what it shows now.
func sameHours(day store.Day, now time.Time, zone *time.Location) time.Time {
	now = now.In(zone)
	start := day.Start(zone)
	return time.Date(start.Year(), start.Month(), start.Day(), now.Hour(), now.Minute(),
		now.Second(), now.Nanosecond(), zone)
}
