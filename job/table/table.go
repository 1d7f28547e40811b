// Package table lays out tables and texts for terminals.
package table

import (
	"bufio"
	"io"
	"strings"

	"github.com/rivo/uniseg"
)

const (
	gap      = 2 // blanks between two columns
	leastCut = 9 // columns that a column keeps that is cut, however wide the others are
)

// Write writes rows, which have as many cells as align has letters: l for a column whose texts stand to the
// left, r for one whose texts stand to the right, and c for one that stands to the left and is cut to what the
// others leave of the width. A last column to the left may reach beyond the width.
func Write(w io.Writer, width int, align string, rows [][]string) error {
	widths := make([]int, len(align))
	for _, row := range rows {
		for i, text := range row {
			row[i] = oneLine.Replace(text)
			text = row[i]
			widths[i] = max(widths[i], uniseg.StringWidth(text))
		}
	}
	if at := strings.IndexByte(align, 'c'); at >= 0 {
		rest, last := width, len(align)-1
		for i, taken := range widths {
			if i != at && (i < last || align[last] == 'r') {
				rest -= taken + gap
			}
		}
		widths[at] = min(widths[at], max(rest, leastCut))
	}
	out := bufio.NewWriter(w)
	for _, row := range rows {
		var line strings.Builder
		for i, text := range row {
			if i > 0 {
				line.WriteString(strings.Repeat(" ", gap))
			}
			text = Cut(text, widths[i])
			blanks := strings.Repeat(" ", widths[i]-uniseg.StringWidth(text))
			if align[i] == 'r' {
				line.WriteString(blanks + text)
			} else {
				line.WriteString(text + blanks)
			}
		}
		_, _ = out.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	return out.Flush()
}

// oneLine keeps a text from making a row of its own.
var oneLine = strings.NewReplacer("\r\n", " ", "\n", " ", "\r", " ", "\t", " ")

// Cut shortens a text to some columns.
func Cut(text string, width int) string {
	if uniseg.StringWidth(text) <= width {
		return text
	}
	var kept strings.Builder
	taken := 1 // of the ellipsis
	for graphemes := uniseg.NewGraphemes(text); graphemes.Next(); {
		taken += graphemes.Width()
		if taken > width {
			break
		}
		kept.WriteString(graphemes.Str())
	}
	return kept.String() + "…"
}

// Wrap breaks a text into lines of some columns.
func Wrap(text string, width int) string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && uniseg.StringWidth(line+" "+word) > width {
			lines, line = append(lines, line), ""
		}
		line = strings.TrimPrefix(line+" "+word, " ")
	}
	return strings.Join(append(lines, line), "\n")
}
