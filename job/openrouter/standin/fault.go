package standin

import (
	"bytes"
	"net/http"
	"strconv"
)

// Fault is what a request meets in place of its answer.
type Fault struct {
	serve func(w http.ResponseWriter, r *http.Request, answer http.HandlerFunc)
}

// OK lets a request pass.
func OK() Fault { return Fault{} }

// messages are the real service's own words (https://openrouter.ai/docs/api-reference/errors).
var messages = map[int]string{
	http.StatusBadRequest:          "Invalid request",
	http.StatusUnauthorized:        "No auth credentials found",
	http.StatusPaymentRequired:     "Insufficient credits",
	http.StatusForbidden:           "Only management keys can perform this operation",
	http.StatusNotFound:            "Not Found",
	http.StatusRequestTimeout:      "Request timed out",
	http.StatusTooManyRequests:     "Rate limit exceeded",
	http.StatusInternalServerError: "Internal Server Error",
	http.StatusBadGateway:          "Provider returned error",
	http.StatusServiceUnavailable:  "No available model provider",
	524:                            "Request timed out at the edge",
	529:                            "Provider overloaded",
}

// Status answers with an error of a status; retryAfter is the header of that name, or empty.
func Status(status int, retryAfter string) Fault {
	return Fault{func(w http.ResponseWriter, _ *http.Request, _ http.HandlerFunc) {
		if retryAfter != "" {
			w.Header().Set("Retry-After", retryAfter)
		}
		sendError(w, status, messages[status])
	}}
}

// Hang never answers; it ends when the client goes away.
func Hang() Fault {
	return Fault{func(_ http.ResponseWriter, r *http.Request, _ http.HandlerFunc) { <-r.Context().Done() }}
}

// CutBody announces the whole answer, sends half of it and drops the connection.
func CutBody() Fault {
	return Fault{func(w http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
		whole := &buffer{header: http.Header{}}
		answer(whole, r)
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", strconv.Itoa(whole.body.Len()))
		w.WriteHeader(http.StatusOK)
		_, _ = w.Write(whole.body.Bytes()[:whole.body.Len()/2])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}}
}

// Body answers with any body at all: wrong JSON, a page of HTML.
func Body(status int, contentType, text string) Fault {
	return Fault{func(w http.ResponseWriter, _ *http.Request, _ http.HandlerFunc) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = w.Write([]byte(text))
	}}
}

// Redirect sends the client elsewhere.
func Redirect(to string) Fault {
	return Fault{func(w http.ResponseWriter, r *http.Request, _ http.HandlerFunc) {
		http.Redirect(w, r, to, http.StatusTemporaryRedirect)
	}}
}

// buffer keeps an answer.
type buffer struct {
	header http.Header
	body   bytes.Buffer
}

func (b *buffer) Header() http.Header         { return b.header }
func (b *buffer) WriteHeader(int)             {}
func (b *buffer) Write(p []byte) (int, error) { return b.body.Write(p) }
