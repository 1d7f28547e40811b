package store

import (
	"context"
	"database/sql"
	"strings"
	"time"
)

// Books is what the tables hold of one day of an organisation. Where all is well, they agree.
type Books struct {
	Models   map[string]Totals // client_model_daily_usage, by ModelName
	Users    Totals            // client_user_daily_usage
	Day      Totals            // client_daily_usage, and the live counter if it stands for the day
	Foreign  Totals            // recorded by the application itself: part of the tables, and not of the ledger
	Adopted  Totals            // counted by others before our time: part of client_daily_usage
	Disputed Totals            // appeared in the tables, and part of none
	Ledger   Totals            // processed_generations; a correction counts as a request here, and there is no marked-up cost
	// Remainder is what the tables hold beyond the ledger, because OpenRouter's own total of the day does: see Square.
	Remainder Totals
	// Resolution is by how much rounding may have put the cost of each model off, by ModelName. A squared day has none.
	Resolution map[string]Money
}

// Books returns the books of the days from first to last that have any.
func (s *Store) Books(ctx context.Context, orgID string, first, last Day) (books map[Day]Books, err error) {
	err = s.read(ctx, func(q querier) (err error) {
		books, err = booksOf(ctx, q, orgID, first, last)
		return err
	})
	return books, err
}

func booksOf(ctx context.Context, q querier, orgID string, first, last Day) (map[Day]Books, error) {
	books := map[Day]Books{}
	sums := []struct {
		query string
		add   func(*Books, bookRow)
	}{
		{`select substr(usage_date, 1, 10), model_name, coalesce(sum(total_tokens), 0), coalesce(sum(total_requests), 0),
				coalesce(sum(raw_cost), 0), coalesce(sum(markup_cost), 0)
			from client_model_daily_usage where client_org_id = ? and usage_date >= ? and usage_date < ? || '~' group by 1, 2`,
			func(b *Books, row bookRow) {
				if b.Models == nil {
					b.Models = map[string]Totals{}
				}
				b.Models[ModelName(row.model)] = b.Models[ModelName(row.model)].Add(row.Totals)
			}},
		{`select substr(usage_date, 1, 10), '', coalesce(sum(total_tokens), 0), coalesce(sum(total_requests), 0),
				coalesce(sum(raw_cost), 0), coalesce(sum(markup_cost), 0)
			from client_user_daily_usage where client_org_id = ? and usage_date >= ? and usage_date < ? || '~' group by 1`,
			func(b *Books, row bookRow) { b.Users = row.Totals }},
		{`select substr(usage_date, 1, 10), '', coalesce(sum(total_tokens), 0), coalesce(sum(total_requests), 0),
				coalesce(sum(raw_cost), 0), coalesce(sum(markup_cost), 0)
			from client_daily_usage where client_org_id = ? and usage_date >= ? and usage_date < ? || '~' group by 1`,
			func(b *Books, row bookRow) { b.Day = b.Day.Add(row.Totals) }},
		{`select substr("current_date", 1, 10), '', coalesce(today_tokens, 0), coalesce(today_requests, 0),
				coalesce(today_raw_cost, 0), coalesce(today_markup_cost, 0)
			from client_live_counters where client_org_id = ? and "current_date" >= ? and "current_date" < ? || '~'`,
			func(b *Books, row bookRow) { b.Day = b.Day.Add(row.Totals) }},
		{`select substr(generation_date, 1, 10), '', coalesce(sum(total_tokens), 0), count(*), coalesce(sum(total_cost), 0), 0
			from processed_generations p where client_org_id = ?1 and generation_date >= ?2 and generation_date < ?3 || '~'
				and not exists (select 1 from usage_sync_generations g where g.client_org_id = ?1
					and g.generation_date = substr(p.generation_date, 1, 10) and g.id = p.id and g.source = '` + sourceRemoved + `')
			group by 1`,
			func(b *Books, row bookRow) { b.Ledger = row.Totals }},
		{`select usage_date, kind, tokens, requests, raw / 1e12, markup / 1e12 from usage_sync_days
			where client_org_id = ? and usage_date >= ? and usage_date <= ? and part = 'day' and name = ''
				and kind <> 'counted' and (requests <> 0 or tokens <> 0 or raw <> 0)`,
			func(b *Books, row bookRow) {
				switch Kind(row.model) {
				case KindForeign:
					b.Foreign = row.Totals
				case KindAdopted:
					b.Adopted = row.Totals
				case KindDisputed:
					b.Disputed = row.Totals
				case KindRemainder:
					b.Remainder = row.Totals
				}
			}},
	}
	for _, sum := range sums {
		rows, err := collect(ctx, q, func(scan func(...any) error) (row bookRow, err error) {
			return row, scanTotals(scan, &row.Totals, &row.day, &row.model)
		}, sum.query, orgID, first, last)
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			b := books[row.day]
			sum.add(&b, row)
			books[row.day] = b
		}
	}
	return books, addResolutions(ctx, q, orgID, first, last, books)
}

