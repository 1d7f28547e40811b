package integration_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"usage-sync/job/openrouter/standin"
)

// lastWrite is when the old sync of these tests has last written; it has counted each generation up to then twice.
var lastWrite = now.Add(-2 * time.Hour)

// oldSyncDatabase is a database that the old sync has left: its rows name no model and no user, and nothing is in a ledger.
func oldSyncDatabase(t *testing.T, journal string, all []standin.Generation) (path string) {
	t.Helper()
	path = newDatabase(t, journal)
	var counted []standin.Generation
	for _, g := range all {
		if !g.CreatedAt.After(lastWrite) {
			counted = append(counted, g)
		}
	}
	db := mustOpen(t, path)
	for day, sum := range truth(counted).Days {
		written := min(lastWrite.Unix(), dayOf(t, day).Add(24*time.Hour-time.Second).Unix())
		values := []any{day, 2 * sum.Tokens, 2 * sum.Requests, float64(2*sum.Raw) / 1e12, float64(2*sum.Markup) / 1e12, written,
			organisation}
		exec1(t, db, `insert into client_user_daily_usage values (?7 || ':background_sync:' || ?1, ?7, 'background_sync',
			'bg_sync_' || ?7, ?1, ?2, ?3, ?4, ?5, ?6, ?6)`, values...)
		exec1(t, db, `insert into client_daily_usage values (?7 || '_' || ?1, ?7, ?1, ?2, ?3, ?4, ?5, 'x', 1, ?6, ?6)`, values...)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func dayOf(t *testing.T, day string) time.Time {
	t.Helper()
	at, err := time.Parse(time.DateOnly, day)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// takeoverOut is what takeover --json prints of an organisation, as far as it matters here.
type takeoverOut struct {
	Organizations []struct {
		Status string
		Days   []struct {
			Date string
			Bill map[string]struct{ Requests int64 }
		}
	}
}

// promised returns what the table of takeover promises of each day for an answer, in requests.
func promised(t *testing.T, path, url, answer string, args ...string) (days map[string]int64, status string) {
	t.Helper()
	c := newChild(path, url, append([]string{"takeover", "--json"}, args...)...)
	_ = c.Run()
	var out takeoverOut
	if err := json.Unmarshal([]byte(c.stdout.String()), &out); err != nil || len(out.Organizations) != 1 {
		t.Fatalf("takeover --json: %v\n%s%s", err, &c.stdout, &c.stderr)
	}
	days = map[string]int64{}
	for _, day := range out.Organizations[0].Days {
		days[day.Date] = day.Bill[answer].Requests
	}
	return days, out.Organizations[0].Status
}

// TestTakeoverKilledAtRandomMoments: an answer that is killed has changed everything or nothing, and the next run makes of
// the bill what was promised.
func TestTakeoverKilledAtRandomMoments(t *testing.T) {
	kills, count := 3, 1000
	if *long {
		kills, count = 300, 3000
	}
	all := generations(count, 7)
	api := newGateway(t, 1000, all)
	tests := []struct {
		name   string
		first  []string // answered before
		args   []string
		answer string // whose bill comes about
	}{
		{"replace", nil, []string{"takeover", "--replace", "--yes"}, "replace"},
		{"adopt", nil, []string{"takeover", "--adopt", "--yes"}, "adopt"},
		{"none", nil, []string{"takeover", "--none", "--yes"}, "none"},
		{"again", []string{"takeover", "--none", "--yes"}, []string{"takeover", "--again", "--replace", "--yes"}, "replace"},
		{"undo", []string{"takeover", "--replace", "--yes"}, []string{"takeover", "--undo", "--yes"}, ""},
		{"in a pass", nil, []string{"sync", "--replace"}, "replace"},
	}
	bothJournals(t, func(t *testing.T, journal string) {
		fresh := oldSyncDatabase(t, journal, all)
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				template := copyOf(t, fresh)
				if test.first != nil {
					run(t, 0, template, api.url, test.first...)
				}
				before := readTables(t, template)
				undisturbed := copyOf(t, template)
				var promise map[string]int64
				if test.answer != "" {
					again := slices.DeleteFunc(slices.Clone(test.args), func(arg string) bool { return arg != "--again" })
					promise, _ = promised(t, copyOf(t, template), api.url, test.answer, again...)
				}
				start := time.Now()
				run(t, 0, undisturbed, api.url, test.args...)
				whole := time.Since(start)
				after := readTables(t, undisturbed)
				if test.answer == "" {
					if want := readTables(t, fresh); !reflect.DeepEqual(after, want) {
						t.Fatalf("undone: got %v, want %v", after, want)
					}
				}
				for day, want := range promise {
					if got := after.Days[day].Requests; got != want {
						t.Errorf("%s: %d requests, promised %d", day, got, want)
					}
				}
				seed := uint64(time.Now().UnixNano())
				t.Logf("seed %d; undisturbed it takes %s", seed, whole)
				random := rand.New(rand.NewPCG(seed, 0))
				for killed := 0; killed < kills; {
					path := copyOf(t, template)
					c := newChild(path, api.url, test.args...)
					// Its backup has another name than that of the run that follows it.
					c.Env = append(c.Env, "USAGE_SYNC_NOW="+now.Add(-time.Second).Format(time.RFC3339))
					c.start(t)
					timer := time.AfterFunc(time.Duration(random.Int64N(int64(whole))), func() { _ = c.Process.Kill() })
					_ = c.Wait()
					timer.Stop()
					if !c.ProcessState.Sys().(syscall.WaitStatus).Signaled() {
						continue
					}
					killed++
					got := readTables(t, path)
					done := reflect.DeepEqual(got, after)
					if !done && !reflect.DeepEqual(got, before) {
						t.Fatalf("after a kill: got %v, want %v or %v", got, before, after)
					}
					checkSound(t, path)
					finishKilled(t, path, api.url, test.args, done)
					if got := readTables(t, path); !reflect.DeepEqual(got, after) {
						t.Fatalf("after the next run: got %v, want %v", got, after)
					}
					wantNoPartial(t, path)
					if err := os.Remove(path); err != nil {
						t.Fatal(err)
					}
				}
			})
		}
	})
}

