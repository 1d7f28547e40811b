package report

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"

	"usage-sync/store"
)

// rawDollars is the currency of raw costs.
var rawDollars = Currency{Code: rawCurrency, Digits: 2}

// billed writes what the client is billed, and dollars raw costs, with the decimals that this statement needs.
func (s Statement) billed() Currency { return s.Currency.finer(s.Due()) }

func (s Statement) dollars() Currency { return rawDollars.finer(s.Due()) }

// wording is what the document and the terminal say in the same words.
type wording struct {
	Owner       bool
	MadeAt      string
	Active      string // days
	Description string // of the chart
	Comparison  []comparison
	BeforeEnd   string
	Rounding    string
	Remarks     []string
}

// comparison is one figure of the period and of the one before.
type comparison struct{ Name, Now, Before, Change string }

func (s Statement) words() wording {
	w := wording{Owner: s.For == Owner, MadeAt: s.Made.In(s.Zone).Format("2006-01-02 15:04 MST"),
		Comparison: s.comparison(), BeforeEnd: s.beforeEnd()}
	w.Active = fmt.Sprintf("%d of %s", s.DaysActive, days(s.Stated))
	if len(s.Days) > 0 {
		w.Description = s.description()
	}
	w.Rounding = fmt.Sprintf("Amounts are exact sums, each rounded once to %s %s; added up, rows may differ "+
		"from the total.", s.Currency.Code, s.billed().least())
	w.Remarks = append(w.Remarks, "This is a statement of usage, and no invoice.")
	if w.Owner {
		w.Remarks = append(w.Remarks, "Raw cost is what OpenRouter charged, in US dollars. Cost is what the "+
			"client is billed: raw cost with "+
			"the markup of the time of its use.")
		if len(s.Rates) > 1 {
			w.Remarks = append(w.Remarks, s.rates())
		}
	}
	if !s.Foreign.IsZero() {
		w.Remarks = append(w.Remarks, fmt.Sprintf("Of the total, %s and %s (raw %s) were recorded by the "+
			"application itself and "+
			"not by OpenRouter.", store.Counted(s.Foreign.Requests, "request"),
			s.billed().shown(s.Foreign.Cost), s.dollars().shown(s.Foreign.Raw)))
	}
	if w.Owner && s.Currency.Code != rawCurrency {
		w.Remarks = append(w.Remarks, fmt.Sprintf("No exchange rate is applied: the markup is taken to make "+
			"%s of US dollars.", s.Currency.Code))
	}
	return w
}

// MadeFrom says what a statement was made from, and when.
func (s Statement) MadeFrom() string {
	const layout = "2006-01-02 15:04 MST"
	text := "Made " + s.Made.In(s.Zone).Format(layout) + " from the daily usage that is recorded of each user and model"
	if s.RecordedUntil.IsZero() {
		return text + "."
	}
	return text + ", complete up to " + s.RecordedUntil.In(s.Zone).Format(layout) + "."
}

// rates says which markup held since when.
func (s Statement) rates() string {
	text := "Markup: " + s.Rates[0].Rate.String()
	for _, n := range s.Rates[1:] {
		text += fmt.Sprintf(" up to %s, then %s", n.From.In(s.Zone).Format("2006-01-02 15:04 MST"), n.Rate)
	}
	return text + ". These times were noted; usage-sync rates shows and corrects them."
}

func (s Statement) comparison() []comparison {
	now, then := s.Total, s.TotalBefore
	rows := []comparison{
		{"Cost (" + s.Currency.Code + ")", s.billed().shown(now.Cost), s.billed().shown(then.Cost),
			change(now.Cost.Float(), then.Cost.Float())},
		{"Requests", store.Grouped(now.Requests), store.Grouped(then.Requests),
			change(float64(now.Requests), float64(then.Requests))},
		{"Tokens", store.Grouped(now.Tokens), store.Grouped(then.Tokens),
			change(float64(now.Tokens), float64(then.Tokens))},
	}
	if s.For != Owner {
		return rows
	}
	rows = append(rows,
		comparison{"Raw cost (USD)", s.dollars().shown(*now.Raw), s.dollars().shown(*then.Raw),
			change(now.Raw.Float(), then.Raw.Float())}, comparison{"Cost / raw cost", ratio(now), ratio(then), ""})
	if s.Currency.Code == rawCurrency {
		margin, earlier := now.Cost-*now.Raw, then.Cost-*then.Raw
		rows = append(rows, comparison{"Margin (USD)", s.dollars().shown(margin), s.dollars().shown(earlier),
			change(margin.Float(), earlier.Float())})
	}
	return rows
}

// ratio is the markup that costs have come to.
func ratio(f Figures) string {
	if *f.Raw == 0 {
		return "–"
	}
	return strconv.FormatFloat(f.Cost.Float()/f.Raw.Float(), 'f', 3, 64)
}

// plain makes a name harmless for people and terminals: what moves the cursor, breaks the line or turns the
// direction of writing becomes �.
func plain(name string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.In(r, unicode.Zl, unicode.Zp, unicode.Bidi_Control) {
			return unicode.ReplacementChar
		}
		return r
	}, strings.ToValidUTF8(name, string(unicode.ReplacementChar)))
}

// nameOf is a part's name in a line of text.
func (s Statement) nameOf(p Part, kind string) string {
	if p.Rest {
		return "not recorded per " + kind
	}
	if kind != "user" {
		return plain(p.Name)
	}
	if p.Name != store.NoUser && s.For == Client && s.detail(p) != "" {
		return plain(s.shown(p) + " (" + s.detail(p) + ")")
	}
	return plain(s.shown(p))
}

// raw is a raw cost in dollars, and nothing in a client's statement.
func raw(m *store.Money, write func(store.Money) string) []string {
	if m == nil {
		return nil
	}
	return []string{write(*m)}
}
