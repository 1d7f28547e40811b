package store

import (
	"context"
	"database/sql"
	"errors"
)

// row is a row of the application's tables of totals, whoever wrote it.
type row struct {
	id, created  string // created_at as it stands there
	name         string // the user, the model
	external     string // openrouter_user_id of a user
	date         string // usage_date as it stands there: it may carry a time
	primaryModel string // of a daily row
	users        int64  // unique_users of a daily row
	Totals
	raw, markup float64 // as they stand there: above $4096 they have less than pico-dollars
	broken      bool    // values that are no numbers
}

// holds tells whether a row has some totals.
func (r row) holds(t Totals) bool {
	return !r.broken && r.Requests == t.Requests && r.Tokens == t.Tokens &&
		sameCost(r.raw, t.Raw) && sameCost(r.markup, t.Cost)
}

// beyond returns a row without some totals. A cost that is the nearest to them that its column can hold counts
// as equal.
func (r row) beyond(t Totals) Totals {
	over := r.Totals.Sub(t)
	if sameCost(r.raw, t.Raw) {
		over.Raw = 0
	}
	if sameCost(r.markup, t.Cost) {
		over.Cost = 0
	}
	return over
}

// rowsOfDay are the application's rows of one day.
type rowsOfDay struct {
	daily         []row
	users, models map[string][]row
}

func sumOf(rows []row) (t Totals) {
	for _, r := range rows {
		t = t.Add(r.Totals)
	}
	return t
}

func sumOfAll(byName map[string][]row) (t Totals) {
	for _, rows := range byName {
		t = t.Add(sumOf(rows))
	}
	return t
}

const (
	rowColumns = `cast(coalesce(r.created_at, '') as text), cast(r.usage_date as text),
		cast(coalesce(r.total_requests, 0) as integer), cast(coalesce(r.total_tokens, 0) as integer),
		coalesce(r.raw_cost, 0), coalesce(r.markup_cost, 0)`
	// The date may carry a time: '~' comes after both ' ' and 'T'.
	onDay       = `r.usage_date >= d.value and r.usage_date < d.value || '~'`
	rowsOfDaily = `
		select r.id, '', '', coalesce(r.primary_model, ''), coalesce(r.unique_users, 0), ` + rowColumns + `
		from json_each(?2) d cross join client_daily_usage r on r.client_org_id = ?1 and ` + onDay
	// The indexes of these tables start with the organisation and the name, so the queries hop from name to
	// name instead of reading the rows of all days.
	rowsOfUsers = `
		with recursive names(name) as (
			select min(user_id) from client_user_daily_usage where client_org_id = ?1
			union all
			select (select min(user_id) from client_user_daily_usage where client_org_id = ?1 and user_id > names.name)
			from names where names.name is not null)
		select r.id, r.user_id, coalesce(r.openrouter_user_id, ''), '', 0, ` + rowColumns + `
		from names cross join json_each(?2) d cross join client_user_daily_usage r
			on r.client_org_id = ?1 and r.user_id = names.name and ` + onDay
	rowsOfModels = `
		with recursive names(name) as (
			select min(model_name) from client_model_daily_usage where client_org_id = ?1
			union all
			select (select min(model_name) from client_model_daily_usage where client_org_id = ?1 and model_name > names.name)
			from names where names.name is not null)
		select r.id, r.model_name, '', '', 0, ` + rowColumns + `
		from names cross join json_each(?2) d cross join client_model_daily_usage r
			on r.client_org_id = ?1 and r.model_name = names.name and ` + onDay
)

// readRows reads the application's rows of some days.
func readRows(ctx context.Context, q querier, orgID string, days []Day) (map[Day]*rowsOfDay, error) {
	byDay := make(map[Day]*rowsOfDay, len(days))
	for _, day := range days {
		byDay[day] = &rowsOfDay{users: map[string][]row{}, models: map[string][]row{}}
	}
	for _, table := range []struct {
		query string
		add   func(*rowsOfDay, row)
	}{
		{rowsOfDaily, func(d *rowsOfDay, r row) { d.daily = append(d.daily, r) }},
		{rowsOfUsers, func(d *rowsOfDay, r row) { d.users[r.name] = append(d.users[r.name], r) }},
		{rowsOfModels, func(d *rowsOfDay, r row) { d.models[r.name] = append(d.models[r.name], r) }},
	} {
		rows, err := collect(ctx, q, scanRow, table.query, orgID, jsonText(days))
		if err != nil {
			return nil, err
		}
		for _, r := range rows {
			day, err := ParseDay(r.date)
			if d := byDay[day]; err == nil && d != nil {
				table.add(d, r)
			}
		}
	}
	return byDay, nil
}

func scanRow(scan func(...any) error) (r row, err error) {
	var raw, markup any
	if err := scan(&r.id, &r.name, &r.external, &r.primaryModel, &r.users, &r.created, &r.date,
		&r.Requests, &r.Tokens, &raw,
		&markup); err != nil {
		return r, err
	}
	r.setCosts(raw, markup)
	return r, nil
}

// setCosts reads costs as they stand in a column.
func (r *row) setCosts(raw, markup any) {
	var err, err2 error
	r.raw, r.markup = number(raw), number(markup)
	r.Raw, err = MoneyFromFloat(r.raw)
	r.Cost, err2 = MoneyFromFloat(r.markup)
	r.broken = err != nil || err2 != nil
}

// counterRow is a live counter, whoever wrote it.
type counterRow struct {
	row
	there   bool
	day     Day
	updated any
}

// liveCounter reads an organisation's live counter. "current_date" must be quoted: bare, it is SQLite's own function.
func liveCounter(ctx context.Context, q querier, orgID string) (c counterRow, err error) {
	const query = `
		select cast("current_date" as text), cast(coalesce(today_requests, 0) as integer),
			cast(coalesce(today_tokens, 0) as integer), coalesce(today_raw_cost, 0), coalesce(today_markup_cost, 0),
			last_updated
		from client_live_counters where client_org_id = ?`
	var raw, markup any
	err = q.QueryRowContext(ctx, query, orgID).Scan(&c.date, &c.Requests, &c.Tokens, &raw, &markup, &c.updated)
	if errors.Is(err, sql.ErrNoRows) {
		return c, nil
	}
	if err != nil {
		return c, err
	}
	c.there = true
	c.setCosts(raw, markup)
	if c.day, err = ParseDay(c.date); err != nil {
		return c, dataErrorf("client_live_counters of %s: %w", orgID, err)
	}
	return c, nil
}

// totals returns what the counter holds, or ErrData where that is no number.
func (c counterRow) totals() (Totals, error) {
	if c.broken {
		return Totals{}, dataErrorf("the costs of the live counter of %s are no amounts of money", c.day)
	}
	return c.Totals, nil
}
