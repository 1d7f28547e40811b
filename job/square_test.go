package job_test

import (
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"usage-sync/job"
	"usage-sync/job/openrouter/standin"
	"usage-sync/job/reconcile"
	"usage-sync/store"
)

// embeddings are n generations of a day that cost 0.3 micro-dollars each.
func embeddings(n int, day time.Time) []standin.Generation {
	all := make([]standin.Generation, n)
	step := 23 * time.Hour / time.Duration(n)
	for i := range all {
		all[i] = standin.Generation{ID: fmt.Sprintf("gen-e%d", i), CreatedAt: day.Add(time.Duration(i) * step), PromptTokens: 15,
			Model: "openai/text-embedding-3-small", ExternalUser: "ann", Cost: "0.0000003"}
	}
	return all
}

// TestEmbeddingsAreSquared: a day of generations of which the analytics show each as nothing costs what OpenRouter says of it in
// all, once, whatever is repeated, and with one request more than other days.
func TestEmbeddingsAreSquared(t *testing.T) {
	n := 3_000
	if *long {
		n = 200_000
	}
	for _, zone := range []string{"UTC", "Europe/Warsaw"} {
		t.Run(zone, func(t *testing.T) {
			w := newWorld(t, at("2026-05-13T12:00:00Z"), client("acme", zone)).manage()
			location, _ := time.LoadLocation(zone)
			w.sync(from(job.SourceAnalytics))
			w.api.Add(keyOf("acme"), embeddings(n, store.Day("2026-05-13").Start(location))...)
			first := w.at(at("2026-05-14T01:00:00Z")).sync(from(job.SourceAnalytics))
			want, most := 0.0000003*float64(n), 0.0000005
			if zone != "UTC" {
				most *= 24 // each hour is rounded
			}
			wantCost := func(when string) {
				t.Helper()
				b := w.check("acme")
				if got := b.day("2026-05-13"); math.Abs(got.raw-want) > most+1e-9 || got.requests != int64(n) || got.tokens != 15*int64(n) {
					t.Errorf("%s: got %s, want $%f", when, got, want)
				}
				w.want("users", w.text(`select unique_users from client_daily_usage where usage_date = '2026-05-13'`), "1")
			}
			wantCost("squared")
			if note := first.Run.Note; !strings.Contains(note, "remainder of rounding booked: 2026-05-13 $0.") || first.Run.Raw == 0 {
				t.Errorf("the history says %q, $%s", note, first.Run.Raw)
			}
			const two = "analytics/query analytics/query"
			steady := func(options ...option) {
				t.Helper()
				options = append(options, from(job.SourceAnalytics))
				if *long { // more rows than one answer holds
					w.sync(options...)
					return
				}
				w.wantAsked(job.SourceAnalytics, two, options...)
			}
			for range 2 {
				w.later(10 * time.Minute)
				steady(full)
				wantCost("again")
			}
			w.at(at("2026-05-15T01:00:00Z"))
			steady()
			wantCost("the day after")
			over := period(reconcile.Period{From: "2026-05-13", To: "2026-05-14"})
			if c := w.wantEqual(over); c.Remainder.Days != 1 || math.Abs(c.Remainder.Raw.Float()-want) > most {
				t.Errorf("%+v", c.Remainder)
			}
			if zone != "UTC" {
				return
			}
			w.sync(from(job.SourceGenerations), full) // which knows all exactly
			wantCost("from the list")
			w.want("remainder", fmt.Sprint(w.books("acme").remainder["2026-05-13"].raw), "0")
			w.wantEqual(over)
		})
	}
}

