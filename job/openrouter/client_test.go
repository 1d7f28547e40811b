package openrouter_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"usage-sync/job/openrouter"
	"usage-sync/job/openrouter/standin"
	"usage-sync/store"
)

const key = "sk-or-v1-test-key"

var (
	noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	org  = store.Organisation{ID: "acme", Key: key, Zone: time.UTC}
)

// serve starts a stand-in with some generations, one a minute before noon, newest first.
func serve(t *testing.T, count int) (*standin.Server, string) {
	t.Helper()
	s := standin.NewGateway(func() time.Time { return noon })
	s.AddKey(key, "acme")
	for i := range count {
		s.Add(key, standin.Generation{ID: fmt.Sprintf("gen-%d", i), CreatedAt: noon.Add(-time.Duration(i) * time.Minute),
			Model: "openai/gpt-4.1", Cost: "0.001"})
	}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return s, server.URL + "/api/v1"
}

// fetch returns the ids that a source hands over, and everything it logs.
func fetch(t *testing.T, ctx context.Context, url string, since time.Time) (ids []string, log string, err error) {
	t.Helper()
	return fetchWindow(t, ctx, url, openrouter.Window{Since: since})
}

func fetchWindow(t *testing.T, ctx context.Context, url string, window openrouter.Window) (ids []string, log string, err error) {
	t.Helper()
	var lines bytes.Buffer
	client, err := openrouter.New(url, "test", slog.New(slog.NewTextHandler(&lines, &slog.HandlerOptions{Level: slog.LevelDebug})),
		openrouter.WithFirstWait(time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	err = openrouter.NewGenerations(client).Fetch(ctx, org, window, func(page openrouter.Page) error {
		for _, g := range page.Generations {
			ids = append(ids, g.ID)
		}
		return nil
	})
	return ids, lines.String(), err
}

func TestFetchStopsAtSince(t *testing.T) {
	s, url := serve(t, 250)
	ids, _, err := fetch(t, t.Context(), url, noon.Add(-90*time.Minute))
	if err != nil || len(ids) != 100 || len(s.Requests()) != 1 {
		t.Errorf("%d rows, %d requests, %v; want one page of 100", len(ids), len(s.Requests()), err)
	}
	ids, _, err = fetch(t, t.Context(), url, noon.Add(-24*time.Hour))
	if err != nil || len(ids) != 250 {
		t.Errorf("%d rows, %v; want all 250", len(ids), err)
	}
}

func TestPassingFaultsAreRetried(t *testing.T) {
	for name, fault := range map[string]standin.Fault{
		"408": standin.Status(408, ""), "429": standin.Status(429, ""), "429 with a wait": standin.Status(429, "1"),
		"500": standin.Status(500, ""), "503": standin.Status(503, "0"), "524": standin.Status(524, ""), "529": standin.Status(529, ""),
	} {
		t.Run(name, func(t *testing.T) {
			s, url := serve(t, 3)
			s.Script(fault, fault)
			start := time.Now()
			ids, _, err := fetch(t, t.Context(), url, noon.Add(-time.Minute))
			if err != nil || len(ids) != 3 || len(s.Requests()) < 3 {
				t.Errorf("%d rows, %d requests, %v", len(ids), len(s.Requests()), err)
			}
			if name == "429 with a wait" && time.Since(start) < 2*time.Second {
				t.Errorf("Retry-After was not honoured: two waits of 1 s took %s", time.Since(start))
			}
		})
	}
}

func TestLastingFaultsAreNotRetried(t *testing.T) {
	for _, status := range []int{400, 401, 402, 403, 404, 405} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			s, url := serve(t, 3)
			s.Script(standin.Status(status, ""))
			_, _, err := fetch(t, t.Context(), url, noon)
			var apiErr *openrouter.APIError
			if !errors.As(err, &apiErr) || apiErr.Status != status || len(s.Requests()) != 1 {
				t.Errorf("%d requests, %v", len(s.Requests()), err)
			}
			if errors.Is(err, openrouter.ErrNoSource) != (status == 404 || status == 405) {
				t.Errorf("%v: no source?", err)
			}
		})
	}
}

// A wait that reaches beyond the deadline is not begun: the pass can't succeed any more.
func TestNoWaitBeyondTheDeadline(t *testing.T) {
	s, url := serve(t, 3)
	s.Script(standin.Status(429, "3600"))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, _, err := fetch(t, ctx, url, noon)
	var apiErr *openrouter.APIError
	if !errors.As(err, &apiErr) || !apiErr.RateLimited() || ctx.Err() != nil {
		t.Errorf("%v, out of time: %v", err, ctx.Err())
	}
	if want := "OpenRouter API error for key sk-or-v1-tes...: HTTP 429 Rate Limited"; !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got %q, want %q", err, want)
	}
}

func TestTheDeadlineKeepsTheCause(t *testing.T) {
	s, url := serve(t, 3)
	hang := standin.Hang()
	s.Script(standin.Status(502, ""))
	s.Always(&hang)
	_, _, err := fetch(t, s.ExpireAt(t.Context(), 2), url, noon)
	var apiErr *openrouter.APIError
	if !errors.As(err, &apiErr) || apiErr.Status != 502 {
		t.Errorf("%v, want the 502 that came before", err)
	}
}

