// Package report states what organisations used in a period: as a document, as a table for spreadsheets, as
// JSON and in a terminal.
package report

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"time"

	"usage-sync/store"
)

// Audience is whom a statement is for.
type Audience string

const (
	// Client statements hold no raw cost and no markup, nor anything they follow from: the figures are never taken over
	// from the store.
	Client Audience = "client"
	// Owner statements hold both.
	Owner Audience = "owner"
)

// Figures are totals as a statement shows them. Cost is what the client is billed. Raw is what OpenRouter
// charged, in US dollars; nil in a client's statement.
type Figures struct {
	Tokens, Requests int64
	Cost             store.Money
	Raw              *store.Money
}

func (a Audience) figures(t store.Totals) Figures {
	f := Figures{Tokens: t.Tokens, Requests: t.Requests, Cost: t.Cost}
	if a == Owner {
		f.Raw = &t.Raw
	}
	return f
}

// Part is one day, model or user.
type Part struct {
	Name   string
	Detail string // a model's provider; a user's id at OpenRouter, for the owner
	Rest   bool   // what days hold more than models or users do; it has no name
	// User is how people know a user, where the application says so.
	User store.UserName `json:",omitzero"`
	Figures
}

// Statement is one organisation's.
type Statement struct {
	ID, Name string
	For      Audience
	Currency Currency
	Zone     *time.Location
	Made     time.Time
	Span     store.Span // as asked for
	Stated   store.Span // the days of it that have begun
	// Final: the period is over and everything of it is known to be recorded, up to RecordedUntil at least, or
	// a person has accepted that it is not. RecordedUntil is zero where no complete pass is on record.
	Final bool
	// Missing is what is missing of the period before RecordedUntil.
	Missing []store.Gap
	// Disputed are the days whose figures another program has disputed: the statement is not final before that
	// is closed.
	Disputed []store.Day
	// Foreign is what the application itself has recorded, as part of the total. Only the owner's statement has it.
	Foreign       store.Totals
	RecordedUntil time.Time
	Total         Figures
	DaysActive    int
	Before        store.Span
	// BeforeUntil ends the period before where this one is still running: the day that has begun is compared
	// with the same hours. Zero: whole days.
	BeforeUntil time.Time
	TotalBefore Figures
	Days        []Part // of Stated, the first day first
	// The most expensive first, and the rest at the end.
	Models, Users []Part
	Rate          store.Rate // the markup set now; 0 for a client, and where none or a wrong one is set
	// Rates are those that held at some time of the period, as they were noted. Only the owner's statement has them.
	Rates []store.NotedRate
	// Closed says how the statement was closed; nil is not.
	Closed *Closing `json:"-"`
	// Corrections are what has changed of closed statements, and was not stated yet.
	Corrections []Correction
	// Naming is how users are named.
	Naming Naming `json:"-"`
}

// Running tells whether the period was not over when the statement was made.
func (s Statement) Running() bool { return store.DayOf(s.Made, s.Zone) <= s.Span.Last }

// Provisional says why the figures may still change, or nothing where they are final.
func (s Statement) Provisional() string {
	const layout = "2006-01-02 15:04 MST"
	switch {
	case s.Final:
		return ""
	case s.Running():
		return "Provisional: the period is still running. Figures as of " + s.Made.In(s.Zone).Format(layout) + "."
	case len(s.Disputed) > 0:
		return fmt.Sprintf("Provisional: the figures of %d days, the first is %s, are still being checked.",
			len(s.Disputed), s.Disputed[0])
	case len(s.Missing) > 0:
		return "Provisional: not all usage of the period has been recorded."
	case s.RecordedUntil.IsZero():
		return "Provisional: it is not confirmed that all usage of the period has been recorded."
	}
	return "Provisional: usage is recorded up to " + s.RecordedUntil.In(s.Zone).Format(layout) +
		"; later usage of the period is still missing."
}

