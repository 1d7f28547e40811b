package store

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ErrNotedRate: a noted rate can't be corrected like that.
var ErrNotedRate = errors.New("noted rate")

// RateCorrection is a noted rate that holds from another time than was noted.
type RateCorrection struct {
	ID       int64
	From     time.Time
	By, Note string
}

// Repriced is what a corrected rate makes of usage that is recorded already.
type Repriced struct {
	Was, Is     NotedRate
	Generations int
	Days        map[Day]Money // what is added to what the client pays
	// Unknown are entries of these days whose time is not known any more: they keep their price.
	Unknown int
}

// Cost is what is added to what the client pays in all.
func (r Repriced) Cost() (sum Money) {
	for _, cost := range r.Days {
		sum += cost
	}
	return sum
}

// TryCorrectRate returns what CorrectRate would do, and does nothing.
func (s *Store) TryCorrectRate(ctx context.Context, org Organisation, c RateCorrection,
	now time.Time) (Repriced, error) {
	return s.correctRate(ctx, org, c, now, true)
}

// CorrectRate corrects since when a noted rate holds, and prices anew what was recorded between the two times, in one
// transaction. It is ErrNotedRate where there is no such rate, or where the order of the rates would change.
func (s *Store) CorrectRate(ctx context.Context, org Organisation, c RateCorrection, now time.Time) (Repriced, error) {
	return s.correctRate(ctx, org, c, now, false)
}

func (s *Store) correctRate(ctx context.Context, org Organisation, c RateCorrection, now time.Time,
	trial bool) (done Repriced, err error) {
	err = s.write(ctx, func(q querier) (err error) {
		if done, err = s.correctRateIn(ctx, q, org, c, now); err == nil && trial {
			err = errTrial
		}
		return err
	})
	if trial && errors.Is(err, errTrial) {
		err = nil
	}
	return done, err
}

func (s *Store) correctRateIn(ctx context.Context, q querier, org Organisation, c RateCorrection,
	now time.Time) (done Repriced, err error) {
	if _, err := s.noteRate(ctx, q, org, now, nil); err != nil {
		return done, err
	}
	before, err := s.readPrices(ctx, q, org, now)
	if err != nil {
		return done, err
	}
	if done.Was, err = before.correctable(c, now); err != nil {
		return done, err
	}
	const query = `update usage_sync_rates set valid_from = ?, noted_by = ?, note = ? where id = ? and client_org_id = ?`
	if _, err := q.ExecContext(ctx, query, c.From.Unix(), c.By, c.Note, c.ID, org.ID); err != nil {
		return done, err
	}
	done.Is = done.Was
	done.Is.From, done.Is.By, done.Is.Note = c.From, c.By, c.Note
	after, err := s.readPrices(ctx, q, org, now)
	if err != nil {
		return done, err
	}
	return done, s.reprice(ctx, q, org, before, after, &done, now)
}

// correctable returns the noted rate that is to be corrected.
func (p Prices) correctable(c RateCorrection, now time.Time) (NotedRate, error) {
	for i, n := range p.noted {
		switch {
		case n.ID != c.ID:
		case n.From.IsZero():
			return n, fmt.Errorf("%w: %d holds since before anything was recorded", ErrNotedRate, c.ID)
		case c.From.After(now):
			return n, fmt.Errorf("%w: %s has not come yet", ErrNotedRate, c.From.UTC().Format(time.RFC3339))
		case i > 0 && !c.From.After(p.noted[i-1].From):
			return n, fmt.Errorf("%w: the one before holds since %s only", ErrNotedRate,
				p.noted[i-1].From.UTC().Format(time.RFC3339))
		case i+1 < len(p.noted) && !c.From.Before(p.noted[i+1].From):
			return n, fmt.Errorf("%w: the next one holds since %s", ErrNotedRate,
				p.noted[i+1].From.UTC().Format(time.RFC3339))
		default:
			return n, nil
		}
	}
	return NotedRate{}, fmt.Errorf("%w: there is no %d", ErrNotedRate, c.ID)
}

// pricedEntry is a generation of ours that is in the totals.
type pricedEntry struct {
	place
	id     string
	cost   Money
	tokens int64
	rate   Rate
	// requests is 0 for a charge without one.
	requests int64
}

