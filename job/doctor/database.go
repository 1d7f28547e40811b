package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"usage-sync/job"
	"usage-sync/store"
)

const (
	// longestRead bounds the search for damage where it keeps the application from writing. Python's sqlite3 waits 5
	// seconds for a lock (https://docs.python.org/3/library/sqlite3.html#sqlite3.connect).
	longestRead = 4 * time.Second
	// fullDisk is too little for a pass: its journal needs some megabytes.
	fullDisk = 16 << 20
	// scarceDisk is when to see to it.
	scarceDisk = 512 << 20
	// longLog is a write-ahead log that should have been taken in long ago: by default SQLite does so at 4 MB
	// (https://www.sqlite.org/wal.html#avoiding_excessively_large_wal_files).
	longLog = 256 << 20
	// longPass is longer than any pass takes: --timeout is 5 minutes unless set otherwise.
	longPass = time.Hour
)

func (e *examination) checkDatabase(context.Context) (findings []Finding) {
	file, err := store.LookAt(e.Database)
	if err != nil {
		return []Finding{failed(err, "")}
	}
	e.file = file
	return []Finding{ok("%s, %s", e.Database, size(file.Size))}
}

func (e *examination) checkReadable(ctx context.Context) []Finding {
	db, err := store.Inspect(ctx, e.file)
	switch {
	case errors.Is(err, ErrTimedOut):
		return []Finding{failed(err, "the application holds the database, or its disk does not answer: try again")}
	case err != nil:
		return []Finding{failed(err, "")}
	}
	db.AllowRate(e.AllowMarkup)
	e.db = db
	if e.Client != nil {
		e.Client.WhileWaiting(db.Wait)
	}
	return []Finding{ok("SQLite opens it")}
}

func (e *examination) checkWritable(context.Context) []Finding {
	if err := store.CheckWritable(e.Database); err != nil {
		return []Finding{failed(err, "")}
	}
	return []Finding{ok("its directory and what SQLite keeps there, too")}
}

const damaged = "stop the container, check its disk, restore the last backup or have sqlite3's .recover make " +
	"a new file, then start it"

func (e *examination) checkIntegrity(ctx context.Context) []Finding {
	if !e.file.WriteAhead {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, e.longestRead, ErrTimedOut)
		defer cancel()
	}
	start := time.Now()
	damage, err := e.db.QuickCheck(ctx)
	switch {
	case ctx.Err() != nil && errors.Is(err, ErrTimedOut):
		return []Finding{warning("check a copy: sqlite3 COPY 'pragma quick_check'",
			"not checked to the end: %s of it would keep the application waiting for longer than %s", size(e.file.Size),
			time.Since(start).Round(100*time.Millisecond))}
	case (err != nil || len(damage) > 0) && e.awoken():
		return []Finding{warning("run it again", "not checked: the application began to use the database meanwhile")}
	case errors.Is(err, store.ErrDamaged), errors.Is(err, store.ErrIO):
		return []Finding{failed(err, damaged)}
	case err != nil:
		return []Finding{failed(err, "")}
	case len(damage) > 0:
		return []Finding{failed(fmt.Errorf("%w: quick_check: %s", store.ErrDamaged, strings.Join(damage, "; ")),
			damaged)}
	}
	return []Finding{ok("quick_check finds no damage (%s)", rounded(time.Since(start)))}
}

// awoken tells whether the application has begun to use a database that was taken for one that can't change. Nothing is
// locked on such a one, so another look at the file can't drop any lock.
func (e *examination) awoken() bool {
	if !e.file.Quiet() {
		return false
	}
	now, err := store.LookAt(e.Database)
	return err == nil && !now.Quiet()
}

