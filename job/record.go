package job

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"usage-sync/store"
)

// Manual is usage that someone records by hand, because OpenRouter does not list it.
type Manual struct {
	Organisation string // id or name; empty is the only active one
	Model        string
	Tokens       int64
	Cost         store.Money // raw; the markup is added
	User         string      // the external user, or empty
	Day          store.Day   // the organisation's; empty is today
	Note         string      // for the history
	Correction   bool        // amounts may be negative, and stand for no request
}

// ErrManual: an entry makes no sense.
var ErrManual = NewError(KindUsage, "can't be recorded")

const (
	mostTokens = 1e15
	mostCost   = 1_000_000 * store.Dollar
)

// Check refuses what only a correction may do, and what is a slip of the finger.
func (m Manual) Check() error {
	switch {
	case !m.Correction && (m.Tokens < 0 || m.Cost < 0):
		return fmt.Errorf("%w: negative tokens or cost: only a correction may take away", ErrManual)
	case m.Tokens > mostTokens || m.Tokens < -mostTokens:
		return fmt.Errorf("%w: tokens: more than %g", ErrManual, mostTokens)
	case m.Cost > mostCost || m.Cost < -mostCost:
		return fmt.Errorf("%w: cost: more than $%s", ErrManual, mostCost)
	case strings.TrimSpace(m.Model) == "":
		return fmt.Errorf("%w: the model must not be empty", ErrManual)
	}
	return nil
}

// ManualEntry is what became of usage recorded by hand.
type ManualEntry struct {
	store.Entry
	Organisation store.Organisation
}

// Line is the line that existing greps look for.
func (e ManualEntry) Line() string {
	return fmt.Sprintf("✅ Recorded %d tokens, $%s for %s", e.Tokens, e.Markup, e.Generation.Model)
}

// Record records the entry, anew each time, and writes it into the history. An entry that makes no sense is
// ErrManual; an organisation that can't be told is that or store.ErrOrganisation.
func (m Manual) Record(ctx context.Context, db *store.Store, log *slog.Logger, now func() time.Time,
	zone *time.Location) (ManualEntry, error) {
	if err := m.Check(); err != nil {
		return ManualEntry{}, err
	}
	org, err := m.organisation(ctx, db, zone)
	if err != nil {
		return ManualEntry{}, err
	}
	at := now()
	today, on := store.DayOf(at, org.Zone), m.Day
	if on == "" {
		on = today
	}
	if on > today {
		return ManualEntry{}, fmt.Errorf("%w: %s is in the future for %s", ErrManual, on, org.Name)
	}
	g := store.Generation{ID: store.ManualID(), CreatedAt: at, Model: m.Model, User: m.User,
		Tokens: m.Tokens, Cost: m.Cost, Day: on}
	done, err := db.RecordGenerations(ctx, store.Batch{Organisation: org, Source: store.SourceManual, Now: at,
		Generations: []store.Generation{g}, Correction: m.Correction})
	if err != nil {
		return ManualEntry{}, err
	}
	entry := ManualEntry{done.Entries[0], org}
	LogRate(log, org, done.Rate)
	log.Debug(entry.Line())
	// The entry is in; a history that can't be written is no reason to record it again.
	run := store.Run{StartedAt: at, EndedAt: now(), OrganisationID: org.ID, Organisation: org.Name,
		Source: store.SourceManual, Recorded: 1, Tokens: entry.Tokens, Raw: entry.Raw,
		Markup: entry.Markup, Note: m.Note}
	if err := db.FinishRun(ctx, run, nil, nil); err != nil {
		log.Warn(fmt.Sprintf("Recorded, but not in the history: %v", err))
	}
	return entry, nil
}

// organisation returns the one that is meant: usage must not land on a client by chance.
func (m Manual) organisation(ctx context.Context, db *store.Store, zone *time.Location) (store.Organisation, error) {
	var names []string
	if m.Organisation != "" {
		names = []string{m.Organisation}
	}
	orgs, err := db.Organisations(ctx, names, zone)
	switch {
	case err != nil:
		return store.Organisation{}, err
	case len(orgs) > 1:
		return store.Organisation{}, fmt.Errorf("%w: %d organisations are active: name one", ErrManual, len(orgs))
	}
	return orgs[0], orgs[0].Problem
}
