package job_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"usage-sync/job"
	"usage-sync/job/openrouter"
	"usage-sync/job/openrouter/standin"
	"usage-sync/store"
)

// oldSync records as the builds of the Python sync do (measured, November 2025): each poll adds to the per-user row of
// background_sync and to what the build takes for today's total, by the container's clock, with its own markup and no
// per-model row.
type oldSync struct {
	*world
	today  string         // where it keeps today's total: "live", "daily" or "both"
	ledger bool           // it enters what it counts into processed_generations
	zone   *time.Location // the container's calendar
	markup float64
	times  int // how often it counts each generation
	// noTokens: it reads total_tokens, which is not in the real API.
	noTokens bool
	// unquoted: it means the counter's column current_date and gets SQLite's function, the date of UTC. Its counter never
	// starts a new day ("adds up") or holds one poll alone ("sticks").
	unquoted string
	iso      bool // its times are ISO texts with fractions, as a set-up tool writes them
}

// stamp is a time as the build writes it.
func (o oldSync) stamp(at time.Time) any {
	if o.iso {
		return at.UTC().Format("2006-01-02T15:04:05.000000")
	}
	return at.Unix()
}

// poll counts generations at a time.
func (o oldSync) poll(at time.Time, ids ...string) {
	o.Helper()
	day, n := string(store.DayOf(at, o.zone)), len(ids)*max(1, o.times)
	if n == 0 {
		return
	}
	tokens, raw, written := 100*n, 0.01*float64(n), o.stamp(at)
	if o.noTokens {
		tokens = 0
	}
	o.exec(`insert into client_user_daily_usage values (?1, 'acme', 'background_sync', 'bg_sync_acme', ?2, ?3, ?4, ?5, ?6, ?7, ?7)
		on conflict (id) do update set total_tokens = total_tokens + ?3, total_requests = total_requests + ?4,
			raw_cost = raw_cost + ?5, markup_cost = markup_cost + ?6, updated_at = ?7`,
		"acme:background_sync:"+day, day, tokens, n, raw, raw*o.markup, written)
	if o.today != "live" {
		o.exec(`insert into client_daily_usage values (?1, 'acme', ?2, ?3, ?4, ?5, ?6, 'openai/gpt-4o', 1, ?7, ?7)
			on conflict (id) do update set total_tokens = total_tokens + ?3, total_requests = total_requests + ?4,
				raw_cost = raw_cost + ?5, markup_cost = markup_cost + ?6, updated_at = ?7`,
			"acme_"+day, day, tokens, n, raw, raw*o.markup, written)
	}
	if o.today != "daily" {
		counter, counts := o.text(`select "current_date" from client_live_counters`), day
		switch {
		case o.unquoted != "":
			counts = string(store.DayOf(at, time.UTC))
			if o.unquoted == "sticks" {
				o.exec(`delete from client_live_counters`)
			}
			o.exec(`update client_live_counters set "current_date" = ?`, counts)
		case counter != "" && counter < day:
			o.look(at) // it rolls over before it counts
		}
		o.exec(`insert into client_live_counters values ('acme', ?1, ?2, ?3, ?4, ?5, ?6)
			on conflict (client_org_id) do update set today_tokens = today_tokens + ?2, today_requests = today_requests + ?3,
				today_raw_cost = today_raw_cost + ?4, today_markup_cost = today_markup_cost + ?5, last_updated = ?6`,
			counts, tokens, n, raw, raw*o.markup, written)
	}
	if o.ledger {
		for _, id := range ids {
			o.exec(`insert or ignore into processed_generations values (?, 'acme', ?, ?, 0.01, 100)`, id, day, at.Unix())
		}
	}
}

// look is somebody's look at the dashboard: it rolls a stale counter over and writes times of its own.
func (o oldSync) look(at time.Time) {
	o.Helper()
	day := string(store.DayOf(at, o.zone))
	if counter := o.text(`select "current_date" from client_live_counters`); counter == "" || counter == day {
		return
	}
	// Its plain insert fails where the row exists, and the dashboard shows "Error".
	_, err := o.db.Exec(`insert into client_daily_usage select 'acme_' || "current_date", 'acme', "current_date", today_tokens,
		today_requests, today_raw_cost, today_markup_cost, null, null, ?, ? from client_live_counters`, at.Unix(), at.Unix())
	if err == nil {
		o.exec(`update client_live_counters set "current_date" = ?, today_tokens = 0, today_requests = 0, today_raw_cost = 0,
			today_markup_cost = 0, last_updated = ?`, day, at.Unix())
	}
}

