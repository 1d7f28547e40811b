package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Answer says what becomes of what others have counted.
type Answer string

const (
	// AnswerReplace puts the days' rows aside and makes them anew from what the source lists.
	AnswerReplace Answer = "replace"
	// AnswerAdopt lets the totals stand: what was created up to the last write is in them, and enters the ledger alone.
	AnswerAdopt Answer = "adopt"
	// AnswerNone counts in full beside the totals, which came from elsewhere.
	AnswerNone Answer = "none"
)

// Answers are all answers, the one that is advised first.
var Answers = []Answer{AnswerReplace, AnswerAdopt, AnswerNone}

// Question is what has to be decided about usage that others have counted: a row of usage_sync_takeovers. Once asked it
// stays until it is answered.
type Question struct {
	ID int64 // zero: not asked yet
	// Days are those on which others have counted, the first one first.
	Days []Day
	// Standing are days before them that others have counted, too, and that stay as they are.
	Standing []Day
	// LastWrite is when others last wrote what they have counted: later usage can't be in it. The zero time is unknown.
	LastWrite time.Time
	Assumed   bool      // LastWrite is somebody's word, or assumed: the tables do not say
	From      time.Time // generations created since then are part of the answer
	Answer    Answer    // empty is none yet
	// AnsweredAt is when the answer was carried out; the zero time is not yet.
	AnsweredAt time.Time
	By         string   // who has given the answer
	Calendar   Calendar // by which others file usage under days
	// Listed is what the source listed of the days at ListedAt, at the organisation's markup; the zero time is
	// not asked yet.
	Listed   map[Day]Totals
	ListedAt time.Time
}

// Calendar is the one by which others file usage under days: that of their container. The empty Calendar is
// UTC, which a container has unless its TZ is set (python:slim sets none); CalendarOfOrganisation is the
// organisation's own; any other is an offset from UTC in seconds.
type Calendar string

// CalendarOfOrganisation is the calendar of the organisation that is asked about.
const CalendarOfOrganisation Calendar = "organisation"

// Zone returns the calendar's time zone.
func (c Calendar) Zone(org Organisation) *time.Location {
	if c == CalendarOfOrganisation {
		return org.Zone
	}
	seconds, _ := strconv.ParseInt(string(c), 10, 64) // the empty one is UTC
	return offsetZone(seconds)
}

// Filed is the day under which others have filed usage of a time.
func (u Question) Filed(org Organisation, t time.Time) Day { return DayOf(t, u.Calendar.Zone(org)) }

// Has tells whether a question is about a day.
func (u Question) Has(day Day) bool { return slices.Contains(u.Days, day) }

// Adopts tells whether a generation is in the totals of others that stand: they file usage by the calendar of
// the question.
func (u Question) Adopts(org Organisation, g Generation) bool {
	if g.CreatedAt.Before(u.From) || (!u.LastWrite.IsZero() && g.CreatedAt.Unix() > u.LastWrite.Unix()) {
		return false
	}
	filed := u.Filed(org, g.CreatedAt)
	switch u.Answer {
	case AnswerAdopt:
		return u.Has(filed) || slices.Contains(u.Standing, filed)
	case AnswerReplace: // it was filed under a day that is not replaced
		return slices.Contains(u.Standing, filed)
	}
	return false
}

// Questions returns an organisation's questions, the first one first.
func (s *Store) Questions(ctx context.Context, orgID string) (all []Question, err error) {
	err = s.read(ctx, func(q querier) (err error) {
		all, err = questions(ctx, q, orgID)
		return err
	})
	return all, err
}

