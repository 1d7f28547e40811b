package systemd_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// probe does a few things, with semicolons between them, and prints what came of each.
func probe(things string) {
	for what := range strings.SplitSeq(things, ";") {
		if err := try(what); err != nil {
			fmt.Printf("%s: %v\n", what, err)
			continue
		}
		fmt.Println(what + ": ok")
	}
}

func try(what string) error {
	kind, argument, _ := strings.Cut(what, " ")
	number, _ := strconv.Atoi(argument)
	switch kind {
	case "read":
		_, err := os.ReadFile(argument)
		return err
	case "list":
		_, err := os.ReadDir(argument)
		return err
	case "write":
		return os.WriteFile(argument, nil, 0o644)
	case "socket":
		_, err := unix.Socket(number, unix.SOCK_DGRAM, 0)
		return err
	case "mount":
		return unix.Mount("none", argument, "tmpfs", 0, "")
	case "allocate":
		hog := make([]byte, number<<20)
		for i := range hog {
			hog[i] = 1
		}
		return nil
	}
	return fmt.Errorf("no probe %q", what)
}

// probeUnit replaces the command of an instance by probes: everything else is the shipped unit.
func (b *bench) probeUnit(instance string, probes ...string) string {
	b.t.Helper()
	b.dropIn("usage-sync@"+instance+".service", "probe", fmt.Sprintf("[Service]\nExecStart=\nExecStart=%s\nEnvironment=%s=probe %q\n",
		probeInside, roleName, roleConfig+"="+strings.Join(probes, ";")))
	b.must("systemctl", "daemon-reload")
	_, _ = b.run("systemctl", "start", "usage-sync@"+instance+".service")
	return b.journal("usage-sync@" + instance + ".service")
}

// TestSandbox tries from within the shipped unit what a pass must not be able to do, and the same without a sandbox, where
// it succeeds: so it is the unit that refuses.
func TestSandbox(t *testing.T) {
	needHost(t)
	b, g := newBench(t), newGateway()
	b.addContainer(g, "acme", 1)
	b.addContainer(g, "globex", 1)
	b.write("/etc/usage-sync/management-key", "not a key\n")
	b.write("/etc/ssl/certs/ca-certificates.crt", "not a certificate\n") // a machine may have none
	probes := map[string]bool{                                           // allowed?
		"read " + volumesInside + "/acme/_data/webui.db":   true,
		"write " + volumesInside + "/acme/_data/beside":    true,
		"socket " + strconv.Itoa(unix.AF_INET):             true,
		"socket " + strconv.Itoa(unix.AF_INET6):            true,
		"read /etc/ssl/certs/ca-certificates.crt":          true,
		"read /etc/shadow":                                 false,
		"read /etc/usage-sync/globex.env":                  false,
		"read /etc/usage-sync/management-key":              false,
		"list /root":                                       false,
		"write " + volumesInside + "/globex/_data/beside":  false,
		"read " + volumesInside + "/globex/_data/webui.db": false,
		"read " + volumesInside + "/acme/_data/theirs":     false, // a link to another client's database
		"write /etc/beside":                                false,
		"write /usr/local/bin/beside":                      false,
		"write /var/lib/beside":                            false,
		"socket " + strconv.Itoa(unix.AF_UNIX):             false,
		"socket " + strconv.Itoa(unix.AF_NETLINK):          false,
		"socket " + strconv.Itoa(unix.AF_PACKET):           false,
		"mount /tmp":                                       false,
		"read /proc/1/environ":                             false,
	}
	must(t, os.Symlink(volumesInside+"/globex/_data/webui.db", filepath.Join(b.volumes, "acme/_data/theirs")))
	all := slices.Collect(maps.Keys(probes))
	log := b.probeUnit("acme", all...) + "\n"
	free := b.must("env", roleName+"=probe", roleConfig+"="+strings.Join(all, ";"), probeInside) + "\n"
	for p, allowed := range probes {
		if allowed != strings.Contains(log, p+": ok\n") || !strings.Contains(log, p+": ") {
			t.Errorf("%s: allowed should be %v", p, allowed)
		}
		if !strings.Contains(free, p+": ok\n") {
			t.Errorf("%s: refused without the sandbox", p)
		}
	}
	if t.Failed() {
		t.Log(log)
	}
}

