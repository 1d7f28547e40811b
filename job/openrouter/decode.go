package openrouter

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"usage-sync/store"
)

// Refusal is a row that can't be billed as it is.
type Refusal struct {
	ID        string    // or where the row stands, if it has none
	CreatedAt time.Time // zero where it is not known
	Reason    string

	row int
}

func (r Refusal) String() string { return fmt.Sprintf("generation %s: %s", r.ID, r.Reason) }

const (
	// maxNumber is the largest number that is taken for a count of tokens.
	maxNumber = 1e15
	// maxCost is the largest cost of one generation that is taken for one.
	maxCost = 1_000_000 * store.Dollar
	// MaxText bounds ids, models and users, in bytes.
	MaxText = 512
)

// decodePage reads {"data":[generation, …]}. Anything that is not the whole of such an answer is ErrAnswer; a single row
// that can't be trusted is refused, and those around it are kept.
func decodePage(body io.Reader) (page Page, err error) {
	d := newDecoder(body)
	err = d.answer(func() error {
		return d.array(func(i int) error {
			g, refused, err := d.row()
			switch {
			case err != nil:
				return err
			case refused != "":
				page.Refused = append(page.Refused, Refusal{ID: g.ID, CreatedAt: g.CreatedAt, Reason: refused, row: i})
			default:
				page.Generations = append(page.Generations, g)
			}
			return nil
		})
	})
	if err != nil {
		return Page{}, err
	}
	return page, nil
}

// decodeGeneration reads {"data":generation}.
func decodeGeneration(body io.Reader) (g store.Generation, err error) {
	d := newDecoder(body)
	err = d.answer(func() error {
		var refused string
		g, refused, err = d.row()
		if err == nil && refused != "" {
			err = fmt.Errorf("%w: generation %s: %s", ErrAnswer, g.ID, refused)
		}
		return err
	})
	return g, err
}

type decoder struct {
	json *jsontext.Decoder
	seen map[string]string // models and users recur: one copy of each
}

func newDecoder(body io.Reader) decoder {
	return decoder{
		json: jsontext.NewDecoder(body, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)),
		seen: map[string]string{},
	}
}

// answer reads {"data":…} to the end of the body; data reads the value. Whatever is wrong with it is ErrAnswer.
func (d *decoder) answer(data func() error) error {
	err := d.envelope(data)
	if err != nil && !errors.Is(err, ErrAnswer) {
		err = fmt.Errorf("%w: not the expected JSON: %w", ErrAnswer, err)
	}
	return err
}

func (d *decoder) envelope(data func() error) error {
	found := false
	err := d.object(func(name []byte) error {
		switch string(name) {
		case `"data"`:
			if found {
				return fmt.Errorf("%w: two fields named data", ErrAnswer)
			}
			found = true
			return data()
		case `"error"`:
			value, err := d.json.ReadValue()
			if err == nil && value.Kind() != 'n' {
				err = fmt.Errorf("%w: an error in an answer with a status of success: %s", ErrAnswer, plain(string(value), ""))
			}
			return err
		}
		return d.json.SkipValue()
	})
	switch {
	case err != nil:
		return err
	case !found:
		return fmt.Errorf("%w: no field named data", ErrAnswer)
	}
	if _, err := d.json.ReadToken(); err != io.EOF {
		return fmt.Errorf("%w: more after the end of the JSON", ErrAnswer)
	}
	return nil
}

// object calls field with each name, in quotes; field reads the value. The name is good until then. A text of its own for
// each of fifty names a row would cost more than all the rest. A name that is spelled with escapes is an unknown one.
func (d *decoder) object(field func(name []byte) error) error {
	if err := d.expect('{'); err != nil {
		return err
	}
	for d.json.PeekKind() != '}' {
		name, err := d.json.ReadValue()
		if err != nil {
			return err
		}
		if err := field(name); err != nil {
			return err
		}
	}
	return d.expect('}')
}

// array calls element with each index; element reads the value.
func (d *decoder) array(element func(i int) error) error {
	if err := d.expect('['); err != nil {
		return err
	}
	for i := 0; d.json.PeekKind() != ']'; i++ {
		if err := element(i); err != nil {
			return err
		}
	}
	return d.expect(']')
}

