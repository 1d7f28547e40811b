package job_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"usage-sync/job"
	"usage-sync/job/openrouter/standin"
	"usage-sync/job/report"
	"usage-sync/store"
)

// TestFinalMeansRecorded: whatever passes fail, whenever there are none and whatever rows are refused, a
// statement of a month that is over is final if and only if each generation of the month is recorded, or lies
// in a gap that a person has accepted. There is a generation in each hour, so that no gap is without usage.
func TestFinalMeansRecorded(t *testing.T) {
	seed, histories := uint64(time.Now().UnixNano()), 8
	if *long {
		histories = 200
	}
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	for i := range histories {
		source := []string{job.SourceGenerations, job.SourceAnalytics}[i%2]
		zone := []string{"", "Europe/Warsaw", "America/New_York"}[random.IntN(3)]
		t.Run(fmt.Sprintf("%s %d", source, i), func(t *testing.T) {
			h := newMonths(t, random, source, zone)
			for h.now().Before(at("2026-12-05T00:00:00Z")) {
				h.step()
			}
			h.api.Script() // whatever was to fail has failed
			h.run(t.Context(), from(source))
			for _, month := range []string{"2026-08", "2026-09", "2026-10", "2026-11"} {
				h.checkFinal(month)
			}
			if t.Failed() {
				t.Logf("%s", h.logs)
				for _, g := range h.gaps(store.GapFilter{}) {
					t.Logf("gap %+v", g)
				}
			}
		})
	}
}

// months are a world in which anything may happen.
type months struct {
	*world
	random *rand.Rand
	source string
	zone   string
	first  time.Time
	broken []string // ids of rows that are refused
}

func newMonths(t *testing.T, random *rand.Rand, source, zone string) *months {
	now := at("2026-09-01T00:00:00Z").Add(time.Duration(random.IntN(45*24)) * time.Hour)
	w := newWorld(t, now, client("acme", zone)).manage()
	h := &months{world: w, random: random, source: source, zone: zone, first: now}
	for created := at("2026-08-01T00:30:00Z"); created.Before(at("2026-12-06T00:00:00Z")); created = created.Add(time.Hour) {
		g := generation(fmt.Sprintf("gen-%d-x", created.Unix()), created)
		if random.IntN(700) == 0 && created.After(now.AddDate(0, 0, -2)) {
			g.Cost = "-1"
			h.broken = append(h.broken, g.ID)
		}
		w.api.Add(keyOf("acme"), g)
	}
	return h
}

// step lets something happen, and time go on.
func (h *months) step() {
	h.Helper()
	switch n := h.random.IntN(20); {
	case n == 0 && len(h.broken) > 0: // the server corrects a row
		i := h.random.IntN(len(h.broken))
		h.api.SetCost(h.broken[i], "0.01")
		h.broken = append(h.broken[:i:i], h.broken[i+1:]...)
	case n == 1: // a person does not expect what is missing any more
		if open := h.gaps(store.GapFilter{Open: true}); len(open) > 0 {
			h.accept(open[h.random.IntN(len(open))].ID)
		}
	case n == 2:
		h.api.Script(standin.Status(400, ""), standin.Status(400, ""))
	}
	options := []option{from(h.source), daysBack(h.random.IntN(4))}
	if h.random.IntN(15) == 0 {
		options[1] = daysBack(job.MaxDaysBack)
	}
	if _, err := h.run(context.Background(), options...); err != nil {
		h.Fatalf("%v", err)
	}
	pause := time.Duration(1+h.random.IntN(72)) * time.Hour
	if h.random.IntN(12) == 0 { // an outage
		pause = time.Duration(1+h.random.IntN(50)) * 24 * time.Hour
	}
	h.later(pause + time.Duration(h.random.IntN(3600))*time.Second)
}

func (h *months) checkFinal(month string) {
	h.Helper()
	s := h.open()
	defer s.Close()
	statements, err := report.Make(context.Background(), s, report.Request{Organisations: []string{"acme"}, Zone: time.UTC,
		Period: report.Asked{Month: month}, For: report.Owner, Now: h.now()})
	if err != nil {
		h.Fatalf("%v", err)
	}
	accepted := func(g store.Gap, id string, created time.Time) bool {
		if g.Subject != "" {
			return g.Accepted && g.Subject == id
		}
		return g.Accepted && !created.Before(g.From) && created.Before(g.Until)
	}
	gaps := h.gaps(store.GapFilter{})
	missing, first := 0, ""
	for created := at("2026-08-01T00:30:00Z"); created.Before(at("2026-12-06T00:00:00Z")); created = created.Add(time.Hour) {
		if store.DayOf(created, statements[0].Zone).Month() != month {
			continue
		}
		id := fmt.Sprintf("gen-%d-x", created.Unix())
		if h.text(`select count(*) from processed_generations where id = ?`, id) == "1" {
			continue
		}
		known := false
		for _, g := range gaps {
			known = known || accepted(g, id, created)
		}
		if !known {
			if missing++; first == "" {
				first = id + " of " + created.Format(time.RFC3339)
			}
		}
	}
	if statements[0].Final != (missing == 0) {
		h.Errorf("%s (first pass at %s): final is %v (%s %v), and %d generations are missing, the first is %s", month,
			h.first.Format(time.RFC3339), statements[0].Final, statements[0].Provisional(), statements[0].Gaps(), missing, first)
	}
}
