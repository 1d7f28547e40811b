package monitor

import (
	"cmp"
	"runtime"
	"slices"
	"time"

	"usage-sync/job"
	"usage-sync/job/alert"
	"usage-sync/store"
)

// Names follow https://prometheus.io/docs/practices/naming/: base units, and _total where a value only ever
// grows. What has a label org is named usage_sync_org_. Amounts of money are no counters: OpenRouter settles
// some usage late, and for less. The label instance is added to each of them.
var (
	buildInfo = desc("build_info", "The build, always 1.", "version", "goversion")
	interval  = desc("interval_seconds", "Time between two passes, by the configuration; 0 where polling is "+
		"switched off.")

	lastStart   = desc("last_start_timestamp_seconds", "When the last pass started.")
	lastSuccess = desc("last_success_timestamp_seconds", "When all active organisations had last been "+
		"synced: the oldest of their last successes; 0 where one has none.")
	lastExitCode = desc("last_exit_code", "Exit code of the last pass: 0 is success, 1 partial, the rest as "+
		"in sysexits(3).")
	lastDuration = desc("last_duration_seconds", "Duration of the last pass.")
	failures     = desc("consecutive_failures", "Passes that failed since the last one that did not; class "+
		"is the kind of the last failure.", "class")

	lockWait = desc("write_lock_wait_max_seconds", "Longest wait of the last pass for the write lock of the database.")
	lockHeld = desc("write_lock_held_max_seconds", "Longest time for which the last pass held the write lock "+
		"of the database.")

	databaseInfo = desc("database_info", "Which database the instance has, by device and inode, always 1; in "+
		"a file of several instances.", "id")
	ledgerRows   = desc("ledger_rows", "Generations in the ledger.")
	databaseSize = desc("database_size_bytes", "Size of the database and its write-ahead log.")
	diskFree     = desc("database_filesystem_avail_bytes", "Space on the database's filesystem that others "+
		"than root may use.")
	diskSize = desc("database_filesystem_size_bytes", "Size of the database's filesystem.")

	orgInfo   = desc("org_info", "The organisation's name, always 1.", "org", "name")
	orgHealth = desc("org_health", "Health of the organisation's passes by the rule of usage-sync "+
		"status: 0 OK, 1 warning, 2 critical, 3 unknown.", "org")
	orgLastStart = desc("org_last_start_timestamp_seconds",
		"When the last pass over the organisation started.", "org")
	orgLastSuccess = desc("org_last_success_timestamp_seconds",
		"When the last pass over the organisation without an error ended; 0 for none.", "org")
	orgLastExitCode = desc("org_last_exit_code", "Exit code of the last pass over the organisation.", "org")
	orgLastDuration = desc("org_last_duration_seconds", "Duration of the last pass over the organisation.", "org")
	orgPhase        = desc("org_last_phase_duration_seconds", "Time that the last pass spent in a phase, "+
		"summed over what ran side by side: fetch waits for OpenRouter, decode reads its answers, record "+
		"writes the database.", "org", "phase")
	orgFailures = desc("org_consecutive_failures", "Passes over the organisation that failed since the "+
		"last one that did not; class is the kind of the last failure.", "org", "class")
	orgWatermark = desc("org_watermark_timestamp_seconds", "Until when everything is known to be recorded.", "org")

	orgSkipped = desc("org_skipped", "1 for an organisation that was synced before and that passes skip now, "+
		"by the reason: no_key, inactive, undecided (is_active is null) or gone (no row).", "org", "reason")

	orgGaps = desc("org_gaps", "Open gaps: usage that is known to be missing, or may be (usage-sync gaps).", "org")

	orgUnlisted = desc("org_unlisted_deliveries", "Delivered generations that no complete pass has listed: "+
		"of another key, or billed twice (usage-sync reconcile).", "org")

	orgPasses      = desc("org_passes_total", "Passes over the organisation by exit code.", "org", "exit_code")
	orgGenerations = desc("org_generations_total", "Generations by what became of them.", "org", "result")
	orgRequests    = desc("org_api_requests_total", "Requests to OpenRouter by HTTP status, retries "+
		"included; none is no answer.", "org", "status")
	orgBooks = desc("org_books_total", "Findings in the application's tables of totals: corrected is a "+
		"table's day that was put right, foreign a record of the application itself, disputed what is not "+
		"billed, differing a day on which the record and the ledger differ.", "org", "finding")
	orgRetries = desc("org_api_retries_total", "Requests to OpenRouter that repeated a failed one.", "org")

	orgToday = usageDescs("today", "today, by the organisation's calendar")
	orgMonth = usageDescs("month", "this month, by the organisation's calendar")
	orgModel = desc("org_model_month_cost_dollars", "Marked-up cost of a model this month.", "org", "model")

	orgLimit      = desc("org_monthly_limit_dollars", "Limit of the marked-up cost of a month.", "org")
	orgDailyLimit = desc("org_daily_limit_dollars", "Ceiling of the marked-up cost of a day, as "+
		"--daily-limit sets it.", "org")
	orgUsersOver = desc("org_users_over_daily_limit", "Users whose marked-up cost of today has reached "+
		"the ceiling of --daily-limit-user.", "org")
	orgForecast     = desc("org_month_forecast_dollars", "Marked-up cost of the whole month, by forecast.", "org")
	orgForecastLow  = desc("org_month_forecast_low_dollars", "Lower end of the forecast.", "org")
	orgForecastHigh = desc("org_month_forecast_high_dollars", "Upper end of the forecast.", "org")
	orgAnomaly      = desc("org_anomaly_score", "How unusual the usage is: 0 is as always, 1 an alarm, "+
		"negative less than usual.", "org")
)

