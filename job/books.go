package job

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"usage-sync/job/alert"
	"usage-sync/store"
)

const (
	// booksBack bounds how many days a pass looks back at after an outage.
	booksBack = 62
	// booksAtOnce bounds how many days of an earlier version are taken into the record in one transaction.
	booksAtOnce = 5
	// emptiedBack is how many days back a pass looks for days whose rows somebody has removed.
	emptiedBack = 400
	// ledgerBack is how many days back a pass looks for more that is lost. The places of generations are kept as long.
	ledgerBack = 44
)

// ErrLost: something that was recorded is lost, and a person has to say what becomes of it.
var ErrLost = NewError(KindConfiguration, "recorded usage is lost")

// keepBooks makes the application's rows right for yesterday and today, for the days since the last pass and those that
// this one has changed, once a day for the whole window, and for the days that a version without a record of days has
// left. Then it compares these days with the ledger.
func (s *syncing) keepBooks() error {
	today := store.DayOf(s.window.to, s.org.Zone)
	first := today.Add(-1)
	if trusted(s.state, s.window.to) {
		first = max(min(first, store.DayOf(s.state.CoveredTo, s.org.Zone)), today.Add(-booksBack))
	}
	if s.window.full { // once a day
		first = min(first, store.DayOf(s.window.from, s.org.Zone))
	}
	days := slices.Clone(s.touched)
	for day := first; day <= today.Add(1); day = day.Add(1) { // the container may be a day ahead
		days = append(days, day)
	}
	slices.Sort(days)
	days = slices.Compact(days)
	if err := s.keepDays(days); err != nil {
		return err
	}
	if s.window.full || s.found.Emptied() {
		emptied, err := s.Store.EmptiedDays(s.ctx, s.org.ID, today.Add(-emptiedBack))
		if err != nil {
			return err
		}
		if err := s.keepInParts(emptied); err != nil {
			return err
		}
	}
	if s.window.full || s.found.Begun {
		unkept, err := s.Store.UnkeptDays(s.ctx, s.org.ID)
		if err != nil {
			return err
		}
		if err := s.keepInParts(unkept); err != nil {
			return err
		}
		days = append(days, unkept...)
	}
	return s.checkLedger(days, today)
}

// checkLedger compares days with the ledger. What the ledger or the record has lost is a gap, until it is made
// anew or a person accepts it. Where both know as many generations and say different things of them, it is
// told.
func (s *syncing) checkLedger(days []store.Day, today store.Day) error {
	gaps := s.missing.lost
	for _, g := range gaps { // they may be closed by now
		for day := store.DayOf(g.From, s.org.Zone); g.IsOpen() &&
			day.Start(s.org.Zone).Before(g.Until); day = day.Add(1) {
			days = append(days, day)
		}
	}
	var all []store.Day
	for day := today.Add(-ledgerBack); day <= today; day = day.Add(1) {
		all = append(all, day)
	}
	depth := store.ByNumber
	if s.window.full || s.found.Begun { // once a day
		depth = store.ByEntry
	}
	lost, open, err := s.lost(days, gaps, depth)
	look := func(days []store.Day, depth store.Depth) {
		if err == nil && len(lost) == 0 && len(days) > 0 {
			var more []store.LedgerDifference
			lost, more, err = s.lost(days, gaps, depth)
			open = append(open, more...)
		}
	}
	if s.window.full {
		look(all, store.BySum)
	} else {
		look(s.touched, store.BySum)
	}
	if err == nil && len(lost) > 0 { // then other days may have lost something, too
		lost, open, err = s.lost(append(all, days...), gaps, store.ByEntry)
	}
	if err != nil {
		return err
	}
	slices.SortFunc(open, func(a, b store.LedgerDifference) int { return cmp.Compare(a.Day, b.Day) })
	open = slices.CompactFunc(open, func(a, b store.LedgerDifference) bool { return a.Day == b.Day })
	s.found.Differing, s.found.AllCompared = open, s.window.full
	s.missing.gaps = append(s.missing.gaps, lost...)
	for _, g := range gaps {
		still := slices.ContainsFunc(lost, func(l store.Gap) bool { return l.Subject == g.Subject })
		if !g.IsOpen() || still {
			continue
		}
		if _, err := s.Store.CloseGaps(s.ctx, s.org.ID, g.Kind, g.Subject,
			"all is there again", s.window.to); err != nil {
			return err
		}
	}
	if len(lost) > 0 {
		return fmt.Errorf("%w: %s. Nothing is counted again. usage-sync gaps --org %s lists it: --rebuild "+
			"NUMBER makes it anew "+
			"from what is left, --accept NUMBER lets it be", ErrLost, inShort(open), s.org.ID)
	}
	return nil
}

