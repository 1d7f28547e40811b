package job

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/gofrs/flock"

	"usage-sync/store"
)

var (
	// ErrHeld: another pass holds the lock.
	ErrHeld = NewError(KindLockHeld, "another pass is running")
	// ErrLockFile: the lock file can't be made or opened.
	ErrLockFile = NewError(KindOutputFile, "lock file")
)

// Holder is who holds a lock, as the holder has written it into the lock file.
type Holder struct {
	PID   int
	Since time.Time
}

func (h Holder) String() string {
	if h.PID == 0 {
		return "an unknown process"
	}
	return fmt.Sprintf("pid %d since %s", h.PID, h.Since.Format(time.RFC3339))
}

// Lock is a held lock. The kernel frees it when its holder dies, so the file may stay: deleting it would let two passes
// hold locks on two files of the same name.
type Lock struct{ flock *flock.Flock }

// LockPath returns the lock file of a database: the same, whatever spelling or symbolic link names the database. A
// missing database is fs.ErrNotExist.
func LockPath(database string) (string, error) { return Beside(database, ".usage-sync.lock") }

// Beside returns the path of a file of ours beside a database, whatever spelling or symbolic link names the database.
func Beside(database, suffix string) (string, error) {
	info, err := os.Stat(database) // its error has an errno, those of EvalSymlinks have not always
	if err == nil && !info.Mode().IsRegular() {
		return "", fmt.Errorf("database %s: %w", database, store.ErrNotFile)
	}
	var real string
	if err == nil {
		real, err = filepath.EvalSymlinks(database)
	}
	if err == nil {
		real, err = filepath.Abs(real)
	}
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = fs.ErrNotExist
		}
		return "", fmt.Errorf("database %s: %w", database, err)
	}
	return real + suffix, nil
}

const (
	// lockPoll is the pause between two tries.
	lockPoll = 20 * time.Millisecond
	// lockTries is the least number of tries: Peek holds the lock for a moment to find out whether it is free.
	lockTries = 3
)

// Acquire takes the lock, waiting for it as long as wait. It returns ErrHeld with the holder's name, or ErrLockFile.
func Acquire(ctx context.Context, path string, wait time.Duration) (*Lock, error) {
	lock := flock.New(path, flock.SetFlag(os.O_CREATE|os.O_RDWR), flock.SetPermissions(0o644))
	for start, try := time.Now(), 1; ; try++ {
		held, err := lock.TryLock()
		switch {
		case err != nil:
			return nil, fmt.Errorf("%w: %w", ErrLockFile, err)
		case held:
			if err := writeHolder(path, Holder{PID: os.Getpid(), Since: time.Now()}); err != nil {
				_ = lock.Close()
				return nil, fmt.Errorf("%w %s: %w", ErrLockFile, path, err)
			}
			return &Lock{lock}, nil
		case try >= lockTries && time.Since(start) >= wait:
			_ = lock.Close()
			return nil, fmt.Errorf("%w: %s is held by %s", ErrHeld, path, readHolder(path))
		}
		select {
		case <-ctx.Done():
			_ = lock.Close()
			return nil, context.Cause(ctx)
		case <-time.After(lockPoll):
		}
	}
}

// Release frees the lock.
func (l *Lock) Release() error { return l.flock.Close() }

// Peek tells who holds a lock, if anybody does. It never makes the file.
func Peek(path string) (Holder, bool, error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return Holder{}, false, nil
	}
	lock := flock.New(path, flock.SetFlag(os.O_RDONLY))
	free, err := lock.TryRLock()
	if err != nil {
		return Holder{}, false, fmt.Errorf("%w: %w", ErrLockFile, err)
	}
	_ = lock.Close()
	if free {
		return Holder{}, false, nil
	}
	return readHolder(path), true, nil
}

// writeHolder writes a line into a lock file. It leaves a file alone that holds anything else: --lock may name a database
// by mistake.
func writeHolder(path string, h Holder) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	// A power cut may leave zeros where the line was.
	if text, err := io.ReadAll(io.LimitReader(f, 4096)); err != nil || (strings.Trim(string(text), "\x00") != "" && readHolder(path).PID == 0) {
		return errors.Join(err, errors.New("holds something else, it is no lock file"))
	}
	// A pass run by root must not keep one run by the container's user from opening the file.
	if database, err := os.Stat(strings.TrimSuffix(path, ".usage-sync.lock")); err == nil && os.Geteuid() == 0 {
		if owner, ok := database.Sys().(*syscall.Stat_t); ok {
			_ = f.Chown(int(owner.Uid), int(owner.Gid))
		}
	}
	line := fmt.Sprintf("%d %s\n", h.PID, h.Since.UTC().Format(time.RFC3339))
	if _, err := f.WriteAt([]byte(line), 0); err != nil {
		return err
	}
	return f.Truncate(int64(len(line)))
}

func readHolder(path string) Holder {
	text, err := os.ReadFile(path)
	if err != nil {
		return Holder{}
	}
	pid, since, _ := strings.Cut(strings.TrimSpace(string(text)), " ")
	var h Holder
	if h.PID, err = strconv.Atoi(pid); err != nil {
		return Holder{}
	}
	h.Since, _ = time.Parse(time.RFC3339, since)
	return h
}
