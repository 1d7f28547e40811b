package job

import (
	"cmp"
	"context"
	"errors"
	"time"

	"usage-sync/job/openrouter"
	"usage-sync/store"
)

// tried is how much of the past a trial asks for: a page is enough.
const tried = time.Hour

// errEnough ends a trial at the first page.
var errEnough = errors.New("enough")

// Try asks the source that a pass would use now for an organisation's last hour, records nothing of it, and remembers
// nothing of what it finds out. It returns the source's name, also where that fails.
func (s Sources) Try(ctx context.Context, db *store.Store, org store.Organisation, now time.Time) (source string, err error) {
	choice, err := db.SourceChoice(ctx, org)
	if err != nil {
		return "", err
	}
	var noList error
	if s.first(choice, now) == SourceGenerations {
		list := s.Generations()
		err := try(ctx, list, org, now)
		if s.Choice != SourceAuto || !errors.Is(err, openrouter.ErrNoSource) {
			return list.Name(), err
		}
		noList = err
	}
	if s.Analytics == nil {
		return SourceAnalytics, noAnalytics(noList)
	}
	analytics := s.Analytics()
	if org.KeyHash = cmp.Or(org.KeyHash, choice.KeyHash); org.KeyHash == "" {
		if org.KeyHash, err = analytics.FindKeyHash(ctx, org); err != nil {
			return analytics.Name(), err
		}
	}
	return analytics.Name(), try(ctx, analytics, org, now)
}

func try(ctx context.Context, source Source, org store.Organisation, now time.Time) error {
	err := source.Fetch(ctx, org, openrouter.Window{Since: now.Add(-tried), Until: now}, func(openrouter.Page) error { return errEnough })
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}
