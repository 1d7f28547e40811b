package alert

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"usage-sync/store"
)

// State is how well passes go. The numbers are those of monitoring plug-ins
// (https://www.monitoring-plugins.org/doc/guidelines.html).
type State int

const (
	StateOK State = iota
	StateWarning
	StateCritical
	StateUnknown
)

func (s State) String() string { return [...]string{"OK", "WARNING", "CRITICAL", "UNKNOWN"}[s] }

// ParseState returns the state of a name; one that is none is unknown, and false.
func ParseState(name string) (State, bool) {
	for s := StateOK; s <= StateUnknown; s++ {
		if s.String() == name {
			return s, true
		}
	}
	return StateUnknown, false
}

// Compare orders states, the worst first: critical beats unknown, and that a warning.
func Compare(a, b State) int {
	rank := [...]int{StateOK: 0, StateWarning: 1, StateUnknown: 2, StateCritical: 3}
	return rank[b] - rank[a]
}

// Rule says when the passes over an organisation go well: the one that status, /health, doctor and the metrics
// judge by.
type Rule struct {
	Settings
	Warning, Critical time.Duration // age of the last success from which on it is one; 0 is none
	// Judged are verdicts of a pass that has just ended, by organisation: they are not made again.
	Judged map[string]Verdict
}

// NewRule returns the rule for an interval between passes: 2.5 of them are a warning, 6 are critical. Where polling is
// switched off (0) only failures count.
func NewRule(interval time.Duration, settings Settings) Rule {
	return Rule{Settings: settings, Warning: interval * 5 / 2, Critical: interval * 6}
}

// Health is how the passes over an organisation go, and what is recorded of it.
type Health struct {
	Organisation store.Organisation
	State        State
	Message      string        // why
	LastRun      *store.Run    // the last pass; nil where none is on record
	Age          time.Duration // of the last success; 0 where there is none
	Tally        store.Tally
	Usage        store.Usage // what today and this month add up to
	Watermark    time.Time
	Verdict      Verdict
	Unjudged     error       // why there is no verdict
	Disputes     []string    // what another program has added to the tables, in words
	Gaps         []store.Gap // which usage is known to be missing: those that are open
	Skipped      string      // why passes skip it, as Absence.Reason says; only Message says more. Empty where they do not
}

// Look judges organisations, and says without a choice which ones passes skip that were synced before. They are chosen
// as Store.Organisations chooses them. One of which only the usage can't be judged is unknown, and the others are
// judged.
func (r Rule) Look(ctx context.Context, db *store.Store, chosen []string, zone *time.Location,
	now time.Time) ([]Health, error) {
	var absences []store.Absence
	if len(chosen) == 0 {
		var err error
		if absences, err = db.Absences(ctx, zone); err != nil {
			return nil, err
		}
	}
	orgs, err := db.Organisations(ctx, chosen, zone)
	if errors.Is(err, store.ErrOrganisation) && len(absences) > 0 {
		err = nil // there is none that passes sync
	}
	if err != nil {
		return nil, err
	}
	all := make([]Health, len(orgs))
	for i, org := range orgs {
		if all[i], err = r.LookAt(ctx, db, org, now); err != nil {
			return nil, err
		}
	}
	for _, a := range absences {
		if a.IsLoud() {
			all = append(all, Health{Organisation: a.Organisation, State: StateWarning,
				Message: a.Words(), Skipped: a.Reason})
		}
	}
	return all, nil
}

