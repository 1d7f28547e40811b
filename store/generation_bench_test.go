package store

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"
)

// BenchmarkRecordGenerations records 100,000 new generations of 40 users and 12 models in batches of 1000, and reports for
// how long the write lock is held.
func BenchmarkRecordGenerations(b *testing.B) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	for b.Loop() {
		path := filepath.Join(b.TempDir(), "webui.db")
		if err := CreateDemo(b.Context(), path, []NewOrganisation{{ID: "acme", Name: "Acme", Key: "key", Rate: 1.3}}, now); err != nil {
			b.Fatal(err)
		}
		s, err := Open(b.Context(), path, ReadWrite)
		if err != nil {
			b.Fatal(err)
		}
		org := Organisation{ID: "acme", Zone: time.UTC, Rate: DefaultRate}
		for batch := range 100 {
			generations := make([]Generation, 1000)
			for i := range generations {
				n := batch*1000 + i
				at := now.Add(-time.Duration(n) * time.Second)
				generations[i] = Generation{ID: fmt.Sprintf("gen-%d-%08x", at.Unix(), uint32(n)*2654435761), CreatedAt: at,
					Day: DayOf(at, time.UTC), Model: fmt.Sprintf("openai/gpt-%d", n%12), User: fmt.Sprintf("user-%d", n%40),
					Tokens: 1300, Cost: Money(n) * 1000}
			}
			done, err := s.RecordGenerations(b.Context(), Batch{Organisation: org, Source: "generations", Now: now, Generations: generations})
			if err != nil || len(done.Entries) != len(generations) {
				b.Fatal(len(done.Entries), err)
			}
		}
		locks := s.LockTimes()
		b.ReportMetric(float64(locks.Percentile(99).Microseconds())/1000, "p99-hold-ms")
		b.ReportMetric(float64(locks.Percentile(100).Microseconds())/1000, "longest-hold-ms")
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkKeepBooks keeps the books of a steady pass: three days of 40 users and 12 models that are right already, and
// that the ledger agrees with.
func BenchmarkKeepBooks(b *testing.B) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	path := filepath.Join(b.TempDir(), "webui.db")
	if err := CreateDemo(b.Context(), path, []NewOrganisation{{ID: "acme", Name: "Acme", Key: "key", Rate: 1.3}}, now); err != nil {
		b.Fatal(err)
	}
	s, err := Open(b.Context(), path, ReadWrite)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	org := Organisation{ID: "acme", Zone: time.UTC, Rate: DefaultRate}
	for day := range 30 {
		generations := make([]Generation, 400)
		for i := range generations {
			at := now.Add(-time.Duration(day) * 24 * time.Hour).Add(-time.Duration(i) * time.Second)
			generations[i] = Generation{ID: fmt.Sprintf("gen-%d-%d", day, i), CreatedAt: at, Day: DayOf(at, time.UTC),
				Model: fmt.Sprintf("openai/gpt-%d", i%12), User: fmt.Sprintf("user-%d", i%40), Tokens: 1300, Cost: Money(i) * 1000}
		}
		if _, err := s.RecordGenerations(b.Context(), Batch{Organisation: org, Source: "generations", Now: now, Generations: generations}); err != nil {
			b.Fatal(err)
		}
	}
	today := DayOf(now, time.UTC)
	days := []Day{today.Add(-1), today, today.Add(1)}
	if _, err := s.KeepBooks(b.Context(), org, now, days); err != nil {
		b.Fatal(err)
	}
	before := len(s.LockTimes())
	for b.Loop() {
		found, err := s.KeepBooks(b.Context(), org, now, days)
		if err != nil || !found.IsNone() {
			b.Fatal(found, err)
		}
		if _, err := s.Gaps(b.Context(), GapFilter{Organisations: []string{"acme"}, Kind: GapLost}); err != nil {
			b.Fatal(err)
		}
		if differing, err := s.CheckLedger(b.Context(), org, now, days, ByNumber); err != nil || len(differing) > 0 {
			b.Fatal(differing, err)
		}
	}
	if n := len(s.LockTimes()) - before; n != 0 {
		b.Fatalf("the write lock was taken %d times", n)
	}
}
