package report

import (
	"encoding/csv"
	"encoding/json"
	"strings"
	"testing"
	"unicode"

	"usage-sync/store"
)

// names that someone has chosen to do harm: in a page, in a spreadsheet, in a terminal.
var evilNames = []string{
	`<script>alert(1)</script>`,
	`</style><style>body{display:none}</style>`,
	`"><img src=x onerror=alert(1)>`,
	`</title></svg></table><a href=javascript:alert(1)>`,
	`{{.Rate}} ${7*7} <!-- ]]>`,
	`=HYPERLINK("http://example.com","click")`,
	`+1+cmd|' /C calc'!A0`,
	`-2+3`,
	`@SUM(A1:A9)`,
	"\t=1+1",
	"\r=1+1",
	"\n=1+1",
	"  =1+1",
	"＝1+1",
	"comma, \"quote\"; semicolon",
	"two\r\nlines",
	"\x1b[2J\x1b]0;title\x07gone",
	"\u202eright to left\u2066",
	"zero\x00byte",
	strings.Repeat("unbroken", 40),
	"日本語の名前が長く続く日本語の名前が長く続く日本語の名前が長く続く日本語の名前が長く続く",
}

// hostile are the books of an organisation of such a name, with such models and users.
func hostile(t *testing.T) *books {
	t.Helper()
	b := newBooks(t, t.TempDir(), store.NewOrganisation{ID: `=<i>1</i>/../x`, Name: `<b onclick="x()">Evil</b> & Sons "Ltd"`, Key: "sk-or-v1-evil", Rate: 1.3})
	for i, name := range evilNames {
		b.record(`=<i>1</i>/../x`, store.Generation{Day: "2026-10-07", Model: name, User: evilNames[len(evilNames)-1-i], Tokens: 10, Cost: store.Dollar})
	}
	return b
}

func TestHostileHTML(t *testing.T) {
	b := hostile(t)
	page := b.written(HTML, Request{For: Owner})
	golden(t, "hostile.html", page)
	for _, name := range evilNames {
		if strings.ContainsAny(name, "<>\"\x00\x1b\u202e") && strings.Contains(page, name) {
			t.Errorf("%q stands in the page as it is", name)
		}
	}
	for _, tag := range []string{"<script", "<img", "<a ", "<b ", "<i>"} {
		if strings.Contains(page, tag) {
			t.Errorf("the page has a %s", tag)
		}
	}
	if n := strings.Count(page, "<style"); n != 1 {
		t.Errorf("%d styles", n)
	}
}

func TestHostileCSV(t *testing.T) {
	b := hostile(t)
	text := b.written(CSV, Request{For: Owner})
	rows, err := csv.NewReader(strings.NewReader(strings.TrimPrefix(text, "\ufeff"))).ReadAll()
	if err != nil || len(rows) < 2*len(evilNames) {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	numbers := map[string]bool{"requests": true, "tokens": true, "cost": true, "raw_cost_usd": true}
	for _, row := range rows[1:] {
		for i, value := range row {
			if numbers[rows[0][i]] {
				if strings.Trim(value, "-.0123456789") != "" {
					t.Errorf("%s: %q is no number", rows[0][i], value)
				}
				continue
			}
			if start := strings.TrimLeft(value, " "); start != "" && strings.ContainsRune("=+-@\t\r\n＝＋－＠", []rune(start)[0]) {
				t.Errorf("%s: a spreadsheet may take %q for a formula", rows[0][i], value)
			}
		}
	}
	if !strings.Contains(text, `"'=HYPERLINK(""http://example.com"",""click"")"`) {
		t.Error("a name is lost")
	}
	for i, line := range strings.SplitAfter(text, "\n") {
		if line != "" && !strings.HasSuffix(line, "\r\n") {
			t.Errorf("line %d does not end as RFC 4180 wants it: %q", i+1, line)
		}
	}
}

func TestHostileJSON(t *testing.T) {
	b := hostile(t)
	var out struct {
		ClientOrgID, Name string
		Models            []struct{ Model string }
	}
	text := b.written(JSON, Request{})
	if err := json.Unmarshal([]byte(strings.ReplaceAll(text, `"client_org_id"`, `"clientorgid"`)), &out); err != nil {
		t.Fatal(err)
	}
	if out.ClientOrgID != `=<i>1</i>/../x` || len(out.Models) != len(evilNames) || strings.Count(text, "\n") != 1 {
		t.Errorf("%+v in %d lines", out, strings.Count(text, "\n"))
	}
}

func TestHostileText(t *testing.T) {
	b := hostile(t)
	text := b.written(Text, Request{For: Owner})
	golden(t, "hostile.txt", text)
	for _, r := range text {
		if r != '\n' && (unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r)) {
			t.Errorf("%q moves the cursor", r)
		}
	}
	if !strings.Contains(text, "�[2J�]0;title�gone") {
		t.Error("a name is lost")
	}
}
