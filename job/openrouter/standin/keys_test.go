package standin_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"usage-sync/job/openrouter/standin"
)

const management = "sk-or-v1-management"

// manage returns a server with one key and a management key.
func manage(t *testing.T) (s *standin.Server, c *clock, base string) {
	t.Helper()
	s, c, base = start(t)
	s.AddManagementKey(management)
	return s, c, base
}

// ask asks with the management key and wants a success.
func ask(t *testing.T, url string) string {
	t.Helper()
	response, body := do(t, request(t, "GET", url, "Bearer "+management))
	if response.StatusCode != 200 {
		t.Fatalf("%s: HTTP %d %s", url, response.StatusCode, body)
	}
	return body
}

func hashOf(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:])
}

// names returns the keys that GET /keys lists.
func names(t *testing.T, url string) []string {
	t.Helper()
	all := []string{}
	for _, k := range decode[[]struct{ Name string }](t, ask(t, url)) {
		all = append(all, k.Name)
	}
	return all
}

// wantFields checks the text of some fields, so that a number is right to its last digit.
func wantFields(t *testing.T, body string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(body, w) {
			t.Errorf("no %s in %s", w, body)
		}
	}
}

func TestManagementErrors(t *testing.T) {
	_, _, base := manage(t)
	const forbidden = "Only management keys can perform this operation"
	for _, test := range []struct {
		name, method, path, key string
		status                  int
		message                 string
	}{
		{"KeysOfAnOrdinaryKey", "GET", "/keys", key, 403, forbidden},
		{"KeyByHashOfAnOrdinaryKey", "GET", "/keys/" + hashOf(key), key, 403, forbidden},
		{"ActivityOfAnOrdinaryKey", "GET", "/activity", key, 403, forbidden},
		{"AnalyticsOfAnOrdinaryKey", "POST", "/analytics/query", key, 403, forbidden},
		{"UnknownKey", "GET", "/keys", "sk-or-v1-unknown", 401, "User not found."},
		{"UnknownHash", "GET", "/keys/" + hashOf("x"), management, 404, "API key not found"},
		{"HashOfTheManagementKey", "GET", "/keys/" + hashOf(management), management, 404, "API key not found"},
		{"GetOfAQuery", "GET", "/analytics/query", management, 405, "Method Not Allowed"},
		{"PostOfKeys", "POST", "/keys", management, 405, "Method Not Allowed"},
		{"OffsetIsText", "GET", "/keys?offset=x", management, 400, "Invalid input: expected offset"},
		{"OffsetIsNegative", "GET", "/keys?offset=-1", management, 400, "Invalid input: expected offset"},
		{"IncludeDisabledIsText", "GET", "/keys?include_disabled=x", management, 400, "Invalid input: expected include_disabled"},
		{"UnknownGeneration", "GET", "/generation?id=gen-0", management, 404, "Generation not found"},
	} {
		t.Run(test.name, func(t *testing.T) {
			response, body := do(t, request(t, test.method, base+test.path, "Bearer "+test.key))
			wantError(t, response, body, test.status, test.message)
		})
	}
}

