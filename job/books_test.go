package job_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"usage-sync/job/openrouter/standin"
	"usage-sync/store"
)

func location(t tester, name string) *time.Location {
	t.Helper()
	zone, err := time.LoadLocation(name)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return zone
}

// TestOneNight: an organisation of Europe/Warsaw, its container on UTC, and a look at the dashboard after each pass.
// Between the two midnights each look makes the live counter a copy of yesterday's daily row.
func TestOneNight(t *testing.T) {
	w := newWorld(t, at("2026-07-14T20:00:00Z"), client("acme", "Europe/Warsaw"))
	a := &application{world: w, org: "acme", container: time.UTC, client: location(w, "Europe/Warsaw")}
	for i := range 20 {
		a.use(generation(fmt.Sprintf("before-%d", i), w.now().Add(-time.Duration(i)*time.Minute)))
	}
	used, wrong := int64(20), 0
	for n := 0; w.now().Before(at("2026-07-15T03:00:00Z")); n++ {
		a.use(generation(fmt.Sprintf("night-%d", n), w.now().Add(-time.Second)))
		used++
		w.sync()
		w.wantTotal("acme", 100*used, used, 0.01*float64(used))
		v, err := a.lookA()
		if err != nil || v.month.requests > used {
			wrong++ // the first by which the other calendar is known, and that of the container's midnight
		}
		w.later(10 * time.Minute)
	}
	w.sync()
	w.wantTotal("acme", 100*used, used, 0.01*float64(used))
	if wrong > 2 {
		t.Errorf("%d looks have shown too much", wrong)
	}
}

// bookkeeping is one random life of an organisation beside the application's own code.
type bookkeeping struct {
	*application
	t       *rapid.T
	zone    *time.Location
	foreign map[string]sum // by day: recorded by the application, and met by a pass
	fresh   map[string]sum // not met by a pass yet
	next    int
	build   string
}

// truth is what was used by day.
func (b *bookkeeping) truth() map[string]sum {
	days := map[string]sum{}
	for _, g := range b.listed {
		day := g.CreatedAt.In(b.zone).Format(time.DateOnly)
		days[day] = days[day].plus(sum{100, 1, 0.01, 0.013})
	}
	for _, all := range []map[string]sum{b.foreign, b.fresh} {
		for day, s := range all {
			days[day] = days[day].plus(s)
		}
	}
	return days
}

// pass makes a pass, and holds all tables against the truth.
func (b *bookkeeping) keep() {
	b.sync(full, daysBack(10))
	for day, s := range b.fresh {
		b.foreign[day] = b.foreign[day].plus(s)
	}
	clear(b.fresh)
	truth, books := b.truth(), b.books("acme")
	if n := b.text(`select count(*) from client_daily_usage d where total_requests > 0 and (primary_model is null
		or primary_model = 'aggregated' or unique_users is not (select count(distinct user_id) from client_user_daily_usage u
			where u.usage_date = d.usage_date))`); n != "0" {
		b.Fatalf("%s daily rows have no primary model, or another number of users than there are", n)
	}
	if twice, there := books.daily[books.liveDay]; there && b.build != "D" {
		b.Fatalf("a daily row beside the live counter of %s: %s", books.liveDay, twice)
	}
	days := maps.Clone(truth)
	for _, table := range []map[string]sum{books.daily, books.users, books.models} {
		for day := range table {
			days[day] = truth[day]
		}
	}
	for _, day := range slices.Sorted(maps.Keys(days)) {
		want := days[day]
		if got := books.day(day); !got.same(want) || !books.users[day].same(want) || !books.models[day].same(want) {
			b.Fatalf("%s on %s:\n daily+live %s\n users      %s\n models     %s\n truth      %s\n%s", b.now(), day, got,
				books.users[day], books.models[day], want, b.logs)
		}
	}
}

// month is what a look may show.
func (b *bookkeeping) month() (s sum) {
	for day, used := range b.truth() {
		if day >= b.today()[:8]+"01" {
			s = s.plus(used)
		}
	}
	return s
}

