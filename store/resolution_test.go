package store

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"
)

// micro is what the analytics round to.
const micro = Dollar / 1_000_000

// keptBooks is an organisation whose generations are recorded one batch after another.
type keptBooks struct {
	*testing.T
	*Store
	org Organisation
	now time.Time
}

func newKeptBooks(t *testing.T) *keptBooks {
	t.Helper()
	now := time.Date(2026, 3, 10, 12, 30, 0, 0, time.UTC)
	path := filepath.Join(t.TempDir(), "webui.db")
	if err := CreateDemo(t.Context(), path, []NewOrganisation{{ID: "acme", Name: "Acme", Key: "sk-or-v1-acme", Rate: 1.3}}, now); err != nil {
		t.Fatal(err)
	}
	return &keptBooks{t, open(t, path, ReadWrite), Organisation{ID: "acme", Zone: time.UTC, Rate: DefaultRate}, now}
}

// record records generations as they come from a source.
func (b *keptBooks) record(source string, generations ...Generation) Recorded {
	b.Helper()
	done, err := b.RecordGenerations(b.Context(), Batch{Organisation: b.org, Source: source, Now: b.now, Generations: generations,
		Delivered: source == SourceWebhook})
	if err != nil {
		b.Fatal(err)
	}
	return done
}

// on is a generation of yesterday.
func (b *keptBooks) on(id string, cost, resolution Money) Generation {
	made := b.now.Add(-24 * time.Hour)
	return Generation{ID: id, CreatedAt: made, Day: DayOf(made, time.UTC), Model: "x/y", User: "ann", Tokens: 10, Cost: cost,
		Resolution: resolution}
}

// wantRaw holds every table of yesterday against a raw cost.
func (b *keptBooks) wantRaw(when string, want Money) {
	b.Helper()
	books, err := b.Books(b.Context(), "acme", "2026-03-09", "2026-03-09")
	day := books["2026-03-09"]
	if err != nil || day.Day.Raw != want || day.Users.Raw != want || sumTotals(day.Models).Raw != want {
		b.Errorf("%s: day %s, users %s, models %s, %v; want %s", when, day.Day.Raw, day.Users.Raw, sumTotals(day.Models).Raw, err, want)
	}
}

