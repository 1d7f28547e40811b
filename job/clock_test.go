package job_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/mattn/go-sqlite3"
	"pgregory.net/rapid"

	"usage-sync/job"
	"usage-sync/job/openrouter/standin"
	"usage-sync/store"
)

// off is the clock of a machine that is wrong by some time.
func (w *world) off(by time.Duration) option {
	return clock(func() time.Time { return w.now().Add(by) })
}

// putBack makes the database that of a copy, in a transaction of SQLite's own as its shell's .restore does.
func (w *world) putBack(from string) {
	w.Helper()
	source, err := sql.Open("sqlite3", "file:"+from)
	if err != nil {
		w.Fatalf("%v", err)
	}
	defer source.Close()
	raw := func(db *sql.DB, fn func(*sqlite3.SQLiteConn) error) error {
		conn, err := db.Conn(context.Background())
		if err != nil {
			return err
		}
		defer conn.Close()
		return conn.Raw(func(c any) error { return fn(c.(*sqlite3.SQLiteConn)) })
	}
	err = raw(source, func(from *sqlite3.SQLiteConn) error {
		return raw(w.db, func(to *sqlite3.SQLiteConn) error {
			backup, err := to.Backup("main", from, "main")
			if err != nil {
				return err
			}
			for done := false; !done && err == nil; {
				if done, err = backup.Step(-1); err != nil && strings.Contains(err.Error(), "locked") {
					err = nil
				}
			}
			return errors.Join(err, backup.Finish())
		})
	})
	if err != nil {
		w.Fatalf("putting back: %v", err)
	}
}

// at1970 is the clock of a machine that has just been switched on.
func at1970() time.Time { return at("1971-01-01T00:00:00Z") }

var bothSources = []string{job.SourceGenerations, job.SourceAnalytics}

// TestClockAheadAfterAnOutage: a host is off for five days, boots with a clock thirty days ahead, makes a pass, and its clock
// is set right.
func TestClockAheadAfterAnOutage(t *testing.T) {
	for _, source := range bothSources {
		for _, ahead := range []time.Duration{30 * 24 * time.Hour, 400 * 24 * time.Hour} {
			t.Run(fmt.Sprintf("%s %s", source, ahead), func(t *testing.T) {
				w := newWorld(t, noon, client("acme", "")).manage()
				w.sync(from(source))
				w.later(5 * 24 * time.Hour)
				w.api.Add(keyOf("acme"), generations("g", 120, w.now().Add(-time.Minute), time.Hour)...)
				o := w.sync(from(source), w.off(ahead))
				if d := o.Run.EndedAt.Sub(w.now()).Abs(); d > time.Minute {
					t.Errorf("the run ends at %s by the server's clock of %s", o.Run.EndedAt, w.now())
				}
				if n := strings.Count(w.logs.String(), "clock is"); n != 1 {
					t.Errorf("%d words about the clock, want 1:\n%s", n, w.logs)
				}
				if to := w.state("acme").CoveredTo; to.After(w.now()) {
					t.Errorf("covered to %s at %s", to, w.now())
				}
				w.wantTotal("acme", 12000, 120, 1.2)
				w.later(time.Hour)
				w.sync(from(source))
				w.wantTotal("acme", 12000, 120, 1.2)
			})
		}
	}
}

// TestClockIn1971: the first pass is made with a clock that was never set. What the Python sync has counted stays a question.
func TestClockIn1971(t *testing.T) {
	for _, source := range bothSources {
		t.Run(source, func(t *testing.T) {
			w := newWorld(t, noon, client("acme", "")).manage()
			all := generations("g", 23, noon.Add(-time.Hour), 24*time.Hour)
			w.api.Add(keyOf("acme"), all...)
			for _, g := range all {
				day := g.CreatedAt.Format(time.DateOnly)
				w.exec(`insert into client_daily_usage values (?, 'acme', ?, 100, 1, 0.01, 0.013, 'x', 1, ?, ?)`, "acme_"+day, day,
					g.CreatedAt.Unix(), g.CreatedAt.Unix())
			}
			w.pass(from(source), clock(at1970))
			for range 3 {
				w.later(time.Hour)
				w.pass(from(source))
			}
			w.want("ledger", w.text(`select count(*) from processed_generations`), "0")
			w.want("requests", w.text(`select sum(total_requests) from client_daily_usage`), "23")
		})
	}
}

