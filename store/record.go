package store

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"
)

// The table usage_sync_days is the record of what an organisation used on each day. It is what we know; the rows that
// the application reads (daily rows, live counter, per user, per model) are set from it and never added up from what
// somebody has left in them. Each line of the record is a day, or one user or model of a day. Its amounts are kept by
// kind, so that nothing that others have counted is ever mistaken for ours.

// Kind says how an amount of the record came to be known.
type Kind string

const (
	// KindCounted is what we have recorded: generations of the ledger, whoever delivered or listed them.
	KindCounted Kind = "counted"
	// KindForeign is what the application itself has recorded, such as a manual record of its own.
	KindForeign Kind = "foreign"
	// KindAdopted is what others had counted before our time. Its users and models need not add up to its day.
	KindAdopted Kind = "adopted"
	// KindRemainder is what OpenRouter's own totals of a day that is over have beyond the rounded costs of its
	// generations; see square.go. It is no request.
	KindRemainder Kind = "remainder"
	// KindDisputed is what has appeared in the application's rows and is no record of its own, or can't be told from
	// one. It is not part of any total.
	KindDisputed Kind = "disputed"
)

// billed tells whether amounts of a kind are part of the totals.
func (k Kind) billed() bool { return k != KindDisputed }

// part is what a line of the record is about.
type part string

const (
	partDay   part = "day" // its name is empty
	partUser  part = "user"
	partModel part = "model"
)

// line is one line of the record: a day, or a user or model of a day.
type line struct {
	kinds    map[Kind]Totals
	changed  map[Kind]bool
	external string // openrouter_user_id of a user
	// The application's row that was last set from the line: a row in its place is somebody else's.
	row, rowCreated string
}

func (l *line) total() (t Totals) {
	for kind, amount := range l.kinds {
		if kind.billed() {
			t = t.Add(amount)
		}
	}
	return t
}

// remember notes which row of the application is set from the line.
func (l *line) remember(id, created string) {
	if l.row != id || l.rowCreated != created {
		l.row, l.rowCreated = id, created
		l.changed[KindCounted] = true
	}
}

// dayRecord is the record of one day.
type dayRecord struct {
	day   Day
	since int64 // Unix seconds: what others wrote earlier has been taken into the record as adopted or counted
	lines map[part]map[string]*line
	isNew bool // not in the table yet
	// squared is since when the day is what OpenRouter says of it in all, in Unix seconds; zero: it is not, or
	// was not asked.
	squared int64
	// adopted: the rows, as they were taken over, do not hold what the ledger has of our generations.
	adopted bool
}

func newDayRecord(day Day) *dayRecord {
	return &dayRecord{day: day, lines: map[part]map[string]*line{partDay: {}, partUser: {}, partModel: {}}}
}

func (d *dayRecord) line(p part, name string) *line {
	l, there := d.lines[p][name]
	if !there {
		l = &line{kinds: map[Kind]Totals{}, changed: map[Kind]bool{}}
		d.lines[p][name] = l
	}
	return l
}

// add enters an amount into a line. It returns ErrMoney where the sum is more than a line can hold.
func (d *dayRecord) add(p part, name string, kind Kind, t Totals) error {
	l := d.line(p, name)
	before := l.kinds[kind]
	after := before.Add(t)
	if outOfBounds(before, t) {
		return fmt.Errorf("%w: more than a day can hold on %s", ErrMoney, d.day)
	}
	l.kinds[kind], l.changed[kind] = after, true
	return nil
}

func overflows(a, b Money) bool {
	return (b > 0 && a > math.MaxInt64-b) || (b < 0 && a < math.MinInt64-b)
}

// enter enters an amount of one user and model into all lines of its day.
func (d *dayRecord) enter(user, external, model string, kind Kind, t Totals) error {
	if err := d.add(partUser, user, kind, t); err != nil {
		return err
	}
	if l := d.line(partUser, user); l.external == "" {
		l.external = external
	}
	if err := d.add(partModel, model, kind, t); err != nil {
		return err
	}
	return d.add(partDay, "", kind, t)
}

