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
		{"NoHash", "GET", "/keys/", management, 404, "Not Found"},
		{"BelowAHash", "GET", "/keys/a/b", management, 404, "Not Found"},
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
		`"last_used_at":"2026-07-15T11:59:00.000Z"`}
	t.Run("Listed", func(t *testing.T) {
		body := ask(t, base+"/keys")
		wantFields(t, body, described...)
		if strings.Contains(body, ordinary) || strings.Contains(body, hashOf(management)) {
			t.Errorf("a whole key or the management key is in %s", body)
		}
		wantIDs(t, names(t, base+"/keys"), "Acme", "sk-or-v1-fir...rst") // newest first
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
			`"limit_remaining":null`, `"limit_reset":null`, `"last_used_at":null`)
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
