package store

import (
	"context"
	"database/sql"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// newFile makes an empty database by other means than ours.
func newFile(t *testing.T, statements ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "webui.db")
	db, err := sql.Open("sqlite3", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, statement := range append([]string{"create table chat (id text)"}, statements...) {
		if _, err := db.Exec(statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	return path
}

func open(t *testing.T, path string, mode Mode) *Store {
	t.Helper()
	s, err := Open(t.Context(), path, mode)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func query[T any](t *testing.T, s *Store, statement string, args ...any) (values []T) {
	t.Helper()
	err := s.read(t.Context(), func(q querier) (err error) {
		values, err = collect(t.Context(), q, func(scan func(...any) error) (v T, err error) { return v, scan(&v) }, statement, args...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return values
}

func TestMigrate(t *testing.T) {
	t.Run("OK", func(t *testing.T) {
		s := open(t, newFile(t), ReadWrite)
		if err := s.CheckSchema(t.Context()); err == nil {
			t.Fatal("no tables, and nobody minds")
		}
		created, err := s.Migrate(t.Context())
		if err != nil || len(created) != len(guideTables)+len(ownTables) {
			t.Fatalf("created %v, %v", created, err)
		}
		if err := s.CheckSchema(t.Context()); err != nil {
			t.Fatal(err)
		}
		again, err := s.Migrate(t.Context())
		if err != nil || len(again) != 0 {
			t.Fatalf("again: created %v, %v", again, err)
		}
		// Operators read rows by position.
		got := query[string](t, s, `select name from pragma_table_info('client_live_counters')`)
		want := []string{"client_org_id", "current_date", "today_tokens", "today_requests", "today_raw_cost", "today_markup_cost", "last_updated"}
		if !slices.Equal(got, want) {
			t.Errorf("live counters: %v", got)
		}
		if n := query[int](t, s, `select count(*) from pragma_index_list('client_user_daily_usage') where origin = 'c'`)[0]; n != 2 {
			t.Errorf("%d indexes on client_user_daily_usage", n)
		}
	})
	t.Run("a table of another shape", func(t *testing.T) {
		s := open(t, newFile(t, `create table client_daily_usage (id text primary key, day text)`), ReadWrite)
		_, err := s.Migrate(t.Context())
		var schemaErr *SchemaError
		if !errors.As(err, &schemaErr) || !slices.Contains(schemaErr.Lacking["client_daily_usage"], "usage_date") {
			t.Fatal(err)
		}
		if n := query[int](t, s, `select count(*) from sqlite_master where name like 'client%' or name like 'usage_sync%'`)[0]; n != 1 {
			t.Errorf("%d tables: something was made", n)
		}
	})
	t.Run("an index name that another table has", func(t *testing.T) {
		s := open(t, newFile(t, `create index idx_client_date on chat (id)`), ReadWrite)
		if _, err := s.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := query[string](t, s, `select name from pragma_index_list('client_daily_usage') where origin = 'c' order by name`); !slices.Equal(got, []string{"idx_usage_date", "usage_sync_idx_client_date"}) {
			t.Errorf("indexes: %v", got)
		}
	})
	t.Run("an index under another name", func(t *testing.T) {
		s := open(t, newFile(t, `create table user_client_mapping (id text primary key, user_id text, client_org_id text,
			openrouter_user_id text, is_active integer, created_at integer, updated_at integer)`,
			`create index mine on user_client_mapping (user_id)`), ReadWrite)
		if _, err := s.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := query[string](t, s, `select name from pragma_index_list('user_client_mapping') where origin = 'c' order by name`); !slices.Equal(got, []string{"idx_client_org_id", "idx_openrouter_user_id", "mine"}) {
			t.Errorf("indexes: %v", got)
		}
	})
}

// A column of others is no concern of ours, unless an insert would have to fill it.
// TestLaterColumns: a table of an earlier version is read as it is, and gets its new columns before it is written.
func TestLaterColumns(t *testing.T) {
	path := newFile(t, `create table usage_sync_state (client_org_id TEXT NOT NULL PRIMARY KEY, covered_from INTEGER, covered_to INTEGER,
		full_day TEXT, takeover TEXT, takeover_until INTEGER, updated_at INTEGER NOT NULL)`,
		`insert into usage_sync_state values ('acme', 1000, 2000, '2026-03-10', 'adopt', 1500, 1)`)
	want := State{CoveredFrom: time.Unix(1000, 0).UTC(), CoveredTo: time.Unix(2000, 0).UTC(), FullDay: "2026-03-10",
		Takeover: TakeoverAdopt, TakeoverUntil: time.Unix(1500, 0).UTC()}
	if st, err := open(t, path, ReadOnly).State(t.Context(), "acme"); err != nil || st != want {
		t.Errorf("before: %+v, %v", st, err)
	}
	s := open(t, path, ReadWrite)
	if missing, err := s.CheckOwnTables(t.Context()); err != nil || slices.Contains(missing, "usage_sync_state") {
		t.Errorf("missing %v, %v", missing, err)
	}
	for range 2 {
		if err := s.EnsureOwnTables(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	want.TakeoverFrom, want.Clock = time.Unix(1200, 0).UTC(), time.Unix(3000, 0).UTC()
	if err := s.SetState(t.Context(), "acme", want, time.Unix(3000, 0)); err != nil {
		t.Fatal(err)
	}
	if st, err := s.State(t.Context(), "acme"); err != nil || st != want {
		t.Errorf("after: %+v, %v", st, err)
	}
}

func TestCheckSchemaForeignColumns(t *testing.T) {
	path := newFile(t)
	if _, err := open(t, path, ReadWrite).Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := open(t, path, ReadWrite)
	for _, test := range []struct {
		alter string
		want  string
	}{
		{`alter table client_daily_usage add column region text`, ""},
		{`alter table client_daily_usage add column tier text not null default 'x'`, ""},
		{`create table other as select 1`, ""},
	} {
		if _, err := s.db.Exec(test.alter); err != nil {
			t.Fatal(err)
		}
		if err := s.CheckSchema(t.Context()); err != nil {
			t.Errorf("%s: %v", test.alter, err)
		}
	}
	for _, statement := range []string{`drop table client_live_counters`,
		`create table client_live_counters (client_org_id text primary key, "current_date" date, today_tokens, today_requests,
			today_raw_cost, today_markup_cost, last_updated, region text not null)`} {
		if _, err := s.db.Exec(statement); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.CheckSchema(t.Context()); err == nil || !strings.Contains(err.Error(), "region") {
		t.Errorf("a column that must be given: %v", err)
	}
}

func TestOpen(t *testing.T) {
	ctx := t.Context()
	dir := t.TempDir()
	missing := filepath.Join(dir, "missing.db")
	for _, mode := range []Mode{ReadOnly, ReadWrite} {
		if _, err := Open(ctx, missing, mode); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("missing: %v", err)
		}
		if _, err := os.Stat(missing); err == nil {
			t.Fatal("the file was made")
		}
		if _, err := Open(ctx, dir, mode); err == nil {
			t.Error("a directory was opened")
		}
		other := filepath.Join(dir, "other.db")
		if err := os.WriteFile(other, []byte(strings.Repeat("this is no database. ", 100)), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(ctx, other, mode); !errors.Is(err, ErrNotDatabase) {
			t.Errorf("no database: %v", err)
		}
	}
	// Characters that mean something in a URI are just characters of a name.
	odd := filepath.Join(dir, "a b?c#d%41&mode=memory.db")
	if err := os.Rename(newFile(t), odd); err != nil {
		t.Fatal(err)
	}
	s := open(t, odd, ReadWrite)
	if _, err := s.Migrate(ctx); err != nil {
		t.Fatal(err)
	}
	if entries, _ := filepath.Glob(filepath.Join(dir, "*")); len(entries) != 2 {
		t.Errorf("files: %v", entries)
	}
}

// A transaction of the application is waited for, and an end of the wait is honoured at once.
func TestBusy(t *testing.T) {
	path := newFile(t)
	s := open(t, path, ReadWrite)
	if _, err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	application, err := sql.Open("sqlite3", path)
	if err != nil {
		t.Fatal(err)
	}
	defer application.Close()
	application.SetMaxOpenConns(1)
	hold := func() {
		if _, err := application.Exec("begin immediate"); err != nil {
			t.Fatal(err)
		}
	}
	release := func() {
		if _, err := application.Exec("commit"); err != nil {
			t.Fatal(err)
		}
	}
	hold()
	time.AfterFunc(700*time.Millisecond, release)
	if err := s.FinishRun(t.Context(), Run{StartedAt: time.Now(), EndedAt: time.Now()}, nil, nil); err != nil {
		t.Errorf("a short transaction of the application: %v", err)
	}
	hold()
	defer release()
	stop := errors.New("stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(100*time.Millisecond, func() { cancel(stop) })
	if err := s.FinishRun(ctx, Run{}, nil, nil); !errors.Is(err, stop) { // ErrBusy, had it waited to its own end
		t.Errorf("%v, want the cause of the end", err)
	}
}

// A writer that is killed leaves its transaction in the journal. Who reads only can't roll it back, and says so; who writes
// rolls it back without a word.
func TestUnfinishedTransaction(t *testing.T) {
	path := newFile(t, `insert into chat values ('before')`)
	writer, err := sql.Open("sqlite3", path+"?_cache_size=5")
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	tx, err := writer.Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	if _, err := tx.Exec(`with recursive n(i) as (select 1 union all select i + 1 from n where i < 20000)
		insert into chat select hex(randomblob(50)) from n`); err != nil {
		t.Fatal(err)
	}
	// As the machine would find both files after a power cut.
	after := filepath.Join(t.TempDir(), "webui.db")
	for _, suffix := range []string{"", "-journal"} {
		content, err := os.ReadFile(path + suffix)
		if err == nil {
			err = os.WriteFile(after+suffix, content, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Open(t.Context(), after, ReadOnly); !errors.Is(err, ErrUnfinished) {
		t.Errorf("reading: %v, want ErrUnfinished", err)
	}
	s := open(t, after, ReadWrite)
	if n := query[int](t, s, `select count(*) from chat`)[0]; n != 1 {
		t.Errorf("%d rows after the rollback, want 1", n)
	}
}

func TestKeysAreMasked(t *testing.T) {
	for key, want := range map[Key]string{
		"sk-or-v1-abcdefghijklmnop": "sk-or-v1-abc...", "sk-or-v1-xyz": "sk-or-v1...", "abc": "...", "": "...",
	} {
		if got := key.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
