package store

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"
)

func TestBooks(t *testing.T) {
	noon := time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)
	path := filepath.Join(t.TempDir(), "webui.db")
	if err := CreateDemo(t.Context(), path, []NewOrganisation{{ID: "acme", Name: "Acme", Key: "key-1", Timezone: "Europe/Warsaw", Rate: 1.5},
		{ID: "globex", Name: "Globex", Key: "key-2", Rate: 1}}, noon); err != nil {
		t.Fatal(err)
	}
	s := open(t, path, ReadWrite)
	orgs, err := s.Organisations(t.Context(), nil, time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	record := func(org Organisation, id string, created time.Time, model string, cost Money) {
		t.Helper()
		_, err := s.RecordGenerations(t.Context(), Batch{Organisation: org, Source: "test", Now: noon, Generations: []Generation{
			{ID: id, CreatedAt: created, Model: model, User: "ann", Tokens: 10, Cost: cost, Day: DayOf(created, org.Zone)}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	record(orgs[0], "a", noon, "x/y", Dollar)
	record(orgs[0], "b", noon.Add(-time.Hour), "x/z", 2*Dollar)
	record(orgs[0], "c", time.Date(2026, 2, 28, 23, 30, 0, 0, time.UTC), "x/y", 3*Dollar) // 1 March in Warsaw
	record(orgs[1], "d", noon, "x/y", 5*Dollar)

	t.Run("Books", func(t *testing.T) {
		books, err := s.Books(t.Context(), "acme", "2026-03-01", "2026-03-10")
		if err != nil || len(books) != 2 {
			t.Fatalf("%v, %v", err, books)
		}
		today := books["2026-03-10"]
		both := Totals{Tokens: 20, Requests: 2, Raw: 3 * Dollar, Cost: 9 * Dollar / 2}
		if today.Day != both || today.Users != both || today.Ledger != (Totals{Tokens: 20, Requests: 2, Raw: 3 * Dollar}) ||
			len(today.Models) != 2 || today.Models["x/z"] != (Totals{Tokens: 10, Requests: 1, Raw: 2 * Dollar, Cost: 3 * Dollar}) {
			t.Errorf("today: %+v", today)
		}
		if past := books["2026-03-01"]; past.Day.Raw != 3*Dollar || past.Ledger.Requests != 1 {
			t.Errorf("1 March: %+v", past)
		}
	})
	t.Run("LedgerOf", func(t *testing.T) {
		entries, err := s.LedgerOf(t.Context(), []string{"c", "d", "nothing"})
		if err != nil || len(entries) != 2 {
			t.Fatalf("%v, %v", err, entries)
		}
		for _, e := range entries {
			if e.Manual() || !e.Holds(Generation{Tokens: 10, Cost: e.Cost}) || e.Holds(Generation{Tokens: 10}) {
				t.Errorf("%+v", e)
			}
		}
		if of, err := s.LedgerOfDay(t.Context(), "acme", "2026-03-01"); err != nil || len(of) != 1 || of[0].ID != "c" || of[0].Model != "x/y" || of[0].Cost != 3*Dollar {
			t.Errorf("%v, %+v", err, of)
		}
	})
	between := func(t *testing.T, s *Store) string {
		t.Helper()
		march, err := s.LedgerBetween(t.Context(), "acme", time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC), noon.Add(time.Second))
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(march.Requests, " ", march.Raw)
	}
	t.Run("LedgerBetween", func(t *testing.T) {
		if got := between(t, s); got != "2 3.000000" {
			t.Errorf("got %s", got)
		}
	})
	t.Run("without our own tables", func(t *testing.T) {
		if _, err := s.db.Exec(`drop table usage_sync_generations`); err != nil {
			t.Fatal(err)
		}
		path := s.path
		s := open(t, path, ReadOnly)
		if got := between(t, s); got != "3 6.000000" { // by the day alone
			t.Errorf("got %s", got)
		}
		if of, err := s.LedgerOfDay(t.Context(), "acme", "2026-03-01"); err != nil || len(of) != 1 || of[0].Model != "" || !of[0].CreatedAt.IsZero() {
			t.Errorf("%v, %+v", err, of)
		}
		execute(t, path, `drop table processed_generations`)
		s = open(t, path, ReadOnly)
		books, err := s.Books(t.Context(), "acme", "2026-03-01", "2026-03-10")
		if err != nil || books["2026-03-10"].Day.Requests != 2 || books["2026-03-10"].Ledger != (Totals{}) {
			t.Errorf("%v, %+v", err, books)
		}
		if of, err := s.LedgerOf(t.Context(), []string{"c"}); err != nil || len(of) != 0 || between(t, s) != "0 0.000000" {
			t.Errorf("%v, %+v", err, of)
		}
	})
}
