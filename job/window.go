package job

import (
	"time"

	"usage-sync/store"
)

const (
	// MaxDaysBack is how far back a window may reach: no source of OpenRouter's reaches back further than 31 days.
	MaxDaysBack = 30
	// overlap is fetched again behind the watermark in each pass: generations may be listed some time after
	// they were made.
	overlap = time.Hour
	// lateness is by how much a generation may be listed later than it was made and still be recorded within a
	// day of its listing. Those of OpenRouter's Batch API are answered up to 24 hours later, of one provider up
	// to 96 (OpenRouter's documentation of August 2026; whether such a row has the time of submission or of
	// completion is not known).
	lateness = 96 * time.Hour
)

// window is what a pass fetches of one organisation.
type window struct {
	from  time.Time // generations before it are left alone
	to    time.Time // the pass's now: those after it are left to the next pass
	since time.Time // paging may stop at generations before it: from there to from all is known to be recorded
	full  bool      // the whole window is fetched
	gap   bool      // the watermark lies further back than any window reaches
}

// newWindow reaches from local midnight at least daysBack days ago to now, and further back to the watermark
// where passes have been missed: an outage must not leave a hole. Behind the watermark nothing is fetched
// again, but once a day, on demand, and where the window starts before what is covered.
//
// What is fetched once a day reaches back to whatever may have been listed late since the day before, and once
// a week as far as any source does, but not behind what was covered first. The analytics answer it with the
// same two requests.
func newWindow(st store.State, zone *time.Location, now time.Time, daysBack int, full bool) window {
	today := store.DayOf(now, zone)
	oldest := today.Add(-MaxDaysBack).Start(zone)
	w := window{from: today.Add(-daysBack).Start(zone), to: now, full: true}
	if st.Takeover != store.TakeoverNone && !st.TakeoverFrom.IsZero() { // what was begun is brought to its end
		w.from = earlier(w.from, later(st.TakeoverFrom, oldest))
	}
	if !trusted(st, now) {
		w.since, w.gap = w.reachBack(st, oldest)
		w.from = w.since
		return w
	}
	w.full = full || st.FullDay != today || w.from.Before(st.CoveredFrom)
	// Not behind what was covered: what lies there was left alone on purpose, and may have been counted by others.
	resume := later(st.CoveredTo.Add(-overlap), st.CoveredFrom)
	if resume.Before(w.from) {
		w.gap = st.CoveredTo.Before(oldest)
		w.from = later(resume, oldest)
	}
	if w.full {
		w.from = earlier(w.from, later(lateSince(st, today, zone), st.CoveredFrom))
	}
	w.since = w.from
	if !w.full {
		w.since = later(resume, w.from)
	}
	return w
}

// whole returns the window with all that is covered, as far as any source reaches: the watermark says nothing
// of a new key, which may have been in use beside the former one.
func (w window) whole(st store.State, zone *time.Location) window {
	if trusted(st, w.to) {
		oldest := store.DayOf(w.to, zone).Add(-MaxDaysBack).Start(zone)
		w.from = earlier(w.from, later(st.CoveredFrom, oldest))
		w.since, w.full = w.from, true
	}
	return w
}

// reachBack returns where a window begins of which no part is known to be covered: at the first attempt at the
// latest. What was covered by a clock that was wrong is fetched again, and what no source reaches any more is a
// gap.
func (w window) reachBack(st store.State, oldest time.Time) (from time.Time, gap bool) {
	from = w.from
	switch {
	case st.CoveredTo.IsZero() && st.AttemptFrom.IsZero():
		return from, false
	case st.CoveredTo.IsZero():
		from = earlier(from, st.AttemptFrom)
	case st.CoveredFrom.After(w.to):
		from = oldest
	default:
		from = earlier(from, st.CoveredFrom)
	}
	return later(from, oldest), from.Before(oldest)
}

// lateSince is the midnight from which generations may have been listed since the last whole fetch. In the first whole
// fetch of a week, which begins on Monday, it is as far back as any source reaches.
func lateSince(st store.State, today store.Day, zone *time.Location) time.Time {
	oldest := today.Add(-MaxDaysBack).Start(zone)
	if st.FullDay == "" || monday(st.FullDay) != monday(today) {
		return oldest
	}
	last := min(st.FullDay, today.Add(-1))
	return later(store.DayOf(last.Start(zone).Add(-lateness), zone).Start(zone), oldest)
}

// monday returns the first day of a week.
func monday(day store.Day) store.Day {
	return day.Add(-(int(day.Start(time.UTC).Weekday()) + 6) % 7)
}

// trusted tells whether the watermark says anything. One in the future was set by a clock that was wrong, and what it
// covers is anyone's guess.
func trusted(st store.State, now time.Time) bool {
	return !st.CoveredTo.IsZero() && !st.CoveredTo.After(now.Add(clockSlack))
}

// covered returns the state after a complete pass over the window that is known to have everything before until.
func (w window) covered(st store.State, zone *time.Location, until time.Time) store.State {
	next := store.State{CoveredFrom: w.since, CoveredTo: until, FullDay: st.FullDay}
	if trusted(st, w.to) && (w.gap || !w.since.After(st.CoveredTo)) { // what lies between is an open gap
		next.CoveredFrom = earlier(w.since, st.CoveredFrom)
	}
	if w.full {
		next.FullDay = store.DayOf(w.to, zone)
	}
	next.CoveredTo = later(next.CoveredTo, next.CoveredFrom)
	if next.CoveredTo.Unix() < st.TakeoverUntil.Unix() { // something from before it may still show
		next.Takeover, next.TakeoverFrom, next.TakeoverUntil = st.Takeover, st.TakeoverFrom, st.TakeoverUntil
	}
	return next
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
