package store

import (
	"path/filepath"
	"testing"
	"time"
)

// TestRecordChargeWithoutRequest: what is no request costs all the same: in every table, in its hour, and settled later.
func TestRecordChargeWithoutRequest(t *testing.T) {
	ctx, now := t.Context(), time.Date(2026, 3, 10, 12, 30, 0, 0, time.UTC)
	path := filepath.Join(t.TempDir(), "webui.db")
	if err := CreateDemo(ctx, path, []NewOrganisation{{ID: "acme", Name: "Acme", Key: "sk-or-v1-acme", Rate: 1.3}}, now); err != nil {
		t.Fatal(err)
	}
	s, err := Open(ctx, path, ReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	org := Organisation{ID: "acme", Zone: time.UTC, Rate: DefaultRate}
	record := func(g Generation) {
		t.Helper()
		done, err := s.RecordGenerations(ctx, Batch{Organisation: org, Source: "test", Now: now, Generations: []Generation{g}})
		if err != nil || len(done.Entries) != 1 {
			t.Fatalf("%d entries, %v", len(done.Entries), err)
		}
	}
	search := Generation{ID: "gen-search", CreatedAt: now.Add(-3 * time.Hour), Day: DayOf(now, time.UTC), Cost: Dollar / 50, NoRequest: true}
	record(search)
	record(Generation{ID: "gen-a", CreatedAt: now, Day: DayOf(now, time.UTC), Model: "x/y", Tokens: 5, Cost: Dollar})
	search.Cost *= 2
	record(search)
	books, err := s.Books(ctx, "acme", "2026-03-10", "2026-03-10")
	day := books["2026-03-10"]
	want := Totals{Requests: 1, Tokens: 5, Raw: Dollar * 104 / 100, Cost: Dollar * 1352 / 1000}
	if err != nil || day.Day != want || day.Users != want || day.Models["x/y"].Add(day.Models[unknownModel]) != want || day.Models[unknownModel].Requests != 0 {
		t.Errorf("%+v, %v; want %+v", day, err, want)
	}
	hours, err := s.Hours(ctx, "acme", now.Add(-24*time.Hour))
	if first := (Hour{now.Truncate(time.Hour).Add(-3 * time.Hour), 0, Dollar / 25}); err != nil || len(hours) != 2 || hours[0] != first {
		t.Errorf("%+v, %v; want %+v", hours, err, first)
	}
}
