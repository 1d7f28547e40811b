package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/mattn/go-sqlite3"
)

var (
	// ErrBackupFile: a backup can't be made where it was asked for.
	ErrBackupFile = errors.New("backup file")
	// ErrBackupHeld: another backup of the series is being made.
	ErrBackupHeld = errors.New("another backup is running")
	// ErrBackup: a file that should be a backup is damaged, or holds no usage tables.
	ErrBackup = errors.New("not a sound backup")
)

const (
	// backupStep is how many pages are copied at once: some milliseconds' worth.
	backupStep = 1024
	// backupTries is how often copying beside a busy application may be in vain before the application has to wait.
	backupTries = 5
	// backupStamp is the time in a backup's name, in UTC. Names sort by it.
	backupStamp = "20060102T150405Z"
)

// BackupRequest says what to copy, and where to.
type BackupRequest struct {
	// Dest is a directory, in which the backup gets a name of its own, or a file that does not exist yet. One
	// that ends with a slash is a directory, and made where its parent is there.
	Dest string
	// Series starts the names in a directory, in place of the database's own name.
	Series string
	// UsageOnly copies the usage tables alone.
	UsageOnly bool
	// Keep is how many backups of the series to keep in the directory; 0 is all.
	Keep int
	Now  time.Time
}

// TableRows says how many rows a table has.
type TableRows struct {
	Table string
	Rows  int64
}

// Backup is a finished one.
type Backup struct {
	Path    string
	Bytes   int64
	Tables  []TableRows // the usage tables in it
	Removed []string    // older backups of the series
}

// Backup makes a copy of one moment of the database, with mode 0600 as it holds keys. The copy gets its name
// once it is complete, checked (PRAGMA integrity_check, the rows of the usage tables against those of the
// database) and on the disk.
//
// In WAL mode the application does not notice. In the other modes nobody can write while somebody reads: what has to be
// done at one go is small unless the application writes all the time.
func (s *Store) Backup(ctx context.Context, r BackupRequest) (b Backup, err error) {
	final, series, err := s.backupPath(r)
	if err != nil {
		return b, err
	}
	partial := filepath.Join(filepath.Dir(final), "."+series+".partial")
	f, err := holdPartial(partial)
	if err != nil {
		return b, err
	}
	defer f.Close()
	done := false
	defer func() {
		if !done {
			err = errors.Join(err, os.Remove(partial))
		}
	}()
	err = s.retry(ctx, func() error {
		if err := f.Truncate(0); err != nil {
			return diskError(err)
		}
		if r.UsageOnly {
			b.Tables, err = s.copyUsage(ctx, partial)
		} else {
			b.Tables, err = s.copyAll(ctx, partial)
		}
		return err
	})
	if err != nil {
		return b, fmt.Errorf("backup of %s: %w", s.path, err)
	}
	if err := checkCopy(ctx, partial, b.Tables); err != nil {
		return b, fmt.Errorf("the copy of %s: %w", s.path, err)
	}
	info, err := f.Stat()
	if err = errors.Join(err, f.Sync()); err != nil {
		return b, diskError(err)
	}
	if err := os.Rename(partial, final); err != nil {
		return b, fmt.Errorf("%w: %w", ErrBackupFile, err)
	}
	done = true
	b.Path, b.Bytes = final, info.Size()
	if err := syncDirectory(filepath.Dir(final)); err != nil {
		return b, diskError(err)
	}
	b.Removed, err = pruneBackups(final, series, r.Keep)
	return b, err
}

