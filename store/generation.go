package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
)

// Generation is one request that OpenRouter answered for an organisation, or a charge that OpenRouter lists like one.
type Generation struct {
	ID        string
	CreatedAt time.Time
	Model     string // as OpenRouter names it, "provider/model"; empty where it is not known
	User      string // the external user, or empty
	Tokens    int64
	Cost      Money // raw
	Day       Day   // the organisation's calendar day of CreatedAt
	// Resolution is what the source rounds a cost to: Cost is within half of it, or a whole one where the
	// source cuts. Zero is a source that rounds nothing.
	Resolution Money
	// NoRequest marks a charge that stands for no request, such as a web search that OpenRouter lists by itself.
	NoRequest bool
}

// Totals returns what a generation adds to its day.
func (p Prices) Totals(g Generation) (Totals, error) {
	cost, _, err := p.Of(g)
	t := Totals{Requests: 1, Tokens: g.Tokens, Raw: g.Cost, Cost: cost}
	if g.NoRequest {
		t.Requests = 0
	}
	return t, err
}

// Batch is what one transaction records.
type Batch struct {
	Organisation Organisation
	Source       string // where the generations come from, for support
	Now          time.Time
	Generations  []Generation
	// Correction marks an entry that corrects amounts and stands for no request.
	Correction bool
	// Adopt enters unknown generations into the ledger without adding them to any total: they were counted by
	// someone else before. What has changed of known ones is added as ever.
	Adopt bool
	// Delivered marks generations that were pushed to us one by one, outside any pass. They are not the last word on a
	// generation that another source has recorded, and the history sums them by the hour.
	Delivered bool
	// After is a mark that the database must hold, or the batch is not recorded.
	After Mark
}

// The sources that are no pass.
const (
	SourceManual    = "manual"    // usage recorded by hand
	SourceWebhook   = "webhook"   // usage that was delivered to us
	SourceReconcile = "reconcile" // usage that a reconciliation has recorded
	SourceRates     = "rates"     // the time of a markup rate that was corrected
	sourceGaps      = "gaps"      // no usage: a person has accepted that some is missing
)

// manualPrefix starts the ledger ids of usage that was recorded by hand.
const manualPrefix = "manual-"

// ManualID returns a new ledger id for usage recorded by hand.
func ManualID() string { return manualPrefix + uuid.NewString() }

// Counts tells whether an entry goes into the totals.
func (b Batch) Counts(e Entry) bool { return !b.Adopt || e.Settled }

// Entry is what one generation changed in the ledger and the totals.
type Entry struct {
	Generation Generation
	Settled    bool // known before, and something of it has changed
	Tokens     int64
	Raw        Money
	Markup     Money

	before   known // what the ledger held, where Settled or claimed
	claimed  bool  // the ledger's row was written by others while we kept the books: we count it, and they do not
	moved    bool  // it has changed its day, user or model
	refined  bool  // its cost is known more exactly now
	requests int64
	place    place
	rate     Rate
	instead  *known // the entry that was taken away, in the place of which this one is
}

// place is where a generation counts.
type place struct {
	day                   Day
	created               time.Time
	user, external, model string
}

// gain is what one place gains, or loses.
type gain struct {
	place
	Totals
}

// gains returns what an entry changes, by place: one that has moved is taken away from where it was.
func (e Entry) gains() []gain {
	change := Totals{e.requests, e.Tokens, e.Raw, e.Markup}
	if !e.moved {
		return []gain{{e.place, change}}
	}
	was := e.before.counts
	return []gain{{e.before.place, Totals{}.Sub(was)}, {e.place, was.Add(change)}}
}

