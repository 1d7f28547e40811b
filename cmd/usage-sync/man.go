package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"
)

// manCmd writes the manual page from what --help prints, so that neither can fall behind the other. There is a
// library for that (mango-kong), but it knows no exit codes, environment variables or hidden flags.
type manCmd struct{}

func (*manCmd) Help() string {
	return "Prints the manual page, in the language of man(7). It is dated by --now."
}

// ExitHelp lists the exit codes.
func (*manCmd) ExitHelp() string { return exitHelp(exitOK, exitUsage) }

// Run prints the page.
func (*manCmd) Run(a *app, parsed *kong.Context) error {
	m := &manual{Writer: a.stdout}
	app := parsed.Model
	m.line(`.TH USAGE\-SYNC 1 "%s" "%s" "User Commands"`, a.now().UTC().Format(time.DateOnly),
		roff("usage-sync "+version()))
	m.line(".nh\n.ad l") // names of variables are not to be hyphenated
	m.section("NAME")
	m.line(`usage\-sync \- record what organisations use of OpenRouter, exactly once`)
	m.section("SYNOPSIS")
	m.line(`.B usage\-sync`)
	m.line(`[\fIcommand\fR] [\fIflags\fR]`)
	m.section("DESCRIPTION")
	m.text(app.Help + "\n\nWithout a command, sync makes one pass. A flag beats its environment variable, " +
		"which beats the default; an empty " +
		"variable counts as none.")
	m.section("FLAGS OF EVERY COMMAND")
	m.flags(app.Flags)
	m.section("COMMANDS")
	commands := slices.DeleteFunc(slices.Clone(app.Children), func(n *kong.Node) bool { return n.Hidden })
	for _, command := range commands {
		m.command(command)
	}
	m.section("EXIT STATUS")
	m.exitStatus(commands)
	m.section("ENVIRONMENT")
	m.environment(append([]*kong.Node{app.Node}, commands...))
	m.section("FILES")
	m.item("/app/backend/data/webui.db", "The database, as the container sees it; on the host it lies in the "+
		"container's volume. Next to it, "+
		"with .usage-sync.lock behind its name, is the lock file of its passes. It is never removed.")
	m.item("/etc/usage-sync/CONTAINER.env", "Settings of the systemd units of a container: environment "+
		"variables. 'usage-sync discover --write' makes it.")
	m.item("/etc/usage-sync/management-key", "OpenRouter's management key, mode 0600: the units hand it to "+
		"passes as a credential.")
	m.section("EXAMPLES")
	m.examples(commands)
	m.section("SEE ALSO")
	m.line(`\fBsystemd.timer\fR(5), \fBcrontab\fR(5), \fBsysexits.h\fR(3head)`)
	return nil
}

// manual writes man(7).
type manual struct{ io.Writer }

func (m *manual) line(format string, args ...any) { fmt.Fprintf(m, format+"\n", args...) }

func (m *manual) section(title string) { m.line(".SH %s", roff(title)) }

// text writes the paragraphs below a heading.
func (m *manual) text(text string) {
	for n, paragraph := range strings.Split(strings.TrimSpace(text), "\n\n") {
		if n > 0 {
			m.line(".PP")
		}
		m.line("%s", roff(paragraph))
	}
}

// item writes a term and its explanation.
func (m *manual) item(term, text string) { m.line(".TP\n.B %s\n%s", roff(term), roff(text)) }

func (m *manual) command(n *kong.Node) {
	m.line(".SS %s", roff(n.Summary()))
	m.text(n.Help + "\n\n" + n.Detail)
	for _, p := range n.Positional {
		m.item(p.Summary(), p.Help)
	}
	m.flags(n.Flags)
}