func (d *decoder) expect(kind jsontext.Kind) error {
	token, err := d.json.ReadToken()
	if err == nil && token.Kind() != kind {
		err = fmt.Errorf("%w: want %s, got %s", ErrAnswer, kind, token.Kind())
	}
	return err
}

// tokenCounts are the fields of a row that count tokens; -1 is absent.
type tokenCounts struct {
	total, nativePrompt, nativeCompletion, prompt, completion int64
}

// tokens follows the order of trust: what the server itself totals, else what the provider counted, else OpenRouter's
// normalised count (https://openrouter.ai/docs/api-reference/get-a-generation).
func (c tokenCounts) tokens() int64 {
	switch {
	case c.total >= 0:
		return c.total
	case c.nativePrompt >= 0 || c.nativeCompletion >= 0:
		return max(0, c.nativePrompt) + max(0, c.nativeCompletion)
	}
	return max(0, c.prompt) + max(0, c.completion)
}

// row reads one generation. Refused is why it can't be trusted; err means that the whole answer can't.
func (d *decoder) row() (g store.Generation, refused string, err error) {
	if kind := d.json.PeekKind(); kind != '{' {
		value, err := d.json.ReadValue()
		return g, "not an object but " + plain(string(value), ""), err
	}
	counts := tokenCounts{-1, -1, -1, -1, -1}
	var user string // of compatible lists
	met, refused, err := d.scalars(rowFields, func(field int, token jsontext.Token) (problem error) {
		switch field {
		case fieldID:
			g.ID, problem = text(token)
		case fieldCreatedAt:
			g.CreatedAt, problem = instant(token)
		case fieldModel:
			g.Model, problem = d.recurring(token)
		case fieldExternalUser:
			g.User, problem = d.recurring(token)
		case fieldUser:
			user, problem = d.recurring(token)
		case fieldCost:
			g.Cost, problem = cost(token)
		case fieldTotalTokens:
			counts.total, problem = tokenCount(token)
		case fieldNativePrompt:
			counts.nativePrompt, problem = tokenCount(token)
		case fieldNativeCompletion:
			counts.nativeCompletion, problem = tokenCount(token)
		case fieldPrompt:
			counts.prompt, problem = tokenCount(token)
		case fieldCompletion:
			counts.completion, problem = tokenCount(token)
		}
		return problem
	})
	if err != nil {
		return g, "", err
	}
	g.User = cmp.Or(g.User, user)
	g.Tokens = counts.tokens()
	switch {
	case refused != "":
	case g.ID == "":
		refused = "no id"
	case g.CreatedAt.IsZero():
		refused = "no created_at"
	case met&fieldCost == 0:
		refused = "no total_cost"
	case g.Tokens > maxNumber:
		refused = fmt.Sprintf("more than %g tokens", float64(maxNumber))
	}
	return g, refused, nil
}

const (
	fieldID = 1 << iota
	fieldCreatedAt
	fieldModel
	fieldExternalUser
	fieldUser
	fieldCost
	fieldTotalTokens
	fieldNativePrompt
	fieldNativeCompletion
	fieldPrompt
	fieldCompletion
)

// rowFields are the fields of a generation that are read.
var rowFields = fieldsOf("id", "created_at", "model", "external_user", "user", "total_cost", "total_tokens",
	"native_tokens_prompt", "native_tokens_completion", "tokens_prompt", "tokens_completion")

// rowField is a field that is read, with a bit of its own.
type rowField struct {
	name string
	bit  int
}

// fieldsOf gives each field its bit, the first the lowest, and returns them by their names in quotes.
func fieldsOf(names ...string) map[string]rowField {
	fields := map[string]rowField{}
	for i, name := range names {
		fields[`"`+name+`"`] = rowField{name, 1 << i}
	}
	return fields
}