// Recorded is the outcome of a batch.
type Recorded struct {
	Entries    []Entry
	Duplicates int      // known and unchanged, or met twice in the batch
	Foreign    []string // ids that the ledger holds for another organisation
	Claimed    int      // counted by another program while we kept the books, such as the Python sync: only ours counts
	Lost       int      // recorded, and the ledger has lost them: they count as duplicates
	Days       []Day    // that have changed
	Found      Found    // in the books of the days in question
	// Rate is a change of the markup rate that was noted on the way; nil is none.
	Rate *RateChange
	Mark Mark // what the batch has left; empty where it has written nothing

	prices  Prices             // of the entries
	altered map[Day]Correction // of the ledger, which had been changed
	// refined are duplicates of which it has become known that their cost is exactly that, that a source lists
	// them, or that the ledger has them wrong.
	refined []Entry
}

// RecordGenerations records each generation of a batch exactly once, in one transaction: the ledger, the totals
// per user and model, and the live counter or the daily row. A known generation whose cost or token count has
// changed adds the difference to the rows it went into; see moveTo for when it goes into others. A cost that is
// a rounded form of the one that is known is no change. Where nothing is new or changed it takes no write lock.
//
// What is new is found out before the lock is taken, and proven under it: a ledger row that someone else has written
// meanwhile makes the whole batch start again. It returns ErrRestored where the database does not hold b.After.
func (s *Store) RecordGenerations(ctx context.Context, b Batch) (Recorded, error) {
	for try := 1; ; try++ {
		done, err := s.Preview(ctx, b)
		entered := slices.Concat(done.Entries, done.refined)
		if err != nil || len(entered) == 0 {
			return done, err
		}
		changes := ledgerChanges(b, entered)
		done.Days = b.days(entered)
		err = s.write(ctx, func(q querier) error {
			if done.Rate, err = s.noteRate(ctx, q, b.Organisation, b.Now, &done.prices); err != nil {
				return err
			}
			k, err := s.openKeeper(ctx, q, b.Organisation, b.Now, done.Days)
			if err != nil {
				return err
			}
			if err := enterLedger(ctx, q, changes); err != nil {
				return err
			}
			if err := b.After.check(ctx, q, b.Organisation.ID); err != nil {
				return err
			}
			if done.Mark, err = leaveMark(ctx, q, b.Organisation.ID); err != nil {
				return err
			}
			if err := addToHours(ctx, q, b, done.Entries); err != nil {
				return err
			}
			if b.Delivered {
				if err := sumDelivered(ctx, q, b, done); err != nil {
					return err
				}
			}
			if err := k.count(b, done.Entries); err != nil {
				return err
			}
			if err := k.keepSquare(ctx, q, b, entered); err != nil {
				return err
			}
			done.Found = k.found
			return k.write(ctx, q, k.plan())
		})
		if err == nil {
			for _, day := range slices.Sorted(maps.Keys(done.altered)) {
				done.Found.Corrections = append(done.Found.Corrections, done.altered[day])
			}
			return done, nil
		}
		switch {
		case !errors.Is(err, errOvertaken):
			return Recorded{}, err
		case try == mostTries:
			return Recorded{}, &faultError{kind: ErrBusy, cause: err}
		}
	}
}

// errOvertaken: the ledger has changed since it was looked at.
var errOvertaken = errors.New("the ledger is written by others without a pause")

// mostTries bounds how often a batch starts again. Two passes without a lock overtake each other once a batch or so.
const mostTries = 20

// Preview tells what RecordGenerations would do, and does nothing.
func (s *Store) Preview(ctx context.Context, b Batch) (done Recorded, err error) {
	err = s.read(ctx, func(q querier) (err error) {
		done, err = s.compare(ctx, q, b)
		return err
	})
	return done, err
}

// days are those that a batch changes.
func (b Batch) days(entries []Entry) (days []Day) {
	for _, e := range entries {
		for _, g := range e.gains() {
			days = append(days, g.day)
		}
		if e.claimed { // others have it under a day of their own
			days = append(days, e.before.day)
		}
	}
	slices.Sort(days)
	return slices.Compact(days)
}

