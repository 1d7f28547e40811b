package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
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
	// Resolution is what the source rounds a cost to: Cost is within half of it, or a whole one where the source cuts. Zero is
	// a source that rounds nothing.
	Resolution Money
	// NoRequest marks a charge that stands for no request, such as a web search that OpenRouter lists by itself.
	NoRequest bool
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
}

// The sources that are no pass.
const (
	SourceManual    = "manual"    // usage recorded by hand
	SourceWebhook   = "webhook"   // usage that was delivered to us
	SourceReconcile = "reconcile" // usage that a reconciliation has recorded
)

// manualPrefix starts the ledger ids of usage that was recorded by hand.
const manualPrefix = "manual-"

// ManualID returns a new ledger id for usage recorded by hand.
func ManualID() string { return manualPrefix + uuid.NewString() }

func (b Batch) today() Day { return DayOf(b.Now, b.Organisation.Zone) }

// Counts tells whether an entry goes into the totals.
func (b Batch) Counts(e Entry) bool { return !b.Adopt || e.Settled }

// Entry is what one generation changed in the ledger and the totals.
type Entry struct {
	Generation Generation
	Settled    bool // known before, with another cost or token count
	Tokens     int64
	Raw        Money
	Markup     Money

	before       known // what the ledger held, where Settled
	requests     int64
	user         string
	externalUser string
	rate         Rate
}

// Recorded is the outcome of a batch.
type Recorded struct {
	Entries    []Entry
	Duplicates int      // known and unchanged, or met twice in the batch
	Foreign    []string // ids that the ledger holds for another organisation
}