func TestKeys(t *testing.T) {
	s, c, base := manage(t)
	ordinary := "sk-or-v1-" + strings.Repeat("0123abcd", 8)
	s.SetKey(ordinary, standin.Key{Name: "Acme", Limit: "10.50", LimitReset: "monthly", ExpiresAt: noon.Add(time.Hour)})
	s.Add(ordinary, made("gen-1", 1), made("gen-2", 2))
	c.advance(time.Minute)

	described := []string{`"hash":"` + hashOf(ordinary) + `"`, `"name":"Acme"`, `"label":"sk-or-v1-012...bcd"`, `"disabled":false`,
		`"limit":10.50,`, `"limit_remaining":10.498,`, `"limit_reset":"monthly"`, `"include_byok_in_limit":false`, `"usage":0.002,`,
		`"usage_daily":0.002,`, `"usage_weekly":0.002,`, `"usage_monthly":0.002,`, `"byok_usage":0,`, `"byok_usage_monthly":0,`,
		`"created_at":"2026-07-15T12:00:00.000Z"`, `"updated_at":null`, `"expires_at":"2026-07-15T13:00:00.000Z"`,
		`"external_user":null`, `"workspace_id":"00000000-0000-4000-8000-000000000000"`}
	t.Run("Listed", func(t *testing.T) {
		body := ask(t, base+"/keys")
		wantFields(t, body, described...)
		if strings.Contains(body, ordinary) || strings.Contains(body, hashOf(management)) {
			t.Errorf("a whole key or the management key is in %s", body)
		}
		wantIDs(t, names(t, base+"/keys"), "Acme", "sk-or-v1-fir...rst") // newest first
	})
	t.Run("Fields", func(t *testing.T) { // 21 of the recordings, and external_user of the SDK
		if fields := decode[map[string]any](t, ask(t, base+"/keys/"+s.KeyHash(ordinary))); len(fields) != 22 {
			t.Errorf("%d fields: %v", len(fields), fields)
		}
	})
	t.Run("ByHash", func(t *testing.T) {
		for _, prefix := range []string{"/api/v1", "/v1", ""} {
			host := strings.TrimSuffix(base, "/api/v1")
			wantFields(t, ask(t, host+prefix+"/keys/"+s.KeyHash(ordinary)), described...)
		}
	})
	t.Run("Expired", func(t *testing.T) {
		c.advance(time.Hour)
		response, _ := do(t, request(t, "GET", base+"/key", "Bearer "+ordinary))
		if response.StatusCode != 401 {
			t.Errorf("got HTTP %d", response.StatusCode)
		}
	})
	t.Run("OtherHash", func(t *testing.T) {
		other := strings.Repeat("ab", 32)
		s.SetKey(key, standin.Key{Name: "First", Label: "a label", Hash: other})
		wantFields(t, ask(t, base+"/keys/"+other), `"name":"First"`, `"label":"a label"`, `"hash":"`+other+`"`, `"limit":null`,
			`"limit_remaining":null`, `"limit_reset":null`)
		response, body := do(t, request(t, "GET", base+"/keys/"+hashOf(key), "Bearer "+management))
		if response.StatusCode != 404 {
			t.Errorf("got HTTP %d %s", response.StatusCode, body)
		}
		if got := s.KeyHash(key); got != other {
			t.Errorf("got %s", got)
		}
	})
	t.Run("Disabled", func(t *testing.T) {
		s.SetKey(key, standin.Key{Name: "First", Disabled: true})
		wantIDs(t, names(t, base+"/keys"), "Acme")
		wantIDs(t, names(t, base+"/keys?include_disabled=true"), "Acme", "First")
		response, body := do(t, request(t, "GET", base+"/key", "Bearer "+key))
		if response.StatusCode != 401 {
			t.Errorf("got HTTP %d %s", response.StatusCode, body)
		}
	})
}

// TestDeletedKey: it is gone within seconds, but what it has used is not.
func TestDeletedKey(t *testing.T) {
	s, c, base := manage(t)
	s.Add(key, made("gen-1", 1))
	s.SetKey(key, standin.Key{Name: "First", Deleted: true})
	wantIDs(t, names(t, base+"/keys?include_disabled=true"))
	for url, want := range map[string]struct {
		key    string
		status int
	}{
		"/keys/" + hashOf(key): {management, 404}, "/key": {key, 401}, "/generation?id=gen-1": {key, 401},
	} {
		if response, body := do(t, request(t, "GET", base+url, "Bearer "+want.key)); response.StatusCode != want.status {
			t.Errorf("%s: got HTTP %d %s", url, response.StatusCode, body)
		}
	}
	wantFields(t, ask(t, base+"/generation?id=gen-1"), `"id":"gen-1"`)
	r := analytics(t, base, `{"metrics":["request_count"],"dimensions":["generation_id"],"filters":[{"field":"api_key_id",`+
		`"operator":"eq","value":"`+hashOf(key)+`"}]}`)
	wantIDs(t, idsOf(t, r), "gen-1")
	c.advance(24 * time.Hour)
	wantFields(t, ask(t, base+"/activity?api_key_hash="+hashOf(key)), `"requests":1,`)
}

