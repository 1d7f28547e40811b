package integration_test

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// scene is one command at work on a database, for tests that have a power cut or a failing system call befall it.
type scene struct {
	args    []string // DIR stands for the directory of the database
	stdin   string
	prepare func(t *testing.T, s *stage)              // the database before; nobody has it open
	next    [][]string                                // what is run after, and must set right whatever has happened
	reads   bool                                      // the command writes nothing
	holds   func(t *testing.T, dir string, told bool) // what else must hold, told of success or not
}

const listed = 20 // generations that OpenRouter lists in a scene; half of them only when it is prepared

// scenes are those in which something is written.
func scenes() map[string]scene {
	all := generations(listed, 4)
	deliver := func(body string) string {
		return "POST " + deliveryPath + " HTTP/1.1\r\nHost: x\r\nX-Webhook-Secret: " + hookSecret +
			fmt.Sprintf("\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	}
	another := deliver(strings.Replace(broadcast(all[1]), "Acme GmbH", "Another", 1))
	var lines strings.Builder
	for _, g := range all[:5] {
		fmt.Fprintln(&lines, strings.ReplaceAll(broadcast(g), "\n", ""))
	}
	sync, record := []string{"sync"}, []string{"record", "--org", organisation, "--model", "m", "--tokens", "1", "--cost", "0.1"}
	fromSpool := []string{"ingest", "--key-name", "Another", "--org", organisation}
	return map[string]scene{
		"first sync": {args: sync, next: [][]string{sync}, prepare: func(t *testing.T, s *stage) { s.dropTables(t, "usage_sync_%", "processed_generations") }},
		"sync": {args: sync, next: [][]string{sync}, prepare: func(t *testing.T, s *stage) {
			s.run(t, "sync")
		}},
		"record":  {args: record, next: [][]string{sync}},
		"ingest":  {args: []string{"ingest"}, stdin: lines.String(), next: [][]string{sync}},
		"webhook": {args: []string{"http"}, stdin: deliver(broadcast(all[0])), next: [][]string{sync}},
		"spooled": {args: []string{"http"}, stdin: another, next: [][]string{fromSpool}},
		"spool": {args: []string{"ingest", "--spool"}, next: [][]string{{"ingest", "--spool"}}, prepare: func(t *testing.T, s *stage) {
			s.deliver(t, another)
			withDatabase(t, s.path, func(db *sql.DB) {
				exec1(t, db, "insert into usage_sync_key_names values ('Another', ?, 0)", organisation)
			})
		}},
		"restore": {args: []string{"restore", "--usage-only", "--yes", "DIR/backup.db"}, next: [][]string{sync}, prepare: func(t *testing.T, s *stage) {
			s.run(t, "sync")
			s.run(t, "backup", "--usage-only", "DIR/backup.db")
			s.run(t, record...)
		}},
		"migrate": {args: []string{"migrate"}, next: [][]string{{"migrate"}, sync},
			prepare: func(t *testing.T, s *stage) {
				s.dropTables(t, "usage_sync_%", "processed_generations", "client_model_daily_usage")
			}},
		"backup": {args: []string{"backup", "DIR/copies/"}, next: [][]string{sync}, holds: holdsBackup, prepare: func(t *testing.T, s *stage) {
			s.run(t, "sync")
		}},
	}
}

// stage is where a scene is played.
type stage struct {
	scene
	dir, path string // of the database
	api       *gateway
	with      tables // what the tables hold when the command and next are done,
	without   tables // when next alone is,
	done      tables // and when the command alone is
}

// stage prepares a scene, with a copy of a database.
func (s scene) stage(t *testing.T, template string) *stage {
	t.Helper()
	all := generations(listed, 4)
	st := &stage{scene: s, dir: copyOfDirectory(t, template), api: newGateway(t, 8, all[listed/2:])}
	st.path = filepath.Join(st.dir, "webui.db")
	withDatabase(t, st.path, func(db *sql.DB) { exec1(t, db, "create table chat (id integer primary key, text)") })
	if s.prepare != nil {
		s.prepare(t, st)
	}
	st.api.Add(key, all[:listed/2]...)
	play := func(commands ...[]string) tables {
		dir := copyOfDirectory(t, st.dir)
		for i, args := range commands {
			if i == 0 && reflect.DeepEqual(args, s.args) {
				c := st.child(dir, args...)
				c.Stdin = strings.NewReader(s.stdin)
				if err := c.Run(); err != nil {
					t.Fatalf("%v: %v\n%s", args, err, &c.stderr)
				}
				continue
			}
			if c := st.child(dir, args...); c.Run() != nil {
				t.Fatalf("%v: exit %d\n%s", args, c.ProcessState.ExitCode(), &c.stderr)
			}
		}
		checkConsistent(t, filepath.Join(dir, "webui.db"))
		return readTables(t, filepath.Join(dir, "webui.db"))
	}
	st.without = play(s.next...)
	if s.reads {
		st.with = st.without
		return st
	}
	st.done = play(s.args)
	st.with = play(slices.Concat([][]string{s.args}, s.next)...)
	return st
}

// dropTables takes tables away, by patterns.
func (s *stage) dropTables(t *testing.T, patterns ...string) {
	t.Helper()
	withDatabase(t, s.path, func(db *sql.DB) {
		for _, pattern := range patterns {
			for {
				var name string
				err := db.QueryRow("select name from sqlite_master where type = 'table' and name like ?", pattern).Scan(&name)
				if err != nil {
					break
				}
				exec1(t, db, fmt.Sprintf("drop table %q", name))
			}
		}
	})
}

// withDatabase opens a database for as long as fn runs.
func withDatabase(t *testing.T, path string, fn func(db *sql.DB)) {
	t.Helper()
	db, err := open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	fn(db)
}

// child prepares a command in a directory.
func (s *stage) child(dir string, args ...string) *child {
	c := newChild(filepath.Join(dir, "webui.db"), s.api.url, inDirectory(dir, args)...)
	c.Env = s.env(dir)
	return c
}

func (s *stage) env(dir string) []string {
	return append(childEnv(filepath.Join(dir, "webui.db"), s.api.url), "USAGE_SYNC_WEBHOOK_SECRET="+hookSecret)
}

func inDirectory(dir string, args []string) []string {
	args = slices.Clone(args)
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "DIR", dir)
	}
	return args
}

