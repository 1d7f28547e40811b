package systemd_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// bench is a machine with a real systemd as PID 1: a container with namespaces of its own, whose disk is an overlay of
// this machine's, or of another root (-root). What happens on it stays on it. Its disk survives a power cut, its /run and /tmp do not.
type bench struct {
	t       testing.TB
	disk    string // the overlay's layers
	volumes string // seen inside as /var/lib/docker/volumes
	cgroups []string
	layout  cgroupLayout
	init    *exec.Cmd
	stopped chan struct{} // closed when PID 1 is gone
}

// volumesInside is where Docker keeps its named volumes.
const volumesInside = "/var/lib/docker/volumes"

// benches counts them, for names.
var benches atomic.Int32

// newBench installs the project on a new machine and starts it.
func newBench(t testing.TB) *bench {
	t.Helper()
	return newBenchWith(t, (*bench).install)
}

// newBenchWith starts a new machine, on whose disk setup has put what it should have.
func newBenchWith(t testing.TB, setup func(*bench)) *bench {
	t.Helper()
	b := &bench{t: t, disk: filepath.Join(scratch, fmt.Sprintf("bench%d", benches.Add(1)))}
	must(t, os.MkdirAll(filepath.Join(b.disk, "upper"), 0o755))
	must(t, os.MkdirAll(filepath.Join(b.disk, "work"), 0o755))
	must(t, os.MkdirAll(filepath.Join(b.disk, "root"), 0o755))
	b.volumes = filepath.Join(volumes, filepath.Base(b.disk))
	must(t, os.Mkdir(b.volumes, 0o701)) // as Docker makes it
	setup(b)
	var err error
	b.layout, err = newCgroupLayout()
	must(t, err)
	t.Cleanup(b.cut)
	b.boot()
	return b
}

// install puts the files of this repository onto the disk of a machine that is off.
func (b *bench) install() {
	b.t.Helper()
	const units = "usr/local/lib/systemd/system"
	files := map[string]string{command: "usr/local/bin/usage-sync", "usage-sync-alert": "usr/local/bin/usage-sync-alert"}
	for _, unit := range unitFiles(b.t) {
		files[unit] = filepath.Join(units, unit)
	}
	dropIns, err := filepath.Glob("*.d/*.conf")
	must(b.t, err)
	for _, dropIn := range dropIns {
		files[dropIn] = filepath.Join(units, dropIn)
	}
	for from, to := range files {
		text, err := os.ReadFile(from)
		must(b.t, err)
		info, err := os.Stat(from)
		must(b.t, err)
		b.writeDisk(to, text, info.Mode())
	}
	self, err := os.Executable()
	must(b.t, err)
	text, err := os.ReadFile(self)
	must(b.t, err)
	b.writeDisk(strings.TrimPrefix(probeInside, "/"), text, 0o755)
}

// probeInside is this test binary on the bench, for what a unit can try from within.
const probeInside = "/usr/local/libexec/usage-sync-probe"

