package main

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
)

const decimalComma = "comma"

// decimalFlag chooses how CSV writes numbers.
type decimalFlag struct {
	Decimal string `enum:",point,comma" default:"" placeholder:"SIGN" help:"What CSV writes numbers with: point (default), or comma, with semicolons between the columns, for spreadsheets of places where people write 1,5."`
}

// suggest says that spreadsheets of the operator's locale may want a comma. It is no more than that: the file
// may be meant for someone else, or for a program.
func (f decimalFlag) suggest(a *app) {
	locale := cmp.Or(os.Getenv("LC_ALL"), os.Getenv("LC_NUMERIC"), os.Getenv("LANG"))
	if f.Decimal == "" && writesComma(locale) {
		a.log.Info(fmt.Sprintf("Spreadsheets in %s may want --decimal comma", locale))
	}
}

// writesComma tells whether numbers have a decimal comma in a locale such as de_DE.UTF-8 (Unicode CLDR 48,
// numbers, decimal).
func writesComma(locale string) bool {
	name, _, _ := strings.Cut(locale, ".")
	language, region, _ := strings.Cut(name, "_")
	if slices.Contains([]string{"CH", "LI", "MX", "US", "PR", "GT", "HN", "NI", "SV", "PA", "DO", "PE"}, region) {
		return false
	}
	return slices.Contains(strings.Fields("bg bs ca cs da de el es et fi fr hr hu id is it lt lv mk nb nl nn "+
		"pl pt ro ru sk sl "+
		"sq sr sv tr uk vi"), language)
}
