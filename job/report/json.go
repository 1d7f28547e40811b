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

// statementOut is one organisation's statement. Amounts are in Currency, but raw costs, which only the owner's
// have, are in US dollars.
type statementOut struct {
	ClientOrgID   string          `json:"client_org_id"`
	Name          string          `json:"name"`
	For           Audience        `json:"for"`
	From          store.Day       `json:"from"`
	To            store.Day       `json:"to"`
	Timezone      string          `json:"timezone"`
	Currency      string          `json:"currency"`
	Status        string          `json:"status"` // final or provisional
	RecordedUntil *string         `json:"recorded_until"`
	Missing       []missingOut    `json:"missing,omitempty"`
	MadeAt        string          `json:"made_at"`
	MarkupRate    *float64        `json:"markup_rate,omitempty"`
	Total         figuresOut      `json:"total"`
	DaysActive    int             `json:"days_active"`
	Before        beforeOut       `json:"before"`
	Daily         []dayOut        `json:"daily"`
	Models        []modelOut      `json:"models"`
	Users         []userOut       `json:"users"`
	Unattributed  unattributed    `json:"unattributed"`
	Number        int64           `json:"number,omitempty"` // of a closed statement
	ClosedAt      string          `json:"closed_at,omitempty"`
	ClosedBy      string          `json:"closed_by,omitempty"` // this and the hash are the owner's
	Hash          string          `json:"hash,omitempty"`
	Corrections   []correctionOut `json:"corrections,omitempty"`
	Due           *amount         `json:"due,omitempty"`          // where there are corrections
	MarkupRates   []rateOut       `json:"markup_rates,omitempty"` // of the owner's, since when each holds
}

// missingOut is what is known to be missing. Gap, and the raw cost where it is known, are the owner's.
type missingOut struct {
	Gap     int64   `json:"gap,omitempty"`
	From    string  `json:"from"`
	Until   string  `json:"until"`
	Text    string  `json:"text"`
	RawCost *amount `json:"raw_cost,omitempty"`
}

// correctionOut is what has changed of a closed statement.
type correctionOut struct {
	Statement    int64        `json:"statement"`
	From         store.Day    `json:"from"`
	To           store.Day    `json:"to"`
	Total        figuresOut   `json:"total"`
	Daily        []dayOut     `json:"daily"`
	Models       []modelOut   `json:"models"`
	Users        []userOut    `json:"users"`
	Unattributed unattributed `json:"unattributed"`
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
	Name             string `json:"name,omitempty"`  // of these two, the one that was
	Email            string `json:"email,omitempty"` // asked for
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
	out := statementOut{ClientOrgID: s.ID, Name: s.Name, For: s.For, From: s.Stated.First,
		To: s.Stated.Last, Timezone: s.Zone.String(), Currency: s.Currency.Code, Status: s.status(),
		MadeAt: s.Made.UTC().Format(time.RFC3339), Total: s.Total.out(),
		DaysActive: s.DaysActive, Before: beforeOut{s.Before.First, s.Before.Last, "", s.TotalBefore.out()}}
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
	out.Daily, out.Models, out.Users, out.Unattributed = s.partsOut(s.Days, s.Models, s.Users)
	for _, c := range s.Corrections {
		one := correctionOut{Statement: c.Number, From: c.Span.First, To: c.Span.Last, Total: c.Total.out()}
		one.Daily, one.Models, one.Users, one.Unattributed = s.partsOut(c.Days, c.Models, c.Users)
		out.Corrections = append(out.Corrections, one)
	}
	if len(s.Corrections) > 0 {
		due := amount(s.Due())
		out.Due = &due
	}
	if s.Closed != nil {
		out.Number, out.ClosedAt = s.Closed.Number, s.Closed.At.Format(time.RFC3339)
		if s.For == Owner {
			out.ClosedBy, out.Hash = s.Closed.By, s.Closed.Hash
		}
	}
	return out
}

func (s Statement) partsOut(days, models,
	users []Part) (daily []dayOut, byModel []modelOut, byUser []userOut, rest unattributed) {
	daily, byModel, byUser = []dayOut{}, []modelOut{}, []userOut{}
	for _, d := range days {
		daily = append(daily, dayOut{d.Name, d.out()})
	}
	for _, m := range models {
		if m.Rest {
			figures := m.out()
			rest.Models = &figures
			continue
		}
		byModel = append(byModel, modelOut{m.Name, m.Detail, m.out()})
	}
	for _, u := range s.users(users) {
		if u.Rest {
			figures := u.out()
			rest.Users = &figures
			continue
		}
		one := userOut{UserID: u.Name, OpenRouterUserID: u.Detail, figuresOut: u.out()}
		switch s.Naming {
		case ByName:
			one.Name = s.known(u)
		case ByEmail:
			one.Email = s.known(u)
		}
		byUser = append(byUser, one)
	}
	return daily, byModel, byUser, rest
}

func (f Figures) out() figuresOut {
	out := figuresOut{Tokens: f.Tokens, Requests: f.Requests, Cost: amount(f.Cost)}
	if f.Raw != nil {
		raw := amount(*f.Raw)
		out.RawCost = &raw
	}
	return out
}
