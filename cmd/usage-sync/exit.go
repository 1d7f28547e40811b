package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"usage-sync/job"
	"usage-sync/job/discover"
	"usage-sync/job/doctor"
	"usage-sync/job/httpapi"
	"usage-sync/job/monitor"
	"usage-sync/job/openrouter"
	"usage-sync/job/report"
	"usage-sync/job/webhook"
	"usage-sync/store"
)

// Exit codes are those of sysexits(3): systemd shows their names and takes them in unit files. Codes are added, never
// renumbered.
const (
	exitOK          = 0
	exitPartial     = 1
	exitUsage       = 64
	exitDataErr     = 65
	exitNoInput     = 66
	exitUnavailable = 69
	exitSoftware    = 70
	exitCantCreat   = 73
	exitIOErr       = 74
	exitTempFail    = 75
	exitNoPerm      = 77
	exitConfig      = 78
	exitSignal      = 128 // plus the signal's number
)

// codes says which exit code stands for which errors. The first line that holds one counts: what went wrong first of all
// is above what it led to.
var codes = []struct {
	code   int
	errors []error
}{
	{exitUsage, []error{job.ErrBeyondReach, report.ErrPeriod, report.ErrSeveral}},
	{exitTempFail, []error{store.ErrBusy, store.ErrUnfinished, store.ErrBackupHeld, job.ErrHeld, job.ErrTimedOut, doctor.ErrTimedOut}},
	{exitConfig, []error{errSecret}},
	{exitNoPerm, []error{store.ErrPermission, doctor.ErrKey}},
	{exitUnavailable, []error{discover.ErrEngine, discover.ErrSystemctl, openrouter.ErrUnreachable}},
	{exitTempFail, []error{context.DeadlineExceeded}},
	{exitCantCreat, []error{job.ErrLockFile, monitor.ErrMetricsFile, store.ErrBackupFile, discover.ErrFile}},
	{exitIOErr, []error{store.ErrIO, syscall.ENOSPC, syscall.EIO}}, // the latter two of standard output
	{exitCantCreat, []error{webhook.ErrSpool, report.ErrFile}},
	{exitNoInput, []error{fs.ErrNotExist}},
	{exitConfig, []error{store.ErrOrganisation, store.ErrRate, openrouter.ErrBaseURL, openrouter.ErrNoSource, doctor.ErrConfig,
		httpapi.ErrNoSecret, report.ErrCurrency}},
	{exitDataErr, []error{openrouter.ErrAnswer, discover.ErrAnswer, job.ErrRefused, job.ErrDiffers, store.ErrData, store.ErrMoney}},
}

// exitCode is the one place where errors become exit codes.
func exitCode(err error) int {
	var signal *interrupted
	var coded *codedError
	var usage *usageError
	var schema *store.SchemaError
	var takeover *job.TakeoverError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &signal):
		return exitSignal + int(signal.signal)
	case errors.As(err, &coded):
		return coded.code
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &schema), errors.As(err, &takeover):
		return exitConfig
	case errors.Is(err, discover.ErrEngine) && errors.Is(err, fs.ErrPermission):
		return exitNoPerm
	case errors.Is(err, store.ErrBackup) && !errors.Is(err, fs.ErrNotExist):
		return exitDataErr
	}
	for _, line := range codes {
		for _, one := range line.errors {
			if errors.Is(err, one) {
				return line.code
			}
		}
	}
	if api, ok := errors.AsType[*openrouter.APIError](err); ok {
		return apiCode(api)
	}
	return exitSoftware
}

// apiCode goes by what an answer of OpenRouter's says about trying again.
func apiCode(e *openrouter.APIError) int {
	switch {
	case e.Refused():
		return exitNoPerm
	case e.RateLimited():
		return exitTempFail
	case e.Temporary():
		return exitUnavailable
	}
	return exitDataErr
}

// flagHelp is what a flag's help says: its text, its default where the left column does not show it, its variable.
func flagHelp(v *kong.Value) string {
	shown := *v
	if f := v.Flag; f != nil && f.HasDefault && f.PlaceHolder != "" && !f.IsBool() {
		shown.Help += fmt.Sprintf(" Default: %s.", f.Default)
	}
	return kong.DefaultHelpValueFormatter(&shown)
}

// helpThenExitCodes prints help and ends it with the exit codes of the command, or of the default command.
func helpThenExitCodes(options kong.HelpOptions, parsed *kong.Context) error {
	if err := kong.DefaultHelpPrinter(options, parsed); err != nil {
		return err
	}
	type exitHelper interface{ ExitHelp() string }
	var command exitHelper = &syncCmd{}
	if node := parsed.Selected(); node != nil && node.Target.CanAddr() {
		if own, ok := node.Target.Addr().Interface().(exitHelper); ok {
			command = own
		}
	}
	_, err := fmt.Fprintf(parsed.Stdout, "\n%s", hang(command.ExitHelp()))
	return err
}

