package main

import (
	"bytes"
	"regexp"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// TestExamples: every command has at least three examples, of flags and commands that exist.
func TestExamples(t *testing.T) {
	known := readKnown(t, "../..")
	for _, name := range commandNames() {
		if len(examples[name]) < 3 {
			t.Errorf("%s has %d examples, want three or more", name, len(examples[name]))
		}
		for _, e := range examples[name] {
			known.checkLine(t, e.line)
		}
	}
}

// TestHelpEndsWithExitCodes: every verb's help ends with its exit codes.
func TestHelpEndsWithExitCodes(t *testing.T) {
	line := regexp.MustCompile(`^(  (\d+|128\+n) +| {9})\S.{0,70}$`)
	verbs := []string{""}
	for _, command := range kong.Must(&cli{}).Model.Leaves(false) {
		verbs = append(verbs, command.Name)
	}
	for _, verb := range verbs {
		t.Run(verb, func(t *testing.T) {
			var out, log bytes.Buffer
			if code := run(append(strings.Fields(verb), "--help"), nil, &out, &log); code != exitOK || log.Len() > 0 {
				t.Fatalf("exit %d: %s", code, log.String())
			}
			_, codes, found := strings.Cut(out.String(), "\nExit codes:\n")
			if !found {
				t.Fatalf("no exit codes in:\n%s", out.String())
			}
			for _, text := range strings.Split(strings.TrimSuffix(codes, "\n"), "\n") {
				if !line.MatchString(text) {
					t.Errorf("%q comes after the exit codes, or is wider than 80 columns", text)
				}
			}
		})
	}
}
