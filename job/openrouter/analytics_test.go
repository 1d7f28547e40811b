package openrouter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
	_ "time/tzdata"

	"usage-sync/job/openrouter/standin"
	"usage-sync/store"
)

// none is a ledger that holds nothing.
func none(_ context.Context, _ store.Organisation, generations []store.Generation) (map[string]bool, error) {
	return without(nil)(nil, store.Organisation{}, generations)
}

// without is a ledger that holds some generations as they are.
func without(recorded map[string]bool) Unrecorded {
	return func(_ context.Context, _ store.Organisation, generations []store.Generation) (map[string]bool, error) {
		ids := map[string]bool{}
		for _, g := range generations {
			if !recorded[g.ID] {
				ids[g.ID] = true
			}
		}
		return ids, nil
	}
}

// fetched is everything that a source has handed over.
type fetched struct {
	generations map[string]store.Generation
	refused     map[string]string
	asOf        time.Time
}

// fetch reads a window, with a ledger that holds some generations.
func (a *account) fetch(org store.Organisation, window Window, recorded map[string]bool, options ...ManagementOption) (fetched, error) {
	a.Helper()
	all := fetched{map[string]store.Generation{}, map[string]string{}, time.Time{}}
	source := NewAnalytics(a.client(), a.management(options...), without(recorded))
	before := 0
	if a.api != nil {
		before = len(a.api.Requests())
	}
	err := source.Fetch(a.Context(), org, window, func(page Page) error {
		for _, g := range page.Generations {
			if _, twice := all.generations[g.ID]; twice {
				a.Errorf("%s is handed over twice", g.ID)
			}
			all.generations[g.ID] = g
		}
		for _, r := range page.Refused {
			all.refused[r.ID] = r.Reason
		}
		all.asOf = earliest(all.asOf, page.AsOf)
		return nil
	})
	if a.api != nil {
		// Of several lookups at once one may fail, and end another before it is sent.
		if sent := int64(len(a.api.Requests()) - before); sent != source.Traffic().Requests() && (err == nil || sent > source.Traffic().Requests()) {
			a.Errorf("%d requests are said to be sent, %d were", source.Traffic().Requests(), sent)
		}
		for _, r := range a.api.Requests()[before:] {
			if r.Key != managementKey && !(r.Key == orgKey && r.Path == "/api/v1/generation" && a.ownKey) {
				a.Errorf("the wrong key goes to %s", r.Path)
			}
		}
	}
	return all, err
}

// mustFetch also holds what came against the truth: all of it, and each generation on its own day.
func (a *account) mustFetch(org store.Organisation, window Window, want []standin.Generation, options ...ManagementOption) fetched {
	a.Helper()
	got, err := a.fetch(org, window, nil, options...)
	if err != nil || len(got.refused) > 0 {
		a.Fatalf("%v, refused %v", err, got.refused)
	}
	a.same(org, got, want)
	return got
}

func (a *account) same(org store.Organisation, got fetched, want []standin.Generation) {
	a.Helper()
	if len(got.generations) != len(want) {
		a.Errorf("%d generations, want %d", len(got.generations), len(want))
	}
	for _, w := range want {
		g, found := got.generations[w.ID]
		cost, err := store.ParseMoney(w.Cost)
		if err != nil {
			a.Fatal(err)
		}
		switch {
		case !found:
			a.Errorf("%s of %s is lost", w.ID, w.CreatedAt)
		case g.Model != w.Model || g.User != w.ExternalUser || g.Tokens != w.PromptTokens+w.CompletionTokens || g.Cost != cost:
			a.Errorf("got %+v, want %+v", g, w)
		case store.DayOf(g.CreatedAt, org.Zone) != store.DayOf(w.CreatedAt, org.Zone):
			a.Errorf("%s of %s is dated %s", w.ID, w.CreatedAt.In(org.Zone), g.CreatedAt.In(org.Zone))
		}
	}
}

