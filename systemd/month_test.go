package systemd_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"usage-sync/job/openrouter/standin"
	"usage-sync/store"
)

// fleet is a host of clients with a clock of its own, at OpenRouter over TLS.
type fleet struct {
	*bench
	api        *standin.Server
	clock      atomic.Int64
	containers map[string]*container // by the name that they have now
	docker     *fakeEngine
	used       int
}

// metricsInside is the metrics file of all containers of the fleet.
const metricsInside = "/var/lib/prometheus/node-exporter/usage-sync.prom"

const fleetKey = "sk-or-v1-host-management"

// newFleet starts a machine with the package, and OpenRouter's certificate among those that the system trusts.
func newFleet(t *testing.T) *fleet {
	t.Helper()
	packages, err := filepath.Glob("../bin/usage-sync_*.deb")
	must(t, err)
	if len(packages) != 1 {
		t.Fatalf("%d packages: make test-packages", len(packages))
	}
	text, err := os.ReadFile(packages[0])
	must(t, err)
	f := &fleet{containers: map[string]*container{}}
	f.api = standin.New(func() time.Time { return f.now() })
	f.api.AddManagementKey(fleetKey)
	f.api.AnalyticsPerMinute(100000)
	server := httptest.NewUnstartedServer(f.api)
	f.bench = newBenchWith(t, func(b *bench) { b.writeDisk("root/usage-sync.deb", text, 0o644) })
	_ = server.Listener.Close()
	server.Listener = f.listen(gatewayAddress)
	server.StartTLS()
	t.Cleanup(server.Close)
	f.write("/etc/ssl/certs/ca-certificates.crt",
		string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})))
	f.must("dpkg", "--install", "/root/usage-sync.deb")
	f.must("install", "-d", "-m", "0750", "/etc/usage-sync")
	f.write("/etc/usage-sync/management-key", fleetKey+"\n")
	f.must("chmod", "0600", "/etc/usage-sync/management-key")
	f.must("mkdir", "-p", filepath.Dir(metricsInside))
	f.dropIn("usage-sync@.service", "metrics", f.must("cat", "/usr/share/doc/usage-sync/examples/metrics.conf"))
	for _, timer := range []string{"usage-sync", "usage-sync-close", "usage-sync-discover"} {
		name := map[bool]string{true: timer + ".timer", false: timer + "@.timer"}[timer == "usage-sync-discover"]
		f.dropIn(name, "test", every("2100-01-01"))
	}
	return f
}

func (f *fleet) now() time.Time { return time.Unix(f.clock.Load(), 0).UTC() }

// at sets the clock of OpenRouter and of the units.
func (f *fleet) at(when time.Time) {
	f.t.Helper()
	f.clock.Store(when.Unix())
	for _, unit := range []string{"usage-sync@.service", "usage-sync-close@.service", "usage-sync-discover.service"} {
		f.dropIn(unit, "test", fmt.Sprintf("[Service]\nRestart=no\nTimeoutStopSec=5min\nEnvironment=OPENROUTER_BASE_URL=https://%s/api/v1 USAGE_SYNC_NOW=%s\n",
			gatewayAddress, when.Format(time.RFC3339)))
	}
	f.must("systemctl", "daemon-reload")
}

// command runs a command of an administrator at the clock's time, which has to end with a code.
func (f *fleet) command(code int, args ...string) string {
	f.t.Helper()
	script := fmt.Sprintf(`cd /root; export USAGE_SYNC_NOW=%s OPENROUTER_BASE_URL=https://%s/api/v1; "$@" 2>/run/said; echo "exit $?"`,
		f.now().Format(time.RFC3339), gatewayAddress)
	text := f.must(append([]string{"sh", "-c", script, "sh", "usage-sync"}, args...)...)
	said, err := os.ReadFile(f.inside("/run/said"))
	must(f.t, err)
	out, found := strings.CutSuffix(text, fmt.Sprintf("exit %d", code))
	if !found {
		f.t.Fatalf("%v: want exit %d\n%s\n%s", args, code, text, said)
	}
	if out == "" {
		return string(said)
	}
	return out
}

