package spreadsheet

import "testing"

func TestGuarded(t *testing.T) {
	for text, want := range map[string]string{
		"":                    "",
		" ":                   " ",
		"openai/gpt-4o":       "openai/gpt-4o",
		"a=1":                 "a=1",
		"\xff\xfe":            "\xff\xfe",
		"=1":                  "'=1",
		"+1":                  "'+1",
		"-1":                  "'-1",
		"@SUM(1)":             "'@SUM(1)",
		"\t=1":                "'\t=1",
		"\r=1":                "'\r=1",
		"\n=1":                "'\n=1",
		" =1":                 "' =1",
		"\u00a0=1":            "'\u00a0=1",
		"\u3000＝HYPERLINK(1)": "'\u3000＝HYPERLINK(1)",
		"\ufeff@x":            "'\ufeff@x",
		"\x00=1":              "'\x00=1",
		"＝1":                  "'＝1",
		"＋1":                  "'＋1",
		"－1":                  "'－1",
		"＠x":                  "'＠x",
	} {
		if got := guarded(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}
