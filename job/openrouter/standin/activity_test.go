package standin_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"usage-sync/job/openrouter/standin"
)

// lines returns the rows of GET /activity as they were sent, without their endpoints.
func lines(t *testing.T, body string) string {
	t.Helper()
	var all []string
	for _, row := range decode[[]json.RawMessage](t, body) {
		before, after, ok := strings.Cut(string(row), `"endpoint_id":"`)
		id, after, _ := strings.Cut(after, `",`)
		if !ok || len(id) != len("00000000-0000-0000-0000-000000000000") {
			t.Errorf("no endpoint in %s", row)
		}
		all = append(all, before+after)
	}
	return strings.Join(all, "\n")
}

func TestActivity(t *testing.T) {
	s, c, base := manage(t)
	const second = "sk-or-v1-second"
	s.AddKey(second, "Second")
	at := func(id, text, model, provider, cost string) standin.Generation {
		created, err := time.Parse(time.RFC3339, text)
		if err != nil {
			t.Fatal(err)
		}
		return standin.Generation{ID: id, CreatedAt: created, Model: model, Provider: provider, Cost: cost,
			PromptTokens: 80, CompletionTokens: 40}
	}
	s.Add(key,
		at("gen-1", "2026-07-15T00:00:00Z", "openai/gpt-5", "", "64"), // today
		at("gen-2", "2026-07-14T23:59:59Z", "openai/gpt-5", "", "0.1"),
		at("gen-3", "2026-07-14T00:00:00Z", "openai/gpt-5", "", "0.2"),
		at("gen-4", "2026-07-14T12:00:00Z", "openai/gpt-5", "Azure", "0.001"),
		at("gen-5", "2026-07-14T12:00:00Z", "meta/llama", "", "1e-3"),
		at("gen-6", "2026-06-15T00:00:00Z", "meta/llama", "", "null"),
		at("gen-7", "2026-06-14T23:59:59Z", "meta/llama", "", "32"), // too long ago
	)
	late := at("gen-8", "2026-07-13T12:00:00Z", "meta/llama", "", "2")
	late.VisibleFrom = noon.Add(time.Minute)
	s.Add(second, at("gen-9", "2026-07-14T12:00:00Z", "openai/gpt-5", "", "0.4"), late)

	row := func(date, model, provider, usage, counts string) string {
		return `{"date":"` + date + `","model":"` + model + `","model_permaslug":"` + model + `","provider_name":"` + provider +
			`","usage":` + usage + `,"byok_usage_inference":0,` + counts + `}`
	}
	const one = `"requests":1,"prompt_tokens":80,"completion_tokens":40,"reasoning_tokens":10`
	const two = `"requests":2,"prompt_tokens":160,"completion_tokens":80,"reasoning_tokens":20`
	const three = `"requests":3,"prompt_tokens":240,"completion_tokens":120,"reasoning_tokens":30`
	llama := row("2026-07-14", "meta/llama", "DeepInfra", "0.001", one)
	azure := row("2026-07-14", "openai/gpt-5", "Azure", "0.001", one)
	oldest := row("2026-06-15", "meta/llama", "DeepInfra", "0", one)
	check := func(t *testing.T, query string, want ...string) {
		t.Helper()
		if got, want := lines(t, ask(t, base+"/activity"+query)), strings.Join(want, "\n"); got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	}
	t.Run("AllDays", func(t *testing.T) {
		check(t, "", llama, azure, row("2026-07-14", "openai/gpt-5", "OpenAI", "0.7", three), oldest)
	})
	t.Run("OneKey", func(t *testing.T) {
		check(t, "?api_key_hash="+hashOf(key), llama, azure, row("2026-07-14", "openai/gpt-5", "OpenAI", "0.3", two), oldest)
	})
	t.Run("OneDay", func(t *testing.T) {
		check(t, "?date=2026-07-14&api_key_hash="+hashOf(second), row("2026-07-14", "openai/gpt-5", "OpenAI", "0.4", one))
		check(t, "?date=2026-06-15", oldest)
		check(t, "?date=2026-07-13")
	})
	t.Run("UnknownHash", func(t *testing.T) { check(t, "?api_key_hash="+hashOf("x")) })
	t.Run("Late", func(t *testing.T) {
		c.advance(time.Minute)
		check(t, "?date=2026-07-13", row("2026-07-13", "meta/llama", "DeepInfra", "2", one))
		c.advance(-time.Minute)
	})
	t.Run("OtherDates", func(t *testing.T) {
		s.OtherDates(true)
		check(t, "?date=2026-06-15", row("2026-06-15 00:00:00", "meta/llama", "DeepInfra", "0", one))
		s.OtherDates(false)
	})
	for _, date := range []string{"2026-07-15", "2026-07-16", "2026-06-14", "2025-07-14", "", "yesterday", "2026-07-14T00:00:00Z", "20260714"} {
		t.Run("Bad"+date, func(t *testing.T) {
			response, body := do(t, request(t, "GET", base+"/activity?date="+date, "Bearer "+management))
			wantError(t, response, body, 400, "Date must be within the last 30 (completed) UTC days")
		})
	}
	t.Run("TodayIsCompleteTomorrow", func(t *testing.T) {
		c.advance(12 * time.Hour)
		check(t, "?date=2026-07-15", row("2026-07-15", "openai/gpt-5", "OpenAI", "64", one))
	})
}