// addResolutions adds to books by how much rounding may have put the costs of models off.
func addResolutions(ctx context.Context, q querier, orgID string, first, last Day, books map[Day]Books) error {
	type row struct {
		day   Day
		model string
		step  Money
	}
	const resolutions = `
		select generation_date, model_name, sum(` + resolutionOf + `) from usage_sync_generations g
		where client_org_id = ?1 and generation_date between ?2 and ?3 and generation_date not in (
			select usage_date from usage_sync_days
			where client_org_id = ?1 and usage_date between ?2 and ?3 and part = 'day' and name = '' and kind = 'remainder'
				and noticed_at > 0)
		group by 1, 2`
	rows, err := collect(ctx, q, func(scan func(...any) error) (r row, err error) {
		return r, scan(&r.day, &r.model, &r.step)
	}, resolutions, orgID, first, last)
	for _, r := range rows {
		b := books[r.day]
		if b.Resolution == nil {
			b.Resolution = map[string]Money{}
		}
		b.Resolution[ModelName(r.model)] += r.step
		books[r.day] = b
	}
	return err
}

type bookRow struct {
	Totals
	day   Day
	model string
}

// LedgerEntry is a generation as the ledger holds it.
type LedgerEntry struct {
	ID           string
	Organisation string
	Day          Day
	Tokens       int64
	Cost         Money
	Model        string    // ModelName of the row of client_model_daily_usage that it went into; empty where that is not known
	CreatedAt    time.Time // zero where it is not known
	Resolution   Money     // what Cost is rounded to; zero is nothing
	Source       string    // by which it came; empty where that is not known
}

// Manual tells whether the entry was recorded by hand.
func (e LedgerEntry) Manual() bool { return strings.HasPrefix(e.ID, manualPrefix) }

// Holds tells whether the entry has the tokens and the cost of a generation, as far as both are known.
func (e LedgerEntry) Holds(g Generation) bool {
	return e.Tokens == g.Tokens && agree(e.Cost, e.Resolution, g.Cost, g.Resolution)
}

const ledgerEntry = `
	select p.id, p.client_org_id, substr(p.generation_date, 1, 10), p.total_tokens, p.total_cost,
		coalesce(g.model_name, ''), g.created_at, ` + resolutionOf + `, coalesce(g.source, '')
	from processed_generations p left join usage_sync_generations g
		on g.client_org_id = p.client_org_id and g.generation_date = substr(p.generation_date, 1, 10) and g.id = p.id`

// LedgerOfDay returns the entries of one day.
func (s *Store) LedgerOfDay(ctx context.Context, orgID string, day Day) ([]LedgerEntry, error) {
	return s.ledgerEntries(ctx, ` where p.client_org_id = ?1 and p.generation_date >= ?2 and p.generation_date < ?2 || '~'
		and coalesce(g.source, '') <> '`+sourceRemoved+`'`, orgID, day)
}

// LedgerOf returns the entries with some ids, whatever their day and organisation.
func (s *Store) LedgerOf(ctx context.Context, ids []string) ([]LedgerEntry, error) {
	return s.ledgerEntries(ctx, ` where p.id in (select value from json_each(?))
		and coalesce(g.source, '') <> '`+sourceRemoved+`'`, jsonText(append([]string{}, ids...)))
}

func (s *Store) ledgerEntries(ctx context.Context, where string, args ...any) (entries []LedgerEntry, err error) {
	err = s.read(ctx, func(q querier) error {
		entries = nil
		entries, err = collect(ctx, q, scanLedgerEntry, ledgerEntry+where, args...)
		return err
	})
	return entries, err
}

func scanLedgerEntry(scan func(...any) error) (e LedgerEntry, err error) {
	var cost any
	var created sql.NullInt64
	if err := scan(&e.ID, &e.Organisation, &e.Day, &e.Tokens, &cost, &e.Model, &created,
		&e.Resolution, &e.Source); err != nil {
		return e, err
	}
	e.Model, e.CreatedAt = ModelName(e.Model), fromUnix(created)
	if e.Cost, err = MoneyFromFloat(number(cost)); err != nil {
		return e, dataErrorf("%s: generation %s: %w", ledger, e.ID, err)
	}
	return e, nil
}

// LedgerBetween adds up the entries of generations created from one time up to another. Entries of which only
// the day is known, because others have made them, count by that day in UTC.
func (s *Store) LedgerBetween(ctx context.Context, orgID string, from, to time.Time) (sum Totals, err error) {
	err = s.read(ctx, func(q querier) error {
		// No calendar is more than a day off from that of UTC.
		const query = `
			select coalesce(sum(p.total_tokens), 0), count(*), coalesce(sum(p.total_cost), 0), 0
			from processed_generations p left join usage_sync_generations g
				on g.client_org_id = p.client_org_id and g.generation_date = substr(p.generation_date, 1, 10) and g.id = p.id
			where p.client_org_id = ?1
				and p.generation_date between date(?2, 'unixepoch', '-1 day') and date(?3, 'unixepoch', '+1 day') || '~'
				and coalesce(g.created_at, unixepoch(substr(p.generation_date, 1, 10))) >= ?2
				and coalesce(g.created_at, unixepoch(substr(p.generation_date, 1, 10))) < ?3`
		return scanTotals(q.QueryRowContext(ctx, query, orgID, from.Unix(), to.Unix()).Scan, &sum)
	})
	return sum, err
}
