package store

import (
	"context"
	"database/sql/driver"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/mattn/go-sqlite3"
)

// identity is what tells one file from another, whatever their names.
type identity struct{ device, inode uint64 }

// identify returns the identity of the database that a path names now. A file that has another name besides is
// ErrNames: whoever opens it by that one keeps its journal and log elsewhere, and the two damage it together
// (https://www.sqlite.org/howtocorrupt.html#multiple_links_to_the_same_file).
func identify(path string) (identity, error) {
	var file syscall.Stat_t
	if err := syscall.Stat(path, &file); err != nil {
		return identity{}, err
	}
	if file.Mode&syscall.S_IFMT != syscall.S_IFREG {
		return identity{}, ErrNotFile
	}
	if file.Nlink > 1 {
		return identity{}, fmt.Errorf("%w: it has %d (hard links)", ErrNames, file.Nlink)
	}
	return identity{uint64(file.Dev), file.Ino}, nil
}

// connector opens the connections of one Store. Each is to the file that the Store was opened on.
type connector struct {
	driver *sqlite3.SQLiteDriver
	path   string // absolute
	query  url.Values
	file   identity
	still  func(File) bool // whether to take a quiet database for one that can't change
}

// Driver implements driver.Connector.
func (c *connector) Driver() driver.Driver { return c.driver }

