package job_test

import (
	"errors"
	"testing"
	"time"

	"usage-sync/job"
	"usage-sync/job/openrouter/standin"
	"usage-sync/store"
)

// TestBoundsHoldOnEveryWay: a row that is larger than a generation can be is believed by nobody who records what a source
// lists, and not only by a pass.
func TestBoundsHoldOnEveryWay(t *testing.T) {
	big := func(created time.Time) standin.Generation {
		g := generation("big", created)
		g.Cost = "171000"
		return g
	}
	for _, source := range []string{job.SourceGenerations, job.SourceAnalytics} {
		t.Run("reconcile --fix from "+source, func(t *testing.T) {
			w := threeDays(t, "", source)
			bill := w.books("acme").total()
			w.api.Add(keyOf("acme"), big(noon.Add(-30*time.Hour)))
			c := w.compare(fix, reading(source))
			if got := w.books("acme").total(); !got.same(bill) {
				t.Errorf("fixed to %s, was %s", got, bill)
			}
			if got := causes(c); got != "2026-05-13 refused 1" {
				t.Errorf("causes: %s", got)
			}
		})
		t.Run("takeover from "+source, func(t *testing.T) {
			w, _ := weekend(t, oldSync{today: "live"})
			w.manage()
			w.api.Add(keyOf("acme"), big(at("2026-05-14T12:00:00Z")))
			w.at(monday)
			w.wantUndecided(from(source))
			s := w.open()
			defer s.Close()
			c := w.look(w.takeover(s, func(t *job.Takeover) { t.Sources.Choice = source }))
			if !errors.Is(c.Refused[store.AnswerReplace], job.ErrRefused) {
				t.Errorf("to replace is refused with %v", c.Refused[store.AnswerReplace])
			}
			for _, answer := range []store.Answer{store.AnswerAdopt, store.AnswerNone} {
				if promise := c.Promise(answer); promise.Raw > 2*store.Dollar {
					t.Errorf("%s promises $%s", answer, promise.Raw)
				}
			}
			// The pass that carries an answer out names it, as any other does.
			if o := w.pass(from(source), func(p *job.Pass) { p.Answer = store.AnswerNone }); !errors.Is(o.Err, job.ErrRefused) {
				t.Errorf("the pass that answers ends with %v", o.Err)
			}
			w.wantRequests("after the answer", 130)
		})
	}
}
