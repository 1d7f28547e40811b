package integration_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// ledgerOfSyncs watches what a program writes to files and what it has the disk keep.
type ledgerOfSyncs struct {
	database  string
	spoolFile string            // removing one of this name acknowledges it
	dirty     map[string]string // what a power cut may take: a file, or the entry of one in its directory, by what was done last
	syncs     int
	moments   []string // at which somebody is told that something is recorded
	lost      []string // what a power cut at such a moment would take
}

// enter notes a system call before it is made. What is written is taken for written, what is synced for synced.
func (l *ledgerOfSyncs) enter(c *call) {
	switch c.number {
	case syscall.SYS_WRITE, syscall.SYS_PWRITE64, syscall.SYS_FTRUNCATE:
		if path := c.file(c.args[0]); path == l.database || path == l.database+"-wal" {
			l.dirty[path] = "written"
		}
		if c.number == syscall.SYS_WRITE && c.args[0] == 1 && strings.HasPrefix(c.text(c.args[1]), "HTTP/1.1 200") {
			l.acknowledge("HTTP 200")
		}
	case syscall.SYS_FSYNC, syscall.SYS_FDATASYNC:
		path := c.file(c.args[0])
		if _, was := l.dirty[path]; was {
			l.syncs++
		}
		delete(l.dirty, path)
	case syscall.SYS_UNLINK:
		l.unlink(c.text(c.args[0]))
	case syscall.SYS_UNLINKAT:
		l.unlink(c.text(c.args[1]))
	case syscall.SYS_EXIT_GROUP:
		if c.args[0] == 0 {
			l.acknowledge("exit 0")
		}
	}
}

// unlink notes a removed file: that of a journal commits what is in the database, once the directory is on the disk.
func (l *ledgerOfSyncs) unlink(path string) {
	switch {
	case strings.HasSuffix(path, filepath.Base(l.database)+"-journal"):
		l.dirty[filepath.Dir(l.database)] = "without the journal"
	case l.spoolFile != "" && filepath.Base(path) == l.spoolFile:
		l.acknowledge("spool file removed")
	}
}

func (l *ledgerOfSyncs) acknowledge(what string) {
	l.moments = append(l.moments, what)
	for path, how := range l.dirty {
		l.lost = append(l.lost, fmt.Sprintf("%s: %s is %s and not on the disk", what, path, how))
	}
}

// TestAcknowledgedIsOnTheDisk: whenever success is told, what it tells of has been synced. The application has the database
// open, so that nothing is merged into it on the way out.
func TestAcknowledgedIsOnTheDisk(t *testing.T) {
	needTracing(t)
	all := generations(20, 4)
	deliver := "POST " + deliveryPath + " HTTP/1.1\r\nHost: x\r\nX-Webhook-Secret: " + hookSecret +
		"\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
	for name, test := range map[string]struct {
		args    []string
		request string
		prepare func(t *testing.T, path string)
		moments []string
	}{
		"sync":   {args: []string{"sync"}, moments: []string{"exit 0"}},
		"record": {args: []string{"record", "--org", organisation, "--model", "m", "--tokens", "1", "--cost", "0.1"}, moments: []string{"exit 0"}},
		"migrate": {args: []string{"migrate"}, moments: []string{"exit 0"}, prepare: func(t *testing.T, path string) {
			exec1(t, mustOpen(t, path), "drop table processed_generations")
		}},
		"webhook": {args: []string{"http"}, request: fmt.Sprintf(deliver, len(broadcast(all[0])), broadcast(all[0])), moments: []string{"HTTP 200", "exit 0"}},
		"restore": {args: []string{"restore", "--usage-only", "--yes", "BACKUP"}, moments: []string{"exit 0"}, prepare: func(t *testing.T, path string) {
			run(t, 0, path, "", "backup", "--usage-only", path+".backup")
			run(t, 0, path, "", "record", "--org", organisation, "--model", "m", "--tokens", "1", "--cost", "0.1")
		}},
		"spool": {args: []string{"ingest", "--spool"}, moments: []string{"spool file removed", "exit 0"}, prepare: func(t *testing.T, path string) {
			other := strings.Replace(broadcast(all[1]), "Acme GmbH", "Another", 1)
			c := newChild(path, "", "http")
			c.Env = append(c.Env, "USAGE_SYNC_WEBHOOK_SECRET="+hookSecret)
			c.Stdin = strings.NewReader(fmt.Sprintf(deliver, len(other), other))
			_ = c.Run()
			exec1(t, mustOpen(t, path), "insert into usage_sync_key_names values ('Another', ?, 0)", organisation)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			bothJournals(t, func(t *testing.T, journal string) {
				api := newGateway(t, 100, all)
				api.whenArriving(func(int, *http.Request) {})
				path := newDatabase(t, journal)
				if test.prepare != nil {
					test.prepare(t, path)
				}
				application := mustOpen(t, path)
				value[int](t, application, "select count(*) from client_organizations")
				l := &ledgerOfSyncs{database: path, dirty: map[string]string{}}
				if kept, _ := filepath.Glob(path + ".usage-sync.spool/*.json"); len(kept) == 1 {
					l.spoolFile = filepath.Base(kept[0])
				} else if name == "spool" {
					t.Fatalf("%d files in the spool", len(kept))
				}
				var stdin *os.File
				if test.request != "" {
					file := filepath.Join(t.TempDir(), "request")
					if err := os.WriteFile(file, []byte(test.request), 0o600); err != nil {
						t.Fatal(err)
					}
					var err error
					if stdin, err = os.Open(file); err != nil {
						t.Fatal(err)
					}
					defer stdin.Close()
				}
				args := []string{command}
				for _, arg := range test.args {
					args = append(args, strings.ReplaceAll(arg, "BACKUP", path+".backup"))
				}
				env := append(childEnv(path, api.url), "USAGE_SYNC_WEBHOOK_SECRET="+hookSecret)
				end, err := (&tracer{args: args, env: env, stdin: stdin, enter: l.enter}).run()
				if err != nil || end.ExitStatus() != 0 {
					t.Fatalf("%v ends with %d: %v", args[1:], end.ExitStatus(), err)
				}
				if got := strings.Join(l.moments, ", "); got != strings.Join(test.moments, ", ") {
					t.Errorf("acknowledged: %s, want %s", got, strings.Join(test.moments, ", "))
				}
				if l.syncs == 0 {
					t.Error("nothing was synced")
				}
				for _, lost := range l.lost {
					t.Error(lost)
				}
			})
		})
	}
}
