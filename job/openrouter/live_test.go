package openrouter

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"usage-sync/job/openrouter/standin"
	"usage-sync/store"
)

// The answers of the live service, by hand after recordings of 31 Jul, 2 and 9 Sep 2026; ids and names are invented.
const (
	liveModels = `{"data":{"data":[{"created_at__hour":"2026-09-02 16:00:00","generation_id":"gen-1788366195-AbCdEfGhIjKlMnOpQrSt","model":"google/gemini-3.1-flash-image-preview-20260226","request_count":"1","total_usage":0.06859,"tokens_total":"1631"},
		{"created_at__hour":"2026-09-02 09:00:00","generation_id":"gen-1788340000-AaBbCcDdEeFfGgHhIiJj","model":"google/veo-3.1","request_count":"1","total_usage":3.2,"tokens_total":null}],
		"metadata":{"query_time_ms":161,"row_count":2,"truncated":false},"cachedAt":1788366999977}}`
	liveUsers = `{"data":{"data":[{"created_at__hour":"2026-09-02 16:00:00","generation_id":"gen-1788366195-AbCdEfGhIjKlMnOpQrSt","external_user":null,"request_count":"1"},
		{"created_at__hour":"2026-09-02 09:00:00","generation_id":"gen-1788340000-AaBbCcDdEeFfGgHhIiJj","external_user":"ann","request_count":"1"}],
		"metadata":{"query_time_ms":161,"row_count":2,"truncated":false},"cachedAt":1788366999977}}`
	liveHours = `{"data":{"data":[{"date__hour":"2026-07-31 18:00:00","api_key_id":"Acme production","model":"moonshotai/kimi-k2.6-20260420","request_count":"3","total_usage":0.012887,"tokens_total":"10800","tokens_prompt":"6278","tokens_completion":"4522","reasoning_tokens":"4373","cached_tokens":"4131","byok_usage":0}],
		"metadata":{"query_time_ms":161,"row_count":1,"truncated":false},"cachedAt":1785527648977}}`
	liveDays   = `{"data":{"data":[{"date__day":"2026-09-09","total_usage":0.005235,"request_count":"4","tokens_total":"66342"}],"metadata":{"query_time_ms":15,"row_count":1,"truncated":false},"cachedAt":1789044730539}}`
	liveSingle = `{"data":{"id":"gen-1788366195-AbCdEfGhIjKlMnOpQrSt","created_at":"2026-09-02T16:43:15.364Z","model":"google/gemini-3.1-flash-image-preview-20260226","total_cost":0.0685905,"usage":0.0685905,"is_byok":false,"upstream_inference_cost":null,"provider_name":"Google AI Studio","tokens_prompt":62,"tokens_completion":0,"native_tokens_prompt":57,"native_tokens_completion":1574,"external_user":null,"api_type":"completions","cancelled":false,"streamed":true}}`
)

// brief says what counts of generations, in the order of their ids.
func brief(generations map[string]store.Generation) (all []string) {
	for _, id := range slices.Sorted(maps.Keys(generations)) {
		g := generations[id]
		all = append(all, fmt.Sprintf("%s %s %s %q %d %d", id, g.CreatedAt.UTC().Format(time.DateTime), g.Model, g.User, g.Tokens, g.Cost))
	}
	return all
}

func (a *account) wantBrief(got fetched, err error, want ...string) {
	a.Helper()
	if all := brief(got.generations); err != nil || len(got.refused) > 0 || !slices.Equal(all, want) {
		a.Errorf("got %q\nwant %q\nrefused %v, %v", all, want, got.refused, err)
	}
}

