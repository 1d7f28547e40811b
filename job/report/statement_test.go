package report

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"usage-sync/store"
)

var (
	acme   = store.NewOrganisation{ID: "acme", Name: "Acme GmbH", Key: "sk-or-v1-acme", Timezone: "Europe/Berlin", Rate: 1.37}
	globex = store.NewOrganisation{ID: "globex", Name: "Globex Sp. z o.o.", Key: "sk-or-v1-globex", Rate: 1.5}
)

// office are the books of an organisation with the usage of autumn, recorded up to now.
func office(t *testing.T) *books {
	t.Helper()
	if officeFile == nil {
		b := newBooks(t, t.TempDir(), acme)
		b.record("acme", autumn()...)
		b.recordedUntil("acme", clock)
		var err error
		if officeFile, err = os.ReadFile(b.path); err != nil {
			t.Fatal(err)
		}
	}
	return copyBooks(t, t.TempDir(), officeFile)
}

// officeFile is the database of an office, made once.
var officeFile []byte

// TestGolden: what statements look like.
func TestGolden(t *testing.T) {
	b := office(t)
	for _, format := range []Format{Text, HTML, CSV, JSON} {
		golden(t, "client"+endings[format], b.written(format, Request{For: Client}))
		golden(t, "owner"+endings[format], b.written(format, Request{For: Owner}))
	}
	golden(t, "running.txt", b.written(Text, Request{Period: Asked{Month: "2026-11"}}))
	b.sql(`update global_settings set billing_currency = 'EUR'`)
	b.sql(`insert into global_settings (id, billing_currency, created_at, updated_at) values ('one', 'EUR', 0, 0)`)
	golden(t, "euro.txt", b.written(Text, Request{For: Owner}))
}

func TestPeriod(t *testing.T) {
	for _, c := range []struct {
		asked              Asked
		today              store.Day
		span, stated, with store.Span
	}{
		{Asked{}, "2026-11-10", span("2026-10-01", "2026-10-31"), span("2026-10-01", "2026-10-31"), span("2026-09-01", "2026-09-30")},
		{Asked{}, "2026-01-01", span("2025-12-01", "2025-12-31"), span("2025-12-01", "2025-12-31"), span("2025-11-01", "2025-11-30")},
		{Asked{Month: "2028-02"}, "2028-03-01", span("2028-02-01", "2028-02-29"), span("2028-02-01", "2028-02-29"), span("2028-01-01", "2028-01-31")},
		{Asked{Month: "2026-11"}, "2026-11-10", span("2026-11-01", "2026-11-30"), span("2026-11-01", "2026-11-10"), span("2026-10-01", "2026-10-10")},
		{Asked{Month: "2026-03"}, "2026-03-30", span("2026-03-01", "2026-03-31"), span("2026-03-01", "2026-03-30"), span("2026-02-01", "2026-02-28")},
		{Asked{Month: "2026-11"}, "2026-11-30", span("2026-11-01", "2026-11-30"), span("2026-11-01", "2026-11-30"), span("2026-10-01", "2026-10-30")},
		{Asked{Month: "2026-11"}, "2026-12-01", span("2026-11-01", "2026-11-30"), span("2026-11-01", "2026-11-30"), span("2026-10-01", "2026-10-31")},
		{Asked{From: "2026-10-05", To: "2026-10-11"}, "2026-11-10", span("2026-10-05", "2026-10-11"), span("2026-10-05", "2026-10-11"), span("2026-09-28", "2026-10-04")},
		{Asked{From: "2026-11-08"}, "2026-11-10", span("2026-11-08", "2026-11-10"), span("2026-11-08", "2026-11-10"), span("2026-11-05", "2026-11-07")},
		{Asked{From: "2026-11-08", To: "2026-11-20"}, "2026-11-10", span("2026-11-08", "2026-11-20"), span("2026-11-08", "2026-11-10"), span("2026-11-05", "2026-11-07")},
		{Asked{From: "2026-10-01", To: "2026-10-31"}, "2026-11-10", span("2026-10-01", "2026-10-31"), span("2026-10-01", "2026-10-31"), span("2026-09-01", "2026-09-30")},
	} {
		got, err := c.asked.span(c.today)
		stated := store.Span{First: got.First, Last: min(got.Last, c.today)}
		if with := before(got, stated.Last, c.today <= got.Last); err != nil || c.asked.Check() != nil || got != c.span || stated != c.stated || with != c.with {
			t.Errorf("%+v on %s: %v, stated %v, compared with %v, %v", c.asked, c.today, got, stated, with, err)
		}
	}
}

