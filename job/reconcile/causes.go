package reconcile

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"usage-sync/job"
	"usage-sync/job/openrouter"
	"usage-sync/store"
)

// CauseKind is why a day differs.
type CauseKind string

const (
	CauseMissing  CauseKind = "missing"  // OpenRouter lists it, the ledger does not hold it
	CauseExtra    CauseKind = "extra"    // the ledger holds it, OpenRouter does not list it
	CauseDelivery CauseKind = "delivery" // it was delivered, and OpenRouter does not list it under that id
	CauseChanged  CauseKind = "changed"  // other tokens or another cost in the ledger than OpenRouter lists
	CauseManual   CauseKind = "manual"   // recorded by hand
	CauseDay      CauseKind = "day"      // in the ledger under another day
	CauseModel    CauseKind = "model"    // in the ledger under another model
	CauseForeign  CauseKind = "foreign"  // in the ledger under another organisation
	CauseRefused  CauseKind = "refused"  // OpenRouter's row can't be trusted
	CauseRecorded CauseKind = "recorded" // by the application itself, so that OpenRouter and the ledger do not know it
	CauseTables   CauseKind = "tables"   // the tables do not add up to the ledger
	CauseUnknown  CauseKind = "unknown"  // ledger and tables are what OpenRouter lists, and still its total is another
)

// Cause is one reason why a day differs.
type Cause struct {
	Day      store.Day
	Kind     CauseKind
	Count    int          // generations, or tables that do not add up
	Effect   store.Totals // what it adds to ours without theirs
	Examples []Example
}

// Example is one generation, or one table.
type Example struct {
	ID           string // or the table's name
	Model        string
	Ours, Theirs store.Totals // of a table: what it holds, and what the ledger does
	Elsewhere    string       // the other day, model or organisation of the ledger, or why a row is refused
}

// mostExamples bounds those of one cause.
const mostExamples = 5

// findings is what there is to know of the days that differ.
type findings struct {
	source string                           // its name
	causes []Cause                          // by day
	mend   map[store.Day][]store.Generation // missing in the ledger, or changed
	excess map[store.Day]bool               // tables hold usage that the ledger does not know
	// deliveries are entries that came by delivery and that OpenRouter does not list; alike are the listed ids
	// that they resemble.
	deliveries []delivery
	alike      map[string]bool
	tools      map[store.Day]int64 // how many entries of the ledger are no request
}

// add notes a generation under a day and kind.
func (f *findings) add(day store.Day, kind CauseKind, effect store.Totals, e Example) {
	i := slices.IndexFunc(f.causes, func(c Cause) bool { return c.Day == day && c.Kind == kind })
	if i < 0 {
		f.causes = append(f.causes, Cause{Day: day, Kind: kind})
		i = len(f.causes) - 1
	}
	c := &f.causes[i]
	c.Count++
	c.Effect = c.Effect.Add(effect)
	if len(c.Examples) < mostExamples || kind == CauseDelivery {
		c.Examples = append(c.Examples, e)
	}
}

// listing is what a source lists of the days that differ.
type listing struct {
	generations map[string]store.Generation
	refused     []openrouter.Refusal
	asOf        time.Time // generations made later may be missing; zero: none is
}

// investigate holds the ledger of the days that differ against what OpenRouter lists, and the tables against
// the ledger.
func (w *reconciling) investigate(ctx context.Context, suspects []store.Day) (*findings, error) {
	f := &findings{mend: map[store.Day][]store.Generation{}, excess: map[store.Day]bool{}, tools: map[store.Day]int64{},
		alike: map[string]bool{}}
	listed, err := w.list(ctx, suspects, f)
	if err != nil {
		return nil, err
	}
	entries := map[string]store.LedgerEntry{}
	for _, day := range suspects {
		ofDay, err := w.Store.LedgerOfDay(ctx, w.org.ID, day)
		if err != nil {
			return nil, err
		}
		for _, e := range ofDay {
			entries[e.ID] = e
		}
	}
	if err := w.addOthers(ctx, entries, listed); err != nil {
		return nil, err
	}
	for _, id := range slices.Sorted(maps.Keys(listed.generations)) {
		w.judge(f, suspects, listed.generations[id], entries)
	}
	for _, id := range slices.Sorted(maps.Keys(entries)) {
		w.judgeEntry(f, suspects, entries[id], listed)
	}
	for _, refused := range listed.refused {
		day := store.DayOf(refused.CreatedAt, w.org.Zone)
		if _, suspect := slices.BinarySearch(suspects, day); suspect {
			f.add(day, CauseRefused, store.Totals{}, Example{ID: refused.ID, Elsewhere: refused.Reason})
		}
	}
	if err := w.judgeTables(ctx, f, suspects); err != nil {
		return nil, err
	}
	for _, day := range suspects {
		if !slices.ContainsFunc(f.causes, func(c Cause) bool { return c.Day == day }) {
			f.causes = append(f.causes, Cause{Day: day, Kind: CauseUnknown})
		}
	}
	slices.SortStableFunc(f.causes, func(a, b Cause) int { return cmp.Compare(a.Day, b.Day) })
	return f, nil
}

