package report

import (
	"encoding/csv"
	"io"
	"strconv"
	"time"

	"usage-sync/job/spreadsheet"
	"usage-sync/store"
)

// byteOrderMark tells spreadsheets that the text is UTF-8: without it Excel takes it for the local code page.
const byteOrderMark = "\ufeff"

// writeCSV writes one table of all statements: RFC 4180, with exact amounts and a decimal point. The column section says
// what a row is: total, before, day, model or user, and missing, without figures, for what is known to be missing; the rows
// of days, of models and of users add up to the total.
func writeCSV(w io.Writer, statements []Statement) error {
	if _, err := io.WriteString(w, byteOrderMark); err != nil {
		return err
	}
	table := csv.NewWriter(w)
	table.UseCRLF = true
	head := []string{"client_org_id", "organisation", "section", "item", "from", "to", "requests", "tokens", "cost", "currency", "status"}
	if len(statements) > 0 && statements[0].For == Owner {
		head = append(head, "raw_cost_usd", "detail")
	}
	_ = table.Write(head) // errors are kept until Flush
	for _, s := range statements {
		s.writeRows(table)
	}
	table.Flush()
	return table.Error()
}

func (s Statement) writeRows(table *csv.Writer) {
	row := func(section, item, detail string, span store.Span, f Figures) {
		cells := []string{spreadsheet.Cell(s.ID), spreadsheet.Cell(s.Name), section, item, string(span.First), string(span.Last),
			strconv.FormatInt(f.Requests, 10), strconv.FormatInt(f.Tokens, 10), f.Cost.Exact(), s.Currency.Code, s.status()}
		if s.For == Owner {
			cells = append(cells, append(raw(f.Raw, store.Money.Exact), detail)...)
		}
		_ = table.Write(cells)
	}
	row("total", "", "", s.Stated, s.Total)
	row("before", "", "", s.Before, s.TotalBefore)
	for _, d := range s.Days {
		day := store.Day(d.Name)
		row("day", d.Name, "", store.Span{First: day, Last: day}, d.Figures)
	}
	for i, gap := range s.Missing {
		span := store.Span{First: store.DayOf(gap.From, s.Zone), Last: store.DayOf(gap.Until.Add(-time.Second), s.Zone)}
		row("missing", spreadsheet.Cell(s.Gaps()[i]), "", span, s.For.figures(store.Totals{}))
	}
	for section, parts := range s.sections() {
		for _, p := range parts {
			item := spreadsheet.Cell(p.Name)
			if p.Rest {
				item = "(not recorded per " + section + ")"
			}
			row(section, item, spreadsheet.Cell(p.Detail), s.Stated, p.Figures)
		}
	}
}
