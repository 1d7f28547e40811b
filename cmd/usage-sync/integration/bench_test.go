package integration_test

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The benchmarks measure whole processes, their start included. Where a figure has a target, it is printed beside it: a
// loaded machine must not fail a build.

func sorted[T cmp.Ordered](all []T) []T {
	all = slices.Clone(all)
	slices.Sort(all)
	return all
}

func median[T cmp.Ordered](all []T) T { return sorted(all)[len(all)/2] }

// figure reports one figure, and its target if it has one.
func figure(b *testing.B, unit string, value float64, target string) {
	b.Helper()
	b.ReportMetric(value, unit)
	if target != "" {
		target = "   target " + target
	}
	b.Logf("%12.2f %s%s", value, unit, target)
}

func milliseconds(d time.Duration) float64 { return float64(d) / 1e6 }

func megabytes(bytes int64) float64 { return float64(bytes) / (1 << 20) }

// pagesServer is the stand-in in a process of its own.
type pagesServer struct{ root string }

func startAnalytics(b *testing.B, config analyticsConfig) pagesServer {
	b.Helper()
	_, root := startHelper(b, "analytics", config)
	return pagesServer{root}
}

func startPages(b *testing.B, config pagesConfig) pagesServer {
	b.Helper()
	_, root := startHelper(b, "pages", config)
	return pagesServer{root}
}

func (s pagesServer) url() string { return s.root + "/api/v1" }

