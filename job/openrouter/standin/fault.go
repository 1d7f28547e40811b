package standin

import (
	"io"
	"net/http"
)

// Fault is what goes wrong with one request. The zero value is OK.
type Fault struct {
	kind   faultKind
	answer answer
}

type faultKind int

const (
	pass faultKind = iota
	replace
	hang
	cut
)

// OK is no fault: the request is answered as it should be.
func OK() Fault { return Fault{kind: pass} }

// Status answers with an HTTP status and the error that OpenRouter words for it; retryAfter is the header of
// that name, in seconds or as a date, or empty for none.
func Status(code int, retryAfter string) Fault {
	message, ok := messages[code]
	if !ok {
		message = http.StatusText(code)
	}
	a := errorAnswer(code, message)
	if retryAfter != "" {
		a.header.Set("Retry-After", retryAfter)
	}
	return Fault{kind: replace, answer: a}
}

// messages are the service's own words, or close to them (https://openrouter.ai/docs/api-reference/errors).
var messages = map[int]string{
	http.StatusBadRequest:          "Invalid request parameters",
	http.StatusUnauthorized:        "User not found.",
	http.StatusPaymentRequired:     "Insufficient credits. Add more using https://openrouter.ai/settings/credits",
	http.StatusForbidden:           "Only management keys can perform this operation",
	http.StatusRequestTimeout:      "Operation timed out. Please try again later.",
	http.StatusTooManyRequests:     "Rate limit exceeded",
	http.StatusInternalServerError: "Internal Server Error",
	http.StatusBadGateway:          "Provider returned error",
	http.StatusServiceUnavailable:  "Service temporarily unavailable",
	524:                            "Request timed out. Please try again later.",
	529:                            "Provider returned error",
}

// Hang takes the request and never answers. It ends when the client goes away, or when the listening
// http.Server is closed.
func Hang() Fault { return Fault{kind: hang} }

// CutBody announces the whole answer, sends half of it and drops the connection.
func CutBody() Fault { return Fault{kind: cut} }

// Body answers with any text: JSON that does not fit, or the HTML page that the live service sends for GET
// /generations.
func Body(status int, contentType, text string) Fault {
	return Fault{kind: replace, answer: answer{
		status: status, header: http.Header{"Content-Type": {contentType}}, body: []byte(text),
	}}
}

// Redirect sends the client elsewhere.
func Redirect(to string) Fault {
	return Fault{kind: replace, answer: answer{status: http.StatusTemporaryRedirect,
		header: http.Header{"Location": {to}}}}
}

// faults are those to come for one endpoint, or for any.
type faults struct {
	script []Fault
	always *Fault
}

// Script sets what the next requests meet, one fault each and in order, after those of earlier calls.
func (s *Server) Script(next ...Fault) { s.ScriptAt("", next...) }

// ScriptAt is Script for the requests to one endpoint, such as /analytics/query or /keys/{hash}. Its faults
// come before those for any request.
func (s *Server) ScriptAt(endpoint string, next ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.faultsAt(endpoint)
	f.script = append(f.script, next...)
}

// Always sets what every request meets that has no fault of its own in the script; nil ends it.
func (s *Server) Always(fault *Fault) { s.AlwaysAt("", fault) }

// AlwaysAt is Always for the requests to one endpoint, and comes before it.
func (s *Server) AlwaysAt(endpoint string, fault *Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.faultsAt(endpoint)
	f.always = nil
	if fault != nil {
		always := *fault
		f.always = &always
	}
}

// faultsAt returns the faults of an endpoint. The caller holds the lock.
func (s *Server) faultsAt(endpoint string) *faults {
	f, ok := s.faults[endpoint]
	if !ok {
		f = &faults{}
		s.faults[endpoint] = f
	}
	return f
}

func (s *Server) nextFault(endpoint string) Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	both := []*faults{s.faultsAt(endpoint), s.faultsAt("")}
	for _, f := range both {
		if len(f.script) > 0 {
			fault := f.script[0]
			f.script = f.script[1:]
			return fault
		}
	}
	for _, f := range both {
		if f.always != nil {
			return *f.always
		}
	}
	return OK()
}

// waitForEnd returns when no one waits for an answer any more. The server notices that only with the body
// read.
func waitForEnd(r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	<-r.Context().Done()
}
