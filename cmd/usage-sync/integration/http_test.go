package integration_test

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"usage-sync/job/openrouter/standin"
)

const hookSecret = "integration-hook-secret"

const deliveryPath = "/api/v1/usage-tracking/webhook/openrouter-usage"

type acceptConfig struct {
	Env       []string
	Most      int // connections at once; more have to wait
	KillEvery int // each n-th process is killed in the middle; 0 is none
}

type acceptReport struct {
	Codes map[int]int // processes by exit code; -1 is killed
	CPU   []time.Duration
	RSS   int64  // bytes, the largest
	Words string // what they logged last
}

// acceptConnections does what systemd does for a socket with Accept=yes: each connection starts a process that has it as
// standard input and output.
func acceptConnections(text string) error {
	var config acceptConfig
	if err := json.Unmarshal([]byte(text), &config); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr())
	var (
		mu      sync.Mutex
		running sync.WaitGroup
		slots   = make(chan struct{}, config.Most)
		report  = acceptReport{Codes: map[int]int{}}
		words   tail
	)
	answer := func(n int, conn *os.File) {
		defer running.Done()
		defer func() { <-slots }()
		cmd := exec.Command(os.Getenv("USAGE_SYNC_TEST_COMMAND"), "http", "--log-level", "WARNING")
		cmd.Env, cmd.Stdin, cmd.Stdout = config.Env, conn, conn
		stderr := &tail{}
		cmd.Stderr = stderr
		err := cmd.Start()
		_ = conn.Close()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return
		}
		if config.KillEvery > 0 && n%config.KillEvery == 0 {
			time.AfterFunc(time.Duration(rand.IntN(30))*time.Millisecond, func() { _ = cmd.Process.Kill() })
		}
		_ = cmd.Wait()
		mu.Lock()
		defer mu.Unlock()
		report.Codes[cmd.ProcessState.ExitCode()]++
		report.CPU = append(report.CPU, cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime())
		report.RSS = max(report.RSS, cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss<<10)
		_, _ = words.Write(stderr.last)
	}
	accepting := make(chan struct{})
	go func() {
		defer close(accepting)
		for n := 1; ; n++ {
			slots <- struct{}{}
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			file, err := conn.(*net.TCPConn).File()
			_ = conn.Close()
			if err != nil {
				return
			}
			running.Add(1)
			go answer(n, file)
		}
	}()
	<-untilStdinEnds().Done()
	_ = listener.Close()
	<-accepting
	running.Wait()
	report.Words = string(words.last)
	return json.NewEncoder(os.Stdout).Encode(report)
}

// startAcceptor starts it in a process of its own, which is small: see measureChild.
func startAcceptor(t testing.TB, path, baseURL string, most, killEvery int) (url string, end func() acceptReport) {
	t.Helper()
	t.Setenv("USAGE_SYNC_TEST_COMMAND", command)
	env := append(childEnv(path, baseURL), "USAGE_SYNC_WEBHOOK_SECRET="+hookSecret)
	helper, addr := startHelper(t, "accept", acceptConfig{env, most, killEvery})
	return "http://" + addr, func() acceptReport {
		t.Helper()
		var report acceptReport
		if err := json.Unmarshal([]byte(endHelper(t, helper)), &report); err != nil {
			t.Fatal(err)
		}
		return report
	}
}