// takeover returns the command of that name.
func (w *world) takeover(s *store.Store, configure ...func(*job.Takeover)) *job.Takeover {
	w.Helper()
	log := slog.New(slog.NewTextHandler(io.MultiWriter(w.logs), nil))
	c, err := openrouter.New(w.http.URL+"/api/v1", "test", log, openrouter.WithFirstWait(time.Millisecond))
	if err != nil {
		w.Fatalf("%v", err)
	}
	t := &job.Takeover{Store: s, Log: log, Now: w.now, Zone: time.UTC, DaysBack: 1, Interval: 10 * time.Minute, By: "tester",
		Sources: job.Sources{Choice: job.SourceAuto, Generations: func() job.Source { return openrouter.NewGenerations(c) }}}
	if w.managementKey != "" {
		m := openrouter.NewManagement(c, w.managementKey, openrouter.WithQueriesPerMinute(1_000_000))
		t.Sources.Analytics = func() job.AnalyticsSource { return openrouter.NewAnalytics(c, m, s.Unrecorded) }
	}
	for _, set := range configure {
		set(t)
	}
	return t
}

// look returns the only case.
func (w *world) look(t *job.Takeover) *job.Case {
	w.Helper()
	cases, err := t.Look(context.Background())
	if err != nil || len(cases) != 1 || cases[0].Err != nil {
		w.Fatalf("at %s: %v, %d cases, %v", w.now(), err, len(cases), cases[0].Err)
	}
	return cases[0]
}

// decide gives an answer and holds the bill against what was promised.
func (w *world) decide(answer store.Answer, configure ...func(*job.Takeover)) *job.Case {
	w.Helper()
	s := w.open()
	defer s.Close()
	t := w.takeover(s, configure...)
	c := w.look(t)
	if !c.Open {
		w.Fatalf("at %s there is nothing to decide", w.now())
	}
	if _, err := t.Answer(context.Background(), c, answer, time.Time{}); err != nil {
		w.Fatalf("%s at %s: %v", answer, w.now(), err)
	}
	w.wantPromise(c, answer)
	return c
}

// wantPromise holds the bill of every day against the table that was shown.
func (w *world) wantPromise(c *job.Case, answer store.Answer) {
	w.Helper()
	b := w.books("acme")
	for _, d := range c.Days {
		want := sumOf(d.Bill[answer])
		if got := b.day(string(d.Day)); !got.same(want) {
			w.Fatalf("%s of %s: got %s, promised %s", answer, d.Day, got, want)
		}
	}
}

// wantPromised checks how many requests each answer makes of a day.
func (w *world) wantPromised(c *job.Case, day store.Day, replace, adopt, none int64) {
	w.Helper()
	for _, d := range c.Days {
		got := []int64{d.Bill[store.AnswerReplace].Requests, d.Bill[store.AnswerAdopt].Requests, d.Bill[store.AnswerNone].Requests}
		if want := []int64{replace, adopt, none}; d.Day == day && !slices.Equal(got, want) {
			w.Errorf("%s: promised %v, want %v", day, got, want)
		}
	}
}

func sumOf(t store.Totals) sum { return sum{t.Tokens, t.Requests, t.Raw.Float(), t.Cost.Float()} }

func (w *world) wantRequests(what string, want int64) {
	w.Helper()
	if got := w.books("acme").total().requests; got != want {
		w.Errorf("%s: %d requests on the bill, want %d", what, got, want)
	}
}

func offFor(interval time.Duration) option {
	return func(p *job.Pass) { p.Interval = interval }
}

// wantUndecided makes a pass that must ask.
func (w *world) wantUndecided(options ...option) *job.TakeoverError {
	w.Helper()
	var undecided *job.TakeoverError
	if o := w.pass(options...); !errors.As(o.Err, &undecided) {
		w.Fatalf("at %s the pass did not ask: %v", w.now(), o.Err)
	}
	return undecided
}

// friday is when the old sync is switched off in these tests, Monday when the timer starts.
var friday, monday = at("2026-05-15T17:00:00Z"), at("2026-05-18T09:00:00Z")