// holdPartial opens the file that a backup is written to, and locks it. A killed backup leaves it behind: it
// has a name of its own, for the next one to take it over.
func holdPartial(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBackupFile, err)
	}
	refuse := func(err error) (*os.File, error) { return nil, errors.Join(err, f.Close()) }
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return refuse(fmt.Errorf("%w: it writes %s", ErrBackupHeld, path))
	}
	held, err := f.Stat()
	if err != nil {
		return refuse(diskError(err))
	}
	// Its holder may have given the file its final name while we opened it.
	if named, err := os.Lstat(path); err != nil || !os.SameFile(held, named) {
		return refuse(fmt.Errorf("%w: it has just finished %s", ErrBackupHeld, path))
	}
	// Whoever has laid it here could read the keys that come into it, or have it overwrite another file.
	owner, ok := held.Sys().(*syscall.Stat_t)
	switch {
	case !held.Mode().IsRegular() || ok && owner.Nlink != 1:
		return refuse(fmt.Errorf("%w: %s is a link, a pipe or a device", ErrBackupFile, path))
	case ok && int(owner.Uid) != os.Geteuid():
		return refuse(fmt.Errorf("%w: %s belongs to another user", ErrBackupFile, path))
	}
	if err := f.Chmod(0o600); err != nil {
		return refuse(fmt.Errorf("%w: %w", ErrBackupFile, err))
	}
	return f, nil
}

// backupPath returns the name that a backup gets and its series.
func (s *Store) backupPath(r BackupRequest) (final, series string, err error) {
	if strings.HasSuffix(r.Dest, "/") {
		err := os.Mkdir(r.Dest, 0o700)
		if err == nil { // else a power cut could take it, with the backup in it
			err = syncDirectory(filepath.Dir(strings.TrimRight(r.Dest, "/")))
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return "", "", fmt.Errorf("%w: %w", ErrBackupFile, err)
		}
	}
	final = r.Dest
	if info, err := os.Stat(r.Dest); err == nil && info.IsDir() {
		series = r.Series
		if series == "" {
			series = strings.TrimSuffix(filepath.Base(s.path), ".db")
		}
		if r.UsageOnly {
			series += "-usage"
		}
		final = filepath.Join(r.Dest, series+"-"+r.Now.UTC().Format(backupStamp)+".db")
	} else if r.Keep > 0 || r.Series != "" {
		return "", "", fmt.Errorf("%w: %s is not a directory: only in one can there be a series of backups",
			ErrBackupFile, r.Dest)
	} else {
		series = filepath.Base(final)
	}
	if _, err := os.Lstat(final); err == nil {
		return "", "", fmt.Errorf("%w: %s exists, and is not replaced", ErrBackupFile, final)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", "", fmt.Errorf("%w: %w", ErrBackupFile, err)
	}
	return final, series, nil
}

// pruneBackups removes the oldest backups of a series and nothing else, least of all the one just made: a clock
// that was wrong once may have made its name an old one.
func pruneBackups(made, series string, keep int) (removed []string, err error) {
	if keep == 0 {
		return nil, nil
	}
	dir := filepath.Dir(made)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, diskError(err)
	}
	name := regexp.MustCompile(`^` + regexp.QuoteMeta(series) + `-\d{8}T\d{6}Z\.db$`)
	var others []string // in the order of their names, the oldest first
	for _, entry := range entries {
		if path := filepath.Join(dir, entry.Name()); entry.Type().IsRegular() &&
			name.MatchString(entry.Name()) && path != made {
			others = append(others, path)
		}
	}
	for _, old := range others[:max(0, len(others)+1-keep)] {
		if err := os.Remove(old); err != nil {
			return removed, diskError(err)
		}
		removed = append(removed, old)
	}
	return removed, nil
}