func questions(ctx context.Context, q querier, orgID string) ([]Question, error) {
	const query = `
		select id, days, standing, last_write, listed_from, answer, answered_at, answered_by, coalesce(calendar, ''),
			coalesce(listed, 'null'), listed_at, coalesce(assumed, 0)
		from usage_sync_takeovers where client_org_id = ? and days <> '[]' order by id`
	return collect(ctx, q, func(scan func(...any) error) (u Question, err error) {
		var days, standing, listed string
		var written, from, answered, listedAt sql.NullInt64
		err = scan(&u.ID, &days, &standing, &written, &from, &u.Answer, &answered, &u.By, &u.Calendar,
			&listed, &listedAt, &u.Assumed)
		if err != nil {
			return u, err
		}
		u.LastWrite, u.From, u.AnsweredAt = fromUnix(written), fromUnix(from), fromUnix(answered)
		u.ListedAt = fromUnix(listedAt)
		err = errors.Join(json.Unmarshal([]byte(days), &u.Days), json.Unmarshal([]byte(standing), &u.Standing),
			json.Unmarshal([]byte(listed), &u.Listed))
		if err != nil {
			return u, dataErrorf("usage_sync_takeovers: %w", err)
		}
		return u, nil
	}, query, orgID)
}

// Ask stores a question, with the answer that has been given as far as there is one.
func (s *Store) Ask(ctx context.Context, orgID string, u Question, now time.Time) (Question, error) {
	err := s.write(ctx, func(q querier) error { return storeQuestion(ctx, q, orgID, &u, now) })
	return u, err
}

func storeQuestion(ctx context.Context, q querier, orgID string, u *Question, now time.Time) error {
	// What was remembered of others' last write is part of the question now.
	if _, err := q.ExecContext(ctx, `delete from usage_sync_takeovers where client_org_id = ? and days = '[]'`,
		orgID); err != nil {
		return err
	}
	const query = `
		insert into usage_sync_takeovers (id, client_org_id, asked_at, days, standing, last_write, listed_from, answer,
			answered_at, answered_by, calendar, listed, listed_at, assumed)
		values (nullif(?1, 0), ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)
		on conflict (id) do update set days = excluded.days, standing = excluded.standing,
			last_write = excluded.last_write, listed_from = excluded.listed_from, answer = excluded.answer,
			answered_at = excluded.answered_at, answered_by = excluded.answered_by, calendar = excluded.calendar,
			listed = excluded.listed, listed_at = excluded.listed_at, assumed = excluded.assumed
		returning id`
	return q.QueryRowContext(ctx, query, u.ID, orgID, now.Unix(), jsonText(u.Days),
		jsonText(append([]Day{}, u.Standing...)), unix(u.LastWrite), unix(u.From), u.Answer, unix(u.AnsweredAt),
		u.By, u.Calendar, jsonText(u.Listed),
		unix(u.ListedAt), u.Assumed).Scan(&u.ID)
}

// CalendarOfOthers finds out by which calendar others have filed usage under some days. A per-user row was made
// and last written on the day that it is of. Where UTC contradicts that, it is the calendar that passes have
// learned of the live counter, the organisation's, or the smallest offset that fits.
func (s *Store) CalendarOfOthers(ctx context.Context, org Organisation, days []Day) (c Calendar, err error) {
	err = s.read(ctx, func(q querier) error {
		type written struct {
			day      Day
			from, to int64
		}
		const query = `
			select substr(usage_date, 1, 10), unixepoch(created_at, 'auto'), unixepoch(updated_at, 'auto')
			from client_user_daily_usage r
			where client_org_id = ?1 and substr(usage_date, 1, 10) in (select value from json_each(?2))
				and unixepoch(created_at, 'auto') <= unixepoch(updated_at, 'auto') and not exists (
					select 1 from usage_sync_days d
					where d.client_org_id = r.client_org_id and d.usage_date = substr(r.usage_date, 1, 10) and d.part = 'user'
						and d.name = r.user_id and d.updated_at >= unixepoch(r.updated_at, 'auto'))`
		rows, err := collect(ctx, q, func(scan func(...any) error) (w written, err error) {
			return w, scan(&w.day, &w.from, &w.to)
		}, query, org.ID, jsonText(append([]Day{}, days...)))
		if err != nil {
			return err
		}
		k, err := readKeeping(ctx, q, org.ID)
		if err != nil {
			return err
		}
		fits := func(c Calendar) bool {
			zone := c.Zone(org)
			return !slices.ContainsFunc(rows, func(w written) bool {
				return DayOf(time.Unix(w.from, 0), zone) != w.day || DayOf(time.Unix(w.to, 0), zone) != w.day
			})
		}
		candidates := []Calendar{"", CalendarOfOrganisation}
		if k.calendar.Valid {
			candidates = append([]Calendar{Calendar(fmt.Sprint(k.calendar.Int64))}, candidates...)
		}
		const hour, eastmost = 3600, 14
		for i := 1; i <= eastmost; i++ {
			candidates = append(candidates, Calendar(fmt.Sprint(i*hour)), Calendar(fmt.Sprint(-i*hour)))
		}
		c = ""
		if i := slices.IndexFunc(candidates, fits); i >= 0 {
			c = candidates[i]
		}
		return nil
	})
	return c, err
}

