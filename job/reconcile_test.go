package job_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"pgregory.net/rapid"

	"usage-sync/job"
	"usage-sync/job/openrouter"
	"usage-sync/job/openrouter/standin"
	"usage-sync/job/reconcile"
	"usage-sync/store"
)

// reconciliation is one as the command line makes it: of all days that OpenRouter tells about, today included.
func (w *world) reconciliation(s *store.Store) *reconcile.Reconciliation {
	w.Helper()
	log := slog.New(slog.NewTextHandler(io.MultiWriter(w.logs), nil))
	c, err := openrouter.New(w.http.URL+"/api/v1", "test", log, openrouter.WithFirstWait(time.Millisecond))
	if err != nil {
		w.Fatalf("%v", err)
	}
	r := &reconcile.Reconciliation{Store: s, Client: c, Log: log, Now: w.now, Zone: time.UTC, Tolerance: reconcile.DefaultTolerance, ExitCode: exitCode,
		Sources: job.Sources{Choice: job.SourceAuto, Generations: func() job.Source { return openrouter.NewGenerations(c) }}}
	today := store.DayOf(w.now(), time.UTC)
	r.Period = reconcile.Period{From: today.Add(-28), To: today.Add(1)}
	if w.managementKey != "" {
		m := openrouter.NewManagement(c, w.managementKey, openrouter.WithQueriesPerMinute(1_000_000))
		r.Sources.Account = m
		r.Sources.Analytics = func() job.AnalyticsSource { return openrouter.NewAnalytics(c, m, s.Unrecorded) }
	}
	return r
}

func fix(r *reconcile.Reconciliation) { r.Fix = true }
func period(p reconcile.Period) func(r *reconcile.Reconciliation) {
	return func(r *reconcile.Reconciliation) { r.Period = p }
}
func reading(source string) func(r *reconcile.Reconciliation) {
	return func(r *reconcile.Reconciliation) { r.Sources.Choice = source }
}
func tolerating(m store.Money) func(r *reconcile.Reconciliation) {
	return func(r *reconcile.Reconciliation) { r.Tolerance = m }
}
func ordinaryKeyAlone(r *reconcile.Reconciliation) { r.Sources.Account, r.Sources.Analytics = nil, nil }
func ordered[T any](all []T, of func(T) string) (out []string) {
	for _, one := range all {
		out = append(out, of(one))
	}
	slices.Sort(out)
	return out
}

// compare reconciles the world's only organisation.
func (w *world) compare(options ...func(*reconcile.Reconciliation)) reconcile.Comparison {
	w.Helper()
	all := w.compareAll(options...)
	if len(all) != 1 {
		w.Fatalf("%d organisations, want 1", len(all))
	}
	return all[0]
}

// compareAll reconciles all organisations, with the database open for reading alone unless something is to be fixed.
func (w *world) compareAll(options ...func(*reconcile.Reconciliation)) []reconcile.Comparison {
	w.Helper()
	s, err := store.Open(context.Background(), w.path, store.ReadOnly)
	if err != nil {
		w.Fatalf("%v", err)
	}
	defer func() { _ = s.Close() }()
	r := w.reconciliation(s)
	for _, option := range options {
		option(r)
	}
	if r.Fix {
		writable := w.open()
		defer writable.Close()
		r = w.reconciliation(writable)
		for _, option := range options {
			option(r)
		}
	}
	all, err := r.Run(context.Background())
	if err != nil {
		w.Fatalf("%v", err)
	}
	return all
}

// wantEqual reconciles to nothing but the same figures on both sides.
func (w *world) wantEqual(options ...func(*reconcile.Reconciliation)) reconcile.Comparison {
	w.Helper()
	c := w.compare(options...)
	if c.Err != nil || c.Differences() != 0 || len(c.Causes) != 0 {
		w.Fatalf("reconciles to %v, %s", c.Err, described(c))
	}
	return c
}

// described shows what a comparison has found.
func described(c reconcile.Comparison) string {
	var lines []string
	for _, row := range c.Rows {
		if row.Differs {
			lines = append(lines, fmt.Sprintf("%s %s%s: %v, theirs %v", row.Day, row.Model, row.Table, row.Ours, row.Theirs))
		}
	}
	for _, cause := range c.Causes {
		lines = append(lines, fmt.Sprintf("%s %s %d %v", cause.Day, cause.Kind, cause.Count, cause.Effect))
	}
	return strings.Join(lines, "\n")
}