// count enters a batch into the record.
func (k *keeper) count(b Batch, entries []Entry) error {
	for _, e := range entries {
		if !b.Counts(e) {
			continue
		}
		for _, g := range e.gains() {
			if err := k.days[g.day].enter(g.user, g.external, g.model, KindCounted, g.Totals); err != nil {
				return fmt.Errorf("generation %s: %w", e.Generation.ID, err)
			}
		}
		if !e.Settled {
			k.counted = append(k.counted, e.Generation.ID)
		}
		if e.claimed {
			if err := k.undispute(e); err != nil {
				return err
			}
		}
	}
	return nil
}

// undispute takes what another program has counted of a claimed generation out of what is disputed: we know what it is.
func (k *keeper) undispute(e Entry) error {
	raw, err := MoneyFromFloat(e.before.cost)
	if err != nil {
		return dataErrorf("%s: %w", ledger, err)
	}
	cost, err := DefaultRate.Markup(raw) // the Python sync knows no other
	if err != nil {
		return err
	}
	d, known := k.days[e.before.day], Totals{-1, -e.before.tokens, -raw, -cost}
	if err := d.add(partUser, NoUser, KindDisputed, known); err != nil {
		return err
	}
	k.nameUser(d, NoUser)
	return d.add(partDay, "", KindDisputed, known)
}

// known is a generation as the ledger has it.
type known struct {
	id, organisation string
	place                   // where it went; of entries that others have made, the day alone
	placed           bool   // by us
	lost             bool   // placed by us, and no more in the ledger
	counts           Totals // what it adds to its place
	cost             float64
	tokens           int64
	ledgered         ledgered
	adopted          bool
	late             bool // written while we kept the books
	source           string
	rate             sql.NullFloat64
	resolution       Money // of the cost
}

// ledgered is what the ledger says of a generation. Somebody may have changed it: what we have counted stands
// beside its place, and goes before.
type ledgered struct {
	cost   float64
	tokens int64
}

// isAltered tells whether the ledger says something else of a generation than what we have counted.
func (k known) isAltered() bool { return k.ledgered != ledgered{k.cost, k.tokens} }

// noteAltered notes that the ledger says something else of a generation than what we have counted.
func (r *Recorded) noteAltered(k known) {
	held, err := MoneyFromFloat(k.ledgered.cost)
	right, err2 := MoneyFromFloat(k.cost)
	if err != nil || err2 != nil {
		return // settling it says so
	}
	if r.altered == nil {
		r.altered = map[Day]Correction{}
	}
	c := r.altered[k.day]
	r.altered[k.day] = Correction{k.day, ledger, c.Held.Add(Totals{1, k.ledgered.tokens, held, held}),
		c.Right.Add(Totals{1, k.tokens, right, right})}
}

// compare holds a batch against the ledger.
func (s *Store) compare(ctx context.Context, q querier, b Batch) (Recorded, error) {
	ledgered, err := lookUp(ctx, q, b.Organisation, b.Generations)
	if err != nil {
		return Recorded{}, err
	}
	mapping, err := userMapping(ctx, q, b.Organisation.ID)
	if err != nil {
		return Recorded{}, err
	}
	prices, err := s.readPrices(ctx, q, b.Organisation, b.Now)
	if err != nil {
		return Recorded{}, err
	}
	done := Recorded{prices: prices}
	met := make(map[string]bool, len(b.Generations))
	claims := map[Day]bool{}
	for _, g := range b.Generations {
		if met[g.ID] {
			done.Duplicates++
			continue
		}
		met[g.ID] = true
		before, found := ledgered[g.ID]
		if found && before.removed() {
			// it was taken away, and is only delivered again
			if b.Delivered && before.organisation == b.Organisation.ID {
				done.Duplicates++
				continue
			}
			found = false
		}
		if found && before.organisation != b.Organisation.ID {
			done.Foreign = append(done.Foreign, g.ID)
			continue
		}
		if before.placed && !before.lost && before.isAltered() {
			done.noteAltered(before)
		}
		if before.lost {
			done.Duplicates++
			done.Lost++
			continue
		}
		e, err := newEntry(b, g, mapping, prices)
		if before.removed() {
			e.instead = &before
		}
		if found && err == nil {
			var claim bool
			if claim, err = canClaim(ctx, q, b, before, claims); err == nil && claim {
				e.claimed, e.before = true, before
				done.Claimed++
			} else if err == nil {
				if e, err = e.settle(b, before); err == nil && e.isSame() {
					if done.Duplicates++; e.refined || e.isConfirmed(b) || before.isAltered() {
						done.refined = append(done.refined, e)
					}
					continue
				}
			}
		}
		if err != nil {
			return Recorded{}, fmt.Errorf("generation %s: %w", g.ID, err)
		}
		done.Entries = append(done.Entries, e)
	}
	return done, nil
}

