package integration_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fallible are the system calls that are made to fail. Those of Go's runtime itself, for memory and threads, are not among
// them: it ends the process then.
var fallible = map[uint64]string{
	syscall.SYS_OPEN: "open", syscall.SYS_OPENAT: "openat", unix.SYS_OPENAT2: "openat2", syscall.SYS_CLOSE: "close",
	syscall.SYS_READ: "read", syscall.SYS_PREAD64: "pread", syscall.SYS_WRITE: "write", syscall.SYS_PWRITE64: "pwrite",
	syscall.SYS_LSEEK: "lseek", syscall.SYS_STAT: "stat", syscall.SYS_LSTAT: "lstat", syscall.SYS_FSTAT: "fstat",
	syscall.SYS_NEWFSTATAT: "newfstatat", syscall.SYS_ACCESS: "access", syscall.SYS_FACCESSAT: "faccessat",
	unix.SYS_FACCESSAT2: "faccessat2", syscall.SYS_READLINK: "readlink", syscall.SYS_READLINKAT: "readlinkat",
	syscall.SYS_GETDENTS64: "getdents", syscall.SYS_STATFS: "statfs", syscall.SYS_GETCWD: "getcwd",
	syscall.SYS_MKDIR: "mkdir", syscall.SYS_MKDIRAT: "mkdirat", syscall.SYS_UNLINK: "unlink", syscall.SYS_UNLINKAT: "unlinkat",
	syscall.SYS_RENAME: "rename", syscall.SYS_RENAMEAT: "renameat", unix.SYS_RENAMEAT2: "renameat2",
	syscall.SYS_FTRUNCATE: "ftruncate", syscall.SYS_FSYNC: "fsync", syscall.SYS_FDATASYNC: "fdatasync",
	syscall.SYS_FCNTL: "fcntl", syscall.SYS_FLOCK: "flock", syscall.SYS_FCHMOD: "fchmod", syscall.SYS_FCHOWN: "fchown",
	syscall.SYS_MMAP: "mmap", syscall.SYS_SOCKET: "socket", syscall.SYS_CONNECT: "connect",
}

// errnos are what they fail with.
var errnos = []syscall.Errno{syscall.EIO, syscall.ENOSPC, syscall.EDQUOT, syscall.EMFILE, syscall.ENOMEM}

// site is a system call of a run: the n-th of its kind on its file.
type site struct {
	call, file string
	n          int
}

// sites watches the calls of a run.
type sites struct {
	dir  string // of the database: its name differs from run to run
	seen map[site]int
	all  []site
	fault
	reached bool // the fault was
}

// siteOf says which call it is, if it is one that may fail.
func (s *sites) siteOf(c *call) (at site, ok bool) {
	at.call, ok = fallible[c.number]
	if !ok {
		return at, false
	}
	const here = ^uint64(99) // AT_FDCWD
	switch at.call {
	case "open", "stat", "lstat", "access", "readlink", "mkdir", "unlink", "rename", "statfs":
		at.file = c.path(here, c.args[0])
	case "openat", "openat2", "newfstatat", "faccessat", "faccessat2", "readlinkat", "mkdirat", "unlinkat", "renameat", "renameat2":
		at.file = c.path(c.args[0], c.args[1])
	case "mmap":
		if int32(c.args[4]) < 0 {
			return at, false
		}
		at.file = c.file(c.args[4])
	case "socket", "getcwd":
	default:
		at.file = c.file(c.args[0])
	}
	if at.call == "fcntl" && !slices.Contains([]uint64{syscall.F_GETLK, syscall.F_SETLK, syscall.F_SETLKW}, c.args[1]) {
		return at, false
	}
	at.file = strings.ReplaceAll(at.file, s.dir, "DIR")
	if strings.HasPrefix(at.file, "anon_inode:") || strings.HasPrefix(at.file, "/sys/") { // of Go's runtime
		return at, false
	}
	if kind, _, ok := strings.Cut(at.file, ":["); ok { // socket:[123]
		at.file = kind
	}
	kind := at
	s.seen[kind]++
	at.n = s.seen[kind]
	return at, true
}

func (s *sites) enter(c *call) {
	at, ok := s.siteOf(c)
	if !ok {
		return
	}
	s.all = append(s.all, at)
	if at == s.site || s.forever && s.reached && at.call == s.call {
		s.reached = true
		if at.call == "close" { // a file is closed nevertheless
			c.note = s.errno
		} else {
			c.fail = s.errno
		}
	}
}

func (s *sites) leave(c *call) {
	if errno, ok := c.note.(syscall.Errno); ok {
		c.fail = errno
	}
}

// readers are the commands that write nothing.
func readers() map[string]scene {
	all := map[string]scene{}
	for _, args := range [][]string{{"usage"}, {"status"}, {"history"}, {"doctor"}, {"reconcile"}, {"report"}, {"gaps"}, {"takeover"},
		{"migrate", "--check"}, {"sync", "--dry-run"}, {"instances"}} {
		all[strings.Join(args, " ")] = scene{args: args, reads: true, next: [][]string{{"sync"}}, prepare: func(t *testing.T, s *stage) {
			s.run(t, "sync")
		}}
	}
	return all
}

