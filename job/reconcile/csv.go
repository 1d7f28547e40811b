package reconcile

import (
	"encoding/csv"
	"fmt"
	"io"
	"strings"

	"usage-sync/job/spreadsheet"
	"usage-sync/store"
)

// writeCSV writes a line for each day and model, for each day that was not compared, and for a month.
func (r Results) writeCSV(w io.Writer) error {
	out := csv.NewWriter(w)
	_ = out.Write([]string{"client_org_id", "name", "date", "model", "requests", "openrouter_requests", "tokens", "openrouter_tokens",
		"raw_cost", "openrouter_raw_cost", "difference", "status", "causes"})
	for _, c := range r.Comparisons {
		line := func(date, model string, ours, theirs store.Totals, status, causes string) {
			_ = out.Write([]string{spreadsheet.Cell(c.Organisation.ID), spreadsheet.Cell(c.Organisation.Name), date, spreadsheet.Cell(model),
				fmt.Sprint(ours.Requests), fmt.Sprint(theirs.Requests), fmt.Sprint(ours.Tokens), fmt.Sprint(theirs.Tokens),
				exactly(ours.Raw), exactly(theirs.Raw), exactly(ours.Raw - theirs.Raw), status, spreadsheet.Cell(causes)})
		}
		empty := func(date, status, causes string) {
			_ = out.Write([]string{spreadsheet.Cell(c.Organisation.ID), spreadsheet.Cell(c.Organisation.Name), date, "", "", "", "", "", "", "", "", status, spreadsheet.Cell(causes)})
		}
		if c.Err != nil && len(c.Rows) == 0 {
			empty("", "failed", c.Err.Error())
		}
		for _, day := range c.Beyond {
			empty(string(day), "not compared", "")
		}
		for _, row := range c.Rows {
			switch {
			case row.Differs:
				line(string(row.Day), nameOf(row), row.Ours, row.Theirs, "different", causesOf(c, row.Day))
			case r.All:
				line(string(row.Day), nameOf(row), row.Ours, row.Theirs, "same", "")
			}
		}
		if m := c.Month; m != nil && (m.Differs || r.All) {
			status := "same"
			if m.Differs {
				status = "different"
			}
			_ = out.Write([]string{spreadsheet.Cell(c.Organisation.ID), spreadsheet.Cell(c.Organisation.Name), m.Month, "", "", "", "", "", exactly(m.Ours), exactly(m.Theirs),
				exactly(m.Ours - m.Theirs), status, ""})
		}
	}
	out.Flush()
	return out.Error()
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
