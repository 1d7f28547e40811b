package job

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"usage-sync/store"
)

// Takeover shows what others have counted beside what OpenRouter lists, and carries out the answer that
// somebody gives. The caller holds the lock.
type Takeover struct {
	Store   *store.Store
	Sources Sources
	Log     *slog.Logger
	Now     func() time.Time

	Organisations []string       // ids or names; none is every active one
	Zone          *time.Location // of organisations that have none of their own
	DaysBack      int            // how far to look back at the least, 0 to MaxDaysBack
	Again         bool           // decide again what was answered last
	Interval      time.Duration  // between two passes: others must have been quiet for a while
	OldSyncIsOff  bool           // on somebody's word
	By            string         // who gives the answers
}

// Case is what has to be decided for one organisation, with what each answer would make of it.
type Case struct {
	Organisation store.Organisation
	Question     store.Question
	Open         bool // false: there is nothing to decide
	Source       string
	Days         []CaseDay // the first one first
	// Refused says why an answer can't be given.
	Refused map[store.Answer]error
	// Advised is the answer that the figures speak for, and Advice says why; empty where no answer can be given.
	Advised store.Answer
	Advice  string
	Err     error

	listing listing
	now     time.Time
	prices  store.Prices
	tried   map[store.Answer]store.Settled
	gap     *store.Gap // before what any source reaches
}

// CaseDay is a day of a case.
type CaseDay struct {
	Day        store.Day
	InQuestion bool
	Held       store.Totals // by the tables
	Ledger     store.Totals // what of it the ledger explains; without a marked-up cost
	Listed     store.Totals // by the source
	Before     store.Totals // of it, up to the last write of others
	// Bill is what each answer makes of the day.
	Bill map[store.Answer]store.Totals
}

