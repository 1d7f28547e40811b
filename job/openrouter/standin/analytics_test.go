package standin_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"usage-sync/job/openrouter/standin"
)

func post(t *testing.T, base, key, body string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequest("POST", base+"/analytics/query", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+key)
	r.Header.Set("Content-Type", "application/json")
	return do(t, r)
}

// result is the answer to a query.
type result struct {
	Data     []json.RawMessage
	Metadata struct {
		Milliseconds json.Number `json:"query_time_ms"`
		Count        int         `json:"row_count"`
		Truncated    bool
	}
	Warnings []string
	CachedAt int64 `json:"cachedAt"`
}

// analytics asks with the management key and wants a success.
func analytics(t *testing.T, base, body string) result {
	t.Helper()
	response, answer := post(t, base, management, body)
	if response.StatusCode != 200 {
		t.Fatalf("HTTP %d %s for %s", response.StatusCode, answer, body)
	}
	r := decode[result](t, answer)
	if r.Metadata.Count != len(r.Data) || r.Metadata.Milliseconds == "" {
		t.Errorf("the metadata do not fit in %s", answer)
	}
	return r
}

// rowsOf returns the rows as they were sent, a line each.
func rowsOf(t *testing.T, r result) string {
	t.Helper()
	var lines []string
	for _, row := range r.Data {
		lines = append(lines, string(row))
	}
	return strings.Join(lines, "\n")
}

