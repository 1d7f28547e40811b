package job

import (
	"context"
	"errors"
	"io/fs"
	"syscall"

	"usage-sync/job/openrouter"
	"usage-sync/store"
)

// Kind is the kind of a failure: what it takes to fix it. Exit codes, hints, HTTP statuses, the classes of the
// metrics and the retries of units are maps from it.
type Kind string

const (
	KindNone          Kind = ""
	KindKeyRefused    Kind = "key_refused" // 401, 402 or 403: by OpenRouter
	KindRateLimited   Kind = "rate_limited"
	KindUnreachable   Kind = "unreachable"      // no answer, or one of 5xx
	KindUntrusted     Kind = "untrusted_answer" // an answer, a payload or a row
	KindBusy          Kind = "busy"             // the database is, for too long
	KindDisk          Kind = "disk"             // full, or failing
	KindDamaged       Kind = "damaged"          // the database or a file in its place
	KindMoved         Kind = "moved"            // the database was exchanged under the pass
	KindMemory        Kind = "memory"           // or file descriptors: this machine has none left
	KindPermission    Kind = "permission"       // of a file or socket
	KindMissing       Kind = "missing"          // the database, or a file to read
	KindSchema        Kind = "schema"
	KindConfiguration Kind = "configuration"
	KindTakeover      Kind = "takeover" // to be decided by a person
	KindLockHeld      Kind = "lock_held"
	KindTimedOut      Kind = "timed_out"
	KindClock         Kind = "clock"       // of this machine or of the server: wrong, and nobody says by how much
	KindOutputFile    Kind = "output_file" // lock, metrics, report, backup, instance file or spool
	KindUsage         Kind = "usage"       // a command line that makes no sense
	KindBug           Kind = "bug"         // everything that nobody has thought of
)

// Kinds are all kinds of failure.
var Kinds = []Kind{KindKeyRefused, KindRateLimited, KindUnreachable, KindUntrusted, KindBusy,
	KindDisk, KindDamaged, KindMoved, KindMemory, KindPermission, KindMissing, KindSchema, KindConfiguration,
	KindTakeover, KindLockHeld, KindTimedOut, KindClock,
	KindOutputFile,
	KindUsage, KindBug}

// classes are the words that the metrics and the history count by. They are a contract: kinds may be added, words not
// changed.
var classes = map[Kind]string{
	KindKeyRefused: "key_refused", KindRateLimited: "rate_limited", KindUnreachable: "unreachable",
	KindUntrusted: "untrusted_answer",
	KindBusy:      "database", KindDisk: "database", KindDamaged: "database", KindMoved: "database",
	KindPermission: "database", KindMissing: "database", KindSchema: "database",
	KindConfiguration: "configuration", KindTakeover: "configuration", KindOutputFile: "configuration",
	KindLockHeld: "lock_held", KindTimedOut: "timed_out", KindClock: "clock",
	KindMemory: "other", KindUsage: "other", KindBug: "other",
}

// Class is the word that the metrics and the history count a kind by; empty for KindNone.
func (k Kind) Class() string { return classes[k] }

// Retry says when it makes sense to try again.
type Retry int

const (
	RetryNever Retry = iota // a person has to fix it
	RetryNext               // by the next pass on the schedule
	RetrySoon               // within the tick
)

var retries = map[Kind]Retry{
	KindRateLimited: RetryNext, KindBusy: RetryNext, KindMoved: RetryNext, KindMemory: RetryNext,
	KindLockHeld: RetryNext, KindTimedOut: RetryNext,
	KindClock:       RetryNext,
	KindUnreachable: RetrySoon, KindUntrusted: RetrySoon, KindDisk: RetrySoon, KindDamaged: RetrySoon,
}

// Retry says when to try again what has failed in this way.
func (k Kind) Retry() Retry { return retries[k] }

// kindError is an error that says its kind itself.
type kindError struct {
	kind Kind
	text string
}

func (e *kindError) Error() string { return e.text }

// Kind returns the kind.
func (e *kindError) Kind() Kind { return e.kind }

// NewError returns an error of a kind, for packages whose errors the table below can't name.
func NewError(kind Kind, text string) error { return &kindError{kind, text} }

// kinds holds the errors of the packages below this one. The first line that holds one counts: what went wrong first of
// all is above what it led to.
var kinds = []struct {
	kind   Kind
	errors []error
}{
	{KindBusy, []error{store.ErrBusy, store.ErrUnfinished, store.ErrLocking}},
	{KindMemory, []error{store.ErrMemory, syscall.ENOMEM, syscall.EMFILE, syscall.ENFILE}},
	{KindMoved, []error{store.ErrMoved, store.ErrChanged, store.ErrRestored}},
	{KindLockHeld, []error{store.ErrBackupHeld}},
	{KindPermission, []error{store.ErrPermission, syscall.EACCES, syscall.EPERM}},
	{KindUnreachable, []error{openrouter.ErrUnreachable}},
	{KindTimedOut, []error{context.DeadlineExceeded}},
	{KindDisk, []error{store.ErrIO, syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG, syscall.EIO, syscall.ESTALE}},
	{KindDamaged, []error{store.ErrDamaged, store.ErrNotDatabase}},
	{KindOutputFile, []error{store.ErrBackupFile}},
	// What resolving a path may end with besides (path_resolution(7)): there is no such file.
	{KindMissing, []error{fs.ErrNotExist, syscall.ENOTDIR, syscall.ELOOP, syscall.ENAMETOOLONG}},
	{KindConfiguration, []error{store.ErrNames, store.ErrEncrypted, store.ErrOrganisation,
		store.ErrRate, openrouter.ErrBaseURL, openrouter.ErrKey, openrouter.ErrNoSource}},
	{KindUsage, []error{store.ErrGap}},
	{KindUntrusted, []error{openrouter.ErrAnswer, store.ErrData, store.ErrMoney, store.ErrBound}},
}

// KindOf returns the kind of an error, KindBug where nobody has given it one. An error's own word comes before
// those that it wraps, but for a full or failing disk: that is why a file can't be made.
func KindOf(err error) Kind {
	if err == nil {
		return KindNone
	}
	if _, ok := errors.AsType[*store.SchemaError](err); ok {
		return KindSchema
	}
	if own, ok := errors.AsType[interface {
		error
		Kind() Kind
	}](err); ok {
		if own.Kind() == KindOutputFile && (errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EIO)) {
			return KindDisk
		}
		return own.Kind()
	}
	// What is wrong with a backup is no fault of the database that it was to be put into.
	if errors.Is(err, store.ErrBackup) && !errors.Is(err, fs.ErrNotExist) {
		return KindUntrusted
	}
	for _, line := range kinds {
		for _, one := range line.errors {
			if errors.Is(err, one) {
				return line.kind
			}
		}
	}
	if api, ok := errors.AsType[*openrouter.APIError](err); ok {
		return kindOfAnswer(api)
	}
	return KindBug
}

// kindOfAnswer goes by what an answer of OpenRouter's says about trying again.
func kindOfAnswer(e *openrouter.APIError) Kind {
	switch {
	case e.Refused():
		return KindKeyRefused
	case e.RateLimited():
		return KindRateLimited
	case e.Temporary():
		return KindUnreachable
	}
	return KindUntrusted
}
