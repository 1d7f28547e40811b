package job

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"usage-sync/job/alert"
	"usage-sync/job/openrouter"
	"usage-sync/store"
)

// TakeoverError: the dashboard's tables hold usage of which the ledger knows nothing, so someone has counted
// it. Counting the generations of those days again would bill them twice: a person decides.
type TakeoverError struct {
	OrganisationID, Organisation string
	Days                         []store.Day
	Held                         []store.HeldDay            // what the tables hold of the days, as far as it was looked up
	Listed                       map[store.Day]store.Totals // what OpenRouter lists of them; nil where it was not asked
	LastWrite                    time.Time                  // zero where the tables do not say
}

func (e *TakeoverError) Error() string {
	const most = 3 // a line is to be read
	var days []string
	for _, day := range e.Days[:min(most, len(e.Days))] {
		days = append(days, string(day)+e.figures(day))
	}
	if rest := e.Days[min(most, len(e.Days)):]; len(rest) > 0 {
		days = append(days, fmt.Sprintf("%s%s", store.Counted(len(rest), "more day"), e.figures(rest...)))
	}
	return fmt.Sprintf("others have counted usage of %s on %s. Nothing was recorded. Look and decide: "+
		"usage-sync takeover --org %s", e.Organisation, strings.Join(days, ", "), e.OrganisationID)
}

// figures are what is known of some days in all.
func (e *TakeoverError) figures(days ...store.Day) string {
	var held, listed store.Totals
	known := false
	for _, day := range days {
		if at := slices.IndexFunc(e.Held, func(h store.HeldDay) bool { return h.Day == day }); at >= 0 {
			held, known = held.Add(e.Held[at].Held), true
		}
		listed = listed.Add(e.Listed[day])
	}
	switch {
	case !known:
		return ""
	case e.Listed == nil:
		return fmt.Sprintf(" (totals hold %d / $%s)", held.Requests, held.Cost)
	}
	return fmt.Sprintf(" (totals hold %d / $%s, OpenRouter lists %d / $%s)", held.Requests, held.Cost,
		listed.Requests, listed.Cost)
}

// Kind returns KindTakeover.
func (*TakeoverError) Kind() Kind { return KindTakeover }

var (
	// ErrOldSync: an answer was given while others may still be writing.
	ErrOldSync = NewError(KindTakeover, "the old sync may still be running")
	// ErrAnswer: an answer makes no sense, or can't be carried out.
	ErrAnswer = NewError(KindUsage, "takeover")
)

// quietIntervals is for how many polling intervals others must have written nothing.
const quietIntervals = 2

// inquiry is what has to be decided before the window of a pass may be recorded.
type inquiry struct {
	store.Question
	open bool            // there is something to decide, or to carry out
	held []store.HeldDay // of the question's days
	last time.Time       // when others last wrote anything
	// reach is where the window of a first pass has to begin at the latest.
	reach time.Time
}

func (i inquiry) error(org store.Organisation) *TakeoverError {
	return &TakeoverError{OrganisationID: org.ID, Organisation: org.Name, Days: i.Days, Held: i.held, Listed: i.Listed,
		LastWrite: i.LastWrite}
}

