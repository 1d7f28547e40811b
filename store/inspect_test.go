package store

import (
	"database/sql"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// application opens a database as the container does, and holds it open.
func application(t *testing.T, path string, statements ...string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite3", path)
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

// beside lists the files of a database's directory with their contents.
func beside(t *testing.T, path string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, entry := range entries {
		text, err := os.ReadFile(filepath.Join(filepath.Dir(path), entry.Name()))
		if err != nil {
			t.Fatal(err)
		}
		files[entry.Name()] = string(text)
	}
	return files
}

func sameFiles(t *testing.T, before, after map[string]string) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(after)) {
		if text, there := before[name]; !there || text != after[name] {
			t.Errorf("%s has changed, or is new", name)
		}
	}
	if len(after) < len(before) {
		t.Errorf("files are gone: %d of %d are left", len(after), len(before))
	}
}

func lookAt(t *testing.T, path string) File {
	t.Helper()
	file, err := LookAt(path)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func inspect(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Inspect(t.Context(), lookAt(t, path))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestLookAt(t *testing.T) {
	t.Run("Missing", func(t *testing.T) {
		if _, err := LookAt(filepath.Join(t.TempDir(), "webui.db")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%v", err)
		}
	})
	t.Run("Directory", func(t *testing.T) {
		if _, err := LookAt(t.TempDir()); !errors.Is(err, ErrNotFile) || !errors.Is(err, ErrNotDatabase) {
			t.Errorf("%v", err)
		}
	})
	t.Run("Empty", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "webui.db")
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if file := lookAt(t, path); file.Size != 0 || file.WriteAhead || file.Quiet() {
			t.Errorf("%+v", file)
		}
	})
	t.Run("RollbackJournal", func(t *testing.T) {
		path := newFile(t)
		if file := lookAt(t, path); file.Size == 0 || file.WriteAhead || file.Log != -1 || file.Quiet() || file.Unmerged() != 0 {
			t.Errorf("%+v", file)
		}
	})
	t.Run("WriteAheadQuiet", func(t *testing.T) {
		path := newFile(t, "pragma journal_mode = wal", "create table one (id text)")
		if file := lookAt(t, path); !file.WriteAhead || file.Log != -1 || !file.Quiet() || file.Unmerged() != 0 {
			t.Errorf("%+v", file)
		}
	})
	t.Run("WriteAheadInUse", func(t *testing.T) {
		path := newFile(t)
		application(t, path, "pragma journal_mode = wal", "create table one (id text)")
		if file := lookAt(t, path); !file.WriteAhead || file.Log <= 0 || !file.Index || file.Quiet() || file.Unmerged() != 0 {
			t.Errorf("%+v", file)
		}
	})
	t.Run("SymbolicLink", func(t *testing.T) {
		path, link := newFile(t), filepath.Join(t.TempDir(), "link.db")
		application(t, path, "pragma journal_mode = wal", "create table one (id text)")
		if err := os.Symlink(path, link); err != nil {
			t.Fatal(err)
		}
		if file := lookAt(t, link); file.Path != path || file.Quiet() {
			t.Errorf("%+v: it is in use, its log lies beside the real file", file)
		}
		if err := CheckWritable(link); err != nil {
			t.Error(err)
		}
	})
	t.Run("Permission", func(t *testing.T) {
		path := newFile(t)
		asNobody(t, path, 0, func() {
			if _, err := LookAt(path); !errors.Is(err, ErrPermission) || !strings.Contains(err.Error(), path) {
				t.Errorf("%v", err)
			}
		})
	})
	t.Run("LogWithoutIndex", func(t *testing.T) {
		path := newFile(t, "pragma journal_mode = wal")
		if err := os.WriteFile(path+"-wal", []byte("left over"), 0o600); err != nil {
			t.Fatal(err)
		}
		if file := lookAt(t, path); !file.Quiet() || file.Unmerged() != 9 {
			t.Errorf("%+v", file)
		}
	})
}