// TestCredentials gives the management key to the pass, and to nobody else.
func TestCredentials(t *testing.T) {
	needHost(t)
	b, g := newBench(t), newGateway()
	b.addContainer(g, "acme", 1)
	const inside = "/run/credentials/usage-sync@acme.service/management-key"
	b.dropIn("usage-sync@acme.service", "show", "[Service]\nExecStart=\nExecStart=/bin/sh -c 'echo \"key=[$$(cat $$CREDENTIALS_DIRECTORY/management-key)]\"; "+
		"stat -c %%a-%%u $$CREDENTIALS_DIRECTORY/management-key; while [ ! -e "+volumesInside+"/acme/_data/go ]; do sleep 0.1; done'\n")
	b.must("systemctl", "daemon-reload")
	for _, key := range []string{"", "a made-up management key"} {
		if key != "" {
			b.write("/etc/usage-sync/management-key", key+"\n")
			must(t, os.Chmod(b.inside("/etc/usage-sync/management-key"), 0o600))
		}
		b.must("systemctl", "start", "--no-block", "usage-sync@acme.service")
		waitUntil(t, "the unit has shown its key", func() bool { return strings.Contains(b.journal("usage-sync@acme.service"), "key=["+key+"]\n400-0") })
		if _, err := b.run("setpriv", "--reuid=65534", "--clear-groups", "cat", inside); err == nil {
			t.Error("another user can read the credential")
		}
		if _, err := b.run("systemd-run", "--quiet", "--service-type=oneshot", "--property=DynamicUser=yes", "true"); err != nil {
			t.Errorf("another unit can't be started at all: %v", err)
		}
		if _, err := b.run("systemd-run", "--quiet", "--service-type=oneshot", "--property=DynamicUser=yes", "cat", inside); err == nil {
			t.Error("another unit can read the credential")
		}
		if log := b.must("systemctl", "show", "usage-sync@acme.service"); key != "" && strings.Contains(log, key) {
			t.Error("the key is among the unit's properties")
		}
		must(t, os.WriteFile(filepath.Join(b.volumes, "acme/_data/go"), nil, 0o644))
		waitUntil(t, "the unit has ended", func() bool { return b.atRest("usage-sync@acme.service") })
		if _, err := os.Stat(b.inside(inside)); err == nil {
			t.Error("the credential outlives the pass")
		}
		must(t, os.Remove(filepath.Join(b.volumes, "acme/_data/go")))
	}
}

// TestMemoryLimit records 100,000 generations within the shipped limit, having seen that the limit is real.
func TestMemoryLimit(t *testing.T) {
	needHost(t)
	b, g := newBench(t), newGateway()
	b.serve(gatewayAddress, g)
	acme := b.addContainer(g, "acme", 100_000)
	b.must("systemctl", "daemon-reload")
	peak := make(chan int64)
	done := make(chan struct{})
	go func() { peak <- b.watchMemory("usage-sync@acme.service", done) }()
	b.must("systemctl", "start", "usage-sync@acme.service")
	close(done)
	t.Logf("most memory seen of 64 MB: %d MB", <-peak>>20)
	acme.check(t)
	if got := b.outcome("usage-sync@acme.service"); got != (outcome{"inactive", "success", "0", 1, 0}) {
		t.Errorf("the pass: %+v", got)
	}
	if got := b.property("usage-sync@acme.service", "MemoryMax"); got != fmt.Sprint(64<<20) {
		t.Errorf("the limit is %s", got)
	}
	b.configure("hog")
	b.dropIn("usage-sync@hog.service", "once", "[Service]\nRestart=no\n")
	b.never("hog")
	b.probeUnit("hog", "allocate 100")
	// Version 1 of control groups does not tell systemd who killed.
	if got := b.property("usage-sync@hog.service", "Result") + " " + b.property("usage-sync@hog.service", "ExecMainStatus"); got != "oom-kill 9" && got != "signal 9" {
		t.Errorf("100 MB in a unit with 64: %s\n%s", got, b.journal("usage-sync@hog.service"))
	}
}

// watchMemory returns the most memory that a unit's processes have had resident at once while it was watched.
func (b *bench) watchMemory(unit string, done <-chan struct{}) (most int64) {
	for {
		select {
		case <-done:
			return most
		case <-time.After(20 * time.Millisecond):
		}
		pid, err := b.run("systemctl", "show", "--property", "MainPID", "--value", unit)
		if err != nil || pid == "0" {
			continue
		}
		text, _ := os.ReadFile(b.inside("/proc/" + pid + "/status"))
		var kilobytes int64
		for line := range strings.Lines(string(text)) {
			if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kilobytes); err == nil {
				most = max(most, kilobytes<<10)
			}
		}
	}
}
