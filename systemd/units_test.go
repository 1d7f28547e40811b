package systemd_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestVerify has systemd read every unit, with an instance name for the templates.
func TestVerify(t *testing.T) {
	needHost(t)
	b := newBench(t)
	b.configure("acme")
	b.dropIn("usage-@acme.service", "database-owner", example(t, "database-owner.conf", "acme"))
	b.dropIn("usage-sync@acme.timer", "interval", example(t, "interval.conf", "acme"))
	b.write("/usr/share/man/man1/usage-sync.1", ".TH usage-sync 1\n") // the package's own
	for _, unit := range unitFiles(t) {
		unit = strings.ReplaceAll(unit, "@.", "@acme.")
		if out, err := b.run("systemd-analyze", "verify", "--recursive-errors=yes", unit); err != nil {
			t.Errorf("%s: %s %v", unit, out, err)
		}
	}
	b.must("systemctl", "daemon-reload")
	// The example of another interval replaces ours, and names it in seconds as well.
	if got := b.property("usage-sync@acme.timer", "TimersCalendar"); !strings.Contains(got, "OnCalendar=*-*-* *:00/30:00") || strings.Contains(got, "00/10") {
		t.Errorf("with the example of another interval: %s", got)
	}
	if !strings.Contains(example(t, "interval.conf", "acme"), fmt.Sprintf("OPENROUTER_USAGE_SYNC_INTERVAL=%d ", 30*60)) {
		t.Error("interval.conf: the timer and OPENROUTER_USAGE_SYNC_INTERVAL disagree")
	}
}

// TestExposure has systemd judge how far each service is shut in: tenths, 10 is none, 0 all.
func TestExposure(t *testing.T) {
	needHost(t)
	for unit, threshold := range map[string]int{
		"usage-sync@.service": 15, "usage-sync-reconcile@.service": 15, "usage-sync-backup@.service": 15,
		"usage-sync-alert@.service": 60, // runs a command of the operator's
	} {
		out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--no-pager", fmt.Sprint("--threshold=", threshold), unit).CombinedOutput()
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		t.Log(lines[len(lines)-1])
		if err != nil {
			t.Errorf("%s: %v", unit, err)
		}
	}
}

// TestTimersFire enables the timers of a few containers and waits for the passes.
func TestTimersFire(t *testing.T) {
	needHost(t)
	b, g := newBench(t), newGateway()
	b.serve(gatewayAddress, g)
	b.dropIn("usage-sync@.timer", "test", every("*:*:0/2"))
	b.dropIn("usage-sync@.service", "test", "[Unit]\nStartLimitIntervalSec=1s\n") // below the interval, as the shipped one is
	acme, dashed := b.addContainer(g, "acme", 30), b.addContainer(g, "open-webui_2.globex", 20)
	b.must("systemctl", "daemon-reload")
	b.must("systemctl", "enable", "--now", "usage-sync@acme.timer", "usage-sync@open-webui_2.globex.timer")
	for _, c := range []*container{acme, dashed} {
		unit := "usage-sync@" + c.name + ".service"
		waitUntil(t, c.name+" has synced twice", func() bool {
			return strings.Count(b.journal(unit), "INFO - Background sync completed: 1/1 organizations synced") >= 2
		})
		c.check(t)
	}
	// More usage is recorded by the timer's next tick, without a hand on it.
	acme.use(g, 7)
	waitUntil(t, "the next tick has come", func() bool { return acme.recorded(t).Requests == acme.want.Requests })
	acme.check(t)
}