// weekend is an organisation that the old sync has counted from Wednesday to Friday 17:00, ten a day, and that has used
// twenty a day since.
func weekend(t *testing.T, o oldSync) (*world, oldSync) {
	w := newWorld(t, friday, client("acme", ""))
	o.world = w
	if o.zone == nil {
		o.zone = time.UTC
	}
	if o.markup == 0 {
		o.markup = 1.3
	}
	for i, day := range []string{"2026-05-13", "2026-05-14", "2026-05-15"} {
		var ids []string
		for _, g := range generations(fmt.Sprint("old-", i), 10, at(day+"T16:00:00Z"), time.Minute) {
			w.api.Add(keyOf("acme"), g)
			ids = append(ids, g.ID)
		}
		o.poll(at(day+"T16:30:00Z"), ids...)
	}
	for i, day := range []string{"2026-05-15T20:00:00Z", "2026-05-16T12:00:00Z", "2026-05-17T12:00:00Z", "2026-05-18T08:00:00Z"} {
		w.api.Add(keyOf("acme"), generations(fmt.Sprint("new-", i), 20, at(day), time.Minute)...)
	}
	return w, o
}

func TestTakeoverHoweverLate(t *testing.T) {
	t.Run("started on Monday", func(t *testing.T) {
		w, _ := weekend(t, oldSync{today: "daily"})
		asked := w.at(monday).wantUndecided()
		if len(asked.Days) != 2 || asked.Days[0] != "2026-05-14" || !asked.LastWrite.Equal(at("2026-05-15T16:30:00Z")) {
			t.Errorf("asked about %v, last written at %s", asked.Days, asked.LastWrite)
		}
		w.sync(adopt)
		w.sync(full)
		w.wantRequests("adopted", 30+80)
		asked = w.wantUndecided(daysBack(5)) // about days which stand as others have left them; our passes are no write of others
		if len(asked.Days) != 1 || asked.Days[0] != "2026-05-13" || !asked.LastWrite.Equal(at("2026-05-13T16:30:00Z")) {
			t.Errorf("asked about %v, last written at %s", asked.Days, asked.LastWrite)
		}
		w.sync()
		w.wantRequests("adopted", 30+80)
	})
	t.Run("it does not decide by itself", func(t *testing.T) {
		w, o := weekend(t, oldSync{today: "live"})
		for now := friday; now.Before(monday.Add(40 * 24 * time.Hour)); now = now.Add(26 * time.Hour) {
			o.look(now)
			w.at(now).wantUndecided()
		}
		w.want("recorded", w.text(`select count(*) from processed_generations`), "0")
	})
	t.Run("looks, records by hand and a batch do not move the last write", func(t *testing.T) {
		w, o := weekend(t, oldSync{today: "live"})
		o.look(monday)
		w.at(monday)
		s := w.open()
		_, err := job.Manual{Organisation: "acme", Model: "x/y", Tokens: 1, Cost: store.Dollar}.Record(t.Context(), s,
			slog.New(slog.DiscardHandler), w.now, time.UTC)
		_ = s.Close()
		if err != nil {
			t.Fatal(err)
		}
		w.exec(`update client_daily_usage set updated_at = ?`, monday.Unix())
		if asked := w.wantUndecided(); !asked.LastWrite.Equal(at("2026-05-15T16:30:00Z")) {
			t.Errorf("last written at %s", asked.LastWrite)
		}
		w.sync(adopt)
		w.wantRequests("adopted", 30+80+1)
	})
	t.Run("too late for any source", func(t *testing.T) {
		w, _ := weekend(t, oldSync{today: "daily"})
		w.at(friday.AddDate(0, 0, 50)).sync()
		w.wantLog("is on no bill")
		w.want("gaps", w.text(`select group_concat(kind || ' ' || gap_from || ' ' || gap_until) from usage_sync_gaps where closed_at is null`),
			fmt.Sprintf("outage %d %d", at("2026-05-15T16:30:00Z").Unix(), friday.AddDate(0, 0, 20).Truncate(24*time.Hour).Unix()))
	})
}