// HeldDay is what the application's tables hold of a day, and what of it the ledger explains.
type HeldDay struct {
	Day    Day
	Held   Totals // by per-user rows, as nobody but a recorder writes them; by daily row or counter where these hold no more than the ledger
	Ledger Totals // without a marked-up cost
}

// ByOthers tells whether somebody has counted usage of the day without keeping the ledger. Entries without a request of
// their own, such as corrections, explain a row without requests.
func (h HeldDay) ByOthers() bool {
	return h.Held.Requests > h.Ledger.Requests || (h.Held.Requests == 0 && h.Ledger.Requests == 0 && !h.Held.IsZero())
}

// HeldDays returns what the tables hold of the days of a span on which there is anything.
func (s *Store) HeldDays(ctx context.Context, orgID string, first, last Day) (held []HeldDay, err error) {
	err = s.read(ctx, func(q querier) (err error) {
		held, err = heldDays(ctx, q, orgID, first, last)
		return err
	})
	return held, err
}

func heldDays(ctx context.Context, q querier, orgID string, first, last Day) (held []HeldDay, err error) {
	var days []Day
	for day := first; day <= last; day = day.Add(1) {
		days = append(days, day)
	}
	rows, err := readRows(ctx, q, orgID, days)
	if err != nil {
		return nil, err
	}
	counter, err := liveCounter(ctx, q, orgID)
	if err != nil {
		return nil, err
	}
	type entry struct {
		day Day
		Totals
	}
	const query = `
		select substr(generation_date, 1, 10), sum(total_tokens), count(*), sum(total_cost), 0 from processed_generations
		where client_org_id = ?1 and generation_date >= ?2 and generation_date < ?3 || '~' group by 1`
	entries, err := collect(ctx, q, func(scan func(...any) error) (e entry, err error) {
		return e, scanTotals(scan, &e.Totals, &e.day)
	}, query, orgID, first, last)
	if err != nil {
		return nil, err
	}
	ledger := map[Day]Totals{}
	for _, e := range entries {
		ledger[e.day] = e.Totals
	}
	for _, day := range days {
		h := HeldDay{Day: day, Held: sumOfAll(rows[day].users), Ledger: ledger[day]}
		// A manual record of the application need not be in a per-user row.
		for _, other := range []Totals{onceOf(rows[day].daily, counter, day), sumOfAll(rows[day].models)} {
			if !h.ByOthers() && (other.Requests > h.Ledger.Requests || h.Held.IsZero()) {
				h.Held = other
			}
		}
		if !h.Held.IsZero() {
			held = append(held, h)
		}
	}
	return held, nil
}

// onceOf returns what a daily row or the live counter holds of a day. Where both hold something, one is a copy
// of the other: the application's readers copy and move them, and no build counts a day half here and half
// there.
func onceOf(daily []row, c counterRow, day Day) Totals {
	t := sumOf(daily)
	if c.there && c.day == day && c.Requests > t.Requests || t.IsZero() && c.day == day {
		return c.Totals
	}
	return t
}

