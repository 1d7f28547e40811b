package store

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestSchemaCannotAbuse has the schema of a database do what a hostile container makes it do.
func TestSchemaCannotAbuse(t *testing.T) {
	path := newUsage(t, "DELETE")
	execute(t, path,
		`create table bait (id text, big default (zeroblob(900000000)))`,
		`create trigger grow after insert on client_daily_usage begin
			update client_daily_usage set primary_model = length(zeroblob(900000000)) where id = new.id; end`,
		`create trigger unsafe after insert on client_user_daily_usage begin select fts3_tokenizer('simple'); end`,
		`create view chats as select * from chat`)
	s := open(t, path, ReadWrite)
	write := func(statement string) error {
		return s.write(t.Context(), func(q querier) error {
			_, err := q.ExecContext(t.Context(), statement)
			return err
		})
	}
	for _, statement := range []string{
		`insert into bait (id) values ('one')`,
		`insert into client_daily_usage values ('acme_2026-03-08', 'acme', '2026-03-08', 1, 1, 0, 0, 'm', 1, 0, 0)`,
		`insert into client_user_daily_usage values ('a', 'acme', 'u', 'u', '2026-03-08', 1, 1, 0, 0, 0, 0)`,
		`insert into chat select null, count(*) from chats`,
	} {
		if err := write(statement); !errors.Is(err, ErrData) {
			t.Errorf("%s: %v, want ErrData", statement, err)
		}
	}
	for _, statement := range []string{"pragma writable_schema = on", "update sqlite_master set sql = ''"} {
		_ = write(statement)
	}
	if n := query[int](t, s, "select count(*) from sqlite_master where sql = ''"); n[0] != 0 {
		t.Error("the schema can be written to")
	}
	t.Run("memory", func(t *testing.T) {
		const many = `with recursive n(i) as (select 1 union all select i + 1 from n where i < 100)
			insert into temp.hoard select zeroblob(8000000) from n`
		if err := write("create temp table hoard (b)"); err != nil {
			t.Fatal(err)
		}
		if err := write(many); !errors.Is(err, ErrMemory) {
			t.Errorf("800 MB: %v, want ErrMemory", err)
		}
	})
}

// TestLargeRowsOfOthers: the application keeps whole files in its rows. Whoever reads all of a database reads them, too.
func TestLargeRowsOfOthers(t *testing.T) {
	path := newUsage(t, "WAL")
	execute(t, path, `insert into chat values (null, zeroblob(40000000))`, `create index by_text on chat (length(text))`)
	if damage, err := inspect(t, path).QuickCheck(t.Context()); err != nil || len(damage) > 0 {
		t.Errorf("quick_check: %v, %v", damage, err)
	}
	for _, usageOnly := range []bool{false, true} {
		dest := filepath.Join(t.TempDir(), "copy.db")
		if _, err := open(t, path, ReadOnly).Backup(t.Context(), BackupRequest{Dest: dest, Now: backupTime, UsageOnly: usageOnly}); err != nil {
			t.Errorf("backup, usage only %t: %v", usageOnly, err)
			continue
		}
		if _, err := open(t, path, ReadWrite).RestoreUsage(t.Context(), dest); err != nil {
			t.Errorf("restore, usage only %t: %v", usageOnly, err)
		}
	}
}

// TestWaitCloses: while anything waits, no connection is open but for the time of a method.
func TestWaitCloses(t *testing.T) {
	for _, journal := range []string{"DELETE", "WAL"} {
		t.Run(journal, func(t *testing.T) {
			path := newUsage(t, journal)
			s := open(t, path, ReadWrite)
			isOpen := func() bool {
				links, err := filepath.Glob("/proc/self/fd/*")
				if err != nil {
					t.Fatal(err)
				}
				for _, link := range links {
					if target, _ := os.Readlink(link); strings.HasPrefix(target, path) {
						return true
					}
				}
				return false
			}
			use := func() { query[int](t, s, "select count(*) from client_organizations") }
			use()
			if !isOpen() {
				t.Error("it is opened anew for each method")
			}
			first := s.Wait()
			second := s.Wait()
			use()
			first()
			first()
			use()
			if isOpen() {
				t.Error("it is open although one still waits")
			}
			second()
			use()
			if !isOpen() {
				t.Error("it stays closed")
			}
		})
	}
}

