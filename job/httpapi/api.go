// Package httpapi is the HTTP API of the deployment guide, one request at a time: each is answered by a process
// of its own, which gets the connection from systemd and ends with it.
package httpapi

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"mime"
	"net/http"
	"net/netip"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"usage-sync/job"
	"usage-sync/job/openrouter"
	"usage-sync/job/webhook"
	"usage-sync/store"
)

// Prefix is where the guide's routes begin.
const Prefix = "/api/v1/usage-tracking"

// API is what the routes need. What a command of the same name does is handed in, so that both do the same.
type API struct {
	Log  *slog.Logger
	Now  func() time.Time
	Zone *time.Location // of organisations that have none of their own
	Open func(context.Context, store.Mode) (*store.Store, error)

	Spool   func() (webhook.Spool, error)
	Secrets func() (Secrets, error)
	Sync    func(daysBack int) (job.Report, error) // one pass
	Usage   func(store.Usage) any                  // as JSON
	Health  func() Health

	AcceptUnnamed bool          // see webhook.Recorder
	MaxSessionAge time.Duration // of an Open WebUI session; 0 is whatever the session says itself
}

// Health is the state of the last passes, without a word about clients.
type Health struct {
	Well        bool       `json:"-"`
	Status      string     `json:"status"` // OK, WARNING, CRITICAL or UNKNOWN
	Running     bool       `json:"running"`
	LastSuccess *time.Time `json:"last_success"` // of the organisation that waits longest
}

// busyTime is how long a request waits for the database.
const busyTime = 5 * time.Second

// route finds the handler of a path, and refuses other methods by themselves.
func (s *session) route(w http.ResponseWriter, r *http.Request) {
	path, ours := strings.CutPrefix(r.URL.Path, Prefix)
	organisation, usage := strings.CutPrefix(path, "/usage/real-time/")
	switch {
	case !ours:
	case path == "/webhook/openrouter-usage":
		s.only(w, r, inTime(s.webhook), http.MethodPost, http.MethodPut)
		return
	case path == "/sync/openrouter-usage":
		s.only(w, r, s.sync, http.MethodPost)
		return
	case path == "/usage/manual-record":
		s.only(w, r, inTime(s.manual), http.MethodPost)
		return
	case path == "/health":
		s.only(w, r, inTime(s.health), http.MethodGet, http.MethodHead)
		return
	case usage && organisation != "":
		usage := func(r *http.Request) (int, any, error) { return s.usage(r, organisation) }
		s.only(w, r, inTime(usage), http.MethodGet, http.MethodHead)
		return
	}
	respond(w, http.StatusNotFound, problem{"Not Found"})
}

// handler answers with a status and something to be shown as JSON, or with an error: a *refusal, or a fault of ours.
type handler func(r *http.Request) (status int, body any, err error)

// hangTime is how long a handler may take, who sends slowly and a busy database included: a pass alone has a
// deadline of its own.
const hangTime = requestTime + 2*busyTime + 5*time.Second

// errHangs: a handler does not end, for a system call that hangs can't be told to.
var errHangs = job.NewError(job.KindTimedOut, "the answer is not done in time: a system call hangs, as on a "+
	"disk that does not answer")

// inTime leaves a handler behind that hangs.
func inTime(h handler) handler {
	return func(r *http.Request) (int, any, error) {
		type answer struct {
			status int
			body   any
			err    error
			bug    any
		}
		done := make(chan answer, 1)
		go func() {
			var a answer
			defer func() {
				if a.bug = recover(); a.bug != nil {
					a.bug = fmt.Sprintf("%v\n%s", a.bug, debug.Stack())
				}
				done <- a
			}()
			a.status, a.body, a.err = h(r)
		}()
		select {
		case a := <-done:
			if a.bug != nil {
				panic(a.bug)
			}
			return a.status, a.body, a.err
		case <-time.After(hangTime):
			return 0, nil, errHangs
		}
	}
}

func (s *session) only(w http.ResponseWriter, r *http.Request, h handler, methods ...string) {
	if !slices.Contains(methods, r.Method) {
		w.Header().Set("Allow", strings.Join(methods, ", "))
		respond(w, http.StatusMethodNotAllowed, problem{"Method Not Allowed"})
		return
	}
	status, body, err := h(r)
	if err == nil {
		respond(w, status, body)
		return
	}
	refused, ok := errors.AsType[*refusal](err)
	if !ok {
		refused = s.fault(err)
	}
	if refused.log != "" {
		s.Log.Warn(fmt.Sprintf("Refused %s %s from %s: HTTP %d, %s", r.Method, openrouter.Plain(r.URL.Path, ""),
			remote(r), refused.status, refused.log))
	}
	if refused.retry > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(refused.retry.Seconds())))
	}
	if refused.status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	body = problem{refused.detail}
	if refused.body != nil {
		body = refused.body
	}
	respond(w, refused.status, body)
}