// What the live service answers is recorded, each generation at its second.
func TestLiveGenerations(t *testing.T) {
	a := newAccount(t)
	a.tables(liveModels, liveUsers)
	until := time.Date(2026, 9, 2, 16, 59, 0, 123456789, time.UTC)
	got, err := a.fetch(acme(), Window{Since: until.Add(-24 * time.Hour), Until: until}, nil, rowLimit(50_000)) // more is refused
	a.wantBrief(got, err, `gen-1788340000-AaBbCcDdEeFfGgHhIiJj 2026-09-02 09:06:40 google/veo-3.1 "ann" 0 3200000000000`,
		`gen-1788366195-AbCdEfGhIjKlMnOpQrSt 2026-09-02 16:23:15 google/gemini-3.1-flash-image-preview "" 1631 68590000000`)
	for id, g := range got.generations {
		if g.Resolution != store.Dollar/1_000_000 || g.NoRequest {
			t.Errorf("%s: %+v", id, g)
		}
	}
	a.wantAsked(2, 0)
	for _, r := range a.api.Requests() {
		var q struct {
			Limit int
			Range map[string]string `json:"time_range"`
		}
		if err := json.Unmarshal([]byte(r.Body), &q); err != nil || q.Limit != 10_000 ||
			q.Range["start"] != "2026-09-01T15:00:00Z" || q.Range["end"] != "2026-09-02T16:59:01Z" {
			t.Errorf("%v, asked for %s", err, r.Body)
		}
	}
}

func TestLiveSingleGeneration(t *testing.T) {
	g, err := decodeGeneration(strings.NewReader(liveSingle))
	want := store.Generation{ID: "gen-1788366195-AbCdEfGhIjKlMnOpQrSt", CreatedAt: time.Date(2026, 9, 2, 16, 43, 15, 364e6, time.UTC),
		Model: "google/gemini-3.1-flash-image-preview", Tokens: 1631, Cost: 68_590_500_000}
	if err != nil || g != want {
		t.Errorf("got  %+v, %v\nwant %+v", g, err, want)
	}
}

func TestLiveTotals(t *testing.T) {
	for name, test := range map[string]struct {
		zone, answer, day string
		want              DayModel
	}{
		"by the hour": {"Europe/Warsaw", liveHours, "2026-07-31", DayModel{Day: "2026-07-31", Model: "moonshotai/kimi-k2.6", Dated: "moonshotai/kimi-k2.6-20260420",
			Requests: 3, Tokens: 10_800, Cost: 12_887_000_000, Resolution: 1_000_000}},
		"by the day": {"UTC", liveDays, "2026-09-09", DayModel{Day: "2026-09-09", Requests: 4, Tokens: 66_342, Cost: 5_235_000_000, Resolution: 1_000_000}},
	} {
		t.Run(name, func(t *testing.T) {
			org := acme()
			org.Zone = zone(t, test.zone)
			day := store.Day(test.day)
			used, err := serveHandler(t, body(test.answer)).management().Used(t.Context(), org, day, day, day.Add(2).Start(time.UTC))
			if err != nil || len(used) != 1 || used[0] != test.want {
				t.Errorf("got  %+v, %v\nwant %+v", used, err, test.want)
			}
		})
	}
}