// canClaim tells whether a ledger row was written by another program while we kept the books of its day: what that
// program added to the application's rows is not part of our record. It also looks whether the places of all our own
// generations of that day are known: without, one of ours could be taken for theirs and be counted twice.
func canClaim(ctx context.Context, q querier, b Batch, k known, claims map[Day]bool) (bool, error) {
	if k.placed || !k.late || b.Adopt {
		return false, nil
	}
	can, known := claims[k.day]
	if known {
		return can, nil
	}
	const query = `
		select (select count(*) from usage_sync_generations where client_org_id = ?1 and generation_date = ?2 and coalesce(adopted, 0) = 0)
			>= coalesce((select requests from usage_sync_days where client_org_id = ?1 and usage_date = ?2
				and part = 'day' and name = '' and kind = 'counted'), 0)`
	err := q.QueryRowContext(ctx, query, b.Organisation.ID, k.day).Scan(&can)
	claims[k.day] = can
	return can, err
}

// Unrecorded returns the ids of those generations that the ledger does not hold for the organisation, or not as
// they are.
func (s *Store) Unrecorded(ctx context.Context, org Organisation,
	generations []Generation) (ids map[string]bool, err error) {
	err = s.read(ctx, func(q querier) error {
		ledgered, err := lookUp(ctx, q, org, generations)
		ids = map[string]bool{}
		for _, g := range generations {
			before, found := ledgered[g.ID]
			found = found && !before.removed()
			ours := before.organisation == org.ID
			changed := ours && !before.lost && (!before.holds(g) || before.isAltered())
			if !found || changed || (ours && !before.placed && before.late) {
				ids[g.ID] = true
			}
		}
		return err
	})
	return ids, err
}

// holds tells whether the ledger has a generation's tokens and cost, or knows the cost more exactly.
func (k known) holds(g Generation) bool {
	return k.tokens == g.Tokens && (sameCost(k.cost, g.Cost) || (k.resolution < g.Resolution && k.agrees(g)))
}

// agrees tells whether the ledger's cost and a generation's can be the same.
func (k known) agrees(g Generation) bool {
	raw, err := MoneyFromFloat(k.cost)
	return err == nil && agree(raw, k.resolution, g.Cost, g.Resolution)
}

// agree tells whether two figures, each with its resolution, can be of the same amount. Of two that are rounded
// alike only equal ones can. Whether a source rounds or cuts is not known, so they may be a whole step apart.
func agree(a, stepOfA, b, stepOfB Money) bool {
	return a == b || (stepOfA != stepOfB && magnitude(a-b) <= max(stepOfA, stepOfB))
}

// sameCost holds for a FLOAT column that we have written, and for one written by others from the same JSON text.
func sameCost(column float64, cost Money) bool {
	before, err := MoneyFromFloat(column)
	return column == cost.Float() || (err == nil && before == cost)
}

