package integration_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// The tests of this file make real things fail, and look for the code and the advice that fit the cause.

// wantFailure fails the test unless a run ended with a code and said something on standard error.
func wantFailure(t *testing.T, c *child, code int, words ...string) {
	t.Helper()
	if got := c.ProcessState.ExitCode(); got != code {
		t.Errorf("%v exits %d (%v), want %d\n%s", c.Args[1:], got, c.ProcessState, code, &c.stderr)
	}
	for _, word := range words {
		if !strings.Contains(c.stderr.String(), word) {
			t.Errorf("%v does not say %q:\n%s", c.Args[1:], word, &c.stderr)
		}
	}
}

// TestTablesChangeMeanwhile has the application upgrade its schema while a pass waits for an answer.
func TestTablesChangeMeanwhile(t *testing.T) {
	all := generations(20, 4)
	api := newGateway(t, 100, all)
	path := newDatabase(t, "WAL")
	alter := func(statement string) {
		db, err := open(path)
		if err == nil {
			_, err = db.Exec(statement)
			err = errors.Join(err, db.Close())
		}
		if err != nil {
			t.Error(err)
		}
	}
	api.whenArriving(func(n int, _ *http.Request) {
		if n == 1 {
			alter("alter table client_model_daily_usage rename to _alembic_tmp_client_model_daily_usage")
		}
	})
	c := newChild(path, api.url, "sync")
	_ = c.Run()
	wantFailure(t, c, 75, "no such table: ")
	alter("alter table _alembic_tmp_client_model_daily_usage rename to client_model_daily_usage")
	run(t, 0, path, api.url, "sync")
	checkTruth(t, path, truth(all))
}

// TestConnectionIsReset resets the connection once in the middle of an answer.
func TestConnectionIsReset(t *testing.T) {
	all := generations(150, 4)
	api := newGateway(t, 100, all)
	path := newDatabase(t, "DELETE")
	var requests atomic.Int64
	cut := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if requests.Add(1) != 2 {
			api.ServeHTTP(w, r)
			return
		}
		whole := httptest.NewRecorder()
		api.ServeHTTP(whole, r)
		conn, buffer, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		fmt.Fprintf(buffer, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", whole.Body.Len())
		_, _ = buffer.Write(whole.Body.Bytes()[:whole.Body.Len()/2])
		_ = buffer.Flush()
		_ = conn.(*net.TCPConn).SetLinger(0) // closing sends RST
		_ = conn.Close()
	}))
	defer cut.Close()
	c := run(t, 0, path, cut.URL+"/api/v1", "sync")
	if !strings.Contains(c.stderr.String(), "trying again") {
		t.Errorf("the answer was not cut:\n%s", &c.stderr)
	}
	checkTruth(t, path, truth(all))
}

func TestEncryptedDatabase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "webui.db")
	random := rand.NewChaCha8([32]byte{1})
	page := make([]byte, 16*4096)
	_, _ = random.Read(page)
	if err := os.WriteFile(path, page, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"sync", "usage", "backup"} {
		args := []string{command}
		if command == "backup" {
			args = append(args, t.TempDir())
		}
		c := newChild(path, "http://127.0.0.1:9/api/v1", args...)
		_ = c.Run()
		wantFailure(t, c, 78, "encrypted database", "sqlcipher")
	}
	// A text of the same length is no database either, and not encrypted.
	if err := os.WriteFile(path, bytes.Repeat([]byte("webui is not here. "), 4096)[:16*4096], 0o600); err != nil {
		t.Fatal(err)
	}
	c := newChild(path, "http://127.0.0.1:9/api/v1", "usage")
	_ = c.Run()
	wantFailure(t, c, 74, "--db")
}

// TestNobodyReadsTheLog: a pass goes on where its standard error is a pipe that nobody reads any more.
func TestNobodyReadsTheLog(t *testing.T) {
	all := generations(150, 4)
	api := newGateway(t, 100, all)
	path := newDatabase(t, "DELETE")
	c := newChild(path, api.url, "sync")
	c.Env = append(c.Env, "LOG_LEVEL=debug")
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	c.Stderr = write
	read.Close()
	c.start(t)
	write.Close()
	if err := c.Wait(); err != nil {
		t.Fatal(err)
	}
	checkTruth(t, path, truth(all))

	t.Run("nor the result", func(t *testing.T) {
		c := newChild(path, api.url, "usage")
		read, write, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		c.Stdout = write
		read.Close()
		c.start(t)
		write.Close()
		_ = c.Wait()
		wantFailure(t, c, 128+int(syscall.SIGPIPE))
		if c.stderr.Len() > 0 {
			t.Errorf("it complains: %s", &c.stderr)
		}
	})
}