// spread makes n generations, newest at a time, one a step earlier than the other.
func spread(prefix string, n int, newest time.Time, step time.Duration) []standin.Generation {
	all := make([]standin.Generation, n)
	for i := range all {
		all[i] = standin.Generation{ID: fmt.Sprintf("%s-%d", prefix, i), CreatedAt: newest.Add(-time.Duration(i) * step),
			Model: []string{"openai/gpt-4o", "anthropic/claude-sonnet-4:beta"}[i%2], ExternalUser: []string{"ann", "", "bob"}[i%3],
			PromptTokens: int64(i), CompletionTokens: 7, Cost: fmt.Sprintf("%de-6", i+1)}
	}
	return all
}

// asked counts requests since it was last called, by path.
func (a *account) asked() (queries, singles int) {
	for _, r := range a.api.Requests() {
		switch r.Path {
		case "/api/v1/analytics/query":
			queries++
		case "/api/v1/generation":
			singles++
		}
	}
	return queries, singles
}

func (a *account) wantAsked(queries, singles int) {
	a.Helper()
	if q, s := a.asked(); q != queries || s != singles {
		a.Errorf("%d queries and %d single lookups, want %d and %d", q, s, queries, singles)
	}
}

func TestAnalyticsRequests(t *testing.T) {
	hours := func(n int) Window { return Window{Since: now.Add(-time.Duration(n) * time.Hour), Until: now} }
	for name, test := range map[string]struct {
		generations []standin.Generation
		window      Window
		queries     int
	}{
		"nothing":                 {nil, hours(1), 2},
		"the steady state":        {spread("g", 20, now.Add(-time.Second), time.Minute), hours(1), 2},
		"a full answer":           {spread("g", 100, now.Add(-time.Second), time.Minute), hours(24), 2},
		"one too many":            {spread("g", 101, now.Add(-time.Second), 20*time.Minute), hours(40), 1 + 1 + 2*2},
		"250 in 25 hours":         {spread("g", 250, now.Add(-30*time.Minute-time.Second), 6*time.Minute), hours(26), 1 + 1 + 2*3},
		"250 in half an hour":     {spread("g", 250, now.Add(-time.Second), 6*time.Second), hours(1), 1 + 1 + 2 + (1 + 1 + 2*3)},
		"200 in an hour of a day": {spread("g", 200, now.Add(-10*time.Hour), 15*time.Second), hours(23), 1 + 1 + (1 + 1 + 2*2) + 2*2},
		"30 days":                 {spread("g", 90, now.Add(-time.Second), 8*time.Hour), hours(30 * 24), 2},
		"31 days and a half":      {spread("g", 94, now.Add(-time.Second), 8*time.Hour), hours(31*24 + 12), 2 * 2},
		"70 days":                 {spread("g", 99, now.Add(-time.Second), 16*time.Hour), hours(70 * 24), 3 * 2},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAccount(t)
			a.T = t
			a.api.Add(orgKey, test.generations...)
			a.api.Add("sk-or-v1-someone-else", spread("other", 10, now, time.Minute)...)
			a.mustFetch(acme(), test.window, test.generations, rowLimit(100))
			a.wantAsked(test.queries, 0)
			for _, r := range a.api.Requests() {
				if r.Status != http.StatusOK {
					t.Errorf("HTTP %d for %s", r.Status, r.Body)
				}
			}
		})
	}
}

func TestBothSpellingsOfDates(t *testing.T) {
	a := newAccount(t)
	a.api.OtherDates(true)
	all := spread("g", 250, now.Add(-time.Second), 6*time.Second)
	a.api.Add(orgKey, all...)
	a.mustFetch(acme(), Window{Since: now.Add(-time.Hour), Until: now}, all, rowLimit(100))
}

// Another hash than the SHA-256 of the key, as the server has told it.
func TestAnyKeyHash(t *testing.T) {
	a := newAccount(t)
	a.api.SetKey(orgKey, standin.Key{Name: "production", Hash: sha256Hex("whatever")})
	all := spread("g", 3, now, time.Minute)
	a.api.Add(orgKey, all...)
	org := acme()
	key, err := NewAnalytics(a.client(), a.management(), none).FindKeyHash(t.Context(), org)
	if err != nil {
		t.Fatal(err)
	}
	org.KeyHash = key.Hash
	a.mustFetch(org, Window{Since: now.Add(-time.Hour), Until: now.Add(time.Second)}, all)
}

