package openrouter_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
	_ "time/tzdata"

	"usage-sync/job/openrouter"
	"usage-sync/job/openrouter/standin"
	"usage-sync/store"
)

const (
	accountKey = store.Key("sk-or-v1-account-key")
	clientKey  = store.Key("sk-or-v1-client-key")
)

// account asks a handler with a management key.
func account(t *testing.T, handler http.Handler) *openrouter.Management {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	client, err := openrouter.New(server.URL, "test", slog.New(slog.NewTextHandler(io.Discard, nil)), openrouter.WithFirstWait(time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	return openrouter.NewManagement(client, accountKey, openrouter.WithQueriesPerMinute(1_000_000))
}

func answering(text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) })
}

func TestActivity(t *testing.T) {
	t.Run("adds up endpoints, exactly", func(t *testing.T) {
		used, err := account(t, answering(`{"data":[
			{"date":"2026-03-09","model":"openai/gpt-4.1","model_permaslug":"openai/gpt-4.1-2025-04-14","endpoint_id":"a","provider_name":"OpenAI",
				"usage":0.1,"byok_usage_inference":0.000000000002,"requests":5,"prompt_tokens":50,"completion_tokens":125,"reasoning_tokens":25},
			{"date":"2026-03-09 00:00:00","model":"openai/gpt-4.1","model_permaslug":"openai/gpt-4.1-2025-04-14","endpoint_id":"b","usage":0.2,"byok_usage_inference":null,"requests":"2","prompt_tokens":1,
				"completion_tokens":null},
			{"date":"2026-03-08T00:00:00Z","model":"x/y","usage":1e-12,"requests":1}]}`)).Activity(t.Context(), "aa", "")
		want := []openrouter.DayModel{{Day: "2026-03-08", Model: "x/y", Requests: 1, Cost: 1},
			{Day: "2026-03-09", Model: "openai/gpt-4.1", Dated: "openai/gpt-4.1-2025-04-14", Requests: 7, Tokens: 176, Cost: 300_000_000_002}}
		if err != nil || !slices.Equal(used, want) {
			t.Errorf("%v\ngot  %#v\nwant %#v", err, used, want)
		}
	})
	for what, row := range map[string]string{
		"a negative cost":       `{"date":"2026-03-09","usage":-0.1,"requests":1}`,
		"half a request":        `{"date":"2026-03-09","usage":0.1,"requests":0.5}`,
		"no cost":               `{"date":"2026-03-09","requests":1}`,
		"a cost of null":        `{"date":"2026-03-09","usage":null,"requests":1}`,
		"no day":                `{"usage":0.1,"requests":1}`,
		"another day":           `{"date":"yesterday","usage":0.1,"requests":1}`,
		"two costs":             `{"date":"2026-03-09","usage":0.1,"usage":0.1,"requests":1}`,
		"an object in place":    `{"date":"2026-03-09","usage":{},"requests":1}`,
		"no row":                `7`,
		"more than Money holds": strings.TrimSuffix(strings.Repeat(`{"date":"2026-03-09","usage":999999,"requests":1},`, 10), ","),
	} {
		t.Run("refuses "+what, func(t *testing.T) {
			used, err := account(t, answering(`{"data":[`+row+`]}`)).Activity(t.Context(), "aa", "2026-03-09")
			if !errors.Is(err, openrouter.ErrAnswer) {
				t.Errorf("got %v, %v", used, err)
			}
		})
	}
	t.Run("is not offered", func(t *testing.T) {
		if _, err := account(t, http.NotFoundHandler()).Activity(t.Context(), "aa", ""); !errors.Is(err, openrouter.ErrNoSource) {
			t.Error(err)
		}
	})
}

// service is a stand-in with one client, at a time.
func service(now time.Time) *standin.Server {
	s := standin.NewGateway(func() time.Time { return now })
	s.AddManagementKey(string(accountKey))
	s.AddKey(string(clientKey), "client")
	s.AnalyticsPerMinute(0)
	return s
}

