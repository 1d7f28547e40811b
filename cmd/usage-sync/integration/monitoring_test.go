package integration_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"usage-sync/job/openrouter/standin"
)

var monitoring = flag.Bool("monitoring", false, "run Prometheus, node_exporter and Alertmanager, which must be installed")

// monitoringFiles is where the alert rules and the dashboard lie.
const monitoringFiles = "../../../job/monitor"

// TestMonitoring goes the whole way: passes, their metrics file, node_exporter, Prometheus with the alert rules,
// Alertmanager, a webhook. An alert fires and resolves, and each expression of the dashboard has an answer.
func TestMonitoring(t *testing.T) {
	if !*monitoring {
		t.Skip("make test-monitoring runs it")
	}
	tool(t, "promtool", "check", "rules", filepath.Join(monitoringFiles, "alerts.yml"))
	tool(t, "promtool", "test", "rules", filepath.Join(monitoringFiles, "alerts_test.yml"))

	var behind atomic.Int64 // the server's clock, in which passes believe
	api := standin.NewGateway(func() time.Time { return time.Now().Add(-time.Duration(behind.Load())) })
	api.AddKey(key, "Acme GmbH")
	for i := range 20 {
		api.Add(key, standin.Generation{ID: fmt.Sprintf("gen-%d", i), CreatedAt: time.Now().Add(-2 * time.Hour), Model: models[i%2],
			PromptTokens: 10, CompletionTokens: 5, Cost: "0.01"})
	}
	server := httptest.NewServer(api)
	t.Cleanup(server.Close)
	path := newDatabase(t, "WAL")
	exec1(t, mustOpen(t, path), `update client_organizations set monthly_limit = 100`)
	textfiles := t.TempDir()
	file := filepath.Join(textfiles, "usage-sync.prom") // which all instances of the host share
	passOf := func(instance, path string, code int, at time.Time) {
		t.Helper()
		run(t, code, path, server.URL+"/api/v1", "sync", "--now", at.Format(time.RFC3339), "--instance", instance, "--metrics-file", file,
			"--metrics-models")
	}
	pass := func(code int, at time.Time) { t.Helper(); passOf("acme", path, code, at) }

	// The first pass was made seventy minutes ago, which is seven intervals.
	behind.Store(int64(70 * time.Minute))
	pass(0, time.Now().Add(-70*time.Minute))
	behind.Store(0)
	passOf("globex", newDatabase(t, "WAL"), 0, time.Now())
	for _, instance := range []string{"acme", "globex"} {
		if !strings.Contains(string(content(t, file)), `usage_sync_last_exit_code{instance="`+instance+`"} 0`) {
			t.Errorf("%s is not in the file", instance)
		}
	}
	check := exec.Command(program(t, "promtool"), "check", "metrics")
	check.Stdin = strings.NewReader(string(content(t, file)))
	if output, err := check.CombinedOutput(); err != nil || len(output) > 0 {
		t.Fatalf("promtool check metrics: %v\n%s", err, output)
	}

	hook := &webhook{alerts: map[string]string{}}
	receiver := httptest.NewServer(hook)
	t.Cleanup(receiver.Close)
	prometheus := startMonitoring(t, textfiles, receiver.URL)

	waitUntil(t, "the alert fires", func() bool { return hook.status("UsageSyncNoSuccess") == "firing" })
	refuse := standin.Status(http.StatusUnauthorized, "")
	api.Always(&refuse)
	for range 3 {
		pass(77, time.Now())
	}
	waitUntil(t, "the alert fires", func() bool { return hook.status("UsageSyncKeyRefused") == "firing" })
	api.Always(nil)
	api.Add(key, standin.Generation{ID: "gen-now", CreatedAt: time.Now().Add(-2 * time.Second), Model: models[0],
		PromptTokens: 10, Cost: "0.01"}) // also on the first of a month
	pass(0, time.Now())
	waitUntil(t, "both alerts resolve", func() bool {
		return hook.status("UsageSyncNoSuccess") == "resolved" && hook.status("UsageSyncKeyRefused") == "resolved"
	})
	for _, name := range hook.names() {
		if name != "UsageSyncLate" && name != "UsageSyncNoSuccess" && name != "UsageSyncKeyRefused" {
			t.Errorf("%s fired as well", name)
		}
	}

	t.Run("rules", func(t *testing.T) { checkRules(t, prometheus) })
	t.Run("dashboard", func(t *testing.T) { checkDashboard(t, prometheus) })
}

// program finds an executable. One that is missing is a failure: who asks for this test wants it to be run.
func program(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%v: apt-get install prometheus prometheus-node-exporter prometheus-alertmanager icinga2-bin", err)
	}
	return path
}

func tool(t *testing.T, name string, args ...string) {
	t.Helper()
	if output, err := exec.Command(program(t, name), args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, output)
	}
}

