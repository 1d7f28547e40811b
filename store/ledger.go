package store

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"
)

// The ledger, the places of its generations and the record of days say the same in three ways. Where one of
// them has lost something, the others still know it.

// Depth is how closely days are compared with the ledger. What the cheaper ones find odd is looked at by entry.
type Depth int

const (
	// ByNumber looks whether the ledger has as many entries as were counted: it reads an index alone.
	ByNumber Depth = iota
	// BySum adds up the ledger's entries. Of a day with very many it looks at their number.
	BySum
	// ByEntry compares each entry with its place.
	ByEntry
)

// mostSummed bounds how many entries of a day BySum adds up.
const mostSummed = 5000

// LedgerDifference is a day on which the record and the ledger differ.
type LedgerDifference struct {
	Day      Day
	Recorded Totals // what the record says that we have counted
	Ledger   Totals // what the ledger has of our generations
	Lost     int64  // generations that we have recorded and that the ledger has no more
	LostRaw  Money  // of these, as far as it is known
}

// LedgerLost tells whether the ledger has lost generations.
func (d LedgerDifference) LedgerLost() bool { return d.Lost > 0 }

// RecordLost tells whether the record, and with it the application's rows, hold fewer generations than the ledger.
func (d LedgerDifference) RecordLost() bool {
	return d.Lost == 0 && d.Recorded.Requests < d.Ledger.Requests && covers(d.Ledger, d.Recorded)
}

// subject is the table that has lost something; empty where none has.
func (d LedgerDifference) subject() string {
	switch {
	case d.LedgerLost():
		return ledger
	case d.RecordLost():
		return "client_daily_usage"
	}
	return ""
}

// gap returns what is lost of a day.
func (d LedgerDifference) gap(org Organisation, now time.Time) Gap {
	raw := d.LostRaw
	if !d.LedgerLost() {
		raw = d.Ledger.Raw - d.Recorded.Raw
	}
	return Gap{OrganisationID: org.ID, Kind: GapLost, Subject: d.subject(), From: d.Day.Start(org.Zone),
		Until: d.Day.Add(1).Start(org.Zone), NoticedAt: now, Raw: &raw, Why: d.String()}
}

// Lost returns what is lost by some differences as gaps, one for days that follow each other, and the differences that
// nobody has accepted yet.
func Lost(org Organisation, differing []LedgerDifference, known []Gap,
	now time.Time) (lost []Gap, open []LedgerDifference) {
	isAccepted := func(g Gap) bool {
		return slices.ContainsFunc(known, func(k Gap) bool {
			return k.Accepted && k.Kind == GapLost && k.Subject == g.Subject && k.holds(g)
		})
	}
	for _, subject := range []string{ledger, "client_daily_usage"} {
		for _, d := range differing {
			g := d.gap(org, now)
			if d.subject() != subject || isAccepted(g) {
				continue
			}
			if last := len(lost) - 1; last >= 0 && lost[last].Subject == subject && lost[last].Until.Equal(g.From) {
				raw := *lost[last].Raw + *g.Raw
				lost[last].Until, lost[last].Raw = g.Until, &raw
				lost[last].Why = fmt.Sprintf("%s has lost recorded usage of %s", subject,
					Counted(int64(Span{DayOf(lost[last].From, org.Zone), d.Day}.Days()), "day"))
				continue
			}
			lost = append(lost, g)
		}
	}
	for _, d := range differing {
		if d.subject() == "" || !isAccepted(d.gap(org, now)) {
			open = append(open, d)
		}
	}
	return lost, open
}

func (d LedgerDifference) String() string {
	if d.LedgerLost() {
		return fmt.Sprintf("the ledger has lost %s of %s", Counted(d.Lost, "generation"), d.Day)
	}
	return fmt.Sprintf("the ledger holds %d requests, %d tokens, raw $%s, $%s of %s, and %d, %d, raw $%s, "+
		"$%s are counted", d.Ledger.Requests, d.Ledger.Tokens, d.Ledger.Raw, d.Ledger.Cost, d.Day,
		d.Recorded.Requests, d.Recorded.Tokens,
		d.Recorded.Raw, d.Recorded.Cost)
}