// TestTwentyAtOnce starts twenty containers' passes in the same second, then looks at the slots that their timers keep.
func TestTwentyAtOnce(t *testing.T) {
	needHost(t)
	b, g := newBench(t), newGateway()
	b.serve(gatewayAddress, g)
	var containers []*container
	var services, timers []string
	for i := range 20 {
		name := fmt.Sprintf("client-%02d", i+1)
		containers = append(containers, b.addContainer(g, name, 1000+i))
		services = append(services, "usage-sync@"+name+".service")
		timers = append(timers, "usage-sync@"+name+".timer")
	}
	b.must("systemctl", "daemon-reload")
	start := time.Now()
	b.must(append([]string{"systemctl", "start"}, services...)...)
	t.Logf("20 passes of 1000 generations, started at once: %s", time.Since(start).Round(time.Millisecond))
	for i, c := range containers {
		c.check(t)
		if got := b.property(services[i], "Result"); got != "success" {
			t.Errorf("%s: %s", c.name, got)
		}
	}
	b.must(append([]string{"systemctl", "enable", "--now", "--quiet"}, timers...)...)
	first := slots(b, timers)
	used := map[int64]int{}
	for _, slot := range first {
		used[slot]++
	}
	if len(used) < 15 {
		t.Errorf("20 timers have only %d slots: %v", len(used), first)
	}
	b.cut()
	b.boot()
	if again := slots(b, timers); fmt.Sprint(again) != fmt.Sprint(first) {
		t.Errorf("slots of the timers are\n%v, were\n%v", again, first)
	}
}

