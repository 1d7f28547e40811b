package job_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"usage-sync/job"
	"usage-sync/job/openrouter/standin"
)

// TestCharges: what OpenRouter charges is recorded by the analytics as by the list, to the resolution of either: runs of server
// tools, by themselves and of a request, generations with a key of the client's own, dated models, and odd labels.
func TestCharges(t *testing.T) {
	made := func(minutes int) time.Time { return noon.Add(-13*time.Hour - time.Duration(minutes)*time.Minute) }
	id := func(minutes int) string { return fmt.Sprintf("gen-%d-x", made(minutes).Unix()) }
	charges := []standin.Generation{
		{ID: id(1), CreatedAt: made(1), Model: "google/gemini-3.1", Permaslug: "google/gemini-3.1-20260226", ExternalUser: "ann", PromptTokens: 10, Cost: "0.0685905"},
		{ID: id(2), CreatedAt: made(2), Model: "google/gemini-3.1", Permaslug: "google/gemini-3.1-20260226", PromptTokens: 20, Cost: "0.01"},
		{ID: id(2), CreatedAt: made(2), Model: "openrouter/web-search", Tool: true, Cost: "0.02"},
		{ID: id(3), CreatedAt: made(3), Model: "openrouter/web-search", ExternalUser: "ann", Tool: true, Cost: "0.04"},
		{ID: id(4), CreatedAt: made(4), Model: "openai/gpt-4.1", Permaslug: "openai/gpt-4.1-2025-04-14", BYOK: true, UpstreamCost: "0.095", PromptTokens: 30, Cost: "0.005"},
		{ID: id(5), CreatedAt: made(5), Model: "google/veo-3.1", NoTokens: true, Cost: "3.2"},
		{ID: id(6), CreatedAt: made(6), Model: "x/y", ExternalUser: strings.Repeat("é", 300) + "\a", PromptTokens: 1, Cost: "0.000001"},
	}
	const raw = 0.0685905 + 0.01 + 0.02 + 0.04 + 0.1 + 3.2 + 0.000001
	const models = "google/gemini-3.1 openai/gpt-4.1 x/y google/veo-3.1 openrouter/web-search"
	for _, source := range []string{job.SourceAnalytics, job.SourceGenerations} {
		t.Run(source, func(t *testing.T) {
			w := newWorld(t, noon, client("acme", "")).manage()
			w.api.Add(keyOf("acme"), charges...)
			o := w.sync(daysBack(2), from(source))
			if o.Run.Recorded != 6 || o.Run.Refused != 0 {
				t.Errorf("%+v", o.Run)
			}
			b := w.books("acme").day("2026-05-13")
			requests := int64(5)
			rounded := raw
			if source == job.SourceGenerations { // a list does not say what is no request
				requests = 6
			} else {
				rounded -= 0.0000005
			}
			if want := (sum{61, requests, rounded, rounded * 1.3}); !b.same(want) && !b.same(sum{61, requests, rounded + 0.000001, (rounded + 0.000001) * 1.3}) {
				t.Errorf("got  %s\nwant %s", b, want)
			}
			for _, model := range strings.Fields(models) {
				w.want(model, w.text(`select count(*) from client_model_daily_usage where model_name = ?`, model), "1")
			}
			w.want("other models", w.text(`select count(*) from client_model_daily_usage where instr(?, model_name) = 0`, models), "0")
			w.want("users", w.text(`select count(*) || ' ' || max(length(cast(openrouter_user_id as blob))) from client_user_daily_usage`), "3 512")
			w.want("hours", w.text(`select cast(round(sum(raw_cost) / 1e7) as integer) || ' ' || sum(requests) from usage_sync_hours`),
				fmt.Sprintf("%.0f %d", b.raw*1e5, requests))
			if again := w.sync(full, daysBack(2), from(source)); again.Run.Recorded+again.Run.Updated != 0 {
				t.Errorf("again %+v", again.Run)
			}
		})
	}
	t.Run("reconciles", func(t *testing.T) {
		w := newWorld(t, noon, client("acme", "")).manage()
		w.api.Add(keyOf("acme"), charges[0])
		w.api.Add(keyOf("acme"), charges[3:]...)
		w.sync(daysBack(2), from(job.SourceAnalytics))
		w.wantEqual()
	})
}
