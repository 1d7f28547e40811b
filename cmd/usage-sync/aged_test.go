package main

import (
	"encoding/json"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"usage-sync/job/openrouter/standin"
	"usage-sync/store/aged"
)

// watched is the program, which writes what its statements have cost to a file that is named in its environment.
func watched() {
	file, err := os.Create(os.Getenv("STATEMENTS"))
	if err == nil {
		err = aged.Watch()
	}
	if err != nil {
		panic(err)
	}
	code := run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	if err := json.NewEncoder(file).Encode(aged.Statements()); err != nil {
		panic(err)
	}
	os.Exit(code)
}

// TestAged holds the work of each command in a database of a year against a budget: steps of SQLite's virtual
// machine, which are the same on every machine, and rows of tables that are read from one end to the other.
func TestAged(t *testing.T) {
	now := time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)
	path := filepath.Join(t.TempDir(), "webui.db")
	if err := aged.Year(t.Context(), path, now); err != nil {
		t.Fatal(err)
	}
	api := standin.NewGateway(func() time.Time { return now })
	for i := range aged.Organisations {
		api.AddKey(aged.Key(i), aged.ID(i))
	}
	server := httptest.NewServer(api)
	defer server.Close()
	many, one, idle := aged.ID(0), aged.ID(1), aged.ID(aged.Organisations-1)
	const few = 1_000 // rows: as many as there may be of organisations, tables and gaps
	tests := []struct {
		command        string
		steps, scanned int64
	}{
		{"sync --org " + one, 100_000, 2 * few},
		{"sync --org " + many, 3_000_000, 2 * few}, // its tables have no index by day: passes hop from user to user
		{"status --org " + one, 20_000, few},
		{"status --org " + idle, 20_000, few},
		{"status", 600_000, few},
		{"history", 20_000, few},
		{"history --failed", 400_000, aged.Runs + few}, // failures are few, and in no index
		{"history --org " + idle, 20_000, few},
		{"usage --org " + one, 20_000, few},
		{"usage --org " + many, 2_000_000, few}, // it shows each user of this month
		{"report --month 2026-02 --org " + one, 45_000, few},
		{"report --month 2026-02 --org " + many, 6_000_000, few}, // of 10,000 users and 400 models
		{"gaps --org " + one, 20_000, few},
		{"rates --org " + one, 15_000, few},
		{"doctor --org " + one, 30_000_000, aged.Runs + 2*few}, // it reads the file from one end to the other
		{"record --org " + one + " --model lab/model-000 --tokens 10 --cost 0.1", 25_000, few},
		{"migrate --check", 6_000, few},
	}
	for _, test := range tests {
		t.Run(test.command, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "statements")
			c := exec.Command("usage-sync-watched", strings.Fields(test.command)...)
			c.Env = append(os.Environ(), "STATEMENTS="+file, "USAGE_SYNC_DB="+path, "OPENROUTER_BASE_URL="+server.URL+"/api/v1",
				"USAGE_SYNC_NOW="+now.Format(time.RFC3339))
			out, _ := c.CombinedOutput()
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			var statements []aged.Statement
			if err := json.Unmarshal(text, &statements); err != nil {
				t.Fatal(err)
			}
			var steps, scanned int64
			for _, s := range statements {
				steps, scanned = steps+s.Steps, scanned+s.Scanned
			}
			if code := c.ProcessState.ExitCode(); code > 3 || len(statements) == 0 { // 3: one without runs is UNKNOWN
				t.Fatalf("%d\n%s", code, out)
			}
			t.Logf("%d steps, %d rows scanned", steps, scanned)
			if steps > test.steps || scanned > test.scanned {
				t.Errorf("%d steps and %d rows scanned, more than %d and %d; the most expensive statements:\n%v\n%v\n%v",
					steps, scanned, test.steps, test.scanned, statements[0], statements[1], statements[2])
			}
		})
	}
}