// TestWorkspaces: without naming one, GET /keys and GET /observability/destinations know the default workspace alone.
func TestWorkspaces(t *testing.T) {
	s, _, base := manage(t)
	const other = "11111111-1111-4111-8111-111111111111"
	s.AddWorkspace(standin.Workspace{ID: other, Name: "Resale"})
	s.SetKey("sk-or-v1-second", standin.Key{Name: "Second", Workspace: other})
	s.Add(key, made("gen-1", 1))
	s.Add("sk-or-v1-second", made("gen-2", 2))
	s.AddDestination(standin.Destination{ID: "d-1", Name: "One", URL: "https://one.example/hook"})
	s.AddDestination(standin.Destination{ID: "d-2", URL: "https://two.example/hook", Workspace: other, Hashes: []string{"ab"},
		SamplingRate: 0.25, NoCost: true, Anonymous: true, Private: true, Filtered: true, Disabled: true})

	wantIDs(t, names(t, base+"/workspaces"), "Default Workspace", "Resale")
	wantIDs(t, names(t, base+"/workspaces?offset=1&limit=1"), "Resale")
	wantFields(t, ask(t, base+"/workspaces?limit=1"), `"total_count":2}`)
	wantIDs(t, names(t, base+"/keys"), "sk-or-v1-fir...rst")
	wantIDs(t, names(t, base+"/keys?workspace_id="+standin.DefaultWorkspace), "sk-or-v1-fir...rst")
	wantIDs(t, names(t, base+"/keys?workspace_id="+other), "Second")
	wantFields(t, ask(t, base+"/keys/"+hashOf("sk-or-v1-second")), `"workspace_id":"`+other+`"`)
	wantFields(t, ask(t, base+"/generation?id=gen-2"), `"workspace_id":"`+other+`"`)
	wantIDs(t, names(t, base+"/observability/destinations"), "One")
	wantFields(t, ask(t, base+"/observability/destinations"), `"api_key_hashes":null,"sampling_rate":1,"filter_rules":null`,
		`"broadcast_generation_cost":true,"broadcast_generation_identity":true`, `"enabled":true`, `"total_count":1}`)
	wantFields(t, ask(t, base+"/observability/destinations?workspace_id="+other), `"api_key_hashes":["ab"],"sampling_rate":0.25,`+
		`"filter_rules":{`, `"privacy_mode":true`, `"broadcast_generation_cost":false,"broadcast_generation_identity":false`,
		`"enabled":false`, `"workspace_id":"`+other+`"`)
	// A management key is one for all workspaces.
	wantIDs(t, idsOf(t, analytics(t, base, `{"metrics":["request_count"],"dimensions":["generation_id"]}`)), "gen-1", "gen-2")
	wantFields(t, ask(t, base+"/credits"), `"total_usage":0.002}`)
	for _, path := range []string{"/keys?workspace_id=x", "/observability/destinations?workspace_id=x"} {
		response, body := do(t, request(t, "GET", base+path, "Bearer "+management))
		wantError(t, response, body, 404, "Workspace not found")
	}
	for _, query := range []string{"limit=0", "limit=101", "offset=-1"} {
		response, body := do(t, request(t, "GET", base+"/workspaces?"+query, "Bearer "+management))
		wantError(t, response, body, 400, "Invalid input")
	}
}

// TestKeysOfTheClientsOwn: what a provider takes stands beside what OpenRouter charges.
func TestKeysOfTheClientsOwn(t *testing.T) {
	s, c, base := manage(t)
	byok := made("gen-1", 1)
	byok.BYOK, byok.Cost, byok.UpstreamCost = true, "0.0005", "0.01"
	s.Add(key, byok, made("gen-2", 2))
	wantFields(t, ask(t, base+"/generation?id=gen-1"), `"total_cost":0.0005,`, `"upstream_inference_cost":0.01,"is_byok":true`)
	wantFields(t, ask(t, base+"/generation?id=gen-2"), `"total_cost":0.001,`, `"upstream_inference_cost":0.001,"is_byok":false`)
	wantFields(t, get(t, base+"/key"), `"usage":0.0015,`, `"byok_usage":0.01,`, `"byok_usage_daily":0.01,`)
	c.advance(24 * time.Hour)
	wantFields(t, ask(t, base+"/activity"), `"usage":0.0015,"byok_usage_inference":0.01,"requests":2,`)
}

// TestServerTools: a run costs, and is no request. With the id of a request it is a part of that one.
func TestServerTools(t *testing.T) {
	s, c, base := manage(t)
	tool := func(id string, minutes int) standin.Generation {
		return standin.Generation{ID: id, CreatedAt: noon.Add(-time.Duration(minutes) * time.Minute), Model: "exa/search",
			Cost: "0.004", Tool: true}
	}
	s.Add(key, made("gen-1", 1), tool("gen-1", 1), tool("gen-2", 2))
	wantIDs(t, listed(t, base+"/generations"), "gen-1", "gen-2")
	wantFields(t, get(t, base+"/generations"), `"total_cost":0.005,`, `"total_cost":0.004,`)
	wantFields(t, get(t, base+"/generation?id=gen-1"), `"total_cost":0.005,`, `"api_type":"completions"`)
	wantFields(t, get(t, base+"/generation?id=gen-2"), `"total_cost":0.004,`, `"api_type":"web_search"`)
	wantFields(t, get(t, base+"/key"), `"usage":0.009,`)
	c.advance(24 * time.Hour)
	wantFields(t, ask(t, base+"/activity"), `"usage":0.008,"byok_usage_inference":0,"requests":0,`)
}

