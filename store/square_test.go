package store

import (
	"fmt"
	"strings"
	"testing"
)

const yesterday Day = "2026-03-09"

// square squares yesterday by totals of the form model, requests, micro-dollars.
func (b *keptBooks) square(totals ...ModelTotal) Squared {
	b.Helper()
	done, _, err := b.Square(b.Context(), b.org, b.now, map[Day][]ModelTotal{yesterday: totals})
	if err != nil || len(done) != 1 {
		b.Fatalf("%v, %v", done, err)
	}
	return done[0]
}

func total(model string, requests int64, raw Money) ModelTotal {
	return ModelTotal{Model: model, Requests: requests, Raw: raw, Resolution: micro}
}

// wantUnsquared tells whether yesterday is to be squared still.
func (b *keptBooks) wantUnsquared(when string, want bool) {
	b.Helper()
	days, err := b.UnsquaredDays(b.Context(), "acme", yesterday.Add(-5), yesterday)
	if err != nil || (len(days) == 1) != want {
		b.Errorf("%s: unsquared %v, %v", when, days, err)
	}
}

// wantModel holds a model of yesterday against a raw cost.
func (b *keptBooks) wantModel(when, model string, want Money) {
	b.Helper()
	books, err := b.Books(b.Context(), "acme", yesterday, yesterday)
	if got := books[yesterday].Models[model].Raw; err != nil || got != want {
		b.Errorf("%s: %s costs %d pico-dollars, %v; want %d", when, model, got, err, want)
	}
}

// lost are n generations of a model that cost 0.3 micro-dollars each, which the analytics show as nothing.
func (b *keptBooks) lost(model string, n int) []Generation {
	all := make([]Generation, n)
	for i := range all {
		all[i] = b.on(fmt.Sprintf("gen-%s-%d", model, i), 0, micro)
		all[i].Model = model
	}
	return all
}

const third = 300_000 // pico-dollars

func exactly3(all []Generation) []Generation {
	for i := range all {
		all[i].Cost, all[i].Resolution = third, 0
	}
	return all
}