// usage describes the usage of a period.
type usage struct{ tokens, requests, raw, cost *definition }

func usageDescs(period, when string) usage {
	return usage{
		tokens:   desc("org_"+period+"_tokens", "Tokens "+when+".", "org"),
		requests: desc("org_"+period+"_requests", "Requests "+when+".", "org"),
		raw:      desc("org_"+period+"_raw_cost_dollars", "Raw cost "+when+".", "org"),
		cost:     desc("org_"+period+"_cost_dollars", "Marked-up cost "+when+".", "org"),
	}
}

// snapshot is what is known after a run. It is complete, whatever is missing: what is not known is left out.
type snapshot struct {
	run      Run
	version  string
	interval time.Duration
	models   map[string][]store.ModelUsage // of this month, by organisation; nil where nobody wants them
	failures int64                         // since the last success, this run included

	database      *disk
	ledger        *int64
	lastSuccess   time.Time      // as an earlier run has told it, for one that can't find out
	organisations []alert.Health // nil where they are not known
}

// disk is what the database takes, and what there is.
type disk struct {
	id                        string // device and inode
	database, available, size int64
}

// page writes every metric.
func (s *snapshot) page(instance string) *page {
	p := newPage(instance)
	gauge := func(m *definition, value float64, labels ...string) { p.add(isGauge, m, value, labels...) }
	gauge(buildInfo, 1, s.version, runtime.Version())
	gauge(interval, s.interval.Seconds())
	gauge(lastStart, unix(s.run.StartedAt))
	gauge(lastExitCode, float64(s.run.ExitCode))
	gauge(lastDuration, s.run.EndedAt.Sub(s.run.StartedAt).Seconds())
	gauge(failures, float64(s.failures), class(job.KindOf(s.run.Err).Class()))
	success := s.lastSuccess
	if slices.ContainsFunc(s.organisations, func(h alert.Health) bool { return h.Skipped == "" }) {
		success = alert.LastSuccess(s.organisations)
	}
	gauge(lastSuccess, unix(success))
	if len(s.run.Report.LockWaits) > 0 {
		gauge(lockWait, s.run.Report.LockWaits.Percentile(100).Seconds())
		gauge(lockHeld, s.run.Report.LockTimes.Percentile(100).Seconds())
	}
	if s.database != nil {
		gauge(databaseSize, float64(s.database.database))
		gauge(diskFree, float64(s.database.available))
		gauge(diskSize, float64(s.database.size))
	}
	if s.ledger != nil {
		gauge(ledgerRows, float64(*s.ledger))
	}
	for _, h := range s.organisations {
		if h.Skipped != "" {
			gauge(orgSkipped, 1, h.Organisation.ID, h.Skipped)
			continue
		}
		s.organisation(p, h)
	}
	return p
}