// TestLogStaysBounded: a database that nobody else uses has its log merged, however much is written at one go; one that is
// in use has not.
func TestLogStaysBounded(t *testing.T) {
	for _, shared := range []bool{false, true} {
		t.Run(fmt.Sprintf("in use: %t", shared), func(t *testing.T) {
			path := newUsage(t, "WAL")
			if shared {
				app := application(t, path)
				if err := app.QueryRow("select count(*) from chat").Scan(new(int)); err != nil {
					t.Fatal(err)
				}
			}
			s := open(t, path, ReadWrite)
			var largest int64
			for range 30 {
				err := s.write(t.Context(), func(q querier) error {
					_, err := q.ExecContext(t.Context(), "insert into chat values (null, randomblob(2000000))")
					return err
				})
				if err != nil {
					t.Fatal(err)
				}
				if log, err := os.Stat(path + "-wal"); err == nil {
					largest = max(largest, log.Size())
				}
			}
			if !shared && largest > longLog+4<<20 {
				t.Errorf("the log has grown to %d MB", largest>>20)
			}
			if shared && largest < 60_000_000 {
				t.Errorf("the log of a database in use has been merged: it was never longer than %d MB", largest>>20)
			}
		})
	}
}

// TestQuietDatabaseIsReadWithoutATrace: where nobody uses a database in WAL mode, neither rights nor files are needed to
// read it; and what its application writes as soon as it starts is seen.
func TestQuietDatabaseIsReadWithoutATrace(t *testing.T) {
	path := newUsage(t, "WAL")
	long := time.Now().Add(-time.Hour)
	if err := os.Chtimes(path, long, long); err != nil {
		t.Fatal(err)
	}
	before := beside(t, path)
	s := open(t, path, ReadOnly)
	count := func() int { return query[int](t, s, "select count(*) from client_organizations")[0] }
	if n := count(); n != 2 {
		t.Errorf("%d organisations", n)
	}
	sameFiles(t, before, beside(t, path))
	application(t, path, "delete from client_organizations where id = 'acme'")
	if n := count(); n != 1 {
		t.Errorf("%d organisations once the application has removed one of two", n)
	}
}

// TestUnfinishedLogIsNotIgnored: what a killed application has left in its log is part of the database.
func TestUnfinishedLogIsNotIgnored(t *testing.T) {
	path := newUsage(t, "WAL")
	app := application(t, path, "pragma wal_autocheckpoint = 0", "delete from client_organizations where id = 'acme'")
	copied := filepath.Join(t.TempDir(), "webui.db")
	for _, suffix := range []string{"", "-wal"} {
		text, err := os.ReadFile(path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(copied+suffix, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	app.Close()
	s := open(t, copied, ReadOnly)
	if n := query[int](t, s, "select count(*) from client_organizations")[0]; n != 1 {
		t.Errorf("%d organisations, the log says 1", n)
	}
}

// TestWriter: the header tells which SQLite wrote last.
func TestWriter(t *testing.T) {
	path := newUsage(t, "WAL")
	var version string
	db, err := sql.Open("sqlite3", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRow("select sqlite_version()").Scan(&version); err != nil {
		t.Fatal(err)
	}
	db.Close()
	if got := lookAt(t, path).Writer; got.String() != version || got.ResetsLogUnsafely() {
		t.Errorf("written by %s, want %s, which is safe", got, version)
	}
	for version, unsafe := range map[SQLiteVersion]bool{3040001: true, 3044005: true, 3044006: false, 3045000: true, 3050006: true, 3050007: false,
		3051002: true, 3051003: false, 3053000: false, 3006023: false, 0: false} {
		if got := version.ResetsLogUnsafely(); got != unsafe {
			t.Errorf("%s: %t, want %t", version, got, unsafe)
		}
	}
}
