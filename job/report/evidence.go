package report

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"

	"usage-sync/job/spreadsheet"
	"usage-sync/job/table"
	"usage-sync/store"
)

// evidence is a row of what a statement was made from. The rows add up to what is due.
type evidence struct {
	Section string // generation, other or correction
	ID      string // of a generation; else what it is, in words
	At      time.Time
	Day     store.Day
	User    Part
	Model   string
	Figures
}

// uncounted are the words for what a day holds beside generations.
var uncounted = map[store.Kind]string{
	store.KindForeign:   "recorded by the application itself",
	store.KindAdopted:   "recorded before usage-sync",
	store.KindRemainder: "correction to OpenRouter's own total",
}

// each yields the evidence of a statement, a page of generations at a time. What the tables hold no more one by
// one, or has changed since the statement was closed, is a row of its own.
func (s Statement) each(ctx context.Context, db *store.Store, yield func(evidence)) error {
	users := map[string]Part{}
	for _, user := range s.Users {
		users[user.Name] = user
	}
	figures := func(t store.Totals) Figures { return s.For.figures(t) }
	for _, d := range s.Days {
		day, rest := store.Day(d.Name), owners(d.Figures)
		show := func(e evidence, t store.Totals) {
			rest = rest.Sub(t)
			e.Day, e.Figures = day, figures(t)
			yield(e)
		}
		for after, more := "", true; more; {
			page, err := db.Evidence(ctx, s.ID, day, after)
			if err != nil {
				return err
			}
			for _, g := range page {
				user, known := users[g.UserID]
				if !known {
					user = Part{Name: g.UserID}
				}
				show(evidence{Section: "generation", ID: g.ID, At: g.CreatedAt, User: user,
					Model: store.ModelName(g.Model)}, g.Totals)
				after = g.ID
			}
			more = len(page) == store.EvidencePage
		}
		beside, err := db.Uncounted(ctx, s.ID, day)
		if err != nil {
			return err
		}
		for _, kind := range []store.Kind{store.KindAdopted, store.KindForeign, store.KindRemainder} {
			if t, there := beside[kind]; there {
				show(evidence{Section: "other", ID: uncounted[kind]}, t)
			}
		}
		if s.For == Client {
			rest.Raw = 0
		}
		if !rest.IsZero() {
			words := "no longer held one by one"
			if s.Closed != nil {
				words = "no longer held one by one, or changed since the statement was closed"
			}
			show(evidence{Section: "other", ID: words}, rest)
		}
	}
	for _, c := range s.Corrections {
		for _, d := range c.Days {
			yield(evidence{Section: "correction", ID: fmt.Sprintf("of statement %d", c.Number),
				Day: store.Day(d.Name), Figures: d.Figures})
		}
	}
	return nil
}

// owners are figures as totals.
func owners(f Figures) store.Totals {
	t := store.Totals{Tokens: f.Tokens, Requests: f.Requests, Cost: f.Cost}
	if f.Raw != nil {
		t.Raw = *f.Raw
	}
	return t
}

// WriteEvidence writes what statements were made from, one row for each generation that is still held.
func WriteEvidence(ctx context.Context, db *store.Store, w io.Writer, format Format, statements []Statement) error {
	switch format {
	case HTML:
		return fmt.Errorf("%w: generations are text, CSV, xlsx or JSON", errPeriod)
	case JSON:
		return eachOf(ctx, db, statements, func(s Statement) func(evidence) { return s.jsonEvidence(json.NewEncoder(w)) })
	case Text:
		out := bufio.NewWriter(w)
		err := eachOf(ctx, db, statements, func(s Statement) func(evidence) { return s.textEvidence(out) })
		return cmp.Or(err, out.Flush())
	}
	out := spreadsheet.New(w, spreadsheetOf[format])
	head := []string{"client_org_id", "organisation", "section", "id", "time", "date", "user_id", "name",
		"model", "requests", "tokens",
		"cost", "currency", "status"}
	if len(statements) > 0 && statements[0].For == Owner {
		head = append(head, "raw_cost_usd")
	}
	out.Write(spreadsheet.Words(head...)...)
	err := eachOf(ctx, db, statements, func(s Statement) func(evidence) { return s.tableEvidence(out) })
	return cmp.Or(err, out.Close())
}