func (b *bench) writeDisk(path string, text []byte, mode os.FileMode) {
	b.t.Helper()
	path = filepath.Join(b.disk, "upper", path)
	must(b.t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(b.t, os.WriteFile(path, text, mode))
}

// initConfig is what PID 1 needs to know before it becomes systemd.
type initConfig struct {
	Root          string // the disk as it is when new
	Disk, Volumes string
	Cgroups       []string
	Layout        cgroupLayout
}

// boot starts the machine and waits until systemd has.
func (b *bench) boot() {
	b.t.Helper()
	start := time.Now()
	b.cgroups = b.layout.create(b.t)
	console, err := os.OpenFile(filepath.Join(b.disk, "console"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(b.t, err)
	defer console.Close()
	config, err := json.Marshal(initConfig{*benchRoot, b.disk, b.volumes, b.cgroups, b.layout})
	must(b.t, err)
	b.init = exec.Command("/proc/self/exe")
	b.init.Env = []string{roleName + "=init", roleConfig + "=" + string(config)}
	b.init.Stdout, b.init.Stderr = console, console
	b.init.SysProcAttr = &syscall.SysProcAttr{
		Setsid: true, Pdeathsig: syscall.SIGKILL,
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWNET,
	}
	must(b.t, b.init.Start())
	b.stopped = make(chan struct{})
	go func() {
		_ = b.init.Wait()
		close(b.stopped)
	}()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		select {
		case <-b.stopped:
			text, _ := os.ReadFile(console.Name())
			b.t.Fatalf("PID 1 of the bench died:\n%s", text)
		default:
		}
		if name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", b.init.Process.Pid)); string(name) == "systemd\n" {
			// Not "is-system-running": a pass that a timer has started is a job under way.
			if state, _ := b.run("systemctl", "is-active", "bench.target"); state == "active" {
				break
			}
		}
		if time.Now().After(deadline) {
			state, err := b.run("systemctl", "list-jobs")
			text, _ := os.ReadFile(console.Name())
			b.t.Fatalf("the bench did not boot: %s %v\n%s", state, err, text)
		}
	}
	b.t.Logf("systemd is up after %s", time.Since(start).Round(time.Millisecond))
}

// cut takes the power away: every process is gone at once, and nothing is written any more.
func (b *bench) cut() {
	if b.init == nil {
		return
	}
	_ = b.init.Process.Kill()
	thaw(b.cgroups) // a container that is paused can't die
	<-b.stopped
	b.init = nil
	removeCgroups(b.cgroups)
}

// inside is a path of the running bench, seen from here.
func (b *bench) inside(path string) string {
	return filepath.Join(fmt.Sprintf("/proc/%d/root", b.init.Process.Pid), path)
}

// write writes a file on the running bench.
func (b *bench) write(path, text string) {
	b.t.Helper()
	must(b.t, os.MkdirAll(filepath.Dir(b.inside(path)), 0o755))
	must(b.t, os.WriteFile(b.inside(path), []byte(text), 0o644))
}

// run runs a command on the bench and returns what it prints.
func (b *bench) run(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"-t", strconv.Itoa(b.init.Process.Pid), "-a", "--wdns=/"}, args...)...)
	cmd.Env = []string{"PATH=" + searchPath, "HOME=/root", "LANG=C.UTF-8", "TERM=dumb", "SYSTEMD_PAGER=cat", "SYSTEMD_COLORS=0"}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s%s", strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return strings.TrimSpace(stdout.String()), err
}

// must runs a command that has to succeed.
func (b *bench) must(args ...string) string {
	b.t.Helper()
	out, err := b.run(args...)
	must(b.t, err)
	return out
}

// property is one property of a unit.
func (b *bench) property(unit, name string) string {
	b.t.Helper()
	return b.must("systemctl", "show", "--property", name, "--value", unit)
}

// journal is what the journal holds of a unit, systemd's own lines about it included.
func (b *bench) journal(unit string) string {
	b.t.Helper()
	b.must("journalctl", "--sync")
	return b.must("journalctl", "--unit", unit, "--output", "cat", "--no-pager", "--quiet")
}

// listen opens a port on the bench's own loopback interface, served from here.
func (b *bench) listen(address string) net.Listener {
	b.t.Helper()
	var listener net.Listener
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		// A thread that is left locked ends with its goroutine, and with a thread ends what it has started (Pdeathsig).
		runtime.LockOSThread()
		listener, err = listenIn(fmt.Sprintf("/proc/%d/ns/net", b.init.Process.Pid), address)
		runtime.UnlockOSThread()
	}()
	<-done
	must(b.t, err)
	return listener
}

