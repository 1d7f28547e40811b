// Package job makes one sync pass: it asks a source what each organisation used and has the store record it.
package job

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"usage-sync/job/alert"
	"usage-sync/job/openrouter"
	"usage-sync/store"
)

const (
	// BatchSize bounds one write transaction: a few milliseconds, so that the container's application never stalls.
	BatchSize = 1000
	// organisationsAtOnce bounds the requests under way. There is one writer, whatever their number.
	organisationsAtOnce = 4
	// lastWords is how long a pass that was told to end may take to write down that it was.
	lastWords = 500 * time.Millisecond
)

var (
	// ErrRefused: rows were refused, and those around them recorded.
	ErrRefused = NewError(KindUntrusted, "refused")
	// ErrTimedOut: the pass took longer than it may.
	ErrTimedOut = NewError(KindTimedOut, "pass timed out")
)

// Pass is one sync pass. The caller holds the lock.
type Pass struct {
	Store   *store.Store
	Sources Sources
	Log     *slog.Logger
	Now     func() time.Time

	Organisations []string       // ids or names; none is every active one
	Zone          *time.Location // of organisations that have none of their own
	DaysBack      int            // 0 to MaxDaysBack
	Full          bool           // fetch the whole window, whatever the watermark says
	DryRun        bool           // write nothing
	Answer        store.Answer   // what is to become of usage that others have counted; empty is no answer
	AdoptUntil    time.Time      // later generations were not counted by others; zero is their last write
	OldSyncIsOff  bool           // on somebody's word
	Interval      time.Duration  // between two passes: others must have been quiet for a while
	By            string         // who gives the answer

	ExitCode func(error) int // the exit code that the history shows
	Alerts   alert.Settings  // of limits and of usage out of the ordinary; the zero Settings judge nothing
	Progress func(rows int)  // called as pages are recorded, from several goroutines; may be nil

	clock *passClock
}

// Report is the outcome of a pass.
type Report struct {
	StartedAt     time.Time
	EndedAt       time.Time
	Organisations []Outcome
	LockWaits     store.LockTimes // for the database's write lock
	LockTimes     store.LockTimes // under it
}

// Outcome is what became of one organisation.
type Outcome struct {
	Run          store.Run
	Organisation store.Organisation
	Err          error
	Changes      []Change // of a dry run
	Adopted      int64    // entered into the ledger alone: counted by others
	Takeover     *Case    // what a dry run with an answer would make of what others have counted; nil where nothing is open
	Traffic      openrouter.Traffic
	Recording    time.Duration  // spent in the store, which serves one organisation at a time
	Verdict      *alert.Verdict // on its usage, of which people have been told; nil where there is none
}

// Change is what a dry run would add to one day and model.
type Change struct {
	Day      store.Day
	Model    string
	Requests int64 // new generations
	Settled  int64 // known ones with a changed cost or token count
	Tokens   int64
	Raw      store.Money
	Markup   store.Money
}

// Synced counts the organisations without an error.
func (r Report) Synced() int {
	count := 0
	for _, o := range r.Organisations {
		if o.Err == nil {
			count++
		}
	}
	return count
}

