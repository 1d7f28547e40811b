package report

import (
	"encoding/json"
	"io"
	"time"

	"usage-sync/store"
)

// amount is money as a JSON number with all its decimals: 0.0156.
type amount store.Money

// MarshalJSON implements json.Marshaler.
func (a amount) MarshalJSON() ([]byte, error) { return []byte(store.Money(a).Exact()), nil }

// statementOut is one organisation's statement. Amounts are in Currency, but raw costs, which only the owner's have, are
// in US dollars.
type statementOut struct {
	ClientOrgID   string       `json:"client_org_id"`
	Name          string       `json:"name"`
	For           Audience     `json:"for"`
	From          store.Day    `json:"from"`
	To            store.Day    `json:"to"`
	Timezone      string       `json:"timezone"`
	Currency      string       `json:"currency"`
	Status        string       `json:"status"` // final or provisional
	RecordedUntil *string      `json:"recorded_until"`
	Missing       []missingOut `json:"missing,omitempty"`
	MadeAt        string       `json:"made_at"`
	MarkupRate    *float64     `json:"markup_rate,omitempty"`
	Total         figuresOut   `json:"total"`
	DaysActive    int          `json:"days_active"`
	Before        beforeOut    `json:"before"`
	Daily         []dayOut     `json:"daily"`
	Models        []modelOut   `json:"models"`
	Users         []userOut    `json:"users"`
	Unattributed  unattributed `json:"unattributed"`
	MarkupRates   []rateOut    `json:"markup_rates,omitempty"` // of the owner's, since when each holds
}

// missingOut is what is known to be missing. Gap, and the raw cost where it is known, are the owner's.
type missingOut struct {
	Gap     int64   `json:"gap,omitempty"`
	From    string  `json:"from"`
	Until   string  `json:"until"`
	Text    string  `json:"text"`
	RawCost *amount `json:"raw_cost,omitempty"`
}

type figuresOut struct {
	Tokens   int64   `json:"tokens"`
	Requests int64   `json:"requests"`
	Cost     amount  `json:"cost"`
	RawCost  *amount `json:"raw_cost,omitempty"`
}

type beforeOut struct {
	From  store.Day `json:"from"`
	To    store.Day `json:"to"`
	Until string    `json:"until,omitempty"` // the time of the last day, where that is not whole
	figuresOut
}

type rateOut struct {
	Rate float64 `json:"markup_rate"`
	From *string `json:"from"`
}

type dayOut struct {
	Date string `json:"date"`
	figuresOut
}

type modelOut struct {
	Model    string `json:"model"`
	Provider string `json:"provider"`
	figuresOut
}

type userOut struct {
	UserID           string `json:"user_id"`
	OpenRouterUserID string `json:"openrouter_user_id,omitempty"`
	figuresOut
}

// unattributed is what days hold more than models or users do, or null.
type unattributed struct {
	Models *figuresOut `json:"models"`
	Users  *figuresOut `json:"users"`
}

// writeJSON writes one object on a line for each statement.
func writeJSON(w io.Writer, statements []Statement) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	for _, s := range statements {
		if err := encoder.Encode(s.out()); err != nil {
			return err
		}
	}
	return nil
}

func (s Statement) out() statementOut {
	out := statementOut{ClientOrgID: s.ID, Name: s.Name, For: s.For, From: s.Stated.First, To: s.Stated.Last, Timezone: s.Zone.String(),
		Currency: s.Currency.Code, Status: s.status(), MadeAt: s.Made.UTC().Format(time.RFC3339), Total: s.Total.out(),
		DaysActive: s.DaysActive, Before: beforeOut{s.Before.First, s.Before.Last, "", s.TotalBefore.out()},
		Daily: []dayOut{}, Models: []modelOut{}, Users: []userOut{}}
	if !s.RecordedUntil.IsZero() {
		text := s.RecordedUntil.UTC().Format(time.RFC3339)
		out.RecordedUntil = &text
	}
	for i, text := range s.Gaps() {
		gap := s.Missing[i]
		one := missingOut{From: gap.From.Format(time.RFC3339), Until: gap.Until.Format(time.RFC3339), Text: text}
		if s.For == Owner {
			one.Gap, one.RawCost = gap.ID, (*amount)(gap.Raw)
		}
		out.Missing = append(out.Missing, one)
	}
	if s.Rate > 0 {
		rate := s.Rate.Float()
		out.MarkupRate = &rate
	}
	if !s.BeforeUntil.IsZero() {
		out.Before.Until = s.BeforeUntil.UTC().Format(time.RFC3339)
	}
	for _, n := range s.Rates {
		one := rateOut{Rate: n.Rate.Float()}
		if !n.From.IsZero() {
			from := n.From.UTC().Format(time.RFC3339)
			one.From = &from
		}
		out.MarkupRates = append(out.MarkupRates, one)
	}
	for _, d := range s.Days {
		out.Daily = append(out.Daily, dayOut{d.Name, d.out()})
	}
	for _, m := range s.Models {
		if m.Rest {
			rest := m.out()
			out.Unattributed.Models = &rest
			continue
		}
		out.Models = append(out.Models, modelOut{m.Name, m.Detail, m.out()})
	}
	for _, u := range s.Users {
		if u.Rest {
			rest := u.out()
			out.Unattributed.Users = &rest
			continue
		}
		out.Users = append(out.Users, userOut{u.Name, u.Detail, u.out()})
	}
	return out
}

func (f Figures) out() figuresOut {
	out := figuresOut{Tokens: f.Tokens, Requests: f.Requests, Cost: amount(f.Cost)}
	if f.Raw != nil {
		raw := amount(*f.Raw)
		out.RawCost = &raw
	}
	return out
}