// inquire finds out what others have counted that no pass has dealt with. It only reads.
//
// Where no pass has been complete, it looks as far back as any source reaches. In question are the days of the
// window, of the last write of others, and one before, because their calendar may be a day off. Where passes
// have been complete, it is what the window has before their time.
func inquire(ctx context.Context, db *store.Store, org store.Organisation, st store.State,
	w window) (i inquiry, err error) {
	if st.Takeover != store.TakeoverNone && !w.from.Before(st.TakeoverFrom) {
		return i, nil // begun by an earlier version, and continued as it began
	}
	all, err := db.Questions(ctx, org.ID)
	if err != nil {
		return i, err
	}
	var decided []store.Day
	for _, u := range all {
		if u.AnsweredAt.IsZero() {
			i.Question, i.open = u, true
		} else {
			decided = append(decided, u.Days...)
		}
	}
	covered := !st.CoveredTo.IsZero()
	if covered && !i.open && !w.from.Before(st.CoveredFrom) {
		return i, nil
	}
	today := store.DayOf(w.to, org.Zone)
	oldest := today.Add(-MaxDaysBack)
	first, last := oldest.Add(-1), today.Add(1)
	if covered {
		last = min(last, store.DayOf(st.CoveredFrom.Add(-time.Second), org.Zone))
	}
	if len(i.Days) > 0 {
		first = min(first, i.Days[0])
	}
	held, err := db.HeldDays(ctx, org.ID, first, last)
	if err != nil {
		return i, err
	}
	begin := store.DayOf(w.from, org.Zone)
	if !covered {
		if begin, i.last, err = reach(ctx, db, org, held, w.to, begin, oldest); err != nil {
			return i, err
		}
	}
	held = slices.DeleteFunc(held, func(h store.HeldDay) bool { return !h.ByOthers() || slices.Contains(decided, h.Day) })
	i.reach = begin.Start(org.Zone)
	none := inquiry{reach: i.reach, last: i.last}
	if len(held) == 0 {
		return none, nil
	}
	written, err := lastWrite(ctx, db, org, held, w.to)
	if err != nil {
		return i, err
	}
	i.LastWrite = later(i.LastWrite, written)
	if !covered && i.LastWrite.IsZero() {
		begin = max(min(begin, held[len(held)-1].Day.Add(-1)), oldest)
	}
	asked := i.Days
	i.Days, i.Standing = nil, nil
	for _, h := range held {
		if h.Day >= begin || slices.Contains(asked, h.Day) {
			i.Days, i.held = append(i.Days, h.Day), append(i.held, h)
		} else {
			i.Standing = append(i.Standing, h.Day)
		}
	}
	if len(i.Days) == 0 {
		return none, nil
	}
	if slices.ContainsFunc(i.Days, func(day store.Day) bool { return !slices.Contains(asked, day) }) {
		i.Answer, i.By = "", "" // it was given for other days
	}
	if i.Calendar, err = db.CalendarOfOthers(ctx, org, append(slices.Clone(i.Standing), i.Days...)); err != nil {
		return i, err
	}
	// Others may have filed under the first day what is of the day before by the organisation's calendar.
	start := begin.Start(org.Zone)
	if i.Has(begin) {
		start = earlier(start, begin.Start(i.Calendar.Zone(org)))
	}
	if !i.From.IsZero() {
		start = earlier(start, i.From)
	}
	i.From, i.open = later(earlier(start, w.from), oldest.Start(org.Zone)), true
	return i, nil
}

// reach returns the first day that a pass without one before it has to look at: a day before that of the last write of
// others, ledger or not. It also returns the time of that write.
func reach(ctx context.Context, db *store.Store, org store.Organisation, held []store.HeldDay,
	now time.Time, begin, oldest store.Day) (
	store.Day, time.Time, error) {
	last, err := db.LastForeignWrite(ctx, org.ID)
	if err != nil || last.IsZero() {
		return begin, last, err
	}
	if last = earlier(last, now); len(held) > 0 && store.DayOf(last, org.Zone) < oldest {
		return begin, time.Time{}, nil // there are rows of later days: it says nothing
	}
	return max(min(begin, store.DayOf(last, org.Zone)).Add(-1), oldest), last, nil
}

// lastWrite returns when others last wrote the rows of some days. A time before the days began says nothing.
func lastWrite(ctx context.Context, db *store.Store, org store.Organisation, held []store.HeldDay,
	now time.Time) (time.Time, error) {
	days := make([]store.Day, len(held))
	for i, h := range held {
		days[i] = h.Day
	}
	const eastmost = 14 * time.Hour
	at, err := db.LastForeignWrite(ctx, org.ID, days...)
	if at.Before(days[len(days)-1].Start(time.UTC).Add(-eastmost)) {
		return time.Time{}, err
	}
	return earlier(at, now), err
}

// reply is an answer as somebody has given it.
type reply struct {
	answer       store.Answer
	until        time.Time // later generations were not counted by others; zero is the last write
	by           string
	oldSyncIsOff bool // on somebody's word
	interval     time.Duration
}

