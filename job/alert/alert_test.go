package alert

import (
	"context"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	_ "time/tzdata"

	"usage-sync/store"
)

var (
	noon     = time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC) // a Tuesday
	settings = Settings{LimitWarning: 80, LimitCritical: 100, Sensitivity: 1}
)

// steady is a dollar in each hour of some days before a time.
func steady(until time.Time, days int) []store.Hour {
	var hours []store.Hour
	for at := until.Add(-time.Duration(days) * 24 * time.Hour); at.Before(until); at = at.Add(time.Hour) {
		hours = append(hours, store.Hour{Start: at, Requests: 10, Raw: store.Dollar})
	}
	return hours
}

func find(hours []store.Hour, now time.Time, zone *time.Location) Anomaly {
	return findAnomaly(hours, hours[0].Start, now, now, zone, 1)
}

func TestFindAnomaly(t *testing.T) {
	t.Run("Usual", func(t *testing.T) {
		a := find(steady(noon, 30), noon, time.UTC)
		if !a.Known || math.Abs(a.Score()) >= 0.5 {
			t.Errorf("steady usage scores %+v", a)
		}
	})
	t.Run("TooLittleHistory", func(t *testing.T) {
		hours := steady(noon, 13)
		hours[len(hours)-1].Raw *= 100
		if a := find(hours, noon, time.UTC); a.Known || a.Score() != 0 {
			t.Errorf("two weeks less a day are judged: %+v", a)
		}
	})
	t.Run("BelowTheFloor", func(t *testing.T) {
		hours := steady(noon, 30)
		for i := range hours {
			hours[i].Raw = store.Dollar / 1000
		}
		hours[len(hours)-1].Raw *= 20
		for _, sensitivity := range []float64{1, 2} {
			if a := findAnomaly(hours, hours[0].Start, noon, noon, time.UTC, sensitivity); a.Spike.score == 0 || math.Abs(a.Score()) >= 1 {
				t.Errorf("two cents are a spike: %+v", a)
			}
		}
	})
	t.Run("Sensitivity", func(t *testing.T) {
		hours := steady(noon, 30)
		hours[len(hours)-1].Raw *= 3
		normal := findAnomaly(hours, hours[0].Start, noon, noon, time.UTC, 1).Spike.score
		high := findAnomaly(hours, hours[0].Start, noon, noon, time.UTC, 2).Spike.score
		if high != 2*normal || normal == 0 {
			t.Errorf("scores %v and %v", normal, high)
		}
		if off := findAnomaly(hours, hours[0].Start, noon, noon, time.UTC, 0); off.Known {
			t.Errorf("switched off: %+v", off)
		}
	})
	t.Run("SilenceOnlyWhereNothingMayComeIn", func(t *testing.T) {
		hours := steady(noon.Add(-5*time.Hour), 30)
		if a := find(hours, noon, time.UTC); a.Silence.score < 1 || !strings.HasPrefix(a.Silence.words, "no request for 5 hours, since before Tuesday 07:00") {
			t.Errorf("five hours of silence: %+v", a.Silence)
		}
		covered := noon.Add(-4 * time.Hour)
		if a := findAnomaly(hours, hours[0].Start, covered, noon, time.UTC, 1); a.Silence.score >= 1 {
			t.Errorf("four of them may still come in: %+v", a.Silence)
		}
	})
}

// TestSummerTime: who works from nine to five by his own clock is not out of the ordinary in the week after clocks changed.
func TestSummerTime(t *testing.T) {
	zone, err := time.LoadLocation("Europe/Warsaw")
	if err != nil {
		t.Fatal(err)
	}
	for _, changed := range []time.Time{time.Date(2026, 3, 29, 0, 0, 0, 0, zone), time.Date(2025, 10, 26, 0, 0, 0, 0, zone)} {
		var hours []store.Hour
		end := changed.AddDate(0, 0, 8)
		for at := changed.AddDate(0, 0, -28).UTC(); at.Before(end); at = at.Add(time.Hour) {
			if h := at.In(zone).Hour(); h >= 9 && h < 17 {
				hours = append(hours, store.Hour{Start: at, Requests: 10, Raw: store.Dollar})
			}
		}
		for at := changed; at.Before(end); at = at.Add(30 * time.Minute) {
			until := slices.IndexFunc(hours, func(h store.Hour) bool { return !h.Start.Before(at) })
			if until < 0 {
				until = len(hours)
			}
			if a := find(hours[:until], at, zone); math.Abs(a.Score()) >= 1 {
				t.Errorf("%s: %+v", at, a)
			}
		}
	}
}