// TestNoDate: without a server that says what time it is, a clock that has jumped against the last pass changes nothing.
func TestNoDate(t *testing.T) {
	start := func(t *testing.T) *world {
		w := newWorld(t, noon, client("acme", "")).manage()
		w.api.Play(standin.Quirks{NoDate: true, CachedAt: "-"})
		w.api.Add(keyOf("acme"), generation("first", noon.Add(-time.Hour)))
		return w
	}
	for _, source := range bothSources {
		for name, wrong := range map[string]func(w *world) option{
			"backwards":   func(w *world) option { return w.off(-2 * time.Hour) },
			"far forward": func(w *world) option { return w.off(31 * 24 * time.Hour) },
			"1971":        func(*world) option { return clock(at1970) },
		} {
			t.Run(source+" "+name, func(t *testing.T) {
				w := start(t)
				w.sync(from(source))
				before := w.state("acme")
				w.later(30 * time.Minute)
				w.api.Add(keyOf("acme"), generation("second", w.now().Add(-time.Minute)))
				o := w.pass(from(source), wrong(w))
				if job.KindOf(o.Err) != job.KindClock {
					t.Errorf("got %v", o.Err)
				}
				if after := w.state("acme"); after != before {
					t.Errorf("the state changes from %v to %v", before, after)
				}
				w.wantTotal("acme", 100, 1, 0.01)
				w.later(time.Hour)
				w.sync(from(source))
				w.wantTotal("acme", 200, 2, 0.02)
			})
		}
		t.Run(source+" first pass in 1971", func(t *testing.T) {
			w := start(t)
			if o := w.pass(from(source), clock(at1970)); job.KindOf(o.Err) != job.KindClock {
				t.Errorf("got %v", o.Err)
			}
			w.sync(from(source))
			w.wantTotal("acme", 100, 1, 0.01)
		})
		t.Run(source+" a little forward", func(t *testing.T) {
			w := start(t)
			w.sync(from(source))
			w.later(time.Minute)
			w.sync(from(source), w.off(10*24*time.Hour))
			w.later(9 * 24 * time.Hour)
			w.api.Add(keyOf("acme"), generations("g", 48, w.now(), time.Hour)...)
			w.pass(from(source))
			w.later(2 * 24 * time.Hour)
			w.sync(from(source))
			w.wantTotal("acme", 4900, 49, 0.49)
		})
	}
	t.Run("a person vouches for the clock", func(t *testing.T) {
		w := start(t)
		w.sync()
		w.later(40 * 24 * time.Hour)
		if o := w.pass(); job.KindOf(o.Err) != job.KindClock {
			t.Errorf("got %v", o.Err)
		}
		w.sync(full)
		w.sync()
	})
}

// TestServersClockIsWrong: a gateway whose clock was never set lists rows that are younger than it.
func TestServersClockIsWrong(t *testing.T) {
	w := newWorld(t, noon, client("acme", ""))
	w.api.Add(keyOf("acme"), generation("g", noon.Add(-time.Hour)))
	w.sync()
	before := w.state("acme")
	w.at(at1970())
	o := w.pass(clock(func() time.Time { return noon.Add(time.Hour) }))
	if after := w.state("acme"); job.KindOf(o.Err) != job.KindClock || after != before {
		t.Errorf("got %v; the state was %v, is %v", o.Err, before, after)
	}
}

// TestFailedFirstPasses: passes are installed on a Friday and fail until Monday. Usage of the weekend is billed.
func TestFailedFirstPasses(t *testing.T) {
	for _, source := range bothSources {
		for name, fault := range map[string]standin.Fault{"no entry": standin.Status(401, ""), "nonsense": standin.Body(200, "application/json", "{")} {
			t.Run(source+" "+name, func(t *testing.T) {
				w := newWorld(t, at("2026-05-15T16:00:00Z"), client("acme", "")).manage() // a Friday
				want := at("2026-05-14T00:00:00Z")
				w.api.Always(&fault)
				for ; w.now().Before(at("2026-05-18T09:00:00Z")); w.later(10 * time.Hour) {
					if o := w.pass(from(source), w.off(-40*24*time.Hour)); o.Err == nil {
						t.Fatal("no error")
					}
				}
				w.api.Always(nil)
				all := generations("g", 400, w.now().Add(-time.Minute), 15*time.Minute)
				w.api.Add(keyOf("acme"), all...)
				w.sync(from(source))
				n := int64(0)
				for _, g := range all {
					if !g.CreatedAt.Before(want) {
						n++
					}
				}
				w.wantTotal("acme", 100*n, n, 0.01*float64(n))
				if covered := w.state("acme").CoveredFrom; !covered.Equal(want) {
					t.Errorf("covered from %s, want %s", covered, want)
				}
			})
		}
	}
}

