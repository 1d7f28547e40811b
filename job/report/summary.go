package report

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"usage-sync/job/spreadsheet"
	"usage-sync/job/table"
	"usage-sync/store"
)

// CreditFee is what OpenRouter takes, in percent, on top of credits that are bought by card: 5.5 % since June 2025
// (https://openrouter.ai/announcements/simplifying-our-platform-fee and https://openrouter.ai/docs/faq, both read on
// 25 November 2026; the least fee of $0.80 a purchase is not counted).
const CreditFee = 5.5

// Summary is one line for each client of a host: what it has used, and for the owner what that has cost and earned.
type Summary struct {
	For       Audience
	Made      time.Time
	CreditFee float64 // percent of the raw cost
	Clients   []ClientTotal
	Missing   []Missing
}

// ClientTotal is the statement of one organisation in short.
type ClientTotal struct {
	Instance, ID, Name string
	Currency           Currency
	Span               store.Span // the days stated
	Status             string     // final or provisional
	Tokens, Requests   int64
	Cost, Before       store.Money
	Corrections        store.Money // of closed statements, beside the cost
	Raw                store.Money // 0 in statements for clients
	File               string      // of the statement, as seen from the index; empty where there is none
}

// Missing is an instance of which nothing could be stated, and why.
type Missing struct {
	Instance string `json:"instance"`
	Reason   string `json:"reason"`
}

// ReadStatements reads the statements of one instance that Write has written as JSON.
func ReadStatements(instance string, lines []byte) (clients []ClientTotal, err error) {
	for decoder := json.NewDecoder(bytes.NewReader(lines)); ; {
		var s struct {
			ID       string    `json:"client_org_id"`
			Name     string    `json:"name"`
			Currency string    `json:"currency"`
			Status   string    `json:"status"`
			From     store.Day `json:"from"`
			To       store.Day `json:"to"`
			Total    struct {
				Tokens   int64  `json:"tokens"`
				Requests int64  `json:"requests"`
				Cost     amount `json:"cost"`
				RawCost  amount `json:"raw_cost"`
			} `json:"total"`
			Before struct {
				Cost amount `json:"cost"`
			} `json:"before"`
			Corrections []struct {
				Total struct {
					Cost amount `json:"cost"`
				} `json:"total"`
			} `json:"corrections"`
		}
		switch err := decoder.Decode(&s); {
		case errors.Is(err, io.EOF):
			return clients, nil
		case err != nil:
			return nil, err
		}
		currency, err := parseCurrency(s.Currency)
		if err != nil {
			return nil, err
		}
		var corrections store.Money
		for _, c := range s.Corrections {
			corrections += store.Money(c.Total.Cost)
		}
		clients = append(clients, ClientTotal{Corrections: corrections, Instance: instance, ID: s.ID,
			Name: s.Name, Currency: currency, Span: store.Span{First: s.From, Last: s.To}, Status: s.Status,
			Tokens: s.Total.Tokens, Requests: s.Total.Requests,
			Cost: store.Money(s.Total.Cost), Raw: store.Money(s.Total.RawCost), Before: store.Money(s.Before.Cost)})
	}
}

// UnmarshalJSON implements json.Unmarshaler, without a detour through binary floating point.
func (a *amount) UnmarshalJSON(text []byte) error {
	m, err := store.ParseMoney(string(text))
	*a = amount(m)
	return err
}

// Margin is what is left of the cost, before and after the fee on the credits that paid for it. It is known
// where clients are billed in what OpenRouter charges in.
func (s Summary) Margin(c ClientTotal) (margin, afterFee store.Money, known bool, err error) {
	if s.For != Owner || c.Currency.Code != rawCurrency {
		return 0, 0, false, nil
	}
	fee := store.Money(0)
	if s.CreditFee > 0 {
		rate, err := store.RateFromFloat(s.CreditFee / 100)
		if err != nil {
			return 0, 0, false, err
		}
		if fee, err = rate.Markup(c.Raw); err != nil {
			return 0, 0, false, err
		}
	}
	margin = c.Cost - c.Raw
	return margin, margin - fee, true, nil
}