// finishKilled makes the run that follows a killed one.
func finishKilled(t *testing.T, path, url string, args []string, done bool) {
	t.Helper()
	undo, again := slices.Contains(args, "--undo"), slices.Contains(args, "--again")
	_, status := promised(t, copyOf(t, path), url, "")
	switch {
	case args[0] == "sync": // the answer may have been stored before it was carried out
		if c := newChild(path, url, "sync"); c.Run() != nil {
			if done || c.ProcessState.ExitCode() != 78 {
				t.Fatalf("the next pass exits %d\n%s", c.ProcessState.ExitCode(), &c.stderr)
			}
			run(t, 0, path, url, args...)
		}
	case undo && done:
		run(t, 64, path, url, args...) // there is nothing to take back
	case undo || again:
		run(t, 0, path, url, args...)
	case done:
		if status != "none" {
			t.Fatalf("decided, and it is still %s", status)
		}
		run(t, 0, path, url, "sync")
	default:
		if status != "open" {
			t.Fatalf("not decided, and it is %s", status)
		}
		run(t, 78, path, url, "sync")
		run(t, 0, path, url, args...)
	}
}

// wantNoPartial fails where a killed backup is left behind by the answer that came after it.
func wantNoPartial(t *testing.T, path string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".partial") {
			t.Errorf("%s is left", e.Name())
		}
	}
}

// fixture is a database that a script of testdata makes: what an earlier version has left. The old sync had counted each
// generation twice, until 13:00.
func fixture(t *testing.T, name string) (path string) {
	t.Helper()
	script, err := os.ReadFile(filepath.Join("testdata", name+".sql"))
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "webui.db")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	db := mustOpen(t, path)
	exec1(t, db, string(script))
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestTakeoverOfAnEarlierVersion: what an earlier version has begun is brought to its end, also where that is killed at any
// moment, and what it has decided can be decided again and taken back.
func TestTakeoverOfAnEarlierVersion(t *testing.T) {
	var all []standin.Generation
	for i := range 24 {
		all = append(all, standin.Generation{ID: fmt.Sprintf("gen-%02d", i), CreatedAt: now.Add(-time.Duration(i)*90*time.Minute - time.Minute),
			Model: "openai/gpt-4o", PromptTokens: 60, CompletionTokens: 40, Cost: "0.010000000000"})
	}
	api := newGateway(t, 5, all)
	type bill struct{ yesterday, today int64 }
	adopted, counted, replaced := bill{28, 18}, bill{42, 26}, bill{14, 10}
	wantBill := func(t *testing.T, path string, want bill) {
		t.Helper()
		days := readTables(t, path).Days
		if got := (bill{days["2025-11-11"].Requests, days["2025-11-12"].Requests}); got != want || len(days) != 2 {
			t.Fatalf("got %v, want %v", days, want)
		}
	}
	for _, test := range []struct {
		name string
		want bill
	}{
		{"takeover_under_way", adopted}, // killed between two transactions
		{"takeover_answered", adopted},  // killed before it was carried out
		{"takeover_adopted", adopted},
		{"takeover_counted", counted},
	} {
		t.Run(test.name, func(t *testing.T) {
			template := fixture(t, test.name)
			path := copyOf(t, template)
			start := time.Now()
			run(t, 0, path, api.url, "sync")
			whole := time.Since(start)
			wantBill(t, path, test.want)
			for range 5 {
				killed := copyOf(t, template)
				c := newChild(killed, api.url, "sync")
				c.start(t)
				timer := time.AfterFunc(rand.N(whole), func() { _ = c.Process.Kill() })
				_ = c.Wait()
				timer.Stop()
				run(t, 0, killed, api.url, "sync")
				wantBill(t, killed, test.want)
			}
			run(t, 0, path, api.url, "takeover", "--again", "--replace", "--yes")
			wantBill(t, path, replaced)
			run(t, 0, path, api.url, "takeover", "--again", "--none", "--yes")
			wantBill(t, path, counted)
			until := lastWrite.Format(time.RFC3339)
			args := []string{"takeover", "--again", "--adopt", "--yes"}
			if test.name == "takeover_counted" { // it has not kept when others last wrote
				args = append(args, "--adopt-until", until)
			}
			run(t, 0, path, api.url, args...)
			wantBill(t, path, adopted)
			run(t, 0, path, api.url, "sync", "--full")
			wantBill(t, path, adopted)
			run(t, 0, path, api.url, "takeover", "--undo", "--yes")
			wantBill(t, path, bill{28, 16})
			run(t, 78, path, api.url, "sync")
			run(t, 0, path, api.url, "takeover", "--replace", "--yes")
			wantBill(t, path, replaced)
			run(t, 0, path, api.url, "sync", "--full")
			wantBill(t, path, replaced)
		})
	}
}
