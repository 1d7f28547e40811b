package report

import (
	"math"
	"regexp"
	"strconv"
	"strings"
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

var bar = regexp.MustCompile(`<path d="M (\d+) (\d+) L (\d+) \d+ L \d+ (\d+) [^"]*" class="bar"/>`)

// TestChart: each day with a cost has a bar as high as its cost, from left to right, and nothing is drawn in a fixed colour.
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
				c, err := drawn(costs...).draw(width, 200)
				if err != nil {
					t.Fatal(err)
				}
				text := string(c.Drawing)
				if strings.Contains(text, "style=") || strings.Contains(text, "rgb(") || strings.Contains(text, "NaN") {
					t.Errorf("a colour that no stylesheet can change, or no number: %.500s", text)
				}
				var with []float64
				low, high := 0.0, 0.0
				for _, cost := range costs {
					low, high = min(low, cost), max(high, cost)
					if cost != 0 {
						with = append(with, cost)
					}
				}
				bars := bar.FindAllStringSubmatch(text, -1)
				if len(bars) != len(with) {
					t.Fatalf("%d bars for %d days with a cost", len(bars), len(with))
				}
				low, high, _ = scale(low, high)
				left := -1
				for i, found := range bars {
					at := func(group int) int { n, _ := strconv.Atoi(found[group]); return n }
					if at(1) < left || at(3) > width {
						t.Errorf("bar %d starts at %d and ends at %d, the one before started at %d", i, at(1), at(3), left)
					}
					left = at(1)
					// Bars are drawn in whole pixels, on about 165 of the 200 that the chart is high.
					height, want := float64(at(4)-at(2)), math.Abs(with[i])/(high-low)*165
					if math.Abs(height-want) > 4+want/20 {
						t.Errorf("the bar of %g is %g pixels high, want about %.0f", with[i], height, want)
					}
				}
			}
		})
	}
}

func TestClassed(t *testing.T) {
	if _, err := classed([]byte(`<svg><path style="fill:rgb(9,9,9)"/></svg>`)); err == nil {
		t.Error("a colour that is none of ours is taken")
	}
	if _, err := classed([]byte("none")); err == nil {
		t.Error("what is no drawing is taken")
	}
}