func TestAnalytics(t *testing.T) {
	s, _, base := manage(t)
	const second = "sk-or-v1-second"
	s.SetKey(second, standin.Key{Name: "Second"})
	at := func(id, text, model, user, provider, cost string, prompt, completion int64) standin.Generation {
		created, err := time.Parse(time.RFC3339, text)
		if err != nil {
			t.Fatal(err)
		}
		return standin.Generation{ID: id, CreatedAt: created, Model: model, ExternalUser: user, Provider: provider, Cost: cost,
			PromptTokens: prompt, CompletionTokens: completion}
	}
	s.Add(key,
		at("gen-1", "2026-07-15T10:00:00Z", "openai/gpt-5", "anna", "", "0.10", 80, 40),
		at("gen-2", "2026-07-15T10:59:59.999Z", "openai/gpt-5", "", "Azure", "0.2", 8, 4),
		at("gen-3", "2026-07-15T11:00:00Z", "meta/llama", `"b"`, "", "1e-18", 0, 1),
		at("gen-4", "2026-07-12T23:30:00Z", "meta/llama", "anna", "", "null", 1, 0), // Sunday
		at("gen-5", "2026-06-30T23:30:00Z", "meta/llama", "anna", "", "", 1, 0),
	)
	s.Add(second, at("gen-6", "2026-07-15T10:30:00Z", "openai/gpt-5", "carl", "", "5", 100, 100))
	first := `{"field":"api_key_id","operator":"eq","value":"` + hashOf(key) + `"}`
	july := `"time_range":{"start":"2026-07-01T00:00:00Z","end":"2026-07-15T12:00:00Z"}`
	for _, test := range []struct{ name, query, want string }{
		{"GenerationAndModel", `{"metrics":["total_usage","tokens_total"],"dimensions":["generation_id","model"],"granularity":"hour",` + july + `,"filters":[` + first + `]}`,
			`{"created_at__hour":"2026-07-15 11:00:00","generation_id":"gen-3","model":"meta/llama","total_usage":0,"tokens_total":"1"}
{"created_at__hour":"2026-07-15 10:00:00","generation_id":"gen-2","model":"openai/gpt-5","total_usage":0.2,"tokens_total":"12"}
{"created_at__hour":"2026-07-15 10:00:00","generation_id":"gen-1","model":"openai/gpt-5","total_usage":0.1,"tokens_total":"120"}
{"created_at__hour":"2026-07-12 23:00:00","generation_id":"gen-4","model":"meta/llama","total_usage":null,"tokens_total":"1"}`},
		{"GenerationAndUser", `{"metrics":["request_count"],"dimensions":["generation_id","external_user"],"granularity":"minute","time_range":{"start":"2026-07-15T10:00:00Z","end":"2026-07-15T13:00:00Z"},"filters":[` + first + `]}`,
			`{"created_at__minute":"2026-07-15 11:00:00","generation_id":"gen-3","external_user":"\"b\"","request_count":"1"}
{"created_at__minute":"2026-07-15 10:59:00","generation_id":"gen-2","external_user":null,"request_count":"1"}
{"created_at__minute":"2026-07-15 10:00:00","generation_id":"gen-1","external_user":"anna","request_count":"1"}`},
		{"StartIsInAndEndIsOut", `{"metrics":["request_count"],"dimensions":["generation_id"],"time_range":{"start":"2026-07-15T12:00:00+02:00","end":"2026-07-15T13:00:00+02:00"},"filters":[` + first + `]}`,
			`{"generation_id":"gen-2","request_count":"1"}
{"generation_id":"gen-1","request_count":"1"}`},
		{"DayAndModel", `{"metrics":["request_count","tokens_prompt","tokens_completion","reasoning_tokens","cached_tokens","byok_request_count","total_usage","credits_usage","byok_usage"],"dimensions":["model"],"granularity":"day",` + july + `,"filters":[` + first + `]}`,
			`{"date__day":"2026-07-15","model":"meta/llama","request_count":"1","tokens_prompt":"0","tokens_completion":"1","reasoning_tokens":"0","cached_tokens":"0","byok_request_count":"0","total_usage":0,"credits_usage":0,"byok_usage":0}
{"date__day":"2026-07-15","model":"openai/gpt-5","request_count":"2","tokens_prompt":"88","tokens_completion":"44","reasoning_tokens":"11","cached_tokens":"22","byok_request_count":"0","total_usage":0.3,"credits_usage":0.3,"byok_usage":0}
{"date__day":"2026-07-12","model":"meta/llama","request_count":"1","tokens_prompt":"1","tokens_completion":"0","reasoning_tokens":"0","cached_tokens":"0","byok_request_count":"0","total_usage":null,"credits_usage":null,"byok_usage":0}`},
		{"Week", `{"metrics":["request_count"],"granularity":"week",` + july + `}`,
			`{"date__week":"2026-07-13","request_count":"4"}
{"date__week":"2026-07-06","request_count":"1"}`},
		{"Month", `{"metrics":["request_count","total_usage"],"granularity":"month","time_range":{"start":"2026-06-01T00:00:00Z","end":"2026-08-01T00:00:00Z"}}`,
			`{"date__month":"2026-07-01","request_count":"5","total_usage":5.3}
{"date__month":"2026-06-01","request_count":"1","total_usage":0}`},
		{"LastSevenDays", `{"metrics":["request_count"]}`, `{"request_count":"5"}`},
		{"KeysByName", `{"metrics":["request_count"],"dimensions":["api_key_id"],` + july + `,"order_by":{"field":"request_count","direction":"asc"}}`,
			`{"api_key_id":"Second","request_count":"1"}
{"api_key_id":"sk-or-v1-fir...rst","request_count":"4"}`},
		{"ModelAndProvider", `{"metrics":["request_count"],"dimensions":["model","provider"],` + july + `,"order_by":{"field":"provider","direction":"desc"}}`,
			`{"model":"openai/gpt-5","provider":"OpenAI","request_count":"2"}
{"model":"meta/llama","provider":"DeepInfra","request_count":"2"}
{"model":"openai/gpt-5","provider":"Azure","request_count":"1"}`},
		{"KeysInterleaved", `{"metrics":["request_count"],"dimensions":["generation_id"],"granularity":"hour",` + july + `}`,
			`{"created_at__hour":"2026-07-15 11:00:00","generation_id":"gen-3","request_count":"1"}
{"created_at__hour":"2026-07-15 10:00:00","generation_id":"gen-2","request_count":"1"}
{"created_at__hour":"2026-07-15 10:00:00","generation_id":"gen-1","request_count":"1"}
{"created_at__hour":"2026-07-15 10:00:00","generation_id":"gen-6","request_count":"1"}
{"created_at__hour":"2026-07-12 23:00:00","generation_id":"gen-4","request_count":"1"}`},
		{"OrderByDate", `{"metrics":["request_count"],"granularity":"day",` + july + `,"order_by":{"field":"date","direction":"asc"}}`,
			`{"date__day":"2026-07-12","request_count":"1"}
{"date__day":"2026-07-15","request_count":"4"}`},
		{"OrderByCost", `{"metrics":["total_usage"],"dimensions":["external_user"],` + july + `,"order_by":{"field":"total_usage","direction":"desc"}}`,
			`{"external_user":"carl","total_usage":5}
{"external_user":null,"total_usage":0.2}
{"external_user":"anna","total_usage":0.1}
{"external_user":"\"b\"","total_usage":0}`},
		{"GroupLimit", `{"metrics":["request_count"],"dimensions":["model"],"granularity":"day",` + july + `,"group_limit":1}`,
			`{"date__day":"2026-07-15","model":"meta/llama","request_count":"1"}
{"date__day":"2026-07-15","model":"openai/gpt-5","request_count":"3"}`},
		{"NothingThere", `{"metrics":["request_count"],"time_range":{"start":"2026-01-01T00:00:00Z","end":"2026-01-02T00:00:00Z"}}`, ``},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := analytics(t, base, test.query)
			if got := rowsOf(t, r); got != test.want {
				t.Errorf("got\n%s\nwant\n%s", got, test.want)
			}
			if r.Metadata.Truncated || len(r.Warnings) > 0 || r.CachedAt != noon.UnixMilli() {
				t.Errorf("got %+v", r)
			}
		})
	}

	for _, test := range []struct{ name, filter, want string }{
		{"Eq", `{"field":"external_user","operator":"eq","value":"anna"}`, "gen-1 gen-4"},
		{"Neq", `{"field":"model","operator":"neq","value":"openai/gpt-5"}`, "gen-3 gen-4"},
		{"In", `{"field":"generation_id","operator":"in","value":["gen-2","gen-6","gen-0"]}`, "gen-2 gen-6"},
		{"NotIn", `{"field":"generation_id","operator":"not_in","value":["gen-2","gen-6"]}`, "gen-3 gen-1 gen-4"},
		{"Lt", `{"field":"generation_id","operator":"lt","value":"gen-2"}`, "gen-1"},
		{"Lte", `{"field":"generation_id","operator":"lte","value":"gen-2"}`, "gen-2 gen-1"},
		{"Gt", `{"field":"generation_id","operator":"gt","value":"gen-4"}`, "gen-6"},
		{"Gte", `{"field":"generation_id","operator":"gte","value":"gen-4"}`, "gen-4 gen-6"},
		{"NumberIsText", `{"field":"external_user","operator":"eq","value":7}`, ""},
		{"Both", `{"field":"provider","operator":"eq","value":"OpenAI"},` + first, "gen-1"},
		{"OtherKeys", `{"field":"api_key_id","operator":"neq","value":"` + hashOf(key) + `"}`, "gen-6"},
		{"BothKeys", `{"field":"api_key_id","operator":"in","value":["` + hashOf(key) + `","` + hashOf(second) + `"]}`, "gen-3 gen-2 gen-1 gen-4 gen-6"},
	} {
		t.Run("Filter"+test.name, func(t *testing.T) {
			r := analytics(t, base, `{"metrics":["request_count"],"dimensions":["generation_id"],`+july+`,"filters":[`+test.filter+`]}`)
			if got := strings.Join(idsOf(t, r), " "); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

func idsOf(t *testing.T, r result) []string {
	t.Helper()
	ids := []string{}
	for _, row := range r.Data {
		var one struct {
			ID string `json:"generation_id"`
		}
		if err := json.Unmarshal(row, &one); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, one.ID)
	}
	return ids
}

func TestUnresolvedHash(t *testing.T) {
	s, _, base := manage(t)
	s.Add(key, made("gen-1", 1))
	query := func(hash string) result {
		return analytics(t, base, `{"metrics":["request_count"],"dimensions":["generation_id"],"filters":[{"field":"api_key_id","operator":"eq","value":"`+hash+`"}]}`)
	}
	wantUnresolved := func(t *testing.T, r result, hash string) {
		t.Helper()
		if len(r.Data) != 0 || r.Metadata.Truncated || len(r.Warnings) != 1 ||
			!strings.Contains(r.Warnings[0], "api_key_id") || !strings.Contains(r.Warnings[0], hash) {
			t.Errorf("got %+v", r)
		}
	}
	wantIDs(t, idsOf(t, query(hashOf(key))), "gen-1")
	wantUnresolved(t, query(hashOf("x")), hashOf("x"))
	wantUnresolved(t, query(hashOf(management)), hashOf(management))
	t.Run("BesidesAKnownOne", func(t *testing.T) {
		r := analytics(t, base, `{"metrics":["request_count"],"dimensions":["generation_id"],"filters":[{"field":"api_key_id",`+
			`"operator":"in","value":["`+hashOf("x")+`","`+hashOf(key)+`"]}]}`)
		wantIDs(t, idsOf(t, r), "gen-1")
		if len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], hashOf("x")) {
			t.Errorf("got %q", r.Warnings)
		}
	})
	t.Run("OfAKeyThatWasNotAdded", func(t *testing.T) {
		s.Add("sk-or-v1-other", made("gen-2", 2))
		wantUnresolved(t, query(hashOf("sk-or-v1-other")), hashOf("sk-or-v1-other"))
		s.AddKey("sk-or-v1-other", "")
		wantIDs(t, idsOf(t, query(hashOf("sk-or-v1-other"))), "gen-2")
	})
	t.Run("OtherThanTheSHA256", func(t *testing.T) {
		other := strings.Repeat("ab", 32)
		s.SetKey(key, standin.Key{Hash: other})
		wantUnresolved(t, query(hashOf(key)), hashOf(key))
		wantIDs(t, idsOf(t, query(other)), "gen-1")
	})
}

