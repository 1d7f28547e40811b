package store

import (
	"database/sql"
	"path/filepath"
	"reflect"
	"testing"
	"time"
)

var tallyStart = time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)

func newTallied(t *testing.T) *Store {
	t.Helper()
	path := filepath.Join(t.TempDir(), "webui.db")
	if err := CreateDemo(t.Context(), path, nil, tallyStart); err != nil {
		t.Fatal(err)
	}
	return open(t, path, ReadWrite)
}

func finish(t *testing.T, s *Store, runs ...Run) {
	t.Helper()
	for _, r := range runs {
		if r.OrganisationID == "" {
			r.OrganisationID = "acme"
		}
		r.StartedAt = r.EndedAt
		if err := s.FinishRun(t.Context(), r, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
}

func wantTally(t *testing.T, s *Store, want Tally) {
	t.Helper()
	got, err := s.Tally(t.Context(), "acme")
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v\n got %+v\nwant %+v", err, got, want)
	}
}

func TestTally(t *testing.T) {
	at := func(hours int) time.Time { return tallyStart.Add(time.Duration(hours) * time.Hour) }
	t.Run("adds up", func(t *testing.T) {
		s := newTallied(t)
		finish(t, s,
			Run{EndedAt: at(0), Recorded: 5, Duplicates: 1, Statuses: map[string]int64{"200": 2, "429": 1}, Retries: 1},
			Run{EndedAt: at(1), Recorded: 2, Updated: 3, Refused: 1, ExitCode: 65, Failure: "untrusted_answer", Statuses: map[string]int64{"200": 1}},
			Run{EndedAt: at(2), ExitCode: 77, Failure: "key_refused", Statuses: map[string]int64{"401": 1}},
			Run{EndedAt: at(2), ExitCode: 77, Failure: "key_refused", OrganisationID: "another"},
			Run{EndedAt: at(3), Recorded: 9, Source: "manual"}, Run{EndedAt: at(3), Updated: 9, Source: SourceRates})
		want := Tally{Passes: map[string]int64{"0": 1, "65": 1, "77": 1},
			Generations: map[string]int64{ResultRecorded: 7, ResultUpdated: 3, ResultDuplicate: 1, ResultRefused: 1},
			Requests:    map[string]int64{"200": 3, "401": 1, "429": 1}, Retries: 1,
			Books: map[string]int64{}, Failures: 2, Failure: "key_refused", LastSuccess: at(0)}
		wantTally(t, s, want)

		finish(t, s, Run{EndedAt: at(4)})
		want.Passes["0"], want.Failures, want.Failure, want.LastSuccess = 2, 0, "", at(4)
		wantTally(t, s, want)
	})
	t.Run("outlives the history", func(t *testing.T) {
		s := newTallied(t)
		finish(t, s, Run{StartedAt: at(0), EndedAt: at(0), Recorded: 5})
		before, err := s.Tally(t.Context(), "acme")
		if err != nil {
			t.Fatal(err)
		}
		later := tallyStart.Add(2 * keepRuns)
		finish(t, s, Run{StartedAt: later, EndedAt: later, ExitCode: 69, Failure: "unreachable"})
		covered := &Progress{After: State{CoveredTo: later}}
		if err := s.FinishRun(t.Context(), Run{OrganisationID: "globex", EndedAt: later}, &Organisation{ID: "globex", Zone: time.UTC}, covered); err != nil {
			t.Fatal(err)
		}
		runs, err := s.Runs(t.Context(), RunFilter{Limit: 9})
		if err != nil || len(runs) != 2 {
			t.Fatalf("%d runs are left, want 2; %v", len(runs), err)
		}
		before.Passes["69"], before.Failures, before.Failure = 1, 1, "unreachable"
		wantTally(t, s, before)
	})
	t.Run("knows a history that is older than itself", func(t *testing.T) {
		s := newTallied(t)
		finish(t, s, Run{EndedAt: at(0)}, Run{EndedAt: at(1), ExitCode: 69}, Run{EndedAt: at(2), Source: "manual"})
		if err := s.write(t.Context(), func(q querier) error {
			_, err := q.ExecContext(t.Context(), `drop table usage_sync_totals`)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		wantTally(t, open(t, s.path, ReadOnly), Tally{Passes: map[string]int64{}, Generations: map[string]int64{},
			Requests: map[string]int64{}, Books: map[string]int64{}, LastSuccess: at(0)})
		if err := s.EnsureOwnTables(t.Context()); err != nil {
			t.Fatal(err)
		}
		finish(t, s, Run{EndedAt: at(3), ExitCode: 69, Failure: "unreachable"})
		if got, err := s.Tally(t.Context(), "acme"); err != nil || !got.LastSuccess.Equal(at(0)) || got.Failures != 1 {
			t.Errorf("%+v %v", got, err)
		}
	})
	t.Run("of a database that no pass has met", func(t *testing.T) {
		s := open(t, newFile(t), ReadOnly)
		wantTally(t, s, Tally{Passes: map[string]int64{}, Generations: map[string]int64{}, Requests: map[string]int64{}, Books: map[string]int64{}})
		if rows, err := s.LedgerRows(t.Context()); rows != 0 || err != nil {
			t.Errorf("%d rows, %v", rows, err)
		}
	})
}

// TestLockWaits: a wait for the lock is measured, also one that was in vain.
func TestLockWaits(t *testing.T) {
	s := newTallied(t)
	db, err := sql.Open("sqlite3", s.path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	const held = 100 * time.Millisecond
	for try := 1; ; try++ {
		if _, err := db.Exec("begin immediate"); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(held, func() { _, _ = db.Exec("rollback") })
		finish(t, s, Run{})
		waits, times := s.LockWaits(), s.LockTimes()
		if len(waits) != try || len(times) != try {
			t.Fatalf("%d waits and %d times of %d transactions", len(waits), len(times), try)
		}
		wait, hold := waits[try-1], times[try-1]
		if wait < held/2 && try < 20 {
			continue // a loaded machine began to wait when the lock was nearly free
		}
		if wait < held/2 {
			t.Errorf("waited %s, want about %s", wait, held)
		}
		if hold >= wait {
			t.Errorf("held for %s: the wait of %s is in it", hold, wait)
		}
		return
	}
}

// TestLedgerRows: a restore removes rows of the ledger that came before others.
func TestLedgerRows(t *testing.T) {
	path := newFile(t)
	s := open(t, path, ReadWrite)
	if _, err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	application(t, path, "insert into processed_generations values ('a', 'acme', '2026-01-01', 1, 0.1, 1)",
		"insert into processed_generations values ('b', 'acme', '2026-01-01', 1, 0.1, 1)",
		"delete from processed_generations where id = 'a'")
	if rows, err := s.LedgerRows(t.Context()); err != nil || rows != 1 {
		t.Errorf("%d rows, %v; want 1", rows, err)
	}
}
