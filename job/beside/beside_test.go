package beside

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func open(t *testing.T, path string) *Dir {
	t.Helper()
	d, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// traps lays what a hostile owner of a directory may lay under a name, and returns a file that must never change.
func traps(t *testing.T) (traps map[string]func(path string) error, precious string) {
	t.Helper()
	precious = filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(precious, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	traps = map[string]func(string) error{
		"link":      func(path string) error { return os.Symlink(precious, path) },
		"dangling":  func(path string) error { return os.Symlink(precious+".new", path) },
		"hard link": func(path string) error { return os.Link(precious, path) },
		"pipe":      func(path string) error { return unix.Mkfifo(path, 0o666) },
		"directory": func(path string) error { return os.Mkdir(path, 0o700) },
	}
	if os.Geteuid() == 0 {
		traps["device"] = func(path string) error { return unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 7))) } // /dev/full
	}
	return traps, precious
}

// TestTraps: whatever bears the name of a file of ours is opened by no way, does not block, and what it leads to stays.
func TestTraps(t *testing.T) {
	all, precious := traps(t)
	for name, lay := range all {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := lay(filepath.Join(dir, "file")); err != nil {
				t.Fatal(err)
			}
			d := open(t, dir)
			for _, flags := range []int{os.O_RDONLY, os.O_RDWR} {
				if f, err := d.Open("file", flags); !errors.Is(err, ErrStrange) {
					t.Errorf("opened %v, %v", f, err)
				}
			}
			if _, _, err := d.OpenOrCreate("file", 0o600); !errors.Is(err, ErrStrange) && name != "dangling" {
				t.Errorf("%v", err)
			}
			if _, err := d.Read("file", 100); !errors.Is(err, ErrStrange) {
				t.Errorf("%v", err)
			}
			if _, err := d.Dir("file"); name != "directory" && !errors.Is(err, ErrStrange) {
				t.Errorf("as a directory: %v", err)
			}
			err := d.Put("file", []byte("ours"), 0o600, nil)
			if name == "directory" {
				if err == nil {
					t.Error("a directory was replaced")
				}
			} else if text, readErr := d.Read("file", 100); err != nil || readErr != nil || string(text) != "ours" {
				t.Errorf("%q, %v, %v", text, err, readErr)
			}
			if err := d.Remove("file"); err != nil && name != "directory" {
				t.Error(err)
			}
			if left, err := d.Names(10); err != nil || len(left) > 0 && name != "directory" {
				t.Errorf("left: %v, %v", left, err)
			}
			if text, err := os.ReadFile(precious); err != nil || string(text) != "precious" {
				t.Errorf("precious: %q, %v", text, err)
			}
			if _, err := os.Lstat(precious + ".new"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a link was followed: %v", err)
			}
		})
	}
}

// TestNothingIsFoundByNameTwice: an open directory is that directory, whatever bears its name by now.
func TestNothingIsFoundByNameTwice(t *testing.T) {
	top := t.TempDir()
	ours, theirs := filepath.Join(top, "ours"), filepath.Join(top, "theirs")
	if err := errors.Join(os.Mkdir(ours, 0o700), os.Mkdir(theirs, 0o700)); err != nil {
		t.Fatal(err)
	}
	d := open(t, ours)
	if err := errors.Join(os.Rename(ours, filepath.Join(top, "moved")), os.Symlink(theirs, ours)); err != nil {
		t.Fatal(err)
	}
	if err := d.Put("file", []byte("x"), 0o600, nil); err != nil {
		t.Fatal(err)
	}
	sub, err := d.MakeDir("sub", 0o700, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	if entries, _ := os.ReadDir(theirs); len(entries) > 0 {
		t.Errorf("the other directory has %v", entries)
	}
	if entries, _ := os.ReadDir(filepath.Join(top, "moved")); len(entries) != 2 {
		t.Errorf("the directory has %v", entries)
	}
	for _, name := range []string{"", ".", "..", "a/b", "../theirs/x", "/etc/passwd"} {
		_, err := d.Open(name, os.O_RDONLY)
		_, dirErr := d.Dir(name)
		for _, err := range []error{err, dirErr, d.Remove(name), d.Put(name, nil, 0o600, nil)} {
			if err == nil {
				t.Errorf("%q is no name of a file here", name)
			}
		}
	}
}

// TestReadIsBounded: no file takes more memory than it may.
func TestReadIsBounded(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	if err := d.Put("exact", []byte(strings.Repeat("x", 100)), 0o600, nil); err != nil {
		t.Fatal(err)
	}
	if text, err := d.Read("exact", 100); err != nil || len(text) != 100 {
		t.Errorf("%d bytes, %v", len(text), err)
	}
	if _, err := d.Read("exact", 99); !errors.Is(err, ErrStrange) {
		t.Errorf("%v", err)
	}
	f, err := os.Create(filepath.Join(dir, "huge"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(1 << 40); err != nil {
		t.Skip("this file system has no sparse files")
	}
	if _, err := d.Read("huge", 1000); !errors.Is(err, ErrStrange) {
		t.Errorf("%v", err)
	}
}

// TestOwn: what we make gets an owner, what was there keeps its own.
func TestOwn(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root gives files away")
	}
	dir := t.TempDir()
	like := filepath.Join(dir, "like")
	if err := errors.Join(os.WriteFile(like, nil, 0o600), os.Chown(like, 12345, 12346)); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(like)
	if err != nil {
		t.Fatal(err)
	}
	d := open(t, dir)
	if err := d.Put("new", nil, 0o600, info); err != nil {
		t.Fatal(err)
	}
	got, err := os.Stat(filepath.Join(dir, "new"))
	if err != nil || got.Sys().(*syscall.Stat_t).Uid != 12345 || got.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", got, err)
	}
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	sub, err := d.MakeDir("sub", 0o700, info)
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	if got, _ := os.Stat(filepath.Join(dir, "sub")); got.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Error("a directory that was there was given away")
	}
}

// TestRace: while somebody exchanges a file for a link all the time, nothing is ever written through the link.
func TestRace(t *testing.T) {
	_, precious := traps(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
			}
			_ = os.Remove(path)
			_ = os.Symlink(precious, path)
			_ = os.Remove(path)
			_ = os.Link(precious, path)
			_ = os.Remove(path)
			_ = os.WriteFile(path, nil, 0o600)
		}
	}()
	d := open(t, dir)
	opened := 0
	for end := time.Now().Add(time.Minute); opened < 50 && time.Now().Before(end); {
		f, _, err := d.OpenOrCreate("file", 0o600)
		if err != nil {
			continue
		}
		opened++
		_, _ = f.WriteString("ours")
		_ = f.Close()
	}
	close(stop)
	<-stopped
	if text, err := os.ReadFile(precious); err != nil || string(text) != "precious" {
		t.Errorf("precious: %q, %v", text, err)
	}
	if opened == 0 {
		t.Error("it was never opened")
	}
}
