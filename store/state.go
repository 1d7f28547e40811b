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
	// TakeoverFrom and TakeoverUntil: the decision is about generations created from the one to the other.
	// Later ones were not counted by others.
	TakeoverFrom, TakeoverUntil time.Time
	// FirstAttempt is when the first pass was tried, and AttemptFrom where its window began: from there on passes are
	// responsible, whether or not one has been complete. Both are zero where none was tried, or by an earlier version.
	FirstAttempt, AttemptFrom time.Time
	// Clock is what time it was in the last complete pass; zero where that was of an earlier version.
	Clock time.Time
}

// Progress is what a complete pass has made of a state.
type Progress struct {
	Before, After State
	// Mark is the newest that the pass has seen or left: what After says is true of a database that holds it.
	Mark Mark
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

// Position returns an organisation's state and the newest mark, for the beginning of a pass.
func (s *Store) Position(ctx context.Context, orgID string) (st State, m Mark, err error) {
	err = s.read(ctx, func(q querier) (err error) {
		if st, err = state(ctx, q, orgID); err == nil {
			m, err = lastMark(ctx, q, orgID)
		}
		return err
	})
	return st, m, err
}

func state(ctx context.Context, q querier, orgID string) (State, error) {
	var st State
	var from, to, since, until, attempt, attemptFrom, clock sql.NullInt64
	const query = `
		select covered_from, covered_to, coalesce(full_day, ''), coalesce(takeover, ''), takeover_from, takeover_until,
			first_attempt, attempt_from, clock
		from usage_sync_state where client_org_id = ?`
	err := q.QueryRowContext(ctx, query, orgID).Scan(&from, &to, &st.FullDay, &st.Takeover, &since, &until, &attempt,
		&attemptFrom, &clock)
	if errors.Is(err, sql.ErrNoRows) {
		return st, nil
	}
	st.CoveredFrom, st.CoveredTo = fromUnix(from), fromUnix(to)
	st.TakeoverFrom, st.TakeoverUntil = fromUnix(since), fromUnix(until)
	st.FirstAttempt, st.AttemptFrom, st.Clock = fromUnix(attempt), fromUnix(attemptFrom), fromUnix(clock)
	return st, err
}

// SetState stores an organisation's state.
func (s *Store) SetState(ctx context.Context, orgID string, st State, now time.Time) error {
	return s.write(ctx, func(q querier) error { return setState(ctx, q, orgID, st, now) })
}

func setState(ctx context.Context, q querier, orgID string, st State, now time.Time) error {
	const query = `
		insert or replace into usage_sync_state (client_org_id, covered_from, covered_to, full_day, takeover,
			takeover_from, takeover_until, updated_at, first_attempt, attempt_from, clock)
		values (?, ?, ?, nullif(?, ''), nullif(?, ''), ?, ?, ?, ?, ?, ?)`
	_, err := q.ExecContext(ctx, query, orgID, unix(st.CoveredFrom), unix(st.CoveredTo), st.FullDay, st.Takeover,
		unix(st.TakeoverFrom), unix(st.TakeoverUntil), now.Unix(), unix(st.FirstAttempt),
		unix(st.AttemptFrom), now.Unix())
	if err == nil {
		_, err = leaveMark(ctx, q, orgID)
	}
	return err
}

// advance writes the state that a pass has reached. It returns ErrRestored where the database is not the one
// that the pass has started from and recorded in, and ErrWatermarkMoved where another pass has written the
// state.
func (p Progress) advance(ctx context.Context, q querier, orgID string, now time.Time) error {
	if err := p.Mark.check(ctx, q, orgID); err != nil {
		return err
	}
	st, err := state(ctx, q, orgID)
	switch {
	case err != nil:
		return err
	case st != p.Before && p.Mark == "": // nobody knows what this database is
		return ErrRestored
	case st != p.Before:
		return ErrWatermarkMoved
	}
	return setState(ctx, q, orgID, p.After, now)
}

// NoteAttempt remembers when the first pass over an organisation is tried, and where its window begins. It does nothing
// where a pass has been complete. It returns the mark that it leaves.
func (s *Store) NoteAttempt(ctx context.Context, orgID string, at, from time.Time) (m Mark, err error) {
	const query = `
		insert into usage_sync_state (client_org_id, first_attempt, attempt_from, updated_at) values (?1, ?2, ?3, ?2)
		on conflict (client_org_id) do update set first_attempt = excluded.first_attempt,
			attempt_from = excluded.attempt_from
		where covered_to is null`
	err = s.write(ctx, func(q querier) error {
		_, err := q.ExecContext(ctx, query, orgID, at.Unix(), from.Unix())
		if err == nil {
			m, err = leaveMark(ctx, q, orgID)
		}
		return err
	})
	return m, err
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
