package job

import (
	"context"
	"errors"
	"fmt"
	"time"

	"usage-sync/job/openrouter"
	"usage-sync/store"
)

// Source yields the generations of one organisation.
type Source interface {
	// Name is what the command line and the history call it.
	Name() string
	// Fetch hands over the generations of a window, in pages of any order. Pages may repeat generations, and may hold
	// some from outside the window.
	Fetch(ctx context.Context, org store.Organisation, window openrouter.Window, page func(openrouter.Page) error) error
	// Traffic is what it has sent and got so far.
	Traffic() openrouter.Traffic
}

// AnalyticsSource is a source that knows an organisation by the hash of its key.
type AnalyticsSource interface {
	Source
	FindKeyHash(ctx context.Context, org store.Organisation) (string, error)
}

// Choices of a source.
const (
	SourceAuto        = "auto" // the list where the server offers it, else the analytics
	SourceGenerations = "generations"
	SourceAnalytics   = "analytics"
)

// tryListAgain is after how long a server that had no list is asked for it again.
const tryListAgain = 24 * time.Hour

// Sources are the ways to an organisation's usage. Each call makes a new source, for one organisation.
type Sources struct {
	Choice      string
	Generations func() Source
	Analytics   func() AnalyticsSource // nil without a management key
	Account     *openrouter.Management // tells what was used in all; nil without a management key
}

// fetch records the window from the source of choice. It remembers for each organisation what it has found out, so that a
// pass does not waste a request on what is known.
func (s *syncing) fetch() error {
	remembered, err := s.Store.SourceChoice(s.ctx, s.org)
	if err != nil {
		return err
	}
	choice := remembered
	if s.Sources.first(choice, s.window.to) == SourceAnalytics {
		err = s.fetchAnalytics(&choice, nil)
		if s.Sources.Choice == SourceAuto && errors.Is(err, openrouter.ErrNoSource) { // another server than the one that had no list
			if listErr := s.fetchList(&choice); !errors.Is(listErr, openrouter.ErrNoSource) {
				err = listErr
			}
		}
	} else {
		err = s.fetchList(&choice)
		if s.Sources.Choice == SourceAuto && errors.Is(err, openrouter.ErrNoSource) {
			choice.Source, choice.TriedAt = SourceAnalytics, s.window.to
			err = s.fetchAnalytics(&choice, err)
		}
	}
	if choice != remembered && !s.DryRun {
		if setErr := s.Store.SetSourceChoice(s.ctx, s.org, choice); err == nil {
			err = setErr
		}
	}
	return err
}

// first is the source that is asked first.
func (s Sources) first(choice store.SourceChoice, now time.Time) string {
	if s.Choice == SourceAnalytics || (s.Choice == SourceAuto && s.Analytics != nil && listIsMissing(choice, now)) {
		return SourceAnalytics
	}
	return SourceGenerations
}

// fetchList fetches from the list.
func (s *syncing) fetchList(choice *store.SourceChoice) error {
	err := s.fetchFrom(use(s, s.Sources.Generations()))
	if err == nil {
		choice.Source, choice.TriedAt = "", time.Time{}
	}
	return err
}

// use notes a source before it is asked.
func use[S Source](s *syncing, source S) S {
	s.sources = append(s.sources, source)
	s.run.Source = source.Name()
	return source
}

// listIsMissing tells whether the server had no list when it was last asked, not long ago.
func listIsMissing(choice store.SourceChoice, now time.Time) bool {
	since := now.Sub(choice.TriedAt)
	return choice.Source == SourceAnalytics && since >= 0 && since < tryListAgain
}

// fetchAnalytics finds the hash of the organisation's key, where its row has none, and fetches. noList is why the list
// can't be used, if that was tried.
func (s *syncing) fetchAnalytics(choice *store.SourceChoice, noList error) error {
	if s.Sources.Analytics == nil {
		return noAnalytics(noList)
	}
	source := use(s, s.Sources.Analytics())
	found := ""
	if s.org.KeyHash == "" {
		if s.org.KeyHash = choice.KeyHash; s.org.KeyHash == "" {
			var err error
			if found, err = source.FindKeyHash(s.ctx, s.org); err != nil {
				return err
			}
			s.org.KeyHash = found
		}
	}
	err := s.fetchFrom(source)
	switch {
	case errors.Is(err, openrouter.ErrKeyHash):
		choice.KeyHash = "" // the next pass asks again
		return keyHashAdvice(err)
	case err == nil && found != "":
		choice.KeyHash = found
	}
	return err
}

// noAnalytics says what is missing where the analytics are wanted and there is no management key.
func noAnalytics(noList error) error {
	const advice = "set a management key (OPENROUTER_MANAGEMENT_KEY, OPENROUTER_MANAGEMENT_KEY_FILE or the credential management-key) to read POST /analytics/query"
	if noList != nil {
		return fmt.Errorf("%w; %s, or point --base-url at a gateway that offers the list", noList, advice)
	}
	return fmt.Errorf("%w: %s", openrouter.ErrNoSource, advice)
}

// keyHashAdvice says what to do about a key hash that the server does not know.
func keyHashAdvice(err error) error {
	if !errors.Is(err, openrouter.ErrKeyHash) {
		return err
	}
	return fmt.Errorf("%w; check openrouter_key_hash of client_organizations, and that the management key is of the account that the key belongs to", err)
}