func TestTruncated(t *testing.T) {
	window := Window{Since: now.Add(-5 * time.Hour), Until: now}
	t.Run("a minute with too many", func(t *testing.T) {
		a := newAccount(t)
		crowd := spread("crowd", 101, now.Add(-2*time.Hour-time.Second), time.Millisecond)
		newer := spread("newer", 5, now.Add(-time.Minute), time.Minute)
		a.api.Add(orgKey, append(crowd, newer...)...)
		got, err := a.fetch(acme(), window, nil, rowLimit(100))
		if !errors.Is(err, ErrAnswer) || !strings.Contains(err.Error(), "2026-05-14T13:29:00Z") {
			t.Errorf("%v, want ErrAnswer that names the minute", err)
		}
		a.same(acme(), got, newer)
	})
	t.Run("a minute with just as many", func(t *testing.T) {
		a := newAccount(t)
		all := append(spread("a", 100, now.Add(-2*time.Hour-time.Second), time.Millisecond), spread("b", 100, now.Add(-2*time.Hour-time.Minute-time.Second), time.Millisecond)...)
		a.api.Add(orgKey, all...)
		a.mustFetch(acme(), window, all, rowLimit(100))
	})
	t.Run("only the users", func(t *testing.T) {
		// More arrive between the two answers than an answer holds.
		a := newAccount(t)
		all := spread("g", 90, now.Add(-time.Second), time.Minute)
		a.api.Add(orgKey, all...)
		more := spread("more", 30, now.Add(-time.Second), time.Minute)
		a.between(more...)
		a.mustFetch(acme(), window, append(all, more...), rowLimit(100))
	})
	t.Run("408 narrows", func(t *testing.T) {
		a := newAccount(t)
		all := spread("g", 50, now.Add(-time.Second), 5*time.Minute)
		a.api.Add(orgKey, all...)
		a.api.ScriptAt("/analytics/query", standin.Status(408, ""))
		a.mustFetch(acme(), window, all)
		a.wantAsked(1+1+2*2, 0)
	})
	t.Run("408 for the users and for the count", func(t *testing.T) {
		a := newAccount(t)
		all := spread("g", 50, now.Add(-time.Second), 5*time.Minute)
		a.api.Add(orgKey, all...)
		a.api.ScriptAt("/analytics/query", standin.OK(), standin.Status(408, ""), standin.Status(408, ""))
		a.mustFetch(acme(), window, all)
		a.wantAsked(2+1+2*2, 0)
	})
	t.Run("408 for ever", func(t *testing.T) {
		a := newAccount(t)
		always := standin.Status(408, "")
		a.api.AlwaysAt("/analytics/query", &always)
		if got, err := a.fetch(acme(), window, nil); !errors.Is(err, ErrAnswer) || len(got.generations) > 0 {
			t.Errorf("%d generations, %v", len(got.generations), err)
		}
		if queries, _ := a.asked(); queries > 50 {
			t.Errorf("%d queries to find that out", queries)
		}
	})
	t.Run("a server that says truncated for ever", func(t *testing.T) {
		a := serveHandler(t, body(`{"data":{"data":[],"metadata":{"row_count":0,"truncated":true}}}`))
		if _, err := a.fetch(acme(), window, nil); !errors.Is(err, ErrAnswer) {
			t.Error(err)
		}
	})
}

// between makes generations arrive between the first two queries.
func (a *account) between(more ...standin.Generation) {
	var mu sync.Mutex
	n := 0
	a.api.OnRequest(func(r standin.Request) {
		mu.Lock()
		defer mu.Unlock()
		if r.Method == http.MethodPost {
			if n++; n == 2 {
				a.api.Add(orgKey, more...)
			}
		}
	})
}