// Connect implements driver.Connector.
func (c *connector) Connect(ctx context.Context) (driver.Conn, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	header, err := c.elsewhere(ctx)
	if err != nil {
		return nil, err
	}
	conn := &connection{file: c.file, header: header, still: c.still != nil && c.still(header)}
	options := c.query
	if conn.still { // it takes no lock
		connections.drop(c.file)
		options = maps.Clone(options)
		options.Set("immutable", "1")
	}
	dsn := url.URL{Scheme: "file", Path: c.path, RawQuery: options.Encode()}
	opened, err := c.driver.Open(dsn.String())
	if err != nil {
		conn.drop()
		return nil, err
	}
	conn.SQLiteConn = opened.(*sqlite3.SQLiteConn)
	// The file may have been exchanged between our look and SQLite's opening.
	if err := c.check(); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// check returns ErrMoved unless the path still names the file that the Store was opened on.
func (c *connector) check() error {
	now, err := identify(c.path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("database %s: %w: it is gone", c.path, ErrMoved)
	case err != nil:
		return openError(c.path, err, nil)
	case now != c.file:
		return fmt.Errorf("database %s: %w: another file is in its place", c.path, ErrMoved)
	}
	return nil
}

// elsewhere describes the database before the next connection to it, which counts as one of connections from
// here on. It returns ErrNames where another process has the database open under another name: as a single file
// mounted into a container. A connection to a database in WAL mode holds SQLite's shared lock for as long as it
// is open, and has the index of the log beside its own name
// (https://www.sqlite.org/walformat.html#the_wal_index_file_format). SQLite takes the lock a moment before it
// makes the index and gives it back a moment after it has removed it.
func (c *connector) elsewhere(ctx context.Context) (File, error) {
	const (
		patience = time.Second
		pause    = 10 * time.Millisecond
	)
	for start := time.Now(); ; {
		file, shared, err := connections.look(c.path, c.file)
		if err != nil || !shared {
			return file, err
		}
		if time.Since(start) > patience {
			return file, fmt.Errorf("database %s: %w: a process has it open, and the index of its log is not "+
				"here. A container gets "+
				"its directory mounted, not the single file", c.path, ErrNames)
		}
		select {
		case <-ctx.Done():
			return file, context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

// connection is a connection to a database that is checked while it is open.
type connection struct {
	*sqlite3.SQLiteConn
	file   identity
	header File // the file as it was when the connection was opened
	still  bool // the database is taken for one that can't change
	closed sync.Once
}

// Close implements driver.Conn.
func (c *connection) Close() error {
	defer c.drop()
	return c.SQLiteConn.Close()
}

// drop takes the connection out of the count of those that hold locks.
func (c *connection) drop() {
	if !c.still {
		c.closed.Do(func() { connections.drop(c.file) })
	}
}

// changed tells whether a database that was taken for one that can't change has changed.
func (c *connection) changed(path string) bool {
	if !c.still {
		return false
	}
	now, err := statFile(path)
	return err != nil || now.Modified != c.header.Modified || now.Size != c.header.Size || now.Log != c.header.Log ||
		now.Index != c.header.Index
}

// connections counts the connections with locks that this process has to each file. Closing a file drops all
// locks that the process holds on it, those of its connections included
// (https://www.sqlite.org/howtocorrupt.html#_posix_advisory_locks_canceled_by_a_separate_thread_doing_close_).
var connections = openFiles{count: map[identity]int{}}

type openFiles struct {
	mu    sync.Mutex
	count map[identity]int
}

// drop counts a connection that has been closed.
func (o *openFiles) drop(file identity) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.count[file]--
	if o.count[file] == 0 {
		delete(o.count, file)
	}
}

const (
	// sharedFirst and sharedSize are the range of SQLite's shared lock (SHARED_FIRST, SHARED_SIZE of its os.h;
	// https://www.sqlite.org/src/file/src/os.h, read in November 2026).
	sharedFirst = 0x40000002
	sharedSize  = 510
)

// look describes a database file before a connection to it is opened, and counts that one. It does not count it
// where it tells that another process holds the shared lock of a database in WAL mode without an index of its
// log here. While there is another connection of our own it looks at nothing but the names beside the file.
func (o *openFiles) look(path string, file identity) (described File, shared bool, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if described, err = statFile(path); err != nil {
		return described, false, openError(path, err, nil)
	}
	defer func() {
		if err == nil && !shared {
			o.count[file]++
		}
	}()
	if o.count[file] > 0 {
		return described, false, nil
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return described, false, nil // SQLite says what is wrong
	}
	defer f.Close()
	if err := described.readHeader(f); err != nil {
		return described, false, openError(path, nil, err)
	}
	if !described.WriteAhead || described.Index {
		return described, false, nil
	}
	lock := syscall.Flock_t{Type: syscall.F_WRLCK, Start: sharedFirst, Len: sharedSize}
	if err := syscall.FcntlFlock(f.Fd(), syscall.F_GETLK, &lock); err != nil {
		return described, false, nil // a file system without locks: SQLite says so
	}
	return described, lock.Type == syscall.F_RDLCK, nil
}

// isEncrypted tells whether a file that is no database looks like one that SQLCipher has encrypted: whole pages of
// what seems to be chance, the header included (https://www.zetetic.net/sqlcipher/design/, read in November 2026).
func (o *openFiles) isEncrypted(path string, file identity) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.count[file] > 0 {
		return false
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	const page, smallest = 4096, 512 // bytes
	info, err := f.Stat()
	if err != nil || info.Size() < page || info.Size()%smallest != 0 {
		return false
	}
	first := make([]byte, page)
	if _, err := io.ReadFull(f, first); err != nil {
		return false
	}
	for _, packed := range []string{"\x1f\x8b", "PK", "\x28\xb5\x2f\xfd", "\xfd7zXZ", "BZh"} {
		if strings.HasPrefix(string(first), packed) { // a compressed backup looks like chance, too
			return false
		}
	}
	// 4096 random bytes hold each of the 256 values about 16 times. Texts and programs do not.
	var count [256]int
	for _, b := range first {
		count[b]++
	}
	return slices.Min(count[:]) > 0 && slices.Max(count[:]) < 3*page/len(count)
}

// statFile says what can be told of a database file without opening it.
func statFile(path string) (File, error) {
	file := File{Path: path, Log: -1}
	info, err := os.Stat(path)
	if err != nil {
		return file, err
	}
	file.Size, file.Modified = info.Size(), info.ModTime()
	if log, err := os.Stat(path + "-wal"); err == nil {
		file.Log = log.Size()
	}
	_, err = os.Stat(path + "-shm")
	file.Index = err == nil
	return file, nil
}

// headerSize is how much of a file's header is read: bytes 18 and 19 say what journal it has, 96 to 99 which
// SQLite wrote it last (https://www.sqlite.org/fileformat2.html#the_database_header).
const headerSize = 100

// readHeader reads what the header of a database says.
func (f *File) readHeader(r io.ReaderAt) error {
	var header [headerSize]byte
	if _, err := r.ReadAt(header[:], 0); err != nil && err != io.EOF {
		return &faultError{kind: ErrIO, cause: err}
	}
	f.WriteAhead = header[18] == 2 && header[19] == 2
	f.Writer = SQLiteVersion(binary.BigEndian.Uint32(header[96:]))
	return nil
}
