package main

import (
	"context"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// TestWatchdog has a command of ten seconds and two of grace do what commands do, and never come to its end.
func TestWatchdog(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(w *watchdog, signal func())
		want time.Duration
		why  string
	}{
		{"nothing", func(*watchdog, func()) {}, 12 * time.Second, "not done within 12s"},
		{"a sign of life", func(w *watchdog, _ func()) {
			time.Sleep(9 * time.Second)
			w.alive()
		}, 21 * time.Second, "not done within 12s"},
		{"a wait for somebody", func(w *watchdog, _ func()) {
			until := w.waits()
			time.Sleep(time.Hour)
			until()
		}, time.Hour + 12*time.Second, "not done within 12s"},
		{"a signal", func(_ *watchdog, signal func()) {
			time.Sleep(time.Second)
			signal()
		}, 3 * time.Second, "interrupted by signal 15"},
		{"a signal, whatever follows", func(w *watchdog, signal func()) {
			time.Sleep(time.Second)
			signal()
			time.Sleep(time.Second)
			w.alive()
		}, 3 * time.Second, "interrupted by signal 15"},
		{"a wait that a signal ends", func(w *watchdog, signal func()) {
			w.waits()
			time.Sleep(time.Hour)
			signal()
		}, time.Hour + 2*time.Second, "interrupted by signal 15"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				w := &watchdog{limit: 10 * time.Second, grace: 2 * time.Second, signs: make(chan bool), done: make(chan struct{})}
				died, start := make(chan error, 1), time.Now()
				go w.run(ctx, func(err error) { died <- err })
				go c.do(w, func() { cancel(&interrupted{syscall.SIGTERM}) })
				err := <-died
				if got := time.Since(start); got != c.want || !strings.HasPrefix(err.Error(), c.why) {
					t.Errorf("dies after %s of %q, want %s and %q", got, err, c.want, c.why)
				}
			})
		})
	}
}
