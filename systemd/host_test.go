// Package systemd_test installs the units of this directory on a machine with a real systemd and sees what becomes of them
// there. It needs root, so it runs by "make test-host" alone.
package systemd_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	_ "github.com/mattn/go-sqlite3" // the driver "sqlite3"

	"usage-sync/job"
	"usage-sync/job/openrouter/standin"
	"usage-sync/store"
)

var (
	host      = flag.Bool("host", false, "run the tests that need root and a systemd of their own")
	benchRoot = flag.String("root", "/", "the root `directory` of a system to test on, made by debootstrap or the like")
)

// The variables that give the test binary another role.
const (
	roleName   = "USAGE_SYNC_TEST_ROLE"
	roleConfig = "USAGE_SYNC_TEST_CONFIG"
)

// scratch is a file system of this test run, in memory and in a mount namespace of its own: all of it goes when the run
// ends, however it ends.
const scratch = "/mnt"

var (
	command string // the binary that the tests install
	volumes string // a directory on a real file system, whose cache can be given back, for the containers' databases
)

func TestMain(m *testing.M) {
	switch os.Getenv(roleName) {
	case "init":
		fmt.Fprintln(os.Stderr, becomeInit(os.Getenv(roleConfig)))
		os.Exit(1)
	case "probe":
		probe(os.Getenv(roleConfig))
		os.Exit(0)
	case "isolated":
		flag.Parse()
		os.Exit(isolated(m))
	}
	flag.Parse()
	if !*host {
		os.Exit(m.Run())
	}
	code, err := isolate()
	if err != nil {
		fmt.Fprintf(os.Stderr, "the tests of the host need root, with the right to make namespaces: %v\n", err)
		code = 1
	}
	os.Exit(code)
}

// isolate runs this test binary again in a mount namespace of its own, and clears up behind it, however it ends.
func isolate() (code int, err error) {
	layout, err := newCgroupLayout()
	if err != nil {
		return 0, err
	}
	dir, err := os.MkdirTemp("/var/tmp", "usage-sync-host-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	self := exec.Command("/proc/self/exe", os.Args[1:]...)
	self.Env = append(os.Environ(), roleName+"=isolated", roleConfig+"="+dir)
	self.Stdin, self.Stdout, self.Stderr = os.Stdin, os.Stdout, os.Stderr
	self.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGTERM}
	if err := self.Run(); self.ProcessState == nil {
		return 0, err
	}
	for _, parent := range layout.parents() {
		left, _ := filepath.Glob(filepath.Join(parent, cgroupPrefix(self.ProcessState.Pid())+"*"))
		removeCgroups(left)
	}
	return self.ProcessState.ExitCode(), nil
}

// isolated runs the tests where what they mount is seen by nobody else.
func isolated(m *testing.M) int {
	volumes = os.Getenv(roleConfig)
	for _, name := range []string{roleName, roleConfig} { // the processes that this one starts have roles of their own
		_ = os.Unsetenv(name)
	}
	for _, need := range []string{"/lib/systemd/systemd", "/usr/sbin/cron", "/usr/sbin/nginx", "/usr/bin/curl"} {
		if _, err := os.Stat(filepath.Join(*benchRoot, need)); err != nil {
			fmt.Fprintf(os.Stderr, "the tests of the host need %v\n", err)
			return 1
		}
	}
	if err := syscall.Mount("tmpfs", scratch, "tmpfs", 0, "mode=755"); err != nil {
		fmt.Fprintf(os.Stderr, "mount %s: %v\n", scratch, err)
		return 1
	}
	command = filepath.Join(scratch, "usage-sync")
	build := exec.Command("go", "build", "-tags", "osusergo,netgo,sqlite_omit_load_extension",
		"-ldflags", "-linkmode external -extldflags=-static", "-o", command, "../cmd/usage-sync")
	if output, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%v\n%s", err, output)
		return 1
	}
	return m.Run()
}

// needHost skips a test that was not asked for. Asked for, it fails rather than skips where the means are missing.
func needHost(t *testing.T) {
	t.Helper()
	if !*host {
		t.Skip("needs root and a systemd of its own: make test-host")
	}
	t.Parallel()
}

// unitFiles are the units of this directory.
func unitFiles(t testing.TB) []string {
	t.Helper()
	var units []string
	for _, pattern := range []string{"*.service", "*.timer", "*.target"} {
		found, err := filepath.Glob(pattern)
		must(t, err)
		units = append(units, found...)
	}
	if len(units) == 0 {
		t.Fatal("no units here")
	}
	return units
}

// now is the time of every pass: in the afternoon, so that a window of two days holds a whole day and a part of one.
var now = time.Date(2025, 11, 12, 15, 0, 0, 0, time.UTC)

// gateway is a stand-in of OpenRouter on the bench's loopback interface, behind a door that tells who comes, and may keep
// them waiting or send them away.
type gateway struct {
	*standin.Server
	mu       sync.Mutex
	requests map[string]int // by key
	door     func(key string, n int, r *http.Request) (status int)
}

