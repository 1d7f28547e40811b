package store

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"
)

// The analytics round the cost of each generation by itself, and the totals of a day once. When a day is over,
// it is squared: what single generations have lost by rounding is booked as a remainder, so that the day is
// what OpenRouter says of it in all. A remainder is set and never added to. It is of a model, of no request and
// of NoUser, and goes as the exact costs come.

// ModelTotal is what OpenRouter itself says was used of one model on one day.
type ModelTotal struct {
	Model      string // as ModelName has it; empty where OpenRouter names none
	Requests   int64
	Raw        Money
	Resolution Money // by how much Raw may be off
}

// Squared is what became of a day that was to be squared.
type Squared struct {
	Day Day
	// Agrees tells whether the day differs by rounding at the most. If not, nothing was booked.
	Agrees bool
	Booked Totals // by how much the remainders have changed
}

// UnsquaredDays returns those days from first to last on which something was counted, and that are not squared.
// A day of which all costs are known exactly is one, too: nothing is to be booked, and nobody has found yet
// that OpenRouter's own figures agree.
func (s *Store) UnsquaredDays(ctx context.Context, orgID string, first, last Day) (days []Day, err error) {
	err = s.read(ctx, func(q querier) error {
		const query = `
			select usage_date from usage_sync_days d
			where client_org_id = ?1 and usage_date between ?2 and ?3 and part = 'day' and name = '' and kind = 'counted'
				and not exists (
					select 1 from usage_sync_days
					where client_org_id = ?1 and usage_date = d.usage_date and part = 'day' and name = '' and kind = 'remainder'
						and noticed_at > 0)
				and exists (
					select 1 from usage_sync_generations g
					where client_org_id = ?1 and generation_date = d.usage_date and coalesce(adopted, 0) = 0)
			order by 1`
		days, err = collect(ctx, q, func(scan func(...any) error) (d Day, err error) { return d, scan(&d) },
			query, orgID, first, last)
		return err
	})
	return days, err
}

// Square squares days of an organisation that are over, each by what OpenRouter says of all its models. It
// books nothing of a day that differs by more than rounding can do, or that changes meanwhile.
//
// OpenRouter counts what a tool cost under the tool's own model, where we have it with the generation that it
// was for. Where models do not agree each by itself, they are squared together, and the remainder is that of
// one of them.
func (s *Store) Square(ctx context.Context, org Organisation, now time.Time,
	totals map[Day][]ModelTotal) (done []Squared, found Found, err error) {
	days := slices.Sorted(maps.Keys(totals))
	plans := map[Day]squarePlan{}
	// All of a day's generations are read, without the write lock.
	err = s.read(ctx, func(q querier) error {
		k, err := s.openKeeper(ctx, q, org, now, days)
		if err != nil {
			return err
		}
		for _, day := range days {
			ledgered, err := roundedOf(ctx, q, org.ID, day)
			if err != nil {
				return err
			}
			plans[day] = planSquare(k.days[day], ledgered, totals[day])
		}
		return nil
	})
	if err != nil {
		return nil, found, err
	}
	err = s.write(ctx, func(q querier) error {
		k, err := s.openKeeper(ctx, q, org, now, days)
		if err != nil {
			return err
		}
		prices, err := s.readPrices(ctx, q, org, now)
		if err != nil {
			return err
		}
		done = nil
		for _, day := range days {
			plan, d := plans[day], k.days[day]
			one := Squared{Day: day, Agrees: plan.agrees && d.line(partDay, "").kinds[KindCounted] == plan.counted}
			if one.Agrees {
				if one.Booked, err = d.square(org, prices, plan.remainders, now); err != nil {
					return err
				}
			}
			done = append(done, one)
		}
		found = k.found
		return k.write(ctx, q, k.plan())
	})
	return done, found, err
}

// rounded is what the ledger has of one line of a day's models.
type rounded struct {
	coarse int64 // generations with a rounded cost
	steps  Money // their resolutions
	merged bool  // one at least is the sum of several rows, such as that of a tool
	manual int64 // entries that OpenRouter does not know
	byHand Money // of these
}