// reprice prices anew what costs something else by the rates after a correction than by those before it.
func (s *Store) reprice(ctx context.Context, q querier, org Organisation, before, after Prices, done *Repriced,
	now time.Time) error {
	from, to := done.Was.From, done.Is.From
	if to.Before(from) {
		from, to = to, from
	}
	var days []Day
	for day := DayOf(from, before.zone); day <= DayOf(to, before.zone); day = day.Add(1) {
		days = append(days, day)
	}
	const unknown = `
		select count(*) from processed_generations p where client_org_id = ?1
			and substr(generation_date, 1, 10) in (select value from json_each(?2))
			and not exists (select 1 from usage_sync_generations g
				where g.client_org_id = ?1 and g.generation_date = substr(p.generation_date, 1, 10) and g.id = p.id)`
	if err := q.QueryRowContext(ctx, unknown, org.ID, jsonText(days)).Scan(&done.Unknown); err != nil {
		return err
	}
	entries, err := pricedEntries(ctx, q, org.ID, days)
	if err != nil {
		return err
	}
	k, err := s.openKeeper(ctx, q, org, now, days)
	if err != nil {
		return err
	}
	done.Days = map[Day]Money{}
	var rates [][]any
	for _, e := range entries {
		g := Generation{CreatedAt: e.created, Day: e.day, Cost: e.cost}
		paid, was, err := before.Of(g)
		if err != nil {
			return err
		}
		owed, is, err := after.Of(g)
		if err != nil {
			return err
		}
		if was == is || e.rate == is {
			continue
		}
		if e.rate != was { // priced otherwise before rates were noted
			if paid, err = e.rate.Markup(e.cost); err != nil {
				return err
			}
		}
		if err := k.days[e.day].enter(e.user, e.external, e.model, KindCounted, Totals{Cost: owed - paid}); err != nil {
			return err
		}
		done.Generations++
		done.Days[e.day] += owed - paid
		rates = append(rates, []any{e.id, e.day, is})
	}
	for _, day := range days {
		added, err := k.days[day].repriceRemainders(org, after)
		if err != nil {
			return err
		}
		if added != 0 {
			done.Days[day] += added
		}
	}
	const query = `
		update usage_sync_generations set markup_rate = (j.value->>2) / 1e9 from json_each(?1) j
		where client_org_id = ?2 and usage_sync_generations.generation_date = j.value->>1
			and usage_sync_generations.id = j.value->>0`
	if _, err := q.ExecContext(ctx, query, jsonText(rates), org.ID); err != nil {
		return err
	}
	return k.write(ctx, q, k.plan())
}

// selectPriced reads entries with what we have counted of them; of those that an earlier version has recorded
// the ledger alone knows it.
const selectPriced = `
	select g.id, g.generation_date, g.created_at, g.model_name, g.user_id, g.openrouter_user_id, g.markup_rate,
		iif(g.requests < 0, p.total_cost, g.raw / 1e12), iif(g.requests < 0, p.total_tokens, g.tokens),
		iif(g.requests < 0, 1, g.requests)
	from usage_sync_generations g join processed_generations p on p.id = g.id and p.client_org_id = g.client_org_id`

func pricedEntries(ctx context.Context, q querier, orgID string, days []Day) ([]pricedEntry, error) {
	const query = selectPriced + `
		where g.client_org_id = ? and g.generation_date in (select value from json_each(?)) and coalesce(g.adopted, 0) = 0`
	return collect(ctx, q, scanPriced, query, orgID, jsonText(days))
}

func scanPriced(scan func(...any) error) (e pricedEntry, err error) {
	var created int64
	var factor float64
	var cost any
	if err := scan(&e.id, &e.day, &created, &e.model, &e.user, &e.external, &factor, &cost,
		&e.tokens, &e.requests); err != nil {
		return e, err
	}
	e.created = time.Unix(created, 0)
	if e.rate, err = RateFromFloat(factor); err != nil {
		return e, dataErrorf("usage_sync_generations: %w", err)
	}
	if e.cost, err = MoneyFromFloat(number(cost)); err != nil {
		return e, dataErrorf("%s: generation %s: %w", ledger, e.id, err)
	}
	return e, nil
}

// repriceRemainders gives the remainders of a day the price of the day, and returns what that adds.
func (d *dayRecord) repriceRemainders(org Organisation, prices Prices) (added Money, err error) {
	for name, l := range d.lines[partModel] {
		held, there := l.kinds[KindRemainder]
		if !there || held.Raw == 0 {
			continue
		}
		cost, err := prices.OfDay(d.day, held.Raw)
		if err != nil {
			return added, err
		}
		if cost == held.Cost {
			continue
		}
		if err := d.remain(org, name, Totals{Cost: cost - held.Cost}); err != nil {
			return added, err
		}
		added += cost - held.Cost
	}
	return added, nil
}
