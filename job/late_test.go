package job_test

import (
	"fmt"
	"testing"
	"time"

	"usage-sync/job"
	"usage-sync/store"
)

// TestLateRows: a row that appears up to 96 hours after its time is recorded by an installation with the defaults, without
// anybody asking. Passes are made every eight hours over a month's end; rows are made around each midnight and appear late.
func TestLateRows(t *testing.T) {
	start, end := at("2026-05-27T12:00:00Z"), at("2026-06-07T12:30:00Z") // a Sunday: no week begins after 1 June
	for _, source := range []string{job.SourceGenerations, job.SourceAnalytics} {
		for _, zone := range []string{"", "Europe/Warsaw", "Asia/Kolkata"} {
			t.Run(source+" "+zone, func(t *testing.T) {
				w := newWorld(t, start, client("acme", zone)).manage()
				location, err := time.LoadLocation(zone)
				if err != nil {
					t.Fatal(err)
				}
				want, rows := map[string]int64{}, int64(0)
				for day := store.Day("2026-05-28"); day <= "2026-06-02"; day = day.Add(1) {
					midnight := day.Start(location)
					for i, delay := range []time.Duration{0, 1, 10, 25, 50, 95, 96} {
						for j, off := range []time.Duration{-40 * time.Minute, -time.Minute, time.Minute, 40 * time.Minute, 11 * time.Hour} {
							g := generation(fmt.Sprintf("g-%s-%d-%d", day, i, j), midnight.Add(off))
							g.VisibleFrom = g.CreatedAt.Add(delay * time.Hour)
							w.api.Add(keyOf("acme"), g)
							want[string(store.DayOf(g.CreatedAt, location))]++
							rows++
						}
					}
				}
				for ; w.now().Before(end); w.later(8 * time.Hour) {
					w.sync(from(source))
				}
				b := w.wantTotal("acme", 100*rows, rows, 0.01*float64(rows))
				for day, requests := range want {
					if got := b.day(day).requests; got != requests {
						t.Errorf("%s has %d requests, want %d", day, got, requests)
					}
				}
			})
		}
	}
}

// TestLateRowsAfterAnOutage: what appeared while no pass was made is as late as ever.
func TestLateRowsAfterAnOutage(t *testing.T) {
	for _, source := range []string{job.SourceGenerations, job.SourceAnalytics} {
		t.Run(source, func(t *testing.T) {
			w := newWorld(t, at("2026-05-20T12:00:00Z"), client("acme", "")).manage()
			w.sync(from(source))
			w.at(at("2026-05-25T00:02:00Z")).sync(from(source)) // a Monday: the whole fetch of its week
			late := generation("late", at("2026-05-21T00:10:00Z"))
			late.VisibleFrom = late.CreatedAt.Add(96 * time.Hour)
			w.api.Add(keyOf("acme"), late)
			w.at(at("2026-05-30T12:00:00Z")).sync(from(source))
			w.wantTotal("acme", 100, 1, 0.01)
		})
	}
}

// TestLaterThanLate: once a week a pass reaches to the limit of the source, at the cost of any other, and of one request more
// where it finds something in a day that is over.
func TestLaterThanLate(t *testing.T) {
	// The list is read to its end where it holds nothing older.
	weekly := map[string]string{job.SourceGenerations: listAlone + " " + listAlone, job.SourceAnalytics: analyticsAlone + squaring}
	for source, requests := range map[string]string{job.SourceGenerations: listAlone, job.SourceAnalytics: analyticsAlone} {
		t.Run(source, func(t *testing.T) {
			w := newWorld(t, at("2026-05-01T12:00:00Z"), client("acme", "")).manage()
			w.sync(from(source))
			late := generation("late", at("2026-05-02T12:00:00Z"))
			late.VisibleFrom = at("2026-05-19T12:00:00Z") // a Tuesday
			w.api.Add(keyOf("acme"), late)
			for w.at(at("2026-05-01T13:00:00Z")); w.now().Before(at("2026-05-25T00:00:00Z")); w.later(12 * time.Hour) {
				w.wantAsked(source, requests, from(source))
			}
			w.wantTotal("acme", 0, 0, 0)
			w.at(at("2026-05-25T00:10:00Z")).wantAsked(source, weekly[source], from(source)) // the next Monday
			w.wantTotal("acme", 100, 1, 0.01)
			w.want("day", w.text(`select cast(generation_date as text) from processed_generations`), "2026-05-02")
		})
	}
}

// TestLateRowsBeforeTheFirstPass: what lies before the first pass was left alone on purpose, and may have been counted by
// others. However far a pass reaches, it stays so.
func TestLateRowsBeforeTheFirstPass(t *testing.T) {
	for _, source := range []string{job.SourceGenerations, job.SourceAnalytics} {
		t.Run(source, func(t *testing.T) {
			w := newWorld(t, at("2026-05-14T12:00:00Z"), client("acme", "")).manage()
			w.exec(`insert into client_daily_usage values ('acme_2026-05-12', 'acme', '2026-05-12', 100, 1, 0.01, 0.013, 'x', 1, 1, 1)`)
			w.api.Add(keyOf("acme"), generation("counted", at("2026-05-12T12:00:00Z")), generation("old", at("2026-05-11T12:00:00Z")),
				generation("edge", at("2026-05-12T23:59:59Z")), generation("first", at("2026-05-13T00:00:00Z")))
			db := w.open() // the first pass of an earlier version has looked no further back than this
			err := db.SetState(t.Context(), "acme", store.State{CoveredFrom: at("2026-05-13T00:00:00Z"), CoveredTo: at("2026-05-13T00:00:00Z")}, w.now())
			_ = db.Close()
			if err != nil {
				t.Fatal(err)
			}
			for ; w.now().Before(at("2026-05-27T12:00:00Z")); w.later(9 * time.Hour) {
				w.sync(from(source))
			}
			w.want("ledger", w.text(`select group_concat(id) from processed_generations`), "first")
			w.want("the day before", w.text(`select total_requests from client_daily_usage where usage_date = '2026-05-12'`), "1")
			if from := w.state("acme").CoveredFrom; !from.Equal(at("2026-05-13T00:00:00Z")) {
				t.Errorf("covered from %s", from)
			}
			// Whoever asks for those days still decides about them.
			o := w.pass(from(source), daysBack(20))
			if o.Err == nil {
				t.Error("a day that others have counted is counted again")
			}
		})
	}
}
