package store

import (
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// TestSpanUsage: a counter counts on the day it stands for, today at the latest; days without usage are there too.
func TestSpanUsage(t *testing.T) {
	now := time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)
	path := filepath.Join(t.TempDir(), "webui.db")
	if err := CreateDemo(t.Context(), path, []NewOrganisation{{ID: "acme", Name: "Acme", Key: "key", Rate: 1.3}}, now); err != nil {
		t.Fatal(err)
	}
	container := application(t, path,
		`insert into client_daily_usage values ('acme_2026-03-08', 'acme', '2026-03-08', 100, 1, 1.0, 1.3, 'a/b', 1, 0, 0)`,
		`insert into client_daily_usage values ('acme_2026-03-11', 'acme', '2026-03-11', 100, 1, 1.0, 1.3, 'a/b', 1, 0, 0)`,
		`insert into client_model_daily_usage values ('m', 'acme', 'a/b', '2026-03-08', 100, 1, 1.0, 1.3, 'a', 0, 0)`,
		`insert into client_live_counters values ('acme', '2026-03-10', 20, 2, 0.2, 0.26, 0)`)
	s, err := Open(t.Context(), path, ReadOnly)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	orgs, err := s.Organisations(t.Context(), []string{"acme"}, time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		counter Day
		span    Span
		tokens  int64
		active  int
	}{
		{"2026-03-10", Span{"2026-03-01", "2026-03-31"}, 120, 2},
		{"2026-03-10", Span{"2026-03-08", "2026-03-09"}, 100, 1},
		{"2026-03-10", Span{"2026-03-10", "2026-03-10"}, 20, 1},
		{"2026-03-08", Span{"2026-03-08", "2026-03-08"}, 120, 1}, // not rolled over yet
		{"2026-03-11", Span{"2026-03-01", "2026-03-31"}, 100, 1}, // by another calendar
		{"2026-03-10", Span{"2026-02-01", "2026-02-28"}, 0, 0},
	} {
		if _, err := container.Exec(`update client_live_counters set "current_date" = ?`, string(c.counter)); err != nil {
			t.Fatal(err)
		}
		usage, err := s.SpanUsage(t.Context(), orgs[0], now, c.span)
		if err != nil {
			t.Fatal(err)
		}
		u := usage[0]
		if u.Total.Tokens != c.tokens || u.DaysActive != c.active || len(u.Days) != c.span.Days() || u.Days[0].Day != c.span.First {
			t.Errorf("counter of %s, %v: %+v", c.counter, c.span, u)
		}
	}
}

// One model is one row, under whichever of its names it was recorded.
func TestModelsUnderTwoNames(t *testing.T) {
	now := time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)
	path := filepath.Join(t.TempDir(), "webui.db")
	if err := CreateDemo(t.Context(), path, []NewOrganisation{{ID: "acme", Name: "Acme", Key: "key", Rate: 1.3}}, now); err != nil {
		t.Fatal(err)
	}
	application(t, path,
		`insert into client_model_daily_usage values ('1', 'acme', 'openai/gpt-4.1-2025-04-14', '2026-03-08', 100, 1, 1.0, 1.3, 'openai', 0, 0)`,
		`insert into client_model_daily_usage values ('2', 'acme', 'openai/gpt-4.1', '2026-03-08', 10, 2, 0.5, 0.65, null, 0, 0)`,
		`insert into client_model_daily_usage values ('3', 'acme', 'openai/gpt-4.1:free', '2026-03-09', 7, 1, 0, 0, 'openai', 0, 0)`,
		`insert into client_model_daily_usage values ('4', 'acme', 'x/y', '2026-03-09', 1, 1, 1.2, 1.56, 'x', 0, 0)`)
	s, err := Open(t.Context(), path, ReadOnly)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	orgs, err := s.Organisations(t.Context(), []string{"acme"}, time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	want := []ModelUsage{
		{Totals{3, 110, Dollar * 3 / 2, Dollar * 195 / 100}, "openai/gpt-4.1", "openai"},
		{Totals{1, 1, Dollar * 12 / 10, Dollar * 156 / 100}, "x/y", "x"},
		{Totals{1, 7, 0, 0}, "openai/gpt-4.1:free", "openai"},
	}
	spans, err := s.SpanUsage(t.Context(), orgs[0], now, Span{"2026-03-01", "2026-03-31"})
	if err != nil || !slices.Equal(spans[0].Models, want) {
		t.Errorf("%v, %+v", err, spans[0].Models)
	}
	usage, err := s.Usage(t.Context(), orgs[0], now, 1)
	if err != nil || !slices.Equal(usage.Models, want) {
		t.Errorf("%v, %+v", err, usage.Models)
	}
	sums, err := s.Usage(t.Context(), orgs[0], now, 0)
	if err != nil || sums.Live != usage.Live || sums.Month != usage.Month || len(sums.Days)+len(sums.Models)+len(sums.Users) > 0 {
		t.Errorf("%v, %+v", err, sums)
	}
	if models, err := s.MonthModels(t.Context(), orgs[0], now); err != nil || !slices.Equal(models, want) {
		t.Errorf("%v, %+v", err, models)
	}
}

func TestBillingCurrency(t *testing.T) {
	for _, c := range []struct{ name, statement, want string }{
		{"Column", `create table global_settings (id text)`, "USD"},
		{"Row", `create table global_settings (billing_currency text, updated_at int, id text)`, "USD"},
		{"Null", `create table global_settings as select null as billing_currency, 0 as updated_at, 'a' as id`, "USD"},
		{"Empty", `create table global_settings as select ' ' as billing_currency, 0 as updated_at, 'a' as id`, "USD"},
		{"Set", `create table global_settings as select ' EUR ' as billing_currency, 0 as updated_at, 'a' as id`, "EUR"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := Open(t.Context(), newFile(t, c.statement), ReadOnly)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if got, err := s.BillingCurrency(t.Context()); err != nil || got != c.want {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}
