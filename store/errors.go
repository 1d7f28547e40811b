package store

import (
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strings"
	"sync"
	"syscall"

	"github.com/mattn/go-sqlite3"
)

// What can go wrong with the database file, for callers to branch on with errors.Is. A missing file is fs.ErrNotExist.
var (
	// ErrBusy: another connection held the database for longer than we wait.
	ErrBusy = errors.New("database busy")
	// ErrIO: the disk is full, or reading or writing fails.
	ErrIO = errors.New("database input/output")
	// ErrDamaged: the file is a database, and damaged.
	ErrDamaged = errors.New("database damage")
	// ErrNotDatabase: the file is no SQLite database.
	ErrNotDatabase = errors.New("not a database")
	// ErrEncrypted: the file is encrypted, as SQLCipher does it.
	ErrEncrypted = errors.New("encrypted database")
	// ErrPermission: the file can't be opened, read or written by this user.
	ErrPermission = errors.New("database permission")
	// ErrLocking: the file system's locks do not work as SQLite needs them, or were overtaken again and again.
	ErrLocking = errors.New("database locking")
	// ErrMemory: there is no memory, or no file descriptor, for what is to be done.
	ErrMemory = errors.New("out of memory or file descriptors")
	// ErrChanged: the application has changed its tables since they were checked.
	ErrChanged = errors.New("tables changed while they were in use")
	// ErrUnfinished: a writer was killed in its transaction, and who may only read can't roll that back.
	ErrUnfinished = errors.New("unfinished transaction")
	// ErrCut: somebody has cut a file short that is mapped into memory. No method returns it: see OnCut.
	ErrCut = errors.New("the index of its log was cut short while it was in use, by its application or a failing disk")
	// ErrMoved: another file has taken the place of the database, or it is gone.
	ErrMoved = errors.New("exchanged while it was in use")
	// ErrNames: the database is used under several names, each with a journal of its own.
	ErrNames = errors.New("open under another name")
	// ErrData: a row of the database can't be understood.
	ErrData = errors.New("database content")
)

// errChanged: a database that was read without a lock has changed meanwhile.
var errChanged = errors.New("changed while it was read")

// ErrNotFile is the ErrNotDatabase of a directory or device in the place of a database.
var ErrNotFile error = &faultError{kind: ErrNotDatabase, cause: errors.New("is not a file")}

// faultError keeps SQLite's own words, which existing greps look for ("database is locked"), and says what kind of
// fault it is.
type faultError struct {
	kind  error
	cause error
}

func (e *faultError) Error() string        { return e.cause.Error() }
func (e *faultError) Unwrap() error        { return e.cause }
func (e *faultError) Is(target error) bool { return target == e.kind }

// kinds are the kinds of SQLite's primary result codes (https://www.sqlite.org/rescode.html). What is not here
// is a mistake in a statement of ours, or in how we call SQLite: SQLITE_ERROR, INTERNAL, MISUSE, RANGE and the
// like.
var kinds = map[sqlite3.ErrNo]error{
	sqlite3.ErrBusy: ErrBusy, sqlite3.ErrLocked: ErrBusy,
	sqlite3.ErrProtocol: ErrLocking,
	sqlite3.ErrIoErr:    ErrIO, sqlite3.ErrFull: ErrIO, sqlite3.ErrNoLFS: ErrIO,
	sqlite3.ErrCorrupt: ErrDamaged, sqlite3.ErrFormat: ErrDamaged, sqlite3.ErrNotADB: ErrNotDatabase,
	sqlite3.ErrCantOpen: ErrPermission, sqlite3.ErrReadonly: ErrPermission, sqlite3.ErrPerm: ErrPermission,
	sqlite3.ErrAuth:   ErrPermission,
	sqlite3.ErrNomem:  ErrMemory,
	sqlite3.ErrTooBig: ErrData, sqlite3.ErrMismatch: ErrData,
	sqlite3.ErrConstraint: ErrData, // a table has a rule that our rows do not fit
	sqlite3.ErrSchema:     ErrChanged, sqlite3.ErrAbort: ErrChanged,
}

// extended are the extended result codes that say more of the cause than their primary code.
var extended = map[sqlite3.ErrNoExtended]error{
	sqlite3.ErrReadonlyRollback: ErrUnfinished, sqlite3.ErrReadonlyDbMoved: ErrMoved, sqlite3.ErrIoErrNoMem: ErrMemory,
}