// Request is what to state.
type Request struct {
	Organisations []string       // ids or names; none is all that are active, or have used something in the period
	Zone          *time.Location // of organisations that have none of their own
	Period        Asked
	For           Audience
	Naming        Naming // how users are named; empty is ByName
	Now           time.Time
}

// Make states each organisation of a request. No organisation is store.ErrOrganisation.
func Make(ctx context.Context, db *store.Store, r Request) ([]Statement, error) {
	orgs, err := r.organisations(ctx, db)
	if err != nil {
		return nil, err
	}
	code, err := db.BillingCurrency(ctx)
	if err != nil {
		return nil, err
	}
	money, err := parseCurrency(code)
	if err != nil {
		return nil, err
	}
	names, err := db.UserNames(ctx)
	if err != nil {
		return nil, err
	}
	var statements []Statement
	for _, org := range orgs {
		s, err := r.state(ctx, db, org, money)
		if err != nil {
			return nil, fmt.Errorf("statement of %s: %w", org.ID, err)
		}
		s.nameUsers(names, r.Naming)
		// One that left in the middle of the month still has its bill.
		if len(r.Organisations) > 0 || (org.Active && org.Key != "") || s.DaysActive > 0 || len(s.Corrections) > 0 {
			statements = append(statements, s)
		}
	}
	if len(statements) == 0 {
		return nil, fmt.Errorf("%w: none of %d in client_organizations is active, or has used anything in the period",
			store.ErrOrganisation, len(orgs))
	}
	return statements, nil
}

func (r Request) organisations(ctx context.Context, db *store.Store) ([]store.Organisation, error) {
	if len(r.Organisations) > 0 {
		return db.Organisations(ctx, r.Organisations, r.Zone)
	}
	all, err := db.AllOrganisations(ctx, r.Zone)
	if err != nil {
		return nil, err
	}
	orphans, err := db.Orphans(ctx, r.Zone)
	for i := range orphans {
		orphans[i].Name += " (no row in client_organizations)"
	}
	return append(all, orphans...), err
}

func (r Request) state(ctx context.Context, db *store.Store, org store.Organisation,
	money Currency) (Statement, error) {
	today := store.DayOf(r.Now, org.Zone)
	span, err := r.Period.span(today)
	if err != nil {
		return Statement{}, err
	}
	l, err := readLedger(ctx, db, org.ID)
	if err != nil {
		return Statement{}, err
	}
	if closed, ok := l.of(span); ok {
		if r.For == Client {
			closed = closed.forClient()
		}
		return closed, nil
	}
	elapsed := min(span.Last, today)
	s := Statement{ID: org.ID, Name: org.Name, For: r.For, Currency: money, Zone: org.Zone, Made: r.Now,
		Span: span, Stated: store.Span{First: span.First, Last: elapsed},
		Before: before(span, elapsed, today <= span.Last)}
	if r.For == Owner && org.Problem == nil && !org.Gone {
		s.Rate = org.Rate
	}
	if r.For == Owner {
		prices, err := db.Prices(ctx, org, r.Now)
		if err != nil {
			return s, err
		}
		s.Rates = prices.Noted(s.Stated.First.Start(org.Zone), s.Stated.Last.Add(1).Start(org.Zone))
	}
	// Before the figures: a pass between the two may then add figures, but not a watermark that they fall short of.
	coverage, err := db.Coverage(ctx, org, span)
	if err != nil {
		return s, err
	}
	s.RecordedUntil, s.Missing = coverage.Until, coverage.Missing
	differences, err := db.Differences(ctx, org.ID, span.First, span.Last)
	if err != nil {
		return s, err
	}
	for _, d := range differences {
		if !d.IsKnown() {
			s.Disputed = append(s.Disputed, d.Day)
		}
	}
	if err := s.compare(ctx, db, org, r.Now); err != nil {
		return s, err
	}
	if r.For == Owner {
		if s.Foreign, err = db.ForeignRecords(ctx, org.ID, span.First, span.Last); err != nil {
			return s, err
		}
	}
	s.Final = !s.Running() && coverage.IsWhole(span.Last.Add(1).Start(org.Zone)) && len(s.Disputed) == 0
	usage, err := db.SpanUsage(ctx, org, r.Now, s.Stated, s.Before)
	if err != nil {
		return s, err
	}
	s.fill(usage[0])
	before := usage[1].Total
	if day := counterpart(s.Stated, s.Before); s.Running() && day != "" {
		whole := usage[1].Days[len(usage[1].Days)-1].Totals
		s.BeforeUntil = sameHours(day, r.Now, org.Zone)
		part, err := db.PartOfDay(ctx, org, day, s.BeforeUntil, whole)
		if err != nil {
			return s, err
		}
		before = before.Sub(whole).Add(part)
	}
	s.TotalBefore = s.For.figures(before)
	if span.First != l.carrier() {
		return s, nil
	}
	if s.Corrections, err = l.corrections(ctx, db, org, r.Now); err == nil && r.For == Client {
		s.Corrections = s.forClient().Corrections
	}
	return s, err
}