func TestActivityOfTheService(t *testing.T) {
	s := service(time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC))
	s.Add(string(clientKey), standin.Generation{ID: "g", CreatedAt: time.Date(2026, 3, 9, 23, 59, 0, 0, time.UTC), Model: "x/y", PromptTokens: 8, Cost: "0.3"})
	for _, other := range []bool{false, true} {
		s.OtherDates(other)
		used, err := account(t, s).Activity(t.Context(), s.KeyHash(string(clientKey)), "2026-03-09")
		if want := "[{2026-03-09 x/y x/y 1 8 0.300000 0.000000}]"; err != nil || fmt.Sprint(used) != want {
			t.Errorf("other dates %v: got %v, %v", other, used, err)
		}
	}
	// One that was not used is known; one that is not known is an error.
	s.AddKey("sk-or-v1-unused", "unused")
	if used, err := account(t, s).Activity(t.Context(), s.KeyHash("sk-or-v1-unused"), ""); err != nil || len(used) != 0 {
		t.Errorf("an unused key: %v, %v", used, err)
	}
	if _, err := account(t, s).Activity(t.Context(), strings.Repeat("a", 64), ""); !errors.Is(err, openrouter.ErrKeyHash) {
		t.Errorf("an unknown key: %v", err)
	}
	var apiErr *openrouter.APIError
	if _, err := account(t, s).Activity(t.Context(), s.KeyHash(string(clientKey)), "2026-03-10"); !errors.As(err, &apiErr) || apiErr.Status != 400 {
		t.Errorf("today: %v", err)
	}
}

func client(s *standin.Server, zone string) store.Organisation {
	location, err := time.LoadLocation(zone)
	if err != nil {
		panic(err)
	}
	return store.Organisation{ID: "client", Key: clientKey, KeyHash: s.KeyHash(string(clientKey)), Zone: location}
}

// TestUsedByDay: whatever the calendar, each generation is on its day, and none is counted twice.
func TestUsedByDay(t *testing.T) {
	now := time.Date(2026, 4, 2, 12, 34, 56, 789, time.UTC)
	for _, zone := range []string{"UTC", "Europe/Warsaw", "America/New_York", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe"} {
		t.Run(zone, func(t *testing.T) {
			s := service(now)
			org := client(s, zone)
			want := map[string]int64{}
			for i := range 4000 {
				g := standin.Generation{ID: fmt.Sprint("g", i), CreatedAt: now.Add(-time.Duration(i) * 7 * time.Minute), Model: fmt.Sprintf("x/%d", i%3),
					PromptTokens: int64(i), Cost: "0.000001"}
				s.Add(string(clientKey), g)
				if day := store.DayOf(g.CreatedAt, org.Zone); day >= "2026-03-20" {
					want[string(day)+g.Model] += g.PromptTokens
				}
			}
			used, err := account(t, s).Used(t.Context(), org, "2026-03-20", store.DayOf(now, org.Zone), now)
			if err != nil {
				t.Fatal(err)
			}
			// One request for all days, and a cost that is rounded once for each day and model, or for each of its hours.
			for _, r := range s.Requests() {
				if (zone == "UTC") != strings.Contains(r.Body, `"granularity":"day"`) {
					t.Errorf("asked for %s", r.Body)
				}
			}
			wholeHours := zone == "UTC" || zone == "Europe/Warsaw" || zone == "America/New_York"
			if n := len(s.Requests()); wholeHours && n != 1 {
				t.Errorf("%d requests", n)
			}
			got := map[string]int64{}
			for _, u := range used {
				if parts := u.Resolution / (store.Dollar / 1_000_000); (zone == "UTC") != (parts == 1) {
					t.Errorf("%v is rounded %d times", u, parts)
				}
				got[string(u.Day)+u.Model] += u.Tokens
				if u.Cost != store.Money(u.Requests)*store.Dollar/1_000_000 {
					t.Errorf("%v", u)
				}
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("got  %v\nwant %v", got, want)
			}
		})
	}
	t.Run("an unknown key", func(t *testing.T) {
		s := service(now)
		org := client(s, "UTC")
		org.KeyHash = strings.Repeat("a", 64)
		if _, err := account(t, s).Used(t.Context(), org, "2026-03-20", "2026-03-21", now); !errors.Is(err, openrouter.ErrKeyHash) {
			t.Error(err)
		}
	})
}

