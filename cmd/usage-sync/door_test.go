package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestDoor(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"plain":               {"Acme GmbH: 37 neu, 0,11 €\n✓ → –\tx\r\n", "Acme GmbH: 37 neu, 0,11 €\n✓ → –\tx\r\n"},
		"an escape":           {"a\x1b[2Jb\x1b]0;title\x07", `a\u001b[2Jb\u001b]0;title\u0007`},
		"a colour of a value": {"\x1b[31mERROR", `\u001b[31mERROR`},
		"a return":            {"forged\rINFO", `forged\u000dINFO`},
		"backspace":           {"a\b\x7f", `a\u0008\u007f`},
		"C1":                  {"a\u009b2Jb", `a\u009b2Jb`},
		"reversed":            {"\u202egnp.exe", `\u202egnp.exe`},
		"zero width":          {"a\u200bb\u2066\ufeff", `a\u200bb\u2066\ufeff`},
		"beyond the plane":    {"\U000e0041", `\udb40\udc41`},
		"a line's end":        {"a\u2028b", `a\u2028b`},
		"no text":             {"a\xff\xc3(", "a\uFFFD\uFFFD("},
		"a byte order mark":   {"\ufeffclient", "\ufeffclient"},
		"a key":               {"key sk-or-v1-0123456789abcdef0123 and", "key sk-or-v1-012... and"},
		"a short form":        {"key sk-or-v1-012... and", "key sk-or-v1-012... and"},
		"in an argument":      {`unknown flag --sk-or-v1-0123456789abcdef`, `unknown flag --sk-or-v1-012...`},
		"no key":              {"task-force-of-many-people disk-usage-of-a-volume", "task-force-of-many-people disk-usage-of-a-volume"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			d := newDoor(&out)
			if n, err := d.Write([]byte(c.text)); n != len(c.text) || err != nil {
				t.Errorf("%d of %d, %v", n, len(c.text), err)
			}
			if out.String() != c.want {
				t.Errorf("got %q, want %q", out.String(), c.want)
			}
		})
	}
	var out bytes.Buffer
	d := &door{Writer: &out, colours: true}
	_, _ = d.Write([]byte("\x1b[1;31mred\x1b[0m \x1b[2J\x1b[31"))
	if want := "\x1b[1;31mred\x1b[0m " + `\u001b[2J\u001b[31`; out.String() != want {
		t.Errorf("a terminal gets %q, want %q", out.String(), want)
	}
	// In JSON what goes out is the same text.
	for _, name := range []string{"\u202eevil\u200d\U000e0041", "\x1b[2J", "👩‍💻", "plain"} {
		out.Reset()
		d := newDoor(&out)
		if err := printJSON(d, map[string]string{"name": name}); err != nil {
			t.Fatal(err)
		}
		var back map[string]string
		if err := json.Unmarshal(out.Bytes(), &back); err != nil || back["name"] != name {
			t.Errorf("%q came back as %q, %v", name, back["name"], err)
		}
	}
}

func FuzzDoor(f *testing.F) {
	f.Add("a\x1b[2J\u202e\r\n sk-or-v1-0123456789abcdef0123")
	f.Fuzz(func(t *testing.T, text string) {
		var out bytes.Buffer
		d := newDoor(&out)
		if n, err := d.Write([]byte(text)); n != len(text) || err != nil {
			t.Fatal(n, err)
		}
		got := strings.ReplaceAll(strings.TrimPrefix(out.String(), "\ufeff"), "\r\n", "\n")
		if !utf8.ValidString(got) || keyLike().MatchString(got) || strings.ContainsFunc(got, func(r rune) bool { return r != '\n' && r != '\t' && hidden(r) }) {
			t.Errorf("%q goes out as %q", text, got)
		}
	})
}