// slots are the seconds after each ten minutes at which timers will fire.
func slots(b *bench, timers []string) (slots []int64) {
	b.t.Helper()
	for _, timer := range timers {
		next, err := time.Parse("Mon 2006-01-02 15:04:05 MST", b.property(timer, "NextElapseUSecRealtime"))
		must(b.t, err)
		slots = append(slots, next.Unix()%600)
	}
	return slots
}

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
	defer b.addContainer(g, "busy", 5).holdLock(t)()
	b.addContainer(g, "refused", 5).sql(t, `update client_organizations set openrouter_api_key = 'sk-or-v1-host-unknown'`)
	b.addContainer(g, "bare", 5).sql(t, `drop table client_live_counters`)
	b.addContainer(g, "gone", 5)
	must(t, os.RemoveAll(filepath.Join(b.volumes, "gone")))

	want := map[string]outcome{
		"fine":        {"inactive", "success", "0", 1, 0, 0},
		"passing":     {"inactive", "success", "0", 2, 1, 0},
		"partial":     {"failed", "exit-code", "1", 2, 2, 1}, // the second restart is refused
		"unavailable": {"failed", "exit-code", "69", 2, 2, 1},
		"busy":        {"inactive", "success", "75", 1, 0, 0},
		"refused":     {"failed", "exit-code", "77", 1, 0, 1},
		"bare":        {"failed", "exit-code", "78", 1, 0, 1},
		"gone":        {"failed", "exit-code", "66", 1, 0, 1},
	}
	b.never(slices.Collect(maps.Keys(want))...)
	for name := range want {
		b.must("systemctl", "start", "--no-block", "usage-sync@"+name+".service")
	}
	for name, want := range want {
		unit := "usage-sync@" + name + ".service"
		waitUntil(t, name+" has come to rest", func() bool { return b.outcome(unit).Attempts >= want.Attempts && b.atRest(unit) })
		if got := b.outcome(unit); got != want {
			t.Errorf("%s: %+v, want %+v\n%s", name, got, want, b.journal(unit))
		} else {
			t.Logf("%s: %+v\n%s", name, got, b.journal(unit))
		}
		alert := "usage-sync-alert@" + unit + ".service"
		told := fmt.Sprintf("/run/told-%s", unit)
		if want.Alerts == 0 {
			if _, err := os.Stat(b.inside(told)); err == nil {
				t.Errorf("%s: an alert without need", name)
			}
			continue
		}
		waitUntil(t, "someone is told of "+name, func() bool { return b.property(alert, "ExecMainExitTimestampMonotonic") != "0" && b.atRest(alert) })
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
		return strings.Contains(b.journal(alert), "was skipped because of an unmet condition check")
	})
	if strings.Contains(b.journal(alert), "Nobody") {
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
			got.State != "inactive" || got.Alerts != 0 || got.Restarts != 0 {
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

// TestTarget stops and starts all timers at once, and finds those that are enabled running after a boot.
func TestTarget(t *testing.T) {
	needHost(t)
	b := newBench(t)
	active := func(names ...string) string {
		var states []string
		for _, name := range names {
			states = append(states, b.property(name, "ActiveState"))
		}
		return strings.Join(states, " ")
	}
	timers := []string{"usage-sync@a.timer", "usage-sync@b.timer", "usage-sync-backup@a.timer", "usage-sync-reconcile@a.timer"}
	b.configure("a")
	b.configure("b")
	b.configure("c")
	b.must("systemctl", "daemon-reload")
	b.must(append([]string{"systemctl", "enable", "--now", "--quiet"}, timers...)...)
	const on, off = "active active active active", "inactive inactive inactive inactive"
	for i, step := range []struct {
		do   []string
		want string
	}{
		{[]string{"true"}, on},
		{[]string{"systemctl", "stop", "usage-sync.target"}, off},
		{[]string{"systemctl", "start", "usage-sync.target"}, on},
		{[]string{"systemctl", "stop", "usage-sync.target"}, off},
		{[]string{"systemctl", "start", "usage-sync.target"}, on},
	} {
		b.must(step.do...)
		if got := active(timers...); got != step.want {
			t.Errorf("step %d, %v: timers are %s", i, step.do, got)
		}
	}
	b.must("systemctl", "disable", "--now", "--quiet", "usage-sync@b.timer")
	b.cut()
	b.boot()
	if got := active(timers...); got != "active inactive active active" {
		t.Errorf("after a boot timers are %s", got)
	}
	if got := active("usage-sync@c.timer"); got != "inactive" {
		t.Errorf("the timer that nobody enabled is %s", got)
	}
}

// TestPowerCut takes the power away in the middle of a pass. After the boot the timer catches up by itself.
func TestPowerCut(t *testing.T) {
	needHost(t)
	b, g := newBench(t), newGateway()
	b.serve(gatewayAddress, g)
	// Hours apart: whatever runs within this test, runs because a tick was missed.
	b.dropIn("usage-sync@.timer", "test", every("*-*-* 00/12:00:00"))
	acme, rested := b.addContainer(g, "acme", 10000), b.addContainer(g, "rested", 10)
	b.must("systemctl", "daemon-reload")
	b.must("systemctl", "enable", "--now", "--quiet", "usage-sync@acme.timer", "usage-sync@rested.timer")
	g.holdFrom(acme, 6)
	b.must("systemctl", "start", "--no-block", "usage-sync@acme.service")
	waitUntil(t, "the pass is in its middle", func() bool { return g.count(acme) >= 6 && acme.recorded(t).Requests > 0 })
	b.cut()
	if got := acme.recorded(t); got.Requests == 0 || got.Requests >= acme.want.Requests {
		t.Fatalf("the pass was not cut in its middle: %+v", got)
	}
	// The machine is off for a day, and acme's timer misses two ticks. A stamp's time is that of the last tick; the other
	// timer's says that it has missed none.
	yesterday := time.Now().Add(-24 * time.Hour)
	stamp := filepath.Join(b.disk, "upper/var/lib/systemd/timers/stamp-usage-sync@acme.timer")
	must(t, os.Chtimes(stamp, yesterday, yesterday))

	g.guard(nil)
	b.boot()
	b.serve(gatewayAddress, g)
	waitUntil(t, "the timer has caught up", func() bool { return acme.recorded(t).Requests == acme.want.Requests })
	waitUntil(t, "the pass has ended", func() bool { return b.atRest("usage-sync@acme.service") })
	acme.check(t)
	if got := b.property("usage-sync@acme.service", "Result"); got != "success" {
		t.Errorf("the pass that catches up: %s", got)
	}
	if got := rested.recorded(t); got.Requests != 0 {
		t.Errorf("a timer fired that had missed nothing: %+v", got)
	}
}