func TestLimit(t *testing.T) {
	today := store.Day("2026-03-10")
	costs := map[store.Day]store.Money{}
	for i := range 56 { // ten dollars on each working day
		day := today.Add(-i)
		if at, _ := time.Parse(time.DateOnly, string(day)); at.Weekday() != time.Saturday && at.Weekday() != time.Sunday {
			costs[day] = 10 * store.Dollar
		}
	}
	l := newLimit(costs, today, 100*store.Dollar)
	if l.Spent != 70*store.Dollar || l.percent() != 70 || l.Month != "2026-03" {
		t.Errorf("spent %s, %v %%, in %s", l.Spent, l.percent(), l.Month)
	}
	// March 2026 has 22 working days, and none differs from another.
	const want = "$220.00 to $220.00 by the end of the month, most likely about $220.00"
	if f := l.Forecast; f.String() != want || f.Reaches != "2026-03-13" {
		t.Errorf("forecast %s, the limit reached on %s", f, f.Reaches)
	}
	if again := newLimit(costs, today, 100*store.Dollar); again != l {
		t.Errorf("another forecast of the same: %+v", again)
	}
	costs["2026-02-20"] = 60 * store.Dollar
	if f := newLimit(costs, today, 0).Forecast; f.Low >= f.High || f.Low < 70*store.Dollar {
		t.Errorf("weeks differ, and the range does not show it: %+v", f)
	}
	for day := range costs {
		if day < today.Add(-13) {
			delete(costs, day)
		}
	}
	if f := newLimit(costs, today, 0).Forecast; f.Known || f.String() != "too little history for a forecast" {
		t.Errorf("less than two weeks: %s", f)
	}
}