// refusal is an answer that is no success.
type refusal struct {
	status int
	detail string        // for the client: nothing that would help an attacker
	log    string        // for the journal, why; empty where that is of no interest
	retry  time.Duration // after which the same request may succeed
	body   any           // in place of the detail
}

func (e *refusal) Error() string { return e.detail }

func refuse(status int, format string, args ...any) *refusal {
	return &refusal{status: status, detail: fmt.Sprintf(format, args...)}
}

// statuses are those of failures that are not the client's. What is not listed is 503: the service can't answer.
var statuses = map[job.Kind]int{
	job.KindKeyRefused:  http.StatusBadGateway,
	job.KindUnreachable: http.StatusBadGateway,
	job.KindUntrusted:   http.StatusBadGateway,
	job.KindRateLimited: http.StatusTooManyRequests,
	job.KindTimedOut:    http.StatusGatewayTimeout,
	job.KindTakeover:    http.StatusConflict,
	job.KindLockHeld:    http.StatusConflict,
	job.KindUsage:       http.StatusUnprocessableEntity,
}

// StatusOf returns the HTTP status of a kind of failure.
func StatusOf(kind job.Kind) int { return cmp.Or(statuses[kind], http.StatusServiceUnavailable) }

// fault words an error of our own side, without its details, and keeps it for the exit code.
func (s *session) fault(err error) *refusal {
	s.failure = err
	kind := job.KindOf(err)
	answer := &refusal{status: StatusOf(kind), detail: "the service can't answer, its log says why", retry: time.Minute}
	switch {
	case kind == job.KindBusy:
		answer.detail, answer.retry = "the database is busy, try again", busyTime
	case s.ctx.Err() != nil:
		answer.detail, answer.retry = "the service is shutting down, try again", busyTime
	}
	if api, ok := errors.AsType[*openrouter.APIError](err); ok {
		answer.retry = max(answer.retry, api.RetryAfter)
	}
	if kind.Retry() == job.RetryNever && answer.status != http.StatusServiceUnavailable {
		answer.retry = 0
	}
	return answer
}

// problem is an error as Open WebUI words one.
type problem struct {
	Detail string `json:"detail"`
}

func respond(w http.ResponseWriter, status int, body any) {
	// A client that does not read must not keep the process.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(requestTime))
	text, err := json.Marshal(body)
	if err != nil {
		panic(err) // what we show is made of texts and finite numbers
	}
	header := w.Header()
	header.Set("Content-Type", "application/json")
	header.Set("Content-Length", strconv.Itoa(len(text)+1))
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(append(text, '\n'))
}

// waiting is the context of a request that needs the database: it ends after busyTime as if the database were busy.
func (s *session) waiting() (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(s.ctx, busyTime, fmt.Errorf("%w: for more than %s", store.ErrBusy, busyTime))
}

// isJSON refuses a body that says it is something else.
func isJSON(r *http.Request) error {
	kind := r.Header.Get("Content-Type")
	if kind == "" && r.ContentLength <= 0 && len(r.TransferEncoding) == 0 {
		return nil
	}
	media, _, err := mime.ParseMediaType(kind)
	if err != nil || (media != "application/json" && !strings.HasSuffix(media, "+json")) {
		return refuse(http.StatusUnsupportedMediaType, "the body must be application/json")
	}
	return nil
}

// bodyProblem words what went wrong with reading a body.
func bodyProblem(err error) error {
	var tooLong *http.MaxBytesError
	var timeout interface{ Timeout() bool }
	switch {
	case errors.As(err, &tooLong), errors.Is(err, errUnpackedTooLong):
		return refuse(http.StatusRequestEntityTooLarge, "the body is longer than 8 MiB")
	case errors.As(err, &timeout) && timeout.Timeout():
		return refuse(http.StatusRequestTimeout, "the body took too long")
	case errors.Is(err, webhook.ErrShape):
		return refuse(http.StatusUnprocessableEntity, "%s", openrouter.Plain(err.Error(), ""))
	}
	return refuse(http.StatusBadRequest, "the body is no JSON, or ends too early")
}

// remote is who has sent a request, for the log: behind a proxy on this machine, whom that names.
func remote(r *http.Request) string {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err == nil && !peer.Addr().Unmap().IsLoopback() {
		return peer.Addr().Unmap().String()
	}
	// The proxy appends the address that it sees; what stands before it is the client's own word.
	// Several lines are one list (RFC 9110, 5.3).
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	if client, err := netip.ParseAddr(strings.TrimSpace(hops[len(hops)-1])); err == nil {
		return client.String()
	}
	if err == nil {
		return peer.Addr().Unmap().String()
	}
	return "a local socket"
}
