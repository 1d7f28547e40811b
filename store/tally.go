package store

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"
)

// Tally is what is counted of one organisation's passes for good. Nothing in it ever falls, but for Failures
// and Differing.
type Tally struct {
	Passes      map[string]int64 // by exit code
	Generations map[string]int64 // by result: recorded, updated, duplicate, refused
	Requests    map[string]int64 // to OpenRouter, by HTTP status
	Retries     int64
	Books       map[string]int64 // by what was found in the books: corrected, foreign, disputed, differing
	Differing   []Day            // on which the record and the ledger differ, as far as passes have looked
	Failures    int64            // passes since the last success
	Failure     string           // the kind of the last of these
	LastSuccess time.Time        // when the last pass without an error ended; zero for none
}

// Counters of usage_sync_totals.
const (
	countPasses      = "passes"
	countGenerations = "generations"
	countRequests    = "requests"
	countRetries     = "retries"
	countBooks       = "books"
	countDiffering   = "differing" // its labels are days
	countFailures    = "failures"
	timeOfSuccess    = "success"
)

// Results of a generation.
const (
	ResultRecorded  = "recorded"
	ResultUpdated   = "updated"
	ResultDuplicate = "duplicate"
	ResultRefused   = "refused"
)

// addToTally counts a run that is a pass.
func addToTally(ctx context.Context, q querier, r Run) error {
	if slices.Contains(notPasses, r.Source) {
		return nil
	}
	gains := [][3]any{
		{countPasses, strconv.Itoa(r.ExitCode), 1},
		{countGenerations, ResultRecorded, r.Recorded},
		{countGenerations, ResultUpdated, r.Updated},
		{countGenerations, ResultDuplicate, r.Duplicates},
		{countGenerations, ResultRefused, r.Refused},
		{countRetries, "", r.Retries},
	}
	for label, count := range map[string]int{"corrected": len(r.Found.Corrections), "foreign": len(r.Found.Foreign),
		"disputed": len(r.Found.Disputed), "differing": len(r.Found.Differing)} {
		if count > 0 {
			gains = append(gains, [3]any{countBooks, label, count})
		}
	}
	if r.Found.AllCompared {
		const forget = `delete from usage_sync_totals where client_org_id = ? and counter = ?`
		if _, err := q.ExecContext(ctx, forget, r.OrganisationID, countDiffering); err != nil {
			return err
		}
	}
	for _, d := range r.Found.Differing {
		gains = append(gains, [3]any{countDiffering, string(d.Day), 1})
	}
	for status, count := range r.Statuses {
		gains = append(gains, [3]any{countRequests, status, count})
	}
	const add = `
		insert into usage_sync_totals (client_org_id, counter, label, value)
		select ?1, value->>0, value->>1, value->>2 from json_each(?2) where true
		on conflict (client_org_id, counter, label) do update set value = value + excluded.value`
	if _, err := q.ExecContext(ctx, add, r.OrganisationID, jsonText(gains)); err != nil {
		return err
	}
	if r.ExitCode == 0 {
		return noteSuccess(ctx, q, r)
	}
	// One row: its label is the kind of the last failure.
	const fail = `
		insert or replace into usage_sync_totals (client_org_id, counter, label, value)
		values (?1, ?2, ?3, 1 + coalesce((select sum(value) from usage_sync_totals where client_org_id = ?1 and counter = ?2), 0))`
	const forget = `delete from usage_sync_totals where client_org_id = ?1 and counter = ?2 and label <> ?3`
	for _, query := range []string{fail, forget} {
		if _, err := q.ExecContext(ctx, query, r.OrganisationID, countFailures, r.Failure); err != nil {
			return err
		}
	}
	return nil
}

func noteSuccess(ctx context.Context, q querier, r Run) error {
	const keep = `insert or replace into usage_sync_totals (client_org_id, counter, label, value) values (?, ?, '', ?)`
	if _, err := q.ExecContext(ctx, keep, r.OrganisationID, timeOfSuccess, r.EndedAt.Unix()); err != nil {
		return err
	}
	_, err := q.ExecContext(ctx, `delete from usage_sync_totals where client_org_id = ? and counter = ?`,
		r.OrganisationID, countFailures)
	return err
}

// Tally returns what is counted of an organisation's passes.
func (s *Store) Tally(ctx context.Context, orgID string) (t Tally, err error) {
	err = s.read(ctx, func(q querier) (err error) {
		t, err = tally(ctx, q, orgID)
		return err
	})
	return t, err
}

func tally(ctx context.Context, q querier, orgID string) (Tally, error) {
	t := Tally{Passes: map[string]int64{}, Generations: map[string]int64{}, Requests: map[string]int64{},
		Books: map[string]int64{}}
	if err := t.read(ctx, q, orgID); err != nil || !t.LastSuccess.IsZero() {
		return t, err
	}
	// A history that is older than the table of totals.
	var ended sql.NullInt64
	const query = `
		select max(ended_at) from usage_sync_runs
		where client_org_id = ? and exit_code = 0 and coalesce(source, '') not in (select value from json_each(?))`
	err := q.QueryRowContext(ctx, query, orgID, jsonText(notPasses)).Scan(&ended)
	t.LastSuccess = fromUnix(ended)
	return t, err
}

func (t *Tally) read(ctx context.Context, q querier, orgID string) error {
	type row struct {
		counter, label string
		value          int64
	}
	rows, err := collect(ctx, q, func(scan func(...any) error) (r row, err error) {
		return r, scan(&r.counter, &r.label, &r.value)
	}, `select counter, label, value from usage_sync_totals where client_org_id = ?`, orgID)
	for _, r := range rows {
		switch r.counter {
		case countPasses:
			t.Passes[r.label] = r.value
		case countGenerations:
			t.Generations[r.label] = r.value
		case countRequests:
			t.Requests[r.label] = r.value
		case countBooks:
			t.Books[r.label] = r.value
		case countDiffering:
			t.Differing = append(t.Differing, Day(r.label))
		case countRetries:
			t.Retries = r.value
		case countFailures:
			t.Failures, t.Failure = r.value, r.label
		case timeOfSuccess:
			t.LastSuccess = time.Unix(r.value, 0).UTC()
		}
	}
	return err
}

// LedgerRows returns how many generations the ledger holds. Counting costs 5 ms of CPU per million: SQLite reads the
// smallest index. The number of the last row would be free, and wrong once a restore has removed rows.
func (s *Store) LedgerRows(ctx context.Context) (rows int64, err error) {
	err = s.read(ctx, func(q querier) error {
		return q.QueryRowContext(ctx, `select count(*) from processed_generations`).Scan(&rows)
	})
	return rows, err
}

// Size returns how many bytes a database takes on its disk, with its write-ahead log. It does not open it.
func Size(path string) (int64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, fmt.Errorf("database %s: %w", path, err)
	}
	size := info.Size()
	if log, err := os.Stat(path + "-wal"); err == nil {
		size += log.Size()
	} else if !os.IsNotExist(err) {
		return 0, fmt.Errorf("database %s: %w", path, err)
	}
	return size, nil
}