// listenIn opens a port in another network namespace, and returns to its own.
func listenIn(namespace, address string) (net.Listener, error) {
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	defer own.Close()
	other, err := os.Open(namespace)
	if err != nil {
		return nil, err
	}
	defer other.Close()
	if err := unix.Setns(int(other.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", address)
	return listener, errors.Join(err, unix.Setns(int(own.Fd()), unix.CLONE_NEWNET))
}

const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// masked are units that would touch the machine below, or wait for hardware that is not there.
var masked = strings.Fields(`
	dev-hugepages.mount sys-kernel-debug.mount sys-kernel-tracing.mount sys-fs-fuse-connections.mount
	sys-kernel-config.mount proc-sys-fs-binfmt_misc.automount dev-mqueue.mount systemd-timesyncd.service
	systemd-networkd.service systemd-resolved.service systemd-modules-load.service systemd-sysctl.service
	systemd-binfmt.service systemd-udevd.service systemd-udev-trigger.service systemd-hwdb-update.service
	systemd-random-seed.service systemd-machine-id-commit.service systemd-firstboot.service systemd-pcrphase.service
	systemd-pcrphase-sysinit.service systemd-logind.service dbus.service dbus.socket apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer
	fstrim.timer dpkg-db-backup.timer man-db.timer systemd-tmpfiles-clean.timer`)

const benchTarget = `[Unit]
Requires=basic.target
After=basic.target
Wants=timers.target
AllowIsolate=yes
`

// becomeInit is PID 1 of the bench: it sets the machine up and becomes systemd.
func becomeInit(text string) error {
	runtime.LockOSThread() // namespaces and capabilities are a thread's
	var c initConfig
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return err
	}
	for _, group := range c.Cgroups {
		if err := os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte("0"), 0); err != nil {
			return err
		}
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	root := filepath.Join(c.Disk, "root")
	if err := errors.Join(mountAll(root, c), os.MkdirAll(filepath.Join(root, ".old"), 0o700)); err != nil {
		return err
	}
	if err := prepare(root); err != nil {
		return err
	}
	steps := []func() error{
		func() error { return unix.Sethostname([]byte("bench")) },
		func() error { return unix.PivotRoot(root, filepath.Join(root, ".old")) },
		func() error { return os.Chdir("/") },
		func() error { return unix.Unmount("/.old", unix.MNT_DETACH) },
		// systemd leaves this to the manager of its container; without it credentials can't be seen.
		func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "") },
	}
	for i, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
	}
	// What no test needs and the machine below must not lose: its clock, kernel modules, raw devices, the kernel's log.
	for _, c := range []uintptr{unix.CAP_SYS_TIME, unix.CAP_SYS_MODULE, unix.CAP_SYS_RAWIO, unix.CAP_SYSLOG, unix.CAP_WAKE_ALARM} {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	// systemd 256 and 257 refuse control groups of version 1 unless PID 1's arguments, which stand for a kernel's in a
	// container, say otherwise (NEWS of 256). Older ones do not know the word and pass over it.
	return unix.Exec("/lib/systemd/systemd", []string{"systemd", "--system", "--unit=bench.target", "--show-status=no",
		"SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"},
		[]string{"container=bench", "PATH=" + searchPath, "LANG=C.UTF-8"})
}

