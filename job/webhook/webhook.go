// Package webhook takes in usage that is pushed to us: OpenRouter's Broadcast deliveries, and the guide's own
// payload. It reads a payload, finds out whose usage it is, and records it at the same door of the store as a
// pass.
//
// A delivery may hold whole prompts and completions. Nothing of them is kept: what is read of a payload is what Usage
// has fields for.
package webhook

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/go-json-experiment/json/jsontext"

	"usage-sync/job/openrouter"
	"usage-sync/store"
)

// Usage is one generation of a payload, and what the payload says about whose it is.
type Usage struct {
	store.Generation           // without its Day
	Key              store.Key // the guide's payload: the organisation's own key
	KeyName          string    // Broadcast: what the key is called at OpenRouter
	OrganisationID   string    // known from an earlier delivery, or empty
}

// Payload is what one delivery holds.
type Payload struct {
	Usage   []Usage
	Refused []openrouter.Refusal // what should have been usage and can't be billed as it is
	Ignored int                  // what is not usage: children, failed requests, spans of others
}

var (
	// errJSON: the payload is no JSON, or ends too early.
	errJSON = errors.New("not JSON")
	// ErrShape: the payload is JSON, but neither the guide's payload nor a Broadcast delivery.
	ErrShape = errors.New("neither usage nor a Broadcast delivery")
)

// Decode reads one payload. An empty one is OpenRouter's connection test, and holds nothing. Anything that goes
// wrong with reading itself is returned as it is.
func Decode(r io.Reader) (Payload, error) {
	d := newDecoder(withoutMark(r))
	p, err := d.payload()
	if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && d.json.InputOffset() == 0 {
		return Payload{}, nil
	}
	if err == nil {
		if _, more := d.json.ReadToken(); more != io.EOF {
			err = fmt.Errorf("%w: more after the end of the payload", errJSON)
		}
	}
	if err != nil {
		return Payload{}, asJSON(err)
	}
	return p, nil
}

// withoutMark passes over the byte order mark that some writers begin a text with: a reader of JSON may (RFC
// 8259, 8.1).
func withoutMark(r io.Reader) *bufio.Reader {
	src := bufio.NewReader(r)
	if mark, _ := src.Peek(3); string(mark) == "\uFEFF" {
		_, _ = src.Discard(3)
	}
	return src
}

// asJSON tells errors of the JSON from those of reading it.
func asJSON(err error) error {
	var syntax *jsontext.SyntacticError
	switch {
	case errors.Is(err, errJSON), errors.Is(err, ErrShape):
		return err
	case errors.As(err, &syntax), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return fmt.Errorf("%w: %s", errJSON, openrouter.Plain(err.Error(), ""))
	}
	return err
}

// payload reads one object, whichever of the two it is.
func (d *decoder) payload() (Payload, error) {
	var p Payload
	var g guide
	broadcast := false
	d.shape = nil
	err := d.object(func(name string) error {
		switch {
		case name == "resourceSpans":
			broadcast = true
			return d.resourceSpans(&p)
		case g.knows(name):
			return d.guideField(&g, name)
		}
		g.others++
		return d.json.SkipValue()
	})
	switch {
	case err != nil:
		return Payload{}, err
	case d.shape != nil:
		return Payload{}, d.shape
	case broadcast && g.fields > 0:
		return Payload{}, fmt.Errorf("%w: fields of both", ErrShape)
	case g.fields > 0:
		g.into(&p)
	case !broadcast && g.others > 0:
		return Payload{}, fmt.Errorf("%w: no field is known", ErrShape)
	}
	return p, nil
}

// decoder reads JSON token by token: a payload with its prompts is never in memory as a whole.
type decoder struct {
	json  *jsontext.Decoder
	shape error // the first value that is not what it should be; reading goes on behind it
}

func newDecoder(r io.Reader) *decoder {
	return &decoder{json: jsontext.NewDecoder(r, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))}
}

func (d *decoder) misshapen(want string, kind jsontext.Kind) error {
	if d.shape == nil {
		d.shape = fmt.Errorf("%w: want %s, got %s", ErrShape, want, kind)
	}
	return d.json.SkipValue()
}

