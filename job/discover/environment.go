package discover

import (
	"regexp"
	"strings"
	"sync"
)

// variableName is what systemd takes for the name of a variable (systemd.exec(5), Environment=). A line "export NAME=…"
// has none, and is passed over.
var variableName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`) })

const (
	blanks   = " \t\n\r"
	newlines = "\n\r"
)

// ReadEnvironment reads the text of an EnvironmentFile= as systemd does: src/basic/env-file.c of systemd 257, against
// which a test holds it. It also returns the names that systemd does not take for variables.
func ReadEnvironment(text string) (values map[string]string, ignored []string) {
	values = map[string]string{}
	for rest := text; rest != ""; {
		rest = strings.TrimLeft(rest, blanks)
		if rest == "" {
			break
		}
		if strings.ContainsRune("#;", rune(rest[0])) {
			_, rest = cutLine(rest)
			continue
		}
		end := strings.IndexAny(rest, "="+newlines)
		if end < 0 {
			break
		}
		name := strings.TrimRight(rest[:end], blanks)
		if rest[end] != '=' { // a line without one
			rest = rest[end+1:]
			continue
		}
		var value string
		value, rest = readValue(rest[end+1:])
		if variableName().MatchString(name) {
			values[name] = value
		} else {
			ignored = append(ignored, name)
		}
	}
	return values, ignored
}

// cutLine cuts a comment off. A backslash does not continue it (since systemd 254).
func cutLine(text string) (line, rest string) {
	end := strings.IndexAny(text, newlines)
	if end < 0 {
		return text, ""
	}
	return text[:end], text[end+1:]
}

// readValue reads a value to the end of its line: parts in quotes, and one without to the end of the line.
func readValue(text string) (value, rest string) {
	var out strings.Builder
	for {
		text = strings.TrimLeft(text, " \t")
		if text == "" {
			return out.String(), ""
		}
		switch c := text[0]; {
		case strings.ContainsRune(newlines, rune(c)):
			return out.String(), text[1:]
		case c == '\'':
			quoted, after, _ := strings.Cut(text[1:], "'")
			out.WriteString(quoted)
			text = after
		case c == '"':
			text = readDoubleQuoted(&out, text[1:])
		default:
			plain, after := readPlain(text)
			return out.String() + plain, after
		}
	}
}

// readDoubleQuoted reads up to the closing quote, and returns what follows it.
func readDoubleQuoted(out *strings.Builder, text string) (rest string) {
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"':
			return text[i+1:]
		case c != '\\':
			out.WriteByte(c)
		case i+1 < len(text):
			i++
			if !strings.ContainsRune("\"\\`$", rune(text[i])) && text[i] != '\n' {
				out.WriteByte('\\')
			}
			if text[i] != '\n' {
				out.WriteByte(text[i])
			}
		}
	}
	return ""
}

// readPlain reads to the end of the line. A backslash takes the next character as it is, or joins the next line.
func readPlain(text string) (value, rest string) {
	var out strings.Builder
	kept := 0 // bytes that blanks at the end do not belong to
	i := 0
	for ; i < len(text) && !strings.ContainsRune(newlines, rune(text[i])); i++ {
		escaped := text[i] == '\\'
		if escaped {
			if i++; i >= len(text) {
				break
			}
			kept = out.Len()
			if strings.ContainsRune(newlines, rune(text[i])) {
				continue
			}
		}
		out.WriteByte(text[i])
		if escaped || !strings.ContainsRune(blanks, rune(text[i])) {
			kept = out.Len()
		}
	}
	return out.String()[:kept], text[min(i+1, len(text)):]
}

// quoteEnvironment writes a value as ReadEnvironment and systemd read it, and a shell in a file that it sources.
func quoteEnvironment(value string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `$`, `\$`, "`", "\\`").Replace(value) + `"`
}