func (s *stage) run(t *testing.T, args ...string) {
	t.Helper()
	if c := s.child(s.dir, args...); c.Run() != nil {
		t.Fatalf("%v: exit %d\n%s", args, c.ProcessState.ExitCode(), &c.stderr)
	}
}

// deliver has the webhook answer a request.
func (s *stage) deliver(t *testing.T, request string) {
	t.Helper()
	c := s.child(s.dir, "http")
	c.Stdin = strings.NewReader(request)
	if err := c.Run(); err != nil {
		t.Fatalf("%v: %s", err, &c.stdout)
	}
}

// check finds what is wrong in a directory after something has befallen the command: with what it has told of as done, with
// the tables, and with what is made of them next.
func (s *stage) check(t *testing.T, dir string, told bool) {
	t.Helper()
	path := filepath.Join(dir, "webui.db")
	if s.lacking(t, path) == "" {
		checkConsistent(t, path)
		if got := readTables(t, path); told && !reflect.DeepEqual(got, s.done) {
			t.Errorf("told as done, and not in the tables, -want +got:\n%s", cmp.Diff(s.done, got))
		}
	} else if told {
		t.Errorf("told as done, and there is no table %s", s.lacking(t, path))
	}
	if s.holds != nil {
		s.holds(t, dir, told)
	}
	for _, args := range s.next {
		if c := s.child(dir, args...); c.Run() != nil {
			t.Fatalf("after it, %v exits %d\n%s", args, c.ProcessState.ExitCode(), &c.stderr)
		}
	}
	got := readTables(t, path)
	if !reflect.DeepEqual(got, s.with) && (told || !reflect.DeepEqual(got, s.without)) {
		t.Errorf("after it and %v, -want +got:\n%s", s.next, cmp.Diff(s.with, got))
	}
	checkConsistent(t, path)
	checkSound(t, path)
}

// lacking names one of the tables that checks read and the database does not have.
func (s *stage) lacking(t *testing.T, path string) (table string) {
	t.Helper()
	withDatabase(t, path, func(db *sql.DB) {
		for _, name := range []string{"processed_generations", "client_model_daily_usage"} {
			if value[int](t, db, "select count(*) from sqlite_master where name = ?", name) == 0 {
				table = name
			}
		}
	})
	return table
}

// holdsBackup: what bears the name of a backup is one.
func holdsBackup(t *testing.T, dir string, told bool) {
	t.Helper()
	copies, _ := filepath.Glob(filepath.Join(dir, "copies", "[^.]*"))
	if told && len(copies) != 1 {
		t.Errorf("told as done, and there are %d backups", len(copies))
	}
	for _, path := range copies {
		checkConsistent(t, path)
		if got, want := readTables(t, path), readTables(t, filepath.Join(dir, "webui.db")); !reflect.DeepEqual(got, want) {
			t.Errorf("the backup differs, -database +backup:\n%s", cmp.Diff(want, got))
		}
	}
}

// copyOfDirectory copies what nobody has open.
func copyOfDirectory(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(inMemory(t), "copy")
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

// inMemory makes a directory for a test, where nothing waits for a real disk.
func inMemory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "usage-sync-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
