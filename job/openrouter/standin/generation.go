package standin

import (
	"cmp"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"strings"
	"time"
)

// Generation is one request that the service has answered.
type Generation struct {
	ID        string
	CreatedAt time.Time
	// Ended is where a long-running generation stands in lists, which may be in the order of completion; zero
	// is CreatedAt.
	Ended time.Time
	Model string // "provider/model", as lists, Broadcast and the model of GET /activity have it
	// Permaslug is the model's permanent name, as in google/gemini-3.1-flash-image-preview-20260226: what
	// analytics and GET /generation show. Empty is Model: some models have no dated name.
	Permaslug    string
	Provider     string // who served it; empty is the provider that the model's author suggests
	ExternalUser string // sent as null where it is empty
	// As the provider counted them, and as they are billed: native_tokens_*. OpenRouter's normalised tokens_*
	// come from another tokenizer and are an eighth more here, so that a client that takes the wrong ones is
	// found out.
	PromptTokens, CompletionTokens int64
	// Cost is the text of a JSON number in USD, sent as it is; empty is 0. Anything else, such as null, is
	// sent too, and counts as nothing in sums.
	Cost string
	// BYOK is a generation with a key of the client's own: Cost is then OpenRouter's fee alone, and
	// UpstreamCost what the provider takes, as the text of a JSON number. Other generations repeat their cost
	// in upstream_inference_cost, so that a client that always adds it is found out.
	BYOK         bool
	UpstreamCost string
	// Tool is a run of a server tool, such as a web search: it costs, and it is no request. With the id of a
	// request that was added before it belongs to that one, whose cost then contains it; analytics have a row
	// for each model, all the same.
	Tool bool
	// NoTokens is a generation that is not counted in tokens, such as a video: analytics show null for them.
	NoTokens bool
	// Raw is sent in place of the row where it is set, whatever the other fields say: for rows that no one
	// should trust. Sums and POST /analytics/query go by the other fields.
	Raw string
	// VisibleFrom keeps the row out of lists, analytics and activity until the server's clock reaches it;
	// zero shows it at once.
	VisibleFrom time.Time
}

// row is a generation with what answers need of it.
type row struct {
	Generation
	workspace  string // empty is the default one
	cost       amount
	upstream   amount // nothing but for BYOK
	rendered   []byte // nil until it is asked for: it is most of the memory, and analytics do without
	superseded bool   // by a later one with the same id
	tools      []*row // runs of server tools with the same id
	partOf     *row   // the request that a run of a server tool belongs to; nil where it stands alone
}

// listedAt is the time that a list is ordered by.
func (r *row) listedAt() time.Time {
	if r.Ended.IsZero() {
		return r.CreatedAt
	}
	return r.Ended
}

func newRow(g Generation) *row {
	if g.Cost == "" {
		g.Cost = "0"
	}
	if g.Provider == "" {
		g.Provider, _ = providerOf(g.Model)
	}
	if g.Permaslug == "" {
		g.Permaslug = g.Model
	}
	r := &row{Generation: g, cost: parseAmount(g.Cost)}
	if g.BYOK {
		r.upstream = parseAmount(g.UpstreamCost)
	}
	return r
}

// json returns the row as the list shows it. The caller holds the lock.
func (r *row) json() []byte {
	if r.rendered == nil {
		r.rendered = r.render(r.Model)
	}
	return r.rendered
}

// single returns the row as GET /generation shows it: with the model's permanent name.
func (r *row) single() []byte {
	if r.Permaslug == r.Model {
		return r.json()
	}
	return r.render(r.Permaslug)
}

// add makes a run of a server tool part of the request with its id.
func (r *row) add(tool *row) {
	tool.partOf = r
	r.tools = append(r.tools, tool)
	r.rendered = nil
}

// totalCost is the cost of the request with the server tools that it has run, as the text of a JSON number.
func (r *row) totalCost() string {
	if len(r.tools) == 0 {
		return r.Cost
	}
	total := sum{}
	total.add(r.cost)
	for _, tool := range r.tools {
		total.add(tool.cost)
	}
	return total.String()
}

// upstreamCost is what upstream_inference_cost shows.
func (r *row) upstreamCost() string {
	if r.BYOK {
		return cmp.Or(r.UpstreamCost, "null")
	}
	return r.Cost
}

