package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Today lives in the live counter and past days in daily rows, never both: the dashboard's month is the sum of this
// month's daily rows plus the live counter. "current_date" must be quoted: bare, it is SQLite's own function.

// rollOver brings an organisation's live counter to today and returns the day it then stands for:
//   - a counter of a day before today is added to that day's daily row and starts again at zero;
//   - a daily row of today, left by a writer that does not know the rule, moves into the counter. The container's own
//     rollover would fail on that row at midnight;
//   - a counter of the day after today (the dashboard has rolled over by another calendar) is left alone: today's usage
//     then belongs into the daily row. One of a later day was set by a clock that was wrong, and is treated as a past one.
func rollOver(ctx context.Context, q querier, orgID string, today Day, now time.Time) (Day, error) {
	counter, found, err := liveCounter(ctx, q, orgID)
	switch {
	case err != nil:
		return "", err
	case found && counter.day == today.Add(1):
		return counter.day, nil
	case found && counter.day != today:
		if counter.used() {
			if err := addToDailyRow(ctx, q, orgID, counter.day, counter.args(), now.Unix()); err != nil {
				return "", err
			}
		}
		const reset = `
			update client_live_counters set "current_date" = ?2, today_tokens = 0, today_requests = 0, today_raw_cost = 0,
				today_markup_cost = 0, last_updated = ?3
			where client_org_id = ?1`
		if _, err := q.ExecContext(ctx, reset, orgID, today, now.Unix()); err != nil {
			return "", err
		}
	}
	early, found, err := dailyRow(ctx, q, orgID, today)
	if err != nil || !found {
		return today, err
	}
	if err := addToLiveCounter(ctx, q, orgID, today, early.args(), now.Unix()); err != nil {
		return "", err
	}
	_, err = q.ExecContext(ctx, `delete from client_daily_usage where id = ?`, dailyID(orgID, today))
	return today, err
}

// rollOverIsDue tells, without the write lock, whether rollOver would change anything.
func rollOverIsDue(ctx context.Context, q querier, orgID string, today Day) (bool, error) {
	counter, found, err := liveCounter(ctx, q, orgID)
	if err != nil || (found && counter.day != today) {
		return err == nil && counter.day != today.Add(1), err
	}
	_, early, err := dailyRow(ctx, q, orgID, today)
	return early, err
}

func dailyID(orgID string, day Day) string { return fmt.Sprintf("%s_%s", orgID, day) }

// dayTotals is a daily row or a live counter as it stands in the database, whoever wrote it.
type dayTotals struct {
	day              Day
	tokens, requests int64
	raw, markup      float64
	updated          any
}

func (d dayTotals) args() []any { return []any{d.tokens, d.requests, d.raw, d.markup} }

func (d dayTotals) used() bool {
	return d.tokens != 0 || d.requests != 0 || d.raw != 0 || d.markup != 0
}

func liveCounter(ctx context.Context, q querier, orgID string) (dayTotals, bool, error) {
	return dayTotalsOf(ctx, q, "client_live_counters", `
		select cast("current_date" as text), coalesce(today_tokens, 0), coalesce(today_requests, 0),
			coalesce(today_raw_cost, 0), coalesce(today_markup_cost, 0), last_updated
		from client_live_counters where client_org_id = ?`, orgID)
}

func dailyRow(ctx context.Context, q querier, orgID string, day Day) (dayTotals, bool, error) {
	return dayTotalsOf(ctx, q, "client_daily_usage", `
		select cast(usage_date as text), coalesce(total_tokens, 0), coalesce(total_requests, 0),
			coalesce(raw_cost, 0), coalesce(markup_cost, 0), updated_at
		from client_daily_usage where id = ?`, dailyID(orgID, day))
}

func dayTotalsOf(ctx context.Context, q querier, table, query, key string) (dayTotals, bool, error) {
	var d dayTotals
	var day string
	err := q.QueryRowContext(ctx, query, key).Scan(&day, &d.tokens, &d.requests, &d.raw, &d.markup, &d.updated)
	if errors.Is(err, sql.ErrNoRows) {
		return d, false, nil
	}
	if err != nil {
		return d, false, err
	}
	if d.day, err = ParseDay(day); err != nil {
		return d, false, dataErrorf("%s of %s: %w", table, key, err)
	}
	return d, true, nil
}

func addToLiveCounter(ctx context.Context, q querier, orgID string, day Day, gain []any, now int64) error {
	const add = `
		insert into client_live_counters (client_org_id, "current_date", last_updated, today_tokens, today_requests,
			today_raw_cost, today_markup_cost)
		values (?1, ?2, ?3, ?4, ?5, ?6, ?7)
		on conflict (client_org_id) do update set
			today_tokens = coalesce(today_tokens, 0) + excluded.today_tokens,
			today_requests = coalesce(today_requests, 0) + excluded.today_requests,
			today_raw_cost = round(coalesce(today_raw_cost, 0) + excluded.today_raw_cost, 12),
			today_markup_cost = round(coalesce(today_markup_cost, 0) + excluded.today_markup_cost, 12),
			last_updated = excluded.last_updated`
	_, err := q.ExecContext(ctx, add, append([]any{orgID, day, now}, gain...)...)
	return err
}

// addToDailyRow also sets the day's primary model and number of users anew from the per-model and per-user rows, which
// the caller has written before.
func addToDailyRow(ctx context.Context, q querier, orgID string, day Day, gain []any, now int64) error {
	var model sql.NullString
	var users int64
	if err := q.QueryRowContext(ctx, summariseDay, orgID, day).Scan(&model, &users); err != nil {
		return err
	}
	const add = `
		insert into client_daily_usage (id, client_org_id, usage_date, created_at, updated_at, primary_model, unique_users,
			total_tokens, total_requests, raw_cost, markup_cost)
		values (?1, ?2, ?3, ?4, ?4, ?5, ?6, ?7, ?8, ?9, ?10)` + addToRow + `,
			primary_model = coalesce(excluded.primary_model, primary_model),
			unique_users = excluded.unique_users`
	args := append([]any{dailyID(orgID, day), orgID, day, now, model, users}, gain...)
	_, err := q.ExecContext(ctx, add, args...)
	return err
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
			on m.client_org_id = ?1 and m.model_name = models.name and m.usage_date = ?2
			order by m.total_tokens desc, m.model_name limit 1),
		(select count(*) from users
			where exists (select 1 from client_user_daily_usage u
				where u.client_org_id = ?1 and u.user_id = users.id and u.usage_date = ?2))`

// provider is the part of a model's name before the slash.
func provider(model string) string {
	name, _, found := strings.Cut(model, "/")
	if !found || name == "" {
		return "unknown"
	}
	return name
}