func TestTruncated(t *testing.T) {
	s, c, base := manage(t)
	c.advance(time.Second) // the last seven days end before now
	s.AnalyticsPerMinute(0)
	for i := range 1001 {
		s.Add(key, made(fmt.Sprintf("gen-%04d", i), i))
	}
	for _, test := range []struct {
		name, more string
		count      int
		truncated  bool
		first      string
	}{
		{"Default", ``, 1000, true, "gen-0000"},
		{"AllOfThem", `,"limit":1001`, 1001, false, "gen-0000"},
		{"OneLess", `,"limit":1000`, 1000, true, "gen-0000"},
		{"Most", `,"limit":10000`, 1001, false, "gen-0000"},
		{"One", `,"limit":1`, 1, true, "gen-0000"},
		{"OldestFirst", `,"limit":2,"granularity":"hour","order_by":{"field":"date__hour","direction":"asc"}`, 2, true, "gen-0961"},
		{"ByID", `,"limit":2,"order_by":{"field":"generation_id","direction":"desc"}`, 2, true, "gen-1000"},
		{"NewestFirst", `,"limit":2,"granularity":"hour","order_by":{"field":"date","direction":"desc"},"filters":[{"field":"api_key_id","operator":"eq","value":"` + hashOf(key) + `"}]`, 2, true, "gen-0000"},
		{"AfterAFilter", `,"limit":2,"filters":[{"field":"generation_id","operator":"lte","value":"gen-0001"}]`, 2, false, "gen-0000"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := analytics(t, base, `{"metrics":["request_count"],"dimensions":["generation_id"]`+test.more+`}`)
			if len(r.Data) != test.count || r.Metadata.Truncated != test.truncated {
				t.Fatalf("got %d rows, truncated %t", len(r.Data), r.Metadata.Truncated)
			}
			if got := idsOf(t, r)[0]; got != test.first {
				t.Errorf("the first is %s, want %s", got, test.first)
			}
		})
	}
}