func roundedOf(ctx context.Context, q querier, orgID string, day Day) (map[string]rounded, error) {
	type row struct {
		model string
		rounded
	}
	// '.' follows '-'.
	const query = `
		select model_name, sum(step > 0), sum(step), max(step) > 1000000, count(cost), cast(coalesce(sum(round(cost * 1e12)), 0) as integer)
		from (select g.model_name, ` + resolutionOf + ` as step, p.total_cost as cost
			from usage_sync_generations g left join processed_generations p
				on p.id = g.id and g.id >= '` + manualPrefix + `' and g.id < 'manual.'
			where g.client_org_id = ? and g.generation_date = ? and coalesce(g.adopted, 0) = 0)
		group by 1`
	rows, err := collect(ctx, q, func(scan func(...any) error) (r row, err error) {
		return r, scan(&r.model, &r.coarse, &r.steps, &r.merged, &r.manual, &r.byHand)
	}, query, orgID, day)
	byModel := make(map[string]rounded, len(rows))
	for _, r := range rows {
		byModel[r.model] = r.rounded
	}
	return byModel, err
}

// squarePlan is how a day is squared.
type squarePlan struct {
	agrees     bool
	counted    Totals           // of the day, for which the plan was made
	remainders map[string]Money // by line; others have none
}

// balance is a model, or several, on both sides.
type balance struct {
	requests, manual int64 // ours, and how many of them may be entries by hand
	ours             Money // without entries by hand
	coarse           int64
	steps            Money
	merged           bool
	theirs           ModelTotal
	line             string // of the model that has most coarse generations
	mostCoarse       int64
}

func (b balance) add(o balance) balance {
	if o.mostCoarse > b.mostCoarse || b.line == "" {
		b.line, b.mostCoarse = o.line, o.mostCoarse
	}
	b.requests, b.manual, b.ours = b.requests+o.requests, b.manual+o.manual, b.ours+o.ours
	b.coarse, b.steps, b.merged = b.coarse+o.coarse, b.steps+o.steps, b.merged || o.merged
	b.theirs.Requests += o.theirs.Requests
	b.theirs.Raw += o.theirs.Raw
	b.theirs.Resolution += o.theirs.Resolution
	return b
}

// remainder is what is to be booked: nothing where every cost is known exactly.
func (b balance) remainder() Money {
	if b.coarse == 0 {
		return 0
	}
	return b.theirs.Raw - b.ours
}

// agrees tells whether both sides differ by rounding at the most. A correction by hand is no request.
func (b balance) agrees() bool {
	return b.theirs.Requests <= b.requests && b.theirs.Requests >= b.requests-b.manual &&
		magnitude(b.theirs.Raw-b.ours) <= b.steps+b.theirs.Resolution
}

// planSquare holds a day against OpenRouter's totals.
func planSquare(d *dayRecord, ledgered map[string]rounded, totals []ModelTotal) squarePlan {
	models := map[string]balance{}
	for _, name := range slices.Sorted(maps.Keys(d.lines[partModel])) {
		counted, r := d.lines[partModel][name].kinds[KindCounted], ledgered[name]
		one := balance{requests: counted.Requests, manual: r.manual, ours: counted.Raw - r.byHand,
			coarse: r.coarse, steps: r.steps, merged: r.merged, line: name, mostCoarse: r.coarse}
		models[ModelName(name)] = models[ModelName(name)].add(one)
	}
	for _, t := range totals {
		name := t.Model
		if name == "" {
			name = unknownModel
		}
		models[name] = models[name].add(balance{theirs: t})
	}
	plan := squarePlan{counted: d.line(partDay, "").kinds[KindCounted], remainders: map[string]Money{}}
	var together balance // those that do not agree each by itself
	for _, name := range slices.Sorted(maps.Keys(models)) {
		switch b := models[name]; {
		case !b.agrees() || b.merged:
			together = together.add(b)
		case b.line != "":
			plan.remainders[b.line] = b.remainder()
		}
	}
	if plan.agrees = together.agrees(); plan.agrees && together.coarse > 0 {
		plan.remainders[together.line] = together.remainder()
	}
	return plan
}

