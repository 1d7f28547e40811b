package integration_test

import (
	"database/sql"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"usage-sync/job/openrouter/standin"
)

var simulationSeed = flag.Uint64("simulation-seed", 0, "the seed of the simulation; 0 is another one each time")

// TestSimulation lives through weeks of containers, with everything that goes wrong mixed: passes that are killed, refused or
// run out of disk, keys that are rotated, rows that appear late or change their cost, clocks, databases that are restored between passes or under
// them, two passes at once, deliveries beside polling, and the application that looks and is reset. At the end each book
// holds what was used, once, or says what is missing.
func TestSimulation(t *testing.T) {
	containers, days := 2, 10
	if *long {
		containers, days = 20, 60
	}
	seed := *simulationSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("-simulation-seed %d", seed)
	for n := range containers {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			c := newContainer(t, rand.New(rand.NewPCG(seed, uint64(n))), []string{"DELETE", "WAL"}[n%2])
			for end := c.now().AddDate(0, 0, days); c.now().Before(end); {
				c.live()
				c.step()
			}
			c.settle()
		})
	}
}

// container is a database with its application, the server that lists its usage, and a clock.
type container struct {
	*testing.T
	random *rand.Rand
	api    *gateway
	path   string

	mu    sync.Mutex
	clock time.Time

	key     string
	rotated time.Time // when that became the key
	synced  bool      // the database knows of a complete pass with it
	all     []standin.Generation
	backups []string
	events  []string // what has happened, for the log of a failure
	codes   map[int]int
}

func newContainer(t *testing.T, random *rand.Rand, journal string) *container {
	c := &container{T: t, random: random, clock: now, key: key, path: newDatabase(t, journal), codes: map[int]int{}}
	c.api = &gateway{Server: standin.NewGateway(c.now)}
	c.api.PageLimit(20 + random.IntN(80))
	c.api.AddKey(key, "Acme GmbH")
	server := httptest.NewServer(c.api)
	t.Cleanup(server.Close)
	c.api.url = server.URL + "/api/v1"
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("what happened:\n%s", strings.Join(c.events, "\n"))
		}
		t.Logf("%d generations, exit codes %v", len(c.all), c.codes)
	})
	return c
}

func (c *container) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.clock
}

func (c *container) happens(format string, args ...any) {
	c.events = append(c.events, c.now().Format(time.DateTime)+" "+fmt.Sprintf(format, args...))
}

// live lets some hours pass, in which the client uses models. Some rows appear late, and of some the cost changes.
func (c *container) live() {
	hours := []int{1, 3, 6, 9, 20}[c.random.IntN(5)]
	if c.random.IntN(25) == 0 {
		hours = 24 * (2 + c.random.IntN(5)) // the host is off
	}
	from := c.now()
	c.mu.Lock()
	c.clock = from.Add(time.Duration(hours) * time.Hour)
	c.mu.Unlock()
	for range c.random.IntN(2 + 2*hours) {
		g := generation(0, 1, c.random.Uint64())
		g.CreatedAt = from.Add(time.Duration(c.random.Int64N(int64(hours)*int64(time.Hour)-int64(time.Minute)) + 1)).Truncate(time.Microsecond)
		g.ID = fmt.Sprintf("gen-%d-%06d", g.CreatedAt.Unix(), len(c.all))
		switch c.random.IntN(12) {
		case 0:
			g.VisibleFrom = g.CreatedAt.Add(time.Duration(c.random.IntN(96*60)) * time.Minute)
		case 1:
			g.Ended = g.CreatedAt.Add(time.Duration(c.random.IntN(20*60)) * time.Minute) // it ran for long
			if g.Ended.After(c.now()) {
				g.Ended = time.Time{}
			} else {
				g.VisibleFrom = g.Ended
			}
		}
		c.api.Add(c.key, g)
		c.all = append(c.all, g)
	}
	for range c.random.IntN(3) {
		if len(c.all) == 0 {
			break
		}
		i := c.random.IntN(len(c.all))
		if g := &c.all[i]; c.now().Sub(g.CreatedAt) < 72*time.Hour && !g.CreatedAt.Before(c.rotated) {
			g.Cost = fmt.Sprintf("0.%012d", c.random.Int64N(5e8)*10)
			c.api.SetCost(g.ID, g.Cost)
		}
	}
}

