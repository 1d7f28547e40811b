package store

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// timedDates gives every date of the application's tables a time, as some writers of theirs do.
func timedDates(t tester, path, suffix string) {
	t.Helper()
	for _, column := range [][2]string{{"client_daily_usage", "usage_date"}, {"client_user_daily_usage", "usage_date"},
		{"client_model_daily_usage", "usage_date"}, {"client_live_counters", `"current_date"`},
		{ledger, "generation_date"}} {
		execute(t, path, fmt.Sprintf(`update %s set %s = substr(%[2]s, 1, 10) || '%s'`, column[0], column[1], suffix))
	}
}

// TestDatesWithATime: a date that carries a time is that date, wherever it is read: at both ends of a period, in the
// comparison of a backup, and under the generations that come up again.
func TestDatesWithATime(t *testing.T) {
	for _, suffix := range []string{" 00:00:00", " 00:00:00.000000", "T00:00:00", "T23:59:59+00:00"} {
		t.Run(suffix, func(t *testing.T) {
			b := newKeptBooks(t)
			var all []Generation
			for day := range 4 {
				for i, cost := range []Money{Dollar, 2 * Dollar} {
					made := b.now.Add(-time.Duration(24*day+i) * time.Hour)
					all = append(all, Generation{ID: fmt.Sprintf("gen-%d%d", day, i), CreatedAt: made, Day: DayOf(made, time.UTC),
						Model: fmt.Sprint("x/", i), User: fmt.Sprint("user", i), Tokens: 10, Cost: cost})
				}
			}
			b.record("generations", all...)
			first, last := Day("2026-03-08"), Day("2026-03-10")
			backup, err := b.Backup(b.Context(), BackupRequest{Dest: t.TempDir(), UsageOnly: true, Now: b.now})
			if err != nil {
				t.Fatal(err)
			}
			execute(t, b.path, `update client_daily_usage set primary_model = null`)
			see := func() map[string]any {
				t.Helper()
				seen := map[string]any{}
				look := func(what string, v any, err error) {
					if seen[what] = v; err != nil {
						t.Fatalf("%s: %v", what, err)
					}
				}
				usage, err := b.Usage(b.Context(), b.org, b.now, 3)
				look("usage", usage, err)
				spans, err := b.SpanUsage(b.Context(), b.org, b.now, Span{first, last}, Span{first, first}, Span{last, last})
				look("spans", spans, err)
				books, err := b.Books(b.Context(), "acme", first, last)
				look("books", books, err)
				for day := first; day <= last; day = day.Add(1) {
					entries, err := b.LedgerOfDay(b.Context(), "acme", day)
					look("ledger of "+string(day), entries, err)
				}
				entries, err := b.LedgerOf(b.Context(), []string{"gen-00", "gen-30"})
				look("ledger", entries, err)
				between, err := b.LedgerBetween(b.Context(), "acme", first.Start(time.UTC), last.Start(time.UTC))
				look("ledger between", between, err)
				held, err := b.HeldDays(b.Context(), "acme", first, last)
				look("held", held, err)
				differing, err := b.CheckLedger(b.Context(), b.org, b.now, []Day{first, first.Add(1), last}, ByEntry)
				look("differing", differing, err)
				unrecorded, err := b.Unrecorded(b.Context(), b.org, all)
				look("unrecorded", unrecorded, err)
				found, err := b.CheckBooks(b.Context(), b.org, b.now, []Day{first, first.Add(1), last})
				look("found", found, err)
				restore, err := b.CompareUsage(b.Context(), backup.Path)
				look("restored days", restore.Days, err)
				return seen
			}
			before := see()
			timedDates(t, b.path, suffix)
			if diff := cmp.Diff(before, see(), cmp.Comparer(func(a, b *time.Location) bool { return a == b })); diff != "" {
				t.Errorf("with a time (+) other than without (-):\n%s", diff)
			}
			if done := b.record("generations", all...); len(done.Entries) != 0 || done.Duplicates != len(all) {
				t.Errorf("recorded again: %+v", done)
			}
			late := all[len(all)-1]
			late.Cost += Dollar
			if done := b.record("generations", late); len(done.Entries) != 1 || done.Entries[0].Raw != Dollar {
				t.Errorf("corrected: %+v", done)
			}
		})
	}
}