// Run makes the pass. An error means that it came to no organisation; what became of each is in the report.
func (p *Pass) Run(ctx context.Context) (Report, error) {
	p.clock = &passClock{machine: p.Now}
	start := p.Now()
	report := Report{StartedAt: start}
	p.Log.Info("Starting OpenRouter usage background sync service")
	chosen, err := Choose(ctx, p.Store, p.Organisations, p.Zone)
	if len(p.Organisations) == 0 {
		p.tellAbsences(chosen.Absences)
	}
	for _, gone := range chosen.Gone {
		if err == nil {
			err = p.endGone(ctx, gone)
		}
	}
	if err != nil {
		//lint:ignore ST1005 existing greps look for the guide's words
		err = fmt.Errorf("Failed to get organizations: %w", err)
		p.remember(ctx, store.Run{StartedAt: start, EndedAt: p.Now()}, err)
		return report, err
	}
	orgs := chosen.Organisations
	report.Organisations = make([]Outcome, len(orgs))
	var group errgroup.Group
	group.SetLimit(organisationsAtOnce)
	for i, org := range orgs {
		group.Go(func() error {
			s := p.begin(ctx, org)
			next, err := s.sync()
			if errors.Is(err, errClockSet) { // once at the most: a server's word on the time is taken once
				sent := s.traffic
				s = p.begin(ctx, org)
				next, err = s.sync()
				s.traffic.Add(sent)
			}
			report.Organisations[i] = s.end(next, err)
			return nil
		})
	}
	_ = group.Wait()
	offset, _ := p.clock.read()
	report.StartedAt, report.EndedAt = start.Add(offset), p.clock.now()
	report.LockWaits, report.LockTimes = p.Store.LockWaits(), p.Store.LockTimes()
	p.Log.Debug(fmt.Sprintf("Write lock taken %s, held %s at the 99th percentile, %s at the most",
		store.Counted(len(report.LockTimes), "time"), report.LockTimes.Percentile(99),
		report.LockTimes.Percentile(100)))
	if p.DryRun {
		p.Log.Info(fmt.Sprintf("Dry run: %d/%d organizations looked at, nothing was written",
			report.Synced(), len(orgs)))
	} else {
		p.Log.Info(fmt.Sprintf("Background sync completed: %d/%d organizations synced", report.Synced(), len(orgs)))
	}
	return report, nil
}

// remember writes down a pass that came to no organisation. A database that can't be written has no history to keep.
func (p *Pass) remember(ctx context.Context, run store.Run, err error) {
	if p.DryRun {
		return
	}
	run.ExitCode, run.Error, run.Failure = p.ExitCode(err), err.Error(), KindOf(err).Class()
	ctx, cancel := LastWords(ctx)
	defer cancel()
	if err := p.Store.FinishRun(ctx, run, nil, nil); err != nil {
		p.Log.Debug(fmt.Sprintf("This pass is not in the history: %v", err))
	}
}

