package job

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"usage-sync/job/openrouter"
	"usage-sync/store"
)

// CauseKind is why a day differs.
type CauseKind string

const (
	CauseMissing CauseKind = "missing" // OpenRouter lists it, the ledger does not hold it
	CauseExtra   CauseKind = "extra"   // the ledger holds it, OpenRouter does not list it
	CauseChanged CauseKind = "changed" // other tokens or another cost in the ledger than OpenRouter lists
	CauseManual  CauseKind = "manual"  // recorded by hand
	CauseDay     CauseKind = "day"     // in the ledger under another day
	CauseModel   CauseKind = "model"   // in the ledger under another model
	CauseForeign CauseKind = "foreign" // in the ledger under another organisation
	CauseRefused CauseKind = "refused" // OpenRouter's row can't be trusted
	CauseTables  CauseKind = "tables"  // the tables do not add up to the ledger
	CauseUnknown CauseKind = "unknown" // ledger and tables are what OpenRouter lists, and still its total is another
)

// Cause is one reason why a day differs.
type Cause struct {
	Day      store.Day
	Kind     CauseKind
	Count    int    // generations, or tables that do not add up
	Effect   Amount // what it adds to ours without theirs
	Examples []Example
}

// Example is one generation, or one table.
type Example struct {
	ID           string // or the table's name
	Model        string
	Ours, Theirs Amount // of a table: what it holds, and what the ledger does
	Elsewhere    string // the other day, model or organisation of the ledger, or why a row is refused
}

// mostExamples bounds those of one cause.
const mostExamples = 5

// findings is what there is to know of the days that differ.
type findings struct {
	source string                           // its name
	causes []Cause                          // by day
	mend   map[store.Day][]store.Generation // missing in the ledger, or changed
	excess map[store.Day]bool               // tables hold usage that the ledger does not know
}

// add notes a generation under a day and kind.
func (f *findings) add(day store.Day, kind CauseKind, effect Amount, e Example) {
	i := slices.IndexFunc(f.causes, func(c Cause) bool { return c.Day == day && c.Kind == kind })
	if i < 0 {
		f.causes = append(f.causes, Cause{Day: day, Kind: kind})
		i = len(f.causes) - 1
	}
	c := &f.causes[i]
	c.Count++
	c.Effect = c.Effect.plus(effect)
	if len(c.Examples) < mostExamples {
		c.Examples = append(c.Examples, e)
	}
}

// listing is what a source lists of the days that differ.
type listing struct {
	generations map[string]store.Generation
	refused     []openrouter.Refusal
	asOf        time.Time // generations made later may be missing; zero: none is
}