// lost compares days with the ledger. It returns what is lost, and the differences that nobody has accepted.
func (s *syncing) lost(days []store.Day, gaps []store.Gap,
	depth store.Depth) ([]store.Gap, []store.LedgerDifference, error) {
	days = slices.Compact(slices.Sorted(slices.Values(days)))
	differing, err := s.Store.CheckLedger(s.ctx, s.org, s.window.to, days, depth)
	lost, open := store.Lost(s.org, differing, gaps, s.window.to)
	return lost, open, err
}

func (s *syncing) keepInParts(days []store.Day) error {
	for part := range slices.Chunk(days, booksAtOnce) {
		if err := s.keepDays(part); err != nil {
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
	if put := inShort(s.found.Corrections); put != "" {
		verb := "is"
		if len(s.found.Corrections) > 1 {
			verb = "are"
		}
		s.Log.Warn(fmt.Sprintf("%s: %s %s put right", s.org.Name, put, verb))
	}
	if differing := inShort(s.found.Differing); differing != "" {
		s.Log.Warn(fmt.Sprintf("%s: %s; usage-sync reconcile says why", s.org.Name, differing))
	}
	for _, n := range s.found.Foreign {
		s.Log.Info(fmt.Sprintf("%s: the application has recorded %s itself", s.org.Name, n))
	}
	for _, n := range s.found.Disputed {
		s.Log.Warn(fmt.Sprintf("%s: another program has added %s, which is not billed. If it is the Python sync, "+
			"switch it off: %s", s.org.Name, n, alert.StopPythonSync))
	}
	if s.claimed > 0 && len(s.found.Disputed) == 0 {
		s.Log.Warn(fmt.Sprintf("%s: the Python sync has entered %s into the ledger beside this program: counted once. "+
			"Switch it off: %s", s.org.Name, store.Counted(s.claimed, "generation"), alert.StopPythonSync))
	}
	s.logOldSync()
}

// logOldSync tells in each pass of what another program has added before, as long as that seems to be at work.
func (s *syncing) logOldSync() {
	today := store.DayOf(s.window.to, s.org.Zone)
	all, err := s.Store.Differences(s.ctx, s.org.ID, today.Add(-alert.DisputedBack), today.Add(1))
	if err != nil || len(s.found.Disputed) > 0 || s.claimed > 0 {
		return
	}
	var sum store.Totals
	days := 0
	for _, d := range all {
		if !d.IsKnown() && s.window.to.Sub(d.At) < alert.AtWork {
			sum, days = sum.Add(d.Totals), days+1
		}
	}
	if days > 0 {
		s.Log.Warn(fmt.Sprintf("%s: within a day another program has added %s, $%s on %s, which is not "+
			"billed. If it is the "+
			"Python sync, switch it off: %s", s.org.Name, store.Counted(sum.Requests, "request"), sum.Cost,
			store.Counted(days, "day"), alert.StopPythonSync))
	}
}

// inShort names the first few of some findings.
func inShort[T fmt.Stringer](findings []T) string {
	const most = 3
	var words []string
	for _, f := range findings[:min(most, len(findings))] {
		words = append(words, f.String())
	}
	if more := len(findings) - most; more > 0 {
		words = append(words, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(words, "; ")
}
