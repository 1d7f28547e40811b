// Package spreadsheet writes tables that spreadsheets read as they are meant: numbers as numbers, names as text.
package spreadsheet

import (
	"encoding/csv"
	"io"
	"strconv"
	"strings"

	"usage-sync/store"
)

// Format is a way to write a table.
type Format string

const (
	// CSV is RFC 4180 in UTF-8, with commas and a decimal point.
	CSV Format = "csv"
	// CommaCSV is the same with semicolons and a decimal comma, which spreadsheets read in the places where
	// people write numbers so.
	CommaCSV Format = "csv with a decimal comma"
	// XLSX is a workbook of one sheet. Each cell says whether it is a number, a date or text, whatever it looks like.
	XLSX Format = "xlsx"
)

// Value is what a cell holds.
type Value struct {
	kind kind
	text string
}

type kind int

const (
	text   kind = iota // whatever people have written
	word               // of the program itself
	number             // with a decimal point
	date               // 2026-10-31
)

// Text is a name, or whatever else others have chosen.
func Text(s string) Value { return Value{text, s} }

// Word is text of the program itself, and harmless.
func Word(s string) Value { return Value{word, s} }

// Words are a row of them.
func Words(all ...string) []Value {
	values := make([]Value, len(all))
	for i, s := range all {
		values[i] = Word(s)
	}
	return values
}

// Count is a whole number.
func Count(n int64) Value { return Value{number, strconv.FormatInt(n, 10)} }

// Amount is an amount of money. It has all decimals always: were it 1.625, a spreadsheet that groups thousands
// with a point would take it for 1625 and say nothing.
func Amount(m store.Money) Value { return Value{number, m.Fixed()} }

// Date is a day.
func Date(day store.Day) Value { return Value{date, string(day)} }

// Writer writes a table row by row. It keeps its first error until Close.
type Writer interface {
	Write(row ...Value)
	Close() error
}

// New returns a writer of a format. Closing it does not close w.
func New(w io.Writer, format Format) Writer {
	if format == XLSX {
		return newWorkbook(w)
	}
	out := csv.NewWriter(&marked{to: w})
	out.UseCRLF = true
	if format == CommaCSV {
		out.Comma = ';'
	}
	return separated{out}
}

// separated writes CSV.
type separated struct{ out *csv.Writer }

// Write implements Writer.
func (s separated) Write(row ...Value) {
	cells := make([]string, len(row))
	for i, v := range row {
		switch cells[i] = v.text; {
		case v.kind == text:
			cells[i] = guarded(v.text)
		case v.kind == number && s.out.Comma == ';':
			cells[i] = strings.Replace(v.text, ".", ",", 1)
		}
	}
	_ = s.out.Write(cells) // errors are kept until Flush
}

// Close implements Writer.
func (s separated) Close() error {
	s.out.Flush()
	return s.out.Error()
}

// marked writes a byte order mark first, which tells spreadsheets that the text is UTF-8: without it Excel
// takes it for the local code page.
type marked struct {
	to   io.Writer
	done bool
}

func (m *marked) Write(p []byte) (int, error) {
	if !m.done {
		m.done = true
		if _, err := io.WriteString(m.to, "\ufeff"); err != nil {
			return 0, err
		}
	}
	return m.to.Write(p)
}