func TestUnreachable(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	synctest.Test(t, func(t *testing.T) { // the pauses take no time
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
		defer cancel()
		start := time.Now()
		_, _, err = fetch(t, ctx, "http://"+listener.Addr().String(), noon)
		if !errors.Is(err, openrouter.ErrUnreachable) || !strings.HasPrefix(err.Error(), "Connection error") {
			t.Error(err)
		}
		if took := time.Since(start); took < 2*time.Minute {
			t.Errorf("given up after %s of 3 minutes", took)
		}
	})
}

func TestCancelled(t *testing.T) {
	s, url := serve(t, 3)
	unavailable := standin.Status(503, "60")
	s.Always(&unavailable)
	stop := errors.New("stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	s.OnRequest(func(standin.Request) { cancel(stop) })
	_, _, err := fetch(t, ctx, url, noon)
	if asked := len(s.Requests()); err == nil || asked != 1 {
		t.Errorf("%v after %d requests", err, asked)
	}
}

// The key goes to the configured server and nowhere else.
func TestRedirects(t *testing.T) {
	thief := false
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { thief = true }))
	defer other.Close()
	s, url := serve(t, 3)
	s.Script(standin.Redirect(other.URL + "/generations"))
	if _, _, err := fetch(t, t.Context(), url, noon); !errors.Is(err, openrouter.ErrAnswer) || thief {
		t.Errorf("%v, the other server was asked: %t", err, thief)
	}
	s.Script(standin.Redirect(url + "/generations?limit=5"))
	if ids, _, err := fetch(t, t.Context(), url, noon.Add(-time.Minute)); err != nil || len(ids) != 3 {
		t.Errorf("redirected on the same server: %v, %v", ids, err)
	}
}

func TestUntrustworthyLists(t *testing.T) {
	t.Run("ignores offset", func(t *testing.T) {
		s, url := serve(t, 250)
		s.IgnoreOffset(true)
		if _, _, err := fetch(t, t.Context(), url, noon.Add(-24*time.Hour)); !errors.Is(err, openrouter.ErrAnswer) {
			t.Error(err)
		}
	})
	t.Run("oldest first", func(t *testing.T) {
		s, url := serve(t, 0)
		var rows []string
		for i := range 10 {
			rows = append(rows, fmt.Sprintf(`{"id":"a%d","created_at":"2026-11-23T0%[1]d:00:00Z","total_cost":1}`, i))
		}
		s.Script(standin.Body(200, "application/json", `{"data":[`+strings.Join(rows, ",")+`]}`))
		if _, _, err := fetch(t, t.Context(), url, noon.Add(-24*time.Hour)); !errors.Is(err, openrouter.ErrAnswer) {
			t.Error(err)
		}
	})
	t.Run("a burst of arrivals between two pages is none", func(t *testing.T) {
		s, url := serve(t, 250)
		arrived := false
		s.OnPage(func(key string, offset int) {
			if arrived {
				return
			}
			arrived = true
			for i := range 100 {
				s.Add(key, standin.Generation{ID: fmt.Sprintf("new-%d", i), CreatedAt: noon.Add(time.Second), Model: "m", Cost: "0"})
			}
		})
		ids, _, err := fetch(t, t.Context(), url, noon.Add(-24*time.Hour))
		seen := map[string]bool{}
		for _, id := range ids {
			seen[id] = true
		}
		for i := range 250 {
			if !seen[fmt.Sprintf("gen-%d", i)] {
				t.Fatalf("gen-%d is lost, %v", i, err)
			}
		}
	})
}

// A server that repeats the key in its message does not bring it into the log.
func TestSecrets(t *testing.T) {
	s, url := serve(t, 3)
	s.Script(standin.Body(503, "application/json", `{"error":{"message":"bad key `+key+`\n\u001b[31m","code":503}}`),
		standin.Body(401, "application/json", `{"error":{"message":"bad key `+key+`","code":401}}`))
	_, log, err := fetch(t, t.Context(), url, noon)
	if text := log + err.Error(); strings.Contains(text, key) || !strings.Contains(text, "sk-or-v1-tes...") || strings.Contains(text, "\x1b") {
		t.Errorf("log: %s\nerror: %v", log, err)
	}
}

func TestParseBaseURL(t *testing.T) {
	for _, good := range []string{openrouter.DefaultBaseURL, "https://gateway.example:8443/v1/", "http://127.0.0.1:8080/api/v1", "http://[::1]:80", "http://localhost/v1"} {
		if _, err := openrouter.ParseBaseURL(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"", "openrouter.ai", "http://openrouter.ai/api/v1", "ftp://x", "https://user:secret@x/v1", "https://x/?k=v", "http://10.0.0.1/", "https://"} {
		if _, err := openrouter.ParseBaseURL(bad); !errors.Is(err, openrouter.ErrBaseURL) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v, want ErrBaseURL", bad, err)
		}
	}
}