// TestTerminalCloses: a pass whose terminal goes away ends in order, unless nohup has told it not to.
func TestTerminalCloses(t *testing.T) {
	if signal.Ignored(syscall.SIGHUP) {
		t.Skip("this test itself runs under nohup, and its children with it")
	}
	all := generations(250, 4)
	api := newGateway(t, 100, all)
	for _, nohup := range []bool{false, true} {
		path := newDatabase(t, "DELETE")
		pass := newChild(path, api.url, "sync")
		if nohup {
			pass.Cmd = exec.Command("sh", "-c", "trap '' HUP; exec "+command+" sync")
			pass.Env, pass.Stderr = childEnv(path, api.url), &pass.stderr
		}
		started := make(chan struct{})
		api.whenArriving(func(n int, r *http.Request) {
			if n == 2 {
				<-started
				if err := pass.Process.Signal(syscall.SIGHUP); err != nil {
					t.Error(err)
				}
				if !nohup {
					<-r.Context().Done() // until it has ended: it is not through before
				}
			}
		})
		pass.start(t)
		close(started)
		_ = pass.Wait()
		if nohup {
			wantFailure(t, pass, 0)
			checkTruth(t, path, truth(all))
			continue
		}
		wantFailure(t, pass, 128+int(syscall.SIGHUP), "interrupted by signal 1")
		checkConsistent(t, path)
		if n := value[int](t, mustOpen(t, path), "select count(*) from usage_sync_runs where exit_code = 129"); n != 1 {
			t.Errorf("%d such runs in the history", n)
		}
	}
}

// TestKeyWithLineBreak: no request can carry such a key, so none is tried.
func TestKeyWithLineBreak(t *testing.T) {
	api := newGateway(t, 100, nil)
	path := newDatabase(t, "DELETE")
	db := mustOpen(t, path)
	exec1(t, db, "update client_organizations set openrouter_api_key = 'sk-or-v1' || char(10) || '-acme'")
	c := newChild(path, api.url, "sync")
	_ = c.Run()
	wantFailure(t, c, 78, "holds a blank or a control character")
	if n := api.count(); n != 0 {
		t.Errorf("%d requests", n)
	}
}

// TestFirstSignalIsEnough: what waits for its input ends at the first signal.
func TestFirstSignalIsEnough(t *testing.T) {
	path := newDatabase(t, "DELETE")
	for _, args := range [][]string{{"ingest"}, {"http"}} {
		c := newChild(path, "http://127.0.0.1:9/api/v1", args...)
		stdin, err := c.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		defer stdin.Close()
		if args[0] == "http" {
			if _, err := io.WriteString(stdin, "GET /api/v1/usage-"); err != nil {
				t.Fatal(err)
			}
		} else if _, err := io.WriteString(stdin, "\n"); err != nil {
			t.Fatal(err)
		}
		c.start(t)
		waitUntil(t, args[0]+" reads its input", func() bool { return emptyPipe(stdin) })
		if err := c.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			_ = c.Wait()
			close(ended)
		}()
		await(t, ended, "the end of "+args[0])
		wantFailure(t, c, 130)
	}
}

// emptyPipe tells whether what was written to a pipe has been read.
func emptyPipe(w io.WriteCloser) bool {
	var unread int
	raw, err := w.(syscall.Conn).SyscallConn()
	if err != nil {
		return false
	}
	_ = raw.Control(func(fd uintptr) { unread, err = pending(fd) })
	return err == nil && unread == 0
}

// inside says what to run in a tree of mounts of its own, see runInside.
type inside struct {
	Mounts []mount
	Copies [][2]string // files: from, to
	Dir    string
	Args   []string
	Env    []string
}

type mount struct{ Source, Target, Type, Options string }

type insideResult struct {
	Code           int
	Stdout, Stderr string
}

