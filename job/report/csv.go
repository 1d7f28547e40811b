package report

import (
	"encoding/csv"
	"io"
	"iter"
	"strconv"
	"time"

	"usage-sync/job/spreadsheet"
	"usage-sync/store"
)

// byteOrderMark tells spreadsheets that the text is UTF-8: without it Excel takes it for the local code page.
const byteOrderMark = "\ufeff"

// writeCSV writes one table of all statements: RFC 4180, with exact amounts and a decimal point. The column section says
// what a row is: total, before, day, model or user, of which the rows of one section add up to the total; correction, with
// the number of the statement that is corrected, and the days, models and users of it; and without figures missing, for
// what is known to be missing, and closed, with the number of the statement.
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
	write := func(prefix string, span store.Span, sections iter.Seq2[string, []Part]) {
		for section, parts := range sections {
			for _, p := range parts {
				item := spreadsheet.Cell(p.Name)
				if p.Rest {
					item = "(not recorded per " + section + ")"
				}
				row(prefix+section, item, spreadsheet.Cell(p.Detail), span, p.Figures)
			}
		}
	}
	write("", s.Stated, s.sections())
	for _, c := range s.Corrections {
		row("correction", strconv.FormatInt(c.Number, 10), "", c.Span, c.Total)
		write("correction ", c.Span, c.sections())
	}
	if s.Closed != nil {
		hash := ""
		if s.For == Owner {
			hash = s.Closed.Hash
		}
		row("closed", strconv.FormatInt(s.Closed.Number, 10), hash, s.Stated, s.For.figures(store.Totals{}))
	}
}
