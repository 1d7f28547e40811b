package integration_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// tracer runs a program under ptrace(2) and watches what it writes to files and what it has the disk keep.
type tracer struct {
	database string
	dirty    map[string]string // what a power cut may take: a file, or the entry of one in its directory, by what was done last
	syncs    int
	acknowledged
}

// acknowledged are the moments at which somebody is told that something is recorded.
type acknowledged struct {
	spoolFile string // removing one of this directory is one
	moments   []string
	lost      []string // what a power cut at such a moment would take
}

// needTracing leaves the test out where no process may trace another.
func needTracing(t *testing.T) {
	t.Helper()
	if err := (&tracer{}).run([]string{"/bin/true"}, nil, nil); err != nil {
		t.Skipf("left out: no ptrace(2) here: %v", err)
	}
}

// run runs a program to its end.
func (tr *tracer) run(args, env []string, stdin *os.File) error {
	runtime.LockOSThread() // ptrace(2) is the business of one thread
	defer runtime.UnlockOSThread()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	if stdin == nil {
		stdin = null
	}
	process, err := os.StartProcess(args[0], args, &os.ProcAttr{Env: env, Files: []*os.File{stdin, null, null},
		Sys: &syscall.SysProcAttr{Ptrace: true}})
	if err != nil {
		return err
	}
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(process.Pid, &status, syscall.WALL, nil); err != nil {
		return err
	}
	const sysGood = 1 // PTRACE_O_TRACESYSGOOD
	if err := syscall.PtraceSetOptions(process.Pid, sysGood|syscall.PTRACE_O_TRACECLONE); err != nil {
		return err
	}
	if err := syscall.PtraceSyscall(process.Pid, 0); err != nil {
		return err
	}
	entered := map[int]bool{} // threads in a system call
	for {
		thread, err := syscall.Wait4(-1, &status, syscall.WALL, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case err != nil:
			return err
		case status.Exited() || status.Signaled():
			if thread != process.Pid {
				continue
			}
			if status.ExitStatus() != 0 {
				return fmt.Errorf("%v ended with %d", args[1:], status.ExitStatus())
			}
			return nil
		case !status.Stopped():
			continue
		}
		signal := 0
		switch stop := status.StopSignal(); {
		case stop == syscall.SIGTRAP|0x80:
			var registers syscall.PtraceRegs
			if err := syscall.PtraceGetRegs(thread, &registers); err == nil {
				if entered[thread] = !entered[thread]; entered[thread] {
					tr.enter(process.Pid, thread, registers)
				}
			}
		case stop == syscall.SIGTRAP || stop == syscall.SIGSTOP: // of clone(2)
		default:
			signal = int(stop)
		}
		_ = syscall.PtraceSyscall(thread, signal) // the thread may be gone
	}
}

// enter notes a system call before it is made. What is written is taken for written, what is synced for synced.
func (tr *tracer) enter(pid, thread int, r syscall.PtraceRegs) {
	file := func() string {
		path, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, int32(r.Rdi)))
		return path
	}
	switch r.Orig_rax {
	case syscall.SYS_WRITE, syscall.SYS_PWRITE64, syscall.SYS_FTRUNCATE:
		if path := file(); path == tr.database || path == tr.database+"-wal" {
			tr.dirty[path] = "written"
		}
		if r.Orig_rax == syscall.SYS_WRITE && strings.HasPrefix(text(thread, r.Rsi), "HTTP/1.1 200") {
			tr.acknowledge("HTTP 200")
		}
	case syscall.SYS_FSYNC, syscall.SYS_FDATASYNC:
		path := file()
		if _, was := tr.dirty[path]; was {
			tr.syncs++
		}
		delete(tr.dirty, path)
	case syscall.SYS_UNLINK:
		tr.unlink(text(thread, r.Rdi))
	case syscall.SYS_UNLINKAT:
		tr.unlink(text(thread, r.Rsi))
	case syscall.SYS_EXIT_GROUP:
		if r.Rdi == 0 {
			tr.acknowledge("exit 0")
		}
	}
}

// unlink notes a removed file: that of a journal commits what is in the database, once the directory is on the disk.
func (tr *tracer) unlink(path string) {
	switch {
	case strings.HasSuffix(path, filepath.Base(tr.database)+"-journal"):
		tr.dirty[filepath.Dir(tr.database)] = "without the journal"
	case tr.spoolFile != "" && filepath.Base(path) == tr.spoolFile:
		tr.acknowledge("spool file removed")
	}
}

