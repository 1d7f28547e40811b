// Package store keeps an organisation's usage in the container's webui.db. It owns the words of the domain
// (Generation, Organisation, Day, Money), and every rule of the tables that the container's dashboard reads.
package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/mattn/go-sqlite3"
)

// Mode says what a Store may do with its database.
type Mode int

const (
	// ReadOnly leaves every byte of the database file as it is.
	ReadOnly Mode = iota
	// ReadWrite never creates the file and never changes its journal mode.
	ReadWrite
)

const (
	// busySlice is how long SQLite itself waits for a lock. It can't be interrupted, so it is short, and run
	// repeats it.
	busySlice = 250 * time.Millisecond
	// busyLimit is how long we wait in all before ErrBusy.
	busyLimit = 10 * time.Second
	// longestTurn bounds for how long we leave the database to others after a write transaction of our own.
	longestTurn = 50 * time.Millisecond
	// writable is W_OK of access(2).
	writable = 2
)

// Store is one open database. Its methods may be called from several goroutines; they take turns.
type Store struct {
	db        *sql.DB
	connector *connector
	path      string
	today     TodayIn    // where today is written
	most      Money      // what one generation may cost that is above mostCost
	allowed   Rate       // how high a markup rate may be that is above mostRate
	idle      int        // how many connections stay open while nobody uses them
	mu        sync.Mutex // guards what follows
	absent    int        // waits under way, see Wait
	log       int64      // size of the write-ahead log when it was last given up, see bound
	locks     LockTimes
	waits     LockTimes
	turn      time.Time // until then the write lock is the application's
}

// LockTimes says how long the write lock was held, or waited for: one figure a transaction, in their order.
type LockTimes []time.Duration

// Percentile returns the time that p percent of the transactions did not exceed; 100 is the longest.
func (t LockTimes) Percentile(p int) time.Duration {
	if len(t) == 0 {
		return 0
	}
	return slices.Sorted(slices.Values(t))[(len(t)*p-1)/100]
}

// Open opens an existing database. A missing file is fs.ErrNotExist. Whatever happens to the path later, the
// Store is that of the file opened here: once another one is in its place, its methods return ErrMoved.
func Open(ctx context.Context, path string, mode Mode) (*Store, error) {
	if _, err := identify(path); err != nil {
		return nil, openError(path, err, nil)
	}
	if mode == ReadOnly {
		// Even a connection that only reads makes the files of a log and leaves them behind. Where nothing is
		// left in the log, there is no need for them, nor for the right to make them.
		return connect(ctx, path, &connector{driver: &reading, query: url.Values{"mode": {"ro"}},
			still: func(f File) bool { return f.Quiet() && f.Unmerged() == 0 && settled(f) }}, 1)
	}
	// With mode=rw SQLite falls back to reading where the file can't be written. Never open and close the file
	// ourselves to find out: that would drop SQLite's own locks (https://www.sqlite.org/howtocorrupt.html).
	if err := syscall.Access(path, writable); err != nil {
		return nil, openError(path, fmt.Errorf("not writable: %w", err), nil)
	}
	// What has been committed is on the disk, also where the power fails the moment after: an acknowledged delivery, a
	// removed spool file (https://www.sqlite.org/pragma.html#pragma_synchronous).
	return connect(ctx, path, &connector{driver: &writing,
		query: url.Values{"mode": {"rw"}, "_txlock": {"immediate"}, "_sync": {"EXTRA"}}}, 1)
}

// settled tells whether a file has not been written for long enough that its time tells of the next write: a
// file system counts time in ticks, of up to two seconds.
func settled(f File) bool { return time.Since(f.Modified) > 2*time.Second }

// writing is the driver of connections that write. They never merge a log into the database while others use
// it: versions of SQLite before 3.51.3 can damage it then (https://www.sqlite.org/wal.html#walresetbug, read in
// November 2026). The last connection to close merges it nevertheless, under a lock that keeps all others out.
var writing = sqlite3.SQLiteDriver{ConnectHook: func(conn *sqlite3.SQLiteConn) error {
	if err := guard(conn); err != nil {
		return err
	}
	_, err := conn.Exec("pragma wal_autocheckpoint = 0; pragma temp_store = memory", nil)
	return err
}}

// connect opens a database and checks that it is one.
func connect(ctx context.Context, path string, c *connector, atOnce int) (*Store, error) {
	c.query.Set("_stmt_cache_size", "32")
	c.query.Set("_busy_timeout", fmt.Sprint(busySlice.Milliseconds()))
	// An absolute path: what follows "file:" up to a slash would otherwise be read as a host
	// (https://www.sqlite.org/uri.html).
	var err error
	if c.path, err = filepath.Abs(path); err != nil {
		return nil, openError(path, err, nil)
	}
	if c.file, err = identify(c.path); err != nil {
		return nil, openError(path, err, nil)
	}
	s := &Store{path: path, connector: c, db: sql.OpenDB(c), idle: atOnce}
	s.db.SetMaxOpenConns(atOnce)
	s.db.SetMaxIdleConns(atOnce)
	err = s.retry(ctx, func() error {
		var tables int
		return s.db.QueryRowContext(ctx, "select count(*) from sqlite_master").Scan(&tables)
	})
	if err != nil {
		_ = s.db.Close()
		if errors.Is(err, ErrMoved) || errors.Is(err, ErrNames) {
			return nil, err // which name the file
		}
		if errors.Is(err, ErrNotDatabase) && connections.isEncrypted(c.path, c.file) {
			err = &faultError{kind: ErrEncrypted, cause: fmt.Errorf("%w (%v)", ErrEncrypted, err)}
		}
		return nil, openError(path, nil, err)
	}
	return s, nil
}

