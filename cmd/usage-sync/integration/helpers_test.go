package integration_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"usage-sync/job/openrouter/standin"
)

// untilStdinEnds returns a context that ends when the test closes the helper's standard input, or dies.
func untilStdinEnds() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	return ctx
}

type holdConfig struct {
	Path  string
	Begin string // "begin immediate", "begin exclusive"
}

// hold keeps a transaction open on a database.
func hold(text string) error {
	var config holdConfig
	if err := json.Unmarshal([]byte(text), &config); err != nil {
		return err
	}
	db, err := open(config.Path)
	if err != nil {
		return err
	}
	defer db.Close()
	if _, err := db.Exec(config.Begin); err != nil {
		return err
	}
	fmt.Println("held")
	<-untilStdinEnds().Done()
	_, err = db.Exec("rollback")
	return err
}

type applicationConfig struct {
	Path  string
	Pause time.Duration // between two transactions
	// Polling asks for the lock every 100 µs in place of SQLite's own waiting, whose naps grow to 100 ms.
	Polling bool
	// Bystander leaves the organisation's rows alone.
	Bystander bool
}

type applicationReport struct {
	Writes int             // of a table of its own
	Added  int64           // tokens, to the live counter
	Waits  []time.Duration // for BEGIN IMMEDIATE
}

// step is what the application adds to the live counter at a time.
const step = 7

// application writes to the database as the container's does: short immediate transactions, a busy timeout of 5 s.
func application(text string) error {
	var config applicationConfig
	if err := json.Unmarshal([]byte(text), &config); err != nil {
		return err
	}
	db, err := open(config.Path)
	if err != nil {
		return err
	}
	defer db.Close()
	if config.Polling {
		if _, err := db.Exec("pragma busy_timeout = 0"); err != nil {
			return err
		}
	}
	if _, err := db.Exec("create table if not exists chat_counter (id integer primary key, n integer not null)"); err != nil {
		return err
	}
	if _, err := db.Exec("insert or ignore into chat_counter values (1, 0)"); err != nil {
		return err
	}
	fmt.Println("ready")
	var report applicationReport
	for ctx := untilStdinEnds(); ctx.Err() == nil; time.Sleep(config.Pause) {
		asked := time.Now()
		_, err := db.Exec("begin immediate")
		for config.Polling && err != nil && time.Since(asked) < 5*time.Second {
			time.Sleep(100 * time.Microsecond)
			_, err = db.Exec("begin immediate")
		}
		if err != nil {
			return fmt.Errorf("begin, after %s: %w", time.Since(asked), err)
		}
		report.Waits = append(report.Waits, time.Since(asked))
		if _, err := db.Exec("update chat_counter set n = n + 1"); err != nil {
			return fmt.Errorf("chat_counter: %w", err)
		}
		var added int64
		if !config.Bystander {
			result, err := db.Exec(`update client_live_counters set today_tokens = today_tokens + ?, last_updated = unixepoch()
				where client_org_id = ?`, step, organisation)
			if err != nil {
				return fmt.Errorf("live counter: %w", err)
			}
			added, _ = result.RowsAffected()
		}
		for _, err = db.Exec("commit"); config.Polling && err != nil && time.Since(asked) < 5*time.Second; _, err = db.Exec("commit") {
			time.Sleep(100 * time.Microsecond)
		}
		if err != nil {
			return fmt.Errorf("commit, after %s: %w", time.Since(asked), err)
		}
		report.Writes++
		report.Added += added * step
		var tokens int64
		if config.Polling || config.Bystander {
			continue
		}
		if err := db.QueryRow(`select coalesce(sum(total_tokens), 0) from client_user_daily_usage`).Scan(&tokens); err != nil {
			return fmt.Errorf("statistics: %w", err)
		}
	}
	return json.NewEncoder(os.Stdout).Encode(report)
}

type pagesConfig struct {
	Rows, Page int
	Seed       uint64
}