// Rows of one generation in one answer are one charge: a tool's run may be a row of its own.
func TestToolRows(t *testing.T) {
	const hour = `"created_at__hour":"2026-05-14 13:00:00"`
	user := func(id, name string, requests int) string {
		return fmt.Sprintf(`{%s,"generation_id":%q,"external_user":%s,"request_count":"%d"}`, hour, id, name, requests)
	}
	for name, test := range map[string]struct {
		models, users []string
		want          string
		noRequest     bool
	}{
		"a search by itself": {[]string{`{` + hour + `,"generation_id":"g","model":"openrouter/web-search","request_count":"0","tokens_total":"0","total_usage":0.02}`},
			[]string{user("g", `"ann"`, 0)}, `g 2026-05-14 13:00:00 openrouter/web-search "ann" 0 20000000000`, true},
		"a search without a name": {[]string{`{` + hour + `,"generation_id":"g","model":null,"request_count":"0","tokens_total":null,"total_usage":0.02}`},
			[]string{user("g", `null`, 0)}, `g 2026-05-14 13:00:00  "" 0 20000000000`, true},
		"a search before its generation": {[]string{`{` + hour + `,"generation_id":"g","model":"openrouter/web-search","request_count":"0","tokens_total":"0","total_usage":0.02}`,
			`{` + hour + `,"generation_id":"g","model":"x/y-20260101","request_count":"1","tokens_total":"5","total_usage":0.01}`},
			[]string{user("g", `null`, 0), user("g", `"ann"`, 1)}, `g 2026-05-14 13:00:00 x/y "ann" 5 30000000000`, false},
		"a search after its generation": {[]string{`{` + hour + `,"generation_id":"g","model":"x/y-20260101","request_count":"1","tokens_total":"5","total_usage":0.01}`,
			`{` + hour + `,"generation_id":"g","model":null,"request_count":"0","tokens_total":"3","total_usage":0.02}`},
			[]string{user("g", `"ann"`, 1), user("g", `null`, 0)}, `g 2026-05-14 13:00:00 x/y "ann" 8 30000000000`, false},
		"in another hour": {[]string{`{` + hour + `,"generation_id":"g","model":"x/y","request_count":"1","tokens_total":"5","total_usage":0.01}`,
			`{"created_at__hour":"2026-05-14 14:00:00","generation_id":"g","model":"openrouter/web-search","request_count":"0","tokens_total":"0","total_usage":0.02}`},
			[]string{user("g", `"ann"`, 1)}, `g 2026-05-14 13:00:00 x/y "ann" 5 30000000000`, false},
		"two models": {[]string{`{` + hour + `,"generation_id":"g","model":"x/y","request_count":"1","tokens_total":"5","total_usage":0.01}`,
			`{` + hour + `,"generation_id":"g","model":"x/z","request_count":"1","tokens_total":"5","total_usage":0.02}`},
			[]string{user("g", `"bob"`, 1), user("g", `"ann"`, 1)}, `g 2026-05-14 13:00:00 x/z "ann" 10 30000000000`, false},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAccount(t)
			a.tables(inTable(test.models...), inTable(test.users...))
			got, err := a.fetch(acme(), Window{Since: now.Add(-5 * time.Hour), Until: now}, nil)
			a.T = t
			a.wantBrief(got, err, test.want)
			if got.generations["g"].NoRequest != test.noRequest {
				t.Errorf("%+v", got.generations["g"])
			}
			a.wantAsked(2, 0)
		})
	}
	t.Run("of which one can't be trusted", func(t *testing.T) {
		a := newAccount(t)
		a.tables(inTable(`{`+hour+`,"generation_id":"g","model":"x/y","request_count":"1","tokens_total":"5","total_usage":0.01}`,
			`{`+hour+`,"generation_id":"g","model":null,"request_count":"0","total_usage":-0.01}`), inTable(user("g", `null`, 1)))
		if got, err := a.fetch(acme(), Window{Since: now.Add(-5 * time.Hour), Until: now}, nil); err != nil || len(got.generations) > 0 || got.refused["g"] == "" {
			t.Errorf("%+v, %v: half of it must not be billed", got, err)
		}
	})
	t.Run("beyond measure", func(t *testing.T) {
		a := newAccount(t)
		rows := make([]string, 10_000)
		for i := range rows {
			rows[i] = fmt.Sprintf(`{%s,"generation_id":"g","model":"x/%d","request_count":"1","tokens_total":"999999999999999","total_usage":999999}`, hour, i)
		}
		a.tables(inTable(rows...), inTable(user("g", `null`, 1)))
		if got, err := a.fetch(acme(), Window{Since: now.Add(-5 * time.Hour), Until: now}, nil); err != nil || len(got.generations) > 0 || got.refused["g"] == "" {
			t.Errorf("%d generations, refused %v, %v", len(got.generations), got.refused, err)
		}
	})
}

