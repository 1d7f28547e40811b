package report

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"usage-sync/job/table"
	"usage-sync/store"
)

// leastWidth is what the figures of a table need beside a name.
const leastWidth = 60

// writeText writes the view for a terminal of some width, in columns.
func (s Statement) writeText(w io.Writer, width int) error {
	width = max(width, leastWidth)
	out := bufio.NewWriter(w)
	words := s.words()
	fmt.Fprintf(out, "%s (%s)\n", plain(s.Name), plain(s.ID))
	fmt.Fprintf(out, "Usage statement %s, %s, calendar %s, made %s\n", periodOf(s.Span), days(s.Span),
		s.Zone, words.MadeAt)
	if words.Owner {
		fmt.Fprintln(out, "For the owner: holds raw cost and markup. Not for the client.")
	}
	if line := s.ClosedLine(); line != "" {
		fmt.Fprintln(out, table.Wrap(line, width))
	}
	if why := s.Provisional(); why != "" {
		fmt.Fprintln(out, table.Wrap(why, width))
	}
	for _, gap := range s.Gaps() {
		fmt.Fprintln(out, table.Wrap(gap, width))
	}
	fmt.Fprintln(out)

	rows := [][]string{{"", "THIS PERIOD", "BEFORE", "CHANGE"}}
	for _, c := range words.Comparison {
		rows = append(rows, []string{c.Name, c.Now, c.Before, c.Change})
	}
	rows = append(rows, []string{"Days with usage", words.Active, "", ""})
	_ = table.Write(out, width, "crrr", rows)
	fmt.Fprintf(out, "Before is %s to %s.\n", s.Before.First, words.BeforeEnd)

	if s.DaysActive > 0 {
		fmt.Fprintf(out, "\nCost per day (%s)\n", s.Currency.Code)
		line, each := sparkline(s.Days, width)
		fmt.Fprintln(out, line)
		scale := fmt.Sprintf("%s … %s", s.Stated.First, s.Stated.Last)
		if each > 1 {
			scale += fmt.Sprintf(", %d days a bar", each)
		}
		highest := s.highest()
		fmt.Fprintf(out, "%s, highest %s on %s\n", scale, s.billed().shown(highest.Cost), highest.Name)
	}
	align := "crrrr"
	if words.Owner {
		align += "r"
	}
	for section, parts := range s.sections() {
		if len(parts) > 0 {
			fmt.Fprintln(out)
			_ = table.Write(out, width, align, s.partRows(section, parts))
		}
	}
	for _, c := range s.Corrections {
		fmt.Fprintf(out, "\n%s: %s\n", c.Title(), s.billed().shown(c.Total.Cost))
		for section, parts := range s.correctionSections(c) {
			if len(parts) > 0 {
				_ = table.Write(out, width, align[:len(align)-1], withoutShare(s.partRows(section, parts)))
			}
		}
	}
	if len(s.Corrections) > 0 {
		fmt.Fprintf(out, "\nDue with corrections: %s %s\n", s.Currency.Code, s.billed().shown(s.Due()))
	}
	fmt.Fprintf(out, "\n%s\n", table.Wrap(words.Rounding, width))
	for _, remark := range words.Remarks {
		fmt.Fprintln(out, table.Wrap(remark, width))
	}
	return out.Flush()
}

func (s Statement) partRows(section string, parts []Part) [][]string {
	head := []string{strings.ToUpper(section), "REQUESTS", "TOKENS"}
	if s.For == Owner {
		head = append(head, "RAW COST")
	}
	rows := [][]string{append(head, "COST", "SHARE")}
	for _, p := range parts {
		row := append([]string{s.nameOf(p, section), store.Grouped(p.Requests), store.Grouped(p.Tokens)},
			raw(p.Raw, s.dollars().shown)...)
		rows = append(rows, append(row, s.billed().shown(p.Cost), percent(p.Cost.Float(), s.Total.Cost.Float())))
	}
	return rows
}

// withoutShare leaves out the last column: what was corrected is no part of the period's total.
func withoutShare(rows [][]string) [][]string {
	for i := range rows {
		rows[i] = rows[i][:len(rows[i])-1]
	}
	return rows
}

// bars are the heights of a sparkline; a day without usage is a dot.
var bars = []rune("▁▂▃▄▅▆▇█")

// sparkline draws the cost of the days in one line, several days to a bar where there is no room for each. Days
// below zero, which corrections can make, are as low as it goes.
func sparkline(parts []Part, width int) (line string, each int) {
	each = (len(parts) + width - 1) / width
	var sums []store.Money
	var used []bool
	for i, p := range parts {
		if i%each == 0 {
			sums, used = append(sums, 0), append(used, false)
		}
		sums[len(sums)-1] += p.Cost
		used[len(used)-1] = used[len(used)-1] || p.Requests != 0 || p.Tokens != 0 || p.Cost != 0
	}
	var highest store.Money
	for _, sum := range sums {
		highest = max(highest, sum)
	}
	var text strings.Builder
	for i, sum := range sums {
		switch {
		case !used[i]:
			text.WriteRune('·')
		case sum <= 0:
			text.WriteRune(bars[0])
		default:
			// The highest is the full bar, and the lowest of all that is anything has a bar too.
			text.WriteRune(bars[int(sum.Float()/highest.Float()*float64(len(bars))-1e-9)])
		}
	}
	return text.String(), each
}