// child prepares a run at the machine's clock.
func (c *container) child(clock time.Time, args ...string) *child {
	child := newChild(c.path, c.api.url, args...)
	child.Env = append(child.Env, "USAGE_SYNC_NOW="+clock.UTC().Format(time.RFC3339))
	return child
}

// pass makes a pass, which may fail, but in no way that nobody has thought of.
func (c *container) pass(what string, child *child) int {
	c.Helper()
	child.start(c)
	return c.wait(what, child)
}

func (c *container) wait(what string, child *child) int {
	c.Helper()
	_ = child.Wait()
	code := child.ProcessState.ExitCode()
	c.codes[code]++
	c.happens("%s: exit %d %s", what, code, lastLine(child.stderr.String()))
	switch code {
	case 0:
		c.synced = c.synced || slices.Contains(child.Args, "sync")
	case 65, 69, 74, 75, 77, -1: // -1 is killed
	default:
		c.Fatalf("%s exits %d\n%s", what, code, &child.stderr)
	}
	return code
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	for _, line := range slices.Backward(lines) {
		if strings.HasPrefix(line, "ERROR") || strings.HasPrefix(line, "WARN") {
			return line
		}
	}
	return lines[len(lines)-1]
}

// step makes a pass, or what comes in its place.
func (c *container) step() {
	sync := []string{"sync", "--timeout", "30s"}
	if c.random.IntN(8) == 0 {
		sync = append(sync, "--full")
	}
	clock := c.now()
	switch c.random.IntN(26) {
	case 0:
		child := c.child(clock, sync...)
		child.start(c)
		timer := time.AfterFunc(time.Duration(1+c.random.IntN(60))*time.Millisecond, func() { _ = child.Process.Kill() })
		c.wait("a pass is killed", child)
		timer.Stop()
	case 1:
		trouble := standin.Status(http.StatusInternalServerError, "")
		c.api.Always(&trouble)
		c.pass("the server has trouble", c.child(clock, "sync", "--timeout", "100ms"))
		c.api.Always(nil)
	case 2:
		faults := []standin.Fault{standin.Status(401, ""), standin.Body(200, "application/json", `{"data":[{"id":`)}
		var script []standin.Fault
		for range c.random.IntN(2) {
			script = append(script, standin.OK())
		}
		c.api.Script(append(script, faults[c.random.IntN(len(faults))])...)
		c.pass("an answer is refused", c.child(clock, sync...))
	case 3, 4:
		off := time.Duration([]int{2, -2, 26, -26, 9 * 24, -9 * 24, 35 * 24, -400 * 24, -20000 * 24}[c.random.IntN(9)]) * time.Hour
		c.pass(fmt.Sprintf("the clock is off by %s", off), c.child(clock.Add(off), sync...))
	case 5:
		off := time.Duration([]int{0, 0, 2, -2, 20, 35 * 24, -20000 * 24}[c.random.IntN(7)]) * time.Hour
		c.api.Play(standin.Quirks{NoDate: true})
		c.pass(fmt.Sprintf("the clock is off by %s, and the server does not say", off), c.child(clock.Add(off), sync...))
		c.api.Play(standin.Quirks{})
	case 6:
		one, two := c.child(clock, sync...), c.child(clock, append(sync, "--lock", c.path+".other-lock")...)
		one.start(c)
		two.start(c)
		c.wait("one of two passes", one)
		c.wait("the other of two passes", two)
	case 7:
		c.pass("the disk is full", c.onFullDisk(clock, sync))
	case 8, 9:
		c.backUp()
	case 10:
		c.putBack()
	case 11:
		c.underAPass(clock, sync)
	case 12, 13:
		c.deliver()
	case 14, 15:
		c.look()
	case 16:
		c.reset()
	case 17:
		c.rotate()
	default:
		c.pass("a pass", c.child(clock, sync...))
	}
	c.api.Script() // what is left of a script meets the next pass
}

