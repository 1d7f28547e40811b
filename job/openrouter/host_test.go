package openrouter

import (
	"log/slog"
	"testing"
)

func TestIsOpenRouter(t *testing.T) {
	for base, want := range map[string]bool{
		DefaultBaseURL:                          true,
		"https://OpenRouter.ai/api/v1/":         true,
		"https://openrouter.ai.:443/api/v1":     true,
		"https://eu.openrouter.ai/api/v1":       true,
		"https://openrouter.ai.example/api/v1":  false,
		"https://myopenrouter.ai/api/v1":        false,
		"http://127.0.0.1:8080/api/v1":          false,
		"https://gateway.example/openrouter.ai": false,
	} {
		client, err := New(base, "test", slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if got := client.IsOpenRouter(); got != want {
			t.Errorf("%s: %v, want %v", base, got, want)
		}
	}
}