// TestJudge goes through a store: what was recorded is judged, told once, and its cause is named.
func TestJudge(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "webui.db")
	clients := []store.NewOrganisation{{ID: "acme", Name: "Acme", Key: "sk-or-v1-acme", Rate: 1.3}}
	if err := store.CreateDemo(ctx, path, clients, noon); err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(ctx, path, store.ReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	orgs, err := db.Organisations(ctx, nil, time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	org := orgs[0]
	org.MonthlyLimit = 1000 * store.Dollar
	made := func(id string, at time.Time, model, user string, cost store.Money) store.Generation {
		return store.Generation{ID: id, CreatedAt: at, Model: model, User: user, Tokens: 1, Cost: cost, Day: store.DayOf(at, time.UTC)}
	}
	record := func(generations ...store.Generation) {
		t.Helper()
		b := store.Batch{Organisation: org, Source: "test", Now: noon, Generations: generations}
		if _, err := db.RecordGenerations(ctx, b); err != nil {
			t.Fatal(err)
		}
	}
	start := noon.AddDate(0, 0, -29)
	var usual []store.Generation
	for i := range 29 * 24 {
		at, user := start.Add(time.Duration(i)*time.Hour), []string{"anna", "ben"}[i%2]
		usual = append(usual, made(fmt.Sprint("gen-", i), at, "openai/gpt-4.1", user, store.Dollar))
	}
	record(usual...)
	record(made(store.ManualID(), noon.Add(-time.Minute), "openai/gpt-4.1", "anna", 500*store.Dollar))
	judge := func(now time.Time) Verdict {
		t.Helper()
		v, err := settings.Judge(ctx, db, org, store.State{CoveredFrom: start, CoveredTo: now}, now)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	if v := judge(noon); slices.ContainsFunc(v.Alerts, func(a store.Alert) bool { return a.Kind == kindSpike }) {
		t.Fatalf("a correction is a spike: %+v", v.Alerts)
	}
	record(made("gen-wild", noon.Add(10*time.Minute), "anthropic/claude-opus-4", "carol", 30*store.Dollar),
		made("gen-tame", noon.Add(10*time.Minute), "openai/gpt-4.1", "anna", 2*store.Dollar))
	now := noon.Add(40 * time.Minute)
	v := judge(now)
	i := slices.IndexFunc(v.News.Raised, func(a store.Alert) bool { return a.Kind == kindSpike })
	if i < 0 || !strings.Contains(v.News.Raised[i].Message, "97 % of the excess from anthropic/claude-opus-4, 97 % of the excess by user carol") {
		t.Fatalf("raised: %+v", v.News.Raised)
	}
	if err := v.Remember(ctx, db, org); err != nil {
		t.Fatal(err)
	}
	again := judge(now.Add(10 * time.Minute))
	if !again.News.None() || len(again.Alerts) != len(v.Alerts) || again.News.String() != "" {
		t.Errorf("told again: %+v", again)
	}
	t.Run("Limit", func(t *testing.T) {
		limited := org
		for _, step := range []struct {
			limit    store.Money
			kind     string
			critical bool
		}{{900 * store.Dollar, kindLimit, true}, {1200 * store.Dollar, kindLimit, false}, {1300 * store.Dollar, kindForecast, false}} {
			limited.MonthlyLimit = step.limit
			v, err := settings.Judge(ctx, db, limited, store.State{}, now)
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(v.Alerts, func(a store.Alert) bool { return a.Kind == step.kind })
			if i < 0 || strings.HasSuffix(v.Alerts[i].Level, levelCritical) != step.critical {
				t.Errorf("$%s of $%s: %+v", v.Limit.Spent, step.limit, v.Alerts)
			}
		}
		limited.MonthlyLimit = 0
		if v, err := settings.Judge(ctx, db, limited, store.State{}, now); err != nil || slices.ContainsFunc(v.Alerts, func(a store.Alert) bool { return a.Kind == kindLimit || a.Kind == kindForecast }) {
			t.Errorf("no limit, %v: %+v", err, v.Alerts)
		}
	})
	before := len(db.LockTimes())
	if err := again.Remember(ctx, db, org); err != nil || len(db.LockTimes()) != before {
		t.Errorf("nothing has changed, and it is written: %v", err)
	}
	if later := judge(now.AddDate(0, 0, 1)); !slices.ContainsFunc(later.News.Over, func(a store.Alert) bool { return a.Kind == kindSpike }) {
		t.Errorf("a day later it goes on: %+v", later)
	}
}

// TestDaily: a ceiling is told of once a day and once a user, also of the usage of a day's last minutes, which comes in after it.
func TestDaily(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "webui.db")
	clients := []store.NewOrganisation{{ID: "acme", Name: "Acme", Key: "sk-or-v1-acme", Rate: 2, Timezone: "Europe/Warsaw"}}
	if err := store.CreateDemo(ctx, path, clients, noon); err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(ctx, path, store.ReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	orgs, err := db.Organisations(ctx, nil, time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	org := orgs[0]
	record := func(id string, at time.Time, user string, cost store.Money) {
		t.Helper()
		b := store.Batch{Organisation: org, Source: "test", Now: at, Generations: []store.Generation{
			{ID: id, CreatedAt: at, Model: "a/b", User: user, Tokens: 1, Cost: cost, Day: store.DayOf(at, org.Zone)}}}
		if _, err := db.RecordGenerations(ctx, b); err != nil {
			t.Fatal(err)
		}
	}
	ceilings := Settings{DailyLimit: 10 * store.Dollar, DailyLimitUser: 4 * store.Dollar}
	tell := func(at time.Time, want ...string) {
		t.Helper()
		v, err := ceilings.Judge(ctx, db, org, store.State{}, at)
		if err != nil {
			t.Fatal(err)
		}
		if err := v.Remember(ctx, db, org); err != nil {
			t.Fatal(err)
		}
		if got := v.News.String(); got != strings.Join(want, "; ") {
			t.Errorf("%s: told %q, want %q", at.Format(time.DateTime), got, want)
		}
	}
	evening := time.Date(2026, 3, 10, 22, 50, 0, 0, time.UTC) // ten minutes before midnight in Warsaw
	cent := store.Dollar / 100
	record("1", evening, "anna", 2*store.Dollar-cent)
	record("2", evening, "", 2*store.Dollar)
	tell(evening)
	record("3", evening, "anna", cent)
	tell(evening.Add(time.Minute), "daily limit of a user: on 10 March the daily limit of $4.00 a user is reached by anna ($4.00)")
	record("4", evening.Add(9*time.Minute), "ben", store.Dollar)
	past := evening.Add(20 * time.Minute)
	tell(past, "daily limit: $10.00 of the daily limit of $10.00 is used on 10 March (100 %)")
	tell(past.Add(10 * time.Minute))
	record("5", past, "anna", 5*store.Dollar)
	tell(past.Add(20*time.Minute), "daily limit: $10.00 of the daily limit of $10.00 is used on 11 March (100 %)",
		"daily limit of a user: on 11 March the daily limit of $4.00 a user is reached by anna ($10.00)")
	tell(past.Add(2 * time.Hour))
	tell(past.Add(25*time.Hour), "daily limit over", "daily limit of a user over")
}

// BenchmarkFindAnomaly is what each pass spends on an organisation with a full history.
func BenchmarkFindAnomaly(b *testing.B) {
	zone, err := time.LoadLocation("Europe/Warsaw")
	if err != nil {
		b.Fatal(err)
	}
	hours := steady(noon, 30)
	for b.Loop() {
		find(hours, noon, zone)
	}
}

// BenchmarkForecast is what it spends on the month.
func BenchmarkForecast(b *testing.B) {
	costs := map[store.Day]store.Money{}
	for i := range 56 {
		costs[store.Day("2026-03-02").Add(-i)] = store.Money(i%7) * store.Dollar
	}
	for b.Loop() {
		newLimit(costs, "2026-03-02", store.Dollar)
	}
}

// TestCompare: what wants someone first comes first, and what is no state is unknown.
func TestCompare(t *testing.T) {
	states := []State{StateOK, StateUnknown, StateWarning, StateCritical}
	slices.SortFunc(states, Compare)
	if want := []State{StateCritical, StateUnknown, StateWarning, StateOK}; !slices.Equal(states, want) {
		t.Errorf("the order is %v, want %v", states, want)
	}
	for _, s := range states {
		if got, known := ParseState(s.String()); got != s || !known {
			t.Errorf("%s is read as %s, %v", s, got, known)
		}
		if got := Worst([]Health{{State: StateOK}, {State: s}, {State: StateOK}}); got != s {
			t.Errorf("the worst of %s and OK is %s", s, got)
		}
	}
	if got, known := ParseState("ok"); got != StateUnknown || known {
		t.Errorf("a name that is none is %s, %v", got, known)
	}
}
