package job_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"usage-sync/job"
	"usage-sync/job/openrouter/standin"
	"usage-sync/store"
)

// gaps returns the gaps of the world's organisations.
func (w *world) gaps(f store.GapFilter) []store.Gap {
	w.Helper()
	s := w.open()
	defer s.Close()
	gaps, err := s.Gaps(context.Background(), f)
	if err != nil {
		w.Fatalf("%v", err)
	}
	return gaps
}

// wantGaps checks which gaps are open: "outage, 24h0m0s from 2026-05-01T00:00:00Z; …", with a subject behind
// the kind.
func (w *world) wantGaps(want string) {
	w.Helper()
	var got []string
	for _, g := range w.gaps(store.GapFilter{Open: true}) {
		text := strings.TrimSpace(string(g.Kind) + " " + g.Subject)
		got = append(got, fmt.Sprintf("%s, %s from %s", text, g.Until.Sub(g.From), g.From.Format(time.RFC3339)))
	}
	w.want("open gaps", strings.Join(got, "; "), want)
}

func (w *world) accept(id int64) {
	w.Helper()
	s := w.open()
	defer s.Close()
	if _, err := s.AcceptGap(context.Background(), id, "ann", "as agreed", w.now()); err != nil {
		w.Fatalf("%v", err)
	}
}

// TestFirstPassInTheMiddleOfAMonth: what was used before the window of the first pass is not recorded, and
// not forgotten.
func TestFirstPassInTheMiddleOfAMonth(t *testing.T) {
	for _, source := range []string{job.SourceGenerations, job.SourceAnalytics} {
		t.Run(source, func(t *testing.T) {
			w := newWorld(t, at("2026-10-15T12:00:00Z"), client("acme", "")).manage()
			w.api.Add(keyOf("acme"), generations("g", 40, w.now().Add(-time.Minute), 12*time.Hour)...) // since 26 September
			w.sync(from(source), daysBack(2))
			w.wantTotal("acme", 500, 5, 0.05)
			w.wantGaps("history, 288h0m0s from 2026-10-01T00:00:00Z")
			g := w.gaps(store.GapFilter{})[0]
			if g.Raw == nil || g.Raw.String() != "0.240000" {
				t.Errorf("missing %v, %s", g.Raw, g.Why)
			}
			w.wantLog("which begins at 2026-10-13 00:00:00, are not recorded; they are 24, raw $0.240000.")
			w.wantLog("usage-sync sync --org acme --days-back 14")
			w.later(10*time.Minute).sync(from(source), daysBack(2))
			w.wantGaps("history, 288h0m0s from 2026-10-01T00:00:00Z")
			w.later(10*time.Minute).sync(from(source), daysBack(10))
			w.wantGaps("history, 96h0m0s from 2026-10-01T00:00:00Z")
			w.later(10*time.Minute).sync(from(source), daysBack(14))
			w.wantGaps("")
			w.wantTotal("acme", 2900, 29, 0.29)
		})
	}
	t.Run("a list that is not read to its end", func(t *testing.T) {
		w := newWorld(t, at("2026-10-15T12:00:00Z"), client("acme", ""))
		w.api.PageLimit(6)
		w.api.Add(keyOf("acme"), generations("g", 40, w.now().Add(-time.Minute), 12*time.Hour)...)
		w.sync(daysBack(2))
		w.wantGaps("history, 288h0m0s from 2026-10-01T00:00:00Z")
		if g := w.gaps(store.GapFilter{})[0]; g.Raw != nil {
			t.Errorf("missing %v", g.Raw)
		}
		w.wantLog("the last is of 2026-10-12 23:59:00")
	})
	t.Run("nothing before", func(t *testing.T) {
		w := newWorld(t, at("2026-10-15T12:00:00Z"), client("acme", ""))
		w.api.Add(keyOf("acme"), generations("g", 5, w.now().Add(-time.Minute), time.Hour)...)
		w.api.Add(keyOf("acme"), generation("september", at("2026-09-30T23:59:59Z")))
		w.sync()
		w.wantGaps("")
	})
	t.Run("what others have counted was decided about", func(t *testing.T) {
		w := newWorld(t, at("2026-10-15T12:00:00Z"), client("acme", ""))
		w.api.Add(keyOf("acme"), generations("g", 40, w.now().Add(-time.Minute), 12*time.Hour)...)
		w.exec(`insert into client_user_daily_usage values ('x', 'acme', 'u', 'u', '2026-10-05', 100, 1, 0.01, 0.013, 1, 1)`)
		w.exec(`insert into client_daily_usage values ('x', 'acme', '2026-10-05', 100, 1, 0.01, 0.013, 'm', 1, 1, 1)`)
		w.sync(adopt)
		w.later(10 * time.Minute).sync()
		w.wantGaps("")
	})
	t.Run("a first pass that fails", func(t *testing.T) {
		w := newWorld(t, at("2026-10-15T12:00:00Z"), client("acme", ""))
		w.api.Add(keyOf("acme"), generations("g", 40, w.now().Add(-time.Minute), 12*time.Hour)...)
		w.api.Script(standin.Status(400, ""))
		if o := w.pass(); o.Err == nil {
			t.Fatal("no error")
		}
		w.wantGaps("")
		w.sync()
		w.wantGaps("history, 312h0m0s from 2026-10-01T00:00:00Z")
	})
}