const gatewayAddress = "127.0.0.1:9911"

func newGateway() *gateway {
	g := &gateway{Server: standin.NewGateway(func() time.Time { return now }), requests: map[string]int{}}
	g.PageLimit(1000)
	return g
}

func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	key := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	g.mu.Lock()
	g.requests[key]++
	n, door := g.requests[key], g.door
	g.mu.Unlock()
	if door != nil {
		if status := door(key, n, r); status != 0 {
			w.Header().Set("Retry-After", "600") // longer than any pass waits
			w.WriteHeader(status)
			return
		}
	}
	g.Server.ServeHTTP(w, r)
}

// guard is called with the number of each request of a key before it is answered, and may choose another status.
func (g *gateway) guard(door func(key string, n int, r *http.Request) (status int)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.requests, g.door = map[string]int{}, door
}

// count is how many requests came with a key since the guard took its place.
func (g *gateway) count(c *container) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.requests[c.key]
}

// holdFrom lets requests of a container wait from the n-th on, until the client goes away.
func (g *gateway) holdFrom(c *container, n int) {
	g.guard(func(key string, i int, r *http.Request) int {
		if key == c.key && i >= n {
			<-r.Context().Done()
		}
		return 0
	})
}

// serve answers on the bench until the test ends or the power is cut.
func (b *bench) serve(address string, handler http.Handler) {
	b.t.Helper()
	listener := b.listen(address)
	server := httptest.NewUnstartedServer(handler)
	_ = server.Listener.Close()
	server.Listener = listener
	server.Start()
	b.t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
}

// container is a container of the host: its volume, its settings and what OpenRouter lists for it.
type container struct {
	name, key string
	database  string // as seen from here
	want      totals
}

// totals are sums; costs in pico-dollars.
type totals struct{ Tokens, Requests, Raw, Markup int64 }

// addContainer makes a container with a database, lists generations for it, and configures its instance as an operator does.
func (b *bench) addContainer(g *gateway, name string, generations int, settings ...string) *container {
	b.t.Helper()
	c := &container{name: name, key: "sk-or-v1-host-" + name, database: filepath.Join(b.volumes, name, "_data", "webui.db")}
	must(b.t, os.MkdirAll(filepath.Dir(c.database), 0o755))
	client := store.NewOrganisation{ID: name, Name: name, Key: c.key, Rate: 1.3}
	must(b.t, store.CreateDemo(context.Background(), c.database, []store.NewOrganisation{client}, now))
	g.AddKey(c.key, name)
	c.use(g, generations)
	b.configure(name, settings...)
	return c
}

// configure writes the files of an instance from the examples.
func (b *bench) configure(name string, settings ...string) {
	b.t.Helper()
	b.write("/etc/usage-sync/"+name+".env", example(b.t, "instance.env", name)+"\n"+strings.Join(append([]string{
		"OPENROUTER_BASE_URL=http://" + gatewayAddress + "/api/v1", "USAGE_SYNC_NOW=" + now.Format(time.RFC3339)}, settings...), "\n")+"\n")
	b.dropIn("usage-@"+name+".service", "database", example(b.t, "database.conf", name))
}

// example is a file of the examples, for a container's name.
func example(t testing.TB, file, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("examples", file))
	must(t, err)
	return strings.ReplaceAll(string(text), "NAME", name)
}

func (b *bench) dropIn(unit, name, text string) {
	b.t.Helper()
	b.write("/etc/systemd/system/"+unit+".d/"+name+".conf", text)
}

// use lets OpenRouter list more generations of a container: the first ones evenly over the last 38 hours, later ones over
// the last half hour.
func (c *container) use(g *gateway, n int) {
	span := 38 * time.Hour
	before := c.want.Requests
	if before > 0 {
		span = 30 * time.Minute
	}
	rows := make([]standin.Generation, n)
	for i := range rows {
		raw := int64(i%9973+1) * 1e6 // pico-dollars
		rows[i] = standin.Generation{
			ID: fmt.Sprintf("gen-%s-%d", c.name, before+int64(i)), CreatedAt: now.Add(-time.Minute - time.Duration(i)*(span/time.Duration(n))),
			Model: []string{"openai/gpt-4o", "anthropic/claude-sonnet-4"}[i%2], ExternalUser: []string{"ada", "ben", ""}[i%3],
			PromptTokens: int64(i % 4001), CompletionTokens: int64(i % 997), Cost: fmt.Sprintf("0.%012d", raw),
		}
		c.want.Tokens += int64(i%4001 + i%997)
		c.want.Requests++
		c.want.Raw += raw
		c.want.Markup += raw / 10 * 13
	}
	g.Add(c.key, rows...)
}

// recorded returns what the tables say, having held them against each other: days with the live counter, models, users and
// the ledger are four views of the same generations.
func (c *container) recorded(t testing.TB) totals { return c.recordedAt(t, "1.3") }

