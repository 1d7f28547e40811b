package reconcile

import (
	"fmt"
	"io"
	"strings"

	"usage-sync/job/spreadsheet"
	"usage-sync/store"
)

// writeTable writes a line for each day and model, for each day that was not compared, and for a month.
func (r Results) writeTable(w io.Writer, format spreadsheet.Format) error {
	out := spreadsheet.New(w, format)
	out.Write(spreadsheet.Words("client_org_id", "name", "date", "model", "requests", "openrouter_requests", "tokens",
		"openrouter_tokens", "raw_cost", "openrouter_raw_cost", "difference", "status", "causes")...)
	for _, c := range r.Comparisons {
		write := func(date spreadsheet.Value, model string, figures []spreadsheet.Value, status, causes string) {
			line := []spreadsheet.Value{spreadsheet.Text(c.Organisation.ID),
				spreadsheet.Text(c.Organisation.Name), date, spreadsheet.Text(model)}
			line = append(append(line, figures...), spreadsheet.Word(status), spreadsheet.Text(causes))
			out.Write(line...)
		}
		counts := func(ours, theirs store.Totals) []spreadsheet.Value {
			return []spreadsheet.Value{spreadsheet.Count(ours.Requests), spreadsheet.Count(theirs.Requests),
				spreadsheet.Count(ours.Tokens), spreadsheet.Count(theirs.Tokens)}
		}
		amounts := func(ours, theirs store.Money) []spreadsheet.Value {
			return []spreadsheet.Value{spreadsheet.Amount(ours), spreadsheet.Amount(theirs),
				spreadsheet.Amount(ours - theirs)}
		}
		noCounts, nothing := spreadsheet.Words("", "", "", ""), spreadsheet.Words("", "", "", "", "", "", "")
		if c.Err != nil && len(c.Rows) == 0 {
			write(spreadsheet.Word(""), "", nothing, "failed", c.Err.Error())
		}
		for _, day := range c.Beyond {
			write(spreadsheet.Date(day), "", nothing, "not compared", "")
		}
		for _, row := range c.Rows {
			figures := append(counts(row.Ours, row.Theirs), amounts(row.Ours.Raw, row.Theirs.Raw)...)
			switch {
			case row.Differs:
				write(spreadsheet.Date(row.Day), nameOf(row), figures, "different", causesOf(c, row.Day))
			case r.All:
				write(spreadsheet.Date(row.Day), nameOf(row), figures, "same", "")
			}
		}
		if m := c.Month; m != nil && (m.Differs || r.All) {
			status := "same"
			if m.Differs {
				status = "different"
			}
			write(spreadsheet.Word(m.Month), "", append(noCounts, amounts(m.Ours, m.Theirs)...), status, "")
		}
	}
	return out.Close()
}

// causesOf names the causes of a day with their numbers.
func causesOf(c Comparison, day store.Day) string {
	var parts []string
	for _, cause := range c.Causes {
		if cause.Day == day {
			parts = append(parts, fmt.Sprintf("%s %d", cause.Kind, cause.Count))
		}
	}
	return strings.Join(parts, "; ")
}