// TestOutageBeyondReach: October was stated at what was recorded before an outage of more than 30 days.
func TestOutageBeyondReach(t *testing.T) {
	w := newWorld(t, at("2026-10-05T12:00:00Z"), client("acme", ""))
	w.api.Add(keyOf("acme"), generations("october", 100, at("2026-10-31T00:00:00Z"), 6*time.Hour)...)
	w.sync(daysBack(5))
	for range 2 { // a pass that fails forgets nothing
		w.at(at("2026-11-20T12:00:00Z"))
		w.api.Script(standin.Status(400, ""))
		if o := w.pass(); o.Err == nil {
			t.Fatal("no error")
		}
		w.wantGaps("outage, 372h0m0s from 2026-10-05T12:00:00Z")
	}
	w.sync()
	w.wantGaps("outage, 372h0m0s from 2026-10-05T12:00:00Z")
	w.later(10 * time.Minute).sync()
	w.wantGaps("outage, 372h0m0s from 2026-10-05T12:00:00Z")
	if from := w.state("acme").CoveredFrom; !from.Equal(at("2026-09-30T00:00:00Z")) {
		t.Errorf("covered from %s: what passes had recorded before is forgotten", from)
	}
	w.accept(w.gaps(store.GapFilter{Open: true})[0].ID)
	w.later(10 * time.Minute).sync()
	w.wantGaps("")
}

// TestRefusedRowOutOfReach: a refused row was forgotten when its day left the window.
func TestRefusedRowOutOfReach(t *testing.T) {
	w := newWorld(t, at("2026-10-02T12:00:00Z"), client("acme", ""))
	w.api.Add(keyOf("acme"), standin.Generation{ID: "odd", CreatedAt: w.now().Add(-time.Hour), Cost: "7.5", Model: "m/m",
		PromptTokens: 2e15})
	const gap = "refused odd, 1h0m0s from 2026-10-02T11:00:00Z"
	for range 33 {
		o := w.pass(daysBack(0))
		if reachable := w.now().Before(at("2026-11-02T00:00:00Z")); errors.Is(o.Err, job.ErrRefused) != reachable {
			t.Fatalf("at %s: %v", w.now(), o.Err)
		}
		w.wantGaps(gap)
		w.later(24 * time.Hour)
	}
	g := w.gaps(store.GapFilter{Open: true})[0]
	if g.Raw == nil || g.Raw.String() != "7.500000" {
		t.Errorf("missing %v", g.Raw)
	}
	w.accept(g.ID)
	w.wantGaps("")
}

// TestRefusedRowAccepted: what a person does not expect any more keeps no pass from being well.
func TestRefusedRowAccepted(t *testing.T) {
	w := newWorld(t, noon, client("acme", ""))
	w.api.Add(keyOf("acme"), standin.Generation{ID: "odd", CreatedAt: noon.Add(-time.Hour), Cost: "-1", Model: "m/m"})
	if o := w.pass(); !errors.Is(o.Err, job.ErrRefused) {
		t.Fatal(o.Err)
	}
	w.accept(w.gaps(store.GapFilter{Open: true})[0].ID)
	w.later(time.Minute).sync(full)
	w.wantGaps("")
	w.api.SetCost("odd", "0.01") // corrected after all
	w.later(time.Minute).sync(full)
	if got := w.text(`select count(*) from processed_generations`); got != "1" {
		t.Errorf("%s generations", got)
	}
}
