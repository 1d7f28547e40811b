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
	// busySlice is how long SQLite itself waits for a lock. It can't be interrupted, so it is short, and run repeats it.
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
	db    *sql.DB
	path  string
	today TodayIn    // where today is written
	mu    sync.Mutex // guards what follows
	locks LockTimes
	waits LockTimes
	turn  time.Time // until then the write lock is the application's
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

// Open opens an existing database. A missing file is fs.ErrNotExist.
func Open(ctx context.Context, path string, mode Mode) (*Store, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, openError(path, err, nil)
	}
	if !info.Mode().IsRegular() {
		return nil, openError(path, nil, ErrNotFile)
	}
	if mode == ReadWrite {
		// With mode=rw SQLite falls back to reading where the file can't be written. Never open and close the file
		// ourselves to find out: that would drop SQLite's own locks (https://www.sqlite.org/howtocorrupt.html).
		if err := syscall.Access(path, writable); err != nil {
			return nil, openError(path, fmt.Errorf("not writable: %w", err), nil)
		}
	}
	if mode == ReadOnly {
		return connect(ctx, path, url.Values{"mode": {"ro"}}, &reading, 1)
	}
	return connect(ctx, path, url.Values{"mode": {"rw"}, "_txlock": {"immediate"}}, &sqlite3.SQLiteDriver{}, 1)
}

// connector opens the connections of a pool.
type connector struct {
	driver *sqlite3.SQLiteDriver
	dsn    string
}

// Connect implements driver.Connector.
func (c connector) Connect(context.Context) (driver.Conn, error) { return c.driver.Open(c.dsn) }

// Driver implements driver.Connector.
func (c connector) Driver() driver.Driver { return c.driver }

// connect opens a database and checks that it is one.
func connect(ctx context.Context, path string, options url.Values, with *sqlite3.SQLiteDriver, connections int) (*Store, error) {
	options.Set("_stmt_cache_size", "32")
	options.Set("_busy_timeout", fmt.Sprint(busySlice.Milliseconds()))
	// An absolute path: what follows "file:" up to a slash would otherwise be read as a host
	// (https://www.sqlite.org/uri.html).
	absolute, err := filepath.Abs(path)
	if err != nil {
		return nil, openError(path, err, nil)
	}
	dsn := url.URL{Scheme: "file", Path: absolute, RawQuery: options.Encode()}
	s := &Store{path: path, db: sql.OpenDB(connector{with, dsn.String()})}
	s.db.SetMaxOpenConns(connections)
	err = s.retry(ctx, func() error {
		var tables int
		return s.db.QueryRowContext(ctx, "select count(*) from sqlite_master").Scan(&tables)
	})
	if err != nil {
		_ = s.db.Close()
		return nil, openError(path, nil, err)
	}
	return s, nil
}

// Close closes the database.
func (s *Store) Close() error { return classify(s.db.Close()) }

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
		return fn(conn)
	})
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
		if err := fn(tx); err != nil {
			return err
		}
		if err := tx.Commit(); err != nil {
			return err
		}
		s.note(time.Since(got))
		return nil
	})
}

// note keeps the time of a write transaction, and leaves the lock to others for as long as we have held it. Who waits
// for a lock of SQLite's sleeps and looks again, up to 100 ms later: between transactions without a pause it would hardly
// ever find the lock free.
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
		if !errors.Is(err, ErrBusy) || time.Since(start) > busyLimit {
			return err
		}
		// SQLite has waited busySlice already, except where waiting would be a deadlock.
		time.Sleep(5 * time.Millisecond)
	}
}

// Path is where the database lies, without symbolic links.
func (s *Store) Path() string { return s.path }
