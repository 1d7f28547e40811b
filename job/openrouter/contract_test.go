package openrouter_test

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"usage-sync/job/openrouter"
	"usage-sync/job/openrouter/standin"
	"usage-sync/store"
)

// The keys of an account that is examined: what is particular of them must be nowhere in what an examination
// tells.
const (
	examinedKey   = "sk-or-v1-" + "1a7f3c9e5b2d8f4a6c0e1b3d5f7a9c2e4b6d8f0a1c3e5b7d9f2a4c6e8b0d1f3a"
	neighbourKey  = "sk-or-v1-" + "7b2e9d4f6a1c8e3b5d0f2a4c6e8b1d3f5a7c9e0b2d4f6a8c1e3b5d7f9a0c2e4d"
	examiningKey  = "sk-or-v1-" + "0c5d8e1f4a7b2c9d6e3f0a5b8c1d4e7f2a9b6c3d0e5f8a1b4c7d2e9f6a3b0c5e"
	otherExamined = "11111111-2222-4333-8444-555555555555"
)

var examinedAt = time.Date(2026, 9, 10, 15, 30, 0, 0, time.UTC)

// examinedAccount returns a stand-in with an account that has one of each, and the organisations that are
// examined.
func examinedAccount() (*standin.Server, []store.Organisation) {
	s := standin.New(func() time.Time { return examinedAt })
	s.AddManagementKey(examiningKey)
	s.AddWorkspace(standin.Workspace{ID: otherExamined, Name: "Resale secret"})
	s.SetKey(examinedKey, standin.Key{Name: "Acme secret", Workspace: otherExamined})
	s.SetKey(neighbourKey, standin.Key{Name: "Globex secret"})
	s.AddDestination(standin.Destination{ID: "d-secret", Name: "hook secret", URL: "https://secret.example/hook",
		Hashes: []string{s.KeyHash(examinedKey)}})
	s.Add(examinedKey, examinedUsage(examinedKey, 40)...)
	s.Add(neighbourKey, examinedUsage(neighbourKey, 40)...)
	return s, []store.Organisation{{ID: "acme", Name: "Acme secret", Key: examinedKey, Zone: time.UTC}}
}

// examinedUsage returns generations of the last two days, newest first: with and without a user, with keys of
// the client's own, of server tools. One lies at the very end of an hour.
func examinedUsage(key string, n int) []standin.Generation {
	all := make([]standin.Generation, n)
	for i := range all {
		created := examinedAt.Add(-time.Duration(i)*59*time.Minute - 30*time.Minute)
		all[i] = standin.Generation{ID: fmt.Sprintf("gen-%d-secret%s%03d", created.Unix(), key[9:12], i), CreatedAt: created,
			Model: "google/gemini-3.1-flash-image-preview", Permaslug: "google/gemini-3.1-flash-image-preview-20260226",
			ExternalUser: "ann.secret", PromptTokens: int64(57 + 8*i), CompletionTokens: 1574, Cost: fmt.Sprintf("0.068%03d5", i)}
	}
	all[2].ExternalUser = ""
	all[3].Tool, all[3].Cost, all[3].PromptTokens, all[3].CompletionTokens = true, "0.004", 0, 0
	all[4].BYOK, all[4].UpstreamCost, all[4].Cost = true, "0.5000001", "0.0034003"
	return all
}

