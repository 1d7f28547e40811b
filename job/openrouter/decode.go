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
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"usage-sync/store"
)

// Refusal is a row that can't be billed as it is.
type Refusal struct {
	ID        string    // or where the row stands, if it has none
	CreatedAt time.Time // zero where it is not known
	Reason    string
	Cost      *store.Money // nil where it is not known

	row     int
	unnamed bool // ID says where the row stands, which changes
}

// Subject is what a refused row is recognised by when it is refused again.
func (r Refusal) Subject() string {
	if r.unnamed {
		return "without an id, of " + r.CreatedAt.UTC().Format(time.RFC3339)
	}
	return r.ID
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

// decodePage reads {"data":[generation, …]}. Anything that is not the whole of such an answer is ErrAnswer; a
// single row that can't be trusted is refused, and those around it are kept.
func decodePage(body io.Reader) (page Page, err error) {
	d := newDecoder(body)
	err = d.answer(func() error {
		return d.array(func(i int) error {
			g, refused, err := d.row()
			switch {
			case err != nil:
				return err
			case refused != "":
				r := Refusal{ID: g.ID, CreatedAt: g.CreatedAt, Reason: refused, row: i}
				if g.Cost != 0 {
					r.Cost = &g.Cost
				}
				page.Refused = append(page.Refused, r)
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
	json           *jsontext.Decoder
	labels, models map[string]string // they recur: one copy of each, by what they are called in the answer
	total          int               // how many rows a list has in all, where the answer says so; else -1
}

func newDecoder(body io.Reader) decoder {
	return decoder{
		json:   jsontext.NewDecoder(body, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)),
		labels: map[string]string{}, models: map[string]string{}, total: -1,
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
		case `"total_count"`:
			value, err := d.json.ReadValue()
			if n, badErr := strconv.Atoi(string(value)); badErr == nil {
				d.total = n
			}
			return err
		case `"error"`:
			value, err := d.json.ReadValue()
			if err == nil && value.Kind() != 'n' {
				err = fmt.Errorf("%w: an error in an answer with a status of success: %s",
					ErrAnswer, plain(string(value), ""))
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

// object calls field with each name, in quotes; field reads the value. The name is good until then. A text of
// its own for each of fifty names a row would cost more than all the rest. A name that is spelled with escapes
// is an unknown one.
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
	var byok bool
	var upstream store.Money
	var upstreamProblem error
	met, refused, err := d.scalars(generationFields, func(field int, token jsontext.Token) (problem error) {
		switch field {
		case fieldID:
			g.ID, problem = text(token)
		case fieldCreatedAt:
			g.CreatedAt, problem = instant(token)
		case fieldModel:
			g.Model = d.model(token)
		case fieldExternalUser:
			g.User = d.label(token)
		case fieldUser:
			user = d.label(token)
		case fieldCost:
			g.Cost, problem = cost(token)
		case fieldBYOK:
			byok, problem = boolean(token)
		case fieldUpstream:
			upstream, upstreamProblem = cost(token)
		case fieldCurrency:
			if currency := token.String(); !strings.EqualFold(currency, "USD") {
				problem = fmt.Errorf("is not USD but %s", plain(currency, ""))
			}
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
	if byok {
		g.Cost += upstream
	}
	switch {
	case refused != "":
	case byok && upstreamProblem != nil:
		refused = fmt.Sprintf("upstream_inference_cost %v", upstreamProblem)
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
	fieldBYOK
	fieldUpstream
	fieldCurrency
)

// generationFields are the fields of a generation that are read. What was paid to a provider with a key of the
// account's own is upstream_inference_cost, and total_cost is OpenRouter's fee alone then; where is_byok is
// false upstream_inference_cost repeats the cost, and someone who added it always billed 2.58 times of what was
// owed (seen live in 2026). Compatible lists may name a currency.
var generationFields = fieldsOf("id", "created_at", "model", "external_user", "user", "total_cost", "total_tokens",
	"native_tokens_prompt", "native_tokens_completion", "tokens_prompt", "tokens_completion", "is_byok",
	"upstream_inference_cost", "cost_currency").withLabels(fieldModel | fieldExternalUser | fieldUser)

// rowField is a field that is read, with a bit of its own.
type rowField struct {
	name string
	bit  int
}

// rowFields are the fields of an object that are read.
type rowFields struct {
	byName map[string]rowField // in quotes
	labels int                 // the bits of those that only say what a charge is called
	suffix string              // what the name of one more field ends in, with the quote; empty is none
	ending rowField            // that field
}

// fieldsOf gives each field its bit, the first the lowest.
func fieldsOf(names ...string) rowFields {
	fields := rowFields{byName: map[string]rowField{}}
	for i, name := range names {
		fields.byName[`"`+name+`"`] = rowField{name, 1 << i}
	}
	return fields
}

// withLabels returns the fields of which some are labels.
func (f rowFields) withLabels(bits int) rowFields {
	f.labels = bits
	return f
}

// endingIn returns the fields with one more: the one whose name ends in a suffix.
func (f rowFields) endingIn(suffix string, bit int) rowFields {
	f.suffix, f.ending = suffix+`"`, rowField{"the field ending in " + suffix, bit}
	return f
}

func (f *rowFields) find(name []byte) (field rowField, known bool) {
	if f.suffix != "" && len(name) > len(f.suffix) && string(name[len(name)-len(f.suffix):]) == f.suffix {
		return f.ending, true
	}
	field, known = f.byName[string(name)]
	return field, known
}

// scalars reads an object of which some fields are single values, and has read take each that is not null. Met
// are the bits of those; problem is why the object can't be trusted, by the first of them that is not as it
// should be. A label is never why: one that is not a single value is as good as none, and of two the second
// counts.
func (d *decoder) scalars(fields rowFields, read func(bit int,
	token jsontext.Token) error) (met int, problem string, err error) {
	refuse := func(format string, args ...any) {
		if problem == "" {
			problem = fmt.Sprintf(format, args...)
		}
	}
	seen := 0
	err = d.object(func(name []byte) error {
		field, known := fields.find(name)
		if !known {
			return d.json.SkipValue()
		}
		label := fields.labels&field.bit != 0
		if seen&field.bit != 0 && !label {
			refuse("%s is given twice", field.name)
		}
		seen |= field.bit
		token, isScalar, err := d.scalar()
		switch {
		case err != nil:
			return err
		case !isScalar && label:
			return nil
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
	// The decoder puts U+FFFD in the place of what is no Unicode: different ids would become one.
	if !utf8.ValidString(text) || strings.ContainsRune(text, utf8.RuneError) {
		return errors.New("is not valid Unicode")
	}
	if strings.IndexFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) >= 0 {
		return errors.New("holds control characters")
	}
	return nil
}

// Label makes a model, a user or the name of a key of a text: without control characters, cut to MaxText bytes where a
// character begins, and empty where nothing but blanks is left. A charge is never held hostage to what it is called.
func Label(text string) string {
	if len(text) > MaxText || !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
		text = strings.Map(func(r rune) rune {
			if unicode.IsControl(r) {
				return -1
			}
			return r
		}, strings.ToValidUTF8(text, "\uFFFD"))
		if cut := MaxText; len(text) > cut {
			for !utf8.RuneStart(text[cut]) {
				cut--
			}
			text = text[:cut]
		}
	}
	if strings.TrimSpace(text) == "" {
		return ""
	}
	return text
}

// Model makes the name under which a model is recorded of what a source calls it.
func Model(text string) string { return store.ModelName(Label(text)) }

// label reads a label; what is neither a text nor a number is none.
func (d *decoder) label(token jsontext.Token) string { return recurring(d.labels, token, Label) }

// model reads the name of a model.
func (d *decoder) model(token jsontext.Token) string { return recurring(d.models, token, Model) }

// recurring is a text of which the answer keeps one copy.
func recurring(seen map[string]string, token jsontext.Token, read func(string) string) string {
	if kind := token.Kind(); kind != '"' && kind != '0' {
		return ""
	}
	text := token.String()
	if len(text) > MaxText {
		return read(text)
	}
	known, ok := seen[text]
	if !ok {
		known = read(text)
		seen[text] = known
	}
	return known
}

// numeral returns the text of a number, or of a string that holds nothing else.
func numeral(token jsontext.Token) (string, error) {
	if kind := token.Kind(); kind != '0' && kind != '"' {
		return "", errors.New("is not a number")
	}
	return token.String(), nil
}

func boolean(token jsontext.Token) (bool, error) {
	switch text := token.String(); text {
	case "true", "1":
		return true, nil
	case "false", "0":
		return false, nil
	default:
		return false, fmt.Errorf("is neither true nor false: %s", plain(text, ""))
	}
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