func zone(t *testing.T, name string) *time.Location {
	t.Helper()
	z, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

// Midnights lie inside a bucket where a zone is off the full hour: each generation comes out on its own day.
func TestMidnightsInsideABucket(t *testing.T) {
	for _, test := range []struct{ zone, midnight string }{
		{"Asia/Kolkata", "2026-05-13T18:30:00Z"},
		{"Asia/Kathmandu", "2026-05-13T18:15:00Z"},
		{"America/St_Johns", "2026-05-14T02:30:00Z"},
		{"Australia/Lord_Howe", "2026-04-05T13:30:00Z"}, // the night after summer time ends, by half an hour
		{"Australia/Lord_Howe", "2026-10-03T13:30:00Z"}, // the night in which it begins
	} {
		midnight, err := time.Parse(time.RFC3339, test.midnight)
		if err != nil {
			t.Fatal(err)
		}
		org := acme()
		org.Zone = zone(t, test.zone)
		if got := midnight.In(org.Zone).Format("15:04"); got != "00:00" {
			t.Fatalf("%s in %s is %s", test.midnight, test.zone, got)
		}
		window := Window{Since: midnight.Add(-24 * time.Hour), Until: midnight.Add(20 * time.Hour)}
		run := func(name string, singles, minutes int, all []standin.Generation) {
			t.Run(test.zone+" "+name, func(t *testing.T) {
				a := newAccount(t)
				a.api.Add(orgKey, all...)
				got := a.mustFetch(org, window, all)
				a.wantAsked(2+minutes, singles)
				if !got.asOf.Equal(now) {
					t.Errorf("known as of %s", got.asOf)
				}
				// The ledger has them all now: nothing is looked up again.
				before := len(a.api.Requests())
				recorded := map[string]bool{}
				for id := range got.generations {
					recorded[id] = true
				}
				if again, err := a.fetch(org, window, recorded); err != nil || len(again.generations) != len(all) || len(a.api.Requests())-before != 2 {
					t.Errorf("again: %d generations, %d requests, %v", len(again.generations), len(a.api.Requests())-before, err)
				}
			})
		}
		// 10 around midnight, all of them in its bucket, and some far from it.
		few := spread("near", 10, midnight.Add(5*time.Minute), time.Minute)
		run("few", 10, 0, append(few, spread("far", 30, midnight.Add(-2*time.Hour), 20*time.Minute)...))
		// Seconds apart, to both sides of midnight.
		many := spread("near", 200, midnight.Add(300*time.Second), 3*time.Second)
		run("many", 0, 1, append(many, spread("far", 30, midnight.Add(-2*time.Hour), 20*time.Minute)...))
	}
}

// An hour with a midnight may itself have more rows than an answer holds: its parts are asked by the minute, too.
func TestMidnightInACrowdedHour(t *testing.T) {
	a := newAccount(t)
	org := acme()
	org.Zone = zone(t, "Asia/Kolkata")
	midnight := time.Date(2026, 5, 13, 18, 30, 0, 0, time.UTC)
	all := spread("g", 350, midnight.Add(29*time.Minute), 10*time.Second)
	a.api.Add(orgKey, all...)
	a.mustFetch(org, Window{Since: midnight.Add(-2 * time.Hour), Until: midnight.Add(2 * time.Hour)}, all, rowLimit(100))
	if _, singles := a.asked(); singles > 0 {
		t.Errorf("%d single lookups", singles)
	}
}

// A cut inside an hour: each generation comes out on its side of it.
func TestCut(t *testing.T) {
	for _, cut := range []time.Time{now.Add(-70 * time.Minute), now.Add(-70*time.Minute + 300*time.Millisecond), now.Add(-90 * time.Minute), now.Add(-90*time.Minute - time.Second),
		now.Add(-30 * time.Minute), now.Add(-30*time.Minute - time.Nanosecond), now} {
		for name, step := range map[string]time.Duration{"few": time.Minute, "many": 4 * time.Second} {
			t.Run(cut.Format("15:04:05.000")+" "+name, func(t *testing.T) {
				a := newAccount(t)
				all := spread("g", 12, cut.Add(6*step-time.Millisecond), step)
				if step < time.Minute {
					all = spread("g", 200, cut.Add(100*step), step)
				}
				all = append(all, spread("edge", 1, cut.Truncate(time.Second), 0)...)
				all = append(all, spread("past edge", 1, cut.Truncate(time.Second).Add(time.Second), 0)...)
				until := now.Add(20 * time.Minute) // by our clock
				a.api.Add(orgKey, all...)
				got := a.mustFetch(acme(), Window{Since: now.Add(-3 * time.Hour), Until: until, Cut: cut}, all)
				for _, g := range all {
					before := g.CreatedAt.Unix() <= cut.Unix()
					if fetched := got.generations[g.ID].CreatedAt; (fetched.Unix() <= cut.Unix()) != before {
						t.Errorf("%s of %s comes out at %s", g.ID, g.CreatedAt, fetched)
					}
				}
			})
		}
	}
}

// New rows arrive between the two answers: nothing is recorded without its user, and the next pass completes it.
func TestArrivalsBetweenTheTwoAnswers(t *testing.T) {
	window := Window{Since: now.Add(-3 * time.Hour), Until: now}
	t.Run("in the users alone", func(t *testing.T) {
		a := newAccount(t)
		before := spread("before", 10, now.Add(-time.Minute), 10*time.Minute)
		arrived := spread("arrived", 4, now.Add(-31*time.Minute), 30*time.Second) // in the bucket from 14:00
		a.api.Add(orgKey, before...)
		a.between(arrived...)
		got := a.mustFetch(acme(), window, before)
		if want := now.Truncate(time.Hour).Add(-time.Hour); !got.asOf.Equal(want) {
			t.Errorf("known as of %s, want %s", got.asOf, want)
		}
		a.wantAsked(2, 0)
		if got := a.mustFetch(acme(), window, append(before, arrived...)); !got.asOf.Equal(now) {
			t.Errorf("then known as of %s", got.asOf)
		}
	})
	t.Run("in the models alone", func(t *testing.T) {
		a := newAccount(t)
		young := spread("young", 3, now.Add(-time.Minute), time.Minute)
		old := spread("old", 3, now.Add(-2*time.Hour), time.Minute)
		a.api.Add(orgKey, append(young, old...)...)
		a.api.ScriptAt("/analytics/query", standin.OK(), standin.Body(200, "application/json", `{"data":{"data":[],"metadata":{"row_count":0,"truncated":false}}}`))
		got := a.mustFetch(acme(), window, old) // found out one by one
		if want := now.Truncate(time.Hour); !got.asOf.Equal(want) {
			t.Errorf("known as of %s, want %s", got.asOf, want)
		}
		a.wantAsked(2, 3)
		a.mustFetch(acme(), window, append(young, old...))
	})
	t.Run("in the users alone for hours", func(t *testing.T) {
		a := newAccount(t)
		a.api.ScriptAt("/analytics/query", standin.Body(200, "application/json", inTable()), standin.Body(200, "application/json",
			inTable(`{"date__hour":"2026-05-14T13:00:00Z","generation_id":"odd","external_user":"ann","request_count":"1"}`)))
		got, err := a.fetch(acme(), window, nil)
		if err != nil || got.refused["odd"] == "" {
			t.Errorf("%v, refused %v: it would be forgotten", err, got.refused)
		}
	})
}

// tables answers the two queries of a window, and GET /generation as the server does.
func (a *account) tables(models, users string) {
	a.api.ScriptAt("/analytics/query", standin.Body(200, "application/json", models), standin.Body(200, "application/json", users))
}

const userRow = `{"date__hour":"2026-05-14T13:00:00Z","generation_id":"%s","external_user":null,"request_count":"1"}`

func TestRows(t *testing.T) {
	window := Window{Since: now.Add(-5 * time.Hour), Until: now}
	for name, test := range map[string]struct {
		row     string // of the models
		refused string // its reason; empty is none
	}{
		"a request that came to nothing": {`{"date__hour":"2026-05-14T13:00:00Z","generation_id":null,"model":null,"tokens_total":"0","total_usage":0}`, ""},
		"the same with nulls":            {`{"date__hour":"2026-05-14T13:00:00Z","generation_id":null,"model":"a/b","tokens_total":null,"total_usage":null}`, ""},
		"a cost without an id":           {`{"date__hour":"2026-05-14T13:00:00Z","generation_id":null,"tokens_total":"0","total_usage":0.01}`, "without an id: no generation_id"},
		"tokens without an id":           {`{"date__hour":"2026-05-14T13:00:00Z","generation_id":"","tokens_total":"5","total_usage":0}`, "without an id: no generation_id"},
		"no cost":                        {`{"date__hour":"2026-05-14T13:00:00Z","generation_id":"bad","model":"a/b","tokens_total":"5"}`, "bad: no total_usage"},
		"a null cost":                    {`{"date__hour":"2026-05-14T13:00:00Z","generation_id":"bad","model":"a/b","tokens_total":"5","total_usage":null}`, "bad: no total_usage"},
		"a negative cost":                {`{"date__hour":"2026-05-14T13:00:00Z","generation_id":"bad","model":"a/b","tokens_total":"5","total_usage":-1}`, "bad: total_usage is negative"},
		"an absurd cost":                 {`{"date__hour":"2026-05-14T13:00:00Z","generation_id":"bad","model":"a/b","tokens_total":"5","total_usage":2e6}`, "bad: total_usage is absurd"},
		"no time":                        {`{"generation_id":"bad","model":"a/b","tokens_total":"5","total_usage":1}`, "bad: no time"},
		"a time before the range":        {`{"date__hour":"2026-05-01T13:00:00Z","generation_id":"bad","model":"a/b","tokens_total":"5","total_usage":1}`, "bad: its time is outside"},
		"a time after the range":         {`{"date__hour":"2026-05-14T16:00:00Z","generation_id":"bad","model":"a/b","tokens_total":"5","total_usage":1}`, "bad: its time is outside"},
		"a plain date for an hour":       {`{"date__hour":"2026-05-14","generation_id":"bad","model":"a/b","tokens_total":"5","total_usage":1}`, "bad: its time is outside"},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAccount(t)
			sound := `{"date__hour":"2026-05-14T13:00:00Z","generation_id":"sound","model":"a/b","tokens_total":"5","total_usage":1}`
			users := []string{fmt.Sprintf(userRow, "sound")}
			if strings.HasPrefix(test.refused, "bad") {
				users = append(users, fmt.Sprintf(userRow, "bad"))
			}
			a.tables(inTable(test.row, sound), inTable(users...))
			got, err := a.fetch(acme(), window, nil)
			if _, found := got.generations["sound"]; err != nil || len(got.generations) != 1 || !found {
				t.Fatalf("%v, %v", got.generations, err)
			}
			id, reason, _ := strings.Cut(test.refused, ": ")
			if test.refused == "" && len(got.refused) > 0 || test.refused != "" && !strings.Contains(got.refused[id], reason) {
				t.Errorf("refused %v, want %q", got.refused, test.refused)
			}
		})
	}
	t.Run("keys in what is refused", func(t *testing.T) {
		a := newAccount(t)
		a.tables(inTable(`{"date__hour":"2026-05-14T13:00:00Z","generation_id":"`+managementKey+orgKey+`","total_usage":"`+managementKey+orgKey+`"}`), inTable())
		got, err := a.fetch(acme(), window, nil)
		if text := fmt.Sprint(got, err, a.logs); strings.Contains(text, managementKey) || strings.Contains(text, orgKey) {
			t.Errorf("a key is shown: %s", text)
		}
	})
}

