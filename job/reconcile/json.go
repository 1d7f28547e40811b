package reconcile

import (
	"encoding/json"
	"io"

	"usage-sync/store"
)

// comparisonsOut is reconcile --json. Without --all the rows are those that differ.
type comparisonsOut struct {
	Status        string          `json:"status"` // ok, different, partial or failed
	ExitCode      int             `json:"exit_code"`
	Tolerance     float64         `json:"tolerance"`
	Organizations []comparisonOut `json:"organizations"`
	Error         string          `json:"error,omitempty"`
}

// comparisonOut is one organisation. With --fix it is what is left, and Before is what was.
type comparisonOut struct {
	ID          string      `json:"id"`
	Name        string      `json:"name"`
	Status      string      `json:"status"` // ok, different or failed
	From        store.Day   `json:"from"`
	To          store.Day   `json:"to"`
	Basis       []string    `json:"basis"` // activity, analytics or key
	NotCompared []store.Day `json:"not_compared"`
	Differences int         `json:"differences"`
	Rows        []rowOut    `json:"rows"`
	Month       *monthSum   `json:"month,omitempty"`
	// Remainder is what OpenRouter's totals of days have beyond the rounded costs of single generations. It is
	// part of ours.
	Remainder   *remainderOut `json:"remainder,omitempty"`
	Causes      []causeOut    `json:"causes"`
	APIRequests int64         `json:"api_requests"`
	Error       string        `json:"error,omitempty"`
	CausesError string        `json:"causes_error,omitempty"`
	Fixed       *fixedOut     `json:"fixed,omitempty"`
	Before      *beforeOut    `json:"before,omitempty"`
}

type beforeOut struct {
	Differences int        `json:"differences"`
	Rows        []rowOut   `json:"rows"`
	Causes      []causeOut `json:"causes"`
}

type amountOut struct {
	Requests int64   `json:"requests"`
	Tokens   int64   `json:"tokens"`
	RawCost  float64 `json:"raw_cost"`
}

func amountJSON(a store.Totals) amountOut { return amountOut{a.Requests, a.Tokens, a.Raw.Float()} }

type rowOut struct {
	Date       store.Day `json:"date"`
	Model      string    `json:"model,omitempty"`
	Table      string    `json:"table,omitempty"` // a whole day, in a table that is not the sum of the models
	Ours       amountOut `json:"ours"`
	OpenRouter amountOut `json:"openrouter"`
	Difference float64   `json:"difference"` // of raw cost
	Differs    bool      `json:"differs"`
}

type monthSum struct {
	Month       string  `json:"month"`
	Ledger      float64 `json:"ledger"`
	OpenRouter  float64 `json:"openrouter"`
	Difference  float64 `json:"difference"`
	Tables      float64 `json:"tables"`
	OwnCalendar bool    `json:"own_calendar"` // Tables are of the organisation's month, which is not that of UTC
}

type remainderOut struct {
	Days    int     `json:"days"`
	RawCost float64 `json:"raw_cost"`
}

type causeOut struct {
	Date     store.Day    `json:"date"`
	Kind     string       `json:"kind"`
	Count    int          `json:"count"`
	Effect   amountOut    `json:"effect"` // on ours
	Examples []exampleOut `json:"examples"`
}

type exampleOut struct {
	ID         string    `json:"id"`
	Model      string    `json:"model,omitempty"`
	Ours       amountOut `json:"ours"`
	OpenRouter amountOut `json:"openrouter"` // or of the ledger, where the kind is tables
	Elsewhere  string    `json:"elsewhere,omitempty"`
}

type fixedOut struct {
	Recorded   int64       `json:"recorded"`
	Updated    int64       `json:"updated"`
	Tokens     int64       `json:"tokens"`
	RawCost    float64     `json:"raw_cost"`
	MarkupCost float64     `json:"markup_cost"`
	LeftAlone  []store.Day `json:"left_alone"`
	Taken      int         `json:"taken_away"` // deliveries; what they had added is not part of the figures above
	TakenCost  float64     `json:"taken_markup_cost"`
}

func (r Results) writeJSON(w io.Writer) error {
	out := comparisonsOut{Status: r.Status, ExitCode: r.ExitCode, Tolerance: r.Tolerance.Float(),
		Organizations: []comparisonOut{}, Error: r.Error}
	for _, one := range r.Comparisons {
		out.Organizations = append(out.Organizations, comparisonJSON(one, r.All))
	}
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(out)
}

func comparisonJSON(c Comparison, everything bool) comparisonOut {
	out := comparisonOut{ID: c.Organisation.ID, Name: c.Organisation.Name, Status: "ok", From: c.First, To: c.Last,
		Basis: append([]string{}, c.Basis...), NotCompared: append([]store.Day{}, c.Beyond...),
		Differences: c.Differences(), Rows: rowsJSON(c, everything), Causes: causesJSON(c), APIRequests: c.Requests}
	if out.Differences > 0 {
		out.Status = "different"
	}
	if c.Err != nil {
		out.Status, out.Error = "failed", c.Err.Error()
	}
	if c.Unexplained != nil {
		out.CausesError = c.Unexplained.Error()
	}
	if m := c.Month; m != nil {
		out.Month = &monthSum{m.Month, m.Ours.Float(), m.Theirs.Float(), (m.Ours - m.Theirs).Float(),
			m.Tables.Float(), m.OwnCalendar}
	}
	if r := c.Remainder; r.Days > 0 {
		out.Remainder = &remainderOut{r.Days, r.Raw.Float()}
	}
	if f := c.Fixed; f != nil {
		out.Fixed = &fixedOut{f.Recorded, f.Settled, f.Tokens, f.Raw.Float(), f.Markup.Float(),
			append([]store.Day{}, f.Left...), f.Taken, f.TakenAway.Cost.Float()}
	}
	if b := c.Before; b != nil {
		out.Before = &beforeOut{b.Differences(), rowsJSON(*b, everything), causesJSON(*b)}
	}
	return out
}

func rowsJSON(c Comparison, everything bool) []rowOut {
	rows := []rowOut{}
	for _, r := range c.Rows {
		if r.Differs || everything {
			rows = append(rows, rowOut{r.Day, r.Model, r.Table, amountJSON(r.Ours), amountJSON(r.Theirs),
				r.Difference().Raw.Float(), r.Differs})
		}
	}
	return rows
}

func causesJSON(c Comparison) []causeOut {
	causes := []causeOut{}
	for _, one := range c.Causes {
		cause := causeOut{one.Day, string(one.Kind), one.Count, amountJSON(one.Effect), []exampleOut{}}
		for _, e := range one.Examples {
			cause.Examples = append(cause.Examples, exampleOut{e.ID, e.Model, amountJSON(e.Ours),
				amountJSON(e.Theirs), e.Elsewhere})
		}
		causes = append(causes, cause)
	}
	return causes
}
