package integration_test

import (
	"flag"
	"fmt"
	"net/http/httptest"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"usage-sync/job/openrouter/standin"
)

var (
	other    = flag.String("other", "", "a `binary` for another architecture, whose passes must make the same tables")
	emulator = flag.String("emulator", "", "the `program` that runs it")
)

// TestOtherArchitecture makes the same passes with this machine's binary and with one for another architecture: tables and
// statements are equal to the bit.
func TestOtherArchitecture(t *testing.T) {
	if *other == "" {
		t.Skip("make test-arm64 runs it")
	}
	api := standin.NewGateway(func() time.Time { return now })
	api.AddKey(key, "Acme GmbH")
	api.Add(key, generations(3000, 17)...)
	server := httptest.NewServer(api)
	t.Cleanup(server.Close)
	pass := func(command ...string) (tables, statement string) {
		t.Helper()
		path := newDatabase(t, "WAL")
		invoke := func(args ...string) string {
			t.Helper()
			args = slices.Concat(command, args, []string{"--db", path})
			cmd := exec.Command(args[0], args[1:]...)
			cmd.Env = []string{"OPENROUTER_BASE_URL=" + server.URL + "/api/v1", "USAGE_SYNC_NOW=" + now.Format(time.RFC3339)}
			output, err := cmd.Output()
			if err != nil {
				t.Fatalf("%v: %v", args, err)
			}
			return string(output)
		}
		invoke("sync")
		statement = invoke("report", "--month", now.Format("2006-01"), "--format", "csv")
		return dump(t, path), statement
	}
	ours, ourStatement := pass(command)
	theirs, theirStatement := pass(append(strings.Fields(*emulator), *other)...)
	if ours != theirs || !strings.Contains(ours, organisation) {
		t.Errorf("tables differ:\n%s\n%s", ours, theirs)
	}
	if ourStatement != theirStatement || len(ourStatement) < 100 {
		t.Errorf("statements differ:\n%s\n%s", ourStatement, theirStatement)
	}
}

// dump is every row of the usage tables, numbers with all their digits.
func dump(t *testing.T, path string) string {
	t.Helper()
	db := mustOpen(t, path)
	var out strings.Builder
	for _, table := range []string{"client_daily_usage", "client_model_daily_usage", "client_user_daily_usage",
		"client_live_counters", "processed_generations", "usage_sync_generations", "usage_sync_state"} {
		columns := value[string](t, db, `select group_concat('quote("' || name || '")', ' || ''|'' || ') from pragma_table_info(?)`, table)
		rows := value[string](t, db, `select coalesce(group_concat(line, char(10)), '') from (select `+columns+` as line from "`+table+`" order by 1)`)
		fmt.Fprintf(&out, "%s\n%s\n", table, rows)
	}
	return out.String()
}