// CheckLedger compares what the record says that we have counted on some days with the ledger. A day of which
// the places of generations are kept no more, or which is not in the record, is left out.
func (s *Store) CheckLedger(ctx context.Context, org Organisation, now time.Time, days []Day, depth Depth) (
	differing []LedgerDifference, err error) {
	err = s.read(ctx, func(q querier) (err error) {
		differing, err = checkLedger(ctx, q, org, now, days, depth)
		return err
	})
	return differing, err
}

func checkLedger(ctx context.Context, q querier, org Organisation, now time.Time, days []Day, depth Depth) (
	differing []LedgerDifference, err error) {
	records, err := recordedTotals(ctx, q, org.ID, days)
	if err != nil {
		return nil, err
	}
	oldest := DayOf(now, org.Zone).Add(1 - keepPlaces)
	var summed, counted []Day
	for day, r := range records {
		switch {
		case day < oldest || depth == ByEntry:
		case depth == BySum && r.Requests <= mostSummed:
			summed = append(summed, day)
		default:
			counted = append(counted, day)
		}
	}
	entries, err := ledgerTotals(ctx, q, org.ID, summed)
	if err != nil {
		return nil, err
	}
	numbers, err := ledgerNumbers(ctx, q, org.ID, counted)
	if err != nil {
		return nil, err
	}
	for _, day := range slices.Sorted(maps.Keys(records)) {
		r := records[day]
		// Charges and corrections are entries without a request.
		switch e, isSummed := entries[day]; {
		case day < oldest:
			continue
		case isSummed && e.Requests >= r.Requests && e.Tokens == r.Tokens && nearlyMoney(e.Raw, r.Raw, e.Requests):
			continue
		case slices.Contains(counted, day) && numbers[day] >= r.Requests:
			continue
		}
		d, differs, err := compareDay(ctx, q, org.ID, day, r)
		if err != nil {
			return nil, err
		}
		if differs {
			differing = append(differing, d)
		}
	}
	return differing, nil
}

// nearlyMoney tells whether sums of money are equal, but for what is lost in FLOAT columns and by rounding each row.
func nearlyMoney(a, b Money, rows int64) bool {
	const lost = Dollar / 1_000_000_000
	return magnitude(a-b) <= lost+Money(rows)
}

// recordedTotals returns what the record says that we have counted on those of some days that are in it.
func recordedTotals(ctx context.Context, q querier, orgID string, days []Day) (map[Day]Totals, error) {
	const query = `
		select r.usage_date, r.requests, r.tokens, r.raw, r.markup
		from json_each(?2) d cross join usage_sync_days r
			on r.client_org_id = ?1 and r.usage_date = d.value and r.part = 'day' and r.name = '' and r.kind = 'counted'`
	return totalsByDay(ctx, q, query, orgID, days)
}

// ledgerTotals adds up the ledger's entries of some days, whoever has made them: each counts as a request.
func ledgerTotals(ctx context.Context, q querier, orgID string, days []Day) (map[Day]Totals, error) {
	const query = `
		select d.value, count(*), sum(p.total_tokens), cast(sum(round(p.total_cost * 1e12)) as integer), 0
		from json_each(?2) d cross join processed_generations p
			on p.client_org_id = ?1 and p.generation_date >= d.value and p.generation_date < d.value || '~'
		group by 1`
	totals, err := totalsByDay(ctx, q, query, orgID, days)
	for _, day := range days {
		totals[day] = totals[day].Add(Totals{}) // a day without entries has a sum, too
	}
	return totals, err
}

func totalsByDay(ctx context.Context, q querier, query, orgID string, days []Day) (map[Day]Totals, error) {
	byDay := make(map[Day]Totals, len(days))
	if len(days) == 0 {
		return byDay, nil
	}
	type row struct {
		day Day
		Totals
	}
	rows, err := collect(ctx, q, func(scan func(...any) error) (r row, err error) {
		return r, scan(&r.day, &r.Requests, &r.Tokens, &r.Raw, &r.Cost)
	}, query, orgID, jsonText(days))
	for _, r := range rows {
		byDay[r.day] = r.Totals
	}
	return byDay, err
}

