package reconcile

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"usage-sync/job"
	"usage-sync/store"
)

// Fixed is what --fix has recorded.
type Fixed struct {
	Recorded int64 // new to the ledger
	Settled  int64 // known, with another cost or token count
	Tokens   int64
	Raw      store.Money
	Markup   store.Money
	Left     []store.Day // left alone: the tables hold usage there that the ledger does not know

	Taken     int          // deliveries that were taken away, as another id or another key has them
	TakenAway store.Totals // of these
}

func (f *Fixed) add(run store.Run) {
	f.Recorded, f.Settled, f.Tokens = f.Recorded+run.Recorded, f.Settled+run.Updated, f.Tokens+run.Tokens
	f.Raw, f.Markup = f.Raw+run.Raw, f.Markup+run.Markup
}

// IsAny tells whether anything was changed.
func (f Fixed) IsAny() bool { return f.Recorded+f.Settled > 0 || f.Taken > 0 }

// fix records what is missing and settles what has changed, as a pass would. Days are left alone where the tables hold
// usage that the ledger does not know: what OpenRouter lists may be in it already.
func (w *reconciling) fix(ctx context.Context, f *findings) (*Fixed, error) {
	fixed := &Fixed{}
	days := slices.Collect(maps.Keys(f.mend))
	for _, d := range f.deliveries {
		days = append(days, d.entry.Day)
	}
	slices.Sort(days)
	if days = slices.Compact(days); len(days) == 0 {
		return fixed, nil
	}
	if err := w.refuseTakeover(ctx, days); err != nil {
		return nil, err
	}
	if err := w.moveDeliveries(ctx, f, fixed); err != nil {
		return fixed, err
	}
	run := store.Run{StartedAt: w.now, OrganisationID: w.org.ID, Organisation: w.org.Name,
		Source: store.SourceReconcile, WindowStart: days[0].Start(w.org.Zone),
		WindowEnd: w.now, Note: "reconcile --fix"}
	var err error
	for _, day := range slices.Sorted(maps.Keys(f.mend)) {
		if f.excess[day] {
			fixed.Left = append(fixed.Left, day)
			continue
		}
		for generations := range slices.Chunk(f.mend[day], job.BatchSize) {
			if err = w.record(ctx, f.source, generations, &run); err != nil {
				break
			}
		}
		if err != nil {
			break
		}
	}
	fixed.add(run)
	slices.Sort(fixed.Left)
	fixed.Left = slices.Compact(fixed.Left)
	if err != nil {
		run.ExitCode, run.Error = w.ExitCode(err), err.Error()
	}
	run.EndedAt, run.Requests = w.Now(), w.sent()
	if run.Recorded+run.Updated > 0 || err != nil {
		w.remember(ctx, run)
	}
	return fixed, err
}

// remember writes a fix into the history, also where it was told to end.
func (w *reconciling) remember(ctx context.Context, run store.Run) {
	ctx, cancel := job.LastWords(ctx)
	defer cancel()
	if err := w.Store.FinishRun(ctx, run, nil, nil); err != nil {
		w.Log.Warn(fmt.Sprintf("What was recorded is not in the history: %v", err))
	}
}

// record is the way of a pass: the ledger, the totals and the live counter or daily row, in one transaction.
func (w *reconciling) record(ctx context.Context, source string, generations []store.Generation, run *store.Run) error {
	done, err := w.Store.RecordGenerations(ctx, store.Batch{Organisation: w.org, Source: source, Now: w.now,
		Generations: generations})
	if err != nil {
		return err
	}
	job.LogRate(w.Log, w.org, done.Rate)
	run.Fetched += int64(len(generations))
	accountFor(run, done)
	return nil
}

// accountFor adds what was recorded to a run.
func accountFor(run *store.Run, done store.Recorded) {
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
}

// refuseTakeover is an error where days were counted by others without a ledger, or where a pass is still at
// entering what others have counted: recording the generations of such days would count them twice.
func (w *reconciling) refuseTakeover(ctx context.Context, days []store.Day) error {
	st, err := w.Store.State(ctx, w.org.ID)
	if err != nil {
		return err
	}
	if st.Takeover != store.TakeoverNone {
		return fmt.Errorf("%w: %s has a takeover under way; let a pass of usage-sync sync complete it first",
			store.ErrOrganisation, w.org.ID)
	}
	held, err := w.Store.HeldDays(ctx, w.org.ID, days[0], days[len(days)-1])
	if err != nil {
		return err
	}
	questions, err := w.Store.Questions(ctx, w.org.ID)
	if err != nil {
		return err
	}
	foreign := &job.TakeoverError{OrganisationID: w.org.ID, Organisation: w.org.Name}
	for _, h := range held {
		// Where passes have counted, the application may have recorded usage of its own beside them.
		covered := !st.CoveredTo.IsZero() && h.Day >= store.DayOf(st.CoveredFrom, w.org.Zone) && h.Ledger.Requests > 0
		answered := slices.ContainsFunc(questions, func(u store.Question) bool { return u.Has(h.Day) && !u.AnsweredAt.IsZero() })
		if slices.Contains(days, h.Day) && h.ByOthers() && !covered && !answered {
			foreign.Days, foreign.Held = append(foreign.Days, h.Day), append(foreign.Held, h)
		}
	}
	if len(foreign.Days) == 0 {
		return nil
	}
	return fmt.Errorf("%w, with --days-back up to these days", foreign)
}