// The rows of one generation may lie on both sides of the beginning of a window: it has all of its cost, or is left to the window
// in which it lies.
func TestToolRowsAcrossAWindow(t *testing.T) {
	edge := now.Truncate(time.Hour)
	for _, test := range []struct {
		request, tool time.Duration // after the edge
		listed        bool
	}{{5 * time.Second, -2 * time.Second, true}, {-2 * time.Second, 2 * time.Second, false}, {2 * time.Second, 4 * time.Second, true}} {
		for _, days := range []int{0, 5, 30} {
			t.Run(fmt.Sprint(test.request, test.tool, days), func(t *testing.T) {
				a := newAccount(t)
				began := edge.Add(-time.Duration(days) * 24 * time.Hour)
				a.api.Add(orgKey, standin.Generation{ID: "g", CreatedAt: began.Add(test.request), Model: "x/y", PromptTokens: 5, Cost: "0.01"})
				a.api.Add(orgKey, standin.Generation{ID: "g", CreatedAt: began.Add(test.tool), Model: "openrouter/web-search", Tool: true, Cost: "0.02"})
				got, err := a.fetch(acme(), Window{Since: began, Until: now}, nil)
				if g, listed := got.generations["g"]; err != nil || listed != test.listed || (listed && (g.Cost != store.Dollar*3/100 || g.NoRequest)) {
					t.Errorf("%+v, %v", got, err)
				}
				a.wantAsked(2, 0)
			})
		}
	}
}

// A charge whose id, time and cost are sound is recorded, whatever is the matter with its labels.
func TestLabelsHoldNothingBack(t *testing.T) {
	row := func(model string) string {
		return `{"created_at__hour":"2026-05-14 11:00:00","generation_id":"g","model":` + model + `,"request_count":"1","tokens_total":"5","total_usage":1}`
	}
	user := func(name string) string {
		return `{"created_at__hour":"2026-05-14 11:00:00","generation_id":"g","external_user":` + name + `,"request_count":"1"}`
	}
	const at = "g 2026-05-14 11:00:00 "
	long := strings.Repeat("é", 400)
	for name, test := range map[string]struct{ model, user, want string }{
		"control characters": {`"x/\u001by"`, `"\u0000ann\r\n"`, at + `x/y "ann" 5 1000000000000`},
		"too long":           {`"x/` + long + `"`, `"` + long + `"`, at + `x/` + long[:510] + ` "` + long[:512] + `" 5 1000000000000`},
		"not a text":         {`{"slug":"x/y"}`, `[1]`, at + ` "" 5 1000000000000`},
		"no model":           {`null`, `"ann"`, at + ` "ann" 5 1000000000000`},
		"a blank model":      {`" "`, `"ann"`, at + ` "ann" 5 1000000000000`},
		"a name for people":  {`"X: Y"`, `"ann"`, at + `X: Y "ann" 5 1000000000000`},
		"no user row":        {`"x/y"`, ``, at + `x/y "" 5 1000000000000`},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAccount(t)
			users := inTable()
			if test.user != "" {
				users = inTable(user(test.user))
			}
			a.tables(inTable(row(test.model)), users)
			unknown := standin.Status(404, "")
			a.api.AlwaysAt("/generation", &unknown)
			got, err := a.fetch(acme(), Window{Since: now.Add(-5 * time.Hour), Until: now}, nil)
			a.wantBrief(got, err, test.want)
		})
	}
}

