package systemd_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"usage-sync/store"
)

// place is a database somewhere on the host, and what its owner made of the directories above.
type place struct {
	dir      string
	uid, gid int
	source   string // what the container mounts, where it is not dir itself
	prepare  string // run by sh, with the directory made
	unusable string // part of the reason, where discover refuses it
	noUser   bool   // the host knows its user already
}

// places are where databases lie: uids above 70000 have no entry on any host.
var places = map[string]place{
	"volume":          {dir: volumesInside + "/volume/_data"},
	"volume-user":     {dir: volumesInside + "/volume-user/_data", uid: 71423, gid: 71423},
	"volume-groups":   {dir: volumesInside + "/volume-groups/_data", uid: 71424, gid: 71500},
	"volume-group-0":  {dir: volumesInside + "/volume-group-0/_data", uid: 71425, gid: 0},
	"volume-known":    {dir: volumesInside + "/volume-known/_data", uid: 33, gid: 33, noUser: true},
	"userns-remap":    {dir: "/var/lib/docker/165536.165536/volumes/x/_data", uid: 165536, gid: 165536, prepare: "chmod 700 /var/lib/docker/165536.165536; chown 165536 /var/lib/docker/165536.165536"},
	"snap":            {dir: "/var/snap/docker/common/var-lib-docker/volumes/x/_data", prepare: "chmod 711 /var/snap/docker/common/var-lib-docker"},
	"podman":          {dir: "/var/lib/containers/storage/volumes/x/_data", prepare: "chmod 700 /var/lib/containers/storage"},
	"podman-user":     {dir: "/var/lib/containers/storage/volumes/y/_data", uid: 71426, gid: 71426},
	"rootless-podman": {dir: "/home/anna/.local/share/containers/storage/volumes/x/_data", uid: 71000, gid: 71000, prepare: "chown 71000 /home/anna; chmod 700 /home/anna"},
	"rootless-docker": {dir: "/home/anna/.local/share/docker/volumes/x/_data", uid: 200999, gid: 200999},
	"srv":             {dir: "/srv/acme"},
	"srv-closed":      {dir: "/srv/team/acme", prepare: "chown 71427 /srv/team; chmod 700 /srv/team"},
	"opt":             {dir: "/opt/open-webui/data"},
	"home":            {dir: "/home/ben/data", prepare: "chown 71428 /home/ben; chmod 700 /home/ben"},
	"root":            {dir: "/root/data"},
	"run-user":        {dir: "/run/user/71000/data"},
	"tmp":             {dir: "/tmp/data"},
	"var-tmp":         {dir: "/var/tmp/data"},
	"other-disk":      {dir: "/mnt/disk/data", prepare: "mount -t tmpfs none /mnt/disk && mkdir /mnt/disk/data"},
	"link":            {dir: "/home/ben/linked", source: "/srv/link", prepare: "ln -s /home/ben/linked /srv/link"},
	"link-above":      {dir: "/data/engine/volumes/x/_data", source: "/var/lib/engine/volumes/x/_data", prepare: "ln -s /data/engine /var/lib/engine; chmod 710 /data/engine", uid: 71429, gid: 71429},
	"blank":           {dir: "/srv/a client's \"data\"", uid: 71423, gid: 71423},
	"percent":         {dir: "/srv/100%/50%i"},
	"percent-closed":  {dir: "/srv/closed 100%/x", uid: 71430, gid: 71430, prepare: "chmod 700 '/srv/closed 100%'"},
	"backslash":       {dir: `/srv/back\slash`},
	"colon":           {dir: "/srv/a:b"},
	"colon-home":      {dir: "/home/ben/a:b"},
	"colon-closed":    {dir: "/srv/c:d/x", prepare: "chown 71427 '/srv/c:d'; chmod 700 '/srv/c:d'", unusable: "without a colon"},
	"boot":            {dir: "/boot/data", unusable: "InaccessiblePaths="},
	"settings":        {dir: "/etc/usage-sync/data", unusable: "InaccessiblePaths="},
	"link-to-boot":    {dir: "/boot/linked", source: "/srv/link-to-boot", prepare: "ln -s /boot/linked /srv/link-to-boot", unusable: "InaccessiblePaths="},
	"shm":             {dir: "/dev/shm/data", unusable: "PrivateDevices="},
	"foreign-dir":     {dir: "/srv/foreign", prepare: "chown 71431 /srv/foreign", unusable: "chown 0:0 '/srv/foreign'"},
}