func newEntry(b Batch, g Generation, mapping map[string]string, prices Prices) (Entry, error) {
	org := b.Organisation
	markup, rate, err := prices.Of(g)
	if err != nil {
		return Entry{}, err
	}
	if g.Model == "" {
		g.Model = unknownModel
	}
	e := Entry{Generation: g, Tokens: g.Tokens, Raw: g.Cost, Markup: markup, requests: 1, rate: rate,
		place: place{day: g.Day, created: g.CreatedAt, model: g.Model}}
	if b.Correction || g.NoRequest {
		e.requests = 0
	}
	switch user, mapped := mapping[g.User]; {
	case g.User == "":
		e.place.user, e.place.external = NoUser, noExternalUser(org.ID)
	case mapped:
		e.place.user, e.place.external = user, g.User
	default:
		e.place.user, e.place.external = g.User, g.User
	}
	return e, nil
}

// settle turns an entry into the difference to what the ledger holds.
func (e Entry) settle(b Batch, before known) (Entry, error) {
	raw, err := MoneyFromFloat(before.cost)
	if err != nil {
		return e, dataErrorf("%s: %w", ledger, err)
	}
	switch agrees := before.agrees(e.Generation); {
	case b.Delivered && before.placed && before.source != b.Source:
		// Not the last word on anything, but that it may know exactly what another source has rounded.
		finer := agrees && e.Generation.Resolution < before.resolution
		e.Generation.Tokens, e.place, e.refined = before.tokens, before.place, finer
		if !finer {
			e.Generation.Cost, e.Generation.Resolution = raw, before.resolution
		}
	case agrees && e.Generation.Resolution > before.resolution:
		e.Generation.Cost, e.Generation.Resolution = raw, before.resolution
	case agrees && e.Generation.Resolution < before.resolution:
		e.refined = true
	}
	if before.placed {
		if e.rate, err = RateFromFloat(before.rate.Float64); err != nil {
			return e, dataErrorf("usage_sync_generations: %w", err)
		}
		e.place = before.moveTo(b, e.place)
		e.moved = e.place != before.place
	} else {
		e.place.day = before.day
	}
	paid, err := e.rate.Markup(raw)
	if err != nil {
		return e, err
	}
	owed, err := e.rate.Markup(e.Generation.Cost)
	if err != nil {
		return e, err
	}
	before.counts = Totals{e.requests, before.tokens, raw, paid}
	e.Settled, e.before, e.requests = true, before, 0
	e.Generation.Day, e.Generation.CreatedAt, e.Generation.Model = e.place.day, e.place.created, e.place.model
	e.Tokens = e.Generation.Tokens - before.tokens
	e.Raw, e.Markup = e.Generation.Cost-raw, owed-paid
	if sameCost(before.cost, e.Generation.Cost) {
		e.Raw, e.Markup = 0, 0
	}
	return e, nil
}

// isSame tells whether a settled entry changes nothing.
func (e Entry) isSame() bool { return !e.moved && e.before.holds(e.Generation) }

// isConfirmed tells whether a source lists what was only delivered so far.
func (e Entry) isConfirmed(b Batch) bool {
	return e.before.placed && e.before.source == SourceWebhook && b.Source != SourceWebhook && !b.Delivered
}

// moveTo returns where a generation counts that is reported again:
//   - a source that lists generations has the last word on the day over a delivery;
//   - a model or user that was not known is filled in when it becomes known;
//   - everything else stays, whatever has become of the user's mapping and the organisation's rate since.
//
// What others have counted stays where they have counted it.
func (k known) moveTo(b Batch, to place) place {
	at := k.place
	if k.adopted {
		return at
	}
	if k.source == SourceWebhook && b.Source != SourceWebhook && !mayBeOn(k.day, to.created, b.Organisation.Zone) {
		at.day, at.created = to.day, to.created
	}
	if k.model == unknownModel {
		at.model = to.model
	}
	if k.user == NoUser {
		at.user, at.external = to.user, to.external
	}
	return at
}