// TestRunningPeriod: full days are compared with full days, and the day that has begun with the same hours by the client's
// clock, also where summer time has ended between.
func TestRunningPeriod(t *testing.T) {
	b := newBooks(t, t.TempDir(), acme)
	db := b.open(store.ReadWrite)
	orgs, err := db.Organisations(t.Context(), []string{"acme"}, time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	org, ids := orgs[0], 0
	used := func(at string, tokens int64) {
		created, err := time.ParseInLocation("2006-01-02 15:04", at, org.Zone)
		if err != nil {
			t.Fatal(err)
		}
		ids++
		_, err = db.RecordGenerations(t.Context(), store.Batch{Organisation: org, Source: "test", Now: clock,
			Generations: []store.Generation{{ID: fmt.Sprint(ids), CreatedAt: created, Day: store.DayOf(created, org.Zone), Model: "x/y",
				Tokens: tokens, Cost: store.Money(tokens) * store.Dollar}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	used("2026-10-09 23:00", 1) // a full day
	used("2026-10-10 12:59", 10)
	used("2026-10-10 13:00", 100) // not yet, when it was 13:00
	used("2026-11-09 23:00", 1000)
	used("2026-11-10 12:00", 10000)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	state := func(r Request) Statement { return b.statements(r)[0] }
	s := state(Request{Period: Asked{Month: "2026-11"}, For: Owner})
	if s.Total.Tokens != 11000 || s.TotalBefore.Tokens != 11 || s.TotalBefore.Requests != 2 || *s.TotalBefore.Raw != 11*store.Dollar ||
		s.TotalBefore.Cost != 1507*store.Dollar/100 {
		t.Errorf("the month: %+v, before %+v", s.Total, s.TotalBefore)
	}
	if want := "2026-10-10 13:00"; s.beforeEnd() != want {
		t.Errorf("it ends %s, want %s", s.beforeEnd(), want)
	}
	if s := state(Request{Period: Asked{From: "2026-11-10"}}); s.TotalBefore.Tokens != 0 || s.Before != span("2026-11-09", "2026-11-09") {
		t.Errorf("one day: before %+v in %v, want nothing before 13:00", s.TotalBefore, s.Before)
	}
	if s := state(Request{Period: Asked{From: "2026-10-11"}}); s.TotalBefore.Tokens != 11 {
		t.Errorf("31 days, whose last day before was 2026-10-10: %+v", s.TotalBefore)
	}
	if s := state(Request{Period: Asked{Month: "2026-11"}, Now: clock.AddDate(0, 0, 25)}); s.TotalBefore.Tokens != 111 || !s.BeforeUntil.IsZero() {
		t.Errorf("a month that is over: %+v", s.TotalBefore)
	}
	// What others have recorded has no time: 13 of 24 hours of it.
	b.sql(`update client_daily_usage set total_tokens = total_tokens + 24 where usage_date = '2026-10-10'`)
	if s := state(Request{Period: Asked{Month: "2026-11"}}); s.TotalBefore.Tokens != 24 {
		t.Errorf("with usage of no known time: %+v", s.TotalBefore)
	}
}

func span(first, last store.Day) store.Span { return store.Span{First: first, Last: last} }

func TestPeriodThatIsNone(t *testing.T) {
	for _, asked := range []Asked{
		{Month: "2026-13"}, {Month: "October"}, {Month: "2026-10", From: "2026-10-01"}, {Month: "2026-10", To: "2026-10-01"},
		{To: "2026-10-01"}, {From: "2026-10-02", To: "2026-10-01"}, {From: "2025-10-01", To: "2026-10-02"},
	} {
		if err := asked.Check(); !errors.Is(err, errPeriod) {
			t.Errorf("%+v: %v", asked, err)
		}
	}
	for _, asked := range []Asked{{Month: "2026-12"}, {From: "2026-11-11"}, {From: "2026-11-11", To: "2026-11-12"}, {From: "2020-01-01"}} {
		if span, err := asked.span("2026-11-10"); asked.Check() != nil || !errors.Is(err, errPeriod) {
			t.Errorf("%+v on 10 November: %v, %v", asked, span, err)
		}
	}
}

// TestFinal: a statement is final once the watermark has passed the end of the period in the client's calendar.
func TestFinal(t *testing.T) {
	b := newBooks(t, t.TempDir(), acme)
	b.record("acme", autumn()...)
	october := Request{Period: Asked{Month: "2026-10"}}
	midnight := time.Date(2026, 10, 31, 23, 0, 0, 0, time.UTC) // in Berlin
	for _, c := range []struct {
		until, now time.Time
		final      bool
		why        string
	}{
		{time.Time{}, clock, false, "Provisional: it is not confirmed that all usage of the period has been recorded."},
		{midnight.Add(-time.Second), clock, false, "Provisional: usage is recorded up to 2026-10-31 23:59 CET; later usage of the period is still missing."},
		{midnight, clock, true, ""},
		{midnight, midnight, true, ""},
		{midnight, midnight.Add(-time.Minute), false, "Provisional: the period is still running. Figures as of 2026-10-31 23:59 CET."},
	} {
		if !c.until.IsZero() {
			b.recordedUntil("acme", c.until)
		}
		october.Now = c.now
		if s := b.statements(october)[0]; s.Final != c.final || s.Provisional() != c.why {
			t.Errorf("recorded until %s, made at %s: final %v, %q", c.until, c.now, s.Final, s.Provisional())
		}
	}
}

// TestWhichOrganisations: one that has left still gets its last bill, and no other that has used nothing.
func TestWhichOrganisations(t *testing.T) {
	b := newBooks(t, t.TempDir(), acme, globex)
	b.record("globex", store.Generation{Day: "2026-10-02", Model: "openai/gpt-4.1", User: "carl", Tokens: 10, Cost: store.Dollar})
	b.sql(`update client_organizations set is_active = 0 where id = 'globex'`)
	ids := func(r Request) (ids []string) {
		for _, s := range b.statements(r) {
			ids = append(ids, s.ID)
		}
		return ids
	}
	if got := ids(Request{}); len(got) != 2 {
		t.Errorf("October: %v", got)
	}
	if got := ids(Request{Period: Asked{Month: "2026-11"}}); len(got) != 1 || got[0] != "acme" {
		t.Errorf("November: %v", got)
	}
	if got := ids(Request{Organisations: []string{"Globex Sp. z o.o."}, Period: Asked{Month: "2026-11"}}); len(got) != 1 || got[0] != "globex" {
		t.Errorf("by name: %v", got)
	}
	b.sql(`update client_organizations set is_active = 0`)
	db := b.open(store.ReadOnly)
	defer db.Close()
	_, err := Make(t.Context(), db, Request{Zone: time.UTC, Period: Asked{Month: "2026-11"}, For: Client, Now: clock})
	if !errors.Is(err, store.ErrOrganisation) {
		t.Errorf("nobody: %v", err)
	}
}

// TestRest: where others have recorded no models or users, a row says so.
func TestRest(t *testing.T) {
	b := office(t)
	b.sql(`delete from client_model_daily_usage where model_name = 'openai/gpt-4.1'`)
	b.sql(`delete from client_user_daily_usage where usage_date = '2026-10-05'`)
	s := b.statements(Request{For: Owner})[0]
	for section, parts := range s.sections() {
		last := parts[len(parts)-1]
		if !last.Rest || last.Cost <= 0 || *last.Raw <= 0 || last.Requests <= 0 {
			t.Errorf("%s: %+v", section, last)
		}
	}
	// Raw costs alone that don't add up are none of the client's business.
	b = office(t)
	b.sql(`update client_model_daily_usage set raw_cost = raw_cost + 1`)
	if parts := b.statements(Request{For: Owner})[0].Models; !parts[len(parts)-1].Rest {
		t.Error("the owner is not told that raw costs don't add up")
	}
	if parts := b.statements(Request{For: Client})[0].Models; parts[len(parts)-1].Rest {
		t.Error("the client is told that raw costs don't add up")
	}
}

func TestBadCurrency(t *testing.T) {
	for _, code := range []string{"Dollars", "ABC", "XXX", "$", "<b>"} {
		if c, err := parseCurrency(code); !errors.Is(err, errCurrency) {
			t.Errorf("%s: %v, %v", code, c, err)
		}
	}
	for code, digits := range map[string]int{"USD": 2, "eur": 2, "PLN": 2, "JPY": 0, "KWD": 3} {
		if c, err := parseCurrency(code); err != nil || c.Digits != digits {
			t.Errorf("%s: %v, %v", code, c, err)
		}
	}
}