// beforeEnd says where the period before ends, in words.
func (s Statement) beforeEnd() string {
	if s.BeforeUntil.IsZero() {
		return string(s.Before.Last)
	}
	return s.BeforeUntil.In(s.Zone).Format("2006-01-02 15:04")
}

func (s *Statement) fill(u store.SpanUsage) {
	s.Total, s.DaysActive = s.For.figures(u.Total), u.DaysActive
	for _, d := range u.Days {
		s.Days = append(s.Days, Part{Name: string(d.Day), Figures: s.For.figures(d.Totals)})
	}
	rest := u.Total
	for _, m := range u.Models {
		rest = rest.Sub(m.Totals)
		s.Models = append(s.Models, Part{Name: m.Model, Detail: m.Provider, Figures: s.For.figures(m.Totals)})
	}
	s.Models = s.withRest(s.Models, rest)
	rest = u.Total
	for _, user := range u.Users {
		rest = rest.Sub(user.Totals)
		part := Part{Name: user.UserID, Figures: s.For.figures(user.Totals)}
		if s.For == Owner {
			part.Detail = user.ExternalUserID
		}
		s.Users = append(s.Users, part)
	}
	s.Users = s.withRest(s.Users, rest)
}

// withRest lets parts add up to the total, whoever wrote them.
func (s *Statement) withRest(parts []Part, rest store.Totals) []Part {
	if s.For == Client {
		rest.Raw = 0 // a line of zeros would tell that raw costs differ
	}
	if rest.IsZero() {
		return parts
	}
	return append(parts, Part{Rest: true, Figures: s.For.figures(rest)})
}

// status is one word for Final.
func (s Statement) status() string {
	if s.Final {
		return "final"
	}
	return "provisional"
}

// sections are the tables after the days.
func (s Statement) sections() iter.Seq2[string, []Part] {
	return func(yield func(string, []Part) bool) {
		_ = yield("model", s.Models) && yield("user", s.users(s.Users))
	}
}

// highest is the day with the highest cost.
func (s Statement) highest() Part {
	var highest Part
	for i, d := range s.Days {
		if i == 0 || d.Cost > highest.Cost {
			highest = d
		}
	}
	return highest
}

// compare adds to the disputed days those on which the record and the ledger say different things of the same
// generations. What one of them has lost is a gap.
func (s *Statement) compare(ctx context.Context, db *store.Store, org store.Organisation, now time.Time) error {
	var days []store.Day
	for day := s.Stated.First; day <= s.Stated.Last; day = day.Add(1) {
		days = append(days, day)
	}
	differing, err := db.CheckLedger(ctx, org, now, days, store.ByEntry)
	for _, d := range differing {
		if !d.LedgerLost() && !d.RecordLost() && !slices.Contains(s.Disputed, d.Day) {
			s.Disputed = append(s.Disputed, d.Day)
		}
	}
	slices.Sort(s.Disputed)
	return err
}