func examine(t *testing.T, s *standin.Server, orgs []store.Organisation) openrouter.Examination {
	t.Helper()
	server := httptest.NewServer(s)
	defer server.Close()
	c, err := openrouter.New(server.URL+"/api/v1", "test", slog.New(slog.NewTextHandler(io.Discard, nil)),
		openrouter.WithFirstWait(time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	found, err := openrouter.NewManagement(c, examiningKey).Examine(t.Context(), orgs, examinedAt)
	if err != nil {
		t.Fatal(err)
	}
	if found.Requests > 25 || len(found.Findings) != len(openrouter.Contract) {
		t.Errorf("%d requests, %d findings", found.Requests, len(found.Findings))
	}
	return found
}

func described(found openrouter.Examination) string {
	var lines []string
	for _, f := range found.Findings {
		lines = append(lines, fmt.Sprintf("%s: %s: %s", f.Name, f.Seen, f.Verdict))
	}
	return strings.Join(lines, "\n")
}

// TestContract: the stand-in, which was written from recordings, keeps to what the client counts on.
func TestContract(t *testing.T) {
	s, orgs := examinedAccount()
	found := examine(t, s, orgs)
	for _, f := range found.Findings {
		if f.Verdict != openrouter.AsExpected {
			t.Errorf("%s: counts on %s, saw %s: %s", f.Name, f.CountsOn, f.Seen, f.Verdict)
		}
	}
	if !strings.Contains(described(found), "also in GET /generation") {
		t.Error("no generation with a key of the client's own was looked up")
	}
	t.Logf("%d requests\n%s", found.Requests, described(found))
	for _, r := range s.Requests() {
		if r.Method == "POST" && !strings.HasSuffix(r.Path, "/analytics/query") {
			t.Errorf("%s %s could cost money", r.Method, r.Path)
		}
	}
}

// TestContractBroken turns each fact wrong in the stand-in, and each must be found.
func TestContractBroken(t *testing.T) {
	const handled, wrong, untold = openrouter.Handled, openrouter.BillsWrong, openrouter.NotTold
	play := func(q standin.Quirks) func(*standin.Server) { return func(s *standin.Server) { s.Play(q) } }
	fails := func(endpoint string, status int) func(*standin.Server) {
		return func(s *standin.Server) {
			fault := standin.Status(status, "")
			s.AlwaysAt(endpoint, &fault)
		}
	}
	rekey := func(k standin.Key) func(*standin.Server) {
		return func(s *standin.Server) {
			k.Name, k.Workspace = "Acme secret", otherExamined
			s.SetKey(examinedKey, k)
		}
	}
	add := func(change func(*standin.Generation)) func(*standin.Server) {
		return func(s *standin.Server) {
			g := standin.Generation{ID: "gen-1789054200-another", CreatedAt: examinedAt.Add(-time.Minute), Model: "a/b", Cost: "9.0000005"}
			change(&g)
			s.Add(examinedKey, g)
		}
	}
	broken := map[string]bool{}
	for _, test := range []struct {
		fact    string
		how     string
		play    func(*standin.Server)
		verdict openrouter.Verdict
	}{
		{"management key", "not told apart", func(s *standin.Server) {
			body := standin.Body(200, "application/json", `{"data":{"label":"x","is_management_key":false}}`)
			s.AlwaysAt("/key", &body)
		}, wrong},
		{"metrics", "a metric is gone", play(standin.Quirks{MetaWithout: []string{"tokens_total"}}), wrong},
		{"metrics", "a dimension is gone", play(standin.Quirks{MetaWithout: []string{"external_user"}}), wrong},
		{"metrics", "no meta", fails("/analytics/meta", 404), untold},
		{"workspaces", "none are listed", fails("/workspaces", 404), untold},
		{"label", "another key's", rekey(standin.Key{Label: "sk-or-v1-zzz...zzz"}), wrong},
		{"label", "a name", rekey(standin.Key{Label: "Acme"}), handled},
		{"hash", "no SHA-256", rekey(standin.Key{Hash: strings.Repeat("ab", 32)}), handled},
		{"filter", "every key's rows come", play(standin.Quirks{LoseHash: true}), wrong},
		{"unknown hash", "every key's rows come", play(standin.Quirks{LoseHash: true}), wrong},
		{"unknown hash", "without a word", play(standin.Quirks{NoWarnings: true}), wrong},
		{"key in rows", "the hash", play(standin.Quirks{KeyHashes: true}), handled},
		{"time column by generation", "another name", play(standin.Quirks{TimeColumn: "bucket"}), handled},
		{"time column by generation", "another ending", play(standin.Quirks{TimeColumn: "bucket", Suffix: "_at"}), wrong},
		{"time column rolled up", "another name", play(standin.Quirks{TimeColumn: "bucket"}), handled},
		{"time column rolled up", "another ending", play(standin.Quirks{TimeColumn: "bucket", Suffix: "_at"}), wrong},
		{"time by generation", "as described", func(s *standin.Server) { s.OtherDates(true) }, handled},
		{"time by generation", "no time", play(standin.Quirks{TimeLayout: "02.01.2006 15h"}), wrong},
		{"time rolled up", "as described", func(s *standin.Server) { s.OtherDates(true) }, handled},
		{"time rolled up", "no time", play(standin.Quirks{TimeLayout: "02.01.2006 15h"}), wrong},
		{"UTC", "of another zone", play(standin.Quirks{HoursLate: 2}), wrong},
		{"range", "from outside", play(standin.Quirks{BothEnds: true}), wrong},
		{"fractions", "are taken", play(standin.Quirks{Fractions: true}), handled},
		{"cost", "exact", play(standin.Quirks{Exact: true}), handled},
		{"cost", "in cents", play(standin.Quirks{Cents: true}), wrong},
		{"cost", "coarser", play(standin.Quirks{Decimals: 4}), wrong},
		{"rounding", "of nothing known", play(standin.Quirks{Exact: true}), handled},
		{"keys of the client's own", "left out", play(standin.Quirks{NoBYOK: true}), wrong},
		{"keys of the client's own", "counted otherwise one by one", func(s *standin.Server) {
			other := standin.Body(200, "application/json", `{"data":{"id":"`+examinedUsage(examinedKey, 5)[4].ID+`",`+
				`"total_cost":0.5,"is_byok":true,"upstream_inference_cost":0.5}}`)
			s.AlwaysAt("/generation", &other)
		}, wrong},
		{"counts", "numbers", play(standin.Quirks{Numbers: true}), handled},
		{"tokens", "by another tokenizer", play(standin.Quirks{NormalisedTokens: true}), handled},
		{"rows without a request", "all are requests", play(standin.Quirks{ToolRequests: true}), untold},
		{"absent user", "a word", play(standin.Quirks{NoUser: `"nobody"`}), wrong},
		{"models", "undated", play(standin.Quirks{Undated: true}), handled},
		{"second in an id", "another time's", add(func(g *standin.Generation) { g.ID = "gen-1789050000-another" }), wrong},
		{"single generations", "not shown", fails("/generation", 403), handled},
		{"limit", "fewer rows", play(standin.Quirks{MostRows: 7}), handled},
		{"truncated", "not said", play(standin.Quirks{NeverTruncated: true}), wrong},
		{"rolled-up totals", "a model is left out", play(standin.Quirks{RolledUpWithout: "google/gemini-3.1-flash-image-preview"}), wrong},
		{"cachedAt", "absent", play(standin.Quirks{CachedAt: "-"}), handled},
		{"cachedAt", "in seconds", play(standin.Quirks{CachedAt: "1789054200"}), handled},
		{"cachedAt", "in the future", play(standin.Quirks{CachedAt: "1799054200000"}), wrong},
		{"cachedAt", "text", play(standin.Quirks{CachedAt: `"now"`}), wrong},
		{"lag", "from the future", add(func(g *standin.Generation) { g.ID = "gen-1799054200-another" }), wrong},
		{"activity", "leaves a model out", play(standin.Quirks{ActivityWithout: "google/gemini-3.1-flash-image-preview"}), handled},
		{"activity", "of every key", play(standin.Quirks{AnyActivity: true}), handled},
		{"activity", "has more", play(standin.Quirks{RolledUpWithout: "google/gemini-3.1-flash-image-preview"}), wrong},
		{"activity", "not offered", fails("/activity", 404), handled},
		{"rate limit", "headers", play(standin.Quirks{LimitHeaders: true}), handled},
		{"Broadcast", "of every key, a sample, without cost and identity", func(s *standin.Server) {
			s.AddDestination(standin.Destination{ID: "d-2", SamplingRate: 0.5, NoCost: true, Anonymous: true, Filtered: true})
		}, handled},
		{"rows of a generation", "no answer", fails("/analytics/query", 400), wrong},
	} {
		broken[test.fact] = true
		t.Run(test.fact+", "+test.how, func(t *testing.T) {
			s, orgs := examinedAccount()
			test.play(s)
			found := examine(t, s, orgs)
			i := slices.IndexFunc(found.Findings, func(f openrouter.FactFinding) bool { return f.Name == test.fact })
			if i < 0 || found.Findings[i].Verdict != test.verdict {
				t.Errorf("want %s: %s in\n%s", test.fact, test.verdict, described(found))
			}
		})
	}
	for _, fact := range openrouter.Contract {
		if !broken[fact.Name] {
			t.Errorf("no test turns %q wrong", fact.Name)
		}
	}
}

// TestContractOfAnIdleAccount: where nothing was used, what can't be told is not held against the service.
func TestContractOfAnIdleAccount(t *testing.T) {
	s := standin.New(func() time.Time { return examinedAt })
	s.AddManagementKey(examiningKey)
	s.SetKey(examinedKey, standin.Key{})
	found := examine(t, s, []store.Organisation{{ID: "acme", Key: examinedKey}, {ID: "globex", Key: neighbourKey}})
	untold := 0
	for _, f := range found.Findings {
		switch f.Verdict {
		case openrouter.BillsWrong:
			t.Errorf("%s: %s", f.Name, f.Seen)
		case openrouter.NotTold:
			untold++
		}
	}
	if untold < 15 {
		t.Errorf("%d could not be told:\n%s", untold, described(found))
	}
}

// TestRoundingIsTold apart where it can be.
func TestRoundingIsTold(t *testing.T) {
	for rounding, want := range map[standin.Rounding]string{standin.HalfUp: "half up", standin.HalfEven: "half to even", standin.Cut: "cut off"} {
		s, orgs := examinedAccount()
		s.Add(examinedKey, standin.Generation{ID: "gen-1789053000-dear", CreatedAt: examinedAt.Add(-20 * time.Minute), Model: "a/b", Cost: "9.0000005"},
			standin.Generation{ID: "gen-1789053001-tool", CreatedAt: examinedAt.Add(-19 * time.Minute), Model: "a/b", Tool: true, Cost: "0.0000026"})
		s.Play(standin.Quirks{Rounding: rounding})
		found := examine(t, s, orgs)
		i := slices.IndexFunc(found.Findings, func(f openrouter.FactFinding) bool { return f.Name == "rounding" })
		if f := found.Findings[i]; f.Seen != want || f.Verdict != openrouter.AsExpected {
			t.Errorf("%d: got %s: %s, want %s", rounding, f.Seen, f.Verdict, want)
		}
	}
}

// TestExaminationTellsNothingParticular: what is kept of the answers may be published.
func TestExaminationTellsNothingParticular(t *testing.T) {
	s, orgs := examinedAccount()
	found := examine(t, s, orgs)
	text, err := json.Marshal(found.Shapes)
	if err != nil {
		t.Fatal(err)
	}
	all := string(text) + described(found)
	for _, r := range s.Requests() {
		if hash := r.Query.Get("api_key_hash"); hash != "" && strings.Contains(all, hash) {
			t.Error("a hash is in it")
		}
	}
	for _, particular := range []string{"secret", "0.068", "gemini", "gen-178", "1a7f", "e8b0d1f3a", "f3a", otherExamined, s.KeyHash(examinedKey), "1631", "2026-09"} {
		if i := strings.Index(strings.ToLower(all), strings.ToLower(particular)); i >= 0 {
			t.Errorf("%q is in it: …%s…", particular, all[max(0, i-60):min(len(all), i+60)])
		}
	}
	for _, form := range []string{`"created_at__hour":"time 0000-00-00 00:00:00"`, `"request_count":"digits"`, `"total_usage":"number with up to 6 decimals`,
		`"generation_id":"gen-\u003csecond\u003e-…"`, `"model":"author/model-date"`, `"hash":"64 hex digits"`, `"label":"sk-or-v1-, 3 characters, ..., 3 characters"`} {
		if !strings.Contains(string(text), form) {
			t.Errorf("no %s in %s", form, text)
		}
	}
}

// TestExaminationIsBounded: whatever the account has, it takes at most 25 requests.
func TestExaminationIsBounded(t *testing.T) {
	s, orgs := examinedAccount()
	for i := range 9 {
		id := fmt.Sprintf("%08d-0000-4000-8000-000000000000", i+1)
		s.AddWorkspace(standin.Workspace{ID: id, Name: fmt.Sprint("W", i)})
		idle := store.Organisation{ID: id, Key: store.Key("sk-or-v1-idle-" + id)}
		s.SetKey(string(idle.Key), standin.Key{Workspace: id})
		orgs = append([]store.Organisation{idle}, orgs...)
	}
	orgs[2], orgs[9] = orgs[9], orgs[2] // the last that is asked is the one with usage
	found := examine(t, s, orgs)
	if n := len(s.Requests()); n != found.Requests || n > 25 || n < 23 {
		t.Errorf("%d requests, and %d were told", n, found.Requests)
	}
	for _, f := range found.Findings {
		if f.Verdict == openrouter.BillsWrong {
			t.Errorf("%s: %s", f.Name, f.Seen)
		}
	}
}
