package job

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"usage-sync/job/openrouter"
	"usage-sync/store"
)

const (
	// clockSlack is how far a clock may be wrong without a word.
	clockSlack = 5 * time.Minute
	// clockJump is how far a clock may have moved since the last pass where no server says what time it is: no
	// source reaches back further, so that what lies between would be left out.
	clockJump = MaxDaysBack * 24 * time.Hour
)

// earliestClock is before any generation of OpenRouter's: a clock that shows an earlier time was never set.
var earliestClock = time.Date(2023, 1, 1, 0, 0, 0, 0, time.UTC)

// errClock: what time it is can't be told, so neither can which days and which usage a pass is about.
var errClock = NewError(KindClock, "the clock can't be trusted")

// errClockSet: the server's clock counts from now on, and what was derived from this machine's is void.
var errClockSet = errors.New("the server's clock counts")

// passClock tells a pass what time it is: by this machine, and once a server has said something else by that
// server, for OpenRouter dates generations by its own clock.
type passClock struct {
	machine func() time.Time

	mu     sync.Mutex
	known  bool // a server has said what time it is
	offset time.Duration
}

func (c *passClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.machine().Add(c.offset)
}

// learn compares this machine's clock with the time that a server has just told. It returns by how much this
// machine's is ahead where that is news and more than the slack.
func (c *passClock) learn(server time.Time) (ahead time.Duration, news bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known || server.IsZero() {
		return 0, false
	}
	c.known = true
	off := server.Sub(c.machine())
	if off.Abs() <= clockSlack {
		return 0, false
	}
	c.offset = off
	return -off, true
}

// read returns the offset that counts, and whether a server confirms this machine's clock.
func (c *passClock) read() (offset time.Duration, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.offset, c.known
}

// hear takes notice of what a server says about the time.
func (s *syncing) hear(server time.Time) {
	if ahead, news := s.clock.learn(server); news {
		s.Log.Warn(fmt.Sprintf("This machine's clock is %s the server's, which counts in this pass: set it "+
			"right", Off(ahead)))
	}
}

// Off says by how much a clock is ahead of another one, or behind it.
func Off(ahead time.Duration) string {
	if ahead < 0 {
		return store.Lasting(ahead) + " behind"
	}
	return store.Lasting(ahead) + " ahead of"
}

// checkClock looks at a page before anything of it is used. It returns errClockSet where the pass has to start
// again by the server's clock, and errClock where neither clock can be right.
func (s *syncing) checkClock(page openrouter.Page) error {
	s.hear(page.ServerTime)
	offset, known := s.clock.read()
	if offset != s.offset {
		return errClockSet
	}
	now := s.window.to
	newest := page.AsOf
	for _, g := range page.Generations {
		newest = later(newest, g.CreatedAt)
	}
	switch {
	case now.Before(earliestClock):
		return fmt.Errorf("%w: it is at %s", errClock, now.Format(time.RFC3339))
	case known && offset == 0: // two clocks agree
	case newest.After(now.Add(clockSlack)):
		return fmt.Errorf("%w: it is at %s, and the list has a generation of %s", errClock,
			now.UTC().Format(time.RFC3339), newest.UTC().Format(time.RFC3339))
	case !known && now.Before(s.state.Clock.Add(-clockSlack)):
		return fmt.Errorf("%w: it is at %s, and was at %s in the last complete pass. The server does not say "+
			"what time it is", errClock, now.UTC().Format(time.RFC3339), s.state.Clock.Format(time.RFC3339))
	case !known && !s.Full && !s.state.Clock.IsZero() && now.After(s.state.Clock.Add(clockJump)):
		return fmt.Errorf("%w: it is at %s, and was at %s in the last complete pass. The server does not say "+
			"what time it is. "+
			"If the clock is right, make one pass by hand: usage-sync sync --full", errClock,
			now.UTC().Format(time.RFC3339), s.state.Clock.Format(time.RFC3339))
	}
	s.newest = later(s.newest, newest)
	return nil
}

// knowsTime tells whether a pass that ended with an error, or none, knows what day it is: by a server's word,
// or by a clock that has not jumped since the last complete pass.
func (s *syncing) knowsTime(err error) bool {
	if errors.Is(err, errClock) {
		return false
	}
	now, last := s.clock.now(), s.state.Clock
	if _, known := s.clock.read(); known || err == nil {
		return true
	}
	return !now.Before(earliestClock) && (last.IsZero() || !now.Before(last.Add(-clockSlack)) &&
		!now.After(last.Add(clockJump)))
}

// believed returns what can be believed of a state: a watermark that was set by a clock that was never set
// covers nothing.
func believed(st store.State) store.State {
	if st.CoveredTo.Before(earliestClock) {
		st.CoveredFrom, st.CoveredTo, st.FullDay = time.Time{}, time.Time{}, ""
	}
	if st.AttemptFrom.Before(earliestClock) {
		st.FirstAttempt, st.AttemptFrom = time.Time{}, time.Time{}
	}
	return st
}

// attempt remembers from where on passes are responsible, before the first one records anything and where it
// fails: usage of the time until the first complete pass is fetched by that one, however long it takes.
func (s *syncing) attempt() error {
	noted := s.state.FirstAttempt
	if s.DryRun || s.window.to.Before(earliestClock) || !s.before.CoveredTo.IsZero() ||
		(!noted.IsZero() && !noted.After(s.window.to.Add(clockSlack))) {
		return nil
	}
	ctx, cancel := LastWords(s.ctx)
	defer cancel()
	at, from := s.window.to.UTC().Truncate(time.Second), s.window.from.UTC().Truncate(time.Second)
	var err error
	if s.mark, err = s.Store.NoteAttempt(ctx, s.org.ID, at, from); err != nil {
		return err
	}
	for _, st := range []*store.State{&s.before, &s.state} {
		st.FirstAttempt, st.AttemptFrom = at, from
	}
	return nil
}

// noteFailure remembers a first pass that has failed, by the server's clock where that has turned out to count.
// The pass has failed anyway: where this fails, too, the next one notes it.
func (s *syncing) noteFailure() {
	if s.window.to.IsZero() || !s.org.Active {
		return
	}
	if offset, _ := s.clock.read(); offset != s.offset {
		s.run.StartedAt = s.run.StartedAt.Add(offset - s.offset)
		s.offset, s.window = offset, s.newWindow()
		s.run.WindowStart, s.run.WindowEnd = s.window.from, s.window.to
	}
	if err := s.attempt(); err != nil {
		s.Log.Debug(fmt.Sprintf("The first attempt of %s is not noted: %v", s.org.Name, err))
	}
}
