package openrouter

import (
	"math"
	"net/http"
	"testing"
	"time"
)

// TestRetryAfter: whatever number a server asks for is waited for, and never less.
func TestRetryAfter(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"": 0, "0": 0, "-5": 0, "7": 7 * time.Second, "3600": time.Hour,
		"2147483648": 2147483648 * time.Second, "4294967296": 4294967296 * time.Second,
		"99999999999999999999": math.MaxInt64 / time.Second * time.Second, "-99999999999999999999": 0, "soon": 0,
	} {
		if got := retryAfter(http.Header{"Retry-After": {text}}); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}