// mayBeOn tells whether a time may be one of a day. Of a full hour only the hour may be known.
func mayBeOn(day Day, t time.Time, zone *time.Location) bool {
	last := t
	if t.Equal(t.Truncate(time.Hour)) {
		last = t.Add(time.Hour - time.Nanosecond)
	}
	return DayOf(t, zone) <= day && day <= DayOf(last, zone)
}

// lookUp returns what the ledger holds of a batch, by id. All ids go in as one JSON array: one statement,
// whatever their number. The date of the ledger may carry a time, and a DATE column has numeric affinity:
// compared as it is, it would keep SQLite from using the other table's key.
func lookUp(ctx context.Context, q querier, org Organisation, generations []Generation) (map[string]known, error) {
	const query = `
		select p.id, p.client_org_id, cast(p.generation_date as text), p.total_cost, p.total_tokens, g.id is not null,
			coalesce(g.model_name, ''), coalesce(g.user_id, ''), coalesce(g.openrouter_user_id, ''), g.markup_rate,
			coalesce(g.source, ''), g.created_at, coalesce(g.adopted, 0), ` + resolutionOf + `,
			coalesce(g.requests, -1), coalesce(g.tokens, 0), coalesce(g.raw, 0),
			g.id is null and p.processed_at > coalesce(
				(select noticed_at from usage_sync_days
					where client_org_id = p.client_org_id and usage_date = substr(p.generation_date, 1, 10)
						and part = 'day' and name = '' and kind = 'counted'),
				(select kept_from from usage_sync_books
					where client_org_id = p.client_org_id
						and substr(p.generation_date, 1, 10) > date(kept_from, 'unixepoch', '+2 days')),
				9e18)
		from processed_generations p left join usage_sync_generations g
			on g.client_org_id = p.client_org_id and g.generation_date = substr(p.generation_date, 1, 10) and g.id = p.id
		where p.id in (select value from json_each(?))`
	ids := make([]string, len(generations))
	for i, g := range generations {
		ids[i] = g.ID
	}
	all, err := collect(ctx, q, func(scan func(...any) error) (k known, err error) {
		var day string
		var cost any
		var created sql.NullInt64
		var requests, tokens int64
		var raw Money
		if err := scan(&k.id, &k.organisation, &day, &cost, &k.tokens, &k.placed, &k.model,
			&k.user, &k.external, &k.rate,
			&k.source, &created, &k.adopted, &k.resolution, &requests, &tokens, &raw, &k.late); err != nil {
			return k, err
		}
		k.cost, k.created = number(cost), fromUnix(created)
		k.ledgered = ledgered{k.cost, k.tokens}
		if _, err := MoneyFromFloat(k.cost); err == nil && requests >= 0 &&
			(k.tokens != tokens || !sameCost(k.cost, raw)) {
			k.cost, k.tokens = raw.Float(), tokens
		}
		if k.day, err = ParseDay(day); err != nil {
			return k, dataErrorf("%s: generation %s: %w", ledger, k.id, err)
		}
		return k, nil
	}, query, jsonText(ids))
	byID := make(map[string]known, len(all))
	for _, k := range all {
		byID[k.id] = k
	}
	if err != nil || len(byID) == len(generations) {
		return byID, err
	}
	return byID, findLost(ctx, q, org, generations, byID)
}