// give checks an answer and enters it into the question.
func (r reply) give(u *store.Question, org store.Organisation, now time.Time) error {
	rfc := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	quiet := quietIntervals * r.interval
	switch {
	case r.until.After(now):
		return fmt.Errorf("%w: usage up to %s can't have been counted: it is %s now", ErrAnswer, rfc(r.until), rfc(now))
	case !u.Assumed && !r.until.IsZero() && r.until.Unix() < u.LastWrite.Unix():
		return fmt.Errorf("%w: others have still written at %s, after %s: what was used between would be "+
			"counted twice", ErrAnswer, rfc(u.LastWrite), rfc(r.until))
	case !u.Assumed && !r.until.IsZero() && !u.LastWrite.IsZero() && r.until.Unix() > u.LastWrite.Unix():
		return fmt.Errorf("%w: others have last written at %s, before %s: what was used between is in no "+
			"total, and would be lost", ErrAnswer, rfc(u.LastWrite), rfc(r.until))
	case !r.oldSyncIsOff && u.AnsweredAt.IsZero() && !u.LastWrite.IsZero() && now.Sub(u.LastWrite) < quiet:
		return fmt.Errorf("%w: others have written at %s, less than %s ago. Switch it off: %s. Then wait, or "+
			"say --old-sync-is-off", ErrOldSync, rfc(u.LastWrite), store.Lasting(quiet), alert.StopPythonSync)
	}
	if r.answer == store.AnswerReplace && len(u.Days) > 0 {
		if oldest := store.DayOf(now, org.Zone).Add(-MaxDaysBack); u.Days[0] < oldest {
			return fmt.Errorf("%w: %s can't be replaced, no source reaches back further than %s",
				ErrAnswer, u.Days[0], oldest)
		}
	}
	u.Answer, u.By = r.answer, r.by
	if u.LastWrite.IsZero() { // what is used from now on, or since the first answer, is in no total of others
		u.LastWrite, u.Assumed = now, true
		if !u.AnsweredAt.IsZero() {
			u.LastWrite = u.AnsweredAt
		}
	}
	if !r.until.IsZero() {
		u.LastWrite = r.until
	}
	return nil
}

// listing is what a source lists since the beginning of a question.
type listing struct {
	generations []store.Generation
	fetched     Fetched
	complete    time.Time // up to then
	refused     []openrouter.Refusal
}

// list fetches all that a source lists since the beginning of a question, whatever the ledger has.
func list(ctx context.Context, db *store.Store, sources Sources, org store.Organisation, u store.Question,
	now time.Time) (listing, error) {
	l := listing{complete: now}
	known := map[string]bool{}
	since := later(u.From, store.DayOf(now, org.Zone).Add(-MaxDaysBack).Start(org.Zone))
	request := Request{Organisation: org, Now: now, Window: openrouter.Window{Since: since, Until: now,
		Cut: u.LastWrite, Anew: true}}
	request.Page = func(_ string, page openrouter.Page) error {
		for _, limit := range []time.Time{page.ServerTime, page.AsOf} {
			if !limit.IsZero() {
				l.complete = earlier(l.complete, limit)
			}
		}
		for _, g := range page.Generations {
			if g.CreatedAt.Before(u.From) || g.CreatedAt.After(now) || known[g.ID] {
				continue
			}
			known[g.ID] = true
			g.Day = store.DayOf(g.CreatedAt, org.Zone)
			l.generations = append(l.generations, g)
		}
		for _, r := range page.Refused {
			if at := later(r.CreatedAt, u.From); r.CreatedAt.IsZero() || (at.Equal(r.CreatedAt) && !at.After(now)) {
				l.refused, l.complete = append(l.refused, r), earlier(l.complete, at)
			}
		}
		return nil
	}
	var err error
	l.fetched, err = sources.Fetch(ctx, db, request)
	return l, err
}

// sound returns an error where the days can't be made anew from a listing, because rows of it are refused.
func (l listing) sound() error {
	if len(l.refused) == 0 {
		return nil
	}
	return fmt.Errorf("%w %s, and to replace a day takes them all: the first is %s", ErrRefused,
		store.Counted(len(l.refused), "row"), l.refused[0])
}

// settlement is the answer of a question for the store.
func (l listing) settlement(org store.Organisation, u store.Question, now time.Time) store.Settlement {
	return store.Settlement{Organisation: org, Question: u, Source: l.fetched.Source,
		Generations: l.generations, Now: now, CoveredTo: l.complete}
}

// copying is held while the usage tables are copied: a pass may carry out the answers of several organisations
// at once, and one copy serves them all.
var copying sync.Mutex

// backUpBefore copies the usage tables beside the database, before the first answer of this second.
func backUpBefore(ctx context.Context, db *store.Store, now time.Time) (path string, err error) {
	copying.Lock()
	defer copying.Unlock()
	path = fmt.Sprintf("%s.before-takeover-%s.db", db.Path(), now.UTC().Format("20060102T150405Z"))
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return path, err
	}
	// What one that was killed has left holds keys. No other can be at work: the caller holds the lock of the pass.
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path),
		"."+filepath.Base(db.Path())+".before-takeover-*.partial"))
	for _, partial := range left {
		err = errors.Join(err, os.Remove(partial))
	}
	if err != nil {
		return path, err
	}
	b, err := db.Backup(ctx, store.BackupRequest{Dest: path, UsageOnly: true, Now: now})
	return b.Path, err
}