// causes are the kinds of a comparison, with their numbers.
func causes(c reconcile.Comparison) string {
	return strings.Join(ordered(c.Causes, func(c reconcile.Cause) string { return fmt.Sprintf("%s %s %d", c.Day, c.Kind, c.Count) }), ", ")
}

// damage is done to what one generation has left in the tables.
type damage struct {
	*world
	org, id, day, model, user string
	tokens                    int64
	raw, markup               float64
}

func (w *world) damage(org, id string) damage {
	w.Helper()
	d := damage{world: w, org: org, id: id}
	row := w.db.QueryRow(`select cast(p.generation_date as text), g.model_name, g.user_id, p.total_tokens, p.total_cost, p.total_cost * g.markup_rate
		from processed_generations p join usage_sync_generations g on g.id = p.id where p.id = ? and p.client_org_id = ?`, id, org)
	if err := row.Scan(&d.day, &d.model, &d.user, &d.tokens, &d.raw, &d.markup); err != nil {
		w.Fatalf("%s: %v", id, err)
	}
	return d
}

// sums counts the generation some more times in the totals and in the record of days, or fewer.
func (d damage) sums(times int) damage {
	d.Helper()
	const gain = ` set total_tokens = total_tokens + ?1, total_requests = total_requests + ?2, raw_cost = raw_cost + ?3, markup_cost = markup_cost + ?4`
	n := float64(times)
	args := []any{int64(times) * d.tokens, times, n * d.raw, n * d.markup}
	d.exec(`update client_model_daily_usage`+gain+` where id = ?5`, append(args, d.org+":"+d.model+":"+d.day)...)
	d.exec(`update client_user_daily_usage`+gain+` where id = ?5`, append(args, d.org+":"+d.user+":"+d.day)...)
	d.exec(`update client_daily_usage`+gain+` where id = ?5`, append(args, d.org+"_"+d.day)...)
	d.exec(`update client_live_counters set today_tokens = today_tokens + ?1, today_requests = today_requests + ?2,
		today_raw_cost = today_raw_cost + ?3, today_markup_cost = today_markup_cost + ?4 where client_org_id = ?5 and "current_date" = ?6`,
		append(args, d.org, d.day)...)
	d.exec(`update usage_sync_days set tokens = tokens + ?1, requests = requests + ?2, raw = raw + cast(round(?3 * 1e12) as integer),
		markup = markup + cast(round(?4 * 1e12) as integer)
		where client_org_id = ?5 and usage_date = ?6 and kind = 'counted' and (part = 'day' or (part = 'user' and name = ?7)
			or (part = 'model' and name = ?8))`, append(args, d.org, d.day, d.user, d.model)...)
	return d
}

// forget takes the generation out of the ledger.
func (d damage) forget() {
	d.Helper()
	d.exec(`delete from processed_generations where id = ?`, d.id)
	d.exec(`delete from usage_sync_generations where id = ?`, d.id)
}

// again enters it into the ledger a second time, under another id.
func (d damage) again() {
	d.Helper()
	d.exec(`insert into processed_generations select id || '-again', client_org_id, generation_date, processed_at, total_cost, total_tokens
		from processed_generations where id = ?`, d.id)
	d.exec(`insert into usage_sync_generations select client_org_id, generation_date, id || '-again', created_at, model_name, user_id,
		openrouter_user_id, markup_rate, source, adopted, resolution, requests, tokens, raw from usage_sync_generations where id = ?`, d.id)
}

// threeDays is an organisation with 70 hourly generations of two models, all of them recorded.
func threeDays(t *testing.T, zone, source string) *world {
	t.Helper()
	w := newWorld(t, noon, client("acme", zone)).manage()
	all := generations("g", 70, noon.Add(-17*time.Minute), time.Hour)
	for i := range all {
		all[i].ExternalUser = []string{"ann", "bob", ""}[i%3]
		if i%2 == 1 {
			all[i].Model, all[i].Cost = "anthropic/claude-sonnet-4", "0.0234567891"
		}
	}
	w.api.Add(keyOf("acme"), all...)
	w.sync(daysBack(5), from(source))
	return w
}

