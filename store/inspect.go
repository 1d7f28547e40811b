package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// File is what can be said of a database file without SQLite.
type File struct {
	Path       string // absolute and without symbolic links: SQLite keeps its own files beside the real one
	Size       int64
	Modified   time.Time
	Writer     SQLiteVersion // that wrote last, as far as the header tells
	WriteAhead bool          // in WAL mode, else with a rollback journal
	Log        int64         // size of the write-ahead log; -1 is none
	Index      bool          // the log has its index beside it, as it has while anyone uses the database
}

// SQLiteVersion is a version of SQLite as it writes it into databases: 3051003 is 3.51.3. Zero is not known.
type SQLiteVersion uint32

func (v SQLiteVersion) String() string { return fmt.Sprintf("%d.%d.%d", v/1e6, v/1e3%1e3, v%1e3) }

// ResetsLogUnsafely tells whether a version can damage a database in WAL mode when one connection merges the
// log while another writes: all before 3.51.3 but for 3.50.7 and 3.44.6, from 3.7.0 on
// (https://www.sqlite.org/wal.html#walresetbug, read in November 2026).
func (v SQLiteVersion) ResetsLogUnsafely() bool {
	repaired := v >= 3051003 || (v >= 3050007 && v < 3051000) || (v >= 3044006 && v < 3045000)
	return v >= 3007000 && !repaired
}

// LookAt looks at a database file. A missing one is fs.ErrNotExist, a directory ErrNotFile. The process must have no
// connection to the database: closing the file drops the locks of all of them
// (https://www.sqlite.org/howtocorrupt.html#_posix_advisory_locks_canceled_by_a_separate_thread_doing_close_).
func LookAt(path string) (File, error) {
	real, err := realPath(path)
	if err != nil {
		return File{Log: -1}, openError(path, err, nil)
	}
	if _, err := identify(real); err != nil && !errors.Is(err, ErrNames) {
		return File{Log: -1}, openError(path, err, nil)
	}
	file, err := statFile(real)
	if err != nil {
		return file, openError(path, err, nil)
	}
	f, err := os.Open(file.Path)
	if err != nil {
		return file, openError(path, err, nil)
	}
	defer f.Close()
	if err := file.readHeader(f); err != nil {
		return file, openError(path, nil, err)
	}
	return file, nil
}

func realPath(path string) (string, error) {
	if _, err := os.Stat(path); err != nil { // with an errno, which EvalSymlinks does not always give
		return path, err
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return path, err
	}
	return filepath.Abs(real)
}

// Quiet tells whether nobody uses a database in WAL mode: who does keeps a log and its index beside it.
func (f File) Quiet() bool { return f.WriteAhead && (f.Log < 0 || !f.Index) }

// Unmerged is how much of a quiet database's log waits to be taken in by the next access, in bytes: an unclean end has
// left it, or someone has copied it without its index.
func (f File) Unmerged() int64 {
	if !f.Quiet() {
		return 0
	}
	return max(0, f.Log)
}

// Inspect opens a database that LookAt has described, to read it without a trace. Even a connection that only
// reads makes the files of a write-ahead log and leaves them behind; so a database that nobody uses is taken
// for one that can't change (https://www.sqlite.org/uri.html#uriimmutable), and what is Unmerged is not seen.
// In the index of a log in use, which is shared memory more than a file, SQLite notes each reader
// (https://www.sqlite.org/walformat.html#the_wal_index_file_format).
func Inspect(ctx context.Context, file File) (*Store, error) {
	// A second connection, for what is read while QuickCheck takes its time.
	return connect(ctx, file.Path, &connector{driver: &reading, query: url.Values{"mode": {"ro"}},
		still: func(File) bool { return file.Quiet() }}, 2)
}

// QuickCheck has SQLite look for damage, and returns the first few findings in SQLite's words
// (https://www.sqlite.org/pragma.html#pragma_quick_check). With a rollback journal the application can't write
// meanwhile.
func (s *Store) QuickCheck(ctx context.Context) (damage []string, err error) {
	err = s.read(ctx, func(q querier) (err error) {
		damage, err = collect(ctx, q, func(scan func(...any) error) (line string, err error) {
			err = scan(&line)
			return strings.TrimPrefix(line, "*** in database main ***\n"), err
		}, "pragma quick_check(3)")
		return err
	})
	if len(damage) == 1 && damage[0] == "ok" {
		damage = nil
	}
	return damage, err
}

// CheckWritable returns ErrPermission unless this user can write a database and the files that SQLite makes beside it.
// It writes nothing.
func CheckWritable(path string) error {
	real, err := realPath(path)
	if err != nil {
		return openError(path, err, nil)
	}
	for _, name := range []string{real, filepath.Dir(real), real + "-journal", real + "-wal", real + "-shm"} {
		if err := syscall.Access(name, writable); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return &faultError{kind: ErrPermission, cause: fmt.Errorf("%s: %w", name, err)}
		}
	}
	return nil
}

// FreeDisk returns how many bytes this user can still write where a database lies.
func FreeDisk(path string) (int64, error) {
	var disk syscall.Statfs_t
	if err := syscall.Statfs(path, &disk); err != nil {
		return 0, openError(path, nil, &faultError{kind: ErrIO, cause: err})
	}
	blocks := disk.Bavail
	if os.Geteuid() == 0 {
		blocks = disk.Bfree // what is kept back is kept for root
	}
	return int64(blocks) * disk.Bsize, nil
}

// CheckOwnTables returns which of the ledger and our own tables are still to be made, or a *SchemaError where
// one that is there has another shape.
func (s *Store) CheckOwnTables(ctx context.Context) (missing []string, err error) {
	err = s.read(ctx, func(q querier) error { return checkTables(ctx, q, ownTables, firstColumns) })
	schema, incomplete := errors.AsType[*SchemaError](err)
	if !incomplete {
		return nil, err
	}
	if len(schema.Lacking)+len(schema.Foreign)+len(schema.Others) > 0 {
		return nil, &SchemaError{Lacking: schema.Lacking, Foreign: schema.Foreign, Others: schema.Others}
	}
	return schema.Missing, nil
}

// AllOrganisations returns every organisation, also those that no pass would sync.
func (s *Store) AllOrganisations(ctx context.Context, zone *time.Location) (all []Organisation, err error) {
	err = s.read(ctx, func(q querier) (err error) {
		all, err = s.organisations(ctx, q, zone)
		return err
	})
	return all, err
}