// takeOver asks what has to be decided, or carries out the answer. It returns the state afterwards, or nil
// where there is nothing to decide.
func (s *syncing) takeOver() (*store.State, error) {
	i, err := inquire(s.ctx, s.Store, s.org, s.state, s.window)
	if err != nil {
		return nil, err
	}
	if !i.open {
		if s.state.CoveredTo.IsZero() {
			s.reachBack(i)
		}
		return nil, s.checkAnswer()
	}
	s.warnOfGap(i)
	now := s.window.to
	before := i.Answer
	if s.Answer != "" {
		r := reply{answer: s.Answer, until: s.AdoptUntil, by: s.By, oldSyncIsOff: s.OldSyncIsOff, interval: s.Interval}
		if err := r.give(&i.Question, s.org, now); err != nil {
			return nil, err
		}
	}
	if i.Answer == "" {
		s.listDays(&i.Question)
	}
	// Asked for a window that reaches further back than passes have covered, it is a question of this pass alone.
	if lasting := s.state.CoveredTo.IsZero() || i.Answer != ""; !s.DryRun && (lasting || before != "") {
		if i.Question, err = s.Store.Ask(s.ctx, s.org.ID, i.Question, now); err != nil {
			return nil, err
		}
	}
	if i.Answer == "" {
		return nil, i.error(s.org)
	}
	if s.DryRun {
		return &s.state, s.tryAnswer(i.Question)
	}
	return s.settle(i.Question)
}

// earlierAnswers are what a version before this one calls what it was answered.
var earlierAnswers = map[store.Takeover]store.Answer{store.TakeoverAdopt: store.AnswerAdopt,
	store.TakeoverCount: store.AnswerNone}

// checkAnswer is an error where an answer is given and another one holds: it is never passed over in silence.
func (s *syncing) checkAnswer() error {
	if s.Answer == "" {
		return nil
	}
	u := store.Question{Answer: earlierAnswers[s.state.Takeover], LastWrite: s.state.TakeoverUntil}
	if len(s.questions) > 0 {
		u = s.questions[len(s.questions)-1]
	}
	rfc := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	switch {
	case u.Answer == "":
		s.Log.Info(fmt.Sprintf("%s: there is nothing that others have counted to decide about", s.org.Name))
		return nil
	case u.Answer != s.Answer:
		return fmt.Errorf("%w: %s was answered for %s before, and %s is another answer: usage-sync takeover "+
			"--again --org %s changes it", ErrAnswer, u.Answer, s.org.Name, s.Answer, s.org.ID)
	case !s.AdoptUntil.IsZero() && s.AdoptUntil.Unix() != u.LastWrite.Unix():
		return fmt.Errorf("%w: %s was answered for %s up to %s before, and %s is another time: usage-sync "+
			"takeover --again --org %s changes it", ErrAnswer, u.Answer, s.org.Name, rfc(u.LastWrite),
			rfc(s.AdoptUntil), s.org.ID)
	}
	return nil
}

// tryAnswer finds out what an answer would do.
func (s *syncing) tryAnswer(u store.Question) error {
	c := &Case{Organisation: s.org, Question: u, Open: true, now: s.window.to, Refused: map[store.Answer]error{}}
	l, err := list(s.ctx, s.Store, s.Sources, s.org, u, s.window.to)
	s.run.Source, s.traffic = l.fetched.Source, l.fetched.Traffic
	if err != nil {
		return err
	}
	c.listing, c.Source = l, l.fetched.Source
	if err := c.figure(s.ctx, s.Store); err != nil {
		return err
	}
	if err := c.Refused[u.Answer]; err != nil {
		return err
	}
	s.takeover = c
	s.accountFor(l, c.tried[u.Answer])
	return nil
}

// listAgain is after how long an open question shows fresh figures.
const listAgain = 24 * time.Hour