// TestDamageIsNamed plants each kind of damage: reconcile names it, and --fix mends what can be mended, with the tables
// as they were before.
func TestDamageIsNamed(t *testing.T) {
	const id = "g-30" // of the day before yesterday in each of these zones
	places := []struct{ zone, source string }{
		{"", job.SourceGenerations}, {"Europe/Warsaw", job.SourceAnalytics}, {"Asia/Kolkata", job.SourceAnalytics},
	}
	for i, test := range []struct {
		name   string
		plant  func(d damage)
		causes string // DAY is the generation's
		left   string // by --fix; empty is nothing
	}{
		{"a ledger row is gone, with its sums", func(d damage) { d.sums(-1).forget() }, "DAY missing 1", ""},
		{"counted twice", func(d damage) { d.sums(1).again() }, "DAY extra 1", "DAY extra 1"},
		{"sums counted twice", func(d damage) { d.sums(1) }, "DAY tables 3", "DAY tables 3"},
		{"sums not counted", func(d damage) { d.sums(-1) }, "DAY tables 3", "DAY tables 3"},
		{"OpenRouter has changed the cost", func(d damage) { d.api.SetCost(d.id, "0.5") }, "DAY changed 1", ""},
		{"counted at twice the cost", func(d damage) {
			d.sums(1)
			d.exec(`update usage_sync_generations set tokens = 2 * tokens, raw = 2 * raw where id = ?`, d.id)
			d.exec(`update processed_generations set total_cost = 2 * total_cost, total_tokens = 2 * total_tokens where id = ?`, d.id)
			d.exec(`update client_model_daily_usage set total_requests = total_requests - 1 where id = ?`, "acme:"+d.model+":"+d.day)
			d.exec(`update client_user_daily_usage set total_requests = total_requests - 1 where id = ?`, "acme:"+d.user+":"+d.day)
			d.exec(`update client_daily_usage set total_requests = total_requests - 1 where id = ?`, "acme_"+d.day)
			d.exec(`update usage_sync_days set requests = requests - 1 where usage_date = ? and kind = 'counted'
				and name in ('', ?, ?)`, d.day, d.model, d.user)
		}, "DAY changed 1", ""},
		{"recorded by hand", func(d damage) { d.record(d, 10, "0.03", false) }, "DAY manual 1", "DAY manual 1"},
		{"corrected by hand", func(d damage) { d.record(d, -10, "-0.005", true) }, "DAY manual 1", "DAY manual 1"},
		{"two at once", func(d damage) {
			d.record(d, 10, "0.03", false)
			d.sums(-1).forget()
		}, "DAY manual 1, DAY missing 1", "DAY manual 1"},
		{"another organisation has it", func(d damage) {
			d.sums(-1)
			d.exec(`update processed_generations set client_org_id = 'globex' where id = ?`, d.id)
			d.exec(`update usage_sync_generations set client_org_id = 'globex' where id = ?`, d.id)
		}, "DAY foreign 1", "DAY foreign 1"},
		{"under another model", func(d damage) {
			d.sums(-1)
			d.exec(`update usage_sync_generations set model_name = 'x/y' where id = ?`, d.id)
			d.model = "x/y"
			d.exec(`insert into client_model_daily_usage values (?1, 'acme', 'x/y', ?2, 0, 0, 0, 0, 'x', 0, 0)`, "acme:x/y:"+d.day, d.day)
			d.exec(`insert into usage_sync_days values ('acme', ?1, 'model', 'x/y', 'counted', 0, 0, 0, 0, '', 'acme:x/y:' || ?1, '0', 0, 0)`, d.day)
			d.sums(1)
		}, "DAY model 1", "DAY model 1"},
		{"under another day", func(d damage) {
			d.sums(-1)
			next := string(store.Day(d.day).Add(1))
			d.exec(`update processed_generations set generation_date = ? where id = ?`, next, d.id)
			d.exec(`update usage_sync_generations set generation_date = ? where id = ?`, next, d.id)
			d.day = next
			d.sums(1)
		}, "DAY day 1, NEXT day 1", "DAY day 1, NEXT day 1"},
		{"the day's row is wrong alone", func(d damage) {
			d.exec(`update client_daily_usage set raw_cost = raw_cost + 1 where id = ?`, "acme_"+d.day)
		}, "DAY tables 1", ""},
		{"a cost that is tolerated", func(d damage) {
			d.exec(`update client_model_daily_usage set raw_cost = raw_cost + 0.0000009 where id = ?`, "acme:"+d.model+":"+d.day)
		}, "", ""},
	} {
		// The short form takes them in turn.
		where := places[i%len(places):][:1]
		if *long {
			where = places
		}
		for _, at := range where {
			source := at.source
			t.Run(test.name+" "+at.zone, func(t *testing.T) {
				w := threeDays(t, at.zone, source)
				w.wantEqual(reading(source))
				d := w.damage("acme", id)
				test.plant(d)
				days := strings.NewReplacer("DAY", d.day, "NEXT", string(store.Day(d.day).Add(1)))
				c := w.compare(reading(source))
				if got := causes(c); c.Err != nil || got != days.Replace(test.causes) || (c.Differences() == 0) != (test.causes == "") {
					t.Fatalf("%v, %s\n%s", c.Err, got, described(c))
				}
				fixed := w.compare(reading(source), fix)
				if got := causes(fixed); fixed.Err != nil || got != days.Replace(test.left) || (fixed.Differences() == 0) != (test.left == "") {
					t.Errorf("after --fix: %v, %s\n%s", fixed.Err, got, described(fixed))
				}
				if test.causes != "" && test.left == "" {
					w.check("acme")
				}
				again := w.compare(reading(source), fix)
				if again.Fixed != nil && again.Fixed.Recorded+again.Fixed.Settled > 0 {
					t.Errorf("a second --fix has recorded %+v", again.Fixed)
				}
			})
		}
	}
}

