package store

import (
	"context"
	"database/sql"
	"time"
)

// Difference is what has appeared in the application's rows of a day and is not part of any total.
type Difference struct {
	Noticed
	At time.Time // when it was last added to
}

// IsKnown tells whether it has become known what it is: generations that we have counted ourselves.
func (d Difference) IsKnown() bool {
	const lost = Dollar / 1_000_000_000
	return d.Requests == 0 && d.Tokens == 0 && magnitude(d.Raw) <= lost
}

// Differences returns what is disputed about the days from first to last, in their order. What is known by now is among
// it: it tells that another program was at work.
func (s *Store) Differences(ctx context.Context, orgID string, first, last Day) (all []Difference, err error) {
	err = s.read(ctx, func(q querier) error {
		const query = `
			select usage_date, requests, tokens, raw, markup, updated_at from usage_sync_days
			where client_org_id = ? and usage_date between ? and ? and part = 'day' and name = '' and kind = 'disputed'
			order by usage_date`
		all, err = collect(ctx, q, func(scan func(...any) error) (d Difference, err error) {
			var at sql.NullInt64
			err = scan(&d.Day, &d.Requests, &d.Tokens, &d.Raw, &d.Cost, &at)
			d.At = fromUnix(at)
			return d, err
		}, query, orgID, first, last)
		return err
	})
	return all, err
}

// ForeignRecords returns what the application itself has recorded on the days from first to last. It is part of
// their totals.
func (s *Store) ForeignRecords(ctx context.Context, orgID string, first, last Day) (sum Totals, err error) {
	err = s.read(ctx, func(q querier) error {
		const query = `
			select coalesce(sum(requests), 0), coalesce(sum(tokens), 0), coalesce(sum(raw), 0), coalesce(sum(markup), 0)
			from usage_sync_days
			where client_org_id = ? and usage_date between ? and ? and part = 'day' and name = '' and kind = 'foreign'`
		row := q.QueryRowContext(ctx, query, orgID, first, last)
		return row.Scan(&sum.Requests, &sum.Tokens, &sum.Raw, &sum.Cost)
	})
	return sum, err
}

// AcceptTotals closes what is disputed about some days: their totals are right as they stand.
func (s *Store) AcceptTotals(ctx context.Context, orgID string, days []Day) error {
	return s.write(ctx, func(q querier) error {
		const query = `
			update usage_sync_days set requests = 0, tokens = 0, raw = 0, markup = 0
			where client_org_id = ? and usage_date in (select value from json_each(?)) and kind = 'disputed'`
		_, err := q.ExecContext(ctx, query, orgID, jsonText(days))
		return err
	})
}

// Unreadable is a value that the application's readers can't digest. One row with it empties their list of all clients.
type Unreadable struct {
	What      string
	Statement string // SQL that mends it
}

// readersColumns are the columns of client_organizations that builds of the application read in their list of clients
// (mAI's model of the table, August 2025), each with the definition of one that is missing. Without one the list is
// empty. An empty timezone changes no day.
var readersColumns = []struct{ name, definition string }{
	{"openrouter_key_hash", "VARCHAR"}, {"markup_rate", "FLOAT DEFAULT 1.3"}, {"monthly_limit", "FLOAT"},
	{"billing_email", "VARCHAR"}, {"timezone", "VARCHAR DEFAULT ''"}, {"is_active", "INTEGER DEFAULT 1"},
	{"created_at", "BIGINT NOT NULL DEFAULT 0"}, {"updated_at", "BIGINT NOT NULL DEFAULT 0"},
}

// readersValues are values of them that the readers can't digest, each with the statement that mends them.
var readersValues = []struct{ column, where, what, statement string }{
	{"markup_rate", `markup_rate is null`, "markup_rate is NULL",
		`update client_organizations set markup_rate = 1.3 where markup_rate is null`},
	{"timezone", `timezone is null`, "timezone is NULL",
		`update client_organizations set timezone = '' where timezone is null`},
	{"created_at", `typeof(created_at) = 'text'`, "created_at is a text",
		`update client_organizations set created_at = unixepoch(created_at) where typeof(created_at) = 'text'`},
	{"updated_at", `typeof(updated_at) = 'text'`, "updated_at is a text",
		`update client_organizations set updated_at = unixepoch(updated_at) where typeof(updated_at) = 'text'`},
}

// Unreadable returns what the application's readers can't digest of client_organizations.
func (s *Store) Unreadable(ctx context.Context) (found []Unreadable, err error) {
	err = s.read(ctx, func(q querier) error {
		found = nil
		columns, err := tableColumns(ctx, q, "client_organizations")
		if err != nil {
			return err
		}
		for _, c := range readersColumns {
			if !hasColumn(columns, c.name) {
				found = append(found, Unreadable{"there is no column " + c.name,
					"alter table client_organizations add column " + c.name + " " + c.definition})
			}
		}
		for _, v := range readersValues {
			if !hasColumn(columns, v.column) {
				continue
			}
			var rows int64
			err := q.QueryRowContext(ctx, `select count(*) from client_organizations where `+v.where).Scan(&rows)
			if err != nil {
				return err
			}
			if rows > 0 {
				found = append(found, Unreadable{v.what, v.statement})
			}
		}
		return nil
	})
	return found, err
}
