package systemd_test

import (
	"encoding/json"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// families are the kinds of packages, and how each is handled.
var families = map[string]struct {
	files                      string // of the architecture of this machine
	install, upgrade, remove   []string
	completion, beforeAnything string
}{
	"deb": {
		files:   "usage-sync_*.deb",
		install: []string{"dpkg", "--install"}, upgrade: []string{"dpkg", "--install"}, remove: []string{"dpkg", "--purge", "usage-sync"},
		completion: "/usr/share/zsh/vendor-completions/_usage-sync", beforeAnything: "true",
	},
	"rpm": {
		files:   "usage-sync-*.rpm",
		install: []string{"rpm", "--nodeps", "--install"}, upgrade: []string{"rpm", "--nodeps", "--upgrade"},
		remove:     []string{"rpm", "--nodeps", "--erase", "usage-sync"},
		completion: "/usr/share/zsh/site-functions/_usage-sync", beforeAnything: "rpm --initdb",
	},
}

// TestPackage installs the previous version's package on a machine that has nothing of the project, follows the README from
// there to a recorded pass, upgrades, and removes it with everything enabled.
func TestPackage(t *testing.T) {
	for name, family := range families {
		t.Run(name, func(t *testing.T) {
			needHost(t)
			find := func(pattern string) []byte {
				files, err := filepath.Glob(pattern)
				must(t, err)
				if len(files) != 1 {
					t.Fatalf("%d files %s: make test-packages", len(files), pattern)
				}
				text, err := os.ReadFile(files[0])
				must(t, err)
				return text
			}
			b := newBenchWith(t, func(b *bench) {
				b.writeDisk("root/previous."+name, find("../bin/previous/"+family.files), 0o644)
				b.writeDisk("root/usage-sync."+name, find("../bin/"+family.files), 0o644)
			})
			g := newGateway()
			b.serve(gatewayAddress, g)
			b.must("sh", "-c", family.beforeAnything)
			b.must(append(family.install, "/root/previous."+name)...)
			b.must("usage-sync", "--version")
			b.must("test", "-f", family.completion)
			b.must("test", "-f", "/usr/share/doc/usage-sync/CHANGELOG.md")
			b.must("systemd-analyze", "verify", "--recursive-errors=yes", "usage-sync@acme.service", "usage-sync@acme.timer")
			if enabled, _ := b.run("systemctl", "list-unit-files", "--state=enabled", "--no-legend", "usage-sync*"); enabled != "" {
				t.Errorf("enabled by installing: %s", enabled)
			}
			if active, _ := b.run("systemctl", "list-units", "--no-legend", "usage-sync*"); active != "" {
				t.Errorf("started by installing: %s", active)
			}
			acme := b.addContainer(g, "acme", 40)
			settings := b.must("cat", "/etc/usage-sync/acme.env")
			b.must("rm", "-r", "/etc/usage-sync/acme.env", "/etc/systemd/system/usage-@acme.service.d")
			b.engine(map[string]string{"acme": filepath.Dir(strings.Replace(acme.database, b.volumes, volumesInside, 1))})
			if found := b.must("usage-sync", "discover", "--enable"); !strings.Contains(found, "Enabled usage-sync@acme.timer") {
				t.Errorf("discover --enable: %s", found)
			}
			// Where the gateway is, and when: a container's file is the operator's to extend.
			b.write("/etc/usage-sync/acme.env", b.must("cat", "/etc/usage-sync/acme.env")+"\n"+settings)
			b.must("systemctl", "start", "usage-sync@acme.service")
			acme.check(t)
			b.must("systemctl", "start", "usage-sync-backup@acme.service")
			if copies := b.must("sh", "-c", "ls /var/lib/usage-sync/backup/acme"); !strings.HasSuffix(copies, ".db") {
				t.Errorf("backups: %q", copies)
			}
			b.write("/etc/systemd/system/usage-sync-http-acme.socket", example(t, "http.socket", "acme"))
			b.write("/etc/systemd/system/usage-sync-http-acme@.service", example(t, "http@.service", "acme"))
			b.must("systemctl", "daemon-reload")
			units := []string{"usage-sync@acme.timer", "usage-sync-backup@acme.timer", "usage-sync-discover.timer", "usage-sync-http-acme.socket"}
			b.must(append([]string{"systemctl", "enable", "--now", "--quiet"}, units...)...)

			b.must(append(family.upgrade, "/root/usage-sync."+name)...)
			for _, unit := range units {
				if state := b.property(unit, "ActiveState") + " " + b.property(unit, "UnitFileState"); state != "active enabled" {
					t.Errorf("after the upgrade %s is %s", unit, state)
				}
			}
			acme.use(g, 5)
			b.must("systemctl", "start", "usage-sync@acme.service")
			acme.check(t)

			b.must(family.remove...)
			if left, _ := b.run("sh", "-c", "command -v usage-sync; ls /usr/lib/systemd/system /lib/systemd/system | grep usage-sync"); left != "" {
				t.Errorf("left behind: %s", left)
			}
			if left := b.must("find", "/etc/systemd/system", "-xtype", "l", "-o", "-path", "*.wants/usage-sync*"); left != "" {
				t.Errorf("left dangling: %s", left)
			}
			if left, _ := b.run("systemctl", "list-units", "--no-legend", "--state=active,failed", "usage-sync*"); left != "" {
				t.Errorf("still active: %s", left)
			}
			b.must("test", "-f", "/etc/usage-sync/acme.env") // the operator's
		})
	}
}

// engine answers on the bench as Docker does, for containers and the directories that are mounted at their data.
func (b *bench) engine(containers map[string]string) { b.newEngine(containers) }

// fakeEngine is what answers in an engine's place.
type fakeEngine struct {
	mu         sync.Mutex
	containers map[string]string
}

// set makes a container, or takes it away where it has no directory.
func (e *fakeEngine) set(name, directory string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.containers[name] = directory; directory == "" {
		delete(e.containers, name)
	}
}

// rename makes a container anew under another name.
func (e *fakeEngine) rename(name, to string) {
	e.mu.Lock()
	directory := e.containers[name]
	e.mu.Unlock()
	e.set(name, "")
	e.set(to, directory)
}

func (b *bench) newEngine(containers map[string]string) *fakeEngine {
	b.t.Helper()
	e := &fakeEngine{containers: maps.Clone(containers)}
	if e.containers == nil {
		e.containers = map[string]string{}
	}
	listener, err := net.Listen("unix", b.inside("/run/docker.sock"))
	must(b.t, err)
	type container struct {
		ID    string `json:"Id"`
		Names []string
		State string
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/_ping", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/containers/json", func(w http.ResponseWriter, _ *http.Request) {
		e.mu.Lock()
		defer e.mu.Unlock()
		list := []container{}
		for name := range e.containers {
			list = append(list, container{name, []string{"/" + name}, "running"})
		}
		_ = json.NewEncoder(w).Encode(list)
	})
	mux.HandleFunc("/containers/{name}/json", func(w http.ResponseWriter, r *http.Request) {
		e.mu.Lock()
		defer e.mu.Unlock()
		_ = json.NewEncoder(w).Encode(map[string]any{"Mounts": []map[string]any{
			{"Type": "volume", "Source": e.containers[r.PathValue("name")], "Destination": "/app/backend/data", "RW": true}}})
	})
	server := &http.Server{Handler: mux}
	go func() { _ = server.Serve(listener) }()
	b.t.Cleanup(func() { _ = server.Close() })
	return e
}
