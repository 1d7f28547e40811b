package doctor

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	_ "github.com/mattn/go-sqlite3"

	"usage-sync/job"
	"usage-sync/job/alert"
	"usage-sync/job/openrouter"
	"usage-sync/job/openrouter/standin"
	"usage-sync/store"
)

const (
	acmeKey       = "sk-or-v1-acme-test-key"
	managementKey = "sk-or-v1-management-test-key"
)

var noon = time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)

// ward is a database, a stand-in, and how to examine them.
type ward struct {
	Config
	server *standin.Server
	http   *httptest.Server
}

func newWard(t *testing.T) *ward {
	t.Helper()
	w := &ward{server: standin.NewGateway(func() time.Time { return noon })}
	w.server.AddKey(acmeKey, "acme")
	w.http = httptest.NewServer(w.server)
	t.Cleanup(func() {
		w.http.CloseClientConnections()
		w.http.Close()
	})
	path := filepath.Join(t.TempDir(), "webui.db")
	err := store.CreateDemo(t.Context(), path, []store.NewOrganisation{{ID: "acme", Name: "Acme GmbH", Key: acmeKey, Rate: 1.3}}, noon)
	if err != nil {
		t.Fatal(err)
	}
	passed(t, path)
	w.Config = Config{Database: path, Zone: time.UTC, Now: func() time.Time { return noon }, Timeout: 30 * time.Second,
		ManagementKey: func(context.Context, *store.Store) (store.Key, string, error) { return "", "", nil },
		Health:        alert.NewRule(0, alert.Settings{}), // the history is as old as noon,
	}
	w.ask(t, w.http.URL+"/api/v1")
	return w
}