func (d *dayRecord) total() Totals { return d.line(partDay, "").total() }

// sum adds up the totals of a part's lines.
func (d *dayRecord) sum(p part) (t Totals) {
	for _, l := range d.lines[p] {
		t = t.Add(l.total())
	}
	return t
}

// summary returns the model with the most tokens, the first by name among equals, and how many users there were.
func (d *dayRecord) summary() (model string, users int64) {
	var most int64
	for _, name := range slices.Sorted(maps.Keys(d.lines[partModel])) {
		t := d.lines[partModel][name].total()
		if !t.IsZero() && (model == "" || t.Tokens > most) {
			model, most = name, t.Tokens
		}
	}
	for _, l := range d.lines[partUser] {
		if !l.total().Sub(l.kinds[KindRemainder]).IsZero() {
			users++
		}
	}
	return model, users
}

// readRecord reads the record of some days.
func readRecord(ctx context.Context, q querier, orgID string, days []Day) (map[Day]*dayRecord, error) {
	type row struct {
		day                           Day
		part                          part
		name, external, id, createdAt string
		kind                          Kind
		Totals
		noticed int64
	}
	const query = `
		select usage_date, part, name, kind, requests, tokens, raw, markup, openrouter_user_id, row_id, row_created,
			noticed_at
		from usage_sync_days where client_org_id = ? and usage_date in (select value from json_each(?))`
	rows, err := collect(ctx, q, func(scan func(...any) error) (r row, err error) {
		return r, scan(&r.day, &r.part, &r.name, &r.kind, &r.Requests, &r.Tokens, &r.Raw, &r.Cost, &r.external, &r.id,
			&r.createdAt, &r.noticed)
	}, query, orgID, jsonText(days))
	records := map[Day]*dayRecord{}
	for _, r := range rows {
		d := records[r.day]
		if d == nil {
			d = newDayRecord(r.day)
			records[r.day] = d
		}
		l := d.line(r.part, r.name)
		l.kinds[r.kind] = r.Totals
		if r.external != "" {
			l.external = r.external
		}
		if r.kind == KindCounted {
			l.row, l.rowCreated = r.id, r.createdAt
			if r.part == partDay {
				d.since = r.noticed
			}
		}
		if r.kind == KindRemainder && r.part == partDay {
			d.squared = r.noticed
		}
	}
	return records, err
}

// writeRecord writes what has changed of the record.
func writeRecord(ctx context.Context, q querier, orgID string, days map[Day]*dayRecord, now time.Time) error {
	var rows [][]any
	for _, day := range slices.Sorted(maps.Keys(days)) {
		d := days[day]
		if d.isNew {
			d.line(partDay, "").changed[KindCounted] = true
		}
		for p, lines := range d.lines {
			for name, l := range lines {
				for kind := range l.changed {
					t, noticed := l.kinds[kind], now.Unix()
					switch {
					case kind == KindCounted && p == partDay:
						noticed = d.since
					case kind == KindRemainder:
						noticed = d.squared
					}
					rows = append(rows, []any{day, p, name, kind, t.Requests, t.Tokens, t.Raw,
						t.Cost, l.external, l.row, l.rowCreated, noticed})
				}
			}
		}
	}
	if len(rows) == 0 {
		return nil
	}
	const query = `
		insert into usage_sync_days (client_org_id, usage_date, part, name, kind, requests, tokens, raw, markup,
			openrouter_user_id, row_id, row_created, noticed_at, updated_at)
		select ?2, value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6, value->>7, value->>8,
			value->>9, value->>10, value->>11, ?3
		from json_each(?1) where true
		on conflict (client_org_id, usage_date, part, name, kind) do update set
			requests = excluded.requests, tokens = excluded.tokens, raw = excluded.raw, markup = excluded.markup,
			openrouter_user_id = excluded.openrouter_user_id, row_id = excluded.row_id,
			row_created = excluded.row_created, updated_at = excluded.updated_at,
			noticed_at = iif(kind = 'remainder', excluded.noticed_at, noticed_at)`
	_, err := q.ExecContext(ctx, query, jsonText(rows), orgID, now.Unix())
	return err
}