// findLost adds to what the ledger knows of some generations those that it has lost, and that we have recorded.
// Their place is looked for on the day that they are listed on and on those beside it: calendars are changed,
// and no source is further off. What was recorded for an organisation that is there no more is of the same
// client under a new id.
func findLost(ctx context.Context, q querier, org Organisation, generations []Generation, byID map[string]known) error {
	beside := map[Day][]Day{}
	var rows [][2]string
	for _, g := range generations {
		if _, found := byID[g.ID]; found {
			continue
		}
		day := g.Day
		if day == "" {
			day = DayOf(g.CreatedAt, org.Zone)
		}
		if beside[day] == nil {
			beside[day] = []Day{day, day.Add(-1), day.Add(1)}
		}
		for _, day := range beside[day] {
			rows = append(rows, [2]string{g.ID, string(day)})
		}
	}
	const query = `
		with recursive
		orgs(id) as (
			select min(client_org_id) from usage_sync_generations
			union all
			select (select min(client_org_id) from usage_sync_generations where client_org_id > orgs.id)
			from orgs where orgs.id is not null),
		owners(id) as materialized (
			select ?1 union select id from orgs where id is not null and id not in (select id from client_organizations))
		select g.id, g.client_org_id, g.generation_date, coalesce(g.adopted, 0)
		from owners o cross join json_each(?2) j cross join usage_sync_generations g
			on g.client_org_id = o.id and g.generation_date = j.value->>1 and g.id = j.value->>0`
	all, err := collect(ctx, q, func(scan func(...any) error) (k known, err error) {
		k.placed, k.lost = true, true
		return k, scan(&k.id, &k.organisation, &k.day, &k.adopted)
	}, query, org.ID, jsonText(rows))
	for _, k := range all {
		byID[k.id] = k
	}
	return err
}

// resolutionOf reads what the cost of a row g is rounded to. Versions that did not write it down had exact
// costs from all sources but the analytics, which round to a millionth of a dollar.
const resolutionOf = `case when coalesce(g.resolution, -1) >= 0 then g.resolution when g.source = 'analytics' then 1000000 else 0 end`

// statement changes a known number of rows.
type statement struct {
	query string
	args  []any
	rows  int
}

