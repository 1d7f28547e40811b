package main

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"usage-sync/job"
	"usage-sync/job/httpapi"
	"usage-sync/job/openrouter/standin"
	"usage-sync/store"
)

var update = flag.Bool("update", false, "write what commands print into the golden files of scripts")

func TestMain(m *testing.M) {
	if err := os.Setenv("GORACE", "atexit_sleep_ms=0"); err != nil { // else each command sleeps a second under -race
		panic(err)
	}
	testscript.Main(m, map[string]func(){
		"usage-sync":         func() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
		"usage-sync-watched": watched,
	})
}

// TestScripts runs the sessions of testdata/script. In each, it is 10 March 2026, noon UTC, until the script says
// otherwise, and the database is webui.db.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/script",
		UpdateScripts: *update,
		Setup: func(env *testscript.Env) error {
			s := &session{servers: map[string]*server{}, snapshots: map[string][32]byte{}, locks: map[string]*job.Lock{}}
			env.Values[sessionKey{}] = s
			env.Setenv("USAGE_SYNC_DB", filepath.Join(env.WorkDir, "webui.db"))
			start := time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)
			s.clock.Store(start.Unix())
			env.Setenv("USAGE_SYNC_NOW", start.Format(time.RFC3339))
			return nil
		},
		Condition: func(condition string) (bool, error) {
			if condition == "root" { // whom no file mode keeps out
				return os.Geteuid() == 0, nil
			}
			return false, fmt.Errorf("unknown condition %q", condition)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "signal": sendSignal, "ended": ended, "clock": setClock,
			"standin": startStandin, "generations": addGenerations, "cost": setCost, "fault": fault, "always": always,
			"management-key": addManagementKey, "key": setKey, "no-list": noList, "quirk": quirk,
			"ignore-offset": ignoreOffset, "page-limit": pageLimit, "requests": requests, "await-request": awaitRequest,
			"newdb": newDatabase, "sql": runSQL, "snapshot": snapshot, "unchanged": unchanged,
			"hold-lock": holdLock, "release-lock": releaseLock, "hold-db": holdDatabase, "release-db": releaseDatabase,
			"engine":      startEngine,
			"impersonate": impersonate,
			"request":     writeRequest,
			"mode":        fileMode, "metrics": printMetrics, "health-check": startHealthCheck, "pings": printPings,
		},
	})
}

// session is what the commands of one script share.
type session struct {
	clock     atomic.Int64 // seconds since 1970
	servers   map[string]*server
	snapshots map[string][32]byte
	locks     map[string]*job.Lock
	held      func()    // lets the database go
	signalled *exec.Cmd // by the command signal
	checks    *healthCheck
}

type sessionKey struct{}

func of(ts *testscript.TestScript) *session { return ts.Value(sessionKey{}).(*session) }

func (s *session) now() time.Time { return time.Unix(s.clock.Load(), 0).UTC() }

// server is a stand-in that listens.
type server struct {
	*standin.Server
	url     string
	entered atomic.Int64 // requests that have come in, answered or not
}

// main is the server that OPENROUTER_BASE_URL names.
func (s *session) main(ts *testscript.TestScript) *server {
	return s.named(ts, "main")
}

func (s *session) named(ts *testscript.TestScript, name string) *server {
	server, ok := s.servers[name]
	if !ok {
		ts.Fatalf("no stand-in %s runs", name)
	}
	return server
}

func want(ts *testscript.TestScript, ok bool, usage string) {
	if !ok {
		ts.Fatalf("usage: %s", usage)
	}
}

// exits CODE COMMAND ARG...: runs a command that ends with that very code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, !neg && len(args) >= 2, "exits CODE COMMAND ARG...")
	code := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exited *exec.ExitError
		if !errors.As(err, &exited) {
			ts.Fatalf("%v", err)
		}
		code = exited.ExitCode()
	}
	if fmt.Sprint(code) != args[0] {
		ts.Fatalf("%s ended with code %d, want %s", strings.Join(args[1:], " "), code, args[0])
	}
}