// RecordGenerations records each generation of a batch exactly once, in one transaction: the ledger, the totals per
// user and model, and the live counter or the daily row. A known generation whose cost or token count has changed adds
// the difference to the rows it went into. Where nothing is new or changed it takes no write lock.
//
// What is new is found out before the lock is taken, and proven under it: a ledger row that someone else has written
// meanwhile makes the whole batch start again.
func (s *Store) RecordGenerations(ctx context.Context, b Batch) (Recorded, error) {
	for try := 1; ; try++ {
		done, err := s.Preview(ctx, b)
		if err != nil || len(done.Entries) == 0 {
			return done, err
		}
		changes := ledgerChanges(b, done.Entries)
		err = s.write(ctx, func(q querier) error {
			if err := enterLedger(ctx, q, changes); err != nil {
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
			return addToTotals(ctx, q, b, done.Entries)
		})
		if err == nil {
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
		done, err = compare(ctx, q, b)
		return err
	})
	return done, err
}

// known is a generation as the ledger has it.
type known struct {
	id, organisation string
	day              Day
	cost             float64
	tokens           int64
	// Where it went; invalid for entries that others have made.
	model, user, externalUser, source sql.NullString
	rate                              sql.NullFloat64
	created                           sql.NullInt64
}

// compare holds a batch against the ledger.
func compare(ctx context.Context, q querier, b Batch) (Recorded, error) {
	ledgered, err := lookUp(ctx, q, b.Generations)
	if err != nil {
		return Recorded{}, err
	}
	mapping, err := userMapping(ctx, q, b.Organisation.ID)
	if err != nil {
		return Recorded{}, err
	}
	var done Recorded
	met := make(map[string]bool, len(b.Generations))
	for _, g := range b.Generations {
		if met[g.ID] {
			done.Duplicates++
			continue
		}
		met[g.ID] = true
		before, found := ledgered[g.ID]
		switch {
		case found && before.organisation != b.Organisation.ID:
			done.Foreign = append(done.Foreign, g.ID)
			continue
		case found && before.holds(g), found && b.Delivered && before.source.String != b.Source:
			done.Duplicates++
			continue
		}
		e, err := newEntry(b, g, mapping)
		if found && err == nil {
			e, err = e.settle(before)
		}
		if err != nil {
			return Recorded{}, fmt.Errorf("generation %s: %w", g.ID, err)
		}
		done.Entries = append(done.Entries, e)
	}
	return done, nil
}

// Unrecorded returns the ids of those generations that the ledger does not hold for the organisation, or not as they are.
func (s *Store) Unrecorded(ctx context.Context, org Organisation, generations []Generation) (ids map[string]bool, err error) {
	err = s.read(ctx, func(q querier) error {
		ledgered, err := lookUp(ctx, q, generations)
		ids = map[string]bool{}
		for _, g := range generations {
			if before, found := ledgered[g.ID]; !found || (before.organisation == org.ID && !before.holds(g)) {
				ids[g.ID] = true
			}
		}
		return err
	})
	return ids, err
}

// holds tells whether the ledger has a generation as it is.
func (k known) holds(g Generation) bool { return k.tokens == g.Tokens && sameCost(k.cost, g.Cost) }

// sameCost holds for a FLOAT column that we have written, and for one written by others from the same JSON text.
func sameCost(column float64, cost Money) bool {
	before, err := MoneyFromFloat(column)
	return column == cost.Float() || (err == nil && before == cost)
}

func newEntry(b Batch, g Generation, mapping map[string]string) (Entry, error) {
	org := b.Organisation
	markup, err := org.Rate.Markup(g.Cost)
	if err != nil {
		return Entry{}, err
	}
	if g.Model == "" {
		g.Model = UnknownModel
	}
	e := Entry{Generation: g, Tokens: g.Tokens, Raw: g.Cost, Markup: markup, requests: 1, rate: org.Rate}
	if b.Correction || g.NoRequest {
		e.requests = 0
	}
	switch user, mapped := mapping[g.User]; {
	case g.User == "":
		e.user, e.externalUser = "background_sync", "bg_sync_"+org.ID
	case mapped:
		e.user, e.externalUser = user, g.User
	default:
		e.user, e.externalUser = g.User, g.User
	}
	return e, nil
}

// settle turns an entry into the difference to what the ledger holds, for the rows into which that went.
func (e Entry) settle(before known) (Entry, error) {
	e.Settled, e.before = true, before
	e.requests = 0
	e.Generation.Day = before.day
	if before.model.Valid {
		e.Generation.CreatedAt = fromUnix(before.created)
		e.Generation.Model = before.model.String
		e.user, e.externalUser = before.user.String, before.externalUser.String
		rate, err := RateFromFloat(before.rate.Float64)
		if err != nil {
			return e, dataErrorf("usage_sync_generations: %w", err)
		}
		e.rate = rate
	}
	raw, err := MoneyFromFloat(before.cost)
	if err != nil {
		return e, dataErrorf("%s: %w", ledger, err)
	}
	paid, err := e.rate.Markup(raw)
	if err != nil {
		return e, err
	}
	owed, err := e.rate.Markup(e.Generation.Cost)
	if err != nil {
		return e, err
	}
	e.Tokens = e.Generation.Tokens - before.tokens
	e.Raw = e.Generation.Cost - raw
	e.Markup = owed - paid
	return e, nil
}

// lookUp returns what the ledger holds of a batch, by id. All ids go in as one JSON array: one statement, whatever
// their number. A DATE column has numeric affinity: compared as it is, it would keep SQLite from using the other table's
// key.
func lookUp(ctx context.Context, q querier, generations []Generation) (map[string]known, error) {
	const query = `
		select p.id, p.client_org_id, cast(p.generation_date as text), p.total_cost, p.total_tokens,
			g.model_name, g.user_id, g.openrouter_user_id, g.markup_rate, g.source, g.created_at
		from processed_generations p left join usage_sync_generations g
			on g.client_org_id = p.client_org_id and g.generation_date = cast(p.generation_date as text) and g.id = p.id
		where p.id in (select value from json_each(?))`
	ids := make([]string, len(generations))
	for i, g := range generations {
		ids[i] = g.ID
	}
	all, err := collect(ctx, q, func(scan func(...any) error) (k known, err error) {
		var day string
		var cost any
		if err := scan(&k.id, &k.organisation, &day, &cost, &k.tokens, &k.model, &k.user, &k.externalUser, &k.rate,
			&k.source, &k.created); err != nil {
			return k, err
		}
		k.cost = number(cost)
		if k.day, err = ParseDay(day); err != nil {
			return k, dataErrorf("%s: generation %s: %w", ledger, k.id, err)
		}
		return k, nil
	}, query, jsonText(ids))
	byID := make(map[string]known, len(all))
	for _, k := range all {
		byID[k.id] = k
	}
	return byID, err
}

// statement changes a known number of rows.
type statement struct {
	query string
	args  []any
	rows  int
}

// ledgerChanges makes the statements that enter a batch into the ledger. Amounts travel as whole pico-dollars and are
// divided by SQLite, which rounds that correctly; the same number as JSON text need not.
func ledgerChanges(b Batch, entries []Entry) []statement {
	var fresh, settled, places, confirmed [][]any
	for _, e := range entries {
		g := e.Generation
		if e.Settled {
			settled = append(settled, []any{g.ID, g.Cost, g.Tokens, e.before.cost, e.before.tokens})
			if e.before.source.Valid && e.before.source.String != b.Source {
				confirmed = append(confirmed, []any{g.ID, e.before.day})
			}
			continue
		}
		fresh = append(fresh, []any{g.ID, g.Cost, g.Tokens, g.Day})
		places = append(places, []any{g.ID, g.Day, g.CreatedAt.Unix(), g.Model, e.user, e.externalUser, e.rate})
	}
	return []statement{
		{`
			insert into processed_generations (id, client_org_id, generation_date, processed_at, total_cost, total_tokens)
			select value->>0, ?2, value->>3, ?3, (value->>1) / 1e12, value->>2 from json_each(?1) where true
			on conflict (id) do nothing`,
			[]any{jsonText(fresh), b.Organisation.ID, b.Now.Unix()}, len(fresh)},
		{`
			insert or replace into usage_sync_generations (client_org_id, generation_date, id, created_at, model_name,
				user_id, openrouter_user_id, markup_rate, source)
			select ?2, value->>1, value->>0, value->>2, value->>3, value->>4, value->>5, (value->>6) / 1e9, ?3
			from json_each(?1)`,
			[]any{jsonText(places), b.Organisation.ID, b.Source}, len(places)},
		{`
			update processed_generations set total_cost = (j.value->>1) / 1e12, total_tokens = j.value->>2
			from json_each(?1) j
			where processed_generations.id = j.value->>0
				and abs(total_cost - (j.value->>3)) <= 1e-9 * max(1, abs(total_cost)) and total_tokens = j.value->>4`,
			[]any{jsonText(settled)}, len(settled)},
		{`
			update usage_sync_generations set source = ?3
			from json_each(?1) j
			where client_org_id = ?2 and generation_date = j.value->>1 and usage_sync_generations.id = j.value->>0`,
			[]any{jsonText(confirmed), b.Organisation.ID, b.Source}, len(confirmed)},
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

// addToTotals adds what a batch changed to the rows that the dashboard reads, after the rollover.
func addToTotals(ctx context.Context, q querier, b Batch, entries []Entry) error {
	if !slices.ContainsFunc(entries, b.Counts) {
		return nil
	}
	live, err := rollOver(ctx, q, b.Organisation.ID, b.today(), b.Now)
	if err != nil {
		return err
	}
	// Summed before they are written, and written before a sum could leave the range of Money.
	sums := newSums()
	for _, e := range entries {
		if !b.Counts(e) {
			continue
		}
		if !sums.fits(e) {
			if err := sums.write(ctx, q, b, live); err != nil {
				return err
			}
			sums = newSums()
		}
		sums.add(e)
	}
	return sums.write(ctx, q, b, live)
}

// total is what one row of a totals table gains.
type total struct {
	tokens, requests int64
	raw, markup      Money
}

func (t *total) add(e Entry) {
	t.tokens += e.Tokens
	t.requests += e.requests
	t.raw += e.Raw
	t.markup += e.Markup
}

func (t *total) args() []any { return []any{t.tokens, t.requests, t.raw.Float(), t.markup.Float()} }

type userDay struct {
	day                Day
	user, externalUser string
}

type modelDay struct {
	day   Day
	model string
}

type sums struct {
	users  map[userDay]*total
	models map[modelDay]*total
	days   map[Day]*total
	reach  total // of absolute values: no sum of the batch is larger
}

func newSums() *sums {
	return &sums{users: map[userDay]*total{}, models: map[modelDay]*total{}, days: map[Day]*total{}}
}

func (s *sums) fits(e Entry) bool {
	return s.reach.raw+magnitude(e.Raw) >= 0 && s.reach.markup+magnitude(e.Markup) >= 0
}

func magnitude(m Money) Money { return max(m, -m) }

func (s *sums) add(e Entry) {
	s.reach.raw += magnitude(e.Raw)
	s.reach.markup += magnitude(e.Markup)
	day := e.Generation.Day
	at(s.users, userDay{day, e.user, e.externalUser}).add(e)
	at(s.models, modelDay{day, e.Generation.Model}).add(e)
	at(s.days, day).add(e)
}

func at[K comparable](m map[K]*total, key K) *total {
	t, ok := m[key]
	if !ok {
		t = &total{}
		m[key] = t
	}
	return t
}

func (s *sums) write(ctx context.Context, q querier, b Batch, live Day) error {
	org, now := b.Organisation.ID, b.Now.Unix()
	for _, key := range sortedFunc(s.users, func(k userDay) string { return string(k.day) + k.user + "\x00" + k.externalUser }) {
		args := append([]any{fmt.Sprintf("%s:%s:%s", org, key.user, key.day), org, key.user, key.externalUser, key.day, now},
			s.users[key].args()...)
		if _, err := q.ExecContext(ctx, addUserDay, args...); err != nil {
			return err
		}
	}
	for _, key := range sortedFunc(s.models, func(k modelDay) string { return string(k.day) + k.model }) {
		args := append([]any{fmt.Sprintf("%s:%s:%s", org, key.model, key.day), org, key.model, provider(key.model), key.day, now},
			s.models[key].args()...)
		if _, err := q.ExecContext(ctx, addModelDay, args...); err != nil {
			return err
		}
	}
	for _, day := range sortedFunc(s.days, func(d Day) string { return string(d) }) {
		var err error
		if day == live {
			err = addToLiveCounter(ctx, q, org, day, s.days[day].args(), now)
		} else {
			err = addToDailyRow(ctx, q, org, day, s.days[day].args(), now)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func sortedFunc[K comparable, V any](m map[K]V, text func(K) string) []K {
	keys := make([]K, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b K) int {
		if text(a) < text(b) {
			return -1
		}
		return 1
	})
	return keys
}

const (
	// addToRow adds to a row that is there. Costs are rounded to the pico-dollar as they are added, so that errors of
	// binary fractions never pile up.
	addToRow = `
		on conflict (id) do update set
			total_tokens = coalesce(total_tokens, 0) + excluded.total_tokens,
			total_requests = coalesce(total_requests, 0) + excluded.total_requests,
			raw_cost = round(coalesce(raw_cost, 0) + excluded.raw_cost, 12),
			markup_cost = round(coalesce(markup_cost, 0) + excluded.markup_cost, 12),
			updated_at = excluded.updated_at`
	addUserDay = `
		insert into client_user_daily_usage (id, client_org_id, user_id, openrouter_user_id, usage_date, created_at,
			updated_at, total_tokens, total_requests, raw_cost, markup_cost)
		values (?1, ?2, ?3, ?4, ?5, ?6, ?6, ?7, ?8, ?9, ?10)` + addToRow
	addModelDay = `
		insert into client_model_daily_usage (id, client_org_id, model_name, provider, usage_date, created_at,
			updated_at, total_tokens, total_requests, raw_cost, markup_cost)
		values (?1, ?2, ?3, ?4, ?5, ?6, ?6, ?7, ?8, ?9, ?10)` + addToRow
)
