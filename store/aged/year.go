// Package aged makes databases that have been in use for long, and counts what statements cost in them. It is
// for tests.
package aged

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"usage-sync/store"
)

// What a year leaves behind, of a client with many users beside many clients with one. The many users'
// generations are of 400 models, and a thirtieth of them comes each day.
const (
	Organisations = 100
	Runs          = 52_000

	days  = 365
	users = 10_000
)

// Key is that of an organisation, by its number.
func Key(i int) string { return fmt.Sprintf("sk-or-v1-aged-%03d", i) }

// ID is that of an organisation, by its number. The first one has the users, and the last one no usage and no runs.
func ID(i int) string { return fmt.Sprintf("org-%03d", i) }

// Year makes a database of a year that ends at noon of a day. Each user of the first organisation has one
// generation a month, and each other organisation one a day. Its tables are such that passes find nothing to
// put right.
func Year(ctx context.Context, path string, now time.Time) (err error) {
	organisations := make([]store.NewOrganisation, Organisations)
	for i := range organisations {
		organisations[i] = store.NewOrganisation{ID: ID(i), Name: fmt.Sprintf("Client %03d", i), Key: Key(i), Rate: 1.3}
	}
	if err := store.CreateDemo(ctx, path, organisations, now); err != nil {
		return err
	}
	db, err := sql.Open("sqlite3", "file:"+path+"?_sync=OFF&_journal=MEMORY&_cache_size=-200000")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	db.SetMaxOpenConns(1)
	named := []any{sql.Named("now", now.Unix()), sql.Named("first", now.Unix()/86400-days+1), sql.Named("users", users),
		sql.Named("runs", Runs), sql.Named("last", ID(Organisations-1)), sql.Named("rest", Organisations-2)}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	for _, query := range year {
		if _, err := tx.ExecContext(ctx, query, named...); err != nil {
			return fmt.Errorf("%w: %s", err, query)
		}
	}
	return tx.Commit()
}