func eachOf(ctx context.Context, db *store.Store, statements []Statement, writer func(Statement) func(evidence)) error {
	for _, s := range statements {
		if err := s.each(ctx, db, writer(s)); err != nil {
			return fmt.Errorf("generations of %s: %w", s.ID, err)
		}
	}
	return nil
}

// named returns a user's id, and how people know the user: neither where nobody is to be named.
func (s Statement) named(e evidence) (id, name string) {
	if s.Naming == Unnamed {
		return "", ""
	}
	return e.User.Name, s.known(e.User)
}

// at is the time of a generation by the client's clock, and empty where there is none.
func (s Statement) at(e evidence, layout string) string {
	if e.At.IsZero() {
		return ""
	}
	return e.At.In(s.Zone).Format(layout)
}

func (s Statement) tableEvidence(out spreadsheet.Writer) func(evidence) {
	return func(e evidence) {
		user, name := s.named(e)
		row := []spreadsheet.Value{spreadsheet.Text(s.ID), spreadsheet.Text(s.Name),
			spreadsheet.Word(e.Section), spreadsheet.Text(e.ID), spreadsheet.Word(s.at(e, time.DateTime)),
			spreadsheet.Date(e.Day), spreadsheet.Text(user), spreadsheet.Text(name),
			spreadsheet.Text(e.Model), spreadsheet.Count(e.Requests), spreadsheet.Count(e.Tokens),
			spreadsheet.Amount(e.Cost), spreadsheet.Word(s.Currency.Code), spreadsheet.Word(s.status())}
		if s.For == Owner {
			row = append(row, spreadsheet.Amount(*e.Raw))
		}
		out.Write(row...)
	}
}

// evidenceOut is a row of evidence as JSON.
type evidenceOut struct {
	ClientOrgID string    `json:"client_org_id"`
	Section     string    `json:"section"`
	ID          string    `json:"id"`
	Time        string    `json:"time,omitempty"`
	Date        store.Day `json:"date"`
	UserID      string    `json:"user_id,omitempty"`
	Name        string    `json:"name,omitempty"`
	Model       string    `json:"model,omitempty"`
	figuresOut
}

func (s Statement) jsonEvidence(encoder *json.Encoder) func(evidence) {
	encoder.SetEscapeHTML(false)
	return func(e evidence) {
		user, name := s.named(e)
		_ = encoder.Encode(evidenceOut{s.ID, e.Section, e.ID, s.at(e, time.RFC3339), e.Day, user, name,
			e.Model, e.out()})
	}
}

func (s Statement) textEvidence(out io.Writer) func(evidence) {
	fmt.Fprintf(out, "%s (%s), %s, amounts in %s, times in %s, sum %s\n", plain(s.Name), plain(s.ID),
		periodOf(s.Span), s.Currency.Code, s.Zone, s.Due().Exact())
	line := func(at, tokens, cost, raw, model, user, id string) {
		if s.For == Owner {
			raw = fmt.Sprintf("%15s  ", raw)
		}
		fmt.Fprintf(out, "%-19s  %11s  %15s  %s%-28s  %-20s  %s\n", at, tokens, cost, raw,
			table.Cut(model, 28), table.Cut(user, 20), id)
	}
	rawHead := ""
	if s.For == Owner {
		rawHead = "RAW (USD)"
	}
	line("TIME", "TOKENS", "COST", rawHead, "MODEL", "USER", "GENERATION")
	return func(e evidence) {
		user := ""
		if s.Naming != Unnamed && e.Section == "generation" {
			user = s.shown(e.User)
		}
		rawCost := ""
		if e.Raw != nil {
			rawCost = e.Raw.Exact()
		}
		line(cmp.Or(s.at(e, time.DateTime), string(e.Day)), strconv.FormatInt(e.Tokens, 10), e.Cost.Exact(),
			rawCost, plain(e.Model), plain(user), plain(e.ID))
	}
}
