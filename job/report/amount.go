package report

import (
	"fmt"
	"strconv"

	"golang.org/x/text/currency"

	"usage-sync/job"
	"usage-sync/store"
)

// rawCurrency is what OpenRouter charges in (https://openrouter.ai/docs/faq).
const rawCurrency = "USD"

// Currency is what clients are billed in: an ISO 4217 code, and how many decimals its amounts have.
type Currency struct {
	Code   string
	Digits int
}

// errCurrency is returned where billing_currency is no currency.
var errCurrency = job.NewError(job.KindConfiguration, "billing_currency of global_settings")

// parseCurrency reads an ISO 4217 code.
func parseCurrency(code string) (Currency, error) {
	unit, err := currency.ParseISO(code)
	if err != nil || unit == currency.XXX {
		return Currency{}, fmt.Errorf("%w is %.20q, set it to an ISO 4217 code such as USD", errCurrency, code)
	}
	digits, _ := currency.Standard.Rounding(unit)
	return Currency{Code: unit.String(), Digits: digits}, nil
}

// finer has more decimals where a total is so small that its rows would be rounded away: two more below one
// unit, four more below the smallest amount.
func (c Currency) finer(total store.Money) Currency {
	least := store.Dollar
	for range c.Digits {
		least /= 10
	}
	switch total = max(total, -total); {
	case total == 0 || total >= 100*least:
		return c
	case total >= least:
		c.Digits += 2
	default:
		c.Digits += 4
	}
	return c
}

// shown writes an amount for people, with the currency's decimals.
func (c Currency) shown(m store.Money) string { return m.Rounded(c.Digits) }

// least writes the smallest amount that is shown as more than nothing.
func (c Currency) least() string {
	unit := store.Dollar
	for range c.Digits {
		unit /= 10
	}
	return c.shown(unit)
}

// percent writes a part of a whole, and a dash where there is no whole: 12.5 %.
func percent(part, whole float64) string {
	if whole == 0 {
		return "–"
	}
	return strconv.FormatFloat(100*part/whole, 'f', 1, 64) + " %"
}

// change writes how far a figure is from what it was before, and a dash where it was nothing: +12.5 %.
func change(now, before float64) string {
	text := percent(now-before, before)
	if now > before && before > 0 {
		return "+" + text
	}
	return text
}