// Look returns what has to be decided. It asks the source, and does and takes back what each answer would do.
func (t *Takeover) Look(ctx context.Context) ([]*Case, error) {
	orgs, err := t.Store.Organisations(ctx, t.Organisations, t.Zone)
	if err != nil {
		return nil, err
	}
	cases := make([]*Case, len(orgs))
	for i, org := range orgs {
		cases[i] = &Case{Organisation: org, now: t.Now(), Refused: map[store.Answer]error{}}
		cases[i].Err = t.look(ctx, cases[i])
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
	return cases, nil
}

func (t *Takeover) look(ctx context.Context, c *Case) error {
	org := c.Organisation
	if org.Problem != nil {
		return org.Problem
	}
	st, err := t.Store.State(ctx, org.ID)
	if err != nil {
		return err
	}
	found, err := inquire(ctx, t.Store, org, st, newWindow(st, org.Zone, c.now, t.DaysBack, false))
	if err != nil {
		return err
	}
	c.Question, c.Open, c.gap = found.Question, found.open, found.gap(org, c.now)
	if t.Again {
		if c.Question, err = t.last(ctx, org, c.now); err != nil {
			return err
		}
		c.Open = true
	}
	if !c.Open {
		return nil
	}
	if c.listing, err = list(ctx, t.Store, t.Sources, org, c.Question, c.now); err != nil {
		return err
	}
	c.Source = c.listing.fetched.Source
	return c.figure(ctx, t.Store)
}

// last is the question that was answered last, as far as there is a way back behind its answer: what was recorded since
// has to be listed again.
func (t *Takeover) last(ctx context.Context, org store.Organisation, now time.Time) (u store.Question, err error) {
	st, err := t.Store.State(ctx, org.ID)
	if err != nil {
		return u, err
	}
	if st.Takeover != store.TakeoverNone {
		return u, fmt.Errorf("%w: a pass of an earlier version is still at what was decided for %s: let "+
			"usage-sync sync bring it to its end", ErrAnswer, org.Name)
	}
	all, err := answered(ctx, t.Store, org)
	if err != nil {
		return u, err
	}
	oldest := store.DayOf(now, org.Zone).Add(-MaxDaysBack)
	if len(all) > 0 {
		u = all[len(all)-1]
	} else {
		var found bool
		if u, found, err = t.Store.Earlier(ctx, org, oldest, now); err != nil {
			return u, err
		} else if !found {
			return u, fmt.Errorf("%w: nothing was decided for %s yet", ErrAnswer, org.Name)
		}
	}
	recorded, err := t.Store.RecordedBetween(ctx, org, u.From, oldest.Start(org.Zone))
	if err == nil && recorded > 0 {
		err = fmt.Errorf("%w: what was recorded before %[3]s is not listed by any source any more: %[2]s", ErrAnswer,
			store.Counted(recorded, "generation"), oldest.Start(org.Zone).Format(time.RFC3339))
	}
	return u, err
}

// figure finds out what each answer makes of the days: it does on a copy what the answer would do.
func (c *Case) figure(ctx context.Context, db *store.Store) (err error) {
	scratch, remove, err := db.Scratch(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	c.tried = map[store.Answer]store.Settled{}
	days := map[store.Day]*CaseDay{}
	at := func(day store.Day) *CaseDay {
		if days[day] == nil {
			days[day] = &CaseDay{Day: day, InQuestion: c.Question.Has(day), Bill: map[store.Answer]store.Totals{}}
		}
		return days[day]
	}
	for _, day := range c.Question.Days {
		at(day)
	}
	if c.prices, err = db.Prices(ctx, c.Organisation, c.now); err != nil {
		return err
	}
	for _, g := range c.listing.generations {
		one, err := c.prices.Totals(g)
		if err != nil {
			return err
		}
		d := at(g.Day)
		d.Listed = d.Listed.Add(one)
		if c.Question.LastWrite.IsZero() || g.CreatedAt.Unix() <= c.Question.LastWrite.Unix() {
			d.Before = d.Before.Add(one)
		}
	}
	possible := 0
	for _, answer := range store.Answers {
		u := c.Question
		err := (reply{answer: answer, oldSyncIsOff: true}).give(&u, c.Organisation, c.now)
		if err == nil && answer == store.AnswerReplace {
			err = c.listing.sound()
		}
		if err != nil {
			c.Refused[answer] = err
			continue
		}
		tried, err := scratch.TrySettle(ctx, c.listing.settlement(c.Organisation, u, c.now))
		if errors.Is(err, store.ErrTooLate) {
			return fmt.Errorf("%w: %w", ErrAnswer, err)
		} else if err != nil {
			return err
		}
		possible++
		c.tried[answer] = tried
		for day, bill := range tried.Bill {
			if d := days[day]; d != nil || !bill.IsZero() {
				at(day).Bill[answer] = bill
			}
		}
		for _, h := range tried.Held {
			d := at(h.Day)
			d.Held, d.Ledger = h.Held, h.Ledger
		}
	}
	if possible == 0 {
		return c.Refused[store.AnswerReplace]
	}
	for _, d := range days {
		for _, answer := range store.Answers { // a day that an answer leaves alone
			if _, touched := d.Bill[answer]; !touched && c.Refused[answer] == nil {
				d.Bill[answer] = d.Held
			}
		}
	}
	for _, day := range slices.Sorted(maps.Keys(days)) {
		c.Days = append(c.Days, *days[day])
	}
	c.advise()
	return nil
}

// advise says which answer the figures speak for. Whatever the totals hold, to replace them is right as far as
// the source reaches. Where they hold what it lists, to the micro-dollar a request, they may as well stand;
// where it lists nothing of these days, they are of another origin.
func (c *Case) advise() {
	var held, listed store.Totals
	equal := true
	filed := c.filed()
	for _, d := range c.Days {
		if !d.InQuestion {
			continue
		}
		held, listed = held.Add(d.Held), listed.Add(filed[d.Day])
		equal = equal && alike(d.Held, filed[d.Day])
	}
	figures := fmt.Sprintf("the totals hold %d / $%s of these days, and OpenRouter lists %d / $%s up to the "+
		"last write", held.Requests, held.Cost, listed.Requests, listed.Cost)
	switch {
	case listed.Requests == 0 && held.Requests > 0:
		c.Advised, c.Advice = store.AnswerNone, figures+": they are of another origin"
	case equal:
		c.Advised, c.Advice = store.AnswerAdopt, figures+": they are equal"
	case c.Refused[store.AnswerReplace] == nil:
		c.Advised, c.Advice = store.AnswerReplace, figures+": what OpenRouter lists is right"
	default:
		c.Advice = figures + ", and these days can't be replaced"
	}
}

// filed adds up what is listed up to the last write of others, by the days under which they file it.
func (c *Case) filed() map[store.Day]store.Totals {
	sums := map[store.Day]store.Totals{}
	for _, g := range c.listing.generations {
		if at := c.Question.LastWrite; !at.IsZero() && g.CreatedAt.Unix() > at.Unix() {
			continue
		}
		day := c.Question.Filed(c.Organisation, g.CreatedAt)
		one, err := c.prices.Totals(g)
		if err == nil { // what is too much for the rate was refused before
			sums[day] = sums[day].Add(one)
		}
	}
	return sums
}

// alike tells whether totals of others are what is listed, but for what is lost in adding up FLOATs.
func alike(held, listed store.Totals) bool {
	const lost = store.Dollar / 1_000_000 // a request
	near := func(a, b store.Money) bool { return max(a-b, b-a) <= lost*store.Money(max(1, held.Requests)) }
	return held.Requests == listed.Requests && held.Tokens == listed.Tokens && near(held.Raw, listed.Raw) &&
		near(held.Cost, listed.Cost)
}

// Promise returns what an answer makes of all days of a case.
func (c *Case) Promise(answer store.Answer) (sum store.Totals) {
	for _, d := range c.Days {
		sum = sum.Add(d.Bill[answer])
	}
	return sum
}

// Undecided is the error of a case without an answer.
func (c *Case) Undecided() error {
	e := &TakeoverError{OrganisationID: c.Organisation.ID, Organisation: c.Organisation.Name, Days: c.Question.Days,
		Listed: map[store.Day]store.Totals{}, LastWrite: c.Question.LastWrite}
	for _, d := range c.Days {
		e.Held, e.Listed[d.Day] = append(e.Held, store.HeldDay{Day: d.Day, Held: d.Held}), d.Listed
	}
	return e
}

// Answer carries out an answer: that of the figures that were shown, to the last generation. It returns the path of the
// backup that it makes before.
func (t *Takeover) Answer(ctx context.Context, c *Case, answer store.Answer,
	until time.Time) (backup string, err error) {
	r := reply{answer: answer, until: until, by: t.By, oldSyncIsOff: t.OldSyncIsOff, interval: t.Interval}
	if err := c.Refused[answer]; err != nil {
		return "", err
	}
	u := c.Question
	if err := r.give(&u, c.Organisation, c.now); err != nil {
		return "", err
	}
	if backup, err = backUpBefore(ctx, t.Store, c.now); err != nil {
		return backup, err
	}
	done, err := t.Store.Settle(ctx, c.listing.settlement(c.Organisation, u, c.now))
	if errors.Is(err, store.ErrTooLate) {
		return backup, fmt.Errorf("%w: %w", ErrAnswer, err)
	} else if err != nil {
		return backup, err
	}
	LogRate(t.Log, c.Organisation, done.Rate)
	c.Question = done.Question
	t.remember(ctx, c, done)
	return backup, nil
}

// remember writes an answer into the history.
func (t *Takeover) remember(ctx context.Context, c *Case, done store.Settled) {
	run := store.Run{StartedAt: c.now, EndedAt: t.Now(), OrganisationID: c.Organisation.ID,
		Organisation: c.Organisation.Name, Source: c.Source, WindowStart: c.Question.From, WindowEnd: c.now,
		Fetched:  int64(len(c.listing.generations)),
		Recorded: int64(len(done.Recorded.Entries)), Duplicates: int64(done.Recorded.Duplicates),
		Requests: c.listing.fetched.Traffic.Requests(),
		Note:     fmt.Sprintf("takeover: %s, by %s", c.Question.Answer, c.Question.By)}
	for _, e := range done.Recorded.Entries {
		if !done.Question.Adopts(c.Organisation, e.Generation) {
			run.Tokens, run.Raw, run.Markup = run.Tokens+e.Tokens, run.Raw+e.Raw, run.Markup+e.Markup
		}
	}
	if c.gap != nil {
		run.Listing.Missing = []store.Gap{*c.gap}
	}
	if err := t.Store.FinishRun(ctx, run, nil, nil); err != nil {
		t.Log.Warn(fmt.Sprintf("Decided, but not in the history: %v", err))
	}
}

// Undo takes the last answer of an organisation back: its tables are as they were before it, and passes ask again.
func (t *Takeover) Undo(ctx context.Context, org store.Organisation) (u store.Question, backup string, err error) {
	if u, err = t.last(ctx, org, t.Now()); err != nil {
		return u, "", err
	}
	if backup, err = backUpBefore(ctx, t.Store, t.Now()); err != nil {
		return u, backup, err
	}
	err = t.Store.Unsettle(ctx, org, u, t.Now())
	if errors.Is(err, store.ErrTooLate) {
		err = fmt.Errorf("%w: %w", ErrAnswer, err)
	}
	return u, backup, err
}
