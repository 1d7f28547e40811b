package job_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	_ "time/tzdata"

	"usage-sync/job"
	"usage-sync/job/openrouter"
	"usage-sync/job/openrouter/standin"
	"usage-sync/store"
)

var long = flag.Bool("long", false, "the long forms: many more cases (make soak)")

// tester is what testing.T and rapid.T have in common.
type tester interface {
	Helper()
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

// world is a database, a server that lists generations, and a clock that both the server and the passes read.
type world struct {
	tester
	path string
	api  *standin.Server
	http *httptest.Server
	db   *sql.DB
	logs *lockedBuffer

	managementKey store.Key        // of the account, if the passes have one
	charges       map[string]int64 // entries of a day that are no requests

	mu    sync.Mutex
	clock time.Time
}

type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// keyOf is the key of an organisation of these tests.
func keyOf(org string) string { return "sk-or-v1-0123456789abcdef-" + org }

// managementKey is that of the account of these tests.
const managementKey = "sk-or-v1-fedcba9876543210-management"

// manage gives the passes a management key.
func (w *world) manage() *world {
	w.managementKey = managementKey
	w.api.AddManagementKey(managementKey)
	w.api.AnalyticsPerMinute(0)
	return w
}

func client(org, timezone string) store.NewOrganisation {
	return store.NewOrganisation{ID: org, Name: "The " + org, Key: keyOf(org), Timezone: timezone, Rate: 1.3}
}

// newWorld makes a database with organisations, and a server that knows their keys.
func newWorld(t *testing.T, now time.Time, orgs ...store.NewOrganisation) *world {
	t.Helper()
	path := filepath.Join(t.TempDir(), "webui.db")
	if err := store.CreateDemo(t.Context(), path, orgs, now); err != nil {
		t.Fatal(err)
	}
	w := openWorld(t, path, now)
	t.Cleanup(w.close)
	for _, o := range orgs {
		w.api.AddKey(o.Key, o.Name)
	}
	return w
}

// openWorld surrounds a database that exists.
func openWorld(t tester, path string, now time.Time) *world {
	t.Helper()
	w := &world{tester: t, path: path, clock: now, logs: &lockedBuffer{}}
	w.api = standin.NewGateway(w.now)
	w.http = httptest.NewServer(w.api)
	var err error
	if w.db, err = sql.Open("sqlite3", "file:"+path+"?_busy_timeout=10000"); err != nil {
		t.Fatalf("%v", err)
	}
	return w
}

func (w *world) close() {
	w.http.Close()
	_ = w.db.Close()
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.clock
}

func (w *world) at(t time.Time) *world {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clock = t
	return w
}

func (w *world) later(d time.Duration) *world { return w.at(w.now().Add(d)) }

type option func(*job.Pass)

func daysBack(n int) option             { return func(p *job.Pass) { p.DaysBack = n } }
func full(p *job.Pass)                  { p.Full = true }
func dryRun(p *job.Pass)                { p.DryRun = true }
func adopt(p *job.Pass)                 { p.Answer = store.AnswerAdopt }
func only(orgs ...string) option        { return func(p *job.Pass) { p.Organisations = orgs } }
func from(source string) option         { return func(p *job.Pass) { p.Sources.Choice = source } }
func clock(now func() time.Time) option { return func(p *job.Pass) { p.Now = now } }

// open returns a store as a pass of the command line has it.
func (w *world) open() *store.Store {
	w.Helper()
	s, err := store.Open(context.Background(), w.path, store.ReadWrite)
	if err == nil {
		if err = s.CheckSchema(context.Background()); err == nil {
			err = s.EnsureOwnTables(context.Background())
		}
	}
	if err != nil {
		w.Fatalf("%v", err)
	}
	return s
}

// run makes a pass, one day back unless an option says otherwise.
func (w *world) run(ctx context.Context, options ...option) (job.Report, error) {
	w.Helper()
	s := w.open()
	defer s.Close()
	log := slog.New(slog.NewTextHandler(io.MultiWriter(w.logs), nil))
	c, err := openrouter.New(w.http.URL+"/api/v1", "test", log, openrouter.WithFirstWait(time.Millisecond))
	if err != nil {
		w.Fatalf("%v", err)
	}
	pass := job.Pass{Store: s, Log: log, Now: w.now, Zone: time.UTC, DaysBack: 1, ExitCode: exitCode,
		Sources: job.Sources{Choice: job.SourceAuto, Generations: func() job.Source { return openrouter.NewGenerations(c) }}}
	if w.managementKey != "" {
		m := openrouter.NewManagement(c, w.managementKey, openrouter.WithQueriesPerMinute(1_000_000))
		pass.Sources.Account = m
		pass.Sources.Analytics = func() job.AnalyticsSource { return openrouter.NewAnalytics(c, m, s.Unrecorded) }
	}
	for _, option := range options {
		option(&pass)
	}
	return pass.Run(ctx)
}

// exitCode stands for the table of the command line.
func exitCode(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, job.ErrRefused):
		return 65
	}
	return 70
}

