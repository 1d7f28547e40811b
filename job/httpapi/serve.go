package httpapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"sync"
	"time"
)

const (
	// requestTime is how long a client may take to send its request, and to read the answer.
	requestTime = 10 * time.Second
	// headerBytes bounds the request line and the header. net/http adds 4096 to what it is told.
	headerBytes = 16<<10 - 4096
	// bodyBytes bounds the body, unpacked too.
	bodyBytes = 8 << 20
	// drainTime is how long at the least the rest of a body that was refused is read; until requestTime is over
	// it is read in any case. Proxies such as Apache read no answer before they have sent all of it.
	drainTime = 2 * time.Second
)

// Serve answers the one request of a connection, and returns when the connection is closed. The error is what
// was wrong on our side, if anything; whatever a client does wrong is none. A handler that panics is answered
// with 500 and panics again here.
func (a *API) Serve(ctx context.Context, conn net.Conn) error {
	s := &session{API: a, ctx: ctx, started: time.Now()}
	only := &onlyConn{conn: conn, closed: make(chan struct{})}
	server := &http.Server{
		Handler: s,
		// One deadline for header and body together: it starts when the connection does.
		ReadTimeout:    requestTime,
		MaxHeaderBytes: headerBytes,
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateClosed || state == http.StateHijacked {
				only.end()
			}
		},
		ErrorLog: slog.NewLogLogger(a.Log.Handler(), slog.LevelDebug),
	}
	server.SetKeepAlivesEnabled(false)
	// Told to end, nobody waits for a request any more.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Now()) })
	defer stop()
	err := server.Serve(only)
	if ctx.Err() != nil && !s.begun {
		return context.Cause(ctx)
	}
	if s.bug != nil {
		panic(s.bug)
	}
	if !errors.Is(err, net.ErrClosed) {
		return errors.Join(s.failure, err)
	}
	return s.failure
}

// onlyConn is a listener that accepts one connection, which is there already, and ends with it.
type onlyConn struct {
	conn   net.Conn
	taken  bool
	closed chan struct{}
	once   sync.Once
}

func (l *onlyConn) Accept() (net.Conn, error) {
	if !l.taken {
		l.taken = true
		return l.conn, nil
	}
	<-l.closed
	return nil, net.ErrClosed
}

func (l *onlyConn) end() { l.once.Do(func() { close(l.closed) }) }

// Close ends nothing: an answer may be on its way.
func (l *onlyConn) Close() error { return nil }

func (l *onlyConn) Addr() net.Addr { return l.conn.LocalAddr() }

// session answers one request.
type session struct {
	*API
	ctx     context.Context // of the process: what has begun is finished, even where the client goes away
	started time.Time
	failure error // of ours
	bug     error
	begun   bool // a request has come in
}

// ServeHTTP bounds the request, and keeps a panic from leaving the client without an answer.
func (s *session) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.begun = true
	control := http.NewResponseController(w)
	_ = control.EnableFullDuplex() // else the body ends where the answer begins
	rest := r.Body
	defer s.drain(control, r, rest)
	defer func() {
		if bug := recover(); bug != nil {
			s.bug = fmt.Errorf("%v\n%s", bug, debug.Stack())
			respond(w, http.StatusInternalServerError, problem{"internal error"})
		}
	}()
	switch {
	case r.ProtoMajor != 1:
		respond(w, http.StatusHTTPVersionNotSupported, problem{"HTTP/1.1 only"})
	case r.ContentLength > bodyBytes:
		respond(w, http.StatusRequestEntityTooLarge, problem{"the body is longer than 8 MiB"})
	default:
		r.Body = http.MaxBytesReader(w, rest, bodyBytes)
		s.route(w, r)
	}
}

// drain reads what is left of a body that was refused. A connection that is closed before is reset, and the client may
// never see the answer.
func (s *session) drain(control *http.ResponseController, r *http.Request, rest io.Reader) {
	if r.ContentLength == 0 || r.Header.Get("Expect") != "" {
		return
	}
	_ = control.Flush()
	deadline := s.started.Add(requestTime)
	if least := time.Now().Add(drainTime); least.After(deadline) {
		deadline = least
	}
	_ = control.SetReadDeadline(deadline)
	_, _ = io.Copy(io.Discard, rest)
}
