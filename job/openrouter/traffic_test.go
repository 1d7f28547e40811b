package openrouter_test

import (
	"context"
	"io"
	"log/slog"
	"reflect"
	"testing"
	"time"

	"usage-sync/job/openrouter"
	"usage-sync/job/openrouter/standin"
)

// TestTraffic: each request is counted once, by what came of it, and a source counts its own alone.
func TestTraffic(t *testing.T) {
	s, url := serve(t, 1)
	client, err := openrouter.New(url, "test", slog.New(slog.NewTextHandler(io.Discard, nil)), openrouter.WithFirstWait(time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	ask := func(ctx context.Context, faults ...standin.Fault) (openrouter.Traffic, error) {
		s.Script(faults...)
		source := openrouter.NewGenerations(client)
		err := source.Fetch(ctx, org, openrouter.Window{Since: noon}, func(openrouter.Page) error { return nil })
		return source.Traffic(), err
	}
	for name, c := range map[string]struct {
		faults  []standin.Fault
		want    map[string]int64
		retries int64
	}{
		"all is well":    {nil, map[string]int64{"200": 2}, 0},
		"passing faults": {[]standin.Fault{standin.Status(500, ""), standin.Status(429, "")}, map[string]int64{"500": 1, "429": 1, "200": 2}, 2},
		"a refused key":  {[]standin.Fault{standin.Status(401, "")}, map[string]int64{"401": 1}, 0},
	} {
		before := len(s.Requests())
		got, err := ask(t.Context(), c.faults...)
		if !reflect.DeepEqual(got.Statuses, c.want) || got.Retries != c.retries {
			t.Errorf("%s: %v, %d retries; want %v, %d (%v)", name, got.Statuses, got.Retries, c.want, c.retries, err)
		}
		if seen := len(s.Requests()) - before; got.Requests() != int64(seen) {
			t.Errorf("%s: %d requests, the server has seen %d", name, got.Requests(), seen)
		}
	}
	if got, _ := ask(s.ExpireAt(t.Context(), 1), standin.Hang()); got.Statuses[openrouter.NoAnswer] != 1 || got.Requests() != 1 {
		t.Errorf("a request without an answer: %v", got.Statuses)
	}
}