// TestTruncatedOverKeys: what is cut off is the oldest of all keys together.
func TestTruncatedOverKeys(t *testing.T) {
	s, _, base := manage(t)
	s.AddKey("sk-or-v1-second", "")
	s.Add(key, made("gen-2", 120), made("gen-4", 240))
	s.Add("sk-or-v1-second", made("gen-1", 60), made("gen-3", 180))
	r := analytics(t, base, `{"metrics":["request_count"],"dimensions":["generation_id"],"granularity":"hour","limit":3}`)
	wantIDs(t, idsOf(t, r), "gen-1", "gen-2", "gen-3")
	if !r.Metadata.Truncated {
		t.Error("not truncated")
	}
}

func TestBadQueries(t *testing.T) {
	s, _, base := manage(t)
	s.AnalyticsPerMinute(0)
	filters := func(n int) string {
		return `"filters":[` + strings.TrimSuffix(strings.Repeat(`{"field":"model","operator":"neq","value":"x"},`, n), ",") + `]`
	}
	span := func(length time.Duration) string {
		return fmt.Sprintf(`"time_range":{"start":"%s","end":"%s"}`, noon.Add(-length).Format(time.RFC3339Nano), noon.Format(time.RFC3339))
	}
	filter := func(field, operator, value string) string {
		return fmt.Sprintf(`{"metrics":["request_count"],"filters":[{"field":%q,"operator":%q,"value":%s}]}`, field, operator, value)
	}
	const day = 24 * time.Hour
	for _, test := range []struct{ name, query, message string }{
		{"Empty", ``, "EOF"},
		{"NoJSON", `metrics`, "invalid character"},
		{"NoObject", `[]`, "cannot unmarshal"},
		{"MoreThanOne", `{"metrics":["request_count"]}{}`, "more after the end"},
		{"NoMetrics", `{}`, "at least one metric"},
		{"EmptyMetrics", `{"metrics":[]}`, "at least one metric"},
		{"UnknownMetric", `{"metrics":["cost"]}`, `unknown or repeated metric "cost"`},
		{"RepeatedMetric", `{"metrics":["total_usage","total_usage"]}`, `unknown or repeated metric "total_usage"`},
		{"UnknownField", `{"metrics":["request_count"],"offset":1}`, `unknown field "offset"`},
		{"UnknownFieldOfAFilter", `{"metrics":["request_count"],"filters":[{"name":"model","operator":"eq","value":"x"}]}`, `unknown field "name"`},
		{"ThreeDimensions", `{"metrics":["request_count"],"dimensions":["model","generation_id","external_user"]}`, "at most 2 dimensions"},
		{"UnknownDimension", `{"metrics":["request_count"],"dimensions":["colour"]}`, `unknown or repeated dimension "colour"`},
		{"RepeatedDimension", `{"metrics":["request_count"],"dimensions":["model","model"]}`, `unknown or repeated dimension "model"`},
		{"UnknownGranularity", `{"metrics":["request_count"],"granularity":"second"}`, `unknown granularity "second"`},
		{"MinutesOfMoreThanThreeHours", `{"metrics":["request_count"],"granularity":"minute",` + span(3*time.Hour+time.Second) + `}`, "minute granularity"},
		{"MinutesOfAWeek", `{"metrics":["request_count"],"granularity":"minute"}`, "minute granularity"},
		{"EmptyRange", `{"metrics":["request_count"],` + span(0) + `}`, "start must be before end"},
		{"BackwardRange", `{"metrics":["request_count"],` + span(-time.Hour) + `}`, "start must be before end"},
		{"TimeWithoutZone", `{"metrics":["request_count"],"time_range":{"start":"2026-07-15T10:00:00","end":"2026-07-15T11:00:00Z"}}`, "Invalid ISO datetime"},
		{"TimeWithoutSeconds", `{"metrics":["request_count"],"time_range":{"start":"2026-07-15T10:00Z","end":"2026-07-15T11:00:00Z"}}`, "Invalid ISO datetime"},
		{"TimeWithMilliseconds", `{"metrics":["request_count"],"time_range":{"start":"2026-07-15T10:00:00.000Z","end":"2026-07-15T11:00:00Z"}}`, "Invalid ISO datetime"},
		{"NoSuchDay", `{"metrics":["request_count"],"time_range":{"start":"2026-07-15T10:00:00Z","end":"2026-07-32T11:00:00Z"}}`, "out of range"},
		{"HoursOfMoreThan31Days", `{"metrics":["request_count"],"granularity":"hour",` + span(31*day+time.Second) + `}`, "hour granularity"},
		{"GenerationsOfMoreThan31Days", `{"metrics":["request_count"],"dimensions":["generation_id"],` + span(31*day+time.Second) + `}`, "limited to 31 days"},
		{"UsersOfMoreThan31Days", `{"metrics":["request_count"],"dimensions":["model","external_user"],` + span(32*day) + `}`, "limited to 31 days"},
		{"ProvidersOfMoreThan31Days", `{"metrics":["request_count"],"dimensions":["provider"],` + span(32*day) + `}`, "limited to 31 days"},
		{"OneUserOfMoreThan31Days", `{"metrics":["request_count"],"filters":[{"field":"external_user","operator":"eq","value":"a"}],` + span(32*day) + `}`, "limited to 31 days"},
		{"MoreThanAYear", `{"metrics":["request_count"],` + span(367*day+time.Second) + `}`, "limited to 367 days"},
		{"TooManyFilters", `{"metrics":["request_count"],` + filters(21) + `}`, "at most 20 filters"},
		{"UnknownFilterField", filter("id", "eq", `"x"`), `unknown filter field "id"`},
		{"UnknownOperator", filter("model", "like", `"x"`), `unknown operator "like"`},
		{"ArrayForAScalar", filter("model", "eq", `["x"]`), "wants texts or numbers"},
		{"ScalarForAnArray", filter("model", "in", `"x"`), "wants an array"},
		{"EmptyArray", filter("model", "not_in", `[]`), "wants an array"},
		{"NullFilter", filter("model", "eq", `null`), "wants texts or numbers"},
		{"BoolInAnArray", filter("model", "in", `[true]`), "wants texts or numbers"},
		{"NoFilterValue", `{"metrics":["request_count"],"filters":[{"field":"model","operator":"eq"}]}`, "wants texts or numbers"},
		{"OrderByWhatIsNotThere", `{"metrics":["request_count"],"order_by":{"field":"model","direction":"asc"}}`, `order_by names "model"`},
		{"OrderByDateWithoutBuckets", `{"metrics":["request_count"],"order_by":{"field":"date","direction":"asc"}}`, `order_by names "date"`},
		{"UnknownDirection", `{"metrics":["request_count"],"order_by":{"field":"request_count","direction":"up"}}`, `unknown direction "up"`},
		{"LimitIsZero", `{"metrics":["request_count"],"limit":0}`, "limit must be from 1 to 10000"},
		{"LimitIsTooHigh", `{"metrics":["request_count"],"limit":10001}`, "limit must be from 1 to 10000"},
		{"LimitIsText", `{"metrics":["request_count"],"limit":"10"}`, "cannot unmarshal"},
		{"GroupLimitIsZero", `{"metrics":["request_count"],"group_limit":0}`, "group_limit must be from 1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			response, body := post(t, base, management, test.query)
			wantError(t, response, body, 400, "Invalid query: ")
			wantFields(t, body, strings.ReplaceAll(test.message, `"`, `\"`))
		})
	}
	for name, query := range map[string]string{
		"MinutesOfThreeHours": `{"metrics":["request_count"],"granularity":"minute",` + span(3*time.Hour) + `}`,
		"GenerationsOf31Days": `{"metrics":["request_count"],"dimensions":["generation_id"],` + span(31*day) + `}`,
		"ModelsOfAYear":       `{"metrics":["request_count"],"dimensions":["model"],` + span(367*day) + `}`,
		"MostFilters":         `{"metrics":["request_count"],` + filters(20) + `}`,
		"HoursOf31Days":       `{"metrics":["request_count"],"granularity":"hour",` + span(31*day) + `}`,
		"OtherZone":           `{"metrics":["request_count"],"time_range":{"start":"2026-07-15T10:00:00+02:00","end":"2026-07-15T11:00:00Z"}}`,
		"HighestLimit":        `{"metrics":["request_count"],"limit":10000}`,
	} {
		t.Run("AtTheLimit"+name, func(t *testing.T) { analytics(t, base, query) })
	}
}

