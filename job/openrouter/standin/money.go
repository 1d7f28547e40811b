package standin

import (
	"math/big"
	"strconv"
	"strings"
)

// amount is digits x 10^exponent dollars: exact, so that the sums of the server are a fair judge of someone
// else's. The zero value is nothing.
type amount struct {
	digits   *big.Int
	exponent int
	bad      bool // no number: it counts as nothing
}

// farthest bounds the exponents that are summed: a cost beyond it is a bad row, and would only fill the
// memory.
const farthest = 400

// parseAmount reads a JSON number.
func parseAmount(text string) amount {
	mantissa, power, hasPower := strings.Cut(strings.ToLower(text), "e")
	whole, fraction, _ := strings.Cut(mantissa, ".")
	exponent := 0
	if hasPower {
		var err error
		if exponent, err = strconv.Atoi(power); err != nil {
			return amount{bad: true}
		}
	}
	exponent -= len(fraction)
	digits, ok := new(big.Int).SetString(whole+fraction, 10)
	if !ok || exponent > farthest || exponent < -farthest {
		return amount{bad: true}
	}
	return amount{digits: digits, exponent: exponent}
}

// scaled returns the digits with a lower exponent, or the same.
func (a amount) scaled(exponent int) *big.Int {
	if a.digits == nil {
		return new(big.Int)
	}
	return new(big.Int).Mul(a.digits, powerOfTen(a.exponent-exponent))
}

func powerOfTen(n int) *big.Int { return new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(n)), nil) }

func (a amount) compare(b amount) int {
	exponent := min(a.exponent, b.exponent)
	return a.scaled(exponent).Cmp(b.scaled(exponent))
}

// String returns a JSON number without an exponent.
func (a amount) String() string {
	if a.digits == nil || a.digits.Sign() == 0 {
		return "0"
	}
	sign, text := "", a.digits.String()
	if text[0] == '-' {
		sign, text = "-", text[1:]
	}
	if a.exponent >= 0 {
		return sign + text + strings.Repeat("0", a.exponent)
	}
	if short := 1 - a.exponent - len(text); short > 0 {
		text = strings.Repeat("0", short) + text
	}
	point := len(text) + a.exponent
	fraction := strings.TrimRight(text[point:], "0")
	if fraction == "" {
		return sign + text[:point]
	}
	return sign + text[:point] + "." + fraction
}

// Rounding is what becomes of the digits of an amount that are not shown.
type Rounding int

// Half to the even digit, half away from zero, or cut off. Which one OpenRouter does is unproven, but a
// generation of 0.0685905 was seen as 0.06859 (2 September 2026), and that is not half away from zero.
const (
	HalfEven Rounding = iota
	HalfUp
	Cut
)

// round leaves a number of decimals.
func (a amount) round(decimals int, how Rounding) amount {
	if a.digits == nil || a.exponent >= -decimals {
		return a
	}
	unit := powerOfTen(-decimals - a.exponent)
	whole, rest := new(big.Int).QuoRem(a.digits, unit, new(big.Int))
	half := rest.Abs(rest).Lsh(rest, 1).Cmp(unit)
	if how != Cut && half > 0 || half == 0 && (how == HalfUp || how == HalfEven && whole.Bit(0) == 1) {
		whole.Add(whole, big.NewInt(int64(a.digits.Sign())))
	}
	return amount{digits: whole, exponent: -decimals}
}

// sum adds amounts up, those of the same exponent together.
type sum map[int]*big.Int

func (s sum) add(a amount) {
	if a.digits == nil {
		return
	}
	digits, ok := s[a.exponent]
	if !ok {
		digits = new(big.Int)
		s[a.exponent] = digits
	}
	digits.Add(digits, a.digits)
}

// subtract takes an amount away.
func (s sum) subtract(a amount) {
	if a.digits != nil {
		s.add(amount{digits: new(big.Int).Neg(a.digits), exponent: a.exponent})
	}
}

// total returns the whole sum.
func (s sum) total() amount {
	lowest := 0
	for exponent := range s {
		lowest = min(lowest, exponent)
	}
	total := amount{digits: new(big.Int), exponent: lowest}
	for exponent, digits := range s {
		total.digits.Add(total.digits, amount{digits: digits, exponent: exponent}.scaled(lowest))
	}
	return total
}

// String returns the whole sum as a JSON number without an exponent.
func (s sum) String() string { return s.total().String() }