// exitHelp lists the exit codes of a command with their meaning, and those that any command may end with.
func exitHelp(codes ...int) string {
	meaning := map[int]string{
		exitOK:          "success, or nothing to do",
		exitPartial:     "partial: some organisations synced, some failed",
		exitUsage:       "unknown flag, or a value out of range",
		exitDataErr:     "an answer or a row that can't be trusted; what is sound is recorded",
		exitNoInput:     "the database file, a file to read, or the backup does not exist",
		exitUnavailable: "OpenRouter, or the container engine, can't be reached or keeps failing",
		exitSoftware:    "a bug: please report it, with the lines it printed",
		exitCantCreat:   "a file can't be made: lock, metrics, statement, backup, instance file or spool",
		exitIOErr:       "disk full, input/output error, damaged database",
		exitTempFail:    "another pass runs, database busy, rate-limited to the end, or timed out: try again later",
		exitNoPerm:      "the key is refused (401, 402, 403), or the database, or the engine's socket, can't be read or written",
		exitConfig: "usage tables missing, no such organisation, bad markup rate, base URL or currency, no usable source, no secret, " +
			"or a takeover to decide on",
		exitSignal: "ended by signal n",
	}
	codes = append(slices.Clone(codes), exitSoftware, exitSignal)
	slices.Sort(codes)
	lines := []string{"Exit codes:"}
	for _, code := range codes {
		label := fmt.Sprint(code)
		if code == exitSignal {
			label = "128+n"
		}
		lines = append(lines, fmt.Sprintf("  %-6s %s", label, meaning[code]))
	}
	return strings.Join(lines, "\n")
}

// hang wraps the lines of a list of exit codes at 80 columns, below where their texts begin.
func hang(list string) string {
	const width, indent = 80, 9
	var out strings.Builder
	for _, line := range strings.Split(list, "\n") {
		for len(line) > width {
			end := strings.LastIndexByte(line[:width+1], ' ')
			if end <= indent {
				break
			}
			out.WriteString(line[:end] + "\n")
			line = strings.Repeat(" ", indent) + line[end+1:]
		}
		out.WriteString(line + "\n")
	}
	return out.String()
}

// usageError is a command line that makes no sense.
type usageError struct{ cause error }

func (e *usageError) Error() string { return e.cause.Error() }
func (e *usageError) Unwrap() error { return e.cause }

// codedError ends the program with a code of its own.
type codedError struct {
	code  int
	cause error
}

func (e *codedError) Error() string { return e.cause.Error() }
func (e *codedError) Unwrap() error { return e.cause }

// reportedError has been logged where it happened.
type reportedError struct{ cause error }

func (e *reportedError) Error() string { return e.cause.Error() }
func (e *reportedError) Unwrap() error { return e.cause }

// describe words an error as existing greps expect it.
func describe(err error) string {
	var schema *store.SchemaError
	if errors.As(err, &schema) {
		return "Database error: " + schema.Error()
	}
	return err.Error()
}

const (
	tablesFound   = "✅ Usage tracking tables found"
	tablesMissing = "⚠️  Usage tracking tables not found. Please run the migration first."
)

// hint says what to do next, where the error does not say so itself.
func hint(err error, code int) string {
	var schema *store.SchemaError
	switch {
	case errors.As(err, &schema):
		return tablesMissing + " ('usage-sync migrate' creates missing tables; start the container's own migration if it has one)"
	case errors.Is(err, discover.ErrEngine) && code == exitNoPerm:
		return "Run as root, or as a member of the engine's group"
	case errors.Is(err, discover.ErrEngine):
		return "Check that Docker or Podman runs (systemctl status docker podman.socket), or name its socket with --socket (DOCKER_HOST)"
	case errors.Is(err, discover.ErrFile):
		return "Run as root, or name other directories with --config-dir and --unit-dir"
	case errors.Is(err, store.ErrBackup):
		return "Nothing was changed; name another backup"
	case errors.Is(err, store.ErrBackupFile):
		return "Name a directory that is there and writable, or a file in one that does not exist yet"
	case errors.Is(err, errInput):
		return ""
	case code == exitNoInput:
		return "Check --db (USAGE_SYNC_DB); the file is never created. On the host it lies in the container's volume, e.g. /var/lib/docker/volumes/NAME/_data/webui.db"
	case code == exitNoPerm && errors.Is(err, store.ErrPermission):
		return "Run as root or as the owner of the database; its directory must be writable too, even to read one in WAL mode"
	case errors.Is(err, store.ErrNotFile):
		return "Check --db (USAGE_SYNC_DB): it names the file webui.db, not its directory"
	case errors.Is(err, monitor.ErrMetricsFile):
		return "The pass itself is complete and recorded. Make the directory of --metrics-file (USAGE_SYNC_METRICS_FILE), or name another file"
	case code == exitIOErr:
		return "Check free disk space (df) and the database (sqlite3 FILE 'pragma integrity_check'); nothing was half recorded"
	case errors.Is(err, webhook.ErrSpool):
		return "The spool lies beside the database: make the directory writable, or name another one with --spool-dir (USAGE_SYNC_SPOOL)"
	case errors.Is(err, httpapi.ErrNoSecret):
		return "Give the secret as a credential of the unit, in the environment, or in a file that the variable with _FILE behind its name names"
	case errors.Is(err, report.ErrFile) && code == exitCantCreat:
		return "The directory of --out must be there and writable; one that ends with / is made"
	case errors.Is(err, report.ErrSeveral):
		return "Name one organisation with --org, or a directory with --out DIRECTORY/: it gets one file for each"
	case code == exitCantCreat:
		return "The lock file lies beside the database: make the directory writable, or name another file with --lock"
	case errors.Is(err, store.ErrBusy):
		return "The container's application holds the database; nothing was half recorded, the next pass catches up"
	case errors.Is(err, store.ErrUnfinished):
		return "The next pass rolls it back, or the container's next access; nothing is lost"
	case errors.Is(err, job.ErrHeld):
		return "Nothing is wrong if that pass is still at work: this run did nothing. --lock-wait waits for it"
	}
	return ""
}