// servePages is the stand-in with every page rendered before the first request, so that a benchmark measures the
// client. GET /requests tells how many pages were asked for.
func servePages(text string) error {
	var config pagesConfig
	if err := json.Unmarshal([]byte(text), &config); err != nil {
		return err
	}
	pages := map[string][]byte{}
	for offset := 0; offset < config.Rows; offset += config.Page {
		// A stand-in for each page: all rows in one would need the memory twice.
		server := standin.NewGateway(func() time.Time { return now })
		server.AddKey(key, "Acme GmbH")
		server.PageLimit(config.Page)
		for i := offset; i < min(offset+config.Page, config.Rows); i++ {
			server.Add(key, generation(i, config.Rows, config.Seed))
		}
		request := httptest.NewRequest(http.MethodGet, "/api/v1/generations?limit="+strconv.Itoa(config.Page), nil)
		request.Header.Set("Authorization", "Bearer "+key)
		answer := httptest.NewRecorder()
		server.ServeHTTP(answer, request)
		if answer.Code != http.StatusOK {
			return fmt.Errorf("page at %d: %s", offset, answer.Body)
		}
		pages[strconv.Itoa(offset)] = answer.Body.Bytes()
	}
	var requests atomic.Int64
	mux := http.NewServeMux()
	mux.HandleFunc("GET /requests", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, requests.Load()) })
	mux.HandleFunc("GET /api/v1/generations", func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		page, found := pages[r.URL.Query().Get("offset")]
		if !found {
			page = []byte(`{"data":[]}`)
		}
		w.Header().Set("Date", now.UTC().Format(http.TimeFormat))
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", strconv.Itoa(len(page)))
		_, _ = w.Write(page)
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println("http://" + listener.Addr().String())
	go func() { _ = http.Serve(listener, mux) }()
	<-untilStdinEnds().Done()
	return nil
}

// managementKey is that of the account of the analytics.
const managementKey = "sk-or-v1-integration-management"

type analyticsConfig struct {
	Rows int
	Seed uint64
}

// serveAnalytics is the stand-in with a management key, which answers the same request a second time from memory, so that a
// benchmark measures the client. GET /requests tells how many requests there were.
func serveAnalytics(text string) error {
	var config analyticsConfig
	if err := json.Unmarshal([]byte(text), &config); err != nil {
		return err
	}
	server := standin.NewGateway(func() time.Time { return now })
	server.AddKey(key, "Acme GmbH")
	server.AddManagementKey(managementKey)
	server.AnalyticsPerMinute(0) // a benchmark makes several passes a minute
	server.Add(key, generations(config.Rows, config.Seed)...)
	var requests atomic.Int64
	var answers sync.Map
	mux := http.NewServeMux()
	mux.HandleFunc("GET /requests", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, requests.Load()) })
	mux.HandleFunc("/api/v1/", func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		id := r.URL.String() + string(body)
		known, found := answers.Load(id)
		if !found {
			answer := httptest.NewRecorder()
			r.Body = io.NopCloser(bytes.NewReader(body))
			server.ServeHTTP(answer, r)
			known, _ = answers.LoadOrStore(id, answer)
		}
		answer := known.(*httptest.ResponseRecorder)
		maps.Copy(w.Header(), answer.Header())
		w.WriteHeader(answer.Code)
		_, _ = w.Write(answer.Body.Bytes())
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println("http://" + listener.Addr().String())
	go func() { _ = http.Serve(listener, mux) }()
	<-untilStdinEnds().Done()
	return nil
}

type measureConfig struct {
	Args, Env []string
}

type measured struct {
	Wall, CPU time.Duration
	RSS       int64 // bytes
	Code      int
	Stderr    string
}

// measureChild runs the binary from a process that is itself small: Linux counts the peak of a process that calls vfork
// and exec into the peak of what it starts, and the one that runs the benchmarks is large.
func measureChild(text string) error {
	var config measureConfig
	if err := json.Unmarshal([]byte(text), &config); err != nil {
		return err
	}
	cmd := exec.Command(config.Args[0], config.Args[1:]...)
	cmd.Env = config.Env
	stderr := &tail{}
	cmd.Stderr = stderr
	start := time.Now()
	err := cmd.Run()
	m := measured{Wall: time.Since(start)}
	if cmd.ProcessState == nil {
		return err
	}
	usage := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	m.CPU = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	m.RSS = usage.Maxrss << 10
	m.Code = cmd.ProcessState.ExitCode()
	m.Stderr = string(stderr.last)
	return json.NewEncoder(os.Stdout).Encode(m)
}

// tail keeps the end of what is written to it.
type tail struct{ last []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.last = append(t.last, p...)
	t.last = t.last[max(0, len(t.last)-2000):]
	return len(p), nil
}
