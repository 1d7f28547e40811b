package store

import (
	"strings"
	"time"
)

// unknownModel stands for a model that no source names.
const unknownModel = "unknown"

// ModelName returns the one name under which a model is recorded, whichever way its usage came. OpenRouter has two: the
// undated one, by which clients ask and which Broadcast and compatible lists show, and the permanent one, which the
// analytics show and which ends in a date: google/gemini-3.1-flash-image-preview-20260226 (seen live on 2 Sep 2026),
// openai/gpt-4.1-2025-04-14. The date is left out, the variant behind it stays: x/y-20260226:free is x/y:free. A model
// that clients can ask for by a date, as openai/gpt-4o-2024-05-13, goes under the undated name, too: nothing in a name
// tells it from the other kind.
//
// Only a whole date is one: the 0324 of deepseek/deepseek-chat-v3-0324 is part of the only name that the model has.
// A permanent name that differs in more than a date, as anthropic/claude-4-sonnet-20250522 does from
// anthropic/claude-sonnet-4, stays a name of its own.
func ModelName(name string) string {
	if !strings.Contains(name, "/") { // a name for people, or none
		return name
	}
	base, variant := name, ""
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		base, variant = name[:i], name[i:]
	}
	for _, layout := range []string{"-20060102", "-2006-01-02"} {
		at := len(base) - len(layout)
		if at <= 0 || base[at-1] == '/' {
			continue
		}
		date, err := time.Parse(layout, base[at:])
		if err == nil && date.Year() >= 2020 && date.Year() < 2100 {
			return ModelName(base[:at] + variant) // so that the name of a name is the same
		}
	}
	return name
}
