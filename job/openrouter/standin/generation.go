package standin

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math/big"
	"strconv"
	"strings"
	"time"
)

// Generation is one request that the service has answered.
type Generation struct {
	ID           string
	CreatedAt    time.Time
	Model        string // "provider/model"
	Provider     string // who served it; empty is the provider that the model's author suggests
	ExternalUser string // sent as null where it is empty
	// As the provider counted them, and as they are billed: native_tokens_*. OpenRouter's normalised tokens_* come from
	// another tokenizer and are an eighth more here, so that a client that takes the wrong ones is found out.
	PromptTokens, CompletionTokens int64
	// Cost is the text of a JSON number in USD, sent as it is; empty is 0. Anything else, such as null, is sent too, and counts
	// as nothing in sums.
	Cost string
	// Raw is sent in place of the row where it is set, whatever the other fields say: for rows that no one should trust. Sums and
	// POST /analytics/query go by the other fields.
	Raw string
	// VisibleFrom keeps the row out of lists, analytics and activity until the server's clock reaches it; zero shows it at once.
	VisibleFrom time.Time
}

// row is a generation with what answers need of it.
type row struct {
	Generation
	cost       amount
	rendered   []byte // nil until it is asked for: it is most of the memory, and analytics do without
	superseded bool   // by a later one with the same id
}

func newRow(g Generation) *row {
	if g.Cost == "" {
		g.Cost = "0"
	}
	if g.Provider == "" {
		g.Provider, _ = providerOf(g.Model)
	}
	return &row{Generation: g, cost: parseAmount(g.Cost)}
}

// json returns the row as the list shows it. The caller holds the lock.
func (r *row) json() []byte {
	if r.rendered == nil {
		r.rendered = render(r.Generation)
	}
	return r.rendered
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

// counts tells whether the row is part of the truth by now: not before it is visible, and not twice.
func (r *row) counts(now time.Time) bool { return !r.superseded && r.visible(now) }

func (r *row) visible(now time.Time) bool { return !now.Before(r.VisibleFrom) }

// render writes every field that OpenRouter documents (https://openrouter.ai/docs/api-reference/get-a-generation). What a
// Generation does not say follows from its id, so that the same one always looks the same.
func render(g Generation) []byte {
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
	provider := quote(g.Provider)
	return fmt.Appendf(make([]byte, 0, 1408), `{"id":%s,"upstream_id":"chatcmpl-%016x","request_id":"req-%d-%016x",`+
		`"session_id":null,"created_at":"%s","model":%s,"provider_name":%s,"total_cost":%s,"usage":%s,"cache_discount":null,`+
		`"upstream_inference_cost":0,"is_byok":false,"tokens_prompt":%d,"tokens_completion":%d,"native_tokens_prompt":%d,`+
		`"native_tokens_completion":%d,"native_tokens_completion_images":0,"native_tokens_reasoning":%d,`+
		`"native_tokens_cached":%d,"num_media_prompt":null,"num_input_audio_prompt":null,"num_media_completion":0,`+
		`"num_search_results":null,"num_fetches":null,"web_search_engine":null,"latency":%d,"moderation_latency":null,`+
		`"generation_time":%d,"finish_reason":"stop","native_finish_reason":"%s","streamed":true,"cancelled":false,`+
		`"external_user":%s,"api_type":"completions","app_id":null,"origin":"","http_referer":null,"user_agent":null,`+
		`"router":null,"preset_id":null,"service_tier":null,"data_region":"global","response_cache_source_id":null,`+
		`"provider_responses":[{"provider_name":%s,"status":200,"latency":%d,"is_byok":false}]}`,
		quote(g.ID), random, g.CreatedAt.Unix(), random, g.CreatedAt.UTC().Format("2006-01-02T15:04:05.000000-07:00"),
		quote(g.Model), provider, g.Cost, g.Cost, g.PromptTokens+g.PromptTokens/8, g.CompletionTokens+g.CompletionTokens/8,
		g.PromptTokens, g.CompletionTokens, g.reasoning(), g.cached(), latency, latency+random%5000, nativeFinish,
		user, provider, latency)
}

// quote returns a text as JSON.
func quote(text string) string {
	quoted, err := json.Marshal(text)
	if err != nil {
		panic(err) // a string always has a form in JSON
	}
	return string(quoted)
}

// amount is digits x 10^exponent dollars: exact, so that the sums of the server are a fair judge of someone else's.
type amount struct {
	digits   *big.Int
	exponent int
}

// farthest bounds the exponents that are summed: a cost beyond it is a bad row, and would only fill the memory.
const farthest = 400

// parseAmount reads a JSON number. Anything else is nothing.
func parseAmount(text string) amount {
	mantissa, power, hasPower := strings.Cut(strings.ToLower(text), "e")
	whole, fraction, _ := strings.Cut(mantissa, ".")
	exponent := 0
	if hasPower {
		var err error
		if exponent, err = strconv.Atoi(power); err != nil {
			return amount{digits: new(big.Int)}
		}
	}
	exponent -= len(fraction)
	digits, ok := new(big.Int).SetString(whole+fraction, 10)
	if !ok || exponent > farthest || exponent < -farthest {
		return amount{digits: new(big.Int)}
	}
	return amount{digits, exponent}
}

// sum adds amounts up, those of the same exponent together.
type sum map[int]*big.Int

func (s sum) add(a amount) {
	digits, ok := s[a.exponent]
	if !ok {
		digits = new(big.Int)
		s[a.exponent] = digits
	}
	digits.Add(digits, a.digits)
}

// subtract takes an amount away.
func (s sum) subtract(a amount) { s.add(amount{new(big.Int).Neg(a.digits), a.exponent}) }

// String returns the whole sum as a JSON number without an exponent.
func (s sum) String() string {
	total, places := s.rat()
	text := total.FloatString(places)
	if places > 0 {
		text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
	}
	return text
}

// rat returns the whole sum, and how many decimal places it has at most.
func (s sum) rat() (total *big.Rat, places int) {
	total = new(big.Rat)
	for exponent, digits := range s {
		places = max(places, -exponent)
		scale := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(max(exponent, -exponent))), nil)
		part := new(big.Rat).SetInt(digits)
		if exponent < 0 {
			part.Quo(part, new(big.Rat).SetInt(scale))
		} else {
			part.Mul(part, new(big.Rat).SetInt(scale))
		}
		total.Add(total, part)
	}
	return total, places
}
