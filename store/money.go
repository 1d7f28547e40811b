package store

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"math/bits"
	"strconv"
)

// Money is an amount of US dollars in whole pico-dollars (1e-12 USD). An int64 of them reaches ±$9.2 million and
// carries OpenRouter's finest prices exactly; fractions of a pico-dollar are rounded half to even.
type Money int64

// Dollar is one US dollar.
const Dollar Money = 1e12

const picoDigits = 12

// ErrMoney is returned for a text or number that is no amount Money can carry.
var ErrMoney = errors.New("not an amount of money")

// ParseMoney reads a JSON number (RFC 8259, section 6) without a detour through binary floating point.
func ParseMoney(text string) (Money, error) {
	digits, exponent, negative, cut, err := scanNumber(text)
	if err != nil {
		return 0, err
	}
	power := exponent + picoDigits
	if cut && power <= 0 && power >= -maxDigits {
		return exactly(text)
	}
	amount, ok := scale(digits, power)
	if !ok || amount > math.MaxInt64 {
		return 0, fmt.Errorf("%w: %.40q is out of range", ErrMoney, text)
	}
	if negative {
		return -Money(amount), nil
	}
	return Money(amount), nil
}

// maxDigits is how many decimal digits a uint64 holds, whatever they are.
const maxDigits = 19

// exactly reads a number with more digits than fit into an integer: those behind may decide how it is rounded.
func exactly(text string) (Money, error) {
	const longest = 1000
	pico, ok := new(big.Rat).SetString(text[:min(longest, len(text))])
	if !ok || len(text) > longest {
		return 0, fmt.Errorf("%w: %.40q", ErrMoney, text)
	}
	pico.Mul(pico, new(big.Rat).SetInt64(int64(Dollar)))
	whole, rest := new(big.Int).QuoRem(new(big.Int).Abs(pico.Num()), pico.Denom(), new(big.Int))
	if c := rest.Lsh(rest, 1).Cmp(pico.Denom()); c > 0 || (c == 0 && whole.Bit(0) == 1) {
		whole.Add(whole, big.NewInt(1))
	}
	if !whole.IsInt64() {
		return 0, fmt.Errorf("%w: %.40q is out of range", ErrMoney, text)
	}
	return Money(whole.Int64() * int64(pico.Sign())), nil
}

// scanNumber splits a JSON number into its first significant digits, as many as fit, and a power of ten; cut tells that
// some digits other than zero follow.
func scanNumber(text string) (digits uint64, exponent int, negative, cut bool, err error) {
	bad := fmt.Errorf("%w: %.40q", ErrMoney, text)
	i := 0
	if i < len(text) && text[i] == '-' {
		negative = true
		i++
	}
	seen, count, point := 0, 0, false
	for ; i < len(text); i++ {
		c := text[i]
		if c == '.' && !point && seen > 0 {
			point = true
			seen = 0
			continue
		}
		if c < '0' || c > '9' {
			break
		}
		seen++
		switch {
		case count < maxDigits && (digits > 0 || c != '0'):
			digits = digits*10 + uint64(c-'0')
			count++
			if point {
				exponent--
			}
		case count == 0:
			if point {
				exponent--
			}
		case !point:
			exponent++
			fallthrough
		default:
			cut = cut || c != '0'
		}
	}
	if seen == 0 {
		return 0, 0, false, false, bad
	}
	if i < len(text) {
		if text[i] != 'e' && text[i] != 'E' {
			return 0, 0, false, false, bad
		}
		power, err := strconv.Atoi(text[i+1:])
		switch {
		case errors.Is(err, strconv.ErrRange):
			// Far beyond the reach of Money in either direction; the sign is kept by Atoi.
		case err != nil:
			return 0, 0, false, false, bad
		}
		exponent += max(min(power, 1e6), -1e6)
	}
	return digits, exponent, negative, cut, nil
}

// scale returns digits x 10^power, rounded half to even; ok is false where it does not fit.
func scale(digits uint64, power int) (amount uint64, ok bool) {
	if digits == 0 {
		return 0, true
	}
	for ; power > 0; power-- {
		hi, lo := bits.Mul64(digits, 10)
		if hi != 0 {
			return 0, false
		}
		digits = lo
	}
	if power < -20 {
		return 0, true
	}
	divisor := uint64(1)
	for ; power < -19; power++ {
		// 19 digits and a power of -20: less than half a pico-dollar, so a lost last digit can't matter.
		digits /= 10
	}
	for ; power < 0; power++ {
		divisor *= 10
	}
	return roundHalfEven(digits/divisor, digits%divisor, divisor), true
}

func roundHalfEven(quotient, remainder, divisor uint64) uint64 {
	half := divisor - remainder
	if remainder > half || (remainder == half && quotient%2 == 1) {
		return quotient + 1
	}
	return quotient
}

// MoneyFromFloat reads an amount out of a FLOAT column. Below $4096 every pico-dollar survives the way through a
// float64 and back.
func MoneyFromFloat(dollars float64) (Money, error) {
	pico := math.RoundToEven(dollars * float64(Dollar))
	if math.IsNaN(pico) || math.Abs(pico) >= math.MaxInt64 {
		return 0, fmt.Errorf("%w: %g", ErrMoney, dollars)
	}
	return Money(pico), nil
}

// Float returns dollars, as FLOAT columns and JSON hold them.
func (m Money) Float() float64 { return float64(m) / float64(Dollar) }

// String returns dollars with six decimals, as the dashboard and the logs show them.
func (m Money) String() string { return strconv.FormatFloat(m.Float(), 'f', 6, 64) }

// Rate is a markup factor in billionths: 1.3 is 1_300_000_000.
type Rate int64

// DefaultRate is used where neither the organisation nor the global settings name one.
const DefaultRate Rate = 1_300_000_000

const rateUnit = 1_000_000_000

// ErrRate is returned for a markup rate that is not a positive finite number.
var ErrRate = errors.New("bad markup rate")

// RateFromFloat reads a rate out of a FLOAT column, to nine decimals.
func RateFromFloat(factor float64) (Rate, error) {
	units := math.RoundToEven(factor * rateUnit)
	if math.IsNaN(units) || units < 1 || units >= math.MaxInt64 {
		return 0, fmt.Errorf("%w: %g", ErrRate, factor)
	}
	return Rate(units), nil
}

// Markup returns what the client pays for an amount of raw cost, rounded half to even to the pico-dollar.
func (r Rate) Markup(raw Money) (Money, error) {
	negative := raw < 0
	amount := uint64(raw)
	if negative {
		amount = -amount
	}
	hi, lo := bits.Mul64(amount, uint64(r))
	if hi >= rateUnit {
		return 0, fmt.Errorf("%w: $%s at a markup of %s is out of range", ErrMoney, raw, r)
	}
	quotient, remainder := bits.Div64(hi, lo, rateUnit)
	quotient = roundHalfEven(quotient, remainder, rateUnit)
	if quotient > math.MaxInt64 {
		return 0, fmt.Errorf("%w: $%s at a markup of %s is out of range", ErrMoney, raw, r)
	}
	if negative {
		return -Money(quotient), nil
	}
	return Money(quotient), nil
}

// Float returns the factor.
func (r Rate) Float() float64 { return float64(r) / rateUnit }

func (r Rate) String() string { return strconv.FormatFloat(r.Float(), 'f', -1, 64) }
