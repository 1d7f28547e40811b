package systemd_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestExitCodes has the real binary end with each kind of code, and looks at what systemd makes of it.
func TestExitCodes(t *testing.T) {
	needHost(t)
	b, g := newBench(t), newGateway()
	b.serve(gatewayAddress, g)
	hook := &webhook{}
	b.serve("127.0.0.1:9912", hook)
	b.write("/etc/usage-sync/alert.env", example(t, "alert.env", "")+`
ALERT_COMMAND='cat >"/run/told-$(echo "$ALERT_SUBJECT" | cut -d" " -f1)"'
ALERT_URL=http://127.0.0.1:9912/a-secret-path
ALERT_FORMAT=json
`)
	b.dropIn("usage-sync@.service", "test", quickly)

	g.guard(func(key string, n int, _ *http.Request) int {
		if key == "sk-or-v1-host-unavailable" || key == "sk-or-v1-host-passing" && n == 1 {
			return http.StatusServiceUnavailable
		}
		return 0
	})
	b.addContainer(g, "fine", 5)
	passing := b.addContainer(g, "passing", 5)
	partial := b.addContainer(g, "partial", 5)
	partial.sql(t, `insert into client_organizations (id, name, openrouter_api_key, markup_rate, is_active, created_at, updated_at)
		values ('other', 'Other', 'sk-or-v1-host-unknown', 1.3, 1, 0, 0)`)
	b.addContainer(g, "unavailable", 5)
	// A held lock is no failure while the last success is young.
	busy, stale := b.addContainer(g, "busy", 5), b.addContainer(g, "stale", 5)
	b.must("sh", "-c", "for name in busy stale; do (set -a; . /etc/usage-sync/$name.env; usage-sync sync) || exit; done")
	b.configure("stale", "USAGE_SYNC_NOW="+now.Add(time.Hour).Format(time.RFC3339)) // six intervals later
	defer busy.holdLock(t)()
	defer stale.holdLock(t)()
	defer b.addContainer(g, "never", 5).holdLock(t)()
	b.addContainer(g, "refused", 5).sql(t, `update client_organizations set openrouter_api_key = 'sk-or-v1-host-unknown'`)
	b.addContainer(g, "bare", 5).sql(t, `drop table client_live_counters`)
	b.addContainer(g, "gone", 5)
	must(t, os.RemoveAll(filepath.Join(b.volumes, "gone")))

	want := map[string]struct {
		outcome
		told bool
	}{
		"fine":        {outcome{"inactive", "success", "0", 1, 0}, false},
		"passing":     {outcome{"inactive", "success", "0", 2, 1}, false},
		"partial":     {outcome{"failed", "exit-code", "1", 2, 2}, true}, // the second restart is refused
		"unavailable": {outcome{"failed", "exit-code", "69", 2, 2}, true},
		"busy":        {outcome{"inactive", "success", "75", 1, 0}, false},
		"stale":       {outcome{"failed", "exit-code", "75", 1, 0}, true},
		"never":       {outcome{"failed", "exit-code", "75", 1, 0}, true},
		"refused":     {outcome{"failed", "exit-code", "77", 1, 0}, true},
		"bare":        {outcome{"failed", "exit-code", "78", 1, 0}, true},
		"gone":        {outcome{"failed", "exit-code", "66", 1, 0}, true},
	}
	b.never(slices.Collect(maps.Keys(want))...)
	for name := range want {
		b.must("systemctl", "start", "--no-block", "usage-sync@"+name+".service")
	}
	for name, want := range want {
		unit := "usage-sync@" + name + ".service"
		waitUntil(t, name+" has come to rest", func() bool { return b.outcome(unit).Attempts >= want.Attempts && b.atRest(unit) })
		if got := b.outcome(unit); got != want.outcome {
			t.Errorf("%s: %+v, want %+v\n%s", name, got, want.outcome, b.journal(unit))
		}
		// What reaches people counts, whenever systemd calls the sender.
		alert := "usage-sync-alert@" + unit + ".service"
		told := fmt.Sprintf("/run/told-%s", unit)
		if !want.told {
			waitUntil(t, "the alert of "+name+" is at rest", func() bool { return b.atRest(alert) })
			if sent := hook.of(unit); len(sent) > 0 {
				t.Errorf("%s: an alert without need: %q", name, sent)
			}
			if _, err := os.Stat(b.inside(told)); err == nil {
				t.Errorf("%s: an alert without need", name)
			}
			continue
		}
		waitUntil(t, "someone is told of "+name, func() bool { return len(hook.of(unit)) > 0 && b.atRest(alert) })
		text, err := os.ReadFile(b.inside(told))
		must(t, err)
		subject := fmt.Sprintf("%s failed on bench: exit-code, exit status %s\n", unit, want.Status)
		if !strings.HasPrefix(string(text), subject) || !strings.Contains(string(text), "ERROR - ") {
			t.Errorf("%s: the message is\n%s", name, text)
		}
		if sent := hook.of(unit); len(sent) != 1 || !strings.HasPrefix(sent[0], strings.TrimSpace(subject)) {
			t.Errorf("%s: the webhook got %q", name, sent)
		}
	}
	passing.check(t)
	// The journal knows errors from the rest, and no line shows by what.
	for line := range strings.Lines(b.must("journalctl", "--unit", "usage-sync@partial.service", "--identifier", "usage-sync", "--output", "json",
		"--output-fields", "MESSAGE,PRIORITY", "--no-pager")) {
		var entry struct{ Message, Priority string }
		must(t, json.Unmarshal([]byte(line), &entry))
		if level, _, _ := strings.Cut(entry.Message, " - "); entry.Priority != map[string]string{"ERROR": "3", "INFO": "6"}[level] {
			t.Errorf("priority %s: %s", entry.Priority, entry.Message)
		}
	}
	// The same failure is not told twice.
	b.must("sh", "-c", "systemctl start usage-sync@refused.service || true")
	alert := "usage-sync-alert@usage-sync@refused.service.service"
	waitUntil(t, "the second alert has ended", func() bool { return strings.Contains(b.journal(alert), "told of exit-code, status 77") })
	if sent := hook.of("usage-sync@refused.service"); len(sent) != 1 {
		t.Errorf("told %d times", len(sent))
	}
	// The next tick is a new start: the limit of attempts does not outlast it.
	if interval := b.property("usage-sync@fine.service", "StartLimitIntervalUSec"); interval != "9min" {
		t.Errorf("the limit of starts holds for %s, a tick comes every 10min", interval)
	}
}

