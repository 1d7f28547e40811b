package reconcile

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"usage-sync/job/table"
	"usage-sync/store"
)

// writeText writes the view for a terminal.
func (r Results) writeText(w io.Writer) error {
	for i, c := range r.Comparisons {
		if i > 0 {
			fmt.Fprintln(w)
		}
		if c.Before != nil {
			if err := printComparison(w, *c.Before, r.All); err != nil {
				return err
			}
		}
		if c.Fixed != nil {
			printFixed(w, *c.Fixed)
		}
		if err := printComparison(w, c, r.All); err != nil {
			return err
		}
	}
	return nil
}

func printComparison(w io.Writer, c Comparison, everything bool) error {
	for _, correction := range c.Books.Corrections {
		fmt.Fprintf(w, "  Books: %s\n", correction)
	}
	for _, noticed := range c.Books.Foreign {
		fmt.Fprintf(w, "  Books: the application has recorded %s itself\n", noticed)
	}
	for _, noticed := range c.Books.Disputed {
		fmt.Fprintf(w, "  Books: another program has added %s, which is not billed\n", noticed)
	}
	if len(c.Closed) > 0 {
		fmt.Fprintf(w, "  Books: disputed no more, OpenRouter's figures agree: %s\n", spans(c.Closed))
	}
	fmt.Fprintf(w, "%s (%s)", c.Organisation.Name, c.Organisation.ID)
	if c.Err != nil && len(c.Rows) == 0 && c.Month == nil {
		fmt.Fprintf(w, ": not compared: %v\n", c.Err)
		return nil
	}
	fmt.Fprintf(w, ", %s to %s by %s\n", c.First, c.Last, strings.Join(c.Basis, " and "))
	if err := printRows(w, c, everything); err != nil {
		return err
	}
	printMonth(w, c)
	if r := c.Remainder; r.Days > 0 {
		fmt.Fprintf(w, "  $%s on %s is the remainder of rounding: OpenRouter's totals of these days, without "+
			"its single generations\n", exactly(r.Raw), counted(r.Days, "day"))
	}
	for _, cause := range c.Causes {
		printCause(w, cause)
	}
	printExtra(w, c)
	if c.Unexplained != nil {
		fmt.Fprintf(w, "  Causes are not known: %v\n", c.Unexplained)
	}
	if c.Err != nil {
		fmt.Fprintf(w, "  Failed: %v\n", c.Err)
	}
	if len(c.Beyond) > 0 {
		fmt.Fprintf(w, "  Not compared: %s; OpenRouter tells of the last 31 days alone, up to today\n", spans(c.Beyond))
	}
	printSummary(w, c)
	return nil
}

func printRows(w io.Writer, c Comparison, everything bool) error {
	var rows [][]string
	for _, row := range c.Rows {
		if !row.Differs && !everything {
			continue
		}
		if len(rows) == 0 {
			rows = append(rows, []string{"DATE", "MODEL", "REQUESTS", "OPENROUTER", "TOKENS", "OPENROUTER",
				"RAW COST", "OPENROUTER", "DIFFERENCE"})
		}
		rows = append(rows, []string{string(row.Day), nameOf(row), fmt.Sprint(row.Ours.Requests),
			fmt.Sprint(row.Theirs.Requests), fmt.Sprint(row.Ours.Tokens), fmt.Sprint(row.Theirs.Tokens), "$" +
				exactly(row.Ours.Raw), "$" + exactly(row.Theirs.Raw),
			"$" + exactly(row.Difference().Raw)})
	}
	const widest = 200 // no column is cut
	return table.Write(w, widest, "lllllllll", rows)
}

// nameOf is the model, or in brackets the table in which a whole day is not the sum of its models.
func nameOf(row Row) string {
	if row.Table != "" {
		return "(" + row.Table + ")"
	}
	return row.Model
}

func printMonth(w io.Writer, c Comparison) {
	m := c.Month
	if m == nil {
		return
	}
	fmt.Fprintf(w, "  Total of %s in UTC so far: ledger $%s, OpenRouter $%s, difference $%s\n", m.Month,
		exactly(m.Ours), exactly(m.Theirs), exactly(m.Ours-m.Theirs))
	if m.OwnCalendar {
		fmt.Fprintf(w, "  By the calendar of %s, whose month is cut differently, the tables hold $%s: $%s "+
			"more than the ledger in UTC\n", c.Organisation.Zone, exactly(m.Tables), exactly(m.Tables-m.Ours))
	} else if m.Tables != m.Ours {
		fmt.Fprintf(w, "  The tables hold $%s, which is not what the ledger does\n", exactly(m.Tables))
	}
	if m.Differs {
		fmt.Fprintln(w, "  OpenRouter's total has no gap at the end: usage since the last pass is part of it")
	}
}