// signal NAME: sends TERM or INT to the command in the background.
func sendSignal(ts *testscript.TestScript, neg bool, args []string) {
	commands := ts.BackgroundCmds()
	want(ts, !neg && len(args) == 1 && len(commands) == 1, "signal TERM|INT, with one command in the background")
	of(ts).signalled = commands[0]
	ts.Check(commands[0].Process.Signal(map[string]os.Signal{"TERM": syscall.SIGTERM, "INT": syscall.SIGINT}[args[0]]))
}

// ended CODE: the command that got the signal, and was waited for, ended with that code.
func ended(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, !neg && len(args) == 1 && of(ts).signalled != nil, "ended CODE")
	if code := of(ts).signalled.ProcessState.ExitCode(); fmt.Sprint(code) != args[0] {
		ts.Fatalf("ended with code %d, want %s", code, args[0])
	}
}

// clock RFC3339: sets the time, for the program and the stand-in.
func setClock(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, !neg && len(args) == 1, "clock RFC3339")
	now, err := time.Parse(time.RFC3339, args[0])
	ts.Check(err)
	of(ts).clock.Store(now.Unix())
	ts.Setenv("USAGE_SYNC_NOW", args[0])
}

// standin [NAME]: starts a stand-in of OpenRouter. The first one is OPENROUTER_BASE_URL, one of a name is ${NAME}_URL.
func startStandin(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, !neg && len(args) <= 1, "standin [NAME]")
	s := of(ts)
	one := &server{Server: standin.NewGateway(s.now)}
	listener := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		one.entered.Add(1)
		one.ServeHTTP(w, r)
	}))
	ts.Defer(func() {
		listener.CloseClientConnections()
		listener.Close()
	})
	one.url = listener.URL + "/api/v1"
	name, variable := "main", "OPENROUTER_BASE_URL"
	if len(args) == 1 {
		name, variable = args[0], args[0]+"_URL"
	}
	s.servers[name] = one
	ts.Setenv(variable, one.url)
}

// generations KEY FILE: makes a key valid and lists generations under it. A line is: id time model user prompt completion cost. A user "-"
// is none, and a line that starts with a brace is the row itself, as JSON, which is dated by the clock.
func addGenerations(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, !neg && len(args) == 2, "generations KEY FILE")
	s := of(ts)
	s.main(ts).AddKey(args[0], "")
	for line := range strings.Lines(ts.ReadFile(args[1])) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "{") {
			s.main(ts).Add(args[0], standin.Generation{CreatedAt: s.now(), Raw: line})
			continue
		}
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		want(ts, len(f) == 7, "a line of generations is: id time model user prompt completion cost")
		at, err := time.Parse(time.RFC3339, f[1])
		ts.Check(err)
		prompt, err := strconv.ParseInt(f[4], 10, 64)
		ts.Check(err)
		completion, err := strconv.ParseInt(f[5], 10, 64)
		ts.Check(err)
		s.main(ts).Add(args[0], standin.Generation{ID: f[0], CreatedAt: at, Model: f[2], ExternalUser: strings.Trim(f[3], "-"),
			PromptTokens: prompt, CompletionTokens: completion, Cost: f[6]})
	}
}

// management-key KEY: makes a key valid that sees all other keys.
func addManagementKey(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, !neg && len(args) == 1, "management-key KEY")
	of(ts).main(ts).AddManagementKey(args[0])
}

// key KEY HASH [LABEL [NAME]]: makes a key valid that the server knows by a hash. A hash "-" is the key's SHA-256.
func setKey(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, !neg && len(args) >= 2 && len(args) <= 4, "key KEY HASH [LABEL [NAME]]")
	rest := append(args[2:], "", "")
	of(ts).main(ts).SetKey(args[0], standin.Key{Hash: strings.Trim(args[1], "-"), Label: rest[0], Name: rest[1]})
}

// no-list STATUS | off: the server has no list of generations; 404 comes with an HTML page, as from OpenRouter.
func noList(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, !neg && len(args) == 1, "no-list STATUS | off")
	status := 0
	if args[0] != "off" {
		var err error
		status, err = strconv.Atoi(args[0])
		ts.Check(err)
	}
	of(ts).main(ts).NoList(status)
}