// TestAlertSettings goes through what /etc/usage-sync/alert.env may hold.
func TestAlertSettings(t *testing.T) {
	needHost(t)
	b := newBench(t)
	var got struct {
		sync.Mutex
		body, title, kind string
	}
	b.serve("127.0.0.1:9912", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if r.URL.Path != "/topic" || r.Method != http.MethodPost || err != nil {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		got.Lock()
		defer got.Unlock()
		got.body, got.title, got.kind = string(body), r.Header.Get("Title"), r.Header.Get("Content-Type")
	}))
	b.configure("missing")
	b.never("missing")
	const alert = "usage-sync-alert@usage-sync@missing.service.service"

	// Nothing configured: nothing happens.
	if _, err := b.run("systemctl", "start", "usage-sync@missing.service"); err == nil {
		t.Fatal("a pass over a missing database succeeds")
	}
	waitUntil(t, "the alert was thought of", func() bool {
		return b.property(alert, "ConditionTimestampMonotonic") != "0"
	})
	if b.property(alert, "ConditionResult") != "no" || strings.Contains(b.journal(alert), "Nobody") {
		t.Error("the alert ran without settings")
	}

	// The example as it is: all of it is commented out.
	b.write("/etc/usage-sync/alert.env", example(t, "alert.env", ""))
	b.must("systemctl", "start", alert)
	if log := b.journal(alert); !strings.Contains(log, "Nobody to tell that usage-sync@missing.service has failed") {
		t.Errorf("with nobody to tell:\n%s", log)
	}

	// A URL, by hand, as the example says.
	b.write("/etc/usage-sync/alert.env", "ALERT_URL=http://127.0.0.1:9912/topic\n")
	b.must("systemctl", "start", "usage-sync-alert@usage-sync@missing.service")
	got.Lock()
	if want := "usage-sync@missing failed on bench: exit-code, exit status 66"; got.title != want || !strings.HasPrefix(got.body, want+"\n\n") ||
		!strings.Contains(got.body, "webui.db: file does not exist") || got.kind != "text/plain; charset=utf-8" {
		t.Errorf("the webhook got %q, %q:\n%s", got.title, got.kind, got.body)
	}
	t.Log(got.body)
	got.Unlock()

	// A URL or a command that does not work is a failure of the alert's own unit, and is tried again with the next failure.
	for _, settings := range []string{"ALERT_URL=http://127.0.0.1:9912/elsewhere\n", "ALERT_COMMAND='exit 3'\n"} {
		b.write("/etc/usage-sync/alert.env", settings)
		for range 2 {
			if _, err := b.run("systemctl", "start", alert); err == nil || b.property(alert, "ExecMainStatus") != "1" {
				t.Errorf("%s: the alert succeeds", settings)
			}
		}
	}
}

// TestStop stops a pass in the middle: what it has recorded stays, the rest comes with the next one.
func TestStop(t *testing.T) {
	needHost(t)
	b, g := newBench(t), newGateway()
	b.serve(gatewayAddress, g)
	acme := b.addContainer(g, "acme", 5000)
	const unit = "usage-sync@acme.service"
	for i, stop := range []string{unit, "usage-sync.target"} {
		acme.use(g, 5000)
		before := acme.recorded(t).Requests
		b.never("acme")
		g.holdFrom(acme, 4)
		b.must("systemctl", "start", "--no-block", unit)
		waitUntil(t, "the pass is in its middle", func() bool { return g.count(acme) >= 4 && acme.recorded(t).Requests > before })
		start := time.Now()
		b.must("systemctl", "stop", stop)
		waitUntil(t, "the pass has ended", func() bool { return b.atRest(unit) })
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("stopping %s took %s", stop, took)
		}
		log := b.journal(unit)
		if got := b.outcome(unit); strings.Count(log, "interrupted by signal 15") != i+1 || strings.Contains(log, "Failed with result") ||
			got.State != "inactive" || got.Restarts != 0 {
			t.Errorf("stopping %s: %+v\n%s", stop, got, log)
		}
		if got := acme.recorded(t); got.Requests >= acme.want.Requests {
			t.Fatalf("the pass was not stopped in its middle: %+v", got)
		}
	}
	g.guard(nil)
	b.must("systemctl", "start", unit)
	acme.check(t)
}
