package main

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// asFlags turns what other programs take for commands into the flags that say the same: help, help COMMAND and version.
func asFlags(args []string) []string {
	switch {
	case len(args) > 0 && args[0] == "help":
		return append(slices.Clone(args[1:]), "--help")
	case len(args) == 1 && args[0] == "version":
		return []string{"--version"}
	}
	return args
}

// advise adds to an error of the command line what was probably meant.
func advise(err error, parsed *kong.Context, args []string) error {
	word, unexpected := strings.CutPrefix(err.Error(), "unexpected argument ")
	if !unexpected || len(args) == 0 {
		return err
	}
	if args[0] == word { // where a command stands
		if near := nearest(word, append(commandNames(), "help", "version")); near != "" {
			return fmt.Errorf("unknown command %s, did you mean %q?", word, near)
		}
		return fmt.Errorf("unknown command %s; an organisation is chosen by --org %s", word, word)
	}
	for _, meant := range []struct {
		flag string
		form *regexp.Regexp
	}{
		{"month", regexp.MustCompile(`^\d{4}-\d{2}$`)},
		{"from", regexp.MustCompile(`^\d{4}-\d{2}-\d{2}$`)},
		{"org", regexp.MustCompile(`.`)},
	} {
		if meant.form.MatchString(word) && hasFlag(parsed, meant.flag) {
			return fmt.Errorf("unexpected argument %s, did you mean --%s %s?", word, meant.flag, word)
		}
	}
	return err
}

// hasFlag tells whether the chosen command has a flag of its own.
func hasFlag(parsed *kong.Context, name string) bool {
	node := parsed.Selected()
	return node != nil && slices.ContainsFunc(node.Flags, func(f *kong.Flag) bool { return f.Name == name && !f.Hidden })
}

// commandNames are the commands that help lists.
func commandNames() (names []string) {
	all := reflect.TypeFor[commands]()
	for i := range all.NumField() {
		if _, hidden := all.Field(i).Tag.Lookup("hidden"); !hidden {
			names = append(names, nameOf(all.Field(i)))
		}
	}
	return names
}

// nearest is the name that a word is most probably a misspelling of, or an abbreviation; empty where it is none.
func nearest(word string, names []string) string {
	const most = 2 // letters more, less, other or swapped
	best, least := "", most+1
	for _, name := range names {
		d := distance(word, name)
		if strings.HasPrefix(name, word) {
			d = min(d, 1)
		}
		if d < least && d < len(word) {
			best, least = name, d
		}
	}
	return best
}

// distance is how many letters have to be added, removed, replaced or swapped with the next one to make b of a (optimal
// string alignment).
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
		for j := 1; j <= len(b); j++ {
			if i == 0 {
				rows[i][j] = j
				continue
			}
			other := 1
			if a[i-1] == b[j-1] {
				other = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+other)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
