package reconcile

import (
	"context"
	"fmt"
	"slices"

	"usage-sync/store"
)

// booksAtOnce bounds how many days are put right in one transaction.
const booksAtOnce = 5

// keepBooks compares the application's rows with the record of days. With --fix it sets them from the record,
// and writes that into the history. Days that are not in the record are taken into it: their per-user and
// per-model rows are right where they agree.
func (w *reconciling) keepBooks(ctx context.Context) (found store.Found, err error) {
	if w.org.Problem != nil {
		return found, nil // it is said by the comparison
	}
	today := store.DayOf(w.now, w.org.Zone)
	first, last := w.Period.days(today)
	var days []store.Day
	for day := first; day <= min(last, today); day = day.Add(1) {
		days = append(days, day)
	}
	keep := w.Store.CheckBooks
	if w.Fix {
		keep = w.Store.KeepBooks
	}
	for days := range slices.Chunk(days, booksAtOnce) {
		one, err := keep(ctx, w.org, w.now, days)
		if err != nil {
			return found, fmt.Errorf("books: %w", err)
		}
		found = found.Add(one)
	}
	found.Corrections = slices.CompactFunc(found.Corrections, func(a, b store.Correction) bool { return a == b })
	if w.Fix && len(found.Corrections) > 0 {
		w.remember(ctx, store.Run{StartedAt: w.now, EndedAt: w.Now(), OrganisationID: w.org.ID,
			Organisation: w.org.Name, Source: store.SourceReconcile, WindowStart: days[0].Start(w.org.Zone),
			WindowEnd: w.now, Found: found,
			Note: "reconcile --fix: " + found.Note()})
	}
	return found, nil
}

// agreed returns the days that are over and of which OpenRouter's own figures agree with ours.
func (c Comparison) agreed(today store.Day) (days []store.Day) {
	for day := c.First; day <= c.Last && day < today; day = day.Add(1) {
		differs := slices.ContainsFunc(c.Rows, func(r Row) bool { return r.Day == day && r.Differs })
		if !differs && !slices.Contains(c.Beyond, day) {
			days = append(days, day)
		}
	}
	return days
}

// close accepts our totals of disputed days of which OpenRouter's own figures say the same.
func (w *reconciling) close(ctx context.Context, c *Comparison) {
	if !w.Fix || c.Err != nil || c.Month != nil {
		return
	}
	if c.Err = w.Store.NoteAgreed(ctx, w.org, c.agreed(store.DayOf(w.now, w.org.Zone)), w.now); c.Err != nil {
		return
	}
	differences, err := w.Store.Differences(ctx, w.org.ID, c.First, c.Last)
	if err != nil {
		c.Err = err
		return
	}
	for _, d := range differences {
		differs := slices.ContainsFunc(c.Rows, func(r Row) bool { return r.Day == d.Day && r.Differs })
		if !d.IsKnown() && !differs && !slices.Contains(c.Beyond, d.Day) {
			c.Closed = append(c.Closed, d.Day)
		}
	}
	if len(c.Closed) == 0 {
		return
	}
	if c.Err = w.Store.AcceptTotals(ctx, w.org.ID, c.Closed); c.Err == nil {
		w.remember(ctx, store.Run{StartedAt: w.now, EndedAt: w.Now(), OrganisationID: w.org.ID,
			Organisation: w.org.Name, Source: store.SourceReconcile,
			Note: fmt.Sprintf("reconcile --fix: OpenRouter's figures agree with ours, disputed no more: %s",
				spans(c.Closed))})
	}
}
