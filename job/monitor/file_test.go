package monitor

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	_ "time/tzdata"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"usage-sync/job"
	"usage-sync/job/alert"
	"usage-sync/job/openrouter"
	"usage-sync/job/reconcile"
	"usage-sync/store"
)

var noon = time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)

// newStore makes a database with organisations, and a metrics file's settings for it.
func newStore(t *testing.T, ids ...string) (*store.Store, MetricsFile) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "webui.db")
	var clients []store.NewOrganisation
	for _, id := range ids {
		clients = append(clients, store.NewOrganisation{ID: id, Name: "The " + id, Key: "sk-or-v1-" + id, Rate: 1.3})
	}
	if err := store.CreateDemo(t.Context(), path, clients, noon); err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(t.Context(), path, store.ReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db, MetricsFile{Path: filepath.Join(t.TempDir(), "usage-sync-here.prom"), Version: "v1", Interval: 10 * time.Minute,
		Models: true, Database: path, Zone: time.UTC, Rule: alert.NewRule(10*time.Minute, alert.Settings{LimitWarning: 80, LimitCritical: 100, Sensitivity: 1,
			DailyLimit: 10 * store.Dollar, DailyLimitUser: 10 * store.Dollar})}
}

// change changes the database as its container may.
func change(t *testing.T, file MetricsFile, query string) {
	t.Helper()
	container, err := sql.Open("sqlite3", file.Database)
	if err != nil {
		t.Fatal(err)
	}
	defer container.Close()
	if _, err := container.Exec(query); err != nil {
		t.Fatal(err)
	}
}

func runAt(at time.Time, err error) Run {
	code := 0
	if err != nil {
		code = 70
	}
	return Run{StartedAt: at.Add(-time.Second), EndedAt: at, ExitCode: code, Err: err}
}

// parse reads a whole metrics file.
func parse(t *testing.T, path string) map[string]*dto.MetricFamily {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(string(text)))
	if err != nil {
		t.Fatalf("%v in %d bytes", err, len(text))
	}
	return families
}

// metric returns the value of the only metric of a name with such a label, or says that there is none.
func metric(families map[string]*dto.MetricFamily, name string, label ...string) (float64, bool) {
	for _, m := range families["usage_sync_"+name].GetMetric() {
		if len(label) == 0 || slices.ContainsFunc(m.Label, func(l *dto.LabelPair) bool { return l.GetName() == label[0] && l.GetValue() == label[1] }) {
			return m.GetGauge().GetValue() + m.GetCounter().GetValue(), true
		}
	}
	return 0, false
}

