package report

import (
	"io"
	"iter"
	"strconv"
	"time"

	"usage-sync/job/spreadsheet"
	"usage-sync/store"
)

// writeTable writes one table of all statements, with exact amounts. The column section says what a row is:
// total, before, day, model or user, of which the rows of one section add up to the total; correction, with the
// number of the statement that is corrected, and the days, models and users of it; and without figures missing,
// for what is known to be missing, and closed, with the number of the statement.
func writeTable(w io.Writer, format Format, statements []Statement) error {
	table := spreadsheet.New(w, spreadsheetOf[format])
	head := []string{"client_org_id", "organisation", "section", "item", "from", "to", "requests", "tokens",
		"cost", "currency", "status"}
	if len(statements) > 0 && statements[0].For == Owner {
		head = append(head, "raw_cost_usd", "detail")
	}
	table.Write(spreadsheet.Words(append(head, "name")...)...)
	for _, s := range statements {
		s.writeRows(table)
	}
	return table.Close()
}

func (s Statement) writeRows(table spreadsheet.Writer) {
	name := "" // how people know the user of a row
	row := func(section string, item, detail spreadsheet.Value, span store.Span, f Figures) {
		cells := []spreadsheet.Value{spreadsheet.Text(s.ID), spreadsheet.Text(s.Name), spreadsheet.Word(section), item,
			spreadsheet.Date(span.First), spreadsheet.Date(span.Last), spreadsheet.Count(f.Requests),
			spreadsheet.Count(f.Tokens), spreadsheet.Amount(f.Cost), spreadsheet.Word(s.Currency.Code),
			spreadsheet.Word(s.status())}
		if s.For == Owner {
			cells = append(cells, spreadsheet.Amount(*f.Raw), detail)
		}
		table.Write(append(cells, spreadsheet.Text(name))...)
	}
	none := spreadsheet.Word("")
	row("total", none, none, s.Stated, s.Total)
	row("before", none, none, s.Before, s.TotalBefore)
	for _, d := range s.Days {
		day := store.Day(d.Name)
		row("day", spreadsheet.Date(day), none, store.Span{First: day, Last: day}, d.Figures)
	}
	for i, gap := range s.Missing {
		span := store.Span{First: store.DayOf(gap.From, s.Zone), Last: store.DayOf(gap.Until.Add(-time.Second), s.Zone)}
		row("missing", spreadsheet.Text(s.Gaps()[i]), none, span, s.For.figures(store.Totals{}))
	}
	write := func(prefix string, span store.Span, sections iter.Seq2[string, []Part]) {
		for section, parts := range sections {
			for _, p := range parts {
				item := spreadsheet.Text(p.Name)
				if p.Rest {
					item = spreadsheet.Word("(not recorded per " + section + ")")
				}
				if name = ""; section == "user" {
					name = s.known(p)
				}
				row(prefix+section, item, spreadsheet.Text(p.Detail), span, p.Figures)
			}
		}
	}
	write("", s.Stated, s.sections())
	name = ""
	for _, c := range s.Corrections {
		row("correction", spreadsheet.Word(strconv.FormatInt(c.Number, 10)), none, c.Span, c.Total)
		write("correction ", c.Span, s.correctionSections(c))
		name = ""
	}
	if s.Closed != nil {
		hash := none
		if s.For == Owner {
			hash = spreadsheet.Word(s.Closed.Hash)
		}
		row("closed", spreadsheet.Word(strconv.FormatInt(s.Closed.Number, 10)), hash, s.Stated,
			s.For.figures(store.Totals{}))
	}
}
