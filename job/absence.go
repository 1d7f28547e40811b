package job

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"usage-sync/store"
)

// Chosen are the organisations of a pass.
type Chosen struct {
	Organisations []store.Organisation
	Gone          []store.Absence // named by the id of a row that is gone
	Absences      []store.Absence // of the database
}

// Choose returns the organisations that a pass with some names syncs. Without names these are the active ones;
// where all have left for good, there is none, and no error.
func Choose(ctx context.Context, db *store.Store, names []string, zone *time.Location) (c Chosen, err error) {
	if c.Absences, err = db.Absences(ctx, zone); err != nil {
		return c, err
	}
	var known []string
	for _, name := range names {
		i := slices.IndexFunc(c.Absences, func(a store.Absence) bool {
			return a.Reason == store.AbsentGone && a.Organisation.ID == name
		})
		if i >= 0 {
			c.Gone = append(c.Gone, c.Absences[i])
		} else {
			known = append(known, name)
		}
	}
	if len(c.Gone) > 0 && len(known) == 0 {
		return c, nil
	}
	c.Organisations, err = db.Organisations(ctx, known, zone)
	loud := slices.ContainsFunc(c.Absences, store.Absence.IsLoud)
	if errors.Is(err, store.ErrOrganisation) && len(names) == 0 && len(c.Absences) > 0 && !loud {
		return c, nil
	}
	return c, err
}

// tellAbsences says which organisations a pass over all skips.
func (p *Pass) tellAbsences(absences []store.Absence) {
	for _, a := range absences {
		if a.IsLoud() {
			p.Log.Warn(fmt.Sprintf("%s (%s) %s. To end this: %s", a.Organisation.Name,
				a.Organisation.ID, a.Words(), a.Advice()))
		}
	}
}

// endGone ends an organisation whose row is gone, on the word of whoever has named it: what was used since its
// last complete pass can't be asked for.
func (p *Pass) endGone(ctx context.Context, a store.Absence) error {
	if p.DryRun {
		p.Log.Info(fmt.Sprintf("%s (%s) has no row: a pass would end it", a.Organisation.Name, a.Organisation.ID))
		return nil
	}
	now := p.Now()
	if err := p.missingSince(ctx, a, "its row is gone, and with it the key to ask with", now); err != nil {
		return err
	}
	p.Log.Info(fmt.Sprintf("%s (%s) has ended: nothing of it is expected any more",
		a.Organisation.Name, a.Organisation.ID))
	return p.Store.End(ctx, a.Organisation.ID, now)
}

// missingSince notes that usage since the watermark can't be asked for.
func (p *Pass) missingSince(ctx context.Context, a store.Absence, why string, now time.Time) error {
	if a.CoveredTo.IsZero() || !a.CoveredTo.Before(now) {
		return nil
	}
	_, err := p.Store.OpenGap(ctx, store.Gap{OrganisationID: a.Organisation.ID, Kind: store.GapKey, From: a.CoveredTo,
		Until: now, NoticedAt: now, Why: why})
	if err == nil {
		p.Log.Warn(fmt.Sprintf("Usage of %s (%s) since %s may be missing: %s. To leave it out for good: "+
			"usage-sync gaps", a.Organisation.Name, a.Organisation.ID, a.CoveredTo.Format(time.RFC3339), why))
	}
	return err
}

// conclude ends an organisation that is not active, after a complete pass over it that was asked for by name:
// once its keys have been quiet for as long as generations are usually listed late, its usage is over. One that
// is active goes on.
func (s *syncing) conclude(next *store.State) error {
	switch {
	case s.org.Active:
		return s.Store.Resume(s.ctx, s.org.ID)
	case next == nil || s.org.Undecided:
		return nil
	}
	last, _, err := s.Store.RecentUse(s.ctx, s.org.ID, next.CoveredTo)
	if err != nil {
		return err
	}
	if settled := last.Add(overlap); settled.After(next.CoveredTo) {
		s.Log.Warn(fmt.Sprintf("%s is not active, and was used of late: run this again at %s or later, when "+
			"its key is "+
			"disabled. Until then its statement is provisional", s.org.Name, settled.Format(time.RFC3339)))
		return nil
	}
	s.Log.Info(fmt.Sprintf("%s is not active, and all its usage is recorded: its statement is final", s.org.Name))
	s.note("it is not active, and its usage is over")
	return s.Store.End(s.ctx, s.org.ID, s.window.to)
}

// concludeBlind ends an organisation that is not active and has no key to ask with.
func (s *syncing) concludeBlind() (*store.State, error) {
	if s.DryRun {
		return nil, nil
	}
	now := s.window.to
	a := store.Absence{Organisation: s.org, CoveredTo: s.state.CoveredTo}
	if err := s.missingSince(s.ctx, a, "it is not active, and has no key to ask with", now); err != nil {
		return nil, err
	}
	s.note("it is not active, and has no key to ask with")
	return nil, s.Store.End(s.ctx, s.org.ID, now)
}
