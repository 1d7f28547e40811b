package integration_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// tracer runs a program under ptrace(2).
type tracer struct {
	args, env      []string
	stdin          *os.File
	stdout, stderr *os.File
	limit          time.Duration    // after which it is killed; 0 is never
	enter          func(call *call) // before a system call
	leave          func(call *call) // after it
}

// call is a system call of a traced thread.
type call struct {
	pid, thread int
	number      uint64
	args        [6]uint64
	result      int64         // once it is made; an errno is negative
	fail        syscall.Errno // set by enter: it is not made, set by leave: it is made; either way it returns this errno
	note        any           // of enter's, for leave
}

// needTracing leaves the test out where no process may trace another.
func needTracing(t *testing.T) {
	t.Helper()
	if _, err := (&tracer{args: []string{"/bin/true"}}).run(); err != nil {
		t.Skipf("left out: no ptrace(2) here: %v", err)
	}
}

// run runs the program to its end.
func (tr *tracer) run() (end syscall.WaitStatus, err error) {
	runtime.LockOSThread() // ptrace(2) is the business of one thread
	defer runtime.UnlockOSThread()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return end, err
	}
	defer null.Close()
	files := []*os.File{tr.stdin, tr.stdout, tr.stderr}
	for i, f := range files {
		if f == nil {
			files[i] = null
		}
	}
	process, err := os.StartProcess(tr.args[0], tr.args, &os.ProcAttr{Env: tr.env, Files: files, Sys: &syscall.SysProcAttr{Ptrace: true, Setpgid: true}})
	if err != nil {
		return end, err
	}
	defer process.Release()
	if tr.limit > 0 {
		defer time.AfterFunc(tr.limit, func() { _ = syscall.Kill(process.Pid, syscall.SIGKILL) }).Stop()
	}
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(process.Pid, &status, syscall.WALL, nil); err != nil {
		return end, err
	}
	const sysGood = 1 // PTRACE_O_TRACESYSGOOD
	if err := syscall.PtraceSetOptions(process.Pid, sysGood|syscall.PTRACE_O_TRACECLONE|unix.PTRACE_O_EXITKILL); err != nil {
		return end, err
	}
	if err := syscall.PtraceSyscall(process.Pid, 0); err != nil {
		return end, err
	}
	under := map[int]*call{} // by the thread that makes it
	for {
		// Its process group: a test has other children, too.
		thread, err := syscall.Wait4(-process.Pid, &status, syscall.WALL, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case err != nil:
			return end, err
		case status.Exited() || status.Signaled():
			if thread == process.Pid {
				return status, nil
			}
			continue
		case !status.Stopped():
			continue
		}
		signal := 0
		switch stop := status.StopSignal(); {
		case stop == syscall.SIGTRAP|0x80:
			tr.stopped(process.Pid, thread, under)
		case stop == syscall.SIGTRAP || stop == syscall.SIGSTOP: // of clone(2)
		default:
			signal = int(stop)
		}
		_ = syscall.PtraceSyscall(thread, signal) // the thread may be gone
	}
}

// stopped has a thread's system call watched, at its start and at its end.
func (tr *tracer) stopped(pid, thread int, under map[int]*call) {
	var r syscall.PtraceRegs
	if err := syscall.PtraceGetRegs(thread, &r); err != nil {
		return
	}
	c := under[thread]
	if c == nil {
		c = &call{pid: pid, thread: thread, number: r.Orig_rax, args: [6]uint64{r.Rdi, r.Rsi, r.Rdx, r.R10, r.R8, r.R9}}
		under[thread] = c
		if tr.enter != nil {
			tr.enter(c)
		}
		if c.fail != 0 {
			r.Orig_rax = ^uint64(0) // no such call
			_ = syscall.PtraceSetRegs(thread, &r)
		}
		return
	}
	delete(under, thread)
	c.result = int64(r.Rax)
	if c.fail != 0 {
		c.result = -int64(c.fail)
	}
	if tr.leave != nil {
		tr.leave(c)
	}
	if c.fail != 0 {
		r.Rax = uint64(-int64(c.fail))
		_ = syscall.PtraceSetRegs(thread, &r)
	}
}

// file names what a file descriptor is open on.
func (c *call) file(fd uint64) string {
	path, _ := os.Readlink(c.link(fd))
	return path
}

// link is the way to a file descriptor of the traced program's.
func (c *call) link(fd uint64) string { return fmt.Sprintf("/proc/%d/fd/%d", c.pid, int32(fd)) }

// path returns the path that a call names: relative to the directory of a descriptor, or to the working directory. Links in
// its directory are resolved, and the name itself is not.
func (c *call) path(dir, address uint64) string {
	path := strings.TrimRight(c.text(address), "/")
	const here = -100 // AT_FDCWD
	if own, ok := strings.CutPrefix(path, "/proc/self/"); ok {
		path = fmt.Sprintf("/proc/%d/%s", c.pid, own)
	} else if !filepath.IsAbs(path) {
		base := fmt.Sprintf("/proc/%d/cwd", c.pid)
		if int32(dir) != here {
			base = c.link(dir)
		}
		path = base + "/" + path
	}
	if real, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil {
		return filepath.Join(real, filepath.Base(path))
	}
	return path
}

// text reads a text from the program's memory.
func (c *call) text(address uint64) string {
	var whole []byte
	for len(whole) < 4096 {
		var part [64]byte
		n, err := syscall.PtracePeekData(c.thread, uintptr(address)+uintptr(len(whole)), part[:])
		if end := bytes.IndexByte(part[:n], 0); end >= 0 {
			return string(append(whole, part[:end]...))
		}
		if err != nil || n == 0 {
			break
		}
		whole = append(whole, part[:n]...)
	}
	return string(whole)
}

// bytes reads the program's memory.
func (c *call) bytes(address, count uint64) []byte {
	whole := make([]byte, count)
	if count == 0 {
		return whole
	}
	local := []unix.Iovec{{Base: &whole[0], Len: count}}
	n, err := unix.ProcessVMReadv(c.pid, local, []unix.RemoteIovec{{Base: uintptr(address), Len: int(count)}}, 0)
	if err != nil || uint64(n) != count {
		panic(fmt.Sprintf("memory of process %d: %d of %d bytes: %v", c.pid, n, count, err))
	}
	return whole
}