// record enters usage by hand, on a generation's day.
func (w *world) record(d damage, tokens int64, cost string, correction bool) {
	w.Helper()
	s := w.open()
	defer s.Close()
	orgs, err := s.Organisations(context.Background(), []string{d.org}, time.UTC)
	amount, moneyErr := store.ParseMoney(cost)
	if err == nil && moneyErr == nil {
		_, err = s.RecordGenerations(context.Background(), store.Batch{Organisation: orgs[0], Source: "manual", Now: w.now(), Correction: correction,
			Generations: []store.Generation{{ID: store.ManualID(), CreatedAt: w.now(), Model: d.model, Tokens: tokens, Cost: amount, Day: store.Day(d.day)}}})
	}
	if err != nil || moneyErr != nil {
		w.Fatalf("%v, %v", err, moneyErr)
	}
}

// TestAnyDamageIsMended: whatever has become of some generations, --fix brings back what was used, adds nothing that is
// there, and takes nothing away.
func TestAnyDamageIsMended(t *testing.T) {
	cases(t, 6, 400)
	empty := newScratch(t, client("acme", ""))
	rapid.Check(t, func(t *rapid.T) {
		zone := rapid.SampledFrom([]string{"", "Europe/Warsaw", "Asia/Kolkata", "America/New_York"}).Draw(t, "zone")
		source := rapid.SampledFrom([]string{job.SourceGenerations, job.SourceAnalytics}).Draw(t, "source")
		w := empty.world(t, at("2026-03-30T18:00:00Z")) // Warsaw has changed its clocks the night before
		defer discard(w)
		w.api.AddKey(keyOf("acme"), "acme")
		w.manage()
		w.exec(`update client_organizations set timezone = nullif(?, '')`, zone)
		all := generations("g", 60, w.now().Add(-time.Second), 67*time.Minute)
		for i := range all {
			// No generations cost together what others do: one that is lost and one counted twice would make good for each other.
			all[i].Model, all[i].Cost = modelNames[i%3], fmt.Sprintf("0.01%010d", (i*i*i*7_919+i*104_729_171)%10_000_000_000)
		}
		w.api.Add(keyOf("acme"), all...)
		w.sync(daysBack(5), from(source))
		want, left := w.books("acme").total(), map[string]bool{}
		missing, settled := int64(0), int64(0)
		for i := 0; i < len(all); i += rapid.IntRange(1, 30).Draw(t, "step") {
			d := w.damage("acme", all[i].ID)
			switch rapid.SampledFrom([]string{"lost", "changed", "by hand", "twice"}).Draw(t, "damage") {
			case "lost":
				d.sums(-1).forget()
				missing++
			case "changed":
				w.api.SetCost(d.id, "0.03")
				want = want.plus(sum{raw: 0.03 - d.raw, markup: 0.039 - d.markup})
				settled++
			case "by hand":
				w.record(d, 10, "0.5", false)
				want = want.plus(sum{10, 1, 0.5, 0.65})
				left["manual"] = true
			case "twice":
				d.sums(1).again()
				want = want.plus(sum{d.tokens, 1, d.raw, d.markup})
				left["extra"] = true
			}
		}
		fixed := w.compare(reading(source), fix)
		if fixed.Err != nil {
			t.Fatalf("%v", fixed.Err)
		}
		if missing+settled > 0 && (fixed.Fixed.Recorded != missing || fixed.Fixed.Settled != settled || len(fixed.Fixed.Left) > 0) {
			t.Errorf("fixed %+v, want %d recorded and %d settled", *fixed.Fixed, missing, settled)
		}
		if got := w.check("acme").total(); !got.same(want) {
			t.Errorf("got %s, want %s", got, want)
		}
		for _, cause := range fixed.Causes {
			if !left[string(cause.Kind)] {
				t.Errorf("left is %s", described(fixed))
			}
		}
		if (fixed.Differences() > 0) != (len(left) > 0) {
			t.Errorf("left is %s", described(fixed))
		}
	})
}

