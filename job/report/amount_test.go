package report

import (
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"usage-sync/store"
)

var dollars = Currency{Code: "USD", Digits: 2}

func TestShown(t *testing.T) {
	yen, dinar := Currency{"JPY", 0}, Currency{"KWD", 3}
	for _, c := range []struct {
		currency Currency
		amount   string
		want     string
	}{
		{dollars, "0", "0.00"},
		{dollars, "0.000000000001", "<0.01"},
		{dollars, "0.004999999999", "<0.01"},
		{dollars, "0.005", "0.01"},
		{dollars, "-0.005", "-0.01"},
		{dollars, "-0.0001", ">-0.01"},
		{dollars, "1.005", "1.01"},
		{dollars, "2.675", "2.68"},
		{dollars, "-2.675", "-2.68"},
		{dollars, "999.995", "1,000.00"},
		{dollars, "1234567.891", "1,234,567.89"},
		{dollars, "9223372.036854775807", "9,223,372.04"},
		{yen, "0.4", "<1"},
		{yen, "1234.5", "1,235"},
		{dinar, "0.0005", "0.001"},
		{dinar, "12.3456", "12.346"},
	} {
		amount, err := store.ParseMoney(c.amount)
		if got := c.currency.shown(amount); err != nil || got != c.want {
			t.Errorf("%s %s is shown as %s, want %s (%v)", c.currency.Code, c.amount, got, c.want, err)
		}
	}
	if got := dollars.shown(math.MinInt64); got != "-9,223,372.04" {
		t.Errorf("the least amount is shown as %s", got)
	}
}

// TestExact: what CSV and JSON hold is the very amount, as short as can be.
func TestExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		amount := store.Money(rapid.Int64().Draw(t, "amount"))
		text := amount.Exact()
		back, err := store.ParseMoney(text)
		if amount == math.MinInt64 { // one beyond what is read
			return
		}
		if err != nil || back != amount || strings.Contains(text, ".") && strings.HasSuffix(text, "0") {
			t.Fatalf("%d is written as %s and read as %d, %v", amount, text, back, err)
		}
	})
}

func TestChange(t *testing.T) {
	for _, c := range []struct {
		now, before float64
		want        string
	}{{12, 10, "+20.0 %"}, {8, 10, "-20.0 %"}, {10, 10, "0.0 %"}, {10, 0, "–"}, {0, 0, "–"}, {0, 10, "-100.0 %"}} {
		if got := change(c.now, c.before); got != c.want {
			t.Errorf("%g after %g: %s, want %s", c.now, c.before, got, c.want)
		}
	}
}

func TestScale(t *testing.T) {
	for _, c := range []struct {
		least, most float64
		low, high   float64
		lines       int
	}{
		{0, 14.3, 0, 15, 4}, {0, 1, 0, 1, 6}, {0, 0, 0, 1, 2}, {-3, 16, -5, 20, 6}, {0, 0.00000021, 0, 0.00000025, 6}, {0, 99999, 0, 100000, 6},
	} {
		low, high, lines := scale(c.least, c.most)
		if math.Abs(low-c.low) > 1e-12 || math.Abs(high-c.high) > 1e-12 || lines != c.lines {
			t.Errorf("%g to %g: from %g to %g with %d lines", c.least, c.most, low, high, lines)
		}
	}
	for value, want := range map[float64]string{math.Copysign(0, -1): "0", -1e-15: "0", 0.1 + 0.2: "0.3", 2.5: "2.5", 12000: "12,000", -1500: "-1,500", 1e-9: "0.000000001"} {
		if got := axisNumber(value); got != want {
			t.Errorf("%g on the axis: %s, want %s", value, got, want)
		}
	}
}

func TestSparkline(t *testing.T) {
	parts := func(costs ...store.Money) (all []Part) {
		for _, cost := range costs {
			p := Part{Figures: Figures{Cost: cost * store.Dollar}}
			if cost != 0 {
				p.Requests = 1
			}
			all = append(all, p)
		}
		return all
	}
	for _, c := range []struct {
		costs []store.Money
		width int
		want  string
	}{
		{[]store.Money{1, 2, 3, 4, 5, 6, 7, 8}, 60, "▁▂▃▄▅▆▇█"},
		{[]store.Money{0, 8, 0, 1}, 60, "·█·▁"},
		{[]store.Money{-5, 8}, 60, "▁█"},
		{[]store.Money{-5, -8}, 60, "▁▁"},
		{[]store.Money{4, 4, 0, 0, 1, 0}, 3, "█·▁"},
	} {
		if got, _ := sparkline(parts(c.costs...), c.width); got != c.want {
			t.Errorf("%v: %s, want %s", c.costs, got, c.want)
		}
	}
}