// quirk cents | fractions | every-key | none: the server differs from what was seen of OpenRouter.
func quirk(ts *testscript.TestScript, neg bool, args []string) {
	quirks, known := map[string]standin.Quirks{"none": {}, "cents": {Cents: true}, "fractions": {Fractions: true},
		"every-key": {LoseHash: true}}[strings.Join(args, " ")]
	want(ts, !neg && known, "quirk cents | fractions | every-key | none")
	of(ts).main(ts).Play(quirks)
}

// cost ID COST: OpenRouter settles a generation late.
func setCost(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, !neg && len(args) == 2, "cost ID COST")
	of(ts).main(ts).SetCost(args[0], args[1])
}

func parseFault(ts *testscript.TestScript, args []string) standin.Fault {
	const usage = "status CODE [RETRY-AFTER] | hang | cut | body STATUS TYPE TEXT | redirect URL | ok"
	want(ts, len(args) > 0, usage)
	switch kind, rest := args[0], args[1:]; {
	case kind == "status" && (len(rest) == 1 || len(rest) == 2):
		status, err := strconv.Atoi(rest[0])
		ts.Check(err)
		return standin.Status(status, strings.Join(rest[1:], ""))
	case kind == "hang" && len(rest) == 0:
		return standin.Hang()
	case kind == "cut" && len(rest) == 0:
		return standin.CutBody()
	case kind == "body" && len(rest) == 3:
		status, err := strconv.Atoi(rest[0])
		ts.Check(err)
		return standin.Body(status, rest[1], rest[2])
	case kind == "redirect" && len(rest) == 1:
		return standin.Redirect(rest[0])
	case kind == "ok" && len(rest) == 0:
		return standin.OK()
	}
	want(ts, false, usage)
	return standin.OK()
}

// fault KIND ARG...: the next request meets a fault; several faults meet one request each.
func fault(ts *testscript.TestScript, neg bool, args []string) {
	of(ts).main(ts).Script(parseFault(ts, args))
}

// always KIND ARG... | off: every request meets a fault.
func always(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) == 1 && args[0] == "off" {
		of(ts).main(ts).Always(nil)
		return
	}
	f := parseFault(ts, args)
	of(ts).main(ts).Always(&f)
}

// ignore-offset: the list answers with its first page for ever.
func ignoreOffset(ts *testscript.TestScript, neg bool, _ []string) {
	of(ts).main(ts).IgnoreOffset(!neg)
}

// page-limit N: sets the most rows of a page.
func pageLimit(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, !neg && len(args) == 1, "page-limit N")
	rows, err := strconv.Atoi(args[0])
	ts.Check(err)
	of(ts).main(ts).PageLimit(rows)
}

// requests N [NAME]: that many requests have come in since this was last asked.
func requests(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, !neg && (len(args) == 1 || len(args) == 2), "requests N [NAME]")
	server := of(ts).named(ts, append(args, "main")[1])
	if got := server.entered.Swap(0); fmt.Sprint(got) != args[0] {
		ts.Fatalf("%d requests, want %s", got, args[0])
	}
}

// await-request: waits until a request has come in, whether or not it is ever answered.
func awaitRequest(ts *testscript.TestScript, neg bool, args []string) {
	server := of(ts).main(ts)
	for deadline := time.Now().Add(20 * time.Second); server.entered.Load() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			ts.Fatalf("no request has come in")
		}
	}
}

// newdb FILE ORGANISATIONS: makes a database with the container's tables. A line of the file is: id key markup-rate
// timezone name. A timezone "-" is none.
func newDatabase(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, !neg && len(args) == 2, "newdb FILE ORGANISATIONS")
	var organisations []store.NewOrganisation
	for line := range strings.Lines(ts.ReadFile(args[1])) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		want(ts, len(f) >= 5, "a line of organisations is: id key rate timezone name")
		rate, err := strconv.ParseFloat(f[2], 64)
		ts.Check(err)
		organisations = append(organisations, store.NewOrganisation{ID: f[0], Key: f[1], Rate: rate,
			Timezone: strings.Trim(f[3], "-"), Name: strings.Join(f[4:], " ")})
	}
	ts.Check(store.CreateDemo(context.Background(), ts.MkAbs(args[0]), organisations, of(ts).now()))
}

