package store

import (
	"context"
	"time"
)

// CountedByOthers returns the first day before another that somebody has counted without us, such as the
// Python sync. It is empty where there is none.
func (s *Store) CountedByOthers(ctx context.Context, orgID string, before Day) (first Day, err error) {
	err = s.read(ctx, func(q querier) (err error) {
		first, err = countedByOthers(ctx, q, orgID, before)
		return err
	})
	return first, err
}

// countedByOthers goes by the record of days, and by the rows of days that are not in it: nobody but others
// has written those.
func countedByOthers(ctx context.Context, q querier, orgID string, before Day) (first Day, err error) {
	const query = `
		select coalesce(min(day), '') from (
			select usage_date as day from usage_sync_days
			where client_org_id = ?1 and part = 'day' and kind = 'adopted'
				and (requests <> 0 or raw <> 0 or markup <> 0)
			union all
			select substr(usage_date, 1, 10) from client_daily_usage where client_org_id = ?1
			union all
			select substr(usage_date, 1, 10) from client_user_daily_usage where client_org_id = ?1)
		where day < ?2 and not exists (
			select 1 from usage_sync_days d
			where d.client_org_id = ?1 and d.usage_date = day and d.part = 'day' and d.kind = 'counted' and not exists (
				select 1 from usage_sync_days a
				where a.client_org_id = ?1 and a.usage_date = day and a.part = 'day' and a.kind = 'adopted'
					and (a.requests <> 0 or a.raw <> 0 or a.markup <> 0)))`
	return first, q.QueryRowContext(ctx, query, orgID, before).Scan(&first)
}

// Coverage is how far the usage of a period is known to be recorded.
type Coverage struct {
	// Until is the watermark: later usage is not recorded yet. It is zero where no pass has been complete.
	Until time.Time
	// Missing is what is missing before that: the open gaps of the period, and what no pass has ever asked
	// for, which has no number. The earliest comes first.
	Missing []Gap
	// Ended: the organisation is not active, and its usage is over.
	Ended bool
}

// IsWhole tells whether a period that ends at a time is recorded as a whole, but for what a person has
// accepted.
func (c Coverage) IsWhole(end time.Time) bool {
	return (c.Ended || !c.Until.Before(end)) && len(c.Missing) == 0
}

// Coverage returns what is recorded of a period of an organisation. Days that others have counted before the
// first pass, such as the Python sync, were decided about, and the whole month in which they began with them.
func (s *Store) Coverage(ctx context.Context, org Organisation, span Span) (c Coverage, err error) {
	err = s.read(ctx, func(q querier) (err error) {
		c, err = coverage(ctx, q, org, span)
		return err
	})
	return c, err
}

func coverage(ctx context.Context, q querier, org Organisation, span Span) (Coverage, error) {
	from, until := span.First.Start(org.Zone), span.Last.Add(1).Start(org.Zone)
	st, err := state(ctx, q, org.ID)
	if err != nil || st.CoveredTo.IsZero() {
		return Coverage{}, err
	}
	c := Coverage{Until: st.CoveredTo}
	if !org.Active {
		if c.Ended, err = hasEnded(ctx, q, org.ID); err != nil {
			return c, err
		}
	}
	since := st.CoveredFrom
	first, err := countedByOthers(ctx, q, org.ID, DayOf(since, org.Zone))
	if err != nil {
		return c, err
	}
	if first != "" {
		since = earliest(since, first.FirstOfMonth().Start(org.Zone))
	}
	gaps, err := readGaps(ctx, q, GapFilter{Organisations: []string{org.ID}, From: from, Until: until})
	if err != nil {
		return c, err
	}
	// What was never asked for lies before the first pass, and is in no gap, be it open or closed.
	at, end := from, earliest(since, until)
	never := func(to time.Time) {
		if to = earliest(to, end); to.After(at) {
			c.Missing = append(c.Missing, Gap{OrganisationID: org.ID, Kind: GapHistory, From: at, Until: to,
				Why: "no pass has asked for usage from before " + since.In(org.Zone).Format(time.DateTime)})
		}
	}
	for _, g := range gaps {
		if g.Kind == GapHistory {
			never(g.From)
			at = latest(at, g.Until)
		}
		if g.IsOpen() {
			c.Missing = append(c.Missing, g)
		}
	}
	never(end)
	return c, nil
}