func TestTakeoverUpgradedInMidDay(t *testing.T) {
	w, o := weekend(t, oldSync{today: "daily"})
	o.ledger = true
	g := generation("ledgered", friday.Add(-20*time.Minute))
	w.api.Add(keyOf("acme"), g)
	o.poll(friday.Add(-10*time.Minute), "ledgered")
	w.at(monday).wantUndecided()
	c := w.decide(store.AnswerReplace)
	w.sync(full)
	w.wantPromise(c, store.AnswerReplace)
	w.wantRequests("replaced", 10+10+11+80)
}

func TestTakeoverCompleteLedger(t *testing.T) {
	w, o := weekend(t, oldSync{today: "live", ledger: true})
	o.look(monday)
	w.at(monday).sync()
	w.wantRequests("not asked", 30+80)
}

// A day that the ledger explains and the counter has never become a row of: it is not asked about, and not lost either.
func TestTakeoverBesideALedgerWithoutARow(t *testing.T) {
	w, _ := weekend(t, oldSync{today: "live", unquoted: "sticks"})
	for i := range 10 {
		w.exec(`insert into processed_generations values (?, 'acme', '2026-05-13', ?, 0.01, 100)`, fmt.Sprint("old-0-", i),
			at("2026-05-13T16:30:00Z").Unix())
	}
	w.at(monday)
	c := w.decide(store.AnswerReplace, func(t *job.Takeover) { t.DaysBack = 10 })
	if c.Question.Has("2026-05-13") {
		t.Errorf("asked about %v", c.Question.Days)
	}
	w.wantPromised(c, "2026-05-13", 10, 10, 10)
	w.wantPromised(c, "2026-05-14", 10, 10, 20)
	w.wantRequests("replaced", 30+80)
}

func TestTakeoverFromFaultyTotals(t *testing.T) {
	w, _ := weekend(t, oldSync{today: "both", times: 12, markup: 1.5})
	w.at(monday)
	c := w.decide(store.AnswerReplace, func(t *job.Takeover) { t.DaysBack = 10 })
	w.wantRequests("replaced", 110)
	if got := w.check("acme").total(); !got.same(sum{11000, 110, 1.1, 1.43}) {
		t.Errorf("got %s", got)
	}
	w.sync(full, daysBack(10))
	w.wantPromise(c, store.AnswerReplace)
}

// TestTakeoverFromEachFault: what the builds and their faults leave is asked about, the figures speak for the right answer,
// and to replace makes of each day what OpenRouter lists, at the contract's markup.
func TestTakeoverFromEachFault(t *testing.T) {
	for name, fault := range map[string]struct {
		oldSync
		contract string // the markup rate
		advised  store.Answer
	}{
		"sound":                      {oldSync{}, "1.3", store.AnswerAdopt},
		"ISO times":                  {oldSync{iso: true}, "1.3", store.AnswerAdopt},
		"no tokens":                  {oldSync{noTokens: true}, "1.3", store.AnswerReplace},
		"markup 1.3 for 1.5":         {oldSync{}, "1.5", store.AnswerReplace},
		"each counted twelve times":  {oldSync{times: 12}, "1.3", store.AnswerReplace},
		"counter never starts anew":  {oldSync{unquoted: "adds up"}, "1.3", store.AnswerAdopt},
		"counter holds the last one": {oldSync{unquoted: "sticks"}, "1.3", store.AnswerAdopt},
		"unquoted, ISO, no tokens":   {oldSync{unquoted: "adds up", iso: true, noTokens: true}, "1.5", store.AnswerReplace},
	} {
		for _, today := range []string{"live", "daily", "both"} {
			t.Run(name+"/"+today, func(t *testing.T) {
				fault.today = today
				w, _ := weekend(t, fault.oldSync)
				w.exec(`update client_organizations set markup_rate = ?`, fault.contract)
				asked := w.at(monday).wantUndecided()
				if !asked.LastWrite.Equal(at("2026-05-15T16:30:00Z")) {
					t.Errorf("last written at %s", asked.LastWrite)
				}
				s := w.open()
				defer s.Close()
				if c := w.look(w.takeover(s)); c.Advised != fault.advised {
					t.Errorf("advised is %s, want %s: %s", c.Advised, fault.advised, c.Advice)
				}
				whole := func(t *job.Takeover) { t.DaysBack = 10 }
				again := func(t *job.Takeover) { t.DaysBack, t.Again = 10, true }
				w.decide(store.AnswerAdopt, whole)
				w.decide(store.AnswerNone, again)
				c := w.decide(store.AnswerReplace, again)
				for range 2 {
					w.later(10*time.Minute).sync(full, daysBack(10))
					w.wantPromise(c, store.AnswerReplace)
				}
				b := w.check("acme")
				rate, _ := strconv.ParseFloat(fault.contract, 64)
				for day, n := range map[string]int64{"2026-05-13": 10, "2026-05-14": 10, "2026-05-15": 30, "2026-05-16": 20, "2026-05-17": 20,
					"2026-05-18": 20} {
					raw := 0.01 * float64(n)
					if got, want := b.day(day), (sum{100 * n, n, raw, raw * rate}); !got.same(want) {
						t.Errorf("%s: got %s, want %s", day, got, want)
					}
				}
			})
		}
	}
}