// broadcast writes a generation as OpenRouter delivers it.
func broadcast(g standin.Generation) string {
	attribute := func(key, kind, value string) string {
		return fmt.Sprintf(`{"key":%q,"value":{%q:%s}}`, key, kind, value)
	}
	attributes := []string{
		attribute("span.type", "stringValue", `"generation"`),
		attribute("gen_ai.response.id", "stringValue", fmt.Sprintf("%q", g.ID)),
		attribute("gen_ai.response.model", "stringValue", fmt.Sprintf("%q", g.Model)),
		attribute("gen_ai.usage.input_tokens", "intValue", fmt.Sprint(g.PromptTokens)),
		attribute("gen_ai.usage.output_tokens", "intValue", fmt.Sprintf(`"%d"`, g.CompletionTokens)),
		attribute("gen_ai.usage.total_cost", "doubleValue", g.Cost),
		attribute("trace.metadata.openrouter.api_key_name", "stringValue", `"Acme GmbH"`),
		attribute("gen_ai.prompt", "stringValue", `"`+strings.Repeat("word ", 200)+`"`),
	}
	if g.ExternalUser != "" {
		attributes = append(attributes, attribute("user.id", "stringValue", fmt.Sprintf("%q", g.ExternalUser)))
	}
	return fmt.Sprintf(`{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"openrouter"}}]},"scopeSpans":[{"spans":[
		{"name":"LLM Generation","startTimeUnixNano":"%d","attributes":[%s]}]}]},
		{"scopeSpans":[{"spans":[{"name":"generation","attributes":[%s,%s]}]}]}]}`, g.CreatedAt.UnixNano(), strings.Join(attributes, ","),
		attribute("span.type", "stringValue", `"span"`), attribute("gen_ai.response.id", "stringValue", fmt.Sprintf("%q", g.ID+":generation")))
}

// post sends a body as OpenRouter does, and returns the status; 0 where no answer came.
func post(client *http.Client, url, body string) (status int, answer string) {
	r, err := http.NewRequest(http.MethodPost, url+deliveryPath, strings.NewReader(body))
	if err != nil {
		return 0, err.Error()
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+hookSecret)
	response, err := client.Do(r)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, err.Error()
	}
	return response.StatusCode, string(text)
}

func newClient() *http.Client {
	return &http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}
}

// deliverAll has clients deliver bodies until each is acknowledged, and returns how long each acknowledged one took.
func deliverAll(t testing.TB, url string, bodies []string, clients int, halfway func()) []time.Duration {
	t.Helper()
	var (
		next, done atomic.Int64
		mu         sync.Mutex
		took       []time.Duration
		all        sync.WaitGroup
		client     = newClient()
	)
	for range clients {
		all.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(bodies); i = int(next.Add(1)) - 1 {
				for try := 1; ; try++ {
					began := time.Now()
					status, answer := post(client, url, bodies[i])
					if status == http.StatusOK {
						mu.Lock()
						took = append(took, time.Since(began))
						mu.Unlock()
						break
					}
					if (status != 0 && status != http.StatusServiceUnavailable) || try == 50 {
						t.Errorf("delivery %d, try %d: HTTP %d %s", i, try, status, answer)
						return
					}
				}
				if done.Add(1) == int64(len(bodies)/2) && halfway != nil {
					all.Go(halfway)
				}
			}
		})
	}
	all.Wait()
	return sorted(took)
}

// TestDeliveries: 64 clients deliver generations, some of them repeatedly; every tenth process is killed; a pass records a
// part of the same generations meanwhile. Each is counted once.
func TestDeliveries(t *testing.T) {
	bothJournals(t, func(t *testing.T, journal string) {
		const clients = 64
		count := 200
		if *long {
			count = 1000
		}
		all := generations(count, 21)
		api := newGateway(t, 100, all[:count*3/5])
		path := newDatabase(t, journal)
		url, end := startAcceptor(t, path, api.url, clients, 10)
		var bodies []string
		for i, g := range all[10:] { // the first are listed alone: the pass always has something to record
			bodies = append(bodies, broadcast(g))
			if i%4 == 0 {
				bodies = append(bodies, broadcast(g))
			}
		}
		random := rand.New(rand.NewPCG(1, 2))
		random.Shuffle(len(bodies), func(i, j int) { bodies[i], bodies[j] = bodies[j], bodies[i] })
		began := time.Now()
		took := deliverAll(t, url, bodies, clients, func() { run(t, 0, path, api.url, "sync") })
		wall := time.Since(began)
		report := end()
		t.Logf("%d deliveries in %s: p50 %s, p99 %s; processes by exit code: %v", len(took), wall.Round(time.Millisecond),
			took[len(took)/2].Round(time.Millisecond), took[len(took)*99/100].Round(time.Millisecond), report.Codes)
		if report.Codes[-1] < len(bodies)/25 {
			t.Errorf("only %d processes were killed", report.Codes[-1])
		}
		for code := range report.Codes {
			if !slices.Contains([]int{-1, 0, 75}, code) {
				t.Errorf("processes end with code %d: %s", code, report.Words)
			}
		}
		checkTruth(t, path, truth(all))
		checkSound(t, path)
		db := mustOpen(t, path)
		if n := value[int](t, db, "select count(distinct source) from usage_sync_generations"); n != 2 {
			t.Errorf("generations of %d sources, want both", n)
		}
		if n := value[int](t, db, "select sum(recorded) from usage_sync_runs"); n != len(all) {
			t.Errorf("the history has %d generations, want %d", n, len(all))
		}
		// Afterwards a whole pass finds nothing to do.
		api.Add(key, all[count*3/5:]...)
		run(t, 0, path, api.url, "sync", "--full")
		checkTruth(t, path, truth(all))
	})
}