func (m *manual) flags(flags []*kong.Flag) {
	for _, f := range flags {
		if f.Hidden {
			continue
		}
		name := "--" + f.Name
		if f.Short != 0 {
			name = fmt.Sprintf("-%c, %s", f.Short, name)
		}
		text := f.Help
		if !f.IsBool() && !f.IsCounter() {
			name += "=" + strings.Trim(f.FormatPlaceHolder(), `"`)
			if f.HasDefault && f.Default != "" {
				text += fmt.Sprintf(" Default: %s.", f.Default)
			}
		}
		if len(f.Envs) > 0 {
			text += fmt.Sprintf(" Environment: %s.", strings.Join(f.Envs, ", "))
		}
		m.item(name, text)
	}
}

// exitStatus writes what the exit codes mean, and which commands have meanings of their own.
func (m *manual) exitStatus(commands []*kong.Node) {
	for _, code := range slices.Sorted(maps.Keys(exitMeanings)) {
		m.item(exitLabel(code), exitMeanings[code])
	}
	general := map[string]bool{}
	for code, meaning := range exitMeanings {
		general[exitLabel(code)+" "+meaning] = true
	}
	for _, n := range commands {
		command, ok := n.Target.Addr().Interface().(interface{ ExitHelp() string })
		if !ok {
			continue
		}
		first := true
		for _, line := range strings.Split(command.ExitHelp(), "\n")[1:] {
			code, meaning, _ := strings.Cut(strings.TrimSpace(line), " ")
			if meaning = strings.TrimSpace(meaning); general[code+" "+meaning] {
				continue
			}
			if first {
				m.line(".PP\nFor %s:", roff(n.Name))
				first = false
			}
			m.item(code, meaning)
		}
	}
}

// examples writes each command's.
func (m *manual) examples(commands []*kong.Node) {
	for _, n := range commands {
		for _, e := range examples[n.Name] {
			m.line(".TP\n.B %s\n%s", strings.ReplaceAll(roff(e.line), "\n", " "), roff(e.meaning))
		}
	}
}

// environment says which flag each variable stands for.
func (m *manual) environment(nodes []*kong.Node) {
	meaning := map[string]string{}
	var names []string
	for _, n := range nodes {
		for _, f := range n.Flags {
			for _, env := range f.Envs {
				if meaning[env] == "" {
					names = append(names, env)
					meaning[env] = "The same as --" + f.Name + "."
					if f.Hidden {
						meaning[env] = f.Help
					}
				}
			}
		}
	}
	for _, name := range names {
		m.item(name, meaning[name])
	}
	for _, secret := range []string{"OPENROUTER_MANAGEMENT_KEY", "WEBUI_SECRET_KEY",
		"USAGE_SYNC_WEBHOOK_SECRET", "USAGE_SYNC_API_TOKEN"} {
		m.item(secret+", "+secret+"_FILE", "A secret, or the file that holds it.")
	}
	m.item("HTTPS_PROXY, NO_PROXY", "As everywhere.")
}

// roff breaks a text into lines and escapes it: a dash is no hyphen, a backslash and a dot that starts a line are no
// requests.
func roff(text string) string {
	const width = 72
	column := 0
	var broken strings.Builder
	for n, word := range strings.Fields(text) {
		switch column += 1 + len(word); {
		case n == 0:
		case column > width:
			broken.WriteByte('\n')
			column = len(word)
		default:
			broken.WriteByte(' ')
		}
		broken.WriteString(word)
	}
	text = broken.String()
	// Not every terminal can show the signs of doctor.
	text = strings.NewReplacer(`\`, `\e`, `-`, `\-`, `"`, `\(dq`, "✓", "[ok]", "✗", "[failed]", "–",
		`\(en`, "→", `\(->`).Replace(text)
	var out strings.Builder
	for i, r := range text {
		switch {
		case (r == '.' || r == '\'') && (i == 0 || text[i-1] == '\n'):
			out.WriteString(`\&`)
			out.WriteRune(r)
		case r > '~':
			fmt.Fprintf(&out, `\[u%04X]`, r)
		default:
			out.WriteRune(r)
		}
	}
	return out.String()
}
