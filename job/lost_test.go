package job_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"usage-sync/job"
	"usage-sync/store"
)

// newRecorded makes a database with 70 generations of three days, which passes have recorded.
func newRecorded(t *testing.T) *world {
	w := newWorld(t, noon, client("acme", "Europe/Warsaw"))
	w.api.Add(keyOf("acme"), generations("g", 70, noon.Add(-17*time.Minute), time.Hour)...)
	w.sync(full, daysBack(5))
	return w.later(10 * time.Minute)
}

// wantLost makes a pass that must end with ErrLost, and returns the gaps that are open after it.
func (w *world) wantLost(options ...option) []store.Gap {
	w.Helper()
	if o := w.pass(options...); !errors.Is(o.Err, job.ErrLost) || job.KindOf(o.Err) != job.KindConfiguration {
		w.Fatalf("the pass ends with %v, want ErrLost", o.Err)
	}
	return w.lostGaps()
}

func (w *world) lostGaps() []store.Gap {
	w.Helper()
	s := w.open()
	defer s.Close()
	gaps, err := s.Gaps(context.Background(), store.GapFilter{Kind: store.GapLost, Open: true})
	if err != nil {
		w.Fatalf("%v", err)
	}
	return gaps
}

// rebuild makes anew what a gap has lost, and says what was done.
func (w *world) rebuild(id int64, trial bool) store.Rebuilt {
	w.Helper()
	s := w.open()
	defer s.Close()
	orgs, err := s.Organisations(context.Background(), []string{"acme"}, time.UTC)
	if err != nil {
		w.Fatalf("%v", err)
	}
	done, err := s.Rebuild(context.Background(), orgs[0], id, "ann", w.now(), trial)
	if err != nil {
		w.Fatalf("%v", err)
	}
	return done
}

func (w *world) acceptGap(id int64) {
	w.Helper()
	s := w.open()
	defer s.Close()
	if _, err := s.AcceptGap(context.Background(), id, "ann", "it looked like a cache", w.now()); err != nil {
		w.Fatalf("%v", err)
	}
}

// TestLedgerIsLost: what was recorded is known although the ledger has lost it. Nothing is counted again, what is new is
// counted, and passes end 78 until a person has said what becomes of it.
func TestLedgerIsLost(t *testing.T) {
	const dump = `select group_concat(id || generation_date || total_cost || total_tokens, ' ')
		from (select * from processed_generations order by id)`
	for name, lose := range map[string]string{
		"emptied": `delete from processed_generations`,
		"dropped": `drop table processed_generations`,
		"partly":  `delete from processed_generations where id in ('g-3', 'g-30', 'g-31')`,
	} {
		t.Run(name, func(t *testing.T) {
			w := newRecorded(t)
			before := w.text(dump)
			bill := w.books("acme").total()
			w.exec(lose)
			for n := range 2 {
				gaps := w.wantLost(full, daysBack(5))
				if got := w.books("acme").total(); !got.same(bill) {
					t.Fatalf("pass %d has billed again: %s in place of %s", n, got, bill)
				}
				if len(gaps) == 0 || gaps[0].Subject != "processed_generations" {
					t.Fatalf("gaps: %+v", gaps)
				}
				w.later(10 * time.Minute)
			}
			w.api.Add(keyOf("acme"), generation("new", w.now().Add(-time.Minute)))
			w.wantLost()
			bill = bill.plus(sum{100, 1, 0.01, 0.013})
			if got := w.books("acme").total(); !got.same(bill) {
				t.Fatalf("with new usage: %s, want %s", got, bill)
			}
			for _, g := range w.lostGaps() {
				shown := w.rebuild(g.ID, true)
				if done := w.rebuild(g.ID, false); done.Generations != shown.Generations || done.Generations == 0 || done.Unknown != 0 {
					t.Errorf("rebuilt %+v, shown before were %+v", done, shown)
				}
			}
			w.exec(`delete from processed_generations where id = 'new'`)
			if after := w.text(dump); after != before {
				t.Errorf("the ledger is\n%s\nand was\n%s", after, before)
			}
			w.exec(`insert into processed_generations select 'new', client_org_id, generation_date, processed_at, 0.01, 100
				from processed_generations order by generation_date desc limit 1`)
			w.later(time.Minute).sync(full, daysBack(5))
			w.wantTotal("acme", 7100, 71, 0.71)
		})
	}
}

