package store

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"slices"
	"time"
)

// Run is one pass over one organisation, or a pass that failed before it came to any.
type Run struct {
	StartedAt, EndedAt time.Time
	OrganisationID     string // empty where the pass failed before
	Organisation       string // its name
	Source             string
	WindowStart        time.Time
	WindowEnd          time.Time
	Fetched            int64 // rows that came from the source
	Recorded           int64 // new to the ledger
	Updated            int64 // known, with a changed cost or token count
	Duplicates         int64 // known and unchanged
	Refused            int64 // rows that can't be trusted
	Tokens             int64
	Raw, Markup        Money
	Requests           int64 // to OpenRouter, retries included
	ExitCode           int
	Error              string
	Note               string

	// What follows is counted for good, but not part of the history.
	Statuses map[string]int64 // requests by HTTP status
	Retries  int64
	Failure  string // the kind of failure; empty for none
	Found    Found  // in the books
	Listing  Listing
}

const (
	// keepRuns is how long the history reaches back.
	keepRuns = 92 * 24 * time.Hour
	// mostRuns bounds the history where no pass is ever complete: one a minute for three months.
	mostRuns = 132_000
	// keepPlaces is how long the places of generations are kept. No source reaches back more than 31 days.
	keepPlaces = 45
	// dropPlaces bounds what one pass removes, so that its transaction stays short.
	dropPlaces = 5000
)

// notPasses are the sources of runs that are no passes.
var notPasses = []string{SourceManual, SourceReconcile, SourceWebhook, SourceRates, sourceGaps}

// FinishRun writes a run into the history, together with what is counted for good and the state that its pass
// has reached, if any: one transaction. It also removes what is too old of our own tables, as seen from the
// watermark. The ledger is never cut, or an old generation could be counted again. It returns ErrRestored, and
// writes nothing, where the database is not the one that the pass has worked with.
func (s *Store) FinishRun(ctx context.Context, r Run, org *Organisation, p *Progress) error {
	return s.write(ctx, func(q querier) error {
		if org != nil && p != nil {
			if err := p.advance(ctx, q, org.ID, r.EndedAt); err != nil {
				return err
			}
			if err := dropOld(ctx, q, *org, p.After.CoveredTo); err != nil {
				return err
			}
		}
		if err := r.Listing.write(ctx, q, r.OrganisationID, r.EndedAt); err != nil {
			return err
		}
		if err := insertRun(ctx, q, r); err != nil {
			return err
		}
		if err := addToTally(ctx, q, r); err != nil {
			return err
		}
		_, err := q.ExecContext(ctx, `delete from usage_sync_runs where id <= (select max(id) from usage_sync_runs) - ?`, mostRuns)
		return err
	})
}

// dropOld removes what is too old of our own tables.
func dropOld(ctx context.Context, q querier, org Organisation, covered time.Time) error {
	if err := dropOldPlaces(ctx, q, org.ID, DayOf(covered, org.Zone)); err != nil {
		return err
	}
	if err := dropOldAsides(ctx, q, org.ID, DayOf(covered, org.Zone)); err != nil {
		return err
	}
	if err := dropOldHours(ctx, q, org.ID, covered); err != nil {
		return err
	}
	_, err := q.ExecContext(ctx, `delete from usage_sync_runs where started_at < ?`, covered.Add(-keepRuns).Unix())
	return err
}

func insertRun(ctx context.Context, q querier, r Run) error {
	const query = `
		insert into usage_sync_runs (started_at, ended_at, client_org_id, organization, source, window_start, window_end,
			fetched, recorded, updated, duplicates, refused, tokens, raw_cost, markup_cost, api_requests, exit_code,
			error, note)
		values (?, ?, nullif(?, ''), nullif(?, ''), nullif(?, ''), ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, nullif(?, ''),
			nullif(?, ''))`
	_, err := q.ExecContext(ctx, query, r.StartedAt.Unix(), r.EndedAt.Unix(), r.OrganisationID,
		r.Organisation, r.Source, unix(r.WindowStart), unix(r.WindowEnd), r.Fetched, r.Recorded, r.Updated,
		r.Duplicates, r.Refused, r.Tokens,
		r.Raw.Float(), r.Markup.Float(), r.Requests, r.ExitCode, r.Error, r.Note)
	return err
}