// list asks the source that a pass would use for the generations from the first to the last day that differs.
func (w *reconciling) list(ctx context.Context, suspects []store.Day, f *findings) (listed listing, err error) {
	listed.generations = map[string]store.Generation{}
	first, last := suspects[0], suspects[len(suspects)-1]
	// Whole hours: half of one may be left out by its start.
	until := last.Add(1).Start(w.org.Zone).Add(time.Hour - time.Nanosecond).Truncate(time.Hour)
	if soon := w.now.Add(time.Second); soon.Before(until) {
		until = soon
	}
	isSuspect := func(day store.Day) bool { _, in := slices.BinarySearch(suspects, day); return in }
	fetched, err := w.Sources.Fetch(ctx, w.Store, job.Request{
		Organisation: w.org, Window: openrouter.Window{Since: first.Start(w.org.Zone), Until: until}, Now: w.now,
		Page: func(_ string, page openrouter.Page) error {
			for _, g := range page.Generations {
				g.Day = store.DayOf(g.CreatedAt, w.org.Zone)
				if slices.ContainsFunc(w.daysOf(g), isSuspect) {
					listed.generations[g.ID] = g
				}
			}
			listed.refused = append(listed.refused, page.Refused...)
			if !page.AsOf.IsZero() && (listed.asOf.IsZero() || page.AsOf.Before(listed.asOf)) {
				listed.asOf = page.AsOf
			}
			return nil
		},
	})
	f.source = fetched.Source
	w.requests += fetched.Traffic.Requests()
	return listed, err
}

// daysOf are the days on which a generation may be: the analytics know the hour alone of what is in the ledger.
func (w *reconciling) daysOf(g store.Generation) []store.Day {
	hour := g.CreatedAt.Truncate(time.Hour)
	return slices.Compact([]store.Day{store.DayOf(hour, w.org.Zone), g.Day,
		store.DayOf(hour.Add(time.Hour-time.Nanosecond), w.org.Zone)})
}

// addOthers adds those entries of listed generations that stand under other days or organisations.
func (w *reconciling) addOthers(ctx context.Context, entries map[string]store.LedgerEntry, listed listing) error {
	var others []string
	for id := range listed.generations {
		if _, there := entries[id]; !there {
			others = append(others, id)
		}
	}
	for ids := range slices.Chunk(others, job.BatchSize) {
		found, err := w.Store.LedgerOf(ctx, ids)
		if err != nil {
			return err
		}
		for _, e := range found {
			entries[e.ID] = e
		}
	}
	return nil
}

