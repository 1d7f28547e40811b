package integration_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"usage-sync/job/confine"
)

// The tests of this file do to the database what its owner does: its application changes the journal mode, an operator
// puts a restored copy in its place, an engine mounts it as a single file.

// TestNothingIsOpenWhileWaiting asks, at each request of a pass, for what only the sole user of a database gets.
func TestNothingIsOpenWhileWaiting(t *testing.T) {
	bothJournals(t, func(t *testing.T, journal string) {
		all := generations(250, 4)
		api := newGateway(t, 100, all)
		path := newDatabase(t, journal)
		pass := newChild(path, api.url, "sync")
		asked, started := make(chan error, 100), make(chan struct{})
		api.whenArriving(func(_ int, r *http.Request) {
			<-started
			// The page before is recorded meanwhile. What is open after that would be open until the answer.
			// This one begins with its last rows again.
			offset, _ := strconv.Atoi(r.URL.Query().Get("offset"))
			waitUntil(t, "the page before is recorded", func() bool { return ledgerRows(path) >= min(len(all), offset) })
			waitUntil(t, "the database is closed while a request is under way", func() bool { return !opensAny(pass.Process.Pid, path) })
			// Two that close at once leave the files to the next one: it was this test.
			_ = ledgerRows(path)
			for _, suffix := range []string{"-wal", "-shm", "-journal"} {
				if _, err := os.Lstat(path + suffix); err == nil {
					t.Errorf("%s is left while a request is under way", suffix)
				}
			}
			asked <- changeJournal(path, journal)
		})
		pass.start(t)
		close(started)
		if err := pass.Wait(); err != nil {
			t.Fatalf("%v\n%s", err, &pass.stderr)
		}
		close(asked)
		requests := 0
		for err := range asked {
			requests++
			if err != nil {
				t.Errorf("the application can't change the journal mode: %v", err)
			}
		}
		if requests < 3 {
			t.Errorf("%d requests, want one a page", requests)
		}
		checkTruth(t, path, truth(all))
		checkSound(t, path)
	})
}

// ledgerRows counts the generations that are recorded, -1 while that can't be told.
func ledgerRows(path string) (n int) {
	db, err := open(path)
	if err != nil {
		return -1
	}
	defer db.Close()
	if err := db.QueryRow("select count(*) from processed_generations").Scan(&n); err != nil {
		return -1
	}
	return n
}

// opensAny tells whether a process has a database open, or a file that SQLite keeps beside it.
func opensAny(pid int, path string) bool {
	for _, suffix := range []string{"", "-wal", "-shm", "-journal"} {
		if hasOpen(pid, path+suffix) {
			return true
		}
	}
	return false
}

// changeJournal changes the journal mode and back as the application does at each connect: without a busy handler.
func changeJournal(path, journal string) error {
	db, err := open(path)
	if err != nil {
		return err
	}
	defer db.Close()
	other := map[string]string{"DELETE": "WAL", "WAL": "DELETE"}[journal]
	for _, statement := range []string{"pragma busy_timeout = 0", "pragma journal_mode = " + other, "pragma journal_mode = " + journal} {
		if _, err := db.Exec(statement); err != nil {
			return fmt.Errorf("%s: %w", statement, err)
		}
	}
	return nil
}

// TestExchangedMeanwhile puts another file in the place of the database while a pass waits for its first, second and last
// answer. Nothing may be claimed, and the other file stays as it is.
func TestExchangedMeanwhile(t *testing.T) {
	const chats = 9000
	exchanges := map[string]func(t *testing.T, path string){
		"replaced": func(t *testing.T, path string) {
			restored := newDatabase(t, "DELETE")
			db := mustOpen(t, restored)
			exec1(t, db, "create table chat (id integer primary key)")
			exec1(t, db, "with recursive n(i) as (select 1 union all select i + 1 from n where i < ?) insert into chat select i from n", chats)
			if err := db.Close(); err != nil {
				t.Error(err)
			}
			if err := os.Rename(restored, path); err != nil {
				t.Error(err)
			}
		},
		"removed": func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Error(err)
			}
		},
	}
	for name, exchange := range exchanges {
		for _, at := range []int{1, 2, 3} {
			t.Run(fmt.Sprintf("%s at request %d", name, at), func(t *testing.T) {
				bothJournals(t, func(t *testing.T, journal string) {
					all := generations(250, 4)
					api := newGateway(t, 100, all)
					path := newDatabase(t, journal)
					api.whenArriving(func(n int, _ *http.Request) {
						if n == at {
							exchange(t, path)
						}
					})
					c := run(t, 75, path, api.url, "sync", "--json")
					if !strings.Contains(c.stdout.String(), `"exit_code":75`) || strings.Contains(c.stdout.String(), `"status":"ok"`) {
						t.Errorf("it claims\n%s", &c.stdout)
					}
					if !strings.Contains(c.stderr.String(), "exchanged while it was in use") {
						t.Errorf("it does not say why:\n%s", &c.stderr)
					}
					if name == "removed" {
						if _, err := os.Lstat(path); err == nil {
							t.Error("the database is made anew")
						}
						return
					}
					checkSound(t, path)
					if got := value[int](t, mustOpen(t, path), "select count(*) from chat"); got != chats {
						t.Errorf("%d restored chats remain of %d", got, chats)
					}
					api.whenArriving(nil)
					run(t, 0, path, api.url, "sync")
					checkTruth(t, path, truth(all))
				})
			})
		}
	}
}