// TestLedgerIsLostForGood: what a person accepts is told no more, and counted no more either.
func TestLedgerIsLostForGood(t *testing.T) {
	w := newRecorded(t)
	bill := w.books("acme").total()
	w.exec(`delete from processed_generations`)
	for _, g := range w.wantLost(full, daysBack(5)) {
		w.acceptGap(g.ID)
	}
	for range 3 {
		w.later(26*time.Hour).sync(full, daysBack(5))
		if got := w.books("acme").total(); !got.same(bill) {
			t.Fatalf("billed again: %s in place of %s", got, bill)
		}
	}
	if gaps := w.lostGaps(); len(gaps) > 0 {
		t.Errorf("open: %+v", gaps)
	}
}

// TestReset: the application's reset script empties the usage tables and keeps the ledger. The next pass makes every day
// right again, however far back.
func TestReset(t *testing.T) {
	w := newRecorded(t)
	w.later(20 * 24 * time.Hour)
	w.api.Add(keyOf("acme"), generation("new", w.now().Add(-time.Minute)))
	w.sync(daysBack(0))
	a := &application{world: w, org: "acme", container: time.UTC, client: location(w, "Europe/Warsaw")}
	a.resetE()
	w.later(10 * time.Minute).sync()
	w.wantTotal("acme", 7100, 71, 0.71)
	w.wantLog("and ")
	// A quiet client: nothing of yesterday or today tells of it.
	w.later(40 * 24 * time.Hour).sync()
	a.resetE()
	w.later(time.Minute).sync()
	w.later(26 * time.Hour).sync()
	w.wantTotal("acme", 7100, 71, 0.71)
}

// TestResetBeforeTheRecord: a version without a record of days has met the emptied tables, or somebody has dropped the
// record with them. The ledger still says what there was.
func TestResetBeforeTheRecord(t *testing.T) {
	for _, rebuild := range []bool{true, false} {
		t.Run(fmt.Sprintf("rebuild %v", rebuild), func(t *testing.T) {
			w := newRecorded(t)
			a := &application{world: w, org: "acme", container: time.UTC, client: location(w, "Europe/Warsaw")}
			a.resetE()
			w.earlier()
			for _, g := range w.wantLost() {
				if !rebuild {
					w.acceptGap(g.ID)
					continue
				}
				shown := w.rebuild(g.ID, true)
				if got := w.books("acme").total(); got.requests != 0 {
					t.Fatalf("showing it has changed it: %s", got)
				}
				if done := w.rebuild(g.ID, false); len(done.Days) == 0 || done.String() != shown.String() {
					t.Errorf("rebuilt %s, shown before was %s", done, shown)
				}
			}
			w.later(time.Minute).sync(full, daysBack(5))
			if rebuild {
				w.wantTotal("acme", 7000, 70, 0.7)
			} else if got := w.books("acme").total(); got.requests != 0 {
				t.Errorf("accepted, and counted: %s", got)
			}
		})
	}
}

// TestLedgerIsAltered: somebody has changed what the ledger says of a generation. We know what we have counted of it: when
// it is listed again, the bill stays, and the ledger says so again.
func TestLedgerIsAltered(t *testing.T) {
	w := newRecorded(t)
	bill := w.books("acme").total()
	w.exec(`update processed_generations set total_cost = 0.5 where id = 'g-3'`)
	w.exec(`update processed_generations set total_tokens = 7 where id = 'g-4'`)
	w.exec(`update processed_generations set total_cost = 0, total_tokens = 0 where id = 'g-5'`)
	w.api.SetCost("g-5", "0.03")
	o := w.sync(full, daysBack(5))
	bill = bill.plus(sum{0, 0, 0.02, 0.026})
	if got := w.books("acme").total(); !got.same(bill) {
		t.Errorf("the bill is %s, want %s", got, bill)
	}
	w.wantLog("processed_generations held 3 requests, 107 tokens")
	if o.Run.Updated != 1 {
		t.Errorf("%d updated, want 1", o.Run.Updated)
	}
	w.want("altered entries", w.text(`select count(*) from processed_generations where total_tokens <> 100 or
		(total_cost <> 0.01 and (id, total_cost) <> ('g-5', 0.03))`), "0")
	w.check("acme")
	if again := w.later(time.Minute).sync(full, daysBack(5)); again.Run.Updated != 0 {
		t.Errorf("updated again: %d", again.Run.Updated)
	}
}