// runInside runs a command as root in a tree of mounts of its own.
func runInside(t *testing.T, config inside) insideResult {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("left out: only root may mount")
	}
	_, line := startHelper(t, "inside", config)
	var result insideResult
	if err := json.Unmarshal([]byte(line), &result); err != nil {
		t.Fatal(err)
	}
	return result
}

func runMounted(text string) error {
	var config inside
	if err := json.Unmarshal([]byte(text), &config); err != nil {
		return err
	}
	runtime.LockOSThread() // the mounts are seen by this thread and its children
	if err := syscall.Unshare(syscall.CLONE_NEWNS | syscall.CLONE_FS); err != nil {
		return err
	}
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return err
	}
	for _, m := range config.Mounts {
		var flags uintptr
		options := m.Options
		switch m.Options {
		case "bind":
			flags, options = syscall.MS_BIND, ""
		case "remount,ro":
			flags, options = syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""
		case "ro":
			flags, options = syscall.MS_RDONLY, ""
		}
		if err := syscall.Mount(m.Source, m.Target, m.Type, flags, options); err != nil {
			return fmt.Errorf("mount %+v: %w", m, err)
		}
	}
	for _, c := range config.Copies {
		text, err := os.ReadFile(c[0])
		if err == nil {
			err = os.WriteFile(c[1], text, 0o644)
		}
		if err != nil {
			return err
		}
	}
	cmd := exec.Command(config.Args[0], config.Args[1:]...)
	cmd.Env, cmd.Dir = config.Env, config.Dir
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		return err
	}
	line, err := json.Marshal(insideResult{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()})
	if err == nil {
		fmt.Printf("%s\n", line)
	}
	return err
}

func wantInside(t *testing.T, got insideResult, code int, words ...string) {
	t.Helper()
	if got.Code != code {
		t.Errorf("exits %d, want %d\n%s", got.Code, code, got.Stderr)
	}
	for _, word := range words {
		if !strings.Contains(got.Stderr, word) {
			t.Errorf("does not say %q:\n%s", word, got.Stderr)
		}
	}
}

// TestNoInode: SQLite can't make its journal because the disk has no inode left, and says that it can't open a file.
func TestNoInode(t *testing.T) {
	api := newGateway(t, 100, generations(20, 4))
	path := newDatabase(t, "DELETE")
	full := t.TempDir()
	got := runInside(t, inside{
		Mounts: []mount{{"tmpfs", full, "tmpfs", "nr_inodes=2,size=16m"}},
		Copies: [][2]string{{path, full + "/webui.db"}},
		Args:   []string{command, "sync", "--lock", filepath.Join(t.TempDir(), "lock")},
		Env:    childEnv(full+"/webui.db", api.url),
	})
	wantInside(t, got, 74, "no inode left")
}

// TestBackupDiskIsFull copies to a disk that is too small, all pages and the usage alone.
func TestBackupDiskIsFull(t *testing.T) {
	path := newDatabase(t, "DELETE")
	exec1(t, mustOpen(t, path), "create table chat as select randomblob(3000000) as text")
	exec1(t, mustOpen(t, path), "insert into processed_generations values ('x', 'acme', '2025-11-11', 0, 1, 1)")
	for size, args := range map[string][]string{"1m": {}, "64k": {"--usage-only"}} {
		full := t.TempDir()
		got := runInside(t, inside{
			Mounts: []mount{{"tmpfs", full, "tmpfs", "size=" + size}},
			Args:   append([]string{command, "backup", full + "/copy.db"}, args...),
			Env:    childEnv(path, ""),
		})
		wantInside(t, got, 74, "free disk space")
	}
}

