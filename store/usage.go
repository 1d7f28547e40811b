package store

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"maps"
	"slices"
	"time"
)

// DayUsage is one day of an organisation.
type DayUsage struct {
	Totals
	Day          Day
	PrimaryModel string
	UniqueUsers  int64
}

// ModelUsage is one model in a period.
type ModelUsage struct {
	Totals
	Model, Provider string
}

// UserUsage is one user in a period.
type UserUsage struct {
	Totals
	UserID, ExternalUserID string
}

// Usage is what the dashboard shows of one organisation, computed as the dashboard does.
type Usage struct {
	Organisation Organisation
	Today        Day
	Live         Totals    // of today, be it in the live counter or in a daily row
	LastUpdated  time.Time // of the live counter; zero where there is none
	Month        Totals
	DaysActive   int
	Days         []DayUsage   // the last days, today first
	Models       []ModelUsage // of this month, the most expensive first
	Users        []UserUsage  // of this month, the most expensive first
	Gaps         []Gap        // those that are open, of the last days and of this month
}

// Usage returns an organisation's usage of the last days (at least today) and of this month. With no days it is
// what today and this month add up to: what it takes does not grow with the models, the users and the months
// that there were.
func (s *Store) Usage(ctx context.Context, org Organisation, now time.Time, days int) (u Usage, err error) {
	err = s.read(ctx, func(q querier) (err error) {
		u, err = usage(ctx, q, org, now, days)
		return err
	})
	return u, err
}

func usage(ctx context.Context, q querier, org Organisation, now time.Time, days int) (Usage, error) {
	u := Usage{Organisation: org, Today: DayOf(now, org.Zone)}
	first := min(u.Today.Add(1-days), u.Today.FirstOfMonth())
	byDay, err := dailyRows(ctx, q, org.ID, first, u.Today)
	if err != nil {
		return u, err
	}
	counter, err := liveCounter(ctx, q, org.ID)
	if err != nil {
		return u, err
	}
	if counter.there {
		u.LastUpdated = timeColumn(counter.updated)
		live, err := counter.totals()
		if err != nil {
			return u, err
		}
		addLive(byDay, counter.day, live, first, u.Today)
	}
	u.Live = byDay[u.Today].Totals
	for day := u.Today; day >= first; day = day.Add(-1) {
		row, there := byDay[day]
		row.Day = day
		if there && row.PrimaryModel == "" && day > u.Today.Add(-days) {
			var model sql.NullString
			if err := q.QueryRowContext(ctx, summariseDay, org.ID, day).Scan(&model, &row.UniqueUsers); err != nil {
				return u, err
			}
			row.PrimaryModel = model.String
		}
		if day >= u.Today.FirstOfMonth() {
			u.Month = u.Month.Add(row.Totals)
			if !row.IsZero() {
				u.DaysActive++
			}
		}
		if day > u.Today.Add(-days) {
			u.Days = append(u.Days, row)
		}
	}
	if days == 0 {
		return u, nil
	}
	u.Gaps, err = readGaps(ctx, q, GapFilter{Organisations: []string{org.ID}, From: first.Start(org.Zone), Open: true})
	if err != nil {
		return u, err
	}
	if u.Models, err = modelRows(ctx, q, org.ID, u.Today.FirstOfMonth(), u.Today); err != nil {
		return u, err
	}
	u.Users, err = userRows(ctx, q, org.ID, u.Today.FirstOfMonth(), u.Today)
	return u, err
}

// MonthModels returns what each model was used this month, the most expensive first.
func (s *Store) MonthModels(ctx context.Context, org Organisation, now time.Time) (models []ModelUsage, err error) {
	today := DayOf(now, org.Zone)
	err = s.read(ctx, func(q querier) (err error) {
		models, err = modelRows(ctx, q, org.ID, today.FirstOfMonth(), today)
		return err
	})
	return models, err
}

// addLive adds a live counter to the daily rows from first to last, where its day is among them. The dashboard rolls a
// stale counter over before it sums, so a day before today counts as well.
func addLive(byDay map[Day]DayUsage, on Day, live Totals, first, last Day) {
	if first <= on && on <= last && !live.IsZero() {
		day := byDay[on]
		day.Totals = day.Add(live)
		byDay[on] = day
	}
}

// scanTotals reads tokens, requests, raw and marked-up cost after the given columns.
func scanTotals(scan func(...any) error, t *Totals, columns ...any) error {
	var raw, markup float64
	if err := scan(append(columns, &t.Tokens, &t.Requests, &raw, &markup)...); err != nil {
		return err
	}
	var err, err2 error
	t.Raw, err = MoneyFromFloat(raw)
	t.Cost, err2 = MoneyFromFloat(markup)
	if err := errors.Join(err, err2); err != nil {
		return dataErrorf("cost: %w", err)
	}
	return nil
}