// Wait closes the database until the function that it returns is called: the application must be able to change
// its journal mode, replace it or restore it while this process waits for something else. Methods work
// meanwhile; each opens and closes the database for itself. Waits may overlap.
func (s *Store) Wait() (done func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.absent++
	s.db.SetMaxIdleConns(-1)
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.absent--
		if s.absent == 0 {
			s.db.SetMaxIdleConns(s.idle)
		}
	})
}

// Close closes the database. It returns ErrMoved where what was written has gone into a file that is no longer the
// database.
func (s *Store) Close() error {
	err := classify(s.db.Close())
	if err == nil && s.wrote() {
		err = s.connector.check()
	}
	return err
}

// wrote tells whether there was a write transaction.
func (s *Store) wrote() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.locks) > 0
}

// LockTimes returns how long each write transaction so far has held the lock.
func (s *Store) LockTimes() LockTimes {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.locks)
}

// LockWaits returns how long each write transaction so far has waited for the lock, whether or not it got it.
func (s *Store) LockWaits() LockTimes {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.waits)
}

// querier is what a transaction and a connection that reads have in common.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// read runs fn with one consistent view of the database and without the write lock. It may run fn again, so fn sets
// its results anew each time.
func (s *Store) read(ctx context.Context, fn func(querier) error) error {
	return s.retry(ctx, func() error {
		conn, err := s.db.Conn(ctx)
		if err != nil {
			return err
		}
		defer conn.Close()
		// Not BeginTx: the DSN makes those immediate.
		if _, err := conn.ExecContext(ctx, "begin deferred"); err != nil {
			return err
		}
		defer func() { _, _ = conn.ExecContext(context.WithoutCancel(ctx), "rollback") }()
		err = fn(conn)
		return s.unchanged(conn, err)
	})
}

// unchanged returns the error of what was read on a connection, or errChanged where that was no single moment of the
// database. The next connection locks it.
func (s *Store) unchanged(conn *sql.Conn, err error) error {
	rawErr := conn.Raw(func(c any) error {
		if c.(*connection).changed(s.connector.path) {
			return driver.ErrBadConn // closes it
		}
		return nil
	})
	if rawErr != nil {
		return errChanged
	}
	return err
}

// write runs fn in an immediate transaction and commits it. It may run fn again, so fn sets its results anew each time.
func (s *Store) write(ctx context.Context, fn func(querier) error) error {
	s.giveWay(ctx)
	asked, got := time.Now(), time.Time{}
	defer func() { s.noteWait(asked, got) }()
	return s.retry(ctx, func() error {
		tx, err := s.db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		got = time.Now()
		defer func() { _ = tx.Rollback() }()
		if err := s.connector.check(); err != nil {
			return err
		}
		if err := fn(tx); err != nil {
			return err
		}
		if err := tx.Commit(); err != nil {
			return err
		}
		s.note(time.Since(got))
		s.bound()
		return s.connector.check()
	})
}

// longLog is how much a write-ahead log grows until its connection is closed, in bytes: where nobody else has
// the database open, that merges it.
const longLog = 16 << 20

// bound keeps the log of a database that nobody else uses from growing without end: no commit of ours merges it.
func (s *Store) bound() {
	info, err := os.Stat(s.connector.path + "-wal")
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err != nil || info.Size() < s.log:
		s.log = 0
	case info.Size()-s.log > longLog && s.absent == 0:
		s.log = info.Size()
		s.db.SetMaxIdleConns(-1)
		s.db.SetMaxIdleConns(s.idle)
	}
}

// note keeps the time of a write transaction, and leaves the lock to others for as long as we have held it. Who
// waits for a lock of SQLite's sleeps and looks again, up to 100 ms later: between transactions without a pause
// it would hardly ever find the lock free.
func (s *Store) note(held time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.locks = append(s.locks, held)
	s.turn = time.Now().Add(min(held, longestTurn))
}

// noteWait keeps for how long a write transaction waited; got is zero where it waited in vain.
func (s *Store) noteWait(asked, got time.Time) {
	if got.IsZero() {
		got = time.Now()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waits = append(s.waits, got.Sub(asked))
}

// giveWay waits until it is our turn to write again. Reading keeps no writer out, so that goes on meanwhile.
func (s *Store) giveWay(ctx context.Context) {
	s.mu.Lock()
	wait := time.Until(s.turn)
	s.mu.Unlock()
	if wait <= 0 {
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(wait):
	}
}

// retry repeats fn while another connection holds the database, for busyLimit at the most or until ctx ends.
func (s *Store) retry(ctx context.Context, fn func() error) error {
	for start := time.Now(); ; {
		err := classify(fn())
		if ctx.Err() != nil && err != nil {
			return context.Cause(ctx)
		}
		if err == errChanged {
			continue
		}
		if !errors.Is(err, ErrBusy) || time.Since(start) > busyLimit {
			if moved := s.connector.check(); err != nil && errors.Is(moved, ErrMoved) {
				return moved // whatever SQLite makes of it
			}
			return s.nameValue(ctx, s.nameDisk(err))
		}
		// SQLite has waited busySlice already, except where waiting would be a deadlock.
		time.Sleep(5 * time.Millisecond)
	}
}

// Path is where the database lies, without symbolic links.
func (s *Store) Path() string { return s.path }
