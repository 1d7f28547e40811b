package systemd_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestTimersFire enables the timers of a few containers and waits for the passes.
func TestTimersFire(t *testing.T) {
	needHost(t)
	b, g := newBench(t), newGateway()
	b.serve(gatewayAddress, g)
	b.dropIn("usage-sync@.timer", "test", every("*:*:0/2"))
	b.dropIn("usage-sync@.service", "test", "[Unit]\nStartLimitIntervalSec=1s\n") // below the interval, as the shipped one is
	const metrics = "/var/lib/prometheus/node-exporter/usage-sync-acme.prom"
	b.must("mkdir", "-p", filepath.Dir(metrics))
	acme, dashed := b.addContainer(g, "acme", 30, "USAGE_SYNC_METRICS_FILE="+metrics), b.addContainer(g, "open-webui_2.globex", 20)
	b.must("systemctl", "daemon-reload")
	b.must("systemctl", "enable", "--now", "usage-sync@acme.timer", "usage-sync@open-webui_2.globex.timer")
	for _, c := range []*container{acme, dashed} {
		unit := "usage-sync@" + c.name + ".service"
		waitUntil(t, c.name+" has synced twice", func() bool {
			return strings.Count(b.journal(unit), "INFO - Background sync completed: 1/1 organizations synced") >= 2
		})
		c.check(t)
	}
	b.must("grep", "-q", `^usage_sync_last_exit_code{instance="acme"} 0$`, metrics)
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
