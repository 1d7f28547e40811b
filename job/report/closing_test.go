package report

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"usage-sync/store"
)

// closeMonth closes a month of acme at a time.
func (b *books) closeMonth(month string, now time.Time) (Statement, error) {
	b.Helper()
	db := b.open(store.ReadWrite)
	defer db.Close()
	closed, err := Close(b.Context(), db, CloseRequest{By: "ann", Unreconciled: true,
		Request: Request{Organisations: []string{"acme"}, Zone: time.UTC, Period: Asked{Month: month}, For: Owner, Now: now}})
	if err != nil {
		return Statement{}, err
	}
	return closed[0], nil
}

func (b *books) mustClose(month string, now time.Time) Statement {
	b.Helper()
	s, err := b.closeMonth(month, now)
	if err != nil {
		b.Fatalf("%v", err)
	}
	return s
}

func (b *books) void(number int64, now time.Time) error {
	b.Helper()
	db := b.open(store.ReadWrite)
	defer db.Close()
	orgs, err := db.Organisations(b.Context(), []string{"acme"}, time.UTC)
	if err != nil {
		b.Fatalf("%v", err)
	}
	_, err = Void(b.Context(), db, orgs[0], number, "ann", "wrong", now)
	return err
}

// TestClosedStatementStays: October was final at $5.57, then at $7.52 by a late correction, then at $14.02 by
// hand.
func TestClosedStatementStays(t *testing.T) {
	b := office(t)
	october, november := Request{Period: Asked{Month: "2026-10"}}, Request{Period: Asked{Month: "2026-11"}}
	before := b.mustClose("2026-10", clock)
	if before.Closed == nil || before.Closed.Number != 1 || before.Closed.By != "ann" {
		t.Fatalf("closed %+v", before.Closed)
	}
	printed := map[Format]string{}
	for _, format := range []Format{Text, HTML, CSV, JSON} {
		for _, audience := range []Audience{Client, Owner} {
			october.For = audience
			printed[format+Format(audience)] = b.written(format, october)
		}
	}
	if text := b.written(Text, november); strings.Contains(text, "Corrections") {
		t.Errorf("nothing has changed:\n%s", text)
	}
	b.ids = 100_000 // those of the office are taken
	b.record("acme", store.Generation{Day: "2026-10-15", Model: "openai/gpt-4.1", User: "ben", Tokens: 500, Cost: 2 * store.Dollar})
	b.sql(`update client_organizations set name = 'Acme AG', markup_rate = 2`)
	for _, format := range []Format{Text, HTML, CSV, JSON} {
		for _, audience := range []Audience{Client, Owner} {
			october.For, october.Now = audience, clock.AddDate(0, 3, 0)
			if got := b.written(format, october); got != printed[format+Format(audience)] {
				t.Errorf("%s for the %s has changed:\n%s", format, audience, got)
			}
		}
	}
	golden(t, "corrections.txt", b.written(Text, november))
	if raw := "RAW"; strings.Contains(b.written(Text, november), raw) {
		t.Error("the client is told raw costs")
	}
	november.For = Owner
	s := b.statements(november)[0]
	if len(s.Corrections) != 1 || s.Corrections[0].Total.Cost != 274*store.Dollar/100 || *s.Corrections[0].Total.Raw != 2*store.Dollar ||
		s.Due() != s.Total.Cost+274*store.Dollar/100 {
		t.Errorf("corrections %+v, due %s", s.Corrections, s.Due())
	}
	december := Request{Period: Asked{Month: "2026-12"}, Now: clock.AddDate(0, 1, 0)}
	if s := b.statements(december)[0]; len(s.Corrections) != 0 {
		t.Error("the corrections of October are on two statements")
	}
	for _, format := range []Format{HTML, CSV, JSON} {
		if text := b.written(format, november); !strings.Contains(text, "2.74") {
			t.Errorf("%s does not show the corrections", format)
		}
	}
}

