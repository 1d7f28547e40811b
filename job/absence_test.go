package job_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"usage-sync/job"
	"usage-sync/job/alert"
	"usage-sync/job/openrouter/standin"
	"usage-sync/job/report"
)

// absences are the organisations that passes skip, as "id reason", those that are not told in brackets.
func (w *world) absences() string {
	w.Helper()
	s := w.open()
	defer s.Close()
	all, err := s.Absences(context.Background(), time.UTC)
	if err != nil {
		w.Fatalf("%v", err)
	}
	var words []string
	for _, a := range all {
		word := a.Organisation.ID + " " + a.Reason
		if !a.IsLoud() {
			word = "(" + word + ")"
		}
		words = append(words, word)
	}
	return strings.Join(words, ", ")
}

// health is what status says, as "state message" of each organisation.
func (w *world) health() (all []alert.Health) {
	w.Helper()
	s := w.open()
	defer s.Close()
	all, err := alert.NewRule(10*time.Minute, alert.Settings{}).Look(context.Background(), s, nil, time.UTC, w.now())
	if err != nil {
		w.Fatalf("%v", err)
	}
	return all
}

// statement is that of a month.
func (w *world) statement(org, month string) report.Statement {
	w.Helper()
	s := w.open()
	defer s.Close()
	all, err := report.Make(context.Background(), s, report.Request{Zone: time.UTC, Period: report.Asked{Month: month}, For: report.Owner, Now: w.now()})
	if err != nil {
		w.Fatalf("%v", err)
	}
	for _, one := range all {
		if one.ID == org {
			return one
		}
	}
	w.Fatalf("no statement of %s", org)
	return report.Statement{}
}

// TestAbsence: an organisation that was synced before does not disappear without a word.
func TestAbsence(t *testing.T) {
	for name, test := range map[string]struct{ change, reason string }{
		"its key becomes blank":    {`update client_organizations set openrouter_api_key = ' ' where id = 'acme'`, "no_key"},
		"it is switched off":       {`update client_organizations set is_active = 0 where id = 'acme'`, "inactive"},
		"nobody says if it is":     {`update client_organizations set is_active = null where id = 'acme'`, "undecided"},
		"a word that nobody knows": {`update client_organizations set is_active = 'maybe' where id = 'acme'`, "inactive"},
		"its row is deleted":       {`delete from client_organizations where id = 'acme'`, "gone"},
		"it has another id":        {`update client_organizations set id = 'anew' where id = 'acme'`, "gone"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, noon, client("acme", ""), client("globex", ""))
			w.use(keyOf("acme"), "a", 3)
			w.syncAll()
			w.want("absences before", w.absences(), "")
			w.exec(test.change)
			for range 2 {
				w.later(10 * time.Minute).syncAll()
			}
			w.want("absences", w.absences(), "acme "+test.reason)
			if n := strings.Count(w.logs.String(), "The acme (acme) "); n != 2 {
				t.Errorf("%d lines of 2 passes:\n%s", n, w.logs)
			}
			all := w.health()
			last := all[len(all)-1]
			if last.State != alert.StateWarning || last.Skipped != test.reason || last.Organisation.Name != "The acme" {
				t.Errorf("health: %s, %q, %s", last.State, last.Skipped, last.Organisation.Name)
			}
			if s := w.statement("acme", "2026-05"); s.Total.Requests != 3 {
				t.Errorf("%d requests are on the statement, want 3", s.Total.Requests)
			}
		})
	}
	t.Run("is_active as people write it", func(t *testing.T) {
		for _, yes := range []string{"1", "1.0", "'1'", "'true'", "'True'", "'t'", "'yes'"} {
			w := newWorld(t, noon, client("acme", ""))
			w.exec(`update client_organizations set is_active = ` + yes)
			w.use(keyOf("acme"), "a", 3)
			w.sync()
			w.want(yes, w.absences(), "")
		}
	})
}