// ledgerNumbers counts the ledger's entries of some days by its index alone.
func ledgerNumbers(ctx context.Context, q querier, orgID string, days []Day) (map[Day]int64, error) {
	const query = `
		select count(*) from processed_generations
		where client_org_id = ? and generation_date >= ?2 and generation_date < ?2 || '~'`
	numbers := map[Day]int64{}
	for _, day := range days {
		var n int64
		if err := q.QueryRowContext(ctx, query, orgID, day).Scan(&n); err != nil {
			return nil, err
		}
		numbers[day] = n
	}
	return numbers, nil
}

// compareDay compares a day generation by generation. Entries of others are none of ours.
func compareDay(ctx context.Context, q querier, orgID string, day Day,
	recorded Totals) (d LedgerDifference, differs bool, err error) {
	ours, err := countedOf(ctx, q, orgID, day)
	if err != nil {
		return d, false, err
	}
	d = LedgerDifference{Day: day, Recorded: recorded, Ledger: ours.total}
	const lost = `
		select count(*), coalesce(sum(iif(requests >= 0, raw, 0)), 0) from usage_sync_generations g
		where client_org_id = ?1 and generation_date = ?2 and coalesce(adopted, 0) = 0 and not exists (
			select 1 from processed_generations p where p.id = g.id and p.client_org_id = ?1)`
	if err := q.QueryRowContext(ctx, lost, orgID, day).Scan(&d.Lost, &d.LostRaw); err != nil {
		return d, false, err
	}
	// takeOver lets each line differ by a nano-dollar
	rows := ours.entries + int64(len(ours.users)+len(ours.models))*1000
	same := d.Ledger.Tokens == d.Recorded.Tokens && nearlyMoney(d.Ledger.Raw, d.Recorded.Raw, rows) &&
		nearlyMoney(d.Ledger.Cost, d.Recorded.Cost, rows) && (d.Ledger.Requests == d.Recorded.Requests || !ours.exact)
	return d, d.Lost > 0 || !same, nil
}

// Rebuilt is what was made anew of something that had been lost.
type Rebuilt struct {
	Generations int64 // that are in the ledger again
	Unknown     int64 // of which nothing is left but that they were recorded
	Days        []Change
}

// Change is what a day held and holds now.
type Change struct {
	Day    Day
	Before Totals
	After  Totals
}

// Rebuild makes anew what a gap of kind GapLost says that a table has lost: the ledger's entries from the
// places of their generations, or the days of the record, and with them the application's rows, from the
// ledger. It closes the gap. A trial changes nothing. A number that is not an open gap of that kind is ErrGap.
func (s *Store) Rebuild(ctx context.Context, org Organisation, id int64, by string, now time.Time,
	trial bool) (done Rebuilt, err error) {
	var g Gap
	work := func(q querier) error {
		done = Rebuilt{}
		found, err := readGaps(ctx, q, GapFilter{ID: id, Organisations: []string{org.ID}, Kind: GapLost, Open: true})
		if err != nil {
			return err
		}
		if len(found) == 0 || id == 0 {
			return fmt.Errorf("%w: %d is no open gap of something that is lost", ErrGap, id)
		}
		g = found[0]
		first, last := DayOf(g.From, org.Zone), DayOf(g.Until.Add(-time.Second), org.Zone)
		if g.Subject == ledger {
			return done.ledger(ctx, q, org.ID, first, last, now, trial)
		}
		return s.rebuildDays(ctx, q, org, first, last, now, &done, trial)
	}
	if trial {
		return done, s.read(ctx, work)
	}
	return done, s.write(ctx, func(q querier) error {
		if err := work(q); err != nil {
			return err
		}
		g.ClosedAt, g.ClosedBy, g.Note = now, by, done.String()
		if err := updateGap(ctx, q, g); err != nil {
			return err
		}
		return insertRun(ctx, q, Run{StartedAt: now, EndedAt: now, OrganisationID: org.ID, Organisation: org.Name,
			Source: sourceGaps, WindowStart: g.From, WindowEnd: g.Until,
			Note: fmt.Sprintf("%s has made anew what gap %d had lost (%s): %s", by, g.ID, g.Why, done)})
	})
}

