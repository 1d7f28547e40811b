package job_test

import (
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"usage-sync/job/openrouter/standin"
	"usage-sync/store"
)

// application does to the tables what the application's own code does: what its public builds do at each look at the
// dashboard, at each record of their own and when they clean up. It keeps its days by the container's clock.
type application struct {
	*world
	org       string
	container *time.Location // its TZ
	client    *time.Location // the organisation's column timezone, which build B goes by
	listed    []standin.Generation
}

// use makes the server list a generation.
func (a *application) use(g standin.Generation) {
	a.listed = append(a.listed, g)
	a.api.Add(keyOf(a.org), g)
}

func (a *application) today() string { return a.now().In(a.container).Format(time.DateOnly) }

func (a *application) begin() *sql.Tx {
	a.Helper()
	tx, err := a.db.Begin()
	if err != nil {
		a.Fatalf("%v", err)
	}
	return tx
}

func (a *application) do(tx *sql.Tx, query string, args ...any) {
	a.Helper()
	if _, err := tx.Exec(query, args...); err != nil {
		a.Fatalf("%s: %v", query, err)
	}
}

// counter reads the live counter.
func (a *application) counter(tx *sql.Tx) (day string, s sum, there bool) {
	a.Helper()
	err := tx.QueryRow(`select cast("current_date" as text), today_tokens, today_requests, today_raw_cost, today_markup_cost
		from client_live_counters where client_org_id = ?`, a.org).Scan(&day, &s.tokens, &s.requests, &s.raw, &s.markup)
	if errors.Is(err, sql.ErrNoRows) {
		return "", s, false
	}
	if err != nil {
		a.Fatalf("%v", err)
	}
	return day, s, true
}

// daily reads the first daily row of a day.
func (a *application) daily(tx *sql.Tx, day string) (s sum, there bool) {
	a.Helper()
	err := tx.QueryRow(`select total_tokens, total_requests, raw_cost, markup_cost from client_daily_usage
		where client_org_id = ? and cast(usage_date as text) = ?`, a.org, day).Scan(&s.tokens, &s.requests, &s.raw, &s.markup)
	if errors.Is(err, sql.ErrNoRows) {
		return s, false
	}
	if err != nil {
		a.Fatalf("%v", err)
	}
	return s, true
}

const setTheCounter = `
	insert into client_live_counters (client_org_id, "current_date", today_tokens, today_requests, today_raw_cost,
		today_markup_cost, last_updated) values (?1, ?2, ?3, ?4, ?5, ?6, ?7)
	on conflict (client_org_id) do update set "current_date" = ?2, today_tokens = ?3, today_requests = ?4,
		today_raw_cost = ?5, today_markup_cost = ?6, last_updated = ?7`

func (a *application) setCounter(tx *sql.Tx, day string, s sum) {
	a.Helper()
	a.do(tx, setTheCounter, a.org, day, s.tokens, s.requests, s.raw, s.markup, a.now().Unix())
}

// view is what the dashboard shows.
type view struct{ today, month sum }

// lookA is a look at the dashboard of build A. An error is what it shows as "Error" and zeros.
func (a *application) lookA() (v view, err error) {
	a.Helper()
	tx := a.begin()
	defer tx.Rollback()
	today := a.today()
	day, live, there := a.counter(tx)
	if !there || day != today {
		if there && live.tokens > 0 {
			if _, err := tx.Exec(`insert into client_daily_usage (id, client_org_id, usage_date, total_tokens, total_requests,
				raw_cost, markup_cost, created_at, updated_at) values (?, ?, ?, ?, ?, ?, ?, ?, ?)`, a.org+"_"+day, a.org, day,
				live.tokens, live.requests, live.raw, live.markup, a.now().Unix(), a.now().Unix()); err != nil {
				return v, err
			}
		}
		live, there = a.daily(tx, today)
		if _, had, _ := func() (string, bool, error) { d, _, h := a.counter(tx); return d, h, nil }(); had || there {
			a.setCounter(tx, today, live)
		}
	}
	v.today = live
	v.month = live
	row := tx.QueryRow(`select coalesce(sum(total_tokens), 0), coalesce(sum(total_requests), 0), coalesce(sum(raw_cost), 0),
		coalesce(sum(markup_cost), 0) from client_daily_usage where client_org_id = ? and usage_date >= ?`, a.org, today[:8]+"01")
	var past sum
	if err := row.Scan(&past.tokens, &past.requests, &past.raw, &past.markup); err != nil {
		a.Fatalf("%v", err)
	}
	v.month = v.month.plus(past)
	if err := tx.Commit(); err != nil {
		a.Fatalf("%v", err)
	}
	return v, nil
}

