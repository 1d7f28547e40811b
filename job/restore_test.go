package job_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"pgregory.net/rapid"

	"usage-sync/job/openrouter/standin"
	"usage-sync/store"
)

// TestRestoreThenPass: whatever passes, the old sync or an accident have made of the usage tables since a backup, putting it
// back and one pass leave every generation counted exactly once. So the old sync can be gone back to and left again.
func TestRestoreThenPass(t *testing.T) {
	cases(t, 12, 1000)
	scratch := newScratch(t, client("acme", ""))
	rapid.Check(t, func(t *rapid.T) {
		w := scratch.world(t, noon)
		defer discard(w)
		w.api.AddKey(keyOf("acme"), "")
		truth, n := map[string]sum{}, 0
		use := func() {
			for range rapid.IntRange(0, 8).Draw(t, "generations") {
				n++
				created := w.now().Add(-time.Duration(rapid.IntRange(0, 50).Draw(t, "minutes")) * time.Minute)
				tokens, micro := int64(rapid.IntRange(1, 5000).Draw(t, "tokens")), rapid.IntRange(0, 999999).Draw(t, "cost")
				w.api.Add(keyOf("acme"), standin.Generation{ID: fmt.Sprintf("gen-%d", n), CreatedAt: created, Model: "openai/gpt-4.1",
					PromptTokens: tokens, Cost: fmt.Sprintf("0.%06d", micro)})
				raw, day := float64(micro)/1e6, string(store.DayOf(created, time.UTC))
				truth[day] = truth[day].plus(sum{tokens, 1, raw, 1.3 * raw})
			}
		}
		live := func(label string, foreign bool) {
			for range rapid.IntRange(1, 4).Draw(t, label) {
				w.later(time.Duration(rapid.IntRange(1, 40).Draw(t, "hours")) * time.Hour)
				use()
				if foreign && rapid.Bool().Draw(t, "old sync") { // it counts without a ledger
					w.exec(`update client_live_counters set today_tokens = today_tokens + 777, today_requests = today_requests + 1`)
					w.exec(`insert or replace into client_daily_usage values (?1, 'acme', ?2, 777, 1, 0.1, 0.13, 'm', 1, 0, 0)`,
						"acme_"+w.now().Format(time.DateOnly), w.now().Format(time.DateOnly))
					continue
				}
				w.sync()
			}
		}
		live("before", false)
		s := w.open()
		defer s.Close()
		backup := w.path + ".backup"
		defer os.Remove(backup)
		if _, err := s.Backup(context.Background(), store.BackupRequest{Dest: backup, UsageOnly: rapid.Bool().Draw(t, "usage only")}); err != nil {
			t.Fatalf("%v", err)
		}
		then := w.books("acme")
		live("after", true)
		if rapid.Bool().Draw(t, "accident") {
			w.exec("delete from " + rapid.SampledFrom([]string{"processed_generations", "client_daily_usage", "client_live_counters",
				"usage_sync_state", "usage_sync_generations", "client_user_daily_usage"}).Draw(t, "emptied"))
		}
		if _, err := s.RestoreUsage(context.Background(), backup); err != nil {
			t.Fatalf("%v", err)
		}
		w.want("restored", fmt.Sprint(w.books("acme")), fmt.Sprint(then))
		w.later(time.Hour).sync()
		books := w.books("acme")
		for day, want := range truth {
			if got := books.day(day); !got.same(want) {
				t.Errorf("%s: %v, want %v", day, got, want)
			}
			if got := books.ledger[day]; got.requests != want.requests {
				t.Errorf("%s: %d in the ledger, want %d", day, got.requests, want.requests)
			}
		}
		if total := books.total(); total.requests != int64(n) {
			t.Errorf("%d requests in all, want %d", total.requests, n)
		}
	})
}
