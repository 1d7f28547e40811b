package report

import (
	"math"
	"slices"
	"testing"
	"time"

	"usage-sync/store"
)

// drawn is a statement with a cost for each day from the first of October.
func drawn(costs ...float64) Statement {
	first := store.Day("2026-10-01")
	s := Statement{Currency: dollars, Zone: time.UTC, Stated: store.Span{First: first, Last: first.Add(len(costs) - 1)}}
	for i, cost := range costs {
		s.Days = append(s.Days, Part{Name: string(first.Add(i)), Figures: Figures{Cost: store.Money(math.Round(cost * float64(store.Dollar)))}})
	}
	return s
}

// TestChart: each day with a cost has a bar as high as its cost, from left to right, on the line of zero.
func TestChart(t *testing.T) {
	year := make([]float64, mostDays)
	for i := range year {
		year[i] = float64(i%7) * 1.25
	}
	for name, costs := range map[string][]float64{
		"month":       {5, 0, 12.5, 3, 7.25, 0, 0, 14.3, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0.5, 0, 0, 3, 2, 1, 0, 0, 9},
		"corrections": {4, -2, 3, 0, -1},
		"tiny":        {0.000003, 0.000001, 0, 0.000002},
		"huge":        {1.5e6, 3e6, 2e6},
		"free":        {0, 0, 0},
		"year":        year,
	} {
		t.Run(name, func(t *testing.T) {
			for _, width := range []int{720, 360} {
				checkBars(t, drawn(costs...).draw("wide", width, 200), costs)
			}
		})
	}
}

func checkBars(t *testing.T, c chart, costs []float64) {
	t.Helper()
	var with []float64
	low, high := 0.0, 0.0
	for _, cost := range costs {
		low, high = min(low, cost), max(high, cost)
		if cost != 0 {
			with = append(with, cost)
		}
	}
	if len(c.Bars) != len(with) {
		t.Fatalf("%d bars for %d days with a cost", len(c.Bars), len(with))
	}
	zero := slices.IndexFunc(c.Lines, func(l chartLine) bool { return l.Zero })
	if zero < 0 || c.Lines[zero].Label != "0" || c.Lines[0].Y <= c.Lines[len(c.Lines)-1].Y {
		t.Fatalf("no line of zero, or not from below: %+v", c.Lines)
	}
	low, high, _ = scale(low, high)
	left := c.Left
	for i, bar := range c.Bars {
		if bar.X < left || bar.Width <= 0 || bar.X+bar.Width > c.Right {
			t.Errorf("bar %d goes from %g to %g, the one before it started at %g", i, bar.X, bar.X+bar.Width, left)
		}
		left = bar.X
		if want := math.Abs(with[i]) / (high - low) * float64(c.Height-topRoom-bottomRoom); math.Abs(bar.Height-want) > 0.2 {
			t.Errorf("the bar of %g is %g pixels high, want %.1f", with[i], bar.Height, want)
		}
		foot := bar.Y + bar.Height
		if with[i] < 0 {
			foot = bar.Y
		}
		if math.Abs(foot-c.Lines[zero].Y) > 0.2 {
			t.Errorf("the bar of %g starts at %g, the line of zero is at %g", with[i], foot, c.Lines[zero].Y)
		}
	}
}