// square sets the remainders of a day and notes that it is squared.
func (d *dayRecord) square(org Organisation, prices Prices, remainders map[string]Money,
	now time.Time) (booked Totals, err error) {
	names := slices.Collect(maps.Keys(remainders))
	for name, l := range d.lines[partModel] {
		if _, there := l.kinds[KindRemainder]; there {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		var held Totals
		if l := d.lines[partModel][name]; l != nil {
			held = l.kinds[KindRemainder]
		}
		raw := remainders[name]
		if raw == held.Raw {
			continue
		}
		cost, err := prices.OfDay(d.day, raw)
		if err != nil {
			return booked, err
		}
		change := Totals{Raw: raw, Cost: cost}.Sub(held)
		if err := d.remain(org, name, change); err != nil {
			return booked, err
		}
		booked = booked.Add(change)
	}
	d.setSquared(now.Unix())
	return booked, nil
}

// remain changes the remainder of a model.
func (d *dayRecord) remain(org Organisation, model string, change Totals) error {
	return d.enter(NoUser, noExternalUser(org.ID), model, KindRemainder, change)
}

func (d *dayRecord) hasRemainder() bool {
	for _, l := range d.lines[partModel] {
		if !l.kinds[KindRemainder].IsZero() {
			return true
		}
	}
	return false
}

func (d *dayRecord) setSquared(at int64) {
	if d.squared == at {
		return
	}
	d.squared = at
	d.line(partDay, "").changed[KindRemainder] = true
}

// keepSquare keeps squared days so while a batch is entered. Where a cost becomes known exactly that was
// rounded, the remainder gives as much as the cost takes. Anything else that changes what a day costs makes it
// a day to be squared again.
func (k *keeper) keepSquare(ctx context.Context, q querier, b Batch, entries []Entry) error {
	refined := map[Day]map[string]bool{}
	for _, e := range entries {
		if !b.Counts(e) || strings.HasPrefix(e.Generation.ID, manualPrefix) {
			continue
		}
		from, to := e.before.place, e.place
		stays := e.Settled && (!e.moved || (from.day == to.day && from.model == to.model))
		switch d := k.days[to.day]; {
		case stays && e.refined:
			if d.squared == 0 && !d.hasRemainder() {
				continue
			}
			if e.Raw != 0 {
				if err := d.remain(k.org, to.model, Totals{Raw: -e.Raw, Cost: -e.Markup}); err != nil {
					return err
				}
			}
			if refined[to.day] == nil {
				refined[to.day] = map[string]bool{}
			}
			refined[to.day][ModelName(to.model)] = true
		case stays && e.Raw == 0:
		default:
			for _, g := range e.gains() {
				k.days[g.day].setSquared(0)
			}
		}
	}
	for day, models := range refined {
		for model := range models {
			if err := k.endRemainder(ctx, q, k.days[day], model); err != nil {
				return err
			}
		}
	}
	return nil
}

// endRemainder takes a model's remainder away where no generation of it has a rounded cost any more. If others
// of the day have, they may have been squared together with it, and the day is to be squared again.
func (k *keeper) endRemainder(ctx context.Context, q querier, d *dayRecord, model string) error {
	var names []string
	for name := range d.lines[partModel] {
		if ModelName(name) == model {
			names = append(names, name)
		}
	}
	const query = `
		select exists (select 1 from usage_sync_generations g
			where client_org_id = ?1 and generation_date = ?2 and coalesce(adopted, 0) = 0 and ` + resolutionOf + ` > 0
				and (?3 is null or model_name in (select value from json_each(?3))))`
	var coarse, others bool
	if err := q.QueryRowContext(ctx, query, k.org.ID, d.day, jsonText(names)).Scan(&coarse); err != nil || coarse {
		return err
	}
	if err := q.QueryRowContext(ctx, query, k.org.ID, d.day, nil).Scan(&others); err != nil {
		return err
	}
	for name, l := range d.lines[partModel] {
		held := l.kinds[KindRemainder]
		if held.IsZero() || (others && ModelName(name) != model) {
			continue
		}
		if err := d.remain(k.org, name, Totals{}.Sub(held)); err != nil {
			return err
		}
		if others {
			d.setSquared(0)
		}
	}
	return nil
}