// organisation writes the metrics of one organisation.
func (s *snapshot) organisation(p *page, h alert.Health) {
	org := h.Organisation
	labels := func(others []string) []string { return append([]string{org.ID}, others...) }
	gauge := func(m *definition, value float64, others ...string) { p.add(isGauge, m, value, labels(others)...) }
	counter := func(m *definition, value int64, others ...string) {
		p.add(isCounter, m, float64(value), labels(others)...)
	}
	gauge(orgInfo, 1, org.Name)
	gauge(orgHealth, float64(h.State))
	gauge(orgLastSuccess, unix(h.Tally.LastSuccess))
	gauge(orgFailures, float64(h.Tally.Failures), class(h.Tally.Failure))
	if !h.Watermark.IsZero() {
		gauge(orgWatermark, unix(h.Watermark))
	}
	gauge(orgGaps, float64(len(h.Gaps)))
	gauge(orgUnlisted, float64(h.Unlisted()))
	last := h.LastRun
	if outcome, now := s.run.outcome(org.ID); now {
		// The history knows whole seconds, and phases not at all.
		last = &outcome.Run
		gauge(orgPhase, outcome.Traffic.Fetch.Seconds(), "fetch")
		gauge(orgPhase, outcome.Traffic.Decode.Seconds(), "decode")
		gauge(orgPhase, outcome.Recording.Seconds(), "record")
	}
	if last != nil {
		gauge(orgLastStart, unix(last.StartedAt))
		gauge(orgLastDuration, last.EndedAt.Sub(last.StartedAt).Seconds())
		gauge(orgLastExitCode, float64(last.ExitCode))
	}
	for code, count := range withZero(h.Tally.Passes, "0") {
		counter(orgPasses, count, code)
	}
	for result, count := range withZero(h.Tally.Generations, store.ResultRecorded, store.ResultUpdated,
		store.ResultDuplicate, store.ResultRefused) {
		counter(orgGenerations, count, result)
	}
	for status, count := range withZero(h.Tally.Requests, "200") {
		counter(orgRequests, count, status)
	}
	counter(orgRetries, h.Tally.Retries)
	for finding, count := range withZero(h.Tally.Books, "corrected", "foreign", "disputed", "differing") {
		counter(orgBooks, count, finding)
	}
	for _, period := range []struct {
		usage
		totals store.Totals
	}{{orgToday, h.Usage.Live}, {orgMonth, h.Usage.Month}} {
		gauge(period.tokens, float64(period.totals.Tokens))
		gauge(period.requests, float64(period.totals.Requests))
		gauge(period.raw, period.totals.Raw.Float())
		gauge(period.cost, period.totals.Cost.Float())
	}
	for _, m := range s.models[org.ID] {
		gauge(orgModel, m.Cost.Float(), m.Model)
	}
	verdict(h.Verdict, gauge)
}

// verdict writes what limit, forecast and the search for anomalies say; what is not known is not shown.
func verdict(v alert.Verdict, gauge func(m *definition, value float64, labels ...string)) {
	if v.Limit.Limit > 0 {
		gauge(orgLimit, v.Limit.Limit.Float())
	}
	if v.Daily.Limit > 0 {
		gauge(orgDailyLimit, v.Daily.Limit.Float())
	}
	if v.Daily.UserLimit > 0 {
		gauge(orgUsersOver, float64(len(v.Daily.Over)))
	}
	if f := v.Limit.Forecast; f.Known {
		gauge(orgForecastLow, f.Low.Float())
		gauge(orgForecast, f.Mid.Float())
		gauge(orgForecastHigh, f.High.Float())
	}
	if v.Anomaly.Known {
		gauge(orgAnomaly, v.Anomaly.Score())
	}
}

// withZero lets a counter be seen before it first counts: an increase can only be seen from a value that was there.
func withZero(counts map[string]int64, labels ...string) map[string]int64 {
	all := map[string]int64{}
	for _, label := range labels {
		all[label] = 0
	}
	for label, count := range counts {
		all[label] = count
	}
	return all
}

func class(word string) string { return cmp.Or(word, "none") }

// unix is a time as Prometheus has it; 0 for none.
func unix(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1e3
}