func TestAnalyticsPerMinute(t *testing.T) {
	const query = `{"metrics":["request_count"]}`
	statuses := func(t *testing.T, base, key string, n int) map[int]int {
		t.Helper()
		got := map[int]int{}
		for range n {
			response, body := post(t, base, key, query)
			got[response.StatusCode]++
			if response.StatusCode != 429 {
				continue
			}
			wantError(t, response, body, 429, "Rate limit exceeded")
			if seconds, err := strconv.Atoi(response.Header.Get("Retry-After")); err != nil || seconds < 1 || seconds > 60 {
				t.Errorf("Retry-After is %q", response.Header.Get("Retry-After"))
			}
		}
		return got
	}
	s, c, base := manage(t)
	if got := statuses(t, base, management, 66); got[200] != 64 || got[429] != 2 {
		t.Errorf("got %v", got)
	}
	c.advance(time.Hour) // the limit is of real time: a client waits for it with its own clock
	if response, _ := post(t, base, management, query); response.StatusCode != 429 {
		t.Errorf("got HTTP %d", response.StatusCode)
	}
	c.advance(-time.Hour)
	t.Run("OfAnotherKey", func(t *testing.T) {
		s.AddManagementKey("sk-or-v1-other")
		if got := statuses(t, base, "sk-or-v1-other", 1); got[200] != 1 {
			t.Errorf("got %v", got)
		}
	})
	t.Run("Lower", func(t *testing.T) {
		s.AnalyticsPerMinute(2)
		s.AddManagementKey("sk-or-v1-third")
		if got := statuses(t, base, "sk-or-v1-third", 3); got[200] != 2 || got[429] != 1 {
			t.Errorf("got %v", got)
		}
	})
	t.Run("Off", func(t *testing.T) {
		s.AnalyticsPerMinute(0)
		if got := statuses(t, base, management, 100); got[200] != 100 {
			t.Errorf("got %v", got)
		}
	})
}

