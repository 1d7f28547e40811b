package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"sync"

	"github.com/rogpeppe/go-internal/testscript"
)

// mode OCTAL FILE: the file has that very mode.
func fileMode(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, !neg && len(args) == 2, "mode OCTAL FILE")
	info, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := fmt.Sprintf("%04o", info.Mode().Perm()); got != args[0] {
		ts.Fatalf("%s has mode %s, want %s", args[1], got, args[0])
	}
}

// measured are the metrics that no clock of a script rules, and the space of this machine.
var measured = regexp.MustCompile(`(?m)^(usage_sync_(?:org_last_phase_duration|write_lock_wait_max|write_lock_held_max)_seconds|` +
	`usage_sync_database(?:_filesystem_avail|_filesystem_size|_size)_bytes)(\{.*\}) [0-9.e+-]+$`)

// What each build has of its own.
var (
	build      = regexp.MustCompile(`(goversion|version)="[^"]*"`)
	ownVersion = regexp.MustCompile(`(?m)^usage-sync [^:]+: exit`)
)

// metrics FILE [NAME]: prints a metrics file, or the lines of the metrics that start so. What is measured reads MEASURED.
func printMetrics(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, !neg && (len(args) == 1 || len(args) == 2), "metrics FILE [NAME]")
	text := measured.ReplaceAllString(ts.ReadFile(args[0]), "$1$2 MEASURED")
	text = build.ReplaceAllString(text, `$1="…"`)
	for line := range strings.Lines(text) {
		if len(args) == 1 || strings.HasPrefix(line, args[1]) {
			fmt.Fprint(ts.Stdout(), line)
		}
	}
}

// healthCheck is a service that is pinged.
type healthCheck struct {
	mu    sync.Mutex
	pings []string
	ids   map[string]int
	trap  func(http.ResponseWriter, *http.Request) bool // answers in the service's place
}

func (h *healthCheck) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ids[r.URL.Query().Get("rid")]++
	h.pings = append(h.pings, fmt.Sprintf("%s %s\n%s", r.Method, r.URL.Path, body))
	if h.trap != nil && h.trap(w, r) {
		return
	}
	fmt.Fprint(w, "OK")
}

// health-check [STATUS]: starts a service that is pinged, USAGE_SYNC_PING_URL. With a status it always answers that, and
// with hang never.
func startHealthCheck(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, !neg && len(args) <= 1, "health-check [STATUS|hang]")
	check := &healthCheck{ids: map[string]int{}}
	if len(args) == 1 {
		check.trap = func(w http.ResponseWriter, r *http.Request) bool {
			status := 0
			if _, err := fmt.Sscan(args[0], &status); err == nil {
				w.WriteHeader(status)
				return true
			}
			<-r.Context().Done()
			return true
		}
	}
	of(ts).checks = check
	server := httptest.NewServer(check)
	ts.Defer(func() {
		server.CloseClientConnections()
		server.Close()
	})
	ts.Setenv("USAGE_SYNC_PING_URL", server.URL+"/5bf66975-d4c7-4bf5-bcc8-b8d8a82ea278")
}

// pings: prints the pings since this was last asked, bodies behind their paths. Those of a run have one id.
func printPings(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, !neg && len(args) == 0, "pings")
	check := of(ts).checks
	check.mu.Lock()
	defer check.mu.Unlock()
	for id, count := range check.ids {
		if id == "" || count != 2 {
			fmt.Fprintf(ts.Stdout(), "%d pings of the run %q\n", count, id)
		}
	}
	fmt.Fprintln(ts.Stdout(), ownVersion.ReplaceAllString(strings.Join(check.pings, "\n"), "usage-sync …: exit"))
	check.pings, check.ids = nil, map[string]int{}
}
