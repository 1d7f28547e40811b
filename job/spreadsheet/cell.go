package spreadsheet

import (
	"strings"
	"unicode/utf8"
)

// guarded returns a text that a spreadsheet shows as it is. One that it would take for a formula gets an
// apostrophe before it (https://owasp.org/www-community/attacks/CSV_Injection): =, +, - and @ begin one, also
// as full-width signs and behind what is not to be seen, and so do tab, carriage return and line feed.
func guarded(text string) string {
	const invisible = " \u00a0\u3000\ufeff\x00"
	first, _ := utf8.DecodeRuneInString(strings.TrimLeft(text, invisible))
	if strings.ContainsRune("=+-@\t\r\n＝＋－＠", first) {
		return "'" + text
	}
	return text
}
