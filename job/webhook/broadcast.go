package webhook

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	"usage-sync/job/openrouter"
	"usage-sync/store"
)

// OpenRouter's Broadcast sends traces as OTLP/JSON
// (https://openrouter.ai/docs/guides/features/broadcast/webhook,
// https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding). A request gives one root span and
// children, often in resourceSpans of their own. Names and parents of spans are the client's to choose; the
// attribute span.type is not.

// mostRoots bounds what one delivery may hold: each root is kept until its resource is known.
const mostRoots = 10_000

// The attributes that are read, by the names they have had: counts of tokens are input_tokens and output_tokens
// on the wire and prompt_tokens and completion_tokens in the example of the vendor's documentation (22 Aug
// 2026).
const (
	attrType = iota
	attrID
	attrModel
	attrRequestModel
	attrInput
	attrOutput
	attrPrompt
	attrCompletion
	attrTotal
	attrCost
	attrUser
	attrKeyName
	attrOldKeyName
	attrCount
)

var attributes = map[string]int{
	"span.type":                              attrType,
	"gen_ai.response.id":                     attrID,
	"gen_ai.response.model":                  attrModel,
	"gen_ai.request.model":                   attrRequestModel,
	"gen_ai.usage.input_tokens":              attrInput,
	"gen_ai.usage.output_tokens":             attrOutput,
	"gen_ai.usage.prompt_tokens":             attrPrompt,
	"gen_ai.usage.completion_tokens":         attrCompletion,
	"gen_ai.usage.total_tokens":              attrTotal,
	"gen_ai.usage.total_cost":                attrCost,
	"user.id":                                attrUser,
	"trace.metadata.openrouter.api_key_name": attrKeyName,
	"openrouter.api_key_name":                attrOldKeyName,
}

// span is what is read of a span.
type span struct {
	trace, id value
	start     value
	failed    bool
	attrs     [attrCount]value
	met       [attrCount]bool
	problem   string
}

// request tells whether a span stands for a whole request. Its type says so; in the vendor's own example and at
// one receiver the root has none (2026), and is told by its cost: children, which OpenRouter marks as such,
// have no cost, or an id with a suffix as in gen-1-x:attempt-0. What has a cost is not passed over because its
// type is a new one.
func (s span) request() bool {
	switch s.attrs[attrType].text {
	case "generation":
		return true
	case "span":
		return false
	}
	return s.met[attrCost] && !strings.Contains(s.attrs[attrID].text, ":")
}

// label tells whether an attribute only says what a charge is called. The name of a key is none: it says whose it is.
func label(attr int) bool {
	return attr == attrType || attr == attrModel || attr == attrRequestModel || attr == attrUser
}

// resource is what is read of the resource that spans belong to.
type resource struct {
	service string
	keyName value
}

// openRouter holds for spans that OpenRouter has sent. Those of other services may come along where a collector sends
// everything to one place.
func (r resource) openRouter() bool {
	return r.service == "" || strings.Contains(strings.ToLower(r.service), "openrouter")
}

func (d *decoder) resourceSpans(p *Payload) error {
	roots := 0
	return d.array(func() error {
		var from resource
		var spans []span
		err := d.object(func(name string) error {
			switch name {
			case "resource":
				return d.resource(&from)
			case "scopeSpans":
				return d.array(func() error {
					return d.object(func(name string) error {
						if name != "spans" {
							return d.json.SkipValue()
						}
						return d.array(func() error {
							s, root, err := d.span()
							switch {
							case err != nil:
								return err
							case !root:
								p.Ignored++
								return nil
							}
							if roots++; roots > mostRoots {
								return fmt.Errorf("%w: more than %d generations in one delivery", ErrShape, mostRoots)
							}
							spans = append(spans, s)
							return nil
						})
					})
				})
			}
			return d.json.SkipValue()
		})
		if err != nil {
			return err
		}
		for _, s := range spans {
			s.into(p, from)
		}
		return nil
	})
}

func (d *decoder) resource(r *resource) error {
	return d.object(func(name string) error {
		if name != "attributes" {
			return d.json.SkipValue()
		}
		return d.array(func() error {
			key, v, err := d.attribute()
			switch key {
			case "service.name":
				r.service = v.text
			case "openrouter.api_key_name":
				r.keyName = v
			}
			return err
		})
	})
}