// LastForeignWrite returns when others last wrote what they have counted on some days, or on any where there
// are none. It is the zero time where the tables do not say. Per-user rows tell, as nobody but a recorder
// writes them: daily rows and counters are written by whoever looks at the dashboard, and serve where there is
// no other. Rows that we have written last tell nothing; what they told before is remembered.
func (s *Store) LastForeignWrite(ctx context.Context, orgID string, days ...Day) (last time.Time, err error) {
	err = s.read(ctx, func(q querier) (err error) {
		last, err = lastForeignWrite(ctx, q, orgID, days)
		return err
	})
	return last, err
}

func lastForeignWrite(ctx context.Context, q querier, orgID string, days []Day) (time.Time, error) {
	const byUsers = `
		select max(at) from (
			select coalesce(unixepoch(r.updated_at, 'auto'), 0) as at from client_user_daily_usage r
			where r.client_org_id = ?1 and (?2 = '[]' or substr(r.usage_date, 1, 10) in (select value from json_each(?2)))
				and not exists (
					select 1 from usage_sync_days d
					where d.client_org_id = r.client_org_id and d.usage_date = substr(r.usage_date, 1, 10) and d.part = 'user'
						and d.name = r.user_id and d.updated_at >= unixepoch(r.updated_at, 'auto'))
			union all
			select last_write from usage_sync_takeovers where client_org_id = ?1 and days = '[]')`
	const byDays = `
		select max(coalesce(unixepoch(at, 'auto'), 0)) from (
			select updated_at as at from client_daily_usage
			where client_org_id = ?1 and (?2 = '[]' or substr(usage_date, 1, 10) in (select value from json_each(?2)))
			union all
			select last_updated from client_live_counters
			where client_org_id = ?1 and (?2 = '[]' or substr("current_date", 1, 10) in (select value from json_each(?2))))
		where not exists (
			select 1 from client_user_daily_usage
			where client_org_id = ?1 and (?2 = '[]' or substr(usage_date, 1, 10) in (select value from json_each(?2))))`
	for _, query := range []string{byUsers, byDays} {
		var at sql.NullInt64
		if err := q.QueryRowContext(ctx, query, orgID, jsonText(append([]Day{}, days...))).Scan(&at); err != nil {
			return time.Time{}, err
		}
		if at.Int64 > 0 {
			return fromUnix(at), nil
		}
	}
	return time.Time{}, nil
}

// rememberLastWrite keeps the time of others' last write, before the first row of an organisation that no pass has
// covered is set by us.
func rememberLastWrite(ctx context.Context, q querier, orgID string, now time.Time) error {
	const query = `
		select not exists (select 1 from usage_sync_takeovers where client_org_id = ?1)
			and not exists (select 1 from usage_sync_state where client_org_id = ?1 and covered_to is not null)`
	var wanted bool
	if err := q.QueryRowContext(ctx, query, orgID).Scan(&wanted); err != nil || !wanted {
		return err
	}
	last, err := lastForeignWrite(ctx, q, orgID, nil)
	if err != nil || last.IsZero() {
		return err
	}
	const insert = `
		insert into usage_sync_takeovers (client_org_id, asked_at, days, standing, last_write, answer, answered_by)
		values (?, ?, '[]', '[]', ?, '', '')`
	_, err = q.ExecContext(ctx, insert, orgID, now.Unix(), last.Unix())
	return err
}

// Settlement carries out an answer.
type Settlement struct {
	Organisation Organisation
	Question     Question // with its answer
	Source       string
	Generations  []Generation // all that the source lists since Question.From
	Now          time.Time
	CoveredTo    time.Time // the list is complete up to then
}

// Settled is what an answer has made, or would make, of the days.
type Settled struct {
	Question Question
	Held     []HeldDay      // before it
	Bill     map[Day]Totals // of each day that it has touched
	Recorded Recorded
	Adopted  int // entries that were not added to any total
	// Rate is a change of the markup rate that was noted on the way; nil is none.
	Rate *RateChange
}

