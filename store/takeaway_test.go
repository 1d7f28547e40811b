package store

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// newTwo is a database of two organisations at noon.
func newTwo(t *testing.T) (s *Store, acme, globex Organisation, now time.Time) {
	t.Helper()
	now = time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)
	path := filepath.Join(t.TempDir(), "webui.db")
	clients := []NewOrganisation{{ID: "acme", Name: "Acme", Key: "sk-or-v1-acme", Rate: 1.3}, {ID: "globex", Name: "Globex", Key: "sk-or-v1-globex", Rate: 2}}
	if err := CreateDemo(t.Context(), path, clients, now); err != nil {
		t.Fatal(err)
	}
	acme, globex = Organisation{ID: "acme", Name: "Acme", Zone: time.UTC}, Organisation{ID: "globex", Name: "Globex", Zone: time.UTC}
	return open(t, path, ReadWrite), acme, globex, now
}

// totals is what every table holds of an organisation, and its hours.
func totals(t *testing.T, s *Store, org string) string {
	t.Helper()
	var parts []string
	for _, from := range []string{"client_daily_usage", "client_user_daily_usage", "client_model_daily_usage"} {
		parts = append(parts, query[string](t, s, `select coalesce(sum(total_requests), 0) || ' ' || coalesce(sum(total_tokens), 0) || ' ' ||
			round(coalesce(sum(markup_cost), 0), 9) from `+from+` where client_org_id = ?`, org)...)
	}
	parts = append(parts, query[string](t, s, `select coalesce(sum(requests), 0) || ' ' || coalesce(sum(raw_cost), 0) from usage_sync_hours where client_org_id = ?`, org)...)
	parts = append(parts, query[string](t, s, `select coalesce(sum(total_tokens), 0) || ' ' || round(coalesce(sum(total_cost), 0), 9) from processed_generations where client_org_id = ?`, org)...)
	return strings.Join(parts, "; ")
}

// TestTakeAwayDelivered: what was delivered and taken away leaves every table as if it had never come, stays known to later
// deliveries, and is counted by the organisation whose pass lists it.
func TestTakeAwayDelivered(t *testing.T) {
	s, acme, globex, now := newTwo(t)
	made := now.AddDate(0, 0, -1)
	one := func(id, user string, n int64) Generation {
		return Generation{ID: id, CreatedAt: made, Day: DayOf(made, time.UTC), Model: "x/y", User: user, Tokens: n, Cost: Money(n) * Dollar}
	}
	record := func(org Organisation, source string, generations ...Generation) Recorded {
		t.Helper()
		done, err := s.RecordGenerations(t.Context(), Batch{Organisation: org, Source: source, Now: now, Generations: generations,
			Delivered: source == SourceWebhook})
		if err != nil {
			t.Fatal(err)
		}
		return done
	}
	record(acme, "analytics", one("listed", "ann", 1))
	record(acme, SourceWebhook, one("confirmed", "ann", 2))
	record(acme, "analytics", one("confirmed", "ann", 2))
	want := totals(t, s, "acme")
	record(acme, SourceWebhook, one("moved", "ann", 4), one("foreign", "bob", 8))
	if got, err := s.Unlisted(t.Context(), "acme", made, made.Add(time.Second)); err != nil || len(got) != 2 {
		t.Fatalf("not listed: %v, %v; want 2", got, err)
	}
	take := TakeAway{Organisation: acme, Now: now, Reasons: map[string]string{"moved": "m", "foreign": "f", "listed": "no", "confirmed": "no"},
		Record: Batch{Organisation: acme, Source: "analytics", Now: now}}
	taken, _, err := s.TakeAwayDelivered(t.Context(), take)
	if err != nil || len(taken) != 2 {
		t.Fatalf("taken away: %v, %v; want 2", taken, err)
	}
	if diff := cmp.Diff(want, totals(t, s, "acme")); diff != "" {
		t.Errorf("not as if they had never come (-want +got):\n%s", diff)
	}
	found, err := s.KeepBooks(t.Context(), acme, now, []Day{"2026-03-09"})
	if err != nil || !found.IsNone() {
		t.Errorf("the books: %+v, %v", found, err)
	}
	if notes := query[string](t, s, `select note from usage_sync_runs where source = 'reconcile' order by id`); fmt.Sprint(notes) !=
		"[taken away: foreign of 2026-03-09: f taken away: moved of 2026-03-09: m]" {
		t.Errorf("noted: %q", notes)
	}
	if again := record(acme, SourceWebhook, one("moved", "ann", 4), one("foreign", "bob", 8)); again.Duplicates != 2 || len(again.Entries) > 0 {
		t.Errorf("delivered again: %+v", again)
	}
	if diff := cmp.Diff(want, totals(t, s, "acme")); diff != "" {
		t.Errorf("delivered again (-want +got):\n%s", diff)
	}
	for _, source := range []string{SourceWebhook, "analytics"} { // to whom it belongs, by either way
		record(globex, source, one("foreign", "bob", 8))
	}
	if got := totals(t, s, "globex"); !strings.HasPrefix(got, "1 8 16.0; ") {
		t.Errorf("whose it is has %s", got)
	}
	record(acme, "analytics", one("moved", "ann", 4)) // listed after all
	if got := totals(t, s, "acme"); !strings.HasPrefix(got, "3 7 9.1; 3 7 9.1; 3 7 9.1; 3 ") {
		t.Errorf("listed after all: %s", got)
	}
	if again := record(acme, SourceWebhook, one("moved", "ann", 4)); len(again.Entries) > 0 {
		t.Errorf("counted twice: %+v", again)
	}
}

// TestMovedInOneTransaction: what is recorded in the place of a delivery is, or nothing of both is done.
func TestMovedInOneTransaction(t *testing.T) {
	s, acme, _, now := newTwo(t)
	made := now.AddDate(0, 0, -1)
	g := Generation{ID: "delivered", CreatedAt: made, Day: DayOf(made, time.UTC), Model: "x/y", Tokens: 1, Cost: Dollar}
	if _, err := s.RecordGenerations(t.Context(), Batch{Organisation: acme, Source: SourceWebhook, Now: now, Delivered: true,
		Generations: []Generation{g}}); err != nil {
		t.Fatal(err)
	}
	want := totals(t, s, "acme")
	g.ID = "listed"
	take := TakeAway{Organisation: acme, Now: now, Reasons: map[string]string{"delivered": "moved"},
		Record: Batch{Organisation: acme, Source: "analytics", Now: now, Generations: []Generation{g}}}
	application(t, s.Path(), `create trigger broken before insert on usage_sync_runs begin select raise(abort, 'broken'); end`)
	if _, _, err := s.TakeAwayDelivered(t.Context(), take); err == nil {
		t.Fatal("no error")
	}
	if got := query[int](t, s, `select count(*) from processed_generations where id = 'listed'`); got[0] != 0 || totals(t, s, "acme") != want {
		t.Error("half of it is done")
	}
	application(t, s.Path(), `drop trigger broken`)
	if _, done, err := s.TakeAwayDelivered(t.Context(), take); err != nil || len(done.Entries) != 1 {
		t.Fatalf("recorded %+v, %v", done.Entries, err)
	}
	if got := totals(t, s, "acme"); got != want {
		t.Errorf("moved: %s, want %s", got, want)
	}
}