// TestTakeoverByTheContainersCalendar: where the container's days are not those of the organisation, what the old sync has
// counted between their midnights is neither counted again nor lost.
func TestTakeoverByTheContainersCalendar(t *testing.T) {
	for _, test := range []struct {
		zone      string // of the organisation
		container *time.Location
	}{
		{"Europe/Warsaw", time.UTC},
		{"America/New_York", time.UTC},
		{"", time.FixedZone("", 9*3600)},
		{"Europe/Warsaw", time.FixedZone("", 2*3600)},
		{"America/New_York", time.FixedZone("", 9*3600)},
		{"Asia/Kolkata", time.FixedZone("", -7*3600)},
	} {
		t.Run(test.zone+" "+test.container.String(), func(t *testing.T) {
			w := newWorld(t, friday, client("acme", test.zone))
			o := oldSync{world: w, zone: test.container, today: "daily", markup: 1.3}
			// It has counted all of 48 hours of its own calendar, at once.
			start := store.Day("2026-05-14").Start(test.container)
			n := 0
			for use := start.Add(10 * time.Minute); use.Before(start.Add(48 * time.Hour)); use = use.Add(30 * time.Minute) {
				id := fmt.Sprint("old-", n)
				w.api.Add(keyOf("acme"), generation(id, use))
				o.poll(use.Add(time.Minute), id)
				n++
			}
			for i := range 10 { // counted by nobody, before and after
				w.api.Add(keyOf("acme"), generation(fmt.Sprint("before-", i), start.Add(-time.Duration(i)*20*time.Minute-time.Minute)),
					generation(fmt.Sprint("after-", i), start.Add(48*time.Hour+time.Duration(i)*20*time.Minute)))
			}
			w.at(start.Add(100 * time.Hour))
			whole := func(t *job.Takeover) { t.DaysBack = 10 }
			again := func(t *job.Takeover) { t.DaysBack, t.Again = 10, true }
			w.decide(store.AnswerAdopt, whole)
			w.wantRequests("adopted", int64(n+20))
			w.later(10*time.Minute).sync(full, daysBack(10))
			w.wantRequests("adopted", int64(n+20))
			w.decide(store.AnswerReplace, again)
			w.wantRequests("replaced", int64(n+20))
			w.decide(store.AnswerNone, again)
			w.wantRequests("none", int64(2*n+20))
		})
	}
}

// TestTakeoverAnswersAreNotPassedOver: an answer that is given while another one holds.
func TestTakeoverAnswersAreNotPassedOver(t *testing.T) {
	w, _ := weekend(t, oldSync{today: "daily"})
	w.at(monday).sync(adopt)
	answer := func(answer store.Answer, until time.Time) option {
		return func(p *job.Pass) { p.Answer, p.AdoptUntil = answer, until }
	}
	w.sync(adopt)
	w.sync(answer(store.AnswerAdopt, at("2026-05-15T16:30:00Z")))
	for name, other := range map[string]option{
		"another answer": answer(store.AnswerNone, time.Time{}),
		"another time":   answer(store.AnswerAdopt, at("2026-05-15T12:00:00Z")),
	} {
		if o := w.pass(other); !errors.Is(o.Err, job.ErrAnswer) || !strings.Contains(o.Err.Error(), "takeover --again") {
			t.Errorf("%s: got %v", name, o.Err)
		}
	}
	w.wantRequests("adopted", 30+80)
}

