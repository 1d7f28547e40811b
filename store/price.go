package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// A generation is priced by the markup rate of the time of its use, however late it is recorded. The
// application keeps the rate of now alone, so a change is noted, in usage_sync_rates, by whoever records first
// after it: with the time that the row says it was last changed, where that is possible, else with the time at
// which the change was seen.

// NotedRate is a markup rate and since when it holds.
type NotedRate struct {
	ID        int64     // 0: not written down yet
	From      time.Time // zero: before everything else
	Rate      Rate
	NoticedAt time.Time
	By, Note  string // who has corrected From, and why; empty where nobody has
}

// Prices are the rates of an organisation, those that hold first come first.
type Prices struct {
	zone  *time.Location
	noted []NotedRate
}

// At returns the rate of a time.
func (p Prices) At(t time.Time) (rate Rate) {
	for i, n := range p.noted {
		if i == 0 || !n.From.After(t) {
			rate = n.Rate
		}
	}
	return rate
}

// Of returns what the client pays for a generation, and the rate. It is the one place where usage gets its
// price. What was entered by hand for an earlier day has the rate of the end of that day.
func (p Prices) Of(g Generation) (Money, Rate, error) {
	at := g.CreatedAt
	if !mayBeOn(g.Day, at, p.zone) {
		at = endOf(g.Day, p.zone)
	}
	rate := p.At(at)
	cost, err := rate.Markup(g.Cost)
	return cost, rate, err
}

// OfDay returns what the client pays for raw cost that is that of a day and of no single generation.
func (p Prices) OfDay(day Day, raw Money) (Money, error) { return p.At(endOf(day, p.zone)).Markup(raw) }

// endOf is the last second of a day.
func endOf(day Day, zone *time.Location) time.Time { return day.Add(1).Start(zone).Add(-time.Second) }

// Noted returns the rates that held at some time from the one to the other.
func (p Prices) Noted(from, to time.Time) (noted []NotedRate) {
	for i, n := range p.noted {
		if n.From.Before(to) && (i+1 == len(p.noted) || p.noted[i+1].From.After(from)) {
			noted = append(noted, n)
		}
	}
	return noted
}

// RateChange is a change of a markup rate, as it is noted.
type RateChange struct {
	Was, Is Rate
	From    time.Time
}

func (c RateChange) String() string {
	return fmt.Sprintf("was %s and is %s, for usage since %s; see usage-sync rates", c.Was, c.Is,
		c.From.UTC().Format(time.RFC3339))
}

// change is the one that is not written down yet.
func (p Prices) change() *RateChange {
	last := len(p.noted) - 1
	if last < 1 || p.noted[last].ID != 0 {
		return nil
	}
	return &RateChange{Was: p.noted[last-1].Rate, Is: p.noted[last].Rate, From: p.noted[last].From}
}

// mostRate is the highest markup rate that is believed without a word from the host: a rate is a factor, and 30
// for 30 % would bill thirty times the cost.
const mostRate Rate = 10 * rateUnit

// errHighRate is an ErrRate.
var errHighRate = fmt.Errorf("%w that is believed", ErrRate)

// rateProblem says what is wrong with the rate of an organisation.
func rateProblem(orgID string, column any, err error) error {
	if errors.Is(err, errHighRate) {
		return fmt.Errorf("%w: %s: markup_rate is %v; it is a factor, 1.3 adds 30 %%; "+
			"where it is meant, --allow-markup %[3]v allows it", ErrRate, orgID, column)
	}
	return fmt.Errorf("%w: %s: markup_rate is %v, set it to a positive number", err, orgID, column)
}

// AllowRate lets rates up to one be believed that are above 10.
func (s *Store) AllowRate(most Rate) { s.allowed = most }

// rateOf reads a rate as it stands in a column. It is ErrRate for what no client can have agreed to.
func (s *Store) rateOf(column any) (Rate, error) {
	rate, err := RateFromFloat(number(column))
	if most := max(mostRate, s.allowed); err == nil && rate > most {
		return 0, errHighRate
	}
	return rate, err
}

// Prices returns an organisation's rates as they are at now.
func (s *Store) Prices(ctx context.Context, org Organisation, now time.Time) (p Prices, err error) {
	err = s.read(ctx, func(q querier) (err error) {
		p, err = s.readPrices(ctx, q, org, now)
		return err
	})
	return p, err
}

// NoteRate notes a change of an organisation's rate; nil is no change. Where there is none it takes no write lock.
func (s *Store) NoteRate(ctx context.Context, org Organisation, now time.Time) (change *RateChange, err error) {
	p, err := s.Prices(ctx, org, now)
	if err != nil || p.isWritten() {
		return nil, err
	}
	err = s.write(ctx, func(q querier) error {
		change, err = s.noteRate(ctx, q, org, now, nil)
		return err
	})
	return change, err
}

// noteRate notes a change within a transaction. Where something was priced already, and its prices are not
// those of now, it is errOvertaken.
func (s *Store) noteRate(ctx context.Context, q querier, org Organisation, now time.Time,
	priced *Prices) (*RateChange, error) {
	p, err := s.readPrices(ctx, q, org, now)
	if err != nil {
		return nil, err
	}
	if priced != nil && !priced.same(p) {
		return nil, errOvertaken
	}
	const query = `
		insert into usage_sync_rates (client_org_id, valid_from, rate, noticed_at, noted_by, note) values (?, ?, ?, ?, '', '')`
	for _, n := range p.noted {
		if n.ID != 0 {
			continue
		}
		if _, err := q.ExecContext(ctx, query, org.ID, unix(n.From), n.Rate, n.NoticedAt.Unix()); err != nil {
			return nil, err
		}
	}
	return p.change(), nil
}

