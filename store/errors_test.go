package store

import (
	"errors"
	"fmt"
	"syscall"
	"testing"

	"github.com/mattn/go-sqlite3"
)

// TestEveryCode goes through SQLite's result codes, extended by every detail: each has a kind, but for those that say that
// we call SQLite wrongly.
func TestEveryCode(t *testing.T) {
	mistakes := map[sqlite3.ErrNo]bool{
		sqlite3.ErrError: true, sqlite3.ErrInternal: true, sqlite3.ErrInterrupt: true, sqlite3.ErrNotFound: true,
		sqlite3.ErrEmpty: true, sqlite3.ErrMisuse: true, sqlite3.ErrRange: true,
	}
	for code := sqlite3.ErrError; code <= sqlite3.ErrNotADB; code++ {
		for detail := range 36 {
			extended := code.Extend(detail)
			for _, err := range []error{
				sqlite3.Error{Code: code, ExtendedCode: extended},
				sqlite3.Error{Code: sqlite3.ErrNo(extended)}, // as the driver returns it of a backup
			} {
				_, has := errors.AsType[*faultError](classify(fmt.Errorf("wrapped: %w", err)))
				if has == mistakes[code] {
					t.Errorf("%d, extended %d: has a kind: %t", code, extended, has)
				}
			}
		}
	}
}

func TestKindsOfFaults(t *testing.T) {
	for _, test := range []struct {
		err  sqlite3.Error
		want error
	}{
		{sqlite3.Error{Code: sqlite3.ErrNo(sqlite3.ErrIoErrRead)}, ErrIO},
		{sqlite3.Error{Code: sqlite3.ErrIoErr, ExtendedCode: sqlite3.ErrIoErrNoMem}, ErrMemory},
		{sqlite3.Error{Code: sqlite3.ErrProtocol}, ErrLocking},
		{sqlite3.Error{Code: sqlite3.ErrReadonly, ExtendedCode: sqlite3.ErrReadonlyDbMoved}, ErrMoved},
		{sqlite3.Error{Code: sqlite3.ErrReadonly, ExtendedCode: sqlite3.ErrReadonlyRollback}, ErrUnfinished},
		{sqlite3.Error{Code: sqlite3.ErrReadonly}, ErrPermission},
		{sqlite3.Error{Code: sqlite3.ErrCantOpen, SystemErrno: syscall.EACCES}, ErrPermission},
		{sqlite3.Error{Code: sqlite3.ErrCantOpen, SystemErrno: syscall.ENOSPC}, ErrIO},
		{sqlite3.Error{Code: sqlite3.ErrCantOpen, SystemErrno: syscall.EDQUOT}, ErrIO},
		{sqlite3.Error{Code: sqlite3.ErrCantOpen, SystemErrno: syscall.EMFILE}, ErrMemory},
		{sqlite3.Error{Code: sqlite3.ErrCantOpen, SystemErrno: syscall.EIO}, ErrIO},
		{sqlite3.Error{Code: sqlite3.ErrSchema}, ErrChanged},
		{sqlite3.Error{Code: sqlite3.ErrTooBig}, ErrData},
	} {
		if err := classify(test.err); !errors.Is(err, test.want) {
			t.Errorf("%+v: not %v", test.err, test.want)
		}
	}
}