// TestPlaces has the daily unit configure a container at each place, and starts a pass over each: either it records what
// there is, or discover says why it can't.
func TestPlaces(t *testing.T) {
	needHost(t)
	b, g := newBench(t), newGateway()
	b.serve(gatewayAddress, g)
	b.dropIn("usage-sync@.service", "test", fmt.Sprintf("[Service]\nRestart=no\nEnvironment=OPENROUTER_BASE_URL=http://%s/api/v1 USAGE_SYNC_NOW=%s\n",
		gatewayAddress, now.Format(time.RFC3339)))
	b.dropIn("usage-sync@.timer", "test", every("2100-01-01"))
	containers, sources := map[string]*container{}, map[string]string{}
	for name, p := range places {
		b.must("mkdir", "-p", p.dir)
		if p.prepare != "" {
			b.must("sh", "-e", "-c", p.prepare)
		}
		containers[name] = b.placeDatabase(g, name, p)
		if sources[name] = p.source; p.source == "" {
			sources[name] = p.dir
		}
	}
	b.engine(sources)
	if _, err := b.run("systemctl", "start", "usage-sync-discover.service"); err != nil {
		t.Fatal(b.journal("usage-sync-discover.service"))
	}
	// The second run finds everything as it should be.
	var out struct {
		Instances []struct{ Container, Status, Problem string }
	}
	must(t, json.Unmarshal([]byte(b.must("usage-sync", "discover", "--json")), &out))
	if len(out.Instances) != len(places) {
		t.Errorf("%d of %d containers are listed", len(out.Instances), len(places))
	}
	for _, i := range out.Instances {
		p := places[i.Container]
		if (i.Problem == "") != (p.unusable == "") || !strings.Contains(i.Problem, p.unusable) {
			t.Errorf("%s: %s, %q", i.Container, i.Status, i.Problem)
		}
		if i.Problem != "" {
			continue
		}
		if timer := "usage-sync@" + i.Container + ".timer"; i.Status != "configured" || b.property(timer, "UnitFileState") != "enabled" {
			t.Errorf("%s is %s, and its timer %s", i.Container, i.Status, b.property(timer, "UnitFileState"))
		}
		unit := "usage-sync@" + i.Container + ".service"
		if _, err := b.run("systemctl", "start", unit); err != nil {
			t.Errorf("%s:\n%s\n%s", i.Container, b.journal(unit), b.must("cat", "/etc/systemd/system/usage-@"+i.Container+".service.d/database.conf"))
			continue
		}
		c := containers[i.Container]
		b.must("cp", p.dir+"/webui.db", filepath.Join(volumesInside, filepath.Base(c.database)))
		c.check(t)
		if out := b.must("find", p.dir, "!", "-uid", fmt.Sprint(p.uid)); out != "" {
			t.Errorf("%s: not the container's: %s", i.Container, out)
		}
		declared, _ := b.run("sh", "-c", fmt.Sprintf("ls /etc/sysusers.d | grep -x 'usage-sync-%d-%d.conf'", p.uid, p.gid))
		if want := p.uid != 0 && !p.noUser; want != (declared != "") {
			t.Errorf("%s: a user is declared: %q", i.Container, declared)
		}
	}
}

// placeDatabase makes a container's database at a place of the running bench. The container's own database is the file to
// which the test copies it, for the bench's root is out of reach of SQLite from here.
func (b *bench) placeDatabase(g *gateway, name string, p place) *container {
	b.t.Helper()
	c := &container{name: name, key: "sk-or-v1-host-" + name, database: filepath.Join(b.volumes, name+".db")}
	client := store.NewOrganisation{ID: name, Name: name, Key: c.key, Rate: 1.3}
	must(b.t, store.CreateDemo(context.Background(), c.database, []store.NewOrganisation{client}, now))
	g.AddKey(c.key, name)
	c.use(g, 10)
	b.must("mv", filepath.Join(volumesInside, name+".db"), p.dir+"/webui.db")
	owner := fmt.Sprintf("%d:%d", p.uid, p.gid)
	b.must("chown", owner, p.dir+"/webui.db")
	if !strings.Contains(p.unusable, "chown") {
		b.must("chown", owner, p.dir)
	}
	return c
}

// TestHiddenPlaces: each path that a unit hides is a place of the table above, or can hold no database.
func TestHiddenPlaces(t *testing.T) {
	files := []string{"/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-", "/etc/sudoers", "/run/docker.sock"}
	table, err := os.ReadFile("../job/discover/sandbox.go")
	must(t, err)
	units, err := filepath.Glob("*.service")
	must(t, err)
	dropIns, err := filepath.Glob("*.service.d/*.conf")
	must(t, err)
	setting := regexp.MustCompile(`(?m)^InaccessiblePaths=(.*)$`)
	hidden := 0
	for _, unit := range slices.Concat(units, dropIns) {
		text, err := os.ReadFile(unit)
		must(t, err)
		for _, line := range setting.FindAllStringSubmatch(string(text), -1) {
			for path := range strings.FieldsSeq(line[1]) {
				path = strings.TrimPrefix(path, "-")
				hidden++
				if !slices.Contains(files, path) && !strings.Contains(string(table), fmt.Sprintf("{%q, \"InaccessiblePaths=\", closed}", path)) {
					t.Errorf("%s hides %s: discover does not know", unit, path)
				}
			}
		}
	}
	if hidden == 0 {
		t.Error("the units hide nothing")
	}
}