// rewriting changes the rows of POST /analytics/query on their way.
func rewriting(s *standin.Server, row func(map[string]any)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		recorder := httptest.NewRecorder()
		s.ServeHTTP(recorder, r)
		text := recorder.Body.Bytes()
		if strings.HasSuffix(r.URL.Path, "/analytics/query") {
			var answer struct {
				Data struct {
					Data     []map[string]any `json:"data"`
					Metadata map[string]any   `json:"metadata"`
				} `json:"data"`
			}
			if err := json.Unmarshal(text, &answer); err != nil {
				panic(err)
			}
			for _, one := range answer.Data.Data {
				row(one)
			}
			text, _ = json.Marshal(answer)
		}
		w.WriteHeader(recorder.Code)
		_, _ = w.Write(text)
	})
}

// TestUsedUnderNames: the analytics may show a name for people in the place of a model.
func TestUsedUnderNames(t *testing.T) {
	now := time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)
	s := service(now)
	for i := range 50 {
		s.Add(string(clientKey), standin.Generation{ID: fmt.Sprint("g", i), CreatedAt: now.Add(-time.Duration(i) * time.Hour),
			Model: []string{"openai/gpt-4.1", "x/y"}[i%2], PromptTokens: 1, Cost: "0.01"})
	}
	names := rewriting(s, func(row map[string]any) {
		if row["model"] == "openai/gpt-4.1" {
			row["model"] = "OpenAI: GPT-4.1"
		}
	})
	before := len(s.Requests())
	used, err := account(t, names).Used(t.Context(), client(s, "UTC"), "2026-03-09", "2026-03-09", now)
	if want := "[{2026-03-09 openai/gpt-4.1 OpenAI: GPT-4.1 12 12 0.120000 0.000001} {2026-03-09 x/y x/y 12 12 0.120000 0.000001}]"; err != nil || fmt.Sprint(used) != want {
		t.Errorf("%v, got %v", err, used)
	}
	if n := len(s.Requests()) - before; n != 3 {
		t.Errorf("%d requests", n)
	}
	// A name that can't be looked up is none.
	missing := standin.Status(404, "")
	s.AlwaysAt("/generation", &missing)
	used, err = account(t, names).Used(t.Context(), client(s, "UTC"), "2026-03-09", "2026-03-09", now)
	if want := "[{2026-03-09  OpenAI: GPT-4.1 12 12 0.120000 0.000001} {2026-03-09 x/y x/y 12 12 0.120000 0.000001}]"; err != nil || fmt.Sprint(used) != want {
		t.Errorf("%v, got %v", err, used)
	}
	_, err = account(t, rewriting(s, func(row map[string]any) { row["total_usage"] = nil })).Used(t.Context(), client(s, "UTC"), "2026-03-09", "2026-03-09", now)
	if !errors.Is(err, openrouter.ErrAnswer) {
		t.Errorf("without costs: %v", err)
	}
}

// TestUsedInParts: an answer with rows missing is asked for again in parts, down to the unit of time, and never taken.
func TestUsedInParts(t *testing.T) {
	now := time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)
	s := service(now)
	for i := range 500 {
		s.Add(string(clientKey), standin.Generation{ID: fmt.Sprint("g", i), CreatedAt: now.Add(-time.Duration(i) * time.Hour), Model: "x/y", Cost: "0.01"})
	}
	narrow := func(longest time.Duration) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			r.Body = io.NopCloser(strings.NewReader(string(body)))
			var q struct {
				Range struct{ Start, End time.Time } `json:"time_range"`
			}
			if json.Unmarshal(body, &q) == nil && q.Range.End.Sub(q.Range.Start) > longest {
				w.WriteHeader(http.StatusRequestTimeout)
				return
			}
			s.ServeHTTP(w, r)
		})
	}
	used, err := account(t, narrow(5*time.Hour)).Used(t.Context(), client(s, "UTC"), "2026-03-01", "2026-03-09", now)
	requests := int64(0)
	for _, u := range used {
		requests += u.Requests
	}
	if err != nil || requests != 9*24 {
		t.Errorf("%v, %d requests of %d", err, requests, 9*24)
	}
	_, err = account(t, narrow(time.Minute)).Used(context.Background(), client(s, "UTC"), "2026-03-01", "2026-03-09", now)
	if !errors.Is(err, openrouter.ErrAnswer) || !strings.Contains(err.Error(), "more models than one answer can hold") {
		t.Error(err)
	}
}
