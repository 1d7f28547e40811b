package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var backupTime = time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)

// newUsage makes a database with two organisations and an application's table of a few MB.
func newUsage(t *testing.T, journal string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "webui.db")
	orgs := []NewOrganisation{{ID: "acme", Name: "Acme GmbH", Key: "sk-or-v1-acme", Rate: 1.3}, {ID: "globex", Name: "Globex", Key: "sk-or-v1-globex", Rate: 1.5}}
	if err := CreateDemo(t.Context(), path, orgs, backupTime); err != nil {
		t.Fatal(err)
	}
	execute(t, path, "pragma journal_mode="+journal,
		`create table chat (id integer primary key, text blob)`,
		`insert into chat (text) select randomblob(4000) from generate_series(1, 3000)`,
		`insert into client_daily_usage values ('acme_2026-03-09', 'acme', '2026-03-09', 100, 2, 0.5, 0.65, 'm', 1, 0, 0)`,
		`insert into client_live_counters values ('acme', '2026-03-10', 10, 1, 0.25, 0.325, 0)`,
		`insert into processed_generations values ('gen-1', 'acme', '2026-03-09', 0, 0.5, 100)`)
	return path
}

func execute(t tester, path string, statements ...string) {
	t.Helper()
	db, err := sql.Open("sqlite3", "file:"+path+"?_busy_timeout=10000&_sync=OFF")
	if err != nil {
		t.Fatalf("%v", err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	for _, statement := range statements {
		statement = strings.ReplaceAll(statement, "generate_series(1, 3000)",
			"(with recursive n(i) as (select 1 union all select i + 1 from n where i < 3000) select i from n)")
		if _, err := db.Exec(statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
}

// tester is what testing.T and rapid.T have in common.
type tester interface {
	Helper()
	Fatalf(format string, args ...any)
}

// dump returns every row of tables, in an order of its own.
func dump(t tester, path string, tables ...string) (rows []string) {
	t.Helper()
	db, err := sql.Open("sqlite3", "file:"+path+"?mode=ro")
	if err != nil {
		t.Fatalf("%v", err)
	}
	defer db.Close()
	for _, table := range tables {
		var columns string
		if err := db.QueryRow(`select group_concat('quote("' || name || '")', '||","||') from pragma_table_info(?)`, table).Scan(&columns); err != nil {
			t.Fatalf("%s: %v", table, err)
		}
		found, err := collect(context.Background(), db, func(scan func(...any) error) (row string, err error) { return row, scan(&row) },
			fmt.Sprintf(`select '%s ' || %s from %[1]s order by 1`, table, columns))
		if err != nil {
			t.Fatalf("%s: %v", table, err)
		}
		rows = append(rows, found...)
	}
	return rows
}

func allUsageTables() (all []string) {
	for _, t := range slices.Concat(guideTables, ownTables) {
		all = append(all, t.name)
	}
	return all
}

func TestBackup(t *testing.T) {
	for _, journal := range []string{"delete", "wal"} {
		t.Run("OK "+journal, func(t *testing.T) {
			path, dir := newUsage(t, journal), t.TempDir()
			b, err := open(t, path, ReadOnly).Backup(t.Context(), BackupRequest{Dest: dir, Now: backupTime})
			if err != nil {
				t.Fatal(err)
			}
			if want := filepath.Join(dir, "webui-20260310T120000Z.db"); b.Path != want {
				t.Errorf("made %s, want %s", b.Path, want)
			}
			info, err := os.Stat(b.Path)
			if err != nil || info.Mode() != 0o600 || info.Size() != b.Bytes {
				t.Errorf("mode %v, %d bytes of %d, %v", info.Mode(), info.Size(), b.Bytes, err)
			}
			if entries, _ := os.ReadDir(dir); len(entries) != 1 {
				t.Errorf("left behind: %v", entries)
			}
			tables := append(allUsageTables(), "chat")
			if got, want := dump(t, b.Path, tables...), dump(t, path, tables...); !slices.Equal(got, want) {
				t.Errorf("%d rows, want %d", len(got), len(want))
			}
		})
		t.Run("usage only "+journal, func(t *testing.T) {
			path, dir := newUsage(t, journal), t.TempDir()
			execute(t, path, `create table usage_sync_later (id text primary key) without rowid`, `insert into usage_sync_later values ('x')`)
			b, err := open(t, path, ReadOnly).Backup(t.Context(), BackupRequest{Dest: dir, UsageOnly: true, Series: "one", Now: backupTime})
			if err != nil {
				t.Fatal(err)
			}
			if want := filepath.Join(dir, "one-usage-20260310T120000Z.db"); b.Path != want {
				t.Errorf("made %s, want %s", b.Path, want)
			}
			tables := append(allUsageTables(), "usage_sync_later")
			if got, want := dump(t, b.Path, tables...), dump(t, path, tables...); !slices.Equal(got, want) {
				t.Errorf("%v, want %v", got, want)
			}
			const schema = `select count(*) from sqlite_master where sql is not null and (tbl_name like 'client%' or tbl_name like 'user_client%'
				or tbl_name like 'usage_sync%' or tbl_name in ('global_settings', 'processed_generations'))`
			got, want := query[int](t, open(t, b.Path, ReadOnly), schema), query[int](t, open(t, path, ReadOnly), schema)
			if !slices.Equal(got, want) || got[0] != query[int](t, open(t, b.Path, ReadOnly), `select count(*) from sqlite_master where sql is not null`)[0] {
				t.Errorf("%d tables and indexes, want %d and nothing else", got, want)
			}
		})
		t.Run("application writes all the time "+journal, func(t *testing.T) { backupUnderLoad(t, journal) })
	}
	t.Run("keeps some", func(t *testing.T) {
		path, dir := newUsage(t, "delete"), t.TempDir()
		foreign := []string{"webui-20200101T000000Z.db.txt", "webui2-20200101T000000Z.db", "webui-usage-20200101T000000Z.db", "webui-old.db"}
		for _, name := range append(foreign, "webui-20200101T000000Z.db") {
			if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		s := open(t, path, ReadOnly)
		for day := range 3 {
			if _, err := s.Backup(t.Context(), BackupRequest{Dest: dir, Keep: 2, Now: backupTime.AddDate(0, 0, day)}); err != nil {
				t.Fatal(err)
			}
		}
		// The clock is put back: the newest backup has the oldest name.
		if _, err := s.Backup(t.Context(), BackupRequest{Dest: dir, Keep: 2, Now: backupTime.AddDate(0, 0, -1)}); err != nil {
			t.Fatal(err)
		}
		var left []string
		entries, _ := os.ReadDir(dir)
		for _, entry := range entries {
			left = append(left, entry.Name())
		}
		want := append(foreign, "webui-20260309T120000Z.db", "webui-20260312T120000Z.db")
		slices.Sort(want)
		if !slices.Equal(left, want) {
			t.Errorf("left %v, want %v", left, want)
		}
	})
	t.Run("after one that was killed", func(t *testing.T) {
		path, dir := newUsage(t, "delete"), t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, ".webui.partial"), []byte(strings.Repeat("half a database", 10000)), 0o644); err != nil {
			t.Fatal(err)
		}
		b, err := open(t, path, ReadOnly).Backup(t.Context(), BackupRequest{Dest: dir, Now: backupTime})
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(b.Path); err != nil || info.Mode() != 0o600 {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
	})
	t.Run("a file that another user has laid there", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("takes root to make one")
		}
		path, dir := newUsage(t, "delete"), t.TempDir()
		trap := filepath.Join(dir, ".webui.partial")
		if err := errors.Join(os.WriteFile(trap, nil, 0o666), os.Chown(trap, 65534, 65534)); err != nil {
			t.Fatal(err)
		}
		if _, err := open(t, path, ReadOnly).Backup(t.Context(), BackupRequest{Dest: dir, Now: backupTime}); !errors.Is(err, ErrBackupFile) {
			t.Error(err)
		}
	})
	t.Run("a second name of another file", func(t *testing.T) {
		path, dir := newUsage(t, "delete"), t.TempDir()
		precious := filepath.Join(dir, "precious")
		if err := errors.Join(os.WriteFile(precious, []byte("precious"), 0o600), os.Link(precious, filepath.Join(dir, ".webui.partial"))); err != nil {
			t.Fatal(err)
		}
		if _, err := open(t, path, ReadOnly).Backup(t.Context(), BackupRequest{Dest: dir, Now: backupTime}); !errors.Is(err, ErrBackupFile) {
			t.Error(err)
		}
		if text, err := os.ReadFile(precious); err != nil || string(text) != "precious" {
			t.Errorf("precious: %q, %v", text, err)
		}
	})
	t.Run("another one is at work", func(t *testing.T) {
		path, dir := newUsage(t, "delete"), t.TempDir()
		f, err := os.Create(filepath.Join(dir, ".webui.partial"))
		if err == nil {
			err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		}
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := open(t, path, ReadOnly).Backup(t.Context(), BackupRequest{Dest: dir, Now: backupTime}); !errors.Is(err, ErrBackupHeld) {
			t.Error(err)
		}
		if _, err := os.Stat(f.Name()); err != nil {
			t.Errorf("its file is gone: %v", err)
		}
	})
	t.Run("ErrBackupFile", func(t *testing.T) {
		path, dir := newUsage(t, "delete"), t.TempDir()
		s := open(t, path, ReadOnly)
		for name, r := range map[string]BackupRequest{
			"the database itself":      {Dest: path},
			"no such directory":        {Dest: filepath.Join(dir, "no", "file.db")},
			"a series without a place": {Dest: filepath.Join(dir, "file.db"), Keep: 1},
			"a link to nowhere":        {Dest: filepath.Join(dir, "link.db")},
		} {
			_ = os.Symlink("nowhere", filepath.Join(dir, "link.db"))
			if _, err := s.Backup(t.Context(), r); !errors.Is(err, ErrBackupFile) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
	t.Run("a damaged database", func(t *testing.T) {
		path, dir := newUsage(t, "delete"), t.TempDir()
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(make([]byte, 4096*20), 4096*200); err != nil {
			t.Fatal(err)
		}
		f.Close()
		if _, err := open(t, path, ReadOnly).Backup(t.Context(), BackupRequest{Dest: dir, Now: backupTime, Keep: 1}); !errors.Is(err, ErrDamaged) {
			t.Error(err)
		}
		if entries, _ := os.ReadDir(dir); len(entries) != 0 {
			t.Errorf("left behind: %v", entries)
		}
	})
	t.Run("interrupted", func(t *testing.T) {
		path, dir, cause := newUsage(t, "delete"), t.TempDir(), errors.New("told to stop")
		ctx, cancel := context.WithCancelCause(t.Context())
		s := open(t, path, ReadOnly)
		cancel(cause)
		if _, err := s.Backup(ctx, BackupRequest{Dest: dir, Now: backupTime}); !errors.Is(err, cause) {
			t.Error(err)
		}
		if entries, _ := os.ReadDir(dir); len(entries) != 0 {
			t.Errorf("left behind: %v", entries)
		}
	})
	t.Run("no usage tables", func(t *testing.T) {
		b, err := open(t, newFile(t), ReadOnly).Backup(t.Context(), BackupRequest{Dest: t.TempDir(), Now: backupTime})
		if err != nil || len(b.Tables) != 0 {
			t.Errorf("%v, %v", b, err)
		}
	})
}

// backupUnderLoad lets an application write without a pause, always the same number of rows into two tables.
func backupUnderLoad(t *testing.T, journal string) {
	path, dir := newUsage(t, journal), t.TempDir()
	execute(t, path, `create table beside (id integer primary key, text blob)`)
	app, err := sql.Open("sqlite3", "file:"+path+"?_busy_timeout=10000&_txlock=immediate&_sync=OFF")
	if err != nil {
		t.Fatal(err)
	}
	defer app.Close()
	app.SetMaxOpenConns(1)
	stop, ended, wrote := make(chan struct{}), make(chan error), 0
	write := func() error {
		tx, err := app.Begin()
		if err != nil {
			return err
		}
		defer tx.Rollback()
		for _, statement := range []string{
			`insert into processed_generations values (hex(randomblob(8)), 'acme', '2026-03-09', 0, 0.5, 100)`,
			`insert into beside (text) values (randomblob(500))`,
			`update chat set text = randomblob(4000) where id = abs(random() % 3000)`,
		} {
			if _, err := tx.Exec(statement); err != nil {
				return err
			}
		}
		return tx.Commit()
	}
	first := make(chan struct{})
	go func() {
		for {
			select {
			case <-stop:
				ended <- nil
				return
			default:
			}
			if err := write(); err != nil {
				ended <- err
				return
			}
			if wrote++; wrote == 1 {
				close(first)
			}
		}
	}()
	<-first
	s := open(t, path, ReadOnly)
	for i := range 3 {
		for _, usageOnly := range []bool{false, true} {
			b, err := s.Backup(t.Context(), BackupRequest{Dest: dir, UsageOnly: usageOnly, Now: backupTime.AddDate(0, 0, i)})
			if err != nil {
				t.Error(err)
				continue
			}
			if usageOnly {
				continue
			}
			copied := open(t, b.Path, ReadOnly)
			if n := query[int](t, copied, `select (select count(*) from processed_generations) - 1 - (select count(*) from beside)`)[0]; n != 0 {
				t.Errorf("%d rows more in one table: half a transaction was copied", n)
			}
		}
	}
	close(stop)
	if err := <-ended; err != nil {
		t.Errorf("the application: %v", err)
	}
	if wrote < 10 {
		t.Errorf("the application wrote %d times in all", wrote)
	}
	t.Logf("the application wrote %d times", wrote)
}

func TestRestoreUsage(t *testing.T) {
	back := func(t *testing.T, path string, usageOnly bool) string {
		t.Helper()
		b, err := open(t, path, ReadOnly).Backup(t.Context(), BackupRequest{Dest: t.TempDir(), UsageOnly: usageOnly, Now: backupTime})
		if err != nil {
			t.Fatal(err)
		}
		return b.Path
	}
	t.Run("OK", func(t *testing.T) {
		path := newUsage(t, "wal")
		backup, want := back(t, path, true), dump(t, path, allUsageTables()...)
		execute(t, path, `update client_live_counters set today_tokens = 99, today_markup_cost = 1`,
			`delete from client_daily_usage`, `drop table processed_generations`,
			`insert into client_organizations (id, name, openrouter_api_key, created_at, updated_at) values ('new', 'New', 'sk-or-v1-new', 0, 0)`)
		application := dump(t, path, "chat")
		planned, err := open(t, path, ReadOnly).CompareUsage(t.Context(), backup)
		if err != nil {
			t.Fatal(err)
		}
		wantTables := []TableChange{{Table: "client_daily_usage", Added: 1}, {Table: "client_live_counters", Changed: 1},
			{Table: "client_organizations", Removed: 1}, {Table: ledger, Added: 1}}
		wantDays := []DayChange{
			{"acme", "Acme GmbH", "2026-03-09", DayTotals{}, DayTotals{100, 2, 0.5, 0.65}},
			{"acme", "Acme GmbH", "2026-03-10", DayTotals{99, 1, 0.25, 1}, DayTotals{10, 1, 0.25, 0.325}}}
		if !slices.Equal(planned.Tables, wantTables) || !slices.Equal(planned.Days, wantDays) {
			t.Errorf("planned %+v", planned)
		}
		s := open(t, path, ReadWrite)
		done, err := s.RestoreUsage(t.Context(), backup)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(done.Tables, wantTables) {
			t.Errorf("done %+v", done)
		}
		if got := dump(t, path, allUsageTables()...); !slices.Equal(got, want) {
			t.Errorf("%v\nwant %v", got, want)
		}
		if !slices.Equal(dump(t, path, "chat"), application) {
			t.Error("the application's table was touched")
		}
		if again, err := s.RestoreUsage(t.Context(), backup); err != nil || !again.Same() || len(again.Days) > 0 {
			t.Errorf("again: %+v, %v", again, err)
		}
		if left := query[string](t, s, `select name from pragma_database_list where name <> 'main' and name <> 'temp'`); len(left) > 0 {
			t.Errorf("still attached: %v", left)
		}
	})
	t.Run("from a copy of the whole database", func(t *testing.T) {
		path := newUsage(t, "wal")
		backup, want := back(t, path, false), dump(t, path, allUsageTables()...)
		execute(t, path, `delete from client_live_counters`, `delete from chat`)
		if _, err := open(t, path, ReadWrite).RestoreUsage(t.Context(), backup); err != nil {
			t.Fatal(err)
		}
		if got := dump(t, path, allUsageTables()...); !slices.Equal(got, want) {
			t.Errorf("%v\nwant %v", got, want)
		}
		if len(dump(t, path, "chat")) != 0 {
			t.Error("the application's table was touched")
		}
		for _, beside := range []string{"-wal", "-shm", "-journal"} {
			if _, err := os.Stat(backup + beside); err == nil {
				t.Errorf("a file %s was left beside the backup", beside)
			}
		}
	})
	t.Run("tables that came after the backup are emptied", func(t *testing.T) {
		path := newUsage(t, "delete")
		execute(t, path, `drop table processed_generations`, `drop table usage_sync_state`)
		backup := back(t, path, true)
		s := open(t, path, ReadWrite)
		if err := s.EnsureOwnTables(t.Context()); err != nil {
			t.Fatal(err)
		}
		execute(t, path, `insert into processed_generations values ('gen-1', 'acme', '2026-03-09', 0, 0.5, 100)`)
		if _, err := s.RestoreUsage(t.Context(), backup); err != nil {
			t.Fatal(err)
		}
		if rows := dump(t, path, ledger); len(rows) > 0 {
			t.Errorf("the ledger knows generations that the totals do not hold: %v", rows)
		}
	})
	t.Run("columns that only the database has", func(t *testing.T) {
		path := newUsage(t, "delete")
		backup := back(t, path, true)
		execute(t, path, `alter table client_organizations add column region text not null default 'eu'`,
			`update client_organizations set region = 'us', name = 'Other' where id = 'acme'`, `delete from client_organizations where id = 'globex'`)
		s := open(t, path, ReadWrite)
		if _, err := s.RestoreUsage(t.Context(), backup); err != nil {
			t.Fatal(err)
		}
		if got := query[string](t, s, `select id || ' ' || name || ' ' || region from client_organizations order by id`); !slices.Equal(got, []string{"acme Acme GmbH us", "globex Globex eu"}) {
			t.Error(got)
		}
	})
	t.Run("columns that only the backup has", func(t *testing.T) {
		path := newUsage(t, "delete")
		execute(t, path, `alter table client_daily_usage add column region text`)
		backup := back(t, path, true)
		execute(t, path, `alter table client_daily_usage drop column region`, `delete from client_live_counters`)
		before := dump(t, path, allUsageTables()...)
		_, err := open(t, path, ReadWrite).RestoreUsage(t.Context(), backup)
		if schema, ok := errors.AsType[*SchemaError](err); !ok || !slices.Equal(schema.Lacking["client_daily_usage"], []string{"region"}) {
			t.Error(err)
		}
		if !slices.Equal(dump(t, path, allUsageTables()...), before) {
			t.Error("half of it was put back")
		}
	})
	t.Run("a table without a key", func(t *testing.T) {
		path := newUsage(t, "delete")
		execute(t, path, `alter table client_model_daily_usage rename to old`, `create table client_model_daily_usage as select * from old`, `drop table old`,
			`insert into client_model_daily_usage select 'x', 'acme', 'm', '2026-03-09', 1, 1, 1, 1, 'p', 0, 0 from (values (1), (2))`)
		backup, want := back(t, path, true), dump(t, path, "client_model_daily_usage")
		execute(t, path, `insert into client_model_daily_usage select * from client_model_daily_usage`)
		if _, err := open(t, path, ReadWrite).RestoreUsage(t.Context(), backup); err != nil {
			t.Fatal(err)
		}
		if got := dump(t, path, "client_model_daily_usage"); len(got) != 2 || !slices.Equal(got, want) {
			t.Error(got)
		}
	})
	t.Run("ErrBackup", func(t *testing.T) {
		path := newUsage(t, "delete")
		backup, before := back(t, path, false), dump(t, path, allUsageTables()...)
		damaged, err := os.ReadFile(backup)
		if err != nil {
			t.Fatal(err)
		}
		clear(damaged[len(damaged)-4096*30 : len(damaged)-4096*5])
		dir := t.TempDir()
		for name, content := range map[string][]byte{"text.db": []byte(strings.Repeat("no database at all", 300)), "damaged.db": damaged,
			"cut.db": damaged[:len(damaged)/2], "empty.db": nil} {
			file := filepath.Join(dir, name)
			if err := os.WriteFile(file, content, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := open(t, path, ReadWrite).RestoreUsage(t.Context(), file); !errors.Is(err, ErrBackup) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := open(t, path, ReadWrite).RestoreUsage(t.Context(), newFile(t)); !errors.Is(err, ErrBackup) {
			t.Errorf("another database: %v", err)
		}
		if _, err := open(t, path, ReadWrite).RestoreUsage(t.Context(), filepath.Join(dir, "none.db")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("no file: %v", err)
		}
		if !slices.Equal(dump(t, path, allUsageTables()...), before) {
			t.Error("something was changed")
		}
	})
}

// TestRestoreProperty: whatever happens to the usage tables, a backup brings back what they held.
func TestRestoreProperty(t *testing.T) {
	template, dir, n := newUsage(t, "delete"), t.TempDir(), 0
	execute(t, template, `drop table chat`, `create table chat (id text)`, `vacuum`)
	content, err := os.ReadFile(template)
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		n++
		path := filepath.Join(dir, fmt.Sprintf("%d.db", n))
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatalf("%v", err)
		}
		defer os.Remove(path)
		tables := allUsageTables()
		happen := func(label string) {
			for range rapid.IntRange(0, 12).Draw(t, label) {
				table := rapid.SampledFrom(tables).Draw(t, "table")
				id := rapid.SampledFrom([]string{"acme", "globex", "new", "it's"}).Draw(t, "id")
				day := rapid.SampledFrom([]string{"2026-03-09", "2026-03-10"}).Draw(t, "day")
				amount := rapid.IntRange(-3, 1000).Draw(t, "amount")
				id = strings.ReplaceAll(id, "'", "''")
				statement := rapid.SampledFrom([]string{
					fmt.Sprintf(`insert or replace into client_daily_usage values ('%s_%s', '%[1]s', '%[2]s', %[3]d, 1, %[3]d / 7.0, %[3]d / 3.0, null, null, 0, 0)`, id, day, amount),
					fmt.Sprintf(`insert or replace into client_live_counters values ('%s', '%s', %d, 1, 'rubbish', null, 0)`, id, day, amount),
					fmt.Sprintf(`insert or replace into processed_generations values ('gen-%d', '%s', '%s', 0, %[1]d / 7.0, %[1]d)`, amount, id, day),
					fmt.Sprintf(`insert or replace into client_organizations values ('%s', 'N', 'key-%d', null, null, null, null, 1, 0, 0, null)`, id, amount),
					fmt.Sprintf(`insert or replace into usage_sync_state values ('%s', %d, null, '%s', x'00ff', null, 0, null, null, null, null)`, id, amount, day),
					fmt.Sprintf(`delete from %s where rowid %% 2 = %d`, rapid.SampledFrom(tables[:8]).Draw(t, "rows"), amount&1),
					fmt.Sprintf(`delete from %s`, table),
				}).Draw(t, "statement")
				execute(t, path, statement)
			}
		}
		happen("before")
		s, err := Open(context.Background(), path, ReadWrite)
		if err != nil {
			t.Fatalf("%v", err)
		}
		defer s.Close()
		want := dump(t, path, tables...)
		b, err := s.Backup(context.Background(), BackupRequest{Dest: path + ".backup", UsageOnly: rapid.Bool().Draw(t, "usage only")})
		if err != nil {
			t.Fatalf("%v", err)
		}
		defer os.Remove(b.Path)
		happen("after")
		if rapid.Bool().Draw(t, "drop") {
			execute(t, path, "drop table "+rapid.SampledFrom(tables).Draw(t, "dropped"))
		}
		planned, err := s.CompareUsage(context.Background(), b.Path)
		if err != nil {
			t.Fatalf("%v", err)
		}
		done, err := s.RestoreUsage(context.Background(), b.Path)
		if err != nil {
			t.Fatalf("%v", err)
		}
		if !slices.Equal(planned.Tables, done.Tables) || !slices.Equal(planned.Days, done.Days) {
			t.Fatalf("planned %+v, done %+v", planned, done)
		}
		if got := dump(t, path, tables...); !slices.Equal(got, want) {
			t.Fatalf("restored\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	})
}