func (e *examination) checkJournal(context.Context) []Finding {
	switch f := e.file; {
	case f.Unmerged() > 0:
		return []Finding{warning("start the container, or make a pass: the next access takes it in",
			"%s of a write-ahead log are left over and not seen here", size(f.Log))}
	case f.WriteAhead && f.Log > longLog:
		return []Finding{warning("some connection reads without an end and keeps it from being emptied: "+
			"restart the container",
			"write-ahead log of %s", size(f.Log))}
	case f.WriteAhead && f.Writer.ResetsLogUnsafely():
		return []Finding{warning("update the container's image: SQLite is part of it; backups are no less "+
			"urgent until then",
			"write-ahead log; SQLite %s wrote last, which can damage a database when its log starts anew beside another writer "+
				"(the WAL-reset bug, repaired in 3.51.3)", f.Writer)}
	case f.WriteAhead && f.Log >= 0:
		return []Finding{ok("write-ahead log, %s", size(f.Log))}
	case f.WriteAhead:
		return []Finding{ok("write-ahead log, nobody uses it now")}
	}
	return []Finding{ok("rollback journal")}
}

// checkConfinement only tells: the units confine a pass in another way, and an older kernel is no fault.
func (e *examination) checkConfinement(context.Context) []Finding {
	if e.Loose != nil {
		return []Finding{ok("not by this program: %v", e.Loose)}
	}
	return []Finding{ok("the kernel keeps this program to the database's directory and what flags name (Landlock)")}
}

func (e *examination) checkDisk(context.Context) []Finding {
	free, err := store.FreeDisk(e.Database)
	if err != nil {
		return []Finding{failed(err, "")}
	}
	return []Finding{judgeDisk(free)}
}

func judgeDisk(free int64) Finding {
	const advice = "free some space: docker system df, df -h"
	switch {
	case free < fullDisk:
		return failed(fmt.Errorf("%s free: %w", size(free), syscall.ENOSPC), advice)
	case free < scarceDisk:
		return warning(advice, "%s free", size(free))
	}
	return ok("%s free", size(free))
}

func (e *examination) checkTables(ctx context.Context) []Finding {
	if err := e.db.CheckSchema(ctx); err != nil {
		return []Finding{failed(err, "")}
	}
	missing, err := e.db.CheckOwnTables(ctx)
	switch {
	case err != nil:
		return []Finding{failed(err, "rename that table: usage-sync then makes its own")}
	case len(missing) > 0:
		return []Finding{ok("those of the container; the next pass makes %s", strings.Join(missing, ", "))}
	}
	return []Finding{ok("those of the container, the ledger and our own, with every column")}
}

func (e *examination) checkLock(ctx context.Context) []Finding {
	path := e.LockFile
	if path == "" {
		var err error
		if path, err = job.LockPath(e.Database); err != nil {
			return []Finding{failed(err, "")}
		}
	}
	holder, held, err := job.Peek(path)
	switch {
	case err != nil:
		return []Finding{failed(err, "")}
	case held && e.Now().Sub(holder.Since) > longPass && !holder.Since.IsZero():
		return []Finding{warning(fmt.Sprintf("see what it does: ps -p %d -o pid,etime,args; until it ends no "+
			"pass can start", holder.PID),
			"held by %s", holder)}
	case held:
		return []Finding{ok("a pass is running: %s", holder)}
	}
	if err := lockable(path); err != nil {
		return []Finding{failed(fmt.Errorf("%w: %w", job.ErrLockFile, err), "")}
	}
	return []Finding{ok("free")}
}

// lockable tells whether a pass could open or make a lock file.
func lockable(path string) error {
	const readWrite = 6 // R_OK|W_OK of access(2)
	if _, err := os.Stat(path); err != nil {
		path = filepath.Dir(path)
	}
	if err := syscall.Access(path, readWrite); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func size(bytes int64) string {
	switch {
	case bytes < 1000:
		return fmt.Sprintf("%d B", bytes)
	case bytes < 1000*1000:
		return fmt.Sprintf("%.1f kB", float64(bytes)/1e3)
	case bytes < 1000*1000*1000:
		return fmt.Sprintf("%.1f MB", float64(bytes)/1e6)
	}
	return fmt.Sprintf("%.1f GB", float64(bytes)/1e9)
}