// listDays finds out what the source lists of the days of a question that stays open: not in each pass, as that
// takes all generations since its beginning. A question without these figures is as good.
func (s *syncing) listDays(u *store.Question) {
	missing := func(day store.Day) bool { _, there := u.Listed[day]; return !there }
	if age := s.window.to.Sub(u.ListedAt); age >= 0 && age < listAgain && !slices.ContainsFunc(u.Days, missing) {
		return
	}
	l, err := list(s.ctx, s.Store, s.Sources, s.org, *u, s.window.to)
	s.run.Source, s.traffic = l.fetched.Source, l.fetched.Traffic
	var prices store.Prices
	if err = s.learn(l.fetched, err); err == nil {
		prices, err = s.Store.Prices(s.ctx, s.org, s.window.to)
	}
	if err == nil {
		u.Listed, err = l.perDay(prices, u.Days)
	}
	if err != nil {
		s.Log.Warn(fmt.Sprintf("What OpenRouter lists of %s can't be told: %v", s.org.Name, err))
		return
	}
	u.ListedAt = s.window.to
}

// perDay adds up what is listed of some days.
func (l listing) perDay(prices store.Prices, days []store.Day) (map[store.Day]store.Totals, error) {
	sums := map[store.Day]store.Totals{}
	for _, day := range days {
		sums[day] = store.Totals{}
	}
	for _, g := range l.generations {
		sum, wanted := sums[g.Day]
		if !wanted {
			continue
		}
		one, err := prices.Totals(g)
		if err != nil {
			return nil, err
		}
		sums[g.Day] = sum.Add(one)
	}
	return sums, nil
}

// reachBack has the window begin where others have ended, as far as any source reaches.
func (s *syncing) reachBack(i inquiry) {
	s.warnOfGap(i)
	if i.last.IsZero() || !i.reach.Before(s.window.from) {
		return
	}
	s.window.from, s.window.since, s.window.full = i.reach, i.reach, true
	s.run.WindowStart = i.reach
}

// warnOfGap says what no source lists any more.
func (s *syncing) warnOfGap(i inquiry) {
	gap := i.gap(s.org, s.window.to)
	if gap == nil {
		return
	}
	s.missing.gaps = append(s.missing.gaps, *gap)
	s.Log.Warn(fmt.Sprintf("%s: %s: what was used from %s to %s is on no bill", s.org.Name, gap.Why,
		gap.From.Format(time.RFC3339), gap.Until.Format(time.RFC3339)))
}

// gap is what was used between the last write of others and what any source reaches; nil where that is nothing.
func (i inquiry) gap(org store.Organisation, now time.Time) *store.Gap {
	oldest := store.DayOf(now, org.Zone).Add(-MaxDaysBack).Start(org.Zone)
	if i.last.IsZero() || !i.last.Before(oldest) {
		return nil
	}
	return &store.Gap{OrganisationID: org.ID, Kind: store.GapOutage, From: i.last, Until: oldest, NoticedAt: now,
		Why: fmt.Sprintf("others have last counted at %s, and no source reaches back further than %d days",
			i.last.Format(time.RFC3339),
			MaxDaysBack)}
}

// settle carries out an answer.
func (s *syncing) settle(u store.Question) (*store.State, error) {
	s.run.WindowStart, s.window.from, s.window.since = u.From, u.From, u.From
	l, err := list(s.ctx, s.Store, s.Sources, s.org, u, s.window.to)
	s.run.Source, s.traffic = l.fetched.Source, l.fetched.Traffic
	s.asked = l.fetched.Organisation
	if err := s.learn(l.fetched, err); err != nil {
		return nil, err
	}
	path, err := backUpBefore(s.ctx, s.Store, s.window.to)
	if err != nil {
		return nil, err
	}
	s.Log.Info(fmt.Sprintf("The usage tables as they were: %s", path))
	done, err := s.Store.Settle(s.ctx, l.settlement(s.org, u, s.window.to))
	if err != nil {
		return nil, err
	}
	s.Log.Info(fmt.Sprintf("%s: %s", s.org.Name, settledWords(done)))
	s.tellRate(done.Rate)
	s.accountFor(l, done)
	s.before, s.mark, err = s.Store.Position(s.ctx, s.org.ID)
	next := s.before
	return &next, err
}

// settledWords says what an answer has made of the days that others had counted.
func settledWords(done store.Settled) string {
	var held, bill store.Totals
	for _, h := range done.Held {
		if done.Question.Has(h.Day) {
			held, bill = held.Add(h.Held), bill.Add(done.Bill[h.Day])
		}
	}
	return fmt.Sprintf("%s makes %d / $%s of %s on which the totals held %d / $%s",
		done.Question.Answer, bill.Requests, bill.Cost, store.Counted(len(done.Question.Days), "day"),
		held.Requests, held.Cost)
}

