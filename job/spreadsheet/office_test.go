//go:build chromium

// This test needs LibreOffice; make test-report runs it.

package spreadsheet

import (
	"encoding/xml"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestOffice: LibreOffice in German and in Polish takes numbers for numbers and names for text.
func TestOffice(t *testing.T) {
	for language, locale := range map[string]string{"German": "de-DE", "Polish": "pl-PL"} {
		for _, format := range []Format{CSV, CommaCSV, XLSX} {
			t.Run(language+", "+string(format), func(t *testing.T) {
				rows := opened(t, locale, format, written(t, format))
				// A point is no decimal sign there: what is not read as a number must not become another one.
				want := []string{"Müller", "date 2026-10-31", "number 1000", "number 1.625"}
				if format == CSV {
					want[3] = "1.625000000000"
				}
				if got := rows[1][:4]; strings.Join(got, "|") != strings.Join(want, "|") {
					t.Errorf("got %q, want %q", got, want)
				}
				if format == XLSX {
					for i, name := range []string{"007", "1.5", "1-2", "=1+1", "_x0041_ & <b>"} {
						if rows[i+2][0] != name {
							t.Errorf("got %q, want %q", rows[i+2][0], name)
						}
					}
				}
			})
		}
	}
}

// opened opens a table in LibreOffice, and returns its cells: numbers as LibreOffice knows them, whatever they look like.
func opened(t *testing.T, locale string, format Format, content string) [][]string {
	t.Helper()
	dir := t.TempDir()
	ending, filter := "csv", "--infilter=CSV:44,34,76" // the separator, the quote, and UTF-8, as people choose them when they open a file
	switch format {
	case CommaCSV:
		filter = "--infilter=CSV:59,34,76"
	case XLSX:
		ending, filter = "xlsx", "--nologo"
	}
	profile := filepath.Join(dir, "profile", "user")
	if err := os.MkdirAll(profile, 0o700); err != nil {
		t.Fatal(err)
	}
	const settings = `<?xml version="1.0" encoding="UTF-8"?>
<oor:items xmlns:oor="http://openoffice.org/2001/registry" xmlns:xs="http://www.w3.org/2001/XMLSchema">
<item oor:path="/org.openoffice.Setup/L10N"><prop oor:name="ooSetupSystemLocale" oor:op="fuse"><value>LOCALE</value></prop></item>
</oor:items>`
	for name, text := range map[string]string{
		filepath.Join(profile, "registrymodifications.xcu"): strings.Replace(settings, "LOCALE", locale, 1),
		filepath.Join(dir, "table."+ending):                 content,
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	command := exec.CommandContext(t.Context(), "soffice", "-env:UserInstallation=file://"+filepath.Join(dir, "profile"), "--headless", filter,
		"--convert-to", "fods", "--outdir", dir, filepath.Join(dir, "table."+ending))
	if said, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	return cells(t, filepath.Join(dir, "table.fods"))
}

// cells reads a flat OpenDocument spreadsheet.
func cells(t *testing.T, name string) (rows [][]string) {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var document struct {
		Rows []struct {
			Cells []struct {
				Kind  string `xml:"value-type,attr"`
				Value string `xml:"value,attr"`
				Date  string `xml:"date-value,attr"`
				Text  string `xml:"p"`
			} `xml:"table-cell"`
		} `xml:"body>spreadsheet>table>table-row"`
	}
	if err := xml.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	for _, row := range document.Rows {
		var line []string
		for _, cell := range row.Cells {
			switch cell.Kind {
			case "float":
				line = append(line, "number "+cell.Value)
			case "date":
				line = append(line, "date "+cell.Date)
			default:
				line = append(line, cell.Text)
			}
		}
		rows = append(rows, line)
	}
	return rows
}
