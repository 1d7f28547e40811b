package store

import (
	"errors"
	"math"
	"math/big"
	"testing"

	"pgregory.net/rapid"
)

func TestParseMoney(t *testing.T) {
	for _, test := range []struct {
		text string
		want Money
	}{
		{"0", 0},
		{"-0", 0},
		{"0.002", 2_000_000_000},
		{"1e-6", 1_000_000},
		{"1.5E-7", 150_000},
		{"2e+3", 2000 * Dollar},
		{"0.00000000001", 10},
		{"0.0000000000005", 0},
		{"0.0000000000015", 2},
		{"0.0000000000025", 2},
		{"0.00014249999999999997", 142_500_000},
		{"1234567.123456789012", 1_234_567_123_456_789_012},
		{"1234567.1234567890123456789", 1_234_567_123_456_789_012},
		{"000.5", 500_000_000_000},
		{"1230000000000000000000000e-22", 123 * Dollar}, // more digits than fit, before the point
		{"9.9999999999999999999", 10 * Dollar},          // a 20th digit would not fit
		{"0.0000000000000000000015e10", 15},             // zeros in front are no digits
		{"9e-99999999999999999999", 0},
		{"0e99999999999999999999", 0},
		{"-0.25", -250_000_000_000},
	} {
		t.Run(test.text, func(t *testing.T) {
			got, err := ParseMoney(test.text)
			if err != nil || got != test.want {
				t.Errorf("ParseMoney(%s) = %d, %v, want %d", test.text, got, err, test.want)
			}
		})
	}
	for _, text := range []string{"", "-", ".", ".5", "5.", "1e", "1e+", "NaN", "Infinity", "0x10", "1_000", "1e7", "9223372.1", "1e300", "1 ", "--1", "1.2.3"} {
		t.Run("refused "+text, func(t *testing.T) {
			if got, err := ParseMoney(text); !errors.Is(err, ErrMoney) {
				t.Errorf("ParseMoney(%q) = %d, %v, want ErrMoney", text, got, err)
			}
		})
	}
}

// The oracle is exact rational arithmetic.
func TestParseMoneyAgainstRationals(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`-?(0|[1-9][0-9]{0,6})(\.[0-9]{1,24})?([eE]-[0-9]{1,2})?`).Draw(t, "text")
		got, err := ParseMoney(text)
		exact, ok := new(big.Rat).SetString(text)
		if !ok {
			t.Fatalf("bad generator: %q", text)
		}
		exact.Mul(exact, new(big.Rat).SetInt64(int64(Dollar)))
		if err != nil {
			if limit := new(big.Rat).SetInt64(math.MaxInt64); exact.Abs(exact).Cmp(limit) < 0 {
				t.Fatalf("ParseMoney(%s): %v", text, err)
			}
			return
		}
		off := new(big.Rat).Sub(exact, new(big.Rat).SetInt64(int64(got)))
		if off.Abs(off).Cmp(big.NewRat(1, 2)) > 0 {
			t.Fatalf("ParseMoney(%s) = %d, exact %s", text, got, exact.FloatString(6))
		}
	})
}

func TestMoneyThroughFloat(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := Money(rapid.Int64Range(-4096*int64(Dollar), 4096*int64(Dollar)).Draw(t, "money"))
		if got, err := MoneyFromFloat(want.Float()); err != nil || got != want {
			t.Fatalf("%d came back as %d, %v", want, got, err)
		}
	})
	for _, f := range []float64{math.NaN(), math.Inf(1), math.Inf(-1), 1e9} {
		if got, err := MoneyFromFloat(f); !errors.Is(err, ErrMoney) {
			t.Errorf("MoneyFromFloat(%g) = %d, %v, want ErrMoney", f, got, err)
		}
	}
}

func TestMarkup(t *testing.T) {
	rate := func(f float64) Rate {
		r, err := RateFromFloat(f)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	for _, test := range []struct {
		rate float64
		raw  Money
		want Money
	}{
		{1.3, 2_000_000_000, 2_600_000_000},
		{1.5, 17_466_666_667, 26_200_000_000}, // 26_200_000_000.5: half to even
		{1.5, 17_466_666_669, 26_200_000_004}, // 26_200_000_003.5: half to even
		{1.3, -2_000_000_000, -2_600_000_000},
		{0.000000001, 1_000_000_000, 1},
		{1, Dollar, Dollar},
	} {
		if got, err := rate(test.rate).Markup(test.raw); err != nil || got != test.want {
			t.Errorf("%g x %d = %d, %v, want %d", test.rate, test.raw, got, err, test.want)
		}
	}
	if got, err := rate(1000).Markup(1_000_000 * Dollar); !errors.Is(err, ErrMoney) {
		t.Errorf("overflow: %d, %v", got, err)
	}
	for _, f := range []float64{0, -1.3, math.NaN(), math.Inf(1), 1e-12} {
		if r, err := RateFromFloat(f); !errors.Is(err, ErrRate) {
			t.Errorf("RateFromFloat(%g) = %d, %v, want ErrRate", f, r, err)
		}
	}
}
