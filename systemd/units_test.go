package systemd_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
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
	b := newBench(t)
	for unit, threshold := range map[string]int{
		"usage-sync@.service": 15, "usage-sync-reconcile@.service": 15, "usage-sync-backup@.service": 15,
		"usage-sync-close@.service":   15,
		"usage-sync-alert@.service":   60, // runs a command of the operator's
		"usage-sync-discover.service": 50, // makes units and users
	} {
		out, err := b.run("systemd-analyze", "security", "--offline=true", "--no-pager", fmt.Sprint("--threshold=", threshold),
			"/usr/local/lib/systemd/system/"+unit)
		lines := strings.Split(strings.TrimSpace(out), "\n")
		t.Log(lines[len(lines)-1])
		if err != nil {
			t.Errorf("%s: %v", unit, err)
		}
	}
}

// TestCommandLines sees what the units of other commands run, and that the sandbox leaves them what they need for it.
func TestCommandLines(t *testing.T) {
	needHost(t)
	b := newBench(t)
	b.configure("acme")
	must(t, os.MkdirAll(filepath.Join(b.volumes, "acme", "_data"), 0o755))
	// systemd and sh alike find this one before the binary.
	const echo = "#!/bin/sh\necho \"ran $*\"\ncase $1 in backup) touch \"$2/copy\";; esac\ntouch " + volumesInside + "/acme/_data/$1\n"
	b.write("/usr/local/sbin/usage-sync", echo)
	must(t, os.Chmod(b.inside("/usr/local/sbin/usage-sync"), 0o755))
	b.must("systemctl", "daemon-reload")
	today := time.Now().UTC()
	lastMonth := today.AddDate(0, 0, -today.Day()).Format("2006-01")
	for unit, want := range map[string]string{
		"usage-sync":           "ran sync",
		"usage-sync-reconcile": "ran reconcile --month " + lastMonth,
		"usage-sync-backup":    "ran backup /var/lib/usage-sync/backup/acme --usage-only --keep 14",
		"usage-sync-close":     "ran report --close --format html --out /var/lib/usage-sync/statements/acme/",
	} {
		unit += "@acme.service"
		if _, err := b.run("systemctl", "start", unit); err != nil || !strings.Contains(b.journal(unit), "\n"+want+"\n") {
			t.Errorf("%s: want %q\n%s", unit, want, b.journal(unit))
		}
	}
	if _, err := os.Stat(b.inside("/var/lib/usage-sync/backup/acme/copy")); err != nil {
		t.Error(err)
	}
}
