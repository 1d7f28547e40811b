package job_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"usage-sync/job/openrouter/standin"
	"usage-sync/job/reconcile"
	"usage-sync/store"
)

// monthOf makes generations of an organisation, spread over thirty days before a time: twelve models, twenty users, some
// without one, and costs with as many decimals as OpenRouter's.
func monthOf(org string, n int, end time.Time) []standin.Generation {
	random := rand.New(rand.NewPCG(1, uint64(len(org))))
	all := make([]standin.Generation, n)
	for i := range all {
		all[i] = standin.Generation{
			ID:        fmt.Sprintf("gen-%s-%d", org, i),
			CreatedAt: end.Add(-time.Duration(random.Int64N(int64(30 * 24 * time.Hour)))).Truncate(time.Microsecond),
			Model:     fmt.Sprintf("author-%d/model-%d", i%3, i%12),
			Cost:      fmt.Sprintf("0.%010d", random.Int64N(200_000_000)),

			PromptTokens: random.Int64N(20_000), CompletionTokens: random.Int64N(2_000),
		}
		if user := random.IntN(21); user > 0 {
			all[i].ExternalUser = fmt.Sprintf("%s-user-%d", org, user)
		}
	}
	return all
}

// TestAMonthReconciles: a month of two organisations in two time zones, read from the analytics in as few queries as their
// row limit allows, is what OpenRouter itself says was used. Planted damage is named, and what can be mended is.
func TestAMonthReconciles(t *testing.T) {
	each := 10_000
	if *long {
		each = 150_000
	}
	now := at("2026-04-01T06:30:00Z") // Warsaw has changed its clocks on 29 March
	w := newWorld(t, now, client("acme", ""), client("globex", "Europe/Warsaw")).manage()
	w.api.NoList(404)
	for _, org := range []string{"acme", "globex"} {
		w.api.Add(keyOf(org), monthOf(org, each, now)...)
	}
	queries := w.requests(func() {
		report, err := w.run(t.Context(), daysBack(30))
		if err != nil || report.Synced() != 2 {
			t.Fatalf("%v, %v", err, report)
		}
	})
	// Each part of the window takes two queries, and each organisation one for the list, some for its hash and the plan.
	if most := 2 * (2*(each/9_000+1) + 6); queries > most {
		t.Errorf("%d requests, want %d at the most", queries, most)
	}

	march := []func(*reconcile.Reconciliation){period(reconcile.Period{From: "2026-03-03", To: "2026-03-31"})}
	all := w.compareAll(march...)
	for i, basis := range []string{"activity", "analytics"} {
		c := all[i]
		if got := strings.Join(c.Basis, " "); c.Err != nil || c.Differences() != 0 || len(c.Rows) != 29*12 || got != basis {
			t.Fatalf("%s: %v, %d rows by %s\n%s", c.Organisation.ID, c.Err, len(c.Rows), got, described(c))
		}
	}
	before := w.books("globex").total()

	ids := w.column(`select min(id) from processed_generations where client_org_id = 'globex' and generation_date > '2026-03-03'
		group by generation_date order by generation_date limit 4`)
	day := func(i int) string { return string(store.Day("2026-03-04").Add(i)) }
	w.damage("globex", ids[0]).sums(-1).forget()
	w.damage("globex", ids[1]).sums(1).again()
	w.api.SetCost(ids[2], "1.25")
	d := w.damage("globex", ids[3])
	w.record(d, 5, "0.75", false)
	want := fmt.Sprintf("%s missing 1, %s extra 1, %s changed 1, %s manual 1", day(0), day(1), day(2), day(3))
	all = w.compareAll(march...)
	if got := causes(all[1]); got != want || all[0].Differences() != 0 || all[1].Differences() != 4 {
		t.Errorf("%v: got %s, want %s\n%s", all[1].Err, got, want, described(all[1]))
	}
	all = w.compareAll(append(march, fix)...)
	want = fmt.Sprintf("%s extra 1, %s manual 1", day(1), day(3))
	if got := causes(all[1]); got != want || all[1].Fixed.Recorded != 1 || all[1].Fixed.Settled != 1 {
		t.Errorf("%v: after --fix got %s, want %s\n%s", all[1].Err, got, want, described(all[1]))
	}
	after := w.check("globex").total()
	if requests := after.requests - before.requests; requests != 2 { // the one counted twice and the one by hand
		t.Errorf("%d requests more than before the damage", requests)
	}
}

// column returns the values of a query with one column.
func (w *world) column(query string) (values []string) {
	w.Helper()
	rows, err := w.db.Query(query)
	if err != nil {
		w.Fatalf("%v", err)
	}
	defer rows.Close()
	for rows.Next() {
		var value string
		if err := rows.Scan(&value); err != nil {
			w.Fatalf("%v", err)
		}
		values = append(values, value)
	}
	return values
}