// pass makes a pass of the world's only organisation and returns what became of it.
func (w *world) pass(options ...option) job.Outcome {
	w.Helper()
	report, err := w.run(context.Background(), options...)
	if err != nil {
		w.Fatalf("pass at %s: %v", w.now(), err)
	}
	if len(report.Organisations) != 1 {
		w.Fatalf("%d organisations, want 1", len(report.Organisations))
	}
	return report.Organisations[0]
}

// sync makes a pass that must succeed.
func (w *world) sync(options ...option) job.Outcome {
	w.Helper()
	o := w.pass(options...)
	if o.Err != nil {
		w.Fatalf("pass at %s: %v", w.now(), o.Err)
	}
	return o
}

// exec changes the database as an operator or the container does.
func (w *world) exec(query string, args ...any) {
	w.Helper()
	if _, err := w.db.Exec(query, args...); err != nil {
		w.Fatalf("%s: %v", query, err)
	}
}

// text returns the only value of a query.
func (w *world) text(query string, args ...any) string {
	w.Helper()
	var v sql.NullString
	if err := w.db.QueryRow(query, args...).Scan(&v); err != nil && !errors.Is(err, sql.ErrNoRows) {
		w.Fatalf("%s: %v", query, err)
	}
	return v.String
}

func (w *world) want(what, got, want string) {
	w.Helper()
	if got != want {
		w.Errorf("%s: got %s, want %s", what, got, want)
	}
}

func (w *world) wantLog(part string) {
	w.Helper()
	if !strings.Contains(w.logs.String(), part) {
		w.Errorf("the log does not say %q:\n%s", part, w.logs)
	}
}

func (w *world) state(org string) store.State {
	w.Helper()
	s := w.open()
	defer s.Close()
	st, err := s.State(context.Background(), org)
	if err != nil {
		w.Fatalf("%v", err)
	}
	return st
}

// requests counts those that met the server while fn ran.
func (w *world) requests(fn func()) int {
	before := len(w.api.Requests())
	fn()
	return len(w.api.Requests()) - before
}

// sum is what some rows add up to.
type sum struct {
	tokens, requests int64
	raw, markup      float64
}

func (s sum) plus(o sum) sum {
	return sum{s.tokens + o.tokens, s.requests + o.requests, s.raw + o.raw, s.markup + o.markup}
}

const tolerance = 1e-9

func (s sum) same(o sum) bool { return s.near(o, 0) }

// near tells whether sums are the same, but for so much raw cost; the markup more than doubles nothing.
func (s sum) near(o sum, slack float64) bool {
	return s.tokens == o.tokens && s.requests == o.requests && math.Abs(s.raw-o.raw) <= slack+tolerance &&
		math.Abs(s.markup-o.markup) <= 2.1*slack+tolerance
}

func (s sum) String() string {
	return fmt.Sprintf("%d tokens, %d requests, $%.12f, $%.12f", s.tokens, s.requests, s.raw, s.markup)
}

// books is everything that is written of one organisation, by day.
type books struct {
	daily, users, models, ledger map[string]sum
	remainder                    map[string]sum // of rounding; it is in no generation
	liveDay                      string
	live                         sum
}

func (w *world) books(org string) books {
	w.Helper()
	perDay := func(query string) map[string]sum {
		rows, err := w.db.Query(query, org)
		if err != nil {
			w.Fatalf("%v", err)
		}
		defer rows.Close()
		days := map[string]sum{}
		for rows.Next() {
			var day string
			var s sum
			if err := rows.Scan(&day, &s.tokens, &s.requests, &s.raw, &s.markup); err != nil {
				w.Fatalf("%v", err)
			}
			days[day] = s
		}
		if err := rows.Err(); err != nil {
			w.Fatalf("%v", err)
		}
		return days
	}
	const of = `select cast(usage_date as text), sum(total_tokens), sum(total_requests), sum(raw_cost), sum(markup_cost)
		from %s where client_org_id = ? group by 1`
	b := books{
		daily:  perDay(fmt.Sprintf(of, "client_daily_usage")),
		users:  perDay(fmt.Sprintf(of, "client_user_daily_usage")),
		models: perDay(fmt.Sprintf(of, "client_model_daily_usage")),
		ledger: perDay(`select cast(generation_date as text), sum(total_tokens), count(*), sum(total_cost), 0
			from processed_generations where client_org_id = ? group by 1`),
		remainder: perDay(`select usage_date, tokens, requests, raw / 1e12, markup / 1e12
			from usage_sync_days where client_org_id = ? and part = 'day' and kind = 'remainder'`),
	}
	live := perDay(`select cast("current_date" as text), today_tokens, today_requests, today_raw_cost, today_markup_cost
		from client_live_counters where client_org_id = ?`)
	for day, s := range live {
		b.liveDay, b.live = day, s
	}
	return b
}

