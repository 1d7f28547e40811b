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