// TestResolution: the analytics round what deliveries and lists know exactly. What agrees with a finer figure changes nothing,
// and a finer one settles it, whichever comes first.
func TestResolution(t *testing.T) {
	const exact, coarse = 68_590_500_000, 68_590_000_000 // seen live: 0.0685905 and 0.06859
	analytics, list := "analytics", "generations"
	type step struct {
		source           string
		cost, resolution Money
		want             Money
		entries          int
	}
	for name, steps := range map[string][]step{
		"delivered, then coarse":             {{SourceWebhook, exact, 0, exact, 1}, {analytics, coarse, micro, exact, 0}, {list, exact, 0, exact, 0}},
		"rounded up":                         {{list, exact, 0, exact, 1}, {analytics, coarse + micro, micro, exact, 0}},
		"a step is the most":                 {{list, exact, 0, exact, 1}, {analytics, exact + micro + 1, micro, exact + micro + 1, 1}},
		"coarse, then listed":                {{analytics, coarse, micro, coarse, 1}, {list, exact, 0, exact, 1}, {analytics, coarse, micro, exact, 0}},
		"coarse, then delivered":             {{analytics, coarse, micro, coarse, 1}, {SourceWebhook, exact, 0, exact, 1}, {analytics, coarse, micro, exact, 0}},
		"a delivery is not the last word":    {{analytics, coarse, micro, coarse, 1}, {SourceWebhook, 2 * exact, 0, coarse, 0}},
		"OpenRouter has changed it":          {{list, exact, 0, exact, 1}, {analytics, 2 * coarse, micro, 2 * coarse, 1}, {list, exact, 0, exact, 1}},
		"two coarse ones":                    {{analytics, coarse, micro, coarse, 1}, {analytics, coarse + micro, micro, coarse + micro, 1}},
		"finer, and the same":                {{analytics, coarse, micro, coarse, 1}, {list, coarse, 0, coarse, 0}, {analytics, coarse + micro, micro, coarse, 0}},
		"less than half a micro-dollar":      {{analytics, 0, micro, 0, 1}, {list, 300_000, 0, 300_000, 1}, {analytics, 0, micro, 300_000, 0}},
		"several rows of one, each rounded":  {{analytics, 3 * coarse, 2 * micro, 3 * coarse, 1}, {list, 3*coarse + 2*micro, 0, 3*coarse + 2*micro, 1}},
		"coarse, coarser, and the same step": {{analytics, coarse, micro, coarse, 1}, {analytics, coarse + 2*micro, 2 * micro, coarse, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newKeptBooks(t)
			for i, s := range steps {
				done := b.record(s.source, b.on("gen-1", s.cost, s.resolution))
				when := fmt.Sprintf("step %d", i+1)
				if len(done.Entries) != s.entries || len(done.Entries)+done.Duplicates != 1 {
					t.Errorf("%s: %d entries and %d duplicates", when, len(done.Entries), done.Duplicates)
				}
				b.wantRaw(when, s.want)
				unrecorded, err := b.Unrecorded(t.Context(), b.org, []Generation{b.on("gen-1", s.cost, s.resolution)})
				if recorded := s.entries == 1 || s.source != SourceWebhook; err != nil || recorded == unrecorded["gen-1"] {
					t.Errorf("%s: unrecorded %v, %v", when, unrecorded, err)
				}
			}
		})
	}
	t.Run("tokens change alone", func(t *testing.T) {
		b := newKeptBooks(t)
		b.record(list, b.on("gen-1", exact, 0))
		more := b.on("gen-1", coarse, micro)
		more.Tokens = 20
		if done := b.record(analytics, more); len(done.Entries) != 1 || done.Entries[0].Tokens != 10 || done.Entries[0].Raw != 0 {
			t.Errorf("%+v", done.Entries)
		}
		b.wantRaw("afterwards", exact)
	})
	t.Run("rows of earlier versions", func(t *testing.T) {
		b := newKeptBooks(t)
		b.record(analytics, b.on("gen-1", coarse, micro))
		b.record(list, b.on("gen-2", exact, 0))
		for _, query := range []string{`alter table usage_sync_generations drop column resolution`} {
			if _, err := b.db.Exec(query); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.EnsureOwnTables(t.Context()); err != nil {
			t.Fatal(err)
		}
		if done := b.record(list, b.on("gen-1", exact, 0)); len(done.Entries) != 1 {
			t.Errorf("an exact figure of what the analytics told: %d entries", len(done.Entries))
		}
		if done := b.record(analytics, b.on("gen-1", coarse, micro), b.on("gen-2", coarse, micro)); len(done.Entries) != 0 {
			t.Errorf("coarse figures of what is known: %d entries", len(done.Entries))
		}
		b.wantRaw("afterwards", 2*exact)
	})
}

// TestEntriesHold: entries are compared by what is known of them.
func TestEntriesHold(t *testing.T) {
	for _, test := range []struct {
		ours, theirs, ourStep, theirStep Money
		want                             bool
	}{
		{5, 5, 0, 0, true}, {5, 6, 0, 0, false}, {micro, 0, micro, 0, true}, {0, micro, 0, micro, true}, {0, micro + 1, 0, micro, false},
		{0, micro, micro, micro, false}, {0, 2 * micro, micro, 2 * micro, true},
	} {
		e := LedgerEntry{Cost: test.ours, Resolution: test.ourStep, Tokens: 1}
		if got := e.Holds(Generation{Cost: test.theirs, Resolution: test.theirStep, Tokens: 1}); got != test.want {
			t.Errorf("%+v: %t", test, got)
		}
	}
}
