package table

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWrite(t *testing.T) {
	rows := [][]string{
		{"", "TOKENS", "COST", ""},
		{"a model with a name that is long", "1,000", "$1.00", "of $5.00"},
		{"日本", "7", "$0.10", ""},
	}
	for _, c := range []struct {
		name, align, want string
		width             int
	}{
		{"wide", "crrl", "" +
			"                                  TOKENS   COST\n" +
			"a model with a name that is long   1,000  $1.00  of $5.00\n" +
			"日本                                   7  $0.10\n", 100},
		{"narrow", "crrl", "" +
			"           TOKENS   COST\n" +
			"a model …   1,000  $1.00  of $5.00\n" +
			"日本            7  $0.10\n", 20},
		{"the last column counts where it is to the right", "crrr", "" +
			"            TOKENS   COST\n" +
			"a model w…   1,000  $1.00  of $5.00\n" +
			"日本             7  $0.10\n", 35},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got strings.Builder
			if err := Write(&got, c.width, c.align, rows); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got.String()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestOneLine: no text makes a line of its own, whatever line breaks it holds.
func TestOneLine(t *testing.T) {
	var got strings.Builder
	if err := Write(&got, 100, "ll", [][]string{{"a\r\nb", "c\nd"}, {"e\rf", "g\th"}}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("a b  c d\ne f  g h\n", got.String()); diff != "" {
		t.Error(diff)
	}
}

func TestWrap(t *testing.T) {
	if got, want := Wrap("one two  three\nfour", 9), "one two\nthree\nfour"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
