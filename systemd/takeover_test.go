package systemd_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"usage-sync/job/openrouter/standin"
	"usage-sync/store"
)

// TestTakeover is the first month of a client whose container has run the Python sync: the package is installed, doctor and
// discover name the question, the answer is given, the timer is on, passes follow, and the statement of the month is final
// and what OpenRouter lists.
func TestTakeover(t *testing.T) {
	needHost(t)
	packages, err := filepath.Glob("../bin/usage-sync_*.deb")
	must(t, err)
	if len(packages) != 1 {
		t.Fatalf("%d packages: make test-packages", len(packages))
	}
	text, err := os.ReadFile(packages[0])
	must(t, err)
	b := newBenchWith(t, func(b *bench) { b.writeDisk("root/usage-sync.deb", text, 0o644) })
	var clock atomic.Int64
	clock.Store(now.Unix())
	g := &gateway{Server: standin.NewGateway(func() time.Time { return time.Unix(clock.Load(), 0) }), requests: map[string]int{}}
	g.PageLimit(1000)
	b.serve(gatewayAddress, g)
	b.must("dpkg", "--install", "/root/usage-sync.deb")

	// The old sync has counted from the 1st to the 10th, 17:00, each generation twice, without a ledger, a token or a model,
	// and at a markup of 1.3 in place of 1.5. Usage goes on.
	c := &container{name: "acme", key: "sk-or-v1-host-acme", database: filepath.Join(b.volumes, "acme", "_data", "webui.db")}
	must(t, os.MkdirAll(filepath.Dir(c.database), 0o755))
	must(t, store.CreateDemo(context.Background(), c.database, []store.NewOrganisation{{ID: "acme", Name: "acme", Key: c.key, Rate: 1.5}}, now))
	for _, table := range []string{"generations", "days", "books", "takeovers", "put_aside", "state", "sources", "runs", "key_names", "totals",
		"hours", "alerts"} {
		c.sql(t, "drop table usage_sync_"+table)
	}
	c.sql(t, "drop table processed_generations")
	g.AddKey(c.key, "acme")
	listed := 0
	use := func(from, until time.Time) (perDay map[string]int) {
		perDay = map[string]int{}
		for at := from; at.Before(until); at = at.Add(97 * time.Minute) {
			g.Add(c.key, standin.Generation{ID: fmt.Sprint("gen-", listed), CreatedAt: at, Model: "openai/gpt-4o", ExternalUser: "ada",
				PromptTokens: 60, CompletionTokens: 40, Cost: "0.010000000000"})
			listed++
			perDay[at.Format(time.DateOnly)]++
		}
		return perDay
	}
	off := time.Date(2025, 11, 10, 17, 0, 0, 0, time.UTC)
	for day, n := range use(time.Date(2025, 11, 1, 0, 5, 0, 0, time.UTC), off) {
		start, err := time.Parse(time.DateOnly, day)
		must(t, err)
		written := min(off.Unix(), start.Add(24*time.Hour-time.Minute).Unix())
		c.sql(t, fmt.Sprintf(`insert into client_user_daily_usage values ('acme:background_sync:%[1]s', 'acme', 'background_sync',
			'bg_sync_acme', '%[1]s', 0, %[2]d, %[2]d * 0.01, %[2]d * 0.013, %[3]d, %[4]d)`, day, 2*n, start.Add(time.Hour).Unix(), written))
		table := `client_daily_usage values ('acme_%[1]s', 'acme', '%[1]s', 0, %[2]d, %[2]d * 0.01, %[2]d * 0.013, 'x', 1, %[3]d, %[3]d)`
		if day == off.Format(time.DateOnly) {
			table = `client_live_counters values ('acme', '%[1]s', 0, %[2]d, %[2]d * 0.01, %[2]d * 0.013, %[3]d)`
		}
		c.sql(t, fmt.Sprintf("insert into "+table, day, 2*n, written))
	}
	use(off.Add(time.Minute), now)
	b.engine(map[string]string{"acme": volumesInside + "/acme/_data"})

	code := func(want int, args ...string) string {
		t.Helper()
		script := "env USAGE_SYNC_NOW=" + time.Unix(clock.Load(), 0).UTC().Format(time.RFC3339) + " OPENROUTER_BASE_URL=http://" + gatewayAddress +
			"/api/v1 " + strings.Join(args, " ") + ` 2>&1; echo "exit $?"`
		text := b.must("sh", "-c", script)
		if !strings.HasSuffix(text, fmt.Sprintf("exit %d", want)) {
			t.Fatalf("%v: want exit %d\n%s", args, want, text)
		}
		return text
	}
	inside := volumesInside + "/acme/_data/webui.db"
	if text := code(78, "usage-sync", "doctor", "--db", inside); !strings.Contains(text, "✗ takeover") || !strings.Contains(text, "usage-sync takeover --org acme") {
		t.Errorf("doctor does not name the question:\n%s", text)
	}
	if text := code(0, "usage-sync", "discover", "--enable"); !strings.Contains(text, "usage-sync takeover --db") {
		t.Errorf("discover does not name the question:\n%s", text)
	}
	timer, unit := "usage-sync@acme.timer", "usage-sync@acme.service"
	if state, _ := b.run("systemctl", "is-enabled", timer); state == "enabled" {
		t.Error("the timer of an undecided container is enabled")
	}
	settings := b.must("cat", "/etc/usage-sync/acme.env")
	at := func(when time.Time) {
		clock.Store(when.Unix())
		b.write("/etc/usage-sync/acme.env", settings+"\nOPENROUTER_BASE_URL=http://"+gatewayAddress+"/api/v1\nUSAGE_SYNC_NOW="+
			when.Format(time.RFC3339)+"\n")
	}
	at(now)
	b.dropIn("usage-sync@.timer", "test", every("2100-01-01"))
	b.dropIn("usage-sync@.service", "test", "[Service]\nRestart=no\n")
	b.must("systemctl", "daemon-reload")
	if _, err := b.run("systemctl", "start", unit); err == nil || !strings.Contains(b.journal(unit), "totals hold") ||
		!strings.Contains(b.journal(unit), "OpenRouter lists") {
		t.Errorf("a pass does not ask:\n%s", b.journal(unit))
	}
	shown := code(78, "usage-sync", "takeover", "-i", "acme", "--days-back", "11")
	if !strings.Contains(shown, "Advised is replace") || !strings.Contains(shown, "2025-11-01") {
		t.Errorf("takeover shows\n%s", shown)
	}
	code(0, "usage-sync", "takeover", "-i", "acme", "--days-back", "11", "--replace", "--yes")
	if text := code(0, "usage-sync", "discover", "--enable"); !strings.Contains(text, "Enabled "+timer) {
		t.Errorf("discover --enable: %s", text)
	}
	if state := b.property(timer, "ActiveState") + " " + b.property(timer, "UnitFileState"); state != "active enabled" {
		t.Errorf("the timer is %s", state)
	}
	wantAll := func(when string) {
		t.Helper()
		n := int64(listed)
		c.want = totals{100 * n, n, n * 1e10, n * 1.5e10}
		if got := c.recordedAt(t, "1.5"); got != c.want {
			t.Fatalf("%s: recorded %+v, listed are %+v", when, got, c.want)
		}
	}
	wantAll("after the answer")
	pass := func() {
		t.Helper()
		_, _ = b.run("systemctl", "reset-failed", unit) // systemd counts how often it is started
		if _, err := b.run("systemctl", "start", unit); err != nil {
			t.Fatal(b.journal(unit))
		}
	}
	for day := now.AddDate(0, 0, 3); day.Month() == time.November; day = day.AddDate(0, 0, 3) {
		use(time.Unix(clock.Load(), 0).UTC(), day)
		at(day)
		pass()
		wantAll(day.Format(time.DateOnly))
	}
	end := time.Date(2025, 12, 1, 0, 0, 0, 0, time.UTC)
	use(time.Unix(clock.Load(), 0).UTC(), end)
	at(end.AddDate(0, 0, 6)) // what may be listed late has been
	pass()
	wantAll("at the end")
	var statement struct {
		Status string
		Total  struct{ Requests int64 }
	}
	text = []byte(b.must("usage-sync", "report", "-i", "acme", "--month", "2025-11", "--json"))
	must(t, json.Unmarshal(text, &statement))
	if statement.Status != "final" || statement.Total.Requests != int64(listed) {
		t.Errorf("the statement is %s of %d requests, want final of %d:\n%s", statement.Status, statement.Total.Requests, listed, text)
	}
}