// TestTakeoverPutsAsideForATime: the rows that were put aside are kept as long as a source reaches back, and there is no way
// back behind that.
func TestTakeoverPutsAsideForATime(t *testing.T) {
	w, _ := weekend(t, oldSync{today: "daily"})
	w.at(monday)
	w.decide(store.AnswerReplace)
	kept := w.text(`select count(*) from usage_sync_put_aside`)
	back := func() error {
		s := w.open()
		defer s.Close()
		orgs, err := s.Organisations(t.Context(), nil, time.UTC)
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = w.takeover(s).Undo(t.Context(), orgs[0])
		return err
	}
	for days := range 30 {
		w.at(monday.AddDate(0, 0, days)).sync()
	}
	w.want("put aside", w.text(`select count(*) from usage_sync_put_aside`), kept)
	want := w.books("acme").total()
	w.at(monday.AddDate(0, 0, 35)).sync()
	if err := back(); !errors.Is(err, job.ErrAnswer) { // the days before are listed no more
		t.Errorf("got %v", err)
	}
	w.at(monday.AddDate(0, 0, 60)).sync()
	w.want("put aside", w.text(`select count(*) from usage_sync_put_aside`), "0")
	if err := back(); !errors.Is(err, job.ErrAnswer) {
		t.Errorf("got %v", err)
	}
	if got := w.books("acme").total(); !got.same(want) {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestTakeoverOldSyncStillRuns(t *testing.T) {
	w, _ := weekend(t, oldSync{today: "daily"})
	w.at(at("2026-05-15T16:45:00Z"))
	if o := w.pass(adopt, offFor(10*time.Minute)); !errors.Is(o.Err, job.ErrOldSync) {
		t.Fatalf("got %v", o.Err)
	}
	w.sync(adopt, offFor(10*time.Minute), func(p *job.Pass) { p.OldSyncIsOff = true })
	w.wantRequests("on somebody's word", 30)
}

func TestTakeoverAgain(t *testing.T) {
	w, _ := weekend(t, oldSync{today: "live"})
	w.at(monday)
	before := w.books("acme")
	again := func(t *job.Takeover) { t.Again = true }
	w.decide(store.AnswerNone)
	w.wantRequests("none", 30+100)
	w.later(time.Hour)
	w.api.Add(keyOf("acme"), generation("later", w.now().Add(-time.Minute)))
	w.sync()
	w.decide(store.AnswerReplace, again)
	w.wantRequests("replace", 30+81)
	w.decide(store.AnswerAdopt, again)
	w.wantRequests("adopt", 30+81)
	w.sync(full)
	w.wantRequests("adopt", 30+81)

	s := w.open()
	defer s.Close()
	orgs, err := s.Organisations(t.Context(), nil, time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.takeover(s).Undo(t.Context(), orgs[0]); err != nil {
		t.Fatal(err)
	}
	after := w.books("acme")
	if fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("got %v, want %v", after, before)
	}
	w.wantUndecided()
	w.sync(adopt)
	w.wantRequests("adopt", 30+81)

	// What nobody lists again is not lost.
	_, err = job.Manual{Organisation: "acme", Model: "x/y", Tokens: 1, Cost: store.Dollar}.Record(t.Context(), s,
		slog.New(slog.DiscardHandler), w.now, time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.takeover(s).Undo(t.Context(), orgs[0]); !errors.Is(err, store.ErrTooLate) {
		t.Errorf("got %v", err)
	}
	w.wantRequests("adopt", 30+82)
}

// TestAnyTakeover: whatever a build of the old sync and its faults have left, by whatever calendar, whoever has looked at it or
// recorded by hand, each answer makes of every day what its table has promised, and replace makes what OpenRouter lists. An
// answer that is told to end at any moment is given again; that of a killed process is integration's.
func TestAnyTakeover(t *testing.T) {
	cases(t, 40, 1000)
	zones := []string{"", "Europe/Warsaw", "America/New_York", "Asia/Kolkata"}
	empties := map[string]*scratch{}
	for _, zone := range zones {
		empties[zone] = newScratch(t, client("acme", zone))
	}
	rapid.Check(t, func(t *rapid.T) {
		zone := rapid.SampledFrom(zones).Draw(t, "zone")
		start := at("2026-05-10T00:30:00Z")
		w := empties[zone].world(t, start)
		defer discard(w)
		w.api.AddKey(keyOf("acme"), "acme")
		w.manage()
		location, err := time.LoadLocation(zone)
		if err != nil {
			t.Fatalf("%v", err)
		}
		containers := map[string]*time.Location{"UTC": time.UTC, "organisation": location, "east": time.FixedZone("east", 9*3600),
			"west": time.FixedZone("west", -7*3600)}
		container := rapid.SampledFrom([]string{"UTC", "UTC", "organisation", "east", "west"}).Draw(t, "container")
		o := oldSync{world: w, zone: containers[container], noTokens: rapid.Bool().Draw(t, "no tokens"), iso: rapid.Bool().Draw(t, "iso"),
			today:  rapid.SampledFrom([]string{"live", "daily", "both"}).Draw(t, "build"),
			markup: rapid.SampledFrom([]float64{1.3, 1.5}).Draw(t, "markup"), times: rapid.IntRange(1, 3).Draw(t, "times")}
		// In a container of other days than UTC's such a build files one use under two days; nothing tells them apart.
		if unquoted := rapid.SampledFrom([]string{"", "", "adds up", "sticks"}).Draw(t, "unquoted"); container == "UTC" {
			o.unquoted = unquoted
		}
		upgraded := rapid.IntRange(0, 80).Draw(t, "upgraded")
		off := rapid.IntRange(1, 60).Draw(t, "polls")
		listed := map[string]sum{}
		use := func(id string, at time.Time) {
			g := generation(id, at)
			w.api.Add(keyOf("acme"), g)
			day := string(store.DayOf(at, location))
			listed[day] = listed[day].plus(sum{100, 1, 0.01, 0.013})
		}
		now := start
		for i := range off {
			o.ledger = i >= upgraded
			now = now.Add(time.Duration(rapid.IntRange(20, 200).Draw(t, "minutes")) * time.Minute)
			id := fmt.Sprint("old-", i)
			use(id, now.Add(-time.Duration(rapid.IntRange(1, 15).Draw(t, "ago"))*time.Minute))
			o.poll(now, id)
		}
		lastWrite := now
		delay := rapid.IntRange(1, 20*24).Draw(t, "delay in hours")
		for i := range rapid.IntRange(0, 12).Draw(t, "later") {
			use(fmt.Sprint("new-", i), lastWrite.Add(time.Duration(1+i*delay*5)*time.Minute))
		}
		for range rapid.IntRange(0, 3).Draw(t, "looks") {
			o.look(lastWrite.Add(time.Duration(rapid.IntRange(0, delay*60).Draw(t, "look")) * time.Minute))
		}
		w.at(lastWrite.Add(time.Duration(delay)*time.Hour + time.Minute))
		record := func() {
			s := w.open()
			defer s.Close()
			_, err := job.Manual{Organisation: "acme", Model: "x/y", Tokens: 1, Cost: store.Dollar}.Record(context.Background(), s,
				slog.New(slog.DiscardHandler), w.now, time.UTC)
			if err != nil {
				t.Fatalf("%v", err)
			}
			day := string(store.DayOf(w.now(), location))
			listed[day] = listed[day].plus(sum{1, 1, 1, 1.3})
		}
		if rapid.IntRange(0, 3).Draw(t, "by hand") == 0 {
			record()
		}
		if o := w.pass(daysBack(rapid.IntRange(0, 5).Draw(t, "back"))); o.Err == nil {
			if upgraded > 0 && upgraded >= off {
				t.Fatalf("not asked")
			}
			return // the ledger explains the last days
		}
		s := w.open()
		defer s.Close()
		answer := rapid.SampledFrom(store.Answers)
		w.api.Play(standin.Quirks{Exact: true})
		whole := func(c *job.Takeover) {
			c.DaysBack, c.Sources.Choice = job.MaxDaysBack, rapid.SampledFrom([]string{job.SourceGenerations, job.SourceAnalytics}).Draw(t, "source")
		}
		for i := range rapid.IntRange(1, 3).Draw(t, "answers") {
			given := answer.Draw(t, "answer")
			again := func(t *job.Takeover) { t.Again = i > 0 }
			if rapid.Bool().Draw(t, "ended early") {
				patience := time.Duration(rapid.IntRange(1, 20_000).Draw(t, "patience")) * time.Microsecond
				w.endEarly(given, patience, whole, again)
				again = func(t *job.Takeover) { t.Again = len(w.text(`select max(answered_at) from usage_sync_takeovers`)) > 0 }
			}
			c := w.decide(given, whole, again)
			for range rapid.IntRange(0, 2).Draw(t, "passes") {
				w.later(10 * time.Minute)
				if rapid.Bool().Draw(t, "look") {
					o.look(w.now())
				}
				w.sync(full, daysBack(rapid.IntRange(0, 5).Draw(t, "back")))
			}
			w.wantPromise(c, given)
			if given == store.AnswerReplace && upgraded >= off { // days with a complete ledger stand
				b := w.check("acme")
				for day, want := range listed {
					if got := b.day(day); !got.same(want) {
						t.Fatalf("%s: got %s, OpenRouter lists %s", day, got, want)
					}
				}
			}
		}
		// What is recorded by hand afterwards is beside the promise, and not lost by another answer.
		before := w.books("acme").total()
		record()
		w.later(10 * time.Minute).sync(full)
		if got, want := w.books("acme").total(), before.plus(sum{1, 1, 1, 1.3}); !got.same(want) {
			t.Fatalf("recorded by hand: got %s, want %s", got, want)
		}
		tk := w.takeover(s, whole, func(t *job.Takeover) { t.Again = true })
		if cases, err := tk.Look(context.Background()); err != nil || !errors.Is(cases[0].Err, job.ErrAnswer) {
			t.Fatalf("decided again although it would lose what was recorded by hand: %v, %v", err, cases[0].Err)
		}
	})
}

// endEarly begins to give an answer, and has it ended: everything is changed then, or nothing.
func (w *world) endEarly(answer store.Answer, patience time.Duration, configure ...func(*job.Takeover)) {
	w.Helper()
	s := w.open()
	defer s.Close()
	tk := w.takeover(s, configure...)
	c := w.look(tk)
	before := fmt.Sprint(w.books("acme"))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := tk.Answer(ctx, c, answer, time.Time{}); err == nil {
		w.wantPromise(c, answer)
	} else if got := fmt.Sprint(w.books("acme")); got != before {
		w.Fatalf("ended early: got %s, want %s", got, before)
	}
}

// TestTakeoverIsWholeOrNotAtAll: an answer that is told to end at any moment has changed everything or nothing.
func TestTakeoverIsWholeOrNotAtAll(t *testing.T) {
	w, _ := weekend(t, oldSync{today: "daily"})
	w.at(monday)
	before := fmt.Sprint(w.books("acme"))
	s := w.open()
	defer s.Close()
	tk := w.takeover(s)
	c := w.look(tk)
	for ended, patience := 0, 50*time.Microsecond; ; patience += patience / 4 {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		_, err := tk.Answer(ctx, c, store.AnswerReplace, time.Time{})
		cancel()
		if err == nil {
			if ended == 0 {
				t.Error("it was never ended early")
			}
			break
		}
		ended++
		if got := fmt.Sprint(w.books("acme")); got != before {
			t.Fatalf("after %v: got %s, want %s", err, got, before)
		}
		w.want("put aside", w.text(`select count(*) from usage_sync_put_aside`), "0")
	}
	w.wantPromise(c, store.AnswerReplace)
}

// TestTakeoverOldSyncGoesOn: what the old sync counts after the answer is not billed, and is told.
func TestTakeoverOldSyncGoesOn(t *testing.T) {
	for i, answer := range store.Answers {
		for j, today := range []string{"live", "daily", "both"} {
			upgraded := (i+j)%2 == 1
			t.Run(string(answer)+"/"+today, func(t *testing.T) {
				w, o := weekend(t, oldSync{today: today})
				w.at(monday)
				w.decide(answer)
				o.ledger = upgraded // to a build with a ledger, meanwhile
				want := w.books("acme").total().requests
				for i := range 4 {
					w.later(10 * time.Minute)
					id := fmt.Sprint("both-", i)
					w.api.Add(keyOf("acme"), generation(id, w.now().Add(-5*time.Minute)))
					o.poll(w.now().Add(-time.Minute), id)
					w.sync()
					want++
					w.wantRequests("beside the old sync", want)
				}
				w.wantLog("which is not billed")
			})
		}
	}
}