// passed writes a pass that went well into the history.
func passed(t *testing.T, path string) {
	t.Helper()
	db, err := store.Open(t.Context(), path, store.ReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	run := store.Run{StartedAt: noon, EndedAt: noon, OrganisationID: "acme", Organisation: "Acme GmbH"}
	if err := errors.Join(db.FinishRun(t.Context(), run, nil, nil), db.Close()); err != nil {
		t.Fatal(err)
	}
}

// ask makes the examination ask a server.
func (w *ward) ask(t *testing.T, url string) {
	t.Helper()
	client, err := openrouter.New(url, "test", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	w.Client = client
	w.Sources = func(context.Context, *store.Store) (job.Sources, error) {
		return job.Sources{Choice: job.SourceAuto, Generations: func() job.Source { return openrouter.NewGenerations(client) }}, nil
	}
}

// manage adds a management key, and the analytics that want one.
func (w *ward) manage() {
	w.server.AddManagementKey(managementKey)
	w.ManagementKey = func(context.Context, *store.Store) (store.Key, string, error) { return managementKey, "a test", nil }
	list := w.Sources
	w.Sources = func(ctx context.Context, db *store.Store) (job.Sources, error) {
		sources, err := list(ctx, db)
		management := openrouter.NewManagement(w.Client, managementKey)
		sources.Account = management
		sources.Analytics = func() job.AnalyticsSource { return openrouter.NewAnalytics(w.Client, management, db.Unrecorded) }
		return sources, err
	}
}

func (w *ward) sql(t *testing.T, statements ...string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite3", w.Database)
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	t.Cleanup(func() { db.Close() })
	for _, statement := range statements {
		if _, err := db.Exec(statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	return db
}

// examine returns the findings by the names of their checks; those of one check stand in one text.
func (w *ward) examine(t *testing.T) map[string]string {
	t.Helper()
	lines := map[string]string{}
	for _, f := range Examine(t.Context(), w.Config) {
		lines[f.Check] += fmt.Sprintf("%s%s → %s\n", []string{"ok: ", "warning: ", "failed: ", "skipped: "}[f.Level], f.Text, f.Advice)
		if (f.Level == Failed) != (f.Err != nil) {
			t.Errorf("%s: level %d with the error %v", f.Check, f.Level, f.Err)
		}
	}
	return lines
}

func want(t *testing.T, lines map[string]string, check, start string) {
	t.Helper()
	if !strings.HasPrefix(lines[check], start) {
		t.Errorf("%s: got %q, want %q", check, lines[check], start)
	}
}

// TestChecksDependOnEarlierOnes: so the first failure that is shown is a cause, and nothing waits for itself.
func TestChecksDependOnEarlierOnes(t *testing.T) {
	var before []string
	for _, c := range (&examination{}).checks() {
		for _, name := range slices.Concat(c.needs, c.after) {
			if !slices.Contains(before, name) {
				t.Errorf("%s comes before %s, which it depends on", c.name, name)
			}
		}
		if slices.Contains(before, c.name) {
			t.Errorf("two checks %s", c.name)
		}
		before = append(before, c.name)
	}
}

func TestAllIsWell(t *testing.T) {
	w := newWard(t)
	w.manage()
	for check, lines := range w.examine(t) {
		if !strings.HasPrefix(lines, "ok: ") || strings.Count(lines, "\n") != 1 {
			t.Errorf("%s: %s", check, lines)
		}
	}
	for _, r := range w.server.Requests() {
		if r.Method != "GET" {
			t.Errorf("%s %s", r.Method, r.Path)
		}
	}
}

// TestNothingHangs: not even where the kernel does. Reading a pipe waits for who writes to it, as a file on a dead network
// disk waits for its server.
func TestNothingHangs(t *testing.T) {
	w := newWard(t)
	w.patience = map[string]time.Duration{"readable": 300 * time.Millisecond, "writable": 300 * time.Millisecond, "connection": 100 * time.Millisecond}
	pipe := w.Database + "-journal"
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	hang := standin.Hang()
	w.server.Always(&hang)
	lines := w.examine(t) // which ends, although the server and the kernel never answer
	want(t, lines, "readable", "failed: not done in time")
	want(t, lines, "connection", "failed: OpenRouter can't be reached: no answer in time")
	want(t, lines, "answer", "skipped: depends on connection")
	want(t, lines, "lock", "ok: ")
	// Let those that were left behind go.
	if f, err := os.OpenFile(pipe, os.O_RDWR, 0); err == nil {
		_, _ = f.Write(make([]byte, 4096))
		f.Close()
	}
}

func TestSignal(t *testing.T) {
	w := newWard(t)
	hang := standin.Hang()
	w.server.Always(&hang)
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("signal")
	w.server.OnRequest(func(standin.Request) { cancel(cause) })
	findings := Examine(ctx, w.Config)
	if i := slices.IndexFunc(findings, func(f Finding) bool { return f.Level == Failed }); i < 0 || !errors.Is(findings[i].Err, cause) {
		t.Errorf("%v", findings)
	}
}

func TestDatabaseIsHeld(t *testing.T) {
	w := newWard(t)
	w.patience = map[string]time.Duration{"readable": 300 * time.Millisecond, "writable": 300 * time.Millisecond}
	w.sql(t, "begin exclusive")
	lines := w.examine(t)
	want(t, lines, "database", "ok: ")
	want(t, lines, "readable", "failed: ")
	if !strings.Contains(lines["readable"], "not done in time → the application holds the database") {
		t.Errorf("%s", lines["readable"])
	}
	want(t, lines, "integrity", "skipped: depends on readable")
	want(t, lines, "answer", "ok: ")
}

func TestIntegrityGivesWay(t *testing.T) {
	w := newWard(t)
	w.sql(t, "create table chat (id text)", "insert into chat with recursive n(i) as (select 1 union all select i + 1 from n where i < 100000) select hex(randomblob(50)) from n")
	check := func(longest time.Duration) Finding {
		e := &examination{Config: w.Config, longestRead: longest}
		e.checkDatabase(t.Context())
		e.checkReadable(t.Context())
		defer e.db.Close()
		return e.checkIntegrity(t.Context())[0]
	}
	if got := check(time.Minute); got.Level != OK {
		t.Errorf("without a hurry: %+v", got)
	}
	if got := check(time.Millisecond); got.Level != Warning || !strings.Contains(got.Text, "not checked to the end") {
		t.Errorf("while the application waits: %+v", got)
	}
	w.sql(t, "pragma journal_mode = wal").Close()
	if got := check(time.Millisecond); got.Level != OK {
		t.Errorf("in WAL mode nobody waits: %+v", got)
	}
}

func TestApplicationStartsMeanwhile(t *testing.T) {
	w := newWard(t)
	w.sql(t, "pragma journal_mode = wal").Close()
	e := &examination{Config: w.Config}
	e.checkDatabase(t.Context())
	if e.awoken() {
		t.Error("nobody uses it")
	}
	app := w.sql(t, "create table chat (id text)")
	if !e.awoken() {
		t.Error("the application uses it")
	}
	app.Close()
}

func TestJournal(t *testing.T) {
	for name, test := range map[string]struct {
		file store.File
		want string
		is   Level
	}{
		"rollback":   {store.File{Log: -1}, "rollback journal", OK},
		"quiet":      {store.File{WriteAhead: true, Log: -1}, "nobody uses it", OK},
		"in use":     {store.File{WriteAhead: true, Log: 4000, Index: true}, "write-ahead log, 4.0 kB", OK},
		"left over":  {store.File{WriteAhead: true, Log: 5_000_000}, "5.0 MB of a write-ahead log are left over", Warning},
		"old SQLite": {store.File{WriteAhead: true, Log: 4000, Index: true, Writer: 3040001}, "SQLite 3.40.1 wrote last", Warning},
		"endless":    {store.File{WriteAhead: true, Log: 3 << 30, Index: true}, "write-ahead log of 3.2 GB", Warning},
	} {
		t.Run(name, func(t *testing.T) {
			got := (&examination{file: test.file}).checkJournal(t.Context())
			if len(got) != 1 || got[0].Level != test.is || !strings.Contains(got[0].Text, test.want) {
				t.Errorf("%+v", got)
			}
		})
	}
}

func TestDisk(t *testing.T) {
	for free, level := range map[int64]Level{0: Failed, 15 << 20: Failed, 17 << 20: Warning, 511 << 20: Warning, 1 << 30: OK} {
		if got := judgeDisk(free); got.Level != level || (level == Failed && !errors.Is(got.Err, syscall.ENOSPC)) {
			t.Errorf("%d: %+v", free, got)
		}
	}
}

func TestLockHeldForLong(t *testing.T) {
	w := newWard(t)
	w.LockFile = filepath.Join(t.TempDir(), "own.lock")
	lock, err := job.Acquire(t.Context(), w.LockFile, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Release()
	w.Now = time.Now
	want(t, w.examine(t), "lock", fmt.Sprintf("ok: a pass is running: pid %d", os.Getpid()))
	w.Now = func() time.Time { return time.Now().Add(2 * time.Hour) }
	lines := w.examine(t)
	want(t, lines, "lock", fmt.Sprintf("warning: held by pid %d", os.Getpid()))
	if !strings.Contains(lines["lock"], fmt.Sprintf("ps -p %d", os.Getpid())) {
		t.Error(lines["lock"])
	}
}

func TestManagementKey(t *testing.T) {
	for name, test := range map[string]struct {
		key  store.Key
		err  error
		want string
	}{
		"OK":         {managementKey, nil, "ok: sk-or-v1-man... is valid, no limit, from a test"},
		"Ordinary":   {acmeKey, nil, "failed: configuration: sk-or-v1-acm... of a test is an ordinary key → make a management key"},
		"Refused":    {"sk-or-v1-unknown-key", nil, "failed: OpenRouter API error for key sk-or-v1-unk...: HTTP 401 Unauthorized (User not found.) → set a valid one: a test"},
		"Unreadable": {"", fs.ErrPermission, "failed: permission denied"},
		"None":       {"", nil, "ok: none is set"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWard(t)
			w.server.AddManagementKey(managementKey)
			w.ManagementKey = func(context.Context, *store.Store) (store.Key, string, error) { return test.key, "a test", test.err }
			want(t, w.examine(t), "management key", test.want)
		})
	}
}

// TestSource: the one that a pass would use, found out anew, and nothing of it remembered.
func TestSource(t *testing.T) {
	t.Run("List", func(t *testing.T) {
		want(t, newWard(t).examine(t), "source", "ok: generations answers")
	})
	t.Run("BrokenList", func(t *testing.T) {
		w := newWard(t)
		broken := standin.Body(200, "text/html", "<html>")
		w.server.AlwaysAt("/generations", &broken)
		want(t, w.examine(t), "source", "failed: generations: answer can't be trusted")
	})
	t.Run("NoList", func(t *testing.T) {
		w := newWard(t)
		w.server.NoList(404)
		want(t, w.examine(t), "source", "failed: analytics: no usable source")
	})
	t.Run("Analytics", func(t *testing.T) {
		w := newWard(t)
		w.server.NoList(405)
		w.manage()
		want(t, w.examine(t), "source", "ok: analytics answers")
		db, err := store.Open(t.Context(), w.Database, store.ReadOnly)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		org := store.Organisation{ID: "acme", Key: acmeKey}
		if choice, err := db.SourceChoice(t.Context(), org); err != nil || choice != (store.SourceChoice{}) {
			t.Errorf("remembered %+v, %v", choice, err)
		}
	})
	t.Run("Remembered", func(t *testing.T) {
		w := newWard(t)
		w.server.NoList(404)
		w.manage()
		db, err := store.Open(t.Context(), w.Database, store.ReadWrite)
		if err != nil {
			t.Fatal(err)
		}
		org := store.Organisation{ID: "acme", Key: acmeKey}
		choice := store.SourceChoice{Source: job.SourceAnalytics, TriedAt: noon.Add(-time.Hour)}
		if err := errors.Join(db.SetSourceChoice(t.Context(), org, choice), db.Close()); err != nil {
			t.Fatal(err)
		}
		w.sql(t, fmt.Sprintf("update client_organizations set openrouter_key_hash = '%s'", w.server.KeyHash(acmeKey)))
		want(t, w.examine(t), "source", "ok: analytics answers")
		for _, r := range w.server.Requests() {
			if strings.HasSuffix(r.Path, "/generations") || strings.HasSuffix(r.Path, "/keys") {
				t.Errorf("asked %s, which is known", r.Path)
			}
		}
	})
	// The base URL has come to be a gateway's, which has the list alone: a pass finds its way, and so does the doctor.
	t.Run("OtherServer", func(t *testing.T) {
		w := newWard(t)
		w.manage()
		missing := standin.Status(404, "")
		w.server.AlwaysAt("/analytics/query", &missing)
		db, err := store.Open(t.Context(), w.Database, store.ReadWrite)
		if err != nil {
			t.Fatal(err)
		}
		org := store.Organisation{ID: "acme", Key: acmeKey}
		choice := store.SourceChoice{Source: job.SourceAnalytics, TriedAt: noon.Add(-time.Hour)}
		if err := errors.Join(db.SetSourceChoice(t.Context(), org, choice), db.Close()); err != nil {
			t.Fatal(err)
		}
		want(t, w.examine(t), "source", "ok: generations answers")
	})
	// A server that answers is not enough: a pass must be able to record what it answers.
	t.Run("Rows", func(t *testing.T) {
		used := standin.Generation{ID: "gen-1", CreatedAt: noon.Add(-5 * time.Hour), Model: "a/b", Cost: "0.01"}
		w := newWard(t)
		w.server.Add(acmeKey, used)
		want(t, w.examine(t), "source", "ok: generations answers, 1 row can be recorded")
		w.server.NoList(404)
		w.manage()
		want(t, w.examine(t), "source", "ok: analytics answers, 1 row can be recorded")
		for text, quirks := range map[string]standin.Quirks{
			"no time: no field ends in": {TimeColumn: "bucket", Suffix: "_at"},
			"is not a time":             {TimeLayout: "02.01.2006 15h"},
		} {
			w.server.Play(quirks)
			want(t, w.examine(t), "source", "failed: analytics: refused 1 of 1 rows")
			if got := w.examine(t)["source"]; !strings.Contains(got, text) {
				t.Errorf("no %q in %s", text, got)
			}
		}
		w = newWard(t)
		used.Raw = `{"id":"gen-1","created_at":"2026-03-10T07:00:00Z","model":"a/b","total_cost":-1}`
		w.server.Add(acmeKey, used)
		want(t, w.examine(t), "source", "failed: generations: refused 1 of 1 rows")
	})
	t.Run("UnknownHash", func(t *testing.T) {
		w := newWard(t)
		w.server.NoList(404)
		w.manage()
		w.sql(t, fmt.Sprintf("update client_organizations set openrouter_key_hash = '%064d'", 7))
		lines := w.examine(t)
		want(t, lines, "source", "failed: analytics: nothing proves that the key hash")
	})
	t.Run("Many", func(t *testing.T) {
		w := newWard(t)
		for i := range mostTried + 4 {
			key := fmt.Sprintf("%s-%d", acmeKey, i)
			w.server.AddKey(key, "")
			w.sql(t, fmt.Sprintf("insert into client_organizations select 'o%d', 'Org %d', '%s', null, 1.3, null, null, 1, 0, 0, null", i, i, key))
		}
		lines := w.examine(t)
		if n := strings.Count(lines["source"], "generations answers"); n != mostTried || !strings.Contains(lines["source"], "ok: 5 more are not tried") {
			t.Errorf("tried %d: %s", n, lines["source"])
		}
		if n := strings.Count(lines["key"], "ok: "); n != mostTried+5 {
			t.Errorf("%d keys are valid", n)
		}
	})
	t.Run("SettingsUnreadable", func(t *testing.T) {
		w := newWard(t)
		w.Sources = func(context.Context, *store.Store) (job.Sources, error) { return job.Sources{}, fs.ErrPermission }
		want(t, w.examine(t), "source", "failed: permission denied")
	})
}

// TestDeliveries: where usage is delivered, doctor says how its destination gets to deliver this client's alone.
func TestDeliveries(t *testing.T) {
	w := newWard(t)
	if got := w.examine(t)["deliveries"]; got != "" {
		t.Errorf("without a delivery: %q", got)
	}
	db := w.sql(t)
	_, err := db.Exec(`insert into usage_sync_runs (started_at, ended_at, source, fetched, recorded, updated, duplicates, refused, tokens,
		raw_cost, markup_cost, api_requests, exit_code) values (1, 1, 'webhook', 1, 1, 0, 0, 0, 1, 1, 1, 0, 0)`)
	if err != nil {
		t.Fatal(err)
	}
	want(t, w.examine(t), "deliveries", "ok: come in; without a management key it is not known which keys their destination has selected")
	w.manage()
	w.server.AddDestination(standin.Destination{ID: "d-1", Name: "Acme", Hashes: []string{strings.Repeat("ab", 32)}})
	w.server.AddDestination(standin.Destination{ID: "d-2", Name: "off", Disabled: true})
	want(t, w.examine(t), "deliveries", "ok: 1 webhooks of the account, each with keys selected")
	w.server.AddDestination(standin.Destination{ID: "d-3", Name: "all", Anonymous: true, NoCost: true, SamplingRate: 0.5})
	want(t, w.examine(t), "deliveries", `warning: the destination "all" delivers the usage of all keys of its workspace, other clients' included, `+
		"does not say whose usage it is: identity is off, does not say what it cost, delivers a sample alone → at OpenRouter, "+
		"Settings > Observability > the webhook > API keys: select this client's key alone")
}
