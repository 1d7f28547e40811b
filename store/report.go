package store

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"strings"
	"time"
)

// Span is a period of whole days, First and Last included.
type Span struct{ First, Last Day }

// Days returns how many days a span has.
func (s Span) Days() int { return int(s.Last.utc().Sub(s.First.utc())/(24*time.Hour)) + 1 }

// utc counts days where each has 24 hours.
func (d Day) utc() time.Time { return d.Start(time.UTC) }

// SpanUsage is what an organisation used in a span, computed as Usage computes it.
type SpanUsage struct {
	Total      Totals
	DaysActive int
	Days       []DayUsage   // every day of the span, the first one first; without primary models and numbers of users
	Models     []ModelUsage // the most expensive first
	Users      []UserUsage  // the most expensive first
}

// SpanUsage returns an organisation's usage in some spans, with one view of the database for all of them. Days after
// today count nothing, as in Usage.
func (s *Store) SpanUsage(ctx context.Context, org Organisation, now time.Time,
	spans ...Span) (usage []SpanUsage, err error) {
	err = s.read(ctx, func(q querier) error {
		usage = nil
		for _, span := range spans {
			one, err := spanUsage(ctx, q, org.ID, DayOf(now, org.Zone), span)
			if err != nil {
				return err
			}
			usage = append(usage, one)
		}
		return nil
	})
	return usage, err
}

func spanUsage(ctx context.Context, q querier, orgID string, today Day, span Span) (SpanUsage, error) {
	var u SpanUsage
	last := min(span.Last, today)
	byDay, err := dailyRows(ctx, q, orgID, span.First, last)
	if err != nil {
		return u, err
	}
	counter, err := liveCounter(ctx, q, orgID)
	if err != nil {
		return u, err
	}
	if counter.there {
		live, err := counter.totals()
		if err != nil {
			return u, err
		}
		addLive(byDay, counter.day, live, span.First, last)
	}
	for day := span.First; day <= span.Last; day = day.Add(1) {
		row := DayUsage{Day: day, Totals: byDay[day].Totals}
		if overflows(u.Total.Raw, row.Raw) || overflows(u.Total.Cost, row.Cost) ||
			overflows(Money(u.Total.Tokens), Money(row.Tokens)) {
			return u, dataErrorf("client_daily_usage of %s on %s: %w: the sum of the period is more than can "+
				"be counted", orgID, day, ErrMoney)
		}
		u.Total = u.Total.Add(row.Totals)
		if !row.IsZero() {
			u.DaysActive++
		}
		u.Days = append(u.Days, row)
	}
	if u.Models, err = modelRows(ctx, q, orgID, span.First, last); err != nil {
		return u, err
	}
	u.Users, err = userRows(ctx, q, orgID, span.First, last)
	return u, err
}

// PartOfDay returns what of a day's usage, whole, was used before a time of it. What has no time that is known,
// such as what others or a person have recorded, is taken in proportion.
func (s *Store) PartOfDay(ctx context.Context, org Organisation, day Day, until time.Time,
	whole Totals) (part Totals, err error) {
	const query = `
		select count(*), coalesce(sum(p.total_tokens), 0), cast(coalesce(sum(round(p.total_cost * 1e12)), 0) as integer),
			cast(coalesce(sum(round(p.total_cost * g.markup_rate * 1e12)), 0) as integer)
		from usage_sync_generations g join processed_generations p on p.id = g.id
		where g.client_org_id = ?1 and g.generation_date = ?2 and coalesce(g.adopted, 0) = 0 and g.created_at < ?3
			and not (g.id >= '` + manualPrefix + `' and g.id < 'manual.')`
	sum := func(q querier, before time.Time) (t Totals, err error) {
		return t, q.QueryRowContext(ctx, query, org.ID, day, before.Unix()).Scan(&t.Requests, &t.Tokens,
			&t.Raw, &t.Cost)
	}
	start, end := day.Start(org.Zone), day.Add(1).Start(org.Zone)
	err = s.read(ctx, func(q querier) (err error) {
		if part, err = sum(q, until); err != nil {
			return err
		}
		timed, err := sum(q, end.Add(24*time.Hour))
		rest := whole.Sub(timed)
		share := until.Sub(start).Seconds() / end.Sub(start).Seconds()
		part = part.Add(Totals{Requests: int64(share * float64(rest.Requests)),
			Tokens: int64(share * float64(rest.Tokens)), Raw: Money(share * float64(rest.Raw)),
			Cost: Money(share * float64(rest.Cost))})
		return err
	})
	return part, err
}

// defaultCurrency is what OpenRouter charges in.
const defaultCurrency = "USD"

// BillingCurrency returns what the newest row of global_settings says clients are billed in, as it stands
// there, and USD where it says nothing.
func (s *Store) BillingCurrency(ctx context.Context) (currency string, err error) {
	err = s.read(ctx, func(q querier) error {
		currency = defaultCurrency
		columns, err := tableColumns(ctx, q, "global_settings")
		if err != nil || !hasColumn(columns, "billing_currency") {
			return err
		}
		const query = `
			select coalesce(billing_currency, '')` + fromNewestSettings
		err = q.QueryRowContext(ctx, query).Scan(&currency)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		return err
	})
	return cmp.Or(strings.TrimSpace(currency), defaultCurrency), err
}