// day is what the dashboard counts on a day.
func (b books) day(day string) sum {
	s := b.daily[day]
	if day == b.liveDay {
		s = s.plus(b.live)
	}
	return s
}

func (b books) total() sum {
	s := b.live
	for _, d := range b.daily {
		s = s.plus(d)
	}
	return s
}

// check holds the books against the rules that the dashboard's readers depend on.
func (w *world) check(org string) books {
	w.Helper()
	b := w.books(org)
	if twice, there := b.daily[b.liveDay]; there {
		w.Errorf("daily row for the live counter's date %s: %s", b.liveDay, twice)
	}
	days := map[string]bool{b.liveDay: true}
	for _, table := range []map[string]sum{b.daily, b.users, b.models, b.ledger} {
		for day := range table {
			days[day] = true
		}
	}
	for day := range days {
		counted, ledgered := b.day(day), b.ledger[day].plus(b.remainder[day])
		ledgered.markup = counted.markup
		ledgered.requests -= w.charges[day]
		if !b.users[day].same(counted) || !b.models[day].same(counted) || !ledgered.same(counted) {
			w.Errorf("%s on %s differs:\n daily+live %s\n users      %s\n models     %s\n ledger     %s", org, day, counted,
				b.users[day], b.models[day], b.ledger[day])
		}
	}
	return b
}

// wantTotal checks the books and their total.
func (w *world) wantTotal(org string, tokens, requests int64, raw float64) books {
	w.Helper()
	b := w.check(org)
	got := b.total()
	if got.tokens != tokens || got.requests != requests || math.Abs(got.raw-raw) > tolerance {
		w.Errorf("%s: got %s; want %d tokens, %d requests, $%.12f", org, got, tokens, requests, raw)
	}
	return b
}

// dashboard rolls a stale live counter over as the container's reader does, with a plain INSERT.
func (w *world) dashboard(org, today string) error {
	day := w.text(`select cast("current_date" as text) from client_live_counters where client_org_id = ?`, org)
	if day == "" || day >= today {
		return nil
	}
	tx, err := w.db.Begin()
	if err != nil {
		return err
	}
	defer tx.Rollback()
	for _, query := range []string{
		`insert into client_daily_usage (id, client_org_id, usage_date, total_tokens, total_requests, raw_cost, markup_cost,
			primary_model, unique_users, created_at, updated_at)
		select client_org_id || '_' || "current_date", client_org_id, "current_date", today_tokens, today_requests,
			today_raw_cost, today_markup_cost, null, 1, last_updated, last_updated
		from client_live_counters where client_org_id = ?1 and ?2 = ?2`,
		`update client_live_counters set "current_date" = ?2, today_tokens = 0, today_requests = 0, today_raw_cost = 0,
			today_markup_cost = 0 where client_org_id = ?1`,
	} {
		if _, err := tx.Exec(query, org, today); err != nil {
			return err
		}
	}
	return tx.Commit()
}

func at(text string) time.Time {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		panic(err)
	}
	return t
}

// generation makes one of 100 tokens and one cent.
func generation(id string, created time.Time) standin.Generation {
	return standin.Generation{ID: id, CreatedAt: created, Model: "openai/gpt-4o", PromptTokens: 60, CompletionTokens: 40, Cost: "0.01"}
}

// generations makes n of them, newest at a time, one a step earlier than the other.
func generations(prefix string, n int, newest time.Time, step time.Duration) []standin.Generation {
	all := make([]standin.Generation, n)
	for i := range all {
		all[i] = generation(fmt.Sprintf("%s-%d", prefix, i), newest.Add(-time.Duration(i)*step))
	}
	return all
}

func copyFile(t tester, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, data, 0o600)
	}
	if err != nil {
		t.Fatalf("%v", err)
	}
}
