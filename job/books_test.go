package job_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
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
	cases(t, 60, 3000)
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
