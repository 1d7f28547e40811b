package openrouter_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"usage-sync/job/openrouter"
	"usage-sync/job/openrouter/standin"
	"usage-sync/store"
)

func newClient(t *testing.T, url string) *openrouter.Client {
	t.Helper()
	client, err := openrouter.New(url, "test", slog.New(slog.NewTextHandler(io.Discard, nil)), openrouter.WithFirstWait(time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func money(text string) *store.Money {
	m, err := store.ParseMoney(text)
	if err != nil {
		panic(err)
	}
	return &m
}

// documented is the example of OpenRouter's OpenAPI description, with other figures.
const documented = `{"data":{"label":"sk-or-v1-0e6...1c96","limit":100,"limit_remaining":74.5,"limit_reset":"monthly",
	"include_byok_in_limit":false,"usage":25.5,"usage_daily":0.000000000001,"usage_weekly":1e-7,"usage_monthly":0.1234567890125,
	"byok_usage":17.38,"byok_usage_daily":17.38,"byok_usage_weekly":17.38,"byok_usage_monthly":17.38,"is_free_tier":false,
	"is_management_key":false,"is_provisioning_key":false,"creator_user_id":"user_2dHFtVWx2n56w6HkM0000000000",
	"expires_at":"2027-12-31T23:59:59Z","rate_limit":{"interval":"1h","note":"deprecated","requests":1000}}}`

func TestKey(t *testing.T) {
	tests := map[string]struct {
		answer string
		want   openrouter.KeyInfo
	}{
		"documented": {documented, openrouter.KeyInfo{Label: "sk-or-v1-0e6...", Limit: money("100"), LimitRemaining: money("74.5"),
			LimitReset: "monthly", Usage: money("25.5"), UsageDaily: money("0.000000000001"), UsageWeekly: money("0.0000001"),
			UsageMonthly: money("0.123456789012"), ExpiresAt: time.Date(2027, 12, 31, 23, 59, 59, 0, time.UTC)}},
		"nulls": {`{"data":{"label":null,"limit":null,"limit_remaining":null,"limit_reset":null,"usage":0,"usage_monthly":null,"expires_at":null}}`,
			openrouter.KeyInfo{Usage: money("0")}},
		"nothing":      {`{"data":{}}`, openrouter.KeyInfo{}},
		"texts":        {`{"data":{"label":"Acme","usage_monthly":"12.000000000003"}}`, openrouter.KeyInfo{Label: "Acme", UsageMonthly: money("12.000000000003")}},
		"overdrawn":    {`{"data":{"limit_remaining":-0.5}}`, openrouter.KeyInfo{LimitRemaining: money("-0.5")}},
		"management":   {`{"data":{"is_management_key":true}}`, openrouter.KeyInfo{Management: true}},
		"provisioning": {`{"data":{"is_provisioning_key":true,"is_free_tier":true}}`, openrouter.KeyInfo{Management: true, FreeTier: true}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s, url := serve(t, 0)
			s.Script(standin.Body(http.StatusOK, "application/json", test.answer))
			got, err := newClient(t, url).Key(t.Context(), key)
			if err != nil {
				t.Fatal(err)
			}
			if !cmp.Equal(got, test.want, cmpopts.IgnoreUnexported(got)) {
				t.Errorf("got  %+v\nwant %+v", got, test.want)
			}
			if r := s.Requests(); len(r) != 1 || r[0].Path != "/api/v1/key" || r[0].Key != key {
				t.Errorf("%d requests, the first to %s", len(r), r[0].Path)
			}
		})
	}
}

func TestKeyAnswersThatCantBeTrusted(t *testing.T) {
	for name, answer := range map[string]string{
		"HTML": "<html>" + key + "</html>", "cut": `{"data":{"label":"x"`, "no data": `{}`, "null": `{"data":null}`,
		"another shape": `{"data":[1]}`, "no amount": `{"data":{"usage":"much"}}`, "object": `{"data":{"limit":{}}}`,
		"out of range": `{"data":{"usage_monthly":1e30}}`, "no time": `{"data":{"expires_at":"soon ` + key + `"}}`,
		"more after it": `{"data":{}}{"data":{}}`, "an error": `{"error":{"message":"no"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			s, url := serve(t, 0)
			s.Script(standin.Body(http.StatusOK, "application/json", answer))
			info, err := newClient(t, url).Key(t.Context(), key)
			if !errors.Is(err, openrouter.ErrAnswer) || strings.Contains(err.Error(), key) {
				t.Errorf("%+v, %v", info, err)
			}
		})
	}
}

func TestKeyOfTheStandIn(t *testing.T) {
	s, url := serve(t, 0)
	s.Add(key, standin.Generation{ID: "today", CreatedAt: noon, Model: "x/y", Cost: "0.25"},
		standin.Generation{ID: "long ago", CreatedAt: noon.AddDate(0, -2, 0), Model: "x/y", Cost: "0.125"})
	s.AddManagementKey("sk-or-v1-management")
	client := newClient(t, url)
	got, err := client.Key(t.Context(), key)
	if err != nil || got.Label != "acme" || got.Management || *got.UsageMonthly != *money("0.25") || *got.Usage != *money("0.375") {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err = client.Key(t.Context(), "sk-or-v1-management"); err != nil || !got.Management {
		t.Errorf("management: %+v, %v", got, err)
	}
	_, err = client.Key(t.Context(), "sk-or-v1-unknown")
	if apiErr, ok := errors.AsType[*openrouter.APIError](err); !ok || !apiErr.Refused() {
		t.Errorf("unknown: %v", err)
	}
}

func TestProbe(t *testing.T) {
	t.Run("OK", func(t *testing.T) {
		s, url := serve(t, 0)
		got, err := newClient(t, url).Probe(t.Context())
		if err != nil || got.Status != http.StatusUnauthorized || !got.ServerTime.Equal(noon) || got.TLS != 0 || !got.Certificate.IsZero() ||
			got.Answer <= 0 || got.Connect <= 0 {
			t.Errorf("%+v, %v", got, err)
		}
		if r := s.Requests(); len(r) != 1 || r[0].Key != "" {
			t.Errorf("%d requests, or one with a key", len(r))
		}
	})
	t.Run("AnyAnswer", func(t *testing.T) {
		s, url := serve(t, 0)
		s.Script(standin.Status(http.StatusBadGateway, ""))
		if got, err := newClient(t, url).Probe(t.Context()); err != nil || got.Status != http.StatusBadGateway {
			t.Errorf("%+v, %v", got, err)
		}
	})
	t.Run("Unreachable", func(t *testing.T) {
		server := httptest.NewServer(nil)
		server.Close()
		if _, err := newClient(t, server.URL).Probe(t.Context()); !errors.Is(err, openrouter.ErrUnreachable) {
			t.Errorf("%v", err)
		}
	})
	t.Run("Redirected", func(t *testing.T) {
		s, url := serve(t, 0)
		s.Script(standin.Redirect("https://elsewhere.example/"))
		if _, err := newClient(t, url).Probe(t.Context()); !errors.Is(err, openrouter.ErrAnswer) {
			t.Errorf("%v", err)
		}
	})
	t.Run("Hangs", func(t *testing.T) {
		s, url := serve(t, 0)
		s.Script(standin.Hang())
		late := errors.New("late")
		ctx, cancel := context.WithCancelCause(t.Context())
		s.OnRequest(func(standin.Request) { cancel(late) })
		if _, err := newClient(t, url).Probe(ctx); !errors.Is(err, late) {
			t.Errorf("%v", err)
		}
	})
}

func TestResolve(t *testing.T) {
	_, url := serve(t, 0)
	host, addresses, err := newClient(t, url).Resolve(t.Context())
	if got := fmt.Sprint(host, addresses, err); got != "127.0.0.1[127.0.0.1] <nil>" {
		t.Error(got)
	}
	// The name is reserved for never being one (RFC 6761, section 6.4).
	_, _, err = newClient(t, "https://openrouter.invalid/api/v1").Resolve(t.Context())
	if !errors.Is(err, openrouter.ErrUnreachable) {
		t.Errorf("%v", err)
	}
}
