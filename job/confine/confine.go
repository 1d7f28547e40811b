// Package confine keeps this process to the files that it needs, by Landlock
// (https://docs.kernel.org/userspace-api/landlock.html, read in November 2026): what a container lays into its
// volume leads it nowhere else.
package confine

/*
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define RESTRICT_SELF 446

static int ruleset;
static atomic_int answers;

static int restrict_this(void) { return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || syscall(RESTRICT_SELF, ruleset, 0); }

static void restrict_asked(int signal) {
	int kept = errno;
	restrict_this();
	errno = kept;
	atomic_fetch_add(&answers, 1);
}

// Restrict every thread. The kernel restricts the one that asks and those that it makes later; libc's way to
// reach all is not for others to use. Once those that were found have answered, what they make is restricted as
// well, and what they had made before is found in the next round. What has worked for this thread works for
// all; the handler and the ruleset stay for one that does not answer in time.
static int restrict_all(int fd) {
	// Go leaves this signal to libc and blocks it in no thread (sigtab_linux_generic.go of its runtime).
	const int reach = 34;
	struct sigaction action = {.sa_handler = restrict_asked, .sa_flags = SA_ONSTACK | SA_RESTART};
	int asked[256], n = 0, sent = 0, pid = getpid(), self = syscall(SYS_gettid);
	ruleset = fd;
	sigfillset(&action.sa_mask);
	if (restrict_this() || sigaction(reach, &action, NULL)) return errno;
	for (int before = -1; before < n;) {
		DIR *tasks = opendir("/proc/self/task");
		if (!tasks) return errno;
		before = n;
		for (struct dirent *task; (task = readdir(tasks));) {
			int id = atoi(task->d_name), known = id == 0 || id == self;
			for (int i = 0; i < n; i++) known |= asked[i] == id;
			if (known) continue;
			if (n == sizeof asked / sizeof *asked) { closedir(tasks); return EMFILE; }
			asked[n++] = id;
			if (syscall(SYS_tgkill, pid, id, reach) == 0) sent++; // else it has ended
		}
		closedir(tasks);
		for (int i = 0; atomic_load(&answers) < sent && i < 5000; i++) nanosleep(&(struct timespec){0, 20000}, NULL);
	}
	return atomic_load(&answers) < sent ? EAGAIN : 0;
}
*/
import "C"

import (
	"errors"
	"fmt"
	"path/filepath"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// errMissing: the kernel has no Landlock, or does not use it.
var errMissing = errors.New("this kernel has no Landlock")

// Places are files and directories with what is below them. One that is missing stands for the directory that
// it is to be in.
type Places struct {
	Read, Write []string
}

const (
	reading = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
	// ofFiles are the rights that a file may have: the others are those of directories.
	ofFiles = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE |
		unix.LANDLOCK_ACCESS_FS_EXECUTE
)

// handled are the rights that a version of Landlock knows, and that nobody has who is not given them.
func handled(version int) uint64 {
	rights := uint64(unix.LANDLOCK_ACCESS_FS_REFER - 1)
	if version >= 2 {
		rights |= unix.LANDLOCK_ACCESS_FS_REFER
	}
	if version >= 3 {
		rights |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	return rights
}

// Version is that of the kernel's Landlock, or errMissing.
func Version() (int, error) {
	version, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0, fmt.Errorf("%w: %w", errMissing, errno)
	}
	return int(version), nil
}

// Process keeps this process, all its threads and whatever it starts, to places. There is no way back.
func Process(places Places) error {
	version, err := Version()
	if err != nil {
		return err
	}
	attributes := unix.LandlockRulesetAttr{Handled_access_fs: handled(version)}
	set, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attributes)),
		unsafe.Sizeof(attributes.Handled_access_fs), 0) // the first version has this field alone
	if errno != 0 {
		return fmt.Errorf("landlock_create_ruleset: %w", errno)
	}
	for _, path := range places.Read {
		if err := allow(int(set), path, reading); err != nil {
			return err
		}
	}
	for _, path := range places.Write {
		if err := allow(int(set), path, handled(version)&^unix.LANDLOCK_ACCESS_FS_EXECUTE); err != nil {
			return err
		}
	}
	if code := C.restrict_all(C.int(set)); code != 0 {
		return fmt.Errorf("landlock_restrict_self: %w", syscall.Errno(code))
	}
	return nil
}

// allow gives rights on a place.
func allow(set int, path string, rights uint64) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	for writing := rights != reading; writing && errors.Is(err, unix.ENOENT) && filepath.Dir(path) != path; {
		path = filepath.Dir(path)
		fd, err = unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return nil // nobody gets there
	}
	defer func() { _ = unix.Close(fd) }()
	var info unix.Stat_t
	if err := unix.Fstat(fd, &info); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if info.Mode&unix.S_IFMT != unix.S_IFDIR {
		rights &= ofFiles
	}
	rule := unix.LandlockPathBeneathAttr{Allowed_access: rights, Parent_fd: int32(fd)}
	if _, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(set), unix.LANDLOCK_RULE_PATH_BENEATH,
		uintptr(unsafe.Pointer(&rule)), 0, 0, 0); errno != 0 {
		return fmt.Errorf("landlock_add_rule %s: %w", path, errno)
	}
	return nil
}