func TestWriteKeepsWhatStillHolds(t *testing.T) {
	db, file := newStore(t, "acme", "globex")
	ctx := t.Context()
	for _, r := range []store.Run{
		{StartedAt: noon, EndedAt: noon, OrganisationID: "acme", Recorded: 3, Statuses: map[string]int64{"200": 2}},
		{StartedAt: noon, EndedAt: noon.Add(-time.Hour), OrganisationID: "globex"},
	} {
		if err := db.FinishRun(ctx, r, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := file.Write(ctx, db, runAt(noon, nil)); err != nil {
		t.Fatal(err)
	}
	failure := fmt.Errorf("database: %w", store.ErrIO)
	for i := range 2 {
		if err := file.Write(ctx, nil, runAt(noon.Add(time.Hour), failure)); err != nil {
			t.Fatal(err)
		}
		families := parse(t, file.Path)
		for _, want := range []struct {
			name  string
			value float64
			label []string
		}{
			{"last_success_timestamp_seconds", float64(noon.Add(-time.Hour).Unix()), nil}, // of globex, the older one
			{"org_last_success_timestamp_seconds", float64(noon.Unix()), []string{"org", "acme"}},
			{"org_generations_total", 3, []string{"result", "recorded"}},
			{"org_info", 1, []string{"org", "globex"}},
			{"last_start_timestamp_seconds", float64(noon.Add(time.Hour - time.Second).Unix()), nil},
			{"consecutive_failures", float64(i + 1), []string{"class", "database"}},
			{"last_exit_code", 70, nil},
		} {
			if got, found := metric(families, want.name, want.label...); !found || got != want.value {
				t.Errorf("run %d: %s%v is %v (%v), want %v", i, want.name, want.label, got, found, want.value)
			}
		}
		for _, name := range []string{"org_today_cost_dollars", "org_month_cost_dollars", "org_last_exit_code", "ledger_rows"} {
			if got, found := metric(families, name); found {
				t.Errorf("run %d: %s is still %v", i, name, got)
			}
		}
	}
	// Another instance takes over the file: what it told is not this one's.
	other := file
	other.Instance = "elsewhere"
	if err := other.Write(ctx, nil, runAt(noon, failure)); err != nil {
		t.Fatal(err)
	}
	families := parse(t, file.Path)
	if got, _ := metric(families, "last_success_timestamp_seconds", "instance", "elsewhere"); got != 0 {
		t.Errorf("last success %v, want none", got)
	}
	if got, _ := metric(families, "consecutive_failures"); got != 1 {
		t.Errorf("%v failures, want 1", got)
	}
	if _, found := metric(families, "org_info"); found {
		t.Error("the other instance's organisations are still there")
	}
	// So is an organisation that is no longer there, once the database can be read.
	if err := file.Write(ctx, db, runAt(noon, nil)); err != nil {
		t.Fatal(err)
	}
	if got, _ := metric(parse(t, file.Path), "consecutive_failures", "class", "none"); got != 0 {
		t.Errorf("%v failures after a success", got)
	}
}

func TestWriteOverAnything(t *testing.T) {
	_, file := newStore(t, "acme")
	for _, text := range []string{"", "not metrics at all", "usage_sync_consecutive_failures{instance=\"here\"} x\n", "\x00\x00", "usage_sync_consecutive_failures 3\n"} {
		if err := os.WriteFile(file.Path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := file.Write(t.Context(), nil, runAt(noon, errors.New("x"))); err != nil {
			t.Fatal(err)
		}
		if got, _ := metric(parse(t, file.Path), "consecutive_failures"); got != 1 {
			t.Errorf("over %q: %v failures, want 1", text, got)
		}
	}
}

// TestWriteIsAtomic: whoever reads the file while it is written finds one whole version of it, and may read it.
func TestWriteIsAtomic(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	db, file := newStore(t, "acme", "globex", "initech")
	write := func(i int) {
		if err := file.Write(context.Background(), db, runAt(noon.Add(time.Duration(i)*time.Second), nil)); err != nil {
			t.Error(err)
		}
	}
	write(0)
	want := len(parse(t, file.Path))
	done := make(chan struct{})
	var writers sync.WaitGroup
	for range 2 {
		writers.Go(func() {
			for i := range 100 {
				write(i)
			}
		})
	}
	go func() {
		writers.Wait()
		close(done)
	}()
	reads := 0
	for running := true; running; reads++ {
		select {
		case <-done:
			running = false
		default:
		}
		if got := len(parse(t, file.Path)); got != want {
			t.Fatalf("read %d: %d families, want %d", reads, got, want)
		}
		info, err := os.Stat(file.Path)
		if err != nil || info.Mode().Perm() != 0o644 {
			t.Fatalf("%v %v", info.Mode(), err)
		}
	}
	if left, err := os.ReadDir(filepath.Dir(file.Path)); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v %v", left, err)
	}
	if reads < 10 {
		t.Errorf("only %d reads", reads)
	}
}

func TestWriteFails(t *testing.T) {
	db, file := newStore(t, "acme")
	file.Path = filepath.Join(t.TempDir(), "missing", "x.prom")
	if err := file.Write(t.Context(), db, runAt(noon, nil)); !errors.Is(err, ErrMetricsFile) {
		t.Errorf("%v, want ErrMetricsFile", err)
	}
	// What can't be judged is left out, and the error returned: it is not the file's.
	db, file = newStore(t, "acme")
	change(t, file, `alter table usage_sync_alerts rename column message to other`)
	if err := file.Write(t.Context(), db, runAt(noon, nil)); err == nil || errors.Is(err, ErrMetricsFile) {
		t.Errorf("%v, want the error of judging", err)
	}
	families := parse(t, file.Path)
	if _, found := metric(families, "org_today_cost_dollars"); !found {
		t.Error("today's cost is lost")
	}
	if got, _ := metric(families, "org_health"); got != float64(alert.StateUnknown) {
		t.Errorf("health %v, want unknown", got)
	}
}

// TestJudgedOnce: what the pass has judged is not judged again, and models are read where they are wanted. Neither a history nor
// users, of which there may be ten thousand a day, are read at all.
func TestJudgedOnce(t *testing.T) {
	db, file := newStore(t, "acme")
	orgs, err := db.Organisations(t.Context(), []string{"acme"}, time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	file.Models = false
	change(t, file, `drop table usage_sync_hours; drop table client_user_daily_usage; drop table client_model_daily_usage`)
	run := runAt(noon, nil)
	verdict := alert.Verdict{Limit: alert.Limit{Limit: 7 * store.Dollar}}
	run.Report.Organisations = []job.Outcome{{Organisation: orgs[0], Verdict: &verdict}}
	if err := file.Write(t.Context(), db, run); err != nil {
		t.Fatal(err)
	}
	if got, _ := metric(parse(t, file.Path), "org_monthly_limit_dollars"); got != 7 {
		t.Errorf("limit %v, want that of the verdict", got)
	}
}

// TestLabelsThatAreNoText: a database may hold any bytes.
func TestLabelsThatAreNoText(t *testing.T) {
	db, file := newStore(t, "acme")
	change(t, file, `update client_organizations set name = cast(x'41ff42' as text)`)
	if err := file.Write(t.Context(), db, runAt(noon, nil)); err != nil {
		t.Fatal(err)
	}
	if _, found := metric(parse(t, file.Path), "org_info", "name", "A\uFFFDB"); !found {
		t.Error("the name is lost")
	}
}

func TestInstanceOf(t *testing.T) {
	for path, want := range map[string]string{
		"/var/lib/prometheus/node-exporter/usage-sync-acme.prom": "acme", "usage-sync.prom": "usage-sync", "x.y.prom": "x.y",
		"usage-sync-.prom": "usage-sync-", "plain": "plain",
	} {
		if got := instanceOf(path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

// everything writes a file in which no metric is left out, and returns it and what it is made of: a month of a dollar in each
// hour, which has been silent for the last five.
func everything(t *testing.T) (map[string]*dto.MetricFamily, alert.Health) {
	t.Helper()
	db, file := newStore(t, "acme")
	change(t, file, `update client_organizations set monthly_limit = 500`)
	org, err := db.Organisations(t.Context(), []string{"acme"}, time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	start := noon.AddDate(0, 0, -29)
	var generations []store.Generation
	for at := start; at.Before(noon.Add(-5 * time.Hour)); at = at.Add(time.Hour) {
		generations = append(generations, store.Generation{ID: at.Format(time.RFC3339), CreatedAt: at, Day: store.DayOf(at, time.UTC),
			Model: "a/b", Tokens: 10, Cost: store.Dollar})
	}
	if _, err := db.RecordGenerations(t.Context(), store.Batch{Organisation: org[0], Source: "generations", Now: noon,
		Generations: generations}); err != nil {
		t.Fatal(err)
	}
	state := &store.Progress{After: store.State{CoveredFrom: start, CoveredTo: noon}}
	done := store.Run{StartedAt: noon, EndedAt: noon, OrganisationID: "acme"}
	if err := db.FinishRun(t.Context(), done, &org[0], state); err != nil {
		t.Fatal(err)
	}
	gone := store.Organisation{ID: "gone", Name: "Gone", Zone: time.UTC}
	before := store.Run{StartedAt: noon, EndedAt: noon, OrganisationID: "gone", Organisation: "Gone"}
	if err := db.FinishRun(t.Context(), before, &gone, state); err != nil {
		t.Fatal(err)
	}
	run := runAt(noon, nil)
	run.Report = job.Report{LockWaits: store.LockTimes{time.Second, 3 * time.Second}, LockTimes: store.LockTimes{time.Millisecond},
		Organisations: []job.Outcome{{Organisation: org[0], Run: store.Run{StartedAt: noon.Add(-1500 * time.Millisecond), EndedAt: noon},
			Traffic: openrouter.Traffic{Fetch: time.Second, Decode: 2 * time.Second}, Recording: 3 * time.Second}}}
	if err := file.Write(t.Context(), db, run); err != nil {
		t.Fatal(err)
	}
	families := parse(t, file.Path)
	// A cent too much and two cents too little; a difference within the tolerance is none, and a table counts once.
	cents := func(n int64) store.Totals { return store.Totals{Raw: store.Money(n) * store.Dollar / 100} }
	compared := reconcile.Comparison{Organisation: org[0], Rows: []reconcile.Row{{Model: "a/b", Ours: cents(1), Differs: true},
		{Model: "a/c", Theirs: cents(2), Differs: true}, {Model: "a/d", Ours: cents(5)}, {Table: "client_daily_usage", Ours: cents(9), Differs: true}}}
	reconciled := filepath.Join(t.TempDir(), "usage-sync-reconcile-acme.prom")
	failed := reconcile.Comparison{Organisation: store.Organisation{ID: "globex"}, Err: errors.New("unreachable")}
	if err := WriteReconciliation(t.Context(), reconciled, "", noon, []reconcile.Comparison{compared, failed}); err != nil {
		t.Fatal(err)
	}
	maps.Copy(families, parse(t, reconciled))
	h, err := file.Rule.Look(t.Context(), db, nil, time.UTC, noon)
	if err != nil {
		t.Fatal(err)
	}
	return families, h[0]
}

func TestVerdictAndReport(t *testing.T) {
	families, h := everything(t)
	forecast := h.Verdict.Limit.Forecast
	if !forecast.Known || h.Verdict.Anomaly.Score() > -1 || h.State != alert.StateWarning {
		t.Fatalf("the month says too little: %+v", h)
	}
	for _, want := range []struct {
		name  string
		value float64
		label []string
	}{
		{"org_daily_limit_dollars", 10, nil}, {"org_users_over_daily_limit", 0, nil}, {"org_monthly_limit_dollars", 500, nil}, {"org_month_forecast_low_dollars", forecast.Low.Float(), nil},
		{"org_month_forecast_dollars", forecast.Mid.Float(), nil}, {"org_month_forecast_high_dollars", forecast.High.Float(), nil},
		{"org_anomaly_score", h.Verdict.Anomaly.Score(), nil}, {"org_health", 1, nil}, {"org_reconcile_difference_dollars", 0.03, []string{"instance", "acme"}},
		{"write_lock_wait_max_seconds", 3, nil}, {"write_lock_held_max_seconds", 0.001, nil}, {"org_last_duration_seconds", 1.5, nil},
		{"org_last_phase_duration_seconds", 1, []string{"phase", "fetch"}}, {"org_last_phase_duration_seconds", 2, []string{"phase", "decode"}},
		{"org_last_phase_duration_seconds", 3, []string{"phase", "record"}}, {"org_model_month_cost_dollars", 1.3 * 223, []string{"model", "a/b"}},
		{"org_today_raw_cost_dollars", 7, nil}, {"ledger_rows", 691, nil}, {"org_watermark_timestamp_seconds", float64(noon.Unix()), nil},
	} {
		if got, found := metric(families, want.name, want.label...); !found || got != want.value {
			t.Errorf("%s%v is %v (%v), want %v", want.name, want.label, got, found, want.value)
		}
	}
}

// TestAlertsAndDashboard: they ask for what there is, and each alert says what it should, and has a case in which it fires
// and one in which it does not.
func TestAlertsAndDashboard(t *testing.T) {
	families, _ := everything(t)
	read := func(name string) string {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	alerts, cases := read("alerts.yml"), read("alerts_test.yml")
	name := regexp.MustCompile(`\busage_sync_[a-z_]+`)
	for file, text := range map[string]string{"alerts.yml": alerts, "alerts_test.yml": cases, "dashboard.json": read("dashboard.json")} {
		used := name.FindAllString(text, -1)
		if len(used) < 10 {
			t.Errorf("%s uses %d metrics", file, len(used))
		}
		for _, metric := range used {
			if families[metric] == nil {
				t.Errorf("%s: there is no metric %s", file, metric)
			}
		}
	}
	for _, rule := range strings.Split(alerts, "- alert: ")[1:] {
		name, rule, _ := strings.Cut(rule, "\n")
		for _, part := range []string{"severity: ", "summary: ", "description: ", "runbook_url: README.md#"} {
			if strings.Count(rule, part) != 1 {
				t.Errorf("%s: %d times %q", name, strings.Count(rule, part), part)
			}
		}
		firing, silent := false, false
		for _, c := range strings.Split(cases, "alertname: "+name+"\n")[1:] {
			none := strings.HasPrefix(strings.TrimSpace(c), "exp_alerts: []")
			firing, silent = firing || !none, silent || none
		}
		if !firing || !silent {
			t.Errorf("%s: fires in a case: %v; does not in another: %v", name, firing, silent)
		}
	}
}

// TestRunbooks: each alert links to a section of the page beside it, each section is of an alert, and begins with a command.
func TestRunbooks(t *testing.T) {
	read := func(name string) string {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	anchors := map[string]bool{}
	for _, heading := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(read("README.md"), -1) {
		anchors[strings.ReplaceAll(strings.ToLower(heading[1]), " ", "-")] = true
	}
	links := regexp.MustCompile(`README\.md#([a-z-]+)`).FindAllStringSubmatch(read("alerts.yml"), -1)
	if len(links) == 0 {
		t.Error("no links")
	}
	linked := map[string]bool{}
	for _, link := range links {
		linked[link[1]] = true
		if !anchors[link[1]] {
			t.Errorf("README.md has no section #%s", link[1])
		}
	}
	_, runbooks, _ := strings.Cut(read("README.md"), "\n## Runbooks\n")
	runbooks, _, _ = strings.Cut(runbooks, "\n## ")
	for _, section := range strings.Split("\n"+runbooks, "\n### ")[1:] {
		title, text, _ := strings.Cut(section, "\n")
		if !linked[strings.ReplaceAll(strings.ToLower(title), " ", "-")] {
			t.Errorf("no alert links to %q", title)
		}
		if !strings.HasPrefix(strings.TrimSpace(text), "`") {
			t.Errorf("%q does not begin with a command", title)
		}
	}
}

// TestLeftoversAreRemoved: a run that was killed while it wrote leaves a file of a name of its own, and a later run removes it.
// Nothing else is.
func TestLeftoversAreRemoved(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "usage-sync-acme.prom")
	for name, old := range map[string]bool{
		".usage-sync-acme.prom7193": true, ".usage-sync-acme.prom22": false, ".usage-sync-acme.prom.swp": true,
		".usage-sync-globex.prom7193": true, "usage-sync-globex.prom": true,
	} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if before := time.Now().Add(-time.Hour); old {
			if err := os.Chtimes(file, before, before); err != nil {
				t.Fatal(err)
			}
		}
	}
	db, file := newStore(t, "acme")
	file.Path = path
	if err := file.Write(t.Context(), db, Run{}); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, entry := range entries {
		left = append(left, entry.Name())
	}
	want := []string{".usage-sync-acme.prom.swp", ".usage-sync-acme.prom22", ".usage-sync-globex.prom7193", "usage-sync-acme.prom", "usage-sync-globex.prom"}
	if !slices.Equal(left, want) {
		t.Errorf("left are %v, want %v", left, want)
	}
}
