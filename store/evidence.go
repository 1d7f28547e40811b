package store

import (
	"context"
	"time"
)

// Evidence is a generation as its place tells of it.
type Evidence struct {
	ID        string
	CreatedAt time.Time
	Model     string
	UserID    string
	Totals
}

// EvidencePage is how many generations Evidence returns at most.
const EvidencePage = 1000

// Evidence returns what is still held, one by one, of the generations that were counted on a day: those whose
// ids come after one, in the order of their ids, and a page of them at a time, so that a day of a million fits
// into little memory.
func (s *Store) Evidence(ctx context.Context, orgID string, day Day, after string) (page []Evidence, err error) {
	const query = `
		select g.id, g.created_at, g.model_name, g.user_id, g.markup_rate, abs(g.requests),
			iif(g.requests < 0, coalesce(p.total_tokens, 0), g.tokens), coalesce(p.total_cost, 0), iif(g.requests < 0, null, g.raw)
		from usage_sync_generations g left join processed_generations p on p.id = g.id and p.client_org_id = g.client_org_id
		where g.client_org_id = ?1 and g.generation_date = ?2 and g.id > ?3 and coalesce(g.adopted, 0) = 0
		order by g.id limit ?4`
	err = s.read(ctx, func(q querier) (err error) {
		page, err = collect(ctx, q, func(scan func(...any) error) (e Evidence, err error) {
			var created int64
			var factor float64
			var ledger any
			var raw *int64
			err = scan(&e.ID, &created, &e.Model, &e.UserID, &factor, &e.Requests, &e.Tokens, &ledger, &raw)
			if err != nil {
				return e, err
			}
			e.CreatedAt = time.Unix(created, 0).UTC()
			rate, err := RateFromFloat(factor)
			if err != nil {
				return e, dataErrorf("usage_sync_generations: generation %s: %w", e.ID, err)
			}
			if raw != nil {
				e.Raw = Money(*raw)
			} else if e.Raw, err = MoneyFromFloat(number(ledger)); err != nil {
				return e, dataErrorf("processed_generations: generation %s: %w", e.ID, err)
			}
			e.Cost, err = rate.Markup(e.Raw)
			return e, err
		}, query, orgID, day, after, EvidencePage)
		return err
	})
	return page, err
}

// Uncounted returns what a day holds beside the generations that were counted, by how it came to be known.
func (s *Store) Uncounted(ctx context.Context, orgID string, day Day) (byKind map[Kind]Totals, err error) {
	err = s.read(ctx, func(q querier) error {
		byKind = map[Kind]Totals{}
		records, err := readRecord(ctx, q, orgID, []Day{day})
		if d := records[day]; d != nil {
			for kind, t := range d.line(partDay, "").kinds {
				if kind.billed() && kind != KindCounted && !t.IsZero() {
					byKind[kind] = t
				}
			}
		}
		return err
	})
	return byKind, err
}
