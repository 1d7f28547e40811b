package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"
)

// statementsTable is never emptied or changed by putting a backup back: what was sent was sent.
const statementsTable = "usage_sync_statements"

// StatementEntry is a row of usage_sync_statements: a statement that was closed, or that one is void. Rows
// are never changed or removed, so the numbers of an organisation have no holes.
type StatementEntry struct {
	OrganisationID string
	Number         int64 // 1, 2, 3, … for each organisation
	Span           Span
	Voids          int64 // the number of the statement that is void; 0 where this is a statement
	At             time.Time
	By             string
	Note           string
	Hash           string // of the body
	Body           string
}

// errStatementEntered: another entry was made at the same time.
var errStatementEntered = errors.New("another statement was entered at the same time, try again")

// Statements returns the entries of an organisation in the order of their numbers.
func (s *Store) Statements(ctx context.Context, orgID string) (entries []StatementEntry, err error) {
	err = s.read(ctx, func(q querier) (err error) {
		entries, err = statements(ctx, q, orgID)
		return err
	})
	return entries, err
}

func statements(ctx context.Context, q querier, orgID string) ([]StatementEntry, error) {
	const query = `
		select client_org_id, number, first_day, last_day, coalesce(voids, 0), entered_at, entered_by, note, hash, body
		from usage_sync_statements where client_org_id = ? order by number`
	return collect(ctx, q, func(scan func(...any) error) (e StatementEntry, err error) {
		var at sql.NullInt64
		err = scan(&e.OrganisationID, &e.Number, &e.Span.First, &e.Span.Last, &e.Voids, &at, &e.By, &e.Note, &e.Hash,
			&e.Body)
		e.At = fromUnix(at)
		return e, err
	}, query, orgID)
}

// EnterStatement enters a statement, or that one is void. Its number must be the next one: else somebody else
// has entered one meanwhile, which is errStatementEntered.
func (s *Store) EnterStatement(ctx context.Context, e StatementEntry) error {
	return s.write(ctx, func(q querier) error {
		var last int64
		const query = `select coalesce(max(number), 0) from usage_sync_statements where client_org_id = ?`
		if err := q.QueryRowContext(ctx, query, e.OrganisationID).Scan(&last); err != nil {
			return err
		}
		if e.Number != last+1 {
			return fmt.Errorf("%w: number %d is taken", errStatementEntered, e.Number)
		}
		const insert = `
			insert into usage_sync_statements (client_org_id, number, first_day, last_day, voids, entered_at,
				entered_by, note, hash, body)
			values (?, ?, ?, ?, nullif(?, 0), ?, ?, ?, ?, ?)`
		_, err := q.ExecContext(ctx, insert, e.OrganisationID, e.Number, e.Span.First, e.Span.Last, e.Voids,
			e.At.Unix(), e.By, e.Note, e.Hash, e.Body)
		return err
	})
}

// NoteAgreed remembers that OpenRouter's own totals of some days agree with ours: they are reconciled, and
// nothing of them is missing.
func (s *Store) NoteAgreed(ctx context.Context, org Organisation, days []Day, now time.Time) error {
	return s.write(ctx, func(q querier) error {
		const query = `
			insert or replace into usage_sync_reconciled (client_org_id, usage_date, reconciled_at)
			select ?, value, ? from json_each(?)`
		_, err := q.ExecContext(ctx, query, org.ID, now.Unix(), jsonText(append([]Day{}, days...)))
		if err != nil {
			return err
		}
		st, err := state(ctx, q, org.ID)
		if err != nil {
			return err
		}
		for _, day := range days {
			from, until := day.Start(org.Zone), day.Add(1).Start(org.Zone)
			listing := Listing{From: from, Until: until}
			if from.Before(st.CoveredFrom) { // no pass has asked for it: the closed gap says that it is whole
				listing.Missing = []Gap{{OrganisationID: org.ID, Kind: GapHistory, From: from, Until: until,
					Why: "usage from before the first pass", NoticedAt: now}}
			}
			if err := listing.write(ctx, q, org.ID, now); err != nil {
				return err
			}
		}
		return nil
	})
}

// Unreconciled returns the days of a span with usage of which it was never found that OpenRouter's own
// figures agree: by a pass that has squared them, or by a reconciliation.
func (s *Store) Unreconciled(ctx context.Context, org Organisation, now time.Time, span Span) (days []Day, err error) {
	err = s.read(ctx, func(q querier) error {
		days = nil
		usage, err := spanUsage(ctx, q, org.ID, DayOf(now, org.Zone), span)
		if err != nil {
			return err
		}
		const query = `
			select usage_date from usage_sync_reconciled where client_org_id = ?1 and usage_date between ?2 and ?3
			union
			select usage_date from usage_sync_days
			where client_org_id = ?1 and usage_date between ?2 and ?3 and part = 'day' and name = ''
				and kind = 'remainder' and noticed_at > 0`
		agreed, err := collect(ctx, q, func(scan func(...any) error) (d Day, err error) { return d, scan(&d) },
			query, org.ID, span.First, span.Last)
		for _, d := range usage.Days {
			if !d.IsZero() && !slices.Contains(agreed, d.Day) {
				days = append(days, d.Day)
			}
		}
		return err
	})
	return days, err
}