// TestClosedForClient: what a client is shown of a closed statement is what it was shown before, but for the
// line that says so.
func TestClosedForClient(t *testing.T) {
	b := office(t)
	b.sql(`update client_model_daily_usage set raw_cost = raw_cost + 1`)
	want := b.written(JSON, Request{For: Client})
	db := b.open(store.ReadOnly)
	defer db.Close()
	owner, err := Make(t.Context(), db, Request{For: Owner, Zone: time.UTC, Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	if err := Write(&got, JSON, 100, []Statement{owner[0].forClient()}); err != nil || got.String() != want {
		t.Errorf("%v, got %s want %s", err, got.String(), want)
	}
}

func TestWhatCanBeClosed(t *testing.T) {
	b := office(t)
	if _, err := b.closeMonth("2026-11", clock); !errors.Is(err, errNotFinal) {
		t.Errorf("a month that runs: %v", err)
	}
	db := b.open(store.ReadWrite)
	defer db.Close()
	gap, err := db.OpenGap(t.Context(), store.Gap{OrganisationID: "acme", Kind: store.GapOutage, Why: "no pass",
		From: clock.AddDate(0, -1, 0), Until: clock.AddDate(0, -1, 1), NoticedAt: clock})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.closeMonth("2026-10", clock); !errors.Is(err, errNotFinal) || !strings.Contains(err.Error(), "Gap 1: ") {
		t.Errorf("a gap: %v", err)
	}
	if _, err := db.AcceptGap(t.Context(), gap.ID, "ann", "so be it", clock); err != nil {
		t.Fatal(err)
	}
	request := CloseRequest{By: "ann", Request: Request{Zone: time.UTC, Period: Asked{Month: "2026-10"}, For: Owner, Now: clock}}
	if _, err := Close(t.Context(), db, request); !errors.Is(err, errUnreconciled) {
		t.Errorf("nobody has reconciled it: %v", err)
	}
	orgs, err := db.Organisations(t.Context(), []string{"acme"}, time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	var days []store.Day
	for day := store.Day("2026-10-01"); day <= "2026-10-31"; day = day.Add(1) {
		days = append(days, day)
	}
	if err := db.NoteAgreed(t.Context(), orgs[0], days, clock); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the timer may fire twice
		closed, err := Close(t.Context(), db, request)
		if err != nil || len(closed) != 1 || closed[0].Closed.Number != 1 {
			t.Fatalf("%v, %+v", err, closed)
		}
	}
	request.Period = Asked{From: "2026-10-31", To: "2026-11-01"}
	if _, err := Close(t.Context(), db, request); !errors.Is(err, errClosed) {
		t.Errorf("days that are closed: %v", err)
	}
	b.sql(`update usage_sync_statements set body = replace(body, 'Acme', 'Acne')`)
	if _, err := Make(t.Context(), db, Request{Zone: time.UTC, Period: Asked{Month: "2026-10"}, For: Owner, Now: clock}); !errors.Is(err, store.ErrData) {
		t.Errorf("it was changed: %v", err)
	}
}

func TestVoid(t *testing.T) {
	b := office(t)
	b.mustClose("2026-09", clock)
	b.ids = 100_000
	b.record("acme", store.Generation{Day: "2026-09-15", Model: "m/m", User: "ben", Tokens: 1, Cost: store.Dollar})
	if s := b.mustClose("2026-10", clock); len(s.Corrections) != 1 {
		t.Fatalf("corrections %+v", s.Corrections)
	}
	if err := b.void(1, clock); !errors.Is(err, errClosed) {
		t.Errorf("statement 2 corrects it: %v", err)
	}
	if err := b.void(2, clock); err != nil {
		t.Fatal(err)
	}
	for _, number := range []int64{0, 2, 3, 4} {
		if err := b.void(number, clock); !errors.Is(err, errClosed) {
			t.Errorf("void %d: %v", number, err)
		}
	}
	if s := b.statements(Request{For: Owner})[0]; s.Closed != nil || len(s.Corrections) != 1 {
		t.Errorf("closed %+v, corrections %+v", s.Closed, s.Corrections)
	}
	if err := b.void(1, clock); err != nil {
		t.Fatal(err)
	}
	if s := b.mustClose("2026-09", clock); s.Closed.Number != 5 {
		t.Errorf("number %d, want 5", s.Closed.Number)
	}
}

// TestClosedAndCorrectionsAreTheTables: whatever is recorded, closed and voided in whatever order, closed
// statements and their corrections, those that wait included, add up to the tables, by day, model and user;
// the numbers have no holes.
func TestClosedAndCorrectionsAreTheTables(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	months := []string{"2026-07", "2026-08", "2026-09", "2026-10"}
	for range 6 {
		b := newBooks(t, t.TempDir(), acme)
		b.recordedUntil("acme", clock)
		for range 14 {
			month := months[random.IntN(len(months))]
			switch random.IntN(5) {
			case 0, 1:
				for range 1 + random.IntN(3) {
					b.record("acme", store.Generation{Day: store.Day(fmt.Sprintf("%s-%02d", month, 1+random.IntN(28))),
						Model: "m/" + string(rune('a'+random.IntN(3))), User: string(rune('a' + random.IntN(3))),
						Tokens: int64(random.IntN(100)), Cost: store.Money(random.Int64N(int64(store.Dollar)))})
				}
			case 2:
				_ = b.void(int64(1+random.IntN(6)), clock)
			default:
				_, _ = b.closeMonth(month, clock)
			}
			b.checkClosed()
		}
	}
}

func (b *books) checkClosed() {
	b.Helper()
	db := b.open(store.ReadOnly)
	defer db.Close()
	l, err := readLedger(b.Context(), db, "acme")
	if err != nil {
		b.Fatalf("%v", err)
	}
	for i, e := range l.entries {
		if e.Number != int64(i)+1 {
			b.Fatalf("entry %d has number %d", i, e.Number)
		}
	}
	orgs, err := db.Organisations(b.Context(), []string{"acme"}, time.UTC)
	if err != nil {
		b.Fatalf("%v", err)
	}
	waiting, err := l.corrections(b.Context(), db, orgs[0], clock)
	if err != nil {
		b.Fatalf("%v", err)
	}
	rows := map[string]store.Totals{} // by statement, kind and name
	add := func(number int64, kind string, parts []Part, sign int64) {
		for _, p := range parts {
			key := fmt.Sprint(number, kind, p.Name, p.Rest)
			t := store.Totals{Requests: p.Requests * sign, Tokens: p.Tokens * sign, Raw: *p.Raw * store.Money(sign),
				Cost: p.Cost * store.Money(sign)}
			rows[key] = rows[key].Add(t)
		}
	}
	for _, s := range l.closed {
		usage, err := db.SpanUsage(b.Context(), orgs[0], clock, s.Span)
		if err != nil {
			b.Fatalf("%v", err)
		}
		tables := Statement{For: Owner}
		tables.fill(usage[0])
		for _, one := range []struct {
			s    Statement
			sign int64
		}{{s, 1}, {tables, -1}} {
			add(s.Closed.Number, "total", []Part{{Figures: one.s.Total}}, one.sign)
			add(s.Closed.Number, "day", one.s.Days, one.sign)
			add(s.Closed.Number, "model", one.s.Models, one.sign)
			add(s.Closed.Number, "user", one.s.Users, one.sign)
		}
		waiting = append(waiting, s.Corrections...)
	}
	for _, c := range waiting {
		add(c.Number, "total", []Part{{Figures: c.Total}}, 1)
		for kind, parts := range (Statement{}).correctionSections(c) {
			add(c.Number, kind, parts, 1)
		}
	}
	for key, rest := range rows {
		if !rest.IsZero() {
			b.Fatalf("%s is off by %+v", key, rest)
		}
	}
}
