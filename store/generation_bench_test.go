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