// add makes a container with a database.
func (f *fleet) add(name string) *container {
	f.t.Helper()
	c := &container{name: name, key: "sk-or-v1-host-" + name, database: filepath.Join(f.volumes, name, "_data", "webui.db")}
	must(f.t, os.MkdirAll(filepath.Dir(c.database), 0o755))
	must(f.t, store.CreateDemo(context.Background(), c.database,
		[]store.NewOrganisation{{ID: name, Name: strings.ToUpper(name) + " GmbH", Key: c.key, Rate: 1.3}}, f.now()))
	for _, table := range []string{"generations", "days", "books", "takeovers", "put_aside", "state", "sources", "runs", "key_names",
		"totals", "hours", "alerts"} {
		c.sql(f.t, "drop table usage_sync_"+table)
	}
	c.sql(f.t, "drop table processed_generations")
	f.api.SetKey(c.key, standin.Key{Name: name})
	f.containers[name] = c
	f.docker.set(name, volumesInside+"/"+name+"/_data")
	return c
}

// use has a container use something every few hours of a time, at costs of fractions of a cent.
func (f *fleet) use(c *container, from, until time.Time) {
	for at := from; at.Before(until); at = at.Add(7 * time.Hour) {
		f.used++
		raw := int64(f.used*7919%99991+1) * 1e6 // pico-dollars
		f.api.Add(c.key, standin.Generation{ID: fmt.Sprint("gen-", f.used), CreatedAt: at, Model: "openai/gpt-4o", ExternalUser: "ada",
			PromptTokens: 60, CompletionTokens: 40, Cost: fmt.Sprintf("0.%012d", raw)})
		c.want.Tokens += 100
		c.want.Requests++
		c.want.Raw += raw
		c.want.Markup += raw / 10 * 13
	}
}

// passes starts the units' passes of containers, a few at once, and looks at what they have recorded.
func (f *fleet) passes(names ...string) {
	f.t.Helper()
	for some := range slices.Chunk(names, 5) {
		var units []string
		for _, name := range some {
			units = append(units, "usage-sync@"+name+".service")
		}
		_, _ = f.run(append([]string{"systemctl", "reset-failed"}, units...)...) // systemd counts how often they are started
		if _, err := f.run(append([]string{"systemctl", "start"}, units...)...); err != nil {
			for _, unit := range units {
				if f.property(unit, "Result") != "success" {
					f.t.Errorf("%s", f.journal(unit))
				}
			}
			f.t.Fatal(err)
		}
	}
	for _, name := range names {
		f.containers[name].check(f.t)
	}
}

// enabledPasses are the containers whose timers are enabled.
func (f *fleet) enabledPasses() (names []string) {
	for _, timer := range strings.Fields(f.must("sh", "-c", "ls /etc/systemd/system/timers.target.wants | grep ^usage-sync@ | sort")) {
		names = append(names, strings.TrimSuffix(strings.TrimPrefix(timer, "usage-sync@"), ".timer"))
	}
	return names
}

// exactly writes pico-dollars as JSON does.
func exactly(pico int64) json.Number {
	return json.Number(store.Money(pico).Exact())
}

