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
	"golang.org/x/sys/unix"

	"usage-sync/job/beside"
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
	switch {
	case h.PID == 0:
		return "an unknown process"
	case h.Since.IsZero():
		return fmt.Sprintf("pid %d", h.PID)
	}
	return fmt.Sprintf("pid %d since %s", h.PID, h.Since.Format(time.RFC3339))
}

// Lock is a held lock. The kernel frees it when its holder dies, so the file may stay: deleting it would let two passes
// hold locks on two files of the same name.
type Lock struct{ flock *flock.Flock }

// LockPath returns the lock file of a database: the same, whatever spelling or symbolic link names the database. A
// missing database is fs.ErrNotExist.
func LockPath(database string) (string, error) { return Beside(database, lockSuffix) }

const lockSuffix = ".usage-sync.lock"

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
	dir, err := beside.Open(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("%w %s: %w", ErrLockFile, path, err)
	}
	defer dir.Close()
	f, made, err := dir.OpenOrCreate(filepath.Base(path), 0o644)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrLockFile, err)
	}
	defer f.Close()
	if made { // a pass run by root must not keep one run by the container's user from opening the file
		like, _ := os.Stat(strings.TrimSuffix(path, lockSuffix))
		beside.Own(f, like)
	}
	lock := flock.New(dir.At(filepath.Base(path)), flock.SetFlag(os.O_RDWR|syscall.O_NOFOLLOW|syscall.O_NONBLOCK))
	for start, try := time.Now(), 1; ; try++ {
		held, err := lock.TryLock()
		switch {
		case err != nil:
			return nil, lockError(path, err)
		case held:
			if err := writeHolder(lock, f); err != nil {
				_ = lock.Close()
				return nil, fmt.Errorf("%w %s: %w", ErrLockFile, path, err)
			}
			return &Lock{lock}, nil
		case try >= lockTries && time.Since(start) >= wait:
			_ = lock.Close()
			return nil, fmt.Errorf("%w: %s is held by %s", ErrHeld, path, readHolder(f))
		}
		select {
		case <-ctx.Done():
			_ = lock.Close()
			return nil, context.Cause(ctx)
		case <-time.After(lockPoll):
		}
	}
}

// lockError says what it means that a file system has no locks.
func lockError(path string, err error) error {
	for _, without := range []error{syscall.ENOLCK, syscall.EOPNOTSUPP, syscall.ENOSYS} {
		if errors.Is(err, without) {
			return fmt.Errorf("%w %s: its file system, perhaps a network volume, can't lock files; name "+
				"another place with --lock: %w", ErrLockFile, path, err)
		}
	}
	return fmt.Errorf("%w: %w", ErrLockFile, err)
}

// Release frees the lock.
func (l *Lock) Release() error { return l.flock.Close() }

// Peek tells who holds a lock, if anybody does. It never makes the file.
func Peek(path string) (Holder, bool, error) {
	dir, err := beside.Open(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return Holder{}, false, nil
	}
	if err != nil {
		return Holder{}, false, fmt.Errorf("%w: %w", ErrLockFile, err)
	}
	defer dir.Close()
	f, err := dir.Open(filepath.Base(path), os.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return Holder{}, false, nil
	}
	if err != nil {
		return Holder{}, false, fmt.Errorf("%w: %w", ErrLockFile, err)
	}
	defer f.Close()
	lock := flock.New(dir.At(filepath.Base(path)), flock.SetFlag(os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK))
	free, err := lock.TryRLock()
	if err != nil {
		return Holder{}, false, lockError(path, err)
	}
	_ = lock.Close()
	if free {
		return Holder{}, false, nil
	}
	return readHolder(f), true, nil
}

// writeHolder writes a line into a locked file, through f. It leaves a file alone that holds anything else:
// --lock may name a database by mistake.
func writeHolder(lock *flock.Flock, f *os.File) error {
	locked, err := lock.Stat()
	if err != nil {
		return err
	}
	if open, err := f.Stat(); err != nil || !os.SameFile(locked, open) {
		return errors.Join(err, fmt.Errorf("%w: somebody has exchanged it", beside.ErrStrange))
	}
	text, err := io.ReadAll(io.LimitReader(f, mostOfHolder))
	if err != nil {
		return err
	}
	// A power cut may leave zeros where the line was.
	if strings.Trim(string(text), "\x00") != "" && parseHolder(string(text)).PID == 0 {
		return errors.New("holds something else, it is no lock file")
	}
	line := fmt.Sprintf("%d %s\n", os.Getpid(), time.Now().UTC().Format(time.RFC3339))
	if _, err := f.WriteAt([]byte(line), 0); err != nil {
		return err
	}
	return f.Truncate(int64(len(line)))
}

// mostOfHolder bounds what is read of a lock file.
const mostOfHolder = 4096

// readHolder says who holds the lock of an open file: by the kernel, where it tells. What the file says may be
// anybody's word.
func readHolder(f *os.File) Holder {
	text := make([]byte, mostOfHolder)
	n, _ := f.ReadAt(text, 0)
	said := parseHolder(string(text[:n]))
	if pid := kernelHolder(f); pid != 0 && pid != said.PID {
		return Holder{PID: pid}
	}
	return said
}

func parseHolder(text string) (h Holder) {
	pid, since, _ := strings.Cut(strings.TrimSpace(text), " ")
	number, err := strconv.Atoi(pid)
	if err != nil || number < 0 {
		return Holder{}
	}
	h.PID = number
	h.Since, _ = time.Parse(time.RFC3339, since)
	return h
}

// kernelHolder returns the process that holds a lock on a file, by /proc/locks (proc(5)); 0 where it does not say.
func kernelHolder(f *os.File) int {
	var info unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &info); err != nil {
		return 0
	}
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		return 0
	}
	file := fmt.Sprintf("%02x:%02x:%d", unix.Major(info.Dev), unix.Minor(info.Dev), info.Ino)
	for line := range strings.Lines(string(locks)) {
		// 1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF
		if words := strings.Fields(line); len(words) >= 6 && words[1] == "FLOCK" && words[5] == file {
			pid, _ := strconv.Atoi(words[4])
			return max(0, pid)
		}
	}
	return 0
}
