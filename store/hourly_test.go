package store

import (
	"path/filepath"
	"testing"
	"time"
)

// TestHours: an hour holds what the ledger holds of it, whatever became of its generations.
func TestHours(t *testing.T) {
	ctx := t.Context()
	now := time.Date(2026, 3, 10, 12, 30, 0, 0, time.UTC)
	path := filepath.Join(t.TempDir(), "webui.db")
	if err := CreateDemo(ctx, path, []NewOrganisation{{ID: "acme", Name: "Acme", Key: "sk-or-v1-acme", Rate: 1.3}}, now); err != nil {
		t.Fatal(err)
	}
	s, err := Open(ctx, path, ReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	orgs, err := s.Organisations(ctx, nil, time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	record := func(adopt bool, generations ...Generation) {
		t.Helper()
		for i := range generations {
			generations[i].Day = DayOf(generations[i].CreatedAt, time.UTC)
		}
		b := Batch{Organisation: orgs[0], Source: "test", Now: now, Generations: generations, Adopt: adopt}
		if _, err := s.RecordGenerations(ctx, b); err != nil {
			t.Fatal(err)
		}
	}
	a := Generation{ID: "gen-a", CreatedAt: now.Add(-time.Minute), Model: "m", Cost: 3 * Dollar}
	b := Generation{ID: "gen-b", CreatedAt: now.Add(-20 * time.Minute), Model: "m", Cost: 1}
	old := Generation{ID: "gen-c", CreatedAt: now.Add(-2 * time.Hour), Model: "m", Cost: Dollar}
	record(false, a, b)
	record(true, old)
	record(false, a, b, old, Generation{ID: ManualID(), CreatedAt: now, Model: "m", Cost: 9 * Dollar})
	a.Cost = 2 * Dollar // settled
	record(false, a)
	hours, err := s.Hours(ctx, "acme", now.Add(-24*time.Hour))
	want := []Hour{{now.Truncate(time.Hour).Add(-2 * time.Hour), 1, Dollar}, {now.Truncate(time.Hour), 2, 2*Dollar + 1}}
	if err != nil || len(hours) != 2 || hours[0] != want[0] || hours[1] != want[1] {
		t.Fatalf("%v, %v, want %v", hours, err, want)
	}
	parts, err := s.Parts(ctx, orgs[0], now.Add(-10*time.Minute), now)
	if err != nil || len(parts) != 1 || parts[0] != (Part{"m", "background_sync", 2 * Dollar}) {
		t.Errorf("parts %v, %v", parts, err)
	}
	// The end of a pass much later drops the older one.
	end := now.Add(keepHours - time.Hour)
	run := Run{StartedAt: end, EndedAt: end, OrganisationID: "acme"}
	if err := s.FinishRun(ctx, run, &orgs[0], &Progress{After: State{CoveredTo: end}}); err != nil {
		t.Fatal(err)
	}
	if hours, err := s.Hours(ctx, "acme", time.Time{}); err != nil || len(hours) != 1 {
		t.Errorf("%v, %v", hours, err)
	}
}

// TestHoursOfSettled: what has changed goes into the hour that has the rest, whatever time another source gives the
// generation, and into none where the rest is in none.
func TestHoursOfSettled(t *testing.T) {
	ctx := t.Context()
	now := time.Date(2026, 3, 10, 12, 30, 0, 0, time.UTC)
	path := filepath.Join(t.TempDir(), "webui.db")
	if err := CreateDemo(ctx, path, []NewOrganisation{{ID: "acme", Name: "Acme", Key: "sk-or-v1-acme", Rate: 1.3}}, now); err != nil {
		t.Fatal(err)
	}
	s, err := Open(ctx, path, ReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	orgs, err := s.Organisations(ctx, nil, time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	record := func(source string, g Generation) {
		t.Helper()
		g.Model, g.Day = "m", DayOf(g.CreatedAt, time.UTC)
		b := Batch{Organisation: orgs[0], Source: source, Now: now, Generations: []Generation{g}, Delivered: source == SourceWebhook}
		if done, err := s.RecordGenerations(ctx, b); err != nil || len(done.Entries) != 1 {
			t.Fatalf("%v, %v", done, err)
		}
	}
	hour := now.Truncate(time.Hour)
	record(SourceWebhook, Generation{ID: "gen-old", CreatedAt: hour.Add(-5 * time.Hour), Cost: Dollar})
	if _, err := s.db.ExecContext(ctx, `delete from usage_sync_hours`); err != nil {
		t.Fatal(err)
	}
	record("test", Generation{ID: "gen-old", CreatedAt: hour.Add(-5 * time.Hour), Cost: 2 * Dollar})
	record(SourceWebhook, Generation{ID: "gen-a", CreatedAt: hour.Add(-time.Second), Cost: Dollar})
	record("test", Generation{ID: "gen-a", CreatedAt: hour.Add(time.Second), Cost: 3 * Dollar})
	hours, err := s.Hours(ctx, "acme", now.Add(-24*time.Hour))
	if want := (Hour{hour.Add(-time.Hour), 1, 3 * Dollar}); err != nil || len(hours) != 1 || hours[0] != want {
		t.Errorf("%v, %v, want %v", hours, err, want)
	}
}