func TestMeta(t *testing.T) {
	_, _, base := manage(t)
	wantFields(t, ask(t, base+"/analytics/meta"), `"name":"total_usage","display_label":"Total usage","display_format":"currency"`,
		`{"name":"generation_id","display_label":"Generation id"}`, `{"name":"not_in","value_type":"array"}`,
		`{"name":"eq","value_type":"scalar"}`, `{"name":"hour","display_label":"Hour"}`)
}

func TestPagesOfKeys(t *testing.T) {
	s, _, base := manage(t)
	want := []string{"sk-or-v1-fir...rst"}
	for i := range 249 {
		name := fmt.Sprint("client ", i)
		s.AddKey(fmt.Sprint("sk-or-v1-client-", i), name)
		want = append(want, name)
	}
	slices.Reverse(want)
	for _, test := range []struct {
		query string
		want  []string
	}{
		{"", want[:100]},
		{"?offset=0", want[:100]},
		{"?offset=100", want[100:200]},
		{"?offset=200", want[200:]},
		{"?offset=249", want[249:]},
		{"?offset=250", nil},
	} {
		t.Run(test.query, func(t *testing.T) { wantIDs(t, names(t, base+"/keys"+test.query), test.want...) })
	}
}

func TestLimitRemaining(t *testing.T) {
	s, _, base := start(t)
	cost := func(id string, before time.Duration, cost string) standin.Generation {
		return standin.Generation{ID: id, CreatedAt: noon.Add(-before), Cost: cost}
	}
	const day = 24 * time.Hour
	s.Add(key, cost("gen-1", time.Hour, "1"), cost("gen-2", 2*day, "2"), cost("gen-3", 10*day, "4"), cost("gen-4", 20*day, "8"))
	for _, test := range []struct{ reset, want string }{
		{"", "-3"}, {"daily", "11"}, {"weekly", "9"}, {"monthly", "5"},
	} {
		t.Run(test.reset, func(t *testing.T) {
			s.SetKey(key, standin.Key{Limit: "12", LimitReset: test.reset})
			wantFields(t, get(t, base+"/key"), `"limit":12,"limit_remaining":`+test.want+`,`, `"usage":15,`)
		})
	}
}

func TestManagementKeyItself(t *testing.T) {
	s, _, base := manage(t)
	s.Add(key, made("gen-1", 1))
	s.AddKey("sk-or-v1-second", "")
	s.Add("sk-or-v1-second", made("gen-2", 2))
	t.Run("Key", func(t *testing.T) {
		wantFields(t, ask(t, base+"/key"), `"is_management_key":true`, `"is_provisioning_key":true`, `"usage":0,`, `"limit":null`,
			`"label":"sk-or-v1-man...ent"`, `"rate_limit":{`, `"is_free_tier":false`, `"expires_at":null`)
		wantFields(t, get(t, base+"/key"), `"is_management_key":false`, `"is_provisioning_key":false`, `"usage":0.001,`)
	})
	t.Run("AnyGeneration", func(t *testing.T) {
		wantFields(t, ask(t, base+"/generation?id=gen-1"), `"id":"gen-1"`)
		wantFields(t, ask(t, base+"/generation?id=gen-2"), `"id":"gen-2"`)
	})
	t.Run("NoGenerationsOfItsOwn", func(t *testing.T) {
		if got := ask(t, base+"/generations"); got != `{"data":[]}` {
			t.Errorf("got %s", got)
		}
	})
}

// TestRepeatedID: the list shows a generation twice, as a list does that shifts; everything else knows it once.
func TestRepeatedID(t *testing.T) {
	s, c, base := manage(t)
	again := made("gen-1", 1)
	again.Cost = "0.007"
	s.Add(key, made("gen-1", 1), again)
	wantIDs(t, listed(t, base+"/generations"), "gen-1", "gen-1")
	wantFields(t, get(t, base+"/key"), `"usage":0.007,`)
	wantFields(t, ask(t, base+"/generation?id=gen-1"), `"total_cost":0.007,`)
	c.advance(24 * time.Hour)
	wantFields(t, ask(t, base+"/activity"), `"usage":0.007,`, `"requests":1,`)
	got := rowsOf(t, analytics(t, base, `{"metrics":["request_count","total_usage"],"dimensions":["generation_id"]}`))
	if got != `{"generation_id":"gen-1","request_count":"1","total_usage":0.007}` {
		t.Errorf("got %s", got)
	}
}