var (
	// ErrTooLate: something was recorded since the first answer that a new one would lose.
	ErrTooLate = errors.New("can't be decided again")
	errTrial   = errors.New("trial")
)

// TrySettle returns what Settle would do, and does nothing: it does it and takes it back.
func (s *Store) TrySettle(ctx context.Context, t Settlement) (Settled, error) {
	return s.settle(ctx, t, true)
}

// Settle carries out an answer in one transaction: the rows of the days are put aside in full, and what the
// source lists since is counted or adopted as the answer says. Where the question was answered before, the rows
// that were put aside then are put back first. It returns ErrTooLate where that would lose what nobody lists
// again.
func (s *Store) Settle(ctx context.Context, t Settlement) (Settled, error) {
	return s.settle(ctx, t, false)
}

func (s *Store) settle(ctx context.Context, t Settlement, trial bool) (done Settled, err error) {
	err = s.write(ctx, func(q querier) (err error) {
		if done, err = s.settleIn(ctx, q, t); err == nil && trial {
			err = errTrial
		}
		return err
	})
	if trial && errors.Is(err, errTrial) {
		err = nil
	}
	return done, err
}

func (s *Store) settleIn(ctx context.Context, q querier, t Settlement) (done Settled, err error) {
	org, u := t.Organisation, t.Question
	span := spanOf(org, u)
	if !u.AnsweredAt.IsZero() {
		listed := make([]string, len(t.Generations))
		for i, g := range t.Generations {
			listed[i] = g.ID
		}
		if err := putBack(ctx, q, org.ID, u, span, listed); err != nil {
			return done, err
		}
	}
	if done.Held, err = heldDays(ctx, q, org.ID, span, DayOf(t.Now, org.Zone).Add(1)); err != nil {
		return done, err
	}
	u.AnsweredAt = t.Now
	if err := storeQuestion(ctx, q, org.ID, &u, t.Now); err != nil {
		return done, err
	}
	if err := putAside(ctx, q, org.ID, u, span); err != nil {
		return done, err
	}
	st, err := state(ctx, q, org.ID)
	if err != nil {
		return done, err
	}
	if err := startAnew(ctx, q, org.ID, u, st.CoveredTo.IsZero()); err != nil {
		return done, err
	}
	var adopt, count Batch
	for _, g := range t.Generations {
		if g.CreatedAt.Before(u.From) {
			continue
		}
		g.Day = DayOf(g.CreatedAt, org.Zone)
		if u.Adopts(org, g) {
			adopt.Generations = append(adopt.Generations, g)
		} else {
			count.Generations = append(count.Generations, g)
		}
	}
	if done.Rate, err = s.noteRate(ctx, q, org, t.Now, nil); err != nil {
		return done, err
	}
	days := slices.Clone(u.Days)
	for _, h := range done.Held { // those that are not in question are made right as they stand
		days = append(days, h.Day)
	}
	batches := []*Batch{&adopt, &count}
	entries := make([][]Entry, len(batches))
	for i, b := range batches {
		b.Organisation, b.Source, b.Now, b.Adopt = org, t.Source, t.Now, i == 0
		part, err := s.compare(ctx, q, *b)
		if err != nil {
			return done, err
		}
		entries[i] = part.Entries
		days = append(days, b.days(part.Entries)...)
		done.Recorded.Entries = append(done.Recorded.Entries, part.Entries...)
		done.Recorded.Duplicates += part.Duplicates
		done.Recorded.Foreign = append(done.Recorded.Foreign, part.Foreign...)
		if b.Adopt {
			done.Adopted = len(slices.DeleteFunc(slices.Clone(part.Entries), b.Counts))
		}
	}
	slices.Sort(days)
	k, err := s.openKeeper(ctx, q, org, t.Now, slices.Compact(days))
	if err != nil {
		return done, err
	}
	if u.Answer == AnswerReplace {
		for _, day := range u.Days {
			if err := k.anew(ctx, q, k.days[day]); err != nil {
				return done, err
			}
		}
	}
	for i, b := range batches {
		if err := enterLedger(ctx, q, ledgerChanges(*b, entries[i])); err != nil {
			return done, err
		}
		if err := addToHours(ctx, q, *b, entries[i]); err != nil {
			return done, err
		}
		if err := k.count(*b, entries[i]); err != nil {
			return done, err
		}
	}
	if err := k.write(ctx, q, k.plan()); err != nil {
		return done, err
	}
	next := State{CoveredFrom: u.From, CoveredTo: later(t.CoveredTo, u.From), FirstAttempt: st.FirstAttempt,
		AttemptFrom: st.AttemptFrom}
	if !st.CoveredFrom.IsZero() && st.CoveredFrom.Before(u.From) {
		next.CoveredFrom = st.CoveredFrom
	}
	done.Question, done.Bill = u, map[Day]Totals{}
	for day, d := range k.days {
		done.Bill[day] = d.total()
	}
	return done, setState(ctx, q, org.ID, next, t.Now)
}

