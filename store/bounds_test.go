package store

import (
	"errors"
	"fmt"
	"testing"
)

// TestBounds: no sum leaves what an integer holds unseen. A batch that would is refused as a whole.
func TestBounds(t *testing.T) {
	t.Run("of a generation", func(t *testing.T) {
		b := newKeptBooks(t)
		for cost, ok := range map[Money]bool{1000 * Dollar: true, 1000*Dollar + 1: false, -1000 * Dollar: true, -1000*Dollar - 1: false} {
			if err := b.CheckBounds(Generation{Cost: cost}); (err == nil) != ok || (err != nil && !errors.Is(err, ErrBound)) {
				t.Errorf("$%s: %v", cost, err)
			}
		}
		b.AllowCost(2000 * Dollar)
		if err := b.CheckBounds(Generation{Cost: 1999 * Dollar}); err != nil {
			t.Error(err)
		}
		if b.CheckBounds(Generation{Tokens: 1_000_000_000}) != nil || b.CheckBounds(Generation{Tokens: 1_000_000_001}) == nil {
			t.Error("a billion tokens are believed, and no more")
		}
	})
	t.Run("of a day", func(t *testing.T) {
		for what, g := range map[string]Generation{"tokens": {Tokens: 1e15}, "cost": {Cost: 1_000_000 * Dollar}} {
			b := newKeptBooks(t)
			var err error
			for n := 0; n < 400 && err == nil; n++ {
				one := b.on(fmt.Sprint("gen-", n), g.Cost, 0)
				one.Tokens = g.Tokens
				_, err = b.RecordGenerations(b.Context(), Batch{Organisation: b.org, Source: "generations", Now: b.now,
					Generations: []Generation{one}})
			}
			if !errors.Is(err, ErrMoney) {
				t.Errorf("%s: %v", what, err)
			}
			books, err := b.Books(b.Context(), "acme", "2026-03-09", "2026-03-09")
			if day := books["2026-03-09"].Day; err != nil || day.Raw < 0 || day.Tokens < 0 || day.Cost < 0 {
				t.Errorf("%s: the day holds %+v, %v", what, day, err)
			}
		}
	})
}

// TestAdoptedDay: the first batch that meets a day which others have left in a state that nobody can tell keeps their rows.
// What it counts itself is not taken for theirs.
func TestAdoptedDay(t *testing.T) {
	b := newKeptBooks(t)
	b.record("generations", b.on("old", Dollar, 0))
	execute(t, b.path, `delete from usage_sync_days`, `delete from usage_sync_books`,
		`update client_model_daily_usage set total_requests = 0, total_tokens = 3`)
	b.record("generations", b.on("new", 2*Dollar, 0))
	adopted := query[string](t, b.Store, `select id || adopted from usage_sync_generations order by id`)
	if fmt.Sprint(adopted) != "[new0 old1]" {
		t.Errorf("adopted: %v", adopted)
	}
	if differing, err := b.CheckLedger(t.Context(), b.org, b.now, []Day{"2026-03-09"}, ByEntry); err != nil || len(differing) > 0 {
		t.Errorf("%v, %v", differing, err)
	}
}