// TestSeveralNames gives the database a second name, by which the application opens it: its log and its journal are other
// files there.
func TestSeveralNames(t *testing.T) {
	api := newGateway(t, 100, generations(10, 4))
	commands := []string{"sync", "usage", "status", "migrate", "doctor"}
	refused := func(t *testing.T, path, word string) {
		t.Helper()
		for _, command := range commands {
			c := newChild(path, api.url, command)
			_ = c.Run()
			want := 78
			if command == "status" {
				want = 3 // the monitoring-plugins convention: unknown
			}
			said := c.stdout.String() + c.stderr.String()
			if c.ProcessState.ExitCode() != want || !strings.Contains(said, word) {
				t.Errorf("%s exits %d, want %d with %q:\n%s", command, c.ProcessState.ExitCode(), want, word, said)
			}
		}
	}
	t.Run("hard link", func(t *testing.T) {
		path := newDatabase(t, "WAL")
		if err := os.Link(path, filepath.Join(t.TempDir(), "webui.db")); err != nil {
			t.Fatal(err)
		}
		refused(t, path, "hard links")
	})
	t.Run("single file mounted", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("left out: only root may mount a file")
		}
		path := newDatabase(t, "WAL")
		container, _ := startMounted(t, path)
		refused(t, path, "another name")
		endHelper(t, container)
		run(t, 0, path, api.url, "sync")
		checkSound(t, path)
	})
	t.Run("its directory mounted", func(t *testing.T) {
		path := newDatabase(t, "WAL")
		holder, _ := startHelper(t, "hold", holdConfig{path, "begin deferred"})
		run(t, 0, path, api.url, "sync")
		endHelper(t, holder)
		checkSound(t, path)
	})
}

// TestSystemCallHangs lays a pipe in the place of the journal, which SQLite opens and nobody ever writes to. No context and
// no signal gets a thread out of there, yet each command ends.
func TestSystemCallHangs(t *testing.T) {
	api := newGateway(t, 100, generations(10, 4))
	for name, test := range map[string]struct {
		args   []string
		env    string
		signal syscall.Signal
		code   int
		out    string
		log    string
	}{
		"sync":                 {args: []string{"sync", "--timeout", "10ms"}, code: 75, log: "ERROR - not done within 15.01s: a system call hangs"},
		"json":                 {args: []string{"sync", "--timeout", "10ms", "--json"}, code: 75, out: `"exit_code":75`, log: "ERROR - not done"},
		"signal":               {args: []string{"sync"}, signal: syscall.SIGTERM, code: 143, log: "interrupted by signal 15"},
		"status":               {args: []string{"status"}, code: 3, out: "USAGE-SYNC UNKNOWN - not done within 17s: a system call hangs"},
		"doctor":               {args: []string{"doctor", "--timeout", "1s"}, code: 75, out: "not done in time"},
		"a shell's completion": {env: "COMP_LINE=usage-sync usage --org "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := newDatabase(t, "DELETE")
			if err := syscall.Mkfifo(path+"-journal", 0o600); err != nil {
				t.Fatal(err)
			}
			c := newChild(path, api.url, test.args...)
			c.Env = append(c.Env, test.env)
			c.start(t)
			if test.signal != 0 {
				waitUntil(t, "the lock is held", func() bool { return hasOpen(c.Process.Pid, lockPath(path)) })
				if err := c.Process.Signal(test.signal); err != nil {
					t.Fatal(err)
				}
			}
			ended := make(chan struct{})
			go func() { _ = c.Wait(); close(ended) }()
			await(t, ended, "the end")
			if got := c.ProcessState.ExitCode(); got != test.code || !strings.Contains(c.stdout.String(), test.out) ||
				!strings.Contains(c.stderr.String(), test.log) {
				t.Errorf("exits %d, want %d with %q and %q\n%s%s", got, test.code, test.out, test.log, &c.stdout, &c.stderr)
			}
		})
	}
}

