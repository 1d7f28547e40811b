// Command usage-sync records what client organisations used of OpenRouter in the database of their Open WebUI
// container: one pass per run, under a file lock.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"reflect"
	"runtime"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	_ "time/tzdata" // hosts and containers without a time zone database keep their clients' calendars

	"github.com/alecthomas/kong"
	"golang.org/x/term"
)

func main() {
	// The live heap is a few pages of generations: collecting it less often saves an eighth of a backfill's
	// time and costs 8 MB. The analytics' answers are ten times a page, and a webhook's body may be one text of
	// 8 MiB, of which the reader needs a few copies: from 40 MB on it is collected as often as usual.
	debug.SetGCPercent(300)
	debug.SetMemoryLimit(40 << 20)
	useOneProcessor()
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// useOneProcessor keeps a short run on one processor: what it does is one thing after the other, and to hand
// each query to another thread is an eighth of a delivery. A run that goes on for longer has work for all of
// them.
func useOneProcessor() {
	const short = time.Second
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(1)
		time.AfterFunc(short, runtime.SetDefaultGOMAXPROCS)
	}
}

// run parses, runs one command and returns its exit code.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) (code int) {
	defer func() {
		if bug := recover(); bug != nil {
			fmt.Fprintf(stderr, "ERROR - This is a bug in usage-sync %s, please report it with these lines: "+
				"%v\n%s", version(), bug, debug.Stack())
			code = exitSoftware
		}
	}()
	ctx, stop := untilSignal(context.Background())
	defer stop()
	out := &checkedWriter{Writer: newDoor(stdout)}
	a := &app{ctx: ctx, stdin: stdin, stdout: out, stderr: newDoor(stderr), committed: &atomic.Pointer[string]{}}
	command, err := a.parse(args)
	if command != nil {
		var end func()
		if end, err = a.watch(command); err == nil {
			defer end()
			err = command.Run(a, command)
			end()
		}
	}
	switch {
	case out.err == nil || (err != nil && !errors.Is(err, out.err) && !errors.Is(err, syscall.EPIPE)):
	case a.committed.Load() == nil && errors.Is(out.err, syscall.EPIPE): // who reads has seen enough, as head(1) has
		err = reported(&interrupted{syscall.SIGPIPE})
	default:
		err = a.late(fmt.Errorf("standard output: %w", out.err))
	}
	return a.conclude(err)
}

// conclude tells how the command has ended, and returns the exit code.
func (a *app) conclude(err error) int {
	code := exitCode(err)
	a.report(err, code)
	if out, ok := a.stdout.(*checkedWriter); err != nil && a.cli.JSON && !a.answering && ok && !out.used {
		_ = printJSON(out, failureOut{"failed", code, describe(err)})
	}
	return code
}

// parse returns the command that the arguments name, or nil where nothing is left to be done in this process.
func (a *app) parse(args []string) (*kong.Context, error) {
	if err := useInstance(args); err != nil {
		return nil, err
	}
	var exited *int // kong wants to exit after --help and --version
	args = asFlags(args)
	grammar, options := a.cli.grammar(args)
	parser, err := kong.New(grammar, append(options,
		kong.Name("usage-sync"),
		kong.Description(description),
		kong.Vars{"version": "usage-sync " + version()},
		kong.Writers(a.stdout, a.stderr),
		kong.Exit(func(code int) {
			if exited == nil {
				exited = &code
			}
		}),
		kong.ConfigureHelp(kong.HelpOptions{WrapUpperBound: 120, NoExpandSubcommands: true}),
		kong.Help(fullHelp),
		kong.ValueFormatter(flagHelp),
	)...)
	if err != nil {
		return nil, err
	}
	if err := forgetEmpty(parser); err != nil {
		return nil, err
	}
	answerCompletion(parser)
	parsed, err := parser.Parse(args)
	if exited != nil {
		return nil, nil
	}
	if err != nil {
		return nil, a.badCommandLine(err, args)
	}
	a.command = chosen(parsed, args)
	a.log = a.logger(a.stderr)
	return a.onHost(parsed, args)
}

// badCommandLine answers a monitoring system as it expects, and everybody else as sysexits(3) has it.
func (a *app) badCommandLine(err error, args []string) error {
	var parsing *kong.ParseError
	if errors.As(err, &parsing) {
		a.command = chosen(parsing.Context, args)
		err = advise(err, parsing.Context, args)
		if node := parsing.Context.Selected(); node != nil && node.Target.Type() == reflect.TypeFor[statusCmd]() {
			return unknownStatus(a.stdout, err)
		}
	}
	return &usageError{err}
}

