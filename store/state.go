package store

import (
	"context"
	"database/sql"
	"errors"
	"time"
)

// State is what a pass must know of those before it. The zero State belongs to an organisation without a complete pass.
type State struct {
	// Every generation created from CoveredFrom to CoveredTo is known to be recorded: the watermark.
	CoveredFrom, CoveredTo time.Time
	// FullDay is the organisation's day on which the whole window was last fetched.
	FullDay Day
	// Takeover is a decision about usage that others have counted, taken by a pass that has not been completed yet.
	Takeover Takeover
	// TakeoverFrom and TakeoverUntil: the decision is about generations created from the one to the other. Later ones were
	// not counted by others.
	TakeoverFrom, TakeoverUntil time.Time
}

// Takeover is how usage counted by others is treated.
type Takeover string

const (
	TakeoverNone  Takeover = ""      // there is none, or it has been dealt with
	TakeoverAdopt Takeover = "adopt" // enter its generations into the ledger without adding them
	TakeoverCount Takeover = "count" // it came from elsewhere: count the generations in full
)

// State returns an organisation's state.
func (s *Store) State(ctx context.Context, orgID string) (st State, err error) {
	err = s.read(ctx, func(q querier) (err error) {
		st, err = state(ctx, q, orgID)
		return err
	})
	return st, err
}

func state(ctx context.Context, q querier, orgID string) (State, error) {
	var st State
	var from, to, since, until sql.NullInt64
	const query = `
		select covered_from, covered_to, coalesce(full_day, ''), coalesce(takeover, ''), takeover_from, takeover_until
		from usage_sync_state where client_org_id = ?`
	err := q.QueryRowContext(ctx, query, orgID).Scan(&from, &to, &st.FullDay, &st.Takeover, &since, &until)
	if errors.Is(err, sql.ErrNoRows) {
		return st, nil
	}
	st.CoveredFrom, st.CoveredTo = fromUnix(from), fromUnix(to)
	st.TakeoverFrom, st.TakeoverUntil = fromUnix(since), fromUnix(until)
	return st, err
}

// SetState stores an organisation's state.
func (s *Store) SetState(ctx context.Context, orgID string, st State, now time.Time) error {
	return s.write(ctx, func(q querier) error { return setState(ctx, q, orgID, st, now) })
}

func setState(ctx context.Context, q querier, orgID string, st State, now time.Time) error {
	const query = `
		insert or replace into usage_sync_state (client_org_id, covered_from, covered_to, full_day, takeover,
			takeover_from, takeover_until, updated_at)
		values (?, ?, ?, nullif(?, ''), nullif(?, ''), ?, ?, ?)`
	_, err := q.ExecContext(ctx, query, orgID, unix(st.CoveredFrom), unix(st.CoveredTo), st.FullDay, st.Takeover,
		unix(st.TakeoverFrom), unix(st.TakeoverUntil), now.Unix())
	return err
}

// UsageWithoutLedger returns the days from first to last on which the dashboard's tables hold usage of an organisation,
// while the ledger holds no generation of that day: someone counted it without keeping a ledger. Usage recorded by hand
// through our ledger does not count, and what was delivered to us proves nothing about the rest of its day.
func (s *Store) UsageWithoutLedger(ctx context.Context, orgID string, first, last Day) (days []Day, err error) {
	err = s.read(ctx, func(q querier) error {
		const query = `
			with usage(day, requests, rest) as (
				select usage_date, total_requests, abs(coalesce(total_tokens, 0)) + abs(coalesce(raw_cost, 0))
				from client_daily_usage where client_org_id = ?1
				union all
				select "current_date", today_requests, abs(coalesce(today_tokens, 0)) + abs(coalesce(today_raw_cost, 0))
				from client_live_counters where client_org_id = ?1
				union all
				select usage_date, sum(total_requests), sum(abs(coalesce(total_tokens, 0)) + abs(coalesce(raw_cost, 0)))
				from client_user_daily_usage where client_org_id = ?1 group by usage_date
			)
			select distinct substr(day, 1, 10) as d from usage
			where d between ?2 and ?3 and (coalesce(requests, 0) > 0 or rest > 0)
				and not coalesce(requests, 1) <= (
					select count(*) from processed_generations where client_org_id = ?1 and generation_date = d)
				and not exists (
					select 1 from processed_generations p
					where client_org_id = ?1 and generation_date = d and p.id not like '` + manualPrefix + `%'
						and not exists (
							select 1 from usage_sync_generations g
							where g.client_org_id = ?1 and g.generation_date = d and g.id = p.id
								and g.source = '` + SourceWebhook + `'))
			order by d`
		days, err = collect(ctx, q, func(scan func(...any) error) (d Day, err error) { return d, scan(&d) },
			query, orgID, first, last)
		return err
	})
	return days, err
}

// LastForeignWrite returns when the dashboard's rows of an organisation were last written, or the zero time where they
// do not say. Usage created later can't be in them.
func (s *Store) LastForeignWrite(ctx context.Context, orgID string) (last time.Time, err error) {
	err = s.read(ctx, func(q querier) error {
		const query = `
			select max(coalesce(unixepoch(at, 'auto'), 0)) from (
				select updated_at as at from client_daily_usage where client_org_id = ?1
				union all select last_updated from client_live_counters where client_org_id = ?1)`
		var at sql.NullInt64
		err := q.QueryRowContext(ctx, query, orgID).Scan(&at)
		last = fromUnix(at)
		return err
	})
	return last, err
}

func unix(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.Unix()
}

func fromUnix(seconds sql.NullInt64) time.Time {
	if !seconds.Valid || seconds.Int64 == 0 {
		return time.Time{}
	}
	return time.Unix(seconds.Int64, 0).UTC()
}
