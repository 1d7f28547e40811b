package integration_test

import (
	"fmt"
	"net/http"
	"os"
	"syscall"
	"testing"
	"time"

	"usage-sync/job/openrouter/standin"
)

const (
	// graceful is how long a pass may take to end after a signal, and slack what a loaded machine may add to it.
	graceful = time.Second
	slack    = 2 * time.Second
)

// TestSignals interrupts passes wherever they may be waiting.
func TestSignals(t *testing.T) {
	all := generations(2500, 2)
	want := truth(all)
	const pageLimit = 100
	for _, test := range []struct {
		name string
		// prepare readies what the pass meets and returns the function that waits for the moment of the signal, and
		// one that clears the way for the next pass.
		prepare  func(t *testing.T, api *gateway, path string) (moment func(*child), after func())
		args     []string
		recorded bool // the run is in the history
	}{
		{name: "at work", recorded: true, prepare: func(t *testing.T, api *gateway, _ string) (func(*child), func()) {
			// However late the signal comes, the pass is not through: the 20th page waits for what comes after.
			arrived, ended := make(chan struct{}), make(chan struct{})
			api.whenArriving(func(i int, _ *http.Request) {
				switch i {
				case 10:
					close(arrived)
				case 20:
					<-ended
				}
			})
			return func(*child) { await(t, arrived, "request 10") }, func() { close(ended) }
		}},
		{name: "server hangs", recorded: true, prepare: func(t *testing.T, api *gateway, _ string) (func(*child), func()) {
			hang := standin.Hang()
			api.Script(standin.OK(), standin.OK(), standin.OK())
			api.Always(&hang)
			return arrival(t, api, 4), func() { api.Always(nil) }
		}},
		{name: "server is in trouble", recorded: true, prepare: func(t *testing.T, api *gateway, _ string) (func(*child), func()) {
			trouble := standin.Status(http.StatusServiceUnavailable, "60")
			api.Script(standin.OK(), standin.OK())
			api.Always(&trouble)
			return arrival(t, api, 3), func() { api.Always(nil) }
		}},
		{name: "lock is waited for", args: []string{"--lock-wait", "1m"}, prepare: func(t *testing.T, _ *gateway, path string) (func(*child), func()) {
			release := takeLock(t, path)
			opened := opening(t, lockPath(path))
			return func(*child) { opened() }, release
		}},
		{name: "another process writes", prepare: func(t *testing.T, api *gateway, path string) (func(*child), func()) {
			holder, _ := startHelper(t, "hold", holdConfig{path, "begin immediate"})
			// The second page is fetched while the first one waits for the database.
			return arrival(t, api, 2), func() { endHelper(t, holder) }
		}},
		{name: "another process excludes all", prepare: func(t *testing.T, _ *gateway, path string) (func(*child), func()) {
			holder, _ := startHelper(t, "hold", holdConfig{path, "begin exclusive"})
			return func(c *child) {
				waitUntil(t, "the database is open", func() bool { return hasOpen(c.Process.Pid, path) })
			}, func() { endHelper(t, holder) }
		}},
	} {
		for signal, journal := range map[syscall.Signal]string{syscall.SIGTERM: "DELETE", syscall.SIGINT: "WAL"} {
			t.Run(test.name+"/"+signal.String(), func(t *testing.T) {
				interrupt := func(t *testing.T, journal string) {
					api := newGateway(t, pageLimit, all)
					path := newDatabase(t, journal)
					moment, after := test.prepare(t, api, path)
					pass := newChild(path, api.url, append([]string{"sync"}, test.args...)...)
					pass.start(t)
					moment(pass)
					start := time.Now()
					if err := pass.Process.Signal(signal); err != nil {
						t.Fatal(err)
					}
					_ = pass.Wait()
					took := time.Since(start)
					if code := pass.ProcessState.ExitCode(); code != 128+int(signal) {
						t.Errorf("exits %d (%v), want %d\n%s", code, pass.ProcessState, 128+int(signal), &pass.stderr)
					}
					if took > graceful+slack {
						t.Errorf("ends %s after the signal", took)
					}
					t.Logf("ended %s after the signal", took.Round(time.Millisecond))
					after()
					recorded := checkConsistent(t, path)
					if recorded == int64(len(all)) {
						t.Errorf("the pass was through before the signal")
					}
					db := mustOpen(t, path)
					var runs, others int
					if err := db.QueryRow(`
						select coalesce(sum(exit_code = ? and error like 'interrupted by signal%' and client_org_id = ?
							and recorded = ?), 0), count(*)
						from usage_sync_runs`, 128+int(signal), organisation, recorded).Scan(&runs, &others); err != nil {
						t.Fatal(err)
					}
					if wanted := map[bool]int{true: 1}[test.recorded]; runs != wanted || others != wanted {
						t.Errorf("%d interrupted runs of %d in the history, want %d", runs, others, wanted)
					}
					if err := db.Close(); err != nil {
						t.Fatal(err)
					}
					api.whenArriving(nil)
					run(t, 0, path, api.url, "sync")
					checkTruth(t, path, want)
					checkSound(t, path)
				}
				if *long {
					bothJournals(t, interrupt)
				} else {
					t.Run(journal, func(t *testing.T) { interrupt(t, journal) })
				}
			})
		}
	}
}

// arrival waits until a pass has sent its n-th request.
func arrival(t *testing.T, api *gateway, n int) func(*child) {
	arrived := make(chan struct{})
	api.whenArriving(func(i int, _ *http.Request) {
		if i == n {
			close(arrived)
		}
	})
	return func(*child) {
		t.Helper()
		await(t, arrived, fmt.Sprint("request ", n))
	}
}

// await waits for an event that comes within seconds even on a loaded machine.
func await(t *testing.T, event <-chan struct{}, name string) {
	t.Helper()
	select {
	case <-event:
	case <-time.After(time.Minute):
		t.Fatalf("%s does not come", name)
	}
}

func endHelper(t testing.TB, p *helperProcess) string {
	t.Helper()
	words, err := p.end()
	if err != nil {
		t.Fatal(err)
	}
	return words
}

// opening returns a function that waits until a file has been opened since. A pass that waits for the lock opens its file
// for a moment in each try, too shortly to be found in a list of open files.
func opening(t *testing.T, path string) (wait func()) {
	t.Helper()
	fd, err := syscall.InotifyInit1(syscall.IN_NONBLOCK | syscall.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	events := os.NewFile(uintptr(fd), "inotify")
	t.Cleanup(func() { events.Close() })
	if _, err := syscall.InotifyAddWatch(fd, path, syscall.IN_OPEN); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if err := events.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := events.Read(make([]byte, 4096)); err != nil {
			t.Fatalf("waited in vain until %s is opened: %v", path, err)
		}
	}
}
