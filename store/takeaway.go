package store

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// sourceRemoved is the source of an entry that was taken away. Nothing is counted of it, and a delivery of it
// is known; a pass that lists it counts it after all, for whichever organisation.
const sourceRemoved = "removed"

// removed tells whether an entry was taken away.
func (k known) removed() bool { return k.source == sourceRemoved }

// TakeAway takes delivered generations of an organisation away.
type TakeAway struct {
	Organisation Organisation
	Now          time.Time
	Reasons      map[string]string // by id: why, for the history
	Record       Batch             // is recorded in their place; without generations there is nothing to record
}

// TakenAway is a generation that was taken away, and what it had added to the totals.
type TakenAway struct {
	ID, Model string
	Day       Day
	Totals
}

// TakeAwayDelivered takes generations away that came by delivery and that no source has listed: their requests,
// tokens and cost. What is to be recorded in their place is, in the same transaction. Others than delivered
// ones are left alone. Each is noted in the history, and its gap is closed.
func (s *Store) TakeAwayDelivered(ctx context.Context, t TakeAway) (taken []TakenAway, recorded Recorded, err error) {
	err = s.write(ctx, func(q querier) (err error) {
		taken, recorded, err = s.takeAway(ctx, q, t)
		return err
	})
	return taken, recorded, err
}

// delivered reads those of some generations that were delivered and never listed.
func delivered(ctx context.Context, q querier, orgID string, ids []string) (entries []pricedEntry, err error) {
	const query = selectPriced + `
		where p.id in (select value from json_each(?)) and g.client_org_id = ? and g.source = '` + SourceWebhook + `'
			and coalesce(g.adopted, 0) = 0`
	return collect(ctx, q, scanPriced, query, jsonText(append([]string{}, ids...)), orgID)
}

func (s *Store) takeAway(ctx context.Context, q querier, t TakeAway) (taken []TakenAway, recorded Recorded, err error) {
	org := t.Organisation
	entries, err := delivered(ctx, q, org.ID, sortedKeys(t.Reasons))
	if err != nil {
		return nil, recorded, err
	}
	if recorded.Rate, err = s.noteRate(ctx, q, org, t.Now, nil); err != nil {
		return nil, recorded, err
	}
	change := recorded.Rate
	if recorded, err = s.compare(ctx, q, t.Record); err != nil {
		return nil, recorded, err
	}
	recorded.Rate = change
	entered := slices.Concat(recorded.Entries, recorded.refined)
	days := t.Record.days(entered)
	for _, e := range entries {
		days = append(days, e.day)
	}
	slices.Sort(days)
	k, err := s.openKeeper(ctx, q, org, t.Now, slices.Compact(days))
	if err != nil {
		return nil, recorded, err
	}
	for _, e := range entries {
		one, err := k.takeAway(e)
		if err != nil {
			return nil, recorded, err
		}
		taken = append(taken, one)
	}
	if err := markRemoved(ctx, q, org.ID, entries); err != nil {
		return nil, recorded, err
	}
	if err := enterLedger(ctx, q, ledgerChanges(t.Record, entered)); err != nil {
		return nil, recorded, err
	}
	if err := addToHours(ctx, q, t.Record, recorded.Entries); err != nil {
		return nil, recorded, err
	}
	if err := k.count(t.Record, recorded.Entries); err != nil {
		return nil, recorded, err
	}
	if err := k.keepSquare(ctx, q, t.Record, entered); err != nil {
		return nil, recorded, err
	}
	for _, e := range entries {
		k.days[e.day].setSquared(0)
	}
	recorded.Found = k.found
	if err := k.write(ctx, q, k.plan()); err != nil {
		return nil, recorded, err
	}
	return taken, recorded, noteTakenAway(ctx, q, t, taken)
}

// takeAway takes what an entry has added out of the record of its day.
func (k *keeper) takeAway(e pricedEntry) (TakenAway, error) {
	cost, err := e.rate.Markup(e.cost)
	if err != nil {
		return TakenAway{}, fmt.Errorf("generation %s: %w", e.id, err)
	}
	t := Totals{Requests: e.requests, Tokens: e.tokens, Raw: e.cost, Cost: cost}
	err = k.days[e.day].enter(e.user, e.external, e.model, KindCounted, Totals{}.Sub(t))
	return TakenAway{ID: e.id, Model: e.model, Day: e.day, Totals: t}, err
}

