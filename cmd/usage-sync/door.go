package main

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"sync"
	"sync/atomic"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// door is what everything that is printed or logged passes. Names and models come from databases and the net:
// none of them moves a cursor, reverses what stands beside it or forges a key's absence. Control and format
// characters go out as \u202e, which in JSON is the same text, and what looks like a key is cut. A terminal
// gets the colours that commands give it.
type door struct {
	io.Writer
	colours bool
	begun   atomic.Bool
}

// newDoor returns the door to a stream.
func newDoor(w io.Writer) *door { return &door{Writer: w, colours: isTerminal(w)} }

// keyLike is what a key looks like, but for one that is shortened already.
var keyLike = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`\bsk-[A-Za-z0-9_-]{16,}`) })

// shownOfKey is how much of a key may be seen: as store.Key shows it.
const shownOfKey = 12

// Write tells of p as a whole, also where something else was written in its place.
func (d *door) Write(p []byte) (int, error) {
	text := p
	if bytes.Contains(text, []byte("sk-")) {
		text = keyLike().ReplaceAllFunc(text, func(key []byte) []byte { return append(bytes.Clone(key[:shownOfKey]), "..."...) })
	}
	if !d.clean(text) {
		text = d.cleaned(text)
	}
	if len(p) > 0 {
		d.begun.Store(true)
	}
	if n, err := d.Writer.Write(text); err != nil {
		return min(n, len(p)), err
	}
	return len(p), nil
}

// clean tells whether a text may go out as it is.
func (d *door) clean(text []byte) bool {
	for i, c := range text {
		if c >= utf8.RuneSelf {
			return d.cleanRunes(text[i:])
		}
		if c < ' ' && c != '\n' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

func (d *door) cleanRunes(text []byte) bool {
	return !bytes.ContainsFunc(text, func(r rune) bool { return r != '\n' && r != '\t' && hidden(r) }) &&
		utf8.Valid(text)
}

// hidden tells of a character that is not seen, or changes how others are seen.
func hidden(r rune) bool {
	return unicode.Is(unicode.Cc, r) || unicode.Is(unicode.Cf, r) || r == '\u2028' || r == '\u2029'
}

func (d *door) cleaned(text []byte) []byte {
	var out bytes.Buffer
	for rest := text; len(rest) > 0; {
		r, size := utf8.DecodeRune(rest)
		switch colour := colourAt(rest); {
		case colour > 0 && d.colours:
			size = colour
			out.Write(rest[:size])
		case r == '\n' || r == '\t' || r == '\r' && bytes.HasPrefix(rest, []byte("\r\n")),
			r == '\ufeff' && !d.begun.Load() && len(rest) == len(text): // the mark that a table begins with
			out.Write(rest[:size])
		case hidden(r) && r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&out, `\u%04x\u%04x`, high, low)
		case hidden(r):
			fmt.Fprintf(&out, `\u%04x`, r)
		default:
			out.WriteRune(r) // U+FFFD for what is no text
		}
		rest = rest[size:]
	}
	return out.Bytes()
}

// colourAt returns the length of the sequence that sets a colour, at the start of a text; 0 for none.
func colourAt(text []byte) int {
	if !bytes.HasPrefix(text, []byte("\x1b[")) {
		return 0
	}
	for i := 2; i < len(text); i++ {
		switch c := text[i]; {
		case c == 'm':
			return i + 1
		case (c < '0' || c > '9') && c != ';':
			return 0
		}
	}
	return 0
}
