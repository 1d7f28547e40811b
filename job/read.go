package job

import (
	"cmp"
	"context"
	"errors"
	"time"

	"usage-sync/job/openrouter"
	"usage-sync/store"
)

// Read hands over an organisation's generations of a window, from the source that a pass would use now. It records
// nothing of them, and remembers nothing of what it finds out about the source. It returns the source's name and how many
// requests it took, also where that fails.
func (s Sources) Read(ctx context.Context, db *store.Store, org store.Organisation, now time.Time, window openrouter.Window,
	page func(openrouter.Page) error) (name string, requests int64, err error) {
	choice, err := db.SourceChoice(ctx, org)
	if err != nil {
		return "", 0, err
	}
	var noList error
	if s.first(choice, now) == SourceGenerations {
		list := s.Generations()
		err := list.Fetch(ctx, org, window, page)
		requests = list.Traffic().Requests()
		if s.Choice != SourceAuto || !errors.Is(err, openrouter.ErrNoSource) {
			return list.Name(), requests, err
		}
		noList = err
	}
	if s.Analytics == nil {
		return SourceAnalytics, requests, noAnalytics(noList)
	}
	analytics := s.Analytics()
	if org.KeyHash = cmp.Or(org.KeyHash, choice.KeyHash); org.KeyHash == "" {
		org.KeyHash, err = analytics.FindKeyHash(ctx, org)
	}
	if err == nil {
		err = keyHashAdvice(analytics.Fetch(ctx, org, window, page))
	}
	return analytics.Name(), requests + analytics.Traffic().Requests(), err
}