// markRemoved keeps the ids of entries known, of which nothing is counted any more.
func markRemoved(ctx context.Context, q querier, orgID string, entries []pricedEntry) error {
	var rows [][]any
	for _, e := range entries {
		rows = append(rows, []any{e.id, e.day, e.created.Truncate(time.Hour).Unix(), e.cost, e.requests})
	}
	for _, query := range []string{
		`update processed_generations set total_cost = 0, total_tokens = 0
			where client_org_id = ?2 and id in (select value->>0 from json_each(?1))`,
		`update usage_sync_generations set source = '` + sourceRemoved + `', adopted = 1, resolution = 0,
				requests = 0, tokens = 0, raw = 0
			where client_org_id = ?2 and (generation_date, id) in (select value->>1, value->>0 from json_each(?1))`,
		`update usage_sync_hours set requests = usage_sync_hours.requests - j.requests,
				raw_cost = usage_sync_hours.raw_cost - j.cost
			from (select value->>2 as hour, sum(value->>4) as requests, sum(value->>3) as cost from json_each(?1) group by 1) j
			where client_org_id = ?2 and usage_sync_hours.hour = j.hour`,
	} {
		if _, err := q.ExecContext(ctx, query, jsonText(append([][]any{}, rows...)), orgID); err != nil {
			return err
		}
	}
	return nil
}

// noteTakenAway writes each generation into the history, and closes its gap.
func noteTakenAway(ctx context.Context, q querier, t TakeAway, taken []TakenAway) error {
	open, err := readGaps(ctx, q, GapFilter{Organisations: []string{t.Organisation.ID}, Kind: GapDelivery, Open: true})
	if err != nil {
		return err
	}
	for _, one := range taken {
		why := t.Reasons[one.ID]
		run := Run{StartedAt: t.Now, EndedAt: t.Now, OrganisationID: t.Organisation.ID,
			Organisation: t.Organisation.Name, Source: SourceReconcile, Updated: 1, Tokens: -one.Tokens,
			Raw: -one.Raw, Markup: -one.Cost,
			Note: fmt.Sprintf("taken away: %s of %s: %s", one.ID, one.Day, why)}
		if err := insertRun(ctx, q, run); err != nil {
			return err
		}
		for _, g := range open {
			if g.Subject != one.ID {
				continue
			}
			g.ClosedAt, g.Note = t.Now, why
			if err := updateGap(ctx, q, g); err != nil {
				return err
			}
		}
	}
	return nil
}

// Delivered is a generation that was delivered and that no source has listed.
type Delivered struct {
	ID, Model string
	CreatedAt time.Time
	Tokens    int64
	Cost      Money // raw
}

// Unlisted returns the generations created from one time up to another that were delivered, and that no source
// has listed.
func (s *Store) Unlisted(ctx context.Context, orgID string, from, to time.Time) (all []Delivered, err error) {
	// The key starts with organisation and day, and no calendar is more than a day off from that of UTC.
	const query = selectPriced + `
		where g.client_org_id = ?1 and g.generation_date between date(?2, 'unixepoch', '-1 day') and date(?3, 'unixepoch', '+1 day')
			and g.created_at >= ?2 and g.created_at < ?3 and g.source = '` + SourceWebhook + `' and coalesce(g.adopted, 0) = 0
		order by g.created_at, g.id`
	err = s.read(ctx, func(q querier) error {
		all = nil
		entries, err := collect(ctx, q, scanPriced, query, orgID, from.Unix(), to.Unix())
		for _, e := range entries {
			all = append(all, Delivered{e.id, e.model, e.created, e.tokens, e.cost})
		}
		return err
	})
	return all, err
}

// CloseListedDeliveries closes the gaps of deliveries that a source has listed since.
func (s *Store) CloseListedDeliveries(ctx context.Context, orgID string, now time.Time) error {
	var listed []Gap
	find := func(q querier) error {
		listed = nil
		open, err := readGaps(ctx, q, GapFilter{Organisations: []string{orgID}, Kind: GapDelivery, Open: true})
		if err != nil || len(open) == 0 {
			return err
		}
		var ids []string
		for _, g := range open {
			ids = append(ids, g.Subject)
		}
		const query = `
			select g.id from processed_generations p join usage_sync_generations g
				on g.client_org_id = p.client_org_id and g.generation_date = substr(p.generation_date, 1, 10) and g.id = p.id
			where p.id in (select value from json_each(?1)) and p.client_org_id = ?2 and g.source <> '` + SourceWebhook + `'`
		known, err := collect(ctx, q, func(scan func(...any) error) (id string, err error) {
			return id,
				scan(&id)
		}, query, jsonText(ids), orgID)
		for _, g := range open {
			if slices.Contains(known, g.Subject) {
				listed = append(listed, g)
			}
		}
		return err
	}
	if err := s.read(ctx, find); err != nil || len(listed) == 0 {
		return err
	}
	return s.write(ctx, func(q querier) error {
		if err := find(q); err != nil {
			return err
		}
		for _, g := range listed {
			g.ClosedAt, g.Note = now, "listed"
			if err := updateGap(ctx, q, g); err != nil {
				return err
			}
		}
		return nil
	})
}

// HasDeliveries tells whether usage was delivered, as far back as the history reaches.
func (s *Store) HasDeliveries(ctx context.Context) (met bool, err error) {
	err = s.read(ctx, func(q querier) error {
		const query = `select exists (select 1 from usage_sync_runs where source = '` + SourceWebhook + `')`
		return q.QueryRowContext(ctx, query).Scan(&met)
	})
	return met, err
}