// TestMonthOfAHost is the first month of a host with twenty clients, as its administrator and its timers live it: from the
// package to the owner's summary and the closed statements.
func TestMonthOfAHost(t *testing.T) {
	needHost(t)
	f := newFleet(t)
	begin := time.Date(2025, 11, 1, 0, 0, 0, 0, time.UTC)
	f.at(begin.Add(time.Hour))
	f.docker = f.newEngine(nil)
	var names []string
	for i := range 20 {
		name := fmt.Sprintf("client-%02d", i+1)
		f.use(f.add(name), begin.Add(5*time.Minute), f.now())
		names = append(names, name)
	}
	// The Python sync has counted the first hour of one of them twice, and is off now.
	old := f.containers["client-01"]
	old.sql(t, fmt.Sprintf("insert into client_live_counters values ('client-01', '2025-11-01', 0, 2, 0.02, 0.026, %d)",
		begin.Add(10*time.Minute).Unix()))
	old.sql(t, fmt.Sprintf(`insert into client_user_daily_usage values ('client-01:background_sync:2025-11-01', 'client-01',
		'background_sync', 'bg_sync_acme', '2025-11-01', 0, 2, 0.02, 0.026, %d, %[1]d)`, begin.Add(10*time.Minute).Unix()))

	// The package is there. Containers are found; the one that wants a decision gets no timer before it.
	said := f.command(0, "discover", "--write", "--enable")
	if !strings.Contains(said, "usage-sync takeover") {
		t.Errorf("discover does not name the decision:\n%s", said)
	}
	if got := f.enabledPasses(); !slices.Equal(got, names[1:]) {
		t.Fatalf("enabled are %v", got)
	}
	f.command(0, "takeover", "-i", "client-01", "--replace", "--yes")
	f.command(0, "discover", "--enable")
	if got := f.enabledPasses(); !slices.Equal(got, names) {
		t.Fatalf("after the decision enabled are %v", got)
	}

	// The line of the guide, typed on the host: one pass, one lock, one database.
	said = f.command(0, "--org", "client-05", "--days-back", "1")
	if !strings.Contains(said, "Background sync completed: 1/1 organizations synced") {
		t.Errorf("the line of the guide: %s", said)
	}
	f.containers["client-05"].check(t)
	if got := f.containers["client-06"].locks(t); got {
		t.Error("the line of the guide has touched another database")
	}
	f.passes(names...)

	// A container is made anew under another name; another one's key is rotated.
	step := func(when time.Time) {
		t.Helper()
		from := f.now()
		f.at(when)
		for _, name := range names {
			f.use(f.containers[name], from, when)
		}
		f.passes(names...)
	}
	step(begin.AddDate(0, 0, 5))
	f.docker.rename("client-02", "client-02-v2")
	f.containers["client-02-v2"] = f.containers["client-02"]
	names[1] = "client-02-v2"
	f.must("systemctl", "start", "usage-sync-discover.service")
	if got := f.enabledPasses(); !slices.Equal(got, names) {
		t.Fatalf("after a rename enabled are %v\n%s", got, f.journal("usage-sync-discover.service"))
	}
	rotated := f.containers["client-03"]
	rotated.key += "-rotated"
	f.api.SetKey(rotated.key, standin.Key{Name: "client-03"})
	rotated.sql(t, fmt.Sprintf("update client_organizations set openrouter_api_key = '%s'", rotated.key))
	step(begin.AddDate(0, 0, 10))

	// A client comes, one goes.
	added := f.add("client-21")
	names = append(names, added.name)
	f.must("systemctl", "start", "usage-sync-discover.service")
	if got := f.enabledPasses(); !slices.Equal(got, names) {
		t.Fatalf("with the new client enabled are %v", got)
	}
	f.passes(added.name)
	step(begin.AddDate(0, 0, 15))
	f.must("systemctl", "disable", "--now", "usage-sync@client-20.timer")
	f.docker.set("client-20", "")
	f.containers["client-20"].sql(t, "update client_organizations set is_active = 0")
	names = slices.DeleteFunc(names, func(name string) bool { return name == "client-20" })
	f.must("systemctl", "start", "usage-sync-discover.service")
	if got := f.enabledPasses(); !slices.Equal(got, names) {
		t.Fatalf("without the client that left enabled are %v", got)
	}
	step(begin.AddDate(0, 0, 22))
	status := strings.Split(f.command(1, "status"), "\n")
	if !strings.HasPrefix(status[0], "USAGE-SYNC WARNING - 20/21 instances well") || !strings.HasPrefix(status[1], "WARNING  client-20 ") ||
		!strings.HasPrefix(status[2], "OK ") {
		t.Errorf("status: %s", strings.Join(status[:3], "\n"))
	}

	// The month ends.
	from, end := f.now(), begin.AddDate(0, 1, 0)
	for _, name := range names {
		f.use(f.containers[name], from, end)
	}
	f.at(end.AddDate(0, 0, 2).Add(7 * time.Hour))
	f.passes(names...)
	names = append(names, "client-20")
	f.statements(names)
	f.closes(names)

	// The host as one thing: the account's charges are all recorded, and one metrics file has all clients
	// under their present names.
	if text := f.command(0, "reconcile", "--account", "--month", "2025-11"); !strings.Contains(text, "captured 100.0000 %") {
		t.Errorf("the account: %s", text)
	}
	measured := f.must("sh", "-c", `sed -n 's/^usage_sync_last_success_timestamp_seconds{instance="\(.*\)"} 1.*/\1/p' `+metricsInside+` | sort`)
	if want := slices.Sorted(slices.Values(names)); measured != strings.Join(want, "\n") {
		t.Errorf("the metrics file is of %s", measured)
	}
}

// locks tells whether a pass has ever taken the container's lock.
func (c *container) locks(t testing.TB) bool {
	t.Helper()
	_, err := os.Stat(c.database + ".usage-sync.lock")
	return err == nil
}