func TestInspectLeavesNoTrace(t *testing.T) {
	for name, mode := range map[string]string{"rollback journal": "delete", "write-ahead log": "wal"} {
		t.Run(name, func(t *testing.T) {
			path := newFile(t, "pragma journal_mode = "+mode, "insert into chat values ('one')")
			before := beside(t, path)
			s, err := Inspect(t.Context(), lookAt(t, path))
			if err != nil {
				t.Fatal(err)
			}
			if damage, err := s.QuickCheck(t.Context()); err != nil || len(damage) > 0 {
				t.Errorf("%q, %v", damage, err)
			}
			if got := query[string](t, s, "select id from chat"); !slices.Equal(got, []string{"one"}) {
				t.Errorf("read %q", got)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			sameFiles(t, before, beside(t, path))
		})
	}
	t.Run("in use", func(t *testing.T) {
		path := newFile(t, "pragma journal_mode = wal")
		app := application(t, path, "insert into chat values ('in the log')")
		before := beside(t, path)
		s := inspect(t, path)
		if got := query[string](t, s, "select id from chat"); !slices.Equal(got, []string{"in the log"}) {
			t.Errorf("read %q: the log counts", got)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		after := beside(t, path)
		after["webui.db-shm"] = before["webui.db-shm"] // shared memory, in which SQLite notes its readers
		sameFiles(t, before, after)
		if _, err := app.Exec("insert into chat values ('more')"); err != nil {
			t.Errorf("the application: %v", err)
		}
	})
	// Why Inspect exists: the ordinary way of reading leaves files behind.
	t.Run("unlike Open", func(t *testing.T) {
		path := newFile(t, "pragma journal_mode = wal")
		s := open(t, path, ReadOnly)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if files := beside(t, path); len(files) == 1 {
			t.Error("Open leaves no trace either: Inspect may go")
		}
	})
}

func TestQuickCheckFindsDamage(t *testing.T) {
	path := newFile(t, "create table rows (id text)",
		"insert into rows with recursive n(i) as (select 1 union all select i + 1 from n where i < 2000) select hex(randomblob(50)) from n",
		"create index rows_id on rows (id)", "pragma writable_schema = on",
		"delete from sqlite_master where name = 'rows_id'") // its pages belong to nothing now
	damage, err := inspect(t, path).QuickCheck(t.Context())
	if err != nil || len(damage) == 0 || !strings.Contains(damage[0], "never used") || strings.Contains(damage[0], "***") {
		t.Errorf("%q, %v", damage, err)
	}
}

func TestCheckWritable(t *testing.T) {
	path := newFile(t)
	if err := CheckWritable(path); err != nil {
		t.Errorf("our own file: %v", err)
	}
	asNobody(t, path, 0o400, func() {
		if err := CheckWritable(path); !errors.Is(err, ErrPermission) || !strings.Contains(err.Error(), path) {
			t.Errorf("a file that is not ours: %v", err)
		}
	})
}

// asNobody runs a function with the rights of a user whom a file's mode keeps out. For root that is another one, and in the
// kernel a thread has its rights: this one ends with its goroutine, which does not unlock it.
func asNobody(t *testing.T, path string, mode os.FileMode, f func()) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() != 0 {
		f()
		return
	}
	done := make(chan syscall.Errno)
	go func() {
		const nobody = 65534
		runtime.LockOSThread()
		_, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, nobody, nobody, nobody)
		if errno == 0 {
			f()
		}
		done <- errno
	}()
	if errno := <-done; errno != 0 {
		t.Fatal(errno)
	}
}

func TestFreeDisk(t *testing.T) {
	if free, err := FreeDisk(newFile(t)); err != nil || free <= 0 {
		t.Errorf("%d, %v", free, err)
	}
	if _, err := FreeDisk(filepath.Join(t.TempDir(), "missing")); !errors.Is(err, ErrIO) {
		t.Errorf("missing: %v", err)
	}
}

func TestCheckOwnTables(t *testing.T) {
	path := newFile(t)
	s := open(t, path, ReadWrite)
	if missing, err := s.CheckOwnTables(t.Context()); err != nil || len(missing) != len(ownTables) {
		t.Errorf("none is there: missing %v, %v", missing, err)
	}
	if err := s.EnsureOwnTables(t.Context()); err != nil {
		t.Fatal(err)
	}
	if missing, err := s.CheckOwnTables(t.Context()); err != nil || len(missing) != 0 {
		t.Errorf("all are there: missing %v, %v", missing, err)
	}
	application(t, path, "drop table usage_sync_runs", "alter table usage_sync_state rename column takeover to other")
	_, err := s.CheckOwnTables(t.Context())
	if schema, ok := errors.AsType[*SchemaError](err); !ok || len(schema.Missing) != 0 || len(schema.Lacking["usage_sync_state"]) != 1 {
		t.Errorf("a column is missing: %v", err)
	}
}

func TestAllOrganisations(t *testing.T) {
	path := filepath.Join(t.TempDir(), "webui.db")
	err := CreateDemo(t.Context(), path, []NewOrganisation{{ID: "a", Name: "A", Key: "key", Rate: 1.3}, {ID: "b", Name: "B", Key: " ", Rate: 1.3}}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	application(t, path, "insert into client_organizations select 'c', 'C', 'other', null, 1.3, null, null, 0, 0, 0, null")
	all, err := inspect(t, path).AllOrganisations(t.Context(), time.UTC)
	if err != nil || len(all) != 3 || all[1].Key != "" || !all[1].Active || all[2].Active {
		t.Errorf("%v, %v", all, err)
	}
}
