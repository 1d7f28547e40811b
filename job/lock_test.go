package job

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
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
