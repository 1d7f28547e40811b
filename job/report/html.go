package report

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"strings"
	"unicode"

	"usage-sync/store"
)

//go:embed statement.html
var documentText string

//go:embed statement.css
var documentStyle string

// policyOf lets a document load nothing, run nothing and wear no style but its own, whatever a name in it says
// (https://www.w3.org/TR/CSP3/).
func policyOf(style string) string {
	sum := sha256.Sum256([]byte(style))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; base-uri 'none'; form-action 'none'"
}

// style is the stylesheet with what stands at the foot of printed pages.
func (s Statement) style() string {
	name := []rune(plain(s.Name))
	if len(name) > 60 {
		name = append(name[:60], '…')
	}
	return documentStyle + "@page { @bottom-left { content: \"" + quoteCSS(string(name)+", "+periodOf(s.Span)) + "\"; } }\n"
}

// quoteCSS writes a text so that it is nothing but text in a string of a stylesheet
// (https://www.w3.org/TR/css-syntax-3/#consume-escaped-code-point). A hyphen stays one: what looks like a key
// must be seen to.
func quoteCSS(text string) string {
	var quoted strings.Builder
	for _, r := range text {
		if r == 0 {
			r = unicode.ReplacementChar
		}
		if r < unicode.MaxASCII && (unicode.IsLetter(r) || unicode.IsDigit(r) || r == '-') {
			quoted.WriteRune(r)
		} else {
			fmt.Fprintf(&quoted, "\\%06x ", r) // the blank belongs to it
		}
	}
	return quoted.String()
}

// document is what the template shows.
type document struct {
	Statement
	wording
	Policy string
	Style  template.CSS
	Charts []chart
}

// partsTable is a table of days, models or users.
type partsTable struct {
	ID, Kind, Caption string
	Parts             []Part
	Total             Figures
	Owner             bool
	Code              string
	Correction        bool // has no shares: it is no part of the period's total
}

func (t partsTable) Each() string { return strings.ToLower(t.Kind) }
func (t partsTable) Date() bool   { return t.Kind == "Day" }
func (t partsTable) Weekday(p Part) string {
	if !t.Date() {
		return ""
	}
	return p.weekday()
}
func (t partsTable) Weekend(p Part) bool { return t.Date() && p.weekend() }
func (t partsTable) Details() bool       { return t.Kind == "User" } // a model's provider stands in its name

// writeHTML writes a document that needs nothing but itself.
func (s Statement) writeHTML(w io.Writer) error {
	style := s.style()
	d := document{Statement: s, wording: s.words(), Policy: policyOf(style), Style: template.CSS(style)}
	if s.DaysActive > 0 && len(s.Days) > 1 {
		d.Charts = []chart{s.draw("wide", 720, 220), s.draw("narrow", 360, 200)}
	}
	t, err := template.New("statement").Funcs(template.FuncMap{
		"plain":    plain,
		"shown":    s.shown,
		"detail":   s.detail,
		"users":    s.users,
		"days":     days,
		"period":   periodOf,
		"count":    store.Grouped,
		"money":    s.billed().shown,
		"rawMoney": func(m *store.Money) string { return s.dollars().shown(*m) },
		"share":    func(m store.Money) string { return percent(m.Float(), s.Total.Cost.Float()) },
		"table": func(id, kind, caption string, parts []Part) partsTable {
			return partsTable{id, kind, caption, parts, s.Total, s.For == Owner, s.Currency.Code, false}
		},
		"correction": func(i int, c Correction, kind string, parts []Part) partsTable {
			return partsTable{fmt.Sprintf("correction-%d", i), kind, "By how much each has changed", parts, c.Total,
				s.For == Owner, s.Currency.Code, true}
		},
	}).Parse(documentText)
	if err != nil {
		return err
	}
	var page bytes.Buffer // so that a document is whole or not there
	if err := t.Execute(&page, d); err != nil {
		return err
	}
	_, err = page.WriteTo(w)
	return err
}