// TestFixCountsNothingTwice: where the tables hold usage that the ledger does not know, --fix stays away.
func TestFixCountsNothingTwice(t *testing.T) {
	t.Run("a ledger row is gone and its sums are not", func(t *testing.T) {
		w := threeDays(t, "", job.SourceGenerations)
		d := w.damage("acme", "g-30")
		d.forget()
		w.api.SetCost("g-31", "0.07") // the same day differs, so that it is looked at
		before := w.books("acme").total()
		fixed := w.compare(fix)
		if got, want := causes(fixed), fmt.Sprintf("%s changed 1, %s missing 1, %s tables 3", d.day, d.day, d.day); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if got := fmt.Sprint(fixed.Fixed.Left); got != "["+d.day+"]" || !w.books("acme").total().same(before) {
			t.Errorf("left alone %s, %s became %s", got, before, w.books("acme").total())
		}
	})
	t.Run("a day that others have counted", func(t *testing.T) {
		w := newWorld(t, noon, client("acme", "")).manage()
		w.api.Add(keyOf("acme"), generations("g", 10, noon.Add(-30*time.Hour), time.Minute)...)
		w.exec(`insert into client_daily_usage values ('acme_2026-05-13', 'acme', '2026-05-13', 900, 9, 0.09, 0.117, 'x', 1, 1, 1)`)
		c := w.compare(fix)
		var takeover *job.TakeoverError
		if !errors.As(c.Err, &takeover) || fmt.Sprint(takeover.Days) != "[2026-05-13]" {
			t.Errorf("%v", c.Err)
		}
		w.want("ledger", w.text(`select count(*) from processed_generations`), "0")
		// Other days are none of that.
		w.api.Add(keyOf("acme"), generations("other", 10, noon.Add(-54*time.Hour), time.Minute)...)
		c = w.compare(fix, period(reconcile.Period{From: "2026-05-12", To: "2026-05-12"}))
		if c.Err != nil || c.Differences() != 0 || c.Fixed.Recorded != 10 {
			t.Errorf("%v, %+v", c.Err, c.Fixed)
		}
	})
	t.Run("a takeover under way", func(t *testing.T) {
		w := threeDays(t, "", job.SourceGenerations)
		w.damage("acme", "g-30").sums(-1).forget()
		w.exec(`update usage_sync_state set takeover = 'adopt', takeover_until = 1`)
		if c := w.compare(fix); !errors.Is(c.Err, store.ErrOrganisation) {
			t.Errorf("%v", c.Err)
		}
		w.want("the lost one", w.text(`select count(*) from processed_generations where id = 'g-30'`), "0")
	})
	t.Run("two at once", func(t *testing.T) {
		w := threeDays(t, "Europe/Warsaw", job.SourceAnalytics)
		w.damage("acme", "g-30").sums(-1).forget()
		var group errgroup.Group
		for range 2 {
			group.Go(func() error {
				w.compare(reading(job.SourceAnalytics), fix)
				return nil
			})
		}
		_ = group.Wait()
		w.wantEqual()
		w.check("acme")
	})
}

