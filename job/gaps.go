package job

import (
	"context"
	"fmt"
	"slices"
	"time"

	"usage-sync/store"
)

// missing is what a pass finds out about usage that is missing. It is written down in the transaction that
// writes the state, so that the watermark never passes over usage that nobody remembers.
type missing struct {
	gaps     []store.Gap     // noticed by this pass
	refused  []string        // subjects of the rows that were refused
	accepted map[string]bool // subjects of refused rows that a person does not expect any more
	lost     []store.Gap     // what tables have lost, as far as it was known before this pass

	// A first pass also looks at what was used from lookFrom to lookUntil, as far as its source shows that,
	// and records none of it. lookFrom is zero where a pass does not.
	lookFrom, lookUntil time.Time
	reach               time.Time       // everything since then was shown; zero is not known
	left                map[string]bool // ids of what was shown
	leftOut             store.Totals
	last                time.Time // of it
}

// expectRefused lets the window reach back to rows that were refused: they may have been corrected. It also
// keeps what is known to be lost for checkLedger.
func (s *syncing) expectRefused() error {
	gaps, err := s.Store.Gaps(s.ctx, store.GapFilter{Organisations: []string{s.org.ID}})
	if err != nil {
		return err
	}
	oldest := s.oldest()
	s.missing.accepted = map[string]bool{}
	for _, g := range gaps {
		switch {
		case g.Kind == store.GapLost:
			s.missing.lost = append(s.missing.lost, g)
		case g.Kind != store.GapRefused:
		case g.Accepted:
			s.missing.accepted[g.Subject] = true
		case g.IsOpen() && !g.From.Before(oldest):
			s.window.from, s.window.since = earlier(s.window.from, g.From), earlier(s.window.since, g.From)
		}
	}
	return nil
}

// oldest is the first instant that any source reaches.
func (s *syncing) oldest() time.Time {
	return store.DayOf(s.window.to, s.org.Zone).Add(-MaxDaysBack).Start(s.org.Zone)
}

// noteOutage notes that the watermark lies further back than the window.
func (s *syncing) noteOutage() {
	if !s.window.gap {
		return
	}
	s.noteGap(store.GapOutage, "", s.uncoveredSince(), s.window.from, fmt.Sprintf(
		"there was no complete pass for more than %d days, and no source reaches further back", MaxDaysBack))
}

// uncoveredSince is from when on no pass has been complete.
func (s *syncing) uncoveredSince() time.Time {
	switch {
	case s.state.CoveredTo.IsZero():
		return s.state.AttemptFrom
	case trusted(s.state, s.window.to):
		return s.state.CoveredTo
	}
	return s.state.CoveredFrom
}

func (s *syncing) noteGap(kind store.GapKind, subject string, from, until time.Time, why string) *store.Gap {
	s.missing.gaps = append(s.missing.gaps, store.Gap{OrganisationID: s.org.ID, Kind: kind, Subject: subject,
		From: from, Until: until, Why: why, NoticedAt: s.window.to})
	return &s.missing.gaps[len(s.missing.gaps)-1]
}

// lookBefore has a first pass look at the month in which its window begins, as far as the source reaches, for
// usage before the window: the statement of that month needs it. A month that others have begun to count was
// decided about.
func (s *syncing) lookBefore() error {
	if !s.state.CoveredTo.IsZero() {
		return nil
	}
	first := store.DayOf(s.window.from, s.org.Zone).FirstOfMonth()
	until := s.window.from
	counted, err := s.Store.CountedByOthers(s.ctx, s.org.ID, store.DayOf(until, s.org.Zone))
	if err != nil {
		return err
	}
	if counted != "" {
		until = earlier(until, counted.FirstOfMonth().Start(s.org.Zone))
	}
	from := later(first.Start(s.org.Zone), s.oldest())
	if from.Before(until) {
		s.missing.lookFrom, s.missing.lookUntil, s.missing.left = from, until, map[string]bool{}
	}
	return nil
}

// leaveOut takes note of a generation from before the window.
func (m *missing) leaveOut(g store.Generation) {
	switch {
	case m.lookFrom.IsZero() || !g.CreatedAt.Before(m.lookUntil) || m.left[g.ID]:
		return
	case g.CreatedAt.Before(m.lookFrom): // a list that shows it has shown what is newer
		m.reach = m.lookFrom
		return
	}
	m.left[g.ID] = true
	one := store.Totals{Requests: 1, Tokens: g.Tokens, Raw: g.Cost}
	if g.NoRequest {
		one.Requests = 0
	}
	m.leftOut, m.last = m.leftOut.Add(one), later(m.last, g.CreatedAt)
}