func (p Prices) isWritten() bool {
	return !slices.ContainsFunc(p.noted, func(n NotedRate) bool { return n.ID == 0 })
}

// readPrices reads what is noted, and what would be noted now. The rate is read anew: a pass that began before
// a change must not note the old one again.
func (s *Store) readPrices(ctx context.Context, q querier, org Organisation, now time.Time) (Prices, error) {
	const query = `
		select id, valid_from, rate, noticed_at, noted_by, note from usage_sync_rates
		where client_org_id = ? order by valid_from, id` // null comes first
	p := Prices{zone: org.Zone}
	if p.zone == nil {
		p.zone = time.UTC
	}
	var err error
	p.noted, err = collect(ctx, q, func(scan func(...any) error) (n NotedRate, err error) {
		var from, noticed sql.NullInt64
		err = scan(&n.ID, &from, &n.Rate, &noticed, &n.By, &n.Note)
		n.From, n.NoticedAt = fromUnix(from), fromUnix(noticed)
		return n, err
	}, query, org.ID)
	if err != nil {
		return p, err
	}
	current, touched, err := s.currentRate(ctx, q, org)
	if err != nil {
		return p, err
	}
	if len(p.noted) == 0 {
		first, err := lastRate(ctx, q, org.ID)
		if err != nil {
			return p, err
		}
		if first == 0 {
			first = current
		}
		p.noted = append(p.noted, NotedRate{Rate: first, NoticedAt: now})
	}
	last := p.noted[len(p.noted)-1]
	if current == 0 || current == last.Rate {
		return p, nil
	}
	since, err := lastSeen(ctx, q, org.ID, last)
	if err != nil {
		return p, err
	}
	from := now
	for _, at := range touched { // the last one that is possible
		if at.After(since) && at.Before(from) && at.After(last.From) {
			from = at
			break
		}
	}
	if from.Before(last.From) { // the clock has gone back
		from = last.From
	}
	p.noted = append(p.noted, NotedRate{From: from, Rate: current, NoticedAt: now})
	return p, nil
}

// currentRate returns the rate that the database says now, zero where it makes no sense, and when its rows say
// they were changed, the latest first.
func (s *Store) currentRate(ctx context.Context, q querier,
	org Organisation) (rate Rate, touched []time.Time, err error) {
	columns, err := tableColumns(ctx, q, "client_organizations")
	if err != nil {
		return 0, nil, err
	}
	updated := "null"
	if hasColumn(columns, "updated_at") {
		updated = "updated_at"
	}
	query := fmt.Sprintf(`
		select %s, %s, iif(markup_rate is null, (select updated_at%s), null) from client_organizations where id = ?`,
		rateColumn, updated, fromNewestSettings)
	var column, own, settings any
	err = q.QueryRowContext(ctx, query, DefaultRate.Float(), org.ID).Scan(&column, &own, &settings)
	if errors.Is(err, sql.ErrNoRows) {
		return org.Rate, nil, nil
	}
	if err != nil {
		return 0, nil, err
	}
	if rate, err = s.rateOf(column); err != nil {
		rate = 0
	}
	for _, at := range []any{own, settings} {
		if seconds := number(at); seconds > 0 && seconds < math.MaxInt32*100 {
			touched = append(touched, time.Unix(int64(seconds), 0))
		}
	}
	slices.SortFunc(touched, func(a, b time.Time) int { return b.Compare(a) })
	return rate, touched, nil
}

// lastRate is what the last generation was priced at that a version recorded which noted no rates; zero where
// there is none.
func lastRate(ctx context.Context, q querier, orgID string) (Rate, error) {
	const query = `
		select markup_rate from usage_sync_generations where client_org_id = ?
		order by generation_date desc, created_at desc limit 1`
	var factor float64
	err := q.QueryRowContext(ctx, query, orgID).Scan(&factor)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	rate, err := RateFromFloat(factor)
	if errors.Is(err, ErrRate) {
		return 0, nil
	}
	return rate, err
}

// lastSeen is when the last noted rate was certainly that of the database. Not everything in the history has
// looked at the rate: a pass that was told to end has not, nor has who accepted a gap.
func lastSeen(ctx context.Context, q querier, orgID string, last NotedRate) (time.Time, error) {
	const query = `
		select max(started_at) from usage_sync_runs
		where client_org_id = ? and exit_code = 0 and coalesce(source, '') <> '` + sourceGaps + `'`
	var started sql.NullInt64
	if err := q.QueryRowContext(ctx, query, orgID).Scan(&started); err != nil {
		return time.Time{}, err
	}
	if last.ID == 0 { // it is not written down, so it was not seen now
		return fromUnix(started), nil
	}
	return later(last.NoticedAt, fromUnix(started)), nil
}

// same tells whether everything costs the same by both.
func (p Prices) same(o Prices) bool {
	return slices.EqualFunc(p.noted, o.noted, func(a, b NotedRate) bool {
		return a.Rate == b.Rate && a.From.Unix() == b.From.Unix()
	})
}

// Has tells whether a noted rate is one of them.
func (p Prices) Has(id int64) bool {
	return slices.ContainsFunc(p.noted, func(n NotedRate) bool { return n.ID == id })
}