// TestIndexCutShort truncates the index of the write-ahead log while a pass waits for the lock of the database. Whoever
// looks at it next dies by SIGBUS.
func TestIndexCutShort(t *testing.T) {
	for name, test := range map[string]struct {
		args []string
		log  string // its last line
	}{
		"text": {[]string{"sync"}, "ERROR - database %s: the index of its log was cut short"},
		"json": {[]string{"sync", "--log-format", "json"}, `"level":"ERROR","msg":"database %s: the index of its log was cut short`},
	} {
		t.Run(name, func(t *testing.T) {
			api := newGateway(t, 100, generations(10, 4))
			path := newDatabase(t, "WAL")
			holder, _ := startHelper(t, "hold", holdConfig{path, "begin immediate"})
			c := newChild(path, api.url, test.args...)
			c.start(t)
			waitUntil(t, "the index is mapped", func() bool {
				maps, _ := os.ReadFile(fmt.Sprintf("/proc/%d/maps", c.Process.Pid))
				return strings.Contains(string(maps), path+"-shm")
			})
			if err := os.Truncate(path+"-shm", 0); err != nil {
				t.Fatal(err)
			}
			ended := make(chan struct{})
			go func() { _ = c.Wait(); close(ended) }()
			await(t, ended, "the end")
			lines := strings.Split(strings.TrimSpace(c.stderr.String()), "\n")
			if got := c.ProcessState.ExitCode(); got != 74 || !strings.Contains(lines[len(lines)-1], fmt.Sprintf(test.log, path)) {
				t.Errorf("exits %d, want 74 with %q\n%s", got, test.log, &c.stderr)
			}
			_ = holder.cmd.Process.Kill() // its index is gone as well
			_ = holder.cmd.Wait()
			run(t, 0, path, api.url, "sync")
			checkSound(t, path)
		})
	}
}

// TestConfined puts a link in the place of the directory of the metrics while a pass waits. Where that leads to, the kernel lets it
// write nothing.
func TestConfined(t *testing.T) {
	if _, err := confine.Version(); err != nil {
		t.Skip("left out: ", err)
	}
	metrics, foreign := filepath.Join(t.TempDir(), "metrics"), t.TempDir()
	if err := os.Mkdir(metrics, 0o755); err != nil {
		t.Fatal(err)
	}
	api, path := newGateway(t, 100, generations(10, 4)), newDatabase(t, "WAL")
	api.whenArriving(func(int, *http.Request) {
		if os.Rename(metrics, metrics+".old") != nil {
			return // at a later request
		}
		if err := os.Symlink(foreign, metrics); err != nil {
			t.Error(err)
		}
	})
	c := newChild(path, api.url, "sync", "--metrics-file", filepath.Join(metrics, "usage.prom"))
	c.Env = append(c.Env, "TMPDIR="+t.TempDir())
	_ = c.Run()
	if got := c.ProcessState.ExitCode(); got != 73 || !strings.Contains(c.stderr.String(), "permission denied") {
		t.Errorf("exits %d, want 73\n%s", got, &c.stderr)
	}
	if names, err := os.ReadDir(foreign); err != nil || len(names) > 0 {
		t.Errorf("it has written %v, %v", names, err)
	}
}

// startMounted starts an application that has the single file mounted at a place of its own, and has it open in WAL mode.
func startMounted(t *testing.T, path string) (*helperProcess, string) {
	t.Helper()
	inside := filepath.Join(t.TempDir(), "webui.db")
	if err := os.WriteFile(inside, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return startHelper(t, "mounted", [2]string{path, inside})
}

// mounted mounts a file and writes to it by its other name.
func mounted(text string) error {
	var config [2]string
	if err := json.Unmarshal([]byte(text), &config); err != nil {
		return err
	}
	path, inside := config[0], config[1]
	runtime.LockOSThread() // the mount is seen by this thread alone
	defer runtime.UnlockOSThread()
	if err := syscall.Unshare(syscall.CLONE_NEWNS | syscall.CLONE_FS); err != nil {
		return err
	}
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := syscall.Mount(path, inside, "", syscall.MS_BIND, ""); err != nil {
		return err
	}
	db, err := open(inside)
	if err != nil {
		return err
	}
	defer db.Close()
	if _, err := db.Exec("update client_organizations set name = 'Acme GmbH'"); err != nil {
		return err
	}
	if _, err := os.Stat(inside + "-wal"); err != nil {
		return fmt.Errorf("the log is not inside: %w", err)
	}
	fmt.Println("mounted")
	<-untilStdinEnds().Done()
	return nil
}