// rollOverB is the atomic rollover of build B.
func (a *application) rollOverB() {
	a.Helper()
	tx := a.begin()
	defer tx.Rollback()
	day, live, there := a.counter(tx)
	if !there || day >= a.today() {
		return
	}
	if live.tokens > 0 {
		now := a.now().Unix()
		a.do(tx, `insert into client_daily_usage (id, client_org_id, usage_date, total_tokens, total_requests, raw_cost,
			markup_cost, primary_model, unique_users, created_at, updated_at) values (?1, ?2, ?3, ?4, ?5, ?6, ?7, 'aggregated', 1, ?8, ?8)
			on conflict (id) do update set total_tokens = total_tokens + ?4, total_requests = total_requests + ?5,
				raw_cost = raw_cost + ?6, markup_cost = markup_cost + ?7, updated_at = ?8`, a.org+"_"+day, a.org, day, live.tokens,
			live.requests, live.raw, live.markup, now)
	}
	a.setCounter(tx, a.now().In(a.client).Format(time.DateOnly), sum{})
	if err := tx.Commit(); err != nil {
		a.Fatalf("%v", err)
	}
}

// recordC is a manual record or webhook of build C: the counter becomes this one request, the daily row and the
// per-model row of today grow, under ids of their own where there is none.
func (a *application) recordC(model string, s sum) {
	a.Helper()
	tx := a.begin()
	defer tx.Rollback()
	today, now := a.today(), a.now().Unix()
	a.do(tx, `insert or replace into client_live_counters (client_org_id, "current_date", today_tokens, today_requests,
		today_raw_cost, today_markup_cost, last_updated) values (?, ?, ?, ?, ?, ?, ?)`, a.org, today, s.tokens, s.requests, s.raw,
		s.markup, now)
	a.do(tx, `insert or replace into client_daily_usage (id, client_org_id, usage_date, total_tokens, total_requests, raw_cost,
		markup_cost, primary_model, unique_users, created_at, updated_at)
		select coalesce((select id from client_daily_usage where client_org_id = ?2 and usage_date = ?3), ?1), ?2, ?3,
			?4 + coalesce((select total_tokens from client_daily_usage where client_org_id = ?2 and usage_date = ?3), 0),
			?5 + coalesce((select total_requests from client_daily_usage where client_org_id = ?2 and usage_date = ?3), 0),
			?6 + coalesce((select raw_cost from client_daily_usage where client_org_id = ?2 and usage_date = ?3), 0),
			?7 + coalesce((select markup_cost from client_daily_usage where client_org_id = ?2 and usage_date = ?3), 0),
			?8, 1, ?9, ?9`, uuid.NewString(), a.org, today, s.tokens, s.requests, s.raw, s.markup, model, now)
	const before = `(select %s from client_model_daily_usage where client_org_id = ?2 and model_name = ?8 and usage_date = ?3)`
	of := func(column string) string { return fmt.Sprintf(before, column) }
	a.do(tx, `insert or replace into client_model_daily_usage (id, client_org_id, model_name, usage_date, total_tokens,
		total_requests, raw_cost, markup_cost, provider, created_at, updated_at)
		select coalesce(`+of("id")+`, ?1), ?2, ?8, ?3, ?4 + coalesce(`+of("total_tokens")+`, 0), ?5 + coalesce(`+of("total_requests")+`, 0),
			?6 + coalesce(`+of("raw_cost")+`, 0), ?7 + coalesce(`+of("markup_cost")+`, 0), 'openrouter', ?9, ?9`,
		uuid.NewString(), a.org, today, s.tokens, s.requests, s.raw, s.markup, model, now)
	if err := tx.Commit(); err != nil {
		a.Fatalf("%v", err)
	}
}

// recordD is a record of build D: daily, per-user and per-model rows grow, and there is no live counter.
func (a *application) recordD(user, model string, s sum) {
	a.Helper()
	tx := a.begin()
	defer tx.Rollback()
	today, now := a.today(), a.now().Unix()
	const grow = ` on conflict (id) do update set total_tokens = total_tokens + excluded.total_tokens,
		total_requests = total_requests + excluded.total_requests, raw_cost = raw_cost + excluded.raw_cost,
		markup_cost = markup_cost + excluded.markup_cost, updated_at = excluded.updated_at`
	a.do(tx, `insert into client_daily_usage (id, client_org_id, usage_date, total_tokens, total_requests, raw_cost,
		markup_cost, primary_model, unique_users, created_at, updated_at) values (?, ?, ?, ?, ?, ?, ?, ?, 1, ?, ?)`+grow,
		a.org+":"+today, a.org, today, s.tokens, s.requests, s.raw, s.markup, model, now, now)
	a.do(tx, `insert into client_user_daily_usage (id, client_org_id, user_id, openrouter_user_id, usage_date, total_tokens,
		total_requests, raw_cost, markup_cost, created_at, updated_at) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`+grow,
		a.org+":"+user+":"+today, a.org, user, "or-"+user, today, s.tokens, s.requests, s.raw, s.markup, now, now)
	a.do(tx, `insert into client_model_daily_usage (id, client_org_id, model_name, usage_date, total_tokens, total_requests,
		raw_cost, markup_cost, provider, created_at, updated_at) values (?, ?, ?, ?, ?, ?, ?, ?, 'openrouter', ?, ?)`+grow,
		a.org+":"+model+":"+today, a.org, model, today, s.tokens, s.requests, s.raw, s.markup, now, now)
	if err := tx.Commit(); err != nil {
		a.Fatalf("%v", err)
	}
}

