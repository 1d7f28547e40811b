package standin_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"usage-sync/job/openrouter/standin"
)

const key = "sk-or-v1-first"

// noon is a Wednesday.
var noon = time.Date(2026, 7, 15, 12, 0, 0, 0, time.UTC)

// clock is a clock that tests move.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// start returns a server with one key, its clock at noon and the base URL at which it listens.
func start(t *testing.T) (s *standin.Server, c *clock, base string) {
	t.Helper()
	c = &clock{at: noon}
	s = standin.NewGateway(c.now)
	s.AddKey(key, "sk-or-v1-fir...rst")
	listener := httptest.NewServer(s)
	t.Cleanup(listener.Close)
	return s, c, listener.URL + "/api/v1"
}

func request(t *testing.T, method, url, authorization string) *http.Request {
	t.Helper()
	r, err := http.NewRequest(method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	r.Header.Set("User-Agent", "usage-sync/test")
	return r
}

func do(t *testing.T, r *http.Request) (*http.Response, string) {
	t.Helper()
	response, err := http.DefaultTransport.RoundTrip(r) // follows no redirect
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(body)
}

// get asks with the valid key and wants a success.
func get(t *testing.T, url string) string {
	t.Helper()
	response, body := do(t, request(t, http.MethodGet, url, "Bearer "+key))
	if response.StatusCode != http.StatusOK {
		t.Fatalf("%s: HTTP %d %s", url, response.StatusCode, body)
	}
	return body
}

func decode[T any](t *testing.T, body string) T {
	t.Helper()
	var answer struct {
		Data T `json:"data"`
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	return answer.Data
}

func listed(t *testing.T, url string) []string {
	t.Helper()
	ids := []string{}
	for _, row := range decode[[]struct{ ID string }](t, get(t, url)) {
		ids = append(ids, row.ID)
	}
	return ids
}

func wantIDs(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// made returns a generation of some minutes before noon.
func made(id string, minutes int) standin.Generation {
	return standin.Generation{ID: id, CreatedAt: noon.Add(-time.Duration(minutes) * time.Minute), Model: "openai/gpt-5",
		PromptTokens: 80, CompletionTokens: 40, Cost: "0.001"}
}

func TestErrors(t *testing.T) {
	_, _, base := start(t)
	for _, test := range []struct {
		name, method, path, authorization string
		status                            int
		message                           string
	}{
		{"NoKey", "GET", "/generations", "", 401, "No auth credentials found"},
		{"OtherScheme", "GET", "/key", "Basic " + key, 401, "No auth credentials found"},
		{"EmptyKey", "GET", "/key", "Bearer ", 401, "No auth credentials found"},
		{"UnknownKey", "GET", "/generations", "Bearer sk-or-v1-unknown", 401, "User not found."},
		{"WrongMethod", "POST", "/generations", "Bearer " + key, 405, "Method Not Allowed"},
		{"ManagementKeyWanted", "GET", "/activity", "Bearer " + key, 403, "Only management keys can perform this operation"},
		{"ManagementKeyWantedToPost", "POST", "/analytics/query", "Bearer " + key, 403, "Only management keys can perform this operation"},
		{"UnknownGeneration", "GET", "/generation?id=gen-0", "Bearer " + key, 404, "Generation not found"},
		{"NoID", "GET", "/generation", "Bearer " + key, 400, "Invalid input"},
		{"LimitIsText", "GET", "/generations?limit=ten", "Bearer " + key, 400, "Invalid input: expected limit"},
		{"LimitIsZero", "GET", "/generations?limit=0", "Bearer " + key, 400, "Invalid input: expected limit"},
		{"LimitIsEmpty", "GET", "/generations?limit=", "Bearer " + key, 400, "Invalid input: expected limit"},
		{"OffsetIsNegative", "GET", "/generations?offset=-1", "Bearer " + key, 400, "Invalid input: expected offset"},
	} {
		t.Run(test.name, func(t *testing.T) {
			response, body := do(t, request(t, test.method, base+test.path, test.authorization))
			wantError(t, response, body, test.status, test.message)
		})
	}
}

func wantError(t *testing.T, response *http.Response, body string, status int, message string) {
	t.Helper()
	var answer struct {
		Error struct {
			Code    int
			Message string
		}
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	if response.StatusCode != status || answer.Error.Code != status || !strings.HasPrefix(answer.Error.Message, message) {
		t.Errorf("got HTTP %d %s, want %d %q", response.StatusCode, body, status, message)
	}
	if got := response.Header.Get("Content-Type"); got != "application/json" {
		t.Errorf("Content-Type is %q", got)
	}
	if got, want := response.Header.Get("Date"), "Wed, 15 Jul 2026 12:00:00 GMT"; got != want {
		t.Errorf("Date is %q, want %q", got, want)
	}
}

func TestPrefixes(t *testing.T) {
	s, _, base := start(t)
	s.Add(key, made("gen-1", 1))
	host := strings.TrimSuffix(base, "/api/v1")
	s.AddManagementKey(management)
	for _, prefix := range []string{"", "/v1", "/api/v1", "/openrouter/api/v1"} {
		wantIDs(t, listed(t, host+prefix+"/generations"), "gen-1")
		get(t, host+prefix+"/auth/key")
		wantIDs(t, idsOf(t, analytics(t, host+prefix, `{"metrics":["request_count"],"dimensions":["generation_id"]}`)), "gen-1")
	}
}

func TestGeneration(t *testing.T) {
	s, _, base := start(t)
	g := standin.Generation{
		ID: "gen-1", CreatedAt: time.Date(2024, 7, 16, 1, 33, 19, 433273000, time.FixedZone("", 2*60*60)),
		Model: "anthropic/claude-sonnet-4", PromptTokens: 80, CompletionTokens: 40, Cost: "0.000123456789012345678",
	}
	s.Add(key, g)
	body := get(t, base+"/generation?id=gen-1")
	for _, want := range []string{
		`"id":"gen-1"`, `"created_at":"2024-07-15T23:33:19.433273+00:00"`, `"model":"anthropic/claude-sonnet-4"`,
		`"provider_name":"Anthropic"`, `"total_cost":0.000123456789012345678`, `"usage":0.000123456789012345678`,
		`"native_tokens_prompt":80`, `"native_tokens_completion":40`, `"tokens_prompt":90`, `"tokens_completion":45`,
		`"external_user":null`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s in %s", want, body)
		}
	}
	fields := decode[map[string]any](t, body)
	if len(fields) < 40 {
		t.Errorf("%d fields", len(fields))
	}
	if _, has := fields["total_tokens"]; has {
		t.Error("OpenRouter sends no total_tokens")
	}

	t.Run("SameInList", func(t *testing.T) {
		row := strings.TrimSuffix(strings.TrimPrefix(body, `{"data":`), `}`)
		if got, want := get(t, base+"/generations"), `{"data":[`+row+`]}`; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
	t.Run("UserIsQuoted", func(t *testing.T) {
		g := made("gen-2", 1)
		g.ExternalUser = `"ü"\`
		s.Add(key, g)
		row := decode[struct {
			User string `json:"external_user"`
		}](t, get(t, base+"/generation?id=gen-2"))
		if row.User != g.ExternalUser {
			t.Errorf("got %q", row.User)
		}
	})
	t.Run("OfAnotherKey", func(t *testing.T) {
		s.AddKey("sk-or-v1-second", "")
		response, body := do(t, request(t, "GET", base+"/generation?id=gen-1", "Bearer sk-or-v1-second"))
		wantError(t, response, body, 404, "Generation not found")
	})
	t.Run("PermanentName", func(t *testing.T) {
		g := made("gen-4", 1)
		g.Permaslug = "openai/gpt-5-2025-08-07"
		s.Add(key, g)
		wantFields(t, get(t, base+"/generation?id=gen-4"), `"model":"openai/gpt-5-2025-08-07"`)
		wantFields(t, get(t, base+"/generations?limit=1"), `"model":"openai/gpt-5"`)
	})
	t.Run("Raw", func(t *testing.T) {
		s.Add(key, standin.Generation{ID: "gen-3", CreatedAt: noon, Raw: `[7]`})
		if got := get(t, base+"/generation?id=gen-3"); got != `{"data":[7]}` {
			t.Errorf("got %s", got)
		}
		if got := get(t, base+"/generations?limit=1"); got != `{"data":[[7]]}` {
			t.Errorf("got %s", got)
		}
	})
}

func TestPages(t *testing.T) {
	s, _, base := start(t)
	s.Add(key, made("gen-3", 3), made("gen-1", 1), made("gen-4", 4))
	s.Add(key, made("gen-2", 2), made("gen-3b", 3))
	all := []string{"gen-1", "gen-2", "gen-3", "gen-3b", "gen-4"}
	for _, test := range []struct {
		name, query string
		want        []string
	}{
		{"All", "", all},
		{"First", "?limit=2", all[:2]},
		{"Middle", "?limit=2&offset=2", all[2:4]},
		{"Last", "?limit=2&offset=4", all[4:]},
		{"BehindTheEnd", "?limit=2&offset=5", nil},
		{"FarBehindTheEnd", "?offset=1000000", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			wantIDs(t, listed(t, base+"/generations"+test.query), test.want...)
		})
	}
	t.Run("LaterArrivalsAreMerged", func(t *testing.T) {
		s.Add(key, made("gen-0", 0), made("gen-2b", 2), made("gen-5", 5))
		wantIDs(t, listed(t, base+"/generations"), "gen-0", "gen-1", "gen-2", "gen-2b", "gen-3", "gen-3b", "gen-4", "gen-5")
	})
	t.Run("IgnoreOffset", func(t *testing.T) {
		s.IgnoreOffset(true)
		wantIDs(t, listed(t, base+"/generations?limit=1&offset=3"), "gen-0")
		s.IgnoreOffset(false)
		wantIDs(t, listed(t, base+"/generations?limit=1&offset=1"), "gen-1")
	})
	t.Run("OfAnotherKey", func(t *testing.T) {
		s.Add("sk-or-v1-second", made("gen-9", 9)) // before the key is valid
		s.AddKey("sk-or-v1-second", "")
		_, body := do(t, request(t, "GET", base+"/generations", "Bearer sk-or-v1-second"))
		if rows := decode[[]struct{ ID string }](t, body); len(rows) != 1 || rows[0].ID != "gen-9" {
			t.Errorf("got %s", body)
		}
	})
}

func TestLimits(t *testing.T) {
	s, _, base := start(t)
	for i := range 120 {
		s.Add(key, made(fmt.Sprint("gen-", i), i))
	}
	for _, test := range []struct {
		query     string
		pageLimit int
		want      int
	}{
		{"", 100, 50},
		{"?limit=1000", 100, 100},
		{"?limit=1000", 1000, 120},
		{"", 20, 20},
	} {
		s.PageLimit(test.pageLimit)
		if got := len(listed(t, base+"/generations"+test.query)); got != test.want {
			t.Errorf("%q with a page limit of %d: got %d rows, want %d", test.query, test.pageLimit, got, test.want)
		}
	}
}

func TestArrivalsWhilePaging(t *testing.T) {
	s, _, base := start(t)
	s.Add(key, made("gen-1", 1), made("gen-2", 2), made("gen-3", 3), made("gen-4", 4))
	var offsets []int
	s.OnPage(func(k string, offset int) {
		offsets = append(offsets, offset)
		s.Add(k, made(fmt.Sprint("new-", offset), -offset))
	})
	wantIDs(t, listed(t, base+"/generations?limit=2&offset=0"), "gen-1", "gen-2")
	wantIDs(t, listed(t, base+"/generations?limit=2&offset=2"), "gen-2", "gen-3")
	s.OnPage(nil)
	wantIDs(t, listed(t, base+"/generations"), "new-2", "new-0", "gen-1", "gen-2", "gen-3", "gen-4")
	if !slices.Equal(offsets, []int{0, 2}) {
		t.Errorf("called at the offsets %v", offsets)
	}
}

func TestLateRows(t *testing.T) {
	s, c, base := start(t)
	late := made("gen-2", 2)
	late.VisibleFrom = noon.Add(time.Minute)
	s.Add(key, made("gen-1", 1), late, made("gen-3", 3))
	wantIDs(t, listed(t, base+"/generations"), "gen-1", "gen-3")
	wantIDs(t, listed(t, base+"/generations?offset=1"), "gen-3")
	c.advance(time.Minute)
	wantIDs(t, listed(t, base+"/generations"), "gen-1", "gen-2", "gen-3")
}

func TestSetCost(t *testing.T) {
	s, _, base := start(t)
	s.Add(key, made("gen-1", 1), made("gen-2", 2))
	get(t, base+"/generations") // rows that were listed before change as well
	s.SetCost("gen-1", "0.0025")
	rows := decode[[]struct {
		Cost json.Number `json:"total_cost"`
	}](t, get(t, base+"/generations"))
	if rows[0].Cost != "0.0025" || rows[1].Cost != "0.001" {
		t.Errorf("got %v", rows)
	}
	if body := get(t, base+"/key"); !strings.Contains(body, `"usage":0.0035,`) {
		t.Errorf("got %s", body)
	}
	t.Run("UnknownID", func(t *testing.T) {
		defer func() {
			if recover() == nil {
				t.Error("no panic")
			}
		}()
		s.SetCost("gen-0", "1")
	})
}

func TestKey(t *testing.T) {
	s, c, base := start(t)
	at := func(text, cost string) standin.Generation {
		created, err := time.Parse(time.RFC3339, text)
		if err != nil {
			t.Fatal(err)
		}
		return standin.Generation{ID: text, CreatedAt: created, Cost: cost}
	}
	type usage struct {
		Label      string
		Limit      any
		Usage      json.Number
		Daily      json.Number `json:"usage_daily"`
		Weekly     json.Number `json:"usage_weekly"`
		Monthly    json.Number `json:"usage_monthly"`
		FreeTier   bool        `json:"is_free_tier"`
		Management bool        `json:"is_management_key"`
	}
	check := func(want usage) {
		t.Helper()
		want.Label = "sk-or-v1-fir...rst"
		for _, path := range []string{"/key", "/auth/key"} {
			if got := decode[usage](t, get(t, base+path)); got != want {
				t.Errorf("%s: got %+v, want %+v", path, got, want)
			}
		}
	}
	check(usage{Usage: "0", Daily: "0", Weekly: "0", Monthly: "0"})

	s.Add(key,
		at("2026-07-15T00:00:00Z", "0.1"),
		at("2026-07-15T01:30:00+02:00", "0.2"), // Tuesday in UTC
		at("2026-07-13T00:00:00Z", "1e-18"),
		at("2026-07-12T23:59:59Z", "1.5E2"), // Sunday
		at("2026-06-30T23:59:59Z", "1000.00"),
		at("2026-07-15T10:00:00Z", `"no number"`),
		at("2026-07-15T11:00:00Z", "1e999999999"),
		at("2026-07-15T11:30:00Z", ""),
	)
	check(usage{Usage: "1150.300000000000000001", Daily: "0.1", Weekly: "0.300000000000000001", Monthly: "150.300000000000000001"})

	t.Run("LateRowsCountAtOnceAndFutureOnesLater", func(t *testing.T) {
		late := at("2026-07-15T11:59:00Z", "0.01")
		late.VisibleFrom = noon.Add(time.Hour)
		future := at("2026-07-15T12:30:00Z", "0.02")
		future.VisibleFrom = future.CreatedAt
		s.Add(key, late, future)
		check(usage{Usage: "1150.310000000000000001", Daily: "0.11", Weekly: "0.310000000000000001", Monthly: "150.310000000000000001"})
		c.advance(time.Hour)
		check(usage{Usage: "1150.330000000000000001", Daily: "0.13", Weekly: "0.330000000000000001", Monthly: "150.330000000000000001"})
	})
	t.Run("Sunday", func(t *testing.T) {
		c.advance(4 * 24 * time.Hour)
		check(usage{Usage: "1150.330000000000000001", Daily: "0", Weekly: "0.330000000000000001", Monthly: "150.330000000000000001"})
		c.advance(24 * time.Hour)
		check(usage{Usage: "1150.330000000000000001", Daily: "0", Weekly: "0", Monthly: "150.330000000000000001"})
	})
}

func TestStatus(t *testing.T) {
	s, _, base := start(t)
	for _, test := range []struct {
		status     int
		retryAfter string
		message    string
	}{
		{400, "", "Invalid request parameters"},
		{401, "", "User not found."},
		{402, "", "Insufficient credits."},
		{403, "", "Only management keys"},
		{404, "", "Not Found"},
		{408, "", "Operation timed out."},
		{418, "", "I'm a teapot"},
		{429, "7", "Rate limit exceeded"},
		{500, "", "Internal Server Error"},
		{502, "", "Provider returned error"},
		{503, "Wed, 15 Jul 2026 12:00:10 GMT", "Service temporarily unavailable"},
		{524, "", "Request timed out."},
		{529, "", "Provider returned error"},
	} {
		t.Run(fmt.Sprint(test.status), func(t *testing.T) {
			s.Script(standin.Status(test.status, test.retryAfter))
			response, body := do(t, request(t, "GET", base+"/generations", "Bearer "+key))
			wantError(t, response, body, test.status, test.message)
			if got := response.Header.Get("Retry-After"); got != test.retryAfter {
				t.Errorf("Retry-After is %q", got)
			}
		})
	}
}

func TestBodyAndRedirect(t *testing.T) {
	s, _, base := start(t)
	s.Script(standin.Body(404, "text/html; charset=utf-8", "<!DOCTYPE html>"), standin.Redirect("https://example.com/x"))
	response, body := do(t, request(t, "GET", base+"/generations", "Bearer "+key))
	if response.StatusCode != 404 || response.Header.Get("Content-Type") != "text/html; charset=utf-8" || body != "<!DOCTYPE html>" {
		t.Errorf("got HTTP %d %s", response.StatusCode, body)
	}
	response, _ = do(t, request(t, "GET", base+"/generations", "Bearer "+key))
	if response.StatusCode != 307 || response.Header.Get("Location") != "https://example.com/x" {
		t.Errorf("got HTTP %d to %s", response.StatusCode, response.Header.Get("Location"))
	}
}

func TestOrderOfFaults(t *testing.T) {
	s, _, base := start(t)
	statuses := func(n int) (all []int) {
		for range n {
			response, _ := do(t, request(t, "GET", base+"/key", "Bearer "+key))
			all = append(all, response.StatusCode)
		}
		return all
	}
	unavailable := standin.Status(503, "")
	s.Always(&unavailable)
	s.Script(standin.Status(429, "1"), standin.OK())
	s.Script(standin.Status(500, ""))
	if got := statuses(5); !slices.Equal(got, []int{429, 200, 500, 503, 503}) {
		t.Errorf("got %v", got)
	}
	s.Always(nil)
	if got := statuses(1); !slices.Equal(got, []int{200}) {
		t.Errorf("got %v", got)
	}
}

// TestFaultsAtAnEndpoint: those of an endpoint come first, and scripts before what is always so.
func TestFaultsAtAnEndpoint(t *testing.T) {
	s, _, base := manage(t)
	statuses := func(paths ...string) (all []int) {
		for _, path := range paths {
			response, _ := do(t, request(t, "GET", base+path, "Bearer "+management))
			all = append(all, response.StatusCode)
		}
		return all
	}
	want := func(got []int, want ...int) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	unavailable, teapot := standin.Status(503, ""), standin.Status(418, "")
	s.ScriptAt("/activity", standin.Status(500, ""), standin.OK())
	s.Script(standin.Status(429, "1"))
	want(statuses("/activity", "/keys", "/activity", "/keys"), 500, 429, 200, 200)
	s.Always(&unavailable)
	s.AlwaysAt("/keys/{hash}", &teapot)
	s.Script(standin.OK())
	want(statuses("/keys/"+hashOf(key), "/keys/"+hashOf(key), "/keys"), 200, 418, 503)
	s.AlwaysAt("/keys/{hash}", nil)
	want(statuses("/keys/"+hashOf(key)), 503)
	s.Always(nil)
	want(statuses("/keys/"+hashOf(key), "/keys"), 200, 200)
	t.Run("OfThisRequest", func(t *testing.T) {
		s.OnRequest(func(r standin.Request) {
			if strings.HasSuffix(r.Path, "/key") && r.Status == 0 {
				s.Script(standin.Status(502, ""))
			}
		})
		want(statuses("/keys", "/key", "/keys"), 200, 502, 200)
	})
}

// TestUnknownPaths: a path that the service does not have is a page for people, whoever asks.
func TestUnknownPaths(t *testing.T) {
	_, _, gateway := manage(t)
	own := httptest.NewServer(standin.New(time.Now))
	defer own.Close()
	for _, url := range []string{gateway + "/nothing", gateway + "/x/generations", gateway + "/keys/", gateway + "/keys/a/b",
		gateway + "/", own.URL + "/api/v1/generations"} {
		response, body := do(t, request(t, "GET", url, "Bearer "+management))
		if response.StatusCode != 404 || response.Header.Get("Content-Type") != "text/html; charset=utf-8" ||
			!strings.HasPrefix(body, "<!DOCTYPE html>") {
			t.Errorf("%s: got HTTP %d %s", url, response.StatusCode, body)
		}
	}
}

func TestNoList(t *testing.T) {
	s, _, base := start(t)
	s.Add(key, made("gen-1", 1))
	for _, authorization := range []string{"Bearer " + key, ""} {
		s.NoList(http.StatusNotFound)
		response, body := do(t, request(t, "GET", base+"/generations", authorization))
		if response.StatusCode != 404 || response.Header.Get("Content-Type") != "text/html; charset=utf-8" ||
			!strings.HasPrefix(body, "<!DOCTYPE html>") {
			t.Errorf("got HTTP %d %s", response.StatusCode, body)
		}
		s.NoList(http.StatusMethodNotAllowed)
		response, body = do(t, request(t, "GET", base+"/generations", authorization))
		wantError(t, response, body, 405, "Method Not Allowed")
	}
	get(t, base+"/generation?id=gen-1") // all else is as before
	s.NoList(0)
	wantIDs(t, listed(t, base+"/generations"), "gen-1")
}

func TestCutBody(t *testing.T) {
	s, _, base := start(t)
	s.Add(key, made("gen-1", 1), made("gen-2", 2))
	whole := get(t, base+"/generations")
	s.Script(standin.CutBody())
	response, err := http.DefaultTransport.RoundTrip(request(t, "GET", base+"/generations", "Bearer "+key))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v", err)
	}
	if response.ContentLength != int64(len(whole)) || string(body) != whole[:len(whole)/2] {
		t.Errorf("got %d of %d bytes: %s", len(body), response.ContentLength, body)
	}
}

func TestHang(t *testing.T) {
	hanging := func(t *testing.T, s *standin.Server, r *http.Request) <-chan error {
		t.Helper()
		before := len(s.Requests())
		s.Script(standin.Hang())
		done := make(chan error, 1)
		go func() {
			response, err := http.DefaultTransport.RoundTrip(r)
			if err == nil {
				response.Body.Close()
				err = fmt.Errorf("HTTP %d", response.StatusCode)
			}
			done <- err
		}()
		for len(s.Requests()) == before {
			select {
			case err := <-done:
				t.Fatalf("ended with %v", err)
			case <-time.After(time.Millisecond):
			}
		}
		return done
	}
	t.Run("ClientGoesAway", func(t *testing.T) {
		s, _, base := start(t)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		done := hanging(t, s, request(t, "GET", base+"/key", "Bearer "+key).WithContext(ctx))
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("ServerIsClosed", func(t *testing.T) {
		s := standin.NewGateway(time.Now)
		listener := httptest.NewServer(s)
		defer listener.Close()
		done := hanging(t, s, request(t, "GET", listener.URL+"/key", "Bearer "+key))
		if err := listener.Config.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-done; !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "connection reset") {
			t.Errorf("got %v", err)
		}
	})
}

func TestRequests(t *testing.T) {
	s, _, base := start(t)
	do(t, request(t, "GET", base+"/generations?limit=7", "Bearer "+key))
	do(t, request(t, "POST", base+"/key", ""))
	post(t, base, key, `{"metrics":[]}`)
	got := s.Requests()
	if len(got) != 3 {
		t.Fatalf("got %d requests", len(got))
	}
	first, second, third := got[0], got[1], got[2]
	if first.Method != "GET" || first.Path != "/api/v1/generations" || first.Query.Get("limit") != "7" || first.Key != key ||
		first.UserAgent != "usage-sync/test" || first.Status != 200 {
		t.Errorf("got %+v", first)
	}
	if second.Method != "POST" || second.Key != "" || second.Status != 405 {
		t.Errorf("got %+v", second)
	}
	if third.Path != "/api/v1/analytics/query" || third.Body != `{"metrics":[]}` || third.Status != 403 {
		t.Errorf("got %+v", third)
	}
}

// TestManyGenerations pages through a long list of which every row must come once and in order.
func TestManyGenerations(t *testing.T) {
	const count, page = 100_000, 1000
	s, _, base := start(t)
	s.PageLimit(page)
	generations := make([]standin.Generation, count)
	for i := range generations {
		n := (i * 7919) % count // in no order: 7919 is prime to the count
		generations[i] = standin.Generation{ID: fmt.Sprintf("gen-%06d", n), CreatedAt: noon.Add(-time.Duration(n) * time.Second),
			Model: "openai/gpt-5", Cost: "0.000001"}
	}
	s.Add(key, generations...)
	for offset := 0; offset < count; offset += page {
		body := get(t, fmt.Sprintf("%s/generations?limit=%d&offset=%d", base, page, offset))
		n := offset
		for rest := body; ; n++ {
			_, after, ok := strings.Cut(rest, `{"id":"`)
			if !ok {
				break
			}
			if want := fmt.Sprintf("gen-%06d", n); !strings.HasPrefix(after, want) {
				t.Fatalf("row %d is %.10s, want %s", n, after, want)
			}
			rest = after
		}
		if n != offset+page {
			t.Fatalf("%d rows at %d", n-offset, offset)
		}
	}
	if body := get(t, base+"/key"); !strings.Contains(body, `"usage":0.1,`) {
		t.Errorf("got %s", body)
	}
}

// TestConcurrentUse lets the race detector see every method at once.
func TestConcurrentUse(t *testing.T) {
	s, c, base := manage(t)
	s.Add(key, made("gen-0", 0))
	var wait sync.WaitGroup
	for i := range 8 {
		wait.Go(func() {
			for n := range 10 {
				s.Add(key, made(fmt.Sprintf("gen-%d-%d", i, n), n))
				s.SetCost("gen-0", fmt.Sprintf("0.%d", n))
				s.OnPage(func(string, int) {})
				s.OnRequest(func(standin.Request) {})
				s.SetKey(key, standin.Key{Limit: "1"})
				s.AlwaysAt("/keys", nil)
				c.advance(time.Millisecond)
				query := request(t, "POST", base+"/analytics/query", "Bearer "+management)
				query.Body = io.NopCloser(strings.NewReader(`{"metrics":["total_usage"],"dimensions":["generation_id"]}`))
				all := []*http.Request{query}
				for _, path := range []string{"/generations", "/generation?id=gen-0", "/key"} {
					all = append(all, request(t, "GET", base+path, "Bearer "+key))
				}
				for _, path := range []string{"/keys", "/activity"} {
					all = append(all, request(t, "GET", base+path, "Bearer "+management))
				}
				for _, r := range all {
					response, err := http.DefaultTransport.RoundTrip(r)
					if err != nil {
						t.Error(err)
						return
					}
					_, _ = io.Copy(io.Discard, response.Body)
					response.Body.Close()
				}
			}
		})
	}
	wait.Wait()
	if got := len(s.Requests()); got != 8*10*6 {
		t.Errorf("%d requests", got)
	}
}

// BenchmarkPages is what a pass over a long list costs the server.
func BenchmarkPages(b *testing.B) {
	s := standin.NewGateway(func() time.Time { return noon })
	s.AddKey(key, "")
	s.PageLimit(1000)
	for i := range 100_000 {
		s.Add(key, made(fmt.Sprint("gen-", i), i))
	}
	r := httptest.NewRequest("GET", "/api/v1/generations?limit=1000&offset=50000", nil)
	r.Header.Set("Authorization", "Bearer "+key)
	for b.Loop() {
		s.ServeHTTP(httptest.NewRecorder(), r)
	}
}

func BenchmarkAdd(b *testing.B) {
	s := standin.NewGateway(func() time.Time { return noon })
	g := made("gen-1", 1)
	for b.Loop() {
		s.Add(key, g)
	}
}
