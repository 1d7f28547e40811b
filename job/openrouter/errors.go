package openrouter

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode"

	"usage-sync/store"
)

var (
	// ErrAnswer: an answer came, and can't be trusted.
	ErrAnswer = errors.New("answer can't be trusted")
	// ErrKey: a key that no request can carry.
	ErrKey = errors.New("key")
	// ErrUnreachable: no answer came, whatever the reason: name resolution, connection, TLS, time-out.
	ErrUnreachable = errors.New("OpenRouter can't be reached")
)

// APIError is an answer with an HTTP status other than 2xx.
type APIError struct {
	Key        store.Key
	Management bool // the key was to be a management key
	Status     int
	Message    string        // the server's own words, shortened; empty where it gave none
	RetryAfter time.Duration // 0 where the server did not say
}

// Error is the guide's line, with the server's own words behind it.
func (e *APIError) Error() string {
	text := fmt.Sprintf("OpenRouter API error for key %s: HTTP %d %s", e.Key, e.Status, e.reason())
	if e.Message != "" {
		text += " (" + e.Message + ")"
	}
	return text
}

// reason is the standard phrase of the status, but for the one that the guide words in its own way.
func (e *APIError) reason() string {
	if e.Status == http.StatusTooManyRequests {
		return "Rate Limited"
	}
	return http.StatusText(e.Status)
}

// Refused tells that the key is not good for the request: trying again won't help.
func (e *APIError) Refused() bool {
	return e.Status == http.StatusUnauthorized || e.Status == http.StatusPaymentRequired ||
		e.Status == http.StatusForbidden
}

// NotOffered tells that the server has no such endpoint.
func (e *APIError) NotOffered() bool {
	return e.Status == http.StatusNotFound || e.Status == http.StatusMethodNotAllowed
}

// RateLimited tells that the server wants fewer requests.
func (e *APIError) RateLimited() bool { return e.Status == http.StatusTooManyRequests }

// TooMuch tells that the server gave up on the request: one that asks for less may succeed.
func (e *APIError) TooMuch() bool { return e.Status == http.StatusRequestTimeout }

// Temporary tells that the same request may succeed later.
func (e *APIError) Temporary() bool {
	return e.TooMuch() || e.RateLimited() || e.Status >= 500
}

// connectionError words a request that got no answer. The guide calls a time-out "Connection timeout".
type connectionError struct {
	cause error
}

func (e *connectionError) Error() string {
	var timeout interface{ Timeout() bool }
	if errors.As(e.cause, &timeout) && timeout.Timeout() {
		return "Connection timeout: " + e.cause.Error()
	}
	return "Connection error: " + e.cause.Error()
}

func (e *connectionError) Unwrap() []error { return []error{ErrUnreachable, e.cause} }

// Plain makes others' words fit for a log line: one line, short, and without the key, if one is given.
func Plain(text string, key store.Key) string { return plain(text, key) }

// plain makes a server's words fit for a log line: one line, short, and without the key.
func plain(text string, key store.Key) string {
	if key != "" {
		text = strings.ReplaceAll(text, string(key), key.String())
	}
	text = strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, text)
	const most = 200
	if runes := []rune(text); len(runes) > most {
		text = string(runes[:most]) + "..."
	}
	return strings.TrimSpace(text)
}