// sql FILE STATEMENT|@FILE: executes a statement and prints its rows, the columns with bars between them; or what is in a file.
func runSQL(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, !neg && len(args) == 2, "sql FILE STATEMENT|@FILE")
	db, err := sql.Open("sqlite3", ts.MkAbs(args[0]))
	ts.Check(err)
	defer db.Close()
	if file, ok := strings.CutPrefix(args[1], "@"); ok {
		db.SetMaxOpenConns(1) // whose pragmas hold for what follows
		_, err := db.Exec(ts.ReadFile(file))
		ts.Check(err)
		return
	}
	rows, err := db.Query(args[1])
	ts.Check(err)
	defer rows.Close()
	columns, err := rows.Columns()
	ts.Check(err)
	for rows.Next() {
		texts := make([]sql.NullString, len(columns))
		targets := make([]any, len(columns))
		for i := range texts {
			targets[i] = &texts[i]
		}
		ts.Check(rows.Scan(targets...))
		for i, text := range texts {
			if i > 0 {
				fmt.Fprint(ts.Stdout(), "|")
			}
			// The driver makes a time of what is in a DATE column.
			fmt.Fprint(ts.Stdout(), strings.TrimSuffix(text.String, "T00:00:00Z"))
		}
		fmt.Fprintln(ts.Stdout())
	}
	ts.Check(rows.Err())
}

// digest covers a database and its write-ahead log.
func digest(ts *testscript.TestScript, file string) [32]byte {
	text := ts.ReadFile(file)
	if log, err := os.ReadFile(ts.MkAbs(file) + "-wal"); err == nil {
		text += string(log)
	}
	return sha256.Sum256([]byte(text))
}

// snapshot FILE: remembers each byte of a file.
func snapshot(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, !neg && len(args) == 1, "snapshot FILE")
	of(ts).snapshots[args[0]] = digest(ts, args[0])
}

// unchanged FILE: each byte is as it was at the snapshot.
func unchanged(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, len(args) == 1, "unchanged FILE")
	if same := of(ts).snapshots[args[0]] == digest(ts, args[0]); same == neg {
		ts.Fatalf("%s: same bytes: %v", args[0], same)
	}
}

// hold-lock FILE: another pass holds a lock.
func holdLock(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, !neg && len(args) == 1, "hold-lock FILE")
	lock, err := job.Acquire(context.Background(), ts.MkAbs(args[0]), 0)
	ts.Check(err)
	of(ts).locks[args[0]] = lock
	ts.Defer(func() { _ = lock.Release() })
}

// release-lock FILE: the other pass has ended.
func releaseLock(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, !neg && len(args) == 1 && of(ts).locks[args[0]] != nil, "release-lock FILE")
	ts.Check(of(ts).locks[args[0]].Release())
}

// hold-db FILE: another program is in the middle of a write.
func holdDatabase(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, !neg && len(args) == 1, "hold-db FILE")
	db, err := sql.Open("sqlite3", ts.MkAbs(args[0]))
	ts.Check(err)
	db.SetMaxOpenConns(1)
	_, err = db.Exec("begin immediate")
	ts.Check(err)
	of(ts).held = sync.OnceFunc(func() {
		_, _ = db.Exec("rollback")
		_ = db.Close()
	})
	ts.Defer(of(ts).held)
}

// release-db: the other program's write has ended.
func releaseDatabase(ts *testscript.TestScript, _ bool, _ []string) { of(ts).held() }

// request METHOD PATH [HEADER...] [@BODY]: writes an HTTP request into the file named request, for standard input. The path
// is one below the guide's prefix, and a body is JSON.
func writeRequest(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, !neg && len(args) >= 2, "request METHOD PATH [HEADER...] [@BODY]")
	var text strings.Builder
	fmt.Fprintf(&text, "%s %s%s HTTP/1.1\r\nHost: usage.example\r\n", args[0], httpapi.Prefix, args[1])
	body := ""
	for _, arg := range args[2:] {
		if file, ok := strings.CutPrefix(arg, "@"); ok {
			body = ts.ReadFile(file)
			fmt.Fprintf(&text, "Content-Type: application/json\r\nContent-Length: %d\r\n", len(body))
			continue
		}
		fmt.Fprintf(&text, "%s\r\n", arg)
	}
	ts.Check(os.WriteFile(ts.MkAbs("request"), []byte(text.String()+"\r\n"+body), 0o600))
}