// providerOf tells who serves a model, and how that provider calls the end of an answer.
func providerOf(model string) (name, nativeFinish string) {
	switch author, _, _ := strings.Cut(model, "/"); author {
	case "anthropic":
		return "Anthropic", "end_turn"
	case "google":
		return "Google", "STOP"
	case "openai":
		return "OpenAI", "completed"
	case "mistralai":
		return "Mistral", "stop"
	}
	return "DeepInfra", "stop"
}

// reasoning and cached are the parts of the tokens that were thought and that came from a cache.
func (g *Generation) reasoning() int64 { return g.CompletionTokens / 4 }
func (g *Generation) cached() int64    { return g.PromptTokens / 4 }

// requests is how many requests the row is: a run of a server tool is none.
func (g *Generation) requests() int64 {
	if g.Tool {
		return 0
	}
	return 1
}

// counts tells whether the row is part of the truth by now: not before it is visible, and not twice.
func (r *row) counts(now time.Time) bool { return !r.superseded && r.visible(now) }

func (r *row) visible(now time.Time) bool { return !now.Before(r.VisibleFrom) }

// render writes every field that OpenRouter documents
// (https://openrouter.ai/docs/api-reference/get-a-generation) and that its SDK of 23 September 2026 wants.
// What a Generation does not say follows from its id, so that the same one always looks the same.
func (r *row) render(model string) []byte {
	g := r.Generation
	if g.Raw != "" {
		return []byte(g.Raw)
	}
	hash := fnv.New64a()
	_, _ = hash.Write([]byte(g.ID)) // a hash never fails
	random := hash.Sum64()
	latency := 300 + random%2000
	user := "null"
	if g.ExternalUser != "" {
		user = quote(g.ExternalUser)
	}
	_, nativeFinish := providerOf(g.Model)
	provider, cost, apiType := quote(g.Provider), r.totalCost(), `"completions"`
	if g.Tool {
		apiType = `"web_search"` // some value for a tool since 4 November 2026; which is unproven
	}
	return fmt.Appendf(make([]byte, 0, 1408), `{"id":%s,"upstream_id":"chatcmpl-%016x","request_id":"req-%d-%016x",`+
		`"session_id":null,"created_at":"%s","model":%s,"provider_name":%s,"total_cost":%s,"usage":%s,"cache_discount":null,`+
		`"upstream_inference_cost":%s,"is_byok":%t,"tokens_prompt":%d,"tokens_completion":%d,"native_tokens_prompt":%d,`+
		`"native_tokens_completion":%d,"native_tokens_completion_images":0,"native_tokens_reasoning":%d,`+
		`"native_tokens_cached":%d,"num_media_prompt":null,"num_input_audio_prompt":null,"num_media_completion":0,`+
		`"num_search_results":null,"num_fetches":null,"web_search_engine":null,"latency":%d,"moderation_latency":null,`+
		`"generation_time":%d,"finish_reason":"stop","native_finish_reason":"%s","streamed":true,"cancelled":false,`+
		`"external_user":%s,"api_type":%s,"app_id":null,"origin":"","http_referer":null,"user_agent":null,`+
		`"router":null,"preset_id":null,"service_tier":null,"data_region":"global","response_cache_source_id":null,`+
		`"workspace_id":%s,"provider_responses":[{"provider_name":%s,"status":200,"latency":%d,"is_byok":%t}]}`,
		quote(g.ID), random, g.CreatedAt.Unix(), random, g.CreatedAt.UTC().Format("2006-01-02T15:04:05.000000-07:00"),
		quote(model), provider, cost, cost, r.upstreamCost(), g.BYOK, g.PromptTokens+g.PromptTokens/8,
		g.CompletionTokens+g.CompletionTokens/8, g.PromptTokens, g.CompletionTokens, g.reasoning(), g.cached(),
		latency, latency+random%5000, nativeFinish,
		user, apiType, quote(cmp.Or(r.workspace, DefaultWorkspace)), provider, latency, g.BYOK)
}

// quote returns a text as JSON.
func quote(text string) string {
	quoted, err := json.Marshal(text)
	if err != nil {
		panic(err) // a string always has a form in JSON
	}
	return string(quoted)
}