// TestSnapshotIsReadOnly reads a database in WAL mode from a snapshot that nobody can write to, and as a user who may not
// write beside it.
func TestSnapshotIsReadOnly(t *testing.T) {
	api := newGateway(t, 100, generations(20, 4))
	path := newDatabase(t, "WAL")
	run(t, 0, path, api.url, "sync")
	dir := filepath.Dir(path)
	long := time.Now().Add(-time.Hour)
	if err := os.Chtimes(path, long, long); err != nil {
		t.Fatal(err)
	}
	t.Run("snapshot", func(t *testing.T) {
		for _, command2 := range []string{"usage", "status", "doctor", "history"} {
			got := runInside(t, inside{
				Mounts: []mount{{dir, dir, "", "bind"}, {dir, dir, "", "remount,ro"}},
				Args:   []string{command, command2}, Env: childEnv(path, api.url),
			})
			want := 0
			if command2 == "doctor" { // passes can't work there
				want = 77
			}
			wantInside(t, got, want)
			if command2 == "doctor" && !strings.Contains(got.Stdout, "✓ readable") {
				t.Error(got.Stdout)
			}
		}
	})
	t.Run("other user", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("left out: only root may become another user")
		}
		program := filepath.Join(t.TempDir(), "usage-sync")
		if err := os.Link(command, program); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.Chmod(path, 0o644), os.Chmod(filepath.Dir(dir), 0o755), os.Chmod(filepath.Dir(filepath.Dir(program)), 0o755)); err != nil {
			t.Fatal(err)
		}
		for _, command := range []string{"usage", "status"} {
			c := newChild(path, api.url, command)
			c.Cmd = exec.Command(program, command)
			c.Env, c.Stdout, c.Stderr = childEnv(path, api.url), &c.stdout, &c.stderr
			c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
			_ = c.Run()
			wantFailure(t, c, 0)
		}
	})
	for _, suffix := range []string{"-wal", "-shm"} {
		if _, err := os.Lstat(path + suffix); err == nil {
			t.Errorf("%s was left", suffix)
		}
	}
}

// TestNoTemporaryDirectory: reconcile sorts and joins without a place for temporary files.
func TestNoTemporaryDirectory(t *testing.T) {
	all := generations(3000, 4)
	api := newGateway(t, 1000, all)
	path := newDatabase(t, "WAL")
	run(t, 0, path, api.url, "sync")
	const place = "/mnt"
	if _, err := os.Stat(place); err != nil {
		t.Skipf("left out: no %s here to mount the database at", place)
	}
	mounts := []mount{{filepath.Dir(path), place, "", "bind"}}
	program := filepath.Join(filepath.Dir(path), "usage-sync")
	if err := os.Link(command, program); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"/var/tmp", "/usr/tmp", "/tmp"} {
		if _, err := os.Stat(dir); err == nil {
			mounts = append(mounts, mount{"tmpfs", dir, "tmpfs", "ro"})
		}
	}
	for _, args := range [][]string{{"reconcile", "--from", "2025-11-11", "--to", "2025-11-12"}, {"report", "--from", "2025-11-11", "--to", "2025-11-12"}, {"sync", "--full"}} {
		got := runInside(t, inside{Mounts: mounts, Dir: "/proc", Args: append([]string{place + "/usage-sync"}, args...),
			Env: childEnv(place+"/webui.db", api.url)})
		if got.Code == 74 || got.Code == 70 || strings.Contains(got.Stderr, "unable to open database file") {
			t.Errorf("%v exits %d:\n%s", args, got.Code, got.Stderr)
		}
	}
}

// TestPageFitsIntoMemory: a page that would take more memory than the units allow is refused before it does, and the largest
// that is not fits.
func TestPageFitsIntoMemory(t *testing.T) {
	const allowed = 64 << 20 // MemoryMax= of the units
	for size, want := range map[int]int{7 << 20: 0, 40 << 20: 65} {
		var body bytes.Buffer
		body.WriteString(`{"data":[`)
		for i := 0; body.Len() < size; i++ {
			if i > 0 {
				body.WriteByte(',')
			}
			fmt.Fprintf(&body, `{"id":"g%07d","created_at":"%s","model":"a/b","tokens_prompt":1,"tokens_completion":1,"total_cost":0.1}`, i,
				now.Add(-time.Minute-time.Duration(i)*time.Second/2).Format(time.RFC3339))
		}
		body.WriteString(`]}`)
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			if r.URL.Query().Get("offset") == "0" {
				_, _ = w.Write(body.Bytes())
			} else {
				_, _ = io.WriteString(w, `{"data":[]}`)
			}
		}))
		path := newDatabase(t, "WAL")
		_, line := startHelper(t, "measure", measureConfig{[]string{command, "sync"}, childEnv(path, server.URL+"/api/v1")})
		server.Close()
		var m measured
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatal(err)
		}
		if m.Code != want || m.RSS > allowed {
			t.Errorf("a page of %d MB: exits %d, want %d, with %d MB\n%s", size>>20, m.Code, want, m.RSS>>20, m.Stderr)
		}
	}
}