func (r Rebuilt) String() string {
	if len(r.Days) == 0 {
		text := Counted(r.Generations, "generation") + " entered into the ledger again"
		if r.Unknown > 0 {
			text += fmt.Sprintf(", of %s no amounts are known", Grouped(r.Unknown))
		}
		return text
	}
	var before, after Totals
	for _, c := range r.Days {
		before, after = before.Add(c.Before), after.Add(c.After)
	}
	return fmt.Sprintf("%s, %d requests and $%s in place of %d and $%s",
		Counted(int64(len(r.Days)), "day"), after.Requests, after.Cost, before.Requests, before.Cost)
}

// ledger enters what the ledger has lost of some days into it again.
func (r *Rebuilt) ledger(ctx context.Context, q querier, orgID string, first, last Day,
	now time.Time, trial bool) error {
	const lost = `
		from usage_sync_generations g
		where client_org_id = ?1 and generation_date between ?2 and ?3 and not exists (
			select 1 from processed_generations p where p.id = g.id)`
	const known = `select coalesce(sum(requests >= 0), 0), coalesce(sum(requests < 0), 0) ` + lost
	if err := q.QueryRowContext(ctx, known, orgID, first, last).Scan(&r.Generations, &r.Unknown); err != nil || trial {
		return err
	}
	const enter = `
		insert into processed_generations (id, client_org_id, generation_date, processed_at, total_cost, total_tokens)
		select id, client_org_id, generation_date, ?4, raw / 1e12, tokens ` + lost + ` and requests >= 0`
	_, err := q.ExecContext(ctx, enter, orgID, first, last, now.Unix())
	return err
}

// rebuildDays makes the record of some days, and the application's rows, from the ledger.
func (s *Store) rebuildDays(ctx context.Context, q querier, org Organisation, first, last Day,
	now time.Time, done *Rebuilt,
	trial bool) error {
	var days []Day
	for day := first; day <= last; day = day.Add(1) {
		days = append(days, day)
	}
	differing, err := checkLedger(ctx, q, org, now, days, ByEntry)
	if err != nil {
		return err
	}
	days = nil
	for _, d := range differing {
		if d.RecordLost() {
			days = append(days, d.Day)
		}
	}
	k, err := s.openKeeper(ctx, q, org, now, days)
	if err != nil {
		return err
	}
	for _, day := range days {
		before := k.days[day].total()
		if err := k.recount(ctx, q, k.days[day]); err != nil {
			return err
		}
		done.Days = append(done.Days, Change{day, before, k.days[day].total()})
	}
	if trial {
		return nil
	}
	return k.write(ctx, q, k.plan())
}

// recount makes what the record of a day has counted that of the ledger. What others have recorded stays.
func (k *keeper) recount(ctx context.Context, q querier, d *dayRecord) error {
	ours, err := countedOf(ctx, q, k.org.ID, d.day)
	if err != nil {
		return err
	}
	for p, counted := range map[part]map[string]Totals{partDay: {"": ours.total},
		partUser: ours.users, partModel: ours.models} {
		for name, l := range d.lines[p] {
			if err := d.add(p, name, KindCounted, Totals{}.Sub(l.kinds[KindCounted])); err != nil {
				return err
			}
		}
		for name, t := range counted {
			if err := d.add(p, name, KindCounted, t); err != nil {
				return err
			}
		}
	}
	for name, external := range ours.external {
		if l := d.line(partUser, name); l.external == "" {
			l.external = external
		}
	}
	d.setSquared(0)
	return nil
}