func dailyRows(ctx context.Context, q querier, orgID string, first, last Day) (map[Day]DayUsage, error) {
	rows, err := collect(ctx, q, func(scan func(...any) error) (d DayUsage, err error) {
		return d, scanTotals(scan, &d.Totals, &d.Day, &d.PrimaryModel, &d.UniqueUsers)
	}, `select substr(cast(usage_date as text), 1, 10), coalesce(primary_model, ''), coalesce(unique_users, 0),
			coalesce(total_tokens, 0), coalesce(total_requests, 0), coalesce(raw_cost, 0), coalesce(markup_cost, 0)
		from client_daily_usage where client_org_id = ? and usage_date >= ? and usage_date < ? || '~'`, orgID, first, last)
	byDay := make(map[Day]DayUsage, len(rows))
	for _, row := range rows {
		before := byDay[row.Day]
		row.Totals = row.Add(before.Totals)
		byDay[row.Day] = row
	}
	return byDay, err
}

// modelRows returns what each model was used, the most expensive first: rows that were written under its dated
// name are those of the model, too.
func modelRows(ctx context.Context, q querier, orgID string, first, last Day) ([]ModelUsage, error) {
	rows, err := collect(ctx, q, func(scan func(...any) error) (m ModelUsage, err error) {
		return m, scanTotals(scan, &m.Totals, &m.Model, &m.Provider)
	}, `select model_name, coalesce(max(provider), ''), coalesce(sum(total_tokens), 0), coalesce(sum(total_requests), 0),
			coalesce(sum(raw_cost), 0), coalesce(sum(markup_cost), 0)
		from client_model_daily_usage where client_org_id = ? and usage_date >= ? and usage_date < ? || '~'
		group by model_name`, orgID, first, last)
	byName := make(map[string]ModelUsage, len(rows))
	for _, row := range rows {
		name := ModelName(row.Model)
		one := byName[name]
		byName[name] = ModelUsage{one.Add(row.Totals), name, max(one.Provider, row.Provider)}
	}
	return slices.SortedFunc(maps.Values(byName), func(a, b ModelUsage) int {
		return cmp.Or(cmp.Compare(b.Cost, a.Cost), cmp.Compare(a.Model, b.Model))
	}), err
}

func userRows(ctx context.Context, q querier, orgID string, first, last Day) ([]UserUsage, error) {
	return collect(ctx, q, func(scan func(...any) error) (u UserUsage, err error) {
		return u, scanTotals(scan, &u.Totals, &u.UserID, &u.ExternalUserID)
	}, `select user_id, coalesce(max(openrouter_user_id), ''), coalesce(sum(total_tokens), 0),
			coalesce(sum(total_requests), 0), coalesce(sum(raw_cost), 0), coalesce(sum(markup_cost), 0) as cost
		from client_user_daily_usage where client_org_id = ? and usage_date >= ? and usage_date < ? || '~'
		group by user_id order by cost desc, user_id`, orgID, first, last)
}

// timeColumn reads Unix seconds, or the ISO text that a set-up tool may have left; zero where it is neither.
func timeColumn(v any) time.Time {
	switch v := v.(type) {
	case int64:
		return time.Unix(v, 0).UTC()
	case string:
		for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05.999999999", time.DateTime} {
			if t, err := time.Parse(layout, v); err == nil {
				return t.UTC()
			}
		}
	}
	return time.Time{}
}

// summariseDay finds the model with the most tokens and counts the users of a day. The indexes of these tables start
// with the organisation and the name, so it hops from name to name instead of reading the rows of all days.
const summariseDay = `
	with recursive
	models(name) as (
		select min(model_name) from client_model_daily_usage where client_org_id = ?1
		union all
		select (select min(model_name) from client_model_daily_usage where client_org_id = ?1 and model_name > models.name)
		from models where models.name is not null),
	users(id) as (
		select min(user_id) from client_user_daily_usage where client_org_id = ?1
		union all
		select (select min(user_id) from client_user_daily_usage where client_org_id = ?1 and user_id > users.id)
		from users where users.id is not null)
	select
		(select m.model_name from models cross join client_model_daily_usage m
			on m.client_org_id = ?1 and m.model_name = models.name and m.usage_date >= ?2 and m.usage_date < ?2 || '~'
			order by m.total_tokens desc, m.model_name limit 1),
		(select count(*) from users
			where exists (select 1 from client_user_daily_usage u
				where u.client_org_id = ?1 and u.user_id = users.id and u.usage_date >= ?2 and u.usage_date < ?2 || '~'))`
