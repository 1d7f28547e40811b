package store

import (
	"math"
	"testing"
	"time"
)

func TestFigures(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{Grouped(0), "0"},
		{Grouped(999), "999"},
		{Grouped(-1000), "-1,000"},
		{Grouped(48180), "48,180"},
		{Grouped(math.MinInt64), "-9,223,372,036,854,775,808"},
		{Counted(1, "row"), "1 row"},
		{Counted(int64(0), "token"), "0 tokens"},
		{Counted(-1000, "token"), "-1,000 tokens"},
		{Lasting(0), "0 s"},
		{Lasting(119 * time.Second), "119 s"},
		{Lasting(25*time.Minute + 59*time.Second), "25 min"},
		{Lasting(150 * time.Minute), "2 h 30 min"},
		{Lasting(-26 * time.Hour), "26 h"},
		{Lasting(1322*time.Hour + 7*time.Minute), "55 days"},
		{Money(0).Dollars(), "$0.0000"},
		{(108_700 * Dollar / 1_000_000).Dollars(), "$0.1087"},
		{Dollar.Dollars(), "$1.00"},
		{(1234*Dollar + 567*Dollar/1000).Dollars(), "$1,234.57"},
		{(-1234*Dollar - 567*Dollar/1000).Dollars(), "-$1,234.57"},
		{Money(1).Dollars(), "<$0.0001"},
		{Money(-1).Rounded(2), ">-0.01"},
		{(Dollar / 200).Rounded(2), "0.01"}, // half away from zero
		{(-Dollar / 200).Rounded(2), "-0.01"},
		{(1500 * Dollar).Rounded(0), "1,500"},
		{Money(0).Exact(), "0"},
		{(-1000 * Dollar).Exact(), "-1000"},
		{(15_600 * Dollar / 1_000_000).Exact(), "0.0156"},
		{Money(math.MinInt64).Exact(), "-9223372.036854775808"},
		{Money(1).Rounded(12), "0.000000000001"},
		{Money(math.MinInt64).Rounded(2), "-9,223,372.04"},
	} {
		if c.got != c.want {
			t.Errorf("got %s, want %s", c.got, c.want)
		}
	}
}
