package confine

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
)

const role = "USAGE_SYNC_TEST_CONFINED" // the directory that the test binary, as a child, tries

func TestMain(m *testing.M) {
	if dir := os.Getenv(role); dir != "" {
		if err := try(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestProcess confines a process of its own with many threads, and has each try what it may and what it may not.
func TestProcess(t *testing.T) {
	if _, err := Version(); err != nil {
		t.Skip("left out: ", err)
	}
	dir := t.TempDir()
	for _, name := range []string{"ours", "theirs", "read"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name, "file"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../theirs/file", filepath.Join(dir, "ours", "link")); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		c := exec.Command(self)
		c.Env = append(os.Environ(), role+"="+dir)
		if output, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, output)
		}
	}
}

// try is what the process does that is confined.
func try(dir string) error {
	at := func(name string) string { return filepath.Join(dir, name) }
	const threads = 12
	var ready, done sync.WaitGroup
	start, errs := make(chan struct{}), make([]error, threads)
	ready.Add(threads)
	for i := range threads {
		done.Go(func() {
			runtime.LockOSThread()
			ready.Done()
			<-start
			errs[i] = probe(at, i)
		})
	}
	ready.Wait()
	places := Places{Read: []string{at("read"), "/proc", at("missing")}, Write: []string{at("ours"), at("ours/later/still")}}
	if err := Process(places); err != nil {
		return err
	}
	close(start)
	done.Wait()
	return errors.Join(errs...)
}

func probe(at func(string) string, i int) error {
	mine := at(fmt.Sprintf("ours/%d", i))
	var errs []error
	for _, try := range []struct {
		name string
		want error
		do   func() error
	}{
		{"read ours", nil, func() error { _, err := os.ReadFile(at("ours/file")); return err }},
		{"make ours", nil, func() error { return os.WriteFile(mine, []byte("x"), 0o600) }},
		{"rename ours", nil, func() error { return os.Rename(mine, mine+".new") }},
		{"truncate ours", nil, func() error { return os.Truncate(mine+".new", 0) }},
		{"remove ours", nil, func() error { return os.Remove(mine + ".new") }},
		{"make a directory of ours", nil, func() error { return os.Mkdir(mine, 0o700) }},
		{"remove a directory of ours", nil, func() error { return os.Remove(mine) }},
		{"read what is to be read", nil, func() error { _, err := os.ReadFile(at("read/file")); return err }},
		{"write what is to be read", syscall.EACCES, func() error { return os.WriteFile(at("read/file"), nil, 0o600) }},
		{"read theirs", syscall.EACCES, func() error { _, err := os.ReadFile(at("theirs/file")); return err }},
		{"read theirs by a link", syscall.EACCES, func() error { _, err := os.ReadFile(at("ours/link")); return err }},
		{"write theirs", syscall.EACCES, func() error { return os.WriteFile(at("theirs/new"), nil, 0o600) }},
		{"remove theirs", syscall.EACCES, func() error { return os.Remove(at("theirs/file")) }},
		{"list theirs", syscall.EACCES, func() error { _, err := os.ReadDir(at("theirs")); return err }},
		{"run a program", syscall.EACCES, func() error { return exec.Command("/bin/true").Run() }},
	} {
		if err := try.do(); !errors.Is(err, try.want) {
			errs = append(errs, fmt.Errorf("thread %d, %s: %v, want %v", i, try.name, err, try.want))
		}
	}
	return errors.Join(errs...)
}
