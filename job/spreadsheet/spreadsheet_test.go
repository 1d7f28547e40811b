package spreadsheet

import (
	"archive/zip"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"usage-sync/store"
)

// sample is a table with whatever spreadsheets are known to take for something else.
func sample(out Writer) {
	out.Write(Words("name", "day", "tokens", "cost")...)
	for _, row := range []struct {
		name   string
		tokens int64
		cost   store.Money
	}{
		{"Müller", 1000, store.Dollar + store.Dollar*625/1000},
		{"007", -3, -store.Dollar / 2},
		{"1.5", 0, 1},
		{"1-2", 7, 0},
		{"=1+1", 7, 1234 * store.Dollar},
		{"_x0041_ & <b>", 7, 0},
	} {
		out.Write(Text(row.name), Date("2026-10-31"), Count(row.tokens), Amount(row.cost))
	}
}

func written(t *testing.T, format Format) string {
	t.Helper()
	var text bytes.Buffer
	out := New(&text, format)
	sample(out)
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	return text.String()
}

func TestCSV(t *testing.T) {
	const rows = "Müller,2026-10-31,1000,1.625000000000\r\n007,2026-10-31,-3,-0.500000000000\r\n1.5,2026-10-31,0,0.000000000001\r\n" +
		"1-2,2026-10-31,7,0.000000000000\r\n'=1+1,2026-10-31,7,1234.000000000000\r\n_x0041_ & <b>,2026-10-31,7,0.000000000000\r\n"
	const head = "\ufeffname,day,tokens,cost\r\n"
	if got := written(t, CSV); got != head+rows {
		t.Errorf("got %q", got)
	}
	comma := strings.NewReplacer(",", ";", "1.625", "1,625", "-0.5", "-0,5", "0.0", "0,0", "1234.0", "1234,0").Replace(head + rows)
	if got := written(t, CommaCSV); got != comma {
		t.Errorf("got %q, want %q", got, comma)
	}
}

// TestWorkbook: names are text and no formulas, and a table that no sheet can hold is an error.
func TestWorkbook(t *testing.T) {
	text := written(t, XLSX)
	archive, err := zip.NewReader(strings.NewReader(text), int64(len(text)))
	if err != nil {
		t.Fatal(err)
	}
	file, err := archive.Open("xl/worksheets/sheet1.xml")
	if err != nil {
		t.Fatal(err)
	}
	sheet, err := io.ReadAll(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`<t xml:space="preserve">007</t>`, `<t xml:space="preserve">=1+1</t>`, `<c s="2"><v>1.625000000000</v></c>`,
		`<c s="3"><v>46326</v></c>`, `_x005F_x0041_ &amp; &lt;b&gt;`, `<c s="2"><v>-0.500000000000</v></c>`} {
		if !strings.Contains(string(sheet), want) {
			t.Errorf("%s is not in %s", want, sheet)
		}
	}
	full := newWorkbook(io.Discard)
	full.rows = mostRows
	full.Write(Count(1))
	if err := full.Close(); !errors.Is(err, errTooLong) {
		t.Errorf("got %v", err)
	}
}
