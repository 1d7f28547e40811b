package standin

import (
	"context"
	"sync/atomic"
)

// ExpireAt returns a context whose deadline passes when the server gets its nth request from now on, before that is
// answered: a real deadline would race with the machine's load. It takes the place of OnRequest's function.
func (s *Server) ExpireAt(parent context.Context, nth int64) context.Context {
	ctx := &expiring{Context: parent, done: make(chan struct{})}
	var requests atomic.Int64
	s.OnRequest(func(Request) {
		if requests.Add(1) == nth {
			close(ctx.done)
		}
	})
	return ctx
}

// expiring is a context whose deadline passes when done is closed. It does not end with its parent.
type expiring struct {
	context.Context
	done chan struct{}
}

func (e *expiring) Done() <-chan struct{} { return e.done }

func (e *expiring) Err() error {
	select {
	case <-e.done:
		return context.DeadlineExceeded
	default:
		return nil
	}
}