// An answer may be some minutes old: what came later is not known to be there.
func TestCachedAnswer(t *testing.T) {
	a := newAccount(t)
	cached := now.Add(-7 * time.Minute)
	text := strings.TrimSuffix(inTable(), "}}") + fmt.Sprintf(`,"cachedAt":%d}}`, cached.UnixMilli())
	a.tables(inTable(), text)
	if got, err := a.fetch(acme(), Window{Since: now.Add(-time.Hour), Until: now}, nil); err != nil || !got.asOf.Equal(cached) {
		t.Errorf("as of %s, %v; want %s", got.asOf, err, cached)
	}
}

// rewriting changes the answers to queries on their way.
func (a *account) rewriting(old, replacement string) {
	api := a.api
	a.http.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := httptest.NewRecorder()
		api.ServeHTTP(answer, r)
		text := answer.Body.Bytes()
		if r.Method == http.MethodPost {
			text = bytes.ReplaceAll(text, []byte(old), []byte(replacement))
		}
		w.Header().Set("Date", answer.Header().Get("Date"))
		w.WriteHeader(answer.Code)
		_, _ = w.Write(text)
	})
}

// A server may show a model's name for people: the slug is found out, once.
func TestDisplayNames(t *testing.T) {
	a := newAccount(t)
	a.rewriting(`"openai/gpt-4o"`, `"OpenAI: GPT-4o"`)
	all := spread("g", 80, now.Add(-time.Minute), time.Minute)
	a.api.Add(orgKey, all...)
	a.mustFetch(acme(), Window{Since: now.Add(-3 * time.Hour), Until: now}, all)
	a.wantAsked(2, 1)
}