// copyAll copies every page, by SQLite's online backup (https://www.sqlite.org/backup.html), and counts the
// usage tables' rows in the same moment.
func (s *Store) copyAll(ctx context.Context, path string) (tables []TableRows, err error) {
	source, err := s.db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	defer source.Close()
	target, closeTarget, err := openTarget(ctx, path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeTarget()) }()
	var backup *sqlite3.SQLiteBackup
	err = target.Raw(func(to any) error {
		return source.Raw(func(from any) (err error) {
			backup, err = to.(*sqlite3.SQLiteConn).Backup("main", from.(*connection).SQLiteConn, "main")
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		if finishErr := backup.Finish(); err == nil { // else it says the same again
			err = finishErr
		}
	}()
	var journal string
	if err := source.QueryRowContext(ctx, "pragma journal_mode").Scan(&journal); err != nil {
		return nil, err
	}
	if journal != "wal" {
		if err := copyBeside(ctx, backup); err != nil {
			return nil, err
		}
	}
	// The rest, and the counting, see one moment: where the application has written since, that is everything.
	if _, err := source.ExecContext(ctx, "begin deferred"); err != nil {
		return nil, err
	}
	defer func() { _, _ = source.ExecContext(context.WithoutCancel(ctx), "rollback") }()
	if tables, err = countUsage(ctx, source); err != nil {
		return nil, err
	}
	for last := math.MaxInt; ; last = backup.Remaining() {
		done, err := backup.Step(backupStep)
		switch {
		case done || err != nil:
			return tables, err
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case backup.Remaining() >= last: // the driver says nothing of a lock that it can't get
			return nil, fmt.Errorf("%w: its pages can't be read", ErrBusy)
		}
	}
}

// copyBeside copies all but the last pages, and leaves the database to the application between two steps. A
// write of the application's starts the copy anew; where it keeps writing, the rest is left to the caller.
func copyBeside(ctx context.Context, backup *sqlite3.SQLiteBackup) error {
	last := math.MaxInt
	for vain, pages := 0, 0; vain <= backupTries; pages = backupStep {
		began := time.Now()
		done, err := backup.Step(pages) // none at first, to learn how many there are
		if err != nil {
			return err
		}
		if done { // the database has shrunk: a finished copy does not see what is written from here on
			return fmt.Errorf("%w: it was made smaller while it was copied", ErrBusy)
		}
		left := backup.Remaining()
		if left <= backupStep {
			return nil
		}
		if left >= last {
			vain++
		}
		last = left
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(min(time.Since(began), longestTurn)):
		}
	}
	return nil
}

// copyUsage copies the usage tables as they are, with their indexes, into an empty database; of some the rows
// are left out. It reads the rows at one go, which is fast, and files them by their keys afterwards: without
// WAL nobody can write while somebody reads.
func (s *Store) copyUsage(ctx context.Context, path string, without ...string) (tables []TableRows, err error) {
	source, err := fileURI(s.path, "mode=ro")
	if err != nil {
		return nil, err
	}
	target, closeTarget, err := openTarget(ctx, path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeTarget()) }()
	execute := func(statement string, args ...any) { // unless one before it has failed
		if err == nil {
			_, err = target.ExecContext(ctx, statement, args...)
		}
	}
	execute("attach ? as source", source)
	execute("begin")
	if err != nil {
		return nil, err
	}
	names, err := usageTables(ctx, target, "source")
	if err != nil {
		return nil, err
	}
	definitions := make([][]string, len(names))
	for i, name := range names {
		if definitions[i], err = definition(ctx, target, "source", name); err != nil {
			return nil, err
		}
		execute(fmt.Sprintf("create temp table read_%d as select * from source.%s where %t", i, quoted(name),
			!slices.Contains(without, name)))
		if err != nil {
			return nil, err
		}
	}
	execute("commit")
	execute("detach source") // else making tables locks it again
	execute("begin")
	for i, name := range names {
		for _, statement := range definitions[i] {
			execute(statement)
		}
		if err != nil {
			return nil, err
		}
		columns, err := collect(ctx, target, func(scan func(...any) error) (c string, err error) { return c, scan(&c) },
			"select name from pragma_table_info(?)", name) // those that can be written to
		if err != nil {
			return nil, err
		}
		list := quotedList("", columns)
		result, err := target.ExecContext(ctx, fmt.Sprintf("insert into main.%s (%s) select %s from "+
			"temp.read_%d", quoted(name), list, list, i))
		if err != nil {
			return nil, err
		}
		rows, err := result.RowsAffected()
		if err != nil {
			return nil, err
		}
		tables = append(tables, TableRows{name, rows})
	}
	execute("commit")
	return tables, err
}

// definition returns the statements that make a table of a schema and its indexes. Index names are global to a
// file: one that the schema main has already is left out.
func definition(ctx context.Context, q querier, schema, table string) ([]string, error) {
	const find = `
		select sql from %s.sqlite_master where tbl_name = ? and sql is not null
			and (type = 'table' or type = 'index' and name not in (select name from main.sqlite_master))
		order by type desc`
	return collect(ctx, q, func(scan func(...any) error) (text string, err error) { return text, scan(&text) },
		fmt.Sprintf(find, schema), table)
}

