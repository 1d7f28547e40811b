package systemd_test

import (
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPackage installs the Debian package on a machine that has nothing of the project, follows the README from there to a
// recorded pass, and removes it again.
func TestPackage(t *testing.T) {
	needHost(t)
	packages, err := filepath.Glob("../bin/usage-sync_*.deb")
	must(t, err)
	if len(packages) != 1 {
		t.Fatalf("%d packages in bin: make package", len(packages))
	}
	b := newBenchWith(t, func(b *bench) {
		text, err := os.ReadFile(packages[0])
		must(t, err)
		b.writeDisk("root/usage-sync.deb", text, 0o644)
	})
	g := newGateway()
	b.serve(gatewayAddress, g)

	b.must("dpkg", "--install", "/root/usage-sync.deb")
	b.must("usage-sync", "--version")
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

	b.must("systemctl", "disable", "--now", "usage-sync@acme.timer")
	b.must("dpkg", "--purge", "usage-sync")
	if left, _ := b.run("sh", "-c", "command -v usage-sync; ls /usr/lib/systemd/system /lib/systemd/system | grep usage-sync"); left != "" {
		t.Errorf("left behind: %s", left)
	}
	b.must("test", "-f", "/etc/usage-sync/acme.env") // the operator's
}

// engine answers on the bench as Docker does, for containers and the directories that are mounted at their data.
func (b *bench) engine(containers map[string]string) {
	b.t.Helper()
	listener, err := net.Listen("unix", b.inside("/run/docker.sock"))
	must(b.t, err)
	type container struct {
		ID    string `json:"Id"`
		Names []string
		State string
	}
	var list []container
	for name := range containers {
		list = append(list, container{name, []string{"/" + name}, "running"})
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/_ping", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/containers/json", func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(list) })
	mux.HandleFunc("/containers/{name}/json", func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"Mounts": []map[string]any{
			{"Type": "volume", "Source": containers[r.PathValue("name")], "Destination": "/app/backend/data", "RW": true}}})
	})
	server := &http.Server{Handler: mux}
	go func() { _ = server.Serve(listener) }()
	b.t.Cleanup(func() { _ = server.Close() })
}
