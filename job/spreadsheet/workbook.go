package spreadsheet

import (
	"archive/zip"
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"usage-sync/job"
)

// errTooLong is returned for a table with more rows than a sheet has.
var errTooLong = job.NewError(job.KindUsage, "a table too long for xlsx, which CSV is not")

// mostRows is how many rows a sheet has at most (https://support.microsoft.com/office/1672b34d, read on 30
// November 2026).
const mostRows = 1_048_576

// The parts of a workbook (ECMA-376, part 1) but for its sheet. cellXfs are the styles of the cells by number:
// a header, an amount, and a date.
var workbookParts = []struct{ name, body string }{
	{"[Content_Types].xml", `<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">` +
		`<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>` +
		`<Override PartName="/xl/workbook.xml" ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"/>` +
		`<Override PartName="/xl/styles.xml" ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.styles+xml"/>` +
		`<Override PartName="/xl/worksheets/sheet1.xml" ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.worksheet+xml"/>` +
		`</Types>`},
	{"_rels/.rels", `<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">` +
		`<Relationship Id="rId1" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument" Target="xl/workbook.xml"/>` +
		`</Relationships>`},
	{"xl/workbook.xml", `<workbook xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main" ` +
		`xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships">` +
		`<sheets><sheet name="Usage" sheetId="1" r:id="rId1"/></sheets></workbook>`},
	{"xl/_rels/workbook.xml.rels", `<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">` +
		`<Relationship Id="rId1" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/worksheet" Target="worksheets/sheet1.xml"/>` +
		`<Relationship Id="rId2" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/styles" Target="styles.xml"/>` +
		`</Relationships>`},
	{"xl/styles.xml", `<styleSheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main">` +
		`<numFmts count="2"><numFmt numFmtId="164" formatCode="0.00##########"/><numFmt numFmtId="165" formatCode="yyyy\-mm\-dd"/></numFmts>` +
		`<fonts count="2"><font><sz val="11"/><name val="Calibri"/></font><font><b/><sz val="11"/><name val="Calibri"/></font></fonts>` +
		`<fills count="2"><fill><patternFill patternType="none"/></fill><fill><patternFill patternType="gray125"/></fill></fills>` +
		`<borders count="1"><border/></borders><cellStyleXfs count="1"><xf/></cellStyleXfs>` +
		`<cellXfs count="4"><xf/><xf fontId="1" applyFont="1"/><xf numFmtId="164" applyNumberFormat="1"/>` +
		`<xf numFmtId="165" applyNumberFormat="1"/></cellXfs></styleSheet>`},
}

const (
	sheetStart = `<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetViews><sheetView workbookViewId="0">` +
		`<pane ySplit="1" topLeftCell="A2" activePane="bottomLeft" state="frozen"/></sheetView></sheetViews><sheetData>`
	sheetEnd = `</sheetData></worksheet>`
)

// workbook writes XLSX, a row at a time: it holds none of them.
type workbook struct {
	archive *zip.Writer
	sheet   io.Writer
	rows    int
	err     error
}

func newWorkbook(w io.Writer) *workbook {
	b := &workbook{archive: zip.NewWriter(w)}
	for _, part := range workbookParts {
		b.begin(part.name)
		b.print(xml.Header + part.body)
	}
	b.begin("xl/worksheets/sheet1.xml")
	b.print(xml.Header + sheetStart)
	return b
}

// begin begins a part.
func (b *workbook) begin(name string) {
	if b.err == nil {
		b.sheet, b.err = b.archive.Create(name)
	}
}

func (b *workbook) print(s string) {
	if b.err == nil {
		_, b.err = io.WriteString(b.sheet, s)
	}
}

// Write implements Writer.
func (b *workbook) Write(row ...Value) {
	if b.rows++; b.rows > mostRows && b.err == nil {
		b.err = fmt.Errorf("%w: a sheet has at most %d rows", errTooLong, mostRows)
	}
	var line bytes.Buffer
	line.WriteString("<row>")
	for _, v := range row {
		line.WriteString(b.cell(v))
	}
	line.WriteString("</row>")
	b.print(line.String())
}

// cell writes a cell. Text stands in its cell, so that it never is a formula, and needs no table of texts in memory.
func (b *workbook) cell(v Value) string {
	switch {
	case v.text == "":
		return "<c/>"
	case v.kind == number && strings.Contains(v.text, "."):
		return `<c s="2"><v>` + v.text + `</v></c>`
	case v.kind == number:
		return `<c><v>` + v.text + `</v></c>`
	case v.kind == date:
		if day, err := time.Parse(time.DateOnly, v.text); err == nil {
			return `<c s="3"><v>` + strconv.Itoa(int(day.Sub(dayZero).Hours()/24)) + `</v></c>`
		}
	}
	style := ""
	if b.rows == 1 {
		style = ` s="1"`
	}
	var text bytes.Buffer
	_ = xml.EscapeText(&text, []byte(escapes().ReplaceAllString(v.text, "_x005F$0")))
	return `<c t="inlineStr"` + style + `><is><t xml:space="preserve">` + text.String() + `</t></is></c>`
}

// dayZero is the day that sheets count days from, as far as days after February 1900 are concerned.
var dayZero = time.Date(1899, 12, 30, 0, 0, 0, 0, time.UTC)

// escapes are what readers take for a character by its number (ECMA-376, part 1, 22.9.2.19).
var escapes = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`_x[0-9A-Fa-f]{4}_`) })

// Close implements Writer.
func (b *workbook) Close() error {
	b.print(sheetEnd)
	if b.err != nil {
		return b.err
	}
	return b.archive.Close()
}
