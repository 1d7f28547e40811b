package store

import (
	"errors"
	"fmt"
	"io/fs"
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
	// ErrPermission: the file can't be opened, read or written by this user.
	ErrPermission = errors.New("database permission")
	// ErrUnfinished: a writer was killed in its transaction, and who may only read can't roll that back.
	ErrUnfinished = errors.New("unfinished transaction")
	// ErrData: a row of the database can't be understood.
	ErrData = errors.New("database content")
)

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

// classify gives an error of the driver its kind (https://www.sqlite.org/rescode.html).
func classify(err error) error {
	var already *faultError
	if err == nil || errors.As(err, &already) {
		return err
	}
	var sqliteErr sqlite3.Error
	if !errors.As(err, &sqliteErr) {
		return err
	}
	if sqliteErr.ExtendedCode == sqlite3.ErrReadonlyRollback {
		return &faultError{kind: ErrUnfinished, cause: fmt.Errorf("a transaction was cut short and waits to be rolled back: %w", err)}
	}
	kinds := map[sqlite3.ErrNo]error{
		sqlite3.ErrBusy: ErrBusy, sqlite3.ErrLocked: ErrBusy,
		sqlite3.ErrIoErr: ErrIO, sqlite3.ErrFull: ErrIO, sqlite3.ErrCorrupt: ErrDamaged, sqlite3.ErrNotADB: ErrNotDatabase,
		sqlite3.ErrCantOpen: ErrPermission, sqlite3.ErrReadonly: ErrPermission, sqlite3.ErrPerm: ErrPermission,
		sqlite3.ErrAuth: ErrPermission,
	}
	if kind, ok := kinds[sqliteErr.Code]; ok {
		return &faultError{kind: kind, cause: err}
	}
	return err
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