// judge holds a listed generation against the ledger.
func (w *reconciling) judge(f *findings, suspects []store.Day, g store.Generation,
	entries map[string]store.LedgerEntry) {
	suspect := func(day store.Day) bool { _, in := slices.BinarySearch(suspects, day); return in }
	theirs := store.Totals{Requests: 1, Tokens: g.Tokens, Raw: g.Cost}
	example := Example{ID: g.ID, Model: cmp.Or(g.Model, unknownModel), Theirs: theirs}
	e, there := entries[g.ID]
	example.Ours = store.Totals{Requests: 1, Tokens: e.Tokens, Raw: e.Cost}
	if g.NoRequest {
		theirs.Requests, example.Theirs.Requests, example.Ours.Requests = 0, 0, 0
	}
	switch {
	case !there:
		if example.Ours = (store.Totals{}); suspect(g.Day) {
			f.add(g.Day, CauseMissing, store.Totals{}.Sub(theirs), example)
			f.mend[g.Day] = append(f.mend[g.Day], g)
		}
		return
	case e.Organisation != w.org.ID:
		if example.Elsewhere = e.Organisation; suspect(g.Day) {
			f.add(g.Day, CauseForeign, store.Totals{}.Sub(theirs), example)
		}
		return
	}
	if !slices.Contains(w.daysOf(g), e.Day) && suspect(g.Day) {
		example.Elsewhere = string(e.Day)
		f.add(g.Day, CauseDay, store.Totals{}.Sub(theirs), example)
	}
	if !suspect(e.Day) {
		return
	}
	if g.NoRequest {
		f.tools[e.Day]++
	}
	if !slices.Contains(w.daysOf(g), e.Day) {
		example.Elsewhere = string(g.Day)
		f.add(e.Day, CauseDay, example.Ours, example)
	}
	if !e.Holds(g) {
		f.add(e.Day, CauseChanged, example.Ours.Sub(theirs), example)
		f.mend[e.Day] = append(f.mend[e.Day], g)
	}
	// The analytics may show a name for people, or none, of what is in the ledger.
	if openrouter.IsSlug(g.Model) && e.Model != "" && e.Model != g.Model {
		example.Elsewhere = e.Model
		f.add(e.Day, CauseModel, store.Totals{}, example)
	}
}

// judgeEntry names entries that OpenRouter does not list.
func (w *reconciling) judgeEntry(f *findings, suspects []store.Day, e store.LedgerEntry, listed listing) {
	if _, in := slices.BinarySearch(suspects, e.Day); !in || e.Organisation != w.org.ID {
		return
	}
	ours := store.Totals{Requests: 1, Tokens: e.Tokens, Raw: e.Cost}
	example := Example{ID: e.ID, Model: e.Model, Ours: ours}
	if e.Manual() {
		f.add(e.Day, CauseManual, ours, example)
		return
	}
	_, there := listed.generations[e.ID]
	refused := slices.ContainsFunc(listed.refused, func(r openrouter.Refusal) bool { return r.ID == e.ID })
	made := e.CreatedAt
	if made.IsZero() {
		made = e.Day.Add(1).Start(w.org.Zone)
	}
	tooYoung := !listed.asOf.IsZero() && !made.Before(listed.asOf)
	switch {
	case there || refused || tooYoung:
	case e.Source == store.SourceWebhook && made.Before(w.now.Add(-job.ListedWithin)):
		w.judgeDelivery(f, e, example, listed)
	default:
		f.add(e.Day, CauseExtra, ours, example)
	}
}

// judgeTables holds the tables against the ledger. A correction is an entry of the ledger, but no request, and
// so is a charge without one.
func (w *reconciling) judgeTables(ctx context.Context, f *findings, suspects []store.Day) error {
	books, err := w.Store.Books(ctx, w.org.ID, suspects[0], suspects[len(suspects)-1])
	if err != nil {
		return err
	}
	for _, day := range suspects {
		b := books[day]
		ledger := b.Ledger.Add(b.Foreign)
		if !b.Foreign.IsZero() {
			f.add(day, CauseRecorded, b.Foreign, Example{ID: "usage_sync_days", Ours: b.Foreign})
		}
		noRequests := f.tools[day]
		for _, c := range f.causes {
			if c.Day == day && c.Kind == CauseManual {
				noRequests += int64(c.Count)
			}
		}
		var models store.Totals
		for _, totals := range b.Models {
			models = models.Add(totals)
		}
		for _, table := range []struct {
			name string
			held store.Totals
		}{{"client_model_daily_usage", models}, {"client_user_daily_usage", b.Users}, {"client_daily_usage", b.Day}} {
			over := table.held.Sub(ledger).Sub(b.Remainder)
			if over.Requests < 0 {
				over.Requests = min(0, over.Requests+noRequests)
			}
			tolerance := w.Tolerance * store.Money(max(1, len(b.Models)))
			if negligible(over, tolerance) {
				continue
			}
			f.add(day, CauseTables, store.Totals{}, Example{ID: table.name, Ours: table.held, Theirs: ledger})
			if over.Requests > 0 || over.Tokens > 0 || over.Raw > tolerance {
				f.excess[day] = true
			}
		}
	}
	return nil
}