// later is the later of two times.
func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// startAnew takes away what stands in an answer's way: the record of the days, which is made anew from the
// rows, and for AnswerReplace the rows themselves with the ledger entries of others. Where no pass has covered
// anything, the whole record begins with the answer: others' rows of later days are not taken for growth under
// our eyes.
func startAnew(ctx context.Context, q querier, orgID string, u Question, first bool) error {
	const inDays = ` where client_org_id = ?1 and substr(usage_date, 1, 10) in (select value from json_each(?2))`
	queries := []string{`delete from usage_sync_days` + inDays}
	if first {
		queries = []string{`delete from usage_sync_days where client_org_id = ?1 and ?2 = ?2`,
			`delete from usage_sync_books where client_org_id = ?1 and ?2 = ?2`}
	}
	if u.Answer == AnswerReplace {
		queries = append(queries,
			`delete from client_daily_usage`+inDays,
			`delete from client_user_daily_usage`+inDays,
			`delete from client_model_daily_usage`+inDays,
			`update client_live_counters set today_requests = 0, today_tokens = 0, today_raw_cost = 0, today_markup_cost = 0
			where client_org_id = ?1 and substr("current_date", 1, 10) in (select value from json_each(?2))`,
			`delete from processed_generations
			where client_org_id = ?1 and substr(generation_date, 1, 10) in (select value from json_each(?2))
				and not exists (
					select 1 from usage_sync_generations g
					where g.client_org_id = ?1 and g.generation_date = substr(processed_generations.generation_date, 1, 10)
						and g.id = processed_generations.id and coalesce(g.adopted, 0) = 0)`,
			`delete from usage_sync_generations
			where client_org_id = ?1 and generation_date in (select value from json_each(?2)) and adopted <> 0`)
	}
	for _, query := range queries {
		if _, err := q.ExecContext(ctx, query, orgID, jsonText(u.Days)); err != nil {
			return err
		}
	}
	return nil
}

// anew makes the record of a day whose rows are gone that of what we have counted.
func (k *keeper) anew(ctx context.Context, q querier, d *dayRecord) error {
	ours, err := countedOf(ctx, q, k.org.ID, d.day)
	if err != nil {
		return err
	}
	d.lines, d.adopted = newDayRecord(d.day).lines, false
	for p, byName := range map[part]map[string]Totals{partUser: ours.users, partModel: ours.models} {
		for name, t := range byName {
			if err := d.add(p, name, KindCounted, t); err != nil {
				return err
			}
			if p == partUser {
				d.line(p, name).external = ours.external[name]
			}
		}
	}
	return d.add(partDay, "", KindCounted, ours.total)
}