// summaryRow is a line of a summary, for people or for programs.
type summaryRow struct {
	File  string
	Cells []string
}

// head names the columns.
func (s Summary) head() []string {
	head := []string{"client", "id", "instance", "from", "to", "status", "requests", "tokens",
		"cost", "currency", "change"}
	if s.For == Owner {
		head = append(head, "raw_cost_usd", "margin", fmt.Sprintf("margin_after_%s%%_credit_fee",
			strconv.FormatFloat(s.CreditFee, 'f', -1, 64)))
	}
	return append(head, "corrections", "due")
}

// rows makes the lines for people.
func (s Summary) rows() ([]summaryRow, error) {
	var rows []summaryRow
	row := func(c ClientTotal, change string) error {
		cells := []string{plain(c.Name), plain(c.ID), c.Instance, string(c.Span.First), string(c.Span.Last), c.Status,
			store.Grouped(c.Requests), store.Grouped(c.Tokens), c.Currency.shown(c.Cost), c.Currency.Code, change}
		if s.For == Owner {
			margin, afterFee, known, err := s.Margin(c)
			if err != nil {
				return fmt.Errorf("%s: %w", c.ID, err)
			}
			cells = append(cells, rawDollars.shown(c.Raw))
			if known {
				cells = append(cells, rawDollars.shown(margin), rawDollars.shown(afterFee))
			} else {
				cells = append(cells, "", "")
			}
		}
		rows = append(rows, summaryRow{c.File, cells})
		return nil
	}
	for _, c := range s.Clients {
		if err := row(c, change(c.Cost.Float(), c.Before.Float())); err != nil {
			return nil, err
		}
	}
	return rows, nil
}

// totals adds up the clients of each currency, in the order in which currencies first occur.
func (s Summary) totals() (totals []ClientTotal) {
next:
	for _, c := range s.Clients {
		for i := range totals {
			if t := &totals[i]; t.Currency == c.Currency {
				t.Tokens, t.Requests = t.Tokens+c.Tokens, t.Requests+c.Requests
				t.Cost, t.Before, t.Raw = t.Cost+c.Cost, t.Before+c.Before, t.Raw+c.Raw
				t.Corrections += c.Corrections
				if c.Status != t.Status {
					t.Status = "provisional"
				}
				continue next
			}
		}
		c.Name, c.ID, c.Instance, c.Span, c.File = "Total", "", "", store.Span{}, ""
		totals = append(totals, c)
	}
	return totals
}

// Write writes the summary.
func (s Summary) Write(w io.Writer, format Format, width int) error {
	switch format {
	case CSV, CommaCSV, XLSX:
		return s.writeTable(w, format)
	case JSON:
		return s.writeJSON(w)
	}
	with := s
	with.Clients = append(append([]ClientTotal{}, s.Clients...), s.totals()...)
	rows, err := with.rows()
	if err != nil {
		return err
	}
	if format == HTML {
		return s.writeHTML(w, rows)
	}
	lines := [][]string{{"CLIENT", "STATUS", "REQUESTS", "TOKENS", "COST", "CHANGE"}}
	if s.For == Owner {
		lines[0] = append(lines[0], "RAW COST", "MARGIN", "AFTER FEE")
	}
	for _, row := range rows {
		c := row.Cells
		cells := append([]string{c[0], c[5], c[6], c[7], c[8], c[10]}, c[11:]...)
		if c[9] != rawCurrency {
			cells[4] = c[9] + " " + cells[4]
		}
		for i, cell := range cells {
			cells[i] = cmp.Or(cell, "–")
		}
		lines = append(lines, cells)
	}
	if err := table.Write(w, width, "cl"+strings.Repeat("r", len(lines[0])-2), lines); err != nil {
		return err
	}
	_, err = fmt.Fprintln(w)
	for _, line := range s.remarks() {
		_, err = fmt.Fprintln(w, table.Wrap(line, width))
	}
	return err
}