// look looks at the dashboard after a pass. One look may be wrong, because only looks tell of the container's calendar;
// after the pass that follows it the same look is right.
func (b *bookkeeping) look() {
	for try := 1; ; try++ {
		if b.build == "D" {
			if v := b.lookD(); v.month.requests > b.month().requests {
				b.Fatalf("at %s the dashboard shows %s, used are %s", b.now(), v.month, b.month())
			}
			return
		}
		v, err := b.lookA()
		if err == nil && v.month.same(b.month()) {
			return
		}
		if try == 2 {
			b.Fatalf("at %s (%s in the container) the dashboard shows %s, %v; used are %s", b.now(), b.today(), v.month, err, b.month())
		}
		b.keep()
	}
}

func (b *bookkeeping) amount() sum {
	n := int64(rapid.IntRange(1, 9).Draw(b.t, "amount"))
	return sum{n * 7, 1, float64(n) * 0.003, float64(n) * 0.0039}
}

func (b *bookkeeping) record(model string) {
	s := b.amount()
	if b.build == "D" {
		b.recordD(rapid.SampledFrom([]string{"ann", "background_sync"}).Draw(b.t, "their user"), model, s)
	} else {
		b.recordC(model, s)
	}
	b.fresh[b.today()] = b.fresh[b.today()].plus(s)
}

var calendars = []string{"UTC", "Europe/Warsaw", "America/New_York", "Asia/Kolkata"}

// TestTheBooksHold: whatever the application's readers and writers do, in any order, at any minute, after each pass the
// tables are right, a look shows what was used, a record of the application counts once, and the Python sync nothing.
func TestTheBooksHold(t *testing.T) {
	cases(t, 25, 3000)
	empty := newScratch(t, client("acme", ""))
	rapid.Check(t, func(t *rapid.T) {
		zone := rapid.SampledFrom(calendars).Draw(t, "organisation")
		container := zone
		if rapid.Bool().Draw(t, "another calendar") {
			container = rapid.SampledFrom(calendars).Draw(t, "container")
		}
		start := rapid.SampledFrom([]string{"2026-03-28T20:10:00Z", "2026-07-14T20:03:00Z", "2026-10-24T19:30:00Z",
			"2026-10-31T23:20:00Z", "2026-12-31T16:45:00Z", "2026-05-31T21:05:00Z"}).Draw(t, "start")
		w := empty.world(t, at(start))
		defer discard(w)
		if rapid.Bool().Draw(t, "wal") {
			w.text(`pragma journal_mode = wal`)
		}
		w.api.AddKey(keyOf("acme"), "acme")
		w.exec(`update client_organizations set timezone = ?`, zone)
		b := &bookkeeping{t: t, zone: location(w, zone), foreign: map[string]sum{}, fresh: map[string]sum{},
			build:       rapid.SampledFrom([]string{"A", "A", "D"}).Draw(t, "build"),
			application: &application{world: w, org: "acme", container: location(w, container), client: location(w, zone)}}
		if b.build == "D" {
			w.exec(`create table daily_exchange_rates (id integer)`)
		}
		b.keep()
		for range rapid.IntRange(3, 14).Draw(t, "steps") {
			w.later(time.Duration(rapid.SampledFrom([]int{1, 40, 600, 1800, 3600, 4 * 3600, 11 * 3600}).Draw(t, "wait")) * time.Second)
			step := rapid.SampledFrom([]string{"use", "use", "pass", "pass", "look", "look", "record", "record", "rollover", "clean up",
				"reset", "batch", "python", "python with a ledger"}).Draw(t, "step")
			switch step {
			case "use":
				for range rapid.IntRange(1, 4).Draw(t, "uses") {
					b.next++
					ago := time.Duration(rapid.IntRange(0, 3000).Draw(t, "ago")) * time.Second
					g := generation(fmt.Sprintf("gen-%d", b.next), w.now().Add(-ago))
					g.Model = rapid.SampledFrom(modelNames).Draw(t, "model")
					g.ExternalUser = rapid.SampledFrom([]string{"", "ann", "bob"}).Draw(t, "user")
					b.use(g)
				}
				b.keep()
			case "pass":
				b.keep()
			case "look":
				b.keep()
				b.look()
			case "record":
				b.record(rapid.SampledFrom([]string{"openai/gpt-4o", "their/model"}).Draw(t, "their model"))
			case "rollover":
				if b.build != "D" {
					b.rollOverB()
				}
			case "clean up":
				b.cleanUpE()
			case "reset":
				b.resetE()
				clear(b.fresh) // it is lost before anyone could see it
			case "batch":
				b.batchF()
			case "python":
				b.keep()
				b.pythonSync(false)
			case "python with a ledger":
				b.pythonSync(true)
			}
		}
		w.later(time.Minute)
		b.keep()
		b.keep()
		b.look()
	})
}

