package systemd_test

import (
	"archive/tar"
	"bytes"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

var engines = flag.Bool("engines", false, "run the tests that need Docker and Podman on the bench's system")

// engine is a container engine that runs on the bench, with its own command line.
type engine struct {
	*bench
	name    string
	command []string
}

// busybox is an image of a container that does nothing.
func busybox(t testing.TB) []byte {
	t.Helper()
	program, err := os.ReadFile(filepath.Join(*benchRoot, "bin/busybox"))
	must(t, err)
	var image bytes.Buffer
	w := tar.NewWriter(&image)
	for _, h := range []*tar.Header{
		{Name: "bin/", Mode: 0o755, Typeflag: tar.TypeDir}, {Name: "tmp/", Mode: 0o1777, Typeflag: tar.TypeDir},
		{Name: "bin/busybox", Mode: 0o755, Size: int64(len(program)), Typeflag: tar.TypeReg},
		{Name: "bin/sleep", Linkname: "busybox", Typeflag: tar.TypeSymlink}, {Name: "bin/sh", Linkname: "busybox", Typeflag: tar.TypeSymlink},
	} {
		must(t, w.WriteHeader(h))
		if h.Size > 0 {
			_, err := w.Write(program)
			must(t, err)
		}
	}
	must(t, w.Close())
	return image.Bytes()
}

// cli runs the engine's own command line. Its output goes to a file: what it leaves running must not hold a pipe of ours.
func (e *engine) cli(args ...string) string {
	e.t.Helper()
	_, err := e.run(slices.Concat([]string{"sh", "-c", `"$0" "$@" >/run/engine.out 2>/run/engine.err </dev/null`}, e.command, args)...)
	if err != nil {
		text, _ := os.ReadFile(e.inside("/run/engine.err"))
		e.t.Fatalf("%v: %v: %s", args, err, text)
	}
	text, err := os.ReadFile(e.inside("/run/engine.out"))
	must(e.t, err)
	return strings.TrimSpace(string(text))
}

// startEngine starts Docker or Podman on the bench, without a network of its own, and imports an image.
func (b *bench) startEngine(name string) *engine {
	b.t.Helper()
	e := &engine{bench: b, name: name, command: []string{"/usr/bin/docker"}}
	daemon := []string{"/usr/sbin/dockerd", "--iptables=false", "--ip-forward=false", "--bridge=none", "--storage-driver=vfs"}
	socket := "/run/docker.sock"
	if name == "podman" {
		e.command = []string{"/usr/bin/podman", "--runtime=runc", "--cgroup-manager=cgroupfs", "--storage-driver=vfs"}
		daemon = append(slices.Clone(e.command), "system", "service", "--time=0", "unix:///run/podman/podman.sock")
		socket = "/run/podman/podman.sock"
		b.must("sh", "-c", "mkdir -p /run/podman /run/proc; rm -rf /var/lib/containers; mount -t proc proc /run/proc")
	}
	for controller := range b.layout.V1 { // runc needs those that systemd leaves alone, too
		if dir := "/sys/fs/cgroup/" + controller; !strings.Contains(controller, "=") {
			b.must("sh", "-c", fmt.Sprintf("[ -d %s ] || { mkdir %s && mount -t cgroup -o %s none %s; }", dir, dir, controller, dir))
		}
	}
	b.must(append([]string{"systemd-run", "--quiet", "--unit=engine", "--property=Delegate=yes"}, daemon...)...)
	waitUntil(b.t, name+" answers", func() bool {
		if b.property("engine.service", "ActiveState") == "failed" {
			b.t.Fatal(b.journal("engine.service"))
		}
		_, err := b.run("curl", "--silent", "--fail", "--unix-socket", socket, "http://engine/_ping")
		return err == nil
	})
	b.write("/root/busybox.tar", string(busybox(b.t)))
	e.cli("import", "/root/busybox.tar", "open-webui:test")
	e.cli("import", "/root/busybox.tar", "something-else:test")
	return e
}

// contained is a container of the test: how it is made, where its database is, and what discover should say of it.
type contained struct {
	args     []string // of "run"
	image    string   // open-webui unless set
	volume   string   // named, or a directory of the host; its database is made in it
	database string   // below it; empty is none
	uid      int
	then     string // a command of the engine's for the container that runs: stop, pause; or "create" in place of running
	status   string
	problem  string // part of it
	only     string // the engine that can do this
}

const standardData = "/app/backend/data"

var containersOfEngines = map[string]contained{
	"acme":         {args: []string{"-v", "acme:" + standardData}, volume: "acme", database: "webui.db", status: "new"},
	"acme-twin":    {args: []string{"-v", "acme:" + standardData}, status: "shared", problem: "as container acme"},
	"acme-backup":  {args: []string{"-v", "acme:" + standardData + ":ro"}, status: "shared", problem: "as container acme"},
	"bind":         {args: []string{"-v", "/srv/bind:" + standardData}, volume: "/srv/bind", database: "webui.db", status: "new"},
	"above":        {args: []string{"-v", "/srv/above:/app"}, volume: "/srv/above", database: "backend/data/webui.db", status: "new"},
	"sub":          {args: []string{"-v", "sub:/data", "-e", "DATA_DIR=/data/deep/er"}, volume: "sub", database: "deep/er/webui.db", status: "new"},
	"url":          {args: []string{"-v", "url:/state", "-e", "DATABASE_URL=sqlite:////state/chats.db"}, volume: "url", database: "chats.db", status: "new"},
	"Client.One_2": {args: []string{"-v", "/srv/Client One/da ta:" + standardData}, volume: "/srv/Client One/da ta", database: "webui.db", status: "new"},
	"link":         {args: []string{"-v", "/srv/link:" + standardData}, volume: "/home/ben/linked", database: "webui.db", status: "new"},
	"user":         {args: []string{"-v", "user:" + standardData, "--user=71500"}, volume: "user", database: "webui.db", uid: 71500, status: "new"},
	"userns":       {args: []string{"-v", "userns:" + standardData, "--uidmap=0:200000:65536"}, volume: "userns", database: "webui.db", uid: 200000, status: "new", only: "podman"},
	"stopped":      {args: []string{"-v", "stopped:" + standardData}, volume: "stopped", database: "webui.db", then: "stop", status: "new"},
	"paused":       {args: []string{"-v", "paused:" + standardData}, volume: "paused", database: "webui.db", then: "pause", status: "new"},
	"reader":       {args: []string{"-v", "reader:" + standardData + ":ro"}, volume: "reader", database: "webui.db", status: "unusable", problem: "only read it"},
	"made":         {args: []string{"-v", "made:" + standardData}, volume: "made", database: "webui.db", then: "create", status: "unusable", problem: "never started"},
	"empty":        {args: []string{"-v", "empty:" + standardData}, status: "unusable", problem: "no database yet"},
	"single":       {args: []string{"-v", "/srv/single/client.db:" + standardData + "/webui.db"}, volume: "/srv/single", database: "client.db", status: "unusable", problem: "single file"},
	"inside":       {status: "unusable", problem: "in the container itself"},
	"memory":       {args: []string{"--tmpfs=" + standardData}, status: "unusable", problem: "goes with"},
	"postgres":     {args: []string{"-v", "pg:" + standardData, "-e", "DATABASE_URL=postgresql://webui:secret@db/webui"}, status: "unusable", problem: "PostgreSQL"},
	"unrelated":    {image: "something-else:test", args: []string{"-v", "/srv/other:/data", "-e", "DATABASE_URL=postgresql://x:secret@db/x"}},
}

// TestEngines has discover ask real engines for containers of every kind, makes a pass over each by its units, and renames
// and recreates some.
func TestEngines(t *testing.T) {
	if !*engines {
		t.Skip("needs Docker and Podman: make test-engines")
	}
	for _, name := range []string{"docker", "podman"} {
		t.Run(name, func(t *testing.T) {
			needHost(t)
			b, g := newBench(t), newGateway()
			b.serve(gatewayAddress, g)
			b.dropIn("usage-sync@.service", "test", fmt.Sprintf("[Service]\nRestart=no\nEnvironment=OPENROUTER_BASE_URL=http://%s/api/v1 USAGE_SYNC_NOW=%s\n",
				gatewayAddress, now.Format(time.RFC3339)))
			b.dropIn("usage-sync@.timer", "test", every("2100-01-01"))
			e := b.startEngine(name)
			b.must("mkdir", "-p", "/srv/other", "/home/ben")
			b.must("ln", "-s", "/home/ben/linked", "/srv/link")
			clients := map[string]*client{}
			// Volumes with a database first: a container that shares one would make it, too.
			for _, withDatabase := range []bool{true, false} {
				for container, c := range containersOfEngines {
					if (c.only == "" || c.only == name) && (c.database != "") == withDatabase {
						clients[container] = e.contain(g, container, c)
					}
				}
			}
			found := e.discover("--enable")
			for container := range clients {
				c := containersOfEngines[container]
				i, listed := found.Instances[container]
				if c.status == "" {
					if listed || !slices.Contains(found.Without, container) {
						t.Errorf("%s: %+v", container, i)
					}
					continue
				}
				if i.Status != c.status || !strings.Contains(i.Problem, c.problem) || strings.Contains(fmt.Sprint(i), "secret") {
					t.Errorf("%s: %+v, want %s, %q", container, i, c.status, c.problem)
				}
				if c.status == "new" {
					e.pass(container, clients[container])
				}
			}
			e.renameAndRecreate(clients)
			image := e.imagePass(g)
			if name == "docker" {
				e.compose(g, image)
			}
		})
	}
}

// client is a container with a database on the bench.
type client struct {
	*container
	place string // of the database on the bench
}

// contain makes a container and its database.
func (e *engine) contain(g *gateway, name string, c contained) *client {
	e.t.Helper()
	var made *client
	if c.database != "" {
		dir := c.volume
		if !strings.HasPrefix(dir, "/") {
			e.cli("volume", "create", c.volume)
			dir = e.cli("volume", "inspect", "--format", "{{.Mountpoint}}", c.volume)
		}
		p := place{dir: filepath.Join(dir, filepath.Dir(c.database)), uid: c.uid, gid: c.uid}
		e.must("mkdir", "-p", p.dir)
		made = &client{e.placeDatabase(g, name, p), filepath.Join(dir, c.database)}
		if base := filepath.Base(c.database); base != "webui.db" {
			e.must("mv", p.dir+"/webui.db", made.place)
		}
	}
	e.start(name, c)
	return made
}

// start makes a container, and brings it into its state.
func (e *engine) start(name string, c contained) {
	e.t.Helper()
	verb := []string{"run", "--detach"}
	if c.then == "create" {
		verb = []string{"create"}
	}
	image := cmp.Or(c.image, "open-webui:test")
	e.cli(slices.Concat(verb, []string{"--network=none", "--name=" + name}, c.args, []string{image, "/bin/sleep", "1000"})...)
	switch c.then {
	case "stop":
		e.cli("kill", name)
		waitUntil(e.t, name+" has ended", func() bool { return e.cli("inspect", "--format", "{{.State.Running}}", name) == "false" })
	case "pause":
		e.cli("pause", name)
	}
}

type discovered struct {
	Instances map[string]discoveredInstance
	Without   []string
}

type discoveredInstance struct {
	Container, State, Status, Database, Problem string
	Former                                      []string
}

func (e *engine) discover(flags ...string) (found discovered) {
	e.t.Helper()
	var out struct {
		Instances []discoveredInstance
		Without   []string `json:"without_database"`
	}
	must(e.t, json.Unmarshal([]byte(e.must(append([]string{"usage-sync", "discover", "--json"}, flags...)...)), &out))
	found = discovered{map[string]discoveredInstance{}, out.Without}
	for _, i := range out.Instances {
		found.Instances[i.Container] = i
	}
	return found
}

// pass starts the units' pass over a container, and checks what it has recorded.
func (e *engine) pass(name string, c *client) {
	e.t.Helper()
	unit := "usage-sync@" + name + ".service"
	if _, err := e.run("systemctl", "start", unit); err != nil {
		e.t.Errorf("%s: %s", name, e.journal(unit))
		return
	}
	e.must("cp", c.place, filepath.Join(volumesInside, filepath.Base(c.database)))
	c.check(e.t)
}

// enabled are the timers of passes that are enabled.
func (e *engine) enabled() []string {
	e.t.Helper()
	return strings.Fields(e.must("sh", "-c", "ls /etc/systemd/system/timers.target.wants | grep ^usage-sync@ | sort"))
}

// renameAndRecreate does what deployments do. Each database keeps one timer.
func (e *engine) renameAndRecreate(clients map[string]*client) {
	t := e.t
	t.Helper()
	before := e.enabled()
	e.cli("rename", "url", "url-2")
	e.cli("rm", "--force", "bind")
	e.start("stack_bind.1.x7k2", containersOfEngines["bind"])
	found := e.discover("--enable")
	for now, former := range map[string]string{"url-2": "url", "stack_bind.1.x7k2": "bind"} {
		if i := found.Instances[now]; i.Status != "renamed" || !slices.Equal(i.Former, []string{former}) {
			t.Errorf("%s: %+v", now, i)
		}
		e.pass(now, clients[former])
	}
	want := slices.Clone(before)
	for i, timer := range want {
		want[i] = strings.NewReplacer("@url.", "@url-2.", "@bind.", "@stack_bind.1.x7k2.").Replace(timer)
	}
	slices.Sort(want)
	if got := e.enabled(); !slices.Equal(got, want) {
		t.Errorf("enabled are %v, want %v", got, want)
	}
	for name, i := range e.discover().Instances {
		if i.Status == "renamed" || i.Status == "gone" || i.Status == "new" {
			t.Errorf("in the end %s is %s", name, i.Status)
		}
	}
}

// imagePass loads our own image and makes a pass in it: read-only, without capabilities.
func (e *engine) imagePass(g *gateway) (loadedName string) {
	t := e.t
	t.Helper()
	image, err := os.ReadFile("../bin/usage-sync-image.tar")
	must(t, err)
	e.write("/root/image.tar", string(image))
	loaded := strings.Fields(e.cli("load", "--input", "/root/image.tar"))
	name := loaded[len(loaded)-1]
	dir := e.cli("volume", "inspect", "--format", "{{.Mountpoint}}", e.cli("volume", "create", "own"))
	c := &client{e.placeDatabase(g, "own", place{dir: dir}), dir + "/webui.db"}
	e.cli("run", "--rm", "--network=host", "--read-only", "--cap-drop=ALL", "-v", "own:"+standardData,
		"-e", "OPENROUTER_BASE_URL=http://"+gatewayAddress+"/api/v1", "-e", "USAGE_SYNC_NOW="+now.Format(time.RFC3339), name)
	e.must("cp", c.place, filepath.Join(volumesInside, filepath.Base(c.database)))
	c.check(t)
	return name
}

// compose runs the example: "up" leaves usage-sync alone, "run" makes a pass.
func (e *engine) compose(g *gateway, image string) {
	t := e.t
	t.Helper()
	example, err := os.ReadFile("../cron/compose.yaml")
	must(t, err)
	e.write("/srv/acme/compose.yaml", string(example))
	e.write("/srv/acme/compose.override.yaml", fmt.Sprintf(`
services:
  open-webui:
    network_mode: none
    command: [/bin/sleep, "1000"]
  usage-sync:
    network_mode: host
    environment:
      OPENROUTER_BASE_URL: http://%s/api/v1
      USAGE_SYNC_NOW: "%s"
`, gatewayAddress, now.Format(time.RFC3339)))
	run := func(args string) {
		t.Helper()
		e.must("sh", "-c", fmt.Sprintf("cd /srv/acme && OPEN_WEBUI_IMAGE=open-webui:test USAGE_SYNC_IMAGE=%s docker-compose %s >/run/compose.out 2>&1 </dev/null || "+
			"{ cat /run/compose.out >&2; exit 1; }", image, args))
	}
	run("up -d")
	if running := e.cli("ps", "--all", "--format", "{{.Names}}"); strings.Contains(running, "acme_usage-sync") {
		t.Errorf("up has started a pass: %s", running)
	}
	dir := e.cli("volume", "inspect", "--format", "{{.Mountpoint}}", "acme_data")
	c := &client{e.placeDatabase(g, "composed", place{dir: dir}), dir + "/webui.db"}
	run("run --rm usage-sync")
	e.must("cp", c.place, filepath.Join(volumesInside, filepath.Base(c.database)))
	c.check(t)
}