// noteHistory notes what a first pass has left out, and says which command records it. Where there is
// nothing, the time before the window is as good as recorded. A list ends with its first row, so one that
// shows nothing from before the window has nothing.
func (s *syncing) noteHistory(listing *store.Listing) {
	m := &s.missing
	if m.lookFrom.IsZero() {
		return
	}
	if len(m.left) == 0 {
		s.noteGap(store.GapHistory, "", m.lookFrom, m.lookUntil, "usage from before the first pass")
		listing.From = earlier(listing.From, m.lookFrom)
		return
	}
	month := store.DayOf(m.lookUntil.Add(-time.Second), s.org.Zone).FirstOfMonth().Start(s.org.Zone)
	gap := s.noteGap(store.GapHistory, "", earlier(month, m.lookFrom), m.lookUntil, fmt.Sprintf(
		"requests from before the first pass, which begins at %s, are not recorded",
		m.lookUntil.In(s.org.Zone).Format(time.DateTime)))
	shown := "the last is of " + m.last.In(s.org.Zone).Format(time.DateTime)
	if !m.reach.IsZero() {
		shown = fmt.Sprintf("they are %s, raw $%s", store.Grouped(m.leftOut.Requests), m.leftOut.Raw)
		gap.Raw = &m.leftOut.Raw
	}
	s.Log.Info(fmt.Sprintf("%s: %s; %s. To record them: usage-sync sync --org %s --days-back %d. To leave them out "+
		"for good, accept the gap that usage-sync gaps shows", s.org.Name, gap.Why, shown,
		s.org.ID, s.daysBackTo(gap.From)))
}

// daysBackTo is the --days-back with which a window begins at a time, or as early as it can.
func (s *syncing) daysBackTo(t time.Time) int {
	span := store.Span{First: store.DayOf(t, s.org.Zone), Last: store.DayOf(s.window.to, s.org.Zone)}
	return min(span.Days()-1, MaxDaysBack)
}

// listing is what FinishRun writes down. Only a pass that is complete has listed anything.
func (s *syncing) listing(next *store.State) store.Listing {
	listing := store.Listing{Refused: s.missing.refused}
	if next != nil {
		listing.From, listing.Until = s.window.since, s.soundUntil()
		s.noteHistory(&listing)
	}
	if _, known := s.clock.read(); next != nil || known { // else nobody knows what time it is
		listing.Missing = slices.Clone(s.missing.gaps)
	}
	return listing
}

// GapAdvice says what closes an open gap.
func GapAdvice(g store.Gap, zone *time.Location, now time.Time) string {
	accept := fmt.Sprintf("usage-sync gaps --accept %d --note \"…\"", g.ID)
	today := store.DayOf(now, zone)
	oldest := today.Add(-MaxDaysBack)
	reachable := store.DayOf(g.Until.Add(-time.Second), zone) >= oldest
	switch {
	case g.Kind == store.GapRefused && reachable:
		return fmt.Sprintf("Each pass asks for it again until %s. If it is not owed: %s",
			g.Until.AddDate(0, 0, MaxDaysBack).In(zone).Format(time.DateOnly), accept)
	case (g.Kind == store.GapHistory || g.Kind == store.GapOutage || g.Kind == store.GapList) && reachable:
		first := max(store.DayOf(g.From, zone), oldest)
		return fmt.Sprintf("To record it: usage-sync sync --org %s --days-back %d. To leave it out for good: %s",
			g.OrganisationID, store.Span{First: first, Last: today}.Days()-1, accept)
	case g.Kind == store.GapHistory, g.Kind == store.GapOutage, g.Kind == store.GapList, g.Kind == store.GapRefused:
		return "No source reaches back to it any more: record by hand what is owed (usage-sync record), then " + accept
	case g.Kind == store.GapLost:
		return fmt.Sprintf("To make it anew from what is left, shown before: usage-sync gaps --rebuild %d. "+
			"To let it be: %s", g.ID, accept)
	}
	if g.Kind == store.GapDelivery {
		return fmt.Sprintf("usage-sync reconcile --org %s shows what it resembles: --fix moves it to the "+
			"listed id, --fix --remove-extra "+
			"takes away what is of another key. If it is owed: %s", g.OrganisationID, accept)
	}
	return fmt.Sprintf("usage-sync reconcile --org %s shows what OpenRouter has. When it is dealt with: %s",
		g.OrganisationID, accept)
}

// Rebuild makes anew what a gap says that a table has lost; see store.Rebuild. A trial only tells what would
// be done.
func Rebuild(ctx context.Context, db *store.Store, id int64, zone *time.Location, by string,
	now time.Time, trial bool) (
	done store.Rebuilt, err error) {
	gaps, err := db.Gaps(ctx, store.GapFilter{ID: id})
	if err != nil {
		return done, err
	}
	if len(gaps) == 0 {
		return done, fmt.Errorf("%w: %d", store.ErrGap, id)
	}
	orgs, err := db.Organisations(ctx, []string{gaps[0].OrganisationID}, zone)
	if err != nil {
		return done, err
	}
	return db.Rebuild(ctx, orgs[0], id, by, now, trial)
}
