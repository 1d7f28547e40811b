package store

import (
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
