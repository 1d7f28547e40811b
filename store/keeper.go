package store

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// keeper holds an organisation's record of some days beside the application's rows of these days. It takes into the
// record what others have recorded, and sets the rows from the record.
type keeper struct {
	org     Organisation
	now     time.Time
	keeping keeping
	host    Day // the day for which the live counter stands; empty where there is no counter
	days    map[Day]*dayRecord
	rows    map[Day]*rowsOfDay
	counter counterRow
	counted []string // ids that this batch has entered into the record
	first   bool     // nothing of the organisation was ever set by us
	found   Found
}

// Found is what was found in an organisation's books.
type Found struct {
	Corrections []Correction // rows that held something else than they should
	Foreign     []Noticed    // what the application has recorded
	Disputed    []Noticed    // what has appeared and is not taken into the totals
	// Differing are days on which the record and the ledger differ: what can't be put right.
	Differing []LedgerDifference
	// AllCompared: every day was compared with the ledger, not only those that a pass has touched.
	AllCompared bool
	Begun       bool // the record of days was begun
}

// Correction is a table's day that held something else than it should.
type Correction struct {
	Day         Day
	Table       string // client_daily_usage stands for daily row and live counter together
	Held, Right Totals
}

// Note says in a few words what was found, for the history; empty where nothing was.
func (f Found) Note() string {
	var notes []string
	for _, c := range f.Corrections {
		notes = append(notes, "put right: "+c.String())
	}
	for _, n := range f.Foreign {
		notes = append(notes, "recorded by the application: "+n.String())
	}
	for _, n := range f.Disputed {
		notes = append(notes, "disputed, not billed: "+n.String())
	}
	for _, d := range f.Differing {
		notes = append(notes, "differs: "+d.String())
	}
	const most = 6
	if len(notes) > most {
		notes = append(notes[:most], fmt.Sprintf("and %d more", len(notes)-most))
	}
	return strings.Join(notes, "; ")
}

func (c Correction) String() string {
	return fmt.Sprintf("%s held %s, %s, $%s of %s in place of %d, %d, $%s", c.Table,
		Counted(c.Held.Requests, "request"), Counted(c.Held.Tokens, "token"), c.Held.Cost, c.Day,
		c.Right.Requests, c.Right.Tokens, c.Right.Cost)
}

// Noticed is what has appeared on a day.
type Noticed struct {
	Day Day
	Totals
}

func (n Noticed) String() string {
	return fmt.Sprintf("%s, %s, $%s on %s", Counted(n.Requests, "request"), Counted(n.Tokens, "token"), n.Cost, n.Day)
}

// IsNone tells whether nothing was out of the ordinary.
func (f Found) IsNone() bool {
	return len(f.Corrections)+len(f.Foreign)+len(f.Disputed)+len(f.Differing) == 0
}

// Emptied tells whether rows had lost something.
func (f Found) Emptied() bool {
	return slices.ContainsFunc(f.Corrections, func(c Correction) bool { return covers(c.Right, c.Held) })
}

// Add returns f with g.
func (f Found) Add(g Found) Found {
	return Found{slices.Concat(f.Corrections, g.Corrections), slices.Concat(f.Foreign, g.Foreign),
		slices.Concat(f.Disputed, g.Disputed), slices.Concat(f.Differing, g.Differing), f.AllCompared || g.AllCompared,
		f.Begun || g.Begun}
}