func (s pagesServer) requests(b *testing.B) int {
	b.Helper()
	answer, err := http.Get(s.root + "/requests")
	if err != nil {
		b.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		b.Fatal(err)
	}
	n, err := strconv.Atoi(string(text))
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// measure makes one run of the binary.
func measure(b *testing.B, path, baseURL string, args ...string) measured {
	b.Helper()
	_, line := startHelper(b, "measure", measureConfig{append([]string{command}, args...), childEnv(path, baseURL)})
	var m measured
	if err := json.Unmarshal([]byte(line), &m); err != nil {
		b.Fatal(err)
	}
	if m.Code != 0 {
		b.Fatalf("%v exits %d\n%s", args, m.Code, m.Stderr)
	}
	return m
}

func BenchmarkSteadyState(b *testing.B) {
	for range b.N {
		api := startPages(b, pagesConfig{Rows: 100, Page: 100, Seed: 1})
		path := newDatabase(b, "DELETE")
		measure(b, path, api.url(), "sync")
		fillHours(b, path)
		var cpu, wall []time.Duration
		var rss []int64
		before, changes := api.requests(b), changeCounter(b, path)
		const runs = 15
		for range runs {
			m := measure(b, path, api.url(), "sync")
			cpu, wall, rss = append(cpu, m.CPU), append(wall, m.Wall), append(rss, m.RSS)
		}
		figure(b, "requests", float64(api.requests(b)-before)/runs, "1")
		figure(b, "write-transactions", float64(changeCounter(b, path)-changes)/runs, "1")
		figure(b, "cpu-ms", milliseconds(median(cpu)), "<= 20")
		figure(b, "wall-ms", milliseconds(median(wall)), "")
		figure(b, "peak-MB", megabytes(slices.Max(rss)), "<= 20")
		b.ReportMetric(0, "ns/op")
	}
}

// fillHours makes the history of an organisation that is active day and night: all that usage is compared with.
func fillHours(b *testing.B, path string) {
	b.Helper()
	db := mustOpen(b, path)
	const hours = 45 * 24
	exec1(b, db, `
		with recursive n(i) as (select 1 union all select i + 1 from n where i < ?1)
		insert or replace into usage_sync_hours (client_org_id, hour, requests, raw_cost)
		select ?2, (?3 / 3600 - i) * 3600, 40, abs(random() % 1000000000000) from n`, hours, organisation, now.Unix())
	exec1(b, db, "update usage_sync_state set covered_from = ?", now.Unix()-hours*3600)
	if err := db.Close(); err != nil {
		b.Fatal(err)
	}
}

func BenchmarkBackfill(b *testing.B) {
	for _, rows := range []int{100_000, 400_000} {
		b.Run(fmt.Sprint(rows), func(b *testing.B) {
			for range b.N {
				backfill(b, rows)
			}
		})
	}
	// The application's view: how long it waits for its own write transactions meanwhile.
	for _, journal := range []string{"DELETE", "WAL"} {
		for _, polling := range []bool{false, true} {
			name := map[bool]string{false: "busy-timeout", true: "polling"}[polling]
			b.Run("stall/"+journal+"/"+name, func(b *testing.B) {
				for range b.N {
					stall(b, journal, polling)
				}
			})
		}
	}
}

// BenchmarkAnalyticsBackfill reads what BenchmarkBackfill reads from POST /analytics/query.
func BenchmarkAnalyticsBackfill(b *testing.B) {
	const rows, perAnswer = 100_000, 10_000
	for range b.N {
		api := startAnalytics(b, analyticsConfig{Rows: rows, Seed: 2})
		template := newDatabase(b, "DELETE")
		sum := sha256.Sum256([]byte(key))
		db := mustOpen(b, template)
		exec1(b, db, "update client_organizations set openrouter_key_hash = ?", hex.EncodeToString(sum[:]))
		if err := db.Close(); err != nil {
			b.Fatal(err)
		}
		var wall, cpu []time.Duration
		var rss []int64
		var requests int
		for i := range 4 {
			before := api.requests(b)
			path := copyOf(b, template)
			m := measure(b, path, api.url(), "sync", "--source", "analytics", "--management-key", managementKey)
			if n := checkConsistent(b, path); n != rows {
				b.Fatalf("%d of %d generations are recorded", n, rows)
			}
			if i > 0 { // the stand-in has worked out its answers in the first turn
				wall, cpu, rss = append(wall, m.Wall), append(cpu, m.CPU), append(rss, m.RSS)
			}
			requests = api.requests(b) - before
		}
		figure(b, "generations/s", rows/median(wall).Seconds(), ">= 25000")
		figure(b, "cpu-µs/generation", float64(median(cpu).Microseconds())/rows, "")
		figure(b, "peak-MB", megabytes(slices.Max(rss)), "<= 64")
		figure(b, "requests", float64(requests), fmt.Sprintf("the least possible is %d", 2*((rows+perAnswer-1)/perAnswer)))
		b.ReportMetric(0, "ns/op")
	}
}

const pageSize = 1000

func backfill(b *testing.B, rows int) {
	api := startPages(b, pagesConfig{Rows: rows, Page: pageSize, Seed: 2})
	template := newDatabase(b, "DELETE")
	var wall, cpu []time.Duration
	var rss []int64
	for range 3 {
		path := copyOf(b, template)
		m := measure(b, path, api.url(), "sync")
		if n := checkConsistent(b, path); n != int64(rows) {
			b.Fatalf("%d of %d generations are recorded", n, rows)
		}
		wall, cpu, rss = append(wall, m.Wall), append(cpu, m.CPU), append(rss, m.RSS)
	}
	figure(b, "generations/s", float64(rows)/median(wall).Seconds(), ">= 60000")
	figure(b, "cpu-µs/generation", float64(median(cpu).Microseconds())/float64(rows), "")
	figure(b, "peak-MB", megabytes(slices.Max(rss)), "<= 40")
	b.ReportMetric(0, "ns/op")
}

// stall has an application ask for the write lock during a backfill of 100,000. With SQLite's own busy timeout it sleeps
// up to 100 ms between two looks at the lock; polling shows how long the lock itself is taken.
func stall(b *testing.B, journal string, polling bool) {
	api := startPages(b, pagesConfig{Rows: 100_000, Page: pageSize, Seed: 2})
	path := newDatabase(b, journal)
	app, _ := startHelper(b, "application", applicationConfig{Path: path, Pause: 2 * time.Millisecond, Polling: polling, Bystander: true})
	m := measure(b, path, api.url(), "sync")
	words, err := app.end()
	if err != nil {
		b.Fatal(err)
	}
	var report applicationReport
	if err := json.NewDecoder(strings.NewReader(words)).Decode(&report); err != nil {
		b.Fatal(err)
	}
	waits := sorted(report.Waits)
	figure(b, "longest-wait-ms", milliseconds(waits[len(waits)-1]), "<= 50")
	figure(b, "p99-wait-ms", milliseconds(waits[len(waits)*99/100]), "<= 25")
	figure(b, "application-writes", float64(report.Writes), "")
	figure(b, "generations/s", 100_000/m.Wall.Seconds(), "")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkLargeLedger records the same generations in an empty ledger and in one of five million, in turns.
func BenchmarkLargeLedger(b *testing.B) {
	const (
		rows  = 20_000
		pairs = 7
	)
	for range b.N {
		empty := newDatabase(b, "DELETE")
		large := newDatabase(b, "DELETE")
		fillLedger(b, large, 5_000_000)
		var cpu, wall [2][]time.Duration
		for i := range pairs + 1 {
			// Both start as they were, and what the copying has left to be written is written before the clock starts:
			// a pass would wait for it at each commit.
			api := startPages(b, pagesConfig{Rows: rows, Page: pageSize, Seed: uint64(10 + i)})
			for j, original := range []string{empty, large} {
				path := copyOf(b, original)
				syscall.Sync()
				m := measure(b, path, api.url(), "sync", "--full")
				if i > 0 { // the first turn warms the caches
					cpu[j], wall[j] = append(cpu[j], m.CPU), append(wall[j], m.Wall)
				}
				if n, want := value[int](b, mustOpen(b, path), "select count(*) from processed_generations"), rows+j*5_000_000; n != want {
					b.Fatalf("the ledger has %d rows, want %d", n, want)
				}
				if err := os.Remove(path); err != nil {
					b.Fatal(err)
				}
			}
		}
		figure(b, "cpu-ratio", float64(median(cpu[1]))/float64(median(cpu[0])), "<= 1.2")
		figure(b, "wall-ratio", float64(median(wall[1]))/float64(median(wall[0])), "<= 1.2")
		figure(b, "empty-wall-ms", milliseconds(median(wall[0])), "")
		figure(b, "large-wall-ms", milliseconds(median(wall[1])), "")
		b.ReportMetric(0, "ns/op")
	}
}

// fillLedger makes a ledger of ten months that end before the window, and the places of its last 45 days.
func fillLedger(b *testing.B, path string, rows int) {
	b.Helper()
	db := mustOpen(b, path)
	exec1(b, db, "pragma synchronous = off")
	exec1(b, db, "pragma cache_size = -1000000")
	const tenMonths = 304 * 24 * 3600
	end := now.Add(-48 * time.Hour).Unix()
	exec1(b, db, `
		with recursive n(i) as (select 0 union all select i + 1 from n where i + 1 < ?1)
		insert into processed_generations (id, client_org_id, generation_date, processed_at, total_cost, total_tokens)
		select format('gen-%d-%s', at, hex(randomblob(10))), ?2, date(at, 'unixepoch'), at + 300, abs(random() % 5000000) / 1e9,
			abs(random() % 5000)
		from (select ?3 + i * ?4 / ?1 as at from n)`, rows, organisation, end-tenMonths, tenMonths)
	exec1(b, db, `
		insert into usage_sync_generations (client_org_id, generation_date, id, created_at, model_name, user_id,
			openrouter_user_id, markup_rate, source)
		select client_org_id, generation_date, id, processed_at - 300, 'openai/gpt-4o', 'ada', 'ext-ada', 1.3, 'generations'
		from processed_generations where processed_at > ? order by 1, 2, 3`, end-45*24*3600)
	if err := db.Close(); err != nil {
		b.Fatal(err)
	}
}