// TestAMonthSquares: a month of which half costs less than a micro-dollar is what OpenRouter says of each day and model, and
// reconciles without a difference.
func TestAMonthSquares(t *testing.T) {
	n := 10_000
	if *long {
		n = 300_000
	}
	now := at("2026-04-01T06:30:00Z")
	w := newWorld(t, now, client("acme", "")).manage()
	w.api.NoList(404)
	all := monthOf("acme", n, now)
	for i := range all {
		if i%2 == 0 {
			all[i].Cost = fmt.Sprintf("0.0000%08d", (i*7919)%10_000) // up to a micro-dollar
		}
	}
	w.api.Add(keyOf("acme"), all...)
	w.sync(daysBack(30))
	w.check("acme")
	type key struct{ day, model string }
	want := map[key]float64{}
	for _, g := range all {
		var cost float64
		if _, err := fmt.Sscan(g.Cost, &cost); err != nil {
			t.Fatal(err)
		}
		want[key{g.CreatedAt.Format(time.DateOnly), g.Model}] += cost
	}
	rows, err := w.db.Query(`select cast(usage_date as text), model_name, raw_cost from client_model_daily_usage
		where usage_date between '2026-03-03' and '2026-03-31'`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	met := 0
	for ; rows.Next(); met++ {
		var k key
		var got float64
		if err := rows.Scan(&k.day, &k.model, &got); err != nil {
			t.Fatal(err)
		}
		if math.Abs(got-want[k]) > 0.0000005+1e-9 {
			t.Errorf("%s %s: got $%.9f, want $%.9f", k.day, k.model, got, want[k])
		}
	}
	if met != 29*12 {
		t.Errorf("%d rows", met)
	}
	w.wantEqual(period(reconcile.Period{From: "2026-03-03", To: "2026-03-31"}), tolerating(store.Dollar/1_000_000))
}

// TestSquareIsNoGuess: a day of which the totals are not those of what is recorded gets no remainder, until it is complete.
func TestSquareIsNoGuess(t *testing.T) {
	w := newWorld(t, at("2026-05-13T12:00:00Z"), client("acme", "")).manage()
	w.sync(from(job.SourceAnalytics))
	all := embeddings(100, at("2026-05-13T00:30:00Z"))
	all[50].VisibleFrom = at("2026-05-14T12:00:00Z")
	w.api.Add(keyOf("acme"), all...)
	w.api.Add(keyOf("acme"), standin.Generation{ID: "gen-search", CreatedAt: at("2026-05-13T11:00:00Z"), Model: "openrouter/web-search",
		Tool: true, NoTokens: true, Cost: "0.01"}, standin.Generation{ID: "gen-e7", CreatedAt: all[7].CreatedAt, Model: "openrouter/web-search",
		Tool: true, NoTokens: true, Cost: "0.02"})
	raw := func() string {
		return w.text(`select printf('%.7f', sum(raw_cost)) from client_daily_usage where usage_date = '2026-05-13'`)
	}
	w.at(at("2026-05-14T00:10:00Z")).sync(from(job.SourceAnalytics))
	w.want("squared without the late one", raw(), "0.0300300") // 99 * 0.0000003 is 0.0000297
	w.at(at("2026-05-15T00:10:00Z")).sync(from(job.SourceAnalytics))
	w.want("squared anew", raw(), "0.0300300")
	w.api.Add(keyOf("acme"), embeddingsAfter(all, 20)...)
	w.api.Play(standin.Quirks{RolledUpWithout: "openai/text-embedding-3-small"})
	w.at(at("2026-05-16T00:10:00Z")).sync(from(job.SourceAnalytics))
	w.want("totals that leave something out", raw(), "0.0300300")
	w.wantLog("differs by more than rounding")
	w.api.Play(standin.Quirks{})
	w.at(at("2026-05-17T00:10:00Z")).sync(from(job.SourceAnalytics))
	w.want("complete", raw(), "0.0300360")
	w.wantEqual(period(reconcile.Period{From: "2026-05-13", To: "2026-05-16"}))
}

// embeddingsAfter are n more, made after others.
func embeddingsAfter(all []standin.Generation, n int) []standin.Generation {
	more := embeddings(n, all[len(all)-1].CreatedAt.Add(time.Second))
	for i := range more {
		more[i].ID += "-more"
		more[i].CreatedAt = all[len(all)-1].CreatedAt.Add(time.Duration(i) * time.Millisecond)
	}
	return more
}

// TestActivityThatLeavesOut: what the activity leaves out is no usage too much, where the analytics have it.
func TestActivityThatLeavesOut(t *testing.T) {
	w := threeDays(t, "", job.SourceAnalytics)
	w.api.Play(standin.Quirks{ActivityWithout: "anthropic/claude-sonnet-4"})
	if c := w.wantEqual(); strings.Join(c.Basis, " ") != "activity analytics" {
		t.Errorf("by %s", c.Basis)
	}
	w.damage("acme", "g-30").sums(1).again()
	if c := w.compare(); c.Differences() == 0 {
		t.Error("what is too much goes unnoticed")
	}
}

// TestActivityThatCountsMore: whether the activity counts runs of tools as requests is not known. What the analytics agree
// with is no difference.
func TestActivityThatCountsMore(t *testing.T) {
	w := threeDays(t, "", job.SourceAnalytics)
	requests := regexp.MustCompile(`"requests":(\d+)`)
	w.http.Config.Handler = http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		recorder := httptest.NewRecorder()
		w.api.ServeHTTP(recorder, r)
		text := recorder.Body.String()
		if strings.HasSuffix(r.URL.Path, "/activity") {
			text = requests.ReplaceAllString(text, `"requests":9$1`)
		}
		out.WriteHeader(recorder.Code)
		_, _ = io.WriteString(out, text)
	})
	if c := w.wantEqual(); strings.Join(c.Basis, " ") != "activity analytics" {
		t.Errorf("by %s", c.Basis)
	}
	w.damage("acme", "g-30").sums(-1).forget()
	if c := w.compare(); c.Differences() == 0 || len(c.Causes) != 1 || c.Causes[0].Kind != reconcile.CauseMissing {
		t.Errorf("what is missing goes unnoticed: %s", described(c))
	}
}

