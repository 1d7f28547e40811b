package integration_test

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestFiftyAtOnce starts fifty passes on one database under different names of it. The one that has the lock is kept
// waiting by the server until the others have ended.
func TestFiftyAtOnce(t *testing.T) {
	const passes = 50
	all := generations(5000, 3)
	api := newGateway(t, 500, all)
	path := newDatabase(t, "DELETE")
	dir := filepath.Dir(path)
	link, linkedDir := filepath.Join(t.TempDir(), "linked.db"), filepath.Join(t.TempDir(), "data")
	for name, target := range map[string]string{link: path, linkedDir: dir} {
		if err := os.Symlink(target, name); err != nil {
			t.Fatal(err)
		}
	}
	names := []string{path, "webui.db", "../" + filepath.Base(dir) + "/./webui.db", link, filepath.Join(linkedDir, "webui.db")}

	open := make(chan struct{})
	opened := sync.OnceFunc(func() { close(open) })
	defer opened()
	api.whenArriving(func(_ int, r *http.Request) {
		select {
		case <-open:
		case <-r.Context().Done():
		}
	})
	codes := make(chan int, passes)
	for i := range passes {
		pass := newChild(names[i%len(names)], api.url, "sync")
		pass.Dir = dir
		pass.start(t)
		go func() {
			_ = pass.Wait()
			codes <- pass.ProcessState.ExitCode()
		}()
	}
	next := func() int {
		t.Helper()
		select {
		case code := <-codes:
			return code
		case <-time.After(time.Minute):
			t.Fatal("passes hang")
			return 0
		}
	}
	for i := range passes - 1 {
		if code := next(); code != 75 {
			t.Errorf("pass %d exits %d while another one has the lock, want 75", i, code)
		}
	}
	if n := api.count(); n != 1 {
		t.Errorf("%d requests while one pass waits for its first answer, want 1", n)
	}
	opened()
	if code := next(); code != 0 {
		t.Errorf("the pass with the lock exits %d, want 0", code)
	}
	checkTruth(t, path, truth(all))
	checkSound(t, path)
	if runs := value[int](t, mustOpen(t, path), "select count(*) from usage_sync_runs"); runs != 1 {
		t.Errorf("%d runs in the history, want 1", runs)
	}
}

// TestApplicationWritesMeanwhile has the container's application write to the tables of a pass while it works: to a table
// of its own, and to the live counter, which is no record of anything and is set right by the next pass.
func TestApplicationWritesMeanwhile(t *testing.T) {
	bothJournals(t, func(t *testing.T, journal string) {
		const instalments = 4
		all := generations(20_000, 4)
		first, rest := all[:100], all[100:]
		api := newGateway(t, 500, first)
		path := newDatabase(t, journal)
		run(t, 0, path, api.url, "sync")

		app, _ := startHelper(t, "application", applicationConfig{Path: path, Pause: 2 * time.Millisecond})
		for i := range instalments {
			api.Add(key, rest[i*len(rest)/instalments:(i+1)*len(rest)/instalments]...)
			run(t, 0, path, api.url, "sync", "--full")
		}
		var report applicationReport
		if err := json.Unmarshal([]byte(endHelper(t, app)), &report); err != nil {
			t.Fatal(err)
		}
		waits := sorted(report.Waits)
		t.Logf("%d transactions of the application, the longest wait %s", report.Writes, waits[len(waits)-1])
		if report.Writes < 50 {
			t.Errorf("only %d transactions of the application", report.Writes)
		}
		db := mustOpen(t, path)
		if n := value[int](t, db, "select n from chat_counter"); n != report.Writes {
			t.Errorf("the application's counter stands at %d after %d increments", n, report.Writes)
		}
		if mode := value[string](t, db, "pragma journal_mode"); !strings.EqualFold(mode, journal) {
			t.Errorf("journal mode is %s, was %s", mode, journal)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		if report.Added == 0 {
			t.Error("the application has added nothing to the live counter")
		}
		run(t, 0, path, api.url, "sync")
		checkTruth(t, path, truth(all))
		checkSound(t, path)
	})
}
