package job

import (
	"fmt"
	"slices"

	"usage-sync/job/alert"
	"usage-sync/store"
)

const (
	// booksBack bounds how many days a pass looks back at after an outage.
	booksBack = 62
	// booksAtOnce bounds how many days of an earlier version are taken into the record in one transaction.
	booksAtOnce = 5
)

// keepBooks makes the application's rows right for yesterday and today, for the days since the last pass, once a day for
// the whole window, and for the days that a version without a record of days has left.
func (s *syncing) keepBooks() error {
	today := store.DayOf(s.window.to, s.org.Zone)
	first := today.Add(-1)
	if trusted(s.state, s.window.to) {
		first = max(min(first, store.DayOf(s.state.CoveredTo, s.org.Zone)), today.Add(-booksBack))
	}
	if s.window.full { // once a day
		first = min(first, store.DayOf(s.window.from, s.org.Zone))
	}
	var days []store.Day
	for day := first; day <= today.Add(1); day = day.Add(1) { // the container may be a day ahead
		days = append(days, day)
	}
	if err := s.keepDays(days); err != nil {
		return err
	}
	if s.window.full {
		differing, err := s.Store.CheckLedger(s.ctx, s.org, s.window.to, days)
		if err != nil {
			return err
		}
		for _, d := range differing {
			s.Log.Warn(fmt.Sprintf("%s: the ledger holds %d tokens, raw $%s of %s, and %d tokens, raw $%s are counted; "+
				"usage-sync reconcile says why", s.org.Name, d.Right.Tokens, d.Right.Raw, d.Day, d.Held.Tokens, d.Held.Raw))
		}
	}
	unkept, err := s.Store.UnkeptDays(s.ctx, s.org.ID)
	if err != nil {
		return err
	}
	for days := range slices.Chunk(unkept, booksAtOnce) {
		if err := s.keepDays(days); err != nil {
			return err
		}
	}
	return nil
}

func (s *syncing) keepDays(days []store.Day) error {
	found, err := s.Store.KeepBooks(s.ctx, s.org, s.window.to, days)
	if err == nil {
		s.found = s.found.Add(found)
	}
	return err
}

// logBooks tells what was found in the books.
func (s *syncing) logBooks() {
	for _, c := range s.found.Corrections {
		s.Log.Warn(fmt.Sprintf("%s: %s is put right", s.org.Name, c))
	}
	for _, n := range s.found.Foreign {
		s.Log.Info(fmt.Sprintf("%s: the application has recorded %s itself", s.org.Name, n))
	}
	for _, n := range s.found.Disputed {
		s.Log.Warn(fmt.Sprintf("%s: another program has added %s, which is not billed. If it is the Python sync, "+
			"switch it off: %s", s.org.Name, n, alert.StopPythonSync))
	}
	if s.claimed > 0 && len(s.found.Disputed) == 0 {
		s.Log.Warn(fmt.Sprintf("%s: the Python sync has entered %d generations into the ledger beside this program. "+
			"They are counted once. Switch it off: %s", s.org.Name, s.claimed, alert.StopPythonSync))
	}
}
