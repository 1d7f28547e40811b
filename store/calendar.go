package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// TodayIn says where the application's build looks for the usage of today. Past days are in daily rows in every build.
type TodayIn string

const (
	// TodayAuto recognises the build by its tables.
	TodayAuto TodayIn = "auto"
	// TodayLive is the live counter. The dashboard's month is the sum of the daily rows plus the counter, so
	// its day must have no daily row.
	TodayLive TodayIn = "live"
	// TodayDaily is a daily row, as for any other day.
	TodayDaily TodayIn = "daily"
)

// mark of the build that keeps today in a daily row: a table that no other build has.
const tableOfDailyBuild = "daily_exchange_rates"

// KeepToday says where the usage of today is to be written; TodayAuto where it is never called.
func (s *Store) KeepToday(in TodayIn) { s.today = in }

// keeping is what is remembered of how an organisation's books are kept: a row of usage_sync_books.
type keeping struct {
	from     int64 // Unix seconds of the first record of a day; 0 is none yet
	today    TodayIn
	calendar sql.NullInt64 // the container's offset from UTC in seconds, as far as known; none is the organisation's calendar
	changed  bool
}

func readKeeping(ctx context.Context, q querier, orgID string) (k keeping, err error) {
	const query = `select kept_from, today, calendar_offset from usage_sync_books where client_org_id = ?`
	err = q.QueryRowContext(ctx, query, orgID).Scan(&k.from, &k.today, &k.calendar)
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return k, err
}

func (k keeping) write(ctx context.Context, q querier, orgID string) error {
	if !k.changed {
		return nil
	}
	const query = `
		insert or replace into usage_sync_books (client_org_id, kept_from, today, calendar_offset) values (?, ?, ?, ?)`
	_, err := q.ExecContext(ctx, query, orgID, k.from, k.today, k.calendar)
	return err
}

// zone is the container's calendar as far as it is known.
func (k keeping) zone(org Organisation) *time.Location {
	if !k.calendar.Valid {
		return org.Zone
	}
	return offsetZone(k.calendar.Int64)
}

func offsetZone(seconds int64) *time.Location {
	if seconds == 0 {
		return time.UTC
	}
	return time.FixedZone(fmt.Sprintf("UTC%+.2f", float64(seconds)/3600), int(seconds))
}

// learn compares a live counter with the container's calendar. The application's reader sets a counter to the
// container's today, at the time that last_updated says or later. A day that can't be today in the calendar that we
// assume is evidence of another one.
func (k *keeping) learn(org Organisation, c counterRow, now time.Time) {
	const westmost, eastmost = -12 * 3600, 14 * 3600
	since := timeColumn(c.updated)
	if !c.there || since.IsZero() || since.After(now) {
		since = now
	}
	isToday := func(zone *time.Location) bool { return DayOf(since, zone) <= c.day && c.day <= DayOf(now, zone) }
	stale := c.day < DayOf(since, k.zone(org))
	switch ahead := c.day > DayOf(now, k.zone(org)); {
	case !c.there, !stale && !ahead:
		return
	case isToday(org.Zone):
		k.set(sql.NullInt64{})
	case isToday(time.UTC):
		k.set(sql.NullInt64{Valid: true})
	case stale:
		// The smallest correction: the day ended at that time or later.
		if offset := c.day.Add(1).utc().Unix() - 1 - since.Unix(); offset >= westmost {
			k.set(sql.NullInt64{Int64: offset, Valid: true})
		}
	default:
		if offset := c.day.utc().Unix() - now.Unix(); offset <= eastmost {
			k.set(sql.NullInt64{Int64: offset, Valid: true})
		}
	}
}

func (k *keeping) set(offset sql.NullInt64) {
	if k.calendar != offset {
		k.calendar, k.changed = offset, true
	}
}

// Calendars is what is known of how the container keeps its days.
type Calendars struct {
	Today TodayIn // where today is written; empty where no pass has written it yet
	// Offset is the container's offset from UTC where its calendar is known to be another one than the organisation's.
	Offset *time.Location
}

// Calendars returns what passes have found out about the container's days.
func (s *Store) Calendars(ctx context.Context, org Organisation) (c Calendars, err error) {
	err = s.read(ctx, func(q querier) error {
		k, err := readKeeping(ctx, q, org.ID)
		if err != nil {
			return err
		}
		c = Calendars{Today: k.today}
		if k.calendar.Valid {
			c.Offset = offsetZone(k.calendar.Int64)
		}
		return nil
	})
	return c, err
}