// openKeeper reads the record and the rows of some days, of the day of the live counter and of today. What others have
// written into the rows since is taken into the record.
func (s *Store) openKeeper(ctx context.Context, q querier, org Organisation, now time.Time,
	days []Day) (*keeper, error) {
	k := &keeper{org: org, now: now}
	var err error
	if k.keeping, err = readKeeping(ctx, q, org.ID); err != nil {
		return nil, err
	}
	if k.counter, err = liveCounter(ctx, q, org.ID); err != nil {
		return nil, err
	}
	k.keeping.learn(org, k.counter, now)
	if err := s.placeToday(ctx, q, k); err != nil {
		return nil, err
	}
	today := DayOf(now, org.Zone)
	all := append([]Day{today}, days...)
	if k.host != "" {
		all = append(all, k.host)
	}
	if k.counter.there {
		all = append(all, k.counter.day)
	}
	first := k.keeping.from == 0
	k.first, k.found.Begun = first, first
	if first {
		k.keeping.from, k.keeping.changed = now.Unix(), true
		all = append(all, today.Add(-1), today.Add(1))
	}
	slices.Sort(all)
	all = slices.Compact(all)
	if k.days, err = readRecord(ctx, q, org.ID, all); err != nil {
		return nil, err
	}
	if k.rows, err = readRows(ctx, q, org.ID, all); err != nil {
		return nil, err
	}
	for _, day := range all {
		if k.days[day] == nil {
			k.days[day] = newDayRecord(day)
			k.days[day].isNew = true
			if err := k.begin(ctx, q, k.days[day], first); err != nil {
				return nil, err
			}
		} else if err := k.notice(k.days[day]); err != nil {
			return nil, err
		}
		k.compare(k.days[day])
	}
	return k, nil
}

// placeToday finds out where the usage of today is to be written.
func (s *Store) placeToday(ctx context.Context, q querier, k *keeper) error {
	in, err := s.todayIn(ctx, q)
	if err != nil {
		return err
	}
	if k.keeping.today != in {
		k.keeping.today, k.keeping.changed = in, true
	}
	if in == TodayLive {
		k.host = DayOf(k.now, k.keeping.zone(k.org))
	}
	return nil
}

// todayIn says where the application's build looks for the usage of today.
func (s *Store) todayIn(ctx context.Context, q querier) (TodayIn, error) {
	if s.today != TodayAuto && s.today != "" {
		return s.today, nil
	}
	const find = `select exists (select 1 from main.sqlite_master where type = 'table' and name = ?)`
	var daily bool
	if err := q.QueryRowContext(ctx, find, tableOfDailyBuild).Scan(&daily); err != nil || !daily {
		return TodayLive, err
	}
	return TodayDaily, nil
}

// held returns what a day's rows hold, daily row and live counter together.
func (k *keeper) held(day Day) (t Totals) {
	t = sumOf(k.rows[day].daily)
	if k.counter.there && k.counter.day == day {
		t = t.Add(k.counter.Totals)
	}
	return t
}

// broken tells whether per-user or per-model rows of a day hold something that is no number.
func (k *keeper) broken(day Day) bool {
	isBroken := func(r row) bool { return r.broken }
	for _, byName := range []map[string][]row{k.rows[day].users, k.rows[day].models} {
		for _, named := range byName {
			if slices.ContainsFunc(named, isBroken) {
				return true
			}
		}
	}
	return false
}

// compare notes which tables hold something else of a day than the record.
func (k *keeper) compare(d *dayRecord) {
	for _, table := range []struct {
		name        string
		held, right Totals
	}{
		{"client_daily_usage", k.held(d.day), d.total()},
		{"client_user_daily_usage", sumOfAll(k.rows[d.day].users), d.sum(partUser)},
		{"client_model_daily_usage", sumOfAll(k.rows[d.day].models), d.sum(partModel)},
	} {
		if !nearly(table.held, table.right) {
			k.found.Corrections = append(k.found.Corrections, Correction{d.day, table.name, table.held, table.right})
		}
	}
}

// nearly tells whether totals are equal, but for what is lost in FLOAT columns.
func nearly(a, b Totals) bool {
	const lost = Dollar / 1_000_000_000
	d := a.Sub(b)
	return d.Requests == 0 && d.Tokens == 0 && magnitude(d.Raw) <= lost && magnitude(d.Cost) <= lost
}

func magnitude(m Money) Money { return max(m, -m) }

// change is one statement that sets rows, by a JSON array.
type change struct {
	query string
	rows  [][]any
	table string // where rows are inserted by an id of the application's; empty elsewhere
	part  part   // what the rows are about
}

// firstExtra is the index of the first value of a row that not every table has: the name of a user or model.
const firstExtra = 6