// earlier makes a database what a version without a record of days has left.
func (w *world) earlier() {
	w.Helper()
	w.exec(`drop table usage_sync_days`)
	w.exec(`drop table usage_sync_books`)
}

// TestDoubledDaysAreRepaired: what the counter's copies have doubled under an earlier version is right after the first
// pass, as far back as the places of generations reach, and after reconcile --fix further back.
func TestDoubledDaysAreRepaired(t *testing.T) {
	doubled := func(t *testing.T) *world {
		w := newWorld(t, noon, client("acme", "Europe/Warsaw")).manage()
		w.api.Play(standin.Quirks{Exact: true})
		w.api.Add(keyOf("acme"), generations("g", 70, noon.Add(-17*time.Minute), time.Hour)...)
		w.sync(full, daysBack(5))
		w.earlier()
		w.exec(`update client_daily_usage set total_tokens = 4 * total_tokens, total_requests = 4 * total_requests,
			raw_cost = 4 * raw_cost, markup_cost = 4 * markup_cost`)
		w.exec(`update client_live_counters set today_requests = 7 * today_requests, today_raw_cost = 7 * today_raw_cost`)
		return w
	}
	t.Run("by the first pass", func(t *testing.T) {
		w := doubled(t)
		w.later(10 * time.Minute).sync()
		w.wantTotal("acme", 7000, 70, 0.7)
		w.wantLog("put right")
	})
	t.Run("by reconcile --fix, shown before", func(t *testing.T) {
		w := doubled(t)
		w.exec(`delete from usage_sync_generations`)
		if c := w.compare(); len(c.Books.Corrections) == 0 || c.Differences() == 0 {
			t.Errorf("the dry view shows %v", c.Books)
		}
		if c := w.compare(fix); c.Err != nil || c.Differences() != 0 || len(c.Books.Corrections) == 0 {
			t.Errorf("after --fix: %v, %s", c.Err, described(c))
		}
		w.wantTotal("acme", 7000, 70, 0.7)
		if c := w.compare(); len(c.Books.Corrections) != 0 {
			t.Errorf("after --fix the dry view shows %v", c.Books)
		}
		w.want("history", w.text(`select count(*) from usage_sync_runs where note like 'reconcile --fix: put right%'`), "1")
	})
}

