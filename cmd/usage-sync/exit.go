package main

import (
	"errors"

	"usage-sync/job"
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

// codes is the one place where errors become exit codes.
var codes = map[job.Kind]int{
	job.KindNone:          exitOK,
	job.KindKeyRefused:    exitNoPerm,
	job.KindRateLimited:   exitTempFail,
	job.KindUnreachable:   exitUnavailable,
	job.KindUntrusted:     exitDataErr,
	job.KindBusy:          exitTempFail,
	job.KindDisk:          exitIOErr,
	job.KindDamaged:       exitIOErr,
	job.KindMoved:         exitTempFail,
	job.KindMemory:        exitTempFail,
	job.KindPermission:    exitNoPerm,
	job.KindMissing:       exitNoInput,
	job.KindSchema:        exitConfig,
	job.KindConfiguration: exitConfig,
	job.KindTakeover:      exitConfig,
	job.KindLockHeld:      exitTempFail,
	job.KindTimedOut:      exitTempFail,
	job.KindClock:         exitTempFail,
	job.KindOutputFile:    exitCantCreat,
	job.KindUsage:         exitUsage,
	job.KindBug:           exitSoftware,
}

// exitCode returns the code of an error: that of its kind, unless it has one of its own.
func exitCode(err error) int {
	if signal, ok := errors.AsType[*interrupted](err); ok {
		return exitSignal + int(signal.signal)
	}
	if coded, ok := errors.AsType[*codedError](err); ok {
		return coded.code
	}
	return codes[job.KindOf(err)]
}

// usageError is a command line that makes no sense.
type usageError struct{ cause error }

func (e *usageError) Error() string  { return e.cause.Error() }
func (e *usageError) Unwrap() error  { return e.cause }
func (e *usageError) Kind() job.Kind { return job.KindUsage }

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

func reported(err error) error {
	if err == nil {
		return nil
	}
	return &reportedError{err}
}

// describe words an error as existing greps expect it.
func describe(err error) string {
	if schema, ok := errors.AsType[*store.SchemaError](err); ok {
		return "Database error: " + schema.Error()
	}
	return err.Error()
}