// plan returns what must be written so that the rows hold what the record does.
func (k *keeper) plan() []change {
	users := change{query: setUserRows, table: "client_user_daily_usage", part: partUser}
	models := change{query: setModelRows, table: "client_model_daily_usage", part: partModel}
	daily := change{query: setDailyRows, table: "client_daily_usage", part: partDay}
	gone := map[string][][]any{}
	for _, day := range slices.Sorted(maps.Keys(k.days)) {
		d, rows := k.days[day], k.rows[day]
		for name := range rows.users { // rows of others that are no record become rows of nothing
			d.line(partUser, name)
		}
		for name := range rows.models {
			d.line(partModel, name)
		}
		for name, l := range d.lines[partUser] {
			set, drop := k.setLine(l, day, rows.users[name], rowID(k.org.ID, name, day))
			if set != nil {
				users.rows = append(users.rows, append(set, name, l.external))
			}
			gone["client_user_daily_usage"] = append(gone["client_user_daily_usage"], drop...)
		}
		for name, l := range d.lines[partModel] {
			set, drop := k.setLine(l, day, rows.models[name], rowID(k.org.ID, name, day))
			if set != nil {
				models.rows = append(models.rows, append(set, name, provider(name)))
			}
			gone["client_model_daily_usage"] = append(gone["client_model_daily_usage"], drop...)
		}
		set, drop := k.setDaily(d)
		if set != nil {
			daily.rows = append(daily.rows, set)
		}
		gone["client_daily_usage"] = append(gone["client_daily_usage"], drop...)
	}
	var changes []change
	for table, ids := range gone {
		changes = append(changes, change{query: `delete from ` + table + ` where client_org_id = ?2 and ?3 = ?3
			and id in (select value->>0 from json_each(?1))`, rows: ids})
	}
	changes = append(changes, users, models, daily, change{query: setCounter, rows: k.setCounter()})
	return slices.DeleteFunc(changes, func(c change) bool { return len(c.rows) == 0 })
}

// setLine returns what sets the row of a user or model, and which rows must go: several of one day become one.
func (k *keeper) setLine(l *line, day Day, rows []row, ownID string) (set []any, drop [][]any) {
	want := l.total()
	if len(rows) == 0 {
		if want.IsZero() {
			return nil, nil
		}
		l.remember(ownID, fmt.Sprint(k.now.Unix()))
		return k.values(ownID, day, want), nil
	}
	keep := max(0, slices.IndexFunc(rows, func(r row) bool { return r.id == l.row }))
	for i, r := range rows {
		if zero := r.holds(Totals{}) && r.id != l.row; (want.IsZero() && !zero) || (!want.IsZero() && i != keep) {
			drop = append(drop, []any{r.id})
		}
	}
	if want.IsZero() {
		if l.row != "" {
			l.remember("", "")
		}
		return nil, drop
	}
	kept := rows[keep]
	l.remember(kept.id, kept.created)
	if kept.holds(want) && kept.date == string(day) {
		return nil, drop
	}
	return k.values(kept.id, day, want), drop
}

func (k *keeper) values(id string, day Day, t Totals) []any {
	return []any{id, day, t.Requests, t.Tokens, t.Raw, t.Cost}
}

// setDaily returns what sets the daily row of a day, and which rows must go.
func (k *keeper) setDaily(d *dayRecord) (set []any, drop [][]any) {
	rows, want := k.rows[d.day].daily, d.total()
	model, users := d.summary()
	if d.day == k.host {
		for _, r := range rows {
			drop = append(drop, []any{r.id})
		}
		return nil, drop
	}
	id := dailyRowID(k.org.ID, d.day)
	if len(rows) == 0 {
		if want.IsZero() {
			return nil, nil
		}
		return append(k.values(id, d.day, want), model, users), nil
	}
	// Of several it is ours that stays.
	keep := max(0, slices.IndexFunc(rows, func(r row) bool { return r.id == id }))
	for i, r := range rows {
		if i != keep {
			drop = append(drop, []any{r.id})
		}
	}
	kept := rows[keep]
	if model == "" {
		model, users = kept.primaryModel, kept.users // others have kept no models
	}
	if kept.holds(want) && kept.date == string(d.day) && kept.primaryModel == model && kept.users == users {
		return nil, drop
	}
	return append(k.values(kept.id, d.day, want), model, users), drop
}