// onFullDisk is a run whose files can't grow.
func (c *container) onFullDisk(clock time.Time, args []string) *child {
	info, err := os.Stat(c.path)
	if err != nil {
		c.Fatal(err)
	}
	child := c.child(clock)
	child.Path, child.Args = "/bin/bash", append([]string{"bash", "-c", fmt.Sprintf(`ulimit -f %d; exec "$0" "$@"`, info.Size()/1024), command}, args...)
	return child
}

// rotate gives the client a new key. What the former one was used for since the last pass, its list tells nobody any more.
func (c *container) rotate() {
	if !c.synced || slices.ContainsFunc(c.all, func(g standin.Generation) bool { return g.VisibleFrom.After(c.now()) }) {
		return // of a key that no pass has seen nobody knows, and what appears late under a former one is in no list
	}
	c.key, c.rotated, c.synced, c.backups = fmt.Sprintf("%s-%d", key, len(c.all)), c.now(), false, nil
	c.api.AddKey(c.key, "Acme GmbH")
	c.inDatabase("the key is rotated", func(tx *sql.Tx) error {
		_, err := tx.Exec("update client_organizations set openrouter_api_key = ?", c.key)
		return err
	})
}

// backUp copies the database.
func (c *container) backUp() {
	path := filepath.Join(c.TempDir(), "backup.db")
	db, err := open(c.path)
	if err == nil {
		_, err = db.Exec("vacuum into ?", path)
		_ = db.Close()
	}
	if err != nil {
		c.Fatal(err)
	}
	if c.backups = append(c.backups, path); len(c.backups) > 2 {
		c.backups = c.backups[1:]
	}
	c.happens("a backup")
}

// replace puts a copy of the last backup in the database's place.
func (c *container) replace() bool {
	if len(c.backups) == 0 {
		return false
	}
	c.synced = false
	copied := copyOf(c.T, c.backups[len(c.backups)-1])
	for _, suffix := range []string{"-wal", "-shm", "-journal"} {
		_ = os.Remove(c.path + suffix)
	}
	if err := os.Rename(copied, c.path); err != nil {
		c.Fatal(err)
	}
	return true
}

func (c *container) putBack() {
	if c.replace() {
		c.happens("a backup is put back")
	}
}

// underAPass puts a backup in the database's place while a pass waits for a page.
func (c *container) underAPass(clock time.Time, args []string) {
	at, n := c.random.IntN(3), 0
	replaced := false
	c.api.OnPage(func(string, int) {
		if n++; n == at+1 {
			replaced = c.replace()
		}
	})
	child := c.child(clock, args...)
	child.start(c)
	_ = child.Wait()
	c.api.OnPage(nil)
	c.codes[child.ProcessState.ExitCode()]++
	c.happens("a backup is put back under a pass: %t, exit %d %s", replaced, child.ProcessState.ExitCode(), lastLine(child.stderr.String()))
}

// deliver ingests some of the last generations, as a webhook would.
func (c *container) deliver() {
	var lines []string
	for _, g := range c.all[max(0, len(c.all)-5):] {
		payload := map[string]any{"api_key": c.key, "model": g.Model, "tokens_used": g.PromptTokens + g.CompletionTokens,
			"cost": json.Number(g.Cost), "timestamp": g.CreatedAt.Format(time.RFC3339Nano), "request_id": g.ID}
		if g.ExternalUser != "" {
			payload["external_user"] = g.ExternalUser
		}
		line, err := json.Marshal(payload)
		if err != nil {
			c.Fatal(err)
		}
		lines = append(lines, string(line))
	}
	file := filepath.Join(c.TempDir(), "deliveries.json")
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		c.Fatal(err)
	}
	c.pass(fmt.Sprintf("%d deliveries", len(lines)), c.child(c.now(), "ingest", file))
}

