package job

import (
	"context"
	"fmt"
	"strings"

	"usage-sync/store"
)

// square makes the days that are over cost what OpenRouter says of them in all, in a pass that has fetched them
// whole: the analytics round each generation by itself. It takes one more request, for all days that are not
// squared yet, and a few more where the midnights of a calendar are not at full hours. A day that differs by
// more than rounding is left to the next whole fetch. The generations are recorded by now: what goes wrong here
// is no failure of the pass.
func (s *syncing) square() {
	if !s.window.full || s.run.Source != SourceAnalytics || s.Sources.Account == nil || s.run.Refused > 0 {
		return
	}
	if err := s.squareDays(); err != nil && s.ctx.Err() == nil {
		s.Log.Warn(fmt.Sprintf("%s: what rounding has lost is left to the next whole fetch: %v", s.org.Name, err))
	}
}

func (s *syncing) squareDays() error {
	first, today := store.DayOf(s.window.since, s.org.Zone), store.DayOf(s.window.to, s.org.Zone)
	if first.Start(s.org.Zone).Before(s.window.since) { // a part of it
		first = first.Add(1)
	}
	days, err := s.Store.UnsquaredDays(s.ctx, s.org.ID, first, today.Add(-1))
	if err != nil || len(days) == 0 {
		return err
	}
	totals, err := s.totalsOf(s.ctx, days)
	if err != nil {
		return err
	}
	done, found, err := s.Store.Square(s.ctx, s.org, s.window.to, totals)
	if err != nil {
		return err
	}
	s.found = s.found.Add(found)
	var booked []string
	for _, one := range done {
		switch {
		case !one.Agrees:
			s.Log.Info(fmt.Sprintf("%s: OpenRouter's total of %s differs by more than rounding, usage-sync "+
				"reconcile tells by what", s.org.Name, one.Day))
		case !one.Booked.IsZero():
			booked = append(booked, fmt.Sprintf("%s $%s", one.Day, one.Booked.Raw))
		}
		s.run.Raw += one.Booked.Raw
		s.run.Markup += one.Booked.Cost
	}
	if len(booked) > 0 {
		s.note("remainder of rounding booked: " + strings.Join(booked, ", "))
	}
	return nil
}

// totalsOf asks OpenRouter for its own totals of some days, which are in order.
func (s *syncing) totalsOf(ctx context.Context, days []store.Day) (map[store.Day][]store.ModelTotal, error) {
	account := s.Sources.Account.Counting()
	defer func() { s.traffic.Add(account.Traffic()) }()
	used, err := account.Used(ctx, s.asked, days[0], days[len(days)-1], s.window.to)
	if err != nil {
		return nil, err
	}
	totals := make(map[store.Day][]store.ModelTotal, len(days))
	for _, day := range days {
		totals[day] = nil
	}
	for _, u := range used {
		if _, wanted := totals[u.Day]; wanted {
			totals[u.Day] = append(totals[u.Day], store.ModelTotal{Model: u.Model, Requests: u.Requests, Raw: u.Cost,
				Resolution: u.Resolution})
		}
	}
	return totals, nil
}

// note adds to what the history says of the run.
func (s *syncing) note(text string) {
	switch {
	case text == "":
	case s.run.Note == "":
		s.run.Note = text
	default:
		s.run.Note += "; " + text
	}
}