// remarks say how to read the figures, and what is not among them.
func (s Summary) remarks() (lines []string) {
	if s.For == Owner {
		lines = append(lines, fmt.Sprintf("Margin is cost without raw cost; after fee it is also without %s "+
			"%% of the raw cost, OpenRouter's fee on credits bought by card.",
			strconv.FormatFloat(s.CreditFee, 'f', -1, 64)))
	}
	for _, c := range s.Clients {
		if c.Corrections != 0 {
			lines = append(lines, fmt.Sprintf("%s: corrections of earlier statements are %s %s, due with "+
				"them are %s %s.", plain(c.Name), c.Currency.Code, c.Currency.shown(c.Corrections),
				c.Currency.Code, c.Currency.shown(c.Cost+c.Corrections)))
		}
	}
	for _, m := range s.Missing {
		lines = append(lines, fmt.Sprintf("Not stated: instance %s: %s", m.Instance, plain(m.Reason)))
	}
	return lines
}

// writeTable writes one row for each client, with exact amounts: no totals, which would be counted twice.
func (s Summary) writeTable(w io.Writer, format Format) error {
	out := spreadsheet.New(w, spreadsheetOf[format])
	out.Write(spreadsheet.Words(s.head()...)...)
	for _, c := range s.Clients {
		row := []spreadsheet.Value{spreadsheet.Text(c.Name), spreadsheet.Text(c.ID), spreadsheet.Text(c.Instance),
			spreadsheet.Date(c.Span.First), spreadsheet.Date(c.Span.Last), spreadsheet.Word(c.Status),
			spreadsheet.Count(c.Requests), spreadsheet.Count(c.Tokens), spreadsheet.Amount(c.Cost),
			spreadsheet.Word(c.Currency.Code), spreadsheet.Word(change(c.Cost.Float(), c.Before.Float()))}
		if s.For == Owner {
			margin, afterFee, known, err := s.Margin(c)
			if err != nil {
				return fmt.Errorf("%s: %w", c.ID, err)
			}
			row = append(row, spreadsheet.Amount(c.Raw))
			if known {
				row = append(row, spreadsheet.Amount(margin), spreadsheet.Amount(afterFee))
			} else {
				row = append(row, spreadsheet.Words("", "")...)
			}
		}
		out.Write(append(row, spreadsheet.Amount(c.Corrections), spreadsheet.Amount(c.Cost+c.Corrections))...)
	}
	return out.Close()
}

// clientOut is a client as JSON.
type clientOut struct {
	Instance    string    `json:"instance"`
	ClientOrgID string    `json:"client_org_id"`
	Name        string    `json:"name"`
	From        store.Day `json:"from"`
	To          store.Day `json:"to"`
	Status      string    `json:"status"`
	Requests    int64     `json:"requests"`
	Tokens      int64     `json:"tokens"`
	Currency    string    `json:"currency"`
	Cost        amount    `json:"cost"`
	CostBefore  amount    `json:"cost_before"`
	RawCost     *amount   `json:"raw_cost,omitempty"`
	Margin      *amount   `json:"margin,omitempty"`
	AfterFee    *amount   `json:"margin_after_fee,omitempty"`
	Corrections amount    `json:"corrections"`
	Due         amount    `json:"due"` // cost and corrections
	File        string    `json:"file,omitempty"`
}

