package job

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"usage-sync/store"
)

// LogRate tells of a change of an organisation's markup rate, if there is one. It is noted when it is first
// seen, so it is told once.
func LogRate(log *slog.Logger, org store.Organisation, change *store.RateChange) {
	if change != nil {
		log.Warn(rateLine(org, *change))
	}
}

func rateLine(org store.Organisation, change store.RateChange) string {
	return fmt.Sprintf("The markup rate of %s %s", org.Name, change)
}

// ErrRates: a noted rate can't be corrected like that.
var ErrRates = NewError(KindUsage, "rates")

// RateCorrection corrects since when a noted markup rate holds, and prices anew what was recorded between.
type RateCorrection struct {
	Store *store.Store
	Log   *slog.Logger
	Now   time.Time
	store.RateCorrection
}

// Try returns what Correct would do, and does nothing.
func (c RateCorrection) Try(ctx context.Context, org store.Organisation) (store.Repriced, error) {
	done, err := c.Store.TryCorrectRate(ctx, org, c.RateCorrection, c.Now)
	return done, ratesError(err)
}

// Correct corrects the rate, and writes it into the history.
func (c RateCorrection) Correct(ctx context.Context, org store.Organisation) (store.Repriced, error) {
	done, err := c.Store.CorrectRate(ctx, org, c.RateCorrection, c.Now)
	if err != nil {
		return done, ratesError(err)
	}
	run := store.Run{StartedAt: c.Now, EndedAt: c.Now, OrganisationID: org.ID,
		Organisation: org.Name, Source: store.SourceRates, Updated: int64(done.Generations),
		Markup: done.Cost(), Note: fmt.Sprintf("rates: %s holds since %s, not since %s, by %s: %s",
			done.Is.Rate, done.Is.From.UTC().Format(time.RFC3339), done.Was.From.UTC().Format(time.RFC3339),
			c.By, c.Note)}
	if err := c.Store.FinishRun(ctx, run, nil, nil); err != nil {
		c.Log.Warn(fmt.Sprintf("Corrected, but not in the history: %v", err))
	}
	return done, nil
}

func ratesError(err error) error {
	if errors.Is(err, store.ErrNotedRate) {
		return fmt.Errorf("%w: %w", ErrRates, err)
	}
	return err
}