// Unsettle takes an answer back: the rows are put back as they were before it, and the question is open again.
// It returns ErrTooLate where that would lose what nobody lists again: usage that was recorded by hand or
// delivered.
func (s *Store) Unsettle(ctx context.Context, org Organisation, u Question, now time.Time) error {
	return s.write(ctx, func(q querier) error {
		if err := putBack(ctx, q, org.ID, u, spanOf(org, u), nil); err != nil {
			return err
		}
		u.Answer, u.AnsweredAt, u.By = "", time.Time{}, ""
		return storeQuestion(ctx, q, org.ID, &u, now)
	})
}

// spanOf is the first day that an answer touches.
func spanOf(org Organisation, u Question) Day {
	first := DayOf(u.From, org.Zone)
	if len(u.Days) > 0 {
		first = min(first, u.Days[0])
	}
	return first
}

// RecordedBetween counts the generations that we have recorded and that were created in a stretch of time.
func (s *Store) RecordedBetween(ctx context.Context, org Organisation, from, to time.Time) (n int64, err error) {
	err = s.read(ctx, func(q querier) error {
		const query = `
			select count(*) from usage_sync_generations
			where client_org_id = ? and generation_date between ? and ? and created_at >= ? and created_at < ?`
		return q.QueryRowContext(ctx, query, org.ID, DayOf(from, org.Zone), DayOf(to, org.Zone),
			from.Unix(), to.Unix()).Scan(&n)
	})
	return n, err
}

// asideTable is a table of which rows are put aside. In where, ?1 is the organisation and ?2 the first day.
type asideTable struct{ name, where string }

// asideTables are put aside in full from a day on.
var asideTables = []asideTable{
	{"client_daily_usage", `client_org_id = ?1 and usage_date >= ?2`},
	{"client_user_daily_usage", `client_org_id = ?1 and usage_date >= ?2`},
	{"client_model_daily_usage", `client_org_id = ?1 and usage_date >= ?2`},
	{"client_live_counters", `client_org_id = ?1 and ?2 = ?2`},
	{ledger, `client_org_id = ?1 and generation_date >= ?2`},
	{"usage_sync_generations", `client_org_id = ?1 and generation_date >= ?2`},
	{"usage_sync_days", `client_org_id = ?1 and usage_date >= ?2`},
	{"usage_sync_hours", `client_org_id = ?1 and hour >= unixepoch(?2, '-1 day')`},
	{"usage_sync_state", `client_org_id = ?1 and ?2 = ?2`},
	{"usage_sync_books", `client_org_id = ?1 and ?2 = ?2`},
}

// putAside keeps the rows that an answer may touch: one JSON object a row, whose values are SQL literals, as JSON's
// numbers would lose digits (https://www.sqlite.org/lang_corefunc.html#quote).
func putAside(ctx context.Context, q querier, orgID string, u Question, span Day) error {
	return putTablesAside(ctx, q, asideTables, orgID, u, span)
}

func putTablesAside(ctx context.Context, q querier, tables []asideTable, orgID string, u Question, span Day) error {
	for _, t := range tables {
		columns, err := tableColumns(ctx, q, t.name)
		if err != nil {
			return err
		}
		var pairs []string
		for _, c := range columns {
			pairs = append(pairs, fmt.Sprintf(`'%s', quote("%s")`, strings.ReplaceAll(c.name, "'", "''"),
				strings.ReplaceAll(c.name, `"`, `""`)))
		}
		query := fmt.Sprintf(`insert into usage_sync_put_aside (takeover, source_table, body)
			select ?3, '%s', json_object(%s) from main.%s where %s`, t.name, strings.Join(pairs, ", "), t.name, t.where)
		if _, err := q.ExecContext(ctx, query, orgID, span, u.ID); err != nil {
			return err
		}
	}
	return nil
}