// span reads one span and tells whether it is the root of a request.
func (d *decoder) span() (s span, root bool, err error) {
	err = d.object(func(name string) (err error) {
		switch name {
		case "traceId":
			s.trace, err = d.scalar()
		case "spanId":
			s.id, err = d.scalar()
		case "startTimeUnixNano":
			s.start, err = d.scalar()
		case "status":
			err = d.object(func(name string) error {
				v, err := d.scalar()
				if name == "code" && (v.text == "2" || v.text == "STATUS_CODE_ERROR") {
					s.failed = true
				}
				return err
			})
		case "attributes":
			err = d.array(func() error {
				key, v, err := d.attribute()
				i, known := attributes[key]
				if err != nil || !known || !v.given() {
					return err
				}
				if s.met[i] && s.attrs[i] != v && s.problem == "" && !label(i) {
					s.problem = key + " is given twice"
				}
				s.attrs[i], s.met[i] = v, true
				return nil
			})
		default:
			err = d.json.SkipValue()
		}
		return err
	})
	return s, s.request(), err
}

// attribute reads {"key": …, "value": {"stringValue": …}}. A value that is no scalar counts as none.
func (d *decoder) attribute() (key string, v value, err error) {
	v.kind = 'n'
	err = d.object(func(name string) error {
		switch name {
		case "key":
			k, err := d.scalar()
			key = k.text
			return err
		case "value":
			return d.object(func(name string) (err error) {
				switch name {
				case "stringValue", "intValue", "doubleValue", "boolValue":
					v, err = d.scalar()
					return err
				}
				return d.json.SkipValue()
			})
		}
		return d.json.SkipValue()
	})
	return key, v, err
}

// into adds a root to what is usable, refused or ignored.
func (s span) into(p *Payload, from resource) {
	if !from.openRouter() || (s.failed && !s.met[attrCost]) {
		p.Ignored++
		return
	}
	u, problem := s.usage(from)
	if problem == "" {
		p.Usage = append(p.Usage, u)
		return
	}
	p.Refused = append(p.Refused, openrouter.Refusal{ID: openrouter.Plain(cmp.Or(u.ID, "without an id"), ""),
		CreatedAt: u.CreatedAt, Reason: openrouter.Plain(problem, "")})
}

// startSlack is by how much the second in an id and the start of a span may differ before the id is not taken
// at its word.
const startSlack = 24 * time.Hour

// usage makes a generation of a root, or says why it can't be billed. Its time is the second that its id tells,
// as that of the same generation in a list; the start of a span may lie on another day.
func (s span) usage(from resource) (u Usage, problem string) {
	problem = s.problem
	check := func(what string, err error) {
		if err != nil && problem == "" {
			problem = what + " " + err.Error()
		}
	}
	if s.met[attrID] {
		var err error
		u.ID, err = s.attrs[attrID].asText()
		check("gen_ai.response.id", err)
	}
	model := cmp.Or(s.attrs[attrModel].asLabel(), s.attrs[attrRequestModel].asLabel())
	u.Model, u.User = store.ModelName(model), s.attrs[attrUser].asLabel()
	for _, name := range []value{s.attrs[attrKeyName], s.attrs[attrOldKeyName], from.keyName} {
		u.KeyName = cmp.Or(u.KeyName, name.asLabel())
	}
	start, startErr := s.start.asNanoseconds()
	u.CreatedAt = start
	if at, ok := openrouter.IDTime(u.ID); ok && (startErr != nil || at.Sub(start).Abs() <= startSlack) {
		u.CreatedAt, startErr = at, nil
	}
	check("startTimeUnixNano", startErr)
	var err error
	u.Tokens, err = s.tokens()
	check("gen_ai.usage", err)
	if s.met[attrCost] {
		u.Cost, err = s.attrs[attrCost].asCost()
		check("gen_ai.usage.total_cost", err)
	} else if problem == "" {
		problem = "no gen_ai.usage.total_cost"
	}
	switch kind := s.attrs[attrType].text; {
	case problem != "":
	case kind != "generation" && !strings.HasPrefix(u.ID, "gen-"):
		problem = fmt.Sprintf("it has a cost, but span.type is not generation (%q), and its id is not one of "+
			"OpenRouter's", kind)
	case u.ID == "":
		u.ID = hashID(s.trace.text, s.id.text, u.User, model, strconv.FormatInt(u.Tokens, 10),
			strconv.FormatInt(int64(u.Cost), 10), s.start.text)
	}
	return u, problem
}

// tokens is the total where it is given, else the sum of both directions.
func (s span) tokens() (sum int64, err error) {
	if s.met[attrTotal] {
		return s.attrs[attrTotal].asTokens()
	}
	for _, spellings := range [][2]int{{attrInput, attrPrompt}, {attrOutput, attrCompletion}} {
		for _, i := range spellings {
			if !s.met[i] {
				continue
			}
			n, err := s.attrs[i].asTokens()
			if err != nil {
				return 0, err
			}
			sum += n
			break
		}
	}
	return sum, nil
}

// asNanoseconds reads a time as OTLP has it.
func (v value) asNanoseconds() (time.Time, error) {
	if v.long {
		return time.Time{}, errTooLong
	}
	return openrouter.ParseNanoseconds(v.text)
}
