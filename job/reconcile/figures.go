package reconcile

import (
	"context"
	"errors"
	"slices"
	"time"

	"usage-sync/job"
	"usage-sync/job/openrouter"
	"usage-sync/store"
)

// reach is how many days before today OpenRouter tells anything about.
const reach = int(openrouter.MaxRange / (24 * time.Hour))

// openRouterFigures returns what OpenRouter itself says was used, by day and model: of days that are days of UTC, are over, and are
// not too old the activity that its dashboard shows, of others its hours. The days are in order.
func (w *reconciling) openRouterFigures(ctx context.Context, c *Comparison, days []store.Day,
	books map[store.Day]store.Books) (map[store.Day]map[string]store.Totals, error) {
	if err := w.findKeyHash(ctx); err != nil {
		return nil, err
	}
	var inUTC, others []store.Day
	for _, day := range days {
		if w.shownAsActivity(day) {
			inUTC = append(inUTC, day)
		} else {
			others = append(others, day)
		}
	}
	theirs := map[store.Day]map[string]store.Totals{}
	take := func(basis string, used []openrouter.DayModel, err error, of []store.Day) error {
		if err != nil {
			return job.KeyHashAdvice(err)
		}
		if !slices.Contains(c.Basis, basis) {
			c.Basis = append(c.Basis, basis)
		}
		for _, u := range used {
			if _, wanted := slices.BinarySearch(of, u.Day); !wanted {
				continue
			}
			if theirs[u.Day] == nil {
				theirs[u.Day] = map[string]store.Totals{}
			}
			model := spelled(u, books[u.Day].Models)
			theirs[u.Day][model] = theirs[u.Day][model].Add(store.Totals{Requests: u.Requests, Tokens: u.Tokens, Raw: u.Cost})
		}
		return nil
	}
	if len(inUTC) > 0 {
		one := inUTC[0]
		if len(inUTC) > 1 {
			one = "" // all of them in one request
		}
		used, err := w.account.Activity(ctx, w.org.KeyHash, one)
		if errors.Is(err, openrouter.ErrNoSource) {
			others = days
		} else if err := take("activity", used, err, inUTC); err != nil {
			return nil, err
		}
	}
	for _, stretch := range stretches(others) {
		used, err := w.account.Used(ctx, w.org, stretch[0], stretch[len(stretch)-1], w.now)
		if err := take(job.SourceAnalytics, used, err, stretch); err != nil {
			return nil, err
		}
	}
	return theirs, nil
}

// spelled returns a model as the tables spell it: generations may go by its dated name.
func spelled(u openrouter.DayModel, ours map[string]store.Totals) string {
	_, short := ours[u.Model]
	_, dated := ours[u.Dated]
	if dated && !short {
		return u.Dated
	}
	return u.Model
}

// shownAsActivity tells whether GET /activity has a day of the organisation.
func (w *reconciling) shownAsActivity(day store.Day) bool {
	today := store.DayOf(w.now, time.UTC)
	return day < today && day >= today.Add(-openrouter.ActivityDays) &&
		day.Start(w.org.Zone).Equal(day.Start(time.UTC)) && day.Add(1).Start(w.org.Zone).Equal(day.Add(1).Start(time.UTC))
}

func (w *reconciling) findKeyHash(ctx context.Context) (err error) {
	w.org.KeyHash, err = w.Sources.KeyHash(ctx, w.Store, w.org)
	return err
}

// stretches cuts days, which are in order, where some are left out.
func stretches(days []store.Day) (parts [][]store.Day) {
	start := 0
	for i := range days {
		if i+1 == len(days) || days[i+1] != days[i].Add(1) {
			parts = append(parts, days[start:i+1])
			start = i + 1
		}
	}
	return parts
}