// TestExactDayIsSquared: a day of which every cost is known exactly, as deliveries tell it, is one of which a pass finds that
// OpenRouter's own figures agree. Nobody has to reconcile it by hand before its statement can be closed.
func TestExactDayIsSquared(t *testing.T) {
	w := newWorld(t, at("2026-05-13T10:00:00Z"), client("acme", "")).manage()
	w.api.Add(keyOf("acme"), generations("gen", 5, w.now().Add(-time.Hour), time.Minute)...)
	w.sync(from(job.SourceGenerations))
	unreconciled := func() []store.Day {
		s := w.open()
		defer s.Close()
		orgs, err := s.Organisations(t.Context(), nil, time.UTC)
		if err != nil {
			t.Fatal(err)
		}
		days, err := s.Unreconciled(t.Context(), orgs[0], w.now(), store.Span{First: "2026-05-13", Last: "2026-05-13"})
		if err != nil {
			t.Fatal(err)
		}
		return days
	}
	w.at(at("2026-05-14T01:00:00Z"))
	w.api.Play(standin.Quirks{RolledUpWithout: generation("gen", w.now()).Model})
	w.sync(from(job.SourceAnalytics))
	if got := unreconciled(); len(got) != 1 {
		t.Errorf("OpenRouter's total leaves a model out, and %v are to be reconciled", got)
	}
	w.api.Play(standin.Quirks{})
	w.at(at("2026-05-15T01:00:00Z")).sync(from(job.SourceAnalytics))
	if got := unreconciled(); len(got) != 0 {
		t.Errorf("to be reconciled: %v", got)
	}
	w.wantTotal("acme", 500, 5, 0.05)
	queries := w.requests(func() { w.later(24 * time.Hour).sync(from(job.SourceAnalytics)) })
	if quiet := w.requests(func() { w.later(24 * time.Hour).sync(from(job.SourceAnalytics)) }); quiet != queries || quiet != 2 {
		t.Errorf("%d and %d requests of the first pass of a day, want 2", queries, quiet)
	}
}