func TestOtherDates(t *testing.T) {
	s, _, base := manage(t)
	s.Add(key, made("gen-1", 24*60+1))
	for _, test := range []struct {
		granularity, usual, other string
	}{
		{"hour", "2026-07-14 11:00:00", "2026-07-14T11:00:00.000Z"},
		{"day", "2026-07-14", "2026-07-14T00:00:00.000Z"},
		{"week", "2026-07-13", "2026-07-13T00:00:00.000Z"},
		{"month", "2026-07-01", "2026-07-01T00:00:00.000Z"},
	} {
		for other, want := range map[bool]string{false: test.usual, true: test.other} {
			s.OtherDates(other)
			r := analytics(t, base, `{"metrics":["request_count"],"granularity":"`+test.granularity+`"}`)
			if got, want := rowsOf(t, r), `{"date__`+test.granularity+`":"`+want+`","request_count":"1"}`; got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
	}
}

// TestRecordings are the answers that were seen of the live service, with ids and names of their own (section by section: a query
// for generations, 2 September 2026; for keys and models, 31 July; for days, 9 September).
func TestRecordings(t *testing.T) {
	s, c, base := manage(t)
	at := func(text string) time.Time {
		parsed, err := time.Parse(time.DateTime, text)
		if err != nil {
			t.Fatal(err)
		}
		return parsed
	}
	c.advance(at("2026-09-10 12:00:00").Sub(noon))
	s.SetKey(key, standin.Key{Name: "Acme production"})
	const kimi, dated = "moonshotai/kimi-k2.6", "moonshotai/kimi-k2.6-20260420"
	s.Add(key,
		standin.Generation{ID: "gen-1788366195-AbCdEfGhIjKlMnOpQrSt", CreatedAt: at("2026-09-02 16:43:15"), Cost: "0.0685905",
			Model: "google/gemini-3.1-flash-image-preview", Permaslug: "google/gemini-3.1-flash-image-preview-20260226",
			PromptTokens: 57, CompletionTokens: 1574},
		standin.Generation{ID: "gen-1788340000-AaBbCcDdEeFfGgHhIiJj", CreatedAt: at("2026-09-02 09:06:40"), Cost: "3.2",
			Model: "google/veo-3.1", NoTokens: true},
		standin.Generation{ID: "gen-a", CreatedAt: at("2026-07-31 18:10:00"), Model: kimi, Permaslug: dated, Cost: "0.0042956"},
		standin.Generation{ID: "gen-b", CreatedAt: at("2026-07-31 18:20:00"), Model: kimi, Permaslug: dated, Cost: "0.0042956"},
		standin.Generation{ID: "gen-c", CreatedAt: at("2026-07-31 18:30:00"), Model: kimi, Permaslug: dated, Cost: "0.0042956",
			PromptTokens: 6278, CompletionTokens: 4522},
		standin.Generation{ID: "gen-d", CreatedAt: at("2026-09-09 18:30:00"), Model: kimi, Permaslug: dated, Cost: "0.005235",
			PromptTokens: 66342},
	)
	for _, test := range []struct{ name, query, want string }{
		{"Raw", `{"metrics":["request_count","total_usage","tokens_total"],"dimensions":["generation_id","model"],"granularity":"hour",` +
			`"time_range":{"start":"2026-09-01T00:00:00Z","end":"2026-09-03T00:00:00Z"}}`,
			`{"created_at__hour":"2026-09-02 16:00:00","generation_id":"gen-1788366195-AbCdEfGhIjKlMnOpQrSt",` +
				`"model":"google/gemini-3.1-flash-image-preview-20260226","request_count":"1","total_usage":0.06859,"tokens_total":"1631"}
{"created_at__hour":"2026-09-02 09:00:00","generation_id":"gen-1788340000-AaBbCcDdEeFfGgHhIiJj","model":"google/veo-3.1",` +
				`"request_count":"1","total_usage":3.2,"tokens_total":null}`},
		{"RolledUp", `{"metrics":["request_count","total_usage","tokens_total","byok_usage"],"dimensions":["api_key_id","model"],` +
			`"granularity":"hour","time_range":{"start":"2026-07-31T00:00:00Z","end":"2026-08-01T00:00:00Z"}}`,
			`{"date__hour":"2026-07-31 18:00:00","api_key_id":"Acme production","model":"moonshotai/kimi-k2.6-20260420",` +
				`"request_count":"3","total_usage":0.012887,"tokens_total":"10800","byok_usage":0}`},
		{"Days", `{"metrics":["total_usage","request_count","tokens_total"],"granularity":"day",` +
			`"time_range":{"start":"2026-09-09T00:00:00Z","end":"2026-09-10T00:00:00Z"}}`,
			`{"date__day":"2026-09-09","total_usage":0.005235,"request_count":"1","tokens_total":"66342"}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := rowsOf(t, analytics(t, base, test.query)); got != test.want {
				t.Errorf("got\n%s\nwant\n%s", got, test.want)
			}
		})
	}
}

// TestRounding: a sum is rounded once, and its parts once each, whichever way it is.
func TestRounding(t *testing.T) {
	s, _, base := manage(t)
	cost := func(id, cost string) standin.Generation {
		g := made(id, 1)
		g.Cost = cost
		return g
	}
	s.Add(key, cost("gen-1", "0.0685905"), cost("gen-2", "0.0000005"), cost("gen-3", "0.0000004999"), cost("gen-4", "3e-7"),
		cost("gen-5", "-0.0000015"), cost("gen-6", "1.50"), cost("gen-7", "2E1"))
	for _, test := range []struct {
		quirks standin.Quirks
		want   string
		total  string
	}{
		{standin.Quirks{Rounding: standin.HalfUp}, "0.068591 0.000001 0 0 -0.000002 1.5 20", "21.56859"},
		{standin.Quirks{}, "0.06859 0 0 0 -0.000002 1.5 20", "21.56859"},
		{standin.Quirks{Rounding: standin.Cut}, "0.06859 0 0 0 -0.000001 1.5 20", "21.56859"},
		{standin.Quirks{Decimals: 4}, "0.0686 0 0 0 0 1.5 20", "21.5686"},
		{standin.Quirks{Exact: true}, "0.0685905 0.0000005 0.0000004999 0.0000003 -0.0000015 1.5 20", "21.5685902999"},
		{standin.Quirks{Cents: true}, "6.85905 0.00005 0.00005 0.00003 -0.00015 150 2000", "2156.85903"},
	} {
		s.Play(test.quirks)
		r := analytics(t, base, `{"metrics":["total_usage"],"dimensions":["generation_id"],"order_by":{"field":"generation_id","direction":"asc"}}`)
		var got []string
		for _, row := range r.Data {
			_, usage, _ := strings.Cut(string(row), `"total_usage":`)
			got = append(got, strings.TrimSuffix(usage, "}"))
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%+v: got %v, want %s", test.quirks, got, test.want)
		}
		if got := rowsOf(t, analytics(t, base, `{"metrics":["total_usage"]}`)); got != `{"total_usage":`+test.total+`}` {
			t.Errorf("%+v: the total is %s, want %s", test.quirks, got, test.total)
		}
	}
}

// TestPartsOfUsage: total_usage is what was charged, server tools included, and what was paid with keys of the client's own.
func TestPartsOfUsage(t *testing.T) {
	s, _, base := manage(t)
	byok, tool := made("gen-1", 1), made("gen-2", 2)
	byok.BYOK, byok.Cost, byok.UpstreamCost = true, "0.0005", "0.01"
	tool.Tool, tool.Cost, tool.PromptTokens, tool.CompletionTokens = true, "0.004", 0, 0
	own := tool
	own.ID = "gen-3"
	s.Add(key, byok, made("gen-2", 2), tool, own)
	got := rowsOf(t, analytics(t, base, `{"metrics":["request_count","byok_request_count","total_usage","credits_usage",`+
		`"openrouter_usage","byok_usage","byok_fees","usage_web","usage_data"]}`))
	want := `{"request_count":"2","byok_request_count":"1","total_usage":0.0195,"credits_usage":0.0095,"openrouter_usage":0.001,` +
		`"byok_usage":0.01,"byok_fees":0.0005,"usage_web":0.008,"usage_data":0}`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	got = rowsOf(t, analytics(t, base, `{"metrics":["request_count","total_usage","tokens_total"],"dimensions":["generation_id"]}`))
	want = `{"generation_id":"gen-1","request_count":"1","total_usage":0.0105,"tokens_total":"120"}
{"generation_id":"gen-2","request_count":"1","total_usage":0.005,"tokens_total":"120"}
{"generation_id":"gen-3","request_count":"0","total_usage":0.004,"tokens_total":"0"}`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	t.Run("OfAnotherModel", func(t *testing.T) { // a row for each model, of one generation
		search := tool
		search.Model = "exa/search"
		s.Add(key, search)
		r := analytics(t, base, `{"metrics":["request_count","total_usage"],"dimensions":["generation_id","model"],`+
			`"filters":[{"field":"generation_id","operator":"eq","value":"gen-2"}]}`)
		want := `{"generation_id":"gen-2","model":"openai/gpt-5","request_count":"1","total_usage":0.005}
{"generation_id":"gen-2","model":"exa/search","request_count":"0","total_usage":0.004}`
		if got := rowsOf(t, r); got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	})
}

// TestKeyByName: a key is shown by its name, and can't be asked for by it.
func TestKeyByName(t *testing.T) {
	_, _, base := manage(t)
	response, body := post(t, base, management, `{"metrics":["request_count"],"filters":[{"field":"api_key_id","operator":"eq","value":"Acme"}]}`)
	wantError(t, response, body, 500, "Internal Server Error")
}

// TestBetweenQueries lets a generation arrive between two queries of the same window, and another become visible.
func TestBetweenQueries(t *testing.T) {
	s, c, base := manage(t)
	late := made("gen-2", 2)
	late.VisibleFrom = noon.Add(time.Minute)
	s.Add(key, made("gen-1", 1), late)
	var bodies []string
	s.OnRequest(func(r standin.Request) {
		bodies = append(bodies, r.Body)
		if len(bodies) == 2 {
			s.Add(key, made("gen-3", 3))
		}
	})
	query := `{"metrics":["request_count"],"dimensions":["generation_id"]}`
	wantIDs(t, idsOf(t, analytics(t, base, query)), "gen-1")
	wantIDs(t, idsOf(t, analytics(t, base, query)), "gen-1", "gen-3")
	s.OnRequest(nil)
	c.advance(time.Minute)
	wantIDs(t, idsOf(t, analytics(t, base, query)), "gen-1", "gen-2", "gen-3")
	if len(bodies) != 2 || bodies[0] != query {
		t.Errorf("got %q", bodies)
	}
	s.SetCost("gen-1", "0.5")
	wantFields(t, rowsOf(t, analytics(t, base, `{"metrics":["total_usage"],"dimensions":["generation_id"]}`)), `"gen-1","total_usage":0.5}`)
}

// manyDays returns 10,000 generations a day of one key, spread evenly over the days before noon.
func manyDays(tb testing.TB, days int) *standin.Server {
	tb.Helper()
	s := standin.NewGateway(func() time.Time { return noon })
	s.AddKey(key, "")
	s.AddManagementKey(management)
	s.AnalyticsPerMinute(0)
	generations := make([]standin.Generation, days*10_000)
	for i := range generations {
		generations[i] = standin.Generation{ID: fmt.Sprintf("gen-%06d", i), Model: fmt.Sprintf("openai/gpt-%d", i%12),
			CreatedAt: noon.Add(-time.Duration(i) * (24 * time.Hour / 10_000)), ExternalUser: fmt.Sprintf("user-%d", i%40),
			PromptTokens: int64(i % 1000), CompletionTokens: int64(i % 500), Cost: fmt.Sprintf("0.000%03d", i%1000)}
	}
	s.Add(key, generations...)
	return s
}

// serve answers a query without a network.
func serve(tb testing.TB, s *standin.Server, query string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("POST", "/api/v1/analytics/query", strings.NewReader(query))
	r.Header.Set("Authorization", "Bearer "+management)
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	if w.Code != 200 {
		tb.Fatalf("HTTP %d %s", w.Code, w.Body)
	}
	return w
}

// TestManyDays asks day by day for 10,000 rows: each generation comes once, and their sum is the total.
func TestManyDays(t *testing.T) {
	const days = 3
	s := manyDays(t, days)
	decodeResult := func(query string) result { return decode[result](t, serve(t, s, query).Body.String()) }
	filter := `"filters":[{"field":"api_key_id","operator":"eq","value":"` + hashOf(key) + `"}]`
	seen := map[string]bool{}
	for day := range days {
		end := noon.Add(time.Second).AddDate(0, 0, -day) // the newest is of noon itself
		r := decodeResult(fmt.Sprintf(`{"metrics":["total_usage"],"dimensions":["generation_id","model"],"granularity":"hour","limit":10000,`+
			`"time_range":{"start":"%s","end":"%s"},%s}`, end.AddDate(0, 0, -1).Format(time.RFC3339Nano), end.Format(time.RFC3339Nano), filter))
		if len(r.Data) != 10_000 || r.Metadata.Truncated {
			t.Fatalf("day %d: %d rows, truncated %t", day, len(r.Data), r.Metadata.Truncated)
		}
		for _, id := range idsOf(t, r) {
			seen[id] = true
		}
	}
	if len(seen) != days*10_000 {
		t.Errorf("%d generations", len(seen))
	}
	r := decodeResult(`{"metrics":["request_count","total_usage"],"time_range":{"start":"2026-06-01T00:00:00Z","end":"2026-08-01T00:00:00Z"}}`)
	if got, want := rowsOf(t, r), `{"request_count":"30000","total_usage":14.985}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// BenchmarkAnalytics is what a query costs the server: 10,000 rows of a day, as many where a month is cut off, and the hourly
// sums of a month of 300,000.
func BenchmarkAnalytics(b *testing.B) {
	s := manyDays(b, 30)
	for _, bench := range []struct {
		name       string
		days       int
		dimensions string
	}{
		{"Day", 1, `"generation_id","model"`},
		{"CutOff", 30, `"generation_id","model"`},
		{"ModelsOfAMonth", 30, `"model"`},
	} {
		b.Run(bench.name, func(b *testing.B) {
			query := fmt.Sprintf(`{"metrics":["tokens_total","total_usage"],"dimensions":[%s],"granularity":"hour",`+
				`"limit":10000,"time_range":{"start":"%s","end":"%s"},"filters":[{"field":"api_key_id","operator":"eq","value":"%s"}]}`,
				bench.dimensions, noon.AddDate(0, 0, -bench.days).Format(time.RFC3339), noon.Format(time.RFC3339), hashOf(key))
			for b.Loop() {
				serve(b, s, query)
			}
		})
	}
}