// sumDelivered adds a batch that was delivered to the history: one row an hour, organisation and source. A row for each
// delivery would bury the passes.
func sumDelivered(ctx context.Context, q querier, b Batch, done Recorded) error {
	r := Run{StartedAt: b.Now, EndedAt: b.Now, OrganisationID: b.Organisation.ID, Organisation: b.Organisation.Name,
		Source: b.Source, Fetched: int64(len(done.Entries) + done.Duplicates), Duplicates: int64(done.Duplicates)}
	for _, e := range done.Entries {
		if e.Settled {
			r.Updated++
		} else {
			r.Recorded++
		}
		if b.Counts(e) {
			r.Tokens += e.Tokens
			r.Raw += e.Raw
			r.Markup += e.Markup
		}
	}
	const add = `
		update usage_sync_runs set ended_at = max(ended_at, ?4), fetched = fetched + ?5, recorded = recorded + ?6,
			updated = updated + ?7, duplicates = duplicates + ?8, tokens = tokens + ?9,
			raw_cost = round(raw_cost + ?10, 12), markup_cost = round(markup_cost + ?11, 12)
		where id = (select id from usage_sync_runs
			where client_org_id = ?1 and started_at >= ?3 and started_at < ?3 + 3600 and source = ?2 limit 1)`
	result, err := q.ExecContext(ctx, add, r.OrganisationID, r.Source, b.Now.Truncate(time.Hour).Unix(),
		b.Now.Unix(), r.Fetched, r.Recorded, r.Updated, r.Duplicates, r.Tokens, r.Raw.Float(), r.Markup.Float())
	if err != nil {
		return err
	}
	if changed, err := result.RowsAffected(); err != nil || changed > 0 {
		return err
	}
	return insertRun(ctx, q, r)
}

func dropOldPlaces(ctx context.Context, q querier, orgID string, today Day) error {
	const query = `
		delete from usage_sync_generations where (client_org_id, generation_date, id) in (
			select client_org_id, generation_date, id from usage_sync_generations
			where client_org_id = ? and generation_date < ? limit ?)`
	_, err := q.ExecContext(ctx, query, orgID, today.Add(-keepPlaces), dropPlaces)
	return err
}

// RunFilter chooses runs.
type RunFilter struct {
	Organisations []string // ids; none is all
	Failed        bool     // only those that failed
	Synced        bool     // only passes: what was recorded by hand, by a reconciliation or delivered is left out
	Limit         int
}

// Runs returns the last runs, newest first.
func (s *Store) Runs(ctx context.Context, f RunFilter) (runs []Run, err error) {
	err = s.read(ctx, func(q querier) error {
		runs = nil
		// One organisation's come from an index in their order; those of several are put together.
		const query = `
			select started_at, ended_at, coalesce(client_org_id, ''), coalesce(organization, ''), coalesce(source, ''),
				window_start, window_end, fetched, recorded, updated, duplicates, refused, tokens, raw_cost, markup_cost,
				api_requests, exit_code, coalesce(error, ''), coalesce(note, ''), id
			from usage_sync_runs
			where %s (not ?2 or exit_code <> 0) and (not ?3 or coalesce(source, '') not in (select value from json_each(?5)))
			order by started_at desc, id desc limit ?4`
		type numbered struct {
			Run
			id int64
		}
		var all []numbered
		read := func(which, orgID string) error {
			some, err := collect(ctx, q, func(scan func(...any) error) (r numbered, err error) {
				r.Run, err = scanRun(func(into ...any) error { return scan(append(into, &r.id)...) })
				return r, err
			}, fmt.Sprintf(query, which), orgID, f.Failed, f.Synced, f.Limit, jsonText(notPasses))
			all = append(all, some...)
			return err
		}
		if len(f.Organisations) == 0 {
			if err := read("?1 = '' and", ""); err != nil {
				return err
			}
		}
		for _, orgID := range f.Organisations {
			if err := read("client_org_id = ?1 and", orgID); err != nil {
				return err
			}
		}
		slices.SortFunc(all, func(a, b numbered) int {
			return cmp.Or(b.StartedAt.Compare(a.StartedAt), cmp.Compare(b.id, a.id))
		})
		for _, r := range slices.CompactFunc(all, func(a, b numbered) bool { return a.id == b.id }) {
			if f.Limit >= 0 && len(runs) == f.Limit {
				break
			}
			runs = append(runs, r.Run)
		}
		return nil
	})
	return runs, err
}

func scanRun(scan func(...any) error) (Run, error) {
	var r Run
	var started, ended, windowStart, windowEnd sql.NullInt64
	var raw, markup float64
	err := scan(&started, &ended, &r.OrganisationID, &r.Organisation, &r.Source, &windowStart, &windowEnd, &r.Fetched,
		&r.Recorded, &r.Updated, &r.Duplicates, &r.Refused, &r.Tokens, &raw, &markup, &r.Requests,
		&r.ExitCode, &r.Error, &r.Note)
	if err != nil {
		return r, err
	}
	r.StartedAt, r.EndedAt = fromUnix(started), fromUnix(ended)
	r.WindowStart, r.WindowEnd = fromUnix(windowStart), fromUnix(windowEnd)
	if r.Raw, err = MoneyFromFloat(raw); err == nil {
		r.Markup, err = MoneyFromFloat(markup)
	}
	return r, err
}
