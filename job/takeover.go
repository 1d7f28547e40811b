package job

import (
	"context"
	"fmt"
	"strings"
	"time"

	"usage-sync/store"
)

// TakeoverError: the dashboard's tables hold usage of days of which the ledger holds none, so someone has counted them
// without keeping a ledger. Counting the generations of those days again would bill them twice.
type TakeoverError struct {
	Organisation string
	Days         []store.Day
	LastWrite    time.Time // zero where the tables do not say
}

func (e *TakeoverError) Error() string {
	days := make([]string, len(e.Days))
	for i, day := range e.Days {
		days[i] = string(day)
	}
	text := fmt.Sprintf("usage of %s on %s was counted without a ledger, a plain pass would count it twice. "+
		"Nothing was recorded. Either --adopt (it is the usage that OpenRouter lists: enter the window's generations into "+
		"the ledger without adding them) or --adopt-none (it came from elsewhere: count the window's generations in full)",
		e.Organisation, strings.Join(days, ", "))
	if !e.LastWrite.IsZero() {
		at := e.LastWrite.UTC().Format(time.RFC3339)
		text += fmt.Sprintf(". These rows were last written at %s: with --adopt --adopt-until %s later generations are counted",
			at, at)
	}
	return text
}

// Kind returns KindTakeover.
func (*TakeoverError) Kind() Kind { return KindTakeover }

// takeOver decides what becomes of usage that others have counted in the part of the window that no pass has covered.
// The decision is stored before the first generation is recorded: a pass that is killed is continued as it began.
func (p *Pass) takeOver(ctx context.Context, org store.Organisation, st store.State, w window) (store.State, error) {
	last, until := store.DayOf(w.to, org.Zone), w.to
	switch underWay := st.Takeover != store.TakeoverNone; {
	case underWay && p.Takeover != store.TakeoverNone && p.Takeover != st.Takeover:
		return st, fmt.Errorf("%w: a takeover of %s with --%s is under way, and can't become another: go on without --adopt and --adopt-none until a pass is complete",
			store.ErrOrganisation, org.Name, takeoverFlags[st.Takeover])
	case underWay && !w.from.Before(st.TakeoverFrom):
		return st, nil
	case underWay: // the window reaches further back than what was decided on
		last, until = store.DayOf(st.TakeoverFrom.Add(-time.Second), org.Zone), st.TakeoverUntil
	case trusted(st, w.to):
		if !w.from.Before(st.CoveredFrom) {
			return st, nil
		}
		last, until = store.DayOf(st.CoveredFrom.Add(-time.Second), org.Zone), st.CoveredFrom.Add(-time.Second)
	}
	days, err := p.Store.UsageWithoutLedger(ctx, org.ID, store.DayOf(w.from, org.Zone), last)
	if err != nil || len(days) == 0 {
		return st, err
	}
	if p.Takeover == store.TakeoverNone {
		written, err := p.Store.LastForeignWrite(ctx, org.ID)
		if err != nil {
			return st, err
		}
		return st, &TakeoverError{Organisation: org.Name, Days: days, LastWrite: written}
	}
	st.Takeover, st.TakeoverFrom, st.TakeoverUntil = p.Takeover, w.from, until
	if !p.AdoptUntil.IsZero() {
		st.TakeoverUntil = earlier(p.AdoptUntil, until)
	}
	if p.DryRun {
		return st, nil
	}
	return st, p.Store.SetState(ctx, org.ID, st, w.to)
}

// takeoverFlags are what the decisions are called on the command line.
var takeoverFlags = map[store.Takeover]string{store.TakeoverAdopt: "adopt", store.TakeoverCount: "adopt-none"}

// adopts tells whether a generation was counted by others.
func adopts(st store.State, g store.Generation) bool {
	return st.Takeover == store.TakeoverAdopt && !g.CreatedAt.Before(st.TakeoverFrom) && g.CreatedAt.Unix() <= st.TakeoverUntil.Unix()
}

// Arrivals decides about generations that arrive by themselves, outside the window of any pass: what others have counted
// is not counted again because it is delivered.
type Arrivals struct {
	store  *store.Store
	org    store.Organisation
	state  store.State
	passes bool                // a pass has dealt with what lies behind CoveredFrom
	days   map[store.Day]error // of days that no pass has dealt with
}

// NewArrivals looks up what passes have decided about an organisation.
func NewArrivals(ctx context.Context, db *store.Store, org store.Organisation, now time.Time) (*Arrivals, error) {
	st, err := db.State(ctx, org.ID)
	return &Arrivals{store: db, org: org, state: st, passes: trusted(st, now), days: map[store.Day]error{}}, err
}

// Adopt tells whether a generation was counted by others, and is to be entered into the ledger alone. A *TakeoverError
// means that it can't be told: the next pass asks for the decision.
func (a *Arrivals) Adopt(ctx context.Context, g store.Generation) (bool, error) {
	switch {
	case a.state.Takeover != store.TakeoverNone && !g.CreatedAt.Before(a.state.TakeoverFrom):
		return adopts(a.state, g), nil
	case a.passes && !g.CreatedAt.Before(a.state.CoveredFrom):
		return false, nil
	}
	err, known := a.days[g.Day]
	if !known {
		days, lookErr := a.store.UsageWithoutLedger(ctx, a.org.ID, g.Day, g.Day)
		if lookErr != nil {
			return false, lookErr
		}
		if len(days) > 0 {
			err = &TakeoverError{Organisation: a.org.Name, Days: days}
		}
		a.days[g.Day] = err
	}
	return false, err
}
