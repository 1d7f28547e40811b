package main

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/alecthomas/kong"
	"golang.org/x/tools/txtar"
)

// TestPages: what the pages of this repository mention exists, and what they show is what a script has seen. With -update
// it writes the sessions anew.
func TestPages(t *testing.T) {
	const root = "../.."
	known := readKnown(t, root)
	for _, path := range pagePaths(t, root) {
		t.Run(path, func(t *testing.T) {
			p := readPage(t, filepath.Join(root, path))
			p.checkLinks(t)
			p.checkMentions(t, known)
			p.checkSessions(t)
		})
	}
}

// pagePaths returns the pages, relative to the root.
func pagePaths(t *testing.T, root string) []string {
	var paths []string
	err := fs.WalkDir(os.DirFS(root), ".", func(path string, entry fs.DirEntry, err error) error {
		if entry != nil && entry.IsDir() && (entry.Name() == "bin" || entry.Name() == "node_modules" || entry.Name() == ".git") {
			return fs.SkipDir
		}
		if strings.HasSuffix(path, ".md") {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// page is a page in Markdown.
type page struct {
	path     string
	lines    []string
	prose    string          // without its fenced blocks
	headings map[string]bool // their anchors
	blocks   []block
}

// block is what stands between two fences.
type block struct {
	start    int    // index of its first line in the page
	language string // behind the opening fence
	indent   string // before both fences
	session  string // the script that the comment above names
	lines    []string
}

var (
	fence     = regexp.MustCompile("^( *)```(.*)$")
	heading   = regexp.MustCompile(`^#+ (.*)$`)
	sessionOf = regexp.MustCompile(`^ *<!-- session: (\S+) -->$`)
	link      = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	span      = regexp.MustCompile("`([^`\n]+)`")
)

func readPage(t *testing.T, path string) *page {
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	p := &page{path: path, lines: strings.Split(string(text), "\n"), headings: map[string]bool{}}
	var open *block
	var prose strings.Builder
	for i, line := range p.lines {
		found := fence.FindStringSubmatch(line)
		switch {
		case found != nil && open == nil:
			open = &block{start: i + 1, indent: found[1], language: found[2]}
			if above := sessionOf.FindStringSubmatch(p.lines[max(0, i-1)]); above != nil {
				open.session = above[1]
			}
		case found != nil:
			p.blocks, open = append(p.blocks, *open), nil
		case open != nil:
			open.lines = append(open.lines, strings.TrimPrefix(line, open.indent))
		default:
			prose.WriteString(line + "\n")
			if found := heading.FindStringSubmatch(line); found != nil {
				p.headings[anchor(found[1])] = true
			}
		}
	}
	if open != nil {
		t.Fatalf("line %d: a block that does not end", open.start)
	}
	p.prose = prose.String()
	return p
}

// anchor is what forges make of a heading.
func anchor(heading string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
			return unicode.ToLower(r)
		}
		return -1
	}, heading)
}

// checkLinks follows the links to files and to sections.
func (p *page) checkLinks(t *testing.T) {
	for _, found := range link.FindAllStringSubmatch(p.prose, -1) {
		path, section, _ := strings.Cut(found[1], "#")
		target := p
		switch {
		case strings.Contains(path, "://"):
			continue
		case path != "" && filepath.Base(path) != "README.md" && filepath.Ext(path) != ".png" && filepath.Base(p.path) == "README.md":
			t.Errorf("link %s: only the README.md of each place are installed beside each other", found[1])
			continue
		case path != "":
			path = filepath.Join(filepath.Dir(p.path), path)
			if _, err := os.Stat(path); err != nil {
				t.Errorf("link %s: %v", found[1], err)
				continue
			}
			if section != "" {
				target = readPage(t, path)
			}
		}
		if section != "" && !target.headings[section] {
			t.Errorf("link %s: there is no such section", found[1])
		}
	}
}

// known is what a page may mention.
type known struct {
	commands  map[string]map[string]bool // flags by command; those of every command are in each
	flags     map[string]bool            // of any command
	variables map[string]bool
	targets   map[string]bool // of make
}

var (
	variable = regexp.MustCompile(`\b(?:USAGE_SYNC|OPENROUTER)_[A-Z_]*[A-Z]\b`)
	target   = regexp.MustCompile(`(?m)^([a-z0-9-]+):`)
)

func readKnown(t *testing.T, root string) known {
	k := known{map[string]map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]bool{}}
	app := kong.Must(&cli{}, kong.Name("usage-sync")).Model
	for _, node := range append([]*kong.Node{app.Node}, app.Children...) {
		flags := map[string]bool{"help": true}
		for _, flag := range append(slices.Clone(app.Flags), node.Flags...) {
			flags[flag.Name] = true
		}
		k.commands[node.Name] = flags
		maps.Copy(k.flags, flags)
	}
	maps.Copy(k.commands["usage-sync"], k.commands["sync"]) // the default command
	err := fs.WalkDir(os.DirFS(root), ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(filepath.Join(root, path))
		for _, name := range variable.FindAllString(string(text), -1) {
			k.variables[name] = true
			k.variables[name+"_FILE"] = true // secrets have it besides
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	for _, found := range target.FindAllStringSubmatch(string(makefile), -1) {
		k.targets[found[1]] = true
	}
	return k
}

// checkMentions looks up the commands, flags, variables and targets of make that the page mentions.
func (p *page) checkMentions(t *testing.T, k known) {
	for _, name := range variable.FindAllString(strings.Join(p.lines, "\n"), -1) {
		if !k.variables[name] {
			t.Errorf("variable %s: nothing reads it", name)
		}
	}
	for _, found := range span.FindAllStringSubmatch(p.prose, -1) {
		text := found[1]
		if strings.HasPrefix(text, "--") {
			if name := flagName(text); !k.flags[name] {
				t.Errorf("`%s`: no command has this flag", text)
			}
		}
		k.checkLine(t, text)
	}
	for _, b := range p.blocks {
		if b.language != "sh" && b.language != "console" {
			continue
		}
		for _, line := range strings.Split(strings.ReplaceAll(strings.Join(b.lines, "\n"), "\\\n", " "), "\n") {
			if b.language == "console" && !strings.HasPrefix(line, "$ ") {
				continue
			}
			line, _, _ = strings.Cut(line, " #")
			k.checkLine(t, line)
		}
	}
}

// flagName is the name of the flag that an argument sets.
func flagName(arg string) string {
	return regexp.MustCompile(`^[a-z-]*`).FindString(strings.TrimPrefix(arg, "--"))
}

// checkLine looks up what follows "usage-sync" and "make" in a command line.
func (k known) checkLine(t *testing.T, line string) {
	// Quoted texts are arguments, whatever they hold.
	words := strings.Fields(regexp.MustCompile(`"[^"]*"`).ReplaceAllString(line, "QUOTED"))
	for i, word := range words {
		switch strings.TrimLeft(word, "('") {
		case "usage-sync":
			k.checkCommand(t, line, words[i+1:])
		case "make":
			if i == 0 && len(words) > 1 && !strings.Contains(words[1], "=") && !k.targets[words[1]] {
				t.Errorf("%q: make has no target %s", line, words[1])
			}
		}
	}
}

func (k known) checkCommand(t *testing.T, line string, args []string) {
	command, flags := "usage-sync", k.commands["usage-sync"]
	for i, arg := range args {
		if strings.ContainsAny(arg[:1], "|><;&)") {
			return
		}
		switch {
		case i == 0 && regexp.MustCompile(`^[a-z]+$`).MatchString(arg):
			if command, flags = arg, k.commands[arg]; flags == nil {
				t.Errorf("%q: there is no command %s", line, arg)
				return
			}
		case strings.HasPrefix(arg, "--") && !flags[flagName(arg)]:
			t.Errorf("%q: %s has no flag --%s", line, command, flagName(arg))
		}
		if strings.HasSuffix(arg, ";") || strings.HasSuffix(arg, ")") {
			return
		}
	}
}

// checkSessions compares what the page shows of commands with what their script has seen.
func (p *page) checkSessions(t *testing.T) {
	changed := false
	for _, b := range slices.Backward(p.blocks) {
		if b.language != "console" {
			continue
		}
		if b.session == "" {
			t.Errorf("line %d: no comment says which script this session is of", b.start)
			continue
		}
		want := b.seen(t)
		if slices.Equal(want, b.lines) {
			continue
		}
		if !*update {
			t.Errorf("line %d differs from %s (-update writes it anew), want:\n%s", b.start, b.session, strings.Join(want, "\n"))
			continue
		}
		for i := range want {
			want[i] = strings.TrimRight(b.indent+want[i], " ")
		}
		p.lines, changed = slices.Replace(p.lines, b.start, b.start+len(b.lines), want...), true
	}
	if changed {
		if err := os.WriteFile(p.path, []byte(strings.Join(p.lines, "\n")), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// seen returns the block's commands with what its script compares their outputs with.
func (b block) seen(t *testing.T) []string {
	script, err := txtar.ParseFile(filepath.Join("testdata/script", b.session))
	if err != nil {
		t.Fatal(err)
	}
	var shown []string
	for _, line := range b.lines {
		if !strings.HasPrefix(line, "$ ") {
			continue
		}
		shown = append(shown, line)
		output, err := outputOf(script, strings.TrimPrefix(line, "$ "))
		if err != nil {
			t.Fatal(err)
		}
		shown = append(shown, output...)
	}
	return shown
}

// outputOf returns what a script compares the output of a command with, without the blanks at the ends of lines.
func outputOf(script *txtar.Archive, command string) ([]string, error) {
	lines := strings.Split(string(script.Comment), "\n")
	at := slices.IndexFunc(lines, func(line string) bool {
		line = strings.ReplaceAll(line, "'", `"`) // a script quotes with ', a shell may use "
		return line == command || regexp.MustCompile(`^exits \d+ `).ReplaceAllString(line, "") == command
	})
	if at < 0 {
		return nil, fmt.Errorf("the script has no line %q", command)
	}
	var output []string
	for _, line := range lines[at+1:] {
		words := strings.Fields(line)
		if len(words) != 3 || words[0] != "cmp" {
			break
		}
		file := slices.IndexFunc(script.Files, func(f txtar.File) bool { return f.Name == words[2] })
		if file < 0 {
			return nil, fmt.Errorf("the script has no file %s", words[2])
		}
		for _, text := range strings.Split(strings.TrimSuffix(string(script.Files[file].Data), "\n"), "\n") {
			output = append(output, strings.TrimRight(text, " "))
		}
	}
	if output == nil {
		return nil, fmt.Errorf("the script compares no output of %q", command)
	}
	return output, nil
}