// TestDeliveryMemory: the largest body takes no more memory than a small machine can spare.
func TestDeliveryMemory(t *testing.T) {
	const size, most = 8 << 20, 64 << 20
	g := generation(0, 10, 5)
	fill := func(text string) string {
		return strings.Replace(broadcast(g), `{"name":"generation"`, text+`{"name":"generation"`, 1)
	}
	for name, body := range map[string]string{
		"one text":   strings.Replace(broadcast(g), "word word", strings.Repeat("x", size-4000), 1),
		"many spans": fill(strings.Repeat("{},", size/3-2000)),
		"many roots": fill(strings.Repeat(`{"attributes":[{"key":"span.type","value":{"stringValue":"generation"}}]},`, 9000)),
		"deep":       fill(`{"events":` + strings.Repeat("[", 9000) + strings.Repeat("]", 9000) + `},`),
	} {
		t.Run(name, func(t *testing.T) {
			path := newDatabase(t, "DELETE")
			url, end := startAcceptor(t, path, "http://127.0.0.1:1", 1, 0)
			status, answer := post(newClient(), url, body)
			if want := map[bool]int{true: 422, false: 200}[name == "many roots"]; status != want {
				t.Errorf("HTTP %d %s, want %d", status, answer, want)
			}
			report := end()
			t.Logf("%d MB for a body of %d MB", report.RSS>>20, len(body)>>20)
			if report.RSS > most {
				t.Errorf("%d MB, at most %d may be", report.RSS>>20, most>>20)
			}
			if n := value[int](t, mustOpen(t, path), "select count(*) from processed_generations"); n != 1 {
				t.Errorf("%d generations are recorded, want 1", n)
			}
		})
	}
}

// BenchmarkDelivery measures deliveries as whole processes, one after the other and many at once.
func BenchmarkDelivery(b *testing.B) {
	const deliveries = 600
	for range b.N {
		path := newDatabase(b, "DELETE")
		url, end := startAcceptor(b, path, "http://127.0.0.1:1", 16, 0)
		var bodies []string
		for _, g := range generations(deliveries, 22) {
			bodies = append(bodies, broadcast(g))
		}
		alone := deliverAll(b, url, bodies[:100], 1, nil)
		began := time.Now()
		took := deliverAll(b, url, bodies[100:], 64, nil)
		wall := time.Since(began)
		report := end()
		if n := checkConsistent(b, path); n != deliveries {
			b.Fatalf("%d generations are recorded, want %d", n, deliveries)
		}
		figure(b, "cpu-ms", milliseconds(median(report.CPU)), "<= 15")
		figure(b, "alone-ms", milliseconds(median(alone)), "")
		figure(b, "deliveries/s", float64(len(took))/wall.Seconds(), ">= 150")
		figure(b, "p50-ms", milliseconds(median(took)), "")
		figure(b, "p99-ms", milliseconds(took[len(took)*99/100]), "")
		figure(b, "peak-MB", megabytes(report.RSS), "<= 64")
		b.ReportMetric(0, "ns/op")
	}
}