// causeWords say what each kind of cause means.
var causeWords = map[CauseKind]string{
	CauseMissing:  "missing in the ledger",
	CauseDelivery: "delivered, and not listed by OpenRouter under that id",
	CauseExtra:    "in the ledger, and not listed by OpenRouter",
	CauseChanged:  "with other tokens or another cost in the ledger",
	CauseManual:   "recorded by hand",
	CauseDay:      "in the ledger under another day",
	CauseModel:    "in the ledger under another model",
	CauseForeign:  "in the ledger under another organisation",
	CauseRefused:  "that can't be trusted",
	CauseRecorded: "recorded by the application itself",
}

func printCause(w io.Writer, c Cause) {
	switch c.Kind {
	case CauseUnknown:
		fmt.Fprintf(w, "  %s: no cause found: tables and ledger are what OpenRouter lists now\n", c.Day)
		return
	case CauseTables:
		for _, e := range c.Examples {
			fmt.Fprintf(w, "  %s: %s does not add up to the ledger: %s, ledger %s\n", c.Day, e.ID,
				worded(e.Ours), worded(e.Theirs))
		}
		return
	}
	fmt.Fprintf(w, "  %s: %s %s", c.Day, counted(c.Count, "generation"), causeWords[c.Kind])
	if c.Effect.Raw != 0 {
		fmt.Fprintf(w, " ($%s)", exactly(c.Effect.Raw))
	}
	fmt.Fprintln(w)
	for _, e := range c.Examples {
		fmt.Fprintf(w, "    %s\n", strings.Join(wordedExample(c.Kind, e), ", "))
	}
	if more := c.Count - len(c.Examples); more > 0 {
		fmt.Fprintf(w, "    and %d more\n", more)
	}
}

func wordedExample(kind CauseKind, e Example) []string {
	parts := []string{e.ID}
	if e.Model != "" {
		parts = append(parts, e.Model)
	}
	switch kind {
	case CauseMissing:
		parts = append(parts, wordedOne(e.Theirs))
	case CauseChanged:
		parts = append(parts, wordedOne(e.Ours), "OpenRouter "+wordedOne(e.Theirs))
	case CauseRefused:
	default:
		parts = append(parts, wordedOne(e.Ours))
	}
	if e.Elsewhere != "" {
		parts = append(parts, e.Elsewhere)
	}
	return parts
}

func wordedOne(a store.Totals) string {
	return fmt.Sprintf("%s, $%s", store.Counted(a.Tokens, "token"), exactly(a.Raw))
}

func worded(a store.Totals) string { return store.Counted(a.Requests, "request") + ", " + wordedOne(a) }

// printExtra says what --remove-extra would take away.
func printExtra(w io.Writer, c Comparison) {
	if len(c.Extra) == 0 {
		return
	}
	var sum store.Totals
	for _, e := range c.Extra {
		sum = sum.Add(store.Totals{Requests: 1, Tokens: e.Tokens, Raw: e.Cost})
	}
	fmt.Fprintf(w, "  Of another key, it seems: %s. usage-sync reconcile --fix --remove-extra --org %s takes "+
		"it away\n", worded(sum), c.Organisation.ID)
}

func printFixed(w io.Writer, f Fixed) {
	fmt.Fprintf(w, "  Fixed: %d recorded, %d settled (%s, raw $%s, marked up $%s)\n", f.Recorded, f.Settled,
		store.Counted(f.Tokens, "token"), exactly(f.Raw), exactly(f.Markup))
	if f.Taken > 0 {
		fmt.Fprintf(w, "  Taken away: %s (%d tokens, raw $%s, marked up $%s)\n",
			counted(f.Taken, "delivery"), f.TakenAway.Tokens, exactly(f.TakenAway.Raw), exactly(f.TakenAway.Cost))
	}
	if len(f.Left) > 0 {
		fmt.Fprintf(w, "  Left alone: %s; the tables hold usage there that the ledger does not know, and "+
			"what OpenRouter lists may be in it\n", spans(f.Left))
	}
}

func printSummary(w io.Writer, c Comparison) {
	if c.Month != nil {
		verdict := "the same"
		if c.Month.Differs {
			verdict = "it differs"
		}
		fmt.Fprintf(w, "The total of %s is compared: %s\n", c.Month.Month, verdict)
		return
	}
	days := store.Span{First: c.First, Last: c.Last}.Days()
	fmt.Fprintf(w, "%s compared, %s, %s\n", counted(days-len(c.Beyond), "day"), counted(len(c.Rows), "row"),
		counted(c.Differences(), "difference"))
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	if stem, ends := strings.CutSuffix(what, "y"); ends && what != "day" {
		return fmt.Sprintf("%d %sies", n, stem)
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// spans words days, those in a row as one.
func spans(days []store.Day) string {
	var parts []string
	for i := 0; i < len(days); {
		last := i
		for last+1 < len(days) && days[last+1] == days[last].Add(1) {
			last++
		}
		part := string(days[i])
		if last > i {
			part += " to " + string(days[last])
		}
		parts = append(parts, part)
		i = last + 1
	}
	return strings.Join(parts, ", ")
}

// exactly returns dollars with six decimals, or as many as there are.
func exactly(m store.Money) string {
	if m%1_000_000 == 0 {
		return m.String()
	}
	return strings.TrimRight(strconv.FormatFloat(m.Float(), 'f', 12, 64), "0")
}
