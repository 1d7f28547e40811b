package openrouter

import (
	"errors"
	"strings"
	"testing"
	"time"

	"usage-sync/store"
)

const soundRow = `{"id":"gen-1","created_at":"2026-11-23T10:00:00.5+01:00","total_cost":0.0025,"model":"openai/gpt-4.1"}`

func TestDecodePage(t *testing.T) {
	at := time.Date(2026, 11, 23, 9, 0, 0, 5e8, time.UTC)
	sound := store.Generation{ID: "gen-1", CreatedAt: at, Model: "openai/gpt-4.1", Cost: 2_500_000_000}
	with := func(change func(*store.Generation)) store.Generation {
		g := sound
		change(&g)
		return g
	}
	for _, test := range []struct {
		name, more string
		want       store.Generation
	}{
		{"minimal", ``, sound},
		{"unknown fields", `,"x":{"y":[1,{"z":null}]},"total_tokens2":-1`, sound},
		{"nulls", `,"external_user":null,"tokens_prompt":null,"total_tokens":null`, sound},
		{"total_tokens first", `,"total_tokens":7,"native_tokens_prompt":10,"tokens_prompt":100`, with(func(g *store.Generation) { g.Tokens = 7 })},
		{"native before normalised", `,"native_tokens_prompt":10,"tokens_prompt":100,"tokens_completion":5`, with(func(g *store.Generation) { g.Tokens = 10 })},
		{"normalised", `,"tokens_prompt":100,"tokens_completion":5`, with(func(g *store.Generation) { g.Tokens = 105 })},
		{"counts as text", `,"total_tokens":"1500"`, with(func(g *store.Generation) { g.Tokens = 1500 })},
		{"counts as float", `,"total_tokens":1.5e3`, with(func(g *store.Generation) { g.Tokens = 1500 })},
		{"most tokens", `,"total_tokens":1000000000000000`, with(func(g *store.Generation) { g.Tokens = 1e15 })},
		{"external user", `,"external_user":"anna","user":"other"`, with(func(g *store.Generation) { g.User = "anna" })},
		{"user of a compatible list", `,"user":"ben"`, with(func(g *store.Generation) { g.User = "ben" })},
		{"user as number", `,"external_user":42`, with(func(g *store.Generation) { g.User = "42" })},
		{"a user that is none", `,"external_user":{"id":42}`, sound},
		{"a user with control characters", `,"external_user":"\u0007anna\n"`, with(func(g *store.Generation) { g.User = "anna" })},
		{"an endless user", `,"external_user":"` + strings.Repeat("x", 511) + `äö"`, with(func(g *store.Generation) { g.User = strings.Repeat("x", 511) })},
		{"a model by its permanent name", `,"model":"openai/gpt-4.1-2025-04-14"`, sound},
		{"a model that is none", `,"model":["openai/gpt-4.1"]`, sound},
		{"the account's own key", `,"is_byok":true,"upstream_inference_cost":0.0975`, with(func(g *store.Generation) { g.Cost = store.Dollar / 10 })},
		{"the same as text", `,"upstream_inference_cost":"0.0975","is_byok":"true"`, with(func(g *store.Generation) { g.Cost = store.Dollar / 10 })},
		{"the account's own key, no cost upstream", `,"is_byok":true,"upstream_inference_cost":null`, sound},
		{"another's key", `,"is_byok":false,"upstream_inference_cost":0.0025`, sound},
		{"nobody knows whose key", `,"is_byok":null,"upstream_inference_cost":0.0025`, sound},
		{"a cost upstream that no one needs", `,"upstream_inference_cost":-1`, sound},
		{"dollars", `,"cost_currency":"usd"`, sound},
	} {
		t.Run(test.name, func(t *testing.T) {
			row := strings.TrimSuffix(soundRow, "}") + test.more + "}"
			page, err := decodePage(strings.NewReader(`{"data":[` + row + `],"more":1}`))
			if err != nil || len(page.Refused) != 0 || len(page.Generations) != 1 {
				t.Fatalf("%+v, %v", page, err)
			}
			got := page.Generations[0]
			if !got.CreatedAt.Equal(test.want.CreatedAt) {
				t.Errorf("created %s", got.CreatedAt)
			}
			got.CreatedAt = test.want.CreatedAt
			if got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}

// One bad row is refused by name, and those around it are kept.
func TestDecodePageRefuses(t *testing.T) {
	for name, test := range map[string]struct{ row, id, reason string }{
		"no id":                                  {`{"created_at":"2026-11-23T09:00:00Z","total_cost":1}`, "", "no id"},
		"null id":                                {`{"id":null,"created_at":"2026-11-23T09:00:00Z","total_cost":1}`, "", "no id"},
		"no time":                                {`{"id":"bad","total_cost":1}`, "bad", "no created_at"},
		"a time of words":                        {`{"id":"bad","created_at":"this morning","total_cost":1}`, "bad", "created_at is not a time: this morning"},
		"an endless id":                          {`{"id":"` + strings.Repeat("x", 513) + `","created_at":"2026-11-23T09:00:00Z","total_cost":1}`, "", "id is longer"},
		"a lone surrogate":                       {`{"id":"b\ud800ad","created_at":"2026-11-23T09:00:00Z","total_cost":1}`, "", "id is not valid Unicode"},
		"bytes of no character":                  {"{\"id\":\"b\xffad\",\"created_at\":\"2026-11-23T09:00:00Z\",\"total_cost\":1}", "", "id is not valid Unicode"},
		"control characters":                     {`{"id":"b\u0000ad","created_at":"2026-11-23T09:00:00Z","total_cost":1}`, "", "id holds control characters"},
		"a key of one's own, at a cost of words": {`{"id":"bad","created_at":"2026-11-23T09:00:00Z","total_cost":0,"is_byok":true,"upstream_inference_cost":"much"}`, "bad", "upstream_inference_cost is"},
		"perhaps a key of one's own":             {`{"id":"bad","created_at":"2026-11-23T09:00:00Z","total_cost":0,"is_byok":"perhaps"}`, "bad", "is_byok is neither true nor false"},
		"another currency":                       {`{"id":"bad","created_at":"2026-11-23T09:00:00Z","total_cost":1,"cost_currency":"EUR"}`, "bad", "cost_currency is not USD but EUR"},
		"no cost":                                {`{"id":"bad","created_at":"2026-11-23T09:00:00Z"}`, "bad", "no total_cost"},
		"null cost":                              {`{"id":"bad","created_at":"2026-11-23T09:00:00Z","total_cost":null}`, "bad", "no total_cost"},
		"negative cost":                          {`{"id":"bad","created_at":"2026-11-23T09:00:00Z","total_cost":-0.01}`, "bad", "total_cost is negative"},
		"cost not a number":                      {`{"id":"bad","created_at":"2026-11-23T09:00:00Z","total_cost":"NaN"}`, "bad", "total_cost is not"},
		"cost a boolean":                         {`{"id":"bad","created_at":"2026-11-23T09:00:00Z","total_cost":true}`, "bad", "total_cost is not a number"},
		"cost an object":                         {`{"id":"bad","created_at":"2026-11-23T09:00:00Z","total_cost":{"usd":1}}`, "bad", "total_cost is not a single value"},
		"absurd cost":                            {`{"id":"bad","created_at":"2026-11-23T09:00:00Z","total_cost":1e16}`, "bad", "total_cost is"},
		"endless cost":                           {`{"id":"bad","created_at":"2026-11-23T09:00:00Z","total_cost":1e999}`, "bad", "total_cost is"},
		"cost twice":                             {`{"id":"bad","created_at":"2026-11-23T09:00:00Z","total_cost":1,"total_cost":2}`, "bad", "total_cost is given twice"},
		"negative tokens":                        {`{"id":"bad","created_at":"2026-11-23T09:00:00Z","total_cost":1,"tokens_prompt":-1}`, "bad", "tokens_prompt is negative"},
		"absurd tokens":                          {`{"id":"bad","created_at":"2026-11-23T09:00:00Z","total_cost":1,"total_tokens":1000000000000001}`, "bad", "total_tokens is absurd"},
		"half a token":                           {`{"id":"bad","created_at":"2026-11-23T09:00:00Z","total_cost":1,"total_tokens":1.5}`, "bad", "total_tokens is not a whole number"},
		"not an object":                          {`"bad"`, "", "not an object"},
	} {
		t.Run(name, func(t *testing.T) {
			page, err := decodePage(strings.NewReader(`{"data":[` + soundRow + `,` + test.row + `,` + soundRow + `]}`))
			if err != nil || len(page.Generations) != 2 || len(page.Refused) != 1 {
				t.Fatalf("%+v, %v", page, err)
			}
			if r := page.Refused[0]; r.ID != test.id || r.row != 1 || !strings.Contains(r.Reason, test.reason) {
				t.Errorf("got %+v", r)
			}
		})
	}
}

func TestDecodePageDistrusts(t *testing.T) {
	for name, body := range map[string]string{
		"nothing": ``, "an HTML page": `<!DOCTYPE html><html></html>`, "a list": `[]`, "null": `null`, "no data": `{"rows":[]}`,
		"data is null": `{"data":null}`, "data is an object": `{"data":{}}`, "data twice": `{"data":[],"data":[]}`,
		"cut short": `{"data":[` + soundRow, "cut in a row": `{"data":[` + soundRow[:40], "more behind": `{"data":[]}{}`,
		"an error": `{"error":{"message":"boom"},"data":[]}`, "bad number": `{"data":[{"id":"x","total_cost":01}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			if page, err := decodePage(strings.NewReader(body)); !errors.Is(err, ErrAnswer) || len(page.Generations) != 0 {
				t.Errorf("%+v, %v, want ErrAnswer", page, err)
			}
		})
	}
}

// Whatever comes, the decoder returns; and what it takes for a generation can be billed.
func FuzzDecodePage(f *testing.F) {
	for _, seed := range []string{
		`{"data":[` + soundRow + `]}`, `{"data":[` + strings.TrimSuffix(strings.TrimPrefix(liveSingle, `{"data":`), "}") + `],"total_count":"1"}`,
		`{"data":[{"id":"g","created_at":1788366195,"total_cost":1e6,"is_byok":true,"upstream_inference_cost":1e6,"cost_currency":"usd"}]}`,
		`{"data":[{"id":"g","created_at":"2026-11-23T09:00:00Z","total_cost":"1e-7","native_tokens_prompt":1,"user":3}]}`,
		`{"data":[{"id":"g","total_cost":-0},{"x":[{}]},null,1,"\ud800"]}`,
		`{"error":null,"data":[],"x":{"data":[1]}}`,
		"{\"data\":[{\"id\":\"\xff\",\"model\":\"\\u0000\"}]}",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		page, err := decodePage(strings.NewReader(string(body)))
		if err != nil && len(page.Generations) > 0 {
			t.Fatal("rows of an answer that can't be trusted")
		}
		for _, g := range page.Generations {
			if g.ID == "" || g.CreatedAt.IsZero() || g.Cost < 0 || g.Cost > 2*maxCost || g.Tokens < 0 || g.Tokens > maxNumber {
				t.Fatalf("not billable: %+v", g)
			}
			if len(g.Model) > MaxText || len(g.User) > MaxText || g.Model != Model(g.Model) || g.User != Label(g.User) {
				t.Fatalf("odd labels: %+v", g)
			}
		}
	})
}

// A row with the fields that OpenRouter documents, most of which are of no use here.
const fullRow = `{"id":"gen-1","upstream_id":"chatcmpl-1","request_id":"req-1","session_id":null,` +
	`"created_at":"2026-11-23T10:00:00.123456+00:00","model":"openai/gpt-4.1","provider_name":"OpenAI","total_cost":0.0025,` +
	`"usage":0.0025,"cache_discount":null,"upstream_inference_cost":0,"is_byok":false,"tokens_prompt":1125,` +
	`"tokens_completion":337,"native_tokens_prompt":1000,"native_tokens_completion":300,"native_tokens_completion_images":0,` +
	`"native_tokens_reasoning":75,"native_tokens_cached":250,"num_media_prompt":null,"num_input_audio_prompt":null,` +
	`"num_media_completion":0,"num_search_results":null,"web_search_engine":null,"latency":840,"moderation_latency":null,` +
	`"generation_time":2100,"finish_reason":"stop","native_finish_reason":"completed","streamed":true,"cancelled":false,` +
	`"external_user":"anna","api_type":"completions","app_id":null,"origin":"","http_referer":null,"user_agent":null,` +
	`"router":null,"data_region":"global","provider_responses":[{"provider_name":"OpenAI","status":200,"latency":840}]}`

func BenchmarkDecodePage(b *testing.B) {
	body := `{"data":[` + strings.TrimSuffix(strings.Repeat(fullRow+",", pageSize), ",") + `]}`
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if page, err := decodePage(strings.NewReader(body)); err != nil || len(page.Generations) != pageSize {
			b.Fatal(err)
		}
	}
}