// look rolls a stale counter over as the application's reader does, with a plain insert.
func (c *container) look() {
	c.inDatabase("the application looks", func(tx *sql.Tx) error {
		today := c.now().UTC().Format(time.DateOnly)
		var stale bool
		if err := tx.QueryRow(`select exists (select 1 from client_live_counters where "current_date" < ?)`, today).Scan(&stale); err != nil || !stale {
			return err
		}
		if _, err := tx.Exec(`
			insert into client_daily_usage (id, client_org_id, usage_date, total_tokens, total_requests, raw_cost, markup_cost,
				primary_model, unique_users, created_at, updated_at)
			select client_org_id || '_' || "current_date", client_org_id, "current_date", today_tokens, today_requests,
				today_raw_cost, today_markup_cost, null, 1, last_updated, last_updated from client_live_counters`); err != nil {
			return err
		}
		_, err := tx.Exec(`update client_live_counters set "current_date" = ?, today_tokens = 0, today_requests = 0, today_raw_cost = 0,
			today_markup_cost = 0`, today)
		return err
	})
}

// reset empties the tables of usage that the application knows, as its script does, and leaves the ledger.
func (c *container) reset() {
	c.inDatabase("the application is reset", func(tx *sql.Tx) error {
		for _, table := range []string{"client_daily_usage", "client_user_daily_usage", "client_model_daily_usage", "client_live_counters"} {
			if _, err := tx.Exec("delete from " + table); err != nil {
				return err
			}
		}
		return nil
	})
}

// inDatabase runs a transaction of the application. It may fail, as the application's reader does where a row is there.
func (c *container) inDatabase(what string, fn func(*sql.Tx) error) {
	db, err := open(c.path)
	if err != nil {
		c.Fatal(err)
	}
	defer db.Close()
	tx, err := db.Begin()
	if err != nil {
		c.Fatal(err)
	}
	if err = fn(tx); err == nil {
		err = tx.Commit()
	} else {
		_ = tx.Rollback()
	}
	c.happens("%s: %v", what, err)
}

// settle lets everything appear, makes two passes without a fault and compares the book with the truth. What is missing must
// be in an open gap.
func (c *container) settle() {
	c.mu.Lock()
	c.clock = c.clock.Add(97 * time.Hour)
	c.mu.Unlock()
	for range 2 {
		if code := c.pass("the last pass", c.child(c.now(), "sync", "--full")); code != 0 {
			c.Fatalf("the last pass exits %d", code)
		}
	}
	db := mustOpen(c.T, c.path)
	missing := 0
	var recorded []standin.Generation
	for _, g := range c.all {
		var cost sql.NullFloat64
		var open bool
		const query = `
			select (select total_cost from processed_generations where id = ?1),
				exists (select 1 from usage_sync_gaps where closed_at is null and ?2 between gap_from and gap_until)`
		if err := db.QueryRow(query, g.ID, g.CreatedAt.Unix()).Scan(&cost, &open); err != nil {
			c.Fatal(err)
		}
		switch {
		case !cost.Valid && !open:
			c.Errorf("%s of %s is recorded nowhere, and no gap says so", g.ID, g.CreatedAt)
		case !cost.Valid:
			missing++
		case open: // it was delivered, and its list was not read since
			g.Cost = fmt.Sprintf("%.12f", cost.Float64)
			fallthrough
		default:
			recorded = append(recorded, g)
		}
	}
	c.Logf("%d of %d generations are in open gaps", missing, len(c.all))
	if err := db.Close(); err != nil {
		c.Fatal(err)
	}
	checkTruth(c.T, c.path, truth(recorded))
	checkSound(c.T, c.path)
}