// chosen is the name of the command that the arguments name, with a blank before it; empty where it is the default.
func chosen(parsed *kong.Context, args []string) string {
	if node := parsed.Selected(); node != nil && slices.Contains(args, node.Name) {
		return " " + node.Name
	}
	return ""
}

// failureOut is what --json prints of a failure that has left no result of its command's own.
type failureOut struct {
	Status   string `json:"status"`
	ExitCode int    `json:"exit_code"`
	Error    string `json:"error"`
}

// done notes what is committed. From then on a reader of standard output that has gone away does not end the
// process: it still has to be said that it was done.
func (a *app) done(what string) {
	a.committed.Store(&what)
	signal.Ignore(syscall.SIGPIPE)
}

// late returns what has gone wrong after something was committed, if anything was: a plain failure would have
// it done again.
func (a *app) late(err error) error {
	done := a.committed.Load()
	if err == nil || done == nil {
		return err
	}
	return &codedError{exitPartial, &lateError{*done, err}}
}

// lateError is what has gone wrong after something was done.
type lateError struct {
	done  string
	cause error
}

func (e *lateError) Error() string {
	return fmt.Sprintf("%s; do not repeat it. What failed came after: %v", e.done, e.cause)
}

func (e *lateError) Unwrap() error { return e.cause }

// checkedWriter remembers whether there was a result, and that it could not be written, so that no command
// reports success without it.
type checkedWriter struct {
	io.Writer
	used bool
	err  error
}

func (w *checkedWriter) Write(p []byte) (int, error) {
	w.used = true
	n, err := w.Writer.Write(p)
	if err != nil && w.err == nil {
		w.err = err
	}
	return n, err
}

// unchecked is the stream behind a checkedWriter and a door.
func unchecked(w io.Writer) io.Writer {
	switch outer := w.(type) {
	case *checkedWriter:
		return unchecked(outer.Writer)
	case *door:
		return unchecked(outer.Writer)
	}
	return w
}

// fileOf is the file that a stream writes to, if it is one.
func fileOf(w io.Writer) (*os.File, bool) {
	f, ok := unchecked(w).(*os.File)
	return f, ok
}

func isTerminal(w io.Writer) bool {
	f, ok := fileOf(w)
	return ok && term.IsTerminal(int(f.Fd()))
}

// painter returns what colours a text by SGR attributes (ECMA-48, 8.3.117), if w is a terminal and nobody has
// set NO_COLOR (https://no-color.org).
func painter(w io.Writer) func(attributes, text string) string {
	coloured := isTerminal(w) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	return func(attributes, text string) string {
		if !coloured {
			return text
		}
		return "\x1b[" + attributes + "m" + text + "\x1b[0m"
	}
}

// report tells a failure once: the commands return theirs, and those that have been reported are marked.
func (a *app) report(err error, code int) {
	var reported *reportedError
	var parsing *usageError
	switch {
	case err == nil || errors.As(err, &reported):
	case errors.As(err, &parsing):
		fmt.Fprintf(a.stderr, "usage-sync: %v\nTry 'usage-sync%s --help'.\n", err, a.command)
	default:
		if a.log == nil { // before the flags that choose its format were known
			a.log = newLogger(a.stderr, "text", slog.LevelInfo)
		}
		a.log.Error(describe(err))
		if h := hint(err); h != "" {
			a.log.Error(h)
		}
	}
}

// interrupted is the cause of a context that a signal has cancelled.
type interrupted struct{ signal syscall.Signal }

func (e *interrupted) Error() string {
	return fmt.Sprintf("interrupted by signal %d (%v)", e.signal, e.signal)
}

// untilSignal returns a context that the first SIGINT, SIGTERM or SIGHUP cancels. A second one ends the process
// at once.
func untilSignal(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) { // as nohup(1) has it
		signal.Notify(signals, syscall.SIGHUP)
	}
	// Writing to a pipe that nobody reads fails as any other write does. Else it would end the process in the
	// middle of a pass, for want of somebody to read its log.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	go func() {
		select {
		case s := <-signals:
			signal.Stop(signals)
			cancel(&interrupted{s.(syscall.Signal)})
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		cancel(nil)
	}
}

// stamped is set by the build: -ldflags "-X main.stamped=v1.2.3".
var stamped string

// version is the stamp of the build, else what the go command knows of it.
func version() string {
	if stamped != "" {
		return stamped
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}
