package store

import (
	"context"
	"database/sql"
	"errors"
)

var (
	// ErrRestored: the database no longer holds what it held when a pass began, or what the pass has recorded in it.
	ErrRestored = errors.New("the database has lost what it held a moment ago: it was restored or exchanged " +
		"under the pass")
	// ErrWatermarkMoved: another pass has moved the watermark meanwhile, without the lock. Nothing is lost.
	ErrWatermarkMoved = errors.New("another pass has moved the watermark meanwhile")
)

// Mark names what a database holds of an organisation. Every transaction that records generations or moves the
// watermark leaves a new one. A database in which a mark still is holds everything that it held then; a copy
// from before does not have it. The zero Mark is in every database.
type Mark string

// keptMarks is how many marks stay. So many transactions of others may happen between two of a pass.
const keptMarks = 1000

// leaveMark leaves a new mark.
func leaveMark(ctx context.Context, q querier, orgID string) (m Mark, err error) {
	const insert = `
		insert into usage_sync_marks (client_org_id, number, mark)
		select ?1, coalesce(max(number), 0) + 1, lower(hex(randomblob(8))) from usage_sync_marks where client_org_id = ?1
		returning number, mark`
	var number int64
	if err := q.QueryRowContext(ctx, insert, orgID).Scan(&number, &m); err != nil {
		return "", err
	}
	_, err = q.ExecContext(ctx, `delete from usage_sync_marks where client_org_id = ? and number <= ?`,
		orgID, number-keptMarks)
	return m, err
}

// lastMark returns the newest mark.
func lastMark(ctx context.Context, q querier, orgID string) (m Mark, err error) {
	const query = `select mark from usage_sync_marks where client_org_id = ? order by number desc limit 1`
	if err = q.QueryRowContext(ctx, query, orgID).Scan(&m); errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return m, err
}

// check returns ErrRestored where a database does not hold a mark.
func (m Mark) check(ctx context.Context, q querier, orgID string) error {
	if m == "" {
		return nil
	}
	var there bool
	const query = `select exists (select 1 from usage_sync_marks where client_org_id = ? and mark = ?)`
	if err := q.QueryRowContext(ctx, query, orgID, m).Scan(&there); err != nil {
		return err
	}
	if !there {
		return ErrRestored
	}
	return nil
}

// removeMarks has everybody who works with an organisation's rows start again: some of them are taken away.
func removeMarks(ctx context.Context, q querier, orgID string) error {
	_, err := q.ExecContext(ctx, `delete from usage_sync_marks where client_org_id = ?`, orgID)
	return err
}