// openTarget opens a new file to copy into. It is thrown away where anything goes wrong, so it needs no journal.
func openTarget(ctx context.Context, path string) (*sql.Conn, func() error, error) {
	uri, err := fileURI(path, "mode=rw&_journal_mode=OFF&_sync=OFF")
	if err != nil {
		return nil, nil, err
	}
	db, err := sql.Open("sqlite3", uri)
	if err != nil {
		return nil, nil, err
	}
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	return conn, func() error { return errors.Join(conn.Close(), db.Close()) }, nil
}

// checkCopy returns ErrDamaged where a copy is damaged, or its usage tables have other numbers of rows.
func checkCopy(ctx context.Context, path string, want []TableRows) error {
	db, err := openCopy(path)
	if err != nil {
		return err
	}
	defer db.Close()
	if err := checkIntegrity(ctx, db); err != nil {
		return &faultError{kind: ErrDamaged, cause: err}
	}
	got, err := countUsage(ctx, db)
	if err == nil && !slices.Equal(got, want) {
		err = &faultError{kind: ErrDamaged, cause: fmt.Errorf("it has rows %v, the database has %v", got, want)}
	}
	return classify(err)
}

// checkIntegrity runs SQLite's own check of a whole database.
func checkIntegrity(ctx context.Context, q querier) error {
	const most = 3 // faults to name
	faults, err := collect(ctx, q, func(scan func(...any) error) (text string, err error) { return text, scan(&text) },
		fmt.Sprintf("pragma integrity_check(%d)", most))
	if err == nil && !slices.Equal(faults, []string{"ok"}) {
		err = fmt.Errorf("it is damaged: %s", strings.Join(faults, "; "))
	}
	return err
}

// openCopy opens a backup to read it. No byte is written, nor a file beside it, unless a journal says that the
// file is in use and can't be read by itself.
func openCopy(path string) (*sql.DB, error) {
	uri, err := copyURI(path)
	if err != nil {
		return nil, err
	}
	return sql.Open("sqlite3", uri)
}

func copyURI(path string) (string, error) {
	options := "mode=ro&immutable=1"
	for _, beside := range []string{"-wal", "-journal"} {
		if info, err := os.Stat(path + beside); err == nil && info.Size() > 0 {
			options = "mode=ro"
		}
	}
	return fileURI(path, options)
}

// fileURI is a path in the form that SQLite reads options behind. It is absolute: what follows "file:" up to a
// slash would otherwise be read as a host (https://www.sqlite.org/uri.html).
func fileURI(path, options string) (string, error) {
	absolute, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	uri := url.URL{Scheme: "file", Path: absolute, RawQuery: options}
	return uri.String(), nil
}

// usageTables names the tables that a backup of the usage holds: the guide's, the ledger and ours, those of
// later versions of ours included.
func usageTables(ctx context.Context, q querier, schema string) ([]string, error) {
	var known []string
	for _, t := range slices.Concat(guideTables, ownTables) {
		known = append(known, t.name)
	}
	return collect(ctx, q, func(scan func(...any) error) (name string, err error) { return name, scan(&name) },
		fmt.Sprintf(`select name from %s.sqlite_master
			where type = 'table' and (name in (select value from json_each(?)) or name glob 'usage_sync_*') order by name`, schema),
		jsonText(known))
}

// countUsage counts the rows of the usage tables.
func countUsage(ctx context.Context, q querier) ([]TableRows, error) {
	names, err := usageTables(ctx, q, "main")
	if err != nil {
		return nil, err
	}
	tables := []TableRows{}
	for _, name := range names {
		t := TableRows{Table: name}
		if err := q.QueryRowContext(ctx, "select count(*) from "+quoted(name)).Scan(&t.Rows); err != nil {
			return nil, err
		}
		tables = append(tables, t)
	}
	return tables, nil
}

func quoted(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// quotedList lists columns for a statement, each with a prefix such as "b.".
func quotedList(prefix string, columns []string) string {
	list := make([]string, len(columns))
	for i, c := range columns {
		list[i] = prefix + quoted(c)
	}
	return strings.Join(list, ", ")
}

func diskError(err error) error { return &faultError{kind: ErrIO, cause: err} }

func syncDirectory(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