// LastWords returns a context in which work that was told to end may write down that it was.
func LastWords(ctx context.Context) (context.Context, context.CancelFunc) {
	if ctx.Err() == nil {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(context.WithoutCancel(ctx), lastWords)
}

// end writes down what became of an organisation, and tells of it: next is its state, nil where that stays.
func (s *syncing) end(next *store.State, err error) Outcome {
	if s.hear(s.traffic.ServerTime); err != nil {
		s.noteFailure()
	}
	timeKnown := s.knowsTime(err)
	if s.decided && !s.DryRun && s.ctx.Err() == nil && timeKnown {
		if booksErr := s.keepBooks(); err == nil {
			err = booksErr
		}
		if err == nil {
			s.square()
		}
		s.logBooks()
		s.run.Found = s.found
	}
	if !timeKnown {
		s.Log.Debug(fmt.Sprintf("The books of %s are left alone: nobody says what time it is", s.org.Name))
	} else if rateErr := s.noteRate(); err == nil {
		err = rateErr
	}
	if err == nil && next != nil && !s.DryRun && s.ctx.Err() == nil {
		err = s.noteUnlisted()
	}
	if err == nil && s.run.Refused == 0 && !s.DryRun {
		err = s.conclude(next)
	}
	s.run.EndedAt = s.clock.now()
	s.run.Requests, s.run.Statuses, s.run.Retries = s.traffic.Requests(), s.traffic.Statuses, s.traffic.Retries
	if err == nil && s.run.Refused > 0 {
		err = fmt.Errorf("%w %d of %d rows, the sound ones are recorded: %s", ErrRefused,
			s.run.Refused, s.run.Fetched, s.refusals)
	}
	s.run.ExitCode, s.run.Failure = s.ExitCode(err), KindOf(err).Class()
	if err != nil {
		s.run.Error = err.Error()
	}
	if !s.DryRun {
		if timeKnown {
			s.alert(next)
		}
		s.run.Note = strings.Join(slices.DeleteFunc([]string{s.found.Note(), s.run.Note},
			func(s string) bool { return s == "" }), "; ")
		if finishErr := s.finish(next); err == nil {
			err = finishErr
		}
	}
	s.logNews()
	s.logFailure(err)
	return Outcome{Run: s.run, Organisation: s.org, Err: err, Changes: s.changes,
		Adopted: s.adopted, Takeover: s.takeover, Traffic: s.traffic, Recording: s.recording, Verdict: s.verdict}
}

// logNews says what the pass has added to an organisation, if anything.
func (s *syncing) logNews() {
	r := s.run
	if s.DryRun || r.Recorded+r.Updated == 0 {
		return
	}
	news := store.Grouped(r.Recorded) + " new"
	if s.adopted > 0 {
		news += fmt.Sprintf(" (%s of them in totals of others)", store.Grouped(s.adopted))
	}
	if r.Updated > 0 {
		news += fmt.Sprintf(", %s corrected", store.Grouped(r.Updated))
	}
	s.Log.Info(fmt.Sprintf("%s: %s, %s, %s", s.org.Name, news, store.Counted(r.Tokens, "token"), r.Markup.Dollars()))
}

// begin starts the work on an organisation, by the clock that counts now.
func (p *Pass) begin(ctx context.Context, org store.Organisation) *syncing {
	s := &syncing{Pass: p, ctx: ctx, org: org}
	s.offset, _ = p.clock.read()
	s.Sources = p.Sources
	s.Sources.check = s.checkClock
	s.run = store.Run{StartedAt: p.clock.now(), OrganisationID: org.ID,
		Organisation: org.Name, Source: p.Sources.Choice}
	return s
}

// syncing is the work on one organisation.
type syncing struct {
	*Pass
	Sources  Sources // those of the pass, with a look at the clock
	ctx      context.Context
	org      store.Organisation
	run      store.Run
	before   store.State     // as it was found
	mark     store.Mark      // the newest that was found or left
	state    store.State     // what can be believed of it
	keys     []store.KeySpan // as the last pass has left them
	offset   time.Duration   // of the clock that the window goes by
	newest   time.Time       // the server's clock is at least there
	window   window
	server   time.Time // the server's clock at the first page
	asOf     time.Time // what was created later may be missing in what the source has handed over; zero: nothing is
	missing  missing
	refusals string // the first few
	seen     map[string]bool
	changes  []Change
	asked    store.Organisation // with the hashes by which it was asked for, where the source needs them
	adopted  int64
	takeover *Case // of a dry run
	// questions about what others have counted that were answered
	questions []store.Question
	decided   bool        // about usage that others have counted: the books may be kept
	found     store.Found // in the books
	claimed   int         // generations that another program has entered into the ledger
	touched   []store.Day // that the pass has changed

	traffic   openrouter.Traffic
	recording time.Duration
	verdict   *alert.Verdict
}

// known is what is recorded of the window; nothing where it is to be fetched as a whole.
func (s *syncing) known() (openrouter.Known, error) {
	if s.window.full {
		return openrouter.Known{}, nil
	}
	last, rows, err := s.Store.RecentUse(s.ctx, s.org.ID, s.window.since)
	if err != nil || last.IsZero() {
		return openrouter.Known{}, err
	}
	return openrouter.Known{Rows: rows, Newest: last.Add(-time.Hour)}, nil
}

// sync records each page of the window while the next one is on its way. Where a request fails, what came before it is
// recorded. The returned state is nil unless the whole window is known to be recorded.
func (s *syncing) sync() (*store.State, error) {
	if over, next, err := s.prepare(); over {
		return next, err
	}
	known, err := s.known()
	if err != nil {
		return nil, err
	}
	request := Request{Organisation: s.org, Now: s.window.to, Window: openrouter.Window{Since: s.window.since,
		LookBack: s.missing.lookFrom, Until: s.window.to, Cut: s.cut(), Known: known}}
	type sourcePage struct {
		source string
		openrouter.Page
	}
	pages := make(chan sourcePage)
	group, ctx := errgroup.WithContext(s.ctx)
	request.Page = func(source string, page openrouter.Page) error {
		select {
		case pages <- sourcePage{source, page}:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	var fetched Fetched
	group.Go(func() (err error) {
		defer close(pages)
		fetched, err = s.Sources.Fetch(ctx, s.Store, request)
		return err
	})
	group.Go(func() error {
		for page := range pages {
			s.run.Source = page.source
			if err := s.record(page.Page); err != nil {
				return err
			}
		}
		return nil
	})
	err = group.Wait()
	s.run.Source, s.traffic = cmp.Or(fetched.Source, s.run.Source), fetched.Traffic
	s.asked = fetched.Organisation
	if cause := context.Cause(s.ctx); err != nil && s.ctx.Err() == context.Canceled {
		err = cause
	}
	if err == nil {
		cover(fetched.Attribution.Spans)
	}
	if err := s.learn(fetched, err); err != nil {
		if errors.Is(err, openrouter.ErrPaging) {
			s.noteGap(store.GapList, "", s.window.since, s.window.to,
				"the list of generations changed while it was read, and may have left some out")
		}
		return nil, err
	}
	return s.advance(), nil
}

// prepare finds out what is to be fetched. It tells true where that is nothing: next is the state then.
func (s *syncing) prepare() (over bool, next *store.State, err error) {
	if s.before, s.mark, err = s.Store.Position(s.ctx, s.org.ID); err != nil {
		return true, nil, err
	}
	byOrg, err := s.Store.KeySpans(s.ctx)
	if err != nil {
		return true, nil, err
	}
	s.state, s.keys = believed(s.before), byOrg[s.org.ID]
	s.window = s.newWindow()
	if s.org.Problem != nil {
		return true, nil, s.org.Problem
	}
	switch {
	case s.org.Key == "" && !s.org.Active && !s.org.Undecided:
		next, err := s.concludeBlind()
		return true, next, err
	case s.org.Key == "":
		return true, nil, fmt.Errorf("%w: %s has no openrouter_api_key", store.ErrOrganisation, s.org.ID)
	}
	if err := s.expectRefused(); err != nil {
		return true, nil, err
	}
	s.noteOutage()
	s.run.WindowStart, s.run.WindowEnd = s.window.from, s.window.to
	if s.window.gap {
		s.Log.Warn(fmt.Sprintf("No pass over %s has been complete since %s, more than %d days ago: usage "+
			"before %s is not fetched", s.org.Name, s.uncoveredSince().Format(time.RFC3339), MaxDaysBack,
			s.window.from.Format(time.RFC3339)))
	}
	if s.questions, err = answered(s.ctx, s.Store, s.org); err != nil {
		return true, nil, err
	}
	if next, err := s.takeOver(); next != nil || err != nil {
		s.decided = next != nil
		return true, next, err
	}
	s.decided = true
	err = s.lookBefore()
	return err != nil, nil, err
}

// newWindow is the window by the clock that counts now, and as wide as a key needs it of which the watermark
// says nothing.
func (s *syncing) newWindow() window {
	w := newWindow(s.state, s.org.Zone, s.clock.now(), s.DaysBack, s.Full)
	if s.Sources.uncovered(s.keys, s.org) {
		return w.whole(s.state, s.org.Zone)
	}
	return w
}

// advance returns the state after a complete pass, or nil where it stays: a watermark that lies ahead of the
// server's clock is not replaced by a pass with a wrong clock of its own.
func (s *syncing) advance() *store.State {
	if s.offset != 0 && s.before.CoveredTo.After(s.window.to.Add(clockSlack)) {
		s.Log.Warn(fmt.Sprintf("The watermark of %s is at %s, ahead of the server's clock: it stays there "+
			"until this machine's clock is right", s.org.Name, s.before.CoveredTo.Format(time.RFC3339)))
		return nil
	}
	next := s.window.covered(s.state, s.org.Zone, s.soundUntil())
	next.FirstAttempt, next.AttemptFrom = s.before.FirstAttempt, s.before.AttemptFrom
	return &next
}

// noteRate notes a change of the markup rate, also where the pass has failed or recorded nothing: what is used
// from now on has the new one.
func (s *syncing) noteRate() error {
	if s.DryRun || s.org.Problem != nil || s.ctx.Err() != nil {
		return nil
	}
	change, err := s.Store.NoteRate(s.ctx, s.org, s.run.StartedAt)
	s.tellRate(change)
	return err
}

// tellRate tells of a change that was noted, in the log and in the history.
func (s *syncing) tellRate(change *store.RateChange) {
	if change != nil && !s.DryRun {
		LogRate(s.Log, s.org, change)
		s.note(rateLine(s.org, *change))
	}
}

// learn keeps what was found out about the sources, unless it was by a clock that is wrong.
func (s *syncing) learn(fetched Fetched, err error) error {
	if errors.Is(err, errClockSet) || errors.Is(err, errClock) {
		return err
	}
	if fetched.Learned && fetched.NoList != nil && !errors.Is(fetched.NoList, openrouter.ErrNoSource) {
		s.Log.Info(fmt.Sprintf("The analytics are asked in place of the list GET /generations: %v", fetched.NoList))
	}
	if fetched.Learned && !s.DryRun {
		if setErr := s.Store.SetSourceChoice(s.ctx, s.org, fetched.Choice); err == nil {
			err = setErr
		}
	}
	if keyErr := s.learnKeys(fetched.Attribution); err == nil {
		err = keyErr
	}
	return err
}

// learnKeys keeps what was found out about the organisation's keys. The usage of a former key that can't be
// asked for is known to be missing.
func (s *syncing) learnKeys(a Attribution) error {
	if a.Stale != "" {
		s.Log.Warn(fmt.Sprintf("%s of %s is the hash of a former key: take it out, or set it to %.8s…, that "+
			"of the new one", a.Stale, s.org.Name, a.Spans[a.present].Hash))
	}
	for _, lost := range a.Lost {
		gap := s.gapOf(lost)
		s.Log.Warn(fmt.Sprintf("%s has another key in place of %.8s…: %s. What it was used for from %s to %s "+
			"may be missing. "+
			"To leave it out for good: usage-sync gaps --org %s", s.org.Name, lost.Subject(), lost.Reason,
			gap.From.Format(time.RFC3339), gap.Until.Format(time.RFC3339), s.org.ID))
		if s.DryRun {
			continue
		}
		if _, err := s.Store.OpenGap(s.ctx, gap); err != nil {
			return err
		}
		s.note(fmt.Sprintf("usage of the former key %.8s… may be missing: %s", lost.Subject(), lost.Reason))
	}
	for _, note := range a.Notes {
		s.note(note)
	}
	if len(a.Spans) == 0 || slices.Equal(a.Spans, s.keys) || s.DryRun {
		return nil
	}
	if len(s.keys) > 0 && len(a.Spans) > len(s.keys) {
		s.note(fmt.Sprintf("a new key, %.8s…", a.Spans[a.present].Subject()))
	}
	if err := s.Store.SetKeySpans(s.ctx, s.org.ID, a.Spans); err != nil {
		return err
	}
	return s.closeGaps(a)
}

// gapOf is what is missing where a former key can't be asked for: what it was used for since shortly before the
// last complete pass, or of one that no pass has covered since the first.
func (s *syncing) gapOf(lost LostKey) store.Gap {
	from := s.state.CoveredTo.Add(-lateness) // what was to appear late is not shown either
	if !lost.Covered || s.state.CoveredTo.IsZero() {
		from = earlier(lost.Since, s.oldest())
	}
	return store.Gap{OrganisationID: s.org.ID, Kind: store.GapKey, Subject: lost.Subject(),
		From: later(from, s.state.CoveredFrom), Until: s.window.to, NoticedAt: s.window.to,
		Why: fmt.Sprintf("usage of the former key %.8s… may be missing: %s", lost.Subject(), lost.Reason)}
}

// closeGaps closes gaps of a key that is back, and of which the whole window was recorded.
func (s *syncing) closeGaps(a Attribution) error {
	present := a.Spans[a.present]
	if !present.Covered {
		return nil
	}
	for _, subject := range []string{present.Mark, present.Hash} {
		gaps, err := s.Store.Gaps(s.ctx, store.GapFilter{Organisations: []string{s.org.ID}, Kind: store.GapKey,
			Subject: subject, Open: true})
		if err != nil {
			return err
		}
		seen := len(gaps) > 0 && subject != ""
		for _, g := range gaps {
			seen = seen && !g.From.Before(s.window.since)
		}
		if seen {
			if _, err := s.Store.CloseGaps(s.ctx, s.org.ID, store.GapKey, subject,
				"the key is back", s.window.to); err != nil {
				return err
			}
		}
	}
	return nil
}

// record has the store record a page, batch by batch.
func (s *syncing) record(page openrouter.Page) error {
	if err := s.attempt(); err != nil {
		return err
	}
	record := s.Store.RecordGenerations
	if s.DryRun {
		record = s.Store.Preview
	}
	for _, batch := range s.batches(page) {
		batch.After = s.mark
		start := time.Now()
		done, err := record(s.ctx, batch)
		s.recording += time.Since(start)
		if err != nil {
			return err
		}
		s.add(batch, done)
	}
	if s.Progress != nil {
		s.Progress(len(page.Generations))
	}
	return nil
}

// batches gives each generation of a page its day. Those that are adopted come first, in batches of their own.
// It notes what else the page says.
func (s *syncing) batches(page openrouter.Page) (batches []store.Batch) {
	if s.server.IsZero() && !page.ServerTime.IsZero() {
		s.server = page.ServerTime
	}
	if !page.AsOf.IsZero() && (s.asOf.IsZero() || page.AsOf.Before(s.asOf)) {
		s.asOf = page.AsOf
	}
	if !page.Reach.IsZero() {
		s.missing.reach = page.Reach
	}
	s.run.Fetched += int64(len(page.Generations) + len(page.Refused))
	for _, refused := range page.Refused {
		s.refuse(refused)
	}
	var count, adopt []store.Generation
	for _, g := range page.Generations {
		if g.CreatedAt.Before(s.window.from) {
			s.missing.leaveOut(g)
			continue
		}
		if g.CreatedAt.After(s.window.to) {
			continue
		}
		g.Day = store.DayOf(g.CreatedAt, s.org.Zone)
		if s.adopts(g) {
			adopt = append(adopt, g)
		} else {
			count = append(count, g)
		}
	}
	batch := store.Batch{Organisation: s.org, Source: s.run.Source, Now: s.window.to, Adopt: true}
	for batch.Generations = range slices.Chunk(adopt, BatchSize) {
		batches = append(batches, batch)
	}
	batch.Adopt = false
	for batch.Generations = range slices.Chunk(count, BatchSize) {
		batches = append(batches, batch)
	}
	return batches
}

// add adds what was recorded of a batch to the run.
func (s *syncing) add(batch store.Batch, done store.Recorded) {
	s.tellRate(done.Rate)
	s.mark = cmp.Or(done.Mark, s.mark)
	s.found, s.claimed = s.found.Add(done.Found), s.claimed+done.Claimed
	s.touched = append(s.touched, done.Days...)
	s.run.Duplicates += int64(done.Duplicates + len(done.Foreign))
	if len(done.Foreign) > 0 {
		s.Log.Warn(fmt.Sprintf("%s: not counted again: %s in the ledger under another organisation, the first is %s",
			s.org.Name, store.Counted(len(done.Foreign), "generation"), done.Foreign[0]))
	}
	for _, e := range done.Entries {
		if s.DryRun && s.metBefore(e) {
			s.run.Duplicates++
			continue
		}
		s.account(batch, e)
	}
}

// account adds an entry of a batch to the run.
func (s *syncing) account(batch store.Batch, e store.Entry) {
	if e.Settled {
		s.run.Updated++
	} else {
		s.run.Recorded++
	}
	if !batch.Counts(e) {
		s.adopted++
		return
	}
	s.run.Tokens += e.Tokens
	s.run.Raw += e.Raw
	s.run.Markup += e.Markup
	if s.DryRun {
		s.change(e)
	} else if s.Log.Enabled(s.ctx, slog.LevelDebug) {
		s.Log.Debug(fmt.Sprintf("✅ Recorded %d tokens, $%s for %s", e.Tokens, e.Markup, e.Generation.Model))
	}
}

// metBefore tells whether an earlier page held a generation: a dry run has no ledger to tell.
func (s *syncing) metBefore(e store.Entry) bool {
	if s.seen == nil {
		s.seen = map[string]bool{}
	}
	met := s.seen[e.Generation.ID]
	s.seen[e.Generation.ID] = true
	return met
}

func (s *syncing) change(e store.Entry) {
	i, found := slices.BinarySearchFunc(s.changes, e.Generation, func(c Change, g store.Generation) int {
		switch {
		case c.Day < g.Day || (c.Day == g.Day && c.Model < g.Model):
			return -1
		case c.Day == g.Day && c.Model == g.Model:
			return 0
		}
		return 1
	})
	if !found {
		s.changes = slices.Insert(s.changes, i, Change{Day: e.Generation.Day, Model: e.Generation.Model})
	}
	c := &s.changes[i]
	if e.Settled {
		c.Settled++
	} else {
		c.Requests++
	}
	c.Tokens += e.Tokens
	c.Raw += e.Raw
	c.Markup += e.Markup
}

// refuse notes a row that can't be trusted. It is a gap, and comes up again in each pass until it is corrected,
// accepted or out of reach.
func (s *syncing) refuse(r openrouter.Refusal) {
	at, until := r.CreatedAt, r.CreatedAt.Add(time.Second)
	if at.Equal(at.Truncate(time.Hour)) { // the hour may be all that is known
		until = at.Add(time.Hour)
	}
	subject := r.Subject()
	switch {
	case s.missing.accepted[subject]:
		s.Log.Debug(fmt.Sprintf("Left out, as was accepted: %s", r))
		return
	case at.IsZero():
		until = s.window.to
		at = s.window.since
		if trusted(s.state, s.window.to) {
			at = later(at, s.state.CoveredTo)
		}
	case at.Before(s.window.from) || at.After(s.window.to):
		return
	}
	s.run.Refused++
	s.Log.Error(fmt.Sprintf("Refused %s", r))
	const most = 3
	switch {
	case s.run.Refused == 1:
		s.refusals = r.String()
	case s.run.Refused <= most:
		s.refusals += "; " + r.String()
	case s.run.Refused == most+1:
		s.refusals += "; …"
	}
	s.missing.refused = append(s.missing.refused, subject)
	s.noteGap(store.GapRefused, subject, at, until, "a row was refused: "+r.String()).Raw = r.Cost
}

// soundUntil is the time before which nothing is missing: by the earlier of both clocks, because a generation is listed
// by the server's. A server that does not say what time it is has listed everything up to its newest generation.
func (s *syncing) soundUntil() time.Time {
	until := s.window.to
	switch {
	case !s.server.IsZero():
		until = earlier(until, s.server)
	case trusted(s.state, until):
		until = earlier(until, later(s.newest, s.state.CoveredTo))
	default:
		until = earlier(until, s.newest)
	}
	if !s.asOf.IsZero() {
		until = earlier(until, s.asOf)
	}
	return until
}

// alert tells of limits and of usage out of the ordinary, once. What goes wrong with that, be it a bug, is no
// fault of the pass: its generations are recorded.
func (s *syncing) alert(next *store.State) {
	if s.Alerts == (alert.Settings{}) || s.window.to.IsZero() || s.ctx.Err() != nil {
		return
	}
	state := s.state
	if next != nil {
		state = *next
	}
	verdict, err := s.judge(state)
	if err != nil {
		s.Log.Warn(fmt.Sprintf("The usage of %s is recorded, but not watched: %v", s.org.Name, err))
		return
	}
	s.verdict = &verdict
	for _, raised := range verdict.News.Raised {
		s.Log.Warn(fmt.Sprintf("%s: %s", s.org.Name, raised))
	}
	for _, over := range verdict.News.Over {
		s.Log.Info(fmt.Sprintf("%s: %s is over", s.org.Name, over.Kind))
	}
	s.note(verdict.News.String())
}

func (s *syncing) judge(state store.State) (verdict alert.Verdict, err error) {
	defer func() {
		if bug := recover(); bug != nil {
			err = fmt.Errorf("a bug, please report it: %v", bug)
		}
	}()
	verdict, err = s.Alerts.Judge(s.ctx, s.Store, s.org, state, s.window.to)
	if err == nil {
		err = verdict.Remember(s.ctx, s.Store, s.org)
	}
	return verdict, err
}

// finish writes the run and the state. A pass that was told to end still writes down that it was.
func (s *syncing) finish(next *store.State) error {
	ctx, cancel := LastWords(s.ctx)
	defer cancel()
	s.run.Listing = s.listing(next)
	for next != nil {
		err := s.Store.FinishRun(ctx, s.run, &s.org, &store.Progress{Before: s.before, After: *next, Mark: s.mark})
		switch {
		case errors.Is(err, store.ErrWatermarkMoved):
			if s.before, _, err = s.Store.Position(ctx, s.org.ID); err != nil {
				return err
			}
			s.state = believed(s.before)
			next = s.advance()
			s.run.Listing = s.listing(next)
		case errors.Is(err, store.ErrRestored):
			s.run.ExitCode, s.run.Error, s.run.Failure = s.ExitCode(err), err.Error(), KindOf(err).Class()
			s.run.Listing = store.Listing{}
			return errors.Join(err, s.Store.FinishRun(ctx, s.run, &s.org, nil))
		default:
			return err
		}
	}
	return s.Store.FinishRun(ctx, s.run, &s.org, nil)
}

func (s *syncing) logFailure(err error) {
	if err == nil {
		return
	}
	var apiErr *openrouter.APIError
	if errors.As(err, &apiErr) {
		s.Log.Error(apiErr.Error())
		err = errors.New(s.explain(apiErr, err))
	}
	s.Log.Error(fmt.Sprintf("Failed to sync usage for %s: %v", s.org.Name, err))
}

// explain says what to do about an answer that is not a success.
func (s *syncing) explain(apiErr *openrouter.APIError, err error) string {
	short := fmt.Sprintf("HTTP %d", apiErr.Status)
	switch {
	case apiErr.Refused() && apiErr.Management:
		return short + ": the management key is refused; check OPENROUTER_MANAGEMENT_KEY or its credential: " +
			"an ordinary key is none"
	case apiErr.Refused():
		return short + ": the key is refused; check openrouter_api_key in client_organizations, and the " +
			"credit and limits of the account"
	case apiErr.RateLimited():
		return short + ": still rate-limited at the end of the pass; the next one tries again"
	case apiErr.Temporary():
		return short + ": OpenRouter has trouble; the next pass tries again"
	}
	return err.Error()
}