// year fills the tables from a list of generations, each of 1000 tokens and a tenth of a cent.
var year = []string{
	`create temp table days as
		with recursive n(i) as (select 0 union all select i + 1 from n where i < 364)
		select i, date((:first + i) * 86400, 'unixepoch') as day, (:first + i) * 86400 as start from n`,
	`create temp table g as
		with recursive
		u(i) as (select 0 union all select i + 1 from u where i + 1 < :users),
		o(i) as (select 1 union all select i + 1 from o where i < :rest)
		select format('gen-%d-%05d', d.start + u.i * 4, u.i) as id, 'org-000' as org, d.day, d.start + u.i * 4 as at,
			format('user-%05d', u.i) as user, format('lab/model-%03d', u.i / 30 % 20 * 20 + d.i % 20) as model
		from days d cross join u where (u.i + d.i) % 30 = 0
		union all
		select format('gen-%d-%03d', d.start + o.i, o.i), format('org-%03d', o.i), d.day, d.start + o.i, 'user-00000', 'lab/model-000'
		from days d cross join o
		order by org, day, id`,
	`insert into processed_generations (id, client_org_id, generation_date, processed_at, total_cost, total_tokens)
		select id, org, day, at + 600, 0.001, 1000 from g order by id`,
	`insert into usage_sync_generations (client_org_id, generation_date, id, created_at, model_name, user_id,
			openrouter_user_id, markup_rate, source, resolution, requests, tokens, raw)
		select org, day, id, at, model, user, user, 1.3, 'generations', 0, 1, 1000, 1000000000 from g where at > :now - 45 * 86400`,
	`insert into client_user_daily_usage (id, client_org_id, user_id, openrouter_user_id, usage_date, total_tokens,
			total_requests, raw_cost, markup_cost, created_at, updated_at)
		select org || user || day, org, user, user, day, 1000 * count(*), count(*), count(*) / 1e3, count(*) * 13 / 1e4, 1, 1
		from g group by org, user, day`,
	`insert into client_model_daily_usage (id, client_org_id, model_name, provider, usage_date, total_tokens, total_requests,
			raw_cost, markup_cost, created_at, updated_at)
		select org || model || day, org, model, 'lab', day, 1000 * count(*), count(*), count(*) / 1e3, count(*) * 13 / 1e4, 1, 1
		from g group by org, model, day`,
	`insert into usage_sync_days (client_org_id, usage_date, part, name, kind, requests, tokens, raw, markup,
			openrouter_user_id, row_id, row_created, noticed_at, updated_at)
		select org, day, 'user', user, 'counted', count(*), 1000 * count(*), 1000000000 * count(*), 1300000000 * count(*),
			user, org || user || day, '1', 1, 1
		from g group by org, day, user
		union all
		select org, day, 'model', model, 'counted', count(*), 1000 * count(*), 1000000000 * count(*), 1300000000 * count(*),
			'', org || model || day, '1', 1, 1
		from g group by org, day, model
		union all
		select org, day, 'day', '', 'counted', count(*), 1000 * count(*), 1000000000 * count(*), 1300000000 * count(*),
			'', '', '', 1, 1
		from g group by org, day
		order by 1, 2, 3, 4`,
	`insert into client_daily_usage (id, client_org_id, usage_date, total_tokens, total_requests, raw_cost, markup_cost,
			primary_model, unique_users, created_at, updated_at)
		select org || day, org, day, 1000 * count(*), count(*), count(*) / 1e3, count(*) * 13 / 1e4,
			(select name from usage_sync_days d
				where d.client_org_id = org and d.usage_date = day and d.part = 'model' order by tokens desc, name limit 1),
			count(distinct user), 1, 1
		from g where day < date(:now, 'unixepoch') group by org, day`,
	`insert into client_live_counters (client_org_id, "current_date", today_tokens, today_requests, today_raw_cost,
			today_markup_cost, last_updated)
		select org, day, 1000 * count(*), count(*), count(*) / 1e3, count(*) * 13 / 1e4, :now - 600
		from g where day = date(:now, 'unixepoch') group by org`,
	`insert into usage_sync_hours (client_org_id, hour, requests, raw_cost)
		select org, at / 3600 * 3600, count(*), 1000000000 * count(*) from g where at > :now - 45 * 86400 group by 1, 2`,
	`insert into user_client_mapping (id, user_id, client_org_id, openrouter_user_id, is_active, created_at, updated_at)
		select distinct org || user, user, org, user, 1, 1, 1 from g`,
	`insert into usage_sync_state (client_org_id, covered_from, covered_to, full_day, updated_at, clock)
		select distinct org, :now - 364 * 86400, :now - 600, date(:now, 'unixepoch'), :now - 600, :now - 600 from g`,
	`insert into usage_sync_books (client_org_id, kept_from, today) select distinct org, :now - 364 * 86400, 'live' from g`,
	`insert into usage_sync_rates (client_org_id, valid_from, rate, noticed_at, noted_by, note)
		select distinct org, null, 1300000000, 1, '', '' from g`,
	// Every other run is one of the first organisation, and the oldest has failed.
	`insert into usage_sync_runs (started_at, ended_at, client_org_id, organization, source, window_start, window_end, fetched,
			recorded, updated, duplicates, refused, tokens, raw_cost, markup_cost, api_requests, exit_code, error)
		with recursive n(i) as (select :runs union all select i - 1 from n where i > 1)
		select :now - i * 152, :now - i * 152 + 1, format('org-%03d', iif(i % 2, 0, 1 + i / 2 % :rest)),
			format('Client %03d', iif(i % 2, 0, 1 + i / 2 % :rest)), 'generations', :now - i * 152 - 86400, :now - i * 152, 100, 0, 0,
			100, 0, 0, 0, 0, 1, iif(i = :runs, 69, 0), iif(i = :runs, 'HTTP 503', null)
		from n`,
	`insert into usage_sync_totals (client_org_id, counter, label, value)
		select distinct org, 'success', '', :now - 600 from g union all select distinct org, 'passes', '0', 52000 from g`,
	`insert into usage_sync_gaps (client_org_id, kind, subject, gap_from, gap_until, why, noticed_at, closed_at, accepted,
			closed_by, note)
		select 'org-000', 'refused', 'gen-' || i, start, start + 1, 'a row was refused', start, start + 3600, 0, '', 'listed in full'
		from days`,
	`drop table temp.g`,
	`drop table temp.days`,
}