// A cost that the analytics do not say is looked up.
func TestNullCost(t *testing.T) {
	const users = `{"created_at__hour":"2026-05-14 13:00:00","generation_id":"g","external_user":"ann","request_count":"1"}`
	for name, models := range map[string]string{
		"null":               inTable(`{"created_at__hour":"2026-05-14 13:00:00","generation_id":"g","model":"x/y","request_count":"1","tokens_total":"8","total_usage":null}`),
		"missing":            inTable(`{"created_at__hour":"2026-05-14 13:00:00","generation_id":"g","model":"x/y","request_count":"1","tokens_total":"8"}`),
		"not among the rows": inTable(),
	} {
		t.Run(name, func(t *testing.T) {
			a := newAccount(t)
			a.api.Add(orgKey, standin.Generation{ID: "g", CreatedAt: time.Date(2026, 5, 14, 13, 20, 0, 0, time.UTC), Model: "x/y", ExternalUser: "ann",
				PromptTokens: 8, Cost: "0.00000012"})
			a.tables(models, inTable(users))
			got, err := a.fetch(acme(), Window{Since: now.Add(-5 * time.Hour), Until: now}, nil)
			a.wantBrief(got, err, `g 2026-05-14 13:20:00 x/y "ann" 8 120000`)
			a.wantAsked(2, 1)
			if got.generations["g"].Resolution != 0 {
				t.Errorf("%+v", got.generations["g"])
			}
			unknown := standin.Status(404, "")
			a.api.AlwaysAt("/generation", &unknown)
			a.tables(models, inTable(users))
			if got, err := a.fetch(acme(), Window{Since: now.Add(-5 * time.Hour), Until: now}, nil); err != nil || !strings.HasPrefix(got.refused["g"], "no total_usage") {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

// An id that tells its second needs no lookup, however many midnights and cuts lie in its hour.
func TestTimesOfIDs(t *testing.T) {
	midnight := time.Date(2026, 5, 13, 18, 30, 0, 0, time.UTC)
	org := acme()
	org.Zone = zone(t, "Asia/Kolkata")
	cut := midnight.Add(10*time.Minute + 400*time.Millisecond)
	var all []standin.Generation
	for i := range 120 {
		at := midnight.Add(time.Duration(i-60)*20*time.Second + 10*time.Second)
		all = append(all, standin.Generation{ID: fmt.Sprintf("gen-%d-x%d", at.Unix(), i), CreatedAt: at.Add(300 * time.Millisecond), Model: "x/y", Cost: "1"})
	}
	window := Window{Since: midnight.Add(-3 * time.Hour), Until: midnight.Add(3 * time.Hour), Cut: cut}
	a := newAccount(t)
	a.api.Add(orgKey, all...)
	got := a.mustFetch(org, window, all)
	a.wantAsked(2, 0)
	for _, g := range all {
		if at := got.generations[g.ID].CreatedAt; !at.Equal(g.CreatedAt.Truncate(time.Second)) {
			t.Errorf("%s of %s comes out at %s", g.ID, g.CreatedAt, at)
		}
	}
	t.Run("that are no use", func(t *testing.T) {
		for name, id := range map[string]string{
			"close to midnight":  fmt.Sprintf("gen-%d-x", midnight.Add(-time.Second).Unix()),
			"of another hour":    fmt.Sprintf("gen-%d-x", midnight.Add(2*time.Hour).Unix()),
			"of the Batch API":   fmt.Sprintf("gen-batch-%d-x", midnight.Add(10*time.Minute).Unix()),
			"of another service": "chatcmpl-1",
			"without a second":   "gen-x-y",
			"of milliseconds":    fmt.Sprintf("gen-%d-x", midnight.UnixMilli()),
		} {
			t.Run(name, func(t *testing.T) {
				a := newAccount(t)
				one := standin.Generation{ID: id, CreatedAt: midnight.Add(200 * time.Millisecond), Model: "x/y", Cost: "1"}
				a.api.Add(orgKey, one)
				a.mustFetch(org, window, []standin.Generation{one})
				a.wantAsked(2, 1)
			})
		}
	})
}

// The organisation's own key may be disabled although the generation exists: lookups use the management key, and the other where
// that is refused.
func TestLookupKey(t *testing.T) {
	org := acme()
	org.Zone = zone(t, "Asia/Kolkata")
	near := spread("near", 3, time.Date(2026, 5, 13, 18, 31, 0, 0, time.UTC), time.Minute)
	window := Window{Since: now.Add(-24 * time.Hour), Until: now}
	for _, refused := range []string{orgKey, managementKey} {
		t.Run(map[string]string{orgKey: "own key disabled", managementKey: "management key refused"}[refused], func(t *testing.T) {
			a := newAccount(t)
			a.api.Add(orgKey, near...)
			api := a.api
			a.http.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/api/v1/generation" && bearer(r) == refused {
					answer(403, "application/json", `{"error":{"code":403,"message":"no"}}`).ServeHTTP(w, r)
					return
				}
				api.ServeHTTP(w, r)
			})
			got := fetched{map[string]store.Generation{}, map[string]string{}, time.Time{}}
			err := NewAnalytics(a.client(), a.management(), none).Fetch(t.Context(), org, window, func(page Page) error {
				for _, g := range page.Generations {
					got.generations[g.ID] = g
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
			a.same(org, got, near)
			for _, r := range a.api.Requests() {
				if r.Key == refused && strings.HasSuffix(r.Path, "/generation") {
					t.Errorf("the refused key is said to have worked")
				}
			}
		})
	}
}