func TestModelsWithoutNames(t *testing.T) {
	w := newWorld(t, noon, client("acme", "Europe/Warsaw")).manage()
	all := generations("g", 30, noon.Add(-20*time.Hour), 10*time.Minute)
	for i := range all {
		all[i].Model = []string{"openai/gpt-4o", "x/y", ""}[i%3]
	}
	w.api.Add(keyOf("acme"), all...)
	w.sync(from(job.SourceGenerations))
	w.wantEqual()
	// The ledger knows a model that the totals do not.
	w.exec(`update client_model_daily_usage set model_name = 'x/y', id = 'elsewhere' where model_name = 'unknown'`)
	if c := w.compare(); c.Differences() != 0 {
		t.Errorf("%s", described(c))
	}
	// But not where the sum is another.
	w.exec(`update client_model_daily_usage set total_tokens = total_tokens + 1 where id = 'elsewhere'`)
	if c := w.compare(); c.Differences() == 0 {
		t.Errorf("a wrong sum goes unnoticed")
	}
}

// TestDatedModels: a model that has two names is one row, under whichever of them it was recorded.
func TestDatedModels(t *testing.T) {
	w := newWorld(t, noon, client("acme", "")).manage()
	all := generations("g", 30, noon.Add(-13*time.Hour), 10*time.Minute)
	for i := range all {
		all[i].Model = []string{"openai/gpt-4.1-2025-04-14", "x/y"}[i%2]
	}
	w.api.Add(keyOf("acme"), all...)
	w.sync()
	w.http.Config.Handler = http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		recorder := httptest.NewRecorder()
		w.api.ServeHTTP(recorder, r)
		out.WriteHeader(recorder.Code)
		_, _ = io.WriteString(out, strings.ReplaceAll(recorder.Body.String(), `"model":"openai/gpt-4.1-2025-04-14"`, `"model":"openai/gpt-4.1"`))
	})
	if c := w.wantEqual(); len(c.Rows) != 2 || c.Rows[0].Model != "openai/gpt-4.1" {
		t.Errorf("%+v", c.Rows)
	}
	// As they were written before there was one name: all of them, and a part.
	one := func() {
		t.Helper()
		if c := w.wantEqual(); len(c.Rows) != 2 || c.Rows[0].Model != "openai/gpt-4.1" || c.Rows[0].Ours.Requests != 15 {
			t.Errorf("%+v", c.Rows)
		}
	}
	w.exec(`update client_model_daily_usage set model_name = 'openai/gpt-4.1-2025-04-14' where model_name = 'openai/gpt-4.1'`)
	one()
	w.exec(`insert into client_model_daily_usage (id, client_org_id, model_name, provider, usage_date, total_tokens, total_requests, raw_cost,
		markup_cost, created_at, updated_at) select 'new', client_org_id, 'openai/gpt-4.1', provider, usage_date, 1000, 10, 0.1, 0.13, 0, 0
		from client_model_daily_usage where model_name like 'openai/%'`)
	w.exec(`update client_model_daily_usage set total_requests = 5, total_tokens = 500, raw_cost = 0.05, markup_cost = 0.065
		where model_name = 'openai/gpt-4.1-2025-04-14'`)
	one()
}

// TestMonth compares the total of a month, with the organisation's own key alone.
func TestMonth(t *testing.T) {
	for _, zone := range []string{"UTC", "Asia/Tokyo", "America/Los_Angeles"} {
		t.Run(zone, func(t *testing.T) {
			w := newWorld(t, at("2026-03-05T12:00:00Z"), client("acme", zone))
			w.api.Add(keyOf("acme"), generations("g", 300, w.now().Add(-time.Minute), time.Hour)...)
			w.sync(daysBack(20), from(job.SourceGenerations))
			own := period(reconcile.Period{From: "2026-03-02", To: "2026-03-04"})
			c := w.wantEqual(ordinaryKeyAlone, own)
			if c.Month == nil || c.Month.Ours != 108*store.Dollar/100 || c.Month.OwnCalendar != (zone != "UTC") {
				t.Fatalf("%+v", c.Month)
			}
			w.damage("acme", "g-50").sums(-1).forget()
			if c = w.compare(ordinaryKeyAlone, own); !c.Month.Differs || causes(c) == "" {
				t.Errorf("%+v, %s", c.Month, causes(c))
			}
			if c = w.compare(ordinaryKeyAlone, own, fix); c.Err != nil || c.Month.Differs || c.Fixed.Recorded != 1 {
				t.Errorf("%v, %+v", c.Err, c.Month)
			}
			w.check("acme")
			if c = w.compare(ordinaryKeyAlone, period(reconcile.Period{Month: "2026-02"})); !errors.Is(c.Err, openrouter.ErrNoSource) {
				t.Errorf("%v", c.Err)
			}
		})
	}
}