// TestRestoredUnderAPass: a database is put back while a pass works on it, at any moment. Whatever the file has lost is
// fetched again.
func TestRestoredUnderAPass(t *testing.T) {
	cases(t, 8, 500)
	empty := newScratch(t, client("acme", ""))
	rapid.Check(t, func(t *rapid.T) {
		w := empty.world(t, noon)
		defer discard(w)
		w.api.AddKey(keyOf("acme"), "acme")
		w.api.PageLimit(50)
		w.sync()
		backup := w.path + ".copy"
		defer os.Remove(backup)
		n := 0
		add := func(most int) {
			for range rapid.IntRange(0, most).Draw(t, "new") {
				w.api.Add(keyOf("acme"), generation(fmt.Sprintf("g-%d", n), w.now().Add(-time.Duration(n%50)*time.Minute)))
				n++
			}
		}
		deliver := func() {
			s := w.open()
			defer s.Close()
			orgs, err := s.Organisations(context.Background(), nil, time.UTC)
			if err != nil {
				t.Fatalf("%v", err)
			}
			created := w.now().Add(-time.Minute)
			g := generation(fmt.Sprintf("g-%d", n), created)
			n++
			w.api.Add(keyOf("acme"), g)
			money, _ := store.ParseMoney("0.01")
			if _, err := s.RecordGenerations(context.Background(), store.Batch{Organisation: orgs[0], Source: store.SourceWebhook,
				Now: w.now(), Delivered: true, Generations: []store.Generation{{ID: g.ID, CreatedAt: created, Model: g.Model, Tokens: 100,
					Cost: money, Day: store.DayOf(created, time.UTC)}}}); err != nil {
				t.Fatalf("%v", err)
			}
		}
		restored := false
		for range rapid.IntRange(1, 6).Draw(t, "passes") {
			w.later(time.Duration(rapid.IntRange(5, 60*30).Draw(t, "minutes")) * time.Minute)
			switch rapid.IntRange(0, 3).Draw(t, "between") {
			case 0:
				copyFile(t, w.path, backup)
				restored = true
			case 1:
				deliver()
			}
			add(300)
			when, pages := rapid.IntRange(0, 5).Draw(t, "on page"), 0
			back, deliveries := rapid.IntRange(0, 2).Draw(t, "put back") > 0 && restored, rapid.IntRange(0, 3).Draw(t, "delivered") == 0
			w.api.OnPage(func(string, int) {
				if pages == when && back {
					w.putBack(backup)
				}
				if pages == when && deliveries {
					deliver()
				}
				pages++
			})
			o := w.pass()
			w.api.OnPage(nil)
			if o.Err != nil && job.KindOf(o.Err) != job.KindMoved {
				t.Fatalf("%v", o.Err)
			}
		}
		w.later(time.Minute)
		w.sync()
		w.want("generations", w.text(`select count(*) from processed_generations`), fmt.Sprint(n))
	})
}

// TestAnyClock: whatever the machine's clock says in between, at the end everything is recorded once, as long as the server
// says what time it is.
func TestAnyClock(t *testing.T) {
	cases(t, 12, 1000)
	empty := newScratch(t, client("acme", ""))
	rapid.Check(t, func(t *rapid.T) {
		w := empty.world(t, noon)
		defer discard(w)
		w.api.AddKey(keyOf("acme"), "acme")
		w.manage()
		w.sync()
		n := 0
		for range rapid.IntRange(2, 12).Draw(t, "passes") {
			step := time.Duration(rapid.SampledFrom([]int{10, 60, 60 * 30, 60 * 24 * 6}).Draw(t, "minutes")) * time.Minute
			for at, end := w.now(), w.now().Add(step); at.Before(end); at = at.Add(max(step/6, time.Minute)) {
				w.api.Add(keyOf("acme"), generation(fmt.Sprintf("g-%d", n), at))
				n++
			}
			w.later(step)
			w.api.Play(standin.Quirks{NoDate: rapid.IntRange(0, 3).Draw(t, "no date") == 0})
			wrong := time.Duration(rapid.SampledFrom([]int{0, 0, 0, 2, -2, 26, -26, 24 * 9, 24 * -9, 24 * 35, 24 * -35, 24 * 400, 24 * -20000}).
				Draw(t, "hours off")) * time.Hour
			if rapid.IntRange(0, 3).Draw(t, "fails") == 0 {
				w.api.Script(standin.Status(401, ""))
			}
			o := w.pass(from(rapid.SampledFrom(bothSources).Draw(t, "source")), w.off(wrong))
			switch kind := job.KindOf(o.Err); kind {
			case job.KindNone, job.KindClock, job.KindKeyRefused:
			default:
				t.Fatalf("%v", o.Err)
			}
		}
		w.api.Play(standin.Quirks{})
		w.later(time.Minute)
		w.sync(from(rapid.SampledFrom(bothSources).Draw(t, "last source")))
		w.wantTotal("acme", int64(100*n), int64(n), 0.01*float64(n))
	})
}

// TestWrongClockLeavesTheBooks: a pass that does not know what day it is moves no live counter to another day.
func TestWrongClockLeavesTheBooks(t *testing.T) {
	for name, quirk := range map[string]func(*world){
		"no date":   func(w *world) { w.api.Play(standin.Quirks{NoDate: true}) },
		"no answer": func(w *world) { w.http.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, noon, client("acme", ""))
			w.api.Add(keyOf("acme"), generation("g", noon.Add(-time.Hour)))
			w.sync()
			quirk(w)
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			if report, err := w.run(ctx, clock(at1970)); err != nil || report.Organisations[0].Err == nil {
				t.Fatalf("%v, %v", report, err)
			}
			w.want("the counter's day", w.text(`select "current_date" || ' ' || today_requests from client_live_counters`), "2026-05-14 1")
			w.want("daily rows", w.text(`select count(*) from client_daily_usage where total_requests = 0`), "0")
		})
	}
}