// causes are the errnos that say more of the cause than SQLite's code: it can't open a journal for want of an inode.
var causes = map[syscall.Errno]error{
	syscall.ENOSPC: ErrIO, syscall.EDQUOT: ErrIO, syscall.EIO: ErrIO, syscall.EFBIG: ErrIO, syscall.ESTALE: ErrIO,
	syscall.EMFILE: ErrMemory, syscall.ENFILE: ErrMemory, syscall.ENOMEM: ErrMemory,
}

// classify gives an error of the driver its kind.
func classify(err error) error {
	var already *faultError
	if err == nil || errors.As(err, &already) {
		return err
	}
	var sqliteErr sqlite3.Error
	if !errors.As(err, &sqliteErr) {
		if strings.HasPrefix(err.Error(), badColumn) {
			return &faultError{kind: ErrData, cause: err}
		}
		return err
	}
	// The driver leaves the extended code in the place of the primary one where a backup fails.
	code, detail := sqliteErr.Code&0xff, sqliteErr.ExtendedCode
	if detail == 0 {
		detail = sqlite3.ErrNoExtended(sqliteErr.Code)
	}
	kind, known := extended[detail]
	if !known && (code == sqlite3.ErrCantOpen || code == sqlite3.ErrIoErr || code == sqlite3.ErrReadonly) {
		kind, known = causes[sqliteErr.SystemErrno]
	}
	if !known {
		kind, known = kinds[code]
	}
	if !known && code == sqlite3.ErrError {
		for _, g := range generic() {
			if g.text.MatchString(sqliteErr.Error()) {
				kind, known = g.kind, true
			}
		}
	}
	switch {
	case !known:
		return err
	case kind == ErrUnfinished:
		err = fmt.Errorf("a transaction was cut short and waits to be rolled back: %w", err)
	case kind == ErrMoved:
		err = fmt.Errorf("%w: %w", ErrMoved, err)
	}
	return &faultError{kind: kind, cause: err}
}

// generic holds what SQLite says with its code for everything else, SQLITE_ERROR. It is no mistake of ours where the
// schema has changed since it was checked, or holds what nobody should find in it.
var generic = sync.OnceValue(func() []genericError {
	return []genericError{
		{regexp.MustCompile(`no such table: |no such column: |has no column named |table .* has \d+ columns`),
			ErrChanged},
		{regexp.MustCompile(`integer overflow|too many levels of trigger recursion|unsafe use of |prohibited|cannot modify .* because it is a view`), ErrData},
		{regexp.MustCompile(`malformed database schema`), ErrDamaged},
	}
})

type genericError struct {
	text *regexp.Regexp
	kind error
}

// nameDisk gives an error of a file that can't be opened its kind where no file can be made any more: SQLite
// tries to open one that it could not make, and says that it does not exist.
func (s *Store) nameDisk(err error) error {
	var sqliteErr sqlite3.Error
	if !errors.As(err, &sqliteErr) || sqliteErr.Code&0xff != sqlite3.ErrCantOpen ||
		sqliteErr.SystemErrno != syscall.ENOENT {
		return err
	}
	var disk syscall.Statfs_t
	if statErr := syscall.Statfs(s.connector.path, &disk); statErr != nil || disk.Files == 0 || disk.Ffree > 0 {
		return err
	}
	return &faultError{kind: ErrIO, cause: fmt.Errorf("no inode left for a file beside the database: %w", sqliteErr)}
}

// dataErrorf describes a row that can't be understood.
func dataErrorf(format string, args ...any) error {
	return &faultError{kind: ErrData, cause: fmt.Errorf(format, args...)}
}

// openError names the file, and tells a missing one from one that may not be opened: SQLite says the same of both.
func openError(path string, statErr, err error) error {
	switch {
	case errors.Is(statErr, fs.ErrNotExist):
		return fmt.Errorf("database %s: %w", path, fs.ErrNotExist)
	case errors.Is(statErr, fs.ErrPermission), errors.Is(statErr, syscall.EROFS):
		return fmt.Errorf("database %s: %w", path, &faultError{kind: ErrPermission, cause: statErr})
	case statErr != nil: // its errno says of what kind it is
		return fmt.Errorf("database %s: %w", path, statErr)
	}
	return fmt.Errorf("database %s: %w", path, classify(err))
}