func (s Summary) writeJSON(w io.Writer) error {
	out := struct {
		For       Audience    `json:"for"`
		MadeAt    string      `json:"made_at"`
		CreditFee *float64    `json:"credit_fee_percent,omitempty"`
		Clients   []clientOut `json:"clients"`
		Missing   []Missing   `json:"missing"`
	}{For: s.For, MadeAt: s.Made.UTC().Format(time.RFC3339), Clients: []clientOut{},
		Missing: append([]Missing{}, s.Missing...)}
	if s.For == Owner {
		out.CreditFee = &s.CreditFee
	}
	for _, c := range s.Clients {
		one := clientOut{Instance: c.Instance, ClientOrgID: c.ID, Name: c.Name, From: c.Span.First,
			To: c.Span.Last, Status: c.Status, Requests: c.Requests, Tokens: c.Tokens,
			Currency: c.Currency.Code, Cost: amount(c.Cost), CostBefore: amount(c.Before),
			Corrections: amount(c.Corrections), Due: amount(c.Cost + c.Corrections), File: c.File}
		margin, afterFee, known, err := s.Margin(c)
		if err != nil {
			return fmt.Errorf("%s: %w", c.ID, err)
		}
		if s.For == Owner {
			one.RawCost = (*amount)(&c.Raw)
		}
		if known {
			one.Margin, one.AfterFee = (*amount)(&margin), (*amount)(&afterFee)
		}
		out.Clients = append(out.Clients, one)
	}
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(out)
}

// summaryPage lists the clients, each with a link to its statement.
const summaryPage = `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{{.Policy}}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="robots" content="noindex, nofollow">
<title>Usage by client</title>
<style>{{.Style}}</style>
</head>
<body>
<header>
<p class="kind">Usage by client</p>
<h1>{{len .Clients}} clients</h1>
<dl><dt>Made</dt><dd>{{.MadeAt}}</dd></dl>
</header>
<main>
<div class="wide-table" role="region" aria-label="Clients" tabindex="0">
<table>
<thead><tr><th scope="col">Client</th><th scope="col">Status</th><th scope="col">Requests</th><th scope="col">Tokens</th><th scope="col">Cost</th><th scope="col">Change</th>
{{- if .Owner}}<th scope="col">Raw cost</th><th scope="col">Margin</th><th scope="col">After fee</th>{{end}}</tr></thead>
<tbody>
{{- range .Rows}}
<tr><th scope="row">{{if .File}}<a href="{{.File}}"><bdi>{{index .Cells 0}}</bdi></a>{{else}}<bdi>{{index .Cells 0}}</bdi>{{end}}</th><td>{{index .Cells 5}}</td><td>{{index .Cells 6}}</td><td>{{index .Cells 7}}</td><td>{{index .Cells 9}} {{index .Cells 8}}</td><td>{{index .Cells 10}}</td>
{{- if $.Owner}}<td>{{index .Cells 11}}</td><td>{{index .Cells 12}}</td><td>{{index .Cells 13}}</td>{{end}}</tr>
{{- end}}
</tbody>
</table>
</div>
{{- range .Remarks}}
<p class="quiet">{{.}}</p>
{{- end}}
</main>
</body>
</html>
`

func (s Summary) writeHTML(w io.Writer, rows []summaryRow) error {
	page, err := template.New("summary").Parse(summaryPage)
	if err != nil {
		return err
	}
	return page.Execute(w, map[string]any{"Policy": policyOf(documentStyle),
		"Style": template.CSS(documentStyle), "Clients": s.Clients, "Rows": rows,
		"MadeAt": s.Made.UTC().Format("2006-01-02 15:04 MST"), "Owner": s.For == Owner, "Remarks": s.remarks()})
}

// SaveIndex writes the summary into a directory, as index with the ending of the format, and returns its name.
func (s Summary) SaveIndex(directory string, format Format) (name string, err error) {
	name = filepath.Join(directory, "index"+endings[format])
	var text bytes.Buffer
	if err := s.Write(&text, format, pageWidth); err != nil {
		return "", err
	}
	if err := os.Mkdir(directory, fileMode|0o110); err != nil && !errors.Is(err, os.ErrExist) {
		return "", fmt.Errorf("%w: %w", ErrFile, err)
	}
	return name, saveText(name, &text)
}

// pageWidth is the width of text that goes into a file.
const pageWidth = 100
