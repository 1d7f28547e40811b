package store

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Grouped writes a count for people, in groups of three digits: 1,234,567.
func Grouped(n int64) string { return GroupDigits(strconv.FormatInt(n, 10)) }

// Counted writes a count with its noun: 1 row, 48,180 tokens.
func Counted[N int | int64](n N, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return Grouped(int64(n)) + " " + noun
}

// Lasting writes how long something took or is ago, in the units that people would use: 37 s, 25 min, 2 h 30 min, 26 h,
// 55 days.
func Lasting(d time.Duration) string {
	d = d.Abs()
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s", int64(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", int64(d.Minutes()))
	case d < 10*time.Hour && d%time.Hour >= time.Minute:
		return fmt.Sprintf("%d h %d min", int64(d.Hours()), int64((d % time.Hour).Minutes()))
	case d < 72*time.Hour:
		return fmt.Sprintf("%d h", int64(d.Hours()))
	}
	return Counted(int64(d.Hours()/24), "day")
}

// GroupDigits groups the digits of a whole number, which may have a minus before them.
func GroupDigits(digits string) string {
	sign := ""
	if strings.HasPrefix(digits, "-") {
		sign, digits = "-", digits[1:]
	}
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return sign + digits
}

// Rounded writes an amount for people, rounded half away from zero to 0 to 12 decimals, in groups: 1,234.57.
// What is not nothing is not shown as nothing: <0.01.
func (m Money) Rounded(decimals int) string {
	unit := uint64(Dollar)
	for range decimals {
		unit /= 10
	}
	amount, sign := uint64(m), ""
	if m < 0 {
		amount, sign = -amount, "-"
	}
	rounded := (amount + unit/2) / unit
	if rounded == 0 && m != 0 {
		least := point(1, decimals)
		if m < 0 {
			return ">-" + least
		}
		return "<" + least
	}
	return sign + point(rounded, decimals)
}

// point writes a number of smallest units with the point in its place.
func point(units uint64, decimals int) string {
	digits := strconv.FormatUint(units, 10)
	if missing := decimals + 1 - len(digits); missing > 0 {
		digits = strings.Repeat("0", missing) + digits
	}
	whole, fraction := digits[:len(digits)-decimals], digits[len(digits)-decimals:]
	if fraction != "" {
		fraction = "." + fraction
	}
	return GroupDigits(whole) + fraction
}

// Exact writes an amount with all its decimals and no others: 0.0156.
func (m Money) Exact() string { return strings.TrimRight(strings.TrimRight(m.Fixed(), "0"), ".") }

// Fixed writes an amount with all twelve decimals: 0.015600000000.
func (m Money) Fixed() string {
	amount, sign := uint64(m), ""
	if m < 0 {
		amount, sign = -amount, "-"
	}
	return fmt.Sprintf("%s%d.%0*d", sign, amount/uint64(Dollar), picoDigits, amount%uint64(Dollar))
}

// Decimals is how many decimals people need of amounts that stand beside each other: cents where one is a dollar or
// more, hundredths of a cent where all are less.
func Decimals(amounts ...Money) int {
	for _, m := range amounts {
		if m >= Dollar || m <= -Dollar {
			return 2
		}
	}
	return 4
}

// Dollars writes a single amount for people: $1,234.57, $0.1087, -$0.5000, <$0.0001.
func (m Money) Dollars() string { return m.DollarsTo(Decimals(m)) }

// DollarsTo is Dollars with a number of decimals.
func (m Money) DollarsTo(decimals int) string {
	text := m.Rounded(decimals)
	digits := strings.TrimLeft(text, "<>-")
	return text[:len(text)-len(digits)] + "$" + digits
}