// object calls field for each name of an object; field reads or skips the value. Null is an object without fields.
func (d *decoder) object(field func(name string) error) error {
	switch kind := d.json.PeekKind(); kind {
	case 'n':
		return d.json.SkipValue()
	case '{', 0: // 0 is an error, which reading returns
	default:
		return d.misshapen("an object", kind)
	}
	if _, err := d.json.ReadToken(); err != nil {
		return err
	}
	for d.json.PeekKind() != '}' {
		name, err := d.json.ReadToken()
		if err != nil {
			return err
		}
		if err := field(name.String()); err != nil {
			return err
		}
	}
	_, err := d.json.ReadToken()
	return err
}

// array calls item for each value of an array; item reads or skips it. Null is an empty array.
func (d *decoder) array(item func() error) error {
	switch kind := d.json.PeekKind(); kind {
	case 'n':
		return d.json.SkipValue()
	case '[', 0:
	default:
		return d.misshapen("an array", kind)
	}
	if _, err := d.json.ReadToken(); err != nil {
		return err
	}
	for d.json.PeekKind() != ']' {
		if err := item(); err != nil {
			return err
		}
	}
	_, err := d.json.ReadToken()
	return err
}

// value is a scalar of a payload.
type value struct {
	kind jsontext.Kind // 0: an object or an array
	text string        // a string without quotes, or a number as it is written
	long bool          // too long for anything that is read; text is where it begins
}

func (v value) given() bool { return v.kind != 'n' && (v.kind != '"' || v.text != "" || v.long) }

// scalar reads a value. Long texts are prompts and completions: they stay where they are.
func (d *decoder) scalar() (value, error) {
	kind := d.json.PeekKind()
	if kind == '{' || kind == '[' {
		return value{}, d.json.SkipValue()
	}
	raw, err := d.json.ReadValue()
	if err != nil {
		return value{}, err
	}
	v := value{kind: raw.Kind()}
	const escaped = 6 // bytes that one character may take
	switch {
	case len(raw) > escaped*openrouter.MaxText:
		v.long = true
		if v.kind == '"' {
			v.text = beginning(raw[:escaped*openrouter.MaxText])
		}
	case v.kind == '"':
		text, _ := jsontext.AppendUnquote(nil, raw) // replaces what is no UTF-8
		v.text = string(text)
	default:
		v.text = string(raw)
	}
	return v, nil
}

// beginning returns the text with which a cut JSON text begins.
func beginning(raw []byte) string {
	// an escape, or one of two that are one character, may be cut
	if at := bytes.LastIndexByte(raw, '\\'); at > len(raw)-12 {
		raw = raw[:at]
	}
	text, _ := jsontext.AppendUnquote(nil, append(raw[:len(raw):len(raw)], '"')) // as far as it goes
	return string(text)
}

var (
	errNotText   = errors.New("is not a text")
	errNotTime   = errors.New("is not a time")
	errNotNumber = errors.New("is not a number")
	errTooLong   = fmt.Errorf("is longer than %d bytes", openrouter.MaxText)
)

// asText returns a text that may be an id, a model or a user.
func (v value) asText() (string, error) {
	switch {
	case v.long:
		return "", errTooLong
	case v.kind != '"' && v.kind != '0':
		return "", errNotText
	}
	if err := openrouter.CheckText(v.text); err != nil {
		return "", err
	}
	return v.text, nil
}

// asLabel returns a text as a label: a charge is never held hostage to one. What is neither a text nor a number
// is none.
func (v value) asLabel() string {
	if v.kind != '"' && v.kind != '0' {
		return ""
	}
	return openrouter.Label(v.text)
}

// asNumber returns the text of a number, or of a string that should hold one.
func (v value) asNumber() (string, error) {
	if v.long || (v.kind != '0' && v.kind != '"') {
		return "", errNotNumber
	}
	return v.text, nil
}

func (v value) asCost() (store.Money, error) {
	text, err := v.asNumber()
	if err != nil {
		return 0, err
	}
	return openrouter.ParseCost(text)
}

func (v value) asTokens() (int64, error) {
	text, err := v.asNumber()
	if err != nil {
		return -1, err
	}
	return openrouter.ParseTokens(text)
}