// LookAt judges one organisation.
func (r Rule) LookAt(ctx context.Context, db *store.Store, org store.Organisation, now time.Time) (Health, error) {
	h := Health{Organisation: org}
	last, err := db.Runs(ctx, store.RunFilter{Organisations: []string{org.ID}, Synced: true, Limit: 1})
	if err != nil {
		return h, err
	}
	if h.Tally, err = db.Tally(ctx, org.ID); err != nil {
		return h, err
	}
	if h.Usage, err = db.Usage(ctx, org, now, 0); err != nil {
		return h, err
	}
	if h.Disputes, err = disputes(ctx, db, org, now); err != nil {
		return h, err
	}
	for _, day := range h.Tally.Differing {
		h.Disputes = append(h.Disputes, fmt.Sprintf("books: the record and the ledger differ on %s "+
			"(usage-sync doctor says in what, "+
			"usage-sync sync --full asks again)", day))
	}
	if h.Gaps, err = db.Gaps(ctx, store.GapFilter{Organisations: []string{org.ID}, Open: true}); err != nil {
		return h, err
	}
	state, err := db.State(ctx, org.ID)
	if err != nil {
		return h, err
	}
	h.Watermark = state.CoveredTo
	if len(last) > 0 {
		h.LastRun = &last[0]
	}
	if !h.Tally.LastSuccess.IsZero() {
		h.Age = max(0, now.Sub(h.Tally.LastSuccess)).Truncate(time.Second)
	}
	verdict, judged := r.Judged[org.ID]
	if !judged {
		verdict, h.Unjudged = r.Judge(ctx, db, org, state, now)
	}
	if h.Verdict = verdict; h.Unjudged != nil {
		h.State, h.Message = StateUnknown, fmt.Sprintf("its usage can't be judged: %v", h.Unjudged)
		return h, nil
	}
	h.State, h.Message = r.judge(h)
	return h, nil
}

// fatal are the classes of failures that a person has to fix: no later pass will do better.
var fatal = map[string]bool{"key_refused": true, "configuration": true}

func (r Rule) judge(h Health) (State, string) {
	failed := h.LastRun != nil && h.LastRun.ExitCode != 0
	lastSuccess := fmt.Sprintf("last success %s ago", store.Lasting(h.Age))
	failure := ""
	if failed {
		failure = fmt.Sprintf("last pass failed (exit %d): %s", h.LastRun.ExitCode, h.LastRun.Error)
	}
	switch {
	case h.LastRun == nil:
		return StateUnknown, "no pass is on record"
	case failed && fatal[h.Tally.Failure]:
		return StateCritical, failure
	case h.Tally.LastSuccess.IsZero():
		return StateCritical, fmt.Sprintf("no pass has succeeded yet: %s", h.LastRun.Error)
	case r.Critical > 0 && h.Age >= r.Critical:
		return StateCritical, lastSuccess
	case failed:
		return StateWarning, failure + "; " + lastSuccess
	case r.Warning > 0 && h.Age >= r.Warning:
		return StateWarning, lastSuccess
	case len(h.Warnings()) > 0:
		return StateWarning, lastSuccess + ", but " + strings.Join(h.Warnings(), "; ")
	}
	return StateOK, lastSuccess
}

// Warnings are what is out of the ordinary about the usage and the books, in words.
func (h Health) Warnings() (words []string) {
	words = append(words, h.Disputes...)
	for i, g := range h.Gaps {
		const most = 3
		if i == most {
			words = append(words, fmt.Sprintf("missing: %d more (usage-sync gaps)", len(h.Gaps)-most))
			break
		}
		words = append(words, fmt.Sprintf("missing: %s (usage-sync gaps)", g.Words(h.Organisation.Zone)))
	}
	for _, a := range h.Verdict.Alerts {
		words = append(words, a.String())
	}
	return words
}

// Worst is the state of all together: critical beats unknown.
func Worst(all []Health) State {
	state := StateOK
	for _, h := range all {
		if Compare(h.State, state) < 0 {
			state = h.State
		}
	}
	return state
}

// LastSuccess is when all of them that passes do not skip had last been synced: the oldest of their last
// successes, zero where one has none.
func LastSuccess(all []Health) time.Time {
	var oldest time.Time
	first := true
	for _, h := range all {
		if at := h.Tally.LastSuccess; h.Skipped == "" && (first || at.Before(oldest)) {
			oldest, first = at, false
		}
	}
	return oldest
}

// Unlisted counts the open gaps of deliveries that no complete pass has listed.
func (h Health) Unlisted() (count int) {
	for _, g := range h.Gaps {
		if g.Kind == store.GapDelivery {
			count++
		}
	}
	return count
}