// TestSystemCallsFail: whatever system call of a command fails, and how, it ends in time, says why as a fault of the machine
// and not of its own, tells of success only where it is one, and leaves what the next pass makes right.
func TestSystemCallsFail(t *testing.T) {
	needTracing(t)
	all := scenes()
	for name, s := range readers() {
		all[name] = s
	}
	bothJournals(t, func(t *testing.T, journal string) {
		template := filepath.Dir(newDatabase(t, journal))
		for name, s := range all {
			t.Run(name, func(t *testing.T) {
				if s.reads && journal == "DELETE" && !*long {
					t.Skip("left out: make soak has commands that only read meet this mode")
				}
				systemCallsFail(t, s.stage(t, template))
			})
		}
	})
}

// fault is a call that fails: once, or with all that follow of its kind.
type fault struct {
	site
	errno   syscall.Errno
	forever bool
}

func (f fault) String() string {
	often := "once"
	if f.forever {
		often = "from then on"
	}
	return fmt.Sprintf("%s %s %d %s %s", f.call, f.file, f.n, unix.ErrnoName(f.errno), often)
}

// faultsOf are the faults to try of a run. Each call fails once, each with another errno in the short form, in which only a
// few are tried; and the first of each kind on each file fails from then on, but for those of the network, after which a
// pass tries again until its deadline.
func faultsOf(run []site) (all []fault) {
	for i, at := range run {
		for j, errno := range errnos {
			if *long || j == i%len(errnos) {
				all = append(all, fault{at, errno, false})
			}
			if at.n == 1 && !isNetwork(at) && (*long || j == (i+1)%len(errnos)) {
				all = append(all, fault{at, errno, true})
			}
		}
	}
	return all
}

func isNetwork(at site) bool {
	return at.file == "socket" || at.call == "socket"
}

// shortFaults is how many faults the short form tries of a command.
const shortFaults = 3

func systemCallsFail(t *testing.T, st *stage) {
	undisturbed := &sites{}
	st.traced(t, undisturbed)
	all := faultsOf(undisturbed.all)
	tried := all
	if !*long {
		tried = nil
		for i := range shortFaults {
			tried = append(tried, all[i*len(all)/shortFaults])
		}
	}
	t.Logf("%d calls; of %d faults %d are tried", len(undisturbed.all), len(all), len(tried))
	var reached atomic.Int64 // threads and timers make two runs differ a little
	t.Cleanup(func() {
		if got := int(reached.Load()); !t.Failed() && 2*got < len(tried) {
			t.Errorf("only %d of %d faults were reached", got, len(tried))
		}
	})
	for _, f := range tried {
		t.Run(f.String(), func(t *testing.T) {
			t.Parallel()
			s := &sites{fault: f}
			dir, told := st.traced(t, s)
			if s.reached {
				reached.Add(1)
			}
			st.check(t, dir, told && !st.reads)
		})
	}
}

// traced runs the command of a stage in a copy of its directory and tells whether it claims success.
func (s *stage) traced(t *testing.T, watch *sites) (dir string, told bool) {
	t.Helper()
	dir = copyOfDirectory(t, s.dir)
	watch.dir, watch.seen = dir, map[site]int{}
	files := map[string]*os.File{}
	for _, name := range []string{"stdin", "stdout", "stderr"} {
		f, err := os.Create(filepath.Join(filepath.Dir(dir), name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files[name] = f
	}
	if _, err := files["stdin"].WriteString(s.stdin); err != nil {
		t.Fatal(err)
	}
	if _, err := files["stdin"].Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	// Longer than any wait of the program's own.
	const hanging = 2 * time.Minute
	end, err := (&tracer{args: append([]string{command}, inDirectory(dir, s.args)...), env: append(s.env(dir), "USAGE_SYNC_TIMEOUT=1m"), limit: hanging,
		stdin: files["stdin"], stdout: files["stdout"], stderr: files["stderr"], enter: watch.enter, leave: watch.leave}).run()
	if err != nil {
		t.Fatal(err)
	}
	stdout, _ := os.ReadFile(files["stdout"].Name())
	stderr, _ := os.ReadFile(files["stderr"].Name())
	if end.Signaled() || end.ExitStatus() == 70 || strings.Contains(string(stderr), "goroutine ") {
		t.Errorf("%v ends with %d, signal %d\n%s%s", s.args, end.ExitStatus(), end.Signal(), stdout, stderr)
	}
	if s.args[0] == "http" {
		return dir, strings.HasPrefix(string(stdout), "HTTP/1.1 200") || strings.Contains(string(stdout), "kept until")
	}
	return dir, end.ExitStatus() == 0
}