// TestReach: a day that OpenRouter does not tell about is not taken for equal.
func TestReach(t *testing.T) {
	w := newWorld(t, at("2026-04-01T01:00:00Z"), client("acme", "")).manage()
	w.api.Add(keyOf("acme"), generations("g", 31*24, w.now().Add(-61*time.Minute), time.Hour)...)
	w.sync(daysBack(30))
	march := period(reconcile.Period{})
	c := w.compare(march) // 1 March is the day before the ledger begins, and no longer part of the activity
	if got := strings.Join(c.Basis, " "); c.First != "2026-03-01" || c.Last != "2026-03-31" || len(c.Beyond) > 0 || got != "activity analytics" {
		t.Errorf("%s to %s by %s, beyond %s", c.First, c.Last, got, c.Beyond)
	}
	if got := causes(c); got != "2026-03-01 missing 24" {
		t.Errorf("%s\n%s", got, described(c))
	}
	c = w.compare(period(reconcile.Period{From: "2026-02-20", To: "2026-04-02"}))
	if got := fmt.Sprintf("%s %s %s %d", c.Beyond[0], c.Beyond[8], c.Beyond[9], len(c.Beyond)); got != "2026-02-20 2026-02-28 2026-04-02 10" {
		t.Errorf("beyond %s", got)
	}
	for _, p := range []reconcile.Period{{Month: "2026-02"}, {From: "2026-04-02"}, {Month: "2026-04"}} {
		if c := w.compare(period(p)); !errors.Is(c.Err, reconcile.ErrBeyondReach) {
			t.Errorf("%+v: %v", p, c.Err)
		}
	}
}

// TestNoActivity: a server without GET /activity is asked for hours.
func TestNoActivity(t *testing.T) {
	w := threeDays(t, "", job.SourceAnalytics)
	if c := w.wantEqual(); !slices.Contains(c.Basis, "activity") {
		t.Errorf("by %s", c.Basis)
	}
	missing := standin.Status(404, "")
	w.api.AlwaysAt("/activity", &missing)
	c := w.wantEqual()
	if got := strings.Join(c.Basis, " "); got != "analytics" || len(c.Rows) != 8 {
		t.Errorf("%d rows by %s", len(c.Rows), got)
	}
	if c := w.compare(tolerating(0)); c.Differences() != 0 {
		t.Errorf("without a tolerance: %s", described(c))
	}
}

// TestCausesFromTheSourceOfAPass: where the base URL has come to be a gateway's, which has the list alone, a pass finds its
// way, and so does the search for causes.
func TestCausesFromTheSourceOfAPass(t *testing.T) {
	w := threeDays(t, "", job.SourceGenerations)
	w.damage("acme", "g-30").sums(-1).forget()
	missing := standin.Status(404, "")
	w.api.AlwaysAt("/analytics/query", &missing)
	s := w.open()
	org := store.Organisation{ID: "acme", Key: store.Key(keyOf("acme"))}
	choice := store.SourceChoice{Source: job.SourceAnalytics, TriedAt: w.now().Add(-time.Hour)}
	if err := errors.Join(s.SetSourceChoice(t.Context(), org, choice), s.Close()); err != nil {
		t.Fatal(err)
	}
	over := period(reconcile.Period{From: "2026-05-10", To: "2026-05-13"})
	if c := w.compare(over); c.Err != nil || c.Unexplained != nil || len(c.Causes) != 1 || c.Causes[0].Kind != reconcile.CauseMissing {
		t.Errorf("%v, %v, %s", c.Err, c.Unexplained, described(c))
	}
}