// setCounter returns what sets the live counter. Without a day to stand for it holds nothing.
func (k *keeper) setCounter() [][]any {
	day, want := k.host, Totals{}
	if day == "" {
		day = k.counter.day
	} else {
		want = k.days[day].total()
	}
	if !k.counter.there && want.IsZero() {
		return nil
	}
	if k.counter.there && k.counter.date == string(day) && k.counter.holds(want) {
		return nil
	}
	return [][]any{k.values("", day, want)}
}

const (
	setUserRows = `
		insert into client_user_daily_usage (client_org_id, id, usage_date, total_requests, total_tokens, raw_cost,
			markup_cost, user_id, openrouter_user_id, created_at, updated_at)
		select ?2, value->>0, value->>1, value->>2, value->>3, (value->>4) / 1e12, (value->>5) / 1e12, value->>6,
			value->>7, ?3, ?3
		from json_each(?1) where true` + setRow + `, user_id = excluded.user_id`
	setModelRows = `
		insert into client_model_daily_usage (client_org_id, id, usage_date, total_requests, total_tokens, raw_cost,
			markup_cost, model_name, provider, created_at, updated_at)
		select ?2, value->>0, value->>1, value->>2, value->>3, (value->>4) / 1e12, (value->>5) / 1e12, value->>6,
			value->>7, ?3, ?3
		from json_each(?1) where true` + setRow + `, model_name = excluded.model_name`
	setDailyRows = `
		insert into client_daily_usage (client_org_id, id, usage_date, total_requests, total_tokens, raw_cost,
			markup_cost, primary_model, unique_users, created_at, updated_at)
		select ?2, value->>0, value->>1, value->>2, value->>3, (value->>4) / 1e12, (value->>5) / 1e12,
			nullif(value->>6, ''), value->>7, ?3, ?3
		from json_each(?1) where true` + setRow + `, primary_model = excluded.primary_model, unique_users = excluded.unique_users`
	setRow = `
		on conflict (id) do update set usage_date = excluded.usage_date, total_requests = excluded.total_requests,
			total_tokens = excluded.total_tokens, raw_cost = excluded.raw_cost, markup_cost = excluded.markup_cost,
			updated_at = excluded.updated_at`
	setCounter = `
		insert into client_live_counters (client_org_id, "current_date", today_requests, today_tokens, today_raw_cost,
			today_markup_cost, last_updated)
		select ?2, value->>1, value->>2, value->>3, (value->>4) / 1e12, (value->>5) / 1e12, ?3
		from json_each(?1) where true
		on conflict (client_org_id) do update set "current_date" = excluded."current_date",
			today_requests = excluded.today_requests, today_tokens = excluded.today_tokens,
			today_raw_cost = excluded.today_raw_cost, today_markup_cost = excluded.today_markup_cost,
			last_updated = excluded.last_updated`
)

// write writes the record and sets the rows from it.
func (k *keeper) write(ctx context.Context, q querier, changes []change) error {
	if k.first {
		if err := rememberLastWrite(ctx, q, k.org.ID, k.now); err != nil {
			return err
		}
	}
	for _, c := range changes {
		if err := k.makeWay(ctx, q, c); err != nil {
			return err
		}
		if _, err := q.ExecContext(ctx, c.query, jsonText(c.rows), k.org.ID, k.now.Unix()); err != nil {
			return err
		}
	}
	for day, d := range k.days {
		if !d.adopted {
			continue
		}
		const query = `
			update usage_sync_generations set adopted = 1
			where client_org_id = ? and generation_date = ? and id not in (select value from json_each(?))`
		if _, err := q.ExecContext(ctx, query, k.org.ID, day, jsonText(append([]string{}, k.counted...))); err != nil {
			return err
		}
	}
	if err := writeRecord(ctx, q, k.org.ID, k.days, k.now); err != nil {
		return err
	}
	return k.keeping.write(ctx, q, k.org.ID)
}

// isRight tells whether there is nothing to write.
func (k *keeper) isRight(changes []change) bool {
	if len(changes) > 0 || k.keeping.changed {
		return false
	}
	for _, d := range k.days {
		if d.isNew {
			return false
		}
		for _, lines := range d.lines {
			for _, l := range lines {
				if len(l.changed) > 0 {
					return false
				}
			}
		}
	}
	return true
}

// provider is the part of a model's name before the slash.
func provider(model string) string {
	name, _, found := strings.Cut(model, "/")
	if !found || name == "" {
		return "unknown"
	}
	return name
}

