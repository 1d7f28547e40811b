package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/alecthomas/kong"

	"usage-sync/job"
	"usage-sync/job/alert"
	"usage-sync/store"
)

const (
	// instanceTime is how long a command that asks nobody may take over one database, and networkTime one that does.
	instanceTime = time.Minute
	networkTime  = 10 * time.Minute
	// statusTime is that of status: longer than the application may keep a database busy, and short enough for
	// who asks.
	statusTime = 12 * time.Second
	// copyTime is that of whole databases.
	copyTime = 6 * time.Hour
	// grace is how long a command may take to end after its time, and passGrace one that still has to tell
	// others of it. Both are below the units' TimeoutStopSec=.
	grace     = 5 * time.Second
	passGrace = 15 * time.Second
	// lastWordsTime is how long the process waits for who reads its last words.
	lastWordsTime = time.Second
)

// errLate: a command has not come to its end in time.
var errLate = job.NewError(job.KindTimedOut, "not done")

// limited is a command with a deadline of its own.
type limited interface {
	limit() (limit, grace time.Duration)
}

func (f *passFlags) limit() (time.Duration, time.Duration) { return f.Timeout, passGrace }
func (c *doctorCmd) limit() (time.Duration, time.Duration) { return probeTime * c.Timeout, grace }
func (*backupCmd) limit() (time.Duration, time.Duration)   { return copyTime, grace }
func (*restoreCmd) limit() (time.Duration, time.Duration)  { return copyTime, grace }

// limit is that between two signs of life: whoever writes to its standard input may take their time.
func (*ingestCmd) limit() (time.Duration, time.Duration) { return instanceTime, grace }

// watchdog ends the process where a command does not come to its end. A system call that hangs can't be told
// to: on a dead network disk, or a pipe that a container has laid in the place of a journal.
type watchdog struct {
	limit, grace time.Duration
	signs        chan bool // of life: true is a new start, false a wait that may be as long as it is
	done         chan struct{}
}

// watch bounds a command by its context and by the death of the process, until end is called.
func (a *app) watch(parsed *kong.Context) (end func(), err error) {
	command, w := parsed.Selected().Target.Addr().Interface(), &watchdog{limit: networkTime, grace: grace}
	if reach, _ := reachOf(parsed); reach == onAll {
		w.limit = instanceTime
	}
	if err := a.onCutFile(command); err != nil {
		return nil, err
	}
	cancel := func() {}
	a.loose = a.confined(parsed)
	if own, ok := command.(limited); ok {
		w.limit, w.grace = own.limit()
	} else {
		if _, ok := command.(*statusCmd); ok {
			w.limit = statusTime
		}
		a.ctx, cancel = context.WithTimeoutCause(a.ctx, w.limit, fmt.Errorf("%w within %s", errLate, w.limit))
	}
	w.signs, w.done = make(chan bool), make(chan struct{})
	a.watchdog = w
	go w.run(a.ctx, func(err error) { a.die(command, err) })
	return sync.OnceFunc(func() { close(w.done); cancel() }), nil
}

// run calls die where the command is not done in time.
func (w *watchdog) run(ctx context.Context, die func(error)) {
	cause := fmt.Errorf("%w within %s: a system call hangs, as on a disk that does not answer",
		errLate, w.limit+w.grace)
	timer, ended := time.NewTimer(w.limit+w.grace), ctx.Done()
	defer timer.Stop()
	for {
		select {
		case <-w.done:
			return
		case alive := <-w.signs:
			switch {
			case ended == nil: // it was told to end
			case alive:
				timer.Reset(w.limit + w.grace)
			default:
				timer.Stop()
			}
		case <-ended:
			ended = nil
			if signal, ok := errors.AsType[*interrupted](context.Cause(ctx)); ok {
				cause = signal
				timer.Reset(w.grace)
			}
		case <-timer.C:
			die(cause)
			return
		}
	}
}

// alive tells that the command gets on.
func (w *watchdog) alive() {
	if w != nil {
		w.signs <- true
	}
}

// waits tells that the command waits for somebody, until the function that it returns is called.
func (w *watchdog) waits() (until func()) {
	if w == nil {
		return func() {}
	}
	w.signs <- false
	return w.alive
}

// die ends the process with what there is to say, if anybody reads it.
func (a *app) die(command any, err error) {
	code := make(chan int, 1)
	go func() {
		if c, ok := command.(*statusCmd); ok {
			err = c.answer(a, health{}, err)
		}
		code <- a.conclude(a.late(err))
	}()
	select {
	case c := <-code:
		os.Exit(c)
	case <-time.After(lastWordsTime):
		os.Exit(exitCode(err))
	}
}

// within returns what fn does, or that it was not done in time: what hangs is left behind.
func within[T any](ctx context.Context, limit time.Duration, fn func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("%w within %s", errLate, limit))
	defer cancel()
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		value, err := fn(ctx)
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
	}
	select { // it may have something better to say
	case r := <-done:
		return r.value, r.err
	case <-time.After(lastWordsTime):
		var none T
		return none, context.Cause(ctx)
	}
}

// onCutFile has the process say why it dies by the signal of a file that is cut short while SQLite has it mapped.
func (a *app) onCutFile(command any) error {
	line, code, to := "", exitIOErr, a.stderr
	err := fmt.Errorf("database %s: %w", a.cli.DB, store.ErrCut)
	if _, ok := command.(*statusCmd); ok && !a.cli.JSON {
		line, code, to = statusLine(alert.StateUnknown, health{}, err, alert.Rule{})+"\n",
			int(alert.StateUnknown), a.stdout
	} else {
		var text bytes.Buffer
		newLogger(newDoor(&text), a.cli.LogFormat, slog.LevelInfo).Error(err.Error())
		line = text.String()
	}
	f, ok := fileOf(to)
	if !ok {
		return nil
	}
	return store.OnCut(f, line, code)
}