// scalars reads an object of which some fields are single values, and has read take each that is not null. Met are the
// bits of those; problem is why the object can't be trusted, by the first of them that is not as it should be.
func (d *decoder) scalars(fields map[string]rowField, read func(bit int, token jsontext.Token) error) (met int, problem string, err error) {
	refuse := func(format string, args ...any) {
		if problem == "" {
			problem = fmt.Sprintf(format, args...)
		}
	}
	seen := 0
	err = d.object(func(name []byte) error {
		field, known := fields[string(name)]
		if !known {
			return d.json.SkipValue()
		}
		if seen&field.bit != 0 {
			refuse("%s is given twice", field.name)
		}
		seen |= field.bit
		token, isScalar, err := d.scalar()
		switch {
		case err != nil:
			return err
		case !isScalar:
			refuse("%s is not a single value", field.name)
			return nil
		case token.Kind() == 'n':
			return nil
		}
		met |= field.bit
		if err := read(field.bit, token); err != nil {
			refuse("%s %v", field.name, err)
		}
		return nil
	})
	return met, problem, err
}

// scalar reads a string, number, boolean or null, and skips anything else.
func (d *decoder) scalar() (jsontext.Token, bool, error) {
	if kind := d.json.PeekKind(); kind == '{' || kind == '[' {
		return jsontext.Token{}, false, d.json.SkipValue()
	}
	token, err := d.json.ReadToken()
	return token, true, err
}

func text(token jsontext.Token) (string, error) {
	if kind := token.Kind(); kind != '"' && kind != '0' {
		return "", errors.New("is not a text")
	}
	text := token.String()
	if err := CheckText(text); err != nil {
		return "", err
	}
	return text, nil
}

// CheckText tells why an id, a model or a user is not taken for one, or nil.
func CheckText(text string) error {
	if len(text) > MaxText {
		return fmt.Errorf("is longer than %d bytes", MaxText)
	}
	if strings.IndexFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) >= 0 {
		return errors.New("holds control characters")
	}
	return nil
}

// recurring is text of which the answer keeps one copy.
func (d *decoder) recurring(token jsontext.Token) (string, error) {
	text, err := text(token)
	if err != nil {
		return "", err
	}
	if _, known := d.seen[text]; !known {
		d.seen[text] = text
	}
	return d.seen[text], nil
}

func instant(token jsontext.Token) (time.Time, error) {
	if token.Kind() != '"' {
		return time.Time{}, errors.New("is not a time in RFC 3339")
	}
	t, err := time.Parse(time.RFC3339, token.String())
	if err != nil || t.Year() < 2000 || t.Year() > 9000 {
		return time.Time{}, fmt.Errorf("is not a time in RFC 3339: %s", plain(token.String(), ""))
	}
	return t, nil
}

// numeral returns the text of a number, or of a string that holds nothing else.
func numeral(token jsontext.Token) (string, error) {
	if kind := token.Kind(); kind != '0' && kind != '"' {
		return "", errors.New("is not a number")
	}
	return token.String(), nil
}

func cost(token jsontext.Token) (store.Money, error) {
	text, err := numeral(token)
	if err != nil {
		return 0, err
	}
	return ParseCost(text)
}

// ParseCost reads the raw cost of one generation from the text of a number, or tells why it is not taken for one.
func ParseCost(text string) (store.Money, error) {
	amount, err := store.ParseMoney(text)
	switch {
	case err != nil:
		return 0, fmt.Errorf("is %s", plain(err.Error(), ""))
	case amount < 0:
		return 0, fmt.Errorf("is negative: %s", text)
	case amount > maxCost:
		return 0, fmt.Errorf("is absurd: %s", plain(text, ""))
	}
	return amount, nil
}

func tokenCount(token jsontext.Token) (int64, error) {
	text, err := numeral(token)
	if err != nil {
		return -1, err
	}
	return ParseTokens(text)
}

// ParseTokens reads a count of tokens from the text of a number, or tells why it is not taken for one.
func ParseTokens(text string) (int64, error) {
	count, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		float, floatErr := strconv.ParseFloat(text, 64)
		if floatErr != nil || float != math.Trunc(float) || math.Abs(float) > maxNumber {
			return -1, fmt.Errorf("is not a whole number that makes sense: %s", plain(text, ""))
		}
		count = int64(float)
	}
	switch {
	case count < 0:
		return -1, fmt.Errorf("is negative: %s", text)
	case count > maxNumber:
		return -1, fmt.Errorf("is absurd: %s", text)
	}
	return count, nil
}