// putBack makes the rows those that were put aside, and forgets these.
func putBack(ctx context.Context, q querier, orgID string, u Question, span Day, listed []string) error {
	if err := checkNothingIsLost(ctx, q, orgID, u, span, listed); err != nil {
		return err
	}
	for _, t := range asideTables {
		if _, err := q.ExecContext(ctx, fmt.Sprintf(`delete from %s where %s`, t.name, t.where),
			orgID, span); err != nil {
			return err
		}
	}
	if err := removeMarks(ctx, q, orgID); err != nil {
		return err
	}
	type aside struct{ table, body string }
	rows, err := collect(ctx, q, func(scan func(...any) error) (a aside, err error) { return a, scan(&a.table, &a.body) },
		`select source_table, body from usage_sync_put_aside where takeover = ? order by id`, u.ID)
	if err != nil {
		return err
	}
	if len(rows) == 0 {
		return fmt.Errorf("%w: the rows that the answer of %s has put aside are kept no more", ErrTooLate,
			u.AnsweredAt.UTC().Format(time.RFC3339))
	}
	for _, r := range rows {
		var values map[string]string
		if err := json.Unmarshal([]byte(r.body), &values); err != nil {
			return dataErrorf("usage_sync_put_aside: %w", err)
		}
		if err := makeWayBack(ctx, q, orgID, r.table, values); err != nil {
			return err
		}
		var columns, literals []string
		for _, name := range slices.Sorted(maps.Keys(values)) {
			columns = append(columns, `"`+strings.ReplaceAll(name, `"`, `""`)+`"`)
			literals = append(literals, values[name])
		}
		query := fmt.Sprintf(`insert or replace into %s (%s) values (%s)`, r.table, strings.Join(columns, ", "),
			strings.Join(literals, ", "))
		if _, err := q.ExecContext(ctx, query); err != nil {
			return err
		}
	}
	_, err = q.ExecContext(ctx, `delete from usage_sync_put_aside where takeover = ?`, u.ID)
	return err
}

// dropOldAsides forgets rows that were put aside by answers about a time that no source reaches any more: there
// is no way back behind them.
func dropOldAsides(ctx context.Context, q querier, orgID string, today Day) error {
	const query = `
		delete from usage_sync_put_aside where id in (
			select a.id from usage_sync_put_aside a join usage_sync_takeovers t on t.id = a.takeover
			where t.client_org_id = ? and t.listed_from < unixepoch(?) limit ?)`
	_, err := q.ExecContext(ctx, query, orgID, today.Add(-keepPlaces), dropPlaces)
	return err
}

// checkNothingIsLost returns ErrTooLate where something was recorded since an answer that putting back would lose: by
// hand, by a delivery that the source does not list, or by the application.
func checkNothingIsLost(ctx context.Context, q querier, orgID string, u Question, span Day, listed []string) error {
	const query = `
		select (
			select count(*) from usage_sync_generations g
			where g.client_org_id = ?1 and g.generation_date >= ?2 and (g.source = ?4 or (g.source = ?5 and ?6 <> '[]'
					and g.id not in (select value from json_each(?6))))
				and not exists (
					select 1 from usage_sync_put_aside a
					where a.takeover = ?3 and a.source_table = 'usage_sync_generations' and a.body->>'id' = quote(g.id))), (
			select count(*) from usage_sync_days
			where client_org_id = ?1 and usage_date >= ?2 and kind = 'foreign' and part = 'day' and updated_at > ?7)`
	var entries, days int
	err := q.QueryRowContext(ctx, query, orgID, span, u.ID, SourceManual, SourceWebhook,
		jsonText(append([]string{}, listed...)), u.AnsweredAt.Unix()).Scan(&entries, &days)
	if err != nil {
		return err
	}
	if entries+days > 0 {
		return fmt.Errorf("%w: since the answer of %s %s recorded by hand or delivered, and the application "+
			"has recorded "+
			"usage of its own on %s: that would be lost", ErrTooLate, u.AnsweredAt.UTC().Format(time.RFC3339),
			recordedEntries(entries), Counted(days, "day"))
	}
	return nil
}

func recordedEntries(n int) string {
	if n == 1 {
		return "1 entry was"
	}
	return Grouped(int64(n)) + " entries were"
}
