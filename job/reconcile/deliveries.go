package reconcile

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"usage-sync/job"
	"usage-sync/job/openrouter"
	"usage-sync/store"
)

// delivery is an entry that came by delivery and that OpenRouter does not list.
type delivery struct {
	entry store.LedgerEntry
	// like is the listed generation that it resembles, which is the same one under another id; nil is none. The
	// entry may be of another key then.
	like *store.Generation
}

// why says why a delivery is taken away.
func (d delivery) why() string {
	if d.like != nil {
		return "moved to " + d.like.ID + ", the id under which OpenRouter lists it"
	}
	return "it came by delivery, and belongs to none of the organisation's keys"
}

// judgeDelivery finds out what an entry is that OpenRouter does not list.
func (w *reconciling) judgeDelivery(f *findings, e store.LedgerEntry, example Example, listed listing) {
	d := delivery{entry: e}
	example.Elsewhere = "like nothing that OpenRouter lists"
	for _, id := range slices.Sorted(maps.Keys(listed.generations)) {
		if g := listed.generations[id]; !f.alike[id] && resembles(e, g) {
			f.alike[id], d.like = true, &g
			example.Elsewhere = "like " + id
			break
		}
	}
	f.deliveries = append(f.deliveries, d)
	f.add(e.Day, CauseDelivery, example.Ours, example)
}

// resembles tells whether an entry can be a listed generation: of the same second, model and tokens, and of the
// same cost as far as both are known.
func resembles(e store.LedgerEntry, g store.Generation) bool {
	const apart = 2 * time.Second // seen: 1.5 s between an id and its time
	off := secondOf(e.ID, e.CreatedAt).Sub(secondOf(g.ID, g.CreatedAt))
	return off <= apart && off >= -apart && e.Model == store.ModelName(g.Model) && e.Holds(g)
}

// secondOf is when a generation was made, by its id as far as that tells.
func secondOf(id string, created time.Time) time.Time {
	if at, ok := openrouter.IDTime(id); ok {
		return at
	}
	return created
}

// moveDeliveries takes deliveries away that are listed under another id, and counts that one; with RemoveExtra
// also those that belong to none of the organisation's keys. What was moved is recorded in the same
// transaction.
func (w *reconciling) moveDeliveries(ctx context.Context, f *findings, fixed *Fixed) error {
	byDay := map[store.Day][]delivery{}
	for _, d := range f.deliveries {
		if d.like != nil || w.RemoveExtra {
			byDay[d.entry.Day] = append(byDay[d.entry.Day], d)
		}
	}
	take := store.TakeAway{Organisation: w.org, Now: w.now, Reasons: map[string]string{},
		Record: store.Batch{Organisation: w.org, Source: f.source, Now: w.now}}
	for _, day := range slices.Sorted(maps.Keys(byDay)) {
		if f.excess[day] {
			fixed.Left = append(fixed.Left, day)
			continue
		}
		for _, d := range byDay[day] {
			take.Reasons[d.entry.ID] = d.why()
			if d.like != nil {
				take.Record.Generations = append(take.Record.Generations, *d.like)
			}
		}
	}
	if len(take.Reasons) == 0 {
		return nil
	}
	taken, done, err := w.Store.TakeAwayDelivered(ctx, take)
	if err != nil {
		return err
	}
	job.LogRate(w.Log, w.org, done.Rate)
	run := store.Run{StartedAt: w.now, EndedAt: w.Now(), OrganisationID: w.org.ID, Organisation: w.org.Name,
		Source: store.SourceReconcile, Note: "reconcile --fix"}
	accountFor(&run, done)
	fixed.add(run)
	for _, one := range taken {
		w.Log.Warn(fmt.Sprintf("%s: %s of %s is taken away ($%s): %s", w.org.Name, one.ID, one.Day, exactly(one.Cost),
			take.Reasons[one.ID]))
		fixed.Taken++
		fixed.TakenAway = fixed.TakenAway.Add(one.Totals)
	}
	if run.Recorded+run.Updated > 0 {
		w.remember(ctx, run)
	}
	return nil
}

// extra are the deliveries that --remove-extra takes away.
func (f *findings) extra() (all []store.LedgerEntry) {
	for _, d := range f.deliveries {
		if d.like == nil {
			all = append(all, d.entry)
		}
	}
	return all
}
