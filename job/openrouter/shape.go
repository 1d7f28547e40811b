package openrouter

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// Shape is how an answer was built: the names of its fields and the forms of their values, and nothing of
// what they said.
type Shape struct {
	Request string `json:"request"`
	Status  int    `json:"status"`
	Headers any    `json:"headers,omitempty"` // of rate limits and caches, by name
	Body    any    `json:"body,omitempty"`
}

func shapesOf(exchanges []*exchange) (all []Shape) {
	for _, x := range exchanges {
		s := Shape{Request: x.path, Status: x.status}
		if headers := limitHeaders(x); len(headers) > 0 {
			s.Headers = headers
		}
		if x.body != nil {
			form := &form{}
			form.add(x.body)
			s.Body = form.render()
		}
		all = append(all, s)
	}
	return all
}

// limitHeaders returns the names of the headers that say how many requests there may be.
func limitHeaders(x *exchange) (names []string) {
	for name := range x.header {
		if lower := strings.ToLower(name); strings.HasPrefix(lower, "x-ratelimit") || lower == "retry-after" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// form is what the values of one place have in common.
type form struct {
	scalars  map[string]bool
	fields   map[string]*form
	objects  int // how many objects there were, so that a field of some is marked
	met      int // how often the place had a value
	elements *form
}

// fieldName is what a name of a field looks like. Anything else may be somebody's data.
var fieldName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]{0,47}$`) })

func (f *form) add(value any) {
	f.met++
	switch v := value.(type) {
	case map[string]any:
		if f.fields == nil {
			f.fields = map[string]*form{}
		}
		f.objects++
		for name, value := range v {
			if !fieldName().MatchString(name) {
				name = "(other)"
			}
			if f.fields[name] == nil {
				f.fields[name] = &form{}
			}
			f.fields[name].add(value)
		}
	case []any:
		if f.elements == nil {
			f.elements = &form{}
		}
		for _, one := range v {
			f.elements.add(one)
		}
	default:
		if f.scalars == nil {
			f.scalars = map[string]bool{}
		}
		f.scalars[formOf(value)] = true
	}
}

// render returns text for scalars, a map for objects and a list of one for lists. A field that not every
// object has ends in "?".
func (f *form) render() any {
	var kinds []string
	for kind := range f.scalars {
		kinds = append(kinds, kind)
	}
	slices.Sort(kinds)
	var all []any
	if len(kinds) > 0 {
		all = append(all, strings.Join(kinds, " | "))
	}
	if f.fields != nil {
		fields := map[string]any{}
		for name, field := range f.fields {
			if field.met < f.objects {
				name += "?"
			}
			fields[name] = field.render()
		}
		all = append(all, fields)
	}
	if f.elements != nil {
		if f.elements.met == 0 {
			all = append(all, []any{})
		} else {
			all = append(all, []any{f.elements.render()})
		}
	}
	if len(all) == 1 {
		return all[0]
	}
	return map[string]any{"one of": all}
}

// textForm is a form of texts that says nothing about whose they are.
type textForm struct {
	pattern *regexp.Regexp
	form    string
}

// textForms are compiled when they are first needed: only an examination needs them.
var textForms = sync.OnceValue(func() []textForm {
	return []textForm{
		{regexp.MustCompile(`^$`), "empty text"},
		{regexp.MustCompile(`^[0-9a-f]{64}$`), "64 hex digits"},
		{regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`), "UUID"},
		{regexp.MustCompile(`^gen-\d{10}-`), "gen-<second>-…"},
		{regexp.MustCompile(`^gen-`), "gen-…"},
		{regexp.MustCompile(`^-?\d+$`), "digits"},
		{regexp.MustCompile(`^-?\d+\.\d+$`), "digits and a point"},
		{regexp.MustCompile(`^sk-or-v1-.{3}\.\.\..{3}$`), "sk-or-v1-, 3 characters, ..., 3 characters"},
		{regexp.MustCompile(`^sk-or-`), "sk-or-…"},
		{regexp.MustCompile(`^[\w.~-]+/[\w.:~-]+-\d{8}$`), "author/model-date"},
		{regexp.MustCompile(`^[\w.~-]+/[\w.:~-]+-\d{4}-\d\d-\d\d$`), "author/model-date"},
		{regexp.MustCompile(`^[\w.~-]+/[\w.:~-]+$`), "author/model"},
		{regexp.MustCompile(`^(none|null|unset|unknown)$`), "a word for nothing"},
	}
})

// timeText is the form of a time, of which each digit is shown as a zero.
var timeText = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?)?(Z|[+-]\d\d:?\d\d)?$`)
})

// formOf tells the form of a scalar, and nothing of what it says.
func formOf(value any) string {
	switch v := value.(type) {
	case nil:
		return "null"
	case bool:
		return "true or false"
	case json.Number:
		_, fraction, _ := strings.Cut(string(v), ".")
		switch {
		case strings.ContainsAny(string(v), "eE"):
			return "number with an exponent"
		case fraction == "":
			return "whole number"
		case len(fraction) <= 6:
			return "number with up to 6 decimals"
		}
		return "number with more than 6 decimals"
	case string:
		if timeText().MatchString(v) {
			return "time " + strings.Map(func(r rune) rune {
				if r >= '0' && r <= '9' {
					return '0'
				}
				return r
			}, v)
		}
		for _, one := range textForms() {
			if one.pattern.MatchString(v) {
				return one.form
			}
		}
		return "text"
	}
	return fmt.Sprintf("%T", value)
}
