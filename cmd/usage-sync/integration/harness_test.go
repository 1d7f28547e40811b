// Package integration_test runs the built binary as real processes: it kills them, interrupts them, lets them race, has
// an application write beside them, and measures them. What the tables must hold is known from the generations that
// were put in, and computed here in whole pico-dollars, without the code under test.
package integration_test

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"usage-sync/job/openrouter/standin"
	"usage-sync/store"
)

var long = flag.Bool("long", false, "the long forms: many more kills and deliveries (make soak)")

// command is what the tests run; TestMain builds it.
var command string

// The variables that turn the test binary into one of its helper processes.
const (
	helperName   = "USAGE_SYNC_TEST_HELPER"
	helperConfig = "USAGE_SYNC_TEST_CONFIG"
)

// helpers are processes beside the one under test: the container's application, the stand-in of the benchmarks.
var helpers = map[string]func(config string) error{
	"hold":        hold,
	"application": application,
	"pages":       servePages,
	"analytics":   serveAnalytics,
	"measure":     measureChild,
	"accept":      acceptConnections,
	"mounted":     mounted,
	"inside":      runMounted,
}

func TestMain(m *testing.M) {
	if name := os.Getenv(helperName); name != "" {
		if err := helpers[name](os.Getenv(helperConfig)); err != nil {
			fmt.Fprintf(os.Stderr, "helper %s: %v\n", name, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "usage-sync-integration-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	command = filepath.Join(dir, "usage-sync")
	build := exec.Command("go", "build", "-tags", "osusergo,netgo,sqlite_omit_load_extension", "-o", command, "../")
	if output, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%v\n%s", err, output)
		return 1
	}
	return m.Run()
}

const (
	organisation = "acme"
	key          = "sk-or-v1-integration-acme"
)

// now is the time of every pass: in the afternoon, so that a window of two days holds a whole day and a part of one.
var now = time.Date(2025, 11, 12, 15, 0, 0, 0, time.UTC)

// span reaches from now back into the first minutes of yesterday.
const span = 38*time.Hour + 50*time.Minute

var (
	models = []string{"openai/gpt-4o", "anthropic/claude-sonnet-4", "google/gemini-2.5-pro", "mistralai/mistral-large", "local-model"}
	users  = []string{"ext-ada", "ext-bob", "ext-cyd", "ext-unmapped", ""}
	mapped = map[string]string{"ext-ada": "ada", "ext-bob": "bob", "ext-cyd": "cyd"}
)

// generation is the i-th newest of n. Its cost is a multiple of ten pico-dollars, so that 1.3 times it is exact.
func generation(i, n int, seed uint64) standin.Generation {
	random := rand.New(rand.NewPCG(seed, uint64(i)))
	at := now.Add(-time.Minute - time.Duration(i)*(span/time.Duration(n)))
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	tail := make([]byte, 20)
	for j := range tail {
		tail[j] = letters[random.IntN(len(letters))]
	}
	return standin.Generation{
		ID: fmt.Sprintf("gen-%d-%s", at.Unix(), tail), CreatedAt: at,
		Model: models[random.IntN(len(models))], ExternalUser: users[random.IntN(len(users))],
		PromptTokens: random.Int64N(4000), CompletionTokens: random.Int64N(1000),
		Cost: fmt.Sprintf("0.%012d", random.Int64N(5e8)*10),
	}
}

func generations(n int, seed uint64) []standin.Generation {
	all := make([]standin.Generation, n)
	for i := range all {
		all[i] = generation(i, n, seed)
	}
	return all
}

// totals are sums; costs in pico-dollars.
type totals struct{ Tokens, Requests, Raw, Markup int64 }

func (t *totals) add(other totals) {
	t.Tokens += other.Tokens
	t.Requests += other.Requests
	t.Raw += other.Raw
	t.Markup += other.Markup
}

// tables is what a database says of the organisation.
type tables struct {
	Ledger map[string]totals    // by day; it knows no marked-up cost
	Days   map[string]totals    // daily rows and the live counter
	Models map[[2]string]totals // by day and model
	Users  map[[2]string]totals // by day and user
}

func newTables() tables {
	return tables{map[string]totals{}, map[string]totals{}, map[[2]string]totals{}, map[[2]string]totals{}}
}

func addTo[K comparable](m map[K]totals, key K, t totals) {
	sum := m[key]
	sum.add(t)
	m[key] = sum
}

// truth is what the tables must hold once all generations are recorded.
func truth(all []standin.Generation) tables {
	want := newTables()
	for _, g := range all {
		var pico int64
		if _, err := fmt.Sscanf(g.Cost, "0.%d", &pico); err != nil {
			panic(err)
		}
		t := totals{g.PromptTokens + g.CompletionTokens, 1, pico, pico / 10 * 13}
		day := g.CreatedAt.UTC().Format(time.DateOnly)
		user := g.ExternalUser
		if name, ok := mapped[user]; ok {
			user = name
		} else if user == "" {
			user = "background_sync"
		}
		addTo(want.Days, day, t)
		addTo(want.Models, [2]string{day, g.Model}, t)
		addTo(want.Users, [2]string{day, user}, t)
		t.Markup = 0
		addTo(want.Ledger, day, t)
	}
	return want
}

// open opens a database as its application would, with SQLite's own busy timeout.
func open(path string) (*sql.DB, error) {
	dsn := url.URL{Scheme: "file", Path: path, RawQuery: "mode=rw&_busy_timeout=5000&_txlock=immediate"}
	db, err := sql.Open("sqlite3", dsn.String())
	if err == nil {
		db.SetMaxOpenConns(1)
	}
	return db, err
}

func mustOpen(t testing.TB, path string) *sql.DB {
	t.Helper()
	db, err := open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func exec1(t testing.TB, db *sql.DB, query string, args ...any) {
	t.Helper()
	if _, err := db.Exec(query, args...); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

func value[T any](t testing.TB, db *sql.DB, query string, args ...any) (v T) {
	t.Helper()
	if err := db.QueryRow(query, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return v
}

func readTables(t testing.TB, path string) tables {
	t.Helper()
	db, err := open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	got := newTables()
	// One statement is one view of the database. Whole pico-dollars add up exactly, a sum of floats would not.
	rows, err := db.Query(`
		select 'ledger', cast(generation_date as text), '', sum(total_tokens), count(*),
			sum(cast(round(total_cost * 1e12) as integer)), 0
		from processed_generations where client_org_id = ?1 group by generation_date
		union all
		select 'day', cast(usage_date as text), '', total_tokens, total_requests,
			cast(round(raw_cost * 1e12) as integer), cast(round(markup_cost * 1e12) as integer)
		from client_daily_usage where client_org_id = ?1
		union all
		select 'day', cast("current_date" as text), '', today_tokens, today_requests,
			cast(round(today_raw_cost * 1e12) as integer), cast(round(today_markup_cost * 1e12) as integer)
		from client_live_counters where client_org_id = ?1 and today_requests > 0
		union all
		select 'model', cast(usage_date as text), model_name, total_tokens, total_requests,
			cast(round(raw_cost * 1e12) as integer), cast(round(markup_cost * 1e12) as integer)
		from client_model_daily_usage where client_org_id = ?1
		union all
		select 'user', cast(usage_date as text), user_id, total_tokens, total_requests,
			cast(round(raw_cost * 1e12) as integer), cast(round(markup_cost * 1e12) as integer)
		from client_user_daily_usage where client_org_id = ?1`, organisation)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var table, day, name string
		var sum totals
		if err := rows.Scan(&table, &day, &name, &sum.Tokens, &sum.Requests, &sum.Raw, &sum.Markup); err != nil {
			t.Fatal(err)
		}
		switch table {
		case "ledger":
			addTo(got.Ledger, day, sum)
		case "day":
			addTo(got.Days, day, sum)
		case "model":
			addTo(got.Models, [2]string{day, name}, sum)
		case "user":
			addTo(got.Users, [2]string{day, name}, sum)
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return got
}

// checkConsistent holds the tables against each other, whatever has been recorded so far, and returns how many
// generations that is.
func checkConsistent(t testing.TB, path string) int64 {
	t.Helper()
	got := readTables(t, path)
	byModel, byUser, ledger := map[string]totals{}, map[string]totals{}, map[string]totals{}
	for k, sum := range got.Models {
		addTo(byModel, k[0], sum)
	}
	for k, sum := range got.Users {
		addTo(byUser, k[0], sum)
	}
	var count int64
	for day, sum := range got.Days {
		sum.Markup = 0
		ledger[day] = sum
		count += sum.Requests
	}
	if !reflect.DeepEqual(byModel, got.Days) || !reflect.DeepEqual(byUser, got.Days) || !reflect.DeepEqual(ledger, got.Ledger) {
		t.Fatalf("%s disagrees with itself:\nper model %v\nper user  %v\nper day   %v\nledger    %v", path, byModel, byUser, got.Days, got.Ledger)
	}
	return count
}

// checkTruth holds every row against the generations that were put in.
func checkTruth(t testing.TB, path string, want tables) {
	t.Helper()
	got := readTables(t, path)
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%s, -want +got:\n%s", path, cmp.Diff(want, got))
	}
}

// checkSound has SQLite judge the file, and makes sure that nobody holds the lock.
func checkSound(t testing.TB, path string) {
	t.Helper()
	db := mustOpen(t, path)
	if verdict := value[string](t, db, "pragma integrity_check"); verdict != "ok" {
		t.Fatalf("integrity_check of %s: %s", path, verdict)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	takeLock(t, path)()
}

// takeLock holds the lock of a database's passes until the returned function is called.
func takeLock(t testing.TB, path string) (release func()) {
	t.Helper()
	f, err := os.OpenFile(lockPath(path), os.O_CREATE|os.O_RDWR, 0o644)
	if err == nil {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	}
	if err != nil {
		t.Fatalf("the lock of %s is not free: %v", path, err)
	}
	return func() { _ = f.Close() }
}

func lockPath(path string) string { return path + ".usage-sync.lock" }

// newDatabase makes a database with one organisation and the users that are mapped.
func newDatabase(t testing.TB, journal string) (path string) {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(dir, "webui.db")
	client := store.NewOrganisation{ID: organisation, Name: "Acme GmbH", Key: key, Rate: 1.3}
	if err := store.CreateDemo(context.Background(), path, []store.NewOrganisation{client}, now); err != nil {
		t.Fatal(err)
	}
	db := mustOpen(t, path)
	for external, user := range mapped {
		exec1(t, db, `insert into user_client_mapping values (?1, ?2, ?3, ?1, 1, 0, 0)`, external, user, organisation)
	}
	if mode := value[string](t, db, "pragma journal_mode = "+journal); !strings.EqualFold(mode, journal) {
		t.Fatalf("journal mode is %s, want %s", mode, journal)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// copyOf copies a database that nobody has open.
func copyOf(t testing.TB, template string) (path string) {
	t.Helper()
	from, err := os.Open(template)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	path = filepath.Join(t.TempDir(), "webui.db")
	to, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(to, from); err != nil {
		t.Fatal(err)
	}
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// gateway is the stand-in behind a door that tells who comes, and may keep them waiting.
type gateway struct {
	*standin.Server
	url string

	mu        sync.Mutex
	requests  int
	onArrival func(n int, r *http.Request)
}

func newGateway(t testing.TB, pageLimit int, all []standin.Generation) *gateway {
	t.Helper()
	g := &gateway{Server: standin.NewGateway(func() time.Time { return now })}
	g.PageLimit(pageLimit)
	g.AddKey(key, "Acme GmbH")
	g.Add(key, all...)
	server := httptest.NewServer(g)
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	g.url = server.URL + "/api/v1"
	return g
}

func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	g.requests++
	n, onArrival := g.requests, g.onArrival
	g.mu.Unlock()
	if onArrival != nil {
		onArrival(n, r)
	}
	g.Server.ServeHTTP(w, r)
}

// whenArriving is called with the number of each request from now on, before it is answered.
func (g *gateway) whenArriving(f func(n int, r *http.Request)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.requests, g.onArrival = 0, f
}

func (g *gateway) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.requests
}

// child is a run of the binary.
type child struct {
	*exec.Cmd
	stdout, stderr strings.Builder
}

// newChild prepares a run; nothing of this process's environment reaches it.
func newChild(path, baseURL string, args ...string) *child {
	c := &child{Cmd: exec.Command(command, args...)}
	c.Env = childEnv(path, baseURL)
	c.Stdout, c.Stderr = &c.stdout, &c.stderr
	return c
}

func childEnv(path, baseURL string) []string {
	return []string{"USAGE_SYNC_DB=" + path, "USAGE_SYNC_NOW=" + now.Format(time.RFC3339), "OPENROUTER_BASE_URL=" + baseURL}
}

// run runs the binary to its end and fails the test unless it exits with a code.
func run(t testing.TB, wantCode int, path, baseURL string, args ...string) *child {
	t.Helper()
	c := newChild(path, baseURL, args...)
	if err := c.Run(); err != nil && c.ProcessState == nil {
		t.Fatal(err)
	}
	if got := c.ProcessState.ExitCode(); got != wantCode {
		t.Fatalf("%v exits %d (%v), want %d\n%s", args, got, c.ProcessState, wantCode, &c.stderr)
	}
	return c
}

func (c *child) start(t testing.TB) {
	t.Helper()
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if c.ProcessState == nil {
			_ = c.Process.Kill()
			_ = c.Wait()
		}
	})
}

// waitUntil polls for what another process gives no sign of.
func waitUntil(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// hasOpen tells whether a process has a file open.
func hasOpen(pid int, path string) bool {
	links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && target == path {
			return true
		}
	}
	return false
}

// helperProcess is the test binary in another role. It ends when its standard input does.
type helperProcess struct {
	cmd    *exec.Cmd
	stdin  io.Closer
	stdout *bufio.Reader
	stderr strings.Builder
}

// startHelper starts a helper and returns the line by which it says that it is ready.
func startHelper(t testing.TB, name string, config any) (p *helperProcess, ready string) {
	t.Helper()
	text, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p = &helperProcess{cmd: exec.Command(self)}
	p.cmd.Env = append(os.Environ(), helperName+"="+name, helperConfig+"="+string(text))
	p.cmd.Stderr = &p.stderr
	stdin, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.stdin, p.stdout = stdin, bufio.NewReader(stdout)
	t.Cleanup(func() { _, _ = p.end() })
	ready, err = p.stdout.ReadString('\n')
	if err != nil {
		_, err := p.end()
		t.Fatalf("helper %s: %v", name, err)
	}
	return p, strings.TrimSpace(ready)
}

// end tells a helper to end and returns its last words.
func (p *helperProcess) end() (string, error) {
	if p.cmd.ProcessState != nil {
		return "", nil
	}
	_ = p.stdin.Close()
	words, readErr := io.ReadAll(p.stdout)
	if err := errors.Join(p.cmd.Wait(), readErr); err != nil {
		return "", fmt.Errorf("%w: %s", err, &p.stderr)
	}
	return string(words), nil
}