// lookD is a look at the dashboard of build D, which writes nothing.
func (a *application) lookD() (v view) {
	a.Helper()
	tx := a.begin()
	defer tx.Rollback()
	today := a.today()
	v.today, _ = a.daily(tx, today)
	if err := tx.QueryRow(`select coalesce(sum(total_tokens), 0), coalesce(sum(total_requests), 0), coalesce(sum(raw_cost), 0),
		coalesce(sum(markup_cost), 0) from client_daily_usage where client_org_id = ? and usage_date between ? and ?`, a.org,
		today[:8]+"01", today).Scan(&v.month.tokens, &v.month.requests, &v.month.raw, &v.month.markup); err != nil {
		a.Fatalf("%v", err)
	}
	return v
}

// cleanUpE sets the counter to zero.
func (a *application) cleanUpE() {
	a.Helper()
	a.exec(`update client_live_counters set "current_date" = ?, today_tokens = 0, today_requests = 0, today_raw_cost = 0,
		today_markup_cost = 0, last_updated = ?`, a.today(), a.now().Unix())
}

// resetE empties the usage tables and leaves the ledger.
func (a *application) resetE() {
	a.Helper()
	for _, table := range []string{"client_daily_usage", "client_user_daily_usage", "client_model_daily_usage", "client_live_counters"} {
		a.exec(`delete from ` + table)
	}
}

// batchF overwrites marked-up costs of daily rows that are not the raw cost at the present rate.
func (a *application) batchF() {
	a.Helper()
	a.exec(`update client_daily_usage set markup_cost = raw_cost * (select markup_rate from client_organizations o where o.id = client_org_id)
		where abs(markup_cost - raw_cost * (select markup_rate from client_organizations o where o.id = client_org_id)) > 0.001`)
}

// pythonSync is one poll of the Python sync: the newest 50 generations of today, by the container's clock, into the daily
// row of today and the row of its only user. With a ledger it marks them, and counts those that are not marked.
func (a *application) pythonSync(ledger bool) {
	a.Helper()
	today, now := a.today(), a.now()
	var s sum
	tx := a.begin()
	defer tx.Rollback()
	for _, g := range a.listed {
		if g.CreatedAt.After(now) || g.VisibleFrom.After(now) || g.CreatedAt.In(a.container).Format(time.DateOnly) != today {
			continue
		}
		cost, err := store.ParseMoney(g.Cost)
		if err != nil {
			a.Fatalf("%v", err)
		}
		if ledger {
			result, err := tx.Exec(`insert or ignore into processed_generations (id, client_org_id, generation_date, processed_at, total_cost,
				total_tokens) values (?, ?, ?, ?, ?, 0)`, g.ID, a.org, today, now.Unix(), cost.Float())
			if err != nil {
				a.Fatalf("%v", err)
			}
			if n, _ := result.RowsAffected(); n == 0 {
				continue
			}
		}
		s = s.plus(sum{0, 1, cost.Float(), cost.Float() * 1.3})
	}
	if s.requests > 0 {
		const grow = ` on conflict (id) do update set total_tokens = total_tokens + excluded.total_tokens,
			total_requests = total_requests + excluded.total_requests, raw_cost = raw_cost + excluded.raw_cost,
			markup_cost = markup_cost + excluded.markup_cost, updated_at = excluded.updated_at`
		a.do(tx, `insert into client_daily_usage (id, client_org_id, usage_date, total_tokens, total_requests, raw_cost,
			markup_cost, primary_model, unique_users, created_at, updated_at) values (?, ?, ?, ?, ?, ?, ?, 'x', 1, ?, ?)`+grow,
			a.org+"_"+today, a.org, today, s.tokens, s.requests, s.raw, s.markup, now.Unix(), now.Unix())
		a.do(tx, `insert into client_user_daily_usage (id, client_org_id, user_id, openrouter_user_id, usage_date, total_tokens,
			total_requests, raw_cost, markup_cost, created_at, updated_at) values (?, ?, 'background_sync', ?, ?, ?, ?, ?, ?, ?, ?)`+grow,
			a.org+":background_sync:"+today, a.org, "bg_sync_"+a.org, today, s.tokens, s.requests, s.raw, s.markup, now.Unix(), now.Unix())
	}
	if err := tx.Commit(); err != nil {
		a.Fatalf("%v", err)
	}
}