// accountFor adds to the run what an answer has recorded.
func (s *syncing) accountFor(l listing, done store.Settled) {
	s.run.Fetched = int64(len(l.generations) + len(l.refused))
	for _, r := range l.refused {
		s.refuse(r)
	}
	for _, e := range done.Recorded.Entries {
		s.account(store.Batch{Adopt: done.Question.Adopts(s.org, e.Generation)}, e)
	}
	s.run.Duplicates += int64(done.Recorded.Duplicates + len(done.Recorded.Foreign))
}

// adopts tells whether a generation was counted by others, by the answers that were given.
func (s *syncing) adopts(g store.Generation) bool { return adopts(s.org, s.state, s.questions, g) }

func adopts(org store.Organisation, st store.State, questions []store.Question, g store.Generation) bool {
	if st.Takeover == store.TakeoverAdopt && !g.CreatedAt.Before(st.TakeoverFrom) &&
		g.CreatedAt.Unix() <= st.TakeoverUntil.Unix() {
		return true // begun by an earlier version
	}
	return slices.ContainsFunc(questions, func(u store.Question) bool { return u.Adopts(org, g) })
}

// cut is the time that tells what others have counted from what they have not, where it lies in the window.
func (s *syncing) cut() (at time.Time) {
	if s.state.Takeover == store.TakeoverAdopt {
		at = s.state.TakeoverUntil
	}
	for _, u := range s.questions {
		if u.Answer != store.AnswerNone {
			at = later(at, u.LastWrite)
		}
	}
	if at.Before(s.window.since) {
		return time.Time{}
	}
	return at
}

// answered returns the questions of an organisation that were answered.
func answered(ctx context.Context, db *store.Store, org store.Organisation) ([]store.Question, error) {
	all, err := db.Questions(ctx, org.ID)
	return slices.DeleteFunc(all, func(u store.Question) bool { return u.AnsweredAt.IsZero() }), err
}

// Arrivals decides about generations that arrive by themselves, outside the window of any pass: what others
// have counted is not counted again because it is delivered.
type Arrivals struct {
	store     *store.Store
	org       store.Organisation
	state     store.State
	questions []store.Question    // that were answered
	open      []store.Question    // that were not
	passes    bool                // a pass has dealt with what lies behind CoveredFrom
	days      map[store.Day]error // of days that no pass has dealt with
}

// NewArrivals looks up what passes have decided about an organisation.
func NewArrivals(ctx context.Context, db *store.Store, org store.Organisation, now time.Time) (*Arrivals, error) {
	st, err := db.State(ctx, org.ID)
	if err != nil {
		return nil, err
	}
	a := &Arrivals{store: db, org: org, state: st, passes: trusted(st, now), days: map[store.Day]error{}}
	all, err := db.Questions(ctx, org.ID)
	for _, u := range all {
		if u.AnsweredAt.IsZero() {
			a.open = append(a.open, u)
		} else {
			a.questions = append(a.questions, u)
		}
	}
	return a, err
}

// Adopt tells whether a generation was counted by others, and is to be entered into the ledger alone. A *TakeoverError
// means that it can't be told: the next pass asks for the decision.
func (a *Arrivals) Adopt(ctx context.Context, g store.Generation) (bool, error) {
	for _, u := range a.open {
		if u.Has(g.Day) || u.Has(u.Filed(a.org, g.CreatedAt)) {
			return false, inquiry{Question: u}.error(a.org)
		}
	}
	if adopts(a.org, a.state, a.questions, g) {
		return true, nil
	}
	answered := func(u store.Question) bool { return !g.CreatedAt.Before(u.From) }
	if a.passes && !g.CreatedAt.Before(a.state.CoveredFrom) || slices.ContainsFunc(a.questions, answered) ||
		a.state.Takeover != store.TakeoverNone && !g.CreatedAt.Before(a.state.TakeoverFrom) {
		return false, nil
	}
	err, known := a.days[g.Day]
	if !known {
		held, lookErr := a.store.HeldDays(ctx, a.org.ID, g.Day, g.Day)
		if lookErr != nil {
			return false, lookErr
		}
		if len(held) > 0 && held[0].ByOthers() {
			err = &TakeoverError{OrganisationID: a.org.ID, Organisation: a.org.Name,
				Days: []store.Day{g.Day}, Held: held}
		}
		a.days[g.Day] = err
	}
	return false, err
}