func mountAll(root string, c initConfig) error {
	const safe = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	mount := func(source, to, kind string, flags uintptr, data string) error {
		target := filepath.Join(root, to)
		if err := os.MkdirAll(target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(source, target, kind, flags, data); err != nil {
			return fmt.Errorf("mount %s (%s): %w", target, kind, err)
		}
		return nil
	}
	readOnly := func(to string) error {
		target := filepath.Join(root, to)
		if _, err := os.Stat(target); err != nil {
			return nil
		}
		return errors.Join(unix.Mount(target, target, "", unix.MS_BIND, ""),
			unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	}
	layers := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", c.Root, c.Disk, c.Disk)
	steps := []func() error{
		func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") },
		func() error { return mount("overlay", "", "overlay", 0, layers) },
		func() error { return mount("proc", "proc", "proc", safe, "") },
		// The kernel's settings are the machine's below.
		func() error { return readOnly("proc/sys") },
		func() error { return readOnly("proc/sysrq-trigger") },
		func() error { return readOnly("proc/irq") },
		func() error { return readOnly("proc/bus") },
		func() error { return mount("sysfs", "sys", "sysfs", safe|unix.MS_RDONLY, "") },
		func() error { return mount("tmpfs", "run", "tmpfs", unix.MS_NOSUID, "mode=755,size=64m") },
		func() error {
			return mount("tmpfs", "tmp", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777,size=256m")
		},
		func() error { return mount("tmpfs", "dev", "tmpfs", unix.MS_NOSUID, "mode=755,size=4m") },
		func() error {
			return mount("devpts", "dev/pts", "devpts", 0, "newinstance,ptmxmode=0666,mode=620,gid=5")
		},
		func() error {
			return mount("tmpfs", "dev/shm", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777,size=64m")
		},
		func() error { return mount(c.Volumes, strings.TrimPrefix(volumesInside, "/"), "", unix.MS_BIND, "") },
		func() error { return c.Layout.mount(mount) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		target := filepath.Join(root, "dev", name)
		if err := errors.Join(os.WriteFile(target, nil, 0o666), unix.Mount("/dev/"+name, target, "", unix.MS_BIND, "")); err != nil {
			return err
		}
	}
	for name, to := range map[string]string{"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0",
		"stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"} {
		if err := os.Symlink(to, filepath.Join(root, "dev", name)); err != nil {
			return err
		}
	}
	// Docker closes its directory to everybody else.
	return os.Chmod(filepath.Join(root, filepath.Dir(volumesInside)), 0o710)
}

// prepare gives a new disk a clean set of units: nothing of what the machine below happens to have enabled.
func prepare(root string) error {
	units := filepath.Join(root, "etc/systemd/system")
	if _, err := os.Stat(filepath.Join(units, "bench.target")); err == nil {
		return nil // it has been on before
	}
	uuid, err := os.ReadFile("/proc/sys/kernel/random/uuid")
	if err != nil {
		return err
	}
	errs := []error{os.RemoveAll(units), os.MkdirAll(units, 0o755),
		os.RemoveAll(filepath.Join(root, "var/lib/systemd/timers")),
		os.RemoveAll(filepath.Join(root, "var/log/journal")), os.MkdirAll(filepath.Join(root, "var/log/journal"), 0o755),
		os.WriteFile(filepath.Join(units, "bench.target"), []byte(benchTarget), 0o644),
		os.WriteFile(filepath.Join(root, "etc/machine-id"), []byte(strings.ReplaceAll(string(uuid), "-", "")), 0o444),
		os.WriteFile(filepath.Join(root, "etc/hostname"), []byte("bench\n"), 0o644)}
	// An administrator's files of this machine are not the bench's.
	errs = append(errs, os.RemoveAll(filepath.Join(root, "etc/usage-sync")), os.MkdirAll(filepath.Join(root, "etc/usage-sync"), 0o750))
	for _, unit := range masked {
		errs = append(errs, os.Symlink("/dev/null", filepath.Join(units, unit)))
	}
	return errors.Join(errs...)
}

// cgroupLayout says where the machine's control groups are. systemd mounts every hierarchy of version 1 that it finds, and
// would make its slices at the machine's root, so it gets a group of its own in each.
type cgroupLayout struct {
	Unified bool              // the memory controller is version 2's
	V2      string            // the group of version 2 that gets the machines'
	V1      map[string]string // our own group in each hierarchy of version 1, by the mount's options
}

func newCgroupLayout() (cgroupLayout, error) {
	l := cgroupLayout{V1: map[string]string{}}
	own := map[string]string{}
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return l, err
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.SplitN(strings.TrimSpace(line), ":", 3); len(f) == 3 {
			own[f[1]] = f[2]
		}
	}
	text, err = os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return l, err
	}
	for line := range strings.Lines(string(text)) {
		mounted, source, _ := strings.Cut(strings.TrimSpace(line), " - ")
		from, what := strings.Fields(mounted), strings.Fields(source)
		switch point := from[4]; what[0] {
		case "cgroup2":
			if l.V2 == "" {
				l.V2 = filepath.Join(point, own[""])
				controllers, _ := os.ReadFile(filepath.Join(point, "cgroup.controllers"))
				if l.Unified = strings.Contains(string(controllers), "memory"); l.Unified {
					l.V2 = point // a group that holds processes, as ours does, can't hand controllers on; the root can
				}
			}
		case "cgroup":
			for controllers, group := range own {
				if controllers != "" && strings.HasSuffix(","+what[2], ","+controllers) {
					l.V1[controllers] = filepath.Join(point, group)
				}
			}
		}
	}
	if l.Unified {
		l.V1 = nil
	}
	return l, nil
}

// parents are the groups below which machines get theirs.
func (l cgroupLayout) parents() []string {
	parents := slices.Collect(maps.Values(l.V1))
	if l.V2 != "" {
		parents = append(parents, l.V2)
	}
	return parents
}

// create makes a group for one machine in each hierarchy.
func (l cgroupLayout) create(t testing.TB) (made []string) {
	t.Helper()
	if l.V2 != "" {
		// Not an error where there are none to hand on: the test of the memory limit notices.
		_ = os.WriteFile(filepath.Join(l.V2, "cgroup.subtree_control"), []byte("+memory +pids +cpu"), 0)
	}
	name := fmt.Sprintf("%s%d", cgroupPrefix(os.Getpid()), benches.Add(1))
	for _, parent := range l.parents() {
		group := filepath.Join(parent, name)
		must(t, os.Mkdir(group, 0o755))
		made = append(made, group)
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} { // empty at first in version 1, and then nothing may enter
			if text, err := os.ReadFile(filepath.Join(parent, file)); err == nil && l.V1 != nil {
				must(t, os.WriteFile(filepath.Join(group, file), text, 0))
			}
		}
	}
	return made
}

func (l cgroupLayout) mount(mount func(source, to, kind string, flags uintptr, data string) error) error {
	const safe = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if l.Unified {
		return mount("cgroup2", "sys/fs/cgroup", "cgroup2", safe, "")
	}
	if err := mount("tmpfs", "sys/fs/cgroup", "tmpfs", safe, "mode=755,size=1m"); err != nil {
		return err
	}
	if err := mount("cgroup2", "sys/fs/cgroup/unified", "cgroup2", safe, ""); err != nil {
		return err
	}
	for controllers := range l.V1 {
		if controllers != "memory" && controllers != "pids" && controllers != "cpu" {
			continue
		}
		if err := mount("cgroup", "sys/fs/cgroup/"+controllers, "cgroup", safe, controllers); err != nil {
			return err
		}
	}
	return nil
}

// thaw wakes what is frozen below groups.
func thaw(groups []string) {
	for _, group := range groups {
		_ = filepath.WalkDir(group, func(path string, entry os.DirEntry, err error) error {
			if err == nil && entry.Name() == "freezer.state" {
				_ = os.WriteFile(path, []byte("THAWED"), 0)
			} else if err == nil && entry.Name() == "cgroup.freeze" {
				_ = os.WriteFile(path, []byte("0"), 0)
			}
			return nil
		})
	}
}

// removeCgroups removes groups with all those that systemd has made below them, once their last process is gone.
func removeCgroups(groups []string) {
	for _, group := range groups {
		for range 50 {
			var below []string
			_ = filepath.WalkDir(group, func(path string, entry os.DirEntry, err error) error {
				if err == nil && entry.IsDir() {
					below = append(below, path)
				}
				return nil
			})
			for i := len(below) - 1; i >= 0; i-- {
				_ = os.Remove(below[i])
			}
			if _, err := os.Stat(group); err != nil {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
}

// cgroupPrefix begins the names of the groups that a test process has made.
func cgroupPrefix(pid int) string { return fmt.Sprintf("usage-sync-bench.%d.", pid) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
