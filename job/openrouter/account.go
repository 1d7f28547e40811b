package openrouter

import (
	"context"
	"fmt"
	"time"

	"usage-sync/store"
)

// CostPerDay returns what a key was charged on each day of UTC from first to last, up to now, by POST
// /analytics/query; an empty hash is the whole account: every key of every workspace, also those that are
// deleted. One request serves a year.
func (m *Management) CostPerDay(ctx context.Context, hash string, first, last store.Day,
	now time.Time) (map[store.Day]store.Money, error) {
	whole := timeRange{first.Start(time.UTC), last.Add(1).Start(time.UTC)}
	if until := now.UTC().Truncate(time.Second).Add(time.Second); until.Before(whole.End) {
		whole.End = until
	}
	var hashes []string
	if hash != "" {
		hashes = []string{hash}
	}
	costs := map[store.Day]store.Money{}
	err := inParts(whole, func(part timeRange) (bool, error) {
		t, err := m.ask(ctx, hashes, query{Metrics: []string{"request_count", "total_usage"},
			Granularity: "day", TimeRange: part})
		if err != nil || t.truncated {
			return false, err
		}
		for _, row := range t.rows {
			if row.problem == "" && !row.priced && row.requests != 0 {
				row.problem = "no total_usage"
			}
			if row.problem != "" {
				return false, fmt.Errorf("%w: the totals of %s: %s", ErrAnswer, part, plain(row.problem, m.key))
			}
			costs[store.DayOf(row.bucket, time.UTC)] += row.cost
		}
		return true, nil
	}, func(part timeRange) ([]timeRange, error) {
		if part.length() <= oneDay {
			return nil, fmt.Errorf("%w: one answer can't hold the total of %s", ErrAnswer, part)
		}
		return halves(part, oneDay), nil
	})
	return costs, err
}