// ledgerChanges makes the statements that enter a batch into the ledger. Amounts travel as whole pico-dollars and are
// divided by SQLite, which rounds that correctly; the same number as JSON text need not.
func ledgerChanges(b Batch, entries []Entry) []statement {
	var fresh, settled, places, confirmed, moved, left, dated, instead [][]any
	source := func(e Entry) string { // whose word an entry is
		if b.Delivered && e.Settled && e.before.placed {
			return e.before.source
		}
		return b.Source
	}
	for _, e := range entries {
		g, at := e.Generation, e.place
		if e.instead != nil {
			instead = append(instead, []any{g.ID, e.instead.organisation, e.instead.day})
		}
		if !e.Settled {
			places = append(places, []any{g.ID, at.day, at.created.Unix(), at.model, at.user,
				at.external, e.rate, b.Adopt, g.Resolution, e.requests, g.Tokens, g.Cost})
		}
		switch {
		case e.Settled || e.claimed:
			settled = append(settled, []any{g.ID, g.Cost, g.Tokens, e.before.ledgered.cost, e.before.ledgered.tokens})
		default:
			fresh = append(fresh, []any{g.ID, g.Cost, g.Tokens, at.day})
		}
		if (e.moved || e.claimed) && at.day != e.before.day {
			dated = append(dated, []any{g.ID, e.before.day, at.day})
		}
		switch {
		case e.moved:
			moved = append(moved, []any{g.ID, e.before.day, at.day, at.created.Unix(), at.model, at.user, at.external,
				source(e), g.Resolution, g.Tokens, g.Cost})
			if at.day != e.before.day {
				left = append(left, []any{g.ID, e.before.day})
			}
		case e.Settled && e.before.placed:
			confirmed = append(confirmed, []any{g.ID, e.before.day, source(e), g.Resolution, g.Tokens, g.Cost})
		}
	}
	return []statement{
		{`
			delete from processed_generations
			where (id, client_org_id) in (select value->>0, value->>1 from json_each(?1)) and total_cost = 0 and total_tokens = 0`,
			[]any{jsonText(instead)}, len(instead)},
		{`
			delete from usage_sync_generations
			where (client_org_id, generation_date, id) in (select value->>1, value->>2, value->>0 from json_each(?1))
				and source = '` + sourceRemoved + `'`,
			[]any{jsonText(instead)}, len(instead)},
		{`
			insert into processed_generations (id, client_org_id, generation_date, processed_at, total_cost, total_tokens)
			select value->>0, ?2, value->>3, ?3, (value->>1) / 1e12, value->>2 from json_each(?1) where true
			on conflict (id) do nothing`,
			[]any{jsonText(fresh), b.Organisation.ID, b.Now.Unix()}, len(fresh)},
		{`
			update processed_generations set total_cost = (j.value->>1) / 1e12, total_tokens = j.value->>2
			from json_each(?1) j
			where processed_generations.id = j.value->>0
				and abs(total_cost - (j.value->>3)) <= 1e-9 * max(1, abs(total_cost)) and total_tokens = j.value->>4`,
			[]any{jsonText(settled)}, len(settled)},
		{`
			update processed_generations set generation_date = j.value->>2 from json_each(?1) j
			where processed_generations.id = j.value->>0 and substr(generation_date, 1, 10) = j.value->>1`,
			[]any{jsonText(dated)}, len(dated)},
		{`
			insert or replace into usage_sync_generations (client_org_id, generation_date, id, created_at, model_name,
				user_id, openrouter_user_id, markup_rate, source, adopted, resolution, requests, tokens, raw)
			select g.client_org_id, j.value->>2, g.id, j.value->>3, j.value->>4, j.value->>5, j.value->>6,
				g.markup_rate, j.value->>7, g.adopted, j.value->>8, g.requests, j.value->>9, j.value->>10
			from json_each(?1) j cross join usage_sync_generations g -- an update reads all rows of the organisation
				on g.client_org_id = ?2 and g.generation_date = j.value->>1 and g.id = j.value->>0`,
			[]any{jsonText(moved), b.Organisation.ID}, len(moved)},
		{`
			delete from usage_sync_generations where (client_org_id, generation_date, id) in (
				select ?2, value->>1, value->>0 from json_each(?1))`,
			[]any{jsonText(left), b.Organisation.ID}, len(left)},
		{`
			insert or replace into usage_sync_generations (client_org_id, generation_date, id, created_at, model_name,
				user_id, openrouter_user_id, markup_rate, source, adopted, resolution, requests, tokens, raw)
			select ?2, value->>1, value->>0, value->>2, value->>3, value->>4, value->>5, (value->>6) / 1e9, ?3, value->>7,
				value->>8, value->>9, value->>10, value->>11
			from json_each(?1)`,
			[]any{jsonText(places), b.Organisation.ID, b.Source}, len(places)},
		{`
			insert or replace into usage_sync_generations (client_org_id, generation_date, id, created_at, model_name,
				user_id, openrouter_user_id, markup_rate, source, adopted, resolution, requests, tokens, raw)
			select g.client_org_id, g.generation_date, g.id, g.created_at, g.model_name, g.user_id, g.openrouter_user_id,
				g.markup_rate, j.value->>2, g.adopted, j.value->>3, g.requests, j.value->>4, j.value->>5
			from json_each(?1) j cross join usage_sync_generations g
				on g.client_org_id = ?2 and g.generation_date = j.value->>1 and g.id = j.value->>0`,
			[]any{jsonText(confirmed), b.Organisation.ID}, len(confirmed)},
	}
}

// enterLedger runs the statements. It returns errOvertaken where one does not change the rows that it should.
func enterLedger(ctx context.Context, q querier, changes []statement) error {
	for _, change := range changes {
		if change.rows == 0 {
			continue
		}
		result, err := q.ExecContext(ctx, change.query, change.args...)
		if err != nil {
			return err
		}
		if changed, err := result.RowsAffected(); err != nil || changed != int64(change.rows) {
			return errors.Join(err, errOvertaken)
		}
	}
	return nil
}

func jsonText(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // only strings and finite numbers come here
	}
	return string(text)
}