func (tr *tracer) acknowledge(what string) {
	tr.moments = append(tr.moments, what)
	for path, how := range tr.dirty {
		tr.lost = append(tr.lost, fmt.Sprintf("%s: %s is %s and not on the disk", what, path, how))
	}
}

// text reads a text from the memory of a stopped thread.
func text(thread int, address uint64) string {
	var whole []byte
	for len(whole) < 4096 {
		var part [64]byte
		n, err := syscall.PtracePeekData(thread, uintptr(address)+uintptr(len(whole)), part[:])
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

// TestAcknowledgedIsOnTheDisk: whenever success is told, what it tells of has been synced. The application has the database
// open, so that nothing is merged into it on the way out.
func TestAcknowledgedIsOnTheDisk(t *testing.T) {
	needTracing(t)
	all := generations(20, 4)
	deliver := "POST " + deliveryPath + " HTTP/1.1\r\nHost: x\r\nX-Webhook-Secret: " + hookSecret +
		"\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
	for name, test := range map[string]struct {
		args    []string
		request string
		prepare func(t *testing.T, path string)
		moments []string
	}{
		"sync":   {args: []string{"sync"}, moments: []string{"exit 0"}},
		"record": {args: []string{"record", "--org", organisation, "--model", "m", "--tokens", "1", "--cost", "0.1"}, moments: []string{"exit 0"}},
		"migrate": {args: []string{"migrate"}, moments: []string{"exit 0"}, prepare: func(t *testing.T, path string) {
			exec1(t, mustOpen(t, path), "drop table processed_generations")
		}},
		"webhook": {args: []string{"http"}, request: fmt.Sprintf(deliver, len(broadcast(all[0])), broadcast(all[0])), moments: []string{"HTTP 200", "exit 0"}},
		"restore": {args: []string{"restore", "--usage-only", "--yes", "BACKUP"}, moments: []string{"exit 0"}, prepare: func(t *testing.T, path string) {
			run(t, 0, path, "", "backup", "--usage-only", path+".backup")
			run(t, 0, path, "", "record", "--org", organisation, "--model", "m", "--tokens", "1", "--cost", "0.1")
		}},
		"spool": {args: []string{"ingest", "--spool"}, moments: []string{"spool file removed", "exit 0"}, prepare: func(t *testing.T, path string) {
			other := strings.Replace(broadcast(all[1]), "Acme GmbH", "Another", 1)
			c := newChild(path, "", "http")
			c.Env = append(c.Env, "USAGE_SYNC_WEBHOOK_SECRET="+hookSecret)
			c.Stdin = strings.NewReader(fmt.Sprintf(deliver, len(other), other))
			_ = c.Run()
			exec1(t, mustOpen(t, path), "insert into usage_sync_key_names values ('Another', ?, 0)", organisation)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			bothJournals(t, func(t *testing.T, journal string) {
				api := newGateway(t, 100, all)
				api.whenArriving(func(int, *http.Request) {})
				path := newDatabase(t, journal)
				if test.prepare != nil {
					test.prepare(t, path)
				}
				application := mustOpen(t, path)
				value[int](t, application, "select count(*) from client_organizations")
				tr := &tracer{database: path, dirty: map[string]string{}}
				if kept, _ := filepath.Glob(path + ".usage-sync.spool/*.json"); len(kept) == 1 {
					tr.spoolFile = filepath.Base(kept[0])
				} else if name == "spool" {
					t.Fatalf("%d files in the spool", len(kept))
				}
				var stdin *os.File
				if test.request != "" {
					file := filepath.Join(t.TempDir(), "request")
					if err := os.WriteFile(file, []byte(test.request), 0o600); err != nil {
						t.Fatal(err)
					}
					var err error
					if stdin, err = os.Open(file); err != nil {
						t.Fatal(err)
					}
					defer stdin.Close()
				}
				args := []string{command}
				for _, arg := range test.args {
					args = append(args, strings.ReplaceAll(arg, "BACKUP", path+".backup"))
				}
				env := append(childEnv(path, api.url), "USAGE_SYNC_WEBHOOK_SECRET="+hookSecret)
				if err := tr.run(args, env, stdin); err != nil {
					t.Fatal(err)
				}
				if got := strings.Join(tr.moments, ", "); got != strings.Join(test.moments, ", ") {
					t.Errorf("acknowledged: %s, want %s", got, strings.Join(test.moments, ", "))
				}
				if tr.syncs == 0 {
					t.Error("nothing was synced")
				}
				for _, lost := range tr.lost {
					t.Error(lost)
				}
			})
		})
	}
}