// TestOffboarding: one pass for an organisation that is not active makes its statement final, and ends the warnings.
func TestOffboarding(t *testing.T) {
	t.Run("with its key", func(t *testing.T) {
		w := newWorld(t, noon, client("acme", ""), client("globex", ""))
		w.use(keyOf("acme"), "a", 3)
		w.syncAll()
		w.exec(`update client_organizations set is_active = 0 where id = 'acme'`)
		w.later(10 * time.Minute)
		w.use(keyOf("acme"), "rest", 4)
		w.syncAll()
		w.sync(only("acme"))
		w.wantTotal("acme", 700, 7, 0.07)
		w.want("used of late", w.absences(), "acme inactive")
		w.wantLog("was used of late: run this again")
		w.later(2 * time.Hour).sync(only("acme"))
		w.want("absences", w.absences(), "(acme inactive)")
		logs := len(w.logs.String())
		w.later(10 * time.Minute).syncAll()
		if strings.Contains(w.logs.String()[logs:], "acme") {
			t.Errorf("it is still told:\n%s", w.logs.String()[logs:])
		}
		w.at(at("2026-06-02T00:00:00Z"))
		if s := w.statement("acme", "2026-05"); !s.Final || s.Total.Requests != 7 {
			t.Errorf("final %t, %d requests; %s", s.Final, s.Total.Requests, s.Provisional())
		}
		// It comes back.
		w.exec(`update client_organizations set is_active = 1 where id = 'acme'`)
		w.syncAll()
		w.want("absences", w.absences(), "")
		w.exec(`update client_organizations set is_active = 0 where id = 'acme'`)
		w.want("absences", w.absences(), "acme inactive")
	})
	t.Run("without a key", func(t *testing.T) {
		w := newWorld(t, noon, client("acme", ""), client("globex", ""))
		w.use(keyOf("acme"), "a", 3)
		w.syncAll()
		w.exec(`update client_organizations set is_active = 0, openrouter_api_key = '' where id = 'acme'`)
		w.later(2 * time.Hour).sync(only("acme"))
		w.want("absences", w.absences(), "(acme inactive)")
		w.want("gaps", w.openGaps(), "key  7200")
		w.at(at("2026-06-02T00:00:00Z"))
		if s := w.statement("acme", "2026-05"); s.Final {
			t.Error("final, with a gap")
		}
	})
	t.Run("without a row", func(t *testing.T) {
		w := newWorld(t, noon, client("acme", ""), client("globex", ""))
		w.use(keyOf("acme"), "a", 3)
		w.syncAll()
		w.exec(`delete from client_organizations where id = 'acme'`)
		w.later(time.Hour)
		report, err := w.run(t.Context(), only("acme"))
		if err != nil || len(report.Organisations) != 0 {
			t.Fatalf("%d organisations, %v", len(report.Organisations), err)
		}
		w.want("absences", w.absences(), "(acme gone)")
		w.want("gaps", w.openGaps(), "key  3600")
	})
	t.Run("the last one", func(t *testing.T) {
		w := newWorld(t, noon, client("acme", ""))
		w.use(keyOf("acme"), "a", 3)
		w.sync()
		w.exec(`update client_organizations set is_active = 0`)
		if _, err := w.run(t.Context()); job.KindOf(err) != job.KindConfiguration {
			t.Errorf("%v, want that none is active", err)
		}
		if h := w.health(); len(h) != 1 || h[0].State != alert.StateWarning {
			t.Errorf("health: %v", h)
		}
		w.later(2 * time.Hour).sync(only("acme"))
		if _, err := w.run(t.Context()); err != nil {
			t.Errorf("%v, want nothing to do", err)
		}
	})
	t.Run("with former keys", func(t *testing.T) {
		w := rotationWorld(t, from(job.SourceAnalytics))
		w.rotate(replacement, replacementHash)
		w.later(time.Minute).sync(from(job.SourceAnalytics))
		w.use(keyOf("acme"), "tail", 2)
		w.exec(`update client_organizations set is_active = 0`)
		w.later(3*time.Hour).sync(from(job.SourceAnalytics), only("acme"))
		w.wantTotal("acme", 2700, 27, 0.27)
		w.want("absences", w.absences(), "(acme inactive)")
	})
	t.Run("its key is refused", func(t *testing.T) {
		w := newWorld(t, noon, client("acme", ""))
		w.use(keyOf("acme"), "a", 3)
		w.sync()
		w.api.SetKey(keyOf("acme"), standin.Key{Disabled: true})
		w.exec(`update client_organizations set is_active = 0`)
		if o := w.later(2 * time.Hour).pass(only("acme")); job.KindOf(o.Err) != job.KindKeyRefused {
			t.Errorf("%v", o.Err)
		}
		w.want("absences", w.absences(), "acme inactive")
	})
}

// syncAll makes a pass over all organisations, none of which may fail.
func (w *world) syncAll() {
	w.Helper()
	r, err := w.run(context.Background())
	for _, o := range r.Organisations {
		if err == nil {
			err = o.Err
		}
	}
	if err != nil {
		w.Fatalf("pass at %s: %v", w.now(), err)
	}
}