// recordedAt is recorded for another markup rate.
func (c *container) recordedAt(t testing.TB, rate string) totals {
	t.Helper()
	dsn := url.URL{Scheme: "file", Path: c.database, RawQuery: "mode=rw&_busy_timeout=5000"}
	db, err := sql.Open("sqlite3", dsn.String())
	must(t, err)
	defer db.Close()
	var verdict string
	must(t, db.QueryRow("pragma integrity_check").Scan(&verdict))
	if verdict != "ok" {
		t.Fatalf("integrity_check of %s: %s", c.name, verdict)
	}
	var views []totals
	for _, query := range []string{
		`select total_tokens, total_requests, raw_cost, markup_cost from client_daily_usage union all
			select today_tokens, today_requests, today_raw_cost, today_markup_cost from client_live_counters`,
		`select total_tokens, total_requests, raw_cost, markup_cost from client_model_daily_usage`,
		`select total_tokens, total_requests, raw_cost, markup_cost from client_user_daily_usage`,
		`select total_tokens, 1, total_cost, total_cost * ` + rate + ` from processed_generations`,
	} {
		var v totals
		must(t, db.QueryRow(`with v(tokens, requests, raw, markup) as (`+query+`) select coalesce(sum(tokens), 0), coalesce(sum(requests), 0),
			coalesce(sum(cast(round(raw * 1e12) as integer)), 0), coalesce(sum(cast(round(markup * 1e12) as integer)), 0) from v`).
			Scan(&v.Tokens, &v.Requests, &v.Raw, &v.Markup))
		views = append(views, v)
	}
	for _, v := range views {
		if v != views[0] {
			t.Fatalf("%s: days, models, users and ledger disagree: %v", c.name, views)
		}
	}
	return views[0]
}

// check fails unless exactly what OpenRouter lists is recorded.
func (c *container) check(t testing.TB) {
	t.Helper()
	if got := c.recorded(t); got != c.want {
		t.Fatalf("%s: recorded %+v, listed are %+v", c.name, got, c.want)
	}
}

// sql changes a container's database behind its back.
func (c *container) sql(t testing.TB, statement string) {
	t.Helper()
	db, err := sql.Open("sqlite3", c.database)
	must(t, err)
	defer db.Close()
	_, err = db.Exec(statement)
	must(t, err)
}

// holdLock stands for another pass: it holds the container's lock until the returned function is called.
func (c *container) holdLock(t testing.TB) (release func()) {
	t.Helper()
	lock, err := job.Acquire(context.Background(), c.database+".usage-sync.lock", 0)
	must(t, err)
	return func() { must(t, lock.Release()) }
}

// webhook keeps what an alert sends.
type webhook struct {
	mu   sync.Mutex
	sent []string
}

func (h *webhook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var message struct{ Text string }
	if err := json.NewDecoder(r.Body).Decode(&message); err != nil || r.URL.Path != "/a-secret-path" {
		message.Text = fmt.Sprintf("%s %s: %v", r.Method, r.URL, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sent = append(h.sent, message.Text)
}

// of returns the messages that begin with the name of a unit.
func (h *webhook) of(unit string) (sent []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, text := range h.sent {
		if strings.HasPrefix(text, unit+" ") {
			sent = append(sent, text)
		}
	}
	return sent
}

// waitUntil polls for what another process gives no sign of.
func waitUntil(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(90 * time.Second); !done(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// outcome is what the journal and systemd say of a unit that has come to rest.
type outcome struct {
	State, Result, Status string
	Attempts, Restarts    int // from the journal
}

func (b *bench) outcome(unit string) outcome {
	b.t.Helper()
	log := b.journal(unit)
	return outcome{
		State: b.property(unit, "ActiveState"), Result: b.property(unit, "Result"), Status: b.property(unit, "ExecMainStatus"),
		Attempts: strings.Count("\n"+log, "\nStarting "+unit),
		Restarts: strings.Count(log, "Scheduled restart job"),
	}
}

// atRest tells whether nothing more will happen to a unit by itself.
func (b *bench) atRest(unit string) bool {
	state := b.property(unit, "ActiveState")
	return (state == "inactive" || state == "failed") && b.property(unit, "Job") == "" && b.property(unit, "SubState") != "auto-restart"
}

// quickly makes restarts follow soon; everything else is as shipped. From version 254 on systemd calls the alert's sender
// before a restart as well, so there must be time for that.
const quickly = "[Service]\nRestartSec=2s\n"

// every makes the shipped timer fire at another time.
func every(calendar string) string {
	return "[Timer]\nOnCalendar=\nOnCalendar=" + calendar + "\nRandomizedDelaySec=0\nAccuracySec=1ms\n"
}

// never makes the shipped timer wait for good. A unit is kept in memory by its timer, and with it how it ended. Reading the
// units anew forgets how often they were started: call it before.
func (b *bench) never(containers ...string) {
	b.t.Helper()
	b.dropIn("usage-sync@.timer", "test", every("2100-01-01"))
	b.must("systemctl", "daemon-reload")
	for _, name := range containers {
		b.must("systemctl", "restart", "usage-sync@"+name+".timer")
	}
}