// statements writes the statements of all clients and the owner's summary, and holds both against what was used.
func (f *fleet) statements(names []string) {
	t := f.t
	t.Helper()
	f.command(0, "report", "--month", "2025-11", "--format", "html", "--out", "/srv/statements/")
	index := f.must("cat", "/srv/statements/index.html")
	for _, name := range names {
		file := fmt.Sprintf("%s/%s-2025-11.html", name, strings.TrimSuffix(name, "-v2"))
		if !strings.Contains(index, `<a href="`+file+`">`) {
			t.Errorf("the index does not link to %s", file)
		}
		f.must("test", "-s", "/srv/statements/"+file)
	}
	var summary struct {
		Clients []struct {
			Instance, Status string
			Requests         int64
			Cost, Margin     json.Number
			Raw              json.Number `json:"raw_cost"`
		}
		Missing []any
	}
	must(t, json.Unmarshal([]byte(f.command(0, "report", "--month", "2025-11", "--for", "owner", "--json")), &summary))
	if len(summary.Clients) != len(names) || len(summary.Missing) > 0 {
		t.Errorf("the summary has %d clients of %d, missing %v", len(summary.Clients), len(names), summary.Missing)
	}
	var all totals
	stated := map[string]string{}
	for _, client := range summary.Clients {
		want := f.containers[client.Instance].want
		all.Requests, all.Raw, all.Markup = all.Requests+want.Requests, all.Raw+want.Raw, all.Markup+want.Markup
		if client.Requests != want.Requests || client.Cost != exactly(want.Markup) || client.Raw != exactly(want.Raw) ||
			client.Margin != exactly(want.Markup-want.Raw) {
			t.Errorf("the summary says %+v, used was %+v", client, want)
		}
		if whole := client.Instance != "client-20"; whole != (client.Status == "final") {
			t.Errorf("%s is %s", client.Instance, client.Status)
		}
		stated[client.Instance] = fmt.Sprint(client.Status, client.Cost)
	}
	for line := range strings.Lines(f.command(0, "report", "--month", "2025-11", "--json")) {
		var statement struct {
			Instance, Status string
			Total            struct{ Cost json.Number }
		}
		must(t, json.Unmarshal([]byte(line), &statement))
		if fmt.Sprint(statement.Status, statement.Total.Cost) != stated[statement.Instance] {
			t.Errorf("a statement is %+v, the summary says %s", statement, stated[statement.Instance])
		}
		delete(stated, statement.Instance)
	}
	if len(stated) > 0 {
		t.Errorf("no statement of %v", stated)
	}
	text := f.command(0, "report", "--month", "2025-11", "--for", "owner")
	total := fmt.Sprintf("%d", all.Requests)
	if all.Requests >= 1000 {
		total = fmt.Sprintf("%d,%03d", all.Requests/1000, all.Requests%1000)
	}
	cents := func(pico int64) string { return fmt.Sprintf("%d.%02d", (pico+5e9)/1e12, (pico+5e9)/1e10%100) }
	for line := range strings.Lines(text) {
		if cells := strings.Fields(line); len(cells) > 6 && cells[0] == "Total" {
			if cells[2] != total || cells[4] != cents(all.Markup) {
				t.Errorf("in all %s requests and %s are billed, the summary says %s", total, cents(all.Markup), line)
			}
			return
		}
	}
	t.Errorf("the summary has no total:\n%s", text)
}

// closes starts the units that close the month. One that can't be closed brings an alert.
func (f *fleet) closes(names []string) {
	t := f.t
	t.Helper()
	f.write("/etc/usage-sync/alert.env", `ALERT_COMMAND='cat >"/run/told-$(echo "$ALERT_SUBJECT" | cut -d" " -f1)"'`+"\n")
	for _, name := range names {
		unit := "usage-sync-close@" + name + ".service"
		_, err := f.run("systemctl", "start", unit)
		if name == "client-20" { // no pass has covered the end of the month
			waitUntil(t, "the alert of "+name, func() bool { _, err := f.run("test", "-s", "/run/told-"+unit); return err == nil })
			continue
		}
		if err != nil {
			t.Errorf("%s is not closed:\n%s", name, f.journal(unit))
			continue
		}
		f.must("test", "-s", fmt.Sprintf("/var/lib/usage-sync/statements/%s/%s-2025-11.html", name, strings.TrimSuffix(name, "-v2")))
	}
	// What is closed stays what it is.
	text := f.command(0, "report", "-i", "client-07", "--month", "2025-11", "--json")
	if !strings.Contains(text, `"number":1`) || !strings.Contains(text, `"closed_at"`) {
		t.Errorf("the closed statement: %s", text)
	}
}