// What neither the analytics nor GET /generation say is not guessed, and after a while not forgotten either.
func TestUnknowable(t *testing.T) {
	org, window := acme(), Window{Since: now.Add(-24 * time.Hour), Until: now}
	kolkata := acme()
	kolkata.Zone = zone(t, "Asia/Kolkata")
	sound := spread("sound", 4, now.Add(-10*time.Hour), time.Minute)
	for name, test := range map[string]struct {
		org  store.Organisation
		at   time.Time
		old  string // of the answers, and what they say in its place
		new  string
		cut  time.Time
		late bool
	}{
		"no model yet":             {org, now.Add(-time.Minute), `"x/y"`, `null`, time.Time{}, false},
		"a name for people, young": {org, now.Add(-time.Minute), `"x/y"`, `"X: Y"`, time.Time{}, false},
		"a midnight in its bucket": {kolkata, time.Date(2026, 5, 13, 18, 29, 0, 0, time.UTC), `-`, `-`, time.Time{}, true},
		"the cut in its bucket":    {org, now.Add(-5 * time.Hour), `-`, `-`, now.Add(-5 * time.Hour), true},
		"the cut in the last hour": {org, now.Add(-time.Minute), `-`, `-`, now.Add(-time.Minute), false},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAccount(t)
			a.rewriting(test.old, test.new)
			a.api.Add(orgKey, sound...)
			a.api.Add(orgKey, standin.Generation{ID: "odd", CreatedAt: test.at, Model: "x/y", Cost: "1"})
			unknown := standin.Status(404, "")
			a.api.AlwaysAt("/generation", &unknown)
			window := window
			window.Cut = test.cut
			got, err := a.fetch(test.org, window, nil)
			if err != nil {
				t.Fatal(err)
			}
			a.same(test.org, got, sound)
			if _, refused := got.refused["odd"]; refused != test.late {
				t.Errorf("refused %v", got.refused)
			}
			if !test.late && !got.asOf.Equal(test.at.Truncate(time.Hour)) {
				t.Errorf("known as of %s", got.asOf)
			}
			a.api.AlwaysAt("/generation", nil)
			a.rewriting("-", "-")
			a.mustFetch(test.org, window, append(sound, standin.Generation{ID: "odd", CreatedAt: test.at, Model: "x/y", Cost: "1"}))
		})
	}
	t.Run("a young one does not make an old one young", func(t *testing.T) {
		a := newAccount(t)
		a.rewriting(`"x/y"`, `null`)
		a.api.Add(orgKey, standin.Generation{ID: "young", CreatedAt: now.Add(-59 * time.Minute), Model: "x/y", Cost: "1"},
			standin.Generation{ID: "old", CreatedAt: now.Add(-2 * time.Hour), Model: "x/y", Cost: "1"})
		unknown := standin.Status(404, "")
		a.api.AlwaysAt("/generation", &unknown)
		if got, err := a.fetch(org, window, nil); err != nil || len(got.refused) != 0 || len(got.generations) != 1 || got.generations["old"].Cost != store.Dollar {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

// A single lookup that fails does not keep back what is sound.
func TestLookupFails(t *testing.T) {
	kolkata := acme()
	kolkata.Zone = zone(t, "Asia/Kolkata")
	near := spread("near", 3, time.Date(2026, 5, 13, 18, 31, 0, 0, time.UTC), time.Minute)
	sound := spread("sound", 4, now.Add(-10*time.Hour), time.Minute)
	window := Window{Since: now.Add(-24 * time.Hour), Until: now}
	for status, left := range map[int]string{401: "401", 402: "402", 403: "403", 404: "does not know it", 500: "500", 503: "503"} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			a := newAccount(t)
			a.ownKey = true
			a.api.Add(orgKey, append(near, sound...)...)
			fails := standin.Status(status, "")
			a.api.AlwaysAt("/generation", &fails)
			got, err := a.fetch(kolkata, window, nil)
			if err != nil || len(got.refused) != len(near) {
				t.Errorf("refused %v, %v", got.refused, err)
			}
			for id, reason := range got.refused {
				if !strings.Contains(reason, left) {
					t.Errorf("%s: %s", id, reason)
				}
			}
			a.same(kolkata, got, sound)
			if _, singles := a.asked(); singles > 3*lookupTries {
				t.Errorf("%d single lookups", singles)
			}
		})
	}
	t.Run("all of very many", func(t *testing.T) {
		a := newAccount(t)
		a.rewriting(`"x/y"`, `null`)
		for i := range 400 {
			a.api.Add(orgKey, standin.Generation{ID: fmt.Sprint("g-", i), CreatedAt: now.Add(-5*time.Hour - time.Duration(i)*time.Second), Model: "x/y", Cost: "1"})
		}
		fails := standin.Status(500, "")
		a.api.AlwaysAt("/generation", &fails)
		got, err := a.fetch(acme(), window, nil)
		if _, singles := a.asked(); err != nil || singles > lookupTries*(mostFailures+lookupsAtOnce) {
			t.Errorf("%d single lookups, %v", singles, err)
		}
		// Their labels are left for later, for a day: they are not forgotten meanwhile.
		if len(got.generations) != 0 || len(got.refused) != 0 || got.asOf.After(now.Add(-5*time.Hour)) {
			t.Errorf("%d generations, %d refused, as of %s", len(got.generations), len(got.refused), got.asOf)
		}
	})
	t.Run("one row that can't be trusted", func(t *testing.T) {
		a := newAccount(t)
		a.api.Add(orgKey, append(near, sound...)...)
		bad := standin.Generation{ID: "bad", CreatedAt: near[0].CreatedAt, Model: "a/b", Cost: "1", Raw: `{"id":"bad","created_at":"2026-05-13T18:31:00Z","total_cost":null}`}
		a.api.Add(orgKey, bad)
		got, err := a.fetch(kolkata, window, nil)
		if err != nil || !strings.Contains(got.refused["bad"], "no total_cost") {
			t.Errorf("refused %v, %v", got.refused, err)
		}
		a.same(kolkata, got, append(near, sound...))
	})
	t.Run("another generation than asked for", func(t *testing.T) {
		a := newAccount(t)
		a.api.Add(orgKey, append(near, sound...)...)
		a.api.Add(orgKey, standin.Generation{ID: "bad", CreatedAt: near[0].CreatedAt, Model: "a/b", Cost: "1", Raw: `{"id":"other","created_at":"2026-05-13T18:31:00Z","total_cost":1}`})
		got, err := a.fetch(kolkata, window, nil)
		if err != nil || !strings.Contains(got.refused["bad"], "got other") {
			t.Errorf("refused %v, %v", got.refused, err)
		}
	})
}

// The page is the caller's: its error ends the work at once.
func TestPageFails(t *testing.T) {
	a := newAccount(t)
	a.api.Add(orgKey, spread("g", 250, now, time.Minute)...)
	full := errors.New("disk full")
	source := NewAnalytics(a.client(), a.management(rowLimit(100)), none)
	err := source.Fetch(t.Context(), acme(), Window{Since: now.Add(-5 * time.Hour), Until: now}, func(Page) error { return full })
	if queries, _ := a.asked(); !errors.Is(err, full) || queries != 4 {
		t.Errorf("%v after %d queries", err, queries)
	}
}

// Cancelled while it waits for its turn.
func TestFetchIsCancelled(t *testing.T) {
	a := newAccount(t)
	stop := errors.New("stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	m := a.management(func(m *Management) { m.pace = newPace(1, time.Hour) })
	// The second query waits for its turn from the first one's answer on.
	a.http.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.api.ServeHTTP(w, r)
		cancel(stop)
	})
	err := NewAnalytics(a.client(), m, none).Fetch(ctx, acme(), Window{Since: now.Add(-time.Hour), Until: now}, func(Page) error { return nil })
	if !errors.Is(err, stop) && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	a.wantAsked(1, 0)
}
