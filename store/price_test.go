package store

import (
	"fmt"
	"testing"
	"time"
)

func TestSettingsAreThoseOfOneRow(t *testing.T) {
	path := newFile(t)
	s := open(t, path, ReadWrite)
	if _, err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	application(t, path,
		`insert into global_settings values ('1', 'sk-or-v1-old', 1.9, 'EUR', 1, 10), ('2', null, null, null, 1, 20)`,
		`insert into client_organizations (id, name, openrouter_api_key, is_active, created_at, updated_at) values ('a', 'A', 'k', 1, 1, 1)`)
	all, err := s.AllOrganisations(t.Context(), time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	key, err := s.ProvisioningKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	currency, err := s.BillingCurrency(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if all[0].Rate != DefaultRate || key != "" || currency != "USD" {
		t.Errorf("rate %s, key %q, currency %s: of an older row", all[0].Rate, key, currency)
	}
}

// TestPricedByHand: what is recorded by hand for an earlier day has the rate of that day.
func TestPricedByHand(t *testing.T) {
	b := newKeptBooks(t)
	b.record("generations", b.on("one", Dollar, 0))
	application(t, b.Path(), `update client_organizations set markup_rate = 2`)
	b.now = b.now.Add(time.Hour)
	record := func(day Day) Money {
		t.Helper()
		done, err := b.RecordGenerations(t.Context(), Batch{Organisation: b.org, Source: SourceManual, Now: b.now,
			Generations: []Generation{{ID: ManualID(), CreatedAt: b.now, Day: day, Model: "x/y", Cost: Dollar}}})
		if err != nil {
			t.Fatal(err)
		}
		return done.Entries[0].Markup
	}
	if got := record("2026-03-09"); got != 13*Dollar/10 {
		t.Errorf("for yesterday: $%s, want 1.3", got)
	}
	if got := record("2026-03-10"); got != 2*Dollar {
		t.Errorf("for today: $%s, want 2", got)
	}
}

// TestRemainderIsPricedByItsDay: what rounding has lost of a day has the rate of that day, whenever the day is squared.
func TestRemainderIsPricedByItsDay(t *testing.T) {
	b := newKeptBooks(t)
	b.record("analytics", b.lost("x/y", 1000)...)
	application(t, b.Path(), `update client_organizations set markup_rate = 2`)
	done := b.square(ModelTotal{Model: "x/y", Requests: 1000, Raw: 400 * micro, Resolution: micro})
	if want := Money(1.3 * 400 * float64(micro)); !done.Agrees || done.Booked.Raw != 400*micro || done.Booked.Cost != want {
		t.Errorf("%+v, want $%s", done, want)
	}
}

// TestCorrectRate: the time of a rate is corrected by who knows it, there and back.
func TestCorrectRate(t *testing.T) {
	b := newKeptBooks(t)
	b.record("generations", b.on("one", Dollar, 0), b.on("two", 2*Dollar, 0))
	application(t, b.Path(), `update client_organizations set markup_rate = 2, updated_at = 0`)
	if change, err := b.NoteRate(t.Context(), b.org, b.now); err != nil || change == nil {
		t.Fatalf("noted %v, %v", change, err)
	}
	prices, err := b.Prices(t.Context(), b.org, b.now)
	if err != nil || len(prices.Noted(time.Time{}, b.now.Add(time.Second))) != 2 {
		t.Fatalf("%+v, %v", prices, err)
	}
	correct := func(from time.Time) (Repriced, error) {
		return b.CorrectRate(t.Context(), b.org, RateCorrection{ID: 2, From: from, By: "ann"}, b.now)
	}
	want := func(cost Money) {
		t.Helper()
		books, err := b.Books(t.Context(), "acme", "2026-03-09", "2026-03-09")
		day := books["2026-03-09"]
		if err != nil || day.Day.Cost != cost || day.Users.Cost != cost || sumTotals(day.Models).Cost != cost || day.Day.Raw != 3*Dollar {
			t.Errorf("day $%s, users $%s, models $%s, %v; want $%s", day.Day.Cost, day.Users.Cost, sumTotals(day.Models).Cost, err, cost)
		}
		if found, err := b.KeepBooks(t.Context(), b.org, b.now, []Day{"2026-03-09"}); err != nil || !found.IsNone() {
			t.Errorf("the books: %+v, %v", found, err)
		}
		if differing, err := b.CheckLedger(t.Context(), b.org, b.now, []Day{"2026-03-09"}, ByEntry); err != nil || len(differing) > 0 {
			t.Errorf("the ledger: %+v, %v", differing, err)
		}
	}
	want(39 * Dollar / 10)
	tried, err := b.TryCorrectRate(t.Context(), b.org, RateCorrection{ID: 2, From: b.now.AddDate(0, 0, -2)}, b.now)
	if err != nil || tried.Generations != 2 || tried.Cost() != 21*Dollar/10 {
		t.Errorf("tried %+v, %v", tried, err)
	}
	want(39 * Dollar / 10)
	for _, step := range []struct {
		from time.Time
		cost Money
	}{{b.now.AddDate(0, 0, -2), 6 * Dollar}, {b.now.AddDate(0, 0, -1).Add(time.Second), 39 * Dollar / 10},
		{b.now.AddDate(0, 0, -1), 6 * Dollar}, {b.now, 39 * Dollar / 10}} {
		if _, err := correct(step.from); err != nil {
			t.Fatal(err)
		}
		want(step.cost)
	}
	for _, from := range []time.Time{b.now.Add(time.Second), {}} {
		if _, err := correct(from); err == nil {
			t.Errorf("since %s: no error", from)
		}
	}
}

// TestRateIsSeenByWhoNotesIt: a change has the time that the row says, also where something was written into the history
// between that did not look at the rate: a gap that was accepted, a pass that was told to end.
func TestRateIsSeenByWhoNotesIt(t *testing.T) {
	for name, between := range map[string]func(b *keptBooks, at time.Time) error{
		"a gap is accepted": func(b *keptBooks, at time.Time) error {
			g, err := b.OpenGap(b.Context(), Gap{OrganisationID: "acme", Kind: GapList, From: at.Add(-time.Hour), Until: at, NoticedAt: at})
			if err == nil {
				_, err = b.AcceptGap(b.Context(), g.ID, "ann", "not owed", at)
			}
			return err
		},
		"a pass has timed out": func(b *keptBooks, at time.Time) error {
			return b.FinishRun(b.Context(), Run{OrganisationID: "acme", StartedAt: at, EndedAt: at, ExitCode: 75, Error: "timed out"}, nil, nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newKeptBooks(t)
			b.record("generations", b.on("one", Dollar, 0))
			changed := b.now.Add(3 * time.Minute)
			execute(t, b.path, fmt.Sprintf(`update client_organizations set markup_rate = 2, updated_at = %d`, changed.Unix()))
			if err := between(b, b.now.Add(10*time.Minute)); err != nil {
				t.Fatal(err)
			}
			change, err := b.NoteRate(t.Context(), b.org, b.now.Add(20*time.Minute))
			if err != nil || change == nil || !change.From.Equal(changed) {
				t.Errorf("noted %+v, %v; want it since %s", change, err, changed)
			}
		})
	}
}

// TestPricedAnewByWhatWasCounted: an entry of the ledger that somebody has changed is priced anew, and taken away, by what we have
// counted, which stands beside its place.
func TestPricedAnewByWhatWasCounted(t *testing.T) {
	altered := func(t *testing.T) *keptBooks {
		b := newKeptBooks(t)
		b.record(SourceWebhook, b.on("one", Dollar, 0))
		execute(t, b.path, `update processed_generations set total_cost = 7, total_tokens = 70`)
		return b
	}
	t.Run("rate", func(t *testing.T) {
		b := altered(t)
		execute(t, b.path, `update client_organizations set markup_rate = 2, updated_at = 0`)
		if _, err := b.NoteRate(t.Context(), b.org, b.now); err != nil {
			t.Fatal(err)
		}
		done, err := b.CorrectRate(t.Context(), b.org, RateCorrection{ID: 2, From: b.now.AddDate(0, 0, -2), By: "ann"}, b.now)
		if err != nil || done.Cost() != 7*Dollar/10 {
			t.Errorf("$%s is added, %v; want $0.70", done.Cost(), err)
		}
	})
	t.Run("taken away", func(t *testing.T) {
		b := altered(t)
		taken, _, err := b.TakeAwayDelivered(t.Context(), TakeAway{Organisation: b.org, Now: b.now, Reasons: map[string]string{"one": "of another key"},
			Record: Batch{Organisation: b.org, Source: "analytics", Now: b.now}})
		if err != nil || len(taken) != 1 {
			t.Fatalf("%+v, %v", taken, err)
		}
		b.wantRaw("taken away", 0)
	})
}