// TestAReportedAgainGenerationMoves: a list has the last word on the day over a delivery, and a label that was missing is
// filled in. Nothing else moves, and nothing is counted twice.
func TestAReportedAgainGenerationMoves(t *testing.T) {
	w := newWorld(t, noon, client("acme", "UTC"))
	w.sync()
	record := func(source string, generations ...store.Generation) store.Recorded {
		t.Helper()
		s := w.open()
		defer s.Close()
		orgs, err := s.Organisations(t.Context(), nil, time.UTC)
		if err != nil {
			t.Fatal(err)
		}
		done, err := s.RecordGenerations(t.Context(), store.Batch{Organisation: orgs[0], Source: source, Now: noon,
			Generations: generations, Delivered: source == store.SourceWebhook})
		if err != nil {
			t.Fatal(err)
		}
		return done
	}
	today, yesterday := store.DayOf(noon, time.UTC), store.DayOf(noon, time.UTC).Add(-1)
	g := store.Generation{ID: "a", CreatedAt: noon.Add(-time.Hour), Day: today, Tokens: 10, Cost: store.Dollar}
	known := store.Generation{ID: "b", CreatedAt: noon.Add(-time.Hour), Day: today, Model: "x/y", User: "ann", Tokens: 10, Cost: store.Dollar}
	record(store.SourceWebhook, g, known)
	where := func() string {
		w.check("acme")
		return w.text(`select group_concat(usage_date || ' ' || name || ' ' || requests, ', ') from (
			select * from usage_sync_days where part <> 'day' and requests <> 0 order by usage_date, part, name)`)
	}
	w.want("delivered", where(), fmt.Sprintf("%[1]s unknown 1, %[1]s x/y 1, %[1]s ann 1, %[1]s background_sync 1", today))
	listed, other := g, known
	listed.CreatedAt, listed.Day, listed.Model, listed.User = noon.Add(-20*time.Hour+time.Second), yesterday, "x/z", "bob"
	other.Model, other.User = "x/other", "carl"
	record("generations", listed, other)
	after := fmt.Sprintf("%[2]s x/z 1, %[2]s bob 1, %[1]s x/y 1, %[1]s ann 1", today, yesterday)
	w.want("listed", where(), after)
	// A list is not moved by a delivery, nor by another list.
	g.Model, g.User = "x/y", "ann"
	record(store.SourceWebhook, g)
	record("analytics", g)
	w.want("again", where(), after)
	if done := record("generations", listed, other); len(done.Entries) != 0 {
		t.Errorf("recorded again: %+v", done.Entries)
	}
	if got := w.books("acme").total(); !got.same(sum{20, 2, 2, 2.6}) {
		t.Errorf("got %s", got)
	}
}

// TestChangingOver moves today's figures once, from where one build looks to where the other does.
func TestChangingOver(t *testing.T) {
	w := newWorld(t, noon, client("acme", "UTC"))
	w.api.Add(keyOf("acme"), generations("g", 5, noon.Add(-time.Minute), time.Minute)...)
	w.sync()
	today := noon.Format(time.DateOnly)
	in := func() string {
		b := w.wantTotal("acme", 500, 5, 0.05)
		return fmt.Sprintf("%d live, %d daily", b.live.requests, b.daily[today].requests)
	}
	w.want("build A", in(), "5 live, 0 daily")
	w.exec(`create table daily_exchange_rates (id integer)`)
	b := w.later(time.Minute).sync()
	if b.Err != nil {
		t.Fatal(b.Err)
	}
	w.want("build D", fmt.Sprint(w.books("acme").live.requests, w.books("acme").daily[today].requests), "0 5")
	w.later(time.Minute).sync()
	w.want("build D", fmt.Sprint(w.books("acme").live.requests, w.books("acme").daily[today].requests), "0 5")
	w.exec(`drop table daily_exchange_rates`)
	w.later(time.Minute).sync()
	w.want("build A again", in(), "5 live, 0 daily")
}

// TestPythonSyncBesideUs: it is told of in each pass and never billed, with a ledger or without.
func TestPythonSyncBesideUs(t *testing.T) {
	for _, ledger := range []bool{false, true} {
		t.Run(fmt.Sprintf("ledger %v", ledger), func(t *testing.T) {
			w := newWorld(t, noon, client("acme", "UTC"))
			a := &application{world: w, org: "acme", container: time.UTC, client: time.UTC}
			w.sync()
			for n := range 4 {
				w.later(10 * time.Minute)
				a.use(generation(fmt.Sprintf("g-%d", n), w.now().Add(-time.Minute)))
				a.pythonSync(ledger)
				w.later(time.Second).sync()
				w.wantTotal("acme", int64(100*(n+1)), int64(n+1), 0.01*float64(n+1))
			}
			w.wantLog("stop_sync_service")
			s := w.open()
			defer s.Close()
			differences, err := s.Differences(t.Context(), "acme", "2026-01-01", "2026-12-31")
			if err != nil || len(differences) != 1 {
				t.Fatalf("%v, %v", differences, err)
			}
			// What its ledger names is known. The rest is for a person to decide.
			if differences[0].IsKnown() != ledger {
				t.Errorf("disputed is %+v", differences[0])
			}
		})
	}
}
