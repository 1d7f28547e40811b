package job

import (
	"time"

	"usage-sync/store"
)

const (
	// MaxDaysBack is how far back a window may reach: no source of OpenRouter's reaches back further than 31 days.
	MaxDaysBack = 30
	// overlap is fetched again behind the watermark: generations may be listed some time after they were made.
	overlap = time.Hour
	// clockSlack is how far a clock may be wrong without a word.
	clockSlack = 5 * time.Minute
)

// window is what a pass fetches of one organisation.
type window struct {
	from  time.Time // generations before it are left alone
	to    time.Time // the pass's now: those after it are left to the next pass
	since time.Time // paging may stop at generations before it: from there to from all is known to be recorded
	full  bool      // the whole window is fetched
	gap   bool      // the watermark lies further back than any window reaches
}

// newWindow reaches from local midnight daysBack days ago to now, and further back to the watermark where passes have
// been missed: an outage must not leave a hole. Behind the watermark nothing is fetched again, but once a day, on demand,
// and where the window starts before what is covered.
func newWindow(st store.State, zone *time.Location, now time.Time, daysBack int, full bool) window {
	today := store.DayOf(now, zone)
	oldest := today.Add(-MaxDaysBack).Start(zone)
	w := window{from: today.Add(-daysBack).Start(zone), to: now, full: true}
	if st.Takeover != store.TakeoverNone && !st.TakeoverFrom.IsZero() { // what was begun is brought to its end
		w.from = earlier(w.from, later(st.TakeoverFrom, oldest))
	}
	if !trusted(st, now) {
		w.since = w.from
		return w
	}
	w.full = full || st.FullDay != today || w.from.Before(st.CoveredFrom)
	// Not behind what was covered: what lies there was left alone on purpose, and may have been counted by others.
	resume := later(st.CoveredTo.Add(-overlap), st.CoveredFrom)
	if resume.Before(w.from) {
		w.gap = st.CoveredTo.Before(oldest)
		w.from = later(resume, oldest)
	}
	w.since = w.from
	if !w.full {
		w.since = later(resume, w.from)
	}
	return w
}

// trusted tells whether the watermark says anything. One in the future was set by a clock that was wrong, and what it
// covers is anyone's guess.
func trusted(st store.State, now time.Time) bool {
	return !st.CoveredTo.IsZero() && !st.CoveredTo.After(now.Add(clockSlack))
}

// covered returns the state after a complete pass over the window that is known to have everything before until.
func (w window) covered(st store.State, zone *time.Location, until time.Time) store.State {
	next := store.State{CoveredFrom: w.since, CoveredTo: until, FullDay: st.FullDay}
	if trusted(st, w.to) && !w.since.After(st.CoveredTo) {
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
