package job

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"usage-sync/job/beside"
)

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "webui.db.usage-sync.lock")
	if _, held, err := Peek(path); held || err != nil {
		t.Errorf("no file: held %t, %v", held, err)
	}
	lock, err := Acquire(t.Context(), path, 0)
	if err != nil {
		t.Fatal(err)
	}
	holder, held, err := Peek(path)
	if err != nil || !held || holder.PID != os.Getpid() || time.Since(holder.Since) > time.Minute {
		t.Errorf("held %t by %s, %v", held, holder, err)
	}
	if _, err := Acquire(t.Context(), path, 50*time.Millisecond); !errors.Is(err, ErrHeld) || !strings.Contains(err.Error(), holder.String()) {
		t.Errorf("%v, want ErrHeld with the holder's name", err)
	}
	time.AfterFunc(100*time.Millisecond, func() { lock.Release() })
	second, err := Acquire(t.Context(), path, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Release(); err != nil {
		t.Error(err)
	}
	if _, held, _ := Peek(path); held {
		t.Error("held after the release")
	}
	if _, err := os.Stat(path); err != nil {
		t.Error("the file is gone: two passes could hold locks on two files of the same name")
	}
}

// A lock file that is none, such as the database itself, keeps what it holds; one that a power cut has blanked is taken.
func TestLockFileOfAnotherKind(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for _, content := range []string{"SQLite format 3\x00 and much more", "hello\n"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Acquire(t.Context(), path, 0); !errors.Is(err, ErrLockFile) {
			t.Errorf("%v, want ErrLockFile", err)
		}
		if got, _ := os.ReadFile(path); string(got) != content {
			t.Errorf("the file now holds %q", got)
		}
	}
	for _, content := range []string{"", strings.Repeat("\x00", 27)} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		lock, err := Acquire(t.Context(), path, 0)
		if err != nil {
			t.Fatalf("%q: %v", content, err)
		}
		lock.Release()
	}
	if _, err := Acquire(t.Context(), filepath.Join(path, "x"), 0); !errors.Is(err, ErrLockFile) {
		t.Errorf("no such directory: %v", err)
	}
}

func TestLockPath(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	database := filepath.Join(dir, "webui.db")
	if err := os.WriteFile(database, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link.db")
	if err := os.Symlink("webui.db", link); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	for _, spelling := range []string{database, link, "webui.db", "./link.db", dir + "/../" + filepath.Base(dir) + "//webui.db"} {
		if got, err := LockPath(spelling); err != nil || got != database+".usage-sync.lock" {
			t.Errorf("%s: %s, %v", spelling, got, err)
		}
	}
	if _, err := LockPath("missing.db"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
}

// TestLockTraps: who controls the directory of the lock file can keep a pass from running, and no more: nothing is made,
// written or given away elsewhere.
func TestLockTraps(t *testing.T) {
	for name, lay := range map[string]func(precious, path string) error{
		"link":      os.Symlink,
		"dangling":  func(precious, path string) error { return os.Symlink(precious+".new", path) },
		"hard link": os.Link,
		"pipe":      func(_, path string) error { return syscall.Mkfifo(path, 0o666) },
		"directory": func(_, path string) error { return os.Mkdir(path, 0o700) },
	} {
		t.Run(name, func(t *testing.T) {
			precious, path := filepath.Join(t.TempDir(), "precious"), filepath.Join(t.TempDir(), "webui.db.usage-sync.lock")
			if err := errors.Join(os.WriteFile(precious, []byte("123 2026-01-01T00:00:00Z\n"), 0o600), lay(precious, path)); err != nil {
				t.Fatal(err)
			}
			_, err := Acquire(t.Context(), path, 0)
			_, held, peekErr := Peek(path)
			if !errors.Is(err, ErrLockFile) || !errors.Is(err, beside.ErrStrange) {
				t.Errorf("%v, want that it is no lock file", err)
			}
			if !errors.Is(peekErr, ErrLockFile) || held {
				t.Errorf("held %t, %v", held, peekErr)
			}
			if text, err := os.ReadFile(precious); err != nil || string(text) != "123 2026-01-01T00:00:00Z\n" {
				t.Errorf("precious: %q, %v", text, err)
			}
			if _, err := os.Lstat(precious + ".new"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a link was followed: %v", err)
			}
		})
	}
}

// TestHolderIsTheKernels: what a lock file says is anybody's word.
func TestHolderIsTheKernels(t *testing.T) {
	path := filepath.Join(t.TempDir(), "webui.db.usage-sync.lock")
	lock, err := Acquire(t.Context(), path, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Release()
	for _, lie := range []string{"1 2026-01-01T00:00:00Z\n", "-5 x\n", "root\x1b[31m pid 1\n", ""} {
		if err := os.WriteFile(path, []byte(lie), 0o600); err != nil {
			t.Fatal(err)
		}
		holder, held, err := Peek(path)
		if err != nil || !held {
			t.Fatalf("held %t, %v", held, err)
		}
		if locks, err := os.ReadFile("/proc/locks"); err != nil || !strings.Contains(string(locks), "FLOCK") {
			t.Skip("the kernel does not say who holds locks")
		}
		if holder.PID != os.Getpid() || holder.String() != fmt.Sprintf("pid %d", os.Getpid()) {
			t.Errorf("%q: held by %s, want %d", lie, holder, os.Getpid())
		}
	}
}