// investigate holds the ledger of the days that differ against what OpenRouter lists, and the tables against the ledger.
func (w *reconciling) investigate(suspects []store.Day) (*findings, error) {
	f := &findings{mend: map[store.Day][]store.Generation{}, excess: map[store.Day]bool{}}
	listed, err := w.list(suspects, f)
	if err != nil {
		return nil, err
	}
	entries := map[string]store.LedgerEntry{}
	for _, day := range suspects {
		ofDay, err := w.Store.LedgerOfDay(w.ctx, w.org.ID, day)
		if err != nil {
			return nil, err
		}
		for _, e := range ofDay {
			entries[e.ID] = e
		}
	}
	if err := w.addOthers(entries, listed); err != nil {
		return nil, err
	}
	for _, id := range sortedKeys(listed.generations) {
		w.judge(f, suspects, listed.generations[id], entries)
	}
	for _, id := range sortedKeys(entries) {
		w.judgeEntry(f, suspects, entries[id], listed)
	}
	for _, refused := range listed.refused {
		day := store.DayOf(refused.CreatedAt, w.org.Zone)
		if _, suspect := slices.BinarySearch(suspects, day); suspect {
			f.add(day, CauseRefused, Amount{}, Example{ID: refused.ID, Elsewhere: refused.Reason})
		}
	}
	if err := w.judgeTables(f, suspects); err != nil {
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
func (w *reconciling) list(suspects []store.Day, f *findings) (listed listing, err error) {
	listed.generations = map[string]store.Generation{}
	first, last := suspects[0], suspects[len(suspects)-1]
	window := openrouter.Window{
		Since: first.Start(w.org.Zone),
		// Whole hours: half of one may be left out by its start.
		Until: earlier(last.Add(1).Start(w.org.Zone).Add(time.Hour-time.Nanosecond).Truncate(time.Hour), w.now.Add(time.Second)),
	}
	fetched, err := w.Sources.Fetch(w.ctx, w.Store, Request{Organisation: w.org, Window: window, Now: w.now, Page: func(_ string, page openrouter.Page) error {
		for _, g := range page.Generations {
			g.Day = store.DayOf(g.CreatedAt, w.org.Zone)
			if slices.ContainsFunc(w.daysOf(g), func(day store.Day) bool { _, in := slices.BinarySearch(suspects, day); return in }) {
				listed.generations[g.ID] = g
			}
		}
		listed.refused = append(listed.refused, page.Refused...)
		if !page.AsOf.IsZero() && (listed.asOf.IsZero() || page.AsOf.Before(listed.asOf)) {
			listed.asOf = page.AsOf
		}
		return nil
	}})
	f.source = fetched.Source
	w.requests += fetched.Traffic.Requests()
	return listed, err
}

// daysOf are the days on which a generation may be: the analytics know the hour alone of what is in the ledger.
func (w *reconciling) daysOf(g store.Generation) []store.Day {
	hour := g.CreatedAt.Truncate(time.Hour)
	return slices.Compact([]store.Day{store.DayOf(hour, w.org.Zone), g.Day, store.DayOf(hour.Add(time.Hour-time.Nanosecond), w.org.Zone)})
}

// addOthers adds those entries of listed generations that stand under other days or organisations.
func (w *reconciling) addOthers(entries map[string]store.LedgerEntry, listed listing) error {
	var others []string
	for id := range listed.generations {
		if _, there := entries[id]; !there {
			others = append(others, id)
		}
	}
	for ids := range slices.Chunk(others, batchSize) {
		found, err := w.Store.LedgerOf(w.ctx, ids)
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
func (w *reconciling) judge(f *findings, suspects []store.Day, g store.Generation, entries map[string]store.LedgerEntry) {
	suspect := func(day store.Day) bool { _, in := slices.BinarySearch(suspects, day); return in }
	theirs := Amount{1, g.Tokens, g.Cost}
	example := Example{ID: g.ID, Model: cmp.Or(g.Model, unknownModel), Theirs: theirs}
	e, there := entries[g.ID]
	example.Ours = Amount{1, e.Tokens, e.Cost}
	switch {
	case !there:
		if example.Ours = (Amount{}); suspect(g.Day) {
			f.add(g.Day, CauseMissing, Amount{}.minus(theirs), example)
			f.mend[g.Day] = append(f.mend[g.Day], g)
		}
		return
	case e.Organisation != w.org.ID:
		if example.Elsewhere = e.Organisation; suspect(g.Day) {
			f.add(g.Day, CauseForeign, Amount{}.minus(theirs), example)
		}
		return
	}
	if !slices.Contains(w.daysOf(g), e.Day) && suspect(g.Day) {
		example.Elsewhere = string(e.Day)
		f.add(g.Day, CauseDay, Amount{}.minus(theirs), example)
	}
	if !suspect(e.Day) {
		return
	}
	if !slices.Contains(w.daysOf(g), e.Day) {
		example.Elsewhere = string(g.Day)
		f.add(e.Day, CauseDay, example.Ours, example)
	}
	if !e.Holds(g) {
		f.add(e.Day, CauseChanged, example.Ours.minus(theirs), example)
		f.mend[e.Day] = append(f.mend[e.Day], g)
	}
	// The analytics may show a name for people, or none, of what is in the ledger.
	if openrouter.IsSlug(g.Model) && e.Model != "" && e.Model != g.Model {
		example.Elsewhere = e.Model
		f.add(e.Day, CauseModel, Amount{}, example)
	}
}

// judgeEntry names entries that OpenRouter does not list.
func (w *reconciling) judgeEntry(f *findings, suspects []store.Day, e store.LedgerEntry, listed listing) {
	if _, in := slices.BinarySearch(suspects, e.Day); !in || e.Organisation != w.org.ID {
		return
	}
	ours := Amount{1, e.Tokens, e.Cost}
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
	if tooYoung := !listed.asOf.IsZero() && !made.Before(listed.asOf); !there && !refused && !tooYoung {
		f.add(e.Day, CauseExtra, ours, example)
	}
}

// judgeTables holds the tables against the ledger. A correction is an entry of the ledger, but no request.
func (w *reconciling) judgeTables(f *findings, suspects []store.Day) error {
	books, err := w.Store.Books(w.ctx, w.org.ID, suspects[0], suspects[len(suspects)-1])
	if err != nil {
		return err
	}
	for _, day := range suspects {
		b := books[day]
		ledger := amountOf(b.Ledger)
		byHand := int64(0)
		for _, c := range f.causes {
			if c.Day == day && c.Kind == CauseManual {
				byHand = int64(c.Count)
			}
		}
		var models Amount
		for _, totals := range b.Models {
			models = models.plus(amountOf(totals))
		}
		for _, table := range []struct {
			name string
			held Amount
		}{{"client_model_daily_usage", models}, {"client_user_daily_usage", amountOf(b.Users)}, {"client_daily_usage", amountOf(b.Day)}} {
			over := table.held.minus(ledger)
			if over.Requests < 0 {
				over.Requests = min(0, over.Requests+byHand)
			}
			tolerance := w.Tolerance * store.Money(max(1, len(b.Models)))
			if over.isNothing(tolerance) {
				continue
			}
			f.add(day, CauseTables, Amount{}, Example{ID: table.name, Ours: table.held, Theirs: ledger})
			if over.Requests > 0 || over.Tokens > 0 || over.Raw > tolerance {
				f.excess[day] = true
			}
		}
	}
	return nil
}

// Fixed is what --fix has recorded.
type Fixed struct {
	Recorded int64 // new to the ledger
	Settled  int64 // known, with another cost or token count
	Tokens   int64
	Raw      store.Money
	Markup   store.Money
	Left     []store.Day // left alone: the tables hold usage there that the ledger does not know
}

// fix records what is missing and settles what has changed, as a pass would. Days are left alone where the tables hold
// usage that the ledger does not know: what OpenRouter lists may be in it already.
func (w *reconciling) fix(f *findings) (*Fixed, error) {
	fixed := &Fixed{}
	days := sortedKeys(f.mend)
	if len(days) == 0 {
		return fixed, nil
	}
	if err := w.refuseTakeover(days); err != nil {
		return nil, err
	}
	run := store.Run{StartedAt: w.now, OrganisationID: w.org.ID, Organisation: w.org.Name, Source: store.SourceReconcile,
		WindowStart: days[0].Start(w.org.Zone), WindowEnd: w.now, Note: "reconcile --fix"}
	var err error
	for _, day := range days {
		if f.excess[day] {
			fixed.Left = append(fixed.Left, day)
			continue
		}
		for generations := range slices.Chunk(f.mend[day], batchSize) {
			if err = w.record(f.source, generations, &run); err != nil {
				break
			}
		}
		if err != nil {
			break
		}
	}
	fixed.Recorded, fixed.Settled, fixed.Tokens, fixed.Raw, fixed.Markup = run.Recorded, run.Updated, run.Tokens, run.Raw, run.Markup
	if err != nil {
		run.ExitCode, run.Error = w.ExitCode(err), err.Error()
	}
	run.EndedAt, run.Requests = w.Now(), w.sent()
	if run.Recorded+run.Updated > 0 || err != nil {
		w.remember(run)
	}
	return fixed, err
}

// remember writes a fix into the history, also where it was told to end.
func (w *reconciling) remember(run store.Run) {
	ctx := w.ctx
	if ctx.Err() != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), lastWords)
		defer cancel()
	}
	if err := w.Store.FinishRun(ctx, run, nil, nil); err != nil {
		w.Log.Warn(fmt.Sprintf("What was recorded is not in the history: %v", err))
	}
}

// record is the way of a pass: the ledger, the totals and the live counter or daily row, in one transaction.
func (w *reconciling) record(source string, generations []store.Generation, run *store.Run) error {
	done, err := w.Store.RecordGenerations(w.ctx, store.Batch{Organisation: w.org, Source: source, Now: w.now, Generations: generations})
	if err != nil {
		return err
	}
	run.Fetched += int64(len(generations))
	run.Duplicates += int64(done.Duplicates + len(done.Foreign))
	for _, e := range done.Entries {
		if e.Settled {
			run.Updated++
		} else {
			run.Recorded++
		}
		run.Tokens += e.Tokens
		run.Raw += e.Raw
		run.Markup += e.Markup
	}
	return nil
}

// refuseTakeover is an error where days were counted by others without a ledger, or where a pass is still at entering what
// others have counted: recording the generations of such days would count them twice.
func (w *reconciling) refuseTakeover(days []store.Day) error {
	st, err := w.Store.State(w.ctx, w.org.ID)
	if err != nil {
		return err
	}
	if st.Takeover != store.TakeoverNone {
		return fmt.Errorf("%w: %s has a takeover under way; let a pass of usage-sync sync complete it first", store.ErrOrganisation, w.org.ID)
	}
	foreign, err := w.Store.UsageWithoutLedger(w.ctx, w.org.ID, days[0], days[len(days)-1])
	if err != nil {
		return err
	}
	foreign = slices.DeleteFunc(foreign, func(day store.Day) bool { return !slices.Contains(days, day) })
	if len(foreign) == 0 {
		return nil
	}
	written, err := w.Store.LastForeignWrite(w.ctx, w.org.ID)
	if err != nil {
		return err
	}
	return fmt.Errorf("%w; that is for usage-sync sync, with --days-back up to these days", &TakeoverError{Organisation: w.org.Name, Days: foreign, LastWrite: written})
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}