// CheckBooks returns what KeepBooks would find and put right on some days, and writes nothing.
func (s *Store) CheckBooks(ctx context.Context, org Organisation, now time.Time, days []Day) (found Found, err error) {
	err = s.read(ctx, func(q querier) error {
		k, err := s.openKeeper(ctx, q, org, now, days)
		if err == nil {
			found = k.found
		}
		return err
	})
	return found, err
}

// KeepBooks makes the application's rows of some days, and of today, those that the record says. Where they are right
// already it takes no write lock. It moves what was today's into the daily row of its day when the day is over.
func (s *Store) KeepBooks(ctx context.Context, org Organisation, now time.Time, days []Day) (found Found, err error) {
	right := false
	err = s.read(ctx, func(q querier) error {
		k, err := s.openKeeper(ctx, q, org, now, days)
		if err != nil {
			return err
		}
		right, found = k.isRight(k.plan()), k.found
		return nil
	})
	if err != nil || right {
		return found, err
	}
	err = s.write(ctx, func(q querier) error {
		k, err := s.openKeeper(ctx, q, org, now, days)
		if err != nil {
			return err
		}
		found = k.found
		return k.write(ctx, q, k.plan())
	})
	return found, err
}

// UnkeptDays returns the days that hold generations of ours and are not in the record yet: those recorded by a version
// without a record of days.
func (s *Store) UnkeptDays(ctx context.Context, orgID string) (days []Day, err error) {
	err = s.read(ctx, func(q querier) error {
		// The key starts with organisation and day: the query hops from day to day.
		const query = `
			with recursive days(day) as (
				select min(generation_date) from usage_sync_generations where client_org_id = ?1
				union all
				select (select min(generation_date) from usage_sync_generations
					where client_org_id = ?1 and generation_date > days.day)
				from days where days.day is not null)
			select day from days where day is not null and not exists (
				select 1 from usage_sync_days
				where client_org_id = ?1 and usage_date = day and part = 'day' and name = '' and kind = 'counted')`
		days, err = collect(ctx, q, func(scan func(...any) error) (d Day, err error) {
			var day sql.NullString
			err = scan(&day)
			return Day(day.String), err
		}, query, orgID)
		return err
	})
	return days, err
}

// EmptiedDays returns the days since first whose record has requests, and of which the application's tables
// have no daily row, no live counter, or no row of a user or model: somebody has removed them.
func (s *Store) EmptiedDays(ctx context.Context, orgID string, first Day) (days []Day, err error) {
	err = s.read(ctx, func(q querier) error {
		// The key starts with organisation and day: the query hops from day to day.
		const query = `
			with recursive
			days(day) as (
				select min(usage_date) from usage_sync_days where client_org_id = ?1 and usage_date >= ?2
				union all
				select (select min(usage_date) from usage_sync_days where client_org_id = ?1 and usage_date > days.day)
				from days where days.day is not null)
			select day from days where day is not null
				and exists (select 1 from usage_sync_days where client_org_id = ?1 and usage_date = day and part = 'day'
					and name = '' and kind in ('counted', 'foreign') and requests > 0)
				and (
					not exists (select 1 from client_daily_usage
						where client_org_id = ?1 and usage_date >= day and usage_date < day || '~')
						and not exists (select 1 from client_live_counters
							where client_org_id = ?1 and "current_date" >= day and "current_date" < day || '~')
					or not exists (
						select 1 from usage_sync_days l cross join client_user_daily_usage r
							on r.client_org_id = ?1 and r.user_id = l.name and r.usage_date >= day and r.usage_date < day || '~'
						where l.client_org_id = ?1 and l.usage_date = day and l.part = 'user')
					or not exists (
						select 1 from usage_sync_days l cross join client_model_daily_usage r
							on r.client_org_id = ?1 and r.model_name = l.name and r.usage_date >= day and r.usage_date < day || '~'
						where l.client_org_id = ?1 and l.usage_date = day and l.part = 'model'))`
		days, err = collect(ctx, q, func(scan func(...any) error) (d Day, err error) { return d, scan(&d) },
			query, orgID, first)
		return err
	})
	return days, err
}