func TestSquare(t *testing.T) {
	b := newKeptBooks(t)
	b.record("analytics", b.lost("x/small", 100)...)
	b.record("analytics", b.on("gen-1", 5*micro, micro))
	b.wantUnsquared("at first", true)
	if one := b.square(total("x/small", 99, 30*micro), total("x/y", 1, 5*micro)); one.Agrees {
		t.Errorf("one request fewer: %+v", one)
	}
	if one := b.square(total("x/small", 100, 102*micro), total("x/y", 1, 5*micro)); one.Agrees {
		t.Errorf("more than rounding: %+v", one)
	}
	b.wantRaw("not squared", 5*micro)
	for range 3 { // it is set, and not added to
		one := b.square(total("x/small", 100, 30*micro), total("x/y", 1, 5*micro))
		if !one.Agrees {
			t.Errorf("%+v", one)
		}
		b.wantModel("squared", "x/small", 30*micro)
		b.wantRaw("squared", 35*micro)
		b.wantUnsquared("squared", false)
	}
	if one := b.square(total("x/small", 100, 29*micro), total("x/y", 1, 5*micro)); one.Booked.Raw != -micro {
		t.Errorf("OpenRouter has corrected its total: %+v", one)
	}
	var users, requests, background int64
	if err := b.db.QueryRow(`select unique_users, total_requests, (select total_requests from client_user_daily_usage
		where user_id = 'background_sync') from client_daily_usage`).Scan(&users, &requests, &background); err != nil ||
		users != 1 || requests != 101 || background != 0 {
		t.Errorf("%d users, %d requests, %d of nobody, %v", users, requests, background, err)
	}
	found, err := b.CheckBooks(b.Context(), b.org, b.now, []Day{yesterday})
	if err != nil || !found.IsNone() {
		t.Errorf("%+v, %v", found, err)
	}
	books, err := b.Books(b.Context(), "acme", yesterday, yesterday)
	if got := books[yesterday]; err != nil || got.Remainder.Raw != 29*micro || got.Remainder.Requests != 0 || got.Ledger.Raw != 5*micro ||
		len(got.Resolution) != 0 || got.Remainder.Cost != 29*micro*13/10 || got.Day.Cost != 34*micro*13/10 {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestSquaredDaySettles: a squared day stays what OpenRouter says of it while costs become known exactly, and has no remainder
// when all are.
func TestSquaredDaySettles(t *testing.T) {
	for _, source := range []string{"generations", SourceWebhook} {
		t.Run(source, func(t *testing.T) {
			b := newKeptBooks(t)
			small := b.lost("x/small", 100)
			b.record("analytics", small...)
			b.record("analytics", b.on("gen-1", 5*micro, micro))
			b.square(total("x/small", 100, 30*micro), total("x/y", 1, 5*micro))
			for i := 0; i < 100; i += 25 {
				b.wantRaw("while it settles", 35*micro)
				b.record(source, exactly3(small[i:i+25])...)
				b.record("analytics", b.lost("x/small", 100)...)
			}
			b.wantModel("settled", "x/small", 30*micro)
			b.record(source, b.on("gen-1", 5*micro, 0))
			b.wantRaw("all is known", 35*micro)
			b.wantUnsquared("all is known", false)
			books, err := b.Books(b.Context(), "acme", yesterday, yesterday)
			if got := books[yesterday]; err != nil || !got.Remainder.IsZero() || got.Ledger.Raw != 35*micro {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

// TestSquaredDayChanges: what is more than rounding makes a day one to be squared again.
func TestSquaredDayChanges(t *testing.T) {
	for name, change := range map[string]struct {
		source     string
		generation func(g Generation) Generation
		again      bool
	}{
		"a late row":              {"analytics", func(g Generation) Generation { g.ID, g.Cost = "gen-late", 0; return g }, true},
		"a late delivery":         {SourceWebhook, func(g Generation) Generation { g.ID, g.Resolution = "gen-late", 0; return g }, true},
		"another cost":            {"analytics", func(g Generation) Generation { g.Cost *= 2; return g }, true},
		"the same":                {"analytics", func(g Generation) Generation { return g }, false},
		"other tokens":            {"analytics", func(g Generation) Generation { g.Tokens++; return g }, false},
		"on another day":          {"analytics", func(g Generation) Generation { g.ID, g.Day = "gen-today", "2026-03-10"; return g }, false},
		"by hand":                 {SourceManual, func(g Generation) Generation { g.ID, g.Resolution = ManualID(), 0; return g }, false},
		"by another organisation": {"analytics", func(g Generation) Generation { g.User = "ben"; return g }, false},
	} {
		t.Run(name, func(t *testing.T) {
			b := newKeptBooks(t)
			b.record("analytics", b.lost("x/small", 50)...)
			g := b.on("gen-1", 5*micro, micro)
			b.record("analytics", g)
			b.square(total("x/small", 50, 15*micro), total("x/y", 1, 5*micro))
			b.record(change.source, change.generation(g))
			b.wantUnsquared(name, change.again)
			b.wantModel(name, "x/small", 15*micro)
			if change.again {
				requests := int64(1)
				if strings.HasPrefix(name, "a late") {
					requests = 2
				}
				if one := b.square(total("x/small", 50, 15*micro), total("x/y", requests, 10*micro)); name != "a late row" && !one.Agrees {
					t.Errorf("%+v", one)
				}
			}
			if name == "by hand" { // it is no part of OpenRouter's totals
				if one := b.square(total("x/small", 50, 15*micro), total("x/y", 1, 5*micro)); !one.Agrees || !one.Booked.IsZero() {
					t.Errorf("%+v", one)
				}
			}
		})
	}
}

// TestSquareWithTools: OpenRouter has the cost of a tool under the tool's model, where we have it with its generation.
func TestSquareWithTools(t *testing.T) {
	b := newKeptBooks(t)
	b.record("analytics", b.lost("x/small", 50)...)
	searched := b.on("gen-searched", 0, 2*micro)
	searched.Model, searched.Cost = "x/small", 20_000*micro
	b.record("analytics", searched)
	b.record("analytics", b.on("gen-1", 5*micro, micro), b.on("gen-2", 0, micro), b.on("gen-3", 0, micro))
	if one := b.square(total("x/small", 51, 15*micro), total("tools/search", 0, 20_000*micro), total("x/y", 3, 6*micro)); !one.Agrees {
		t.Errorf("%+v", one)
	}
	b.wantModel("with its search", "x/small", 20_015*micro)
	b.wantModel("none of that", "x/y", 6*micro)
	b.wantRaw("in all", 20_021*micro)
	if one := b.square(total("x/small", 51, 15*micro), total("tools/search", 0, 21_000*micro), total("x/y", 3, 6*micro)); one.Agrees {
		t.Errorf("a search more: %+v", one)
	}
}
