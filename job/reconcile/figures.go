package reconcile

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"usage-sync/job"
	"usage-sync/job/openrouter"
	"usage-sync/store"
)

// reach is how many days before today OpenRouter tells anything about.
const reach = int(openrouter.MaxRange / (24 * time.Hour))

// figures are what OpenRouter itself says was used on a day.
type figures struct {
	models     map[string]store.Totals
	resolution map[string]store.Money // by how much the costs may be off
	shown      bool                   // by the activity
}

// openRouterFigures returns what OpenRouter itself says was used, by day and model: of days that are days of
// UTC, are over, and are not too old the activity that its dashboard shows, of others its hours. The days are
// in order.
func (w *reconciling) openRouterFigures(ctx context.Context, c *Comparison, days []store.Day,
	books map[store.Day]store.Books) (map[store.Day]figures, error) {
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
	theirs := map[store.Day]figures{}
	if len(inUTC) > 0 {
		one := inUTC[0]
		if len(inUTC) > 1 {
			one = "" // all of them in one request
		}
		used, err := w.activity(ctx, one)
		switch {
		case errors.Is(err, openrouter.ErrNoSource):
			others = days
		case err != nil:
			return nil, job.KeyHashAdvice(err)
		default:
			c.by("activity")
			for _, day := range inUTC {
				theirs[day] = figures{shown: true}
			}
			take(theirs, used, inUTC, books)
		}
	}
	asked, err := w.analyticsFigures(ctx, c, others, books)
	maps.Copy(theirs, asked)
	return theirs, err
}

// analyticsFigures returns what the analytics say of some days, which are in order.
func (w *reconciling) analyticsFigures(ctx context.Context, c *Comparison, days []store.Day,
	books map[store.Day]store.Books) (map[store.Day]figures, error) {
	theirs := map[store.Day]figures{}
	for _, stretch := range stretches(days) {
		used, err := w.account.Used(ctx, w.org, stretch[0], stretch[len(stretch)-1], w.now)
		if err != nil {
			return nil, job.KeyHashAdvice(err)
		}
		c.by(job.SourceAnalytics)
		for _, day := range stretch {
			theirs[day] = figures{}
		}
		take(theirs, used, stretch, books)
	}
	return theirs, nil
}

// by notes what OpenRouter was asked.
func (c *Comparison) by(basis string) {
	if !slices.Contains(c.Basis, basis) {
		c.Basis = append(c.Basis, basis)
	}
}

// take adds what was used on some days.
func take(theirs map[store.Day]figures, used []openrouter.DayModel, days []store.Day,
	books map[store.Day]store.Books) {
	for _, u := range used {
		if _, wanted := slices.BinarySearch(days, u.Day); !wanted {
			continue
		}
		f := theirs[u.Day]
		if f.models == nil {
			f.models, f.resolution = map[string]store.Totals{}, map[string]store.Money{}
		}
		model := spelled(u, books[u.Day].Models)
		f.models[model] = f.models[model].Add(store.Totals{Requests: u.Requests, Tokens: u.Tokens, Raw: u.Cost})
		f.resolution[model] += u.Resolution
		theirs[u.Day] = f
	}
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
		day.Start(w.org.Zone).Equal(day.Start(time.UTC)) &&
		day.Add(1).Start(w.org.Zone).Equal(day.Add(1).Start(time.UTC))
}

func (w *reconciling) findKeyHash(ctx context.Context) (err error) {
	w.org, err = w.Sources.Attributed(ctx, w.Store, w.org, w.now)
	return err
}

// activity is what was used with all keys of the organisation. A former key that was deleted is not known any more.
func (w *reconciling) activity(ctx context.Context, day store.Day) (used []openrouter.DayModel, err error) {
	for i, hash := range w.org.Hashes() {
		one, err := w.account.Activity(ctx, hash, day)
		if err != nil && (i == 0 || !errors.Is(err, openrouter.ErrKeyHash)) {
			return nil, err
		}
		used = append(used, one...)
	}
	return used, nil
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
