package report

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"usage-sync/job"
	"usage-sync/job/spreadsheet"

	"github.com/google/renameio/v2"
)

// Format is a way to write statements.
type Format string

const (
	Text Format = "text"
	HTML Format = "html"
	CSV  Format = "csv"
	JSON Format = "json"
	// CommaCSV is CSV with a decimal comma.
	CommaCSV Format = "csv-comma"
	XLSX     Format = "xlsx"
)

// spreadsheetOf are the formats that are tables for spreadsheets.
var spreadsheetOf = map[Format]spreadsheet.Format{CSV: spreadsheet.CSV,
	CommaCSV: spreadsheet.CommaCSV, XLSX: spreadsheet.XLSX}

// endings are those of file names.
var endings = map[Format]string{Text: ".txt", HTML: ".html", CSV: ".csv", CommaCSV: ".csv",
	JSON: ".json", XLSX: ".xlsx"}

var (
	// ErrSeveral is returned where statements of several organisations should go into one document or file.
	ErrSeveral = job.NewError(job.KindUsage, "several organisations")
	// ErrFile is returned where a file can't be made.
	ErrFile = job.NewError(job.KindOutputFile, "statement file")
)

// Write writes statements one after another. Width is that of the terminal, in columns, for Text. A document is one
// organisation's: that of several is ErrSeveral.
func Write(w io.Writer, format Format, width int, statements []Statement) error {
	switch format {
	case CSV, CommaCSV, XLSX:
		return writeTable(w, format, statements)
	case JSON:
		return writeJSON(w, statements)
	case HTML:
		if len(statements) != 1 {
			return fmt.Errorf("%w: a document is one organisation's, and there are %d", ErrSeveral, len(statements))
		}
		return statements[0].writeHTML(w)
	}
	for i, s := range statements {
		if i > 0 {
			if _, err := fmt.Fprintln(w); err != nil {
				return err
			}
		}
		if err := s.writeText(w, width); err != nil {
			return err
		}
	}
	return nil
}

// fileMode lets the owner's group read statements and nobody else: they say what a client spends.
const fileMode = 0o640

// Save writes statements into files, each of which is there as a whole or as it was before, and returns their
// names. A path that is a directory, or ends with a slash, gets one file an organisation, named by id and
// period; it is made where it is missing. Any other path is the file of one organisation: that of several is
// ErrSeveral, so that nobody sends a client another's figures. What can't be made is ErrFile.
func Save(path string, format Format, width int, statements []Statement) (names []string, err error) {
	directory := strings.HasSuffix(path, string(filepath.Separator))
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		directory = true
	}
	switch {
	case !directory && len(statements) != 1:
		return nil, fmt.Errorf("%w: %s would hold the statements of %d", ErrSeveral, path, len(statements))
	case directory:
		if err := os.Mkdir(path, fileMode|0o110); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("%w: %w", ErrFile, err)
		}
	}
	for _, s := range statements {
		name := path
		if directory {
			name = filepath.Join(path, s.fileName(format))
		}
		if err := save(name, format, width, s); err != nil {
			return names, err
		}
		names = append(names, name)
	}
	return names, nil
}

func save(name string, format Format, width int, s Statement) error {
	if info, err := os.Stat(name); err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("%w: %s is there and no file", ErrFile, name)
	}
	var text bytes.Buffer
	if err := Write(&text, format, width, []Statement{s}); err != nil {
		return err
	}
	return saveText(name, &text)
}

// saveText writes a file that is there as a whole or as it was before.
func saveText(name string, text *bytes.Buffer) error {
	// Not renameio.WriteFile, which keeps the mode of a file that is there.
	file, err := renameio.NewPendingFile(name, renameio.WithStaticPermissions(fileMode))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrFile, err)
	}
	defer func() { _ = file.Cleanup() }() // does nothing once the file is in its place
	if _, err := text.WriteTo(file); err != nil {
		return fmt.Errorf("%w: %w", ErrFile, err)
	}
	if err := file.CloseAtomicallyReplace(); err != nil {
		return fmt.Errorf("%w: %w", ErrFile, err)
	}
	return nil
}

var strange = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`[^A-Za-z0-9_-]+`) })

// fileName is acme-2026-10.html, or acme-2026-10-01_2026-10-15.html. An id that is no name for a file is
// changed, and gets a mark that tells it from others that are changed the same way.
func (s Statement) fileName(format Format) string {
	const longest = 60
	id := strange().ReplaceAllString(s.ID, "_")
	if id != s.ID || id == "" || len(id) > longest {
		sum := sha256.Sum256([]byte(s.ID))
		id = id[:min(len(id), longest)] + "-" + hex.EncodeToString(sum[:4])
	}
	period := s.Span.First.Month()
	if s.Span != monthOf(s.Span.First) {
		period = fmt.Sprintf("%s_%s", s.Span.First, s.Span.Last)
	}
	return id + "-" + period + endings[format]
}
