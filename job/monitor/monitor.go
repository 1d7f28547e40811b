// Package monitor tells people how passes went: a metrics file for Prometheus, and pings for those without it. It also
// watches what passes have recorded: limits that are near, and usage that is out of the ordinary. The alert rules and the
// dashboard that read the metrics lie beside it.
package monitor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"usage-sync/job"
	"usage-sync/store"
)

// Run is one run of a pass, as monitoring sees it: whatever became of it, also where it came to no organisation.
type Run struct {
	StartedAt, EndedAt time.Time
	ExitCode           int
	Err                error // nil where the pass is complete
	Report             job.Report
}

// outcome returns what became of an organisation in this very run.
func (r Run) outcome(id string) (job.Outcome, bool) {
	i := slices.IndexFunc(r.Report.Organisations, func(o job.Outcome) bool { return o.Organisation.ID == id })
	if i < 0 {
		return job.Outcome{}, false
	}
	return r.Report.Organisations[i], true
}

// Judgement is what limits, forecasts and anomaly detection say of one organisation. Amounts are dollars,
// marked up. What is nil is not known, and not shown.
type Judgement struct {
	Limit                               *float64 // of the month
	ForecastLow, Forecast, ForecastHigh *float64 // of the month's end
	// AnomalyScore says how unusual the usage is: 0 is as always, from 1 on it is an alarm, below zero there is less
	// than usual.
	AnomalyScore *float64
	// Warnings are what a human should look at, in words.
	Warnings []string
}

// JudgeFunc judges one organisation whose usage is at hand.
type JudgeFunc func(ctx context.Context, db *store.Store, usage store.Usage) (Judgement, error)

// organisation is everything that is shown of one organisation.
type organisation struct {
	store.Organisation
	usage     store.Usage
	tally     store.Tally
	last      *store.Run // nil where no pass has met it
	watermark time.Time
	judgement Judgement
}

// look reads what the database knows of every active organisation, met by this run or not. One that can't be judged is
// shown without a judgement, and the error returned with all of them.
func look(ctx context.Context, db *store.Store, zone *time.Location, now time.Time, judge JudgeFunc) ([]organisation, error) {
	chosen, err := db.Organisations(ctx, nil, zone)
	if err != nil {
		return nil, err
	}
	all := make([]organisation, len(chosen))
	var unjudged error
	for i, org := range chosen {
		if all[i], err = lookAt(ctx, db, org, now); err != nil {
			return nil, err
		}
		if all[i].judgement, err = judge(ctx, db, all[i].usage); err != nil {
			unjudged = errors.Join(unjudged, fmt.Errorf("%s: %w", org.ID, err))
		}
	}
	return all, unjudged
}

func lookAt(ctx context.Context, db *store.Store, org store.Organisation, now time.Time) (organisation, error) {
	o := organisation{Organisation: org}
	var err error
	if o.usage, err = db.Usage(ctx, org, now, 1); err != nil {
		return o, err
	}
	if o.tally, err = db.Tally(ctx, org.ID); err != nil {
		return o, err
	}
	state, err := db.State(ctx, org.ID)
	if err != nil {
		return o, err
	}
	o.watermark = state.CoveredTo
	runs, err := db.Runs(ctx, store.RunFilter{Organisations: []string{org.ID}, Synced: true, Limit: 1})
	if err != nil {
		return o, err
	}
	if len(runs) > 0 {
		o.last = &runs[0]
	}
	return o, nil
}