// startMonitoring runs the three programs on loopback ports and returns Prometheus' URL.
func startMonitoring(t *testing.T, textfiles, webhook string) string {
	t.Helper()
	dir := t.TempDir()
	rules, err := filepath.Abs(filepath.Join(monitoringFiles, "alerts.yml"))
	if err != nil {
		t.Fatal(err)
	}
	exporter, alertmanager, prometheus := freeAddress(t), freeAddress(t), freeAddress(t)
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	daemon(t, "prometheus-node-exporter", "--collector.disable-defaults", "--collector.textfile",
		"--collector.textfile.directory="+textfiles, "--web.listen-address="+exporter)
	daemon(t, "prometheus-alertmanager", "--config.file="+write("alertmanager.yml", fmt.Sprintf(`
route: {receiver: webhook, group_by: [alertname], group_wait: 0s, group_interval: 1s}
receivers:
  - name: webhook
    webhook_configs: [{url: %q, send_resolved: true}]
`, webhook)), "--storage.path="+filepath.Join(dir, "alertmanager"), "--web.listen-address="+alertmanager, "--cluster.listen-address=")
	daemon(t, "prometheus", "--config.file="+write("prometheus.yml", fmt.Sprintf(`
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [%q]
scrape_configs:
  - job_name: node
    static_configs: [{targets: [%q]}]
alerting:
  alertmanagers:
    - static_configs: [{targets: [%q]}]
`, rules, exporter, alertmanager)), "--storage.tsdb.path="+filepath.Join(dir, "prometheus"), "--web.listen-address="+prometheus)
	return "http://" + prometheus
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// daemon runs a program until the test ends. What it says is shown where the test fails.
func daemon(t *testing.T, name string, args ...string) {
	t.Helper()
	said := &tail{}
	cmd := exec.Command(program(t, name), args...)
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s:\n%s", name, said.last)
		}
	})
}

// webhook remembers the last status of each alert of the container acme.
type webhook struct {
	mu     sync.Mutex
	alerts map[string]string
}

func (h *webhook) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	var message struct {
		Alerts []struct {
			Status string            `json:"status"`
			Labels map[string]string `json:"labels"`
		} `json:"alerts"`
	}
	_ = json.NewDecoder(r.Body).Decode(&message)
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, alert := range message.Alerts {
		if alert.Labels["exported_instance"] == "acme" {
			h.alerts[alert.Labels["alertname"]] = alert.Status
		}
	}
}

func (h *webhook) status(alert string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.alerts[alert]
}

func (h *webhook) names() (names []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for name := range h.alerts {
		names = append(names, name)
	}
	return names
}

// ask asks Prometheus and reads the field data of its answer.
func ask(t *testing.T, prometheus, path string, query url.Values, data any) {
	t.Helper()
	response, err := http.Get(prometheus + "/api/v1/" + path + "?" + query.Encode())
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer := struct {
		Status, Error string
		Data          any
	}{Data: data}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil || answer.Status != "success" {
		t.Errorf("%s %v: %v %s %s", path, query, err, answer.Status, answer.Error)
	}
}

// checkRules: Prometheus evaluates each rule.
func checkRules(t *testing.T, prometheus string) {
	var rules struct {
		Groups []struct {
			Rules []struct{ Name, Health, LastError string }
		}
	}
	ask(t, prometheus, "rules", nil, &rules)
	count := 0
	for _, group := range rules.Groups {
		for _, rule := range group.Rules {
			count++
			if rule.Health != "ok" {
				t.Errorf("%s is %s: %s", rule.Name, rule.Health, rule.LastError)
			}
		}
	}
	if want := strings.Count(string(content(t, filepath.Join(monitoringFiles, "alerts.yml"))), "- alert:"); count != want {
		t.Errorf("%d rules, want %d", count, want)
	}
}

// unknown are metrics that a single pass says nothing of.
var unknown = regexp.MustCompile(`_forecast_|_anomaly_|_reconcile_`)

// checkDashboard: each expression of each panel and variable has an answer, and shows something.
func checkDashboard(t *testing.T, prometheus string) {
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
		Templating struct {
			List []struct {
				Name  string
				Query any
			}
		}
	}
	if err := json.Unmarshal(content(t, filepath.Join(monitoringFiles, "dashboard.json")), &dashboard); err != nil {
		t.Fatal(err)
	}
	variables := strings.NewReplacer("$host", ".*", "$container", ".*", "$org", organisation)
	asked := 0
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			expr := variables.Replace(target.Expr)
			if strings.Contains(expr, "$") {
				t.Errorf("%s: a variable that is none of the dashboard's: %s", panel.Title, expr)
			}
			var data struct{ Result []any }
			ask(t, prometheus, "query", url.Values{"query": {expr}}, &data)
			if len(data.Result) == 0 && !unknown.MatchString(expr) {
				t.Errorf("%s shows nothing: %s", panel.Title, expr)
			}
			asked++
		}
	}
	labelValues := regexp.MustCompile(`^label_values\((.*), ([a-z_]+)\)$`)
	want := map[string]string{"container": "acme", "org": organisation}
	for _, variable := range dashboard.Templating.List {
		query, _ := variable.Query.(map[string]any)
		if query == nil {
			continue // of the data source
		}
		parts := labelValues.FindStringSubmatch(variables.Replace(fmt.Sprint(query["query"])))
		if parts == nil {
			t.Errorf("variable %s: %v", variable.Name, query)
			continue
		}
		var values []string
		ask(t, prometheus, "label/"+parts[2]+"/values", url.Values{"match[]": {parts[1]}}, &values)
		if len(values) == 0 || want[variable.Name] != "" && !slices.Contains(values, want[variable.Name]) {
			t.Errorf("variable %s: %v", variable.Name, values)
		}
		asked++
	}
	if asked < 30 {
		t.Errorf("only %d expressions", asked)
	}
}
